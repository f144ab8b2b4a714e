"""Grain: fine noise where there is fine detail, as much as there is of it.

A network that answers one picture with one answer paints texture smoother than it was, as every guess at a hair is
between the places where hairs may be. Noise in proportion to the detail that is there breaks that smoothness up, as
film does, and leaves alone what is smooth.
"""

import math

import torch
import torch.nn.functional as F

from xpsr.color import luma_of
from xpsr.image import drop_from_memory
from xpsr.models import streamed

__all__ = ["add_grain", "detail"]

_BLUR = 1.0  # pixels: standard deviation of the Gaussian that tells detail, and that of the window it is measured in
_RADIUS = 3  # pixels beyond which these Gaussians are cut off
_HALO = 2 * _RADIUS  # rows on either side of one that its amount of grain depends on
_STRIP_PIXELS = 2**19


def add_grain(pixels: torch.Tensor, amount: float, generator: torch.Generator | None = None) -> None:
    """Adds grain to pixels (3, H, W), float32 in [0, 1], in place: `amount` times `detail`, the same in each colour.

    Args:
        pixels: of the result's size, on the CPU; large ones go by in strips.
        amount: 0 changes nothing and draws nothing.
        generator: what the noise is drawn from, row by row; None: torch's own.
    """
    if amount == 0:
        return
    device = "cpu" if generator is None else generator.device
    height, width = pixels.shape[-2:]
    # copies: what is still looked at from below has its grain already
    strips = (strip.clone() for strip in pixels.split(max(_STRIP_PIXELS // width, 1), -2))
    top = 0
    for strip in streamed(strips, detail, halo=_HALO, height=height):
        rows = strip.shape[-2]
        # a row at a time: torch draws other numbers where it draws more at once
        noise = torch.stack([torch.randn(width, generator=generator, device=device) for _ in range(rows)]).cpu()
        part = pixels[:, top : top + rows]
        part.add_(amount * strip * noise).clamp_(0, 1)
        drop_from_memory(part)
        top += rows


def detail(pixels: torch.Tensor) -> torch.Tensor:
    """Returns how much fine detail pixels (3, H, W), float32, have: (1, H, W), float32.

    That is the local root mean square of what a Gaussian blur of one pixel takes from luma (BT.601), over a Gaussian
    window as wide.
    """
    luma = luma_of(pixels)
    return _blurred((luma - _blurred(luma)).square()).sqrt()


def _blurred(plane: torch.Tensor) -> torch.Tensor:
    """Returns a plane (1, H, W) under a Gaussian, its borders repeated."""
    padded = F.pad(plane[None], [_RADIUS] * 4, mode="replicate")[0]
    weights = [math.exp(-0.5 * (place / _BLUR) ** 2) for place in range(-_RADIUS, _RADIUS + 1)]
    for axis in (-2, -1):  # sums of shifted planes: of one channel, torch's convolution takes ten times as long
        side = padded.shape[axis] - 2 * _RADIUS
        blurred = torch.zeros_like(padded.narrow(axis, 0, side))
        for start, weight in enumerate(weights):
            blurred.add_(padded.narrow(axis, start, side), alpha=weight / sum(weights))
        padded = blurred
    return padded
