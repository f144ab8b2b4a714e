"""What a result keeps of its picture, by format, mode, depth, profile, orientation and metadata: docs/pictures.md.

`python tests/test_pictures_matrix.py` writes the tables of that page anew.
"""

import itertools
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import picture_files as files
import pytest
import torch
from picture_files import UPRIGHT, Values
from picture_matrix import (
    HOLDS,
    LOSSLESS,
    MODES,
    PROFILES,
    USUAL,
    WITH_PROFILES,
    Case,
    Found,
    by_others,
    cases,
    given_back,
    heic,
    made,
    smooth,
    suffix_of,
)
from pictures_with_metadata import IPTC, MAKER_NOTE, camera_exif
from PIL import Image

from xpsr import Prior, Restorer
from xpsr.errors import InputError
from xpsr.image import Picture, WriteOptions, read_image

PAGE = Path(__file__).parents[1] / "docs" / "pictures.md"


# What is kept of it


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a file, in the words of the page."""

    result: str
    mode: str
    bits: int
    profile: str
    beside: tuple[str, ...]


@cache
def outcomes(kind: str) -> dict[Case, Outcome]:
    """What became of each file of a format; what the values are is asserted here."""
    with tempfile.TemporaryDirectory() as folder:
        return {case: outcome(case, Path(folder)) for case in cases(kind)}


def outcome(case: Case, folder: Path, suffix: str | None = None, options: WriteOptions = USUAL) -> Outcome:
    content, values = made(case, folder)
    path, result, told = given_back(content, case.kind, folder, suffix, options)
    found = by_others(path)
    icc = PROFILES[case.profile]
    keeps = found.icc == icc and (icc is not None or case.mode != "CMYK")
    expected = values.repeat(2, 0).repeat(2, 1) if keeps else as_stored(result, found.mode)
    if found.mode.startswith("RGB") and expected.shape[2] < 3:
        expected = expected[..., [0, 0, 0, *range(1, expected.shape[2])]]
    assert found.values.shape == expected.shape, case
    is_exact = case.kind in LOSSLESS and path.suffix not in (".jpg", ".avif") and found.mode != "CMYK"
    step = 1.01 / (2**found.bits - 1) if found.bits < 32 else 1e-5
    error = np.abs(found.values - expected)
    if found.mode != "CMYK":  # other inks may give the same colour
        assert (error.max() < step) if is_exact else (error.max() < 0.2 and error.mean() < 0.02), (case, error.max())
    again = read_image(path)
    assert (again.pixels - result.pixels).abs().mean() < 0.02, case
    if result.alpha is not None:
        assert again.alpha is not None and (again.alpha - result.alpha).abs().mean() < 0.01, case
    if case.bits > max(found.bits, 1):
        assert any(f"written as {found.bits} bits" in phrase for phrase in told), (case, told)
    if case.mode == "CMYK" != found.mode:
        assert "its CMYK is written as sRGB" in told, case
    beside = beside_of(case, found, content, told)
    profile = "none" if icc is None and found.icc is None else "kept" if keeps else "sRGB"
    if not keeps:
        assert found.icc is None, case
    return Outcome(result=path.suffix, mode=found.mode, bits=found.bits, profile=profile, beside=beside)


def as_stored(result: Picture, mode: str) -> Values:
    """A picture's sRGB as (H, W, C)."""
    planes = result.pixels[:1] if mode.startswith("gray") else result.pixels
    planes = planes if result.alpha is None else torch.cat([planes, result.alpha])
    return planes.permute(1, 2, 0).numpy()


def beside_of(case: Case, found: Found, content: bytes, told: tuple[str, ...]) -> tuple[str, ...]:
    """What became of EXIF, XMP, IPTC and resolution: "-" where the picture had none."""
    exif, before = found.exif or b"", camera_exif()
    has_exif = all(part in exif for part in (MAKER_NOTE, "Café".encode(), b"2026:07:01 12:00:00"))
    stays = has_exif and exif.index(MAKER_NOTE) == before.index(MAKER_NOTE)
    if has_exif:
        tags = Image.Exif()
        tags.load(exif)
        assert tags.get(274, 1) == 1 and tags.get_ifd(0x8825)[2] == (48, 8, 30), case
        assert tags.get_ifd(0x8769)[0xA002] == found.values.shape[1], case
    xmp = found.xmp or b""
    has_xmp = "Jörg &amp; Co".encode() in xmp and b'tiff:Orientation="6"' not in xmp
    has_dpi = found.dpi is not None and abs(found.dpi - 300) < 0.1
    words = []
    for name, had, has in (
        ("EXIF", MAKER_NOTE in content, has_exif),
        ("XMP", b"dc:creator" in content, has_xmp),
        ("IPTC", case.kind in ("JPEG", "PNG", "TIFF"), IPTC in (found.iptc or b"")),
        ("DPI", case.kind in ("JPEG", "PNG", "TIFF", "BMP"), has_dpi),
    ):
        if name == "EXIF" and has and not stays:
            words.append("its values")
        elif name == "DPI" and not has and has_exif:
            words.append("in EXIF")
        elif had and not has and name != "DPI":
            assert any(name in phrase and re.search("no place|not read", phrase) for phrase in told), (case, name, told)
            words.append("lost")
        else:
            words.append("kept" if had and has else "-")
    return tuple(words)


# Which way is up


def turned(kind: str, where: str, orientation: int, bits: int, folder: Path) -> tuple[bytes, Values] | None:
    """A file that says in a place how it is to be turned, and its values; None: it says nothing there."""
    case = Case(kind, "RGB", bits)
    values = np.round(smooth(3) * case.full).astype(case.dtype)
    says = {"EXIF": files.exif(orientation)} if where == "EXIF" else {"XMP": files.xmp(orientation)}
    name, data = next(iter(says.items()))
    is_exif, lower = where == "EXIF", name.lower()
    if where == "header":
        if kind == "JPEG XL" and orientation > 1:
            return files.turned_jxl(folder / "made.jxl", values, orientation), values / case.full
        if kind == "AVIF":  # which its encoder takes from EXIF
            return files.avif(values, bits, exif=files.exif(orientation)[6:]), values / case.full
        return (heic(case, values, None, orientation), values / case.full) if kind == "HEIC" else None
    if kind == "PNG":
        text = (b"eXIf", data[6:]) if is_exif else (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + data)
        return files.png(values, before=files.chunk(*text)), values / case.full
    if kind == "TIFF":
        return files.tiff(values, tags={274: orientation} if is_exif else {700: data}), values / case.full
    if kind in ("JPEG", "WebP"):
        options = {"lossless": True} if kind == "WebP" else {"quality": 100, "subsampling": 0}
        return files.pillow_bytes(Image.fromarray(values), kind.upper(), **options, **{lower: data}), values / case.full
    return None


PLACES = ("EXIF", "XMP", "header")


@cache
def turns(kind: str) -> tuple[str, ...]:
    """For each place, what a result does with all orientations that stand there."""
    return tuple(turns_of(kind, where) for where in PLACES)


def turns_of(kind: str, where: str) -> str:
    found = "-"
    with tempfile.TemporaryDirectory() as folder:
        for orientation, bits in itertools.product(range(1, 9), (8, 10, 16)):
            file = turned(kind, where, orientation, bits, Path(folder)) if bits in HOLDS[kind].get("RGB", ()) else None
            if file is not None:
                content, values = file
                result = by_others(given_back(content, kind, Path(folder))[0])
                expected = UPRIGHT[orientation](values).repeat(2, 0).repeat(2, 1)
                assert np.abs(result.values - expected).mean() < 0.02, (kind, where, orientation, bits)
                if result.exif is not None:
                    tags = Image.Exif()
                    tags.load(result.exif)
                    assert tags.get(274, 1) == 1
                assert b'tiff:Orientation="%d"' % (orientation or 9) not in (result.xmp or b"") or orientation == 1
                found = "turned"
    return found


# The page

Row = list[str]

NOTES: dict[str, Callable[[Case, Outcome], bool]] = {
    "palette": lambda case, made: case.mode == "palette",
    "bit": lambda case, made: case.mode == "1 bit",
    "cmyk": lambda case, made: case.mode == "CMYK",
    "gray": lambda case, made: case.mode == "gray" and made.mode == "RGB",
    "depth": lambda case, made: made.bits < case.bits,
}
"""Footnotes of the page, and what they are about."""


def depth(bits: int) -> str:
    return "float" if bits == 32 else str(bits)


def colours(kind: str) -> Row:
    results = {after.result for after in outcomes(kind).values()}
    assert len(results) == 1
    cells = [f"{kind}", results.pop().removeprefix(".")]
    for mode in MODES:
        words = {}
        for case, after in outcomes(kind).items():
            if case.mode == mode:
                change = "" if after.mode == mode else f"{after.mode} "
                word = depth(case.bits) if (after.mode, after.bits) == (mode, case.bits) else ""
                word = word or f"{depth(case.bits)} → {change}{depth(after.bits)}"
                word += "".join(f"[^{note}]" for note, is_about in NOTES.items() if is_about(case, after))
                assert words.setdefault(case.bits, word) == word, case
        cells.append(", ".join(words.values()) or "-")
    return cells


def profiles(kind: str) -> Row:
    cells = [kind]
    for profile in PROFILES:
        words = {after.profile for case, after in outcomes(kind).items() if case.profile == profile}
        assert len(words) < 2, (kind, profile)
        notes = {"CMYK": "[^cmyk]", "gray": "[^gray]"}
        cells += [word + (notes.get(profile, "") if word == "sRGB" else "") for word in words] or ["-"]
    with tempfile.TemporaryDirectory() as folder:
        for bits in HOLDS[kind].get("CMYK", ()):
            kept = outcome(Case(kind, "CMYK", bits, "CMYK"), Path(folder), options=WriteOptions(keep_cmyk=True))
            assert (kept.mode, kept.bits, kept.profile) == ("CMYK", 8, "kept")
    return [*cells, "kept" if "CMYK" in HOLDS[kind] else "-"]


def orientations(kind: str) -> Row:
    return [kind, *turns(kind)]


def beside(kind: str) -> Row:
    words = {made.beside for made in outcomes(kind).values()}
    assert len(words) == 1, words  # whatever mode, depth and profile
    notes = {"its values": "[^tiff]", "in EXIF": "[^dpi]", "lost": "[^jp2]"}
    return [kind, *(word + notes.get(word, "") for word in words.pop())]


def formats(target: str) -> Row:
    """What becomes of others in a format."""
    suffix = f".{suffix_of(target)}"
    with tempfile.TemporaryDirectory() as folder:

        def become(kind: str, mode: str, bits: int = 8, profile: str = "none", **options: Any) -> Outcome:
            return outcome(Case(kind, mode, bits, profile), Path(folder), suffix, WriteOptions(**options))

        try:
            is_kept = {become("PNG", mode).mode for mode in ("RGBA", "gray, alpha")} <= {"RGBA", "gray, alpha"}
            alpha = "kept" if is_kept else "lost"
        except InputError:
            alpha = "refused"
        depths = [bits for bits in (8, 16, 32) if become("TIFF", "RGB", bits).bits == bits]
        held = [become("PNG", "RGB", profile="Display P3"), become("PNG", "gray", profile="gray")]
        notes = {"its values": "[^tiff]", "in EXIF": "[^dpi]", "lost": "[^none]"}
        return [
            target,
            ", ".join(map(depth, depths)),
            held[1].mode.replace("RGB", "as RGB"),
            alpha,
            become("TIFF", "CMYK", profile="CMYK", keep_cmyk=True).mode.replace("RGB", "as sRGB"),
            *(made.profile.replace("sRGB", "as sRGB") for made in held),
            *(word + notes.get(word, "") for word in held[0].beside),
        ]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the page."""

    head: Row
    rows: Iterable[str]
    row: Callable[[str], Row]


_BESIDE = ["EXIF", "XMP", "IPTC", "pixels an inch"]

TABLES = {
    "colours": Table(head=["picture", "result", *MODES], rows=HOLDS, row=colours),
    "profiles": Table(
        head=["picture", *PROFILES, "CMYK, `--keep-cmyk`"],
        rows=WITH_PROFILES,
        row=profiles,
    ),
    "orientation": Table(
        head=["picture", *PLACES], rows=("JPEG", "PNG", "TIFF", "WebP", "AVIF", "JPEG XL", "HEIC"), row=orientations
    ),
    "beside": Table(head=["picture", *_BESIDE], rows=HOLDS, row=beside),
    "formats": Table(
        head=["written as", "bits", "gray", "alpha", "CMYK, `--keep-cmyk`", "profile", "gray profile", *_BESIDE],
        rows=("JPEG", "PNG", "TIFF", "WebP", "AVIF", "JPEG XL", "BMP"),
        row=formats,
    ),
}


def line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def mark(name: str) -> str:
    """What stands before a table."""
    return f"<!-- {name} -->"


def lines_of(page: str, name: str) -> list[str]:
    """The lines of a table on the page."""
    return page.split(mark(name) + "\n")[1].split("\n\n")[0].splitlines()


def written(page: str) -> str:
    """The page with its tables made anew."""
    for name, table in TABLES.items():
        text = [line(table.head), "|" + "---|" * len(table.head), *(line(table.row(kind)) for kind in table.rows)]
        before = lines_of(page, name)
        page = page.replace("\n".join([mark(name), *before]), "\n".join([mark(name), *text]))
    return page


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, table in TABLES.items() for kind in table.rows])
def test_the_page_says_what_is_so(name: str, kind: str) -> None:
    if kind == "HEIC":
        pytest.importorskip("pillow_heif")
    table = TABLES[name]
    head, _, *rows = lines_of(PAGE.read_text(encoding="utf-8"), name)
    assert head == line(table.head) and len(rows) == len(list(table.rows))
    assert rows[list(table.rows).index(kind)] == line(table.row(kind)), "python tests/test_pictures_matrix.py"


def test_every_note_of_the_page_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"\[\^(\w+)\](?!:)", page)) == set(re.findall(r"^\[\^(\w+)\]:", page, re.MULTILINE))


@pytest.mark.parametrize(
    "case", [Case("PNG", "RGBA", 16, "Display P3"), Case("TIFF", "gray", 16, "gray"), Case("JPEG", "RGB", 8)]
)
def test_the_pipeline_gives_back_what_the_page_says(case: Case, tiny_model: Path, tmp_path: Path) -> None:
    restorer = Restorer(tiny_model, device="cpu", dtype="fp32")
    content, values = made(case, tmp_path)

    def restore(picture: Picture) -> Picture:
        return restorer.restore(picture, Prior(), scale=0.5, seed=0).picture

    path, _, told = given_back(content, case.kind, tmp_path, restore=restore)
    found = by_others(path)
    assert (found.mode, found.bits, found.icc) == (case.mode, case.bits, PROFILES[case.profile])
    assert found.values.shape == (values.shape[0] // 2, values.shape[1] // 2, values.shape[2])
    assert beside_of(case, found, content, told) == outcomes(case.kind)[case].beside


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
