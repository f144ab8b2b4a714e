"""What stands beside the pixels, put into files that an encoder has written."""

import struct
import zlib
from typing import BinaryIO

from xpsr.image.directories import (
    EXIF_IFD,
    GPS_IFD,
    INTEROP_IFD,
    Directory,
    Layout,
    Tree,
    laid,
    of_bytes,
    swapped,
    values_of,
)
from xpsr.image.origin import Metadata

__all__ = ["into_jpeg", "into_jxl", "into_png", "into_tiff"]

_SEGMENT = 65533
"""Bytes that a segment of a JPEG holds."""

_COPIED = 2**20
"""Bytes that are copied at once."""

_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
"""Chunks of a PNG that say what its pixels are."""

_STRUCTURAL = frozenset(
    {*range(254, 260), 262, 266, 273, 277, 278, 279, 284, 317, *range(322, 326), 332, 333, 334, 338, 339}
)
"""Tags of a TIFF that say how its pixels are stored."""

_MAX_EXIF = 2**24


def into_jpeg(source: BinaryIO, target: BinaryIO, metadata: Metadata) -> tuple[str, ...]:
    """Copies a JPEG with what stands beside its pixels; returns what it cannot hold.

    What the encoder wrote of that kind is left out.
    """
    notices = []
    across, down = (1, 1) if metadata.dpi is None else (min(max(round(value), 1), 65535) for value in metadata.dpi)
    unit = 0 if metadata.dpi is None else 1
    segments = [(0xE0, b"JFIF\0" + struct.pack(">HBHHBB", 0x0102, unit, across, down, 0, 0))]
    for name, head, content in (
        ("EXIF", b"Exif\0\0", metadata.exif),
        ("XMP", b"http://ns.adobe.com/xap/1.0/\0", metadata.xmp),
    ):
        if content is not None and len(head) + len(content) > _SEGMENT:
            notices.append(f"its {name} is too large for a JPEG and left out")
        elif content is not None:
            segments.append((0xE1, head + content))
    if metadata.icc is not None:
        size = _SEGMENT - 14
        parts = [metadata.icc[at : at + size] for at in range(0, len(metadata.icc), size)]
        if len(parts) > 255:
            notices.append("its colour profile is too large for a JPEG and left out")
        else:
            heads = (b"ICC_PROFILE\0" + bytes([number, len(parts)]) for number in range(1, len(parts) + 1))
            segments += [(0xE2, head + part) for head, part in zip(heads, parts, strict=True)]
    if metadata.iptc is not None:
        resources = b"Photoshop 3.0\0" + _resource(metadata.iptc)
        if len(resources) > _SEGMENT:
            notices.append("its IPTC is too large for a JPEG and left out")
        else:
            segments.append((0xED, resources))
    target.write(source.read(2))
    for marker, content in segments:
        target.write(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
    while (head := source.read(4))[1:2] in (b"\xe0", b"\xe1", b"\xe2", b"\xed"):
        source.seek(struct.unpack(">H", head[2:])[0] - 2, 1)
    target.write(head)
    _copy(source, target)
    return tuple(notices)


def _resource(iptc: bytes) -> bytes:
    """IPTC records as an image resource of Photoshop."""
    return b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)


def into_png(source: BinaryIO, target: BinaryIO, metadata: Metadata) -> tuple[str, ...]:
    """Copies a PNG with what stands beside its pixels; returns what it cannot hold, which is nothing.

    IPTC has no chunk of its own and is a text, as ImageMagick and ExifTool write and read it.
    """
    chunks: list[tuple[bytes, bytes]] = []
    if metadata.icc is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi is not None:
        across, down = (round(value / 0.0254) for value in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.exif is not None:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.xmp is not None:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    if metadata.iptc is not None:
        resource = _resource(metadata.iptc)
        text = f"\niptc\n{len(resource):8}\n{resource.hex()}\n"
        chunks.append((b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text.encode())))
    target.write(source.read(8))
    while len(head := source.read(8)) == 8:
        size, name = int.from_bytes(head[:4], "big"), head[4:]
        if name in _PIXELS:
            target.write(head)
            _copy(source, target, size + 4)
        else:
            source.seek(size + 4, 1)
        if name == b"IHDR":
            for kind, content in chunks:
                target.write(struct.pack(">I", len(content)) + kind + content)
                target.write(struct.pack(">I", zlib.crc32(kind + content)))
    return ()


def _copy(source: BinaryIO, target: BinaryIO, size: int | None = None) -> None:
    """Copies what follows, or as many bytes of it."""
    while size is None or size > 0:
        content = source.read(_COPIED if size is None else min(size, _COPIED))
        if not content:
            return
        target.write(content)
        size = None if size is None else size - len(content)


def into_jxl(source: BinaryIO, target: BinaryIO, metadata: Metadata) -> tuple[str, ...]:
    """Copies a JPEG XL with EXIF and XMP; returns what it cannot hold. Its profile is part of the encoder's stream."""
    boxes = []
    if metadata.exif is not None:
        boxes.append((b"Exif", bytes(4) + metadata.exif))  # which begins so many bytes behind its length
    if metadata.xmp is not None:
        boxes.append((b"xml ", metadata.xmp))
    while len(head := source.read(8)) == 8:
        size, name = int.from_bytes(head[:4], "big"), head[4:]
        if name in (b"Exif", b"xml ", b"brob"):  # brob: either of them, compressed; the encoder writes an EXIF
            source.seek(size - 8, 1)
            continue
        target.write(head)
        _copy(source, target, size - 8 if size > 1 else None)  # 0: to the end of the file; 1: longer than 4 GB
        if name == b"ftyp":
            for kind, content in boxes:
                target.write(struct.pack(">I", len(content) + 8) + kind + content)
    return () if metadata.iptc is None else ("its IPTC has no place in JPEG XL",)


def into_tiff(file: BinaryIO, metadata: Metadata) -> tuple[str, ...]:
    """Gives a TIFF that is open for reading and writing its tags; returns what it cannot hold.

    The directory is written anew behind the pixels, so what the encoder said beside them, such as the hour, is gone.
    Values of EXIF are what they were, but stand elsewhere: offsets in maker notes do not survive.
    """

    def read(at: int, size: int) -> bytes:
        file.seek(at)
        return file.read(size)

    layout = Layout.of(read)
    assert layout is not None, "the encoder has written a TIFF"
    first = layout.directory(read, layout.first)
    assert first is not None, "with a directory"
    tree = _tree_of(metadata.exif, layout.order)
    values = {tag: value for tag, value in tree.values.items() if tag not in _STRUCTURAL}
    for entry in first.entries:
        if entry.tag in _STRUCTURAL:
            values[entry.tag] = entry.kind, read(entry.value_at, entry.size)
        elif entry.value_at != entry.at + layout.entry_size - struct.calcsize(layout.offset):
            file.seek(entry.value_at)
            file.write(bytes(entry.size))
    file.seek(first.at)
    file.write(bytes(first.next_at - first.at))
    values[274] = 3, struct.pack(layout.order + "H", 1)
    for tag in (282, 283, 296):
        values.pop(tag, None)
    if metadata.dpi is not None:
        for tag, value in zip((282, 283), metadata.dpi, strict=True):
            values[tag] = 5, struct.pack(layout.order + "II", round(value * 1000), 1000)
        values[296] = 3, struct.pack(layout.order + "H", 2)
    for tag, kind, content in ((700, 1, metadata.xmp), (33723, 7, metadata.iptc), (34675, 7, metadata.icc)):
        if content is not None:
            values[tag] = kind, content
    base = file.seek(0, 2)
    file.write(bytes(base % 2))
    content, at = laid(Tree(values=values, below=tree.below), layout, base + base % 2)
    file.write(content)
    file.seek(8 if layout.is_big else 4)
    file.write(struct.pack(layout.offset, at))
    return ()


def _tree_of(exif: bytes | None, order: str) -> Tree:
    """What EXIF says as directories, with numbers in an order of bytes."""
    read = of_bytes(exif or b"")
    layout = Layout.of(read)
    first = None if layout is None else layout.directory(read, layout.first)
    if layout is None or first is None:
        return Tree(values={}, below={})
    exif_ifd = layout.below(read, first, EXIF_IFD)
    interop = None if exif_ifd is None else layout.below(read, exif_ifd, INTEROP_IFD)
    gps = layout.below(read, first, GPS_IFD)

    def tree(directory: Directory | None, *below: tuple[int, Tree]) -> Tree:
        values = values_of(read, directory, lambda tag: True, limit=_MAX_EXIF)
        turned = {tag: (kind, swapped(value, kind, layout.order, order)) for tag, (kind, value) in values.items()}
        return Tree(values=turned, below={tag: child for tag, child in below if child.values or child.below})

    return tree(first, (EXIF_IFD, tree(exif_ifd, (INTEROP_IFD, tree(interop)))), (GPS_IFD, tree(gps)))
