"""Reads and writes pictures: whatever a user brings becomes RGB in [0, 1], upright, with its alpha beside it.

Every refusal is an `InputError` of one line that names the picture, what is wrong with it and what to do.
"""

import errno
import hashlib
import io
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xpsr.errors import InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "WRITTEN_SUFFIXES",
    "ImageLike",
    "Picture",
    "atomic_write",
    "decode_rgb",
    "list_images",
    "passed_over",
    "picture_size",
    "read_image",
    "real_path",
    "resize",
    "sha256",
    "stretched_sizes",
    "to_picture",
    "to_pil",
    "to_uint8",
    "write_image",
    "write_text",
]

ImageLike: TypeAlias = Image.Image | NDArray[Any] | torch.Tensor | str | os.PathLike[str]

WRITTEN_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Lower-case ends of the names that pictures can be written under."""

IMAGE_SUFFIXES = WRITTEN_SUFFIXES | {".avif", ".heic", ".heif", ".jxl"}
"""Lower-case ends of the names that count as pictures in a folder. Whether one can be read shows when it is opened:
HEIC, HEIF and JPEG XL need the extra `formats`."""

# Photographs too, to those who took them: animations, layers, and what sensors saw
_OTHER_SUFFIXES = frozenset({".gif", ".psd", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"})

MAX_PIXELS = 2**26
"""Largest picture read from a file (8192 x 8192): enlarged 4x it is a gigapixel, 12 GB of float32.

It also keeps out decompression bombs, small files that unpack to more than any memory.
"""

# Floats may leave [0, 1] by rounding (one bfloat16 step above 1 is 0.008) and are clipped; anything further is refused
_TOLERANCE = 0.01

_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_EIGHT_BIT_MODES = {"1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

# A restored picture is not degraded again: Pillow's default is JPEG quality 75 with halved colour
_SAVE_OPTIONS: dict[str, dict[str, int | bool]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture ready for the model.

    Attributes:
        pixels: (3, H, W) float32 RGB in [0, 1].
        alpha: (1, H, W) float32 in [0, 1], 0 is transparent; None where every pixel is opaque.
    """

    pixels: torch.Tensor
    alpha: torch.Tensor | None = None

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.pixels.shape[-1]

    @property
    def height(self) -> int:
        """Pixels in a column."""
        return self.pixels.shape[-2]


def to_picture(image: ImageLike) -> Picture:
    """Returns `image` as RGB in [0, 1]; gray becomes three equal channels, a tensor stays on its device.

    Args:
        image: one of
            a path: see `read_image`;
            a PIL image of any mode that converts to RGB: EXIF orientation is applied, 16-bit gray ("I;16", and "I" read
            as 16 bit) is scaled, "F" is taken as [0, 1];
            an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4);
            a tensor (1, H, W), (3, H, W) or (4, H, W), or a batch of one of these.
            Arrays and tensors are uint8, uint16 or floats in [0, 1]; a fourth channel is alpha.

    Raises:
        InputError: wrong type, shape or dtype, NaN, values outside [0, 1], or a path that `read_image` refuses.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _from_pil(image, "picture")
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, torch.Tensor):
        return _from_tensor(image)
    raise InputError(f"picture: a {type(image).__name__} is no picture; pass a path, PIL image, array or tensor.")


def read_image(path: str | os.PathLike[str]) -> Picture:
    """Reads the picture (of several frames the first) at `path`: (3, H, W) float32 in [0, 1], upright.

    Raises:
        InputError: the file is missing, a folder, not readable, empty, not an image, damaged, or has no pixels or more
            than `MAX_PIXELS`.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, not a picture; name a picture in it.")
        file = path.open("rb")
    except OSError as error:
        raise _refusal(path, "cannot be read", error) from error
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on size, which is checked here, and on doubtful metadata
        return _from_pil(_open(file, str(path)), str(path))


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as they are stored; pixels are not read.

    Raises:
        InputError: as `read_image`.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise _refusal(path, "cannot be read", error) from error
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _open(file, str(path)).size


def decode_rgb(content: bytes, name: str) -> NDArray[np.uint8]:
    """The picture in the bytes of a file: uint8 (H, W, 3) RGB, upright, without its alpha.

    The same bits as `to_uint8(read_image(path).pixels)`, three times as fast because 8 bits stay 8 bits.

    Args:
        content: a file's bytes.
        name: how errors call the picture.

    Raises:
        InputError: as `read_image`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(io.BytesIO(content), name)
        if image.mode in _EIGHT_BIT_MODES:
            return np.array(_upright(image, name).convert("RGB"))
        return to_uint8(_from_pil(image, name).pixels).permute(1, 2, 0).contiguous().numpy()


def list_images(path: str | os.PathLike[str]) -> list[Path]:
    """Returns `path` itself if it is a file, or the pictures directly in the folder `path`, sorted by name.

    Of a folder, hidden files and those that do not end like a picture (`IMAGE_SUFFIXES`) are passed over.

    Raises:
        InputError: nothing is there, the folder cannot be listed or holds no picture.
    """
    path = Path(path)
    try:
        path.stat()
        if not path.is_dir():
            return [path]
        images = sorted(
            entry
            for entry in path.iterdir()
            # "._photo.jpg" is what macOS leaves beside a photo.jpg: not a picture, whatever it ends like
            if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        )
    except OSError as error:
        raise _refusal(path, "cannot be read", error) from error
    if not images:
        raise InputError(f"{path}: holds no pictures; name a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files.")
    return images


def passed_over(path: str | os.PathLike[str]) -> list[Path]:
    """Returns what lies in the folder `path` and is a photograph by its name, but none that `list_images` gives.

    Raises:
        InputError: the folder cannot be listed.
    """
    path = Path(path)
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise _refusal(path, "cannot be read", error) from error
    return [entry for entry in entries if entry.suffix.lower() in _OTHER_SUFFIXES and not entry.name.startswith(".")]


def real_path(path: Path) -> Path:
    """Where an entry of a folder really is; of a link, where the link is."""
    return path.parent.resolve() / path.name


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Returns float `pixels` of any shape, clamped to [0, 1], as uint8 in [0, 255], rounded to the nearest."""
    return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_pil(pixels: torch.Tensor, alpha: torch.Tensor | None = None) -> Image.Image:
    """Returns (3, H, W) RGB in [0, 1] as an 8-bit RGB image, or RGBA with `alpha` (1, H, W) in [0, 1]."""
    planes = pixels if alpha is None else torch.cat([pixels, alpha.to(pixels)])
    return Image.fromarray(to_uint8(planes).permute(1, 2, 0).cpu().numpy())  # (C, H, W) -> (H, W, C)


def resize(
    pixels: torch.Tensor,
    size: tuple[int, int],
    *,
    method: Literal["bilinear", "bicubic", "lanczos"] = "bicubic",
    eight_bit: bool = False,
) -> torch.Tensor:
    """Resizes with Pillow's antialiased filters, in float: no rounding to 8 bit, so no banding.

    Args:
        pixels: (..., H, W) floats in [0, 1]; the work is done on the CPU.
        size: (height, width) of the result, at least 1 each.
        method: bilinear, bicubic (a = -0.5) or Lanczos over 3 lobes.
        eight_bit: rounds as Pillow does with 8-bit pictures, to give the same bits as other software.

    Returns:
        (..., height, width) clamped to [0, 1], of the dtype and on the device of `pixels`.

    Raises:
        InputError: `size` is less than one pixel.
    """
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"size={width} x {height} has no pixels; use at least 1 x 1.")
    source = to_uint8(pixels.detach()) if eight_bit else pixels.detach().float()
    planes = source.cpu().reshape(-1, *pixels.shape[-2:]).numpy()  # (..., H, W) -> (N, H, W)
    resized = [np.asarray(Image.fromarray(plane).resize((width, height), _RESAMPLING[method])) for plane in planes]
    values = torch.from_numpy(np.stack(resized)).float()
    values = values / 255 if eight_bit else values.clamp(0, 1)
    return values.reshape(*pixels.shape[:-2], height, width).to(pixels)


def stretched_sizes(size: tuple[int, int], *, min_size: int, multiple: int) -> list[tuple[int, int]]:
    """The sizes (height, width) that the reference goes through from `size` to one that its model takes.

    `size` itself, then the smaller side brought to `min_size` where it is less, then both down to a multiple.
    """
    sizes = [size]
    if min(size) < min_size:
        sizes.append((min_size * size[0] // min(size), min_size * size[1] // min(size)))
    height, width = sizes[-1]
    sizes.append((max(height // multiple, 1) * multiple, max(width // multiple, 1) * multiple))
    return sizes


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; what is written there becomes `path` when the block ends well.

    If the block fails, the temporary file is removed and `path` is left as it was.

    Raises:
        InputError: the operating system refuses: no such folder, no permission, disk full.
    """
    path = Path(path)
    # The name is short and random: it fits wherever `path` fits, and two writers do not meet
    part = path.with_name(f".xpsr-{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise _refusal(path, "cannot be written", error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def write_image(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Writes `image` whole or not at all, in the format that the suffix of `path` names.

    Raises:
        InputError: unknown suffix, a picture that the format cannot hold (alpha in JPEG, a side above 16383 in WebP),
            or `path` cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        known = ", ".join(sorted(WRITTEN_SUFFIXES))
        raise InputError(f"{path}: suffix {path.suffix!r} cannot be written; use one of {known}.")
    kind = Image.registered_extensions()[path.suffix.lower()]
    with atomic_write(path) as part:
        try:
            image.save(part, kind, **_SAVE_OPTIONS.get(kind, {}))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's refusal, not the encoder's
                raise
            raise InputError(f"{path}: {kind} cannot hold this picture ({_reason(error)}); use .png.") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all.

    Raises:
        InputError: `path` cannot be written.
    """
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _open(file: BinaryIO, name: str) -> Image.Image:
    """A picture whose pixels are not read yet."""
    try:
        image = _identify(file, name)
    except Image.DecompressionBombError as error:
        raise _too_large(name, "its") from error
    except UnidentifiedImageError as error:
        if file.seek(0, os.SEEK_END) == 0:
            raise InputError(f"{name}: is empty (0 bytes); copy or download it again.") from error
        raise InputError(f"{name}: is not an image that can be read; convert it to PNG or JPEG.") from error
    except InputError:
        raise
    except Exception as error:  # on a damaged header Pillow raises whatever the bytes lead to
        raise _damaged(name, error) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"{image.width} x {image.height}")
    return image


def _identify(file: BinaryIO, name: str) -> Image.Image:
    """`Image.open`, with Pillow's plugins for HEIC and JPEG XL where the first bytes ask for one."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(12)
        file.seek(0)
        kind = _kind_of(start)
        if kind is None:
            raise
    try:  # what is registered stays with Pillow, so the next picture does not come here
        if kind == "HEIC":
            import pillow_heif

            pillow_heif.register_heif_opener()
        else:
            import pillow_jxl  # noqa: F401  # registers itself
    except ImportError as error:
        # Of this picture alone, so that those beside it are read: no MissingDependencyError
        raise InputError(f"{name}: {kind} needs a plugin; run: pip install 'xpsr[formats]'.") from error
    return Image.open(file)


def _kind_of(start: bytes) -> Literal["HEIC", "JPEG XL"] | None:
    """Which format begins so; a name may lie, as after `mv a.heic a.jpg`."""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return "HEIC"
    if start.startswith(b"\xff\x0a") or start == b"\x00\x00\x00\x0cJXL \r\n\x87\n":
        return "JPEG XL"
    return None


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()  # orientation of a PNG may stand behind its pixels
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes lead to
        raise _damaged(name, error) from error


def _from_pil(image: Image.Image, name: str) -> Picture:
    image = _upright(image, name)
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow's conversion to RGB would clip these at 255
        return _from_planes(np.asarray(image)[..., None], 65535.0, name)
    if image.mode == "F":
        return _from_planes(np.asarray(image)[..., None], 1.0, name)
    try:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except ValueError as error:
        raise InputError(f"{name}: mode {image.mode} does not convert to RGB; save it as RGB.") from error
    return _from_planes(np.asarray(image), 255.0, name)


def _from_array(array: NDArray[Any]) -> Picture:
    if array.ndim == 4:
        raise InputError(f"picture: shape {array.shape} is a batch; pass a list of arrays (H, W, 3).")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise InputError(f"picture: shape {array.shape} is no picture; an array is (H, W, 3), channels last.")
    planes = array if array.ndim == 3 else array[..., None]
    return _from_planes(planes, _full_scale(array.dtype.name), "picture")


def _from_tensor(tensor: torch.Tensor) -> Picture:
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and shape[0] != 1:
        raise InputError(f"picture: shape {shape} is a batch of {shape[0]}; pass a list of tensors (3, H, W).")
    if tensor.ndim not in (3, 4) or shape[-3] not in (1, 3, 4):
        raise InputError(f"picture: shape {shape} is no picture; a tensor is (3, H, W), channels first.")
    scale = _full_scale(str(tensor.dtype).removeprefix("torch."))
    return _checked(tensor.detach().float().reshape(shape[-3:]) / scale, "picture")


def _full_scale(dtype: str) -> float:
    if dtype.startswith(("float", "bfloat")):
        return 1.0
    if dtype not in _FULL_SCALE:
        raise InputError(f"picture: dtype {dtype} has no known range; use uint8, uint16 or floats in [0, 1].")
    return _FULL_SCALE[dtype]


def _from_planes(planes: NDArray[Any], scale: float, name: str) -> Picture:
    pixels = torch.from_numpy(planes.astype(np.float32, order="C"))
    return _checked(pixels.permute(2, 0, 1).contiguous() / scale, name)  # (H, W, C) -> (C, H, W)


def _checked(planes: torch.Tensor, name: str) -> Picture:
    """Splits float32 (C, H, W), C one of 1, 3, 4, into pixels and alpha, refusing what is not in [0, 1]."""
    if planes.numel() == 0:
        raise InputError(f"{name}: has no pixels ({planes.shape[2]} x {planes.shape[1]}); use at least 1 x 1.")
    low, high = planes.min().item(), planes.max().item()  # NaN and infinity show here too
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name}: holds NaN or infinite values; replace them by values in [0, 1].")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        remedy = "if it is in [-1, 1], pass (x + 1) / 2" if low < 0 else "divide it by its full scale (255 for 8 bit)"
        raise InputError(f"{name}: values lie in [{low:.4g}, {high:.4g}], outside [0, 1]; {remedy}.")
    planes = planes.clamp(0, 1)
    pixels = planes[:3].expand(3, -1, -1).contiguous()
    has_alpha = len(planes) == 4 and bool((planes[3] < 1).any())
    return Picture(pixels=pixels, alpha=planes[3:].contiguous() if has_alpha else None)


def _damaged(name: object, error: Exception) -> InputError:
    return InputError(f"{name}: is truncated or damaged ({_reason(error)}); copy or download it again.")


def _too_large(name: str, size: str) -> InputError:
    return InputError(f"{name}: {size} pixels exceed the limit of {MAX_PIXELS} (8192 x 8192); crop or shrink it.")


def _refusal(path: Path, what: str, error: OSError) -> InputError:
    disk_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space or choose another disk" if disk_full else "check the path and its permissions"
    return InputError(f"{path}: {what} ({error.strerror or _reason(error)}); {remedy}.")


def _reason(error: Exception) -> str:
    """What `error` says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
