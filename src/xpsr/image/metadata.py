"""What stands beside the pixels of a file: found in whatever Pillow opens, byte for byte."""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from xpsr.image import exif as exif_block
from xpsr.image import xmp as xmp_packet
from xpsr.image.chunks import boxes
from xpsr.image.directories import EXIF_IFD, GPS_IFD, INTEROP_IFD, Layout, Read, Tree, laid, of_bytes, values_of
from xpsr.image.origin import Metadata, Origin
from xpsr.image.xmp import Provenance

__all__ = ["found", "of_result", "tells_resolution"]

_MAX_BYTES = 2**24
"""Of each kind; a JPEG's segment holds 64 KB, and a profile of a printing press has 3 MB."""

_DESCRIPTIVE = frozenset(
    {
        *(269, 270, 271, 272, 274, 282, 283, 285, 296, 305, 306, 315, 316, 18246, 18249, 33432, 33434, 33437),
        *(34850, 34852, 34855, *range(36864, 37724), *range(37725, 42241), 50341),
    }
)
"""Tags of a TIFF's first directory that are EXIF: the others say how its pixels are stored."""

_XMP, _IPTC, _PHOTOSHOP, _ICC = 700, 33723, 34377, 34675

_UUIDS = {
    b"JpgTiffExif->JP2",
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"),
    bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"),
}
"""Of the boxes of a JPEG 2000 with EXIF, XMP and IPTC."""


def found(image: Image.Image, content: bytes | None = None) -> Metadata:
    """Returns what stands beside the pixels of a file that Pillow has opened.

    Bytes are those of the file. In a TIFF, whose EXIF is spread over the file, they are laid one behind the other, each
    value as it was. Nothing is read of what they say but the resolution, so damaged ones do no harm.

    Args:
        image: as Pillow gives it.
        content: the file's bytes, without which EXIF of an AVIF may be Pillow's own; None: a TIFF must not have been
            loaded yet, because Pillow closes its file then.
    """
    info, notices = image.info, []
    file: BinaryIO | None = io.BytesIO(content) if content is not None else getattr(image, "fp", None)
    if image.format == "TIFF":
        assert file is not None, "a TIFF is asked before its pixels are read"
        parts = _of_tiff(file)
    else:
        parts = {"icc": info.get("icc_profile"), "exif": info.get("exif"), "xmp": info.get("xmp")}
        segments = getattr(image, "applist", [])  # of a JPEG
        resources = [part[14:] for name, part in segments if name == "APP13" and part.startswith(b"Photoshop 3.0\0")]
        parts["iptc"] = _of_photoshop(b"".join(resources))
        if any(part.startswith(b"http://ns.adobe.com/xmp/extension/\0") for name, part in segments if name == "APP1"):
            notices.append("the extension of its XMP is left out")
    if image.format == "PNG":
        is_all = parts["exif"] is not None and parts["xmp"] is not None
        late = {} if is_all or file is None else dict(_behind_the_pixels(file))
        for name in ("exif", "xmp", "iptc"):  # the last is how ImageMagick and its kin write it
            parts[name] = parts[name] or late.get(name) or _raw_profile(info.get(f"Raw profile type {name}"))
        if parts["iptc"]:
            parts["iptc"] = _of_photoshop(parts["iptc"]) or parts["iptc"]
    if image.format == "JPEG2000" and content is not None:
        parts["icc"], is_more = _of_jpeg_2000(content)
        notices += ["its EXIF, XMP or IPTC is not read"] if is_more else []
    if image.format == "AVIF" and content is not None and (parts["exif"] or b"") not in content:
        parts["exif"] = _exif_of_avif(content, parts["exif"])
    if "icc_profile" in info and not info["icc_profile"] and not parts["icc"]:
        notices.append("its colour profile is incomplete and left out")
    called = {"icc": "colour profile", "exif": "EXIF", "xmp": "XMP", "iptc": "IPTC"}
    kept: dict[str, bytes | None] = {}
    for name, value in parts.items():
        kept[name] = bytes(value) if isinstance(value, bytes | bytearray) and value else None
        if len(kept[name] or b"") > _MAX_BYTES:
            notices.append(f"its {called[name]} is larger than {_MAX_BYTES // 2**20} MB and left out")
            kept[name] = None
    exif = (kept.pop("exif") or b"").removeprefix(b"Exif\0\0") or None
    return Metadata(**kept, exif=exif, dpi=_dpi(image, exif), notices=tuple(notices))


def of_result(
    origin: Origin | None,
    size: tuple[int, int],
    *,
    strip_gps: bool = False,
    strip: bool = False,
    provenance: Provenance | None = None,
    keeps_orientation: bool = True,
) -> Metadata:
    """Returns what stands beside the pixels of a result.

    Args:
        origin: what stood beside those of the picture; None: nothing.
        size: width and height of the result.
        strip_gps: the place where the picture was taken is overwritten.
        strip: EXIF, XMP and IPTC of the picture are left out; profile and resolution, which say how it looks, stay.
        provenance: how the result came about; None: it is not told.
        keeps_orientation: EXIF says that the result is upright; else it says nothing, for formats with a field of
            their own for it.
    """
    old = Metadata() if origin is None else Metadata(icc=origin.icc, dpi=origin.dpi)
    if origin is not None and not strip:
        old = replace(old, exif=origin.exif, xmp=origin.xmp, iptc=origin.iptc)
    software = None if provenance is None else provenance.software
    exif, told = exif_block.patched(
        old.exif, size, strip_gps=strip_gps, software=software, keeps_orientation=keeps_orientation
    )
    xmp, also_told = xmp_packet.patched(old.xmp, size, strip_gps=strip_gps, provenance=provenance)
    return replace(old, exif=exif, xmp=xmp, notices=(*told, *also_told))


def _of_tiff(file: BinaryIO) -> dict[str, Any]:
    parts: dict[str, Any] = dict.fromkeys(("icc", "exif", "xmp", "iptc"))
    before = file.tell()

    def read(at: int, size: int) -> bytes:
        if at >= 2**63:
            return b""
        file.seek(at)
        return file.read(size)

    try:
        layout = Layout.of(read)
        first = None if layout is None else layout.directory(read, layout.first)
        if layout is None or first is None:
            return parts
        beside = values_of(read, first, {_XMP, _IPTC, _PHOTOSHOP, _ICC}.__contains__, limit=4 * _MAX_BYTES)
        whole = {tag: value for tag, (_, value) in beside.items()}
        parts.update(icc=whole.get(_ICC), xmp=whole.get(_XMP), iptc=whole.get(_IPTC))
        if _IPTC in beside and beside[_IPTC][0] == 4:  # bytes that are called 32-bit numbers, filled up to whole ones
            parts["iptc"] = whole[_IPTC].rstrip(b"\0")
        parts["iptc"] = parts["iptc"] or _of_photoshop(whole.get(_PHOTOSHOP, b""))
        parts["exif"] = _gathered(read, layout)
    finally:
        file.seek(before)
    return parts


def _gathered(read: Read, layout: Layout) -> bytes | None:
    """The EXIF of a TIFF as one block."""
    first = layout.directory(read, layout.first)
    if first is None:
        return None
    exif, gps = layout.below(read, first, EXIF_IFD), layout.below(read, first, GPS_IFD)
    interop = None if exif is None else layout.below(read, exif, INTEROP_IFD)
    limit = _MAX_BYTES // 4

    def tree(directory: Any, below: dict[int, Tree]) -> Tree:
        return Tree(values=values_of(read, directory, lambda tag: True, limit=limit), below=_filled(below))

    root = Tree(
        values=values_of(read, first, _DESCRIPTIVE.__contains__, limit=limit),
        below=_filled({EXIF_IFD: tree(exif, {INTEROP_IFD: tree(interop, {})}), GPS_IFD: tree(gps, {})}),
    )
    if not root.below and set(root.values) <= {282, 283, 296}:  # nothing but the resolution
        return None
    small = Layout(order=layout.order, is_big=False, first=8)
    content, at = laid(root, small, 8)
    magic = b"II*\0" if layout.order == "<" else b"MM\0*"
    return magic + struct.pack(small.offset, at) + content


def _filled(below: dict[int, Tree]) -> dict[int, Tree]:
    return {tag: tree for tag, tree in below.items() if tree.values or tree.below}


def _behind_the_pixels(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """EXIF and XMP that stand behind the pixels of a PNG, where Pillow sees them only when those are read."""
    before = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            size = int.from_bytes(head[:4], "big")
            if head[4:] in (b"eXIf", b"iTXt") and size <= _MAX_BYTES:
                content = file.read(size)
                if head[4:] == b"eXIf":
                    yield "exif", content
                elif content.startswith(b"XML:com.adobe.xmp\0\0\0"):
                    yield "xmp", content[20:].split(b"\0", 2)[-1]
                file.seek(4, 1)
            else:
                file.seek(size + 4, 1)
    finally:
        file.seek(before)


def _of_jpeg_2000(content: bytes) -> tuple[bytes | None, bool]:
    """The profile of a JPEG 2000, and whether it has metadata."""
    icc, is_more = None, False
    for kind, start, end in boxes(content):
        is_more = is_more or (kind == b"uuid" and content[start : start + 16] in _UUIDS)
        for inner, first, last in boxes(content[start:end]) if kind == b"jp2h" else ():
            if inner == b"colr" and content[start + first : start + first + 1] in (b"\2", b"\3"):  # 1: a number
                icc = icc or content[start + first + 3 : start + last]
    return icc, is_more


def _exif_of_avif(content: bytes, made: bytes) -> bytes | None:
    """The EXIF of an AVIF, instead of what Pillow has made where its orientation is not that of the picture."""
    import cv2

    with suppress(cv2.error):
        _, kinds, parts = cv2.imdecodeWithMetadata(np.frombuffer(content, np.uint8), flags=cv2.IMREAD_UNCHANGED)
        held = dict(zip(kinds, parts, strict=True)).get(cv2.IMAGE_METADATA_EXIF)
        return None if held is None else held.tobytes()
    return made


def _raw_profile(text: object) -> bytes | None:
    """What a PNG's text "Raw profile type ..." holds: a name, a length and hexadecimal digits, a line each."""
    if not isinstance(text, str | bytes) or len(text) > 3 * _MAX_BYTES:
        return None
    lines = (text if isinstance(text, str) else text.decode("latin-1")).strip("\n").split("\n", 2)
    try:
        return bytes.fromhex(lines[2])
    except (IndexError, ValueError):
        return None


def _of_photoshop(content: bytes) -> bytes | None:
    """The IPTC records among Photoshop's image resources."""
    at = content.find(b"8BIM")
    while at >= 0 and content[at : at + 4] == b"8BIM" and at + 12 <= len(content):
        number, length = int.from_bytes(content[at + 4 : at + 6], "big"), content[at + 6]
        at += 6 + (length + 2) // 2 * 2  # a name with its length is padded to even
        size = int.from_bytes(content[at : at + 4], "big")
        if number == 0x0404:
            return content[at + 4 : at + 4 + size]
        at += 4 + (size + 1) // 2 * 2
    return None


def _dpi(image: Image.Image, exif: bytes | None) -> tuple[float, float] | None:
    """Pixels an inch as the file says; where it does not, as EXIF says."""
    dpi = image.info.get("dpi")
    if image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2):
        dpi = None  # Pillow takes it from EXIF then, or for 72 where that says nothing
    if dpi is None and exif is not None:
        dpi = _dpi_of_exif(of_bytes(exif))
    try:
        across, down = (float(value) for value in dpi)  # type: ignore[union-attr]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (across, down) if all(math.isfinite(value) and 1 <= value <= 1e6 for value in (across, down)) else None


def tells_resolution(exif: bytes | None) -> bool:
    """Returns whether EXIF says how many pixels an inch has."""
    return exif is not None and _dpi_of_exif(of_bytes(exif)) is not None


def _dpi_of_exif(read: Read) -> tuple[float, float] | None:
    layout = Layout.of(read)
    first = None if layout is None else layout.directory(read, layout.first)
    if layout is None or first is None:
        return None
    values = []
    for tag in (282, 283):
        entry = first.find(tag)
        if entry is None or entry.kind != 5 or entry.count != 1:
            return None
        above, below = struct.unpack(layout.order + "II", read(entry.value_at, 8))
        values.append(above / below if below else math.nan)
    unit = {None: 1.0, 2: 1.0, 3: 2.54}.get(layout.number(read, first.find(296)), math.nan)
    return values[0] * unit, values[1] * unit
