"""Training: the losses, one step, and the loop around it."""

from xpsr.training.adversary import FeatureDiscriminator
from xpsr.training.cache import EncodingCache
from xpsr.training.checkpoints import Checkpoints, is_finished
from xpsr.training.components import (
    Components,
    build_components,
    build_from_base,
    build_tokenizer,
    choose_parts,
    merge_adapters,
    save_adapters,
    with_schedule,
    without_fusion,
)
from xpsr.training.engine import Export, Validate, train
from xpsr.training.grid import grid_distance
from xpsr.training.losses import BatchSlice, Losses, XPSRLoss, degradation_free_terms, diffusion_loss, min_snr_weights
from xpsr.training.optimizers import build_optimizer, learning_rate, optimizer_step
from xpsr.training.planning import plan_run
from xpsr.training.run_log import OnMetrics, environment, plot_metrics

__all__ = [
    "FeatureDiscriminator",
    "BatchSlice",
    "Checkpoints",
    "Components",
    "EncodingCache",
    "Export",
    "Losses",
    "OnMetrics",
    "Validate",
    "XPSRLoss",
    "build_components",
    "build_from_base",
    "build_optimizer",
    "build_tokenizer",
    "choose_parts",
    "degradation_free_terms",
    "diffusion_loss",
    "environment",
    "grid_distance",
    "is_finished",
    "learning_rate",
    "merge_adapters",
    "min_snr_weights",
    "optimizer_step",
    "plan_run",
    "plot_metrics",
    "save_adapters",
    "train",
    "with_schedule",
    "without_fusion",
]
