"""`scripts/draw_pages.py`: pictures of letters and lines to learn from."""

import random
from pathlib import Path

import draw_pages
import numpy as np
import pytest
from draw_pages import KINDS, SCRIPTS, SIDE, Letters, has_letters
from PIL import Image

from xpsr.jsonl import read_lines

FONTS = draw_pages.system_fonts()
needs_fonts = pytest.mark.skipif(not any(has_letters(font, "Latin") for font in FONTS), reason="needs a font")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["draw_pages.py", *map(str, arguments)])
    return draw_pages.main()


@needs_fonts
def test_pictures_follow_from_seed_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, options in {"a": [], "b": ["--count=2"], "c": ["--seed=1"]}.items():
        assert run(monkeypatch, tmp_path / name, "--count=3", *options) == 0
    first = {path.name: path.read_bytes() for path in sorted((tmp_path / "a").glob("*.png"))}
    assert [first[path.name] for path in sorted((tmp_path / "b").glob("*.png"))] == list(first.values())[:2]
    assert (tmp_path / "c" / "page_0000.png").read_bytes() != first["page_0000.png"]
    entries = [entry for _, entry in read_lines(tmp_path / "a.jsonl")]
    assert [entry["image"] for entry in entries] == [f"a/{name}" for name in first]
    assert all(entry["content"].split()[0] == "a" for entry in entries)
    with Image.open(tmp_path / "a" / "page_0000.png") as image:
        assert image.size == (SIDE, SIDE) and image.mode == "RGB"


@needs_fonts
@pytest.mark.parametrize("paint", [paint for _, paint in KINDS])
def test_every_kind_draws_something(paint) -> None:
    font = next(font for font in FONTS if has_letters(font, "Latin"))
    image = Image.new("RGB", (SIDE * draw_pages.FINE,) * 2, (255, 255, 255))
    rng = random.Random(0)
    paint(image, rng, (0, 0, 0), Letters(rng, "Latin", font))
    assert 0.01 < (np.asarray(image) < 128).mean() < 0.7


@needs_fonts
def test_words_are_of_the_script() -> None:
    words = Letters(random.Random(0), "Greek", FONTS[0]).words(200)
    assert all(
        any(low <= ord(letter) <= high for low, high in SCRIPTS["Greek"])
        for letter in words
        if not letter.isdigit() and letter not in " ,."
    )


def test_a_file_that_is_no_font_has_no_letters(tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_bytes(b"no font")
    assert not has_letters(tmp_path / "a.ttf", "Latin")


def test_no_fonts_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "out", "--fonts", tmp_path)
    assert "no fonts with letters" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
