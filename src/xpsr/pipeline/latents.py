"""Pixels to latents and back, by strips of rows where the whole would need more memory than there is."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL

from xpsr.models import DeepHaarAutoencoder, HaarAutoencoder, HaarPackets, joined
from xpsr.pipeline.bands import rows_of_band, split
from xpsr.pipeline.conditions import Conditions
from xpsr.pipeline.tiled_vae import decode_in_strips, encode_in_strips
from xpsr.planning import TilePlan

__all__ = [
    "VAE_TILE",
    "Autoencoder",
    "decode_latents",
    "decode_strips",
    "encode_pixels",
    "encode_strips",
    "pixels_per_latent",
]

Autoencoder: TypeAlias = AutoencoderKL | DeepHaarAutoencoder | HaarAutoencoder

VAE_TILE = 1024
"""Side of a square of pixels as large as what an `AutoencoderKL` is given at once: its widest level takes a kilobyte
for each of them."""


def pixels_per_latent(vae: Autoencoder) -> int:
    """Returns how many pixels a latent pixel stands for, along a side."""
    if isinstance(vae, HaarPackets):
        return vae.spatial_compression_ratio
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode_pixels(
    vae: Autoencoder, pixels: torch.Tensor, generator: torch.Generator | None, *, vae_tile: int = VAE_TILE
) -> torch.Tensor:
    """Samples the latents (1, C, H/f, W/f), scaled, of pixels (1, 3, H, W) in [0, 1]."""
    pixels = (pixels * 2 - 1).to(vae.dtype)
    if rows := _rows_at_once(vae, pixels.shape[-2], pixels.shape[-1], vae_tile):
        distribution = encode_in_strips(vae, pixels, rows=rows)
    else:
        distribution = vae.encode(pixels).latent_dist
    latents: torch.Tensor = distribution.sample(generator) * vae.config.scaling_factor
    return latents


def encode_strips(
    vae: Autoencoder, conditions: Conditions, generator: torch.Generator | None, plan: TilePlan | None
) -> Iterator[torch.Tensor]:
    """Yields what `encode_pixels` returns, of a fitted picture, as strips (1, C, rows, W/f) in its dtype.

    The mini's kind of autoencoder sees a band at a time; others see all.
    """
    if not isinstance(vae, HaarPackets):
        vae_tile = VAE_TILE if plan is None else plan.vae_tile
        yield encode_pixels(vae, conditions.pixels, generator, vae_tile=vae_tile).to(conditions.dtype)
        return
    factor = pixels_per_latent(vae)
    rows = max(rows_of_band(conditions.width, plan) // factor, 1) * factor
    for top in range(0, conditions.height, rows):
        pixels = conditions.rows(top, min(top + rows, conditions.height))
        latents = vae.encode((pixels * 2 - 1).to(vae.dtype)).latent_dist.mode()  # without spread: nothing is drawn
        yield (latents * vae.config.scaling_factor).to(conditions.dtype)


def decode_strips(
    vae: Autoencoder,
    strips: Iterable[torch.Tensor],
    height: int,
    *,
    rows: int,
    vae_tile: int = VAE_TILE,
    fidelity: float = 0.0,
) -> Iterator[torch.Tensor]:
    """Yields strips (1, 3, rows, W) of pixels, float32 in about [-1, 1], of strips (1, C, rows, w) of scaled latents.

    Args:
        vae: of the mini's kind no more is in memory than is needed for `rows` of pixels; others need all latents.
        strips: from the top on.
        height: of the whole, in latents.
        rows: of pixels that are decoded at once.
        vae_tile: side of a square as large as what others decode at once.
        fidelity: of the mini's kind alone.
    """
    unscaled = ((strip / vae.config.scaling_factor).to(vae.dtype) for strip in strips)
    if isinstance(vae, HaarPackets):
        bands = split(unscaled, max(rows // vae.spatial_compression_ratio, 1))
        yield from vae.decode_strips(bands, height, fidelity=fidelity)
        return
    latents, factor = joined(unscaled), pixels_per_latent(vae)
    if at_once := _rows_at_once(vae, height * factor, latents.shape[-1] * factor, vae_tile):
        decoded = decode_in_strips(vae, latents, rows=at_once)
    else:
        decoded = iter([vae.decode(latents).sample])
    for pixels in decoded:
        yield pixels.float()


def decode_latents(vae: Autoencoder, latents: torch.Tensor, *, vae_tile: int = VAE_TILE) -> torch.Tensor:
    """Returns the pixels, float32 (1, 3, H, W) in about [-1, 1], of scaled latents (1, C, H/f, W/f)."""
    height = latents.shape[-2]
    return joined(decode_strips(vae, [latents], height, rows=height * pixels_per_latent(vae), vae_tile=vae_tile))


def _rows_at_once(vae: Autoencoder, height: int, width: int, vae_tile: int) -> int | None:
    """Returns how many rows of pixels an `AutoencoderKL` is given at once; None: all of them."""
    if isinstance(vae, HaarPackets) or height * width <= vae_tile**2:
        return None
    factor = pixels_per_latent(vae)
    return max(vae_tile**2 // (width * factor), 1) * factor
