"""Pixels to latents and back with Stable Diffusion's kind of autoencoder, in tiles where it would be too large."""

import pytest
import torch
from diffusers import AutoencoderKL

from xpsr.pipeline import latents as module
from xpsr.pipeline.latents import decode_latents, encode_pixels


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
    ).eval()


def largest_input(vae: AutoencoderKL) -> tuple[list[int], list[torch.utils.hooks.RemovableHandle]]:
    sizes: list[int] = []

    def look(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        sizes.append(max(output.shape[-2:]))

    return sizes, [vae.encoder.register_forward_hook(look), vae.decoder.register_forward_hook(look)]


@torch.no_grad()
def test_a_picture_within_the_budget_goes_through_whole(vae: AutoencoderKL) -> None:
    pixels = torch.rand(1, 3, 32, 48)
    expected = vae.encode(pixels * 2 - 1).latent_dist.sample(torch.Generator().manual_seed(1)) * 0.5
    found = encode_pixels(vae, pixels, torch.Generator().manual_seed(1))
    assert torch.equal(found, expected)
    assert torch.equal(decode_latents(vae, found), vae.decode(expected / 0.5).sample)


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 64), (64, 160), (66, 130)])
def test_above_the_budget_no_pass_is_larger_than_a_tile(
    vae: AutoencoderKL, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILE_SIZE", 64)
    monkeypatch.setattr(module, "TILE_OVERLAP", 16)
    pixels = torch.rand(1, 3, *size)
    sizes, handles = largest_input(vae)
    latents = encode_pixels(vae, pixels, torch.Generator().manual_seed(1))
    restored = decode_latents(vae, latents)
    for handle in handles:
        handle.remove()
    assert latents.shape == (1, 4, size[0] // 2, size[1] // 2) and restored.shape == (1, 3, *size)
    assert len(sizes) > 2 and max(sizes) <= 64
    assert torch.isfinite(restored).all()


@torch.no_grad()
def test_tiles_lie_where_they_belong(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(1, 3, 96, 160)
    whole = encode_pixels(vae, pixels, torch.Generator().manual_seed(1))
    decoded = decode_latents(vae, whole)
    monkeypatch.setattr(module, "TILE_SIZE", 64)
    monkeypatch.setattr(module, "TILE_OVERLAP", 32)
    tiled = encode_pixels(vae, pixels, torch.Generator().manual_seed(1))
    for a, b in ((whole, tiled), (decoded, decode_latents(vae, whole))):  # norms see a tile's own statistics
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.95
