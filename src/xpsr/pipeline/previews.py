"""What a picture looks like so far, while a model of several steps works on it: small, and made in little time."""

import inspect
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TypeAlias

import torch

from xpsr.config import Settings
from xpsr.image import Picture, Resized, bleed, resize, to_gray
from xpsr.models import HaarPackets, joined
from xpsr.pipeline.bands import finished
from xpsr.pipeline.conditions import Conditions, Passes
from xpsr.pipeline.denoising import EstimateCallback
from xpsr.pipeline.latents import Autoencoder, pixels_per_latent

__all__ = ["PREVIEW_SIDE", "PreviewCallback", "Previews"]

PREVIEW_SIDE = 256
"""Pixels along the longer side of a preview, at most."""

_FEWEST = 16
"""Latents along the longer side that are decoded of larger pictures, at least: fewer show next to nothing."""

_SHARE = 4
"""Of the latents along a side, one in so many is decoded: as Stable Diffusion's decoder takes .6 GFLOP for each, and a
step with guidance .9, a preview takes less than a twentieth of a step."""

PreviewCallback: TypeAlias = Callable[[torch.Tensor, int, int], None]


@dataclass(frozen=True)
class Previews:
    """Previews of one picture: what it looks like so far, after every step but the last.

    Latents are reduced before they are decoded, so that what a preview takes hardly grows with the picture. Nothing of
    the run is changed: no noise is drawn, and scheduler and autoencoder stay as they are.

    Args:
        callback: is shown (3, h, w), float32 on the CPU in [0, 1], of the ratio of the result, with a longer side of
            at most `PREVIEW_SIDE`; and which step it is, from 1 on, of how many. None: nothing is made.
        vae: of the model.
        picture: what is restored.
        passes: its way through the model; the steps of all of them count.
    """

    callback: PreviewCallback | None
    vae: Autoencoder
    _: KW_ONLY
    picture: Picture
    passes: Passes

    def of_pass(self, conditions: Conditions, settings: Settings, *, number: int) -> EstimateCallback | None:
        """Returns what a pass tells of its steps, as `on_estimate` of `take_steps`.

        Args:
            conditions: what the networks look at in that pass.
            settings: their `color_match` and `fit`.
            number: of the pass, from 0 on.
        """
        callback = self.callback
        if callback is None:
            return None

        def on_estimate(latents: torch.Tensor, step: int, steps: int) -> None:
            done, total = number * steps + step, len(self.passes.sizes) * steps
            if done < total:
                callback(self._pixels(latents, conditions, settings), done, total)

        return on_estimate

    def _pixels(self, latents: torch.Tensor, conditions: Conditions, settings: Settings) -> torch.Tensor:
        """What clean latents of a padded picture look like, (3, h, w) in [0, 1]."""
        factor = pixels_per_latent(self.vae)
        height, width = (side / factor for side in conditions.enlarged.size)  # more steps than one know no offset
        seen = latents[..., : math.ceil(height), : math.ceil(width)]
        pixels = _reduced(self._decoded(seen, factor).float().cpu(), PREVIEW_SIDE)
        # the last latents of each side are padding in part
        shares = height / seen.shape[-2], width / seen.shape[-1]
        sides = zip(pixels.shape[-2:], shares, strict=True)
        rows, columns = (max(round(side * share), 1) for side, share in sides)
        small = Conditions(enlarged=Resized(self._source, (rows, columns)), multiple=1, size=self._size)
        made = joined(finished([pixels.nan_to_num()], small, settings, None))  # half precision may overflow
        return to_gray(made).expand_as(made).contiguous() if self._is_gray else made

    def _decoded(self, latents: torch.Tensor, factor: int) -> torch.Tensor:
        """Scaled latents decoded into about [-1, 1], reduced as far as is needed to be quick."""
        options = {}
        if isinstance(self.vae, HaarPackets):  # without what its decoder adds, the inverse is quick
            longest, options["refine"] = PREVIEW_SIDE, False
        else:
            longest = min(max(max(latents.shape[-2:]) // _SHARE, _FEWEST), PREVIEW_SIDE // factor)
        reduced = _reduced(latents.float(), longest) / self.vae.config.scaling_factor
        decode = type(self.vae).decode
        if self.vae.device == latents.device:
            # without the hook that brings it there where models are offloaded: it would send the UNet away for it
            decode = inspect.unwrap(decode)
        pixels: torch.Tensor = decode(self.vae, reduced.to(self.vae.dtype), **options).sample
        return pixels

    @cached_property
    def _size(self) -> tuple[int, int]:
        height, width = self.passes.sizes[-1]
        scale = min(PREVIEW_SIDE / max(height, width), 1)
        return max(round(height * scale), 1), max(round(width * scale), 1)

    @cached_property
    def _source(self) -> torch.Tensor:
        """The picture, (3, h, w), whose colours previews get."""
        return resize(bleed(self.picture.pixels, self.picture.alpha).cpu(), self._size)

    @cached_property
    def _is_gray(self) -> bool:
        return self.picture.is_gray


def _reduced(planes: torch.Tensor, longest: int) -> torch.Tensor:
    """Reduces float32 planes (1, C, h, w), by area, until no side has more than `longest`."""
    height, width = planes.shape[-2:]
    scale = min(longest / max(height, width), 1)
    if scale == 1:
        return planes
    with torch.autocast(planes.device.type, enabled=False):
        rows, columns = (_shares(side, max(round(side * scale), 1)).to(planes) for side in (height, width))
        return rows @ planes @ columns.T


def _shares(count: int, parts: int) -> torch.Tensor:
    """Returns (parts, count), in rows that add up to 1: how much of each of equal parts of a line lies in each of
    `count` cells."""
    edges, cells = torch.arange(parts + 1) * (count / parts), torch.arange(count)
    first, last = edges[:-1, None].maximum(cells), edges[1:, None].minimum(cells + 1)
    return (last - first).clamp_min(0) * (parts / count)
