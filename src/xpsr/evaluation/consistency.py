"""Whether a restored picture is still a picture of its input."""

import torch

from xpsr.errors import InputError
from xpsr.evaluation.fidelity import psnr
from xpsr.image import resize, to_uint8

__all__ = ["has_size_of_input", "lr_psnr"]


def has_size_of_input(size: tuple[int, int], restored: tuple[int, int]) -> bool:
    """Returns whether a picture is not larger than the restored one, and has its proportions to a pixel.

    Both are (height, width); sizes of pictures are rounded, so that proportions cannot be exact.
    """
    (h, w), (height, width) = size, restored
    return h <= height and w <= width and abs(h * width - w * height) <= max(height, width)


def lr_psnr(restored: torch.Tensor, lr: torch.Tensor) -> float:
    """Returns the PSNR (dB, RGB) of the restored picture, reduced to the size of its input, against the input.

    It is reduced by Pillow's antialiased bicubic filter, from 8-bit values and without rounding the result.

    Args:
        restored: (3, H, W) in [0, 1].
        lr: (3, h, w) in [0, 1], not larger.

    Raises:
        InputError: `lr` is larger, or its sides are not in the ratio of those of `restored`, to a pixel.
    """
    (height, width), (h, w) = restored.shape[-2:], lr.shape[-2:]
    if not has_size_of_input((h, w), (height, width)):
        what = "is larger" if h > height or w > width else "has other proportions"
        message = f"the input, {w} x {h}, {what} than the restored picture, {width} x {height}"
        raise InputError(message, code="wrong_size", remedy="is it the right one?")
    reduced = resize(to_uint8(restored).float() / 255, (h, w))
    return psnr(reduced.double().numpy() * 255, to_uint8(lr).double().numpy())
