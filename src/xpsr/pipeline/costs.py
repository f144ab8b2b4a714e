"""What a picture's way through a pipeline takes: how much there is to do, and how much memory."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from xpsr.config import Settings
from xpsr.image import IN_MEMORY
from xpsr.models import HaarPackets
from xpsr.pipeline.bands import rows_of_band
from xpsr.pipeline.conditions import Passes
from xpsr.pipeline.latents import VAE_TILE
from xpsr.planning import Costs, TilePlan, Work

if TYPE_CHECKING:
    from xpsr.pipeline.pipeline import XPSRPipeline

__all__ = ["costs_of", "first_plan", "resident_memory", "work_of"]

_PER_CHANNEL = 43
"""Values that the networks hold at once for a latent pixel and a channel of their outermost level. Measured: 11 kB for
each latent pixel of a tile of 128 x 128 through the mini, whose outermost level has 64 channels in float32."""

_BAND = 500
"""Bytes for a pixel of a band of the mini's kind: 0.2 kB in its decoder's widest layers, and rows kept for the next."""

_VAE_TILE, _VAE_KEPT = 1500, 1600
"""Bytes for a pixel that an `AutoencoderKL` of Stable Diffusion is given at once, and for one of a picture that it is
given in strips, whose features wait for the statistics of their norms."""

_KEPT, _WRITTEN = 16, 10
"""Bytes for a pixel of a result: planes and a map, and those of a file that is encoded whole."""

_STREAMED = 8
"""Bytes for a pixel of a result whose planes lie in a file: its map, and what the system has not yet written."""

_SOURCE = 40
"""Bytes for a pixel of the picture: decoded, as planes, and what is compared at its size."""

_STEPS = 100
"""Bytes for a pixel that the mini's kind works on in several steps, which see all of it: pixels, latents, noise."""

_LIBRARIES = 6 * 10**8
"""Bytes of a process that has loaded its libraries, where the system does not tell."""


def work_of(passes: Passes, source: tuple[int, int], factor: int) -> Work:
    """Returns what a plan is made for.

    Args:
        passes: the picture's way.
        source: height and width of the picture.
        factor: pixels per latent pixel.
    """
    return Work(
        source=math.prod(source),
        working=max(passes.working, key=math.prod),
        result=math.prod(passes.sizes[-1]),
        pixels_per_latent=factor,
    )


def first_plan(pipe: "XPSRPipeline", settings: Settings, work: Work) -> TilePlan:
    """Returns the plan where memory is no object: the fastest one on a CPU, where several tiles at once win nothing."""
    is_mini = isinstance(pipe.vae, HaarPackets)
    return TilePlan(
        tile_size=settings.tile_size,
        tile_overlap=settings.tile_overlap,
        band_rows=rows_of_band(work.working[1], None) if is_mini else None,
        vae_tile=VAE_TILE,
    )


def costs_of(pipe: "XPSRPipeline", settings: Settings, work: Work, *, fixed: int, has_workspace: bool) -> Costs:
    """Returns what memory a pipeline takes, on a CPU of the process, else on its device.

    Args:
        pipe: loaded.
        settings: of the restoration; guidance sends two rows through the networks.
        work: how much there is to do.
        fixed: bytes that are taken whatever the picture.
        has_workspace: whether there is a folder for planes of large results.
    """
    is_mini, rows = isinstance(pipe.vae, HaarPackets), 2 if settings.guidance_scale > 1 else 1
    is_streamed = has_workspace and work.result > IN_MEMORY
    in_strips = not is_mini and math.prod(work.working) > VAE_TILE**2
    is_cpu, size = pipe.device.type == "cpu", pipe.unet.dtype.itemsize
    whole = (_STEPS if settings.strength > 0 else 0) if is_mini else 12 + (_VAE_KEPT if in_strips and is_cpu else 0)
    return Costs(
        fixed=fixed,
        tile=_PER_CHANNEL * pipe.unet.config.block_out_channels[0] * size * rows,
        band=_BAND if is_mini else 0,
        vae_tile=0 if is_mini else _VAE_TILE,
        whole=whole,
        source=_SOURCE if is_cpu else 0,
        result=0 if not is_cpu else _STREAMED if is_streamed else _KEPT + _WRITTEN,
    )


def resident_memory(pipe: "XPSRPipeline") -> int:
    """Returns the bytes that a loaded pipeline takes: on a CPU those of this process, else the weights on its device.

    Where the system does not tell, they are about so many.
    """
    networks = (pipe.unet, pipe.controlnet, pipe.vae, pipe.text_encoder)
    weights = sum(weight.nbytes for network in networks for weight in network.parameters())
    if pipe.device.type != "cpu":
        return weights
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _LIBRARIES + weights
