"""Rehearses Stable Diffusion 1.5's size with random weights.

    python -m benchmarks.rehearse_full [FOLDER] [--json FILE]

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
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.combinations import PICTURE
from benchmarks.memory import peak_memory
from benchmarks.reporting import machine
from benchmarks.tables import markdown_table
from benchmarks.weights import random_weights
from xpsr import Prior, XPSRPipeline
from xpsr.checkpoint import controlnet_to_reference, unet_to_reference
from xpsr.convert import convert_reference
from xpsr.devices import fast_dtypes
from xpsr.models import XPSRControlNet, XPSRUNet
from xpsr.training import build_tokenizer
from xpsr.training.planning import STABLE_DIFFUSION_1_5

GIGABYTES = 20
Sizes = Mapping[str, dict[str, Any]]
# What the reference's and Stable Diffusion's configs say beside the sizes
STORED: Sizes = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "down_use_lowlevel_prompt": False,
        "mid_use_lowlevel_prompt": False,
        "up_use_lowlevel_prompt": [False] * 4,
    },
    "controlnet": {
        "_class_name": "ControlNetModel",
        "return_rgbs": True,
        "use_latent_pred": True,
        "use_lowlevel_prompt": True,
        "use_rrdb": False,
    },
    "vae": {"_class_name": "AutoencoderKL"},
    "text_encoder": {"architectures": ["CLIPTextModel"]},
    "scheduler": {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
}


def write_system(folder: Path, sizes: Sizes = STABLE_DIFFUSION_1_5, max_shard_size: str = "2GB") -> None:
    """Writes random weights in the reference's layout, and a base beside them; at most a shard is in memory.

    `sizes` are the configs of the parts beyond the classes' defaults.
    """
    text_config = CLIPTextConfig(**sizes["text_encoder"])
    with torch.device("meta"):
        states = {
            "unet": unet_to_reference(XPSRUNet.from_config(sizes["unet"]).state_dict()),
            "controlnet": controlnet_to_reference(XPSRControlNet.from_config(sizes["controlnet"]).state_dict()),
            "vae": AutoencoderKL.from_config(sizes["vae"]).state_dict(),
            "text_encoder": CLIPTextModel(text_config).state_dict(),
        }
    configs = {**sizes, "text_encoder": text_config.to_dict()}
    for name, stored in STORED.items():
        part = folder / name
        part.mkdir(parents=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        write_json(part / file, {**configs[name], **stored})
        if name in states:
            stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
            write_weights(part, states[name], stem, max_shard_size)
    build_tokenizer(None, min(2048, text_config.vocab_size)).save_pretrained(folder / "tokenizer")


def write_weights(folder: Path, state: dict[str, torch.Tensor], stem: str, max_shard_size: str) -> None:
    """Writes random tensors of the shapes in `state`."""
    generator = torch.Generator().manual_seed(0)
    plan = split_torch_state_dict_into_shards(
        state, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=max_shard_size
    )
    for file, keys in plan.filename_to_tensors.items():
        shard = {key: random_weights(key, state[key].shape, generator) for key in keys}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / f"{stem}.safetensors.index.json", index)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


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
        prior=Prior(),
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
    return {**result, "seconds": time.perf_counter() - start, "peak_gb": peak_memory() / 1e9}


def apart(function: Callable[..., dict[str, float] | None], *arguments: object) -> dict[str, float]:
    """`measure` in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, function, *arguments).result()


def rehearse(folder: Path) -> dict[str, dict[str, float]]:
    """All parts, one after the other; what was measured, by part. Writes `folder/reference` and `folder/model`."""
    reference, model = folder / "reference", folder / "model"
    results = {"write": apart(write_system, reference)}
    results["convert"] = apart(partial(convert_reference, base=reference), reference, model)
    results["convert"]["weights_gb"] = sum(path.stat().st_size for path in model.rglob("*.safetensors")) / 1e9
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        results[f"restore {name}"] = apart(restore, model, dtype)
    return results


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
    rows = {
        name: {column.replace("_", " "): f"{value:.1f}" for column, value in row.items()}
        for name, row in results.items()
    }
    print(markdown_table(rows))
    if args.json is not None:
        facts = {**machine(("xpsr", "torch", "diffusers", "transformers")), "threads": torch.get_num_threads()}
        args.json.write_text(json.dumps({**facts, "parts": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
