"""A run from Python: from a config to a model folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training_helpers import components, rows_of, run_config, save_photos

from xpsr import XPSRPipeline
from xpsr.config import TrainRunConfig, ValidationConfig
from xpsr.data import build_dataset
from xpsr.errors import InputError, TrainingError
from xpsr.recipe import Validation, check_model, export_model, train_model


@pytest.fixture
def config(tmp_path: Path) -> TrainRunConfig:
    return run_config(save_photos(tmp_path / "photos"), tmp_path / "run", max_steps=2, batch_size=2, device="cpu")


def test_a_config_becomes_a_model_and_tells_what_it_logs(config: TrainRunConfig, tmp_path: Path) -> None:
    config = replace(config, validation=ValidationConfig(every=2, hr_dir=tmp_path / "photos", max_pictures=1))
    told: list[dict[str, Any]] = []
    folder = train_model(config, on_metrics=lambda step, metrics: told.append({"step": step, **metrics}))
    assert folder == tmp_path / "run" / "model"
    XPSRPipeline.from_pretrained(folder)
    assert told == [{k: v for k, v in row.items() if k != "time"} for row in rows_of(tmp_path / "run")]
    assert [row["step"] for row in told] == [1, 2, 2] and "validation_psnr_y" in told[-1]
    told.clear()
    assert train_model(config, on_metrics=lambda *_: told.append({})) == folder
    assert told == []


@pytest.mark.slow
def test_a_run_that_stopped_early_has_no_model_to_hand_out_yet(config: TrainRunConfig) -> None:
    assert train_model(replace(config, train=replace(config.train, max_minutes=1e-6))) is None
    assert train_model(config) == config.train.output_dir / "model"


def test_a_model_that_cannot_be_written_leaves_the_former_one(config: TrainRunConfig, tmp_path: Path) -> None:
    export_model(components(), tmp_path / "model", config)
    before = {path: path.read_bytes() for path in (tmp_path / "model").rglob("*.*") if path.is_file()}
    (tmp_path / ".model.part").write_text("in the way")
    with pytest.raises(TrainingError, match=r"cannot be written: .*; what was there is as it was"):
        export_model(components(seed=1), tmp_path / "model", config)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(("fraction", "only"), [(1.0, True), (0.75, False)])
def test_a_model_knows_whether_it_has_learned_the_one_step_alone(
    config: TrainRunConfig, tmp_path: Path, fraction: float, only: bool
) -> None:
    config = replace(config, loss=replace(config.loss, one_step_fraction=fraction))
    export_model(components(), tmp_path / "model", config)
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["one_step_only"] is only


def test_a_model_that_does_not_restore_is_put_aside(config: TrainRunConfig, tmp_path: Path) -> None:
    parts = components()
    with torch.no_grad():
        parts.unet.conv_in.bias.fill_(float("nan"))
    export_model(parts, tmp_path / "model", config)
    with pytest.raises(TrainingError, match=r"does not restore: .*not finite.*model\.failed"):
        check_model(tmp_path / "model", config, build_dataset(config.data, seed=0))
    assert (tmp_path / "model.failed" / "README.md").is_file() and not (tmp_path / "model").exists()


def test_validation_refuses_pictures_whose_results_would_have_one_name(config: TrainRunConfig, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "p1.jpg")
    validation = ValidationConfig(every=1, hr_dir=tmp_path / "photos")
    with pytest.raises(InputError, match=r"holds p1\.jpg and p1\.png, whose results would have one name; ") as caught:
        Validation(replace(config, validation=validation))
    assert caught.value.field == "validation.hr_dir"


def test_validation_refuses_pictures_without_a_partner(config: TrainRunConfig, tmp_path: Path) -> None:
    (tmp_path / "lr").mkdir()
    Image.new("RGB", (16, 12)).save(tmp_path / "lr" / "p1.png")
    validation = ValidationConfig(every=1, hr_dir=tmp_path / "photos", lr_dir=tmp_path / "lr")
    with pytest.raises(InputError, match=r"has no picture for p0\.png and 1 more; ") as caught:
        Validation(replace(config, validation=validation))
    assert (caught.value.field, caught.value.value) == ("validation.lr_dir", str(tmp_path / "lr"))
    for name in ("p0.png", "p2.png", "p1.jpg"):
        Image.new("RGB", (16, 12)).save(tmp_path / "lr" / name)
    with pytest.raises(InputError, match=r"p1\.png: may belong to .*p1\.jpg and .*p1\.png; keep one of them"):
        Validation(replace(config, validation=validation))
