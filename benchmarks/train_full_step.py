"""Takes real optimizer steps at Stable Diffusion 1.5's size with random weights.

    python -m benchmarks.train_full_step [--size 256] [--steps 2]

The run is that of configs/train_sd15.yaml (the ControlNet and the conditional attentions learn, bfloat16, gradient
checkpointing) on one picture at a time and without an average, in this process: `xpsr train` has the same loop. Prints
seconds and the peak memory. Needs 20 GB of memory, and with --save 11 GB of disk for the checkpoint.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image

from benchmarks.memory import peak_memory
from benchmarks.reporting import ROOT, machine
from benchmarks.weights import with_random_weights
from xpsr.config import TrainRunConfig, load_config
from xpsr.training import Checkpoints, Components, build_tokenizer, train
from xpsr.training.planning import meta_components


def build(config: TrainRunConfig) -> Components:
    empty = meta_components(config)
    return Components(
        vae=with_random_weights(empty.vae),
        text_encoder=with_random_weights(empty.text_encoder),
        tokenizer=build_tokenizer(None, 2048),
        unet=with_random_weights(empty.unet),
        controlnet=with_random_weights(empty.controlnet),
        scheduler=DDPMScheduler.from_config(empty.scheduler.config),  # the other's tables are on the meta device
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="the first one also makes AdamW's moments (default: 2)")
    parser.add_argument("--size", type=int, default=256, help="pixels of the crop's side (default: 256)")
    parser.add_argument("--save", action="store_true", help="write the checkpoint, too")
    args, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "photos").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (args.size * 2, args.size * 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / "noise.png")
        config = load_config(
            TrainRunConfig,
            ROOT / "configs" / "train_sd15.yaml",
            [
                f"--data.hr_dir={folder / 'photos'}",
                "--data.priors=null",
                f"--data.crop_size={args.size}",
                f"--train.output_dir={folder / 'run'}",
                f"--train.max_steps={args.steps}",
                "--train.batch_size=1",
                "--train.gradient_accumulation_steps=1",
                "--train.log_every=1",
                "--train.num_workers=0",
                "--train.device=cpu",
                "--optimizer.ema_decay=0",
                *overrides,
            ],
        )
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, one_step_timestep=None))
        started = time.perf_counter()
        components = build(config)
        built = {"seconds_to_build": time.perf_counter() - started, "peak_gb_built": peak_memory() / 1e9}
        with nullcontext() if args.save else mock.patch.object(Checkpoints, "save"):
            train(config, components, export=lambda *_: None, device=torch.device("cpu"))
        rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        trained = sum(p.numel() for p in components.trainable().parameters() if p.requires_grad)
    result = {
        **built,
        "seconds_per_step": [round(1 / row["samples_per_second"], 2) for row in rows],
        "memory_gb_after_step": [row["memory_gb"] for row in rows],
        "losses": [row["loss"] for row in rows],
        "peak_gb": peak_memory() / 1e9,
        "trained_parameters": trained,
        "size": args.size,
        "threads": torch.get_num_threads(),
        **machine(("xpsr", "torch", "diffusers", "transformers")),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
