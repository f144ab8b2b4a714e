"""Tiles: pictures and latents too large for one forward pass are cut into overlapping tiles and blended again.

In use:

    tiles = tile_grid(height, width, tile_size=64, overlap=8)
    weights = gaussian_weights(tiles[0].height, tiles[0].width)
    outputs = ((tile, model(tile.crop(latents))) for tile in tiles)
    blended = blend_tiles(outputs, latents.shape, weights=weights)
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from xpsr.errors import InputError

__all__ = ["Tile", "blend_tiles", "gaussian_weights", "pad_to_multiple", "tile_grid"]

_VARIANCE = 0.01  # of the Gaussian weights, in units of the tile's side


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A rectangle of a picture, in pixels (or of latents, in latent pixels)."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the part (..., height, width) of `values` (..., H, W) that lies under the tile, as a view."""
        return values[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def scaled(self, factor: float) -> "Tile":
        """Returns the same part of a picture `factor` times as large; a fraction leaves whole pixels."""
        top, left, height, width = (round(x * factor) for x in (self.top, self.left, self.height, self.width))
        return Tile(top=top, left=left, height=height, width=width)


def tile_grid(height: int, width: int, *, tile_size: int, overlap: int) -> list[Tile]:
    """Covers height x width with tiles of one size, column by column from the left.

    Tiles are `tile_size` wide and high, or as the picture where that is smaller. Neighbours overlap by `overlap`; the
    last ones are flush with the edge and may overlap by more.

    Raises:
        InputError: no pixels, or `overlap` outside [0, tile_size).
    """
    if height < 1 or width < 1:
        raise InputError(f"{width} x {height} has no pixels", code="too_small", remedy="use at least 1 x 1")
    if tile_size < 1:
        raise InputError(
            "is not positive", code="out_of_range", field="tile_size", value=str(tile_size), remedy="use 1 or more"
        )
    if not 0 <= overlap < tile_size:
        message, remedy = f"is not in [0, tile_size={tile_size})", f"use overlap={tile_size // 8}"
        raise InputError(message, code="out_of_range", field="overlap", value=str(overlap), remedy=remedy)
    return [
        Tile(top=top, left=left, height=min(tile_size, height), width=min(tile_size, width))
        for left in _starts(width, tile_size, overlap)
        for top in _starts(height, tile_size, overlap)
    ]


def gaussian_weights(
    height: int,
    width: int,
    *,
    symmetric: bool = True,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Returns (height, width) positive weights that fall off from the middle of a tile as a Gaussian.

    The fall-off is relative to the tile's sides, so that a corner weighs 1e-11 of the middle at every size.
    `symmetric=False` puts the middle half a pixel low, as the reference implementation does, which works in float64.
    """
    rows = _gaussian(height, (height - 1) / 2 if symmetric else height / 2)
    columns = _gaussian(width, (width - 1) / 2)
    weights = (rows[:, None] * columns).to(device=device, dtype=dtype)  # (H, 1) * (W) -> (H, W)
    # float16 has no 1e-11: a weight of zero would make the blend of a lone corner 0 / 0
    return weights.clamp_min(torch.finfo(dtype).tiny)


def blend_tiles(
    outputs: Iterable[tuple[Tile, torch.Tensor]], shape: tuple[int, ...], *, weights: torch.Tensor
) -> torch.Tensor:
    """Returns the weighted average of overlapping tiles.

    Args:
        outputs: tiles that together cover `shape`, each with its values (..., h, w); a generator holds one at a time.
        shape: (..., H, W) of the whole.
        weights: (h, w), positive.

    Returns:
        `shape`, in the dtype and on the device of `weights`, in which it is also summed.
    """
    total, norm = weights.new_zeros(shape), weights.new_zeros(shape[-2:])
    for tile, values in outputs:
        tile.crop(total).add_(weights * values)
        tile.crop(norm).add_(weights)
    return total / norm


def pad_to_multiple(pixels: torch.Tensor, multiple: int, *, offset: int = 0) -> tuple[torch.Tensor, Tile]:
    """Pads by reflection until both sides are multiples of `multiple`; nothing is stretched.

    Where a picture is smaller than its padding, the reflection's last line is repeated.

    Args:
        pixels: (..., H, W) of any dtype.
        multiple: at least 1.
        offset: lines added at the top and at the left; the rest is added at the bottom and at the right.

    Returns:
        (..., H', W') and the tile that crops it, or anything of its size, back to (..., H, W).
    """
    height, width = pixels.shape[-2:]
    padded = pixels.index_select(-2, _reflection(height, multiple, offset, pixels.device))
    padded = padded.index_select(-1, _reflection(width, multiple, offset, pixels.device))
    return padded, Tile(top=offset, left=offset, height=height, width=width)


def _starts(length: int, tile_size: int, overlap: int) -> list[int]:
    last = max(length - tile_size, 0)
    return [*range(0, last, tile_size - overlap), last]


def _gaussian(length: int, middle: float) -> torch.Tensor:
    distances = (torch.arange(length, dtype=torch.float64) - middle) / length
    return torch.exp(-(distances**2) / (2 * _VARIANCE)) / math.sqrt(2 * math.pi * _VARIANCE)


def _reflection(length: int, multiple: int, offset: int, device: torch.device) -> torch.Tensor:
    """Indices offset, ..., 1, 0, 1, ..., length - 1, length - 2, ... of pixels that make up a multiple."""
    last = length - 1
    indices = torch.arange(-(-(offset + length) // multiple) * multiple, device=device) - offset
    return (last - (indices.abs() - last).abs()).clamp(0, last)
