"""What the networks look at: a picture enlarged and fitted to the model, and its texts."""

import dataclasses
import math
from dataclasses import dataclass

import torch

from xpsr.config import Settings
from xpsr.errors import InputError
from xpsr.image import Picture, bleed, resize, stretched_sizes
from xpsr.tiling import Tile, pad_to_multiple

__all__ = ["MAX_OUTPUT_PIXELS", "Conditions", "fit_picture"]


MAX_OUTPUT_PIXELS = 2**27
"""Largest picture, 134 megapixels; at about 90 bytes each (measured with the mini) that takes 12 GB."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the networks look at. The two rows of the texts are the negative and the positive one under guidance."""

    pixels: torch.Tensor  # (1, 3, H, W) in [0, 1], enlarged and fitted
    content: torch.Tensor  # (1 or 2, N, D), empty before the texts are embedded
    quality: torch.Tensor
    crop: Tile  # where the picture lies in the padded one
    multiple: int  # of which the padded one's sides are multiples
    size: tuple[int, int]  # height and width of the result

    def shifted(self, offset: int) -> "Conditions":
        """Moves the picture `offset` pixels further down and to the right, on another grid of latent pixels."""
        if offset == 0:
            return self
        pixels, crop = pad_to_multiple(self.crop.crop(self.pixels), self.multiple, offset=offset)
        return dataclasses.replace(self, pixels=pixels, crop=crop)


def fit_picture(
    picture: Picture, settings: Settings, *, scale: float, vae_scale_factor: int, tile_multiple: int
) -> Conditions:
    """Enlarges a picture and fits it to the model's multiple of pixels; its texts are not embedded yet.

    Raises:
        InputError: the result, or what the model would work on, is too large.
    """
    height, width = max(round(picture.height * scale), 1), max(round(picture.width * scale), 1)
    _refuse_too_many_pixels(picture, scale, height, width, settings.min_working_size)
    seen, multiple = bleed(picture.pixels, picture.alpha), vae_scale_factor
    if settings.fit == "stretch":
        pixels = _stretched(seen, (height, width), settings.min_working_size, multiple)[None]
        crop = Tile(top=0, left=0, height=pixels.shape[-2], width=pixels.shape[-1])
    else:
        multiple *= tile_multiple
        larger = max(settings.min_working_size / min(height, width), 1)
        enlarged = resize(seen, (round(height * larger), round(width * larger)), method="bicubic")
        pixels, crop = pad_to_multiple(enlarged[None], multiple)
    nothing = pixels[:0]
    return Conditions(
        pixels=pixels, content=nothing, quality=nothing, crop=crop, multiple=multiple, size=(height, width)
    )


def _refuse_too_many_pixels(picture: Picture, scale: float, height: int, width: int, min_working_size: int) -> None:
    """Raises `InputError` where the result, or what the model works on, is larger than `MAX_OUTPUT_PIXELS`."""
    if height * width > MAX_OUTPUT_PIXELS:
        field, value, pixels = "scale", scale, height * width
        largest = math.sqrt(MAX_OUTPUT_PIXELS / (picture.height * picture.width))
        parts = 10 if largest >= 1 else 100
        limit = math.floor(largest * parts) / parts
    else:  # it may be the smaller side that makes the picture so large
        field, value = "min_working_size", min_working_size
        pixels = round(height * width * max(min_working_size / min(height, width), 1) ** 2)
        limit = math.floor(math.sqrt(MAX_OUTPUT_PIXELS * min(height, width) / max(height, width)))
    if pixels > MAX_OUTPUT_PIXELS:
        raise InputError(
            f"makes {pixels / 1e6:.0f} megapixels of {picture.width} x {picture.height}, more than"
            f" {MAX_OUTPUT_PIXELS / 1e6:.0f}",
            code="too_large",
            field=field,
            value=f"{value:g}",
            remedy=f"use {limit:g} or less",
        )


def _stretched(pixels: torch.Tensor, size: tuple[int, int], min_working_size: int, multiple: int) -> torch.Tensor:
    """(3, H, W) brought to `size` and on to one that the model takes, all in 8 bits as the reference does."""
    first, *between, last = stretched_sizes(size, min_size=min_working_size, multiple=multiple)
    pixels = resize(pixels, first, eight_bit=True)
    for larger in between:
        pixels = resize(pixels, larger, method="bilinear", eight_bit=True)
    return resize(pixels, last, eight_bit=True)
