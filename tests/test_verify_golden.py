"""The golden check accepts set A of the golden numbers and refuses copies in which one thing differs."""

import copy
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import run_python
from golden_rows import Tensors
from golden_system import System
from golden_training import training_step
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from verify_golden import guarded, load, report, sections

from xpsr.checkpoint import controlnet_to_reference, unet_to_reference
from xpsr.pipeline import XPSRPipeline

SCRIPT = Path(__file__).parent / "golden_check" / "verify_golden.py"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pipe(golden: Path) -> XPSRPipeline:
    """Set A's system; tests leave it as it is."""
    return load(golden).pipe


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """A copy of set A that a test may change."""
    return Path(shutil.copytree(golden, tmp_path / "A"))


def off(system: System, section: str) -> list[str]:
    """The rows of a section that are not ok."""
    rows = list(guarded(section, sections(system.folder)[section], system))
    return [row.name for row in rows if not row.ok]


def test_every_number_of_the_reference_is_reproduced(golden: Path) -> None:
    done = run_python(SCRIPT, golden)
    *lines, summary = done.stdout.splitlines()
    rows = [re.fullmatch(r"(\S.*?) +\d\.\de[+-]\d\d +\d+e[+-]\d\d  ok(  .*)?", line) for line in lines]
    assert [line for line, row in zip(lines, rows, strict=True) if row is None] == []
    assert len({row[1] for row in rows if row}) == len(lines) == 352
    assert summary == "352 of 352 ok"
    assert done.returncode == 0


# What is changed in a tensors' file, each under the name of the tensor; `*` stands for all whose names begin so.


def nudge(name: str, tensors: Tensors) -> None:
    """Moves one value by 5 % of the largest, a whole number by one, a level of a picture by two."""
    flat = tensors[name].flatten()
    flat[len(flat) // 2] += (
        0.05 * flat.abs().max() if flat.is_floating_point() else 2 if flat.dtype == torch.uint8 else 1
    )
    tensors[name] = flat.view(tensors[name].shape)


def make_nan(name: str, tensors: Tensors) -> None:
    tensors[name].view(-1)[-1] = math.nan


def make_infinite(name: str, tensors: Tensors) -> None:
    tensors[name].view(-1)[-1] = math.inf


def reshape(name: str, tensors: Tensors) -> None:
    tensors[name] = tensors[name][None].clone()


def drop(name: str, tensors: Tensors) -> None:
    dropped = [key for key in tensors if key == name or (name.endswith("*") and key.startswith(name[:-1]))]
    assert dropped
    for key in dropped:
        del tensors[key]


def add(name: str, tensors: Tensors) -> None:
    assert name not in tensors
    tensors[name] = torch.zeros(2)


def edit(path: Path, changes: dict[str, Callable[[str, Tensors], None]]) -> None:
    tensors = load_file(path)
    for name, change in changes.items():
        change(name, tensors)
    save_file(tensors, path)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """`values`: by place, the keys and indices on the way to it joined by slashes."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for place, value in values.items():
        *outer, last = (int(key) if key.isdigit() else key for key in place.split("/"))
        holder = content
        for key in outer:
            holder = holder[key]
        assert holder[last] != value
        holder[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


GRADIENT = "unet.up_blocks.0.pixel_attentions.0.proj_out.weight"
TENSORS = {
    "forward": {
        "guess/mid_res": drop,
        "fgmask/down_res/3": nudge,
        "lownone/degradation_rgb/0": nudge,
        "odd/cond_mid/2": make_nan,
        "normal/unet_sample": nudge,
        "in/main/strange": add,
        "strange/mid_res": add,
    },
    "debug": {
        "controlnet/mid_block.attentions_lowlevel.0": nudge,
        "unet/mid_block": make_nan,
        "unet/up_blocks.0": nudge,
        "unet/strange.0": add,
        "vae/decoder": add,
        "probe/time_proj_t0_t1_t501_t999": nudge,
        "probe/unet.down_blocks.0.resnets.0": nudge,
        "probe/strange": add,
    },
    "scheduler": {
        "alphas_cumprod": nudge,
        "betas": reshape,
        "timesteps/7": nudge,
        "velocity/out": make_infinite,
        "step/2/sample": drop,
        "step/3/prev_sample": nudge,
        "step/4/variance": nudge,
        "step/0/strange": add,
    },
    "prepare_latents": {
        "vae/moments": nudge,
        "vae/std": drop,
        "noise/init": drop,
        "noise/added": nudge,
        "img/level800_steps5/latents": nudge,
        "img/latents": add,
    },
    "colorfix": {
        "adain/float": nudge,
        "adain/flat_target_u8": nudge,
        "wavelet/u8": nudge,
        "wavelet/blur_r4": nudge,
        "wavelet/target_low": drop,
        "source_u8": nudge,
    },
    "loop": {
        "step/0/unet_out": nudge,
        "step/1/latents": nudge,
        "step/4/noise_pred": drop,
        "decoded": nudge,
        "decoded_uint8": nudge,
        "prompt_embeds": make_nan,
        "noise/step/5": add,
    },
    "loop_nocfg": {"n_unet_calls": nudge, "final_latents": nudge, "timesteps": nudge},
    "loop_noise": {"noise/init": nudge, "lowlevel_prompt_embeds": nudge},
    "tiled": {
        "tile_boxes_xyxy": nudge,
        "tile_weights_f64": nudge,
        "gaussian_weights_5x8_f64": nudge,
        "step/3/noise_pred": drop,
    },
    "tiled2": {"init_latents": nudge, "step/2/latents": nudge, "tile_weights_f64": drop},
    "loss": {
        "term/cond_mid/2": nudge,
        "term/degradation_rgb_mid": drop,
        "grad_total_norm": nudge,
        f"grad/{GRADIENT}": drop,
        f"updated/{GRADIENT}": nudge,
        "in/latents": nudge,
        "in/strange": add,
    },
}


@pytest.mark.parametrize("section", TENSORS)
def test_each_changed_tensor_is_off_and_no_other(section: str, folder: Path, pipe: XPSRPipeline) -> None:
    edit(folder / f"{section}.safetensors", TENSORS[section])
    assert sorted(off(System(folder, pipe), section)) == sorted(f"{section}:{name}" for name in TENSORS[section])


KINDS = [
    "forward:normal/cond_mid/1",  # stands for other cases too
    "scheduler:timesteps/*",
    "debug:probe/unet.*",
    "colorfix:wavelet/blur_r*",
    "prepare_latents:img/level*",
    "loss:grad/unet.*",
]


@pytest.mark.parametrize("row", KINDS)
def test_missing_kind_of_tensors_is_told(row: str, folder: Path, pipe: XPSRPipeline) -> None:
    section, name = row.split(":")
    edit(folder / f"{section}.safetensors", {name: drop})
    assert row in off(System(folder, pipe), section)


GIVEN = [
    ("forward", "in/odd/lowlevel_encoder_hidden_states", nudge),
    ("debug", "probe/temb", make_nan),
    ("scheduler", "step/1/model_output", nudge),
    ("scheduler", "add_noise/t", nudge),
    ("prepare_latents", "image", nudge),
    ("prepare_latents", "noise_mode/offset_noise", nudge),
    ("loop_nocfg", "noise/step/3", nudge),
    ("loss", "in/vae_posterior_noise", nudge),
    ("loss", "in/noise", drop),
]


@pytest.mark.parametrize(("section", "name", "change"), GIVEN)
def test_changed_input_is_told(
    section: str, name: str, change: Callable[[str, Tensors], None], folder: Path, pipe: XPSRPipeline
) -> None:
    edit(folder / f"{section}.safetensors", {name: change})
    assert off(System(folder, pipe), section) != []


WEIGHTS = [
    ("unet", "conv_in.bias", "debug"),
    ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.weight", "debug"),
    ("unet", "up_blocks.0.pixel_attentions.0.transformer_blocks.0.attn2.to_k.weight", "debug"),
    ("unet", "up_blocks.2.resnets.1.time_emb_proj.weight", "forward"),
    ("controlnet", "down_blocks.0.attentions.0.proj_in.weight", "debug"),
    ("controlnet", "down_blocks.1.attentions_lowlevel.0.transformer_blocks.0.attn2.to_v.weight", "debug"),
    ("controlnet", "mid_block.attentions_connect.0.transformer_blocks.0.attn2.to_k.weight", "debug"),
    ("controlnet", "conv_degradation.3.0.weight", "forward"),
    ("controlnet", "conv_degradation_mid.0.bias", "forward"),
    ("controlnet", "controlnet_cond_embedding.to_rgbs.1.weight", "forward"),
    ("controlnet", "controlnet_cond_embedding.blocks.4.weight", "debug"),
    ("controlnet", "controlnet_down_blocks.2.weight", "debug"),
    ("controlnet", "controlnet_mid_block.bias", "debug"),
    ("vae", "encoder.down_blocks.2.resnets.0.conv2.weight", "prepare_latents"),
    ("vae", "quant_conv.weight", "prepare_latents"),
    ("vae", "decoder.up_blocks.1.resnets.1.conv1.weight", "loop"),
    ("text_encoder", "encoder.layers.1.mlp.fc2.weight", "loop_nocfg"),
]


LAST = {network: key for network, key, _ in WEIGHTS}  # the others take their time


@pytest.mark.parametrize(
    ("network", "key", "section"),
    [one if one[1] in LAST.values() else pytest.param(*one, marks=pytest.mark.slow) for one in WEIGHTS],
)
def test_one_changed_weight_is_told(network: str, key: str, section: str, golden: Path, pipe: XPSRPipeline) -> None:
    to_reference = {"unet": unet_to_reference, "controlnet": controlnet_to_reference}.get(network, dict)
    parameter = to_reference(dict(getattr(pipe, network).named_parameters()))[key]
    right = parameter.data
    changed = {key: right.clone()}
    nudge(key, changed)
    parameter.data = changed[key]
    try:
        assert off(System(golden, pipe), section) != []
    finally:
        parameter.data = right


def test_one_changed_weight_in_a_file_is_told(folder: Path) -> None:
    edit(folder / "controlnet" / WEIGHTS_FILE, {"mid_block.attentions_lowlevel.0.proj_out.weight": nudge})
    assert off(load(folder), "debug") != []


# Values of the JSON files by place, and the rows that are off; none: they go into a computation of the section.
VALUES: list[tuple[str, dict[str, Any], str, list[str]]] = [
    (
        "run.json",
        {"token_ids/low/5": 84, "lat/1": 17, "t/0": 38, "tiled2/hw/0": 168, "emb/3": 97},
        "run",
        ["emb", "lat", "t", "tiled2", "token_ids.low"],
    ),
    (
        "run.json",
        {"low_negative_prompt_hardcoded": "high resolution"},
        "run",
        ["low_negative_prompt_hardcoded", "token_ids.low_neg"],
    ),
    ("run.json", {"steps": 4}, "loop_nocfg", []),
    ("run.json", {"guidance": 4.6}, "loop_noise", []),
    ("run.json", {"generator_seeds/prepare_latents": 8}, "prepare_latents", []),
    (
        "loss_info.json",
        {
            "trainable_unet_modules/0": "up_blocks.0",
            "n_trainable_unet": 103713,
            "params_with_no_grad": ["conv_in.bias"],
            "grad_norms/controlnet.mid_block.attentions_lowlevel.0.transformer_blocks.0.norm2.weight": 0.000151,
        },
        "loss",
        ["grad_norms (502)", "n_trainable_unet", "params_with_no_grad", "trainable_unet_modules"],
    ),
    (
        "from_unet.json",
        {"copied/conv_in.bias": "conv_out.bias", "counts/copied": 295, "zero_init/0": "conv_in.bias"},
        "from_unet",
        ["copied", "counts", "zero_init"],
    ),
    (
        "preprocess/cases.json",
        {"0/final_wh/0": 93, "1/after_upscale_wh/1": 201, "2/lr_wh/0": 134},
        "preprocess",
        ["large.after_upscale_wh", "small.final_wh", "x1.lr_wh"],
    ),
    ("preprocess/cases.json", {"0/process_size": 136}, "preprocess", []),
    ("preprocess/cases.json", {"2/upscale": 2}, "preprocess", []),
]


@pytest.mark.parametrize(("file", "values", "section", "rows"), VALUES, ids=[" ".join(case[1]) for case in VALUES])
def test_changed_values_are_told(
    file: str, values: dict[str, Any], section: str, rows: list[str], folder: Path, pipe: XPSRPipeline
) -> None:
    write_json(folder / file, values)
    found = off(System(folder, pipe), section)
    assert found
    assert not rows or sorted(found) == [f"{file}:{row}" for row in rows]


@sdpa_kernel(SDPBackend.MATH)  # fused kernels round such a zero to something else on some processors
def test_gradients_that_are_exact_zeros_are_not_absent(folder: Path, pipe: XPSRPipeline) -> None:
    # at this size a query of the middle block has one key to attend to, whose weight is 1 whatever the two are
    golden = load_file(folder / "loss.safetensors")
    inputs = {
        name: value[..., : value.shape[-2] // 2, : value.shape[-1] // 2] if value.ndim == 4 else value
        for name, value in golden.items()
        if name.startswith("in/")
    }
    outputs, gradients = training_step(System(folder, copy.deepcopy(pipe)), inputs)
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items() if gradient is not None}
    zeros = [name for name, norm in norms.items() if norm == 0]
    assert "controlnet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight" in zeros
    made = {**inputs, **outputs}
    save_file({name: made[name].contiguous() for name in golden}, folder / "loss.safetensors")
    write_json(folder / "loss_info.json", {"grad_norms": norms})
    assert off(System(folder, pipe), "loss") == []
    write_json(folder / "loss_info.json", {"params_with_no_grad": zeros})
    assert off(System(folder, pipe), "loss") == ["loss_info.json:params_with_no_grad"]


CONFIGS: dict[str, tuple[str, str, Any, str]] = {
    "UNet's heads": ("unet", "attention_head_dim", 8, "debug"),
    "UNet's groups": ("unet", "norm_num_groups", 4, "debug"),
    "noise schedule": ("scheduler", "beta_end", 0.0121, "scheduler"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_one_changed_config_is_told(kind: str, folder: Path) -> None:
    network, key, value, section = CONFIGS[kind]
    file = "scheduler_config" if network == "scheduler" else "config"
    write_json(folder / network / f"{file}.json", {key: value})
    assert off(load(folder), section) != []


PICTURES = {
    "loop_image.png": "loop_nocfg",
    "tiled2_image.png": "tiled2",
    "colorfix_source.png": "colorfix",
    "preprocess/x1_lr.png": "preprocess",
    "preprocess/small_pipeline_input.png": "preprocess",
    "preprocess/large_final_resize_of_input.png": "preprocess",
}


@pytest.mark.parametrize("file", PICTURES)
def test_one_changed_pixel_is_told(file: str, folder: Path, pipe: XPSRPipeline) -> None:
    with Image.open(folder / file) as opened:
        picture = opened.convert("RGB")
    place = (picture.width // 2, picture.height // 2)
    red, *others = picture.getpixel(place)  # type: ignore[misc]
    picture.putpixel(place, (red + 3 if red < 128 else red - 3, *others))
    picture.save(folder / file)
    assert off(System(folder, pipe), PICTURES[file]) != []


FILES = {
    **{
        f"{name}.safetensors": name for name in ("forward", "debug", "scheduler", "prepare_latents", "colorfix", "loss")
    },
    **{f"{name}.safetensors": name for name in ("loop", "loop_nocfg", "loop_noise", "tiled", "tiled2")},
    "from_unet.json": "from_unet",
    "loss_info.json": "loss",
    "preprocess/cases.json": "preprocess",
    "preprocess/x1_lr.png": "preprocess",
    "colorfix_target.png": "colorfix",
    "loop_image.png": "loop_nocfg",
    "tiled_image.png": "tiled",
}


@pytest.mark.parametrize("file", FILES)
def test_missing_file_is_told(file: str, folder: Path, pipe: XPSRPipeline) -> None:
    (folder / file).unlink()
    assert off(System(folder, pipe), FILES[file]) == [FILES[file]]


def test_dropped_case_and_unknown_file_are_told(folder: Path, pipe: XPSRPipeline) -> None:
    path = folder / "preprocess/cases.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))[:-1]), encoding="utf-8")
    found = off(System(folder, pipe), "preprocess")
    assert found == [f"preprocess/x1_{kind}.png" for kind in ("final_resize_of_input", "lr", "pipeline_input")]
    save_file({"sample": torch.zeros(1)}, folder / "strange.safetensors")
    assert off(System(folder, pipe), "strange") == ["strange:sample"]


DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "cut UNet": (f"unet/{WEIGHTS_FILE}", cut, f"unet/{WEIGHTS_FILE}: cannot be read"),
    "no ControlNet": ("controlnet/config.json", Path.unlink, "controlnet: no config.json there"),
    "cut config": ("vae/config.json", cut, "vae/config.json: is not JSON"),
    "no vocabulary": ("tokenizer/vocab.json", Path.unlink, "tokenizer: neither tokenizer.json nor vocab.json there"),
    "cut settings": ("run.json", cut, "run.json: not JSON"),
    "unknown noise schedule": (
        "scheduler/scheduler_config.json",
        lambda path: write_json(path, {"beta_schedule": "strange"}),
        "strange",
    ),
    "missing weight": (
        f"controlnet/{WEIGHTS_FILE}",
        lambda path: edit(path, {"conv_in.bias": drop}),
        "the weights do not match the config: missing: conv_in.bias",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folder_is_refused_in_one_line(damage: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, change, reason = DAMAGES[damage]
    change(folder / file)
    assert report(folder) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "0 of 1 ok"
    (line,) = [line for line in captured.err.splitlines() if line.startswith("OFF: ")]
    assert reason in line
    assert "Traceback" not in captured.err


def test_folder_that_is_not_there_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tmp_path / "gone") == 1
    assert "gone: no such folder" in capsys.readouterr().err


def test_damaged_numbers_leave_the_other_files_compared(
    folder: Path, pipe: XPSRPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(folder / "debug.safetensors")
    few = {name: section for name, section in sections(folder).items() if name in ("debug", "scheduler")}
    monkeypatch.setattr("verify_golden.sections", lambda _: few)
    monkeypatch.setattr("verify_golden.load", lambda _: System(folder, pipe))
    assert report(folder) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "25 of 26 ok"
    assert captured.err.startswith("OFF: debug: inf > 0e+00 SafetensorError")
