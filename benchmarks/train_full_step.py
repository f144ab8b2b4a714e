"""Takes real optimizer steps at Stable Diffusion 1.5's size with random weights.

    python benchmarks/train_full_step.py [--size 256] [--steps 2]

The run is that of configs/train_sd15.yaml (the ControlNet and the conditional attentions learn, bfloat16, gradient
checkpointing) on one picture at a time and without an average, in this process: `xpsr train` has the same loop. Prints
seconds and the peak memory. Needs 20 GB of memory, and with --save 11 GB of disk for the checkpoint.
"""

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from xpsr.config import TrainRunConfig, load_config
from xpsr.models import XPSRControlNet, XPSRUNet
from xpsr.training import Components, build_tokenizer, train
from xpsr.training.checkpoints import Checkpoints
from xpsr.training.planning import STABLE_DIFFUSION_1_5

ROOT = Path(__file__).resolve().parents[1]


def with_random_weights(network: nn.Module) -> Any:
    """A network of the meta device with weights such that activations neither die nor explode."""
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)  # the latter of a norm
        for name, buffer in network.named_buffers():
            assert name.endswith("position_ids"), name
            buffer.copy_(torch.arange(buffer.shape[-1]))
    return network


def build() -> Components:
    sizes = STABLE_DIFFUSION_1_5
    with torch.device("meta"):
        unet, controlnet = XPSRUNet.from_config(sizes["unet"]), XPSRControlNet.from_config(sizes["controlnet"])
        vae = AutoencoderKL.from_config(sizes["vae"])
        text_encoder = CLIPTextModel(CLIPTextConfig(**sizes["text_encoder"]))
    return Components(
        vae=with_random_weights(vae),
        text_encoder=with_random_weights(text_encoder),
        tokenizer=build_tokenizer(None, 2048),
        unet=with_random_weights(unet),
        controlnet=with_random_weights(controlnet),
        scheduler=DDPMScheduler.from_config(sizes["scheduler"]),
    )


def peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="the first one also makes AdamW's moments (default: 2)")
    parser.add_argument("--size", type=int, default=256, help="pixels of the crop's side (default: 256)")
    parser.add_argument("--save", action="store_true", help="write the checkpoint, too")
    parser.add_argument("--json", metavar="FILE", type=Path)
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
        if not args.save:
            Checkpoints.save = lambda *_, **__: None  # type: ignore[method-assign]
        started = time.perf_counter()
        components = build()
        built = {"seconds_to_build": time.perf_counter() - started, "peak_gb_built": peak_gb()}
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, one_step_timestep=None))
        train(config, components, export=lambda *_: None, device=torch.device("cpu"))
        rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        trained = sum(p.numel() for p in components.trainable().parameters() if p.requires_grad)
    result = {
        **built,
        "seconds_per_step": [round(1 / row["samples_per_second"], 2) for row in rows],
        "memory_gb_after_step": [row["memory_gb"] for row in rows],
        "losses": [row["loss"] for row in rows],
        "peak_gb": peak_gb(),
        "trained_parameters": trained,
        "size": args.size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
