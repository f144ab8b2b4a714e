"""The parts of files, found without decoding any: a PNG's chunks, boxes, a TIFF's pages, a GIF's."""

import struct
import zlib
from collections.abc import Iterator

__all__ = ["IHDR", "PNG", "boxes", "gif_frames", "png_chunk", "png_chunks", "tiff_pages"]

PNG = b"\x89PNG\r\n\x1a\n"

IHDR = struct.Struct(">IIBBBBB")
"""Width, height, bits, colour type, compression, filter, interlace."""


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and end of the data of each chunk of a PNG, up to IEND or to the first that is not whole."""
    place = len(PNG)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        start, place = place + 8, place + 12 + length
        if place > len(content):
            return
        yield kind, start, start + length
        if kind == b"IEND":
            return


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a chunk as it stands in a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def boxes(content: bytes, start: int = 0, *, most: int = 10_000) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and end of the data of each box of a JPEG XL or another ISO file; the last may be cut off."""
    for _ in range(most):
        if start + 8 > len(content):
            return
        length, kind = struct.unpack_from(">I4s", content, start)
        first = start + 8
        if length == 1 and start + 16 <= len(content):
            length, first = int.from_bytes(content[start + 8 : start + 16]), start + 16
        end = len(content) if length == 0 else start + length
        if end < first:
            return
        yield kind, first, min(end, len(content))
        start = end


def tiff_pages(content: bytes, *, most: int = 1000) -> int:
    """Returns how many directories a TIFF has, at most `most`; what leads in a circle ends."""
    order = "<" if content[:1] == b"I" else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")
    head, entry, link = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    places: set[int] = set()
    try:
        (place,) = struct.unpack_from(order + link, content, 8 if is_big else 4)
        while place and place not in places and len(places) < most:
            (count,) = struct.unpack_from(order + head, content, place)
            places.add(place)
            (place,) = struct.unpack_from(order + link, content, place + struct.calcsize(head) + count * entry)
    except (struct.error, OverflowError):  # cut off, or beyond what can be counted
        pass
    return len(places)


_MAX_BLOCKS = 2**22
"""Of a GIF, which are looked at one by one: a whole gigabyte, where an encoder fills them."""


def gif_frames(content: bytes, *, most: int = 1000) -> int:
    """Returns how many frames a GIF has, at most `most`; those behind four million blocks are not counted."""
    frames, blocks, place = 0, 0, 13
    if len(content) < place:
        return 0
    if content[10] & 0x80:
        place += 3 << (content[10] & 7) + 1
    while place < len(content) and frames < most and blocks < _MAX_BLOCKS:
        kind = content[place]
        if kind == 0x2C and place + 10 <= len(content):
            frames += 1
            flags = content[place + 9]
            place += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif kind == 0x21:
            place += 2
        else:
            return frames
        while place < len(content) and content[place] and blocks < _MAX_BLOCKS:
            place += 1 + content[place]
            blocks += 1
        place += 1
    return frames
