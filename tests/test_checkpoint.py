"""Reference names and ours, strict loading, and where models are found."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModelMixin, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from xpsr.checkpoint import (
    controlnet_from_reference,
    controlnet_to_reference,
    load_strict,
    unet_from_reference,
    unet_to_reference,
)
from xpsr.config.checks import said
from xpsr.convert import load_reference
from xpsr.errors import InputError, XPSRError
from xpsr.model_files import checksums, resolve_model
from xpsr.models import XPSRControlNet, XPSRUNet
from xpsr.pipeline import XPSRPipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"
AGAIN = "copy or download it again."
FLAGS = {"down_use_lowlevel_prompt", "mid_use_lowlevel_prompt", "up_use_lowlevel_prompt"}
FLAGS |= {"return_rgbs", "use_latent_pred", "use_lowlevel_prompt", "use_rrdb"}
KINDS: dict[str, tuple[type[ModelMixin], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "unet": (XPSRUNet, unet_from_reference, unet_to_reference),
    "controlnet": (XPSRControlNet, controlnet_from_reference, controlnet_to_reference),
}
Shapes = dict[str, tuple[int, ...]]


def full_size(golden: Path, name: str) -> ModelMixin:
    """A network at Stable Diffusion 1.5's size, without memory."""
    config = json.loads((golden.parent / f"config_{name}.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        return KINDS[name][0].from_config({key: value for key, value in config.items() if key not in FLAGS})


def listed_shapes(golden: Path, name: str) -> Shapes:
    lines = (golden.parent / f"keys_{name}.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return {key: tuple(int(length) for length in shape.split(",")) for key, shape in rows}


def shapes_of(state: dict[str, torch.Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.fixture
def reference(golden: Path, tmp_path: Path) -> Path:
    """A reference checkpoint that a test may damage."""
    for name in KINDS:
        shutil.copytree(golden / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def saved(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for name, network in zip(KINDS, load_reference(golden), strict=True):
        network.save_pretrained(folder / name)
    return folder


@pytest.fixture
def ours(saved: Path, tmp_path: Path) -> Path:
    """The same networks as `save_pretrained` writes them; a test may damage them, too."""
    return shutil.copytree(saved, tmp_path, dirs_exist_ok=True)


@pytest.mark.parametrize("name", KINDS)
def test_reference_names_survive_the_way_to_ours_and_back(name: str, golden: Path) -> None:
    _, from_reference, to_reference = KINDS[name]
    state = load_file(golden / name / WEIGHTS)
    back = to_reference(from_reference(state))
    assert back.keys() == state.keys()
    assert all(back[key] is state[key] for key in state)


@pytest.mark.parametrize("name", KINDS)
def test_loaded_networks_hold_every_tensor_of_the_reference(name: str, golden: Path) -> None:
    network = dict(zip(KINDS, load_reference(golden), strict=True))[name]
    state, expected = KINDS[name][2](network.state_dict()), load_file(golden / name / WEIGHTS)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert not network.training


@pytest.mark.parametrize("name", KINDS)
def test_full_size_keys_and_shapes_are_the_reference_s(name: str, golden: Path) -> None:
    _, from_reference, to_reference = KINDS[name]
    state = full_size(golden, name).state_dict()
    listed = listed_shapes(golden, name)
    assert shapes_of(to_reference(state)) == listed
    assert from_reference(listed) == shapes_of(state)


def test_full_size_parameter_counts_are_the_reference_s(golden: Path) -> None:
    counts = json.loads((golden.parent / "param_counts.json").read_text(encoding="utf-8"))
    unet, controlnet = (full_size(golden, name) for name in KINDS)
    assert isinstance(unet, XPSRUNet)

    def total(network: torch.nn.Module, part: str = "") -> int:
        return sum(parameter.numel() for name, parameter in network.named_parameters() if part in name)

    conditional = sum(parameter.numel() for parameter in unet.conditional_parameters())
    assert total(unet) == counts["unet"]["total"]
    assert conditional == counts["unet"]["pixel_attentions"]["params"] == counts["trainable_in_training"]["unet"]
    assert total(unet) - conditional == counts["unet"]["vanilla_sd15_unet"]["params"]
    assert len(unet.conditional_parameters()) == counts["unet"]["pixel_attentions"]["keys"]
    expected = counts["controlnet"]
    assert total(controlnet) == expected["total"]
    assert total(controlnet, ".quality.") == expected["attentions_lowlevel"]["params"]
    assert total(controlnet, ".fusion.") == expected["attentions_connect"]["params"]
    assert total(controlnet, "to_images.") == expected["to_rgbs"]["params"]
    assert total(controlnet, "to_latents.") == expected["conv_degradation"]["params"]
    assert total(controlnet, "to_latents.12.") == expected["conv_degradation_mid"]["params"]
    assert total(controlnet, "image_encoder.") == expected["controlnet_cond_embedding"]["params"]
    assert total(controlnet, "controlnet_down_blocks.") == expected["controlnet_down_blocks"]["params"]
    assert total(controlnet, "controlnet_mid_block.") == expected["controlnet_mid_block"]["params"]


def stock_unet(golden: Path) -> UNet2DConditionModel:
    """Set A's UNet as diffusers knows it, without conditional attentions."""
    unet, _ = load_reference(golden)
    config = {key: value for key, value in unet.config.items() if key != "conditional_attention_window"}
    stock = UNet2DConditionModel.from_config(config)
    stock.load_state_dict({key: value for key, value in unet.state_dict().items() if key in stock.state_dict()})
    return stock


def test_from_unet_copies_what_the_reference_copies(golden: Path) -> None:
    fates = json.loads((golden / "from_unet.json").read_text(encoding="utf-8"))
    unet = stock_unet(golden)
    widths = tuple(load_reference(golden)[1].config.conditioning_embedding_out_channels)
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # what is neither copied nor zero differs from seed to seed
        controlnet = XPSRControlNet.from_unet(unet, conditioning_embedding_out_channels=widths)
        states.append(controlnet_to_reference(controlnet.state_dict()))
    state, other = states
    assert state.keys() == {*fates["copied"], *fates["zero_init"], *fates["fresh_init"]}
    source = unet.state_dict()
    assert [key for key, origin in fates["copied"].items() if not torch.equal(state[key], source[origin])] == []
    assert [key for key in fates["zero_init"] if state[key].any()] == []
    assert [key for key in fates["fresh_init"] if torch.equal(state[key], other[key])] == []


def test_fresh_tensors_start_within_torch_s_default_bounds(golden: Path) -> None:
    fates = json.loads((golden / "from_unet.json").read_text(encoding="utf-8"))
    widths = tuple(load_reference(golden)[1].config.conditioning_embedding_out_channels)
    controlnet = XPSRControlNet.from_unet(stock_unet(golden), conditioning_embedding_out_channels=widths)
    state = controlnet_to_reference(controlnet.state_dict())
    for key in fates["fresh_init"]:
        weight = state[key.removesuffix("bias") + "weight" if key.endswith("bias") else key]
        assert state[key].abs().max() <= 1 / math.sqrt(weight[0].numel())


def test_from_unet_copies_what_the_reference_copies_at_full_size(golden: Path) -> None:
    fates = json.loads((golden.parent / "from_unet_fullsize.json").read_text(encoding="utf-8"))
    config = json.loads((golden.parent / "unet_config_sd15_input.json").read_text(encoding="utf-8"))
    thin = {"block_out_channels": (8, 16, 32, 32), "cross_attention_dim": 24, "norm_num_groups": 8}
    unet = UNet2DConditionModel.from_config({**config, **thin})  # the names do not depend on the widths
    torch.manual_seed(0)
    for parameter in unet.parameters():  # no two alike, so that a copy is told from a coincidence
        torch.nn.init.normal_(parameter)
    source = {value.flatten()[0].item() for value in unet.state_dict().values()}
    state = controlnet_to_reference(XPSRControlNet.from_unet(unet).state_dict())
    assert {key for key, value in state.items() if value.flatten()[0].item() in source} == set(fates["copied"])
    assert {key for key, value in state.items() if not value.any()} == set(fates["zero_init"])


def without(key: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda state: state.__delitem__(key)


def with_extra(state: dict[str, torch.Tensor]) -> None:
    state["surplus.weight"] = torch.zeros(1)


def reshaped(state: dict[str, torch.Tensor]) -> None:
    state["conv_in.bias"] = torch.zeros(3)
    state["conv_in.weight"] = torch.zeros(3, 4, 3, 3)


def wrong_in_every_way(state: dict[str, torch.Tensor]) -> None:
    del state["time_embedding.linear_1.bias"]
    with_extra(state)
    reshaped(state)


DAMAGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], list[str]]] = {
    "missing": (without("conv_in.bias"), ["missing: conv_in.bias"]),
    "unexpected": (with_extra, ["unexpected: surplus.weight"]),
    "reshaped": (reshaped, ["of another shape: conv_in.bias, conv_in.weight"]),
    "all": (
        wrong_in_every_way,
        [
            "missing: time_embedding.linear_1.bias",
            "unexpected: surplus.weight",
            "of another shape: conv_in.bias, conv_in.weight",
        ],
    ),
}


def damage(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


def refusal(load: Callable[[], Any]) -> str:
    """The one line with which `load` refuses."""
    with pytest.raises(XPSRError) as refused:
        load()
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_load_strict_lists_what_does_not_match(kind: str, name: str, ours: Path) -> None:
    change, expected = DAMAGES[kind]
    damage(ours / name / WEIGHTS, change)
    message = refusal(lambda: load_strict(KINDS[name][0], ours, subfolder=name))
    assert message == f"{ours}/{name}: the weights do not match the config: {'; '.join(expected)}; {AGAIN}"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_load_reference_lists_what_does_not_match(kind: str, name: str, reference: Path) -> None:
    change, expected = DAMAGES[kind]
    damage(reference / name / WEIGHTS, change)
    message = refusal(lambda: load_reference(reference))
    assert message == f"{reference}/{name}: the weights do not match the config: {'; '.join(expected)}; {AGAIN}"


def test_long_lists_of_keys_are_cut(ours: Path) -> None:
    path = ours / "unet" / WEIGHTS
    save_file({key: value for key, value in load_file(path).items() if "mid_block" not in key}, path)
    message = refusal(lambda: load_strict(XPSRUNet, ours, subfolder="unet"))
    assert message.endswith(f" more; {AGAIN}")
    assert message.count("mid_block.") == 8


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
@pytest.mark.parametrize(
    "spoil", [truncate, Path.unlink, lambda path: path.write_bytes(b"")], ids=["cut", "gone", "empty"]
)
def test_damaged_files_are_refused(
    spoil: Callable[[Path], Any], file: str, name: str, golden: Path, tmp_path: Path
) -> None:
    for network, other in zip(load_reference(golden), KINDS, strict=True):
        network.save_pretrained(tmp_path / "ours" / other)
        shutil.copytree(golden / other, tmp_path / "reference" / other)
    for folder in ("ours", "reference"):
        spoil(tmp_path / folder / name / file)
    strict = refusal(lambda: load_strict(KINDS[name][0], tmp_path / "ours", subfolder=name))
    assert strict.startswith(f"{tmp_path}/ours/{name}/{file}: ") and strict.endswith(f"; {AGAIN}")
    assert refusal(lambda: load_reference(tmp_path / "reference")).startswith(f"{tmp_path}/reference/{name}")


def test_pickled_weights_are_not_read(ours: Path) -> None:
    path = ours / "unet" / WEIGHTS
    torch.save(load_file(path), path.with_name("diffusion_pytorch_model.bin"))
    path.unlink()
    assert "safetensors" in refusal(lambda: load_strict(XPSRUNet, ours, subfolder="unet"))


def test_reference_config_of_another_architecture_is_refused(reference: Path) -> None:
    path = reference / "unet" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["up_block_types"][0] = "ResnetUpsampleBlock2D"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert "up_block_types" in refusal(lambda: load_reference(reference))


def test_load_strict_gives_the_dtype_that_is_asked_for(ours: Path) -> None:
    unet = load_strict(XPSRUNet, ours, subfolder="unet", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}


def test_folder_with_a_model_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    message = refusal(lambda: resolve_model(str(tmp_path)))
    assert message == f"{tmp_path}: no model_index.json there; give a folder written by save_pretrained."


def test_name_on_the_hub_is_taken_as_it_is() -> None:
    assert resolve_model("someone/some-xpsr_1.0") == "someone/some-xpsr_1.0"


def test_bundled_model_is_found_by_name_and_near_misses_are_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpsr.model_files.bundled_models", lambda: {"mini": tmp_path})
    assert resolve_model("mini") == str(tmp_path)
    message = refusal(lambda: resolve_model("minni"))
    assert message == "model=minni is no model; did you mean 'mini'?"


@pytest.mark.parametrize("name", ["no-such-model", "./gone/model", "/nowhere/at/all", "a" * 300 + "/b/c"])
def test_unknown_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as refused:  # an argument that is wrong, no model that is
        resolve_model(name)
    assert str(refused.value) == f"model={said(name)} is no model; use mini, a folder, or owner/name on the hub."


def test_a_model_that_is_no_text_is_told_to_be_a_folder() -> None:
    with pytest.raises(InputError) as refused:
        resolve_model(5)  # type: ignore[arg-type]
    assert str(refused.value) == "model=5 is not a text; name a folder, or mini."


def test_the_hub_is_asked_as_the_caller_says_and_for_no_other_variant(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = shutil.copytree(tiny_model, tmp_path / "hub")
    pipe = XPSRPipeline.from_pretrained(hub)
    pipe.unet.save_pretrained(hub / "unet", variant="fp16")
    (hub / "all.safetensors").touch()
    asked: list[dict[str, Any]] = []

    def download(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append(options)
        for path in hub.rglob("*"):
            file = path.relative_to(hub).as_posix()
            if path.is_file() and any(fnmatch(file, pattern) for pattern in allow_patterns):
                (tmp_path / options["cache_dir"] / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / options["cache_dir"] / file)
        return str(tmp_path / options["cache_dir"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    options = {"token": "secret", "force_download": True, "revision": "v1", "cache_dir": "plain"}
    XPSRPipeline.from_pretrained("me/private", **options)
    assert asked == [options]
    assert {path.name for path in (tmp_path / "plain").rglob("*.safetensors")} == {WEIGHTS, "model.safetensors"}
    XPSRPipeline.from_pretrained("me/private", variant="fp16", cache_dir="half")
    found = {path.parent.name: path.name for path in (tmp_path / "half").rglob("*.safetensors")}
    assert found == {
        "unet": "diffusion_pytorch_model.fp16.safetensors",
        "controlnet": WEIGHTS,
        "vae": WEIGHTS,
        "text_encoder": "model.safetensors",
    }


def test_checksums_are_of_every_weight_file(ours: Path) -> None:
    found = checksums(ours)
    assert list(found) == [f"controlnet/{WEIGHTS}", f"unet/{WEIGHTS}"]
    assert found[f"unet/{WEIGHTS}"] == hashlib.sha256((ours / "unet" / WEIGHTS).read_bytes()).hexdigest()
