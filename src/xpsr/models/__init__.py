"""The two networks of XPSR and what they need around them. Blocks are diffusers' own; nothing of them is copied.

`attention`, `controlnet` and `unet` are the method (arXiv 2403.05049; the mapping to the reference's checkpoints is in
`xpsr.checkpoint`), `denoiser` puts them together, `scheduling` says what their outputs mean, and `storage` keeps their
weights in fewer bits. `autoencoder` belongs to the mini, and `strips` to what is larger than memory.
"""

from diffusers import ModelMixin  # noqa: F401  # diffusers looks for it in the module that model_index.json names

from xpsr.models.attention import SemanticFusionAttention, WindowAttnProcessor
from xpsr.models.autoencoder import (
    GRID_HALO,
    HAAR_AUTOENCODERS,
    DeepHaarAutoencoder,
    HaarAutoencoder,
    HaarPackets,
)
from xpsr.models.controlnet import XPSRControlNet, XPSRControlNetOutput
from xpsr.models.denoiser import Denoiser, DenoiserCache
from xpsr.models.scheduling import (
    estimate_clean,
    own_scheduler,
    predict_one_step,
    predict_original_sample,
    start_at,
)
from xpsr.models.storage import store_weights
from xpsr.models.strips import Rows, joined, streamed
from xpsr.models.unet import XPSRUNet, XPSRUNetOutput

__all__ = [
    "GRID_HALO",
    "HAAR_AUTOENCODERS",
    "DeepHaarAutoencoder",
    "Denoiser",
    "DenoiserCache",
    "HaarAutoencoder",
    "HaarPackets",
    "Rows",
    "SemanticFusionAttention",
    "WindowAttnProcessor",
    "XPSRControlNet",
    "XPSRControlNetOutput",
    "XPSRUNet",
    "XPSRUNetOutput",
    "estimate_clean",
    "joined",
    "own_scheduler",
    "predict_one_step",
    "predict_original_sample",
    "start_at",
    "store_weights",
    "streamed",
]

# What model_index.json calls them must not depend on which file they live in
for _class in (*HAAR_AUTOENCODERS.values(), XPSRControlNet, XPSRUNet):
    _class.__module__ = __name__
