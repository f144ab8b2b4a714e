"""Every kind of file that a photographer has: read at its own depth, upright, whole or told; or refused by name."""

import contextlib
import io
import os
import struct
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import picture_files as files
import pytest
import tifffile
from color_helpers import gamma, matrix_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import UPRIGHT, Values, noise
from pictures_with_metadata import camera_exif
from PIL import Image, ImageCms

from xpsr.errors import InputError
from xpsr.image import Limits, Picture, chunks, decode_image, decode_rgb, picture_size, read_image, to_uint8
from xpsr.image.chunks import gif_frames, tiff_pages
from xpsr.image.deep import plain_bits
from xpsr.image.jxl import read_header

quick = settings(deadline=None, max_examples=25, derandomize=True)


def channels_last(picture: Picture) -> Values:
    """(H, W, 3 or 4) float32, with alpha where there is any."""
    planes = picture.pixels.numpy()
    if picture.alpha is not None:
        planes = np.concatenate([planes, picture.alpha.numpy()])
    return planes.transpose(1, 2, 0)


def as_rgb(values: Values, full: float) -> Values:
    """Gray as three equal channels, in [0, 1]."""
    values = values.astype(np.float64) / full
    if values.shape[2] <= 2:
        values = np.concatenate([values[..., :1]] * 3 + [values[..., 1:]], axis=2)
    return values


def same_bits(content: bytes) -> Picture:
    """The picture in a file, of which `decode_rgb` gives the same bits."""
    picture = decode_image(content, "photo")
    assert np.array_equal(decode_rgb(content, "photo"), to_uint8(picture.pixels).permute(1, 2, 0).numpy())
    return picture


def same(content: bytes, expected: Values, *, within: float = 1e-6) -> Picture:
    """The picture in a file, which is what is expected."""
    picture = same_bits(content)
    found = channels_last(picture)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= within
    return picture


def refused(content: bytes, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        decode_image(content, "photo", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Depth


@quick
@given(height=st.integers(1, 9), width=st.integers(1, 9), channels=st.integers(1, 4), kind=st.sampled_from("pPt"))
def test_sixteen_bits_stay_sixteen_bits(height: int, width: int, channels: int, kind: str) -> None:
    values = noise(height, width, channels)
    values[0, 0, -1] = 12345  # not opaque
    content = files.tiff(values, extra=2 if channels in (2, 4) else None, is_planar=kind == "P")
    if kind == "p":
        content = files.png(values)
    origin = same(content, as_rgb(values, 65535)).origin
    assert origin is not None and origin.bits == 16 and origin.notices == ()
    assert origin.format == ("PNG" if kind == "p" else "TIFF")
    assert origin.model == ("gray" if channels < 3 else "rgb")


def test_tiffs_of_all_kinds_are_right(tmp_path: Path) -> None:
    gray, rgb, rgba, real = noise(9, 13, 1), noise(9, 13, 3), noise(9, 13, 4), noise(9, 13, 3, "float32")
    white = 65535 - gray
    same(files.tiff(white, photometric=0), as_rgb(gray, 65535))
    same(files.tiff(255 - noise(9, 13, 1, "uint8"), photometric=0), as_rgb(noise(9, 13, 1, "uint8"), 255))
    same(files.tiff(rgb, order=">"), rgb / 65535)
    same(files.tiff(rgb, order=">", is_planar=True), rgb / 65535)
    same(files.tiff(noise(9, 13, 3, "uint8"), is_planar=True), noise(9, 13, 3, "uint8") / 255)
    for kind in ("float16", "float32", "float64"):
        picture = same(files.tiff(real.astype(kind)), real.astype(kind))
        assert picture.origin is not None and picture.origin.bits == 32
    same(files.tiff(real[..., :1], is_planar=True), as_rgb(real[..., :1], 1))
    alpha = np.maximum(rgba[..., 3:], 1000)
    straight = np.concatenate([rgba[..., :3], alpha], axis=2)
    premultiplied = np.round(rgba[..., :3].astype(np.float64) * alpha / 65535).astype(np.uint16)
    content = files.tiff(np.concatenate([premultiplied, alpha], axis=2), extra=1)
    same(content, straight / 65535, within=0.5 / 1000)
    inks = rgba / 65535
    picture = same(files.tiff(rgba, photometric=5), (1 - inks[..., :3]) * (1 - inks[..., 3:]))
    assert picture.origin is not None and picture.origin.model == "cmyk"
    picture = same(files.tiff(rgba, extra=0), rgba[..., :3] / 65535)
    assert picture.origin is not None and picture.origin.notices == ("1 channel beside its colours is left out",)
    for number, (options, values) in enumerate(
        (
            ({"tile": 16}, np.tile(rgb, (4, 4, 1))),
            ({"compression": "zip"}, rgb),
            ({"compression": "lzw"}, real),
            ({"compression": "packbits"}, gray),
            ({"oiio:BitsPerSample": 10}, np.round((rgb >> 6) * (65535 / 1023)).astype(np.uint16)),
            ({"oiio:BitsPerSample": 12}, np.round((rgb >> 4) * (65535 / 4095)).astype(np.uint16)),
        )
    ):
        full = 1 if values.dtype.kind == "f" else 65535
        content = files.by_oiio(tmp_path / f"{number}.tif", values, **options)
        picture = same(content, as_rgb(values, full), within=2e-5 if "oiio:BitsPerSample" in options else 1e-6)
        assert picture.origin is not None
        assert picture.origin.bits == options.get("oiio:BitsPerSample", 32 if full == 1 else 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            files.tiff(noise(9, 13, 3), tags={259: 50000}),
            "is a TIFF compressed by Zstandard, which is not read; save it",
        ),
        (files.tiff(noise(9, 13, 3, "uint8"), tags={259: 34887}), "is a TIFF compressed by LERC, which is not read;"),
        (files.tiff(noise(9, 13, 3, "int16")), "is a TIFF of signed numbers of 16 bits, which is not read;"),
        (files.tiff(noise(9, 13, 3, "uint32")), "is a TIFF of unsigned numbers of 32 bits, which is not read;"),
        (files.tiff(noise(9, 13, 3), photometric=8), "is a TIFF of 16 bits a value and CIELab, which is not read;"),
        (files.tiff(noise(9, 13, 1), photometric=32803), "is a camera's raw file, which would have to be developed"),
        (files.tiff(noise(9, 13, 3, "uint8"), tags={50706: b"\1\4\0\0"}), "is a camera's raw file"),
        (files.tiff(noise(9, 13, 3, "uint8"), tags={254: 1, 330: 8}), "is a camera's raw file"),
        (files.tiff(noise(3, 4, 17)), "has 17 channels, above the limit of 16; save it as RGB."),
        (files.tiff(noise(9, 13, 3), tags={322: 2**20, 323: 2**20}), "pixels exceed the limit of 67108864"),
    ],
)
def test_tiffs_that_are_not_read_are_refused_by_what_they_are(content: bytes, message: str) -> None:
    assert message in refused(content)


def test_jpeg_xl_is_read_at_its_own_depth(tmp_path: Path) -> None:
    for dtype, bits in (("uint8", 8), ("uint16", 16), ("float32", 32)):
        for channels in (3, 4) if bits == 32 else (1, 3, 4):
            values = noise(9, 13, channels, dtype)
            full = 1 if bits == 32 else 2**bits - 1
            content = files.by_oiio(tmp_path / "a.jxl", values, **({"oiio:ColorSpace": "sRGB"} if bits == 32 else {}))
            origin = same(content, as_rgb(values, full)).origin
            assert origin is not None
            assert (origin.format, origin.bits, origin.model) == ("JXL", bits, "gray" if channels == 1 else "rgb")
            assert picture_size(tmp_path / "a.jxl") == (13, 9)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif_is_read_at_its_own_depth(bits: int) -> None:
    smooth = np.linspace(0, 1, 48 * 64 * 3).reshape(48, 64, 3)
    values = np.round(smooth * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    picture = same(files.avif(values, bits), values / (2**bits - 1), within=0.02)
    assert picture.origin is not None and (picture.origin.format, picture.origin.bits) == ("AVIF", bits)
    if bits > 8:  # more levels than 8 bits have
        assert len(np.unique(picture.pixels.numpy())) > 600


@pytest.mark.parametrize(("mode", "bits"), [("RGB", 8), ("RGB;16", 10), ("RGBA;16", 10)])
def test_heic_is_read_at_its_own_depth(mode: str, bits: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    channels = 4 if "A" in mode else 3
    smooth = np.linspace(0, 1, 48 * 64 * channels).reshape(48, 64, channels)
    full, dtype = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    values = np.round(smooth * full).astype(dtype)
    buffer = io.BytesIO()
    image = pillow_heif.from_bytes(mode=mode, size=(64, 48), data=values.tobytes())
    image.save(buffer, quality=-1, chroma=444)
    picture = same(buffer.getvalue(), values / full, within=0.02)
    assert picture.origin is not None and (picture.origin.format, picture.origin.bits) == ("HEIF", bits)
    if bits > 8:
        assert len(np.unique(picture.pixels.numpy())) > 600


@pytest.mark.parametrize(
    ("mode", "kind", "model", "bits"),
    [
        ("1", "PNG", "gray", 1),
        ("L", "JPEG", "gray", 8),
        ("LA", "PNG", "gray", 8),
        ("P", "GIF", "rgb", 8),
        ("CMYK", "JPEG", "cmyk", 8),
        ("CMYK", "TIFF", "cmyk", 8),
        ("RGB", "WEBP", "rgb", 8),
        ("1", "TIFF", "gray", 1),
        ("RGB", "BMP", "rgb", 8),
        ("RGBA", "TIFF", "rgb", 8),
        ("RGB", "JPEG2000", "rgb", 8),
    ],
)
def test_what_a_file_stored_is_known(mode: str, kind: str, model: str, bits: int) -> None:
    image = Image.fromarray(noise(9, 13, 4, "uint8")).convert("RGB").convert(mode)
    picture = decode_image(files.pillow_bytes(image, kind), "photo")
    assert picture.origin is not None
    assert (picture.origin.format, picture.origin.model, picture.origin.bits) == (kind, model, bits)


def test_jpeg_2000_and_pnm_are_read_at_their_own_depth(tmp_path: Path) -> None:
    for channels in (1, 3):
        values = noise(9, 13, channels)
        kind = {1: b"P5", 3: b"P6"}[channels]
        for most, bits in ((65535, 16), (1023, 10)):
            numbers = values // (65536 // (most + 1))
            content = kind + b"\n# made by a test\n13 9\n%d\n" % most + numbers.astype(">u2").tobytes()
            origin = same(content, as_rgb(numbers, most), within=2e-5).origin
            assert origin is not None and (origin.format, origin.bits) == ("PPM", bits)
            long = content.replace(b" made by a test", b"made by a test" * 100)
            origin = same(long, as_rgb(numbers, most), within=2e-5).origin
            assert origin is not None and origin.bits == bits
        values = noise(48, 64, channels)
        content = files.by_oiio(tmp_path / "a.jp2", values)
        picture = same_bits(content)
        assert np.abs(channels_last(picture) - as_rgb(values, 65535)).max() < 0.3  # it is with loss
        assert picture.origin is not None and (picture.origin.format, picture.origin.bits) == ("JPEG2000", 16)


def test_gray_stays_gray() -> None:
    for content in (
        files.png(noise(9, 13, 2)),
        files.pillow_bytes(Image.fromarray(noise(9, 13, 1, "uint8")[..., 0]), "JPEG"),
    ):
        pixels = decode_image(content, "photo").pixels
        assert pixels.shape == (3, 9, 13) and (pixels == pixels[:1]).all()


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("source", ["exif", "xmp"])
def test_pictures_are_turned_once_in_every_format(source: str, orientation: int, tmp_path: Path) -> None:
    values = np.kron(noise(3, 4, 3, "uint8"), np.ones((16, 16, 1), np.uint8))
    image = Image.fromarray(values)
    told = {"exif": files.exif(orientation)} if source == "exif" else {"xmp": files.xmp(orientation)}
    expected = UPRIGHT[orientation](values) / 255
    for kind, options in (
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("TIFF", {}),
        *((("AVIF", {"quality": 100, "subsampling": "4:4:4"}),) if source == "exif" else ()),
    ):
        given = dict(told)
        if kind == "TIFF" and source == "xmp":
            given = {"tiffinfo": {700: files.xmp(orientation)}}
        if kind == "PNG" and source == "xmp":
            from PIL.PngImagePlugin import PngInfo

            held = PngInfo()
            held.add_itxt("XML:com.adobe.xmp", files.xmp(orientation).decode())
            given = {"pnginfo": held}
        same(files.pillow_bytes(image, kind, **options, **given), expected, within=0.05)
    deep = values.astype(np.uint16) * 257
    if source == "exif":
        held_at_end = files.chunk(b"eXIf", files.exif(orientation).removeprefix(b"Exif\0\0"))
        same(files.tiff(deep, tags={274: orientation}), expected)
        same(files.turned_jxl(tmp_path / "a.jxl", deep, orientation) if orientation > 1 else files.png(deep), expected)
    else:
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + files.xmp(orientation)
        held_at_end = files.chunk(b"iTXt", text)
        same(files.tiff(deep, tags={700: files.xmp(orientation)}), expected)
    same(files.png(deep, after=held_at_end), expected)
    same(files.png(deep, before=held_at_end), expected)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_told_as_pictures_are_turned(orientation: int, tmp_path: Path) -> None:
    values = noise(24, 40, 3, "uint8")
    image, deep = Image.fromarray(values), values.astype(np.uint16) * 257
    exif, xmp = files.exif(orientation), files.xmp(orientation)
    contents = [files.pillow_bytes(image, kind, exif=exif) for kind in ("JPEG", "WEBP", "PNG", "TIFF", "AVIF")]
    contents += [files.pillow_bytes(image, kind, xmp=xmp) for kind in ("JPEG", "WEBP")]
    contents += [files.tiff(deep, tags=tags) for tags in ({274: orientation}, {700: xmp})]
    contents.append(files.png(deep, before=files.chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))))
    if orientation > 1:
        contents.append(files.turned_jxl(tmp_path / "a.jxl", deep, orientation))
    for content in contents:
        (tmp_path / "photo").write_bytes(content)
        height, width = read_image(tmp_path / "photo").pixels.shape[1:]
        assert picture_size(tmp_path / "photo") == (width, height) == ((24, 40) if orientation > 4 else (40, 24)), (
            content[:12]
        )


def test_exif_counts_before_xmp() -> None:
    values = np.kron(noise(3, 4, 3, "uint8"), np.ones((16, 16, 1), np.uint8))
    content = files.pillow_bytes(Image.fromarray(values), "WEBP", lossless=True, exif=files.exif(6), xmp=files.xmp(3))
    same(content, UPRIGHT[6](values) / 255)


# What stands beside the pixels


def test_metadata_are_kept_as_they_are(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(noise(9, 13, 3, "uint8"))
    held = files.exif(1)
    for kind in ("JPEG", "PNG", "WEBP"):
        content = files.pillow_bytes(image, kind, exif=held, icc_profile=icc, dpi=(300, 200))
        origin = decode_image(content, "photo").origin
        assert origin is not None
        assert (origin.icc, origin.exif) == (icc, held.removeprefix(b"Exif\0\0"))
        assert kind == "WEBP" or origin.dpi == pytest.approx((300, 200), abs=0.02)
    packed = zlib.compress(icc)
    content = files.png(noise(9, 13, 3), before=files.chunk(b"iCCP", b"icc\0\0" + packed))
    origin = decode_image(content, "photo").origin
    assert origin is not None and origin.icc == icc
    box = struct.pack(">I", 12 + len(held) - 6) + b"Exif" + bytes(4) + held[6:]
    content = files.by_oiio(tmp_path / "a.jxl", noise(9, 13, 3))
    origin = decode_image(content[:32] + box + content[32:], "photo").origin
    assert origin is not None and origin.exif == held[6:]


@pytest.mark.parametrize("bits", [8, 10])
def test_exif_of_an_avif_is_that_of_its_file(bits: int) -> None:
    values = noise(9, 13, 3, "uint8" if bits == 8 else "uint16") >> (0 if bits == 8 else 6)
    turning, held = camera_exif(orientation=6), camera_exif(orientation=1)
    content = files.avif(values, bits, exif=turning)  # which the encoder says once more, where it counts
    origin = decode_image(content.replace(turning, held), "photo").origin  # Pillow would write the block anew
    assert origin is not None and origin.exif == held
    turn = Image.Exif()
    turn[0x0112] = 6
    origin = decode_image(files.pillow_bytes(Image.new("RGB", (13, 9)), "AVIF", exif=turn), "photo").origin
    assert origin is not None and origin.exif is None  # the file has none: Pillow makes one to say how it is turned


def test_a_linear_jpeg_xl_becomes_srgb(tmp_path: Path) -> None:
    values = noise(9, 13, 3, "float32")  # which OpenImageIO says are linear
    expected = np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)
    picture = same(files.by_oiio(tmp_path / "a.jxl", values), expected, within=1e-3)
    assert picture.origin is not None and picture.origin.icc is not None and picture.origin.icc[36:40] == b"acsp"


def test_colours_that_are_said_by_numbers_are_told() -> None:
    for numbers, notices in (((1, 13), ()), ((9, 16), ("its colours (CICP 9, 16) are taken for sRGB",))):
        content = files.png(noise(9, 13, 3), before=files.chunk(b"cICP", bytes([*numbers, 0, 1])))
        picture = same_bits(content)
        assert picture.origin is not None and picture.origin.notices == notices
    text, said = files.chunk(b"tEXt", b"Comment\0of cICP chunks"), files.chunk(b"cICP", bytes([9, 16, 0, 1]))
    long = files.chunk(b"tEXt", b"Comment\0" + bytes(2**16))
    for before, count in ((text, 0), (long + said, 1)):
        picture = same_bits(files.png(noise(9, 13, 3), before=before))
        assert picture.origin is not None and len(picture.origin.notices) == count
    avif = files.avif(noise(9, 13, 3) >> 6, 10)
    place = avif.index(b"colrnclx") + 8
    picture = decode_image(avif[:place] + bytes([0, 9, 0, 18]) + avif[place + 4 :], "photo")
    assert picture.origin is not None and picture.origin.notices == ("its colours (CICP 9, 18) are taken for sRGB",)


# Several pictures in one file


def test_blocks_of_a_gif_are_not_counted_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(noise(9, 13, 3, "uint8") // (index + 1)) for index in range(3)]
    content = files.pillow_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    last = content.rindex(b"!\xf9\4")
    long = content[:last] + b"!\xfe" + b"\1x" * 1000 + b"\0" + content[last:]
    assert gif_frames(content) == gif_frames(long) == 3
    monkeypatch.setattr(chunks, "_MAX_BLOCKS", 100)
    assert gif_frames(content) == 3 and gif_frames(long) == 2


def test_compressed_metadata_of_a_jpeg_xl_are_told_once(tmp_path: Path) -> None:
    content = files.by_oiio(tmp_path / "a.jxl", noise(9, 13, 3))
    end = 12 + int.from_bytes(content[12:16])  # of the boxes in front
    box = struct.pack(">I", 16) + b"brobxml " + bytes(4)
    assert read_header(content[:end] + 3 * box + content[end:], "a").notices == (
        "its compressed XMP is left out",
        "its compressed EXIF is left out",  # of the encoder's own
    )


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(9, 13, 3, "uint8") // (index + 1)) for index in range(4)]
    for kind, notice in (
        ("GIF", "3 more frames are left out"),
        ("WEBP", "3 more frames are left out"),
        ("PNG", "3 more frames are left out"),
        ("AVIF", "3 more frames are left out"),
        ("TIFF", "3 more pages are left out"),
        ("MPO", "3 more pictures are left out"),
    ):
        options = {} if kind != "WEBP" else {"lossless": True}
        content = files.pillow_bytes(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        picture = decode_image(content, "photo")
        assert picture.origin is not None and picture.origin.notices == (notice,), kind
        if kind in ("WEBP", "PNG", "TIFF"):
            assert np.array_equal(to_uint8(picture.pixels).permute(1, 2, 0).numpy(), np.asarray(frames[0]))
    for deep in (files.tiff(noise(9, 13, 3), pages=2), files.tiff(noise(9, 13, 3, "float32"), pages=2)):
        picture = decode_image(deep, "photo")
        assert picture.origin is not None and picture.origin.notices == ("1 more page is left out",)
    endless = bytearray(files.tiff(noise(9, 13, 3)))
    first = struct.unpack_from("<I", endless, 4)[0]
    count = struct.unpack_from("<H", endless, first)[0]
    struct.pack_into("<I", endless, first + 2 + 12 * count, first)
    assert decode_image(bytes(endless), "photo").origin is not None  # which leads back to itself
    many = files.tiff(noise(1, 1, 3), pages=1500)
    picture = decode_image(many, "photo")
    assert picture.origin is not None and picture.origin.notices == ("at least 999 more pages are left out",)


# Truncated files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (f"{kind}-{number}", files.pillow_bytes(Image.fromarray(noise(40, 30, 3, "uint8")), kind, **options))
            for number, (kind, options) in enumerate(
                (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("PPM", {}))
            )
        ),
        ("PNG16", files.png(noise(40, 30, 3))),
    ],
)
def test_truncated_files_are_refused_unless_accepted(name: str, content: bytes) -> None:
    whole = decode_image(content, "photo")
    cut = content[: len(content) * 2 // 3]
    assert refused(cut).startswith("photo: is truncated or damaged (")
    picture = decode_image(cut, "photo", accept_truncated=True)
    assert picture.pixels.shape == whole.pixels.shape
    assert picture.origin is not None and picture.origin.notices[0].startswith("it is truncated")
    if name == "JPEG-1":  # which comes in passes over the whole
        assert (picture.pixels - whole.pixels).abs().mean() < (0.5 - whole.pixels).abs().mean()
    else:
        assert ((picture.pixels - whole.pixels).abs() < 1e-3).float().mean() > 0.3
    assert whole.origin is not None and whole.origin.notices == ()


def test_a_truncated_deep_tiff_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    values = noise(300, 40, 3)
    content = bytearray(files.tiff(values))
    first = struct.unpack_from("<I", content, 4)[0]
    directory, pixels = content[first:], content[8:first]
    moved = bytearray(content[:4] + struct.pack("<I", 8) + directory + pixels)
    shift = first - 8  # every place beyond the directory comes nearer to the front
    for index in range(struct.unpack_from("<H", moved, 8)[0]):
        at = 10 + 12 * index
        tag, kind, count, value = struct.unpack_from("<HHII", moved, at)
        if tag == 273:
            struct.pack_into("<I", moved, at + 8, 8 + len(directory))
        elif count * (2 if kind == 3 else 4) > 4:
            struct.pack_into("<I", moved, at + 8, value - shift)
    same(bytes(moved), values / 65535)
    cut = bytes(moved[: len(moved) * 2 // 3])
    assert refused(cut).startswith("photo: is truncated or damaged (")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", rowsperstrip=10)
    cut = buffer.getvalue()[: len(buffer.getvalue()) * 2 // 3]
    picture = decode_image(cut, "photo", accept_truncated=True)
    assert np.abs(channels_last(picture)[:190] - values[:190] / 65535).max() < 1e-6
    assert picture.origin is not None and picture.origin.notices[0].startswith("it is truncated")


@pytest.mark.parametrize("kind", ["JXL", "WEBP", "AVIF", "JPEG2000"])
def test_what_cannot_be_read_in_part_is_refused_even_then(kind: str, tmp_path: Path) -> None:
    if kind == "JXL":
        content = files.by_oiio(tmp_path / "a.jxl", noise(40, 30, 3))
    else:
        content = files.pillow_bytes(Image.fromarray(noise(40, 30, 3, "uint8")), kind)
    for end in (len(content) // 2, 40, 13):
        assert refused(content[:end], accept_truncated=True).startswith("photo: is ")


# Limits


def bomb(width: int, height: int, color: int = 6) -> bytes:
    """A small PNG of many pixels."""
    header = files.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))
    row = 1 + width * {2: 3, 6: 4}[color]
    pack = zlib.compressobj(9)
    pixels = b"".join(pack.compress(bytes(row)) for _ in range(height)) + pack.flush()
    return b"\x89PNG\r\n\x1a\n" + header + files.chunk(b"IDAT", pixels) + files.chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    content = bomb(1000, 1000)
    assert len(content) < 8000
    assert decode_image(content, "photo").pixels.shape == (3, 1000, 1000)
    told = "photo: 1000 x 1000 pixels exceed the limit of 999999; crop or shrink it."
    assert refused(content, limits=Limits(max_pixels=999_999)) == told
    assert "a side of 1000 pixels exceeds the limit of 999" in refused(content, limits=Limits(max_side=999))
    assert "has more than the limit of 999 bytes" in refused(content, limits=Limits(max_bytes=999))
    (tmp_path / "bomb.png").write_bytes(content)
    for file in (tmp_path / "bomb.png", io.BytesIO(content)):
        with pytest.raises(InputError, match="has more than the limit of 999 bytes"):
            read_image(file, limits=Limits(max_bytes=999))
    with pytest.raises(InputError, match="pixels exceed"):
        picture_size(tmp_path / "bomb.png", limits=Limits(max_pixels=999_999))


def test_jpegs_of_many_scans_and_parts_are_refused() -> None:
    content = files.pillow_bytes(Image.fromarray(noise(16, 16, 3, "uint8")), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    many = content[:last] + content[last:-2] * 150 + b"\xff\xd9"
    assert "has more than the limit of 100 scans; save it again as a plain JPEG." in refused(many)
    assert decode_image(content, "photo").origin is not None
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200  # not of the picture
    assert decode_image(content[:2] + thumbnail + content[2:], "photo").origin is not None
    empty = content[:2] + b"\xff\xe5\0\2" * 150_000 + content[2:]
    assert "is made of too many small parts" in refused(empty)
    assert "is made of too many small parts" in refused(content[:2] + bytes(100_000) + content[2:])
    deep = bytearray(content)
    deep[content.index(b"\xff\xc2") + 4] = 12
    assert "is a JPEG of 12 bits a value, which is not read; convert it to PNG or TIFF" in refused(bytes(deep))


def test_metadata_that_unpack_to_too_much_are_refused() -> None:
    packed = zlib.compress(bytes(2**22), 9)
    for part in (
        files.chunk(b"zTXt", b"Comment\0\0" + packed),
        files.chunk(b"iCCP", b"icc\0\0" + packed),
        files.chunk(b"iTXt", b"Comment\0\1\0en\0\0" + packed),
    ):
        for depth in ("uint8", "uint16"):
            content = files.png(noise(4, 4, 3, depth), before=part)
            told = refused(content, limits=Limits(max_metadata=2**20))
            assert told == "photo: its metadata unpack to more than the limit of 1048576 bytes; remove them."
    many = files.png(noise(4, 4, 3), before=files.chunk(b"teXt", b"") * 140_000)
    assert "is made of too many small parts" in refused(many)


def test_headers_take_no_long_time() -> None:
    broken = files.chunk(b"prVt", b"\xff" * 2**20) + files.chunk(b"iTXt", b"k\0\1\xff") * 50_000
    for content in (
        files.png(noise(4, 4, 3, "uint8"), before=broken),  # texts without what stands between their words
        b"P5" + b" " * 2000 + b"4 4 255\n" + bytes(16),
    ):
        start = time.monotonic()
        assert decode_image(content, "photo").width == 4
        assert time.monotonic() - start < 5


def test_a_long_header_takes_little_memory() -> None:
    content = b"P6" + b" #\n" * 2**18 + b"4 4 65535\n" + bytes(96)
    tracemalloc.start()
    try:
        assert plain_bits(content) == 16 and tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_jpeg_xl_is_refused_by_its_header(tmp_path: Path) -> None:
    content = files.by_oiio(tmp_path / "a.jxl", noise(9, 13, 3))
    header = read_header(content, "a")
    assert (header.width, header.height, header.bits) == (13, 9, 16)
    assert "13 x 9 pixels exceed the limit of 100" in refused(content, limits=Limits(max_pixels=100))
    bits = "0" + "11" + f"{2**30 - 1:030b}"[::-1] + "100"  # height 2^30, as wide as it is high
    huge = int(bits[::-1], 2).to_bytes(5, "little")
    assert "1073741824 x 1073741824 pixels exceed" in refused(b"\xff\x0a" + huge + bytes(20))


def test_devices_are_not_read(tmp_path: Path) -> None:
    for read in (read_image, picture_size):
        with pytest.raises(InputError, match=r"^/dev/zero: is a device, not a picture; name a file\.$"):
            read(Path("/dev/zero"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_is_read_but_has_no_size_beforehand(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        for read in (read_image, picture_size):
            writing = pool.submit((tmp_path / "pipe").write_bytes, files.png(noise(4, 5, 3)))
            if read is read_image:
                assert read_image(tmp_path / "pipe").width == 5
            else:
                with pytest.raises(InputError, match=r"pipe: cannot be read \(.*seek.*\); "):
                    picture_size(tmp_path / "pipe")
            writing.exception()


def test_errors_call_a_file_as_they_are_told() -> None:
    for file in (b"text", io.BytesIO(b"text")):
        with pytest.raises(InputError, match=r"^photo\.jpg: is not an image"):
            read_image(file, named="photo.jpg")


@pytest.mark.parametrize("name", ["-dash.png", "new\nline.png", "ü😀.png", "n" * 251 + ".png", "no suffix"])
def test_any_name_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(files.png(noise(4, 5, 3)))
    assert read_image(name).pixels.shape == (3, 4, 5)
    Path(name).write_bytes(files.png(noise(4, 5, 3))[:50])
    with pytest.raises(InputError) as caught:
        read_image(name)
    assert "\n" not in str(caught.value)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(files.png(noise(4, 5, 3)))
    picture = read_image(tmp_path / "a.jpg")
    assert picture.origin is not None and picture.origin.format == "PNG"
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(InputError, match="is not an image that can be read"):  # and no program is started for it
        read_image(tmp_path / "b.png")


# Colour


def profile(kind: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()


@pytest.mark.parametrize("bits", [8, 16])
def test_profiles_are_applied_when_a_file_is_read(bits: int) -> None:
    values = noise(9, 13, 3, f"uint{bits}")
    display_p3 = [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)]
    icc = matrix_profile(display_p3, (0.3127, 0.3290), gamma(2.2))
    packed = files.chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))
    plain = decode_image(files.png(values), "photo")
    picture = same_bits(files.png(values, before=packed))
    assert picture.origin is not None and picture.origin.icc == icc
    assert picture.excess is not None and picture.excess.abs().max() > 0.01
    assert (picture.pixels - plain.pixels).abs().max() > 0.01
    srgb = files.chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile("sRGB")))
    again = same_bits(files.png(values, before=srgb))
    assert again.excess is None and (again.pixels == plain.pixels).all()
    broken = same_bits(files.png(values, before=files.chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"no profile" * 20))))
    assert (broken.pixels == plain.pixels).all()
    assert broken.origin is not None and "taken for sRGB" in broken.origin.notices[0]


def test_tiffs_that_contradict_themselves_are_pictures_or_refused() -> None:
    content = bytearray(files.tiff(noise(9, 13, 3, "float32")))
    entry = next(place for place in range(len(content)) if content[place : place + 4] == b"\x53\x01\x03\0")
    content[entry + 2] = 255  # the kind of number is of no kind itself
    with contextlib.suppress(InputError):
        decode_image(bytes(content), "photo")
    far = struct.pack("<4sHHQ", b"II+\0", 8, 0, 16) + struct.pack("<Q", 2**63)  # so many entries
    assert tiff_pages(far) == 1


def test_a_damaged_picture_of_many_rows_is_told_in_a_short_line() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, noise(64, 13, 3), photometric="rgb", compression="deflate", rowsperstrip=1)
    content = buffer.getvalue()
    cut = len(content) // 3
    unpackable = files.tiff(noise(9, 13, 3), tags={259: 8})  # deflate, it says
    for damaged in (content[:cut] + bytes(len(content) - cut), unpackable):
        with pytest.raises(InputError, match=r"^photo: is truncated or damaged \(.* .*\); copy") as told:
            decode_image(damaged, "photo")
        assert len(str(told.value)) < 200
