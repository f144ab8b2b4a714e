"""Losses and the loop, with a tiny model on pictures made here."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from training_helpers import (
    TINY,
    PixelFeatures,
    batch,
    components,
    components_of_levels,
    losses_of,
    restored_by,
    run,
    run_config,
    save_photos,
)

from xpsr.config import LossConfig, OptimizerConfig
from xpsr.data import generator_for
from xpsr.errors import TrainingError
from xpsr.features import EfficientNetFeatures
from xpsr.image import resize
from xpsr.training import (
    FeatureDiscriminator,
    Losses,
    XPSRLoss,
    build_components,
    build_tokenizer,
    degradation_free_terms,
    diffusion_loss,
    train,
)
from xpsr.training.adversary import Adversary
from xpsr.training.losses import Content


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos")


def test_any_text_can_be_told_and_known_words_are_single_tokens() -> None:
    tokenizer = build_tokenizer(None, 1024)
    assert len(tokenizer) <= 1024
    assert tokenizer.unk_token_id == tokenizer.eos_token_id
    assert tokenizer.tokenize("Photograph with strong noise") == [
        "photograph</w>",
        "with</w>",
        "strong</w>",
        "noise</w>",
    ]
    for text in ("quizzaciously", "naïve 42 €", "日本"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("size", [600, 1024, 2048])
def test_a_vocabulary_gives_one_tokenizer(size: int) -> None:
    """Processes of a run, and a run that goes on, build it anew: texts must be the same tokens to all of them."""
    first, *others = (build_tokenizer(None, size) for _ in range(4))
    assert len(first) <= size
    text = "a slightly blurry, oddly lit photograph of farms and lamps at the damp edge of oil fields"
    for other in others:
        assert other.get_vocab() == first.get_vocab()
        assert other(text).input_ids == first(text).input_ids


def test_degradation_free_terms_are_mean_absolute_errors() -> None:
    hr, latents = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 4, 4)
    perfect_images = [F.interpolate(hr, scale_factor=s, mode="bilinear") for s in (0.5, 0.25)]
    perfect_latents = [latents, F.interpolate(latents, scale_factor=0.5, mode="bilinear")]
    assert not any(degradation_free_terms(perfect_images, perfect_latents, hr, latents))
    off = degradation_free_terms([perfect_images[0] + 0.5], [latents - 0.25, perfect_latents[1]], hr, latents)
    assert [term.item() for term in off] == pytest.approx([0.5, 0.25, 0], rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_predicts_what_the_scheduler_asks_for_has_no_loss(prediction: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction)
    clean, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    timesteps = torch.tensor([10, 900])
    targets = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, timesteps)}
    inputs = {"clean": clean, "noise": noise, "timesteps": timesteps}
    assert diffusion_loss(scheduler, targets[prediction], **inputs) == 0
    assert diffusion_loss(scheduler, targets[prediction] + 2, **inputs).item() == pytest.approx(4)


def test_a_shifted_batch_lies_on_another_grid() -> None:
    parts = components()
    config = LossConfig(shift_probability=1.0, one_step_fraction=1.0, efficientnet_weight=1.0)
    losses = XPSRLoss(parts, config, 250, {"efficientnet": PixelFeatures()})(batch(parts), generator_for(0))
    hr = batch(parts).hr
    (shown,), (restored,) = losses.clean["efficientnet"], losses.restored["efficientnet"]
    assert torch.equal(shown, (hr * 2 - 1)[..., 2:-2, 2:-2] / 2 + 0.5)
    assert restored.shape == shown.shape


@pytest.mark.parametrize("stream", ["content_ids", "quality_ids"])
def test_both_texts_reach_the_loss(stream: str) -> None:
    parts = components(noisy=True)  # or the UNet's output would be zero, and with it all that the texts say
    loss = XPSRLoss(parts, LossConfig(content_dropout=0, quality_dropout=0), 250)
    one = batch(parts)
    other = replace(one, **{stream: batch(parts).content_ids.roll(1, 1)})
    assert loss(one, generator_for(2)).total() != loss(other, generator_for(2)).total()


@pytest.mark.parametrize("stream", ["content", "quality"])
def test_dropout_of_a_stream_makes_its_text_not_matter_and_leaves_the_other(stream: str) -> None:
    parts = components(noisy=True)
    other = {"content": "quality", "quality": "content"}[stream]
    loss = XPSRLoss(parts, LossConfig(**{f"{stream}_dropout": 1.0, f"{other}_dropout": 0.0}), 250)
    one = batch(parts)
    shuffled = {name: getattr(one, f"{name}_ids").roll(1, 1) for name in (stream, other)}
    reference = loss(one, generator_for(2)).total()
    assert loss(replace(one, **{f"{stream}_ids": shuffled[stream]}), generator_for(2)).total() == reference
    assert loss(replace(one, **{f"{other}_ids": shuffled[other]}), generator_for(2)).total() != reference


def test_rows_are_split_between_diffusion_and_the_one_step() -> None:
    parts = components()
    for fraction, names in ((0.0, {"diffusion"}), (1.0, {"pixel"}), (0.5, {"diffusion", "pixel"})):
        config = LossConfig(one_step_fraction=fraction, efficientnet_weight=1.0 if fraction else 0.0)
        features = {"efficientnet": PixelFeatures()} if fraction else {}
        losses = XPSRLoss(parts, config, 250, features)(batch(parts), generator_for(0))
        assert losses.terms.keys() - {"degradation_free", "efficientnet"} == names
        assert sum(len(seen) for seen in losses.restored.get("efficientnet", [])) == 4 * fraction


def test_the_one_step_sees_the_degraded_picture_alone() -> None:
    parts = components()
    one = batch(parts)
    restored = restored_by(parts, one)
    assert torch.equal(restored, restored_by(parts, replace(one, hr=one.hr.flip(-1))))
    assert not torch.equal(restored, restored_by(parts, replace(one, lr=one.lr.flip(-1))))


def test_an_untrained_one_step_starts_near_the_enlarged_picture() -> None:
    parts = components()  # says nothing: a velocity of zero
    one = batch(parts)
    enlarged = resize(one.lr, (32, 32))
    # at t=0 the clean latents are all but the input
    assert (restored_by(parts, one, timestep=0) - enlarged).abs().max() < 0.01


def test_exported_weights_are_the_moving_average(photos: Path, tmp_path: Path) -> None:
    def weights_after(steps: int, decay: float) -> torch.Tensor:
        config = run_config(photos, tmp_path / f"{steps}-{decay}", max_steps=steps)
        # a constant learning rate, so that the first steps of runs of any length are the same
        optimizer = OptimizerConfig(warmup_steps=1, final_learning_rate=5e-4, ema_decay=decay)
        return run(replace(config, optimizer=optimizer))[1]["unet.conv_in.weight"]

    start = components().unet.conv_in.weight.detach()
    raw = [weights_after(steps, 0.0) for steps in (1, 2, 3)]
    average = start
    for step, weights in enumerate(raw, start=1):
        decay = min(0.5, step / (step + 9))
        average = decay * average + (1 - decay) * weights
    assert not torch.allclose(average, raw[-1], atol=1e-5)
    torch.testing.assert_close(weights_after(3, 0.5), average, rtol=0, atol=1e-6)


def test_every_part_learns() -> None:
    parts = components_of_levels()
    with torch.no_grad():  # zero layers hide what lies before them
        for parameter in parts.trainable().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator_for(1)) * 0.02)
    XPSRLoss(parts, LossConfig(), 250)(batch(parts), generator_for(0)).total().backward()
    idle = [n for n, p in parts.trainable().named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in idle if "k_proj.bias" not in name] == []  # softmax ignores what all keys share


def test_loss_falls_when_a_batch_is_learned_by_heart() -> None:
    parts = components()
    loss = XPSRLoss(parts, LossConfig(one_step_fraction=1.0), 250)
    optimizer = torch.optim.AdamW(loss.parts.parameters(), lr=1e-2)
    history = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(batch(parts), generator_for(0)).total()
        value.backward()
        optimizer.step()
        history.append(value.item())
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize("size", [(64, 64), (61, 47), (4, 4)])
def test_a_discriminator_scores_every_place_of_every_map(size: tuple[int, int]) -> None:
    network = EfficientNetFeatures()
    with torch.no_grad():
        features = network(torch.rand(2, 3, *size))
    assert [one.shape[1] for one in features] == list(network.widths)
    scores = FeatureDiscriminator({"efficientnet": network.widths})({"efficientnet": features})
    assert [score.shape for score in scores] == [(2, 1, *one.shape[2:]) for one in features]


def test_an_adversary_tells_soft_from_sharp_and_what_it_says_makes_sharper(photos: Path, tmp_path: Path) -> None:
    loss = LossConfig(adversarial_weight=1.0, efficientnet_weight=1.0, adversarial_ramp_steps=0, feature_crop=32)
    network = EfficientNetFeatures()
    config = replace(run_config(photos, tmp_path), loss=loss)
    adversary = Adversary(config, TwoProcesses(), {"efficientnet": network.widths})  # type: ignore[arg-type]
    sharp = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    soft = F.avg_pool2d(sharp, 3, 1, 1)

    def losses(pixels: torch.Tensor) -> Losses:
        return Losses(restored={"efficientnet": network(pixels)}, clean={"efficientnet": network(sharp)})

    hinges = []
    for _ in range(60):
        hinges.append(adversary.discriminator_loss(losses(soft), num_passes=1).item())
        adversary.update(2e-3)
    assert hinges[0] == pytest.approx(2, abs=0.2) and hinges[-1] < 1
    mixed = [adversary.generator_loss(losses(soft.lerp(sharp, share)), step=1).item() for share in (0, 0.5, 1)]
    assert mixed == sorted(mixed, reverse=True)  # the sharper, the better
    pixels = soft.clone().requires_grad_()
    adversary.generator_loss(losses(pixels), step=1).backward()
    assert pixels.grad is not None and pixels.grad.abs().sum() > 0
    assert adversary.generator_loss(Losses(), step=1) == adversary.discriminator_loss(Losses(), num_passes=1) == 0


def test_an_adversary_says_of_a_batch_the_mean_of_what_it_says_of_its_halves(photos: Path, tmp_path: Path) -> None:
    config = replace(run_config(photos, tmp_path), loss=replace(JUDGED, adversarial_ramp_steps=0))
    adversary = Adversary(config, TwoProcesses(), {"efficientnet": (8, 16)})  # type: ignore[arg-type]
    adversary.discriminator.eval()  # its spectral norms get better with every look
    sizes = torch.tensor([0.1, 2.0, 30.0, 400.0]).view(-1, 1, 1, 1)
    clean = [sizes * torch.randn(4, width, 6, 6, generator=torch.Generator().manual_seed(width)) for width in (8, 16)]

    def said(rows: slice) -> tuple[float, float]:
        shown = [one[rows] for one in clean]
        losses = Losses(restored={"efficientnet": [one.abs() for one in shown]}, clean={"efficientnet": shown})
        ours = adversary.generator_loss(losses, step=1)
        return ours.item(), adversary.discriminator_loss(losses, num_passes=1).item()

    halves = zip(said(slice(2)), said(slice(2, 4)), strict=True)
    assert said(slice(4)) == pytest.approx([sum(half) / 2 for half in halves], rel=1e-5)


def test_an_adversary_that_reads_tells_right_texts_from_swapped_ones(photos: Path, tmp_path: Path) -> None:
    loss = replace(JUDGED, adversarial_weight=1.0, adversarial_ramp_steps=0, adversary_content=1.0)
    config = replace(run_config(photos, tmp_path), loss=loss)
    adversary = Adversary(config, TwoProcesses(), {"efficientnet": (8,)}, vocabulary=4)  # type: ignore[arg-type]
    ids = torch.tensor([[1, 2], [1, 3], [1, 2], [1, 1]])  # 1 is no word; the last row has no text
    content = Content(ids, ids != 1)
    assert content.is_swappable().tolist() == [False, True, True, True]  # the first would get the empty one
    features = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = torch.stack([features[0], features[1], features[0], features[2]])  # what 2, 3 and nothing look like

    def losses(pictures: torch.Tensor, texts: Content | None = content) -> Losses:
        return Losses(restored={"efficientnet": [pictures]}, clean={"efficientnet": [seen]}, content=texts)

    soft = 0.3 * seen
    before = adversary.discriminator_loss(losses(soft), num_passes=1).item()
    for _ in range(120):
        adversary.update(5e-3)
        after = adversary.discriminator_loss(losses(soft), num_passes=1).item()
    assert before == pytest.approx(3, abs=0.5) and after < 1.5
    right = adversary.generator_loss(losses(seen), step=1).item()
    wrong = adversary.generator_loss(losses(seen, content.swapped()), step=1).item()
    assert right < wrong - 0.5  # who paints what another's text says is told


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_the_adversary_is_told_the_texts_that_the_networks_read(dropout: float) -> None:
    parts = components()
    module = XPSRLoss(parts, LossConfig(one_step_fraction=1.0, content_dropout=dropout), 250)
    one = batch(parts)
    told = module(one, generator_for(0)).content
    assert told is not None
    assert torch.equal(told.ids, module.empty_ids.expand_as(told.ids) if dropout else one.content_ids)
    words = 0 if dropout else len(parts.tokenizer.tokenize("a red panda"))
    assert told.is_word.sum(1).tolist() == [words] * len(told.ids)


JUDGED = LossConfig(adversarial_weight=0.1, efficientnet_weight=0.7, feature_crop=16)


class TwoProcesses:
    """What an adversary asks of accelerate where two processes had the same gradients."""

    num_processes, device = 2, torch.device("cpu")
    autocast = staticmethod(nullcontext)

    def reduce(self, values: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "mean"
        return values.clone()


def test_an_adversary_learns_at_its_own_rate_whatever_order_its_gradients_have(photos: Path, tmp_path: Path) -> None:
    moved = []
    for rate in (1.0, 4.0):
        config = replace(run_config(photos, tmp_path), loss=replace(JUDGED, adversary_rate=rate))
        adversary = Adversary(config, TwoProcesses(), {"efficientnet": (16, 24)})  # type: ignore[arg-type]
        before = [parameter.detach().clone() for parameter in adversary.parameters]
        for parameter in adversary.parameters:
            order = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            parameter.grad = drawn.contiguous(memory_format=order)
        gradients = [parameter.grad.clone() for parameter in adversary.parameters if parameter.grad is not None]
        adversary.update(1e-3)
        steps = [parameter.detach() - old for parameter, old in zip(adversary.parameters, before, strict=True)]
        for step, gradient in zip(steps, gradients, strict=True):
            assert torch.equal(step.sign(), -gradient.sign())
        moved.append(torch.cat([step.flatten() for step in steps]).abs().mean().item())
    assert moved[1] == pytest.approx(4 * moved[0], rel=0.05)


def test_a_run_that_stops_and_goes_on_has_the_losses_and_weights_of_one_that_does_not(
    photos: Path, tmp_path: Path
) -> None:
    complete, whole = run(run_config(photos, tmp_path / "whole"))
    assert complete
    # a run of the same length, cut after two steps
    cut = run_config(photos, tmp_path / "cut", max_minutes=1e-6, checkpoint_every=1000)
    assert run(cut)[0] is False
    assert run(cut)[0] is False
    complete, resumed = run(run_config(photos, tmp_path / "cut"))
    assert complete
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_steps_after_the_last_checkpoint_are_logged_once(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=2)
    run(config)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(log.read_text() + json.dumps({"step": 3, "loss": 9.0}) + '\n{"step": 4, "lo')  # killed while writing
    run(replace(config, train=replace(config.train, max_steps=4)))
    assert list(losses_of(tmp_path / "run")) == [1, 2, 3, 4]
    assert losses_of(tmp_path / "run")[3] != 9.0


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_refused(photos: Path, tmp_path: Path, damage: bytes | None) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=2)
    run(config)
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1000] if damage is None else damage)
    with pytest.raises(TrainingError, match="not a checkpoint of this run"):
        run(config)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("run-by-a-pickle"),))


NOT_OURS = {"step": 1, "position": 0, "weights": {}, "ema": {}, "optimizer": {}, "rng": []}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state_dict": {}, "callbacks": Harmful()}, "it is damaged, or nothing that xpsr train has written"),
        (Harmful(), "it is damaged, or nothing that xpsr train has written"),
        ([1], "it holds a list"),
        ({"state_dict": {"weight": torch.zeros(1)}, "epoch": 3}, "it is nothing that xpsr train has written"),
        ({**NOT_OURS, "weights": torch.zeros(1)}, "it is nothing that xpsr train has written"),
        ({**NOT_OURS, "fingerprint": [1]}, ""),
        ({**NOT_OURS, "ema": {"weight": [1]}}, "it trains other parts: "),
    ],
)
def test_a_checkpoint_of_another_program_is_refused_in_our_own_words(
    photos: Path, tmp_path: Path, content: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = run_config(photos, tmp_path / "run", max_steps=2)
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(TrainingError) as refused:
        run(config)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'run' / 'checkpoint.pt'}: not a checkpoint of this run: {reason}")
    assert message.endswith("; use another train.output_dir.") and "weights_only" not in message
    assert not Path("run-by-a-pickle").exists()


def test_a_finished_run_is_left_as_it_is(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=2)
    run(config)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    complete, exported = run(config)
    assert complete and not exported
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_termination_signal_leaves_a_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=50, checkpoint_every=1000)
    original = XPSRLoss.forward

    def forward(self: XPSRLoss, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(XPSRLoss, "forward", forward)
    complete, exported = run(config)
    assert not complete and exported
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    assert list(losses_of(tmp_path / "run")) == [1]


def test_a_run_works_off_the_main_thread_and_leaves_signals_alone(photos: Path, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    _, expected = run(run_config(photos, tmp_path / "main"))
    with ThreadPoolExecutor(1) as pool:
        complete, weights = pool.submit(run, run_config(photos, tmp_path / "thread")).result()
    assert complete and losses_of(tmp_path / "thread") == losses_of(tmp_path / "main")
    assert all(torch.equal(expected[name], weights[name]) for name in expected)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_in_bfloat16_networks_and_adversary_lose_about_as_much(photos: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        config = run_config(photos, tmp_path / precision, max_steps=2, precision=precision)
        run(replace(config, loss=replace(JUDGED, adversarial_ramp_steps=1)))
    fast, exact = losses_of(tmp_path / "bf16"), losses_of(tmp_path / "fp32")
    assert fast != exact and fast == pytest.approx(exact, rel=0.02)


def test_adversary_and_its_optimizer_are_part_of_the_checkpoint(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=2)
    config = replace(config, loss=replace(JUDGED, adversarial_ramp_steps=1))
    run(config)
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert {"discriminator", "discriminator_optimizer"} <= content.keys()
    assert "discriminator" in json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    complete, _ = run(replace(config, train=replace(config.train, max_steps=3)))
    assert complete


def test_checkpoint_of_another_model_is_refused(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=2)
    run(config)
    torch.manual_seed(0)
    other = build_components(replace(TINY, block_out_channels=(16,)), torch.rand(4, 3, 32, 32))
    with pytest.raises(TrainingError, match="not a checkpoint of this run"):
        train(config, other, export=lambda *_: None, device=torch.device("cpu"))


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step(photos: Path, tmp_path: Path) -> None:
    parts = components()
    with torch.no_grad():
        parts.unet.conv_in.bias.fill_(float("inf"))
    with pytest.raises(TrainingError, match="not finite at step 0"):
        train(run_config(photos, tmp_path / "run"), parts, export=lambda *_: None, device=torch.device("cpu"))
