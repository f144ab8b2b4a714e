"""Which parameters are trained, adapters, and optimizers."""

from pathlib import Path

import pytest
import torch
from training_helpers import batch
from training_helpers import components_of_levels as components

from xpsr.config import LossConfig, OptimizerConfig, PartsConfig
from xpsr.data import generator_for
from xpsr.errors import InputError
from xpsr.training import (
    Components,
    XPSRLoss,
    choose_parts,
    learning_rate,
    merge_adapters,
    save_adapters,
)


def trained(parts: Components) -> set[str]:
    return {name for name, p in parts.trainable().named_parameters() if p.requires_grad}


def choose(*names: str, loss: LossConfig | None = None, rank: int = 2) -> Components:
    parts = components(noisy=True)
    choose_parts(parts, PartsConfig(train=names, lora_rank=rank), loss or LossConfig(), seed=0)  # type: ignore[arg-type]
    return parts


def test_parts_are_chosen_by_name() -> None:
    everything = trained(choose("everything"))
    assert everything == {name for name, _ in components().trainable().named_parameters()}
    papers = trained(choose("controlnet", "conditional_attentions"))
    assert papers == {
        name for name in everything if name.startswith("controlnet.") or ".conditional_attentions." in name
    }
    assert trained(choose("text_encoder", "vae_decoder")) == {
        name for name in everything if name.startswith(("text_encoder.", "vae_decoder."))
    }


def test_what_the_loss_never_looks_at_is_not_trained() -> None:
    left = trained(choose("everything", loss=LossConfig(degradation_free_weight=0.0, one_step_fraction=0.0)))
    assert not [name for name in left if name.startswith(("vae_decoder.", "controlnet.to_latents"))]
    assert not [name for name in left if ".to_images." in name]
    left = trained(choose("controlnet", loss=LossConfig(degradation_free_latents=(-1,), degradation_free_images=(0,))))
    assert sorted(
        name for name in left if name.endswith(".bias") and (".to_latents." in name or ".to_images." in name)
    ) == [
        "controlnet.image_encoder.to_images.0.bias",
        f"controlnet.to_latents.{len(components().controlnet.to_latents) - 1}.bias",
    ]


@pytest.mark.parametrize("names", [("everything",), ("controlnet", "conditional_attentions"), ("unet_lora",)])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_every_trained_parameter_gets_a_gradient(names: tuple[str, ...], fraction: float) -> None:
    config = LossConfig(one_step_fraction=fraction)
    parts = choose(*names, loss=config)
    XPSRLoss(parts, config, 250)(batch(parts), generator_for(0)).total().backward()
    grads = {name: p.grad for name, p in parts.trainable().named_parameters()}
    assert {name for name, grad in grads.items() if grad is not None} == trained(parts)


def test_adapters_leave_the_rest_frozen_and_merge_into_it(tmp_path: Path) -> None:
    parts = choose("controlnet", "conditional_attentions", "unet_lora")
    names = trained(parts)
    adapters = {name for name in names if ".lora_" in name}
    assert adapters and all(name.startswith("unet.") for name in adapters)
    assert not [name for name in adapters if ".conditional_attentions." in name]  # these are trained in full
    assert {name.replace(".base_layer", "") for name in names - adapters} == trained(
        choose("controlnet", "conditional_attentions")
    )
    with torch.no_grad():
        for name, parameter in parts.trainable().named_parameters():
            if ".lora_B." in name:
                parameter.normal_(generator=generator_for(3))
    merged = merge_adapters(parts)
    assert {n for n, _ in merged.trainable().named_parameters()} == {
        n for n, _ in components().trainable().named_parameters()
    }
    one = batch(parts)
    loss = [XPSRLoss(p, LossConfig(), 250)(one, generator_for(0)).total() for p in (parts, merged)]
    torch.testing.assert_close(loss[0], loss[1], rtol=1e-4, atol=1e-5)
    assert loss[0] != XPSRLoss(components(noisy=True), LossConfig(), 250)(one, generator_for(0)).total()

    assert save_adapters(parts, tmp_path) == [tmp_path / "unet"]
    loaded = components(noisy=True)
    loaded.unet.load_lora_adapter(str(tmp_path / "unet"), prefix=None, weight_name="pytorch_lora_weights.safetensors")
    reloaded = XPSRLoss(loaded, LossConfig(), 250)(one, generator_for(0)).total()
    torch.testing.assert_close(reloaded, loss[0], rtol=1e-4, atol=1e-5)


def test_adapters_are_drawn_from_the_seed_and_start_as_nothing() -> None:
    one, other = choose("controlnet_lora"), choose("controlnet_lora")
    weights = [[p for n, p in parts.trainable().named_parameters() if ".lora_A." in n] for parts in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    plain = components(noisy=True)
    values = [XPSRLoss(p, LossConfig(), 250)(batch(p), generator_for(0)).total() for p in (one, plain)]
    torch.testing.assert_close(values[0], values[1])


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(InputError, match="too much"):
        PartsConfig(train=("everything", "unet"))
    with pytest.raises(InputError, match="an adapter on it"):
        PartsConfig(train=("unet", "unet_lora"))
    for parts, loss, error in (
        (
            PartsConfig(train=("unet_lora",), lora_targets=("nothing",)),
            LossConfig(),
            "parts.lora_targets=[nothing] name",
        ),
        (
            PartsConfig(train=("vae_decoder",)),
            LossConfig(one_step_fraction=0),
            "parts.train=[vae_decoder] trains nothing",
        ),
        (PartsConfig(), LossConfig(degradation_free_latents=(9,)), "loss.degradation_free_latents=[9] is not all in"),
    ):
        with pytest.raises(InputError) as caught:
            choose_parts(components(), parts, loss, seed=0)
        assert str(caught.value).startswith(error) and f"{caught.value.field}={caught.value.value}" in error


def test_learning_rate_warms_up_and_follows_its_schedule() -> None:
    def rates(schedule: str) -> list[float]:
        config = OptimizerConfig(
            learning_rate=1.0,
            final_learning_rate=0.1,
            warmup_steps=2,
            schedule=schedule,  # type: ignore[arg-type]
        )
        return [learning_rate(config, step, 12) for step in (0, 1, 2, 7, 12)]

    assert rates("cosine") == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    assert rates("linear") == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    assert rates("constant") == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0])
