"""How much of a picture is computed at once, so that it fits into a budget of memory, and how long it takes.

A budget is spent in this order: what only costs time is given up first, bands of fewer rows, tiles one after the other,
smaller tiles of the autoencoder; what changes the result, the size of the denoiser's tiles, last.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xpsr.caches import keep, kept
from xpsr.errors import InputError

if TYPE_CHECKING:  # there is torch in it, and who only says times and sizes needs none
    from xpsr.devices import Dtype, Offload

__all__ = [
    "LEAST_BAND",
    "Costs",
    "TilePlan",
    "Work",
    "in_words",
    "keep_rate",
    "known_rate",
    "parse_memory",
    "plan_tiles",
    "refuse_above",
    "smaller_plan",
    "time_in_words",
]

LEAST_BAND = 96
"""Rows of pixels in a band, or layers would look at more rows beyond it than are in it."""

_LEAST_TILE = 32  # latent pixels, of which less shows too little of a picture
_LEAST_VAE_TILE = 256  # pixels

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """How much of a picture is computed at once.

    `tile_size` and `tile_overlap` are part of what the result looks like; the others only of what it costs.

    Attributes:
        tile_size: side of the tiles that are denoised, in latent pixels.
        tile_overlap: by which they overlap, in latent pixels.
        batch_size: tiles that go through the networks together.
        band_rows: rows of pixels, of what the model works on, that are made at once; None: as many as without a plan.
        vae_tile: side of a square as large as what an `AutoencoderKL` is given at once, in pixels.
        dtype: of the networks.
        offload: what waits outside of the device.
        peak_bytes: memory that it takes at most, of the process on a CPU, else of the device; an estimate.
        seconds: how long it takes, by a rate that was measured on this machine; None: none was.
    """

    tile_size: int
    tile_overlap: int
    batch_size: int = 1
    band_rows: int | None = None
    vae_tile: int = 1024
    dtype: "Dtype" = "fp32"
    offload: "Offload" = "none"
    peak_bytes: int = 0
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """A picture's way through a model: what a plan is made for.

    Attributes:
        source: pixels of the picture, as it is read.
        working: height and width of what the model works on in its largest pass, in pixels.
        result: pixels of the result.
        pixels_per_latent: along a side.
    """

    source: int
    working: tuple[int, int]
    result: int
    pixels_per_latent: int


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What memory a model takes, in bytes.

    Attributes:
        fixed: whatever the picture: weights and libraries.
        tile: for a latent pixel of a tile in the networks.
        band: for a pixel of a band, of what the model works on.
        vae_tile: for a pixel that the autoencoder is given at once; 0 where it sees to itself.
        whole: for a pixel of what the model works on, where nothing is made in bands; 0 where it works in bands.
        source: for a pixel of the picture.
        result: for a pixel of the result.
    """

    fixed: int
    tile: float
    band: float
    vae_tile: float
    whole: float
    source: float
    result: float

    def peak(self, plan: TilePlan, work: Work) -> int:
        """Returns the memory that a plan takes, in bytes.

        What stands for the whole picture, and a band, are there all the time; networks and autoencoder take turns.
        """
        height, width = work.working
        tile = math.prod(min(plan.tile_size, math.ceil(side / work.pixels_per_latent)) for side in (height, width))
        band = width * min(height, plan.band_rows or height)
        vae_tile = min(plan.vae_tile**2, height * width)
        kept = self.source * work.source + self.result * work.result + self.whole * height * width + self.band * band
        at_once = max(self.tile * tile * plan.batch_size, self.vae_tile * vae_tile)
        return math.ceil(self.fixed + kept + at_once)


def plan_tiles(
    first: TilePlan, work: Work, costs: Costs, *, budget: int | None, multiple: int, keeps_tiles: bool = False
) -> TilePlan:
    """Returns the plan that takes most of a budget without going beyond it, or else the smallest.

    Args:
        first: the plan where memory is no object.
        work: what it is for.
        costs: of the model.
        budget: bytes; None: memory is no object.
        multiple: of which sides of tiles are multiples, in latent pixels.
        keeps_tiles: whether the tiles of the denoiser stay, which are part of what the result looks like.
    """
    plan: TilePlan | None = replace(first, peak_bytes=costs.peak(first, work))
    smallest = first
    while plan is not None:
        smallest = plan
        if budget is None or plan.peak_bytes <= budget:
            break
        plan = smaller_plan(plan, work, costs, multiple=multiple, keeps_tiles=keeps_tiles)
    return smallest


def refuse_above(plan: TilePlan, budget: int) -> None:
    """Raises `InputError` where a plan, the smallest there is, takes more than a budget, in bytes."""
    if plan.peak_bytes > budget:
        message = f"is too little: this picture and this model take {in_words(plan.peak_bytes)} at least"
        remedy = f"use {math.ceil(plan.peak_bytes / 10**8) / 10:g}GB or more, or a smaller scale"
        raise InputError(message, code="too_small", field="memory", value=in_words(budget), remedy=remedy)


def smaller_plan(
    plan: TilePlan, work: Work, costs: Costs, *, multiple: int, keeps_tiles: bool = False
) -> TilePlan | None:
    """Returns the next plan that takes less memory; None: there is none. Arguments are those of `plan_tiles`."""
    peak, smaller = costs.peak(plan, work), _step(plan, multiple, keeps_tiles=keeps_tiles)
    while smaller is not None and costs.peak(smaller, work) >= peak:  # of what this picture or model has no use for
        smaller = _step(smaller, multiple, keeps_tiles=keeps_tiles)
    return None if smaller is None else replace(smaller, peak_bytes=costs.peak(smaller, work))


def _step(plan: TilePlan, multiple: int, *, keeps_tiles: bool) -> TilePlan | None:
    if plan.batch_size > 1:
        return replace(plan, batch_size=plan.batch_size // 2)
    if plan.band_rows is not None and plan.band_rows > LEAST_BAND:
        return replace(plan, band_rows=max(plan.band_rows // 2, LEAST_BAND))
    if plan.vae_tile > _LEAST_VAE_TILE:
        return replace(plan, vae_tile=max(plan.vae_tile // 2, _LEAST_VAE_TILE))
    side = math.ceil(max(plan.tile_size // 2, _LEAST_TILE) / multiple) * multiple
    if keeps_tiles or side >= plan.tile_size:
        return None
    return replace(plan, tile_size=side, tile_overlap=min(plan.tile_overlap, side // 2))


def parse_memory(text: str) -> int:
    """Returns the bytes that a text such as "4GB", "800 MB" or "1.5GiB" stands for.

    Raises:
        InputError: it is no such text.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if found is None or found[2] not in _UNITS or not (size := int(float(found[1]) * _UNITS[found[2]])):
        message, remedy = "is no amount of memory", "use 4GB, for example"
        raise InputError(message, code="wrong_type", field="memory", value=text, remedy=remedy)
    return size


def in_words(size: int) -> str:
    """Returns bytes as people say them: "19 kB", "640 MB", "1.9 GB"."""
    if size < 10**6:
        return f"{math.ceil(size / 10**3)} kB"
    if size < 10**9:
        return f"{math.ceil(size / 10**6)} MB"
    return f"{math.ceil(size / 10**8) / 10:.1f} GB"


def known_rate(key: str) -> float | None:
    """Returns the rate of that name that was kept on this machine, in any unit; None: there is none."""
    rate: float | None = kept("rates.json", _is_rate).get(key)
    return rate


def keep_rate(key: str, rate: float) -> None:
    """Keeps a rate, so that one run that was slow by chance counts half and is forgotten soon."""
    before = known_rate(key)
    rate = rate if before is None else (before + rate) / 2
    if _is_rate(rate):
        keep("rates.json", key, rate, _is_rate)


def _is_rate(entry: object) -> bool:
    return isinstance(entry, float) and 0 < entry < math.inf


def time_in_words(seconds: float) -> str:
    """Returns a time as people say it: "8 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{math.ceil(seconds / 360) / 10:g} h"
