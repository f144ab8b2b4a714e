"""Sizes of pictures, changed with Pillow's filters."""

from typing import Literal

import numpy as np
import torch
from PIL import Image

from xpsr.errors import InputError
from xpsr.image.picture import to_uint8

__all__ = ["resize", "stretched_sizes"]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resize(
    pixels: torch.Tensor,
    size: tuple[int, int],
    *,
    method: Literal["bilinear", "bicubic", "lanczos"] = "bicubic",
    eight_bit: bool = False,
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
    height, width = size
    if height < 1 or width < 1:
        message, value = "has no pixels", f"{width} x {height}"
        raise InputError(message, code="too_small", field="size", value=value, remedy="use at least 1 x 1")
    source = to_uint8(pixels.detach()) if eight_bit else pixels.detach().float()
    planes = source.cpu().reshape(-1, *pixels.shape[-2:]).numpy()  # (..., H, W) -> (N, H, W)
    resized = [np.asarray(Image.fromarray(plane).resize((width, height), _RESAMPLING[method])) for plane in planes]
    values = torch.from_numpy(np.stack(resized)).float()
    if eight_bit:
        values = values / 255
    else:
        low, high = source.aminmax()
        values = values.clamp(min(low.item(), 0), max(high.item(), 1))
    return values.reshape(*pixels.shape[:-2], height, width).to(pixels)


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
