"""A tiny model of the mini's kind, pictures, batches and runs, for the tests of training."""

import copy
import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from xpsr.config import DataConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig, TrainRunConfig
from xpsr.data import Batch, generator_for
from xpsr.features import FeatureNetwork
from xpsr.models import HaarAutoencoder
from xpsr.training import Components, XPSRLoss, build_components, train

TINY = ModelConfig(
    block_out_channels=(8,),
    num_attention_heads=(1,),
    norm_num_groups=4,
    conditioning_channels=(4, 4, 8),
    text_width=16,
    text_layers=1,
    decoder_channels=8,
    decoder_layers=1,
)
TWO_LEVELS = replace(TINY, block_out_channels=(8, 16), num_attention_heads=(1, 1))
"""With layers between the levels, for tests of what is learned; runs are those of one level."""


@functools.cache
def _built(seed: int, model: ModelConfig, **options: Any) -> tuple[Components, torch.Tensor]:
    """Components, and the state of chance after they were made."""
    torch.manual_seed(seed)
    parts = build_components(model, torch.rand(4, 3, 32, 32), **options)
    return parts, torch.get_rng_state()


def components(seed: int = 0, *, noisy: bool = False, model: ModelConfig = TINY, **options: Any) -> Components:
    """New components; with `noisy`, no layer is zero, so that nothing hides behind it."""
    parts, state = _built(seed, model, **options)
    parts = copy.deepcopy(parts)
    torch.set_rng_state(state)
    if noisy:
        with torch.no_grad():
            for parameter in parts.trainable().parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator_for(1)) * 0.05)
    return parts


def components_of_levels(**options: Any) -> Components:
    return components(model=TWO_LEVELS, **options)


def refined_vae() -> HaarAutoencoder:
    """An autoencoder of the first minis' kind, no layer of which is zero."""
    vae = HaarAutoencoder(refiner_channels=4)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator_for(1)) * 0.05)
    return vae


def save_photos(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / f"p{index}.png")
    return folder


def run_config(photos: Path, output: Path, **changes: Any) -> TrainRunConfig:
    settings: dict[str, Any] = {
        "max_steps": 4,
        "batch_size": 4,
        "checkpoint_every": 2,
        "log_every": 1,
        "precision": "fp32",
    }
    return TrainRunConfig(
        model=TINY,
        data=DataConfig(hr_dir=photos, crop_size=32),
        optimizer=OptimizerConfig(warmup_steps=1),
        train=TrainConfig(output_dir=output, **(settings | changes)),
    )


def run(config: TrainRunConfig, **options: Any) -> tuple[bool, dict[str, torch.Tensor]]:
    """Trains a fresh model and returns whether the run is complete, and the averaged weights as they were exported."""
    exported: dict[str, torch.Tensor] = {}

    def export(parts: Components, path: Path) -> None:
        path.mkdir(exist_ok=True)
        exported.update({k: v.clone() for k, v in parts.trainable().state_dict().items()})

    complete = train(config, components(), export=export, device=torch.device("cpu"), **options)
    return complete, exported


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses_of(folder: Path) -> dict[int, float]:
    return {int(row["step"]): row["loss"] for row in rows_of(folder) if "loss" in row}


def batch(parts: Components, rows: int = 4) -> Batch:
    generator = generator_for(0)
    hr = torch.rand(rows, 3, 32, 32, generator=generator)
    lr = interpolate(hr, scale_factor=0.25, mode="area")

    def ids(text: str) -> torch.Tensor:
        return parts.tokenizer([text] * rows, padding="max_length", return_tensors="pt").input_ids

    return Batch(
        hr=hr,
        lr=lr,
        content_ids=ids("a red panda"),
        quality_ids=ids("a very blurry photograph"),
        is_clean=torch.zeros(rows, dtype=torch.bool),
        indices=torch.arange(rows),
        teacher=hr,
        has_teacher=torch.zeros(rows, dtype=torch.bool),
    )


class PixelFeatures(FeatureNetwork):
    """A network that looks at pixels as they are."""

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [pixels]


def restored_by(parts: Components, one: Batch, *, timestep: int = 250, **changes: Any) -> torch.Tensor:
    """Returns what the one step makes of a batch."""
    config = LossConfig(one_step_fraction=1.0, efficientnet_weight=1.0, **changes)
    losses = XPSRLoss(parts, config, timestep, {"efficientnet": PixelFeatures()})(one, generator_for(0))
    return losses.restored["efficientnet"][0]
