"""Damaged and hostile model folders, describers and configs: one line that names the file and what to do."""

import errno
import inspect
import json
import logging
import math
import os
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_models import break_folder, break_text
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from xpsr import jsonl
from xpsr.checkpoint import load_strict
from xpsr.config import TrainRunConfig, load_config
from xpsr.errors import InputError, ModelError, XPSRError
from xpsr.image import Picture
from xpsr.model_files import (
    MAX_CONFIG_BYTES,
    MAX_CONFIG_NUMBER,
    bundled_models,
    check_file,
    checksums,
    read_config,
    read_json,
    verify_checksums,
)
from xpsr.pipeline import XPSRPipeline
from xpsr.prior import FileDescriber, Prior, files, open_describer
from xpsr.prior.mini import MiniDescriber

WEIGHTS = "diffusion_pytorch_model.safetensors"
AGAIN = "; copy or download it again."


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that a test may damage; without its checksums, which would see most of it."""
    return shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("checksums.json"))


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(ModelError) as refused:
        load()
    assert refused.value.remedy
    (line,) = str(refused.value).splitlines()
    return line


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    """Changes values of a JSON object; None takes them away."""

    def change(folder: Path) -> None:
        content = {**json.loads((folder / file).read_text()), **changes}
        content = {key: value for key, value in content.items() if value is not None}
        (folder / file).write_text(json.dumps(content))

    return change


def write(file: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(content)


def edit_weights(file: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        state = load_file(folder / file)
        change(state)
        save_file(state, folder / file, metadata={"format": "pt"})

    return edit


def as_link(file: str, target: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(target)

    return link


def as_pipe(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()
    os.mkfifo(folder / "unet" / "config.json")


def as_file(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    (folder / "vae").write_text("x")


def as_pickle(folder: Path) -> None:
    state = load_file(folder / "unet" / WEIGHTS)
    (folder / "unet" / WEIGHTS).unlink()
    torch.save(state, folder / "unet" / "diffusion_pytorch_model.bin")


def fewer_words(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    kept = len(content["model"]["merges"]) // 2
    gone = {"".join(pair) for pair in content["model"]["merges"][kept:]}
    content["model"]["merges"] = content["model"]["merges"][:kept]
    words = [word for word in content["model"]["vocab"] if word not in gone]
    content["model"]["vocab"] = {word: number for number, word in enumerate(words)}
    for token in content["added_tokens"]:
        token["id"] = content["model"]["vocab"][token["content"]]
    path.write_text(json.dumps(content))


def far_word(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["a"] = 10**12
    path.write_text(json.dumps(content))


def without_merges(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = []
    path.write_text(json.dumps(content))


def only_a_config_of_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


def with_shards_elsewhere(folder: Path) -> None:
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"x": "../vae/x.safetensors"}}))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no tokenizer": (
        lambda folder: shutil.rmtree(folder / "tokenizer"),
        "tokenizer",
        "neither tokenizer.json nor vocab.json there",
    ),
    "tokenizer without a vocabulary": (only_a_config_of_a_tokenizer, "tokenizer", "neither tokenizer.json nor vocab"),
    "empty tokenizer": (write("tokenizer/tokenizer.json", b""), "tokenizer/tokenizer.json", "is empty"),
    "cut tokenizer": (write("tokenizer/tokenizer.json", b'{"model": {'), "tokenizer/tokenizer.json", "is not JSON ("),
    "damaged tokenizer": (write("tokenizer/tokenizer.json", b'{"model": {}}'), "tokenizer", "cannot be used: "),
    "tokenizer of another model": (fewer_words, "tokenizer", "tokens, but the text encoder knows "),
    "tokenizer without merges": (without_merges, "tokenizer", "words of the vocabulary are made by no merge, such as"),
    "tokenizer of a word with a number far away": (
        far_word,
        "tokenizer/tokenizer.json",
        "model holds 1e+12, beyond the limit of 1048576",
    ),
    "no scheduler": (
        lambda folder: shutil.rmtree(folder / "scheduler"),
        "scheduler/scheduler_config.json",
        "is missing",
    ),
    "impossible scheduler": (
        edit("scheduler/scheduler_config.json", beta_schedule="none"),
        "scheduler/scheduler_config.json",
        "cannot be used: ",
    ),
    "scheduler that divides by zero": (
        edit("scheduler/scheduler_config.json", beta_start=0, timestep_spacing="leading", rescale_betas_zero_snr=False),
        "scheduler/scheduler_config.json",
        "cannot be used: its steps give what is not finite",
    ),
    "endless scheduler": (
        edit("scheduler/scheduler_config.json", num_train_timesteps=10**12),
        "scheduler/scheduler_config.json",
        "num_train_timesteps holds 1e+12, beyond the limit of 1048576",
    ),
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "", "no model_index.json there"),
    "index is no JSON": (write("model_index.json", b"<html>"), "model_index.json", "is not JSON (Expecting value"),
    "index is a list": (write("model_index.json", b"[]"), "model_index.json", "holds no JSON object"),
    "deep index": (write("model_index.json", b"[" * 100_000), "model_index.json", "is not JSON (maximum recursion"),
    "index of another kind": (
        edit("model_index.json", _class_name=["module", "Class"]),
        "model_index.json",
        "holds no pipeline that xpsr knows, not XPSRPipeline; give a model of xpsr",
    ),
    "plain Stable Diffusion": (
        edit("model_index.json", _class_name="StableDiffusionPipeline"),
        "model_index.json",
        "holds StableDiffusionPipeline, not XPSRPipeline; make a model with it: xpsr convert ... --base, or xpsr train",
    ),
    "index without a part": (edit("model_index.json", unet=None), "model_index.json", "names no unet"),
    "index with a part more": (
        edit("model_index.json", safety_checker=["diffusers", "UNet2DModel"]),
        "model_index.json",
        "holds 'safety_checker', which is no part of a model of xpsr",
    ),
    "misspelt setting of the index": (
        edit("model_index.json", one_step_timestp=3),
        "model_index.json",
        "holds 'one_step_timestp', which is no part of a model of xpsr; did you mean 'one_step_timestep'?",
    ),
    "part of another library": (
        edit("model_index.json", unet=["diffusers", "UNet2DModel"]),
        "model_index.json",
        "unet is diffusers UNet2DModel, not XPSRUNet",
    ),
    "part that is a number": (edit("model_index.json", vae=5), "model_index.json", "vae is not a library and a class"),
    "unknown setting": (
        edit("model_index.json", settings={"strenght": 1}),
        "model_index.json",
        "did you mean 'strength'?",
    ),
    "setting out of range": (
        edit("model_index.json", settings={"tile_size": -1}),
        "model_index.json",
        "tile_size=-1 is not in [1, 65536]",
    ),
    "settings are no object": (
        edit("model_index.json", settings=[1]),
        "model_index.json",
        "settings are no JSON object",
    ),
    "one step beyond the last": (
        edit("model_index.json", one_step_timestep=1000),
        "model_index.json",
        "one_step_timestep is 1000, neither null nor in [0, 999]",
    ),
    "one step of another type": (
        edit("model_index.json", one_step_timestep="250"),
        "model_index.json",
        "one_step_timestep is '250', neither null",
    ),
    "one step neither residual nor not": (
        edit("model_index.json", one_step_residual="yes"),
        "model_index.json",
        "one_step_residual is 'yes', neither true nor false",
    ),
    "one step only neither true nor false": (
        edit("model_index.json", one_step_only=1),
        "model_index.json",
        "one_step_only is 1, neither true nor false",
    ),
    "enlarging by nothing": (
        edit("model_index.json", scale=0),
        "model_index.json",
        "scale is 0, not a number from 1 to 16",
    ),
    "no folder of a part": (lambda folder: shutil.rmtree(folder / "controlnet"), "controlnet", "is missing"),
    "file for a folder": (as_file, "vae", "is a file, not a folder"),
    "no config": (lambda folder: (folder / "vae" / "config.json").unlink(), "vae/config.json", "is missing"),
    "empty config": (write("unet/config.json", b"{}"), "unet/config.json", "describes "),
    "binary config": (write("unet/config.json", b"\xff\xfe{}"), "unet/config.json", "is not JSON ("),
    "config is a list": (write("unet/config.json", b"[1]"), "unet/config.json", "holds no JSON object"),
    "config of wrong types": (
        edit("unet/config.json", block_out_channels="wide"),
        "unet/config.json",
        "cannot be used: ",
    ),
    "config with an unknown key": (
        edit("unet/config.json", norm_num_group=8),
        "unet/config.json",
        "holds 'norm_num_group', which XPSRUNet does not know; did you mean 'norm_num_groups'?",
    ),
    "config of 1e12 channels": (
        edit("unet/config.json", block_out_channels=[10**12, 10**12]),
        "unet/config.json",
        "block_out_channels holds 1e+12, beyond the limit of 1048576",
    ),
    "config of a million channels": (
        edit("unet/config.json", block_out_channels=[2**20, 2**20]),
        "unet/config.json",
        "weights, but the files beside it hold ",
    ),
    "config of a million layers": (
        edit("unet/config.json", layers_per_block=2**20),
        "unet/config.json",
        "describes far more layers than there are weights",
    ),
    "text encoder of a million layers": (
        edit("text_encoder/config.json", num_hidden_layers=2**20),
        "text_encoder/config.json",
        "describes far more layers than there are weights",
    ),
    "decoder of a million layers": (
        edit("vae/config.json", decoder_layers=2**20),
        "vae/config.json",
        "describes far more layers than there are weights",
    ),
    "config that fits no picture": (
        edit("controlnet/config.json", downsample_padding=7),
        "unet",
        "cannot be used: The size of tensor",
    ),
    "config that would fetch code": (
        edit("text_encoder/config.json", auto_map={"AutoModel": "x--y.Z"}),
        "text_encoder/config.json",
        "auto_map is not for models of xpsr; remove it there",
    ),
    "config that would quantize": (
        edit("unet/config.json", quantization_config={"quant_method": "torchao"}),
        "unet/config.json",
        "quantization_config is not for models of xpsr; remove it there",
    ),
    "adapter for a network": (
        write("text_encoder/adapter_config.json", b'{"base_model_name_or_path": "someone/other"}'),
        "text_encoder/adapter_config.json",
        "an adapter, not a whole network",
    ),
    "large config": (
        write("unet/config.json", b" " * (MAX_CONFIG_BYTES + 1)),
        "unet/config.json",
        f"has {MAX_CONFIG_BYTES + 1} bytes, more than the limit of {MAX_CONFIG_BYTES}",
    ),
    "no weights": (lambda folder: (folder / "unet" / WEIGHTS).unlink(), f"unet/{WEIGHTS}", "is missing"),
    "empty weights": (write(f"unet/{WEIGHTS}", b""), f"unet/{WEIGHTS}", "is empty"),
    "cut weights": (
        lambda folder: os.truncate(folder / "unet" / WEIGHTS, 5000),
        f"unet/{WEIGHTS}",
        "is cut off or damaged (",
    ),
    "weights missing": (
        edit_weights(f"unet/{WEIGHTS}", lambda state: state.pop("conv_in.bias")),
        "unet",
        "the weights do not match the config: missing: conv_in.bias",
    ),
    "weights of whole numbers": (
        edit_weights(
            f"unet/{WEIGHTS}", lambda state: state.update({"conv_in.bias": torch.zeros(16, dtype=torch.int64)})
        ),
        f"unet/{WEIGHTS}",
        "holds weights of type I64, not floating-point numbers",
    ),
    "weights that are not finite": (
        edit_weights(f"unet/{WEIGHTS}", lambda state: state["conv_in.bias"].fill_(math.nan)),
        "unet",
        "cannot be used: its weights give what is not finite",
    ),
    "pickled weights": (
        as_pickle,
        "unet/diffusion_pytorch_model.bin",
        "a pickle, which may run code; get the model as .safetensors.",
    ),
    "shards elsewhere": (with_shards_elsewhere, f"unet/{WEIGHTS}.index.json", "names '../vae/x.safetensors', which is"),
    "broken link": (as_link("unet/config.json", "gone"), "unet/config.json", "is a link to nothing"),
    "link to a device": (as_link(f"vae/{WEIGHTS}", "/dev/zero"), f"vae/{WEIGHTS}", "is no regular file"),
    "pipe": (as_pipe, "unet/config.json", "is no regular file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_refused_with_its_file_and_a_remedy(name: str, model: Path) -> None:
    damage, file, problem = DAMAGES[name]
    damage(model)
    message = refusal(lambda: XPSRPipeline.from_pretrained(model))
    assert message.startswith(f"{model / file}: ") and problem in message, message


def test_a_file_without_permission_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", deny)  # chmod does not stop a superuser
    path = model / "model_index.json"
    assert refusal(lambda: read_json(path)) == f"{path}: cannot be read (Permission denied); check its permissions."


def test_an_index_imports_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for part in ("unet", "scheduler", "tokenizer", "vae", "text_encoder"):
        original = (model / "model_index.json").read_text()
        edit("model_index.json", **{part: ["foreign", "DDPMScheduler"]})(model)
        assert f"{part} is foreign DDPMScheduler, not " in refusal(lambda: XPSRPipeline.from_pretrained(model))
        (model / "model_index.json").write_text(original)
    assert "foreign" not in sys.modules and not (tmp_path / "ran").exists()


def test_what_the_caller_brings_need_not_be_in_the_folder(model: Path) -> None:
    whole = XPSRPipeline.from_pretrained(model)
    shutil.rmtree(model / "unet"), shutil.rmtree(model / "tokenizer")
    pipe = XPSRPipeline.from_pretrained(model, unet=whole.unet, tokenizer=whole.tokenizer)
    assert pipe.unet is whole.unet


@pytest.mark.parametrize("name", ["text_model.embeddings.position_ids", "embeddings.position_ids"])
def test_positions_of_older_text_encoders_are_no_damage(name: str, model: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(model)
    file = "text_encoder/model.safetensors"

    def as_older(state: dict[str, torch.Tensor]) -> None:
        if name.startswith("text_model."):
            for key in list(state):
                state[f"text_model.{key.removeprefix('text_model.')}"] = state.pop(key)
        state[name] = torch.arange(77)[None]

    edit_weights(file, as_older)(model)
    encoder = load_strict(CLIPTextModel, model, subfolder="text_encoder")
    expected = pipe.text_encoder.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in encoder.state_dict().items())


def test_files_that_no_tokenizer_reads_are_passed_over(model: Path) -> None:
    for name in (".gitkeep", "README.md", ".hidden.json"):
        (model / "tokenizer" / name).touch()
    XPSRPipeline.from_pretrained(model)


# Variants


FP16 = "diffusion_pytorch_model.fp16.safetensors"


def test_parts_without_the_variant_are_plain(model: Path) -> None:
    whole = XPSRPipeline.from_pretrained(model)
    whole.unet.half().save_pretrained(model / "unet", variant="fp16")
    (model / "unet" / WEIGHTS).unlink()
    pipe = XPSRPipeline.from_pretrained(model, variant="fp16")
    assert torch.equal(pipe.unet.conv_in.bias, whole.unet.float().conv_in.bias)
    assert torch.equal(pipe.controlnet.conv_in.bias, whole.controlnet.conv_in.bias)
    message = refusal(lambda: XPSRPipeline.from_pretrained(model))
    remedy = f"give variant='fp16', or rename that to {WEIGHTS}."
    assert message == f"{model / 'unet' / WEIGHTS}: is missing, but {FP16} is there; {remedy}"
    message = refusal(lambda: XPSRPipeline.from_pretrained(model, variant="fp61"))
    assert message == f"{model}: no part of it has files of the variant 'fp61'; leave variant out."


@pytest.mark.parametrize("sharded_first", [True, False])
def test_a_model_saved_over_another_is_the_one_that_is_loaded(sharded_first: bool, model: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(model)
    shutil.rmtree(model)
    sizes: list[dict[str, Any]] = [{"max_shard_size": "20KB"}, {}]
    first, second = sizes if sharded_first else sizes[::-1]
    pipe.save_pretrained(model, **first)
    for network in (pipe.unet, pipe.text_encoder):
        for parameter in network.parameters():
            parameter.data.mul_(2)
    pipe.save_pretrained(model, **second)
    again = XPSRPipeline.from_pretrained(model)
    for name in ("unet", "text_encoder"):
        expected = getattr(pipe, name).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in getattr(again, name).state_dict().items())
    assert json.loads((model / "checksums.json").read_text()) == checksums(model)


def test_loading_leaves_chance_as_it_is(model: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    XPSRPipeline.from_pretrained(model)
    assert torch.equal(torch.get_rng_state(), before)


# Checksums


def test_changed_weights_are_refused_by_their_checksum(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    assert json.loads((model / "checksums.json").read_text()) == checksums(model)
    path = model / "vae" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # a number that is as good as any
    path.write_bytes(content)
    message = refusal(lambda: XPSRPipeline.from_pretrained(model))
    assert message == (
        f"{path}: is not what checksums.json says: damaged, or changed; copy or download it again, or remove"
        " checksums.json if it was changed on purpose."
    )
    (model / "checksums.json").unlink()
    pipe = XPSRPipeline.from_pretrained(model)
    pipe.save_pretrained(model)  # writes them anew
    verify_checksums(model, model.rglob("*.safetensors"))


def test_only_files_that_are_opened_are_compared_with_their_checksums(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    pipe = XPSRPipeline.from_pretrained(model)
    pipe.save_pretrained(model, variant="fp16")
    (model / "unet" / WEIGHTS).unlink()
    (model / "vae" / WEIGHTS).write_bytes(b"damaged, but not read")
    XPSRPipeline.from_pretrained(model, variant="fp16")
    (model / "controlnet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    (model / "controlnet" / WEIGHTS).write_bytes(b"damaged, and the caller's is used")
    XPSRPipeline.from_pretrained(model, variant="fp16", controlnet=pipe.controlnet)
    (model / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"damaged")
    assert "is not what checksums.json says" in refusal(
        lambda: XPSRPipeline.from_pretrained(model, variant="fp16", controlnet=pipe.controlnet)
    )


def test_parts_may_be_links_to_folders(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "vae").rename(tmp_path / "shared")
    (model / "vae").symlink_to("../shared")
    XPSRPipeline.from_pretrained(model)
    assert checksums(model) == checksums(tiny_model)
    content = bytearray((tmp_path / "shared" / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / "shared" / WEIGHTS).write_bytes(content)
    assert refusal(lambda: XPSRPipeline.from_pretrained(model)).startswith(f"{model / 'vae' / WEIGHTS}: is not what")


@pytest.mark.parametrize("content", ["[]", "nonsense", '{"../../etc/passwd": "0"}', '{"unet/config.json": 5}'])
def test_damaged_checksums_are_refused(content: str, model: Path) -> None:
    (model / "checksums.json").write_text(content)
    assert refusal(lambda: XPSRPipeline.from_pretrained(model)).startswith(str(model))


def test_the_bundled_describer_is_compared_with_its_checksums(tmp_path: Path) -> None:
    mini = bundled_models()["mini"]
    shutil.copytree(mini / "describer", tmp_path / "describer")
    shutil.copy(mini / "checksums.json", tmp_path)
    MiniDescriber(tmp_path / "describer")
    path = tmp_path / "describer" / "levels.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert refusal(lambda: MiniDescriber(tmp_path / "describer")).startswith(f"{path}: is not what checksums.json says")


# Describers


@pytest.mark.parametrize(
    ("damage", "file", "problem"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json", "is missing"),
        (write("config.json", b"[]"), "config.json", "holds no JSON object"),
        (edit("config.json", kind_of=[99] * 1000), "config.json", "is not the config of a describer"),
        (edit("config.json", sure="very"), "config.json", "is not the config of a describer"),
        (edit("config.json", classes=["one"]), "config.json", "is not the config of a describer"),
        (write("levels.safetensors", b"x" * 100), "levels.safetensors", "cannot be used: "),
        (edit_weights("levels.safetensors", lambda state: state.popitem()), "levels.safetensors", "cannot be used: "),
        (
            edit_weights("levels.safetensors", lambda state: state["head.0.bias"].fill_(math.inf)),
            "levels.safetensors",
            "cannot be used: its weights are not finite",
        ),
    ],
)
def test_a_damaged_describer_is_refused(damage: Callable[[Path], Any], file: str, problem: str, tmp_path: Path) -> None:
    folder = shutil.copytree(bundled_models()["mini"] / "describer", tmp_path / "describer")
    damage(folder)
    message = refusal(lambda: MiniDescriber(folder))
    assert message.startswith(f"{folder / file}: {problem}") and message.endswith(AGAIN)


def test_without_the_mini_its_describer_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.model_files.bundled_models", dict)
    MiniDescriber.bundled.cache_clear()  # one that another test has opened would do
    with pytest.raises(XPSRError) as refused:
        open_describer("mini")
    assert refused.value.code == "not_found"


# Anything at all


def try_folder(source: Path, folder: Path, seed: int) -> str:
    """Breaks a model and uses it; returns what was wrong where that is more than a refusal, or a sound picture."""
    shutil.copytree(source, folder)
    what = break_folder(folder, random.Random(seed))
    start = time.process_time()
    logging.disable()  # neither here nor below: lone surrogates cannot be reported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe = XPSRPipeline.from_pretrained(folder)
            pipe.set_progress_bar_config(disable=True)
            options: dict[str, Any] = {"settings": {"num_shifts": 1, "min_working_size": 0}, "num_inference_steps": 1}
            generator = torch.Generator().manual_seed(0)
            picture = Picture(pixels=torch.full((3, 8, 8), 0.5))
            options |= {"generator": generator, "output_type": "pt", "prior": Prior("a photo")}
            (pixels,) = pipe(picture, scale=2, **options).images
        wrong = "" if pixels.isfinite().all() else "not finite"
    except XPSRError as error:
        text = str(error)
        named = isinstance(error, ModelError) and error.remedy and str(folder) in text and "\n" not in text
        wrong = "" if named else repr(error)
    except Exception as error:
        wrong = repr(error)
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder)
    seconds = time.process_time() - start
    wrong = wrong or (f"{seconds:.0f} s" if seconds > 20 else "")
    return wrong and ascii(f"{seed}: {what}: {wrong[:300]}")


@pytest.mark.parametrize(
    "seed", [*range(0, 20, 10), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 60, 10))]
)
def test_no_broken_model_is_unexpected(seed: int, tiny_model: Path, tmp_path: Path) -> None:
    assert [wrong for n in range(seed, seed + 10) if (wrong := try_folder(tiny_model, tmp_path / "model", n))] == []


@pytest.mark.slow
def test_none_of_two_thousand_broken_models_is_unexpected(tiny_model: Path, tmp_path: Path) -> None:
    import resource

    found = [wrong for n in range(1000, 3000) if (wrong := try_folder(tiny_model, tmp_path / "model", n))]
    assert found == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2**21  # KB: none takes two gigabytes


CONFIGS = sorted(Path(__file__).parent.parent.joinpath("configs").rglob("*.yaml"))


def try_config(path: Path, seed: int) -> str:
    chance = random.Random(seed)
    text = chance.choice(CONFIGS).read_text(encoding="utf-8")
    for _ in range(chance.choice((1, 1, 2, 5))):
        text = break_text(text, chance) or "x"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_config(TrainRunConfig, path)
    except XPSRError as error:
        return "" if "\n" not in str(error) else f"{seed}: {error}"
    except Exception as error:
        return f"{seed}: {error!r}"
    return ""


def test_no_broken_config_is_unexpected(tmp_path: Path) -> None:
    assert [wrong for seed in range(100) if (wrong := try_config(tmp_path / "run.yaml", seed))] == []


@pytest.mark.slow
def test_none_of_two_thousand_broken_configs_is_unexpected(tmp_path: Path) -> None:
    assert [wrong for seed in range(1000, 3000) if (wrong := try_config(tmp_path / "run.yaml", seed))] == []


def test_open_ranges_are_no_large_numbers(tmp_path: Path) -> None:
    path = tmp_path / "scheduler_config.json"
    path.write_text('{"lambda_min_clipped": -Infinity}')
    assert read_config(path)["lambda_min_clipped"] == -math.inf
    path.write_text('{"beta_start": NaN}')
    assert "beta_start holds nan" in refusal(lambda: read_config(path))
    check_file(path)


# Limits


def test_the_limits_are_those_of_the_documentation() -> None:
    from xpsr.config import loading
    from xpsr.data import shards
    from xpsr.image import Limits, decode_in_process, jxl, limits, tiff
    from xpsr.pipeline.conditions import MAX_OUTPUT_PIXELS
    from xpsr.prior import MAX_CHARACTERS, server

    text = (Path(__file__).parent.parent / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[2] for line in text.splitlines() if len(cells := line.split("|")) == 5}
    expected = {
        "picture file": [Limits().max_pixels, Limits().max_side, Limits().max_bytes],
        "JPEG": [Limits().max_scans],
        "PNG's metadata": [Limits().max_metadata],
        "parts of a PNG or JPEG": [limits._MAX_CHUNKS],
        "channels of a TIFF; of a JPEG XL beside its colours": [tiff._MAX_SAMPLES, jxl._MAX_EXTRA],
        "picture decoded in a process": [inspect.signature(decode_in_process).parameters["memory"].default, 60],
        "result": [MAX_OUTPUT_PIXELS],
        "text of a prior": [MAX_CHARACTERS],
        "sidecar, or text file with a prompt": [files.MAX_BYTES],
        "JSONL of priors": [jsonl.MAX_BYTES],
        "config of a run (YAML)": [loading._MAX_BYTES, loading._MAX_VALUES, loading._MAX_DEPTH],
        "answer of a describer's server": [server._MOST_BYTES],
        "index of shards": [shards._MAX_INDEX, shards._MAX_PAIRS],
        "shard from elsewhere": [shards._TIMEOUT],
        "index, config or tokenizer's file of a model": [MAX_CONFIG_BYTES],
        "number in a config of a network or scheduler, or in a vocabulary": [MAX_CONFIG_NUMBER],
    }
    for what, numbers in expected.items():
        assert all(f"{number:,}" in rows[what] for number in numbers), what


def test_a_large_config_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(InputError) as refused:
        load_config(TrainRunConfig, path)
    assert str(refused.value) == f"{path}: not a config: more than 1048576 bytes; is it the right file?"


@pytest.mark.parametrize("name", ["a.json", "priors.jsonl", "highlevel_prompt/a.txt"])
def test_large_files_of_priors_are_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_BYTES", 2**20)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(InputError) as refused:
        FileDescriber(tmp_path)
    assert str(refused.value) == f"{path}: has more than 1048576 bytes; is it the right file?"
