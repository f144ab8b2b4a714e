"""What is read from strangers: the limits, and what a file's own headers say of them before anything is decoded."""

import re
import struct
import zlib
from dataclasses import dataclass

from xpsr.config.checks import Checked, option, within
from xpsr.errors import InputError
from xpsr.image.chunks import IHDR, PNG, png_chunks

__all__ = ["MAX_PIXELS", "Limits", "check_content", "check_size", "too_many_bytes", "too_many_pixels"]

MAX_PIXELS = 2**26
"""Largest picture read from a file (8192 x 8192): enlarged 4x it is a gigapixel, 12 GB of float32.

It also keeps out decompression bombs, small files that unpack to more than any memory.
"""


@dataclass(frozen=True, kw_only=True)
class Limits(Checked):
    """What is refused before it is decoded. The defaults are meant for pictures of strangers; see docs/limits.md.

    How long and in how much memory a picture is decoded, `decode_in_process` limits.

    Attributes:
        max_bytes: of the file.
        max_pixels: width times height.
        max_side: pixels of the longer side.
        max_scans: passes over all pixels in a JPEG; some 700 kB of them keep a decoder busy for a minute.
        max_metadata: bytes that a PNG's compressed metadata unpack to.
    """

    max_bytes: int = option(2**29, "Bytes of a file.", within(1, 2**40))
    max_pixels: int = option(MAX_PIXELS, "Width times height.", within(1, 2**40))
    max_side: int = option(2**16 - 1, "Pixels of the longer side.", within(1, 2**30))
    max_scans: int = option(100, "Passes over all pixels in a JPEG.", within(1, 2**20))
    max_metadata: int = option(2**26, "Bytes that a PNG's metadata unpack to.", within(1, 2**32))


_MAX_CHUNKS = 2**17
"""Parts that a file may have: 512 MB of PNG in pieces of 4 kB. Each takes some microseconds, however small it is."""

_MAX_JUNK = 2**16
"""Bytes between a JPEG's segments that belong to none; Pillow looks at each by itself."""

_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_ALONE = {0x01, *range(0xD0, 0xD9)}


def check_size(width: int, height: int, name: str, limits: Limits) -> None:
    """Refuses a picture of more pixels, or with a longer side, than `limits` say.

    Raises:
        InputError: it is too large, or has no pixels.
    """
    if width * height > limits.max_pixels:
        raise too_many_pixels(f"{width} x {height}", name, limits)
    if max(width, height) > limits.max_side:
        message = f"{name}: a side of {max(width, height)} pixels exceeds the limit of {limits.max_side}"
        raise InputError(message, code="too_large", remedy="crop or shrink it", limit=limits.max_side)
    if width < 1 or height < 1:
        message = f"{name}: has no pixels ({width} x {height})"
        raise InputError(message, code="too_small", remedy="use at least 1 x 1")


def too_many_pixels(size: str, name: str, limits: Limits) -> InputError:
    """Returns the error to raise for a picture of more pixels than `limits` say; `size` says how many."""
    known = " (8192 x 8192)" if limits.max_pixels == MAX_PIXELS else ""
    message = f"{name}: {size} pixels exceed the limit of {limits.max_pixels}{known}"
    return InputError(message, code="too_large", remedy="crop or shrink it", limit=limits.max_pixels)


def too_many_bytes(name: str, limits: Limits) -> InputError:
    """Returns the error to raise for a file of more bytes than `limits` say."""
    message = f"{name}: has more than the limit of {limits.max_bytes} bytes"
    return InputError(message, code="too_large", remedy="crop or shrink it", limit=limits.max_bytes)


def check_content(content: bytes, name: str, limits: Limits) -> None:
    """Refuses a file whose size or parts would cost more than `limits` say; what is merely damaged passes.

    Raises:
        InputError: it has too many bytes, parts or scans, or its metadata unpack to too much.
    """
    if len(content) > limits.max_bytes:
        raise too_many_bytes(name, limits)
    if content.startswith(PNG):
        _check_png(content, name, limits)
    elif content.startswith(b"\xff\xd8"):
        _check_jpeg(content, name, limits)


def _check_png(content: bytes, name: str, limits: Limits) -> None:
    unpacked = 0
    for number, (kind, start, end) in enumerate(png_chunks(content)):
        if number > _MAX_CHUNKS:
            raise _too_many_parts(name)
        if kind == b"IHDR" and end - start == IHDR.size:
            width, height, *_ = IHDR.unpack_from(content, start)
            check_size(width, height, name, limits)
        if kind not in (b"zTXt", b"iCCP", b"iTXt"):
            continue
        packed = _packed(kind, content[start:end])
        try:
            unpacked += len(zlib.decompressobj().decompress(packed, limits.max_metadata - unpacked + 1))
        except zlib.error:  # Pillow says so
            continue
        if unpacked > limits.max_metadata:
            message = f"{name}: its metadata unpack to more than the limit of {limits.max_metadata} bytes"
            raise InputError(message, code="too_large", remedy="remove them", limit=limits.max_metadata)


def _packed(kind: bytes, data: bytes) -> bytes:
    """What of a chunk's data is compressed: behind a keyword and its method, and in iTXt a language and its keyword."""
    _, _, rest = data.partition(b"\0")
    if kind != b"iTXt":
        return rest[1:]
    return rest[2:].split(b"\0", 2)[-1] if rest[:1] != b"\0" else b""


def _check_jpeg(content: bytes, name: str, limits: Limits) -> None:
    """Walks the segments up to the end of the picture; others may follow in the file, which are not read."""
    place, junk, scans = 2, 0, 0
    for _ in range(_MAX_CHUNKS):
        found = _NEXT_MARKER.search(content, place)
        if found is None:
            return
        junk += found.end() - place - 2
        marker, place = found[1][0], found.end()
        if junk > _MAX_JUNK:
            raise _too_many_parts(name)
        if marker in _ALONE:
            continue
        if marker == 0xD9 or place + 2 > len(content):
            return
        if marker in _FRAMES and place + 7 <= len(content):
            bits, height, width = struct.unpack_from(">BHH", content, place + 2)
            if bits != 8:
                message = f"{name}: is a JPEG of {bits} bits a value, which is not read"
                raise InputError(message, code="unknown_format", remedy="convert it to PNG or TIFF of 16 bits")
            if height:  # else it stands behind the first scan
                check_size(width, height, name, limits)
        place += int.from_bytes(content[place : place + 2])
        if marker != 0xDA:
            continue
        if scans == 0 and content.count(b"\xff\xda", place) < limits.max_scans:  # fast, and nearly always so
            return
        scans += 1
        if scans > limits.max_scans:
            message = f"{name}: has more than the limit of {limits.max_scans} scans"
            remedy = "save it again as a plain JPEG"
            raise InputError(message, code="too_large", remedy=remedy, limit=limits.max_scans)
        after = _AFTER_SCAN.search(content, place)
        if after is None:
            return
        place = after.start()
    raise _too_many_parts(name)


def _too_many_parts(name: str) -> InputError:
    message = f"{name}: is made of too many small parts"
    return InputError(message, code="too_large", remedy="save it again with another program")
