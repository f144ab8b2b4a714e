"""Pictures of every format, mode, depth and profile, with all that may stand beside pixels, and what others find."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import picture_files as files
import pytest
import tifffile
from color_helpers import DISPLAY_P3, GRAY_22, cmyk_profile
from picture_files import UPRIGHT, Values
from pictures_with_metadata import ICC, IPTC, XMP, camera_exif, jp2_with, jxl_with, photoshop, picture_file, tiff_with
from PIL import Image

from xpsr.image import Picture, WriteOptions, read_image, write_image
from xpsr.sources import Source, result_suffix

USUAL = WriteOptions()

MODES = {"gray": 1, "gray, alpha": 2, "RGB": 3, "RGBA": 4, "palette": 3, "1 bit": 1, "CMYK": 4}
"""Channels."""

HOLDS: dict[str, dict[str, tuple[int, ...]]] = {
    "JPEG": {"gray": (8,), "RGB": (8,), "CMYK": (8,)},
    "PNG": {
        **dict.fromkeys(("gray", "gray, alpha", "RGB", "RGBA"), (8, 16)),
        "palette": (8,),
        "1 bit": (1,),
    },
    "TIFF": {
        **dict.fromkeys(("gray", "gray, alpha", "RGB", "RGBA"), (8, 16, 32)),
        "palette": (8,),
        "1 bit": (1,),
        "CMYK": (8, 16),
    },
    "WebP": {"RGB": (8,), "RGBA": (8,)},
    "AVIF": dict.fromkeys(("gray", "RGB", "RGBA"), (8, 10, 12)),
    "JPEG XL": {"gray": (8, 16), "RGB": (8, 16, 32), "RGBA": (8, 16, 32)},
    "HEIC": dict.fromkeys(("gray", "RGB", "RGBA"), (8, 10)),
    "JPEG 2000": {"gray": (8, 16), "gray, alpha": (8,), "RGB": (8, 16), "RGBA": (8,)},
    "BMP": {"gray": (8,), "RGB": (8,), "palette": (8,), "1 bit": (1,)},
    "GIF": {"palette": (8,)},
    "PNM": {"gray": (8, 16), "RGB": (8, 16), "1 bit": (1,)},
    "TGA": dict.fromkeys(("gray", "gray, alpha", "RGB", "RGBA", "palette"), (8,)),
}
"""Depths of files that are made here, by format and mode; 32 are floats."""

SUFFIXES = {"JPEG": "jpg", "TIFF": "tif", "JPEG XL": "jxl", "JPEG 2000": "jp2", "PNM": "ppm"}
PILLOW = {"PNM": "PPM"}
LOSSLESS = ("PNG", "TIFF", "WebP", "JPEG XL", "BMP", "GIF", "PNM", "TGA")
WITH_PROFILES = ("JPEG", "PNG", "TIFF", "WebP", "AVIF", "JPEG XL", "HEIC", "JPEG 2000")
CMYK = cmyk_profile()
PROFILES = {"none": None, "sRGB": ICC, "Display P3": DISPLAY_P3, "gray": GRAY_22, "CMYK": CMYK}


def suffix_of(kind: str) -> str:
    return SUFFIXES.get(kind, kind.lower())


@dataclass(frozen=True)
class Case:
    """A file to be made."""

    kind: str
    mode: str
    bits: int
    profile: str = "none"

    @property
    def dtype(self) -> str:
        return "float32" if self.bits == 32 else "uint16" if self.bits > 8 else "uint8"

    @property
    def full(self) -> float:
        """The value that is 1."""
        return 1.0 if self.bits == 32 else 65535.0 if self.kind == "HEIC" and self.bits > 8 else 2.0**self.bits - 1


def cases(kind: str) -> Iterator[Case]:
    for mode, depths in HOLDS[kind].items():
        own = {"CMYK": ("CMYK",), "gray": ("gray",), "gray, alpha": ("gray",), "1 bit": ("gray",)}
        profiles = own.get(mode, ("sRGB", "Display P3")) if kind in WITH_PROFILES else ()
        for bits, profile in itertools.product(depths, ("none", *profiles)):
            yield Case(kind, mode, bits, profile)


def smooth(channels: int) -> Values:
    """(H, W, C) in [0, 1]; alpha and inks are never 0, so that colours can be told."""
    down, across = np.mgrid[0:1:48j, 0:1:64j]
    planes = np.stack([across, (down + across) / 2, 1 - down, 0.2 + 0.6 * down], axis=2)
    return np.ascontiguousarray(planes[..., [0, 3] if channels == 2 else range(channels)])


def made(case: Case, folder: Path) -> tuple[bytes, Values]:
    """A file with everything that its format holds, and (H, W, C) in [0, 1], its colours upright."""
    icc, place = PROFILES[case.profile], folder / f"made.{suffix_of(case.kind)}"
    values = np.round(smooth(MODES[case.mode]) * case.full) if case.bits < 32 else smooth(MODES[case.mode])
    values = values.astype(case.dtype)
    image = image_of(case, values) if case.bits <= 8 else None
    if case.mode == "palette":
        assert image is not None
        values = np.asarray(image.convert("RGB"))
    shown = UPRIGHT[6](values) / case.full
    if case.kind == "TIFF":
        photometric = {"CMYK": 5}.get(case.mode)
        bare = files.tiff(
            values, photometric=photometric, extra=2 if "A" in case.mode or "alpha" in case.mode else None
        )
        bare = files.pillow_bytes(image, "TIFF") if image is not None and image.mode in "1P" else bare
        return tiff_with(bare, xmp=XMP, iptc=IPTC, icc=icc), shown
    if case.kind == "PNG" and image is None:
        return files.png(values, before=png_chunks(icc)), shown
    if case.kind == "JPEG XL":
        options = {"oiio:ColorSpace": "sRGB"} if case.bits == 32 and icc is None else {}
        bare = files.by_oiio(place, values, **options, **({} if icc is None else {"ICCProfile": icc}))
        return jxl_with(bare, exif=camera_exif(orientation=1), xmp=XMP), values / case.full
    if case.kind == "AVIF":
        return files.avif(values, case.bits, exif=camera_exif(), xmp=XMP, icc=icc), shown
    if case.kind == "HEIC":
        return heic(case, values, icc), shown
    if case.kind in ("JPEG", "PNG", "WebP"):
        assert image is not None
        return picture_file(case.kind.upper(), image, icc=icc), shown
    if case.kind == "PNM" and image is None:
        head = b"P5" if case.mode == "gray" else b"P6"
        return head + b" 64 48 65535\n" + values.astype(">u2").tobytes(), values / case.full
    if case.kind == "JPEG 2000":
        bare = files.by_oiio(place, values) if image is None else files.pillow_bytes(image, "JPEG2000")
        return jp2_with(bare, icc=icc, xmp=XMP), values / case.full
    assert image is not None
    options = {"dpi": (300, 300)} if case.kind == "BMP" else {}
    return files.pillow_bytes(image, PILLOW.get(case.kind, case.kind), **options), values / case.full


def image_of(case: Case, values: Values) -> Image.Image:
    """Values of 8 bits, or 1, as Pillow holds them."""
    if case.mode == "palette":
        return Image.fromarray(values).quantize(64)
    if case.mode == "1 bit":
        return Image.fromarray(values[..., 0] > 0)
    values = values[..., 0] if case.mode == "gray" else values
    return Image.fromarray(values, **({"mode": "CMYK"} if case.mode == "CMYK" else {}))


def png_chunks(icc: bytes | None) -> bytes:
    resources = photoshop()
    text = f"\niptc\n{len(resources):8}\n{resources.hex()}\n".encode()
    chunks = [(b"iCCP", b"icc\0\0" + zlib.compress(icc))] if icc is not None else []
    chunks += [
        (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
        (b"eXIf", camera_exif()),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        (b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text)),
    ]
    return b"".join(files.chunk(kind, data) for kind, data in chunks)


def heic(case: Case, values: Values, icc: bytes | None, orientation: int = 6) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[values.shape[2]] + (";16" if case.bits > 8 else "")
    image = pillow_heif.from_bytes(mode=mode, size=(64, 48), data=values.tobytes())
    buffer = io.BytesIO()
    options = {} if icc is None else {"icc_profile": icc}
    xmp = XMP.replace(b'Orientation="6"', b'Orientation="%d"' % orientation)
    image.save(buffer, quality=-1, chroma=444, exif=camera_exif(orientation=orientation), xmp=xmp, **options)
    return buffer.getvalue()


def twice(picture: Picture) -> Picture:
    """Each pixel is four, instead of what a model makes of it."""
    parts = (picture.pixels, picture.alpha, picture.excess)
    pixels, alpha, excess = (
        None if part is None else part.repeat_interleave(2, 1).repeat_interleave(2, 2) for part in parts
    )
    assert pixels is not None
    return replace(picture, pixels=pixels, alpha=alpha, excess=excess)


def given_back(
    content: bytes,
    kind: str,
    folder: Path,
    suffix: str | None = None,
    options: WriteOptions = USUAL,
    restore: Callable[[Picture], Picture] = twice,
) -> tuple[Path, Picture, tuple[str, ...]]:
    """The file of a result, the result, and what was told."""
    path = folder / f"photo.{suffix_of(kind)}"
    path.write_bytes(content)
    result = restore(read_image(path))
    place = folder / f"result{suffix or result_suffix(Source(path=path), 'same')}"
    told = write_image(place, result, options=options)
    assert result.origin is not None
    return place, result, (*result.origin.notices, *told)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file is, as libraries of others read it."""

    mode: str
    bits: int
    values: Values
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    iptc: bytes | None
    dpi: float | None


def by_others(path: Path) -> Found:
    """Reads a file by Pillow, and by OpenCV (AVIF) or OpenImageIO; they agree on what both know."""
    values, is_cmyk, icc = by_cv2(path) if path.suffix == ".avif" else values_by_oiio(path)
    mode = "CMYK" if is_cmyk else {1: "gray", 2: "gray, alpha", 3: "RGB", 4: "RGBA"}[values.shape[2]]
    found: dict[str, Any] = {"mode": mode, "bits": 8 * values.dtype.itemsize, "icc": icc}
    full = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    found["values"] = values / full
    if path.suffix == ".jxl":  # Pillow has no reader
        content = path.read_bytes()
        parts = {kind: box(content, kind) for kind in (b"Exif", b"xml ")}
        exif = parts[b"Exif"]
        return Found(**found, exif=None if exif is None else exif[4:], xmp=parts[b"xml "], iptc=None, dpi=None)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as tiff:
            tags = {tag.code: tag.value for tag in tiff.pages[0].tags}  # type: ignore[union-attr]
            assert tags.get(34675) == icc and tags.get(274) == 1
            dpi = None if 282 not in tags else tags[282][0] / tags[282][1]
            assert np.array_equal(tiff.asarray().reshape(values.shape), values)
        return Found(**found, exif=path.read_bytes(), xmp=tags.get(700), iptc=tags.get(33723), dpi=dpi)
    with Image.open(path) as image:
        info = image.info
        modes = {"L": "gray", "I;16": "gray", "LA": "gray, alpha"}
        assert values.dtype == np.uint16 or modes.get(image.mode, image.mode) == mode
        assert info.get("icc_profile") == icc or path.suffix == ".avif"
        found["icc"] = info.get("icc_profile")
        if path.suffix == ".jpg" and is_cmyk:  # which OpenImageIO makes RGB
            found["values"] = np.asarray(image) / 255
        exif, xmp = info.get("exif"), info.get("xmp")
        iptc = dict(getattr(image, "applist", [])).get("APP13") or info.get("Raw profile type iptc")
        dpi = info.get("dpi")
    _, kinds, data = cv2.imdecodeWithMetadata(content, flags=cv2.IMREAD_UNCHANGED)
    raw = {kind: one.tobytes().rstrip(b"\0") for kind, one in zip(kinds, data, strict=True)}
    exif = None if exif is None else exif.removeprefix(b"Exif\0\0")
    assert raw.get(cv2.IMAGE_METADATA_EXIF, b"") == (exif or b"").rstrip(b"\0")
    if path.suffix != ".avif":
        assert (xmp or b"") in raw.get(cv2.IMAGE_METADATA_XMP, b"")
    if isinstance(iptc, str):
        iptc = bytes.fromhex("".join(iptc.split("\n")[3:]))
    has_container = path.suffix in (".jpg", ".png", ".bmp")
    return Found(**found, exif=exif, xmp=xmp, iptc=iptc, dpi=dpi[0] if dpi and has_container else None)


def by_cv2(path: Path) -> tuple[Values, bool, bytes | None]:
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert values is not None
    values = np.atleast_3d(values)
    return values[..., [2, 1, 0, 3][: values.shape[2]]], False, None


def values_by_oiio(path: Path) -> tuple[Values, bool, bytes | None]:
    """Values (H, W, C) as they are stored, whether they are CMYK, and the profile."""
    import OpenImageIO as oiio  # here, or it complains at the end of a test run

    config = oiio.ImageSpec()
    config["oiio:UnassociatedAlpha"], config["oiio:RawColor"] = 1, 1
    source = oiio.ImageInput.open(str(path), config)
    assert source is not None, oiio.geterror()
    spec, values = source.spec(), source.read_image(oiio.UNKNOWN)
    source.close()
    icc = None if spec.getattribute("CICP") is not None else spec.getattribute("ICCProfile")  # made of what CICP says
    values = np.asarray(values).reshape(spec.height, spec.width, -1)
    is_cmyk = spec.getattribute("jpeg:ColorSpace") == "CMYK" or spec.getattribute("tiff:PhotometricInterpretation") == 5
    return values, is_cmyk, None if icc is None else np.asarray(icc, np.uint8).tobytes()


def box(content: bytes, kind: bytes) -> bytes | None:
    """What a box of a JPEG XL holds."""
    at = content.find(kind)
    return None if at < 0 else content[at + 4 : at - 4 + int.from_bytes(content[at - 4 : at])]
