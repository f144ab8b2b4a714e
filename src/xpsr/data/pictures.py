"""Pictures of a folder as arrays: read once, kept for a while, cut into crops."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from xpsr.data.seeding import randint
from xpsr.errors import InputError
from xpsr.files import read_bytes
from xpsr.image import decode_rgb

__all__ = ["Pictures", "Pixels", "as_tensor", "check_size", "detail", "draw_crop", "turn"]

logger = logging.getLogger(__name__)

Pixels: TypeAlias = np.ndarray
"""uint8 (H, W, 3) RGB."""


class Pictures:
    """Reads pictures and keeps the last ones, up to `limit` bytes of pixels in a process and its workers together.

    A picture that cannot be used (it is damaged, or its shorter side is below `min_size`) is told as a warning, once by
    each process.
    """

    def __init__(self, *, min_size: int, limit: int = 2**30):
        self.min_size, self.limit = min_size, limit
        self._kept: OrderedDict[Path, Pixels] = OrderedDict()
        self._size = 0
        self.unusable: dict[Path, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict(), "_size": 0, "unusable": {}}  # a worker fills its own

    def read(self, path: Path) -> Pixels | None:
        """Returns the picture, not to be written to; None where it cannot be used."""
        if path in self.unusable:
            return None
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        try:
            pixels = decode_rgb(read_bytes(path), str(path))
            check_size(pixels, self.min_size, str(path))
        except InputError as error:
            self.unusable[path] = str(error)
            logger.warning("%s It is passed over.", error)
            return None
        self._kept[path] = pixels
        self._size += pixels.nbytes
        worker = get_worker_info()
        while self._size > self.limit // (worker.num_workers if worker else 1):
            self._size -= self._kept.popitem(last=False)[1].nbytes
        return pixels


def check_size(pixels: Pixels, min_size: int, name: str) -> None:
    """Refuses a picture, called `name`, whose shorter side is below `min_size`.

    Raises:
        InputError: it is.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < min_size:
        raise InputError(f"{name}: has {width} x {height} pixels, a side below min_size={min_size}.", code="too_small")


def detail(pixels: Pixels) -> float:
    """Returns the mean absolute Laplacian of the gray picture, of 0..255; a flat one has little."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(gray, cv2.CV_32F)).mean())


def _draw_window(picture: Pixels, size: int, generator: torch.Generator) -> tuple[Pixels, tuple[int, int]]:
    """Draws a window (size, size, 3) and where it is (left, top).

    A smaller picture is continued by reflection.
    """
    height, width = picture.shape[:2]
    if height < size or width < size:
        bottom, right = max(size - height, 0), max(size - width, 0)
        picture = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
        height, width = picture.shape[:2]
    top, left = randint(height - size + 1, generator), randint(width - size + 1, generator)
    return picture[top : top + size, left : left + size], (left, top)


def draw_crop(
    picture: Pixels, size: int, scales: Sequence[float], generator: torch.Generator
) -> tuple[Pixels, tuple[int, int], float]:
    """Draws a crop (size, size, 3) of the picture reduced by one of `scales`; also where it was, and the scale.

    Where is (left, top) in the picture's own pixels. Scales for which it is too small do not count; one that is too
    small for all of them is cut as it is.
    """
    fitting = [scale for scale in scales if min(picture.shape[:2]) >= round(size / scale)] or [1.0]
    scale = fitting[randint(len(fitting), generator)] if len(scales) > 1 else fitting[0]
    window, place = _draw_window(picture, round(size / scale), generator)
    crop = window if len(window) == size else cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA)
    return crop, place, scale


def turn(pixels: Pixels, turns: int) -> Pixels:
    """Returns one of the eight turns and flips of a square; `turns` is its number."""
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if turns >= 4 else pixels, turns % 4))


def as_tensor(pixels: NDArray[Any]) -> torch.Tensor:
    """Turns uint8 (H, W, 3) into a tensor (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
