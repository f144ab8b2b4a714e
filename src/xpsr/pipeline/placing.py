"""A pipeline opened on its device: in what its weights lie, what of them waits elsewhere, and what is compiled."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from xpsr.devices import Offload
from xpsr.pipeline.loading import check_parts, load_parts
from xpsr.pipeline.pipeline import XPSRPipeline

__all__ = ["compile_blocks", "open_pipeline"]

logger = logging.getLogger(__name__)

# The libraries' bars are switched for the whole process
_LOADING = threading.Lock()


def open_pipeline(
    folder: Path, device: torch.device, *, dtype: torch.dtype, weights_dtype: torch.dtype, offload: Offload
) -> XPSRPipeline:
    """Returns the pipeline of a model's folder, without the libraries' bars; what an offload moves goes to the log.

    Args:
        folder: of the model.
        device: where it computes.
        dtype: in which it computes.
        weights_dtype: in which its weights lie in memory; see `xpsr.models.store_weights`.
        offload: what waits in the computer's memory while the rest is on the device.

    Raises:
        ModelError: the model cannot be loaded.
    """
    with _LOADING, _without_bars():
        if weights_dtype == dtype:
            pipe = XPSRPipeline.from_pretrained(folder, dtype=dtype)
        else:
            pipe = _with_stored_weights(folder, dtype, weights_dtype)
    if device.type == "cuda":
        for network in (pipe.unet, pipe.controlnet):  # as its convolutions in half precision read them
            network.to(memory_format=torch.channels_last)
    if offload == "none":
        pipe.to(device)
    elif offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=True)
    if offload != "none":
        logger.info("offload=%s: %s", offload, _cost_of(offload, pipe))
    return pipe


def compile_blocks(pipe: XPSRPipeline, backend: str) -> None:
    """Has torch compile the repeated blocks of both networks, at the first call with each size of tiles."""
    for network in (pipe.unet, pipe.controlnet):
        network.compile_repeated_blocks(backend=backend)


def _with_stored_weights(folder: Path, dtype: torch.dtype, weights_dtype: torch.dtype) -> XPSRPipeline:
    """A pipeline that computes in `dtype`, with weights that lie in memory in `weights_dtype`."""
    name = XPSRPipeline.__name__
    parts = load_parts(folder, given=(), pipeline=name, dtype=dtype, variant=None, weights_dtype=weights_dtype)
    pipe = XPSRPipeline.from_pretrained(folder, **parts, dtype=dtype)
    check_parts(pipe, folder)
    return pipe


def _cost_of(offload: Offload, pipe: XPSRPipeline) -> str:
    """What an offload moves, in words."""

    def size(*names: str) -> float:
        parameters = (parameter for name in names for parameter in getattr(pipe, name).parameters())
        return sum(parameter.nbytes for parameter in parameters) / 1e9

    if offload == "model":
        return f"{size('text_encoder', 'unet', 'vae'):.1f} GB go to the device for every picture"
    return f"{size('unet', 'controlnet'):.1f} GB go to the device in every pass, a tile of a step"


@contextmanager
def _without_bars() -> Iterator[None]:
    """Loads without the libraries' bars over weights that are there at once."""
    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
