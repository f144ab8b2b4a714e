"""The fidelity of the one step: one small difference of weights, from what looks best to what is safest."""

import math
from pathlib import Path

import add_fidelity
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xpsr import Prior, Restorer, XPSRPipeline
from xpsr.errors import Cancelled, InputError
from xpsr.models import HaarAutoencoder
from xpsr.planning import TilePlan

pytestmark = pytest.mark.usefixtures("loaded_once")

PICTURE = np.random.default_rng(0).random((10, 12, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model whose one step is a residual; one whose decoder says half as much, and nothing else does; and both."""
    place = tmp_path_factory.mktemp("models")
    folders = {name: place / name for name in ("plain", "faithful", "both")}
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    pipe.register_to_config(one_step_residual=True)
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.mul_(20)
        pipe.save_pretrained(folders["plain"])
        pipe.vae.decoder.conv_out.weight.mul_(0.5)
        pipe.unet.conv_out.weight.zero_(), pipe.unet.conv_out.bias.zero_()
        pipe.save_pretrained(folders["faithful"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["add_fidelity.py", *map(str, folders.values())])
        add_fidelity.main()
    return folders


def restored(folder: Path, **settings: float) -> torch.Tensor:
    restorer = Restorer(folder, device="cpu", dtype="fp32")
    return restorer.restore(PICTURE, Prior(), settings=settings, seed=0).picture.pixels


def test_its_ends_are_the_two_models_and_it_is_monotonic(models: dict[str, Path]) -> None:
    plain, faithful = restored(models["plain"]), restored(models["faithful"])
    torch.testing.assert_close(restored(models["both"]), plain)
    torch.testing.assert_close(restored(models["both"], fidelity=1), faithful, rtol=0, atol=1e-5)
    steps = [restored(models["both"], fidelity=share) for share in (0.0, 0.3, 0.6, 1.0)]
    distances = [(one - faithful).square().mean().item() for one in steps]
    assert distances == sorted(distances, reverse=True) and distances[0] > 0


def test_at_its_end_the_networks_that_would_not_count_are_not_asked(models: dict[str, Path]) -> None:
    restorer = Restorer(models["both"], device="cpu", dtype="fp32")
    networks, asked = (restorer.pipe.unet, restorer.pipe.controlnet), []
    hooks = [network.register_forward_pre_hook(lambda network, _: asked.append(network)) for network in networks]
    passes: list[tuple[int, int]] = []

    def made(fidelity: float) -> torch.Tensor:
        passes.clear()
        result = restorer.restore(
            PICTURE, Prior(), settings={"fidelity": fidelity}, seed=0, progress=lambda *told: passes.append(told)
        )
        return result.picture.pixels

    faithful = made(1)
    assert not asked and passes[-1][0] == passes[-1][1]
    torch.testing.assert_close(made(math.nextafter(1, 0)), faithful, rtol=0, atol=1e-6)
    assert set(asked) == set(networks) and passes[-1][0] == passes[-1][1]
    for hook in hooks:
        hook.remove()  # the model is that of other tests, too


@pytest.mark.parametrize("fidelity", [0.5, 1.0])
def test_it_tells_how_far_it_is_while_it_is_at_work(models: dict[str, Path], fidelity: float) -> None:
    restorer = Restorer(models["both"], device="cpu", dtype="fp32")
    told: list[float] = []
    plan = TilePlan(tile_size=16, tile_overlap=4, band_rows=96)
    with pytest.raises(Cancelled):
        restorer.restore(
            np.zeros((96, 16, 3), dtype=np.float32),
            Prior(),
            settings={"fidelity": fidelity},
            plan=plan,
            progress=lambda done, total: told.append(done / total),
            is_cancelled=lambda: len(told) == 2,
        )
    assert len(told) == 2 and 0 < told[0] < told[1] < 1


def test_a_model_without_a_second_way_refuses(models: dict[str, Path], tiny_model: Path) -> None:
    for folder in (models["plain"], tiny_model):
        with pytest.raises(InputError, match=r"fidelity=0\.5 is of a model that knows a faithful way, too; use 0\."):
            restored(folder, fidelity=0.5)
    with pytest.raises(InputError, match=r"fidelity=0\.5 is of the one step; use 0\."):
        restored(models["both"], fidelity=0.5, strength=1.0, num_inference_steps=2)


def test_what_can_have_no_second_way_is_refused_and_leaves_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = XPSRPipeline.from_pretrained(models["plain"])
    pipe.register_modules(vae=HaarAutoencoder())
    pipe.save_pretrained(tmp_path / "old")
    for folders, said in (
        ((*models.values(),), "exists; name a new folder"),
        ((tmp_path / "old", models["plain"], tmp_path / "out"), "only the decoder of a DeepHaarAutoencoder"),
        ((models["plain"], tmp_path / "old", tmp_path / "out"), "only the decoder of a DeepHaarAutoencoder"),
        ((models["plain"], tmp_path / "none", tmp_path / "out"), "no model_index.json there"),
    ):
        monkeypatch.setattr("sys.argv", ["add_fidelity.py", *map(str, folders)])
        with pytest.raises(SystemExit):
            add_fidelity.main()
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_stay_in_the_number_type_that_they_are_stored_in(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    XPSRPipeline.from_pretrained(models["plain"], dtype=torch.float16).save_pretrained(tmp_path / "half")
    monkeypatch.setattr(
        "sys.argv", ["add_fidelity.py", *map(str, (tmp_path / "half", models["faithful"], tmp_path / "out"))]
    )
    add_fidelity.main()
    (weights,) = (tmp_path / "out" / "vae").glob("*.safetensors")
    stored = load_file(weights)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert any(name.startswith("faithful.") for name in stored)
