"""A network small enough to be made in every test."""

from typing import Any

__all__ = ["TINY", "Config"]

Config = dict[str, Any]

TINY: Config = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,  # diffusers' name for the number of heads
    "norm_num_groups": 4,
}
