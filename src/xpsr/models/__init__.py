"""The two networks of XPSR and the small networks around them. Blocks are diffusers' own; nothing of them is copied.

`attention`, `controlnet` and `unet` are the method (arXiv 2403.05049; the mapping to the reference's checkpoints is in
`xpsr.checkpoint`), `denoiser` puts them together, `storage` keeps
their weights in fewer bits. `autoencoder` belongs to the bundled miniature.
"""

from diffusers import ModelMixin  # noqa: F401  # diffusers looks for it in the module that model_index.json names

from xpsr.models.attention import SemanticFusionAttention, WindowAttention, WindowAttnProcessor
from xpsr.models.autoencoder import (
    GRID_HALO,
    HAAR_AUTOENCODERS,
    DeepHaarAutoencoder,
    HaarAutoencoder,
    HaarPackets,
    ResidualDecoder,
)
from xpsr.models.controlnet import ImageEncoder, XPSRControlNet, XPSRControlNetOutput
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
from xpsr.models.unet import ConditionalUpBlock, XPSRUNet, XPSRUNetOutput

__all__ = [
    "GRID_HALO",
    "HAAR_AUTOENCODERS",
    "ConditionalUpBlock",
    "DeepHaarAutoencoder",
    "Denoiser",
    "DenoiserCache",
    "HaarAutoencoder",
    "HaarPackets",
    "ImageEncoder",
    "ResidualDecoder",
    "Rows",
    "SemanticFusionAttention",
    "WindowAttention",
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
