"""Sizes of pictures, changed with Pillow's filters."""

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image

from xpsr.errors import InputError
from xpsr.image.picture import to_uint8

__all__ = ["Method", "Resized", "resize", "resized_rows", "rows_seen", "stretched_sizes"]

Method: TypeAlias = Literal["bilinear", "bicubic", "lanczos"]

_RESAMPLING: dict[Method, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_SUPPORT: dict[Method, int] = {"bilinear": 1, "bicubic": 2, "lanczos": 3}
"""Pixels on either side that a filter looks at; where it reduces, so many of the result."""


def resize(
    pixels: torch.Tensor, size: tuple[int, int], *, method: Method = "bicubic", eight_bit: bool = False
) -> torch.Tensor:
    """Resizes with Pillow's antialiased filters, in float: no rounding to 8 bit, so no banding.

    Args:
        pixels: (..., H, W) floats, with `eight_bit` in [0, 1]; the work is done on the CPU.
        size: (height, width) of the result, at least 1 each.
        method: bilinear, bicubic (a = -0.5) or Lanczos over 3 lobes.
        eight_bit: rounds as Pillow does with 8-bit pictures, to give the same bits as other software.

    Returns:
        (..., height, width) clamped to [0, 1], or to the range of `pixels` where that goes further; of their dtype and
        on their device.

    Raises:
        InputError: `size` is less than one pixel.
    """
    if not eight_bit:
        return Resized(pixels, size, method=method).rows(0, size[0])
    _check_size(size)
    planes = to_uint8(pixels.detach()).cpu().reshape(-1, *pixels.shape[-2:])  # (..., H, W) -> (N, H, W)
    resized = _resampled(planes, size, (0, planes.shape[-2]), method).float() / 255
    return resized.reshape(*pixels.shape[:-2], *size).to(pixels)


class Resized:
    """A picture at another size, of which only those rows are made that are asked for: `resize`, in less memory.

    Args:
        pixels: (..., H, W) floats; the work is done on the CPU.
        size: (height, width) of the whole result, at least 1 each.
        method: as of `resize`.
        bounds: what the result is clamped to; None: [0, 1], or the range of `pixels` where that goes further.

    Raises:
        InputError: `size` is less than one pixel.
    """

    def __init__(
        self,
        pixels: torch.Tensor,
        size: tuple[int, int],
        *,
        method: Method = "bicubic",
        bounds: tuple[float, float] | None = None,
    ) -> None:
        _check_size(size)
        self.size = size
        self._pixels, self._method = pixels, method
        if bounds is None:
            low, high = pixels.detach().aminmax()
            bounds = min(low.item(), 0), max(high.item(), 1)
        self._bounds = bounds

    def rows(self, top: int, bottom: int) -> torch.Tensor:
        """Returns (..., bottom - top, width): those rows of `resize`; of a picture in [0, 1], within 3e-5."""
        first, last = rows_seen((top, bottom), self._pixels.shape[-2], self.size[0], self._method)
        seen = self._pixels[..., first:last, :]
        return resized_rows(
            seen, first, self._pixels.shape[-2], self.size, (top, bottom), method=self._method, bounds=self._bounds
        )


def rows_seen(rows: tuple[int, int], source_height: int, height: int, method: Method) -> tuple[int, int]:
    """Returns which rows of a picture (from the first up to, without it, the second) rows at another height are of."""
    scale = source_height / height
    support = _SUPPORT[method] * max(scale, 1) + 1  # and one for rounding
    top, bottom = rows
    return max(math.floor(top * scale - support), 0), min(math.ceil(bottom * scale + support), source_height)


def resized_rows(
    seen: torch.Tensor,
    first: int,
    source_height: int,
    size: tuple[int, int],
    rows: tuple[int, int],
    *,
    method: Method,
    bounds: tuple[float, float],
) -> torch.Tensor:
    """Returns rows (..., bottom - top, width) of a picture at another size, of the rows of it that they are made of.

    Args:
        seen: (..., h, W) floats, at least those rows that `rows_seen` tells, from row `first` on.
        first: row of the whole picture where `seen` begins.
        source_height: of the whole picture.
        size: (height, width) of the whole result.
        rows: which of its rows.
        method: as of `resize`.
        bounds: what they are clamped to.
    """
    top, bottom = rows
    scale = source_height / size[0]
    planes = seen.detach().float().cpu().reshape(-1, *seen.shape[-2:])  # (..., H, W) -> (N, H, W)
    resized = _resampled(planes, (bottom - top, size[1]), (top * scale - first, bottom * scale - first), method)
    return resized.clamp_(*bounds).reshape(*seen.shape[:-2], bottom - top, size[1]).to(seen)


def _check_size(size: tuple[int, int]) -> None:
    height, width = size
    if height < 1 or width < 1:
        message, value = "has no pixels", f"{width} x {height}"
        raise InputError(message, code="too_small", field="size", value=value, remedy="use at least 1 x 1")


def _resampled(planes: torch.Tensor, size: tuple[int, int], box: tuple[float, float], method: Method) -> torch.Tensor:
    """(N, H, W) to (N, height, width), of the rows from `box[0]` to `box[1]`; what lies beyond is seen, too."""
    top, bottom = max(box[0], 0), min(box[1], planes.shape[-2])
    area = (0, top, planes.shape[-1], bottom)
    resized = [
        np.asarray(Image.fromarray(plane).resize((size[1], size[0]), _RESAMPLING[method], box=area))
        for plane in planes.numpy()
    ]
    return torch.from_numpy(np.stack(resized))


def stretched_sizes(size: tuple[int, int], *, min_size: int, multiple: int) -> list[tuple[int, int]]:
    """Returns the sizes (height, width) that the reference goes through from `size` to one that its model takes.

    `size` itself, then the smaller side brought to `min_size` where it is less, then both down to a multiple.
    """
    sizes = [size]
    if min(size) < min_size:
        sizes.append((min_size * size[0] // min(size), min_size * size[1] // min(size)))
    height, width = sizes[-1]
    sizes.append((max(height // multiple, 1) * multiple, max(width // multiple, 1) * multiple))
    return sizes
