"""Pixels to latents and back with Stable Diffusion's kind of autoencoder, in strips where it would be too large."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from xpsr.pipeline import tiled_vae
from xpsr.pipeline.latents import decode_latents, encode_pixels


def autoencoder(**options: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    given = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "scaling_factor": 0.5,
    }
    return AutoencoderKL(**{**given, **options}).eval()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return autoencoder()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def picture(height: int, width: int) -> torch.Tensor:
    """Bright at the top and flat at the bottom: each part has other statistics than the whole."""
    pixels = torch.rand(1, 3, height, width, generator=seeded())
    return pixels * torch.linspace(1, 0.1, height)[:, None]


@torch.no_grad()
def test_a_picture_within_the_budget_goes_through_whole(vae: AutoencoderKL) -> None:
    pixels = torch.rand(1, 3, 32, 48)
    expected = vae.encode(pixels * 2 - 1).latent_dist.sample(seeded()) * 0.5
    found = encode_pixels(vae, pixels, seeded())
    assert torch.equal(found, expected)
    assert torch.equal(decode_latents(vae, found), vae.decode(expected / 0.5).sample)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block_out_channels": (8, 8, 16), "down_block_types": ("DownEncoderBlock2D",) * 3}
        | {"up_block_types": ("UpDecoderBlock2D",) * 3, "layers_per_block": 2},
        {"down_block_types": ("AttnDownEncoderBlock2D", "DownEncoderBlock2D")}
        | {"up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")},
        {"use_quant_conv": False, "use_post_quant_conv": False},
    ],
    ids=["two levels", "three levels", "attention", "no quantization"],
)
def test_strips_give_what_the_whole_gives(options: Any) -> None:
    vae, pixels = autoencoder(**options), picture(68, 24)
    whole = encode_pixels(vae, pixels, seeded())
    decoded = decode_latents(vae, whole)
    for vae_tile in (8, 24):  # rows of 4 and of 24 pixels
        torch.testing.assert_close(encode_pixels(vae, pixels, seeded(), vae_tile=vae_tile), whole, rtol=0, atol=2e-5)
        torch.testing.assert_close(decode_latents(vae, whole, vae_tile=vae_tile), decoded, rtol=0, atol=2e-5)


@torch.no_grad()
def test_norms_of_each_strip_alone_would_show(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(96, 64)
    whole = encode_pixels(vae, pixels, seeded())
    decoded = decode_latents(vae, whole)
    monkeypatch.setattr(tiled_vae._Features, "shared", lambda features, norm, layers: norm)  # the mutant
    for mutant, sound in (
        (encode_pixels(vae, pixels, seeded(), vae_tile=32), whole),
        (decode_latents(vae, whole, vae_tile=32), decoded),
    ):
        assert (mutant - sound).abs().max() > 1e-3


@torch.no_grad()
def test_above_the_budget_no_layer_sees_more_than_a_strip_and_what_lies_beside_it(vae: AutoencoderKL) -> None:
    seen: list[int] = []
    layers = [vae.encoder.conv_in, *(resnet.conv1 for block in vae.encoder.down_blocks for resnet in block.resnets)]
    layers += [vae.decoder.conv_out, *(resnet.conv2 for block in vae.decoder.up_blocks for resnet in block.resnets)]
    handles = [layer.register_forward_hook(lambda _, __, output: seen.append(output.shape[-2])) for layer in layers]
    latents = encode_pixels(vae, picture(192, 64), seeded(), vae_tile=32)
    restored = decode_latents(vae, latents, vae_tile=32)
    for handle in handles:
        handle.remove()
    assert restored.shape == (1, 3, 192, 64) and torch.isfinite(restored).all()
    assert max(seen) <= 16 + 2 * 4  # of 1024 pixels, and two rows of what is then enlarged
