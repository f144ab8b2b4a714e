"""ControlNet, UNet and guidance as one network."""

from pathlib import Path

import pytest
import torch

from xpsr import XPSRPipeline
from xpsr.models import Denoiser


@pytest.fixture(scope="module")
def denoiser(tiny_model: Path) -> Denoiser:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    return Denoiser(pipe.controlnet, pipe.unet).eval()


@pytest.fixture(scope="module")
def inputs(denoiser: Denoiser) -> tuple[torch.Tensor, ...]:
    """Latents, timestep, pixels, and both texts for guidance."""
    generator = torch.Generator().manual_seed(0)
    width, channels = denoiser.unet.config.cross_attention_dim, denoiser.unet.config.in_channels
    content, quality = (torch.randn(2, 5, width, generator=generator) for _ in range(2))
    latents = torch.randn(1, channels, 8, 8, generator=generator)
    return latents, torch.tensor(300), torch.rand(1, 3, 32, 32, generator=generator), content, quality


@torch.no_grad()
def test_guidance_leads_from_the_negative_texts_to_the_positive_ones(
    denoiser: Denoiser, inputs: tuple[torch.Tensor, ...]
) -> None:
    latents, timestep, pixels, content, quality = inputs
    guided, _ = denoiser(*inputs, guidance_scale=3.0)
    negative, positive = (
        denoiser(latents, timestep, pixels, content[row : row + 1], quality[row : row + 1])[0] for row in (0, 1)
    )
    assert torch.allclose(guided, negative + 3 * (positive - negative), atol=1e-5)
    assert not torch.allclose(guided, positive, atol=1e-3)


@torch.no_grad()
def test_features_of_the_picture_hold_for_every_timestep(denoiser: Denoiser, inputs: tuple[torch.Tensor, ...]) -> None:
    latents, _, pixels, content, quality = inputs
    first, later = torch.tensor(900), torch.tensor(20)
    _, features = denoiser(latents, first, pixels, content, quality, guidance_scale=2.0)
    expected, again = denoiser(latents, later, pixels, content, quality, guidance_scale=2.0)
    assert torch.equal(features, again)
    elsewhere = torch.zeros_like(pixels)  # it is not looked at
    found, _ = denoiser(latents, later, elsewhere, content, quality, features, guidance_scale=2.0)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_several_pictures_are_denoised_at_once(denoiser: Denoiser, inputs: tuple[torch.Tensor, ...]) -> None:
    latents, timestep, pixels, content, quality = inputs
    two, pictures = torch.cat([latents, latents.flip(-1)]), torch.cat([pixels, pixels.flip(-1)])
    texts = [text.repeat_interleave(2, 0) for text in (content, quality)]  # both negative ones first
    together, _ = denoiser(two, timestep, pictures, *texts, guidance_scale=2.0)
    for row in (0, 1):
        alone, _ = denoiser(two[row : row + 1], timestep, pictures[row : row + 1], content, quality, guidance_scale=2.0)
        assert torch.allclose(together[row : row + 1], alone, atol=1e-5)


@torch.no_grad()
def test_it_can_be_exported(denoiser: Denoiser, inputs: tuple[torch.Tensor, ...]) -> None:
    exported = torch.export.export(denoiser, inputs, {"guidance_scale": 2.0})
    for found, expected in zip(
        exported.module()(*inputs, guidance_scale=2.0), denoiser(*inputs, guidance_scale=2.0), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-5)
