"""What becomes of decoded pixels on their way to the result, by strips of rows: cropped, coloured, resized."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from xpsr.color import WAVELET_HALO, ColorStatistics, match_color, match_statistics
from xpsr.config import Settings
from xpsr.errors import XPSRError
from xpsr.image import drop_from_memory, new_planes, resize, resized_rows, rows_seen
from xpsr.models import Rows, joined, streamed
from xpsr.pipeline.conditions import Conditions
from xpsr.planning import LEAST_BAND, TilePlan
from xpsr.tiling import Tile

__all__ = ["BAND_PIXELS", "add_strips", "cropped", "finished", "matched", "rows_of_band", "sized", "split"]

BAND_PIXELS = 2**19
"""Of what is decoded at once unless a plan says so: the mini's widest layers take 0.2 kB for each of them."""


def rows_of_band(width: int, plan: TilePlan | None) -> int:
    """Returns how many rows of pixels, of so many columns, are made at once."""
    planned = None if plan is None else plan.band_rows
    return max(BAND_PIXELS // width, LEAST_BAND) if planned is None else planned


def split(strips: Iterable[torch.Tensor], rows: int) -> Iterator[torch.Tensor]:
    """Yields strips (..., h, W) cut into strips of at most so many rows."""
    for strip in strips:
        yield from strip.split(rows, -2)


def add_strips(planes: torch.Tensor, strips: Iterable[torch.Tensor], *, share: float) -> None:
    """Adds `share` of strips (C, rows, W) to the planes (C, H, W) that they make up."""
    top = 0
    for strip in strips:
        part = planes[:, top : top + strip.shape[-2]]
        part.add_(strip.to(part), alpha=share)
        drop_from_memory(part)
        top += strip.shape[-2]


def finished(
    decoded: Iterable[torch.Tensor], conditions: Conditions, settings: Settings, folder: Path | None
) -> Iterator[torch.Tensor]:
    """Yields strips (3, rows, W) in [0, 1] of the result, of what a decoder makes of latents.

    Args:
        decoded: strips (1, 3, rows, W) of the padded picture, in about [-1, 1].
        conditions: what the networks have looked at, whose colours it has.
        settings: its `color_match` and `fit`.
        folder: where there is room for what must be known as a whole; None: in memory.

    Raises:
        XPSRError: the result is not finite.
    """
    crop = conditions.crop
    pixels = (_finite(strip / 2 + 0.5, conditions.dtype).clamp(0, 1) for strip in cropped(decoded, crop))
    colored = (strip[0].clamp(0, 1) for strip in matched(pixels, conditions, settings, folder))
    return sized(colored, (crop.height, crop.width), conditions, eight_bit=settings.fit == "stretch")


def _finite(pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not torch.isfinite(pixels).all():
        half = dtype == torch.float16
        remedy = "use float32 or bfloat16" if half else "use a guidance_scale nearer to 1, or another model"
        raise XPSRError(f"the result is not finite in {dtype}", code="not_finite", remedy=remedy)
    return pixels


def cropped(strips: Iterable[torch.Tensor], crop: Tile) -> Iterator[torch.Tensor]:
    """Yields what lies under a tile of a picture that comes as strips (..., rows, W)."""
    top = 0
    for strip in strips:
        first, last = max(crop.top - top, 0), min(crop.top + crop.height - top, strip.shape[-2])
        if first < last:
            yield strip[..., first:last, crop.left : crop.left + crop.width]
        top += strip.shape[-2]


def matched(
    strips: Iterable[torch.Tensor], conditions: Conditions, settings: Settings, folder: Path | None
) -> Iterator[torch.Tensor]:
    """Yields strips (1, 3, rows, W) in [0, 1] with the colours of the enlarged picture, as for the whole at once.

    Args:
        strips: (1, 3, rows, W) in [0, 1].
        conditions: the enlarged picture.
        settings: its `color_match`.
        folder: where there is room for what must be known as a whole; None: in memory.
    """
    if settings.color_match == "none":
        return iter(strips)
    pairs = _with_sources(strips, conditions)
    if settings.color_match == "adain":
        return _with_statistics(pairs, conditions.crop, folder)
    both = (torch.cat(pair, 1) for pair in pairs)
    return streamed(both, _match_wavelet, halo=WAVELET_HALO, height=conditions.crop.height)


def sized(
    strips: Iterable[torch.Tensor], size: tuple[int, int], conditions: Conditions, *, eight_bit: bool
) -> Iterator[torch.Tensor]:
    """Yields strips (3, rows, W) in [0, 1] of a picture brought to the size of the result.

    Args:
        strips: (3, rows, width), together of the size that the model works on.
        size: height and width of that.
        conditions: their `size`.
        eight_bit: whether it is rounded as the reference does.
    """
    if size == conditions.size:
        yield from strips
        return
    if eight_bit:  # to the bits of other software, which know no strips
        yield resize(joined(strips), conditions.size, method="bicubic", eight_bit=True)
        return
    height, done, rows = conditions.size[0], 0, Rows()
    for strip in strips:
        rows.append(strip)
        ready = height if rows.bottom == size[0] else done
        while ready < height and rows_seen((done, ready + 1), size[0], height, "bicubic")[1] <= rows.bottom:
            ready += 1
        if ready == done:
            continue
        first, last = rows_seen((done, ready), size[0], height, "bicubic")
        seen = rows.between(first, last)
        yield resized_rows(seen, first, size[0], conditions.size, (done, ready), method="bicubic", bounds=(0, 1))
        done = ready
        rows.drop_above(rows_seen((done, height), size[0], height, "bicubic")[0] if done < height else rows.bottom)


def _with_sources(
    strips: Iterable[torch.Tensor], conditions: Conditions
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields strips of a result, each with the enlarged picture (1, 3, rows, W) in [0, 1] that it lies over."""
    top, crop = conditions.crop.top, conditions.crop
    for strip in strips:
        source = conditions.rows(top, top + strip.shape[-2])[..., crop.left : crop.left + crop.width]
        yield strip, source.float()
        top += strip.shape[-2]


def _with_statistics(
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], crop: Tile, folder: Path | None
) -> Iterator[torch.Tensor]:
    kept, top = new_planes((3, crop.height, crop.width), folder), 0
    statistics = ColorStatistics(), ColorStatistics()
    sizes = []
    for strips in pairs:
        target, source = (strip.cpu() for strip in strips)
        statistics[0].add(target)
        statistics[1].add(source)
        rows = target.shape[-2]
        kept[:, top : top + rows] = target[0]
        drop_from_memory(kept[:, top : top + rows])
        top += rows
        sizes.append(rows)
    for strip in kept.split(sizes, -2):
        yield match_statistics(strip[None], *statistics).clamp(0, 1)
        drop_from_memory(strip)


def _match_wavelet(both: torch.Tensor) -> torch.Tensor:
    return match_color(both[:, :3], both[:, 3:], "wavelet")
