"""Runs that are killed, resumed, validated, watched; runs of two processes."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_helpers import TINY, components, losses_of, rows_of, run, run_config, save_photos

from xpsr.config import (
    AblateConfig,
    LossConfig,
    OptimizerConfig,
    PairsConfig,
    PartsConfig,
    TrainRunConfig,
    ValidationConfig,
)
from xpsr.data import make_pairs
from xpsr.errors import InputError, MissingDependencyError, TrainingError
from xpsr.jsonl import write_lines
from xpsr.training import Components, XPSRLoss, is_finished, plot_metrics, train


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos")


def in_child(function: Callable[[], Any]) -> int:
    """Calls a function in a copy of this process; its wait status, which is 9 if it was killed so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's idle threads are not needed there
        pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def kill_in(owner: Any, name: str, *, call: int, before: bool = True) -> None:
    """Makes the `call`th call of `owner.name` the last thing that this process does."""
    original, calls = getattr(owner, name), 0

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def resumable(photos: Path, output: Path) -> TrainRunConfig:
    loss = LossConfig(
        adversarial_weight=0.1,
        adversarial_ramp_steps=1,
        efficientnet_weight=0.7,
        feature_crop=16,
        shift_probability=0.5,
    )
    return replace(run_config(photos, output, max_steps=5, batch_size=2), loss=loss)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float], dict[str, torch.Tensor]]:
    """Photographs, and the losses and weights of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    photos = save_photos(folder / "photos")
    _, weights = run(resumable(photos, folder / "run"))
    return photos, losses_of(folder / "run"), weights


MOMENTS: dict[str, Callable[[], None]] = {
    "in the first update": lambda: kill_in(XPSRLoss, "forward", call=1),
    "in a later update": lambda: kill_in(XPSRLoss, "forward", call=4),
    "before a checkpoint is written": lambda: kill_in(torch, "save", call=2),
    "before a checkpoint takes its name": lambda: kill_in(torch, "save", call=2, before=False),
    "between the two names": lambda: kill_in(Path, "replace", call=5, before=False),
}
RARE = ("in the first update", "before a checkpoint is written", "before a checkpoint takes its name")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=pytest.mark.slow) if name in RARE else name for name in MOMENTS]
)
def test_a_run_that_is_killed_goes_on_to_the_same_losses_and_weights(
    tmp_path: Path, whole_run: tuple[Path, dict[int, float], dict[str, torch.Tensor]], moment: str
) -> None:
    photos, losses, whole = whole_run

    def die() -> None:
        MOMENTS[moment]()
        run(resumable(photos, tmp_path / "killed"))

    assert in_child(die) == signal.SIGKILL
    if moment == "between the two names":
        assert [path.name for path in (tmp_path / "killed").glob("*.pt")] == ["checkpoint-00000002.pt"]
    complete, resumed = run(resumable(photos, tmp_path / "killed"))
    assert complete
    assert losses_of(tmp_path / "killed") == losses
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_newest_checkpoints_are_kept(photos: Path, tmp_path: Path) -> None:
    config = run_config(photos, tmp_path / "run", max_steps=5, checkpoint_every=1, keep_checkpoints=3)
    run(config)
    names = sorted(path.name for path in (tmp_path / "run").glob("*.pt"))
    assert names == ["checkpoint-00000003.pt", "checkpoint-00000004.pt", "checkpoint.pt"]
    steps = [torch.load(tmp_path / "run" / name, weights_only=True)["step"] for name in names]
    assert steps == [3, 4, 5]
    # without the newest, the run goes on from the one before
    (tmp_path / "run" / "checkpoint.pt").unlink()
    whole = losses_of(tmp_path / "run")
    run(config)
    assert losses_of(tmp_path / "run") == whole


def test_a_fresh_start_removes_what_was_there(photos: Path, tmp_path: Path) -> None:
    run(run_config(photos, tmp_path / "run", checkpoint_every=1))
    assert is_finished(run_config(photos, tmp_path / "run"))
    again = run_config(photos, tmp_path / "run", max_steps=1, resume="never")
    assert not is_finished(again)
    run(again)
    assert list(losses_of(tmp_path / "run")) == [1]
    assert [path.name for path in (tmp_path / "run").glob("*.pt")] == ["checkpoint.pt"]


def test_accumulated_passes_are_one_batch(photos: Path, tmp_path: Path) -> None:
    _, whole = run(run_config(photos, tmp_path / "whole", max_steps=2, batch_size=4))
    _, cut = run(run_config(photos, tmp_path / "cut", max_steps=2, batch_size=1, gradient_accumulation_steps=4))
    assert losses_of(tmp_path / "cut") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=0, atol=2e-4)  # Adam's first steps are signs


def test_passes_are_made_smaller_until_they_fit(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = run(run_config(photos, tmp_path / "whole", max_steps=2, batch_size=4))
    original, sizes = XPSRLoss.forward, []

    def forward(self: XPSRLoss, batch: Any, *args: Any) -> Any:
        sizes.append(len(batch.hr))
        if len(batch.hr) > 2:
            raise torch.OutOfMemoryError("as of a GPU")
        return original(self, batch, *args)

    monkeypatch.setattr(XPSRLoss, "forward", forward)
    _, cut = run(run_config(photos, tmp_path / "cut", max_steps=2, batch_size=4, fit_memory=True))
    assert sizes == [4, 2, 2, 2, 2, 2]
    assert losses_of(tmp_path / "cut") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-5)
    assert whole.keys() == cut.keys()


@pytest.mark.slow
def test_bf16_and_frozen_weights_train_and_resume(photos: Path, tmp_path: Path) -> None:
    def config(name: str, **changes: Any) -> TrainRunConfig:
        base = run_config(photos, tmp_path / name, max_steps=3, batch_size=2, precision="bf16", **changes)
        parts = PartsConfig(train=("controlnet", "conditional_attentions", "unet_lora"), lora_rank=2)
        return replace(base, parts=parts, optimizer=OptimizerConfig(ema_decay=0.0))

    _, whole = run(config("whole"))
    assert run(config("cut", max_minutes=1e-6, checkpoint_every=100))[0] is False
    _, resumed = run(config("cut"))
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not [name for name in whole if ".lora_" in name]  # the model has them merged
    assert (tmp_path / "whole" / "lora" / "unet" / "pytorch_lora_weights.safetensors").is_file()
    content = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    assert not [name for name in content["weights"] if "base_layer" in name]  # frozen weights are the folder's


def test_validation_keeps_the_best(photos: Path, tmp_path: Path) -> None:
    scores = iter([20.0, 22.0, 21.0])
    exported: list[str] = []

    def validate(parts: Components, folder: Path) -> Mapping[str, float]:
        assert not parts.unet.training
        folder.mkdir(parents=True)
        return {"psnr_y": next(scores)}

    def export(parts: Components, path: Path) -> None:
        path.mkdir(exist_ok=True)
        exported.append(path.name)

    config = replace(
        run_config(photos, tmp_path / "run", max_steps=3, checkpoint_every=100, batch_size=2),
        validation=ValidationConfig(every=1, hr_dir=photos),
    )
    train(config, components(), export=export, validate=validate, device=torch.device("cpu"))
    folder = tmp_path / "run"
    assert [row["validation_psnr_y"] for row in rows_of(folder) if "validation_psnr_y" in row] == [20.0, 22.0, 21.0]
    best, last = (torch.load(folder / name, weights_only=True) for name in ("best.pt", "checkpoint.pt"))
    assert (best["step"], best["best"], last["step"]) == (2, 22.0, 3)
    assert exported == ["model", "best", "model", "best", "model"]
    assert sorted(path.name for path in (folder / "validation").iterdir()) == [f"step-0000000{n}" for n in (1, 2, 3)]


def test_validation_without_someone_to_do_it_is_refused(photos: Path, tmp_path: Path) -> None:
    config = replace(run_config(photos, tmp_path / "run"), validation=ValidationConfig(every=1, hr_dir=photos))
    with pytest.raises(InputError, match=r"validation\.every"):
        run(config)


def test_a_loss_that_is_not_finite_names_samples_and_the_last_good_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = XPSRLoss.forward, 0

    def forward(self: XPSRLoss, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        losses = original(self, *args)
        if calls == 3:
            losses.terms["pixel"] = losses.terms["pixel"] * math.nan
        return losses

    monkeypatch.setattr(XPSRLoss, "forward", forward)
    with pytest.raises(TrainingError) as caught:
        run(run_config(photos, tmp_path / "run", batch_size=2))
    message = str(caught.value)
    assert "not finite at step 2" in message and "pixel=nan" in message and "samples " in message
    assert all(number in message.partition("samples ")[2] for number in ("4", "5"))
    assert f"{tmp_path / 'run' / 'checkpoint.pt'} of step 2" in message
    assert "\n" not in message


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_full_disk_is_one_line_and_loses_nothing(photos: Path, tmp_path: Path) -> None:
    run(run_config(photos, tmp_path / "run", max_steps=2))
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    said = tmp_path / "said"

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # as if no more fitted
        try:
            run(run_config(photos, tmp_path / "run"))
        except TrainingError as error:
            said.write_text(str(error))

    assert in_child(fill) == 0
    assert "the checkpoint of step 4 cannot be written" in said.read_text()
    assert "checkpoint.pt is as it was" in said.read_text() and "\n" not in said.read_text()
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.part"))
    assert run(run_config(photos, tmp_path / "run"))[0]


def test_the_folder_tells_what_was_run(photos: Path, tmp_path: Path) -> None:
    run(run_config(photos, tmp_path / "run", max_steps=2))
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"xpsr", "torch", "accelerate", "commit", "device", "num_processes"} <= facts.keys()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["batch_size"] == 4
    row = rows_of(tmp_path / "run")[-1]
    assert {"loss", "diffusion", "pixel", "degradation_free", "grad_norm"} <= row.keys()
    assert {"samples_per_second", "memory_gb", "learning_rate"} <= row.keys()


def test_curves_are_drawn_of_every_metric(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heights = []
    for rows in ([{"step": 1, "loss": 2.0}], [{"step": 1, "loss": 2.0, "pixel": 1.0}, {"step": 2, "loss": math.inf}]):
        write_lines(tmp_path / "metrics.jsonl", rows)
        with Image.open(plot_metrics(tmp_path)) as image:
            heights.append(image.height)
            assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 1
    assert heights[1] == 2 * heights[0]
    with pytest.raises(InputError, match="no metrics are there"):
        plot_metrics(tmp_path / "nowhere")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(MissingDependencyError, match="`pip install matplotlib`"):
            plot_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('what\n{"step": 1, "loss": "low"}\n')
    with pytest.raises(InputError, match="no metrics are there"):
        plot_metrics(tmp_path)
    assert "2 of 2 lines cannot be read" in caplog.text


def test_spoiled_metrics_keep_no_run_from_going_on(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(run_config(photos, tmp_path / "run", max_steps=2))
    path, whole = tmp_path / "run" / "metrics.jsonl", losses_of(tmp_path / "run")
    path.write_bytes(path.read_bytes() + b"\0\0\0\xff\n" + b'{"step": 2, "lo')  # a crash of the machine
    plot_metrics(tmp_path / "run")
    assert "1 of 3 lines cannot be read" in caplog.text
    assert run(run_config(photos, tmp_path / "run"))[0]
    losses = losses_of(tmp_path / "run")
    assert list(losses) == [1, 2, 3, 4] and whole.items() <= losses.items()


def test_a_decoder_learns_alone_from_a_teacher_and_goes_on(photos: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    make_pairs(photos, pairs, PairsConfig(num_per_image=2))
    base = run_config(photos, tmp_path / "run", max_steps=30)
    config = replace(
        base,
        data=replace(base.data, pairs=pairs),
        parts=PartsConfig(train=("vae_decoder",)),
        loss=LossConfig(one_step_fraction=1.0, degradation_free_weight=0.0, pixel_weight=0.0, teacher_weight=1.0),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    )
    with pytest.raises(InputError, match=r"^loss\.teacher_weight=1.* the first 4 pairs have none; make some with "):
        run(config)
    (pairs / "teacher").mkdir()
    for path in (pairs / "hr").iterdir():
        with Image.open(path) as image:
            image.point(lambda value: value // 2).save(pairs / "teacher" / path.name)
    stopped = replace(config, train=replace(config.train, max_minutes=1e-6))
    assert not run(stopped)[0]
    complete, after = run(config)
    assert complete
    losses = losses_of(tmp_path / "run")
    assert sorted(losses) == list(range(1, 31))
    assert sum(losses[step] for step in range(26, 31)) < 0.9 * sum(losses[step] for step in range(1, 6))
    before = components().trainable().state_dict()
    changed = {name for name in before if not torch.equal(before[name].half(), after[name].half())}
    assert changed == {name for name in before if name.startswith("vae_decoder.")}


@pytest.mark.slow
def test_auto_is_what_the_machine_is_fast_in(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for fast, precision in ((["fp32"], "fp32"), (["fp32", "bf16"], "bf16")):
        monkeypatch.setattr("xpsr.devices.fast_dtypes", lambda device, fast=fast: fast)
        folders = {name: tmp_path / f"{precision} {name}" for name in ("auto", precision)}
        made = {
            name: run(run_config(photos, folder, max_steps=2, precision=name))[1] for name, folder in folders.items()
        }
        assert all(torch.equal(made["auto"][name], made[precision][name]) for name in made["auto"])
        assert json.loads((folders["auto"] / "config.json").read_text())["train"]["precision"] == precision
        weights |= made
    assert any(not torch.equal(weights["fp32"][name], weights["bf16"][name]) for name in weights["fp32"])


def test_what_cannot_be_is_refused_in_one_line(photos: Path, tmp_path: Path) -> None:
    for changes, reason in (
        ({"precision": "fp16"}, "needs a GPU"),
        ({"batch_size": 0}, "batch_size=0 is not in"),
        ({"seed": -1}, "not in"),
    ):
        with pytest.raises(InputError, match=reason):
            run(run_config(photos, tmp_path / "run", **changes))
    base = run_config(photos, tmp_path / "run", batch_size=1)
    with pytest.raises(InputError, match="of 1 samples an update is none"):
        run(replace(base, loss=LossConfig(one_step_fraction=0.25)))
    with pytest.raises(InputError, match="no row takes"):
        LossConfig(one_step_fraction=0, vgg_weight=1)
    with pytest.raises(InputError, match="cannot be sharded"):
        replace(base, optimizer=OptimizerConfig(kind="torchao_8bit"), train=replace(base.train, parallel="fsdp"))
    with pytest.raises(MissingDependencyError, match="pip install trackio"):
        run(run_config(photos, tmp_path / "run", trackers=("trackio",)))


def test_ablations_reach_the_loss(photos: Path, tmp_path: Path) -> None:
    base = run_config(photos, tmp_path / "run")
    ablated = replace(base, ablate=AblateConfig(content=True, quality=True, degradation_free=True)).effective_loss
    assert (ablated.content_dropout, ablated.quality_dropout, ablated.degradation_free_weight) == (1.0, 1.0, 0.0)
    assert base.effective_loss == base.loss


CONFIG = f"""
model:
  block_out_channels: {list(TINY.block_out_channels)}
  num_attention_heads: {list(TINY.num_attention_heads)}
  norm_num_groups: 4
  conditioning_channels: [4, 4, 8]
  text_width: 16
  text_layers: 1
  decoder_channels: 8
  decoder_layers: 1
  settings: {{tile_size: 16, tile_overlap: 4}}
data: {{hr_dir: photos, crop_size: 32}}
loss: {{adversarial_weight: 0.1, adversarial_ramp_steps: 1, efficientnet_weight: 0.7, feature_crop: 16}}
optimizer: {{warmup_steps: 1}}
train: {{max_steps: 4, batch_size: 2, precision: fp32, device: cpu, log_every: 1, checkpoint_every: 2}}
"""


def launch(folder: Path, *options: str, processes: int = 2, killer: str = "") -> subprocess.CompletedProcess[str]:
    """Runs `xpsr train` in so many processes; `killer` is Python that runs before it."""
    (folder / "tiny.yaml").write_text(CONFIG)
    (folder / "go.py").write_text(f"import sys\n{killer}\nfrom xpsr.cli import main\nsys.exit(main())\n")
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    command += ["go.py", "train", "tiny.yaml", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_are_one_with_twice_the_batch(photos: Path, tmp_path: Path, parallel: str) -> None:
    one = launch(tmp_path, "--train.output_dir=one", "--train.batch_size=4", processes=1)
    assert one.returncode == 0, one.stderr
    two = launch(tmp_path, "--train.output_dir=two", f"--train.parallel={parallel}")
    assert two.returncode == 0, two.stderr
    assert two.stdout.split() == ["two/model"]
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-4)
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=3e-4)
    file = "model/unet/diffusion_pytorch_model.safetensors"
    assert load_file(tmp_path / "two" / file).keys() == load_file(tmp_path / "one" / file).keys()


@pytest.mark.slow
def test_what_shards_wrote_is_gone_on_with_by_one_process(photos: Path, tmp_path: Path) -> None:
    whole = launch(tmp_path, "--train.output_dir=whole", "--train.batch_size=4", processes=1)
    assert whole.returncode == 0, whole.stderr
    shards = launch(tmp_path, "--train.output_dir=mixed", "--train.parallel=fsdp", "--train.max_steps=2")
    assert shards.returncode == 0, shards.stderr
    alone = launch(tmp_path, "--train.output_dir=mixed", "--train.batch_size=4", processes=1)
    assert alone.returncode == 0, alone.stderr
    assert losses_of(tmp_path / "mixed") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-4)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "mixed")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=3e-4)


@pytest.mark.slow
def test_no_process_waits_at_the_end_for_threads_that_wait_for_it(photos: Path, tmp_path: Path) -> None:
    # one of a few runs did, where DDP was the last to hold the group
    killer = """
import gc
import torch.distributed
from torch.nn.parallel import DistributedDataParallel
original = torch.distributed.destroy_process_group
def destroy(*args):
    assert not any(isinstance(one, DistributedDataParallel) for one in gc.get_objects()), "DDP holds the group"
    print("destroyed", flush=True)
    return original(*args)
torch.distributed.destroy_process_group = destroy
"""
    two = launch(tmp_path, "--train.output_dir=two", "--train.max_steps=1", killer=killer)
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("destroyed\n") == 2


@pytest.mark.slow
def test_processes_that_measure_otherwise_compute_alike(photos: Path, tmp_path: Path) -> None:
    killer = """
import os
from xpsr import devices
devices._bf16_fault = lambda device: None if os.environ["RANK"] == "0" else "is slow"
"""
    two = launch(tmp_path, "--train.precision=auto", "--train.output_dir=two", killer=killer)
    assert two.returncode == 0, two.stderr
    assert json.loads((tmp_path / "two" / "config.json").read_text())["train"]["precision"] == "bf16"
    one = launch(tmp_path, "--train.precision=bf16", "--train.batch_size=4", "--train.output_dir=one", processes=1)
    assert one.returncode == 0, one.stderr
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_that_are_killed_go_on_to_the_same_bits(photos: Path, tmp_path: Path, parallel: str) -> None:
    killer = """
import os, signal
from xpsr.training import XPSRLoss
original, calls = XPSRLoss.forward, 0
def forward(self, *args):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args)
XPSRLoss.forward = forward
"""
    option = f"--train.parallel={parallel}"
    whole = launch(tmp_path, option, "--train.output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    assert launch(tmp_path, option, "--train.output_dir=killed", killer=killer).returncode != 0
    assert not (tmp_path / "killed" / "checkpoint-00000002.pt").exists()  # killed in the fourth update
    assert torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["step"] == 2
    resumed = launch(tmp_path, option, "--train.output_dir=killed")
    assert resumed.returncode == 0, resumed.stderr
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    a, b = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in b)
