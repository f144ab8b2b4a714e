"""Tiles: pictures and latents too large for one forward pass are cut into overlapping tiles and blended again.

In use:

    tiles = tile_grid(height, width, tile_size=64, overlap=8)
    weights = gaussian_weights(tiles[0].height, tiles[0].width)
    outputs = ((tile, model(tile.crop(latents))) for row in row_by_row(tiles) for tile in row)
    blended = torch.cat(list(blend_rows(outputs, latents.shape, weights=weights)), -2)
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from xpsr.errors import InputError

__all__ = ["Tile", "blend_rows", "gaussian_weights", "reflection", "row_by_row", "tile_grid"]

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

    def scaled(self, factor: int) -> "Tile":
        """Returns the same part of a picture `factor` times as large."""
        top, left, height, width = (x * factor for x in (self.top, self.left, self.height, self.width))
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


def row_by_row(tiles: Iterable[Tile]) -> list[list[Tile]]:
    """Returns the tiles of a grid as its rows, from the top on, each from the left on."""
    ordered = sorted(tiles, key=lambda tile: (tile.top, tile.left))
    return [list(row) for _, row in itertools.groupby(ordered, key=lambda tile: tile.top)]


def blend_rows(
    outputs: Iterable[tuple[Tile, torch.Tensor]], shape: tuple[int, ...], *, weights: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Yields the weighted average of overlapping tiles: a strip of rows as soon as no other tile touches it.

    Args:
        outputs: tiles that together cover `shape`, row by row from the top, each with its values (..., h, w); a
            generator holds one at a time.
        shape: (..., H, W) of the whole.
        weights: (h, w), positive, of every tile.

    Yields:
        (..., rows, W), together `shape`, in the dtype and on the device of `weights`, in which they are also summed.
    """
    height, top = len(weights), 0
    total, norm = weights.new_zeros(*shape[:-2], height, shape[-1]), weights.new_zeros(height, shape[-1])
    for tile, values in outputs:
        if (done := tile.top - top) > 0:
            yield total[..., :done, :] / norm[:done]
            total, norm = (F.pad(sums[..., done:, :], (0, 0, 0, done)) for sums in (total, norm))
            top = tile.top
        columns = slice(tile.left, tile.left + tile.width)
        total[..., columns].add_(weights * values)
        norm[..., columns].add_(weights)
    yield total / norm


def reflection(length: int, multiple: int, *, offset: int = 0) -> torch.Tensor:
    """Returns the lines of a picture, by their numbers, that together with its reflections make up a multiple.

    Those are offset, ..., 1, 0, 1, ..., length - 1, length - 2, ...; nothing is stretched. Where a picture is smaller
    than its padding, the reflection's last line is repeated.

    Args:
        length: of its height or width.
        multiple: at least 1.
        offset: lines added before the first; the rest is added after the last.
    """
    last = length - 1
    lines = torch.arange(-(-(offset + length) // multiple) * multiple) - offset
    return (last - (lines.abs() - last).abs()).clamp(0, last)


def _starts(length: int, tile_size: int, overlap: int) -> list[int]:
    last = max(length - tile_size, 0)
    return [*range(0, last, tile_size - overlap), last]


def _gaussian(length: int, middle: float) -> torch.Tensor:
    distances = (torch.arange(length, dtype=torch.float64) - middle) / length
    return torch.exp(-(distances**2) / (2 * _VARIANCE)) / math.sqrt(2 * math.pi * _VARIANCE)
