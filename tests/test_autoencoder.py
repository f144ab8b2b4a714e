"""The mini's autoencoder: exact, orthonormal, and at home where `AutoencoderKL` is."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xpsr.checkpoint import load_strict
from xpsr.models import HaarAutoencoder

quick = settings(deadline=None, max_examples=25, derandomize=True)


def random_tensor(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def random_pixels(height: int, width: int) -> torch.Tensor:
    return random_tensor(2, 3, height, width).tanh()


def natural_pixels() -> torch.Tensor:
    """Pictures whose coarse patterns weigh more than their fine ones."""
    noise = random_tensor(4, 3, 64, 64)
    smooth = nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)
    return (0.2 + smooth * 0.8 + noise * 0.05).clamp(-1, 1)


multiples_of_4 = st.integers(1, 6).map(lambda count: 4 * count)


@quick
@given(height=multiples_of_4, width=multiples_of_4)
@torch.no_grad()
def test_encoding_keeps_energy_and_decoding_inverts_it(height: int, width: int) -> None:
    autoencoder = HaarAutoencoder()
    pixels = random_pixels(height, width)
    latents = autoencoder.encode(pixels).latent_dist.mean
    assert latents.shape == (2, 48, height // 4, width // 4)
    torch.testing.assert_close(latents.square().sum(), pixels.square().sum())
    restored = autoencoder.decode(latents, refine=False).sample
    assert (restored - pixels).abs().max() < 1e-5
    assert torch.equal(restored, autoencoder.decode(latents).sample)  # the refiner starts at zero


@torch.no_grad()
def test_sampled_latents_are_the_mean() -> None:
    distribution = HaarAutoencoder().encode(random_pixels(8, 12)).latent_dist
    assert torch.equal(distribution.sample(), distribution.mean)
    assert torch.equal(distribution.mode(), distribution.mean)


@torch.no_grad()
def test_from_pixels_centres_and_gives_variance_one() -> None:
    pixels = natural_pixels()
    autoencoder = HaarAutoencoder.from_pixels(pixels, refiner_channels=4)
    latents = autoencoder.encode(pixels).latent_dist.mean
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert latents.var().item() == pytest.approx(1, abs=0.01)
    spread = latents.std((0, 2, 3))
    assert spread.max() > 1.5 * spread.min()  # not whitened
    assert (autoencoder.decode(latents, refine=False).sample - pixels).abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 6), (1, 4), (7, 7)])
def test_sizes_off_the_grid_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=rf"multiples of 4, got \({height}, {width}\); pad"):
        HaarAutoencoder().encode(random_pixels(height, width))


@torch.no_grad()
def test_autocast_costs_no_precision() -> None:
    pixels = natural_pixels()
    autoencoder = HaarAutoencoder.from_pixels(pixels)
    expected = autoencoder.encode(pixels).latent_dist.mean
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(pixels).latent_dist.mean
        restored = autoencoder.decode(latents, refine=False).sample
    assert torch.equal(latents, expected)
    assert restored.dtype == torch.float32
    assert (restored - pixels).abs().max() < 1e-5


@torch.no_grad()
def test_saved_autoencoder_comes_back_bit_for_bit(tmp_path: Path) -> None:
    pixels = natural_pixels()
    autoencoder = HaarAutoencoder.from_pixels(pixels, refiner_channels=5, refiner_layers=3)
    nn.init.normal_(autoencoder.refiner[-1].weight, generator=torch.Generator().manual_seed(0))
    autoencoder.save_pretrained(tmp_path / "vae")
    loaded = load_strict(HaarAutoencoder, tmp_path, subfolder="vae")
    for name in ("latents_mean", "latents_std", "refiner_channels", "refiner_layers", "scaling_factor"):
        assert loaded.config[name] == autoencoder.config[name]
    latents = autoencoder.encode(pixels).latent_dist.mean
    assert torch.equal(loaded.encode(pixels).latent_dist.mean, latents)
    assert torch.equal(loaded.decode(latents).sample, autoencoder.decode(latents).sample)
    assert not torch.equal(loaded.decode(latents).sample, loaded.decode(latents, refine=False).sample)


@torch.no_grad()
def test_autoencoder_loaded_in_half_precision_normalizes_as_before(tmp_path: Path) -> None:
    pixels = natural_pixels()
    autoencoder = HaarAutoencoder.from_pixels(pixels)
    autoencoder.save_pretrained(tmp_path / "vae")
    loaded = load_strict(HaarAutoencoder, tmp_path, subfolder="vae", dtype=torch.bfloat16)
    assert torch.equal(loaded.encode(pixels).latent_dist.mean, autoencoder.encode(pixels).latent_dist.mean)


def test_refining_in_strips_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = HaarAutoencoder(refiner_channels=4, refiner_layers=2)
    for parameter in autoencoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    latents = torch.randn(1, 48, 9, 5)
    with torch.no_grad():
        whole = autoencoder.decode(latents).sample
        for rows in (1, 5, 16, 36):
            monkeypatch.setattr("xpsr.models.autoencoder._STRIP_ROWS", rows)
            torch.testing.assert_close(autoencoder.decode(latents).sample, whole)


def test_what_was_computed_under_inference_mode_does_not_break_training() -> None:
    autoencoder = HaarAutoencoder()
    with torch.inference_mode():
        autoencoder.decode(autoencoder.encode(random_pixels(8, 8)).latent_dist.mean)
    latents = torch.zeros(1, 48, 2, 2, requires_grad=True)
    autoencoder.decode(latents).sample.square().sum().backward()
    autoencoder.encode(random_pixels(8, 8).requires_grad_()).latent_dist.mean.square().sum().backward()
