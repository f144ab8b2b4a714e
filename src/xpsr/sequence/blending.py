"""Results that stay where their frames do: each is averaged with the earlier ones where the frames are alike.

What a frame differs by from an earlier one is noise or change. At each place, after a small blur that takes most of the
noise away, the difference is compared with that of the quietest quarter of the frame, which is taken for noise: about
as much is noise, and the earlier result has its full share; four times the energy is change, and it has none. A wide
blur, which leaves still less noise, finds what is too faint for the small one, such as a shadow that moves. Both levels
are held within limits, or what moves all over a frame would pass for noise.

A result is made of what was made of single frames, never of blended results, and of four earlier ones at most. So
nothing drifts, a trail ends after four frames, and whatever goes on in the middle needs but four frames to be there.
Nothing is moved to where it came from: no optical flow, as in the non-local means of Buades, Coll and Morel (2008).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from xpsr.color import binomial_blur
from xpsr.image import Resized, drop_from_memory, new_planes

__all__ = ["NUM_EARLIER", "Blended", "Made", "blend"]

NUM_EARLIER = 4
"""Earlier results that a result is made of at most."""

_ROWS = 64
"""Of a result that are blended at once."""

_QUIET = 0.25
"""Share of a frame that is taken for still, even where all of it moves: a sky, a wall."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """How differences of a certain size are judged.

    Attributes:
        blurs: reaches of the binomial blurs, one after the other.
        noise: least and greatest root mean square that noise may have after them, of 1.
        change: energies, as multiples of that of noise, up to which all is noise and from which on all is change.
    """

    blurs: tuple[int, ...]
    noise: tuple[float, float]
    change: tuple[float, float]


# The greatest noise of the fine scale is that of a standard deviation of 11 levels of 255 before the blur. Energies of
# the coarse scale scatter more, as there is less of independent noise in them.
_SCALES = (
    _Scale(blurs=(1,), noise=(0.5 / 255, 6 / 255), change=(2, 4)),
    _Scale(blurs=(1, 2, 4), noise=(0.2 / 255, 1.5 / 255), change=(4, 8)),
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A frame and what was made of it alone.

    Attributes:
        source: (3, h, w) float32 in [0, 1].
        pixels: (3, H, W) float32 in [0, 1].
    """

    source: torch.Tensor
    pixels: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Blended:
    """A result with its flicker taken away.

    Attributes:
        pixels: (3, H, W) float32 in [0, 1].
        weights: the mean weight of each earlier result, in [0, 1]; 1 is the weight of the frame's own.
    """

    pixels: torch.Tensor
    weights: list[float]


def blend(frame: Made, earlier: Sequence[Made], *, folder: Path | None = None) -> Blended:
    """Blends what was made of a frame with what was made of earlier ones.

    Args:
        frame: whose `pixels` are returned themselves where nothing of the others is like it.
        earlier: of the same sizes.
        folder: where there is room for what is returned; see `xpsr.image.new_planes`.
    """
    weights = _weights(frame.source, [one.source for one in earlier])
    shares = [float(weight.mean()) for weight in weights]
    if not any(shares):
        return Blended(pixels=frame.pixels, weights=shares)
    height, width = frame.pixels.shape[-2:]
    enlarged = [Resized(weight, (height, width), method="bilinear") for weight in weights]
    blended = new_planes((3, height, width), folder)
    for top in range(0, height, _ROWS):
        strip = blended[:, top : top + _ROWS]
        rows = top, top + strip.shape[-2]
        strip.copy_(frame.pixels[:, slice(*rows)])
        total = torch.ones(1, rows[1] - rows[0], width)
        for one, weight in zip(earlier, enlarged, strict=True):
            share = weight.rows(*rows)
            strip.addcmul_(one.pixels[:, slice(*rows)], share)
            total += share
            drop_from_memory(one.pixels[:, slice(*rows)])
        strip.div_(total)
        drop_from_memory(strip)
    return Blended(pixels=blended, weights=shares)


def _weights(source: torch.Tensor, earlier: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """How much of what was made of each of some earlier frames belongs into that of `source`: (1, h, w) in [0, 1]."""
    still = [torch.ones(1, *source.shape[-2:]) for _ in earlier]
    for scale in _SCALES:
        energies = [_energy(source - one, scale.blurs) for one in earlier]
        noise = _noise(energies, scale.noise)
        for weight, energy in zip(still, energies, strict=True):
            torch.minimum(weight, 1 - _ramp(energy / noise, *scale.change), out=weight)
    # what moves has an edge, whose other side may look alike
    return [-F.max_pool2d(-weight, 3, stride=1, padding=1) for weight in still]


def _energy(difference: torch.Tensor, blurs: Sequence[int]) -> torch.Tensor:
    """(3, h, w) to (1, h, w): the mean square, over some pixels around each, of what is left after blurs."""
    return _blurred(_blurred(difference, blurs).square().mean(0, keepdim=True), (1, 2))


def _noise(energies: Sequence[torch.Tensor], limits: tuple[float, float]) -> float:
    """The energy of noise: what the quietest quarter has, beside the frame that is most like this one.

    A frame that is there twice, as where a film became a video, tells nothing of noise.
    """
    quiet = [float(torch.quantile(_thinned(energy), _QUIET)) for energy in energies]
    lowest, highest = (limit**2 for limit in limits)
    return min(max(min((one for one in quiet if one > 0), default=lowest), lowest), highest)


def _thinned(energy: torch.Tensor) -> torch.Tensor:
    """Some of its values, as many as `torch.quantile` takes of large frames, too."""
    values = energy.flatten()
    return values[:: -(-len(values) // 2**20)]


def _blurred(planes: torch.Tensor, reaches: Sequence[int]) -> torch.Tensor:
    for reach in reaches:
        planes = binomial_blur(planes[None], reach)[0]
    return planes


def _ramp(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """0 up to `low`, 1 from `high` on, smooth between."""
    part = ((values - low) / (high - low)).clamp(0, 1)
    return part * part * (3 - 2 * part)
