"""What stands beside the pixels: found, patched where the result is another picture, and put into files."""

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures_with_metadata import ICC, IPTC, MAKER_NOTE, XMP, camera_exif, picture_file
from PIL import Image

from xpsr.image.metadata import Metadata, found

quick = settings(deadline=None, max_examples=60, derandomize=True)
SMALL = Image.new("RGB", (8, 6), "orange")


def found_in(content: bytes) -> Metadata:
    with Image.open(io.BytesIO(content)) as image:
        return found(image)


# Found


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_all_is_found_byte_for_byte(kind: str) -> None:
    exif = camera_exif(orientation=1)
    metadata = found_in(picture_file(kind, SMALL, exif=exif))
    assert metadata.icc == ICC
    if kind == "AVIF":  # Pillow's encoder takes the orientation out
        assert metadata.exif is not None and MAKER_NOTE in metadata.exif
    else:
        assert metadata.exif == exif
    assert metadata.xmp == XMP
    assert metadata.iptc == (IPTC if kind in ("JPEG", "PNG") else None)
    assert metadata.dpi is not None and metadata.dpi == pytest.approx((300, 300), abs=0.01)
    assert metadata.notices == ()


def test_a_tiff_gives_its_exif_as_one_block() -> None:
    metadata = found_in(picture_file("TIFF", SMALL))
    assert (metadata.icc, metadata.xmp, metadata.iptc) == (ICC, XMP, IPTC)
    assert metadata.dpi == (300, 300)
    assert metadata.exif is not None
    exif = Image.Exif()
    exif.load(metadata.exif)
    assert 256 not in exif and 273 not in exif
    assert exif[282] == 300 and exif[36867] == "2026:07:01 12:00:00"
    assert "Jörg".encode() in metadata.exif  # in UTF-8, which Pillow's own `tobytes` would turn to question marks


@pytest.mark.parametrize("order", "<>")
def test_directories_of_a_tiff_stay_below_their_own(order: str) -> None:
    # a camera's EXIF block is a TIFF file without a picture
    content = camera_exif(order)
    size = struct.pack(order + "HHIHxx", 256, 3, 1, 1) + struct.pack(order + "HHIHxx", 257, 3, 1, 1)
    bits = struct.pack(order + "HHIHxx", 258, 3, 1, 8) + struct.pack(order + "HHIHxx", 262, 3, 1, 1)
    strip = struct.pack(order + "HHII", 273, 4, 1, 8) + struct.pack(order + "HHII", 279, 4, 1, 1)
    (count,) = struct.unpack_from(order + "H", content, 8)
    table = content[10 : 10 + 12 * count]
    entries = sorted(
        (part[at : at + 12] for part in (table, size, bits, strip) for at in range(0, len(part), 12)),
        key=lambda entry: struct.unpack(order + "H", entry[:2]),
    )
    at = len(content) + len(content) % 2
    content = content[:4] + struct.pack(order + "I", at) + content[8:].ljust(at - 8, b"\0")
    content += struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    metadata = found_in(content)
    assert metadata.exif is not None and MAKER_NOTE in metadata.exif
    exif = Image.Exif()
    exif.load(metadata.exif)
    assert exif.get_ifd(0x8769)[0x9003] == "2026:07:01 12:00:00"
    assert exif.get_ifd(0x8825)[2] == (48, 8, 30)


def test_what_stands_behind_the_pixels_of_a_png_is_found() -> None:
    buffer = io.BytesIO()
    SMALL.save(buffer, "PNG")
    content = buffer.getvalue()
    exif = camera_exif()
    chunks = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), (b"eXIf", exif))
    )
    end = content.rindex(b"IEND") - 4
    content = content[:end] + chunks + content[end:]
    with Image.open(io.BytesIO(content)) as image:
        metadata = found(image)
        assert image.convert("RGB").getpixel((0, 0)) == SMALL.getpixel((0, 0))
    assert (metadata.exif, metadata.xmp) == (exif, XMP)


def test_resolution_is_what_the_file_says_or_else_its_exif() -> None:
    for kind, dpi in (("JPEG", (96, 72)), ("PNG", (120, 60)), ("TIFF", (150.5, 300)), ("BMP", (96, 96))):
        told = found_in(picture_file(kind, SMALL, dpi=dpi)).dpi
        assert told == pytest.approx(dpi, rel=0.01), kind
    for kind in ("JPEG", "WEBP"):
        assert found_in(picture_file(kind, SMALL, dpi=None)).dpi == (300, 300)
    buffer = io.BytesIO()
    SMALL.save(buffer, "JPEG", exif=camera_exif()[:9])
    assert found_in(buffer.getvalue()).dpi is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@quick
@given(at=st.integers(0, 5000), value=st.integers(0, 255), cut=st.integers(0, 5000), wide=st.booleans())
def test_damage_never_raises(kind: str, at: int, value: int, cut: int, wide: bool) -> None:
    content = bytearray(FILES[kind])
    content[at % len(content)] = value
    if wide:
        content[at % len(content) : at % len(content) + 4] = b"\xff" * 4
    content = content[: -(cut % len(content)) or None] if cut % 3 == 0 else content
    try:
        image = Image.open(io.BytesIO(content))
    except Exception:  # that of the reader
        return
    with image:
        metadata = found(image)
    assert all(isinstance(notice, str) for notice in metadata.notices)


FILES = {kind: picture_file(kind, SMALL) for kind in ("JPEG", "PNG", "WEBP", "TIFF")}


def test_values_that_are_the_same_bytes_a_thousand_times_cost_little() -> None:
    entries = b"".join(struct.pack("<HHII", tag, 7, 2**23, 8) for tag in range(40000, 42000))
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", 2000) + entries + bytes(4) + bytes(2**23 + 8)
    with Image.open(io.BytesIO(FILES["TIFF"])) as image:
        image.fp = io.BytesIO(content)
        assert len(found(image).exif or b"") < 2**24
