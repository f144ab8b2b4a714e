"""Rehearses Stable Diffusion 1.5's size with random weights.

    python benchmarks/rehearse_full.py [FOLDER] [--json FILE]

Writes a whole system in the reference's layout, in shards; converts it as `xpsr convert` does; and, in float32 and in
bfloat16, loads it as `XPSRPipeline.from_pretrained` does and restores examples/moose.png (128 x 128, to 512 x 512) in
two steps. Where the CPU has no fast bfloat16 only the weights are, and the arithmetic is float32. Each part runs
in a process of its own. Prints the seconds and the peak memory of each, pages of mapped files included. The result is
noise; that it is finite is checked.

Needs 20 GB of disk in FOLDER, a new or empty one that is kept (by default a temporary one, which is not), and 16 GB of
memory.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from xpsr import XPSRPipeline
from xpsr.batch import fast_dtypes
from xpsr.checkpoint import controlnet_to_reference, unet_to_reference
from xpsr.convert import convert_reference
from xpsr.models import XPSRControlNet, XPSRUNet
from xpsr.training import build_tokenizer
from xpsr.training.planning import STABLE_DIFFUSION_1_5 as SIZES

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "examples" / "moose.png"
GIGABYTES = 20
REFERENCE_FLAGS = {
    "unet": {
        "down_use_lowlevel_prompt": False,
        "mid_use_lowlevel_prompt": False,
        "up_use_lowlevel_prompt": [False] * 4,
    },
    "controlnet": {"return_rgbs": True, "use_latent_pred": True, "use_lowlevel_prompt": True, "use_rrdb": False},
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


@dataclass(frozen=True, kw_only=True)
class System:
    """The sizes of a whole system: what its configs hold beyond the classes' defaults."""

    unet: dict[str, Any]
    controlnet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]


STABLE_DIFFUSION_1_5 = System(
    **{name: SIZES[name] for name in ("unet", "controlnet", "vae", "text_encoder")},
)


def write_system(folder: Path, system: System, max_shard_size: str = "2GB") -> None:
    """Random weights in the reference's layout, and a base beside them; no more than a shard is in memory."""
    with torch.device("meta"):
        unet, controlnet = XPSRUNet.from_config(system.unet), XPSRControlNet.from_config(system.controlnet)
        vae = AutoencoderKL.from_config(system.vae)
        text_config = CLIPTextConfig(**system.text_encoder)
        text_encoder = CLIPTextModel(text_config)
    for name, class_name, state, config, stem in (
        ("unet", "UNet2DConditionModel", unet_to_reference(unet.state_dict()), system.unet, "diffusion_pytorch_model"),
        (
            "controlnet",
            "ControlNetModel",
            controlnet_to_reference(controlnet.state_dict()),
            system.controlnet,
            "diffusion_pytorch_model",
        ),
        ("vae", "AutoencoderKL", vae.state_dict(), system.vae, "diffusion_pytorch_model"),
        ("text_encoder", "CLIPTextModel", text_encoder.state_dict(), text_config.to_dict(), "model"),
    ):
        (folder / name).mkdir(parents=True)
        config = {**config, **REFERENCE_FLAGS.get(name, {}), "_class_name": class_name}
        write_json(folder / name / "config.json", config)
        write_weights(folder / name, state, stem, max_shard_size)
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    vocabulary = min(2048, text_config.vocab_size)
    build_tokenizer(None, vocabulary).save_pretrained(folder / "tokenizer")


def write_weights(folder: Path, state: dict[str, torch.Tensor], stem: str, max_shard_size: str) -> None:
    """Writes random tensors of the shapes in `state`, such that activations neither die nor explode."""
    generator = torch.Generator().manual_seed(0)

    def draw(key: str) -> torch.Tensor:
        shape = state[key].shape
        if len(shape) == 1:
            return torch.zeros(shape) if key.endswith("bias") else torch.ones(shape)  # the latter of a norm
        return torch.randn(shape, generator=generator) * shape[1:].numel() ** -0.5

    plan = split_torch_state_dict_into_shards(
        state, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=max_shard_size
    )
    for file, keys in plan.filename_to_tensors.items():
        save_file({key: draw(key) for key in keys}, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / f"{stem}.safetensors.index.json", index)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def convert(folder: Path, out: Path) -> None:
    """What `xpsr convert FOLDER --base FOLDER -o OUT` does."""
    convert_reference(folder, out, base=folder)


def restore(model: Path, dtype: torch.dtype) -> dict[str, float]:
    """Two steps on the picture; seconds to load, of each step (the first with all that goes before) and in all."""
    start = time.perf_counter()
    pipe = XPSRPipeline.from_pretrained(model, dtype=dtype)
    if dtype is torch.bfloat16 and "bf16" not in fast_dtypes(torch.device("cpu")):
        # a convolution in bfloat16 takes 200 times as long where the CPU has no instructions for it: weights stay as
        # they are stored, arithmetic is float32
        for network in (pipe.unet, pipe.controlnet, pipe.vae):
            network.enable_layerwise_casting(storage_dtype=dtype, compute_dtype=torch.float32)
            for name, module in network.named_modules():
                if "norm" in name:  # which upstream leaves as they are loaded
                    module.float()
        pipe.text_encoder.float()
    times = [time.perf_counter()]

    def on_step_end(*_: object) -> dict[str, torch.Tensor]:
        times.append(time.perf_counter())
        return {}

    pipe(
        PICTURE,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=on_step_end,
    )
    return {
        "load_seconds": times[0] - start,
        **{f"step_{step}_seconds": times[step] - times[step - 1] for step in range(1, len(times))},
    }


def measure(function: Callable[..., dict[str, float] | None], *arguments: object) -> dict[str, float]:
    """Calls a function; what it returns, its seconds, and the peak memory of this process so far, in GB."""
    start = time.perf_counter()
    result = function(*arguments) or {}
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    return {**result, "seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


def apart(function: Callable[..., dict[str, float] | None], *arguments: object) -> dict[str, float]:
    """`measure` in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, function, *arguments).result()


def rehearse(folder: Path, system: System = STABLE_DIFFUSION_1_5) -> dict[str, dict[str, float]]:
    """All parts, one after the other; what was measured, by part. Writes `folder/reference` and `folder/model`."""
    reference, model = folder / "reference", folder / "model"
    results = {"write": apart(write_system, reference, system)}
    results["convert"] = apart(convert, reference, model)
    results["convert"]["weights_gb"] = sum(path.stat().st_size for path in model.rglob("*.safetensors")) / 1e9
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        results[f"restore {name}"] = apart(restore, model, dtype)
    return results


def print_table(results: dict[str, dict[str, float]]) -> None:
    columns = list(dict.fromkeys(column for row in results.values() for column in row))
    print("| |", " | ".join(column.replace("_", " ") for column in columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in results.items():
        print(f"| {name} |", " | ".join(f"{row[column]:.1f}" if column in row else "" for column in columns), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what was measured there, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            parser.error(f"{folder} is not empty")
        free = shutil.disk_usage(folder).free / 1e9
        if free < GIGABYTES:
            parser.error(f"{folder} has {free:.0f} GB free, which is less than the {GIGABYTES} that are needed")
        results = rehearse(folder)
    print_table(results)
    if args.json is not None:
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        }
        args.json.write_text(json.dumps({**machine, "parts": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
