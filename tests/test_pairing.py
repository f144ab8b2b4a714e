"""Which pictures are compared with which, and everything that is refused before any is scored."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr.errors import InputError
from xpsr.evaluation.pairing import check_cases, pair_methods


def save(folder: Path, *names: str, size: tuple[int, int] = (32, 24), mode: str = "RGB") -> Path:
    """Pictures with colour in them, where the mode has colour."""
    folder.mkdir(exist_ok=True)
    for name in names:
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / name)
    return folder


def check(tmp_path: Path, *, hr: bool = True, lr: bool = False, resizes: bool = False) -> None:
    """Pairs and looks at the folders `a`, and `b` where it is, below a folder."""
    methods = {name: tmp_path / name for name in ("a", "b") if (tmp_path / name).exists()}
    paired = pair_methods(methods, hr=tmp_path / "hr" if hr else None, lr=tmp_path / "lr" if lr else None)
    check_cases(paired, resizes=resizes)


def refused(tmp_path: Path, **options: bool) -> str:
    with pytest.raises(InputError) as error:
        check(tmp_path, **options)
    text = str(error.value).replace(f"{tmp_path}/", "")
    assert "\n" not in text and error.value.remedy
    return text


def test_names_pair_whatever_they_end_with(tmp_path: Path) -> None:
    hr = save(tmp_path / "hr", "1.png", "10.bmp", "a.png", "a_x2.png", "c.png")
    a = save(tmp_path / "a", "1_x4.jpg", "10_x4.png", "a.webp", "a_x2.png", "c_128x96.png")
    lr = save(tmp_path / "lr", "1.png", "10.png", "a.png", "a_x2.png", "c_x0.25.png", size=(8, 6))
    (a / "c_128x96.json").write_text("{}")  # records, priors and hidden files are no pictures
    (a / "priors.jsonl").write_text("{}\n")
    (a / "._1_x4.jpg").write_bytes(b"")
    (cases,) = pair_methods({"a": a}, hr=hr, lr=lr).values()
    assert [case.name for case in cases] == ["1", "10", "a", "a_x2", "c"]
    assert [case.restored.name for case in cases] == ["1_x4.jpg", "10_x4.png", "a.webp", "a_x2.png", "c_128x96.png"]
    assert [case.hr and case.hr.stem for case in cases] == [case.name for case in cases]
    assert [case.lr and case.lr.name for case in cases] == ["1.png", "10.png", "a.png", "a_x2.png", "c_x0.25.png"]
    check(tmp_path, lr=True)


def test_without_originals_pictures_belong_to_inputs_or_to_each_other(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", "p_x4.png", "q_x4.png"), save(tmp_path / "b", "p.png", "q_128x96.jpg")
    lr = save(tmp_path / "lr", "p.png", "q.png", size=(8, 6))
    for inputs in (lr, None):
        paired = pair_methods({"a": a, "b": b}, hr=None, lr=inputs)
        for cases in paired.values():
            assert [(case.name, case.hr, case.lr) for case in cases] == [
                (name, None, inputs and inputs / f"{name}.png") for name in ("p", "q")
            ]
    check(tmp_path, hr=False)
    save(tmp_path / "b", "q_128x96.jpg", size=(64, 48))
    assert refused(tmp_path, hr=False).startswith("b/q_128x96.jpg (64 x 48, not 32 x 24): not the size of those of")
    save(a, "q_x2.png")
    assert refused(tmp_path, hr=False).startswith("a/q_x2.png and a/q_x4.png have one name, q, and")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_missing_or_surplus_is_named(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text("ab_x4", min_size=1, max_size=5), min_size=2, max_size=5, unique=True))
    ends = data.draw(st.lists(st.sampled_from(["", "_x2", "_x2.5", "_30x20", "_2mp"]), min_size=5, max_size=5))
    folder = tmp_path_factory.mktemp("pairs")
    hr, sr = folder / "hr", folder / "sr"
    hr.mkdir(), sr.mkdir()
    results = {name: f"{name}{end}" for name, end in zip(names, itertools.cycle(ends), strict=False)}
    for name, result in results.items():
        (hr / f"{name}.png").touch(), (sr / f"{result}.jpg").touch()
    try:
        (cases,) = pair_methods({"sr": sr}, hr=hr, lr=None).values()
    except InputError:  # two may claim one
        return
    assert {case.name: case.restored.stem for case in cases} == results
    (sr / "another.png").touch()
    with pytest.raises(InputError, match=r"sr: holds .*another\.png, for which there is none in .*hr;"):
        pair_methods({"sr": sr}, hr=hr, lr=None)
    (sr / "another.png").unlink()
    gone = data.draw(st.sampled_from(names))
    (sr / f"{results[gone]}.jpg").unlink()
    with pytest.raises(InputError, match=rf"hr/{gone}\.png|may belong to"):
        pair_methods({"sr": sr}, hr=hr, lr=None)


@pytest.mark.parametrize(
    ("originals", "restored", "message"),
    [
        (["a.png"], ["a.png", "a.jpg"], "hr/a.png: may belong to a/a.jpg and a/a.png; keep one of them."),
        (["a.png"], ["a_x2.png", "a_x4.png"], "hr/a.png: may belong to a/a_x2.png and a/a_x4.png; keep one"),
        (["a.png", "a.jpg"], ["a.png"], "hr/a.jpg and hr/a.png have one name, a, and their partners cannot be told"),
        (["a.png", "a_x4.png"], ["a_x4.png"], "a/a_x4.png: may belong to hr/a.png and hr/a_x4.png; keep one"),
        (["a.png"], ["a_x.png"], "a: has no picture for hr/a.png and holds a/a_x.png, for which there is none in hr;"),
        (list("abcde"), ["a.png"], "a: has no picture for hr/b.png, c.png, d.png and 1 more; give both the same names"),
        (
            ["a.png"],
            ["a.png", "b.png"],
            "a: holds a/b.png, for which there is none in hr; give both the same names, or",
        ),
        (["a.png"], ["b.txt"], "a: holds no pictures;"),
        (["a.txt"], ["b.png"], "hr: holds no pictures;"),
    ],
)
def test_what_does_not_pair_is_refused_by_name(
    tmp_path: Path, originals: list[str], restored: list[str], message: str
) -> None:
    for folder, names in (("hr", originals), ("a", restored)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / (name if "." in name else f"{name}.png")).touch()
    assert refused(tmp_path).startswith(message)


def test_inputs_have_to_be_there_too(tmp_path: Path) -> None:
    save(tmp_path / "hr", "p.png", "q.png"), save(tmp_path / "a", "p.png", "q.png"), save(tmp_path / "lr", "p.png")
    assert refused(tmp_path, lr=True).startswith("lr: has no picture for hr/q.png;")
    with pytest.raises(InputError, match="no restored pictures"):
        pair_methods({}, hr=tmp_path / "hr", lr=None)
    with pytest.raises(InputError, match="is not a folder"):
        pair_methods({"a": tmp_path / "a" / "p.png"}, hr=tmp_path / "hr", lr=None)
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        pair_methods({"a": tmp_path / "nowhere"}, hr=tmp_path / "hr", lr=None)


def test_sizes_that_differ_are_refused_but_where_the_protocol_resizes(tmp_path: Path) -> None:
    names = [f"{letter}.png" for letter in "abcde"]
    save(tmp_path / "hr", *names), save(tmp_path / "a", *names, size=(31, 24))
    text = refused(tmp_path)
    assert text.startswith("a/a.png (31 x 24, not 32 x 24), a/b.png (31 x 24, not 32 x 24), a/c.png (31 x 24, not 32")
    assert " and 2 more: not the size of their originals; restore at that size" in text
    check(tmp_path, resizes=True)


def test_a_turned_picture_has_the_size_that_one_sees(tmp_path: Path) -> None:
    save(tmp_path / "hr", "a.png", "b.png", size=(24, 32)), save(tmp_path / "a", "a.jpg", "b.png")
    for name in ("a.jpg", "b.png"):
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(tmp_path / "a" / name) as image:
            image.load()
            image.save(tmp_path / "a" / name, exif=exif)
    check(tmp_path)
    content = (tmp_path / "a" / "b.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    tail = content.index(b"IEND") - 4  # a PNG may say at its end how it is turned
    (tmp_path / "a" / "b.png").write_bytes(content[:start] + content[end:tail] + content[start:end] + content[tail:])
    check(tmp_path)


def test_gray_against_colour_is_refused_but_not_gray_that_is_stored_as_colour(tmp_path: Path) -> None:
    save(tmp_path / "hr", "p.png", "q.png"), save(tmp_path / "a", "p.png"), save(tmp_path / "a", "q.png", mode="L")
    assert refused(tmp_path).startswith("a/q.png and hr/q.png: gray against colour; store both in the same way.")
    save(tmp_path / "hr", "q.png", mode="L")
    check(tmp_path)  # both are gray
    with Image.open(tmp_path / "hr" / "q.png") as image:
        image.convert("RGB").save(tmp_path / "hr" / "q.png")
    check(tmp_path)
    save(tmp_path / "lr", "p.png", size=(8, 6), mode="L"), save(tmp_path / "lr", "q.png", size=(8, 6), mode="L")
    assert refused(tmp_path, lr=True).startswith("a/p.png and lr/p.png: gray against colour")


def test_transparent_and_unreadable_pictures_and_nan_are_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "hr", "p.png", "q.tif"), save(tmp_path / "a", "p.png", mode="RGBA")
    pixels = np.full((24, 32, 3), 0.5, np.float32)
    tifffile.imwrite(tmp_path / "a" / "q.tif", pixels, photometric="rgb")
    check(tmp_path)  # an alpha that is 1 everywhere hides nothing
    with Image.open(tmp_path / "a" / "p.png") as image:
        image.putpixel((0, 0), (0, 0, 0, 0))
        image.save(tmp_path / "a" / "p.png")
    assert refused(tmp_path).startswith("a/p.png: transparent pixels, which have no colour to compare; flatten")
    pixels[3, 4, 1] = np.nan
    tifffile.imwrite(tmp_path / "a" / "q.tif", pixels, photometric="rgb")
    assert refused(tmp_path).startswith("a/q.tif: holds NaN or infinite values; replace")
    (tmp_path / "hr" / "p.png").write_bytes(b"nothing")
    assert refused(tmp_path).startswith("hr/p.png: is not an image that can be read (a/q.tif cannot be used either);")


@pytest.mark.parametrize(
    ("size", "fits"),
    [((8, 6), True), ((32, 24), True), ((11, 8), True), ((9, 6), True), ((8, 8), False), ((64, 48), False)],
)
def test_an_input_has_the_proportions_of_its_original_and_is_not_larger(
    tmp_path: Path, size: tuple[int, int], fits: bool
) -> None:
    save(tmp_path / "hr", "p.png"), save(tmp_path / "a", "p.png"), save(tmp_path / "lr", "p.png", size=size)
    if fits:
        check(tmp_path, lr=True)
    else:
        what = f"lr/p.png ({size[0]} x {size[1]}) of 32 x 24: inputs that cannot be theirs"
        assert refused(tmp_path, lr=True).startswith(what)
