"""Grain: where there is detail, in proportion to it, from the seed, and the same whatever is computed at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr import Prior, Restorer, XPSRPipeline
from xpsr.errors import InputError
from xpsr.grain import add_grain, detail

PICTURE = np.random.default_rng(0).random((10, 12, 3), dtype=np.float32)


def random_pixels(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 40),
    amount=st.floats(0.01, 1),
    seed=st.integers(0, 99),
    strip=st.sampled_from([1, 300, 1000]),
)
def test_it_is_the_same_in_strips_as_in_one(height: int, width: int, amount: float, seed: int, strip: int) -> None:
    pixels = random_pixels(height, width, seed)
    grained = pixels.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xpsr.grain._STRIP_PIXELS", strip)
        add_grain(grained, amount, seeded(seed))
    generator = seeded(seed)
    noise = torch.stack([torch.randn(width, generator=generator) for _ in range(height)])
    expected = (pixels + amount * detail(pixels) * noise).clamp(0, 1)
    torch.testing.assert_close(grained, expected, rtol=0, atol=1e-6)


def test_none_changes_and_draws_nothing() -> None:
    pixels, generator = random_pixels(20, 30), seeded()
    before = pixels.clone(), generator.get_state()
    add_grain(pixels, 0, generator)
    assert torch.equal(pixels, before[0]) and torch.equal(generator.get_state(), before[1])


def test_what_is_flat_or_a_gentle_ramp_stays() -> None:
    ramp = torch.linspace(0.2, 0.8, 200).expand(3, 100, 200).clone()
    for pixels in (torch.full((3, 40, 50), 0.3), ramp):
        grained = pixels.clone()
        add_grain(grained, 1.0, seeded())
        assert (grained - pixels)[:, :, 8:-8].abs().max() < 1e-3


def test_its_strength_is_the_asked_share_of_the_detail_and_it_has_no_colour() -> None:
    pixels = 0.4 + 0.2 * random_pixels(200, 200)
    grained = pixels.clone()
    add_grain(grained, 0.5, seeded())
    added = grained - pixels
    torch.testing.assert_close(added[0], added[1], rtol=0, atol=1e-6)
    share = (added[0] / detail(pixels)[0]).std()
    assert share == pytest.approx(0.5, rel=0.02)
    assert added.mean().abs() < 1e-3  # it makes nothing brighter


def test_detail_of_stripes_is_what_a_blur_takes_from_them() -> None:
    stripes = torch.tensor([0.4, 0.6]).repeat(50).expand(3, 100, 100)  # of two pixels, which the blur levels
    assert detail(stripes)[0, 10:-10, 10:-10].mean() == pytest.approx(0.1, rel=0.02)


def restored(folder: Path, scale: float, seed: int, **chosen: float) -> torch.Tensor:
    restorer = Restorer(folder, device="cpu", dtype="fp32")
    return restorer.restore(PICTURE, Prior(), scale=scale, settings=chosen, seed=seed).picture.pixels


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("scale", [4, 2.5, 8])
def test_a_result_gets_it_once_at_its_own_size(tiny_model: Path, scale: float) -> None:
    one_step = {"num_inference_steps": 1}  # which draws nothing else
    expected = restored(tiny_model, scale, 3, **one_step)
    grained = restored(tiny_model, scale, 3, grain=0.7, **one_step)
    assert not torch.equal(grained, expected)
    add_grain(expected, 0.7, seeded(3))
    torch.testing.assert_close(grained, expected)
    assert not torch.equal(restored(tiny_model, scale, 4, grain=0.7, **one_step), grained)


def test_latents_have_none(tiny_model: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    call = {"image": PICTURE, "num_inference_steps": 1, "prior": Prior(), "output_type": "latent"}
    plain, grained = (pipe(**call, settings={"grain": grain}).images[0] for grain in (0, 1))
    assert torch.equal(plain, grained)


def test_fidelity_takes_it_away_unless_it_is_asked_for(tiny_model: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    pipe.register_to_config(one_step_residual=True, settings={**pipe.config.settings, "grain": 0.6})
    pipe.register_modules(vae=type(pipe.vae).from_config(pipe.vae.config, with_fidelity=True))
    one_step = {"num_inference_steps": 1}
    grains = [pipe.settings(overrides={**one_step, "fidelity": share}).grain for share in (0.0, 0.5, 1.0)]
    assert grains == pytest.approx([0.6, 0.3, 0])
    chosen = pipe.settings(overrides={**one_step, "fidelity": 1.0, "grain": 0.2})
    assert chosen.grain == 0.2
    assert pipe.settings(overrides=pipe.settings(overrides={**one_step, "fidelity": 0.5})).grain == pytest.approx(0.3)


@pytest.mark.parametrize("grain", [-0.1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(tiny_model: Path, grain: float) -> None:
    with pytest.raises(InputError, match=r"grain.*is not in \[0, 1\]; use 0 for none"):
        XPSRPipeline.from_pretrained(tiny_model).settings(overrides={"grain": grain})
