"""Pixels of more than 8 bits, which Pillow would cut: most by OpenImageIO, AVIF by OpenCV, HEIC by its plugin.

TIFF has so many kinds that it is in a module of its own.
"""

import io
import re
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xpsr.image.chunks import IHDR, PNG, png_chunk, png_chunks
from xpsr.image.oiio import TRUNCATED, read
from xpsr.image.picture import Stored, damaged

__all__ = [
    "avif_bits",
    "plain_bits",
    "png_bits",
    "png_metadata",
    "read_avif",
    "read_heic",
    "read_jxl",
    "read_plain",
    "read_png",
]


def png_bits(content: bytes) -> int:
    """Returns how many bits a value of a PNG has; 8 for what is cut off."""
    return content[24] if content[12:16] == b"IHDR" and len(content) > 24 else 8


_OF_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"hIST", b"sBIT", b"acTL", b"fcTL", b"fdAT"}


def png_metadata(content: bytes) -> bytes:
    """Returns a PNG of one pixel with all of another's metadata, so that these are read without its pixels."""
    kept = [content[start - 8 : end + 4] for kind, start, end in png_chunks(content) if kind not in _OF_PIXELS]
    header = png_chunk(b"IHDR", IHDR.pack(1, 1, 8, 0, 0, 0, 0))
    return PNG + header + b"".join(kept) + png_chunk(b"IDAT", zlib.compress(bytes(2))) + png_chunk(b"IEND", b"")


def read_png(content: bytes, name: str, *, accept_truncated: bool) -> tuple[Stored, tuple[str, ...]]:
    """Returns the pixels of a PNG of 16 bits, and notices.

    Raises:
        InputError: it is truncated, which may be accepted, or damaged.
    """
    notices: tuple[str, ...] = ()
    if not any(kind == b"IEND" for kind, _, _ in png_chunks(content)):
        if not accept_truncated:
            raise damaged(name, EOFError("it ends before its last chunk"))
        content, notices = _completed(content), (TRUNCATED,)
    values, _, _ = read(content, ".png", name)
    return _stored(values), notices


def _completed(content: bytes) -> bytes:
    """Returns a truncated PNG with zeros for the pixels that are missing."""
    ihdr = next((start for kind, start, _ in png_chunks(content) if kind == b"IHDR"), len(PNG) + 8)
    width, height, bits, color, *_ = IHDR.unpack_from(content, ihdr)
    row = 1 + width * {0: 1, 2: 3, 4: 2, 6: 4}.get(color, 1) * bits // 8
    before: list[bytes] = []
    packed: list[bytes] = []
    place = len(PNG)
    for kind, start, end in png_chunks(content):
        (packed if kind == b"IDAT" else before).append(content[start - 8 : end + 4])
        place = end + 4
    data = b"".join(part[8:-4] for part in packed)
    if content[place + 4 : place + 8] == b"IDAT":
        data += content[place + 8 :]
    pixels, size = b"", row * height + 16 * height  # interlaced, each row may be in seven parts
    with suppress(zlib.error):
        pixels = zlib.decompressobj().decompress(data, size)
    whole = zlib.compress(pixels.ljust(size, b"\0"), 1)
    return PNG + b"".join(before) + png_chunk(b"IDAT", whole) + png_chunk(b"IEND", b"")


def read_jxl(content: bytes, name: str) -> tuple[Stored, bytes | None]:
    """Returns the pixels of a JPEG XL as it is to be seen, and a profile where its colours are not sRGB.

    Raises:
        InputError: it is truncated or damaged.
    """
    values, icc, _ = read(content, ".jxl", name)
    return _stored(values), icc


# Nothing is given back (++), or to remember the ways that a long row of spaces can be divided in took gigabytes
_PNM = re.compile(rb"P[2356](?:\s++|#[^\n]*+\n)++\d++(?:\s++|#[^\n]*+\n)++\d++(?:\s++|#[^\n]*+\n)++(\d++)\s")


def plain_bits(content: bytes) -> int:
    """Returns how many bits a value of a JPEG 2000 or PNM has; 8 where that cannot be told."""
    if (header := _PNM.match(content)) is not None:
        return int(header[1]).bit_length()
    start = content.find(b"\xff\x4f\xff\x51")  # where a codestream of JPEG 2000 begins, and says its size
    return 8 if start < 0 or start + 42 >= len(content) else (content[start + 42] & 0x7F) + 1


def read_plain(content: bytes, suffix: str, name: str) -> Stored:
    """Returns the pixels of a JPEG 2000 (".jp2") or PNM (".ppm") of more than 8 bits.

    Raises:
        InputError: it is truncated or damaged.
    """
    if (header := _PNM.match(content)) is not None:  # of which OpenImageIO knows no long ones
        words = re.sub(rb"#[^\n]*\n", b" ", header[0]).split()
        content = b" ".join(words) + b"\n" + content[header.end() :]
    return _stored(read(content, suffix, name)[0])


def _stored(values: NDArray[Any]) -> Stored:
    """Values of OpenImageIO; what is beyond alpha is no colour."""
    full = float(np.iinfo(values.dtype).max) if values.dtype.kind == "u" else 1.0
    return Stored(values=values[..., :4], full=full, model="gray" if values.shape[2] < 3 else "rgb")


def read_avif(content: bytes, name: str) -> Stored:
    """Returns the pixels of an AVIF of 10 or 12 bits, not turned.

    Raises:
        InputError: it is truncated or damaged.
    """
    import cv2

    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise damaged(name, error) from error
    if values is None:
        raise damaged(name, ValueError("its pixels cannot be decoded"))
    values = values if values.ndim == 3 else values[..., None]
    order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] >= 3 else list(range(values.shape[2]))
    full = 255.0 if values.dtype == np.uint8 else float(2 ** avif_bits(content) - 1)
    return Stored(values=values[..., order], full=full, model="gray" if values.shape[2] < 3 else "rgb")


def avif_bits(content: bytes) -> int:
    """Returns how many bits the values of an AVIF have, the most of all its parts."""
    flags, place = 0, content.find(b"av1C")
    while 0 <= place < len(content) - 6:
        flags |= content[place + 6]
        place = content.find(b"av1C", place + 4)
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


def read_heic(content: bytes, name: str) -> tuple[Stored, int]:
    """Returns the pixels of a HEIC of more than 8 bits as it is to be seen, and how many bits there are.

    Raises:
        InputError: it is truncated or damaged.
    """
    import pillow_heif

    try:
        found = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        values, bits = np.asarray(found), int(found.info["bit_depth"])
    except Exception as error:  # it raises whatever the damaged bytes lead to
        raise damaged(name, error) from error
    values = values if values.ndim == 3 else values[..., None]
    full = 255.0 if values.dtype == np.uint8 else float(2**bits - 1)
    return Stored(values=values, full=full, model="gray" if values.shape[2] < 3 else "rgb"), bits
