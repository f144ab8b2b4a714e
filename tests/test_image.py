import errno
import io
import json
import os
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fork_server import run_python
from full_disk import room_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picture_files import by_oiio
from PIL import Image

from xpsr.errors import InputError
from xpsr.files import WRITTEN_SUFFIXES, atomic_write, list_images, write_text
from xpsr.image import (
    MAX_PIXELS,
    Limits,
    PictureFile,
    decode_rgb,
    picture_size,
    read_image,
    resize,
    to_picture,
    to_pil,
    to_uint8,
    write_image,
)
from xpsr.image.opening import without_remarks

quick = settings(
    deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
sizes = st.integers(1, 24)
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def in_range(values: torch.Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def refused(image: object) -> str:
    """The message with which `to_picture` refuses `image`: one line."""
    with pytest.raises(InputError) as caught:
        to_picture(image)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Any picture comes in


@quick
@given(height=sizes, width=sizes, mode=st.sampled_from(MODES))
def test_any_pil_mode_becomes_rgb_in_range(height: int, width: int, mode: str) -> None:
    channels = {"LA": 2, "PA": 2, "RGBA": 4, "RGBa": 4, "CMYK": 4}.get(mode, 3)
    if mode in ("I", "I;16", "F"):
        values = noise(height, width)[..., 0]
        image = Image.fromarray(values / np.float32(255) if mode == "F" else values.astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image
    elif channels == 3:
        image = Image.fromarray(noise(height, width)).convert(mode)
    else:
        image = Image.frombytes(mode, (width, height), noise(height, width, channels).tobytes())
    assert image.mode == mode
    picture = to_picture(image)
    assert picture.pixels.shape == (3, height, width)
    assert picture.pixels.dtype == torch.float32
    assert (picture.height, picture.width) == (height, width)
    assert in_range(picture.pixels)
    if picture.alpha is not None:
        assert picture.alpha.shape == (1, height, width)
        assert in_range(picture.alpha)
        assert not (picture.alpha == 1).all()


@quick
@given(
    height=sizes,
    width=sizes,
    channels=st.sampled_from([1, 3, 4]),
    dtype=st.sampled_from(["uint8", "uint16", ">u2", "float16", "float32", "float64"]),
)
def test_arrays_and_tensors_mean_the_same_picture(height: int, width: int, channels: int, dtype: str) -> None:
    values = noise(height, width, channels)
    steps = {"uint8": 1, "uint16": 257, ">u2": 257}  # of the dtype, in one step of 8 bit
    array = values.astype(dtype) * np.asarray(steps.get(dtype, 1 / 255), dtype=dtype)
    from_array = to_picture(array[::-1])  # a view that PyTorch would not take
    expected = torch.from_numpy(values[::-1] / np.float32(255)).permute(2, 0, 1)
    torch.testing.assert_close(from_array.pixels, expected[:3].expand(3, -1, -1), rtol=0, atol=1e-3)
    from_tensor = to_picture(torch.from_numpy(array[::-1].astype(dtype.replace(">u2", "u2"))).permute(2, 0, 1)[None])
    assert torch.equal(from_array.pixels, from_tensor.pixels)
    if channels == 4 and values[..., 3].min() < 255:
        assert from_array.alpha is not None
        assert from_tensor.alpha is not None
        torch.testing.assert_close(from_array.alpha, expected[3:], rtol=0, atol=1e-3)
        assert torch.equal(from_array.alpha, from_tensor.alpha)
    else:
        assert from_array.alpha is None


@quick
@given(height=sizes, width=sizes, channels=st.sampled_from([3, 4]))
def test_eight_bit_pictures_pass_through_unchanged(height: int, width: int, channels: int) -> None:
    values = noise(height, width, channels)
    picture = to_picture(Image.fromarray(values))
    assert np.array_equal(np.asarray(to_pil(picture.pixels, picture.alpha))[..., :channels], values[..., :channels])


def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256], [32768, 65534, 65535]], dtype=np.uint16)
    for name in ("gray.png", "gray.tif"):
        Image.fromarray(values).save(tmp_path / name)
        pixels = read_image(tmp_path / name).pixels
        torch.testing.assert_close(pixels[0], torch.from_numpy(values / np.float32(65535)))
        assert torch.equal(pixels[0], pixels[2])


@quick
@given(height=sizes, width=sizes, mode=st.sampled_from(MODES), orientation=st.sampled_from([1, 3, 6, 8]))
def test_eight_bits_that_stay_so_are_the_same_picture(
    height: int, width: int, mode: str, orientation: int, tmp_path: Path
) -> None:
    kept_by_png = mode if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "F") else "RGB"
    image = Image.fromarray(noise(height, width)).convert(kept_by_png)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("a.tif" if mode in ("F", "I") else "a.png")
    (image.point(lambda value: value / 255) if mode == "F" else image).save(path, exif=exif)
    pixels = decode_rgb(path.read_bytes(), "a")
    assert pixels.dtype == np.uint8 and pixels.flags.writeable
    assert np.array_equal(pixels, to_uint8(read_image(path).pixels).permute(1, 2, 0).numpy())


def test_undecodable_bytes_are_refused_by_name() -> None:
    for content, message in ((b"", "there: is empty"), (b"GIF89a", "there: "), (b"text", "there: is not an image")):
        with pytest.raises(InputError, match=message):
            decode_rgb(content, "there")


def test_palette_transparency_becomes_alpha(tmp_path: Path) -> None:
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 1, 2]))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for name, transparency in (("bytes", bytes([0, 128])), ("index", 0)):
        image.save(tmp_path / f"{name}.png", transparency=transparency)
        picture = read_image(tmp_path / f"{name}.png")
        assert picture.alpha is not None
        assert picture.alpha[0, 0, 0] == 0
        assert picture.alpha[0, 1, 1] == 1
        assert picture.pixels[:, 0, 0].tolist() == [1, 0, 0]


def test_opaque_alpha_is_dropped() -> None:
    assert to_picture(Image.new("RGBA", (4, 3), (10, 20, 30, 255))).alpha is None
    assert to_picture(torch.ones(4, 3, 4)).alpha is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    values = noise(5, 7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
    expected = {  # as the EXIF standard draws them
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.transpose(1, 0, 2),
        6: values[::-1].transpose(1, 0, 2),
        7: values[::-1, ::-1].transpose(1, 0, 2),
        8: values[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    assert np.array_equal(np.asarray(to_pil(read_image(tmp_path / "turned.png").pixels)), expected)


def test_broken_exif_does_not_spoil_a_photograph(tmp_path: Path) -> None:
    for exif in (b"Exif\0\0not a TIFF header", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03"):
        Image.fromarray(noise(8, 9)).save(tmp_path / "photo.jpg", exif=exif)
        assert read_image(tmp_path / "photo.jpg").pixels.shape == (3, 8, 9)


def test_reading_in_threads_leaves_the_warnings_of_others_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"  # Pillow warns of it, and here warnings are errors
    Image.fromarray(noise(8, 9)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03")
    content, before = path.read_bytes(), list(warnings.filters)

    def read(_: int) -> None:
        read_image(path)
        picture_size(path)
        decode_rgb(content, "photo")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(200)))
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before
    with pytest.raises(UserWarning, match="Corrupt EXIF data"):
        Image.open(io.BytesIO(content))


def test_reading_while_another_thread_catches_warnings_takes_only_its_own_filter_away(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 9)).save(tmp_path / "photo.png")
    before = list(warnings.filters)
    with warnings.catch_warnings():
        reader = without_remarks()
        reader.__enter__()
        with warnings.catch_warnings(), without_remarks():
            pass
        with warnings.catch_warnings():
            warnings.resetwarnings()
        reader.__exit__(None, None, None)
        assert warnings.filters == before
    assert warnings.filters == before


def test_a_picture_that_was_read_stays_as_it_is() -> None:
    picture = to_picture(noise(8, 9))
    assert to_picture(picture) is picture


def test_rounding_noise_is_clipped() -> None:
    pixels = to_picture(torch.tensor([-0.005, 1.0078]).expand(3, 1, 2)).pixels
    assert pixels[0, 0].tolist() == [0, 1]


# What is no picture is refused in one line


def test_values_outside_the_range_are_refused_with_their_remedy() -> None:
    ramp = torch.linspace(-1, 1, 12).reshape(3, 2, 2)
    assert refused(ramp) == "picture: values lie in [-1, 1], outside [0, 1]; if it is in [-1, 1], pass (x + 1) / 2."
    assert "divide it by its full scale (255 for 8 bit)" in refused(noise(4, 4).astype(np.float32))
    assert "divide it by its full scale" in refused(Image.new("L", (3, 3), 200).convert("F"))
    for value in (float("nan"), float("inf")):
        assert refused(torch.full((3, 2, 2), value)).startswith("picture: holds NaN or infinite values;")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.int64), "dtype int64 has no known range; use uint8, uint16 or floats"),
        (np.zeros((4, 4), dtype=bool), "dtype bool has no known range"),
        (np.zeros((4, 4), dtype=complex), "dtype complex128 has no known range"),
        (np.zeros((3, 4, 5)), "shape (3, 4, 5) is no picture; an array is (H, W, 3), channels last."),
        (np.zeros((2, 4, 4, 3)), "shape (2, 4, 4, 3) is a batch of 2; pass its pictures one by one."),
        (np.zeros(4), "shape (4,) is no picture"),
        (torch.zeros(5, 4, 3), "shape (5, 4, 3) is no picture; a tensor is (3, H, W), channels first."),
        (torch.zeros(2, 3, 4, 4), "shape (2, 3, 4, 4) is a batch of 2; pass its pictures one by one."),
        (torch.zeros(4, 4), "shape (4, 4) is no picture"),
        (torch.zeros(3, 0, 4), "has no pixels (4 x 0); use at least 1 x 1."),
        (np.zeros((5, 0, 3)), "has no pixels (0 x 5); use at least 1 x 1."),
        (Image.new("RGB", (0, 4)), "has no pixels (0 x 4); use at least 1 x 1."),
        (None, "image=null is no picture; use a path, the bytes of a file, a PIL image, an array or a tensor."),
    ],
)
def test_what_is_no_picture_is_refused(image: object, message: str) -> None:
    assert refused(image).startswith("picture: " if image is not None else "image=")
    assert message in refused(image)


def damaged_files(folder: Path) -> dict[str, tuple[Path, str]]:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "JPEG")
    files = {
        "truncated.jpg": (buffer.getvalue()[:2000], "is truncated or damaged (.*); copy or download it again."),
        "empty.png": (b"", "is empty (0 bytes); copy or download it again."),
        "text.png": (b"this is no picture at all", "is not an image that can be read; convert it to PNG or JPEG."),
    }
    paths = {}
    for name, (data, message) in files.items():
        (folder / name).write_bytes(data)
        paths[name] = (folder / name, message)
    (folder / "folder.png").mkdir()
    paths["folder.png"] = (folder / "folder.png", "is a folder, not a picture; name a picture in it.")
    missing = "cannot be read (No such file or directory); check the path."
    paths["missing.png"] = (folder / "missing.png", missing)
    return paths


@pytest.mark.parametrize("name", ["truncated.jpg", "empty.png", "text.png", "folder.png", "missing.png"])
def test_unreadable_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path, message = damaged_files(tmp_path)[name]
    pattern = re.escape(f"{path}: {message}").replace(r"\(\.\*\)", r"\(.*\)")
    assert re.fullmatch(pattern, refused(path))
    assert refused(str(path)) == refused(path)


def test_a_picture_file_is_a_path_that_is_read_as_it_says(tmp_path: Path) -> None:
    path, _ = damaged_files(tmp_path)["truncated.jpg"]
    assert PictureFile(path, accept_truncated=True).limits == Limits()
    assert to_picture(PictureFile(path, accept_truncated=True)).width == 64
    assert refused(PictureFile(path)) == refused(path)
    large = PictureFile(path, limits=Limits(max_pixels=100), accept_truncated=True)
    assert os.fspath(large) == str(path) and refused(large).endswith("exceed the limit of 100; crop or shrink it.")


def test_a_truncated_pil_image_is_refused(tmp_path: Path) -> None:
    path, _ = damaged_files(tmp_path)["truncated.jpg"]
    with Image.open(path) as image:
        assert refused(image).startswith("picture: is truncated or damaged (")


def test_absurd_sizes_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    header = bytearray(26)
    header[:2], header[10], header[14] = b"BM", 26, 12  # a bitmap's header and no pixels
    header[22], header[24] = 1, 24
    for width, height in ((8193, 8192), (10000, 9000), (65000, 65000)):  # above our limit, Pillow's, twice Pillow's
        assert width * height > MAX_PIXELS
        header[18:20], header[20:22] = width.to_bytes(2, "little"), height.to_bytes(2, "little")
        path = tmp_path / "bomb.bmp"
        path.write_bytes(header)
        assert refused(path).startswith(f"{path}: ")
        assert "pixels exceed the limit of 67108864 (8192 x 8192); crop or shrink it." in refused(path)


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "mine.png").touch()
    monkeypatch.setattr(Path, "open", deny)  # chmod does not stop a superuser
    message = "cannot be read (Permission denied); check the path and its permissions."
    assert refused(tmp_path / "mine.png") == f"{tmp_path / 'mine.png'}: {message}"


@quick
@given(kind=st.sampled_from(["png", "jpeg", "webp", "bmp", "tiff"]), data=st.data())
def test_any_damage_gives_a_picture_or_one_line(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(12, 10)).save(buffer, kind)
    content = bytearray(buffer.getvalue())[: data.draw(st.integers(0, len(buffer.getvalue())))]
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(content)
    try:
        picture = read_image(path)
    except InputError:
        assert refused(path).startswith(f"{path}: ")
    else:
        assert picture.pixels.isfinite().all()


# Formats of phones


def phone_picture(folder: Path, suffix: str) -> tuple[Path, Image.Image]:
    """A photograph without loss, as its plugin writes it, and what is in it."""
    image = Image.fromarray(noise(16, 24))
    path = folder / f"photo{suffix}"
    if suffix == ".jxl":
        by_oiio(path, np.asarray(image))
    elif suffix != ".avif":
        pytest.importorskip("pillow_heif").register_heif_opener()
        image.save(path, quality=-1, chroma=444, matrix_coefficients=0)
    else:
        image.save(path, quality=100, subsampling="4:4:4")
    return path, image


@pytest.mark.parametrize("suffix", [".avif", ".heic", ".heif", ".jxl"])
def test_pictures_of_phones_are_read(tmp_path: Path, suffix: str) -> None:
    path, image = phone_picture(tmp_path, suffix)
    path = path.rename(tmp_path / "photo.jpg")  # the bytes tell
    assert picture_size(path) == image.size
    expected = to_picture(image).pixels
    assert (read_image(path).pixels - expected).abs().max() <= (0.1 if suffix == ".avif" else 0)
    # a process of its own has no plugin yet
    code = "import sys; from xpsr.image import read_image; print(read_image(sys.argv[1]).pixels.double().sum().item())"
    done = run_python("-c", code, path)
    assert done.stdout.split() == [str(read_image(path).pixels.double().sum().item())]


@pytest.mark.parametrize(
    "start",
    [b"\x00\x00\x00\x1cftypheic", b"\x00\x00\x00\x18ftypmif1"],
)
def test_a_missing_plugin_is_named(tmp_path: Path, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "photo.heic"
    path.write_bytes(start + bytes(100))
    message = f"{path}: HEIC needs a plugin; run: pip install pillow-heif."
    assert refused(path) == message
    with pytest.raises(InputError) as caught:
        decode_rgb(path.read_bytes(), str(path))
    assert str(caught.value) == message


# Folders


def test_a_folder_gives_its_pictures_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt", "photo", "._a.jpg", "d.psd", "e.jfif", "f.ppm"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.webp", "e.jfif", "f.ppm"]


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "photo").touch()
    assert list_images(str(tmp_path / "photo")) == [tmp_path / "photo"]


def test_folders_without_pictures_and_missing_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        list_images(tmp_path)
    assert str(caught.value) == f"{tmp_path}: holds no pictures; name a folder with .jpg, .png or other pictures."
    with pytest.raises(InputError, match=r"missing: cannot be read \(No such file or directory\); check the path"):
        list_images(tmp_path / "missing")


# Enlarging and rounding


@quick
@given(
    height=sizes,
    width=sizes,
    size=st.tuples(sizes, sizes),
    method=st.sampled_from(["bicubic", "lanczos"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_resized_pictures_stay_in_range(
    height: int, width: int, size: tuple[int, int], method: Any, dtype: torch.dtype
) -> None:
    pixels = (torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(width)) > 0.5).to(dtype)
    resized = resize(pixels, size, method=method)
    assert resized.shape == (2, 3, *size)
    assert resized.dtype == dtype
    assert in_range(resized)
    assert torch.equal(resize(pixels, (height, width), method=method), pixels)
    flat = resize(torch.full_like(pixels, 0.25), size, method=method)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.25), rtol=0, atol=1e-6)


def test_resize_agrees_with_pillow_on_eight_bits() -> None:
    image = Image.fromarray(noise(20, 30) // 4 + 96)  # overshoots stay in range: between its passes Pillow clips them
    expected = to_picture(image.resize((101, 77), Image.Resampling.BICUBIC)).pixels
    torch.testing.assert_close(resize(to_picture(image).pixels, (77, 101)), expected, rtol=0, atol=1.5 / 255)


def test_resize_to_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"^size=4 x 0 has no pixels; use at least 1 x 1\.$"):
        resize(torch.zeros(3, 4, 4), (0, 4))


def test_uint8_is_rounded_not_truncated() -> None:
    values = torch.tensor([-0.1, 0.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.0, 1.1])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert to_pil(torch.full((3, 2, 2), 0.999)).getpixel((0, 0)) == (255, 255, 255)


# Writing


@pytest.mark.parametrize("suffix", sorted(WRITTEN_SUFFIXES | {".PNG"}))
def test_written_pictures_can_be_read(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(noise(8, 9))
    path = tmp_path / f"out{suffix}"
    write_image(path, image)
    write_image(path, image)  # replaces what is there
    difference = read_image(path).pixels - to_picture(image).pixels
    assert difference.abs().max() <= (0.25 if suffix in (".avif", ".jpg", ".jpeg") else 0)
    assert list(tmp_path.iterdir()) == [path]


def test_alpha_is_written(tmp_path: Path) -> None:
    values = noise(8, 9, 4)
    image = Image.fromarray(values)
    for suffix in (".png", ".tif", ".webp"):
        write_image(tmp_path / f"out{suffix}", image)
        written = read_image(tmp_path / f"out{suffix}")
        assert written.alpha is not None
        assert np.array_equal(to_uint8(written.alpha)[0], values[..., 3])
    with pytest.raises(InputError, match=r"out\.jpg: JPEG cannot hold this picture \(.*\); use \.png\.$"):
        write_image(tmp_path / "out.jpg", image)


def test_new_files_get_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "written", "text")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_sidecars_are_written_as_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "x.json", json.dumps({"content": "ein Haus, grün"}, ensure_ascii=False))
    assert json.loads((tmp_path / "x.json").read_bytes().decode()) == {"content": "ein Haus, grün"}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "x.json").write_text("old")

    def fail() -> None:
        with atomic_write(tmp_path / "x.json") as part:
            part.write_text("half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert (tmp_path / "x.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit on the size of files")
@pytest.mark.parametrize("suffix", sorted(WRITTEN_SUFFIXES))
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    path, image = tmp_path / f"out{suffix}", Image.fromarray(noise(64, 64))
    with room_for(4096), pytest.raises(InputError) as caught:
        write_image(path, image)
    message = "cannot be written (File too large); free space or choose another disk."
    assert (str(caught.value), caught.value.code) == (f"{path}: {message}", "disk_full")
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "missing/out.png", tmp_path / "file/out.png", tmp_path / "folder.png"):
        with pytest.raises(InputError) as caught:
            write_image(path, Image.new("RGB", (4, 4)))
        assert str(caught.value).startswith(f"{path}: cannot be written (")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"out\.xyz: suffix '\.xyz' cannot be written; use one of \.avif, .*\.webp\.$"):
        write_image(tmp_path / "out.xyz", Image.new("RGB", (4, 4)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_what_is_wrong_with_a_picture_is_data(tmp_path: Path) -> None:
    empty, text, raw = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "raw.CR3"
    empty.write_bytes(b"")
    text.write_text("no picture")
    raw.write_bytes(b"\0\0\0\x18ftypcrx \0\0\0\1")
    found = {}
    for path in (empty, text, raw, tmp_path):
        with pytest.raises(InputError) as caught:
            read_image(path)
        found[path] = caught.value.code, caught.value.remedy
    assert found == {
        empty: ("damaged", "copy or download it again"),
        text: ("unknown_format", "convert it to PNG or JPEG"),
        raw: ("unknown_format", "export it as TIFF"),
        tmp_path: ("wrong_type", "name a picture in it"),
    }
