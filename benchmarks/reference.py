"""The authors' code beside ours: one step of denoising, of the same size, with random weights, in the same run.

Their code has no licence, so none of it is here: it is imported from a checkout of
https://github.com/qyp2000/XPSR that the caller has, by a Python that the caller names.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import Sizes, random_networks
from benchmarks.peer import check_checkout
from benchmarks.processes import BenchmarkError, answer_request, ask_worker
from benchmarks.timing import measure
from xpsr.models import Denoiser
from xpsr.training.planning import STABLE_DIFFUSION_1_5

LATENT_SIDE = 64


def measure_reference(
    checkout: Path,
    *,
    python: str = sys.executable,
    sizes: Sizes = STABLE_DIFFUSION_1_5,
    latent_side: int = LATENT_SIDE,
    device: str = "cpu",
    threads: int | None = None,
    runs: int,
    warm_up: int,
) -> dict[str, dict[str, Any]]:
    """Returns what `ours` and `reference` took of a step under guidance, each a whole process.

    Both hold ControlNet and UNet of `sizes` alone, in float32. Ours is timed as the pipeline takes all steps but the
    first: with the image's features kept, and without what is for training.

    Raises:
        InputError: `checkout` is none of the authors' code.
        BenchmarkError: a side failed, or the networks differ in size.
    """
    check_checkout(checkout)
    request = {
        "checkout": str(checkout.resolve()),
        "controlnet": sizes["controlnet"],
        "unet": sizes["unet"],
        "text_width": sizes["unet"]["cross_attention_dim"],
        "latent_side": latent_side,
        "device": device,
        "threads": threads,
        "runs": runs,
        "warm_up": warm_up,
    }
    try:
        theirs = ask_worker("benchmarks.peers.xpsr_reference", request, python=python, threads=threads)
    except BenchmarkError as error:
        message = f"the reference {error.message}"
        remedy = "its requirements.txt says what its Python needs; name that Python by --reference-python"
        raise BenchmarkError(message, remedy=remedy) from error
    ours = ask_worker("benchmarks.reference", request, threads=threads)
    if ours["parameters"] != theirs["parameters"]:
        message = f"ours has {ours['parameters']} parameters, the reference {theirs['parameters']}"
        raise BenchmarkError(message, remedy="check out the commit that docs/speed.md names")
    return {"ours": ours, "reference": theirs}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Times our step, as `xpsr_reference.answer` does theirs."""
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    controlnet, unet = (network.to(device) for network in random_networks(request))
    denoiser, side = Denoiser(controlnet, unet), request["latent_side"]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    latents, pixels = draw(1, 4, side, side), draw(1, 3, 8 * side, 8 * side).sigmoid()
    content, quality = draw(2, 77, request["text_width"]), draw(2, 77, request["text_width"])
    timestep = torch.tensor(501, device=device)
    features: torch.Tensor | None = None

    def step() -> torch.Tensor:
        nonlocal features
        output, features = denoiser(latents, timestep, pixels, content, quality, features, guidance_scale=4.5)
        return output

    with torch.no_grad():
        timing = measure(step, runs=request["runs"], warm_up=request["warm_up"], device=device)
    return {
        **vars(timing),
        "parameters": {"controlnet": controlnet.num_parameters(), "unet": unet.num_parameters()},
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    answer_request(answer)
