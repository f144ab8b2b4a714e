"""Small files as cameras and editors write them, made here, with all that may stand beside the pixels."""

import io
import struct
from typing import Any

from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

IPTC = b"\x1c\x02\x00\x00\x02\x00\x04" + b"\x1c\x02\x78\x00\x06J\xc3\xb6rg!"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="uuid:1" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"
 xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,8.5N" xmlns:dc="http://purl.org/dc/elements/1.1/">
<exif:PixelXDimension>40</exif:PixelXDimension><exif:GPSLongitude>11,34.6E</exif:GPSLongitude>
<dc:creator><rdf:Seq><rdf:li>J\xc3\xb6rg &amp; Co</rdf:li></rdf:Seq></dc:creator>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""

MAKER_NOTE = b"Maker\0" + bytes(range(200))
THUMBNAIL = b"\xff\xd8thumbnail of the picture\xff\xd9"
LATITUDE = struct.pack(">6I", 48, 1, 8, 1, 30, 1)


def camera_exif(
    order: str = ">", *, orientation: int = 6, software: bytes | None = b"Firmware 1.0\0", before: bytes = b""
) -> bytes:
    """EXIF of a camera: a maker note, GPS, a thumbnail, and values in every place; behind bytes of a file."""
    big = order == ">"
    first: dict[int, tuple[int, bytes]] = {
        271: (2, b"Caf\xc3\xa9 Cameras\0"),
        274: (3, struct.pack(order + "H", orientation)),
        282: (5, struct.pack(order + "II", 300, 1)),
        283: (5, struct.pack(order + "II", 300, 1)),
        296: (3, struct.pack(order + "H", 2)),
    }
    if software is not None:
        first[305] = (2, software)
    exif = {
        0x9003: (2, b"2026:07:01 12:00:00\0"),
        0x927C: (7, MAKER_NOTE),
        0xA002: (3, struct.pack(order + "H", 40)),
        0xA003: (4, struct.pack(order + "I", 30)),
    }
    gps = {1: (2, b"N\0"), 2: (5, LATITUDE if big else struct.pack("<6I", *struct.unpack(">6I", LATITUDE)))}
    thumbnail = {0x103: (3, struct.pack(order + "H", 6)), 0x201: (4, b"\0\0\0\0"), 0x202: (4, b"\0\0\0\0")}
    content = bytearray(before + (b"MM\0*\0\0\0\x08" if big else b"II*\0\x08\0\0\0"))

    def place(values: dict[int, tuple[int, bytes]], links: dict[int, int]) -> dict[int, int]:
        """Appends a directory; returns where its entries' values stand."""
        tags = sorted({*values, *links})
        at, where = len(content), {}
        content.extend(struct.pack(order + "H", len(tags)) + bytes(12 * len(tags) + 4))
        for index, tag in enumerate(tags):
            kind, value = values.get(tag, (4, struct.pack(order + "I", links.get(tag, 0))))
            width = {2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
            entry = at + 2 + 12 * index
            struct.pack_into(order + "HHI", content, entry, tag, kind, len(value) // width)
            if len(value) > 4:
                struct.pack_into(order + "I", content, entry + 8, len(content))
                content.extend(value + b"\0" * (len(value) % 2))
            else:
                content[entry + 8 : entry + 8 + len(value)] = value
            where[tag] = entry + 8
        where[-1] = at + 2 + 12 * len(tags)
        return where

    root = place(first, {0x8769: 0, 0x8825: 0})
    struct.pack_into(order + "I", content, root[0x8769], len(content))
    place(exif, {})
    struct.pack_into(order + "I", content, root[0x8825], len(content))
    place(gps, {})
    struct.pack_into(order + "I", content, root[-1], len(content))
    small = place(thumbnail, {})
    struct.pack_into(order + "I", content, small[0x201], len(content))
    struct.pack_into(order + "I", content, small[0x202], len(THUMBNAIL))
    return bytes(content + THUMBNAIL)


def photoshop(iptc: bytes = IPTC) -> bytes:
    """Photoshop's image resources, with IPTC among them."""
    first = b"8BIM" + struct.pack(">H", 0x03ED) + b"\0\0" + struct.pack(">I", 4) + b"abcd"
    return first + b"8BIM" + struct.pack(">H", 0x0404) + b"\0\0" + struct.pack(">I", len(iptc)) + iptc


def tiff_with(content: bytes, **beside: bytes | None) -> bytes:
    """A TIFF of one page, its numbers of the lowest byte first, with a camera's EXIF, and `xmp`, `iptc` and `icc`."""
    content += bytes(len(content) % 2)
    whole = bytearray(camera_exif("<", before=content))

    def entries(at: int) -> dict[int, bytes]:
        (count,) = struct.unpack_from("<H", whole, at)
        table = [bytes(whole[at + 2 + 12 * index :][:12]) for index in range(count)]
        return {struct.unpack("<H", entry[:2])[0]: entry for entry in table}

    directory = entries(len(content) + 8) | entries(struct.unpack_from("<I", content, 4)[0])
    for name, tag in (("xmp", 700), ("iptc", 33723), ("icc", 34675)):
        if (value := beside[name]) is not None:
            directory[tag] = struct.pack("<HHII", tag, 7, len(value), len(whole))
            whole += value + bytes(len(value) % 2)
    struct.pack_into("<I", whole, 4, len(whole) + len(whole) % 2)
    table = b"".join(entry for _, entry in sorted(directory.items()))
    return bytes(whole + bytes(len(whole) % 2) + struct.pack("<H", len(directory)) + table + bytes(4))


def jxl_with(content: bytes, *, exif: bytes, xmp: bytes) -> bytes:
    """A JPEG XL with EXIF and XMP in boxes, instead of those that an encoder wrote."""
    pieces, at = [], 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        size = size or len(content) - at
        if kind not in (b"brob", b"Exif", b"xml "):
            pieces.append(content[at : at + size])
        at += size
    boxes = (
        struct.pack(">I", 8 + len(data)) + kind + data for kind, data in ((b"Exif", bytes(4) + exif), (b"xml ", xmp))
    )
    return b"".join([*pieces[:2], *boxes, *pieces[2:]])


def jp2_with(content: bytes, *, icc: bytes | None, xmp: bytes) -> bytes:
    """A JPEG 2000 with a profile instead of the number of its colours, and XMP."""
    at = content.index(b"jp2h") - 4
    end = at + int.from_bytes(content[at : at + 4])
    place = content.index(b"colr", at) - 4
    behind = place + int.from_bytes(content[place : place + 4])
    color = content[place:behind]
    if icc is not None:
        color = struct.pack(">I4sBBB", 11 + len(icc), b"colr", 2, 0, 0) + icc
    head = content[at + 8 : place] + color + content[behind:end]
    name = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
    beside = struct.pack(">I4s", 24 + len(xmp), b"uuid") + name + xmp
    return content[:at] + struct.pack(">I4s", 8 + len(head), b"jp2h") + head + beside + content[end:]


def picture_file(
    kind: str, image: Image.Image, *, exif: bytes | None = None, dpi: Any = (300, 300), icc: bytes | None = ICC
) -> bytes:
    """A file of a format with everything that it can hold."""
    buffer = io.BytesIO()
    exif = camera_exif() if exif is None else exif
    options: dict[str, Any] = {"icc_profile": icc, **({} if dpi is None else {"dpi": dpi})}
    if kind == "JPEG":
        segment = b"Photoshop 3.0\0" + photoshop()
        extra = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
        options |= {"exif": b"Exif\0\0" + exif, "xmp": XMP, "extra": extra}
    elif kind in ("WEBP", "AVIF"):
        options |= {"exif": exif, "xmp": XMP, "lossless": True}
    elif kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        resources = photoshop()
        text.add_text("Raw profile type iptc", f"\niptc\n{len(resources):8}\n{resources.hex()}\n", zip=True)
        options |= {"exif": exif, "pnginfo": text}
    elif kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700], tags[33723], tags[315], tags[36867] = XMP, IPTC, "J__rg", "2026:07:01 12:00:00"
        tags.tagtype[700], tags.tagtype[33723] = 7, 7
        options |= {"tiffinfo": tags}
    image.save(buffer, kind, **options)
    return buffer.getvalue().replace(b"J__rg", "Jörg".encode())  # Pillow would write a question mark


def tags_of(content: bytes | None) -> Image.Exif:
    assert content is not None
    tags = Image.Exif()
    tags.load(content)
    return tags
