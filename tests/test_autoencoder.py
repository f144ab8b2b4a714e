"""The mini's autoencoder: exact, orthonormal, and at home where `AutoencoderKL` is."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xpsr.checkpoint import load_strict
from xpsr.models import DeepHaarAutoencoder, HaarAutoencoder, HaarPackets

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


def deep(pixels: torch.Tensor, *, channels: int = 8, layers: int = 2) -> DeepHaarAutoencoder:
    """A decoder that says a lot."""
    torch.manual_seed(0)
    autoencoder = DeepHaarAutoencoder.from_pixels(pixels, decoder_channels=channels, decoder_layers=layers)
    nn.init.normal_(autoencoder.decoder.conv_out.weight, std=0.5)
    return autoencoder


def refined(pixels: torch.Tensor) -> HaarAutoencoder:
    """One of the first minis' kind, whose refiner says a lot."""
    measured = DeepHaarAutoencoder.from_pixels(pixels).config
    autoencoder = HaarAutoencoder(
        latents_mean=measured.latents_mean, latents_std=measured.latents_std, refiner_channels=5, refiner_layers=3
    )
    nn.init.normal_(autoencoder.refiner[-1].weight, generator=torch.Generator().manual_seed(0))
    return autoencoder


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
    autoencoder = deep(pixels)
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
    autoencoder = deep(pixels)
    expected = autoencoder.encode(pixels).latent_dist.mean
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(pixels).latent_dist.mean
        restored = autoencoder.decode(latents, refine=False).sample
    assert torch.equal(latents, expected)
    assert restored.dtype == torch.float32
    assert (restored - pixels).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("build", [refined, deep])
def test_saved_autoencoder_comes_back_bit_for_bit(
    build: Callable[[torch.Tensor], HaarAutoencoder | DeepHaarAutoencoder], tmp_path: Path
) -> None:
    pixels = natural_pixels()
    autoencoder = build(pixels)
    autoencoder.save_pretrained(tmp_path / "vae")
    loaded = load_strict(type(autoencoder), tmp_path, subfolder="vae")
    written = {name: value for name, value in autoencoder.config.items() if not name.startswith("_")}
    assert written == {name: loaded.config[name] for name in written}
    latents = autoencoder.encode(pixels).latent_dist.mean
    assert torch.equal(loaded.encode(pixels).latent_dist.mean, latents)
    assert torch.equal(loaded.decode(latents).sample, autoencoder.decode(latents).sample)
    assert not torch.equal(loaded.decode(latents).sample, loaded.decode(latents, refine=False).sample)


@torch.no_grad()
def test_what_decoding_adds_has_to_be_said() -> None:
    with pytest.raises(TypeError, match="residual"):
        HaarPackets()  # type: ignore[abstract]


def test_both_kinds_encode_alike_and_differ_in_what_they_add() -> None:
    pixels = natural_pixels()
    old, new = refined(pixels), deep(pixels)
    latents = old.encode(pixels).latent_dist.mean
    assert torch.equal(latents, new.encode(pixels).latent_dist.mean)
    exact = old.decode(latents, refine=False).sample
    assert torch.equal(exact, new.decode(latents, refine=False).sample)
    assert torch.equal(old.decode(latents).sample, exact + old.refiner(exact))
    assert torch.equal(new.decode(latents).sample, exact + new.residual(latents, exact))


@torch.no_grad()
def test_a_new_decoder_starts_close_to_the_exact_inverse() -> None:
    pixels = natural_pixels()
    torch.manual_seed(0)
    autoencoder = DeepHaarAutoencoder.from_pixels(pixels, decoder_layers=8)
    restored = autoencoder.decode(autoencoder.encode(pixels).latent_dist.mean).sample
    assert (restored - pixels).abs().mean() < 0.1 * pixels.abs().mean()


@torch.no_grad()
@quick
@given(height=st.integers(1, 24), width=st.integers(1, 24))
def test_the_grid_is_what_repeats_from_latent_to_latent(height: int, width: int) -> None:
    vae = DeepHaarAutoencoder(decoder_channels=4, decoder_layers=1)
    repeated = random_tensor(2, 48, 1, 1).expand(-1, -1, height, width)
    means = torch.arange(48) % 16 == 0
    found = vae.without_grid(repeated)
    torch.testing.assert_close(found[:, means], repeated[:, means], rtol=0, atol=0)
    torch.testing.assert_close(found[:, ~means], torch.zeros_like(repeated[:, ~means]))


def test_little_but_the_grid_goes_with_it() -> None:
    vae = DeepHaarAutoencoder(decoder_channels=4, decoder_layers=1)
    noise = random_tensor(1, 48, 32, 32)
    assert (vae.without_grid(noise) - noise).square().mean() < 0.02
    before, after = (vae.decode(z, refine=False).sample for z in (noise, vae.without_grid(noise)))
    ratio = torch.fft.fft2(after).abs().square() / torch.fft.fft2(before).abs().square()
    assert ratio[..., ::32, ::32].flatten(2)[..., 1:].max() < 0.5  # the frequencies of a grid of 4 pixels, but 0
    assert ratio[..., 16::32, 16::32].mean() == pytest.approx(1, abs=0.1)  # as far from them as can be


def test_what_a_decoder_adds_does_not_repeat_but_ramps_stay() -> None:
    vae = DeepHaarAutoencoder(decoder_channels=4, decoder_layers=1)
    rows = torch.arange(96.0).view(-1, 1).expand(1, 3, -1, 96)
    for said, left in ((rows % 4, 0.02), (rows / 96, 1.0), ((rows % 7) / 7, 0.9)):
        vae.decoder.forward = lambda z, said=said: said  # type: ignore[method-assign, misc]
        inner = vae.residual(torch.zeros(1, 48, 24, 24), said)[..., 20:-20, 20:-20]
        change = inner.std() / said[..., 20:-20, 20:-20].std()
        assert change < left if left < 0.5 else change == pytest.approx(1, abs=1 - left + 1e-4)


def test_fidelity_moves_the_weights_of_the_decoder() -> None:
    torch.manual_seed(0)
    vae = DeepHaarAutoencoder(decoder_channels=8, decoder_layers=2, with_fidelity=True)
    assert vae.has_fidelity and vae.faithful is not None
    z, other = random_tensor(1, 48, 5, 6), copy.deepcopy(vae.decoder)
    with torch.no_grad():
        for weight, difference in zip(other.parameters(), vae.faithful.parameters(), strict=True):
            weight.add_(difference, alpha=0.3)
    mixed, plain = vae.decode(z, fidelity=0.3).sample, vae.decode(z).sample
    assert torch.equal(vae.decode(z, fidelity=0.0).sample, plain) and not torch.allclose(mixed, plain)
    vae.decoder = other
    torch.testing.assert_close(vae.decode(z).sample, mixed)


@pytest.mark.parametrize("kind", [DeepHaarAutoencoder, HaarAutoencoder])
def test_fidelity_without_weights_is_refused(kind: type[HaarPackets]) -> None:
    vae = kind()
    assert not vae.has_fidelity
    with pytest.raises(ValueError, match=r"Autoencoder has no weights for fidelity=0\.5; use 0"):
        vae.decode(random_tensor(1, 48, 2, 2), fidelity=0.5)


def test_autoencoder_loaded_in_half_precision_normalizes_as_before(tmp_path: Path) -> None:
    pixels = natural_pixels()
    autoencoder = deep(pixels)
    autoencoder.save_pretrained(tmp_path / "vae")
    loaded = load_strict(DeepHaarAutoencoder, tmp_path, subfolder="vae", dtype=torch.bfloat16)
    latents = autoencoder.encode(pixels).latent_dist.mean
    assert torch.equal(loaded.encode(pixels).latent_dist.mean, latents)
    assert loaded.decode(latents.bfloat16()).sample.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize(
    ("autoencoder", "limit", "sizes"),
    [
        (HaarAutoencoder(refiner_channels=4, refiner_layers=2), "_STRIP_ROWS", (1, 5, 16, 36)),
        (DeepHaarAutoencoder(decoder_channels=8, decoder_layers=3), "_STRIP_LATENTS", (1, 10, 20, 45)),
    ],
)
def test_decoding_in_strips_changes_nothing(
    autoencoder: HaarPackets, limit: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for parameter in autoencoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    latents = torch.randn(1, 48, 9, 5)
    whole = autoencoder.decode(latents).sample
    for size in sizes:
        monkeypatch.setattr(f"xpsr.models.autoencoder.{limit}", size)
        torch.testing.assert_close(autoencoder.decode(latents).sample, whole)


@torch.no_grad()
def test_weights_of_the_decoder_are_called_as_in_its_trial() -> None:
    names = set(DeepHaarAutoencoder(decoder_channels=8, decoder_layers=1).decoder.state_dict())
    layers = ("conv_in", "blocks.0.0", "blocks.0.2", "up1", "mid", "up2", "conv_out")
    assert names == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_what_was_computed_under_inference_mode_does_not_break_training() -> None:
    autoencoder = HaarAutoencoder()
    with torch.inference_mode():
        autoencoder.decode(autoencoder.encode(random_pixels(8, 8)).latent_dist.mean)
    latents = torch.zeros(1, 48, 2, 2, requires_grad=True)
    autoencoder.decode(latents).sample.square().sum().backward()
    autoencoder.encode(random_pixels(8, 8).requires_grad_()).latent_dist.mean.square().sum().backward()
