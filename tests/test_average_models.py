"""`scripts/average_models.py`: the mean of two models is a model."""

import shutil
from pathlib import Path

import average_models
import pytest
import torch
from safetensors.torch import load_file, save_file

from xpsr import XPSRPipeline

UNET = Path("unet", "diffusion_pytorch_model.safetensors")


def average(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["average_models.py", *map(str, arguments)])
    average_models.main()


@pytest.fixture
def other(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with every weight of its UNet one higher."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    save_file({k: v + 1 for k, v in load_file(folder / UNET).items()}, folder / UNET, metadata={"format": "pt"})
    return folder


def test_weights_lie_between_and_the_model_loads(
    tiny_model: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    average(monkeypatch, tiny_model, other, tmp_path / "mean", "--share=0.25")
    first, mean = load_file(tiny_model / UNET), load_file(tmp_path / "mean" / UNET)
    assert first.keys() == mean.keys()
    for name, value in first.items():
        torch.testing.assert_close(mean[name], value + 0.25)
    text_encoder = Path("text_encoder", "model.safetensors")
    assert (tmp_path / "mean" / text_encoder).read_bytes() == (tiny_model / text_encoder).read_bytes()
    XPSRPipeline.from_pretrained(tmp_path / "mean")


def test_what_cannot_be_averaged_is_refused_and_leaves_nothing(
    tiny_model: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(other / UNET)
    weights.pop(next(iter(weights)))
    save_file(weights, other / UNET, metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="of different models"):
        average(monkeypatch, tiny_model, other, tmp_path / "mean")
    for wrong, reason in (
        ((tiny_model, tmp_path, tmp_path / "mean"), "no model_index.json"),
        ((tiny_model, other, other), "exists; name a new folder"),
        ((tiny_model, other, tmp_path / "mean", "--share=2"), "not in [0, 1]"),
    ):
        with pytest.raises(SystemExit, match="2"):
            average(monkeypatch, *wrong)
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()
