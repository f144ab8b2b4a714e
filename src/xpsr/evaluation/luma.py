"""The brightness that metrics look at."""

import torch

from xpsr.image import to_uint8

__all__ = ["luma"]


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """Returns the BT.601 luma (H, W) of RGB (3, H, W) in [0, 1]: float64 in [16, 235], of values rounded to 8 bits."""
    red, green, blue = (channel.double() for channel in to_uint8(pixels).cpu())
    return red.mul_(65.481).add_(green, alpha=128.553).add_(blue, alpha=24.966).div_(255).add_(16)
