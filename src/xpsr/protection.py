"""What a restoration has invented, and what of it is taken back where it contradicts its picture.

A picture and what a model made of it are compared at the picture's own size, where they should be the same but for the
noise: `agree` makes them so, `contradictions` finds where they are not.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from xpsr.color import binomial_blur, luma_of
from xpsr.image import Resized, drop_from_memory, new_planes

__all__ = ["agree", "blend_back", "contradictions", "invented", "lr_psnr"]

_UNBOUNDED = -math.inf, math.inf

_STRIP = 2**20
"""Pixels that are looked at at once."""

_BLUR_HALO = 3
_CONTRADICTION_HALO = 12
"""Rows beyond each that `_blur` and `_contradiction` look at: 7 of a low pass, then 2 of a maximum and 3 of a blur."""

_NUM_PROJECTIONS = 4
"""How often `agree` corrects: each time about a tenth of the difference is left."""

_VISIBLE, _STRONG = 8 / 255, 32 / 255
"""Differences of luma that are counted as invented, and that are white in a map."""

_CONTRADICTION = 10 / 255
"""Difference of low-passed luma from which on the result says something else; twice that for colour."""


def agree(pixels: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Makes a result whose reduction is the picture that it was made from (back-projection, Irani and Peleg 1991).

    Args:
        pixels: (3, H, W) floats in [0, 1], which are changed.
        source: (3, h, w) floats in [0, 1]; where it is larger, only its own reduction can agree.

    Returns:
        `pixels`, in [0, 1]. Clipping to that leaves small differences.
    """
    size = _common(pixels, source)
    reduced = _resampled(source, size)
    for _ in range(_NUM_PROJECTIONS):
        missing = Resized(reduced - _resampled(pixels, size), _size(pixels), bounds=_UNBOUNDED)
        for top, strip in _strips(pixels):
            strip.add_(missing.rows(top, top + strip.shape[-2])).clamp_(0, 1)
    return pixels


def lr_psnr(pixels: torch.Tensor, source: torch.Tensor) -> float:
    """Returns how well a result (3, H, W), reduced, agrees with its picture (3, h, w): PSNR in dB, at most 100."""
    size = _common(pixels, source)
    made, seen = (Resized(planes, size, bounds=_UNBOUNDED) for planes in (pixels, source))
    total = 0.0
    for top, bottom in _ranges(size):
        total += float((made.rows(top, bottom) - seen.rows(top, bottom)).square().sum(dtype=torch.float64))
        drop_from_memory(pixels)
    return -10 * math.log10(max(total / (3 * size[0] * size[1]), 1e-10))


def invented(pixels: torch.Tensor, source: torch.Tensor, *, folder: Path | None = None) -> tuple[torch.Tensor, float]:
    """Returns where a result shows what a plain enlargement of its picture does not, and in how much of it.

    Args:
        pixels: (3, H, W) floats in [0, 1].
        source: (3, h, w) floats in [0, 1].
        folder: where there is room for what is returned; see `xpsr.image.new_planes`.

    Returns:
        (1, H, W) in [0, 1], 1 for a difference of luma of 32 levels of 255 or more, averaged over a few pixels; and the
        share of the picture, in [0, 1], where it is more than 8.
    """
    height, width = _size(pixels)
    plain = Resized(luma_of(source), (height, width))
    shown, count = new_planes((1, height, width), folder), 0

    def difference(first: int, last: int) -> torch.Tensor:
        return _blur((luma_of(pixels[:, first:last]) - plain.rows(first, last)).abs())

    for top, strip in _strips(shown):
        found = _with_halo(difference, top, strip.shape[-2], height, halo=_BLUR_HALO)
        strip.copy_((found / _STRONG).clamp(0, 1))
        count += int((found > _VISIBLE).sum())
        drop_from_memory(pixels[:, top : top + strip.shape[-2]])
    return shown, count / (height * width)


def contradictions(pixels: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Returns where a result says something else than its picture: weights (1, h, w) in [0, 1], soft at their edges.

    That is where its reduction differs in its coarse luma or colour, and where thin strokes of much contrast, such as
    those of letters, have another form.

    Args:
        pixels: (3, H, W) floats in [0, 1].
        source: (3, h, w) floats in [0, 1].
    """
    size = _common(pixels, source)
    made, seen = (Resized(planes, size, bounds=_UNBOUNDED) for planes in (pixels, source))
    weights = torch.empty(1, *size)

    def differing(first: int, last: int) -> torch.Tensor:
        return _contradiction(made.rows(first, last), seen.rows(first, last))

    for top, strip in _strips(weights):
        strip.copy_(_with_halo(differing, top, strip.shape[-2], size[0], halo=_CONTRADICTION_HALO))
        drop_from_memory(pixels)
    return weights


def _contradiction(made: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Weights (1, h, w) of what lies over each other, both (3, h, w)."""
    luma = luma_of(made) - luma_of(seen)
    color = (made - seen) - luma
    coarse = torch.cat([_low(luma), _low(color) / 2]).abs().amax(0, keepdim=True) / _CONTRADICTION
    other_form = _ramp(_change(luma_of(made), luma_of(seen)), 0.08, 0.2)
    weights = torch.maximum(_ramp(coarse, 1, 2), _strokes(luma_of(seen)) * other_form)
    # a little further than where it is found, and gone a few pixels on
    return _blur(F.max_pool2d(weights, 5, stride=1, padding=2))


def blend_back(pixels: torch.Tensor, source: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Puts the plain enlargement of `source` (3, h, w) in the place of a result (3, H, W) where `weights` are 1.

    `weights` are (1, h', w') in [0, 1], of any size. Returns `pixels`, which are changed.
    """
    mask, plain = Resized(weights, _size(pixels), method="bilinear"), Resized(source, _size(pixels))
    for top, strip in _strips(pixels):
        rows = top, top + strip.shape[-2]
        strip.lerp_(plain.rows(*rows), mask.rows(*rows))
    return pixels


def _ranges(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yields the first and the last but one of the rows of strips of a picture."""
    height, width = size
    rows = max(_STRIP // width, 1)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _strips(planes: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields strips (C, rows, W) of planes as views, each with its first row; what has been looked at is put away."""
    for top, bottom in _ranges(_size(planes)):
        yield top, planes[:, top:bottom]
        drop_from_memory(planes[:, top:bottom])


def _with_halo(
    make: Callable[[int, int], torch.Tensor], top: int, rows: int, height: int, *, halo: int
) -> torch.Tensor:
    """Returns rows of what `make` makes of the rows from one to another, of which each depends on `halo` beyond it."""
    first, last = max(top - halo, 0), min(top + rows + halo, height)
    return make(first, last)[:, top - first : top - first + rows]


def _size(planes: torch.Tensor) -> tuple[int, int]:
    return planes.shape[-2], planes.shape[-1]


def _common(pixels: torch.Tensor, source: torch.Tensor) -> tuple[int, int]:
    """Height and width at which both can be compared: those of the picture, or of a result that is smaller."""
    return min(pixels.shape[-2], source.shape[-2]), min(pixels.shape[-1], source.shape[-1])


def _resampled(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """As cameras and programs reduce: bicubic, antialiased, (C, H, W) to (C, height, width), a little beyond [0, 1]."""
    whole, result = Resized(planes, size, bounds=_UNBOUNDED), torch.empty(len(planes), *size)
    for top, strip in _strips(result):
        strip.copy_(whole.rows(top, top + strip.shape[-2]))
        drop_from_memory(planes)
    return result


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
