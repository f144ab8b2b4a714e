"""Pictures of a folder as arrays: read once, kept for a while, cut into crops."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from xpsr.data.seeding import randint
from xpsr.errors import InputError
from xpsr.image import decode_rgb

__all__ = ["Pictures", "Pixels", "as_tensor", "detail", "draw_window", "read_bytes", "turn"]

logger = logging.getLogger(__name__)

Pixels: TypeAlias = np.ndarray
"""uint8 (H, W, 3) RGB."""


class Pictures:
    """Reads pictures and keeps the last ones, up to `limit` bytes of pixels in each process.

    A picture that cannot be used (it is damaged, or its shorter side is below `min_size`) is told as a warning, once by
    each process.
    """

    def __init__(self, *, min_size: int, limit: int = 2**30):
        self.min_size, self.limit = min_size, limit
        self._kept: OrderedDict[Path, Pixels] = OrderedDict()
        self._size = 0
        self.unusable: dict[Path, str] = {}

    def __reduce__(self) -> tuple[Callable[..., "Pictures"], tuple[int, int]]:
        return _make, (self.min_size, self.limit)  # a worker fills its own

    def read(self, path: Path) -> Pixels | None:
        """The picture, not to be written to; None where it cannot be used."""
        if path in self.unusable:
            return None
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        try:
            pixels = decode_rgb(read_bytes(path), str(path))
            if min(pixels.shape[:2]) < self.min_size:
                size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
                raise InputError(f"{path}: has {size}, a side below min_size={self.min_size}.")
        except InputError as error:
            self.unusable[path] = str(error)
            logger.warning("%s It is passed over.", error)
            return None
        self._kept[path] = pixels
        self._size += pixels.nbytes
        while self._size > self.limit:
            self._size -= self._kept.popitem(last=False)[1].nbytes
        return pixels


def _make(min_size: int, limit: int) -> Pictures:
    return Pictures(min_size=min_size, limit=limit)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions.") from error


def detail(pixels: Pixels) -> float:
    """The mean absolute Laplacian of the gray picture, of 0..255; a flat one has little."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(gray, cv2.CV_32F)).mean())


def draw_window(picture: Pixels, size: int, generator: torch.Generator) -> tuple[Pixels, tuple[int, int]]:
    """A random window (size, size, 3) and where it is (left, top); a smaller picture is continued by reflection."""
    height, width = picture.shape[:2]
    if height < size or width < size:
        bottom, right = max(size - height, 0), max(size - width, 0)
        picture = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
        height, width = picture.shape[:2]
    top, left = randint(height - size + 1, generator), randint(width - size + 1, generator)
    return picture[top : top + size, left : left + size], (left, top)


def turn(pixels: Pixels, turns: int) -> Pixels:
    """One of the eight turns and flips of a square."""
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if turns >= 4 else pixels, turns % 4))


def as_tensor(pixels: NDArray[Any]) -> torch.Tensor:
    """uint8 (H, W, 3) to (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
