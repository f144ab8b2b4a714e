"""The brightness that metrics look at."""

import torch

from xpsr.image import to_uint8

__all__ = ["luma"]


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """Returns the BT.601 luma (H, W) of RGB (3, H, W) in [0, 1]: float64 in [16, 235], of values rounded to 8 bits."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64)
    return torch.tensordot(weights, to_uint8(pixels).cpu().double(), dims=1) / 255 + 16
