"""Whether a restored picture is still a picture of its input."""

import torch

from xpsr.errors import InputError
from xpsr.evaluation.fidelity import psnr
from xpsr.image import resize, to_uint8

__all__ = ["lr_psnr"]


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
    if h > height or w > width:
        message = f"the input, {w} x {h}, is larger than the restored picture, {width} x {height}"
        raise InputError(message, code="wrong_size", remedy="is it the right one?")
    if min(abs(width * h / height - w), abs(height * w / width - h)) > 1:
        message = f"the input, {w} x {h}, has other proportions than the restored picture, {width} x {height}"
        raise InputError(message, code="wrong_size", remedy="is it the right one?")
    reduced = resize(to_uint8(restored).float() / 255, (h, w))
    return psnr(reduced.double().numpy() * 255, to_uint8(lr).double().numpy())
