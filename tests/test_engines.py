"""Networks exported as ONNX, and onnxruntime and OpenVINO in torch's place."""

import importlib.util
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
import torch

from xpsr import InputError, MissingDependencyError, ModelError, Prior, Restorer, XPSRError, XPSRPipeline
from xpsr.cli import main
from xpsr.devices import fast_dtypes
from xpsr.engines import export_engine_model, resolve_place, running, use_engine
from xpsr.engines.manifest import FOLDER, error_of, read_manifest
from xpsr.engines.running import ExportedAutoencoder
from xpsr.files import sha256
from xpsr.models import DeepHaarAutoencoder

Other = Literal["onnx", "openvino"]
ENGINES = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")
    )
    for name, package in (("onnx", "onnxruntime"), ("openvino", "openvino"))
]
PRIOR = Prior("a cat on a table", "blurred")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def exported(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_engine_model(tiny_model, folder)
    return folder


@pytest.fixture
def changeable(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def picture(height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def difference(engine: Other, folder: Path, image: torch.Tensor, prior: Prior = PRIOR, **settings: object) -> float:
    """The largest one from torch, in 1/255."""
    made = [
        Restorer(folder, device="cpu", dtype="fp32", engine=name).restore(image, prior, seed=1, settings=settings)
        for name in ("torch", engine)
    ]
    assert [each.record["engine"] for each in made] == ["torch", engine]
    return float((made[0].picture.pixels - made[1].picture.pixels).abs().max()) * 255


@pytest.mark.slow
def test_export_is_a_whole_model_that_says_what_it_holds(exported: Path, tiny_model: Path) -> None:
    manifest = read_manifest(exported)
    assert sorted(manifest.graphs) == ["decoder.onnx", "denoiser_16x16.onnx", "image_encoder_16x16.onnx"]
    assert manifest.tiles == [(16, 16)]
    assert {"xpsr", "torch", "diffusers", "onnx"} <= manifest.versions.keys()
    assert all(graph.error < 1e-4 for graph in manifest.graphs.values())
    kept = {path.relative_to(tiny_model) for path in tiny_model.rglob("*")}
    assert kept <= {path.relative_to(exported) for path in exported.rglob("*")}
    assert not list(exported.parent.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_engine_gives_the_picture_that_torch_gives(engine: Other, exported: Path) -> None:
    assert difference(engine, exported, picture(), num_inference_steps=2, guidance_scale=2.5) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_engine_shows_what_the_picture_looks_like_so_far(engine: Other, exported: Path) -> None:
    def previews(name: Literal["torch", "onnx", "openvino"]) -> list[torch.Tensor]:
        restorer, shown = Restorer(exported, device="cpu", dtype="fp32", engine=name), list[torch.Tensor]()
        settings = {"num_inference_steps": 3, "guidance_scale": 2.5}
        restorer.restore(picture(), PRIOR, seed=1, settings=settings, preview=lambda image, *_: shown.append(image))
        return shown

    found, expected = torch.stack(previews(engine)), torch.stack(previews("torch"))
    assert len(found) == 2 and (found - expected).abs().max() * 255 < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_engine_restores_in_tiles_and_reads_long_texts(engine: Other, exported: Path) -> None:
    long = Prior("a cat " * 60, "blurred")
    conditions = {"num_inference_steps": 1, "controlnet_conditioning_scale": 0.6}
    assert difference(engine, exported, picture(24, 20), long, **conditions) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_engine_may_be_called_by_several_threads(engine: Other, exported: Path) -> None:
    restorer = Restorer(exported, device="cpu", engine=engine)

    def restored(seed: int) -> torch.Tensor:
        return restorer.restore(picture(), PRIOR, seed=seed).picture.pixels

    alone = [restored(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for found, expected in zip(pool.map(restored, range(3)), alone, strict=True):
            assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_decoder_in_strips_gives_the_whole(
    engine: Other, exported: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = XPSRPipeline.from_pretrained(exported)
    expected = pipe.vae.decode(latents := torch.randn(1, 48, 61, 9)).sample
    use_engine(pipe, exported, engine)
    assert torch.allclose(pipe.vae.decode(latents).sample, expected, atol=1e-5)
    monkeypatch.setattr(running, "_STRIP_LATENTS", 1)
    assert torch.allclose(pipe.vae.decode(latents).sample, expected, atol=1e-5)


@torch.no_grad()
def test_fidelity_which_has_other_weights_is_torchs() -> None:
    vae = DeepHaarAutoencoder(decoder_channels=8, decoder_layers=1, with_fidelity=True)
    made = ExportedAutoencoder.of(vae, lambda inputs: torch.zeros_like(inputs["latents"])[:, :3].repeat(1, 1, 4, 4))
    latents = torch.randn(1, 48, 6, 8)
    assert torch.equal(made.decode(latents, fidelity=0.5).sample, vae.decode(latents, fidelity=0.5).sample)
    assert torch.equal(made.decode(latents).sample, vae.decode(latents, refine=False).sample)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_size_that_was_not_exported_is_refused(engine: Other, exported: Path) -> None:
    restorer = Restorer(exported, device="cpu", engine=engine)
    with pytest.raises(InputError, match=r"latents of 16x12 have no exported network, but 16x16; .*--tile 16x12"):
        restorer.restore(picture(12, 16), PRIOR)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_unlike_torchs_are_refused_and_right_ones_remembered(
    engine: Other, exported: Path, own_cache: Path
) -> None:
    pipe = XPSRPipeline.from_pretrained(exported)
    with torch.no_grad():
        pipe.unet.conv_out.bias += 1
    with pytest.raises(XPSRError, match=r"denoiser_16x16.onnx differs from torch by .* use engine torch"):
        use_engine(pipe, exported, engine)

    def remembered() -> set[str]:
        return set(json.loads((own_cache / "xpsr" / "engine_checks.json").read_text()))

    before = remembered()
    use_engine(XPSRPipeline.from_pretrained(exported), exported, engine)
    assert before < remembered()
    use_engine(pipe, exported, engine)  # it does not look again


def test_folder_without_exported_networks_is_refused(tiny_model: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=r"holds no exported networks; .*xpsr export MODEL -o DIR"):
        Restorer(tiny_model, engine="onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("engines/onnx/decoder.onnx", "decoder.onnx: is not what manifest.json says"),
        ("unet/diffusion_pytorch_model.safetensors", "is of other weights than the model's"),
        ("engines/onnx/manifest.json", "is not JSON"),
    ],
)
def test_changed_files_are_refused(changeable: Path, file: str, message: str) -> None:
    with (changeable / file).open("ab") as stream:
        stream.write(b" x")
    with pytest.raises(ModelError, match=message):
        read_manifest(changeable)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"graphs": {}},
        {"graphs": {"../decoder.onnx": {"part": "decoder", "tile": None, "sha256": "", "error": 0}}},
        {"graphs": [1]},
        {"graphs": {"a.onnx": {"part": "denoiser", "tile": [16], "sha256": "", "error": 0}}},
        {"graphs": {"a.onnx": {"part": "denoiser", "tile": [16, 16], "sha256": "", "error": 0}}},
        {"graphs": {"a.onnx": {"part": "painter", "tile": [16, 16], "sha256": "", "error": 0}}},
        {"graphs": {"a.onnx": {"part": "denoiser", "tile": None, "sha256": "", "error": 0}}},
        {"more": 1},
    ],
)
def test_manifest_that_says_nothing_is_refused(changeable: Path, change: dict[str, object]) -> None:
    path = changeable / FOLDER / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=r"manifest\.json: .*; "):
        read_manifest(changeable)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("other", [b"no graph", "image_encoder_16x16.onnx"])
def test_a_graph_that_an_engine_cannot_compute_is_one_line(engine: Other, other: bytes | str, changeable: Path) -> None:
    folder = changeable / FOLDER
    (folder / "decoder.onnx").write_bytes(other if isinstance(other, bytes) else (folder / other).read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"]["decoder.onnx"]["sha256"] = sha256(folder / "decoder.onnx")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=rf"decoder\.onnx: engine {engine} cannot compute it \(.*\); export"):
        use_engine(XPSRPipeline.from_pretrained(changeable), changeable, engine)


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_missing_engine_names_the_install_command(
    engine: Other, package: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"engine {engine} needs {package}; run `pip install {package}`"):
        Restorer(tiny_model, engine=engine)


def test_missing_exporter_names_the_install_command(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"onnxscript; run `pip install .*onnxscript`"):
        export_engine_model(tiny_model, tmp_path / "out")


def test_engines_are_for_the_cpu_in_float32_unless_told_otherwise() -> None:
    assert resolve_place("onnx", "auto", "auto") == (torch.device("cpu"), "fp32")
    if "bf16" in fast_dtypes(torch.device("cpu")):
        assert resolve_place("openvino", "cpu", "bf16") == (torch.device("cpu"), "bf16")
    else:
        with pytest.raises(InputError, match=r"dtype=bf16 is (slow|wrong) on this processor.*; use auto or fp32"):
            resolve_place("openvino", "cpu", "bf16")
    with pytest.raises(InputError, match="dtype=bf16 is not for engine onnx; use fp32"):
        resolve_place("onnx", "cpu", "bf16")
    with pytest.raises(InputError, match=r"engine=tensorrt is not one of torch, openvino, onnx"):
        resolve_place("tensorrt", "auto", "auto")  # type: ignore[arg-type]


def test_numbers_of_another_shape_are_other_numbers() -> None:
    assert error_of(torch.ones(1, 3, 1, 1), torch.ones(1, 3, 4, 4)) == float("inf")
    assert error_of(torch.ones(1, 3) * 1.5, torch.ones(1, 3) * 2) == 0.25


@pytest.mark.parametrize("tile", [(15, 16), (0, 16)])
def test_tile_that_does_not_fit_is_refused(tiny_model: Path, tmp_path: Path, tile: tuple[int, int]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    with pytest.raises(InputError, match="multiple of 2 latent pixels; use 16x"):
        export_engine_model(tiny_model, tmp_path / "out", tiles=[tile])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to export; name a model, as in: xpsr export mini -o DIR."),
        (["mini"], "no DIR; name a new folder with -o DIR."),
        (["mini", "-o", "DIR", "--tile", "128"], "--tile 128 is not WIDTHxHEIGHT in latent pixels; use 128x128"),
    ],
)
def test_export_says_in_one_line_what_is_missing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_export_replaces_nothing(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    assert main(["export", str(tiny_model), "-o", str(tiny_model)]) == 2
    assert "exists and is not empty; remove it or choose another." in capsys.readouterr().err
