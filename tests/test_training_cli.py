"""`xpsr train` from a YAML to a folder, with a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_helpers import rows_of, save_photos

from xpsr import XPSRPipeline
from xpsr.cli import main

CONFIG = """
model:
  block_out_channels: [8]
  num_attention_heads: [1]
  norm_num_groups: 4
  conditioning_channels: [4, 4, 8]
  text_width: 16
  text_layers: 1
  decoder_channels: 8
  decoder_layers: 1
  settings: {tile_size: 16, tile_overlap: 4}
data: {hr_dir: photos, crop_size: 32}
train: {output_dir: run, max_steps: 1, batch_size: 2, precision: fp32, device: cpu, log_every: 1}
"""

Train = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def xpsr_train(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs `xpsr train ARGUMENTS` in a folder with photos and tiny.yaml: exit code, lines of stdout, complaints."""
    monkeypatch.chdir(tmp_path)
    save_photos(tmp_path / "photos")
    Path("tiny.yaml").write_text(CONFIG)

    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        capfd.readouterr()
        code = main(["train", *arguments])
        captured = capfd.readouterr()
        complaints = [line for line in captured.err.splitlines() if line.startswith("xpsr: ")]  # without the run's log
        return code, captured.out.splitlines(), complaints

    return run


def test_validation_writes_pictures_scores_the_best_and_a_card(
    xpsr_train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    Path("priors.jsonl").write_text(
        "".join(
            json.dumps({"image": f"photos/p{i}.png", "content": "noise", "quality": "a blurry photograph"}) + "\n"
            for i in range(3)
        )
    )
    code, out, err = xpsr_train(
        "tiny.yaml",
        "--validation.every=1",
        "--validation.hr_dir=photos",
        "--validation.priors=priors.jsonl",
        "--validation.max_pictures=2",
        "--loss.efficientnet_weight=0.5",
        "--loss.feature_crop=32",
        "--ablate.quality=true",
    )
    assert (code, out) == (0, [str(Path("run", "model"))]), err
    assert "checked: run/model loads and restores" in caplog.text
    with Image.open("run/validation/step-00000001/p0.png") as image:
        assert image.size == (64, 48)
    scores = rows_of(Path("run"))[-1]
    assert {"validation_psnr_y", "validation_ssim_y"} <= scores.keys()
    assert load_file("run/best/unet/diffusion_pytorch_model.safetensors").keys()
    card = Path("run/model/README.md").read_text()
    assert "features of efficientnet;" in card and "without: quality" in card
    assert "efficientnet" in rows_of(Path("run"))[0]

    before = Path("run/metrics.jsonl").stat().st_mtime_ns
    Path("photos/p0.png").unlink()  # a finished run looks at nothing any more
    code, out, err = xpsr_train("tiny.yaml")
    assert (code, out, len(err)) == (0, [str(Path("run", "model"))], 1)
    assert "run: this run was finished before" in err[0]
    assert Path("run/metrics.jsonl").stat().st_mtime_ns == before

    code, out, _ = xpsr_train("--plot", "run")
    assert (code, out) == (0, [str(Path("run", "curves.png"))])


def test_a_model_without_fusion_is_a_model_like_any_other(xpsr_train: Train) -> None:
    assert xpsr_train("tiny.yaml", "--ablate.semantic_fusion=true", "--ablate.degradation_free=true")[0] == 0
    pipe = XPSRPipeline.from_pretrained("run/model")
    assert pipe.controlnet.config.semantic_fusion is False
    assert "degradation_free" not in rows_of(Path("run"))[0]


def test_adapters_are_trained_on_a_folder(xpsr_train: Train) -> None:
    assert xpsr_train("tiny.yaml")[0] == 0
    code, _, err = xpsr_train(
        "tiny.yaml",
        "--model.path=run/model",
        "--train.output_dir=lora",
        "--parts.train=[unet_lora, controlnet_lora]",
        "--optimizer.ema_decay=0",
        "--optimizer.warmup_steps=1",
        "--optimizer.learning_rate=0.01",
    )
    assert code == 0, err
    names = {path.relative_to("lora/lora").as_posix() for path in Path("lora/lora").rglob("*.safetensors")}
    assert names == {f"{part}/pytorch_lora_weights.safetensors" for part in ("unet", "controlnet")}
    plain, merged = (
        load_file(f"{folder}/model/unet/diffusion_pytorch_model.safetensors") for folder in ("run", "lora")
    )
    assert plain.keys() == merged.keys()
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert changed and all(".to_" in name for name in changed)


def test_a_step_from_noised_latents_is_what_the_model_does_by_default(xpsr_train: Train) -> None:
    noised = "--loss.one_step_start=noised", "--model.one_step_residual=false"
    assert xpsr_train("tiny.yaml", *noised, "--train.batch_size=2")[0] == 0
    pipe = XPSRPipeline.from_pretrained("run/model")
    settings = pipe.settings()
    assert pipe.config.one_step_timestep is None
    assert (settings.num_inference_steps, settings.strength, settings.start) == (1, 0.25, "lr")


def test_a_dry_run_trains_nothing(xpsr_train: Train) -> None:
    code, out, err = xpsr_train("tiny.yaml", "--dry-run")
    assert (code, err) == (0, [])
    assert out[0].startswith("parameters") and any(line.split()[:1] == ["controlnet"] for line in out)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["tiny.yaml", "--train.precision=fp16"], 2, "needs a GPU"),
        (["tiny.yaml", "--data.hr_dir=nowhere"], 2, "data.hr_dir=nowhere is no such folder"),
        (["tiny.yaml", "--data.hr_dir=tiny.yaml"], 2, "data.hr_dir=tiny.yaml is a file"),
        (["tiny.yaml", "--data.manifest=gone.tsv"], 2, "data.manifest=gone.tsv is not a file; use null for all pict"),
        (["tiny.yaml", "--data.priors=gone.jsonl"], 2, "gone.jsonl: no such file of priors"),
        (["tiny.yaml", "--data.pairs=gone"], 2, "data.pairs=gone has no folder hr"),
        (["tiny.yaml", "--data.crop_size=30", "--dry-run"], 2, "xpsr: --data.crop_size=30 is not a multiple of 4"),
        (["--train.max_steps", "1", "tiny.yaml"], 2, "Write --train.max_steps=1 in one word."),
        (["--plot", "nowhere"], 2, "nowhere"),
        (["tiny.yaml", "--plot", "run"], 2, "stands alone"),
    ],
)
def test_bad_input_is_one_line(xpsr_train: Train, arguments: list[str], code: int, reason: str) -> None:
    got, out, err = xpsr_train(*arguments)
    assert (got, out, len(err)) == (code, [], 1), err
    assert reason in err[0]
    assert not Path("run").exists()


def test_validation_pictures_are_looked_at_before_the_first_update(xpsr_train: Train) -> None:
    Path("small").mkdir()
    for index in range(3):
        with Image.open(f"photos/p{index}.png") as image:
            image.resize((16, 12)).save(f"small/p{index}.png")
    options = ("--validation.every=1", "--validation.hr_dir")
    for wrong, reason in (
        (f"{options[1]}=small", "needs at least 19 x 19 pixels"),
        (f"{options[1]}=photos --validation.best_by=niqe", "no picture of photos has enough for it"),
        (f"{options[1]}=photos --validation.lr_dir=photos", "64 x 48; for p0.png it should be 16 x 12"),
    ):
        code, out, err = xpsr_train("tiny.yaml", options[0], *wrong.split())
        assert (code, out, len(err)) == (2, [], 1), err
        assert reason in err[0]
    assert not Path("run").exists()
    assert xpsr_train("tiny.yaml", options[0], f"{options[1]}=photos", "--validation.lr_dir=small")[0] == 0


def test_a_model_that_does_not_restore_is_put_aside(xpsr_train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(XPSRPipeline, "__call__", lambda *_, **__: 1 / 0)
        code, out, err = xpsr_train("tiny.yaml")
    assert (code, out, len(err)) == (1, [], 1) and f"look at {Path('run', 'model.failed')}" in err[0]
    assert Path("run/model.failed").is_dir() and not Path("run/model").exists()
    assert xpsr_train("tiny.yaml")[:2] == (0, [str(Path("run", "model"))])


def test_missing_priors_are_counted_once(xpsr_train: Train, caplog: pytest.LogCaptureFixture) -> None:
    Path("priors.jsonl").write_text(json.dumps({"image": "photos/p0.png", "content": "noise", "quality": ""}) + "\n")
    assert xpsr_train("tiny.yaml", "--data.priors=priors.jsonl")[0] == 0
    assert caplog.text.count("says nothing about 2 of 3") == 1
    for runs in (1, 2):  # a later run in the same process says it again
        assert xpsr_train("tiny.yaml", "--train.resume=never")[0] == 0
        assert caplog.text.count("3 of 3 pictures have no content text") == runs


def test_help_explains_every_option(xpsr_train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capfd.readouterr().out
    for line in (
        "    --train.gradient_accumulation_steps=1\n        Passes per update,",
        "    --model.settings.tile_size=128\n        Larger pictures are denoised",
        "    --data.degradation.first.blur_sigma=[0.2, 3.0]\n        Standard deviation",
    ):
        assert line in text
    assert "One of: epsilon, v_prediction, sample." in " ".join(text.split())
    assert "pydoc" not in text and max(map(len, text.splitlines())) <= 140


def test_a_checkpoint_of_another_architecture_is_one_line_and_stays(xpsr_train: Train) -> None:
    assert xpsr_train("tiny.yaml")[0] == 0
    before = Path("run/checkpoint.pt").read_bytes()
    code, out, err = xpsr_train("tiny.yaml", "--train.max_steps=2", "--model.text_width=32")
    assert (code, out, len(err)) == (1, [], 1), err
    assert "not a checkpoint of this run" in err[0]
    assert Path("run/checkpoint.pt").read_bytes() == before
