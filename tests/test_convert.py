"""Conversion of the reference's checkpoints to model folders and back."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from xpsr import XPSRPipeline, convert
from xpsr.checkpoint import load_strict
from xpsr.cli import main
from xpsr.config import PRESETS
from xpsr.convert import convert_reference, convert_to_reference, load_reference
from xpsr.errors import InputError, ModelError, XPSRError
from xpsr.model_files import checksums
from xpsr.models import XPSRControlNet, XPSRUNet

NETWORKS: dict[str, type] = {"unet": XPSRUNet, "controlnet": XPSRControlNet}
COMPONENTS = {**NETWORKS, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
WEIGHTS = "diffusion_pytorch_model.safetensors"
State = dict[str, torch.Tensor]


def weights(folder: Path) -> Path:
    """The one weight file of a component."""
    (path,) = folder.glob("*.safetensors")
    return path


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**read_json(path), **changes}), encoding="utf-8")


def edit_state(path: Path, change: Callable[[State], Any]) -> None:
    state = load_file(path)
    state = change(state) or state
    save_file({key: value.contiguous() for key, value in state.items()}, path)


def states(model: Path) -> dict[str, State]:
    """All tensors of a model folder's networks, by component; shards together."""
    files = {name: sorted((model / name).glob("*.safetensors")) for name in COMPONENTS}
    return {
        name: {key: value for path in paths for key, value in load_file(path).items()} for name, paths in files.items()
    }


def differences(found: State, expected: State) -> list[str]:
    """Keys that only one side has, or whose tensors are not the same to the last bit."""

    def same(key: str) -> bool:
        one, other = found[key], expected[key]
        return one.dtype == other.dtype and one.shape == other.shape and one.equal(other)

    return [key for key in found.keys() | expected.keys() if key not in found or key not in expected or not same(key)]


def assert_same_weights(model: Path, other: Path) -> None:
    found, expected = states(model), states(other)
    assert {name: differences(found[name], expected[name]) for name in COMPONENTS} == {name: [] for name in COMPONENTS}


def refusal(kind: type[XPSRError], call: Callable[[], Any]) -> str:
    """The one line with which `call` refuses."""
    with pytest.raises(kind) as refused:
        call()
    (line,) = str(refused.value).splitlines()
    return line


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set A as a model folder; not to be changed."""
    out = tmp_path_factory.mktemp("converted") / "model"
    convert_reference(golden, out, base=golden)
    return out


@pytest.fixture
def system(golden: Path, tmp_path: Path) -> Path:
    """Set A's files, reference and base in one, which a test may change."""
    folder = tmp_path / "system"
    for name in (*COMPONENTS, "tokenizer", "scheduler"):
        shutil.copytree(golden / name, folder / name)
    return folder


# The way there


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_those_of_the_reference(name: str, golden: Path, model: Path) -> None:
    found = load_strict(NETWORKS[name], model, subfolder=name)
    expected = dict(zip(NETWORKS, load_reference(golden), strict=True))[name]
    assert differences(found.state_dict(), expected.state_dict()) == []


@pytest.mark.parametrize("name", ["vae", "text_encoder"])
def test_base_networks_are_as_they_were(name: str, golden: Path, model: Path) -> None:
    found = load_strict(COMPONENTS[name], model, subfolder=name)
    expected = COMPONENTS[name].from_pretrained(golden / name)
    assert differences(found.state_dict(), expected.state_dict()) == []
    original = read_json(golden / name / "config.json")
    for key in original.keys() - {"_diffusers_version", "transformers_version", "torch_dtype"}:
        assert getattr(found.config, key) == original[key] or list(getattr(found.config, key)) == original[key]


def test_pipeline_loads_what_was_converted_and_would_save_the_same(model: Path, tmp_path: Path) -> None:
    assert read_json(model / "checksums.json") == checksums(model)
    pipe = XPSRPipeline.from_pretrained(model)
    assert pipe.config.one_step_timestep is None
    assert pipe.config.settings == asdict(PRESETS["default"])
    pipe.save_pretrained(tmp_path)
    saved = read_json(tmp_path / "model_index.json")
    del saved["_name_or_path"]
    assert saved == read_json(model / "model_index.json")
    assert read_json(tmp_path / "scheduler" / "scheduler_config.json") == read_json(
        model / "scheduler" / "scheduler_config.json"
    )
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe(
        Image.new("RGB", (16, 16), "teal"), describer="none", num_inference_steps=2, settings={"min_working_size": 0}
    ).images
    assert image.size == (64, 64)


def test_scheduler_is_ddpm_with_the_base_s_numbers(golden: Path, model: Path) -> None:
    config = read_json(model / "scheduler" / "scheduler_config.json")
    base = read_json(golden / "scheduler" / "scheduler_config.json")
    assert config["_class_name"] == "DDPMScheduler"
    assert (config["timestep_spacing"], config["variance_type"]) == ("leading", "fixed_small")
    for key in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "steps_offset", "clip_sample"):
        assert config[key] == base[key]
    assert base.keys() - config.keys() == {"skip_prk_steps", "set_alpha_to_one"}  # PNDM's


def test_tokenizer_says_the_same(golden: Path, model: Path) -> None:
    found, expected = (CLIPTokenizer.from_pretrained(folder / "tokenizer") for folder in (model, golden))
    assert found("a red boat, clean, sharp").input_ids == expected("a red boat, clean, sharp").input_ids


# And back


def test_round_trip_changes_no_bit(golden: Path, model: Path, tmp_path: Path) -> None:
    convert_to_reference(model, tmp_path / "back")
    assert sorted(
        path.relative_to(tmp_path / "back").as_posix() for path in (tmp_path / "back").rglob("*.*")
    ) == sorted(f"{name}/{file}" for name in NETWORKS for file in ("config.json", WEIGHTS))
    for name in NETWORKS:
        found, expected = tmp_path / "back" / name, golden / name
        assert differences(load_file(found / WEIGHTS), load_file(expected / WEIGHTS)) == []
        assert read_json(found / "config.json") == read_json(expected / "config.json")


def test_half_precision_and_private_keys_survive_the_round_trip(system: Path, tmp_path: Path) -> None:
    edit_json(system / "unet" / "config.json", _name_or_path="some/unet", _diffusers_version="0.21.2")
    edit_state(weights(system / "unet"), lambda state: {key: value.half() for key, value in state.items()})
    convert_reference(system, tmp_path / "model", base=system)
    convert_to_reference(tmp_path / "model", tmp_path / "back")
    assert differences(load_file(tmp_path / "back" / "unet" / WEIGHTS), load_file(system / "unet" / WEIGHTS)) == []
    assert read_json(tmp_path / "back" / "unet" / "config.json") == read_json(system / "unet" / "config.json")


def test_reverse_refuses_a_model_without_fusion(model: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(model, tmp_path / "plain")
    edit_json(plain / "controlnet" / "config.json", semantic_fusion=False)
    message = refusal(ModelError, lambda: convert_to_reference(plain, tmp_path / "out"))
    assert "the reference has no semantic_fusion" in message


def test_reverse_refuses_what_the_reference_does_not_have(model: Path, tmp_path: Path) -> None:
    message = refusal(ModelError, lambda: convert_to_reference("mini", tmp_path / "out"))
    assert "conditional_attention_window" in message
    config = read_json(model / "unet" / "config.json")
    wide = {key: value for key, value in config.items() if key[0] != "_"} | {"block_out_channels": [16, 16, 32]}
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "model_index.json").write_text("{}", encoding="utf-8")
    XPSRUNet.from_config(wide).save_pretrained(tmp_path / "wide" / "unet")
    message = refusal(ModelError, lambda: convert_to_reference(tmp_path / "wide", tmp_path / "out"))
    assert "UpBlock2D" in message and "up_blocks.0.conditional_attentions.1" in message
    assert not (tmp_path / "out").exists()


# Other files, other types


def test_sharded_model_is_the_same_model(model: Path, golden: Path, tmp_path: Path) -> None:
    convert_reference(golden, tmp_path / "model", base=golden, max_shard_size="0.3MB")
    paths = list((tmp_path / "model").rglob("*.safetensors"))
    assert len(paths) == 15
    assert all(path.stat().st_size < 300_000 + 50_000 for path in paths)  # headers are not counted
    assert_same_weights(tmp_path / "model", model)
    for name, kind in COMPONENTS.items():
        load_strict(kind, tmp_path / "model", subfolder=name)
    convert_to_reference(tmp_path / "model", tmp_path / "back")
    assert differences(load_file(tmp_path / "back" / "unet" / WEIGHTS), load_file(golden / "unet" / WEIGHTS)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_written_in_the_type_that_is_asked_for(
    dtype: torch.dtype, golden: Path, model: Path, tmp_path: Path
) -> None:
    convert_reference(golden, tmp_path / "model", base=golden, dtype=dtype)
    expected = states(model)
    for name, state in states(tmp_path / "model").items():
        assert differences(state, {key: value.to(dtype) for key, value in expected[name].items()}) == []


def test_numbers_too_large_for_float16_are_refused(system: Path, tmp_path: Path) -> None:
    edit_state(weights(system / "unet"), lambda state: state.update({"conv_out.bias": torch.full((4,), 1e5)}))
    message = refusal(InputError, lambda: convert_reference(system, tmp_path / "out", base=system, dtype=torch.float16))
    assert message == "unet: conv_out.bias too large for float16; use bfloat16 or float32."
    assert list(tmp_path.iterdir()) == [system]


def pickle_weights(folder: Path, *, shards: int) -> None:
    path = weights(folder)
    name = "pytorch_model.bin" if path.stem == "model" else "diffusion_pytorch_model.bin"
    state = load_file(path)
    path.unlink()
    if shards == 1:
        torch.save(state, folder / name)
        return
    files = {key: f"part-{index % shards}.bin" for index, key in enumerate(state)}
    for file in set(files.values()):
        torch.save({key: value for key, value in state.items() if files[key] == file}, folder / file)
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": files}), encoding="utf-8")


def test_pickled_tensors_are_read(model: Path, system: Path, tmp_path: Path) -> None:
    for name, shards in zip(COMPONENTS, (1, 3, 2, 1), strict=True):
        pickle_weights(system / name, shards=shards)
    convert_reference(system, tmp_path / "model", base=system)
    assert_same_weights(tmp_path / "model", model)


def test_pickles_of_torch_before_1_6_are_read(model: Path, system: Path, tmp_path: Path) -> None:
    path = weights(system / "text_encoder")
    torch.save(load_file(path), path.with_name("pytorch_model.bin"), _use_new_zipfile_serialization=False)
    path.unlink()
    convert_reference(system, tmp_path / "model", base=system)
    assert_same_weights(tmp_path / "model", model)


def test_safetensors_go_before_pickles(system: Path) -> None:
    (system / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"no pickle")
    load_reference(system)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("run-by-a-pickle"),))


@pytest.mark.parametrize("content", ["more than tensors", "of old, more than tensors", "a list", "nonsense"])
def test_pickles_are_not_run(content: str, system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = weights(system / "unet")
    if content == "nonsense":
        path.with_suffix(".bin").write_bytes(b"\x80\x02nonsense")
    else:
        stored: Any = [1] if content == "a list" else {**load_file(path), "epoch": Harmful()}
        torch.save(stored, path.with_suffix(".bin"), _use_new_zipfile_serialization="old" not in content)
    path.unlink()
    message = refusal(ModelError, lambda: convert_reference(system, tmp_path / "out", base=system))
    assert message.endswith("model.bin: a damaged pickle, or more than tensors in it; give it as .safetensors.")
    assert not Path("run-by-a-pickle").exists()


def test_old_names_of_the_base_are_read(model: Path, system: Path, tmp_path: Path) -> None:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(state: State) -> State:
        for new, old in names.items():
            state = {key.replace(f".{new}.", f".{old}."): value for key, value in state.items()}
        assert len([key for key in state if "proj_attn" in key]) == 4
        return state

    def add_positions(state: State) -> None:
        assert all(key.startswith("text_model.") for key in state)  # set A is old; `usual` below is new
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    edit_state(weights(system / "vae"), rename)
    edit_state(weights(system / "text_encoder"), add_positions)
    convert_reference(system, tmp_path / "model", base=system)
    assert_same_weights(tmp_path / "model", model)


# A base in one file


def ldm_name(key: str, levels: int) -> str:
    """The name in LDM's autoencoder of a tensor of diffusers'."""
    key = re.sub(r"up_blocks\.(\d+)\.", lambda match: f"up.{levels - 1 - int(match[1])}.", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)\.", lambda match: f"mid.block_{int(match[1]) + 1}.", key)
    for ours, theirs in (
        ("down_blocks.", "down."),
        (".resnets.", ".block."),
        (".downsamplers.0.", ".downsample."),
        (".upsamplers.0.", ".upsample."),
        ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
        ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
        ("mid_block.attentions.0.to_", "mid.attn_1."),
        ("conv_norm_out.", "norm_out."),
        ("conv_shortcut.", "nin_shortcut."),
    ):
        key = key.replace(ours, theirs)
    return key


def ldm_state(base: Path) -> State:
    """VAE and text encoder of a folder as Stable Diffusion's own code stores them, among other things."""
    levels = len(read_json(base / "vae" / "config.json")["block_out_channels"])
    state = {"model.diffusion_model.out.2.bias": torch.zeros(4)}
    for key, value in load_file(weights(base / "vae")).items():
        convolution = re.search(r"attentions\.0\.to_.*weight", key)
        state[f"first_stage_model.{ldm_name(key, levels)}"] = value[..., None, None] if convolution else value
    for key, value in load_file(weights(base / "text_encoder")).items():
        state[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return state


@pytest.fixture(scope="module")
def usual(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny system that keeps Stable Diffusion's conventions on heads and groups, in the reference's layout."""
    folder = tmp_path_factory.mktemp("usual")
    torch.manual_seed(0)
    for name, kind in NETWORKS.items():
        config = read_json(golden / name / "config.json")
        config = {key: value for key, value in config.items() if "lowlevel" not in key and "use_" not in key}
        config |= {"cross_attention_dim": 64, "block_out_channels": [8, 8, 8], "norm_num_groups": 4}
        config.pop("return_rgbs", None)
        if name == "controlnet":
            config["conditioning_embedding_out_channels"] = [4, 8]
        kind.from_config(config).save_pretrained(folder / "ours" / name)
    (folder / "ours" / "model_index.json").write_text("{}", encoding="utf-8")
    convert_to_reference(folder / "ours", folder / "system")
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        sample_size=32,
    )
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1, "num_hidden_layers": 2}
    ids = {"vocab_size": 526, "bos_token_id": 524, "eos_token_id": 525, "pad_token_id": 525}
    vae.save_pretrained(folder / "system" / "vae")
    CLIPTextModel(CLIPTextConfig(**sizes, **ids)).save_pretrained(folder / "system" / "text_encoder")
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(golden / name, folder / "system" / name)
    return folder / "system"


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_base_in_one_file_gives_the_same_as_its_folder(suffix: str, usual: Path, tmp_path: Path) -> None:
    base, state = tmp_path / f"base{suffix}", ldm_state(usual)
    if suffix == ".safetensors":
        save_file(state, base)
    else:
        betas = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).betas
        state |= {"betas": betas.half(), "scale_factor": torch.tensor(0.18215)}
        torch.save({"state_dict": state, "global_step": 3, "epoch": 1.5}, base)
    convert_reference(usual, tmp_path / "folder", base=usual)
    convert_reference(usual, tmp_path / "file", base=base, tokenizer=usual / "tokenizer")
    assert_same_weights(tmp_path / "file", tmp_path / "folder")
    for path in (tmp_path / "folder").rglob("*.json"):
        expected, found = read_json(path), read_json(tmp_path / "file" / path.relative_to(tmp_path / "folder"))
        expected.pop("dtype", None)  # of the text encoder's config, where no one reads it
        assert found == expected, path


def test_base_in_one_file_of_unusual_sizes_needs_its_configs(golden: Path, model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    save_file(ldm_state(golden), base)
    tokenizer = golden / "tokenizer"
    message = refusal(ModelError, lambda: convert_reference(golden, tmp_path / "out", base=base, tokenizer=tokenizer))
    assert message == (
        f"{base}: [4, 8, 8, 8] channels in the VAE are no multiples of LDM's 32 groups a norm; give a folder with its"
        " vae/config.json and text_encoder/config.json (--config)."
    )
    convert_reference(golden, tmp_path / "out", base=base, tokenizer=tokenizer, config=golden)
    assert_same_weights(tmp_path / "out", model)
    for name in (*COMPONENTS, "scheduler"):
        file = f"{name}/{'scheduler_' * (name == 'scheduler')}config.json"
        assert read_json(tmp_path / "out" / file) == read_json(model / file)


def test_numbers_in_the_file_go_before_stable_diffusion_s(usual: Path, tmp_path: Path) -> None:
    base, out = tmp_path / "base.safetensors", tmp_path / "out"
    betas = torch.linspace(0.001, 0.01, 500)
    save_file({**ldm_state(usual), "betas": betas, "scale_factor": torch.tensor(0.13025)}, base)
    convert_reference(usual, out, base=base, tokenizer=usual / "tokenizer")
    assert read_json(out / "vae" / "config.json")["scaling_factor"] == 0.13025
    scheduler = DDPMScheduler.from_pretrained(out / "scheduler")
    assert scheduler.betas.equal(betas)
    assert scheduler.config.num_train_timesteps == 500


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda state: state.update({"first_stage_model.loss.logvar": torch.ones(())}),
            ["unexpected: loss.logvar"],
        ),
        (
            lambda state: {key: value for key, value in state.items() if key.startswith("first_stage_model.")},
            ["no embeddings.token_embedding.weight there", "a whole Stable Diffusion 1.5"],
        ),
        (
            lambda state: state.pop("cond_stage_model.transformer.text_model.final_layer_norm.bias"),
            ["missing: final_layer_norm.bias"],
        ),
    ],
)
def test_incomplete_base_in_one_file_is_refused(
    change: Callable[[State], Any], parts: list[str], usual: Path, tmp_path: Path
) -> None:
    state, base = ldm_state(usual), tmp_path / "base.safetensors"
    changed = change(state)
    save_file(changed if isinstance(changed, dict) else state, base)
    options = {"base": base, "tokenizer": usual / "tokenizer"}
    message = refusal(ModelError, lambda: convert_reference(usual, tmp_path / "out", **options))
    assert all(part in message for part in (str(base), *parts)), message


# What is refused


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_more_words(system: Path) -> None:
    edit_json(system / "tokenizer" / "vocab.json", qz=526, qzq=527)
    with (system / "tokenizer" / "merges.txt").open("a") as merges:
        merges.write("q z\nqz q\n")


REFUSALS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "missing": (
        lambda system: edit_state(
            weights(system / "controlnet"), lambda state: state.__delitem__("conv_degradation_mid.0.bias")
        ),
        ["controlnet: the weights", "missing: conv_degradation_mid.0.bias; "],
    ),
    "unexpected": (
        lambda system: edit_state(weights(system / "vae"), lambda state: state.update(surplus=torch.ones(1))),
        ["vae: the weights do not match the config: unexpected: surplus; "],
    ),
    "misshapen": (
        lambda system: edit_state(
            weights(system / "unet"), lambda state: state.update({"conv_in.bias": torch.ones(3)})
        ),
        ["unet: the weights do not match the config: of another shape: conv_in.bias; "],
    ),
    "cut": (lambda system: damage(weights(system / "unet")), [f"unet/{WEIGHTS}: cannot be read: "]),
    "no weights": (
        lambda system: weights(system / "unet").unlink(),
        ["unet: neither diffusion_pytorch_model.safetensors nor diffusion_pytorch_model.bin there"],
    ),
    "broken config": (lambda system: damage(system / "vae" / "config.json"), ["vae/config.json: is not JSON ("]),
    "rrdb": (
        lambda system: edit_json(system / "controlnet" / "config.json", use_rrdb=True),
        ["controlnet: use_rrdb is true, but XPSR is trained with false"],
    ),
    "one prompt": (
        lambda system: edit_json(system / "controlnet" / "config.json", use_lowlevel_prompt=False),
        ["controlnet: use_lowlevel_prompt is false, but XPSR is trained with true"],
    ),
    "quality in the UNet": (
        lambda system: edit_json(system / "unet" / "config.json", up_use_lowlevel_prompt=[False, True, True, True]),
        ["unet: up_use_lowlevel_prompt is [false, true, true, true], but XPSR is trained with [false,"],
    ),
    "unknown key": (
        lambda system: edit_json(system / "unet" / "config.json", use_novelty=1),
        ["unet: config.json holds use_novelty, which XPSRUNet does not know"],
    ),
    "impossible config": (
        lambda system: edit_json(system / "unet" / "config.json", down_block_types=["Nonesuch"] * 3),
        ["unet/config.json: cannot be used: ", "; copy or download it again."],
    ),
    "text width": (
        lambda system: CLIPTextModel(
            CLIPTextConfig(hidden_size=48, num_hidden_layers=1, intermediate_size=8, num_attention_heads=1)
        ).save_pretrained(system / "text_encoder"),
        ["the width of the text encoder (hidden_size) is 48, but", "was trained with 32; give the Stable Diffusion"],
    ),
    "latent channels": (
        lambda system: AutoencoderKL.from_config(
            {**read_json(system / "vae" / "config.json"), "latent_channels": 16}
        ).save_pretrained(system / "vae"),
        ["the number of the VAE's latent_channels is 16, but", "was trained with 4; give the Stable Diffusion"],
    ),
    "reduction": (
        lambda system: AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
        ).save_pretrained(system / "vae"),
        ["the VAE's reduction is 2, but", "was trained with 8; give the Stable Diffusion"],
    ),
    "impossible scheduler": (
        lambda system: edit_json(system / "scheduler" / "scheduler_config.json", beta_start="low"),
        ["scheduler/scheduler_config.json: cannot be used: ", "; copy or download it again."],
    ),
    "no tokenizer": (
        lambda system: shutil.rmtree(system / "tokenizer"),
        ["tokenizer: neither tokenizer.json nor vocab.json there; copy or download it again, or give a folder with"],
    ),
    "another tokenizer": (
        with_more_words,
        ["tokenizer: 528 tokens, but the text encoder knows 526; give its own."],
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_refused_before_anything_is_written(name: str, system: Path, tmp_path: Path) -> None:
    change, parts = REFUSALS[name]
    change(system)
    message = refusal(ModelError, lambda: convert_reference(system, tmp_path / "out", base=system))
    assert all(part in message for part in parts), message
    assert list(tmp_path.iterdir()) == [system]


@pytest.mark.parametrize("base", ["./gone/base", "gone.safetensors", ""])
def test_unknown_base_is_refused(base: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(ModelError, lambda: convert_reference(golden, Path("out"), base=base))
    assert message.startswith(f"{base}: no such base; give a folder or one file of Stable Diffusion 1.5, or owner/name")


@pytest.mark.parametrize("options", [{"max_shard_size": "much"}, {"max_shard_size": "-2GB"}, {"config": Path()}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], golden: Path, tmp_path: Path) -> None:
    refusal(InputError, lambda: convert_reference(golden, tmp_path / "out", base=golden, **options))


def test_only_what_is_needed_is_fetched_from_the_hub(
    golden: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(golden)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    convert_reference(golden, tmp_path / "out", base="someone/stable-diffusion")
    assert asked["name"] == "someone/stable-diffusion"
    assert not any(pattern.startswith(("unet/diff", "*.", "safety")) for pattern in asked["allow_patterns"])
    assert states(tmp_path / "out").keys() == states(model).keys()

    def fail(name: str, **options: Any) -> str:
        raise OSError("the network\nis unreachable")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    message = refusal(ModelError, lambda: convert_reference(golden, tmp_path / "no", base="someone/stable-diffusion"))
    assert message == "someone/stable-diffusion: cannot be fetched from the hub: the network is unreachable"


@pytest.mark.parametrize(("name", "fault"), [("photo.jpg", "is a file, not a folder"), ("gone", "no such folder")])
def test_a_reference_that_is_no_folder_is_refused(golden: Path, tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "photo.jpg").touch()
    message = refusal(ModelError, lambda: convert_reference(tmp_path / name, tmp_path / "out", base=golden))
    assert message == f"{tmp_path / name}: {fault}; give a folder with the reference's unet/ and controlnet/."


# The folder that is written


def test_folder_in_use_is_refused_and_left_alone(golden: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path / "out", tmp_path / "file"):
        for call in (
            lambda out=out: convert_reference(golden, out, base=golden),
            lambda out=out: convert_to_reference(model, out),
        ):
            assert refusal(InputError, call) == f"{out}: exists and is not empty; remove it or choose another."
    assert (tmp_path / "out" / "thesis.txt").read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_empty_folder_and_leftovers_of_a_killed_run_are_no_hindrance(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.part" / "unet").mkdir(parents=True)
    (tmp_path / ".out.part" / "surplus").touch()
    convert_reference(golden, tmp_path / "out", base=golden)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "surplus").exists()


def test_interrupted_run_leaves_nothing(
    golden: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(state: State, path: Path, **options: Any) -> None:
        if path.parent.name == "controlnet":
            assert not (tmp_path / "out").exists()
            raise KeyboardInterrupt
        save_file(state, path, **options)

    monkeypatch.setattr(convert, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_reference(golden, tmp_path / "out", base=golden)
    with pytest.raises(KeyboardInterrupt):
        convert_to_reference(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# The command


def test_command_converts_and_reverses(
    golden: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out, back = tmp_path / "model", tmp_path / "back"
    assert main(["convert", str(golden), "--base", str(golden), "-o", str(out), "--max-shard-size", "1MB"]) == 0
    assert capfd.readouterr().out == f"{out}\n"
    assert caplog.messages == [  # on stderr, were it not for pytest
        f"{name}: {count} tensors, files: {files}"
        for name, count, files in (("unet", 480, 2), ("controlnet", 346, 2), ("vae", 180, 1), ("text_encoder", 36, 1))
    ]
    assert main(["convert", str(out), "--reverse", "--output", str(back), "--quiet", "--dtype", "bf16"]) == 0
    captured = capfd.readouterr()
    assert (captured.out, captured.err, len(caplog.messages)) == (f"{back}\n", "", 4)
    assert {value.dtype for value in load_file(back / "unet" / WEIGHTS).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "nothing to convert; name a folder, as in: xpsr convert REFERENCE --base BASE -o OUT."),
        (["A"], 2, "no OUT; name a new folder with -o OUT."),
        (
            ["A", "-o", "out"],
            2,
            "no --base; name the Stable Diffusion that the checkpoint was trained on, usually 1.5.",
        ),
        (["A", "-o", "out", "--bse", "A"], 2, "unknown option --bse; did you mean --base?"),
        (
            ["A", "--reverse", "-o", "o", "--max-shard-size", "1"],
            2,
            "--max-shard-size means nothing with --reverse; leave it out.",
        ),
        (
            ["A", "--base", f"A/vae/{WEIGHTS}", "-o", "out"],
            2,
            f"A/vae/{WEIGHTS}: one file holds no tokenizer; give a folder with CLIP's (--tokenizer).",
        ),
        (["A", "--base", "A", "-o", "A"], 2, "A: exists and is not empty; remove it or choose another."),
        (
            ["gone", "--base", "A", "-o", "out"],
            1,
            "gone: no such folder; give a folder with the reference's unet/ and controlnet/.",
        ),
        (
            ["A", "--reverse", "-o", "out"],
            1,
            "A: no model_index.json there; if it is the authors' checkpoint, make a model of it: xpsr convert.",
        ),
    ],
)
def test_command_complains_in_one_line(
    arguments: list[str],
    code: int,
    line: str,
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("A").symlink_to(golden)
    assert main(["convert", *arguments]) == code
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", f"xpsr: {line}\n")
    assert not Path("out").exists()
