"""A file's bytes become values as they are stored, upright, and the `Origin` of the picture."""

import io
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from xpsr.errors import InputError
from xpsr.image.chunks import gif_frames, png_chunks, tiff_pages
from xpsr.image.deep import (
    avif_bits,
    plain_bits,
    png_bits,
    png_metadata,
    read_avif,
    read_heic,
    read_jxl,
    read_plain,
    read_png,
)
from xpsr.image.jxl import is_jxl, read_header
from xpsr.image.limits import Limits, check_content, check_size
from xpsr.image.metadata import found as found_in
from xpsr.image.oiio import TRUNCATED
from xpsr.image.opening import open_image
from xpsr.image.origin import Origin
from xpsr.image.picture import Stored, damaged, stored, turned, turned_values
from xpsr.image.tiff import is_tiff, read_tiff, tiff_header, tiff_stand_in, unread_compression
from xpsr.orientation import orientation_of, upright_size

__all__ = ["decode", "size_of"]

_MOST_FRAMES = 1000
"""That are counted; a file may be made of millions."""

_PRIMARIES = (1, 2, 5, 6)
_TRANSFERS = (1, 2, 6, 13)
"""Of CICP, those of sRGB and television, which everybody takes for it, and what is not said."""


def decode(content: bytes, name: str, *, limits: Limits, accept_truncated: bool) -> tuple[Stored, Origin]:
    """Returns what a file stores, and where it comes from; `read_image` says more.

    Raises:
        InputError: as `read_image`.
    """
    check_content(content, name, limits)
    if is_jxl(content):
        return _decode_jxl(content, name, limits)
    if is_tiff(content):
        return _decode_tiff(content, name, limits, accept_truncated)
    image = open_image(io.BytesIO(content), name, limits)
    if image.format == "PNG" and png_bits(content) > 8:
        found, notices = read_png(content, name, accept_truncated=accept_truncated)
        whole, image = image, open_image(io.BytesIO(png_metadata(content)), name, limits)
        return _upright(found, image), _origin(_Held(image, content, whole), found, 16, notices)
    held = _Held(image, content)
    if image.format == "AVIF" and (bits := avif_bits(content)) > 8:
        found = read_avif(content, name)
        return _upright(found, image), _origin(held, found, bits)
    if image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        found, bits = read_heic(content, name)
        return found, _origin(held, found, _told(bits))
    if image.format in ("JPEG2000", "PPM") and (bits := plain_bits(content)) > 8:
        found = read_plain(content, ".jp2" if image.format == "JPEG2000" else ".ppm", name)
        return found, _origin(held, found, _told(bits))
    return _decode_plain(image, held, content, name, accept_truncated)


def size_of(file: BinaryIO, name: str, limits: Limits) -> tuple[int, int]:
    """Returns width and height as `read_image` would turn the picture.

    Raises:
        InputError: as `read_image`, for what shows in the header.
    """
    start = file.read(16)
    file.seek(0)
    if is_jxl(start):
        header = read_header(file.read(), name)
        check_size(header.width, header.height, name, limits)
        return header.width, header.height
    try:
        return upright_size(open_image(file, name, limits))
    except InputError as error:
        if error.code != "unknown_format" or not is_tiff(start):
            raise
    file.seek(0)
    tiff = tiff_header(file.read(), name, limits)
    return tiff.width, tiff.height


def _decode_plain(
    image: Image.Image, held: "_Held", content: bytes, name: str, accept_truncated: bool
) -> tuple[Stored, Origin]:
    """A file of 8 bits or less, by Pillow."""
    notices: tuple[str, ...] = ()
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes lead to
        if not accept_truncated:
            raise damaged(name, error) from error
        image, notices = _as_far_as_it_goes(image, content, name, error), (TRUNCATED,)
    found = stored(image if image.format == "HEIF" else turned(image), name)
    bits = 1 if image.mode == "1" else 16 if found.full == 65535 else 8
    return found, _origin(held, found, bits, notices)


def _as_far_as_it_goes(image: Image.Image, content: bytes, name: str, error: Exception) -> Image.Image:
    """Returns the image with what could be decoded of it."""
    if image.format in ("JPEG", "MPO"):  # told that it ends, the decoder shows what it has, of all scans
        tables = content.rfind(b"\xff\xc4")  # may be cut off, too
        for end in (len(content), tables):
            with suppress(Exception):  # as above
                image = Image.open(io.BytesIO(content[:end] + b"\xff\xd9"), formats=("JPEG",))
                image.load()
                return image
    elif isinstance(image, ImageFile.ImageFile) and image.format != "JPEG2000":  # which is decoded at once, or not
        with suppress(Exception):
            image.tile = []  # nothing is left to be decoded
            image.load()
            return image
    raise damaged(name, error) from error


def _decode_tiff(content: bytes, name: str, limits: Limits, accept_truncated: bool) -> tuple[Stored, Origin]:
    header = tiff_header(content, name, limits)
    image: Image.Image | None
    try:
        image, is_known = open_image(io.BytesIO(content), name, limits), True
    except InputError as error:
        if error.code != "unknown_format":
            raise
        image, is_known = tiff_stand_in(content), False
    if image is None:
        raise damaged(name, ValueError("its first directory cannot be read"))
    held = _Held(image, content)
    if is_known and header.bits <= 8 and header.kind == 1:
        try:
            return _decode_plain(image, held, content, name, accept_truncated)
        except InputError as error:
            raise unread_compression(header, name) or error from error
    found, notices = read_tiff(content, header, name, accept_truncated=accept_truncated)
    bits = 32 if header.kind == 3 else _told(header.bits)
    return _upright(found, image), _origin(held, found, bits, notices)


def _decode_jxl(content: bytes, name: str, limits: Limits) -> tuple[Stored, Origin]:
    header = read_header(content, name)
    check_size(header.width, header.height, name, limits)
    found, icc = read_jxl(content, name)
    beside = {"exif": header.exif, "xmp": header.xmp, "icc_profile": icc}
    image = Image.new("L", (1, 1))  # in which its metadata are found as in the other formats
    image.info = {kind: data for kind, data in beside.items() if data}
    notices = header.notices
    if header.is_animated:
        notices += ("it is animated; all but its first frame is left out",)
    bits = 32 if header.bits == 32 else _told(header.bits)
    return found, replace(_origin(_Held(image, content), found, bits, notices), format="JXL")


def _told(bits: int) -> int:
    """Bits of a whole number as `Origin` tells them."""
    return bits if bits in (1, 8, 10, 12) else 8 if bits < 8 else 16


def _upright(found: Stored, image: Image.Image) -> Stored:
    return replace(found, values=turned_values(found.values, orientation_of(image)))


class _Held:
    """What a file holds beside the pixels of its first picture, found before these are decoded.

    Args:
        image: opened by Pillow, with all of the metadata.
        content: the file's bytes.
        whole: the file as it is, where `image` stands for it.
    """

    def __init__(self, image: Image.Image, content: bytes, whole: Image.Image | None = None):
        kind = (whole or image).format or ""
        self.format = "JPEG" if kind == "MPO" else kind
        beside = vars(found_in(image, content if kind in ("AVIF", "JPEG2000") else None))
        self.notices = _left_out(whole or image, kind, content) + beside["notices"]
        self.beside: dict[str, Any] = {name: data for name, data in beside.items() if name != "notices"}
        if self.beside["icc"] is None:
            self.notices += _other_colors(kind, content)


def _origin(held: _Held, found: Stored, bits: int, notices: tuple[str, ...] = ()) -> Origin:
    notices = (*notices, *held.notices)
    return Origin(format=held.format, model=found.model, bits=bits, notices=notices, **held.beside)


def _left_out(image: Image.Image, kind: str, content: bytes) -> tuple[str, ...]:
    """What of a file with several pictures is not read."""
    if kind == "TIFF":
        count = tiff_pages(content, most=_MOST_FRAMES)
    elif kind == "GIF":
        count = gif_frames(content, most=_MOST_FRAMES)
    else:
        count = getattr(image, "n_frames", 1)
    if count < 2:
        return ()
    noun = {"TIFF": "page", "MPO": "picture", "HEIF": "picture"}.get(kind, "frame")
    more = f"1 more {noun} is" if count == 2 else f"{count - 1} more {noun}s are"
    return (f"{'at least ' if count >= _MOST_FRAMES else ''}{more} left out",)


def _other_colors(kind: str, content: bytes) -> tuple[str, ...]:
    """Whether a file without a profile says by numbers (CICP) that its colours are not sRGB, as those of HDR do."""
    if kind == "PNG":
        place = next((start for chunk, start, _ in png_chunks(content) if chunk == b"cICP"), 0)
        primaries, transfer = content[place : place + 2].ljust(2, b"\0")
    else:
        place = content.find(b"colrnclx") + 8
        primaries, transfer = (int.from_bytes(content[start : start + 2]) for start in (place, place + 2))
    is_said = kind in ("PNG", "AVIF", "HEIF") and place > 7
    if not is_said or (primaries in _PRIMARIES and transfer in _TRANSFERS):
        return ()
    return (f"its colours (CICP {primaries}, {transfer}) are taken for sRGB",)
