"""Pictures in files: depth, colours and metadata as they came, read back by a second library."""

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
import torch
from color_helpers import DISPLAY_P3, GRAY_22, cmyk_profile
from full_disk import room_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures_with_metadata import ICC, IPTC, LATITUDE, MAKER_NOTE, XMP, camera_exif, picture_file, tags_of
from PIL import Image

from xpsr.errors import InputError
from xpsr.image import Origin, Picture, WriteOptions, image_bytes, to_picture, to_uint8, write_image, write_strips
from xpsr.image.metadata import found
from xpsr.image.origin import Metadata
from xpsr.image.profiles import to_srgb
from xpsr.image.xmp import Provenance

CMYK = cmyk_profile()
WHOLE = Origin(format="JPEG", icc=ICC, exif=camera_exif(), xmp=XMP, iptc=IPTC, dpi=(300, 150))
MADE = Provenance(software="xpsr 0.1.0", model="mini", seed=7)


def picture(origin: Origin | None = WHOLE, *, height: int = 12, width: int = 16, has_alpha: bool = False) -> Picture:
    planes = torch.rand(4, height, width, generator=torch.Generator().manual_seed(height * width))
    if origin is not None and origin.model == "gray":
        planes[:3] = planes[:1]
    return Picture(pixels=planes[:3], alpha=planes[3:] if has_alpha else None, origin=origin)


def read_back(path: Path) -> NDArray[Any]:
    """Values (H, W, C) as they are stored."""
    import OpenImageIO as oiio

    config = oiio.ImageSpec()
    config["oiio:UnassociatedAlpha"] = 1
    source = oiio.ImageInput.open(str(path), config)
    assert source is not None, oiio.geterror()
    values = source.read_image(oiio.UNKNOWN)
    source.close()
    return np.asarray(values)


def found_at(path: Path) -> Metadata:
    with Image.open(path) as image:
        return found(image)


# Depth


@pytest.mark.parametrize("model", ["gray", "rgb"])
@pytest.mark.parametrize("has_alpha", [False, True])
@pytest.mark.parametrize(("bits", "kinds"), [(8, "png tif webp jpg avif jxl"), (16, "png tif jxl"), (32, "tif")])
def test_depth_and_channels_are_as_they_came(
    tmp_path: Path, model: Literal["gray", "rgb"], has_alpha: bool, bits: int, kinds: str
) -> None:
    image = picture(Origin(format="PNG", model=model, bits=bits), has_alpha=has_alpha)
    for kind in kinds.split():
        path = tmp_path / f"a.{kind}"
        if kind == "jpg" and has_alpha:
            continue
        write_image(path, image)
        if kind == "avif":
            with Image.open(path) as opened:
                values = np.asarray(opened)
        else:
            values = read_back(path)
        assert values.dtype == {8: np.uint8, 16: np.uint16, 32: np.float32}[bits], kind
        is_rgb = model == "rgb" or kind in ("webp", "avif") or (kind == "jxl" and has_alpha)  # which know no gray
        assert values.reshape(12, 16, -1).shape[2] == (3 if is_rgb else 1) + has_alpha, kind
        scale = {8: 255, 16: 65535, 32: 1}[bits]
        planes = [image.pixels] if is_rgb else [image.pixels[:1]]
        planes += [image.alpha] if image.alpha is not None else []
        expected = torch.cat(planes).permute(1, 2, 0).numpy() * scale
        error = np.abs(values.reshape(12, 16, -1) - expected).max()
        assert error <= (70 if kind in ("jpg", "avif") else 0.505 if bits < 32 else 0), kind


def test_pillow_and_tifffile_read_sixteen_bits_alike(tmp_path: Path) -> None:
    image = picture(Origin(format="TIFF", model="gray", bits=16))
    expected = (image.pixels[0] * 65535).round().numpy().astype(np.uint16)
    for name in ("a.png", "a.tif"):
        write_image(tmp_path / name, image)
        with Image.open(tmp_path / name) as opened:
            assert np.array_equal(np.asarray(opened), expected)
    rgb = picture(Origin(format="TIFF", bits=32))
    write_image(tmp_path / "f.tif", rgb)
    assert np.array_equal(tifffile.imread(tmp_path / "f.tif"), rgb.pixels.permute(1, 2, 0).numpy())


def test_what_never_was_a_file_has_eight_bits(tmp_path: Path) -> None:
    image = picture(None)
    for name in ("a.png", "a.tif", "a.webp", "a.bmp"):
        write_image(tmp_path / name, image)
        with Image.open(tmp_path / name) as opened:
            assert np.array_equal(np.asarray(opened), to_uint8(image.pixels).permute(1, 2, 0).numpy()), name


def test_steps_between_eight_bits_are_dithered_where_there_were_more(tmp_path: Path) -> None:
    ramp = torch.linspace(100 / 255, 104 / 255, 512).expand(3, 64, 512)
    write_image(tmp_path / "a.webp", Picture(pixels=ramp, origin=Origin(format="TIFF", bits=16)))
    with Image.open(tmp_path / "a.webp") as opened:
        values = np.asarray(opened).astype(float)
    assert (values[..., 0] == values[..., 2]).all()  # gray stays gray
    blurred = values[..., 0].reshape(4, 16, 32, 16).mean((1, 3))
    expected = (ramp[0] * 255).numpy().reshape(4, 16, 32, 16).mean((1, 3))
    assert np.abs(blurred - expected).max() < 0.1
    flat = torch.full((3, 64, 64), 77 / 255)
    write_image(tmp_path / "b.webp", Picture(pixels=flat, origin=Origin(format="TIFF", bits=16)))
    with Image.open(tmp_path / "b.webp") as opened:
        assert (np.asarray(opened) == 77).all()


# Colours


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "avif", "jxl"])
def test_colors_go_back_into_the_file_s_profile(tmp_path: Path, kind: str) -> None:
    planes = torch.linspace(0, 1, 16 * 12 * 3).reshape(12, 16, 3).permute(2, 0, 1)
    pixels, excess, _ = to_srgb(planes, DISPLAY_P3, model="rgb")
    assert excess is not None
    image = Picture(pixels=pixels, excess=excess, origin=Origin(format="PNG", bits=16, icc=DISPLAY_P3))
    write_image(tmp_path / f"a.{kind}", image)
    if kind == "avif":
        with Image.open(tmp_path / "a.avif") as opened:
            values = np.asarray(opened)
    else:
        values = read_back(tmp_path / f"a.{kind}")
    scale = 65535 if values.dtype == np.uint16 else 255
    error = np.abs(values / scale - planes.permute(1, 2, 0).numpy()).max()
    assert error < {"jpg": 0.03, "avif": 0.03, "webp": 1.01 / 255}.get(kind, 1.01 / 65535)
    if kind != "jxl":
        assert found_at(tmp_path / f"a.{kind}").icc == DISPLAY_P3


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "bmp"])
def test_an_opened_image_of_pillow_is_what_its_file_is(tmp_path: Path, kind: str) -> None:
    source, exif = tmp_path / "source.png", Image.Exif()
    exif[274] = 6
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for icc in (DISPLAY_P3, None):
        Image.fromarray(values).save(source, exif=exif, icc_profile=icc)
        of_file = to_picture(source)
        with Image.open(source) as opened:
            seen = to_picture(opened)
            assert torch.equal(seen.pixels, of_file.pixels)
            write_image(tmp_path / f"a.{kind}", opened)
        again, was = to_picture(tmp_path / f"a.{kind}"), of_file.pixels
        now = again.pixels
        if icc is not None and kind != "bmp":
            assert seen.excess is not None and of_file.excess is not None and again.excess is not None
            assert torch.equal(seen.excess, of_file.excess)
            was, now = was + of_file.excess, now + again.excess
        assert (now - was).abs().mean() < (0.03 if kind == "jpg" else 0.002)
    with Image.open(source) as opened:
        opened.info["icc_profile"] = CMYK  # as `convert("RGB")` leaves it
        write_image(tmp_path / f"a.{kind}", opened)
    with Image.open(tmp_path / f"a.{kind}") as written:
        assert "icc_profile" not in written.info


def test_a_file_without_a_place_for_a_profile_is_srgb(tmp_path: Path) -> None:
    image = Picture(pixels=torch.rand(3, 6, 8), excess=torch.rand(3, 6, 8), origin=Origin(format="PNG", icc=DISPLAY_P3))
    assert write_image(tmp_path / "a.bmp", image) == ()
    with Image.open(tmp_path / "a.bmp") as opened:
        assert np.array_equal(np.asarray(opened), to_uint8(image.pixels).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "avif", "jxl"])
def test_a_gray_profile_goes_where_gray_goes(tmp_path: Path, kind: str) -> None:
    planes = torch.linspace(0, 1, 16 * 12).reshape(1, 12, 16)
    pixels, _, _ = to_srgb(planes, GRAY_22, model="gray")
    write_image(tmp_path / f"a.{kind}", Picture(pixels=pixels, origin=Origin(format="PNG", model="gray", icc=GRAY_22)))
    if kind == "jxl":
        expected = planes
        values = read_back(tmp_path / "a.jxl") / 255
    else:
        expected = pixels[:1] if kind in ("webp", "avif") else planes
        assert found_at(tmp_path / f"a.{kind}").icc == (None if kind in ("webp", "avif") else GRAY_22)
        with Image.open(tmp_path / f"a.{kind}") as opened:
            values = np.asarray(opened) / 255
    assert np.abs(values.reshape(12, 16, -1)[..., 0] - expected[0].numpy()).max() < 0.01


@pytest.mark.parametrize("kind", ["jpg", "tif", "png"])
def test_cmyk_stays_where_it_is_asked_to(tmp_path: Path, kind: str) -> None:
    smooth = torch.linspace(0, 1, 16).expand(16, -1)
    inks = torch.stack([smooth, smooth.T, 1 - smooth, torch.zeros(16, 16)])
    pixels, _, _ = to_srgb(inks, CMYK, model="cmyk")
    image = Picture(pixels=pixels, origin=Origin(format="TIFF", model="cmyk", icc=CMYK))
    assert write_image(tmp_path / f"a.{kind}", image) == ("its CMYK is written as sRGB",)
    with Image.open(tmp_path / f"a.{kind}") as opened:
        assert opened.mode == "RGB" and not opened.info.get("icc_profile")
    told = write_image(tmp_path / f"a.{kind}", image, options=WriteOptions(keep_cmyk=True))
    if kind == "tif":
        deep = replace(image, origin=Origin(format="TIFF", model="cmyk", icc=CMYK, bits=16))
        told = write_image(tmp_path / "a.tif", deep, options=WriteOptions(keep_cmyk=True))
        assert told == ("its 16 bits are written as 8 bits",)
        told = ()
    with Image.open(tmp_path / f"a.{kind}") as opened:
        assert opened.mode == ("RGB" if kind == "png" else "CMYK") and bool(told) == (kind == "png")
        if kind != "png":
            assert opened.info["icc_profile"] == CMYK
            values = torch.from_numpy(np.array(opened)).permute(2, 0, 1) / 255
            again, _, _ = to_srgb(values, CMYK, model="cmyk")
            assert (again - pixels).abs().mean() < 0.03


# Metadata


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "avif", "tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_metadata_is_kept_and_patched(tmp_path: Path, kind: str, bits: int) -> None:
    path = tmp_path / f"a.{kind}"
    image = picture(Origin(**{**vars(WHOLE), "bits": bits}))
    notices = write_image(path, image, options=WriteOptions(provenance=MADE))
    metadata = found_at(path)
    assert metadata.icc == ICC
    tags = tags_of(metadata.exif)
    assert tags.get(274, 1) == 1 and tags[305] == "xpsr 0.1.0" and tags.get_ifd(0x8769)[0xA002] == 16
    assert tags.get_ifd(0x8825)[2] == (48, 8, 30)
    assert metadata.exif is not None and MAKER_NOTE in metadata.exif and "Café".encode() in metadata.exif
    if kind != "tif":
        assert metadata.exif.index(MAKER_NOTE) == camera_exif().index(MAKER_NOTE)
    assert metadata.xmp is not None and b"J\xc3\xb6rg" in metadata.xmp and b'tiff:Orientation="1"' in metadata.xmp
    assert b'xpsr:Model="mini"' in metadata.xmp and b"compositeWithTrainedAlgorithmicMedia" in metadata.xmp
    fewer = ("its 16 bits are written as 8 bits",) if bits == 16 and kind not in ("png", "tif") else ()
    if kind in ("webp", "avif"):
        assert notices == (*fewer, f"its IPTC has no place in {kind.upper()}")
    else:
        assert notices == fewer and metadata.iptc == IPTC
        assert metadata.dpi == pytest.approx((300, 150), rel=1e-3)
    read_back(path) if kind not in ("avif",) else None
    assert image_bytes(path, image, WriteOptions(provenance=MADE)) == path.read_bytes()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_exif_is_byte_exact_but_for_the_patches(tmp_path: Path, kind: str) -> None:
    before = camera_exif()
    write_image(tmp_path / f"a.{kind}", picture())
    after = found_at(tmp_path / f"a.{kind}").exif
    assert after is not None
    assert sum(one != other for one, other in zip(before, after, strict=False)) <= 8


def test_jpeg_xl_has_exif_and_xmp_in_boxes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jxl", picture(), options=WriteOptions(provenance=MADE))
    content = (tmp_path / "a.jxl").read_bytes()
    assert MAKER_NOTE in content and b"compositeWithTrained" in content
    assert b"brob" not in content  # EXIF of the encoder's own
    assert read_back(tmp_path / "a.jxl").shape == (12, 16, 3)
    import OpenImageIO as oiio

    source = oiio.ImageInput.open(str(tmp_path / "a.jxl"))
    assert bytes(source.spec()["ICCProfile"]) == ICC
    source.close()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "avif", "tif"])
@pytest.mark.parametrize("software", ["xpsr 0.1.0", "x 1"])
def test_exif_of_which_nothing_is_left_tells_how_it_came_about(tmp_path: Path, kind: str, software: str) -> None:
    turned, placed = Image.Exif(), Image.Exif()
    turned[274] = 6
    placed.get_ifd(0x8825)[1] = "N"
    for exif in (turned, placed):
        image = picture(Origin(format="JPEG", exif=exif.tobytes()[6:]))
        made = Provenance(software=software, model="mini")
        assert write_image(tmp_path / f"a.{kind}", image, options=WriteOptions(provenance=made, strip_gps=True)) == ()
        with Image.open(tmp_path / f"a.{kind}") as opened:
            told = opened.getexif()
            assert told[305].rstrip("\0") == software and 0x8825 not in told


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "avif", "tif", "jxl"])
def test_the_place_or_all_of_it_is_left_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    write_image(path, picture(), options=WriteOptions(strip_gps=True, provenance=MADE))
    content = path.read_bytes()
    swapped = np.frombuffer(LATITUDE, ">u4").astype("<u4").tobytes()
    assert LATITUDE not in content and swapped not in content and b"48,8.5N" not in content
    if kind != "jxl":
        assert 0x8825 not in tags_of(found_at(path).exif)
    write_image(path, picture(), options=WriteOptions(strip_metadata=True))
    content = path.read_bytes()
    assert MAKER_NOTE not in content and b"adobe:ns:meta" not in content and b"rg!" not in content
    if kind != "jxl":
        assert found_at(path).icc == ICC


def test_what_a_jpeg_cannot_hold_is_told(tmp_path: Path) -> None:
    large = Origin(format="PNG", exif=camera_exif() + bytes(2**16), xmp=XMP + b" " * 2**16, iptc=IPTC * 5000, icc=ICC)
    notices = write_image(tmp_path / "a.jpg", picture(large))
    assert notices == tuple(f"its {name} is too large for a JPEG and left out" for name in ("EXIF", "XMP", "IPTC"))
    assert found_at(tmp_path / "a.jpg").icc == ICC
    profile = ICC + bytes(200_000)
    write_image(tmp_path / "a.jpg", picture(Origin(format="PNG", icc=profile)))
    assert found_at(tmp_path / "a.jpg").icc == profile
    assert write_image(tmp_path / "a.bmp", picture()) == ("its EXIF, XMP and IPTC have no place in BMP",)
    made = WriteOptions(provenance=MADE)
    assert (
        write_image(tmp_path / "a.bmp", picture(Origin(format="PNG")), options=made) == ()
    )  # nothing of the picture's


@pytest.mark.parametrize(("model", "icc"), [("rgb", DISPLAY_P3), ("gray", GRAY_22)])
def test_a_bmp_has_no_profile_and_is_srgb(tmp_path: Path, model: Literal["gray", "rgb"], icc: bytes) -> None:
    image = picture(Origin(format="TIFF", model=model, icc=icc))
    write_image(tmp_path / "a.bmp", image)
    with Image.open(tmp_path / "a.bmp") as opened:
        values = np.asarray(opened.convert("RGB"))
    assert np.array_equal(values, to_uint8(image.pixels).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", ["a.webp", "a.avif", "a.jxl"])
def test_a_resolution_that_is_lost_is_told(tmp_path: Path, name: str) -> None:
    kind = Path(name).suffix[1:].upper()
    told = write_image(tmp_path / name, picture(Origin(format="PNG", dpi=(300.0, 300.0))))
    assert told == (f"its pixels an inch have no place in {kind}",)
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 300.0, 300.0, 2
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    assert write_image(tmp_path / name, picture(Origin(format="PNG", dpi=(300.0, 300.0), exif=block))) == ()
    if kind != "JXL":  # which Pillow does not open
        assert found_at(tmp_path / name).dpi == (300, 300)


@pytest.mark.parametrize(
    ("bits", "name", "told"), [(10, "a.avif", "10 bits"), (16, "a.jpg", "16 bits"), (32, "a.png", "floats")]
)
def test_fewer_bits_are_told(tmp_path: Path, bits: int, name: str, told: str) -> None:
    left = 16 if name == "a.png" else 8
    image = picture(Origin(format="TIFF", bits=bits))
    assert write_image(tmp_path / name, image) == (f"its {told} are written as {left} bits",)


@settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["jpg", "png", "webp", "tif", "avif"]))
def test_damaged_metadata_gives_a_picture_all_the_same(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    exif, xmp = bytearray(camera_exif()), bytearray(XMP)
    for content in (exif, xmp):
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(content) - 4))
            content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    cut = data.draw(st.integers(1, len(exif)))
    origin = Origin(format="JPEG", exif=bytes(exif[:cut]), xmp=bytes(xmp), iptc=b"\x1c", icc=b"profile", dpi=(1e6, 1))
    write_image(tmp_path / f"a.{kind}", picture(origin), options=WriteOptions(strip_gps=cut % 2 == 0, provenance=MADE))
    with Image.open(tmp_path / f"a.{kind}") as image:
        image.load()
        assert image.size == (16, 12)


def test_a_tiff_says_no_hour_of_its_own(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", picture(Origin(format="TIFF", bits=16)))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = {tag.name for tag in file.pages[0].tags}  # type: ignore[union-attr]
    assert not tags & {"DateTime", "XMP", "Software"}
    assert b"CreateDate" not in (tmp_path / "a.tif").read_bytes()


# What cannot be


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    wide = Picture(pixels=torch.zeros(3, 1, 16384))
    with pytest.raises(InputError, match=r"a\.webp: WEBP cannot hold this picture \(a side has more than 16383 p"):
        write_image(tmp_path / "a.webp", wide)
    for name, kind in (("a.jpg", "JPEG"), ("a.bmp", "BMP")):  # few readers see transparency in a BMP
        with pytest.raises(InputError, match=rf"{kind} cannot hold this picture \(it has transparency\); use \.png\.$"):
            write_image(tmp_path / name, picture(has_alpha=True))
    for name, remedy in (("a.jpg", r"use \.png"), ("a.png", "convert it to RGB")):
        with pytest.raises(InputError, match=rf"cannot hold this picture \(cannot write mode F .*\); {remedy}\.$"):
            write_image(tmp_path / name, Image.new("F", (4, 4)))
    with pytest.raises(InputError, match=r"quality=0 is not in \[1, 100\]"):
        WriteOptions(quality=0)
    for name, value in {"quality": 9.5, "strip_gps": "yes", "keep_cmyk": 1, "provenance": "mini"}.items():
        with pytest.raises(InputError, match=rf"^{name}={value} is "):
            WriteOptions(**{name: value})
    for rows, message in (([], "have 0 rows"), ([2], "have 2 rows"), ([2, 2], "are not of 4 x 3")):
        for origin in (None, Origin(format="TIFF", bits=16)):
            strips = [Picture(pixels=torch.zeros(3, number, 4), origin=origin) for number in rows]
            with pytest.raises(InputError, match=f"^strips {message}; give "):
                write_strips(tmp_path / "a.png", strips, (4, 3))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit on the size of files")
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jxl", "a.jpg", "a.webp"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    image = picture(Origin(format="TIFF", bits=16), height=64, width=64)
    with room_for(2048), pytest.raises(InputError) as caught:
        write_image(tmp_path / name, image)
    message = "cannot be written (File too large); free space or choose another disk."
    assert (str(caught.value), caught.value.code) == (f"{tmp_path / name}: {message}", "disk_full")
    assert not list(tmp_path.iterdir())


# Quality


def test_quality_is_that_of_lossy_formats(tmp_path: Path) -> None:
    image = picture(None, height=64, width=64)
    for kind in ("jpg", "webp", "avif", "jxl"):
        sizes = [len(image_bytes(Path(f"a.{kind}"), image, WriteOptions(quality=quality))) for quality in (30, 90)]
        assert sizes[0] < sizes[1] < len(image_bytes(Path(f"a.{kind}"), image)) + (kind == "avif"), kind
    assert len({image_bytes(Path("a.png"), image, WriteOptions(quality=quality)) for quality in (30, 90)}) == 1
    with Image.open(io.BytesIO(image_bytes(Path("a.jpg"), image))) as opened:
        assert [component[1:3] for component in opened.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


# Strips


def strips_of(height: int, width: int, rows: int, origin: Origin) -> Iterator[Picture]:
    columns = torch.linspace(0, 1, width)
    for top in range(0, height, rows):
        down = torch.arange(top, min(top + rows, height)) / height
        plane = (columns[None] + down[:, None]) / 2
        yield Picture(pixels=torch.stack([plane, plane * 0.5, 1 - plane]), origin=origin)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_strips_give_the_file_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    origin = Origin(**{**vars(WHOLE), "bits": 8 if name == "a.jpg" else 16})
    whole = torch.cat([strip.pixels for strip in strips_of(90, 70, 7, origin)], dim=1)
    monkeypatch.setattr("xpsr.image.writing._ROWS", 70 * 11)
    monkeypatch.setattr("xpsr.image.writing._WHOLE", 0)
    write_image(tmp_path / name, Picture(pixels=whole, origin=origin))
    write_strips(tmp_path / f"strips_{name}", strips_of(90, 70, 7, origin), (70, 90))
    assert (tmp_path / name).read_bytes() == (tmp_path / f"strips_{name}").read_bytes()
    values, scale = read_back(tmp_path / name), 255 if name == "a.jpg" else 65535
    assert np.abs(values - whole.permute(1, 2, 0).numpy() * scale).max() < (20 if name == "a.jpg" else 0.51)
    assert found_at(tmp_path / name).icc == ICC
    if name == "a.jpg":
        with Image.open(tmp_path / name) as opened:
            assert [component[1:3] for component in opened.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jxl"])
def test_whatever_a_killed_writer_leaves_is_called_a_part(tmp_path: Path, name: str) -> None:
    left: set[str] = set()

    def strips() -> Iterator[Picture]:
        for strip in strips_of(40, 30, 5, Origin(format="TIFF", bits=16)):
            left.update(path.name for path in tmp_path.iterdir())
            yield strip

    write_strips(tmp_path / name, strips(), (30, 40))
    assert left and all(fnmatch(one, ".xpsr-*.part") for one in left)  # as those look for it who sweep


MEMORY = """
import resource, sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_writing import strips_of
from xpsr.image import Origin, write_strips
import OpenImageIO
side, name = int(sys.argv[1]), sys.argv[2]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_strips(Path(name), strips_of(side, side, 64, Origin(format="TIFF", bits=16)), (side, side))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    for name in ("a.tif", "a.png"):
        command = [sys.executable, "-c", MEMORY, "4096", str(tmp_path / name)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        assert int(told.stdout) < 60  # MB; the picture has 96, and 192 as floats


# Names in the world


def test_every_format_that_can_be_read_with_metadata_goes_through(tmp_path: Path) -> None:
    small = Image.new("RGB", (16, 12), "teal")
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        with Image.open(io.BytesIO(picture_file(kind, small))) as image:
            metadata = found(image)
        origin = Origin(format=kind, **vars(metadata))
        for suffix in ("jpg", "png", "webp", "avif", "tif"):
            write_image(tmp_path / f"a.{suffix}", picture(origin))
            again = found_at(tmp_path / f"a.{suffix}")
            assert again.icc == ICC and again.xmp is not None and again.exif is not None, (kind, suffix)
            assert (again.iptc == IPTC) == (kind in ("JPEG", "PNG", "TIFF") and suffix in ("jpg", "png", "tif"))
