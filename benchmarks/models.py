"""Models as they are timed: the mini, a folder, or Stable Diffusion 1.5's size with random weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.weights import with_random_weights
from xpsr import Restorer, XPSRPipeline
from xpsr.devices import Dtype, torch_dtype
from xpsr.engines import resolve_place
from xpsr.errors import InputError
from xpsr.image import Picture
from xpsr.models import XPSRControlNet, XPSRUNet
from xpsr.pipeline.placing import compile_blocks
from xpsr.prior import Describer
from xpsr.training import build_tokenizer
from xpsr.training.planning import STABLE_DIFFUSION_1_5

FULL = "full"
Sizes = Mapping[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is timed.

    Attributes:
        pipe: on its device, with weights of its number type.
        device, dtype: what "auto" has come to.
        autocast: whether arithmetic is bfloat16 beside weights of float32, as on a CPU.
        restore: (picture, describer, scale, steps; None: the model's own) to the whole result.
    """

    pipe: XPSRPipeline
    device: torch.device
    dtype: Dtype
    autocast: bool
    restore: Callable[[Picture, Describer, float, int | None], object]


def open_subject(model: str, *, device: str, dtype: str, engine: str | None = None, compiled: bool = False) -> Subject:
    """Loads or builds a model.

    Raises:
        InputError: there is no such model, device, number type or engine.
        ModelError: the model cannot be loaded.
    """
    place, kind = resolve_place(engine or "torch", device, dtype)  # type: ignore[arg-type]  # which it checks
    autocast = engine in (None, "torch") and place.type == "cpu" and kind == "bf16"
    if model == FULL:
        if engine is not None:
            message, remedy = "has no folder that an engine could open", "write one: python -m benchmarks.rehearse_full"
            raise InputError(message, code="conflict", field="model", value=FULL, remedy=remedy)
        pipe = random_pipeline().to(place, torch_dtype("fp32" if autocast else kind))
        pipe.set_progress_bar_config(disable=True)
        if compiled:
            compile_blocks(pipe, "inductor")

        def call(picture: Picture, describer: Describer, scale: float, steps: int | None) -> object:
            generator = torch.Generator().manual_seed(0)
            options: Any = {"num_inference_steps": steps, "generator": generator, "output_type": "pt"}
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return pipe(picture, scale=scale, describer=describer, **options)

        return Subject(pipe=pipe, device=place, dtype=kind, autocast=autocast, restore=call)

    restorer = Restorer(model, device=str(place), dtype=kind, engine=engine or "torch", compile=compiled)  # type: ignore[arg-type]

    def restore(picture: Picture, describer: Describer, scale: float, steps: int | None) -> object:
        settings = None if steps is None else {"num_inference_steps": steps}
        return restorer.restore(picture, describer=describer, scale=scale, settings=settings, seed=0)

    return Subject(pipe=restorer.pipe, device=place, dtype=kind, autocast=autocast, restore=restore)


def random_networks(sizes: Sizes) -> tuple[XPSRControlNet, XPSRUNet]:
    """Builds both networks with random weights, in memory alone."""
    with torch.device("meta"):
        networks = XPSRControlNet.from_config(sizes["controlnet"]), XPSRUNet.from_config(sizes["unet"])
    controlnet, unet = (with_random_weights(network).eval() for network in networks)
    return controlnet, unet


def random_pipeline(sizes: Sizes = STABLE_DIFFUSION_1_5) -> XPSRPipeline:
    """Builds a system with random weights, in memory alone; `sizes` are configs of the parts beyond the defaults."""
    controlnet, unet = random_networks(sizes)
    with torch.device("meta"):
        others = AutoencoderKL.from_config(sizes["vae"]), CLIPTextModel(CLIPTextConfig(**sizes["text_encoder"]))
    vae, text_encoder = (with_random_weights(network).eval() for network in others)
    return XPSRPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=build_tokenizer(None, min(2048, sizes["text_encoder"]["vocab_size"])),
        unet=unet,
        controlnet=controlnet,
        scheduler=DDPMScheduler(**sizes["scheduler"]),
    )
