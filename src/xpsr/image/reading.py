"""Whatever a user brings becomes a `Picture`; every refusal names the picture, what is wrong with it and what to do."""

import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from xpsr.config.checks import check_argument, said
from xpsr.errors import InputError, one_line
from xpsr.files import refusal
from xpsr.image.picture import Picture, damaged, from_array, from_pil, from_tensor, to_uint8, upright

__all__ = [
    "MAX_PIXELS",
    "ImageLike",
    "decode_image",
    "decode_rgb",
    "picture_size",
    "read_image",
    "to_picture",
    "unbatched",
]

ImageFile: TypeAlias = str | os.PathLike[str] | bytes | bytearray | BinaryIO
ImageLike: TypeAlias = Picture | Image.Image | NDArray[Any] | torch.Tensor | ImageFile

MAX_PIXELS = 2**26
"""Largest picture read from a file (8192 x 8192): enlarged 4x it is a gigapixel, 12 GB of float32.

It also keeps out decompression bombs, small files that unpack to more than any memory.
"""

_EIGHT_BIT_MODES = {"1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def to_picture(image: ImageLike) -> Picture:
    """Returns `image` as RGB in [0, 1]; gray becomes three equal channels, a tensor stays on its device.

    Args:
        image: one of
            a `Picture`, which is returned as it is;
            a path, the bytes of a file, or a file that is open for reading bytes: see `read_image`;
            a PIL image of any mode that converts to RGB: EXIF orientation is applied, 16-bit gray ("I;16", and "I" read
            as 16 bit) is scaled, "F" is taken as [0, 1];
            an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a batch of one of these;
            a tensor (1, H, W), (3, H, W) or (4, H, W), or a batch of one of these.
            Arrays and tensors are uint8, uint16 or floats in [0, 1]; a fourth channel is alpha.

    Raises:
        InputError: wrong type, shape or dtype, NaN, values outside [0, 1], or a path that `read_image` refuses.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        return from_pil(image, "picture")
    if isinstance(image, np.ndarray):
        return from_array(image)
    if isinstance(image, torch.Tensor):
        return from_tensor(image)
    if isinstance(image, str | os.PathLike | bytes | bytearray) or hasattr(image, "read"):
        return read_image(image)
    remedy = "use a path, the bytes of a file, a PIL image, an array or a tensor"
    raise InputError("is no picture", code="wrong_type", field="image", value=said(image), remedy=remedy)


def unbatched(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """Returns pictures one by one: of a list or tuple, a tensor (B, C, H, W) or an array (B, H, W, C); else the one."""
    several = isinstance(images, list | tuple) or (isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4)
    return list(images) if several else [images]  # type: ignore[arg-type, list-item]


def read_image(path: ImageFile) -> Picture:
    """Reads a picture (of several frames the first): (3, H, W) float32 in [0, 1], upright.

    Args:
        path: where it lies; or the bytes of its file, or a file that is open for reading bytes, which is read to its
            end from where it stands and stays open.

    Raises:
        InputError: the file is missing, a folder, not readable, empty, not an image, damaged, or has no pixels or more
            than `MAX_PIXELS`.
    """
    if isinstance(path, bytes | bytearray):
        return decode_image(path, "picture")
    if not isinstance(path, str | os.PathLike) and hasattr(path, "read"):
        return decode_image(_content(path), str(getattr(path, "name", "picture")))
    place: Path = check_argument("path", path, Path)
    try:
        if place.is_dir():
            raise InputError(f"{place}: is a folder, not a picture", code="wrong_type", remedy="name a picture in it")
        file = place.open("rb")
    except OSError as error:
        raise refusal(place, "cannot be read", error) from error
    with file, _without_remarks():
        return from_pil(_open(file, str(place)), str(place))


def _content(file: BinaryIO) -> bytes:
    """The bytes that are left in an open file."""
    try:
        content: object = file.read()
        reason = "it gives text"
    except (OSError, ValueError) as error:  # ValueError: it is closed
        content, reason = None, one_line(error)
    if isinstance(content, bytes):
        return content
    message, remedy = f"cannot be read ({reason})", "use open(path, 'rb')"
    raise InputError(message, code="wrong_type", field="image", value=type(file).__name__, remedy=remedy)


def decode_image(content: bytes | bytearray, name: str) -> Picture:
    """Returns the picture in the bytes of a file, as `read_image` does; errors call it `name`.

    Raises:
        InputError: as `read_image`.
    """
    with _without_remarks():
        return from_pil(_open(io.BytesIO(content), name), name)


def picture_size(path: Path) -> tuple[int, int]:
    """Returns width and height of a picture as they are stored; pixels are not read.

    Raises:
        InputError: as `read_image`.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise refusal(path, "cannot be read", error) from error
    with file, _without_remarks():
        return _open(file, str(path)).size


def decode_rgb(content: bytes, name: str) -> NDArray[np.uint8]:
    """Returns the picture in the bytes of a file: uint8 (H, W, 3) RGB, upright, without its alpha.

    The same bits as `to_uint8(read_image(path).pixels)`, three times as fast because 8 bits stay 8 bits.

    Args:
        content: a file's bytes.
        name: how errors call the picture.

    Raises:
        InputError: as `read_image`.
    """
    with _without_remarks():
        image = _open(io.BytesIO(content), name)
        if image.mode in _EIGHT_BIT_MODES:
            return np.array(upright(image, name).convert("RGB"))
        return to_uint8(from_pil(image, name).pixels).permute(1, 2, 0).contiguous().numpy()


class _Pillow:
    """The modules that a filter of warnings is about. Equal to no other, so each reader finds its own filter again."""

    match = re.compile(r"(PIL|pillow_heif|pillow_jxl)\b").match


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Passes over Pillow's remarks on size, which is checked here, and on doubtful metadata.

    `warnings.catch_warnings` puts the whole list of filters back, and with it, where threads overlap, those of another
    reader: the process would be without warnings for good. Here a reader takes away the one filter that it brought.
    """
    # Warnings that are ignored leave no trace in the registries of modules, so nothing else has to be set back
    filters: Any = warnings.filters
    place: Any
    mine = ("ignore", None, Warning, _Pillow(), 0)
    filters.insert(0, mine)
    try:
        yield
    finally:
        for place in (filters, warnings.filters):  # another list where someone catches warnings, perhaps with a copy
            with suppress(ValueError):
                place.remove(mine)


def _open(file: BinaryIO, name: str) -> Image.Image:
    """A picture whose pixels are not read yet."""
    try:
        image = _identify(file, name)
    except Image.DecompressionBombError as error:
        raise _too_large(name, "its") from error
    except UnidentifiedImageError as error:
        if file.seek(0, os.SEEK_END) == 0:
            message, remedy = f"{name}: is empty (0 bytes)", "copy or download it again"
            raise InputError(message, code="damaged", remedy=remedy) from error
        message, remedy = f"{name}: is not an image that can be read", "convert it to PNG or JPEG"
        raise InputError(message, code="unknown_format", remedy=remedy) from error
    except InputError:
        raise
    except Exception as error:  # on a damaged header Pillow raises whatever the bytes lead to
        raise damaged(name, error) from error
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
        package = "pillow-heif" if kind == "HEIC" else "pillow-jxl-plugin"
        message, remedy = f"{name}: {kind} needs a plugin", f"run: pip install {package}"
        raise InputError(message, code="missing_dependency", remedy=remedy) from error
    return Image.open(file)


def _kind_of(start: bytes) -> Literal["HEIC", "JPEG XL"] | None:
    """Which format begins so; a name may lie, as after `mv a.heic a.jpg`."""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return "HEIC"
    if start.startswith(b"\xff\x0a") or start == b"\x00\x00\x00\x0cJXL \r\n\x87\n":
        return "JPEG XL"
    return None


def _too_large(name: str, size: str) -> InputError:
    message = f"{name}: {size} pixels exceed the limit of {MAX_PIXELS} (8192 x 8192)"
    return InputError(message, code="too_large", remedy="crop or shrink it")
