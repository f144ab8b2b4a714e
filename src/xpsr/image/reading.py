"""Whatever a user brings becomes a `Picture`; every refusal names the picture, what is wrong with it and what to do."""

import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from xpsr.config.checks import check_argument, said
from xpsr.errors import InputError, one_line
from xpsr.files import refusal
from xpsr.image.decoding import decode, size_of
from xpsr.image.limits import Limits, too_many_bytes
from xpsr.image.opening import without_remarks
from xpsr.image.picture import Picture, as_rgb, from_array, from_pil, from_stored, from_tensor

__all__ = [
    "ImageLike",
    "PictureFile",
    "decode_image",
    "decode_rgb",
    "picture_size",
    "read_image",
    "to_picture",
    "unbatched",
]

ImageFile: TypeAlias = str | os.PathLike[str] | bytes | bytearray | BinaryIO
ImageLike: TypeAlias = Picture | Image.Image | NDArray[Any] | torch.Tensor | ImageFile

_USUAL = Limits()


@dataclass(frozen=True)
class PictureFile(os.PathLike[str]):
    """A path whose picture is read otherwise than by default, whenever somebody reads it.

    Attributes:
        path: where it lies.
        limits: and what follows are as of `read_image`.
    """

    path: Path
    limits: Limits = field(default=_USUAL, kw_only=True)
    accept_truncated: bool = field(default=False, kw_only=True)

    def __fspath__(self) -> str:
        return os.fspath(self.path)


def to_picture(image: ImageLike) -> Picture:
    """Returns `image` as RGB in [0, 1]; gray becomes three equal channels, a tensor stays on its device.

    Args:
        image: one of
            a `Picture`, which is returned as it is;
            a path, the bytes of a file, or a file that is open for reading bytes: see `read_image`; a `PictureFile`
            is read as it says;
            a PIL image of any mode that converts to RGB: EXIF orientation and profile are applied, 16-bit gray
            ("I;16", and "I" read as 16 bit) is scaled, "F" is taken as [0, 1];
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
    if isinstance(image, PictureFile):
        return read_image(image.path, limits=image.limits, accept_truncated=image.accept_truncated)
    if isinstance(image, str | os.PathLike | bytes | bytearray) or hasattr(image, "read"):
        return read_image(image)
    remedy = "use a path, the bytes of a file, a PIL image, an array or a tensor"
    raise InputError("is no picture", code="wrong_type", field="image", value=said(image), remedy=remedy)


def unbatched(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """Returns pictures one by one: of a list or tuple, a tensor (B, C, H, W) or an array (B, H, W, C); else the one."""
    several = isinstance(images, list | tuple) or (isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4)
    return list(images) if several else [images]  # type: ignore[arg-type, list-item]


def read_image(
    path: ImageFile, *, limits: Limits = _USUAL, accept_truncated: bool = False, named: str | None = None
) -> Picture:
    """Reads a picture (of several frames or pages the first): (3, H, W) float32 in [0, 1], upright.

    The content decides which format it is, not the name. What is left out, or was accepted, stands in
    `origin.notices`.

    Args:
        path: where it lies; or the bytes of its file, or a file that is open for reading bytes, which is read to its
            end from where it stands and stays open.
        limits: what is refused before it is decoded.
        accept_truncated: whether a file that ends too early is read as far as it goes, where the format allows it.
        named: what errors call a file that is but a copy of what a person knows; None: by its path, or "picture".

    Raises:
        InputError: the file is missing, a folder or device, not readable, empty, not an image, of a kind that is not
            read, damaged, truncated, without pixels or above the limits.
    """
    if isinstance(path, bytes | bytearray):
        return decode_image(path, named or "picture", limits=limits, accept_truncated=accept_truncated)
    if not isinstance(path, str | os.PathLike) and hasattr(path, "read"):
        named = named or str(getattr(path, "name", "picture"))
        return decode_image(_content(path, named, limits), named, limits=limits, accept_truncated=accept_truncated)
    place: Path = check_argument("path", path, Path)
    with _opened(place) as file:
        content = _read(file, named or str(place), limits)
    return decode_image(content, named or str(place), limits=limits, accept_truncated=accept_truncated)


@contextmanager
def _opened(place: Path) -> Iterator[BinaryIO]:
    """Opens a file that can be a picture: to read a device may take for ever. What the system refuses is an error."""
    try:
        mode = place.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{place}: is a folder, not a picture", code="wrong_type", remedy="name a picture in it")
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise InputError(f"{place}: is a device, not a picture", code="wrong_type", remedy="name a file")
        with place.open("rb") as file:
            yield file
    except OSError as error:
        raise refusal(place, "cannot be read", error) from error


def _read(file: BinaryIO, name: str, limits: Limits) -> bytes:
    """The bytes that are left in a file; of one that never ends, no more than the limit."""
    pieces: list[bytes] = []
    total = 0
    while piece := file.read(2**24):
        pieces.append(piece)
        total += len(piece)
        if total > limits.max_bytes:
            raise too_many_bytes(name, limits)
    return b"".join(pieces)


def _content(file: BinaryIO, name: str, limits: Limits) -> bytes:
    """The bytes that are left in an open file."""
    try:
        return _read(file, name, limits)
    except InputError:
        raise
    except TypeError:  # what is joined
        reason = "it gives text"
    except (OSError, ValueError) as error:  # ValueError: it is closed
        reason = one_line(error)
    message, remedy = f"cannot be read ({reason})", "use open(path, 'rb')"
    raise InputError(message, code="wrong_type", field="image", value=type(file).__name__, remedy=remedy)


def decode_image(
    content: bytes | bytearray, name: str, *, limits: Limits = _USUAL, accept_truncated: bool = False
) -> Picture:
    """Returns the picture in the bytes of a file, as `read_image` does; errors call it `name`.

    Raises:
        InputError: as `read_image`.
    """
    with without_remarks():
        found, origin = decode(bytes(content), name, limits=limits, accept_truncated=accept_truncated)
    return from_stored(found, name, origin)


def picture_size(path: Path | bytes, *, limits: Limits = _USUAL, named: str | None = None) -> tuple[int, int]:
    """Returns width and height of a picture, upright; pixels are not read.

    Those of a PNG whose orientation stands behind its pixels, and of a TIFF that Pillow cannot open, are as they are
    stored.

    Args:
        path: where it lies, or the bytes of its file.
        limits: what is refused.
        named: what errors call it; None: by its path, or "picture".

    Raises:
        InputError: as `read_image`.
    """
    if isinstance(path, bytes):
        with without_remarks():
            return size_of(io.BytesIO(path), named or "picture", limits)
    with _opened(path) as file, without_remarks():
        return size_of(file, named or str(path), limits)


def decode_rgb(content: bytes, name: str, *, limits: Limits = _USUAL) -> NDArray[np.uint8]:
    """Returns the picture in the bytes of a file: uint8 (H, W, 3) RGB, upright, without its alpha.

    The same bits as `to_uint8(read_image(path).pixels)`, faster because 8 bits stay 8 bits.

    Args:
        content: a file's bytes.
        name: how errors call the picture.
        limits: what is refused before it is decoded.

    Raises:
        InputError: as `read_image`.
    """
    with without_remarks():
        found, origin = decode(content, name, limits=limits, accept_truncated=False)
    return as_rgb(found, name, origin)
