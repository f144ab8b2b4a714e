"""Pictures to files, whole or not at all, and to bytes: depth, colours and what stood beside them as they came."""

import io
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from xpsr.config.checks import check_argument, within
from xpsr.errors import InputError, one_line
from xpsr.files import WRITTEN_SUFFIXES, atomic_write, refusal
from xpsr.image.containers import into_jpeg, into_jxl, into_png, into_tiff
from xpsr.image.credentials import MIME_TYPES, Credentials, sign
from xpsr.image.metadata import of_result, tells_resolution
from xpsr.image.origin import Metadata
from xpsr.image.picture import Picture, upright
from xpsr.image.planes import drop_from_memory
from xpsr.image.profiles import from_srgb, to_gray
from xpsr.image.reading import ImageLike, to_picture
from xpsr.image.scanlines import write_scanlines
from xpsr.image.xmp import Provenance

__all__ = ["WriteOptions", "format_of", "image_bytes", "refuse_unwritable", "write_image", "write_into", "write_strips"]

Kind = Literal["BMP", "JPEG", "PNG", "TIFF", "WEBP", "AVIF", "JXL"]

_KINDS: dict[str, Kind] = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".jxl": "JXL",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}

_QUALITY = {"JPEG": 95, "AVIF": 90, "JXL": 100}
"""A restored picture is not degraded again: Pillow's default is JPEG quality 75 with halved colour."""

_MAX_BITS = {"PNG": 16, "TIFF": 32, "JXL": 16}
"""Of a value; 8 in other formats."""

_MAX_SIDES = {"WEBP": 16383, "JPEG": 65500, "AVIF": 65535}

_WHOLE = 2**26
"""Pixels up to which a PNG or JPEG of 8 bits is encoded whole; larger ones go in strips."""

_NOTHING = Metadata()

_ROWS = 2**20
"""Pixels of a strip."""


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """What of a picture is written.

    Attributes:
        quality: 1 to 100, of JPEG (default 95), WebP (lossless), AVIF (90) and JPEG XL (100, lossless).
        strip_gps: where the picture was taken is taken out of EXIF and XMP.
        strip_metadata: EXIF, XMP and IPTC are left out; the colour profile and the resolution stay.
        provenance: how the picture came about, which EXIF and XMP tell then; None: they do not.
        keep_cmyk: what was CMYK, with a profile, and becomes a JPEG or TIFF, is CMYK again; else it is sRGB.
        credentials: by whom the file is signed, as C2PA, which tells the provenance, too; None: by nobody.
    """

    quality: int | None = None
    strip_gps: bool = False
    strip_metadata: bool = False
    provenance: Provenance | None = None
    keep_cmyk: bool = False
    credentials: Credentials | None = None

    def __post_init__(self) -> None:
        """Refuses values of other kinds, a quality outside 1 to 100, and credentials of nothing."""
        check_argument("quality", self.quality, int | None, within(1, 100, "95, for example"))
        check_argument("provenance", self.provenance, Provenance | None)
        for name in ("strip_gps", "strip_metadata", "keep_cmyk"):
            check_argument(name, getattr(self, name), bool)
        if check_argument("credentials", self.credentials, Credentials | None) and self.provenance is None:
            message, remedy = "say how a picture came about, and there is no provenance", "give that, too"
            raise InputError(message, code="conflict", field="credentials", remedy=remedy)


def write_image(
    path: str | os.PathLike[str], image: ImageLike, *, options: WriteOptions = WriteOptions()
) -> tuple[str, ...]:
    """Writes a picture whole or not at all, in the format that the suffix of `path` names.

    What came from a file goes back as it was, as far as the format can: gray, with 16 bits or floats, with its profile,
    EXIF, XMP, IPTC and resolution. Where a file of more than 8 bits becomes one of 8, values between two steps are
    dithered, so that skies have no bands; else they are rounded to the nearest, also to 16 bits, whose steps are too
    small to be seen.

    Args:
        path: where to; what is there is replaced.
        image: whatever `to_picture` takes. A PIL image without a profile is written as Pillow has it, upright; of
            `options` only quality counts then.
        options: quality and metadata.

    Returns:
        What of the metadata could not be written, a phrase each.

    Raises:
        InputError: unknown suffix, a picture that the format cannot hold (alpha in JPEG or BMP, a side above 16383 in
            WebP), `path` cannot be written, or it cannot be signed so.
        MissingDependencyError: it is to be signed, and c2pa-python is not installed.
    """
    place: Path = check_argument("path", path, Path)
    if _is_ready(image, format_of(place), options):
        content = image_bytes(place, image, options)
        with atomic_write(place) as part:
            part.write_bytes(content)
        return ()
    picture = to_picture(image)
    is_signed = options.credentials is not None
    refuse_unwritable(place, (picture.width, picture.height), has_alpha=picture.alpha is not None, is_signed=is_signed)
    with atomic_write(place) as part:
        return write_into(part, place, picture, options)


def write_strips(
    path: str | os.PathLike[str],
    strips: Iterable[Picture],
    size: tuple[int, int],
    *,
    options: WriteOptions = WriteOptions(),
) -> tuple[str, ...]:
    """Writes a picture of which only a strip is known at a time, as `write_image` does.

    The memory that it takes does not grow with the picture's height in PNG, TIFF and JPEG.

    Args:
        path: where to; what is there is replaced.
        strips: rows of the picture, from the top on. The `origin` of the first is that of all; all have alpha, or none.
        size: width and height of the whole.
        options: quality and metadata.

    Returns:
        What of the metadata could not be written, a phrase each.

    Raises:
        InputError: as `write_image`; or the strips are not together of that size.
        MissingDependencyError: as `write_image`.
    """
    place: Path = check_argument("path", path, Path)
    kind, rest = format_of(place), _whole(strips, size)
    first = next(rest)
    is_signed = options.credentials is not None
    refuse_unwritable(place, size, has_alpha=first.alpha is not None, is_signed=is_signed)
    with atomic_write(place) as part:
        return _write(part, place, kind, itertools.chain([first], rest), size, first, options)


def _whole(strips: Iterable[Picture], size: tuple[int, int]) -> Iterator[Picture]:
    """Yields strips that together are of a width and height.

    Raises:
        InputError: they are not.
    """
    width, height, rows = *size, 0
    for strip in strips:
        rows += strip.height
        if strip.width != width or rows > height:
            break
        yield strip
    else:
        if rows == height > 0:
            return
        message, remedy = f"have {rows} rows", f"give all {height}"
        raise InputError(message, code="wrong_size", field="strips", remedy=remedy)
    message, remedy = f"are not of {width} x {height}", "give the size of the whole picture"
    raise InputError(message, code="wrong_size", field="strips", remedy=remedy)


def image_bytes(place: Path, image: ImageLike, options: WriteOptions = WriteOptions()) -> bytes:
    """Returns what `write_image` writes to a file of that name.

    Raises:
        InputError: unknown suffix, or a picture that the format cannot hold.
    """
    kind = format_of(place)
    if _is_ready(image, kind, options):
        return _encoded(place, kind, upright(image, "picture"), options.quality)
    picture = to_picture(image)
    is_signed = options.credentials is not None
    refuse_unwritable(place, (picture.width, picture.height), has_alpha=picture.alpha is not None, is_signed=is_signed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder, "picture")
            write_into(part, place, picture, options)
            return part.read_bytes()
    except OSError as error:
        raise refusal(place, "cannot be written", error) from error


def _is_ready(image: ImageLike, kind: Kind, options: WriteOptions) -> TypeGuard[Image.Image]:
    """Whether Pillow may write an image in its own mode: it knows no JPEG XL, profile or transparency that is lost."""
    if not isinstance(image, Image.Image) or options.credentials is not None:
        return False
    return kind not in ("JXL", "BMP") and not image.info.get("icc_profile")


def write_into(part: Path, place: Path, picture: Picture, options: WriteOptions) -> tuple[str, ...]:
    """Writes a picture into a file that will become `place`; returns what of its metadata could not be written.

    Raises:
        OSError: the disk is full, for example.
        InputError: the format cannot hold the picture.
    """
    size = picture.width, picture.height
    return _write(part, place, format_of(place), _strips(picture), size, picture, options)


def refuse_unwritable(place: Path, size: tuple[int, int], *, has_alpha: bool, is_signed: bool = False) -> None:
    """Refuses a picture that the format of a file's name cannot hold, before anybody makes it.

    Raises:
        InputError: unknown suffix, too many pixels along a side, alpha, or no place to sign in.
    """
    kind = format_of(place)
    if max(size) > _MAX_SIDES.get(kind, 2**31):
        raise _unfit(place, kind, f"a side has more than {_MAX_SIDES[kind]} pixels")
    if has_alpha and kind in ("JPEG", "BMP"):
        raise _unfit(place, kind, "it has transparency")
    if is_signed and kind not in MIME_TYPES:
        raise _unfit(place, kind, "it is to be signed")


def format_of(place: Path) -> Kind:
    """Returns what Pillow calls the format of a file that is to be written, by what its name ends with.

    Raises:
        InputError: there is none of that suffix.
    """
    suffix = place.suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        known = ", ".join(sorted(WRITTEN_SUFFIXES))
        message = f"{place}: suffix {place.suffix!r} cannot be written"
        raise InputError(message, code="unknown_format", remedy=f"use one of {known}")
    return _KINDS[suffix]


def _unfit(place: Path, kind: Kind, reason: str) -> InputError:
    message = f"{place}: {kind} cannot hold this picture ({reason})"
    return InputError(message, code="conflict", remedy="convert it to RGB" if kind == "PNG" else "use .png")


def _strips(picture: Picture) -> Iterator[Picture]:
    rows = max(_ROWS // picture.width, 1)
    for top in range(0, picture.height, rows):
        parts = (picture.pixels, picture.alpha, picture.excess)
        pixels, alpha, excess = (None if part is None else part[:, top : top + rows] for part in parts)
        assert pixels is not None
        yield Picture(pixels=pixels, alpha=alpha, excess=excess, origin=picture.origin)
        for part in (pixels, alpha, excess):
            if part is not None:
                drop_from_memory(part)


def _write(
    part: Path,
    place: Path,
    kind: Kind,
    strips: Iterator[Picture],
    size: tuple[int, int],
    first: Picture,
    options: WriteOptions,
) -> tuple[str, ...]:
    told = _write_unsigned(part, place, kind, strips, size, first, options)
    if options.credentials is not None and options.provenance is not None:
        is_stripped = options.strip_gps or options.strip_metadata  # manifests of cameras tell places, too
        history = None if first.origin is None or is_stripped else first.origin.format
        sign(part, kind, options.credentials, options.provenance, history=history)
    return told


def _write_unsigned(
    part: Path,
    place: Path,
    kind: Kind,
    strips: Iterator[Picture],
    size: tuple[int, int],
    first: Picture,
    options: WriteOptions,
) -> tuple[str, ...]:
    bits = 8 if first.origin is None else first.origin.bits
    depth = min(bits, _MAX_BITS.get(kind, 8))
    dtype = "float32" if depth == 32 else "uint16" if depth > 8 else "uint8"
    metadata = of_result(
        first.origin,
        size,
        strip_gps=options.strip_gps,
        strip=options.strip_metadata,
        provenance=None if kind == "BMP" else options.provenance,  # it has no place for any
        keeps_orientation=kind != "AVIF",  # where Pillow finds one, it writes the whole block anew, and not the same
    )
    rows = _stored(
        ((_colors(strip, kind, keep_cmyk=options.keep_cmyk), strip.alpha) for strip in strips),
        dtype,
        is_dithered=dtype == "uint8" and bits > 8,
    )
    start, keeps_profile = next(rows)
    metadata = metadata if keeps_profile else replace(metadata, icc=None)
    planes: Iterator[NDArray[Any]] = itertools.chain([start], (part for part, _ in rows))
    channels = start.shape[2]
    if kind == "JXL" and channels == 2:  # OpenImageIO's encoder fails on gray with alpha
        planes, channels = (np.ascontiguousarray(part[..., [0, 0, 0, 1]]) for part in planes), 4
    told = metadata.notices
    is_cmyk = channels == 4 and first.alpha is None
    if first.origin is not None and first.origin.model == "cmyk" and not is_cmyk:
        told += ("its CMYK is written as sRGB",)
    depth = 8 if is_cmyk else depth  # of its tables, and all that OpenImageIO gives CMYK
    if depth < bits:
        told += (f"its {'floats' if bits == 32 else f'{bits} bits'} are written as {depth} bits",)
    if kind in ("WEBP", "AVIF", "JXL") and metadata.dpi and not tells_resolution(metadata.exif):
        told += (f"its pixels an inch have no place in {kind}",)
    is_large = kind in ("PNG", "JPEG") and size[0] * size[1] > _WHOLE
    if kind not in ("TIFF", "JXL") and dtype == "uint8" and not is_large:
        whole = np.concatenate(list(planes))
        mode = {"mode": "CMYK"} if is_cmyk else {}
        image = Image.fromarray(whole[..., 0] if channels == 1 else whole, **mode)
        content = _encoded(place, kind, image, options.quality, metadata)
        return told + _insert(kind, io.BytesIO(content), part, metadata)
    bare = part if kind == "TIFF" else part.with_suffix(".bare.part")  # whoever sweeps knows it by its end
    try:
        write_scanlines(
            bare,
            kind,
            planes,
            shape=(size[1], size[0], channels),
            dtype=dtype,
            quality=options.quality or _QUALITY.get(kind, 100),
            has_alpha=first.alpha is not None,
            icc=metadata.icc,
        )
        if kind == "TIFF":
            with part.open("r+b") as file:
                return told + into_tiff(file, metadata)
        with bare.open("rb") as source:
            return told + _insert(kind, source, part, metadata)
    finally:
        if bare != part:
            bare.unlink(missing_ok=True)


def _stored(
    strips: Iterator[tuple[tuple[torch.Tensor, bool], torch.Tensor | None]], dtype: str, *, is_dithered: bool
) -> Iterator[tuple[NDArray[Any], bool]]:
    """Yields strips (rows, W, C) as a file has them, of the planes and alpha of each, in `dtype`."""
    top = 0
    for (colors, keeps_profile), alpha in strips:
        planes = colors if alpha is None else torch.cat([colors, alpha.to(colors)])
        values = planes.clamp(0, 1).permute(1, 2, 0)  # (C, H, W) -> (H, W, C)
        if dtype == "float32":
            yield np.ascontiguousarray(values.numpy()), keeps_profile
        else:
            scale = 255 if dtype == "uint8" else 65535
            steps = values * scale
            if is_dithered:
                steps[..., : len(colors)] += _pattern(top, *values.shape[:2]) - 0.5
            yield steps.round_().clamp_(0, scale).numpy().astype(dtype, order="C"), keeps_profile
        top += len(values)


def _colors(strip: Picture, kind: Kind, *, keep_cmyk: bool) -> tuple[torch.Tensor, bool]:
    """Planes (1, 3 or 4, H, W) of a picture as its file had them, and whether they are in the file's own profile."""
    pixels, excess = strip.pixels.float().cpu(), None if strip.excess is None else strip.excess.float().cpu()
    if strip.origin is None:
        return pixels, True
    icc, model = strip.origin.icc, strip.origin.model
    holds_gray = kind in ("JPEG", "PNG", "TIFF") or (kind == "JXL" and strip.alpha is None)
    planes = None
    # a BMP has no profile, and that of one channel would not fit the three that are written
    if kind != "BMP" and (holds_gray or model != "gray"):
        keeps = keep_cmyk and kind in ("JPEG", "TIFF") and strip.alpha is None
        planes = from_srgb(pixels, excess, icc, model=model, keep_cmyk=keeps)
    if planes is not None:
        return planes, True
    return to_gray(pixels) if model == "gray" else pixels, False


def _pattern(top: int, height: int, width: int) -> torch.Tensor:
    """Thresholds (H, W, 1) in (0, 1) whose sums over small regions are all about the same: a fixed dither.

    Interleaved gradient noise (Jimenez, 2014). All colours get the same, so that gray stays gray; a value that is a
    step stays one; and the same picture is always the same file.
    """
    rows = torch.arange(top, top + height, dtype=torch.float64)[:, None, None]
    columns = torch.arange(width, dtype=torch.float64)[None, :, None]
    return ((52.9829189 * ((0.06711056 * columns + 0.00583715 * rows) % 1)) % 1).float().clamp(0.001, 0.999)


def _encoded(place: Path, kind: Kind, image: Image.Image, quality: int | None, metadata: Metadata = _NOTHING) -> bytes:
    """What Pillow makes of an image."""
    given: dict[str, Any] = {}
    if kind == "JPEG":
        given = {"quality": quality or _QUALITY[kind], "subsampling": 0}
    elif kind == "WEBP":  # exact: what is under transparency stays
        given = {"exact": True, **({"lossless": True} if quality is None else {"quality": quality})}
    elif kind == "AVIF":
        given = {"quality": quality or _QUALITY[kind], "subsampling": "4:4:4"}
    if kind in ("WEBP", "AVIF"):
        given |= {"exif": metadata.exif, "xmp": metadata.xmp, "icc_profile": metadata.icc}
    elif kind == "BMP":
        given |= {"dpi": metadata.dpi}
    if image.mode == "LA" and kind != "PNG":
        image = image.convert("RGBA")
    buffer = io.BytesIO()  # into a file, Pillow writes JPEG without a look at what the system answers
    try:
        image.save(buffer, kind, **{name: value for name, value in given.items() if value is not None})
    except (OSError, ValueError) as error:
        raise _unfit(place, kind, one_line(error)) from error
    return buffer.getvalue()


_INSERTED = {"JPEG": into_jpeg, "PNG": into_png, "JXL": into_jxl}


def _insert(kind: Kind, source: BinaryIO, part: Path, metadata: Metadata) -> tuple[str, ...]:
    """Copies what an encoder has written, with what stands beside the pixels; returns what cannot be there."""
    with part.open("wb") as target:
        if kind in _INSERTED:
            return _INSERTED[kind](source, target, metadata)
        target.write(source.read())
    called = {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC"}
    lost = [name for field, name in called.items() if getattr(metadata, field) and (kind == "BMP" or field == "iptc")]
    if not lost:
        return ()
    names = f"{', '.join(lost[:-1])} and {lost[-1]} have" if len(lost) > 1 else f"{lost[0]} has"
    return (f"its {names} no place in {kind}",)
