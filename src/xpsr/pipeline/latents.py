"""Pixels to latents and back, in tiles where Stable Diffusion's autoencoder would need more memory than there is."""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from xpsr.models import DeepHaarAutoencoder, HaarAutoencoder, HaarPackets
from xpsr.tiling import Tile, blend_tiles, gaussian_weights, tile_grid

__all__ = ["Autoencoder", "decode_latents", "encode_pixels", "pixels_per_latent"]

Autoencoder: TypeAlias = AutoencoderKL | DeepHaarAutoencoder | HaarAutoencoder

TILE_SIZE, TILE_OVERLAP = 1024, 128
"""Pixels, of what an `AutoencoderKL` is given at once: its widest level takes a kilobyte for each of them."""


def pixels_per_latent(vae: Autoencoder) -> int:
    """Returns how many pixels a latent pixel stands for, along a side."""
    if isinstance(vae, HaarPackets):
        return vae.spatial_compression_ratio
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode_pixels(vae: Autoencoder, pixels: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Samples the latents (1, C, H/f, W/f), scaled, of pixels (1, 3, H, W) in [0, 1]."""
    pixels, factor = (pixels * 2 - 1).to(vae.dtype), pixels_per_latent(vae)
    tiles = _tiles(vae, *pixels.shape[-2:])
    if len(tiles) == 1:
        distribution = vae.encode(pixels).latent_dist
    else:
        encoded = ((tile, vae.encode(tile.crop(pixels)).latent_dist.parameters) for tile in tiles)
        size = pixels.shape[-2] // factor, pixels.shape[-1] // factor
        moments = _blend(
            ((tile.scaled(1 / factor), values) for tile, values in encoded),
            (1, 2 * vae.config.latent_channels, *size),
            tiles[0].scaled(1 / factor),
            pixels.device,
        )
        distribution = DiagonalGaussianDistribution(moments)
    latents: torch.Tensor = distribution.sample(generator) * vae.config.scaling_factor
    return latents


def decode_latents(vae: Autoencoder, latents: torch.Tensor, *, fidelity: float = 0.0) -> torch.Tensor:
    """Returns the pixels, float32 (1, 3, H, W) in about [-1, 1], of scaled latents (1, C, H/f, W/f)."""
    latents, factor = (latents / vae.config.scaling_factor).to(vae.dtype), pixels_per_latent(vae)
    height, width = (side * factor for side in latents.shape[-2:])
    tiles = _tiles(vae, height, width)
    if len(tiles) == 1:
        options = {"fidelity": fidelity} if fidelity else {}
        pixels: torch.Tensor = vae.decode(latents, **options).sample.float()
        return pixels
    decoded = ((tile, vae.decode(tile.scaled(1 / factor).crop(latents)).sample) for tile in tiles)
    return _blend(decoded, (1, 3, height, width), tiles[0], latents.device)


def _tiles(vae: Autoencoder, height: int, width: int) -> list[Tile]:
    if isinstance(vae, HaarPackets) or height * width <= TILE_SIZE**2:  # the mini's sees to itself
        return [Tile(top=0, left=0, height=height, width=width)]
    return tile_grid(height, width, tile_size=TILE_SIZE, overlap=TILE_OVERLAP)


def _blend(
    outputs: Iterator[tuple[Tile, torch.Tensor]], shape: tuple[int, ...], tile: Tile, device: torch.device
) -> torch.Tensor:
    return blend_tiles(outputs, shape, weights=gaussian_weights(tile.height, tile.width, device=device))
