"""Options of the loss, and that it does not matter how an update's batch is cut."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.models.attention import BasicTransformerBlock
from training_helpers import TINY, PixelFeatures, batch, restored_by
from training_helpers import components_of_levels as components

from xpsr.config import LossConfig, ModelConfig, PartsConfig
from xpsr.data import generator_for
from xpsr.errors import InputError
from xpsr.features import feature_distance
from xpsr.training import (
    BatchSlice,
    EncodingCache,
    XPSRLoss,
    build_components,
    choose_parts,
    diffusion_loss,
    grid_distance,
    min_snr_weights,
    with_schedule,
    without_fusion,
)
from xpsr.training.flatness import flat_distance


def total(parts: Any, one: Any, seed: int = 2, **changes: Any) -> torch.Tensor:
    settings = {"content_dropout": 0.0, "quality_dropout": 0.0} | changes
    return XPSRLoss(parts, LossConfig(**settings), 250)(one, generator_for(seed)).total()


@pytest.mark.parametrize(("fraction", "size"), [(0.0, 1), (0.25, 1), (0.5, 4), (0.75, 2), (1.0, 2)])
def test_the_mean_over_passes_is_the_loss_of_the_whole_batch(fraction: float, size: int) -> None:
    parts = components(noisy=True)
    config = LossConfig(one_step_fraction=fraction, shift_probability=0.5, min_snr_gamma=5.0)
    loss, whole = XPSRLoss(parts, config, 250), batch(parts, rows=8)

    def gradient(value: torch.Tensor) -> torch.Tensor:
        trained = list(parts.trainable().parameters())
        found = torch.autograd.grad(value, trained, allow_unused=True)
        return torch.cat(
            [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, trained, strict=True)]
        )

    expected = loss(whole, generator_for(3)).total()
    passes = []
    for first in range(0, 8, size):
        rows = replace(whole, **{k: v[first : first + size] for k, v in vars(whole).items()})
        passes.append(loss(rows, generator_for(3), BatchSlice(first, size, 8)))
    assert {frozenset(one.terms) for one in passes} == {frozenset(passes[0].terms)}
    mean = torch.stack([one.total() for one in passes]).mean()
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(mean), gradient(expected), rtol=1e-3, atol=1e-5)


def test_a_residual_step_starts_as_the_decoder_alone_and_computes_no_more() -> None:
    parts = components()
    one, features = batch(parts), {"efficientnet": PixelFeatures()}
    config = LossConfig(one_step_fraction=1.0, degradation_free_weight=0.0, efficientnet_weight=1.0)
    choose_parts(parts, PartsConfig(), config, seed=0)
    whole = XPSRLoss(parts, config, 250, features, residual=True)
    assert not whole.decoder_alone
    asked = whole(one, generator_for(0))
    choose_parts(parts, PartsConfig(train=("vae_decoder",)), config, seed=0)
    alone = XPSRLoss(parts, config, 250, features, residual=True)
    assert alone.decoder_alone
    parts.unet.forward = parts.controlnet.forward = None  # type: ignore[method-assign, assignment]  # nobody calls them
    losses = alone(one, generator_for(0))
    torch.testing.assert_close(losses.restored, asked.restored)
    losses.total().backward()
    assert all(parameter.grad is not None for parameter in parts.vae.decoder.parameters())


def test_a_network_that_says_something_is_asked_though_only_the_decoder_is_trained() -> None:
    config = LossConfig(one_step_fraction=1.0, degradation_free_weight=0.0)
    for noisy, residual in ((True, True), (False, False)):
        parts = components(noisy=noisy)
        choose_parts(parts, PartsConfig(train=("vae_decoder",)), config, seed=0)
        assert not XPSRLoss(parts, config, 250, residual=residual).decoder_alone


def test_the_teacher_counts_where_there_is_one() -> None:
    parts = components()
    one = batch(parts)
    teacher = torch.rand(one.hr.shape, generator=generator_for(5))

    def term(has_teacher: list[bool], weight: float = 1.0) -> float:
        config = LossConfig(one_step_fraction=1.0, teacher_weight=weight, efficientnet_weight=1.0)
        taught = replace(one, teacher=teacher, has_teacher=torch.tensor(has_teacher))
        loss = XPSRLoss(parts, config, 250, {"efficientnet": PixelFeatures()}, residual=True)
        losses = loss(taught, generator_for(0))
        errors = (losses.restored["efficientnet"][0] - teacher).abs().mean((1, 2, 3)) * torch.tensor(has_teacher)
        assert losses.terms["teacher"].item() == pytest.approx(weight * errors.mean().item(), rel=1e-5)
        return losses.terms["teacher"].item()

    assert term([False] * 4) == 0
    assert 0 < term([True, False, False, True]) < term([True] * 4) < term([True] * 4, weight=2.0)


def test_both_feature_networks_may_look_at_once() -> None:
    parts, config = components(), LossConfig(one_step_fraction=1.0, efficientnet_weight=0.5, vgg_weight=2.0)

    loss = XPSRLoss(parts, config, 250, {"efficientnet": PixelFeatures(), "vgg": PixelFeatures()})
    terms = loss(batch(parts), generator_for(0)).terms
    assert 0 < 4 * terms["efficientnet"].item() == pytest.approx(terms["vgg"].item())


def test_a_clean_row_sees_hr_itself() -> None:
    parts = components(noisy=True)
    one = batch(parts)
    clean = replace(one, is_clean=torch.ones(4, dtype=torch.bool))
    assert total(parts, clean) != total(parts, one)
    assert total(parts, clean) == total(parts, replace(clean, lr=one.lr.flip(-1)))


def test_the_one_step_may_start_noised() -> None:
    parts = components(noisy=True)
    one = batch(parts)
    as_it_is, noised = (total(parts, one, one_step_fraction=1.0, one_step_start=start) for start in ("lr", "noised"))
    assert as_it_is != noised
    assert as_it_is == total(parts, one, seed=5, one_step_fraction=1.0)  # nothing is drawn that it would see
    assert noised != total(parts, one, seed=5, one_step_fraction=1.0, one_step_start="noised")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_the_error_of_the_sample_whatever_is_predicted(prediction: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction)
    clean, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    timesteps = torch.tensor([10, 900])
    alpha = scheduler.alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    wrong = clean + 0.1  # what was predicted, as a sample
    a, b = alpha.sqrt().view(-1, 1, 1, 1), (1 - alpha).sqrt().view(-1, 1, 1, 1)
    epsilon = (noisy - a * wrong) / b
    outputs = {"epsilon": epsilon, "sample": wrong, "v_prediction": a * epsilon - b * wrong}
    inputs = {"clean": clean, "noise": noise, "timesteps": timesteps}
    weighted = diffusion_loss(scheduler, outputs[prediction], min_snr_gamma=5.0, **inputs)
    assert weighted.item() == pytest.approx((0.01 * snr.clamp(max=5)).mean().item(), rel=1e-3)
    assert min_snr_weights(scheduler, timesteps, 1e9)[0].item() == pytest.approx(
        {"epsilon": 1.0, "sample": snr[0].item(), "v_prediction": alpha[0].item()}[prediction], rel=1e-3
    )


def test_terms_of_the_constraint_can_be_chosen_and_weighed() -> None:
    parts = components(noisy=True)
    one = batch(parts)

    def constraint(**changes: Any) -> float:
        loss = XPSRLoss(parts, LossConfig(**changes), 250)
        term = loss(one, generator_for(0)).terms.get("degradation_free")
        return 0.0 if term is None else term.item()

    images = constraint(degradation_free_latent_weight=0.0)
    latents = constraint(degradation_free_image_weight=0.0)
    assert constraint() == pytest.approx(images + latents, rel=1e-5)
    assert constraint(degradation_free_weight=0.1) == pytest.approx(2 * constraint(), rel=1e-5)
    assert constraint(degradation_free_weight=0.0) == 0.0
    count = len(parts.controlnet.to_latents)
    each = [constraint(degradation_free_images=(), degradation_free_latents=(index,)) for index in range(count)]
    assert sum(each) == pytest.approx(latents, rel=1e-5)
    assert constraint(degradation_free_images=(), degradation_free_latents=(-1,)) == each[-1]


def test_without_fusion_both_texts_still_reach_the_networks() -> None:
    whole = components(noisy=True)
    for parts in (without_fusion(whole), components(noisy=True, semantic_fusion=False)):
        assert not [name for name in parts.controlnet.state_dict() if ".fusion." in name or ".quality." in name]
        one = batch(parts)
        changed = {name: getattr(one, name).roll(1, 1) for name in ("content_ids", "quality_ids")}
        whole_texts = {"content_dropout": 0.0, "quality_dropout": 0.0}
        reference = restored_by(parts, one, **whole_texts)
        for name, ids in changed.items():
            assert not torch.equal(restored_by(parts, replace(one, **{name: ids}), **whole_texts), reference)


def test_prediction_and_terminal_noise_are_the_configs() -> None:
    built = build_components(replace(TINY, prediction_type="epsilon"), torch.rand(4, 3, 32, 32)).scheduler
    assert (built.config.prediction_type, built.config.rescale_betas_zero_snr) == ("epsilon", False)
    parts = components()
    assert parts.scheduler.alphas_cumprod[-1] < 1e-6
    assert with_schedule(parts, ModelConfig()) is parts
    plain = with_schedule(parts, ModelConfig(zero_terminal_snr=False)).scheduler
    assert plain.alphas_cumprod[-1] > 1e-3 and plain.config.prediction_type == "v_prediction"
    sample = with_schedule(parts, ModelConfig(prediction_type="sample"))
    assert torch.isfinite(total(sample, batch(sample)))
    with pytest.raises(InputError, match="noise alone"):
        with_schedule(parts, ModelConfig(prediction_type="epsilon"))


def test_a_grid_stands_out_and_other_patterns_and_detail_do_not() -> None:
    hr = torch.rand(2, 3, 96, 96, generator=generator_for(0))
    hr = torch.nn.functional.avg_pool2d(hr, 3, 1, 1)
    rows = torch.arange(96)

    def striped(period: int) -> torch.Tensor:
        return hr + 0.02 * (rows % period == 0).float()

    def distance(pixels: torch.Tensor) -> float:
        return grid_distance(pixels, hr, period=4).item()

    assert distance(hr) == 0
    assert distance(hr * 0.5 + 0.2) == pytest.approx(0, abs=1e-3)  # paler
    assert distance(striped(7)) < 0.05 < 0.2 < distance(striped(4))
    assert distance(striped(4).roll((1, 2), (2, 3))) == pytest.approx(distance(striped(4)), rel=0.2)  # wherever it lies
    pixels = striped(4).requires_grad_()
    grid_distance(pixels, hr, period=4).backward()
    assert pixels.grad is not None and (pixels.grad * (pixels - hr)).sum() > 0  # less of the stripes is better


def test_the_grid_is_a_term_of_the_one_step() -> None:
    parts, config = components(noisy=True), LossConfig(one_step_fraction=1.0, grid_weight=0.5, efficientnet_weight=1.0)
    losses = XPSRLoss(parts, config, 250, {"efficientnet": PixelFeatures()})(batch(parts), generator_for(0))
    (restored,), (hr,) = losses.restored["efficientnet"], losses.clean["efficientnet"]
    expected = 0.5 * grid_distance(restored, hr, period=4)
    torch.testing.assert_close(losses.terms["grid"], expected)
    assert expected > 0


def test_fine_detail_counts_where_there_should_be_none() -> None:
    sky = torch.linspace(0.4, 0.6, 48).expand(1, 3, 48, 48)  # a ramp is no detail
    field = 0.5 + 0.2 * torch.rand(1, 3, 48, 48, generator=generator_for(0))
    weave = 0.01 * (torch.arange(48) % 4 < 2).float()
    assert flat_distance(sky, sky).tolist() == [0]
    assert flat_distance(sky + weave, sky).item() > 0.003
    assert flat_distance(sky + 0.05, sky).item() == pytest.approx(0, abs=1e-6)  # another brightness is no detail
    assert flat_distance(field + weave, field).item() == pytest.approx(0, abs=1e-5)  # nobody sees it there
    both = flat_distance(torch.cat([sky, sky + weave]), sky.expand(2, -1, -1, -1))
    assert both[0] == 0 and both[1].item() == pytest.approx(flat_distance(sky + weave, sky).item())
    woven = (sky + weave).requires_grad_()
    flat_distance(woven, sky).sum().backward()
    assert woven.grad is not None and (woven.grad * weave).sum() > 0  # less of the weave is better


def test_what_is_flat_is_said_by_the_teacher_or_else_by_hr() -> None:
    parts, config = components(noisy=True), LossConfig(one_step_fraction=1.0, flat_weight=3.0, efficientnet_weight=1.0)
    plain = batch(parts)
    half = torch.arange(len(plain.hr)) % 2 == 0
    teacher = torch.full_like(plain.hr, 0.5)
    taught = replace(plain, teacher=teacher, has_teacher=half)
    losses = XPSRLoss(parts, config, 250, {"efficientnet": PixelFeatures()})(taught, generator_for(0))
    (restored,) = losses.restored["efficientnet"]
    calm = torch.where(half.view(-1, 1, 1, 1), teacher, plain.hr)
    torch.testing.assert_close(losses.terms["flat"], 3.0 * flat_distance(restored, calm).mean())
    assert losses.terms["flat"] > 0


def test_features_are_compared_with_the_teacher_where_there_is_one() -> None:
    def shown(share: float) -> torch.Tensor:
        config = LossConfig(one_step_fraction=1.0, efficientnet_weight=0.5, feature_crop=64, teacher_features=share)
        losses = XPSRLoss(parts, config, 250, {"efficientnet": PixelFeatures()})(taught, generator_for(0))
        expected = 0.5 * feature_distance(losses.restored["efficientnet"], losses.clean["efficientnet"])
        torch.testing.assert_close(losses.terms["efficientnet"], expected)
        return losses.clean["efficientnet"][0]

    parts = components(noisy=True)
    plain = batch(parts)
    half = torch.arange(len(plain.hr)) % 2 == 0
    teacher = torch.where(half.view(-1, 1, 1, 1), 1 - plain.hr, plain.hr)
    taught = replace(plain, teacher=teacher, has_teacher=half)
    torch.testing.assert_close(shown(0.0), plain.hr)
    torch.testing.assert_close(shown(1.0), teacher)


def test_gradient_checkpointing_computes_attentions_again_and_changes_nothing() -> None:
    def gradients(checkpointed: bool) -> tuple[list[torch.Tensor], int]:
        parts = components(noisy=True)
        loss = XPSRLoss(parts, LossConfig(), 250).train()
        if checkpointed:
            parts.unet.enable_gradient_checkpointing()
            parts.controlnet.enable_gradient_checkpointing()
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        for module in loss.modules():
            if isinstance(module, BasicTransformerBlock):
                module.register_forward_pre_hook(count)
        loss(batch(parts), generator_for(0)).total().backward()
        return [p.grad for p in parts.trainable().parameters() if p.grad is not None], calls

    plain, calls = gradients(False)
    again, calls_again = gradients(True)
    assert calls_again == 2 * calls
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, again, strict=True))


def test_encodings_are_kept_for_frozen_encoders_only(tmp_path: Path) -> None:
    parts, cache = components(), EncodingCache(tmp_path)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2).eval()
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        first = cache.encode(vae, pixels).parameters
        assert torch.equal(first[:1], vae.encode(pixels[:1]).latent_dist.parameters)
        assert len(list(tmp_path.rglob("*.safetensors"))) == 2
        vae.encode = None  # type: ignore[method-assign, assignment]  # all is there already
        assert torch.equal(cache.encode(vae, pixels.flip(0)).parameters, first.flip(0))
        ids = batch(parts).content_ids
        cache.embed(parts.text_encoder, ids)
        assert len(list(tmp_path.rglob("*.safetensors"))) == 2  # it learns
        parts.text_encoder.requires_grad_(False)
        frozen = cache.embed(parts.text_encoder, ids)
        assert torch.equal(frozen, EncodingCache(tmp_path).embed(parts.text_encoder, ids))
        assert len(list(tmp_path.rglob("*.safetensors"))) == 3
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"file/.*: cannot be written \(Not a directory\); check the path"):
            EncodingCache(tmp_path / "file").embed(parts.text_encoder, ids)
