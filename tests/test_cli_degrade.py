"""`xpsr degrade`, from pictures to pairs: names, interruptions, and everything that can go wrong."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr.cli import main
from xpsr.config import DEGRADATIONS, PairsConfig, as_dict
from xpsr.data.making import list_sources, make_pairs, name_pairs
from xpsr.errors import InputError
from xpsr.jsonl import read_lines, to_line

Tree = dict[str, bytes]


def save_picture(path: Path, seed: int = 0, size: tuple[int, int] = (52, 41)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def hr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve pictures, one of them damaged, in the current folder's `hr`."""
    monkeypatch.chdir(tmp_path)
    for seed in range(11):
        save_picture(tmp_path / "hr" / f"p{seed:02}.png", seed)
    (tmp_path / "hr" / "p05b.png").write_bytes(b"damaged")
    return tmp_path / "hr"


def tree(folder: Path) -> Tree:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _child(arguments: list[str], file_size: int | None, output: Path) -> None:
    sys.stdout = sys.stderr = output.open("w")  # for the rest of the process
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


def start(arguments: list[str], output: Path, file_size: int | None = None) -> Any:
    """`xpsr ARGUMENTS` in a process of its own, without the seconds that importing torch takes."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(arguments, file_size, output))
    process.start()
    return process


# What is made


def test_pairs_are_named_listed_and_counted(hr: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (hr / "notes.txt").write_text("no picture")
    save_picture(hr / ".hidden.png")
    more = ["--seed", "3", "--num-per-image", "2", "--preset", "realesrgan", "--sharpen", "--min-detail", "0.5"]
    assert main(["degrade", "hr", "pairs", *more]) == 1
    captured = capfd.readouterr()
    assert captured.out == "pairs/manifest.jsonl\n"
    assert captured.err.splitlines() == [
        "xpsr: skipped: p05b.png: is not an image that can be read; convert it to PNG or JPEG.",
        "xpsr: 1 of 12 pictures were skipped; pairs/skipped.jsonl lists them.",
    ]
    names = sorted(f"p{seed:02}_{k}.png" for seed in range(11) for k in range(2))
    for part, size in (("hr", (52, 40)), ("lr", (13, 10))):
        assert sorted(path.name for path in Path("pairs", part).iterdir()) == names
        with Image.open(Path("pairs", part, names[0])) as image:
            assert image.size == size
    assert sorted(path.name for path in Path("pairs").iterdir()) == [
        *("hr", "lr", "manifest.jsonl", "settings.json", "skipped.jsonl")
    ]
    assert [line["source"] for line in lines(Path("pairs/skipped.jsonl"))] == ["p05b.png"]
    config = json.loads(Path("pairs/settings.json").read_text())["config"]
    degradation = DEGRADATIONS["realesrgan"]
    assert config == as_dict(
        PairsConfig(seed=3, num_per_image=2, sharpen=True, min_detail=0.5, degradation=degradation)
    )


def test_a_repaired_picture_is_made_up_for_and_the_exit_code_is_well_again(
    hr: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["degrade", "hr", "pairs"]) == 1
    kept = {name: Path("pairs", name).stat().st_mtime_ns for name in tree(Path("pairs")) if name.endswith(".png")}
    assert main(["degrade", "hr", "pairs"]) == 1  # it is told again
    save_picture(hr / "p05b.png", 99)
    capfd.readouterr()
    assert main(["degrade", "hr", "pairs"]) == 0
    assert capfd.readouterr().err == ""
    assert {name: Path("pairs", name).stat().st_mtime_ns for name in kept} == kept, "nothing is made twice"
    assert main(["degrade", "hr", "fresh"]) == 0
    assert tree(Path("pairs")) == tree(Path("fresh"))


def test_a_picture_that_changed_is_made_again(hr: Path) -> None:
    main(["degrade", "hr", "pairs"])
    save_picture(hr / "p03.png", 77)
    main(["degrade", "hr", "pairs"])
    main(["degrade", "hr", "fresh"])
    assert tree(Path("pairs")) == tree(Path("fresh"))
    Path("pairs/lr/p04_0.png").unlink()
    main(["degrade", "hr", "pairs"])
    assert tree(Path("pairs")) == tree(Path("fresh"))


def test_a_picture_that_can_no_longer_be_read_is_skipped(hr: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["degrade", "hr", "pairs"])
    (hr / "p03.png").unlink()
    (hr / "p03.png").symlink_to("nowhere")
    capfd.readouterr()
    assert main(["degrade", "hr", "pairs"]) == 1
    assert "skipped: hr/p03.png: cannot be read (No such file or directory)" in capfd.readouterr().err
    assert [line["source"] for line in lines(Path("pairs/skipped.jsonl"))] == ["p03.png", "p05b.png"]


def test_pairs_do_not_depend_on_their_company(hr: Path) -> None:
    main(["degrade", "hr", "pairs"])
    (hr / "p00.png").unlink()
    main(["degrade", "hr", "fewer"])
    assert tree(Path("fewer/lr")).items() < tree(Path("pairs/lr")).items()


def test_ranges_of_a_yaml_replace_those_of_the_preset(hr: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("plain.yaml").write_text("plain_probability: 1.0\nfirst:\n  blur_sigma: [1.0, 1.0]\n")
    assert main(["degrade", "hr", "pairs", "--preset", "realesrgan", "--config", "plain.yaml"]) == 1
    config = json.loads(Path("pairs/settings.json").read_text())["config"]["degradation"]
    expected = as_dict(DEGRADATIONS["realesrgan"])
    assert config == {**expected, "plain_probability": 1.0, "first": {**expected["first"], "blur_sigma": [1.0, 1.0]}}
    with Image.open("pairs/lr/p00_0.png") as lr, Image.open("pairs/hr/p00_0.png") as picture:
        reduced = np.asarray(picture, float).reshape(10, 4, 13, 4, 3).mean((1, 3))
        assert np.abs(np.asarray(lr) - reduced).max() <= 1
    Path("plain.yaml").write_text("plain_probabilty: 1.0\n")
    capfd.readouterr()
    assert main(["degrade", "hr", "other", "--config", "plain.yaml"]) == 2
    assert "plain_probabilty is not an option; did you mean 'plain_probability'?" in capfd.readouterr().err


# Names


def test_names_that_collide_are_told_apart(tmp_path: Path) -> None:
    assert name_pairs(["a.jpg", "a.png", "b/A.png", "b/a.v2.png", "c/b/A.png", "c_b.png", "a_v2.png"]) == [
        *("a", "a_2", "b_A", "a_v2", "b_A_2", "c_b", "a_v2_2")
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("aA.b/_é", min_size=1, max_size=6), unique=True, max_size=12))
def test_any_names_give_different_files(stems: list[str]) -> None:
    names = name_pairs([f"{stem}.png" for stem in stems])
    files = [f"{name}_{k}".casefold() for name in names for k in range(3)]
    assert len(set(files)) == len(files)
    assert not any("." in name or "/" in name for name in names)


def test_long_names_fit_file_systems(tmp_path: Path) -> None:
    names = name_pairs(["ü" * 120 + f"/{'ü' * 119}{end}.png" for end in "abc"])
    assert len(set(names)) == 3 and all(len(name.encode()) < 220 for name in names)


def test_folders_are_searched_but_not_hidden_ones_nor_the_output(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", ".git/d.png", "pairs/hr/e.png", "a/.f.png"):
        save_picture(tmp_path / name)
    (tmp_path / "g.txt").write_text("")
    assert list_sources(tmp_path, outside=tmp_path / "pairs") == ["a/c.JPG", "b.png"]


@pytest.mark.parametrize("added", [["p03b.png"], ["a.png"], ["p03b.png", "p03c.png", "p03d.png"]])
def test_pictures_that_are_added_move_the_others_into_other_shards(hr: Path, added: list[str]) -> None:
    options = ["--shards", "--shard-size", "3"]
    main(["degrade", "hr", "pairs", *options])
    for seed, name in enumerate(added, 50):
        save_picture(hr / name, seed)
    main(["degrade", "hr", "pairs", *options])
    main(["degrade", "hr", "fresh", *options])
    assert tree(Path("pairs")) == tree(Path("fresh"))


def test_a_picture_that_is_added_gives_others_of_its_name_other_names(tmp_path: Path) -> None:
    for seed, folder in enumerate(("b", "c/b", "d/b")):
        save_picture(tmp_path / "hr" / folder / "x.png", seed)
    make_pairs(tmp_path / "hr", tmp_path / "pairs", PairsConfig())
    save_picture(tmp_path / "hr" / "a" / "x.png", 9)
    for target in ("pairs", "fresh"):
        make_pairs(tmp_path / "hr", tmp_path / target, PairsConfig())
    assert tree(tmp_path / "pairs") == tree(tmp_path / "fresh")


def test_shards_around_a_picture_that_was_skipped_are_filled_anew(tmp_path: Path) -> None:
    for seed, name in enumerate("bcefg"):
        save_picture(tmp_path / "hr" / f"{name}.png", seed)
    (tmp_path / "hr" / "d.png").write_bytes(b"damaged")
    config = PairsConfig(shard_size=3)
    make_pairs(tmp_path / "hr", tmp_path / "pairs", config)  # bc and efg
    save_picture(tmp_path / "hr" / "a.png", 9)  # abc, ef and g
    for target in ("pairs", "fresh"):
        make_pairs(tmp_path / "hr", tmp_path / target, config)
    assert tree(tmp_path / "pairs") == tree(tmp_path / "fresh")


# Interruptions


ARGUMENTS = {
    "pngs": ["--num-per-image", "3"],
    "shards": ["--num-per-image", "3", "--shards", "--shard-size", "6"],
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_killed_at_any_moment_and_resumed_gives_the_same_bytes(hr: Path, tmp_path: Path, kind: str) -> None:
    options = [*ARGUMENTS[kind], "--seed", "7"]
    begun = time.perf_counter()
    process = start(["degrade", "hr", "whole", *options], tmp_path / "log")
    process.join()
    seconds = time.perf_counter() - begun
    assert process.exitcode == 1, (tmp_path / "log").read_text()
    draw, killed = random.Random(0), 0
    for _ in range(60):
        process = start(["degrade", "hr", "pairs", *options], tmp_path / "log")
        process.join(draw.uniform(0, seconds))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        else:
            assert process.exitcode == 1, (tmp_path / "log").read_text()
            if killed >= 3:
                break
            shutil.rmtree("pairs")
    else:
        pytest.fail("it never came to the end")
    assert tree(Path("pairs")) == tree(Path("whole"))
    assert not list(Path("pairs").rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_killed_with_workers_and_resumed_gives_the_same_bytes(hr: Path, kind: str) -> None:
    def command(target: str, workers: int) -> list[str]:
        options = [*ARGUMENTS[kind], "--seed", "7", "--workers", str(workers)]
        return [sys.executable, "-m", "xpsr", "degrade", "hr", target, *options]

    assert subprocess.run(command("whole", 0), capture_output=True, check=False).returncode == 1
    draw, journal = random.Random(0), Path("pairs/manifest.jsonl.part")
    for kill in range(4):
        written = journal.stat().st_size if journal.exists() else 0
        with subprocess.Popen(command("pairs", 2), stderr=subprocess.PIPE) as process:
            while process.poll() is None and (not journal.exists() or journal.stat().st_size == written):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.1))
            process.kill()
            process.communicate()  # ends when the workers are gone too
        assert process.returncode in (-signal.SIGKILL, 1), kill
    assert subprocess.run(command("pairs", 2), capture_output=True, check=False).returncode == 1
    assert tree(Path("pairs")) == tree(Path("whole"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tree, list[str]]:
    """Sources, what is made of them, and the lines that the journal had."""
    folder = tmp_path_factory.mktemp("finished")
    for seed in range(3):
        save_picture(folder / "hr" / f"{seed}.png", seed, (20, 16))
    (folder / "hr" / "1b.png").write_bytes(b"damaged")
    make_pairs(folder / "hr", folder / "pairs", PairsConfig(num_per_image=2))
    journal = [to_line(line) for name in ("manifest", "skipped") for line in lines(folder / "pairs" / f"{name}.jsonl")]
    return folder / "hr", tree(folder / "pairs"), journal


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_crash_left_is_completed(
    finished: tuple[Path, Tree, list[str]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sources, whole, journal = finished
    folder = tmp_path_factory.mktemp("crashed")
    text = "".join(data.draw(st.permutations(journal)))
    cut = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.sets(st.sampled_from(sorted(whole))))
    for name, content in whole.items():
        if name not in gone and (name.endswith(".png") or name == "settings.json"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    (folder / "manifest.jsonl.part").write_text(text[:cut])
    (folder / "hr").mkdir(exist_ok=True)
    (folder / "hr" / ".xpsr-0badcafe.part").write_bytes(b"half a picture")
    make_pairs(sources, folder, PairsConfig(num_per_image=2))
    assert tree(folder) == whole


def test_workers_give_the_same_bytes(finished: tuple[Path, Tree, list[str]], tmp_path: Path) -> None:
    sources, whole, _ = finished
    progress: list[tuple[int, int]] = []
    skipped: list[str] = []
    make_pairs(
        sources,
        tmp_path / "pairs",
        PairsConfig(num_per_image=2),
        num_workers=1,
        progress=lambda *counts: progress.append(counts),
        on_skip=lambda source, problem: skipped.append(source),
    )
    assert tree(tmp_path / "pairs") == whole
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)] and skipped == ["1b.png"]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["hr"], 2, "the following arguments are required: OUTPUT"),
        (["hr", "pairs", "--preset", "xpr"], 2, "invalid choice: 'xpr'"),
        (["hr", "pairs", "--seeed", "1"], 2, "unknown option --seeed; did you mean --seed?"),
        (["hr", "pairs", "--seed", "-1"], 2, "--seed -1 is not in [0, "),
        (["hr", "pairs", "--num-per-image", "0"], 2, "--num-per-image 0 is not in [1, 100000]; use 1 or more."),
        (["hr", "pairs", "--crop-size", "126"], 2, "--crop-size 126 is not a multiple of 4; use 128."),
        (["hr", "pairs", "--min-size", "2"], 2, "--min-size 2 leaves no LR pixel; use 4 or more."),
        (["hr", "pairs", "--workers", "-1"], 2, "--workers -1 is not in [0, 256]; use 0 or more."),
        (
            ["hr", "pairs", "--shards", "--shard-size", "1", "--num-per-image", "2"],
            2,
            "--shard-size 1 is less than num_per_image; use 2 or more.",
        ),
        (["hr", "pairs", "--shard-size", "9"], 2, "--shard-size 9 is of tars, which nobody asked for; add --shards."),
        (["hr", "pairs", "--config", "no.yaml"], 2, "no.yaml: no such config file"),
        (["nowhere", "pairs"], 1, "nowhere: no such folder; name one with clean pictures."),
        (["empty", "pairs"], 1, "empty: holds no pictures; name a folder with .jpg, .png or other pictures"),
        (["broken", "pairs"], 1, "broken: none of 2 pictures can be used: a.png: is empty (0 bytes)"),
        (["hr", "file"], 1, "file: cannot be written (File exists)"),
        (["hr", "file/pairs"], 1, "file/pairs: cannot be written (Not a directory)"),
        (["hr", "/proc/xpsr/pairs"], 1, "/proc/xpsr/pairs: cannot be written ("),
    ],
)
def test_what_cannot_work_is_one_line(
    hr: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    for name in ("broken/a.png", "broken/b.png", "file"):
        Path(name).write_bytes(b"")
    assert main(["degrade", *arguments]) == code
    captured = capfd.readouterr()
    told = [line for line in captured.err.splitlines() if "skipped: " not in line]
    assert len(told) == 1 and told[0].startswith("xpsr: ") and message in told[0]
    assert captured.out == ""
    assert not list(Path().rglob("*.part")) and not Path("pairs/manifest.jsonl").exists()


def test_other_settings_or_other_pictures_are_refused(hr: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["degrade", "hr", "pairs"])
    before = tree(Path("pairs"))
    save_picture(Path("other/x.png"))

    def refusal(*arguments: str) -> str:
        capfd.readouterr()
        assert main(["degrade", *arguments]) == 1
        return capfd.readouterr().err

    assert "pairs: was made with seed: 0, not 2; use the same, or name another folder." in refusal(
        "hr", "pairs", "--seed", "2"
    )
    assert "was made with shard_size: None, not 1000" in refusal("hr", "pairs", "--shards")
    assert "was made with degradation: another one" in refusal("hr", "pairs", "--preset", "realesrgan")
    assert "pairs: holds pairs of 12 pictures that are not in other, first p00.png" in refusal("other", "pairs")
    with FileLock("pairs/.xpsr.lock"):
        assert "pairs: another process is at work there" in refusal("hr", "pairs")
    assert tree(Path("pairs")) == before | {".xpsr.lock": b""}
    for damaged in ("{", '{"config": 5}', "[" * 100_000):
        Path("pairs/settings.json").write_text(damaged)
        assert "pairs/settings.json: cannot be read" in refusal("hr", "pairs")


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_full_disk_stops_in_one_line_and_leaves_nothing_half_written(hr: Path, tmp_path: Path, kind: str) -> None:
    for seed in range(3):  # larger than the limit; what comes before fits
        save_picture(hr / f"q{seed}.png", seed, (200, 200))
    options = [*ARGUMENTS[kind], "--quiet"]
    process = start(["degrade", "hr", "pairs", *options], tmp_path / "log", file_size=100_000)
    process.join()
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "skipped: " not in line]
    assert process.exitcode == 1 and len(told) == 1, told
    assert "cannot be written (File too large); free space or choose another disk." in told[0]
    left = tree(Path("pairs"))
    assert [name for name in left if name.endswith(".part")] == [
        "manifest.jsonl.part"
    ]  # what is done, for the next run
    assert "manifest.jsonl" not in left and any(name.endswith((".png", ".tar")) for name in left)
    assert main(["degrade", "hr", "pairs", *options]) == 1  # there is space again
    assert main(["degrade", "hr", "fresh", *options]) == 1
    assert tree(Path("pairs")) == tree(Path("fresh"))


def test_flat_and_tiny_pictures_are_skipped(tmp_path: Path) -> None:
    save_picture(tmp_path / "hr" / "a.png", size=(40, 40))
    save_picture(tmp_path / "hr" / "small.png", size=(40, 9))
    Image.new("RGB", (40, 40)).save(tmp_path / "hr" / "flat.png")
    made = make_pairs(tmp_path / "hr", tmp_path / "pairs", PairsConfig(crop_size=32, min_detail=5.0))
    assert made.num_pairs == 1
    assert made.skipped == {
        "flat.png": "flat.png: no crop of it has the detail of min_detail=5.",
        "small.png": "small.png: has 40 x 9 pixels, a side below min_size=16.",
    }


def test_a_damaged_line_is_named(hr: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["degrade", "hr", "pairs"])
    text = Path("pairs/manifest.jsonl").read_text()
    Path("pairs/manifest.jsonl").write_text("{\n" + text)
    capfd.readouterr()
    assert main(["degrade", "hr", "pairs"]) == 1
    assert "pairs/manifest.jsonl, line 1: " in capfd.readouterr().err
    Path("pairs/manifest.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="a JSON object is needed"):
        read_lines(Path("pairs/manifest.jsonl"))
