"""What a run may and may not go on from, and what is left when it cannot."""

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from filelock import FileLock
from fork_server import start_python
from full_disk import room_for
from test_training_cli import CONFIG
from training_helpers import components, losses_of, refined_vae, rows_of, run, run_config, save_photos

from xpsr.config import LossConfig, OptimizerConfig, PartName, PartsConfig, TrainRunConfig, ValidationConfig
from xpsr.errors import InputError, TrainingError
from xpsr.models import DeepHaarAutoencoder
from xpsr.training import Components, is_finished, train

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos")


ADAPTED = re.compile(r"\.(to_q|to_k|to_v|to_out\.0)\.weight$")
CHANGED: dict[PartName, Callable[[str], Any]] = {
    "everything": lambda name: True,
    "controlnet": lambda name: name.startswith("controlnet."),
    "conditional_attentions": lambda name: name.startswith("unet.") and ".conditional_attentions." in name,
    "unet": lambda name: name.startswith("unet."),
    "text_encoder": lambda name: name.startswith("text_encoder."),
    "refiner": lambda name: name.startswith("refiner."),
    "vae_decoder": lambda name: name.startswith("vae_decoder."),
    "unet_lora": lambda name: name.startswith("unet.") and ADAPTED.search(name),
    "controlnet_lora": lambda name: (
        name.startswith("controlnet.") and ADAPTED.search(name) and name.endswith(".weight")
    ),
}


@pytest.mark.parametrize("part", get_args(PartName))
def test_each_part_is_trained_alone(photos: Path, tmp_path: Path, part: PartName) -> None:
    config = replace(
        run_config(photos, tmp_path / "run", max_steps=1),
        parts=PartsConfig(train=(part,), lora_rank=2),
        optimizer=OptimizerConfig(ema_decay=0, warmup_steps=0),
    )

    def fresh() -> Components:
        if part == "refiner":
            return replace(components(noisy=True), vae=refined_vae())
        return components(noisy=True)  # behind a layer of zeros nothing would be learned

    before = fresh().trainable().state_dict()
    after: dict[str, torch.Tensor] = {}
    train(config, fresh(), export=lambda c, _: after.update(c.trainable().state_dict()), device=CPU)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed == {name for name in before if CHANGED[part](name)}


def other_timestep(config: TrainRunConfig) -> TrainRunConfig:
    return replace(config, model=replace(config.model, one_step_timestep=500))


REFUSED: dict[str, tuple[Callable[[TrainRunConfig], TrainRunConfig], str]] = {
    "another seed": (lambda c: replace(c, train=replace(c.train, seed=7)), "train.seed is 7, that run's is 0"),
    "another timestep": (other_timestep, "one_step_timestep is 500"),
    "other parts": (lambda c: replace(c, parts=PartsConfig(train=("controlnet",))), "parts.train is"),
    "an adversary": (
        lambda c: replace(c, loss=replace(c.loss, adversarial_weight=0.1, efficientnet_weight=0.7, feature_crop=16)),
        "it has no adversary (loss.adversarial_weight)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_run_is_refused_by_what_differs_and_changes_nothing(photos: Path, tmp_path: Path, name: str) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=1)
    run(config)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*") if path.is_file()}
    change, reason = REFUSED[name]
    with pytest.raises(TrainingError) as caught:
        run(change(replace(config, train=replace(config.train, max_steps=2))))
    assert reason in str(caught.value) and "another train.output_dir" in str(caught.value)
    assert {path: path.read_bytes() for path in before} == before


def test_an_adversary_that_reads_texts_does_not_go_on_from_one_that_reads_none(photos: Path, tmp_path: Path) -> None:
    loss = LossConfig(adversarial_weight=0.1, efficientnet_weight=0.7, feature_crop=16)
    config = replace(run_config(photos, tmp_path / "run", max_steps=1), loss=loss)
    run(config)
    reading = replace(config, loss=replace(loss, adversary_content=0.5), train=replace(config.train, max_steps=2))
    with pytest.raises(TrainingError, match=r"its adversary reads no texts \(loss\.adversary_content\)"):
        run(reading)


def test_other_frozen_weights_and_another_architecture_are_another_run(photos: Path, tmp_path: Path) -> None:
    config = replace(run_config(photos, tmp_path / "run", max_steps=1), parts=PartsConfig(train=("controlnet",)))
    export: Any = lambda parts, folder: folder.mkdir(exist_ok=True)  # noqa: E731
    train(config, components(), export=export, device=CPU)
    longer = replace(config, train=replace(config.train, max_steps=2))
    with pytest.raises(TrainingError, match="frozen weights is"):
        train(longer, components(seed=1), export=export, device=CPU)
    parts = components()
    parts.unet.register_to_config(norm_num_groups=2)
    with pytest.raises(TrainingError, match=r"unet\.norm_num_groups is 2, that run's is 4"):
        train(longer, parts, export=export, device=CPU)
    assert train(longer, components(), export=export, device=CPU)


def test_a_run_without_an_average_does_not_get_one(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=1)
    run(replace(config, optimizer=OptimizerConfig(ema_decay=0)))
    with pytest.raises(TrainingError, match=r"keeps no average .*ema_decay"):
        run(replace(config, train=replace(config.train, max_steps=2)))


@pytest.mark.slow
def test_a_run_that_an_earlier_version_began_goes_on_to_the_same_bits(photos: Path, tmp_path: Path) -> None:
    loss = LossConfig(adversarial_weight=0.1, adversarial_ramp_steps=1, efficientnet_weight=0.7, feature_crop=16)
    config = replace(run_config(photos, tmp_path / "whole", max_steps=3, batch_size=2), loss=loss)
    _, whole = run(config)
    begun = replace(config, train=replace(config.train, output_dir=tmp_path / "begun"))
    assert not run(replace(begun, train=replace(begun.train, max_minutes=1e-6)))[0]
    path = tmp_path / "begun" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    former = {"ema": "average", "fingerprint": "identity", "discriminator_optimizer": "adversary"}
    assert former.keys() <= content.keys()
    torch.save({former.get(key, key): value for key, value in content.items()}, path)
    complete, weights = run(begun)
    assert complete and losses_of(tmp_path / "begun") == losses_of(tmp_path / "whole")
    assert all(torch.equal(whole[name], weights[name]) for name in whole)
    torch.save({former.get(key, key): value for key, value in content.items()}, path)
    with pytest.raises(TrainingError, match=r"train\.seed is 7, that run's is 0"):
        run(replace(begun, train=replace(begun.train, seed=7)))


def test_latents_stay_what_the_networks_learned(photos: Path, tmp_path: Path) -> None:
    """The autoencoder's scale is measured on pictures, and there may be more of them when the run goes on."""
    config = run_config(photos, tmp_path / "run", max_steps=1)
    first, second = components(), components()
    second.vae.register_to_config(latents_mean=[0.5] * 48)
    found: list[Any] = []

    def export(parts: Components, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        found.append(list(parts.vae.config.latents_mean))

    train(config, first, export=export, device=CPU)
    train(replace(config, train=replace(config.train, max_steps=2)), second, export=export, device=CPU)
    assert found[0] == found[1] != [0.5] * 48


def test_a_fresh_start_that_is_refused_removes_nothing(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=1)
    run(config)
    for wrong in (
        replace(config, parts=PartsConfig(train=("vae_decoder",)), loss=LossConfig(one_step_fraction=0)),
        replace(config, data=replace(config.data, hr_dir=tmp_path / "nowhere")),
    ):
        with pytest.raises((InputError, TrainingError)):
            run(replace(wrong, train=replace(config.train, resume="never")))
        assert is_finished(config)


def test_one_run_at_a_time_in_a_folder(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=1)
    run(config)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = replace(config, train=replace(config.train, resume="never"))
    held = pytest.raises(TrainingError, match="another run is writing here")
    with FileLock(tmp_path / "run" / ".lock"), held as caught:
        run(again)
    assert (caught.value.code, caught.value.field) == ("in_use", "train.output_dir")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert run(again)[0]


def test_a_folder_that_cannot_be_written_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "locked" / ".lock").mkdir(parents=True)  # root may write to any folder; to this file it cannot
    for folder in ("file", "file/run", "locked"):
        with pytest.raises(TrainingError, match=r"cannot be written \(.*\); name a folder that can") as caught:
            run(run_config(photos, tmp_path / folder))
        assert (caught.value.field, caught.value.value) == ("train.output_dir", str(tmp_path / folder))


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_log_that_cannot_be_written_is_one_line(photos: Path, tmp_path: Path) -> None:
    run(run_config(photos, tmp_path / "run", max_steps=2))
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 1, "loss": 1.0}\n' * 10_000)
    with room_for(log.stat().st_size + 10), pytest.raises(TrainingError) as caught:
        run(run_config(photos, tmp_path / "run", max_steps=4))
    assert str(caught.value) == f"{log}: cannot be written (File too large); free space or choose another disk."
    assert caught.value.code == "disk_full"
    assert run(run_config(photos, tmp_path / "run", max_steps=4))[0]
    assert list(losses_of(tmp_path / "run")) == [1, 2, 3, 4]


def test_batches_that_leave_nothing_for_diffusion_are_refused(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", batch_size=2)
    with pytest.raises(InputError, match="of 2 samples an update is 2; use larger batches, or 1"):
        run(replace(config, loss=LossConfig(one_step_fraction=0.75)))


def test_a_validation_that_fails_costs_no_update(photos: Path, tmp_path: Path) -> None:
    config = replace(
        run_config(photos, tmp_path / "run", max_steps=3, checkpoint_every=100, num_workers=1),
        validation=ValidationConfig(every=3, hr_dir=photos),
    )

    def validate(parts: Components, folder: Path) -> dict[str, float]:
        raise InputError("a damaged picture")

    others = set(multiprocessing.active_children())
    with pytest.raises(InputError, match="a damaged picture"):
        run(config, validate=validate)
    assert set(multiprocessing.active_children()) <= others  # as long as a worker lives, this process could not end
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert run(config, validate=lambda *_: {"psnr_y": 1.0})[0]
    assert list(losses_of(tmp_path / "run")) == [1, 2, 3]


def test_a_model_that_cannot_be_written_costs_no_checkpoint_and_is_made_up_for(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=2, checkpoint_every=100)

    def full(parts: Components, folder: Path) -> None:
        raise TrainingError(f"{folder}: cannot be written: No space left on device")

    with pytest.raises(TrainingError, match="No space left"):
        train(config, components(), export=full, device=CPU)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2
    (tmp_path / "run" / "model").mkdir()  # an older one
    assert not is_finished(config)
    complete, exported = run(config)
    assert complete and exported
    assert is_finished(config)


def test_a_second_signal_stops_at_once(photos: Path, tmp_path: Path) -> None:
    def export(parts: Components, folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)  # where the handler runs
        pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt):
        train(run_config(photos, tmp_path / "run", max_steps=1), components(), export=export, device=CPU)


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
def test_a_signal_to_the_whole_group_ends_in_a_checkpoint(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    options = ["--train.num_workers=1", "--train.max_steps=100000", "--train.output_dir=run"]
    metrics, patience = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    with start_python("-m", "xpsr", "train", "tiny.yaml", *options, cwd=tmp_path, start_new_session=True) as process:
        while not (metrics.is_file() and metrics.read_text()) and time.monotonic() < patience:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == rows_of(tmp_path / "run")[-1]["step"]


def test_a_run_goes_on_to_the_same_from_what_shards_wrote(photos: Path, tmp_path: Path) -> None:
    # they are gathered row by row, while one process keeps convolutions channel by channel
    whole, gathered = (run_config(photos, tmp_path / name, max_steps=2) for name in ("whole", "gathered"))
    for config in (whole, gathered):
        run(config)
    file = tmp_path / "gathered" / "checkpoint.pt"
    content = torch.load(file, weights_only=True)
    moments = [state for state in content["optimizer"].values() if state["exp_avg"].ndim == 4]
    assert not all(state["exp_avg"].is_contiguous() for state in moments)
    for state in moments:
        state |= {name: state[name].contiguous() for name in ("exp_avg", "exp_avg_sq")}
    torch.save(content, file)
    (_, expected), (_, found) = (run(replace(c, train=replace(c.train, max_steps=4))) for c in (whole, gathered))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_faithful_way_stays_what_it_is_while_the_decoder_learns(photos: Path, tmp_path: Path) -> None:
    parts = components(noisy=True)
    vae = DeepHaarAutoencoder.from_config(parts.vae.config, with_fidelity=True)
    vae.decoder.load_state_dict(parts.vae.decoder.state_dict())
    faithful = {name: 0.5 * value for name, value in vae.decoder.state_dict().items()}
    vae.set_faithful_weights(faithful)
    before = {name: value.clone() for name, value in vae.decoder.state_dict().items()}
    after: dict[str, dict[str, torch.Tensor]] = {}

    def export(trained: Components, _: Path) -> None:
        decoder = {name: value.clone() for name, value in trained.vae.decoder.state_dict().items()}
        after.update(decoder=decoder, faithful=trained.vae.faithful_weights())

    train(run_config(photos, tmp_path / "run", max_steps=1), replace(parts, vae=vae), export=export, device=CPU)
    assert not all(torch.equal(before[name], after["decoder"][name]) for name in before)
    for name, value in faithful.items():
        torch.testing.assert_close(after["faithful"][name], value)
