"""What a picture shows where there is nothing to see: weave, grain and dashes in an empty sky."""

import torch
import torch.nn.functional as F

__all__ = ["flat_distance"]

_WINDOW = 9  # pixels, an odd number: what is finer than that is looked at
_DETAIL = 0.02  # root mean square of what is fine, from which on a place is not flat at all: 5 of 255


def flat_distance(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns how far fine detail is from that of `target` where the target has next to none.

    Both are (B, 3, H, W) in [0, 1]; a scalar for each, (B,). Fine is what differs from the average over 9 x 9 pixels;
    the mean absolute difference of it counts in full where the target is empty, and less the more it shows. A mean over
    all pixels hardly feels a weave of two levels in a blurred background, but an eye sees nothing else.
    """
    wanted = _fine(target)
    detail = _average(wanted.square().mean(1, keepdim=True)).sqrt()
    flat = (1 - detail / _DETAIL).clamp(0, 1)
    return (flat * (_fine(restored) - wanted).abs()).flatten(1).mean(1)


def _fine(pixels: torch.Tensor) -> torch.Tensor:
    return pixels - _average(pixels)


def _average(values: torch.Tensor) -> torch.Tensor:
    half = _WINDOW // 2
    return F.avg_pool2d(F.pad(values, [half] * 4, mode="reflect"), _WINDOW, 1)
