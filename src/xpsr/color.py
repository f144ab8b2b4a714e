"""Colour match: gives a restored picture the colours of the picture it was made from.

A diffusion model drifts in tone. `match_adain` moves mean and contrast of each channel as a whole; `match_wavelet`
keeps the fine bands and takes the coarse ones, thus every local tone, from the source.
"""

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F

from xpsr.errors import InputError

__all__ = [
    "WAVELET_HALO",
    "ColorMatch",
    "ColorStatistics",
    "binomial_blur",
    "luma_of",
    "match_adain",
    "match_color",
    "match_statistics",
    "match_wavelet",
]

_LUMA = (0.299, 0.587, 0.114)

ColorMatch: TypeAlias = Literal["none", "adain", "wavelet"]


def match_color(target: torch.Tensor, source: torch.Tensor, method: ColorMatch) -> torch.Tensor:
    """Returns `target` (B, 3, H, W) in [0, 1] with the colours of `source`, of the same shape, in [0, 1].

    Raises:
        InputError: unknown method, or "wavelet" with pictures of different sizes.
    """
    if method == "none":
        return target
    if method == "adain":
        return match_adain(target, source).clamp(0, 1)
    if method == "wavelet":
        return match_wavelet(target, source).clamp(0, 1)
    raise InputError(
        f"color match {method!r} is unknown",
        code="unknown_value",
        remedy=f"use one of {', '.join(get_args(ColorMatch))}",
    )


def match_adain(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Gives each channel of `target` the mean and standard deviation that it has in `source`.

    Args:
        target: (B, 3, H, W) floats in [0, 1].
        source: (B, 3, H', W') floats in [0, 1].

    Returns:
        (B, 3, H, W) in the dtype of `target`, a little beyond [0, 1] in places; statistics are float32.
    """
    statistics = ColorStatistics(), ColorStatistics()
    for gathered, pixels in zip(statistics, (target, source), strict=True):
        gathered.add(pixels)
    return match_statistics(target, *statistics)


class ColorStatistics:
    """Mean and standard deviation of each channel of pictures that are known by parts, as of the whole."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(())  # of all that was added; squares of distances from the mean

    def add(self, pixels: torch.Tensor) -> None:
        """Takes in a part (B, C, h, w), floats."""
        count = pixels.shape[-2] * pixels.shape[-1]
        variance, mean = torch.var_mean(pixels.float(), dim=(-2, -1), correction=0, keepdim=True)
        squares = variance * count
        if self._count:  # Chan's formula, which forgets no digits
            share, distance = count / (self._count + count), mean - self._mean
            squares = self._squares + squares + distance.square() * self._count * share
            mean = self._mean + distance * share
        self._count, self._mean, self._squares = self._count + count, mean, squares

    @property
    def mean(self) -> torch.Tensor:
        """(B, C, 1, 1) float32."""
        return self._mean

    @property
    def std(self) -> torch.Tensor:
        """(B, C, 1, 1) float32, above 0."""
        return (self._squares / max(self._count - 1, 1) + 1e-5).sqrt()  # a single pixel has no unbiased variance


def match_statistics(target: torch.Tensor, ours: ColorStatistics, theirs: ColorStatistics) -> torch.Tensor:
    """Gives a part of a picture of some statistics others: `match_adain`, where the whole is not known at once.

    Args:
        target: (B, C, h, w) floats in [0, 1].
        ours: of all of the target.
        theirs: that it is to have.

    Returns:
        (B, C, h, w) in the dtype of `target`, a little beyond [0, 1] in places.
    """
    matched = (target.float() - ours.mean) / ours.std * theirs.std + theirs.mean
    return matched.to(target.dtype)


_LEVELS = 5
"""Bands that stay the target's in `match_wavelet`; each doubles the width of what counts as fine."""

WAVELET_HALO = 2**_LEVELS - 1
"""Pixels beyond each that `match_wavelet` looks at."""


def match_wavelet(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Returns the high frequencies of `target` on the low frequencies of `source`.

    Args:
        target: (B, 3, H, W) floats in [0, 1].
        source: (B, 3, H, W) floats in [0, 1].

    Returns:
        (B, 3, H, W) in the dtype of `target`, a little beyond [0, 1] in places; bands are float32.

    Raises:
        InputError: the pictures have different sizes.
    """
    if target.shape[-2:] != source.shape[-2:]:
        raise InputError(
            f"source of {source.shape[-1]} x {source.shape[-2]} pixels does not lie over the target of"
            f" {target.shape[-1]} x {target.shape[-2]}",
            code="wrong_size",
            remedy="resize the source first",
        )
    # The bands telescope and blurring is linear: high(target) + low(source) = target + low(source - target)
    low = source.float() - target.float()
    for level in range(_LEVELS):
        low = binomial_blur(low, 2**level)
    return (target.float() + low).to(target.dtype)


def binomial_blur(pixels: torch.Tensor, radius: int) -> torch.Tensor:
    """Blurs (B, C, H, W) by the binomial (1, 2, 1) / 4 along both axes with its taps `radius` apart, edges repeated."""
    padded = F.pad(pixels, (radius, radius, radius, radius), mode="replicate")
    rows = (padded[..., : -2 * radius, :] + 2 * padded[..., radius:-radius, :] + padded[..., 2 * radius :, :]) / 4
    return (rows[..., : -2 * radius] + 2 * rows[..., radius:-radius] + rows[..., 2 * radius :]) / 4


def luma_of(pixels: torch.Tensor) -> torch.Tensor:
    """Returns the luma of BT.601 (1, H, W), in the range of the pixels (3, H, W)."""
    return torch.einsum("chw,c->hw", pixels, pixels.new_tensor(_LUMA))[None]
