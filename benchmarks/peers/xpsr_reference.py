"""A step of the authors' own code: a worker for their Python, which needs neither xpsr nor its versions.

Their modules are imported from the checkout that the request names; nothing of them is here.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.timing import measure
from benchmarks.weights import with_random_weights


def import_networks(checkout: str) -> tuple[Any, Any]:
    """Returns their classes of the ControlNet and the UNet."""
    if importlib.util.find_spec("basicsr") is None:
        # of which they import a block that this configuration does not use, and which no recent torchvision lets load
        for name in ("basicsr", "basicsr.archs", "basicsr.archs.rrdbnet_arch"):
            sys.modules[name] = ModuleType(name)
        sys.modules["basicsr.archs.rrdbnet_arch"].RRDB = None  # type: ignore[attr-defined]
    package = sys.modules["models"] = ModuleType("models")  # whatever else may be called so
    package.__path__ = [str(Path(checkout, "models"))]
    return (
        importlib.import_module("models.xpsr.controlnet").ControlNetModel,
        importlib.import_module("models.xpsr.unet_2d_condition").UNet2DConditionModel,
    )


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Times their step on random weights: two rows, float32, every part computed in every step, as their test does."""
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    controlnet_class, unet_class = import_networks(request["checkout"])
    with torch.device("meta"):
        empty = controlnet_class.from_config(request["controlnet"]), unet_class.from_config(request["unet"])
    controlnet, unet = (with_random_weights(network).eval().to(device) for network in empty)
    generator, side = torch.Generator().manual_seed(0), request["latent_side"]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    latents, pixels = draw(1, 4, side, side), draw(1, 3, 8 * side, 8 * side).sigmoid()
    content, quality = draw(2, 77, request["text_width"]), draw(2, 77, request["text_width"])

    def step() -> torch.Tensor:
        both, timestep = torch.cat([latents] * 2), torch.tensor(501, device=device)
        control = controlnet(
            both,
            timestep,
            encoder_hidden_states=content,
            lowlevel_encoder_hidden_states=quality,
            controlnet_cond=torch.cat([pixels] * 2),
            conditioning_scale=1.0,
            return_dict=False,
        )
        noise = unet(
            both,
            timestep,
            encoder_hidden_states=content,
            lowlevel_encoder_hidden_states=quality,
            down_block_additional_residuals=control[2],
            mid_block_additional_residual=control[3],
            return_dict=False,
        )[0]
        negative, positive = noise.chunk(2)
        return negative + 4.5 * (positive - negative)

    with torch.no_grad():
        timing = measure(step, runs=request["runs"], warm_up=request["warm_up"], device=device)
    return {
        **vars(timing),
        "parameters": {"controlnet": controlnet.num_parameters(), "unet": unet.num_parameters()},
        "threads": torch.get_num_threads(),
        "their_versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers")},
    }


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
