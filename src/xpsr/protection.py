"""What a restoration has invented, and what of it is taken back where it contradicts its picture.

A picture and what a model made of it are compared at the picture's own size, where they should be the same but for the
noise: `agree` makes them so, `contradictions` finds where they are not.
"""

import torch
import torch.nn.functional as F

from xpsr.color import binomial_blur
from xpsr.image import resize

__all__ = ["agree", "blend_back", "contradictions", "invented", "lr_psnr"]

_LUMA = (0.299, 0.587, 0.114)

_NUM_PROJECTIONS = 4
"""How often `agree` corrects: each time about a tenth of the difference is left."""

_VISIBLE, _STRONG = 8 / 255, 32 / 255
"""Differences of luma that are counted as invented, and that are white in a map."""

_CONTRADICTION = 10 / 255
"""Difference of low-passed luma from which on the result says something else; twice that for colour."""


def agree(pixels: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Returns a result whose reduction is the picture that it was made from (back-projection, Irani and Peleg 1991).

    Args:
        pixels: (3, H, W) floats in [0, 1].
        source: (3, h, w) floats in [0, 1]; where it is larger, only its own reduction can agree.

    Returns:
        (3, H, W) in [0, 1]. Clipping to that leaves small differences.
    """
    reduced = _reduce(source, _common(pixels, source))
    for _ in range(_NUM_PROJECTIONS):
        missing = reduced - _reduce(pixels, reduced.shape[-2:])
        pixels = (pixels + _enlarge(missing, pixels.shape[-2:])).clamp(0, 1)
    return pixels


def lr_psnr(pixels: torch.Tensor, source: torch.Tensor) -> float:
    """Returns how well a result (3, H, W), reduced, agrees with its picture (3, h, w): PSNR in dB, at most 100."""
    size = _common(pixels, source)
    error = (_reduce(pixels, size) - _reduce(source, size)).square().mean()
    return float(-10 * error.clamp_min(1e-10).log10())


def invented(pixels: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Returns where a result shows what a plain enlargement of its picture does not, and in how much of it.

    Args:
        pixels: (3, H, W) floats in [0, 1].
        source: (3, h, w) floats in [0, 1].

    Returns:
        (1, H, W) in [0, 1], 1 for a difference of luma of 32 levels of 255 or more, averaged over a few pixels; and the
        share of the picture, in [0, 1], where it is more than 8.
    """
    plain = resize(_luma(source), (pixels.shape[-2], pixels.shape[-1]), method="bicubic")
    difference = _blur((_luma(pixels) - plain).abs())
    return (difference / _STRONG).clamp(0, 1), float((difference > _VISIBLE).float().mean())


def contradictions(pixels: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Returns where a result says something else than its picture: weights (1, h, w) in [0, 1], soft at their edges.

    That is where its reduction differs in its coarse luma or colour, and where thin strokes of much contrast, such as
    those of letters, have another form.

    Args:
        pixels: (3, H, W) floats in [0, 1].
        source: (3, h, w) floats in [0, 1].
    """
    size = _common(pixels, source)
    made, seen = _reduce(pixels, size), _reduce(source, size)
    luma = _luma(made) - _luma(seen)
    color = (made - seen) - luma
    coarse = torch.cat([_low(luma), _low(color) / 2]).abs().amax(0, keepdim=True) / _CONTRADICTION
    other_form = _ramp(_change(_luma(made), _luma(seen)), 0.08, 0.2)
    weights = torch.maximum(_ramp(coarse, 1, 2), _strokes(_luma(seen)) * other_form)
    # a little further than where it is found, and gone a few pixels on
    return _blur(F.max_pool2d(weights, 5, stride=1, padding=2))


def blend_back(pixels: torch.Tensor, source: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns a result (3, H, W) with the plain enlargement of `source` (3, h, w) in its place where `weights` are 1.

    `weights` are (1, h', w') in [0, 1], of any size.
    """
    size = (pixels.shape[-2], pixels.shape[-1])
    mask = resize(weights, size, method="bilinear")
    return torch.lerp(pixels, resize(source, size, method="bicubic"), mask)


def _common(pixels: torch.Tensor, source: torch.Tensor) -> tuple[int, int]:
    """Height and width at which both can be compared: those of the picture, or of a result that is smaller."""
    return min(pixels.shape[-2], source.shape[-2]), min(pixels.shape[-1], source.shape[-1])


def _reduce(pixels: torch.Tensor, size: tuple[int, int] | torch.Size) -> torch.Tensor:
    """As cameras and programs reduce: bicubic, antialiased, (C, H, W) to (C, height, width), a little beyond [0, 1]."""
    if pixels.shape[-2:] == tuple(size):
        return pixels
    return F.interpolate(pixels[None], tuple(size), mode="bicubic", antialias=True)[0]


_enlarge = _reduce


def _luma(pixels: torch.Tensor) -> torch.Tensor:
    """(3, H, W) to (1, H, W)."""
    return torch.einsum("chw,c->hw", pixels, pixels.new_tensor(_LUMA))[None]


def _blur(planes: torch.Tensor) -> torch.Tensor:
    return binomial_blur(binomial_blur(planes[None], 1), 2)[0]


def _low(planes: torch.Tensor) -> torch.Tensor:
    """Without what noise and the grid of JPEG add."""
    return binomial_blur(_blur(planes)[None], 4)[0]


def _ramp(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """0 up to `low`, 1 from `high` on, smooth between."""
    part = ((values - low) / (high - low)).clamp(0, 1)
    return part * part * (3 - 2 * part)


def _strokes(luma: torch.Tensor) -> torch.Tensor:
    """Where lines of up to two pixels are much darker or lighter than what lies on both sides: weights (1, h, w)."""

    def grown(planes: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(planes, 3, stride=1, padding=1)

    depth = [-grown(-grown(planes)) - planes for planes in (luma, -luma)]
    return _ramp(torch.maximum(depth[0], depth[1]), 0.2, 0.35)


def _change(made: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """How much the form of things differs, whatever their contrast: 1 less the correlation around each pixel."""
    mean_made, mean_seen = _blur(made), _blur(seen)
    covariance = _blur(made * seen) - mean_made * mean_seen
    variances = (_blur(made * made) - mean_made**2).clamp_min(0) * (_blur(seen * seen) - mean_seen**2).clamp_min(0)
    steady = 5e-4
    return 1 - (covariance + steady) / (variances.sqrt() + steady)
