"""`scripts/draw_pages.py`: pictures of letters and lines to learn from."""

import random
from pathlib import Path

import draw_pages
import matplotlib
import numpy as np
import pytest
from draw_pages import KINDS, SCRIPTS, SIDE, Letters, has_letters
from fontTools import subset
from PIL import Image

from xpsr.jsonl import read_lines

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
FONT = FONTS / "DejaVuSans.ttf"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["draw_pages.py", *map(str, arguments)])
    return draw_pages.main()


def test_pictures_follow_from_seed_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, options in {"a": [], "b": ["--count=2"], "c": ["--seed=1"]}.items():
        assert run(monkeypatch, tmp_path / name, "--fonts", FONTS, "--count=3", *options) == 0
    first = {path.name: path.read_bytes() for path in sorted((tmp_path / "a").glob("*.png"))}
    assert [first[path.name] for path in sorted((tmp_path / "b").glob("*.png"))] == list(first.values())[:2]
    assert (tmp_path / "c" / "page_0000.png").read_bytes() != first["page_0000.png"]
    entries = [entry for _, entry in read_lines(tmp_path / "a.jsonl")]
    assert [entry["image"] for entry in entries] == [f"a/{name}" for name in first]
    assert all(entry["content"].split()[0] == "a" for entry in entries)
    with Image.open(tmp_path / "a" / "page_0000.png") as image:
        assert image.size == (SIDE, SIDE) and image.mode == "RGB"


@pytest.mark.parametrize("paint", [paint for _, paint in KINDS])
def test_every_kind_draws_something(paint) -> None:
    image = Image.new("RGB", (SIDE * draw_pages.FINE,) * 2, (255, 255, 255))
    rng = random.Random(0)
    paint(image, rng, (0, 0, 0), Letters(rng, "Latin", FONT))
    assert 0.01 < (np.asarray(image) < 128).mean() < 0.7


def test_words_are_of_the_script() -> None:
    words = Letters(random.Random(0), "Greek", FONT).words(200)
    assert all(
        any(low <= ord(letter) <= high for low, high in SCRIPTS["Greek"])
        for letter in words
        if not letter.isdigit() and letter not in " ,."
    )


def test_a_font_that_lacks_a_letter_has_not_that_script(tmp_path: Path) -> None:
    letters = {code for ranges in SCRIPTS.values() for low, high in ranges for code in range(low, high + 1)}
    kept = (letters | set(map(ord, "0123456789,."))) - {ord("m")}
    unicodes = ",".join(f"{code:x}" for code in kept)
    subset.main([str(FONT), f"--output-file={tmp_path / 'less.ttf'}", f"--unicodes={unicodes}"])
    assert has_letters(FONT, "Latin") and has_letters(FONT, "Greek") and not has_letters(FONT, "Korean")
    assert not has_letters(tmp_path / "less.ttf", "Latin") and has_letters(tmp_path / "less.ttf", "Greek")


def test_a_file_that_is_no_font_has_no_letters(tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_bytes(b"no font")
    assert not has_letters(tmp_path / "a.ttf", "Latin")


@pytest.mark.parametrize("count", [0, -1])
def test_no_pictures_are_refused(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "out", f"--count={count}")
    assert "draw 1 or more" in capsys.readouterr().err


def test_no_fonts_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "out", "--fonts", tmp_path)
    assert "no fonts with letters" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
