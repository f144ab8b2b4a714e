"""What stands beside the pixels: found, patched where the result is another picture, and put into files."""

import io
import struct
import time
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures_with_metadata import (
    ICC,
    IPTC,
    LATITUDE,
    MAKER_NOTE,
    THUMBNAIL,
    XMP,
    camera_exif,
    jp2_with,
    picture_file,
    tags_of,
)
from PIL import Image

from xpsr.image import exif, xmp
from xpsr.image.directories import Layout, of_bytes
from xpsr.image.metadata import found
from xpsr.image.origin import Metadata
from xpsr.image.xmp import Provenance

quick = settings(deadline=None, max_examples=60, derandomize=True)
SMALL = Image.new("RGB", (8, 6), "orange")


def found_in(content: bytes) -> Metadata:
    with Image.open(io.BytesIO(content)) as image:
        return found(image)


# Found


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_all_is_found_byte_for_byte(kind: str) -> None:
    block = camera_exif(orientation=1)
    metadata = found_in(picture_file(kind, SMALL, exif=block))
    assert metadata.icc == ICC
    if kind == "AVIF":  # Pillow's encoder takes the orientation out
        assert metadata.exif is not None and MAKER_NOTE in metadata.exif
    else:
        assert metadata.exif == block
    assert metadata.xmp == XMP
    assert metadata.iptc == (IPTC if kind in ("JPEG", "PNG") else None)
    assert metadata.dpi is not None and metadata.dpi == pytest.approx((300, 300), abs=0.01)
    assert metadata.notices == ()


def test_a_tiff_gives_its_exif_as_one_block() -> None:
    metadata = found_in(picture_file("TIFF", SMALL))
    assert (metadata.icc, metadata.xmp, metadata.iptc) == (ICC, XMP, IPTC)
    assert metadata.dpi == (300, 300)
    assert metadata.exif is not None
    tags = tags_of(metadata.exif)
    assert 256 not in tags and 273 not in tags
    assert tags[282] == 300 and tags[36867] == "2026:07:01 12:00:00"
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
    tags = tags_of(metadata.exif)
    assert tags.get_ifd(0x8769)[0x9003] == "2026:07:01 12:00:00"
    assert tags.get_ifd(0x8825)[2] == (48, 8, 30)


def test_a_picture_that_is_loaded_is_asked_with_its_bytes() -> None:
    for kind in ("TIFF", "PNG", "JPEG"):
        with Image.open(io.BytesIO(FILES[kind])) as image:
            image.load()
            assert found(image, FILES[kind]) == found_in(FILES[kind])


def test_what_stands_behind_the_pixels_of_a_png_is_found() -> None:
    buffer = io.BytesIO()
    SMALL.save(buffer, "PNG")
    content = buffer.getvalue()
    block = camera_exif()
    chunks = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), (b"eXIf", block))
    )
    end = content.rindex(b"IEND") - 4
    content = content[:end] + chunks + content[end:]
    with Image.open(io.BytesIO(content)) as image:
        metadata = found(image)
        assert image.convert("RGB").getpixel((0, 0)) == SMALL.getpixel((0, 0))
    assert (metadata.exif, metadata.xmp) == (block, XMP)


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


@quick
@given(at=st.integers(0, 1000), value=st.integers(0, 255), cut=st.integers(0, 1000))
def test_damage_to_a_jpeg_2000_never_raises(at: int, value: int, cut: int) -> None:
    buffer = io.BytesIO()
    SMALL.save(buffer, "JPEG2000")
    content = bytearray(jp2_with(buffer.getvalue(), icc=ICC, xmp=XMP))
    with Image.open(io.BytesIO(content)) as image:
        content[at % len(content)] = value
        metadata = found(image, bytes(content[: cut or None]))
    assert metadata.exif is None and metadata.xmp is None


def test_values_that_are_the_same_bytes_a_thousand_times_cost_little() -> None:
    entries = b"".join(struct.pack("<HHII", tag, 7, 2**23, 8) for tag in range(40000, 42000))
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", 2000) + entries + bytes(4) + bytes(2**23 + 8)
    with Image.open(io.BytesIO(FILES["TIFF"])) as image:
        image.fp = io.BytesIO(content)
        assert len(found(image).exif or b"") < 2**24


# Patched


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("software", [b"Firmware 1.0\0", b"v1\0", b"F" * 40 + b"\0", None])
def test_exif_becomes_that_of_the_result_and_nothing_moves(order: str, software: bytes | None) -> None:
    before = camera_exif(order, software=software)
    after, notices = exif.patched(before, (160, 120), software="xpsr 0.1.0")
    assert notices == () and after is not None
    tags = tags_of(after)
    assert (tags[274], tags[305], tags[282]) == (1, "xpsr 0.1.0", 300)
    assert tags.get_ifd(0x8769)[0xA002] == 160 and tags.get_ifd(0x8769)[0xA003] == 120
    assert tags.get_ifd(0x8825)[2] == (48, 8, 30)
    for kept in (MAKER_NOTE, "Café".encode(), b"2026:07:01"):
        assert after.index(kept) == before.index(kept)
    assert THUMBNAIL not in after and tags.get_ifd(1) == {}
    again, _ = exif.patched(after, (160, 120), software="xpsr 0.1.0")
    assert again == after


def test_exif_is_byte_exact_but_for_what_is_patched() -> None:
    before = camera_exif()
    after, _ = exif.patched(before, (160, 120))
    assert after is not None and len(after) < len(before) - len(THUMBNAIL)
    changed = [at for at in range(len(after)) if after[at] != before[at]]
    assert len(changed) <= 8  # the orientation, two sides, the link to the thumbnail


def test_a_side_that_needs_more_bits_gets_them() -> None:
    after, _ = exif.patched(camera_exif(), (70000, 80000))
    assert tags_of(after).get_ifd(0x8769)[0xA002] == 70000 and tags_of(after).get_ifd(0x8769)[0xA003] == 80000


@pytest.mark.parametrize("order", "<>")
def test_the_place_is_overwritten_not_only_unlinked(order: str) -> None:
    before = camera_exif(order)
    latitude = LATITUDE if order == ">" else struct.pack("<6I", *struct.unpack(">6I", LATITUDE))
    assert latitude in before
    after, notices = exif.patched(before, (160, 120), strip_gps=True, keeps_orientation=False)
    assert after is not None and notices == ()
    assert latitude not in after and 0x8825 not in tags_of(after) and 274 not in tags_of(after)
    assert after.index(MAKER_NOTE) == before.index(MAKER_NOTE)
    assert tags_of(after)[271] == tags_of(before)[271]


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ('{"shape": [36, 52, 3]}', True),  # that of the result
        ('{"shape": [9, 13, 3]}', False),
        ('{"shape": [9, 13]}', False),
        ('{"shape": [9, 13, 3], "by": "me"}', True),
        ("a shape", True),
    ],
)
def test_the_shape_that_tifffile_tells_goes_where_it_is_another(text: str, is_kept: bool) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((9, 13, 3), np.uint8), photometric="rgb", description=text, metadata=None)
    with Image.open(buffer) as image:
        after, notices = exif.patched(found(image).exif, (52, 36), software="xpsr 1")
    assert notices == () and after is not None
    tags = tags_of(after)
    assert (tags.get(270), tags[305]) == (text if is_kept else None, "xpsr 1")


def test_without_exif_there_is_provenance_alone() -> None:
    assert exif.patched(None, (1, 1)) == exif.patched(b"MM\0*\0\0\0\x08" + bytes(6), (1, 1)) == (None, ())
    after, _ = exif.patched(None, (1, 1), software="xpsr 0.1.0")
    assert dict(tags_of(after)) == {305: "xpsr 0.1.0"}


def test_directories_in_a_circle_come_to_an_end() -> None:
    entries = struct.pack("<HHII", 274, 3, 1, 6) + struct.pack("<HHII", 0x8769, 4, 1, 8)
    entries += struct.pack("<HHII", 0x8825, 4, 1, 8)
    circle = b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + entries + struct.pack("<I", 8)
    after, _ = exif.patched(circle, (2, 2), software="xpsr 1")
    assert tags_of(after)[274] == 1
    assert exif.patched(circle, (2, 2), strip_gps=True) == (None, ("its EXIF is damaged and left out",))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(data=st.data())
def test_damaged_exif_never_raises_and_never_shows_the_place(data: st.DataObject) -> None:
    order = data.draw(st.sampled_from("<>"))
    content = bytearray(camera_exif(order))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 4))
        content[at : at + 4] = data.draw(
            st.binary(min_size=4, max_size=4) | st.just(b"\xff" * 4) | st.just(b"\0\0\0\x08")
        )
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    for strip_gps in (False, True):
        after, notices = exif.patched(bytes(content), (2**17, 3), strip_gps=strip_gps, software="xpsr 0.1.0")
        assert after is not None and len(notices) <= 1
        read = of_bytes(after)
        layout = Layout.of(read)
        first = layout and layout.directory(read, layout.first)
        assert first is not None
        software = first.find(305)
        assert software is not None and read(software.value_at, software.size).rstrip(b"\0") == b"xpsr 0.1.0"
        assert not (strip_gps and (first.find(0x8825) or 0x8825 in first.lost))


def test_xmp_becomes_that_of_the_result() -> None:
    made = Provenance(software="xpsr 0.1.0", model='a "b" & c', seed=7)
    after, notices = xmp.patched(XMP, (160, 120), provenance=made)
    assert after is not None and notices == ()
    ElementTree.fromstring(after)
    for kept in (b"J\xc3\xb6rg &amp; Co", b'exif:GPSLatitude="48,8.5N"', b"11,34.6E"):
        assert kept in after
    assert b'tiff:Orientation="1"' in after and b"<exif:PixelXDimension>160</exif:PixelXDimension>" in after
    assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in after and b'xpsr:Seed="7"' in after
    assert after.count(b'rdf:about="uuid:1"') == 2
    again, _ = xmp.patched(after, (160, 120), provenance=made)
    assert again is not None and again.count(b"DigitalSourceType=") == 1 and again.count(b"xpsr:Seed") == 1


def test_the_place_goes_from_xmp() -> None:
    element = b"<drone:GpsLatitude rdf:parseType='Resource'><a:b>48</a:b></drone:GpsLatitude><exif:GPSx/>"
    after, _ = xmp.patched(XMP.replace(b"<dc:creator>", element + b"<dc:creator>"), (1, 1), strip_gps=True)
    assert after is not None and b"gps" not in after.lower() and b"48" not in after and b"11,34" not in after
    ElementTree.fromstring(after.replace(b"drone:", b"dc:"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_xmp_keeps_its_encoding(encoding: str) -> None:
    text = XMP.decode().replace("\ufeff", "")
    after, _ = xmp.patched(text.encode(encoding), (160, 120))
    assert after is not None
    assert after.decode(encoding) == text.replace('Orientation="6"', 'Orientation="1"').replace(">40<", ">160<")


def test_xmp_that_is_no_xmp_is_left_out() -> None:
    bomb = XMP.replace(b"<x:xmpmeta", b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x:xmpmeta', 1)
    for damaged in (b"", b"text", bomb, XMP[: XMP.index(b"GPSLongitude>") + 30]):
        after, notices = xmp.patched(damaged, (1, 1), strip_gps=True)
        assert after is None and notices == ("its XMP is damaged and left out",)
    made = Provenance(software="xpsr 0.1.0", model="mini")
    for damaged in (bomb, XMP[:300]):
        after, notices = xmp.patched(damaged, (1, 1), provenance=made)
        assert after is not None and notices == ("its XMP is damaged and left out",)
        ElementTree.fromstring(after)


def test_long_xmp_takes_no_long_time() -> None:
    for part in (
        b" ",
        b"<",
        b' exif:GPSa="',
        b" xmlns:a=",
        b"a:Thumbnails ",
        b"<exif:GPSa>",
        b"a",
        b"<tiff:Orientation>",
    ):
        start = time.monotonic()
        xmp.patched(XMP.replace(b"<dc:creator>", part * (2**18 // len(part)) + b"<dc:creator>"), (1, 1), strip_gps=True)
        assert time.monotonic() - start < 2, part
