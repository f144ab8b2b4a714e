"""AdamW and what surrounds a step: the learning rate, clipping."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from xpsr.config import OptimizerConfig
from xpsr.errors import MissingDependencyError

__all__ = ["build_optimizer", "learning_rate", "optimizer_step"]


def build_optimizer(parameters: Sequence[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Builds AdamW with an epsilon of 1e-8; its 8-bit kinds keep both moments in a byte each.

    Raises:
        MissingDependencyError: an 8-bit kind without its package.
    """
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
        "eps": 1e-8,
    }
    if config.kind == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    try:
        if config.kind == "torchao_8bit":
            from torchao.optim import AdamW8bit
        else:
            from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        package = config.kind.partition("_")[0]
        raise MissingDependencyError(
            f"needs {package}", field="optimizer.kind", value=config.kind, remedy=f"run `pip install {package}`"
        ) from error
    return AdamW8bit(parameters, **options)


def learning_rate(config: OptimizerConfig, step: int, max_steps: int) -> float:
    """Returns the rate of update `step` (from 0): a linear warm-up, then the schedule, which ends at `max_steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = min((step - config.warmup_steps) / max(max_steps - config.warmup_steps, 1), 1.0)
    match config.schedule:
        case "constant":
            return config.learning_rate
        case "linear":
            left = 1 - progress
        case "cosine":
            left = (1 + math.cos(math.pi * progress)) / 2
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * left


def optimizer_step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], *, learning_rate: float, max_grad_norm: float
) -> torch.Tensor:
    """Updates `parameters` once after clipping their joint gradient; returns its norm before that."""
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    set_learning_rate(optimizer, learning_rate)
    optimizer.step()
    return norm


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the rate of all groups; in place where an optimizer keeps a tensor, as torchao's does."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value
