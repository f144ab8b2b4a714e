"""Priors on disk, and the commands that write and read them."""

import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fork_server import start_python
from full_disk import room_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr.cli import main
from xpsr.errors import InputError, MissingDependencyError, ModelError
from xpsr.files import sha256
from xpsr.image import to_picture
from xpsr.prior import Prior, PriorFile, PriorLookup, Questions, describe, describe_files
from xpsr.prior.mini import MiniDescriber


class Parrot:
    """Says its own name and the picture's, and counts how often it is asked; a picture named bad.png it cannot see."""

    def __init__(self, name: str = "parrot", questions: Questions | None = None):
        self.name, self.revision, self.questions, self.asked = name, None, questions, 0

    def describe(self, images: Sequence[Any], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        self.asked += len(images)
        if any(Path(image).name == "bad.png" for image in images):
            raise InputError("bad.png: damaged")
        return [Prior(f"{self.name} sees {Path(image).name}", "sharp") for image in images]


def save_photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [save_photo(tmp_path / "photos" / f"{index}.png", index) for index in range(10)]


def test_what_is_known_is_not_asked_again(photos: list[Path], tmp_path: Path) -> None:
    file, parrot = PriorFile(tmp_path / "priors.jsonl"), Parrot()
    first = dict(describe_files(parrot, photos[:4], file))
    again = dict(describe_files(parrot, photos, file))
    assert parrot.asked == 10 and len(file.read()) == 10
    assert {path: again[path] for path in first} == first
    assert [Path(entry["image"]).as_posix() for entry in file.read()] == [f"photos/{index}.png" for index in range(10)]


def test_another_describer_question_or_view_asks_anew(photos: list[Path], tmp_path: Path) -> None:
    file = PriorFile(tmp_path / "priors.jsonl")
    for describer in (
        Parrot("a"),
        Parrot("b"),
        Parrot("b", Questions()),
        Parrot("b", Questions(quality="How is it?")),
        Parrot("b", Questions(quality_view="whole")),
    ):
        list(describe_files(describer, photos[:1], file))
        assert describer.asked == 1
    assert len(file.read()) == 5


def test_an_edited_text_and_a_line_of_a_person_are_kept(photos: list[Path], tmp_path: Path) -> None:
    path, parrot = tmp_path / "priors.jsonl", Parrot()
    list(describe_files(parrot, photos[:2], PriorFile(path)))
    path.write_text(path.read_text().replace("parrot sees 0.png", "an owl"))
    with path.open("a") as file:
        file.write('{"image": "photos/2.png", "content": "a hawk", "quality": "", "note": 7}')  # without a line's end
    seen = dict(describe_files(parrot, photos[:4], PriorFile(path)))
    assert [seen[photo].content for photo in photos[:4]] == [
        "an owl",
        "parrot sees 1.png",
        "a hawk",
        "parrot sees 3.png",
    ]
    assert parrot.asked == 3
    assert [entry.get("note") for entry in PriorFile(path).read()] == [None, None, 7, None]


def test_a_line_that_a_person_adds_goes_before_the_describer_s(photos: list[Path], tmp_path: Path) -> None:
    path, parrot = tmp_path / "priors.jsonl", Parrot()
    list(describe_files(parrot, photos[:1], PriorFile(path)))
    PriorFile(path).append([{"image": "photos/0.png", "content": "a hawk", "quality": ""}])
    assert dict(describe_files(parrot, photos[:1], PriorFile(path)))[photos[0]].content == "a hawk"
    list(describe_files(parrot, photos[:1], PriorFile(path), refresh=True))  # the newest line is the describer's now
    assert dict(describe_files(parrot, photos[:1], PriorFile(path)))[photos[0]].content == "parrot sees 0.png"


def test_a_moved_picture_is_known_by_its_content_and_a_changed_one_is_not(photos: list[Path], tmp_path: Path) -> None:
    file, parrot = PriorFile(tmp_path / "priors.jsonl"), Parrot()
    list(describe_files(parrot, photos[:1], file))
    moved = shutil.move(photos[0], tmp_path / "elsewhere.png")
    assert dict(describe_files(parrot, [moved], file))[moved].content == "parrot sees 0.png"
    list(describe_files(parrot, [save_photo(photos[0], 99)], file))
    assert parrot.asked == 2


def test_refresh_asks_again_and_the_last_line_counts(photos: list[Path], tmp_path: Path) -> None:
    file = PriorFile(tmp_path / "priors.jsonl")
    file.append([{"image": "photos/0.png", "content": "old", "quality": ""}])
    assert dict(describe_files(Parrot(), photos[:1], file))[photos[0]].content == "old"
    assert dict(describe_files(Parrot(), photos[:1], file, refresh=True))[photos[0]].content == "parrot sees 0.png"
    assert dict(describe_files(Parrot(), photos[:1], file))[photos[0]].content == "parrot sees 0.png"


def test_a_bad_picture_costs_nothing_but_itself(photos: list[Path], tmp_path: Path) -> None:
    bad, file, failed = save_photo(tmp_path / "photos" / "bad.png", 50), PriorFile(tmp_path / "priors.jsonl"), []
    gone = tmp_path / "gone.png"
    seen = dict(
        describe_files(
            Parrot(), [*photos[:3], bad, gone, *photos[3:5]], file, on_error=lambda path, error: failed.append(path)
        )
    )
    assert list(seen) == photos[:5] and sorted(failed) == sorted([bad, gone]) and len(file.read()) == 5
    with pytest.raises(InputError, match="damaged"):
        list(describe_files(Parrot(), [bad], file))


@pytest.mark.parametrize("kind", [ModelError, MissingDependencyError])
def test_a_describer_that_fails_ends_the_run_and_what_is_done_is_kept(
    kind: type[Exception], photos: list[Path], tmp_path: Path
) -> None:
    class Dying(Parrot):
        def describe(self, images: Sequence[Any], *, progress: Any = None) -> list[Prior]:
            if self.asked:
                raise kind("gone")
            return super().describe(images)

    file, dying = PriorFile(tmp_path / "priors.jsonl"), Dying()
    with pytest.raises(kind, match="gone"):
        list(describe_files(dying, photos, file, on_error=lambda path, error: None))
    assert len(file.read()) == dying.asked == 8


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"image": "a.png", "content": "x"}\n', encoding="utf-8-sig")
    assert len(PriorFile(tmp_path / "p.jsonl").read()) == 1


def test_a_picture_of_which_nothing_is_said_is_asked_about_again(photos: list[Path], tmp_path: Path) -> None:
    class Silent(Parrot):
        def describe(self, images: Sequence[Any], *, progress: Any = None) -> list[Prior]:
            self.asked += len(images)
            return [Prior() for _ in images]

    silent, file = Silent(), PriorFile(tmp_path / "priors.jsonl")
    for _ in range(2):
        assert dict(describe_files(silent, photos[:1], file)) == {photos[0]: Prior()}
    assert silent.asked == 2 and file.read() == []


def test_content_is_asked_of_the_clean_picture_of_a_pair(photos: list[Path], tmp_path: Path) -> None:
    hr = save_photo(tmp_path / "hr.png", 7)
    seen = dict(
        describe_files(
            Parrot(),
            photos[:2],
            PriorFile(tmp_path / "p.jsonl"),
            content_from=lambda image: hr if image == photos[0] else None,
        )
    )
    assert [prior.content for prior in seen.values()] == ["parrot sees hr.png", "parrot sees 1.png"]


@pytest.mark.parametrize("cut", [b'{"image": "b.png", "con', b'{"image": "b.png", "content": "\xe5', b"{"])
def test_a_line_that_was_cut_off_is_taken_away_by_the_next(
    cut: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "priors.jsonl"
    whole, new = {"image": "a.png", "content": "x", "quality": ""}, {"image": "c.png", "content": "z", "quality": ""}
    path.write_bytes(json.dumps(whole).encode() + b"\n" + cut)
    assert PriorFile(path).read() == [whole]
    PriorFile(path).append([new])
    assert PriorFile(path).read() == [whole, new]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and f"{path}, line 2: was cut off" in record.getMessage()


def test_a_file_of_another_kind_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\nno line's end")
    with pytest.raises(InputError, match=r"photo\.jpg, line 2: .*mend or delete the line"):
        PriorFile(path).append([{"image": "a.png"}])
    assert path.read_bytes() == b"\xff\xd8\nno line's end"


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit on the size of files")
def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path, entry = tmp_path / "priors.jsonl", {"image": "a.png", "content": "x" * 3000, "quality": ""}
    PriorFile(path).append([entry])
    with room_for(5000), pytest.raises(InputError, match="cannot be written"):
        PriorFile(path).append([entry])
    assert PriorFile(path).read() == [entry] and path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("image", ["./photos/0.png", "photos/../photos/0.png", "{folder}/photos/0.png", "link/0.png"])
def test_a_picture_is_known_however_a_person_writes_its_path(image: str, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    file, parrot = PriorFile(tmp_path / "priors.jsonl"), Parrot()
    file.append([{"image": image.format(folder=tmp_path), "content": "an owl", "quality": ""}])
    assert dict(describe_files(parrot, photos[:1], file))[photos[0]].content == "an owl" and parrot.asked == 0


def test_letters_may_be_composed_or_not(tmp_path: Path) -> None:
    photo, file = save_photo(tmp_path / "u\u0308.png", 1), PriorFile(tmp_path / "priors.jsonl")
    file.append([{"image": "\u00fc.png", "content": "an owl", "quality": ""}])
    assert dict(describe_files(Parrot(), [photo], file))[photo].content == "an owl"


@pytest.mark.skipif(sys.platform != "linux", reason="the file system takes only Unicode")
def test_a_name_that_is_not_utf_8_fails_alone(photos: list[Path], tmp_path: Path) -> None:
    bad, file = tmp_path / os.fsdecode(b"caf\xe9.png"), PriorFile(tmp_path / "priors.jsonl")
    shutil.copy(photos[0], bad)
    failed: dict[Path, Exception] = {}
    assert list(dict(describe_files(Parrot(), [bad, photos[1]], file, on_error=failed.__setitem__))) == [photos[1]]
    assert list(failed) == [bad] and "the name is not UTF-8; rename it" in str(failed[bad])
    with pytest.raises(InputError, match="the name is not UTF-8"):
        list(describe_files(Parrot(), [bad], file))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_any_text_comes_back_as_it_was(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    path = tmp_path / "priors.jsonl"
    path.unlink(missing_ok=True)
    entries = [{"image": f"{i}.png", "content": a, "quality": b} for i, (a, b) in enumerate(texts)]
    entries = [entry for entry in entries if all(ord(c) < 0xD800 or ord(c) > 0xDFFF for c in str(entry))]
    PriorFile(path).append(entries)
    assert PriorFile(path).read() == entries


APPEND = """
import sys
from pathlib import Path
from xpsr.prior import PriorFile
for index in range(50):
    PriorFile(Path(sys.argv[1])).append([{"image": f"{sys.argv[2]}-{index}.png", "content": "x" * 5000, "quality": ""}])
"""


def test_several_processes_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "priors.jsonl"
    with start_python("-c", APPEND, path, "a") as one, start_python("-c", APPEND, path, "b") as other:
        assert [process.communicate(timeout=60)[1] for process in (one, other)] == ["", ""]
    assert len({entry["image"] for entry in PriorFile(path).read()}) == 100
    assert list(tmp_path.iterdir()) == [path]  # no lock stays behind


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int) -> bool:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("xpsr.jsonl.lock_descriptor", refuse)
    PriorFile(tmp_path / "priors.jsonl").append([{"image": "a.png", "content": "x", "quality": ""}])
    assert len(PriorFile(tmp_path / "priors.jsonl").read()) == 1
    assert "cannot be locked (Function not implemented); let one process at a time add to it" in caplog.text


@pytest.mark.usefixtures("loaded_once")
def test_describe_and_upscale_work_together(
    photos: list[Path],
    tmp_path: Path,
    tiny_model: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "photos/0.png", "photos/1.png"]) == 0
    captured = capfd.readouterr()
    assert captured.out == "priors.jsonl\n" and "quality: " in captured.err
    first, _ = lines = [json.loads(line) for line in Path("priors.jsonl").read_text().splitlines()]
    assert set(first) >= {
        "image",
        "sha256",
        "content",
        "quality",
        "levels",
        "describer",
        "revision",
        "question",
        "view",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "priors.jsonl"}  # no lock stays behind
    assert first["describer"] == "mini" and set(first["levels"]) == {"blur", "noise", "compression"}
    Path("priors.jsonl").write_text("".join(json.dumps({**line, "content": "a blue jay"}) + "\n" for line in lines))
    options = ["upscale", "photos/0.png", "--model", str(tiny_model), "--scale", "2"]

    def prior_of(*more: str) -> dict[str, Any]:
        assert main([*options, *more]) == 0
        return json.loads(Path("outputs/0_x2.json").read_text())["prior"]

    edited = prior_of("--priors", "priors.jsonl")
    assert edited == {"content": "a blue jay", "quality": first["quality"], "levels": first["levels"]}
    assert prior_of("--priors", "outputs/0_x2.json") == edited
    assert prior_of("--priors", "outputs", "--quality", "very dark") == {
        "content": "a blue jay",
        "quality": "very dark",
    }
    seen = prior_of()
    assert seen["quality"] == first["quality"] and seen["levels"] == first["levels"]
    assert prior_of("--describer", "none") == {"content": "", "quality": ""}
    capfd.readouterr()
    assert main([*options[:1], "photos/5.png", *options[2:], "--priors", "priors.jsonl"]) == 1
    assert "5.png" in capfd.readouterr().err


def test_describe_searches_folders_and_passes_over_results(
    photos: list[Path], tiny_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos[0].parent.parent)
    save_photo(Path("photos/deep/a.png"), 60)
    assert main(["upscale", "photos/0.png", "-o", "photos", "--model", str(tiny_model), "--describer", "none"]) == 0
    capfd.readouterr()
    assert main(["describe", "photos", "-r", "--quiet"]) == 0
    assert "photos: passed over: 1 result of xpsr (0_x4.png; name them" in capfd.readouterr().err
    assert len(PriorFile(Path("priors.jsonl")).read()) == len(photos) + 1


@pytest.mark.skipif(sys.platform != "linux", reason="the file system takes only Unicode")
def test_upscale_passes_over_a_name_that_is_not_utf_8(
    photos: list[Path],
    tmp_path: Path,
    tiny_model: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = os.fsdecode(b"caf\xe9.png")
    shutil.copy(photos[0], bad)
    arguments = ["--model", str(tiny_model), "--scale", "2", "--describer", "none"]
    assert main(["upscale", bad, "photos/1.png", *arguments]) == 1
    captured = capfd.readouterr()
    assert "the name is not UTF-8; rename it" in captured.err and captured.out.startswith("outputs/1_x2.png")
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["1_x2.json", "1_x2.png"]


def test_what_is_named_twice_is_described_once(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos[0].parent)
    assert main(["describe", "0.png", "../photos/0.png", str(photos[0]), "../photos", "--quiet"]) == 0
    assert len(PriorFile(Path("priors.jsonl")).read()) == len(photos)


def test_a_describer_beside_priors_is_refused(
    photos: list[Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos[0].parent)
    assert main(["upscale", "0.png", "--priors", "p.jsonl", "--describer", "mini"]) != 0
    assert "--describer mini does nothing beside priors (p.jsonl); leave one out" in capfd.readouterr().err


def test_written_priors_are_looked_up_and_not_copied(photos: list[Path], tmp_path: Path) -> None:
    path, copy = tmp_path / "mine.jsonl", PriorFile(tmp_path / "outputs" / "priors.jsonl")
    for content in ("an owl", "a hawk"):  # the second time it was edited
        path.write_text(json.dumps({"image": "photos/0.png", "content": content, "quality": ""}) + "\n")
        for prior_of in (PriorLookup(path), PriorLookup(priors=path)):
            prior_of.describe_ahead(photos[:2], copy)
            assert prior_of(photos[0]).content == prior_of(str(photos[0])).content == content
            with pytest.raises(InputError, match="says nothing about it"):
                prior_of(photos[1])
    assert not copy.path.parent.exists()


def test_texts_that_are_given_go_before_what_is_found(photos: list[Path]) -> None:
    parrot, mini = Parrot(), PriorLookup()
    assert PriorLookup(parrot, quality="dark")(photos[0]) == Prior("parrot sees 0.png", "dark")
    assert PriorLookup(parrot, content="an owl", quality="")(photos[0]) == Prior("an owl", "") and parrot.asked == 1
    assert PriorLookup("none", content="an owl")(photos[0]) == Prior("an owl", "")
    seen = mini(photos[0])
    assert seen.levels is not None and mini(to_picture(photos[0])) == seen
    assert PriorLookup(content="an owl")(photos[0]) == Prior("an owl", seen.quality, seen.levels)
    assert PriorLookup(quality="dark")(photos[0]).levels is None
    with pytest.raises(InputError, match=r"quality=a.* has 10001 characters"):
        PriorLookup(quality="a" * 10_001)


def test_a_model_looks_ahead_and_is_released(photos: list[Path], tmp_path: Path) -> None:
    class Model(Parrot):
        is_loaded = True

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None:
            self.is_loaded = False

    bad, file = save_photo(tmp_path / "photos" / "bad.png", 50), PriorFile(tmp_path / "priors.jsonl")
    model = Model(questions=Questions())
    prior_of = PriorLookup(model)
    prior_of.describe_ahead([*photos[:3], bad], file)
    assert not model.is_loaded and len(file.read()) == 3
    asked = model.asked
    assert [prior_of(photo).content for photo in photos[:2]] == ["parrot sees 0.png", "parrot sees 1.png"]
    with pytest.raises(InputError, match="damaged"):
        prior_of(bad)
    assert model.asked == asked
    assert prior_of(photos[5]).content == "parrot sees 5.png"  # a picture that nobody spoke of is asked about now
    prior_of = PriorLookup(model)
    prior_of.describe_ahead([*photos[:1], bad], None)  # nothing is kept
    asked, model.is_loaded = model.asked, True
    assert prior_of(photos[0]).content == "parrot sees 0.png" and model.asked == asked and len(file.read()) == 3
    assert prior_of.known(None)(photos[0], sha256(photos[0])) is None


def test_a_prior_is_known_where_nobody_need_look(photos: list[Path], tmp_path: Path) -> None:
    file, parrot = PriorFile(tmp_path / "priors.jsonl"), Parrot(questions=Questions())
    prior_of = PriorLookup(parrot, quality="dark")
    prior_of.describe_ahead(photos[:1], file)
    line = file.read()[0]
    file.append([{**line, "content": "an owl"}, {**line, "content": "another's", "describer": "crow"}])
    known = prior_of.known(file)
    assert known(photos[0], sha256(photos[0])) == Prior("an owl", "dark")  # a person has mended it
    assert known(photos[1], sha256(photos[1])) is None and parrot.asked == 1
    assert PriorLookup().known(file)(photos[0], sha256(photos[0])) is None
    assert PriorLookup("none", content="x").known(file)(Path("-"), "") == Prior("x", "")
    with pytest.raises(InputError, match="says nothing about it"):
        PriorLookup(file.path).known(file)(photos[1], "")


@pytest.mark.parametrize("many", [list, tuple])
def test_one_picture_or_several_are_described(many: Callable[[Any], Any], photos: list[Path]) -> None:
    array = np.asarray(Image.open(photos[0]))
    pictures = [photos[0], str(photos[0]), array, to_picture(array), to_picture(array).pixels]
    told: list[int] = []
    priors = describe(many(pictures), progress=told.append)
    assert len(set(priors)) == 1 and sum(told) == len(pictures)
    assert all(describe(picture, MiniDescriber.bundled()) == priors[:1] for picture in pictures)
    assert describe(many([]), Parrot()) == []
    with pytest.raises(InputError, match="image=object is no picture"):
        describe(object())  # type: ignore[arg-type]


def test_pairs_take_content_from_hr_and_quality_from_lr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_photo(tmp_path / "pairs" / "lr" / "m.png", 0)
    save_photo(tmp_path / "pairs" / "hr" / "m.jpg", 5)  # whatever it ends with
    assert main(["describe", "--pairs", "pairs", "-o", "pairs/priors.jsonl", "--quiet"]) == 0
    (entry,) = PriorFile(Path("pairs/priors.jsonl")).read()
    clean, degraded = MiniDescriber.bundled().describe([Path("pairs/hr/m.jpg"), Path("pairs/lr/m.png")])
    assert (entry["image"], entry["content"], entry["quality"]) == ("lr/m.png", clean.content, degraded.quality)
    assert capfd.readouterr().err == ""
    save_photo(tmp_path / "pairs" / "lr" / "n.png", 1)
    assert main(["describe", "--pairs", "pairs", "-o", "other.jsonl"]) == 1
    assert capfd.readouterr().err.startswith("xpsr: pairs/lr/n.png: has no partner in pairs/hr; ")
    assert not Path("other.jsonl").exists()


def test_a_link_that_leads_to_itself_fails_alone(
    photos: list[Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos[0].parent)
    Path("loop.png").symlink_to("loop.png")
    assert main(["describe", ".", "--quiet"]) == 1
    assert capfd.readouterr().err.splitlines() == [
        "xpsr: loop.png: cannot be read (Too many levels of symbolic links); check the path and its permissions."
    ]
    assert len(PriorFile(Path("priors.jsonl")).read()) == len(photos)


def test_a_file_that_was_not_written_is_not_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.png").write_bytes(b"no picture")
    assert main(["describe", "bad.png"]) == 1
    captured = capfd.readouterr()
    assert captured.out == "" and "bad.png: is not an image" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name pictures or folders"),
        (["photos", "--pairs", "pairs"], "or else --pairs DIR"),
        (["photos", "--presett", "paper"], "unknown option --presett; did you mean --preset?"),
        (["photos", "--describer", "http://localhost:1/v1"], "#"),
        (["photos", "--describer", "no-such/folder/model"], "no-such/folder/model"),
        (["photos", "--describer", "none"], "--describer none describes nothing"),
        (["photos", "--quantization", "int8"], "--quantization int8 is for models"),
        (["photos", "--quality-question", "How?"], "--quality-question is for models that are asked, and mini is not"),
        (["photos", "--content-view", "crops"], "--content-view is for models that are asked, and mini is not"),
    ],
)
def test_describe_refuses_in_one_line(
    photos: list[Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["describe", *arguments]) in (1, 2)
    captured = capfd.readouterr()
    assert captured.out == "" and message in captured.err
    assert not Path("priors.jsonl").exists()
