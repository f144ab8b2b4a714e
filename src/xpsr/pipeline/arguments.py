"""What a call is given and gives back: one of each for every picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

from xpsr.config.checks import said
from xpsr.errors import InputError
from xpsr.image import Picture, drop_from_memory, resize, to_gray, to_pil
from xpsr.pipeline.denoising import StepEnd
from xpsr.prior import Prior

if TYPE_CHECKING:
    from xpsr.pipeline.pipeline import XPSRPipeline

__all__ = [
    "OutputType",
    "PassCallback",
    "StepCallback",
    "StepTensors",
    "XPSRPipelineOutput",
    "as_output",
    "counted",
    "one_each",
    "one_generator_each",
    "step_end",
]

_GRAY_ROWS = 64

OutputType: TypeAlias = Literal["pil", "np", "pt", "latent"]
PassCallback: TypeAlias = Callable[[int, int], None]
StepCallback: TypeAlias = Callable[
    ["XPSRPipeline", int, torch.Tensor, dict[str, torch.Tensor]], Mapping[str, torch.Tensor]
]
StepTensors: TypeAlias = tuple[Literal["latents", "noise_pred"], ...]


@dataclass
class XPSRPipelineOutput(BaseOutput):
    """`images`: one per input, PIL images, or arrays (H, W, C) or tensors (C, H, W) in [0, 1]; C is 4 where there was
    alpha; or latents (1, C, h, w). `priors`: the texts that were used, one per input."""

    images: list[Any]
    priors: list[Prior]


def one_each(value: Any, count: int, name: str) -> list[Any]:
    """Returns a value for each of so many pictures: those of a list, or the one so many times.

    Raises:
        InputError: the list has more or fewer.
    """
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        message = f"has {len(value)} values for {count} images"
        raise InputError(message, code="conflict", field=name, remedy="give one each or one for all")
    return list(value)


def one_generator_each(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[torch.Generator | None]:
    """Returns one for each picture; a single one is copied, so that no picture's noise depends on those before it.

    Raises:
        InputError: one is no generator, or there are more or fewer.
    """
    generators = one_each(generator, count, "generator")
    for one in generator if isinstance(generator, list | tuple) else [generator]:
        if not isinstance(one, torch.Generator | None):
            message, remedy = "is no generator", "use torch.Generator().manual_seed(0)"
            raise InputError(message, code="wrong_type", field="generator", value=said(one), remedy=remedy)
    if isinstance(generator, torch.Generator):
        for index in range(1, count):
            generators[index] = torch.Generator(generator.device)
            generators[index].set_state(generator.get_state())
    return generators


def counted(callback: PassCallback | None, tiles: Sequence[int], index: int) -> PassCallback | None:
    """Returns the callback for one of several runs of the same number of steps; `tiles` are those of each."""
    if callback is None:
        return None

    def on_pass_end(done: int, total: int) -> None:
        num_steps = total // tiles[index]
        callback(num_steps * sum(tiles[:index]) + done, num_steps * sum(tiles))

    return on_pass_end


def step_end(pipe: "XPSRPipeline", callback: StepCallback | None, names: Sequence[str]) -> StepEnd | None:
    """Returns what tells the callback of a pipeline of a step and the tensors that it is to see."""
    if callback is None:
        return None

    def on_step_end(index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        shown = {name: tensors[name] for name in names}
        return callback(pipe, index, timestep, shown).get("latents", tensors["latents"])

    return on_step_end


def as_output(pixels: torch.Tensor, picture: Picture, output_type: str) -> Image.Image | np.ndarray | torch.Tensor:
    """Returns restored pixels (3, H, W), with the picture's alpha where it has one, as they are asked for.

    What the model made of a picture without colour loses it, in place.
    """
    if picture.is_gray:
        for strip in pixels.split(_GRAY_ROWS, -2):
            strip.copy_(to_gray(strip).expand_as(strip))
            drop_from_memory(strip)
    # Lanczos has a second lobe, which would be a ring around what is cut out
    alpha = None if picture.alpha is None else resize(picture.alpha, (pixels.shape[-2], pixels.shape[-1]))
    if output_type == "pil":
        return to_pil(pixels, alpha)
    planes = pixels if alpha is None else torch.cat([pixels, alpha.to(pixels)])
    return planes if output_type == "pt" else planes.permute(1, 2, 0).cpu().numpy()
