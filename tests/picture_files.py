"""Files of pictures as cameras, scanners and their owners' programs make them, written byte by byte where needed."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[Any]

UPRIGHT: dict[int, Callable[[Values], Values]] = {  # as the EXIF standard draws them
    1: lambda values: values,
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: values[::-1].swapaxes(0, 1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: lambda values: values[:, ::-1].swapaxes(0, 1),
}


def noise(height: int, width: int, channels: int, dtype: str = "uint16") -> Values:
    """Random values over the whole range of a number type, (H, W, C); floats in [0, 1]."""
    generator = np.random.default_rng(1000 * height + 10 * width + channels)
    if dtype.startswith("float"):
        return generator.random((height, width, channels)).astype(dtype)
    return generator.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype=dtype)


def pillow_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: Values, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of (H, W, 1 to 4) uint8 or uint16, with chunks before and after its pixels."""
    height, width, channels = values.shape
    bits, color = 8 * values.dtype.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = values.astype(values.dtype.newbyteorder(">"))
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    middle = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + before + middle + after + chunk(b"IEND", b"")


def tiff(
    values: Values,
    *,
    photometric: int | None = None,
    is_planar: bool = False,
    extra: int | None = None,
    order: str = "<",
    pages: int = 1,
    tags: Mapping[int, int | bytes] | None = None,
) -> bytes:
    """An uncompressed TIFF of (H, W, C) numbers; every page is the same.

    Args:
        values: the numbers.
        photometric: what they mean; None: gray or RGB.
        is_planar: whether each channel lies by itself.
        extra: what the last channel is: 1 premultiplied alpha, 2 alpha, 0 anything.
        order: "<" or ">".
        pages: how many.
        tags: others, or instead of what would be written: a number, or bytes of no type.
    """
    height, width, channels = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    planes = values.astype(values.dtype.newbyteorder(order))
    strips = [planes[..., index].tobytes() for index in range(channels)] if is_planar else [planes.tobytes()]
    content = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    link = 4
    for _ in range(pages):
        places = []
        for strip in strips:
            places.append(len(content))
            content += strip + bytes(len(strip) % 2)

        def shorts(*numbers: int) -> tuple[int, int, bytes]:
            return 3, len(numbers), struct.pack(f"{order}{len(numbers)}H", *numbers)

        def longs(*numbers: int) -> tuple[int, int, bytes]:
            return 4, len(numbers), struct.pack(f"{order}{len(numbers)}I", *numbers)

        entries = {
            256: longs(width),
            257: longs(height),
            258: shorts(*[8 * values.dtype.itemsize] * channels),
            259: shorts(1),
            262: shorts(photometric if photometric is not None else 1 if channels < 3 else 2),
            273: longs(*places),
            277: shorts(channels),
            278: longs(height),
            279: longs(*map(len, strips)),
            284: shorts(2 if is_planar else 1),
            339: shorts(*[kind] * channels),
        }
        if extra is not None:
            entries[338] = shorts(extra)
        for tag, value in (tags or {}).items():
            entries[tag] = (7, len(value), value) if isinstance(value, bytes) else longs(value)
        directory = len(content)
        beyond = directory + 2 + 12 * len(entries) + 4
        content[link : link + 4] = struct.pack(order + "I", directory)
        content += struct.pack(order + "H", len(entries))
        data = b""
        for tag, (type_, count, packed) in sorted(entries.items()):
            if len(packed) > 4:
                packed, data = struct.pack(order + "I", beyond + len(data)), data + packed + bytes(len(packed) % 2)
            content += struct.pack(order + "HHI", tag, type_, count) + packed.ljust(4, b"\0")
        link = len(content)
        content += bytes(4) + data
    return bytes(content)


def by_oiio(path: Path, values: Values, **attributes: Any) -> bytes:
    """A file as OpenImageIO writes it, its format by the suffix of `path`; a JPEG XL without loss."""
    import OpenImageIO as oiio  # here, or it complains at the end of a test run

    height, width, channels = values.shape
    spec = oiio.ImageSpec(width, height, channels, values.dtype.name.replace("float32", "float"))
    spec["jpegxl:distance"] = 0.0
    spec["oiio:UnassociatedAlpha"] = 1
    for name, value in attributes.items():
        if name == "tile":
            spec.tile_width = spec.tile_height = value
        elif isinstance(value, bytes):
            spec.attribute(name, oiio.TypeDesc(f"uint8[{len(value)}]"), np.frombuffer(value, np.uint8))
        else:
            spec[name] = value
    out = oiio.ImageOutput.create(str(path))
    assert out.open(str(path), spec) and out.write_image(values) and out.close(), out.geterror()
    return path.read_bytes()


def turned_jxl(path: Path, values: Values, orientation: int) -> bytes:
    """A JPEG XL without loss whose header says how it is to be turned, as those of cameras do."""
    content = by_oiio(path, values)
    box = content.index(b"jxlp") - 4  # the first holds the header alone
    end = box + int.from_bytes(content[box : box + 4])
    bits = [byte >> place & 1 for byte in content[box + 14 : end] for place in range(8)]
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return sum(bit << index for index, bit in enumerate(bits[place - count : place]))

    def side(is_small: int) -> int:
        return take(5) if is_small else take((9, 13, 18, 30)[take(2)])

    is_small = take(1)
    side(is_small)
    if take(3) == 0:
        side(is_small)
    assert take(1) == 0  # not all is as usual
    start = place
    assert take(1) == 0 and take(1) == 0  # nothing said of its shape yet; whole numbers
    if take(2) == 3:
        take(6)
    take(1)
    assert take(2) == 0  # no more channels
    take(1)
    assert take(1) == 1  # sRGB
    said = [1, *(orientation - 1 >> index & 1 for index in range(3)), 0, 0, 0]
    bits = [*bits[:start], *said, *bits[start + 1 : place], 1, *bits[place:]]
    bits += [0] * (-len(bits) % 8)
    while not any(bits[-8:]):
        bits = bits[:-8]
    header = bytes(sum(bits[at + index] << index for index in range(8)) for at in range(0, len(bits), 8))
    data = content[box + 8 : box + 12] + b"\xff\x0a" + header
    return content[:box] + struct.pack(">I", 8 + len(data)) + b"jxlp" + data + content[end:]


def avif(values: Values, bits: int, **beside: bytes | None) -> bytes:
    """An AVIF of (H, W, 1, 3 or 4) values of 8, 10 or 12 bits, as good as it gets, with `exif`, `xmp` and `icc`."""
    order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] > 1 else [0]
    options = [cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_SPEED, 9]
    names = {"exif": cv2.IMAGE_METADATA_EXIF, "xmp": cv2.IMAGE_METADATA_XMP, "icc": cv2.IMAGE_METADATA_ICCP}
    held = {names[name]: np.frombuffer(data, np.uint8) for name, data in beside.items() if data is not None}
    pixels = np.ascontiguousarray(values[..., order])
    done, content = cv2.imencodeWithMetadata(".avif", pixels, list(held), list(held.values()), options)
    assert done
    return content.tobytes()


def exif(orientation: int, make: str = "camera") -> bytes:
    """EXIF as JPEG has it."""
    held = Image.Exif()
    held[0x0112], held[0x010F] = orientation, make
    return held.tobytes()


def xmp(orientation: int) -> bytes:
    """An XMP packet that says how a picture is to be turned."""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    ).encode()
