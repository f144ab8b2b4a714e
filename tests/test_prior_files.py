"""Priors that were written before, in JSONLs, sidecars and the reference's folders."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr.errors import InputError
from xpsr.prior import FileDescriber, Prior, is_asked, open_describer


def noise(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_lines(path: Path, *entries: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


def test_a_line_with_path_and_texts_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = {"blur": "clean", "noise": "slight", "compression": "strong"}
    path = write_lines(
        tmp_path / "priors.jsonl",
        {"image": "photos/a.png", "content": "a house", "quality": "blurry"},
        {"image": "../elsewhere/b.png", "content": "a panda", "quality": "", "levels": levels, "mine": 1},
    )
    finished: list[int] = []
    describer = FileDescriber(path)
    priors = describer.describe(
        [tmp_path / "photos/a.png", str(tmp_path.parent / "elsewhere/b.png")], progress=finished.append
    )
    assert priors == [Prior("a house", "blurry"), Prior.from_dict({"content": "a panda", "levels": levels})]
    assert finished == [1, 1]
    monkeypatch.chdir(tmp_path / "..")
    assert describer.describe([Path(tmp_path.name) / "photos" / ".." / "photos" / "a.png"]) == priors[:1]


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
            lambda name: name not in (".", "..")
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda name: unicodedata.normalize("NFC", name),
    ),
    texts=st.text(max_size=20),
)
def test_pictures_of_any_name_are_found(names: list[str], texts: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "names"
    entries = [
        {"image": f"x/{name}.png", "content": f"{place} {texts}", "quality": texts} for place, name in enumerate(names)
    ]
    describer = FileDescriber(write_lines(folder / "priors.jsonl", *entries))
    for form in ("NFC", "NFD"):  # as Linux writes names, and as macOS does
        images = [folder / "x" / unicodedata.normalize(form, f"{name}.png") for name in names]
        assert describer.describe(images) == [Prior(entry["content"], entry["quality"]) for entry in entries]


def test_a_moved_picture_is_found_by_its_bytes_then_by_its_name(tmp_path: Path) -> None:
    from xpsr.files import sha256

    noise(0).save(tmp_path / "a.png")
    path = write_lines(
        tmp_path / "priors.jsonl",
        {"image": "a.png", "sha256": sha256(tmp_path / "a.png"), "content": "by bytes", "quality": ""},
        {"image": "other/renamed.png", "content": "by name", "quality": ""},
    )
    renamed = (tmp_path / "a.png").rename(tmp_path / "renamed.png")
    describer = FileDescriber(path)
    assert describer.describe([renamed])[0].content == "by bytes"
    noise(1).save(renamed)
    assert describer.describe([renamed])[0].content == "by name"
    assert describer.describe([tmp_path / "renamed.tif"])[0].content == "by name"
    assert describer.describe([tmp_path / "a.png"])[0].content == "by bytes"  # by path, though no file is there


def test_a_line_about_another_picture_is_not_taken_for_its_name(tmp_path: Path) -> None:
    noise(0).save(tmp_path / "a.png")
    path = write_lines(
        tmp_path / "priors.jsonl",
        {"image": "a.png", "content": "a house", "quality": ""},
        {"image": "gone/b.png", "sha256": "0" * 64, "content": "a panda", "quality": ""},
        {"image": "x" * 300 + ".png", "content": "no path", "quality": ""},
    )
    (tmp_path / "other").mkdir()
    for name in ("a.png", "b.png"):
        noise(1).save(tmp_path / "other" / name)
        with pytest.raises(InputError, match=rf"other/{name}: .* says nothing about it"):
            FileDescriber(path).describe([tmp_path / "other" / name])


def test_names_that_several_pictures_have_need_their_folder(tmp_path: Path) -> None:
    entries = [{"image": f"{folder}/0001.png", "content": folder, "quality": ""} for folder in ("urban", "manga")]
    describer = FileDescriber(write_lines(tmp_path / "priors.jsonl", *entries))
    assert describer.describe([Path("/else/manga/0001.jpg")])[0].content == "manga"
    with pytest.raises(InputError, match=r"has 2 pictures of that name; give their full paths"):
        describer.describe([Path("/else/0001.jpg")])


def test_the_last_line_counts(tmp_path: Path) -> None:
    entries = [
        {"image": image, "content": str(place), "quality": ""} for place, image in enumerate(["a.png", "x/../a.png"])
    ]
    describer = FileDescriber(write_lines(tmp_path / "priors.jsonl", *entries))
    assert describer.describe([tmp_path / "a.png", "/else/a.png"]) == [Prior("1")] * 2


def test_pictures_without_a_prior_are_refused_by_name(tmp_path: Path) -> None:
    describer = FileDescriber(write_lines(tmp_path / "priors.jsonl", {"image": "a.png", "content": "x", "quality": ""}))
    with pytest.raises(InputError, match=r"b\.png: .*priors\.jsonl says nothing about it"):
        describer.describe([tmp_path / "a.png", tmp_path / "b.png"])
    with pytest.raises(InputError, match="looked up by path, not for a Image"):
        describer.describe([noise(0)])


@pytest.mark.parametrize(
    "line",
    [
        '{"image": "a.png", "content": ',
        "[" * 100_000,
        "no json",
        '["a.png"]',
        '{"content": "x"}',
        '{"image": 3}',
        '{"image": "a.png", "content": 3}',
        '{"image": "a.png", "content": "\\ud800"}',
        json.dumps({"image": "a.png", "quality": "dark " * 2001}),
    ],
)
def test_damaged_lines_are_told_by_number(line: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "priors.jsonl", {"image": "a.png", "content": "x", "quality": ""})
    path.write_text(path.read_text() + "\n" + line + "\n" + path.read_text())
    remedy = r"(mend or delete the line|use '3'|write it in UTF-8|shorten it)"
    with pytest.raises(InputError, match=rf"priors\.jsonl, line 3: .*; {remedy}\.$"):
        FileDescriber(path)


def write_sidecar(path: Path, image: str, **prior: Any) -> Path:
    sidecar = {
        "input": image,
        "output": f"{path.stem}.png",
        "prior": {"content": "", "quality": "", **prior},
        "seed": 1,
    }
    path.write_text(json.dumps(sidecar), encoding="utf-8")
    return path


def test_sidecars_are_read_alone_and_by_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("out").mkdir()
    noise(0).save("photos/a.png")
    edited = write_sidecar(Path("out/a_x2.json"), "photos/a.png", content="a red panda", quality="sharp")
    other = write_sidecar(Path("out/a_x4.json"), "photos/a.png", content="as it was")
    os.utime(other, (1, 1))
    write_sidecar(Path("out/b_x4.json"), str(tmp_path / "photos/b.png"), content="a house")
    Path("out/report.json").write_text("[1, 2]")
    write_lines(Path("out/more.jsonl"), {"image": "../photos/c.png", "content": "a tree", "quality": ""})
    for name in (edited, "out"):
        assert open_describer(name).describe(["photos/a.png"]) == [Prior("a red panda", "sharp")]
    contents = [prior.content for prior in FileDescriber("out").describe(["photos/b.png", "photos/c.png"])]
    assert contents == ["a house", "a tree"]
    monkeypatch.chdir("out")  # the paths in sidecars are those of another folder now
    assert FileDescriber(edited.name).describe(["../photos/a.png"])[0].content == "a red panda"


def test_names_that_no_file_can_have_are_looked_up_like_others(tmp_path: Path) -> None:
    name = "x" * 300
    path = write_lines(tmp_path / "priors.jsonl", {"image": "a.png", "sha256": "0" * 64, "content": "a house"})
    with pytest.raises(InputError, match="says nothing about it"):
        FileDescriber(path).describe([f"{name}.png"])
    sidecar = write_sidecar(tmp_path / "b.json", f"{name}.png", content="a tree")
    assert FileDescriber(sidecar).describe([tmp_path / f"{name}.png"])[0].content == "a tree"
    with pytest.raises(InputError, match="no such file or folder"):
        open_describer(f"{name}.jsonl")
    assert is_asked(name)  # a model's id, as far as anybody can tell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", 'has no "prior"'),
        ('{"input": "a.png", "prior": "a panda"}', '"prior", an object'),
        ('{"prior": {}}', '"input", a path'),
        ('{"input": "a.png", "prior": {"content": 3}}', "content=3 is not a text; use '3'."),
    ],
)
def test_damaged_sidecars_are_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a_x4.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"a_x4.json.*{message}"):
        FileDescriber(path)


def write_prompts(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path = path.with_name(path.name + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("source", ["", "DIV2K__"])
def test_the_references_prompts_are_read(source: str, tmp_path: Path) -> None:
    write_prompts(
        tmp_path,
        **{
            f"highlevel_prompt__{source}1": " a panda \nsecond line",
            f"highlevel_prompt__{source}2": "a house",
            f"highlevel_prompt_GT__{source}1": "",  # a crash of the reference's script
            f"highlevel_prompt_GT__{source}2": "a house, seen well",
            f"lowlevel_prompt_q__{source}1": "very blurry",
            f"lowlevel_prompt_q_GT__{source}1": "sharp",
        },
    )
    describer = open_describer(tmp_path)
    folder = tmp_path / "LR" / source.strip("_")
    assert describer.describe([folder / "1.png", folder / "2.png"]) == [
        Prior("a panda", "very blurry"),
        Prior("a house, seen well", ""),
    ]


def test_a_prompt_that_is_too_long_or_no_text_is_told(tmp_path: Path) -> None:
    write_prompts(tmp_path, highlevel_prompt__one="dark " * 2001)
    with pytest.raises(InputError, match=r"prompts of one: content=.* has 10004 characters"):
        FileDescriber(tmp_path)
    (tmp_path / "highlevel_prompt" / "one.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"one\.txt: is no UTF-8"):
        FileDescriber(tmp_path)


def test_names_in_the_references_folders_may_have_dots(tmp_path: Path) -> None:
    write_prompts(tmp_path, **{"highlevel_prompt__IMG.2020.01": "a house", "highlevel_prompt__IMG.2020.02": "a panda"})
    images = [tmp_path / "LR" / f"IMG.2020.0{number}.png" for number in (1, 2)]
    assert [prior.content for prior in FileDescriber(tmp_path).describe(images)] == ["a house", "a panda"]


def test_prompts_of_several_sources_are_told_apart(tmp_path: Path) -> None:
    write_prompts(tmp_path, highlevel_prompt__urban__1="a house", highlevel_prompt__manga__1="a drawing")
    describer = FileDescriber(tmp_path)
    contents = [
        prior.content for prior in describer.describe([tmp_path / "LR/manga/1.png", tmp_path / "LR/urban/1.png"])
    ]
    assert contents == ["a drawing", "a house"]


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.json", "empty.jsonl", "."])
def test_where_there_are_no_priors_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"no such file or folder|holds no priors"):
        FileDescriber(tmp_path / name)
