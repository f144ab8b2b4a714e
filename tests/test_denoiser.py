"""ControlNet, UNet and guidance as one network."""

from pathlib import Path

import pytest
import torch

from xpsr import XPSRPipeline
from xpsr.models import Denoiser, DenoiserCache


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


@pytest.mark.slow
@torch.no_grad()
def test_it_can_be_exported(denoiser: Denoiser, inputs: tuple[torch.Tensor, ...]) -> None:
    exported = torch.export.export(denoiser, inputs, {"guidance_scale": 2.0})
    for found, expected in zip(
        exported.module()(*inputs, guidance_scale=2.0), denoiser(*inputs, guidance_scale=2.0), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_each_picture_is_encoded_once_whatever_the_texts(denoiser: Denoiser, inputs: tuple[torch.Tensor, ...]) -> None:
    latents, timestep, pixels, content, quality = inputs
    two, pictures = torch.cat([latents, latents.flip(-1)]), torch.cat([pixels, pixels.flip(-1)])
    texts = [text.repeat_interleave(2, 0) for text in (content, quality)]  # both negative ones first
    rows = []
    handle = denoiser.controlnet.image_encoder.register_forward_pre_hook(lambda _, seen: rows.append(len(seen[0])))
    _, features = denoiser(two, timestep, pictures, *texts, guidance_scale=2.0)
    without, again = denoiser(two, timestep, pictures, *(text[2:] for text in texts), features)
    handle.remove()
    assert rows == [2] and len(features) == 2 and torch.equal(features, again)
    positive, _ = denoiser(two, timestep, pictures, *texts, features, guidance_scale=1.0)
    torch.testing.assert_close(without, positive, rtol=0, atol=1e-5)


@pytest.mark.parametrize("guided", [False, True])
@torch.no_grad()
def test_deep_levels_are_kept_for_the_steps_that_follow(
    denoiser: Denoiser, inputs: tuple[torch.Tensor, ...], guided: bool
) -> None:
    latents, timestep, pixels, *texts = inputs
    texts = texts if guided else [text[1:] for text in texts]
    calls = []
    deep = [*denoiser.unet.down_blocks[1:], denoiser.unet.mid_block, *denoiser.unet.up_blocks[:-1]]
    deep += [*denoiser.controlnet.down_blocks[1:], denoiser.controlnet.mid_block]
    handles = [block.register_forward_hook(lambda *_: calls.append(1)) for block in deep]
    cache = DenoiserCache()
    expected, features = denoiser(latents, timestep, pixels, *texts, guidance_scale=2.0)
    filled, _ = denoiser(latents, timestep, pixels, *texts, features, guidance_scale=2.0, cache=cache)
    assert len(calls) == 2 * len(deep) and torch.equal(filled, expected)
    kept = cache.deep_features
    assert kept is not None and kept.shape[-2:] == latents.shape[-2:]
    same, _ = denoiser(latents, timestep, pixels, *texts, features, guidance_scale=2.0, cache=cache)
    moved, _ = denoiser(latents.flip(-1), timestep, pixels, *texts, features, guidance_scale=2.0, cache=cache)
    for handle in handles:
        handle.remove()
    assert len(calls) == 2 * len(deep) and cache.deep_features is kept
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-5)  # of the same latents the deep levels say the same
    assert not torch.allclose(moved, expected, atol=1e-3)
