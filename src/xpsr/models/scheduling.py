"""Timesteps of diffusers' schedulers: where a run starts, and what a network's output means there."""

import copy
import inspect
import math
from typing import Any

import diffusers
import torch

from xpsr.errors import InputError
from xpsr.models.autoencoder import HaarPackets

__all__ = [
    "SCHEDULERS",
    "estimate_clean",
    "own_scheduler",
    "predict_one_step",
    "predict_original_sample",
    "start_at",
]

SCHEDULERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "dpm": "DPMSolverMultistepScheduler",  # DPM-Solver++ by default
}
"""Those that settings name; a pipeline takes any other of diffusers' as its own."""


def own_scheduler(name: str, scheduler: Any) -> Any:
    """Returns a scheduler that is one run's alone, as it keeps timesteps and the past of that run.

    Args:
        name: of `SCHEDULERS`, or "model" for another `scheduler`.
        scheduler: whose noise levels it has.
    """
    if name == "model":
        return copy.deepcopy(scheduler)
    return getattr(diffusers, SCHEDULERS[name]).from_config(scheduler.config)


def predict_original_sample(
    scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor
) -> torch.Tensor:
    """Returns the clean latents that a network's output implies.

    Args:
        scheduler: any diffusers scheduler with `alphas_cumprod` and `config.prediction_type`.
        output: (B, C, H, W), what the network said of `sample`.
        timestep: (B,) or a single integer tensor.
        sample: (B, C, H, W) latents at that timestep.
    """
    alpha = scheduler.alphas_cumprod.to(sample.device)[timestep].to(sample.dtype).view(-1, 1, 1, 1)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (sample - (1 - alpha).sqrt() * output) / alpha.sqrt()
        case "v_prediction":
            return alpha.sqrt() * sample - (1 - alpha).sqrt() * output
        case "sample":
            return output
        case other:
            raise ValueError(f"prediction_type={other!r} is unknown; use epsilon, v_prediction or sample.")


def estimate_clean(
    scheduler: Any, stepped: Any, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor
) -> torch.Tensor:
    """Returns the clean latents (B, C, H, W) that a step of several heads for.

    Args:
        scheduler: any that `start_at` takes.
        stepped: what its `step` returned; some tell what they made of the output, by a threshold of their own.
        output: (B, C, H, W), what the network said of `sample`.
        timestep: a scalar.
        sample: (B, C, H, W), the latents of that timestep as the network saw them: after `scale_model_input`.
    """
    told: torch.Tensor | None = getattr(stepped, "pred_original_sample", None)
    # of those that do not tell, each timestep is a whole number
    return predict_original_sample(scheduler, output, timestep, sample) if told is None else told


def predict_one_step(
    scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, *, vae: Any, residual: bool
) -> torch.Tensor:
    """Returns the clean latents that a network's output implies in the one step from the LR latents `sample` of `vae`.

    A `residual` output is what is missing in `sample`, but for the grid of latents: a network that says nothing leaves
    the picture as it is, and need not carry every pixel through itself. Else the output is what the scheduler's
    `prediction_type` says.
    """
    if not residual:
        return predict_original_sample(scheduler, output, timestep, sample)
    return sample + (vae.without_grid(output) if isinstance(vae, HaarPackets) else output)


def start_at(
    scheduler: Any, strength: float, num_inference_steps: int, *, device: torch.device | None = None
) -> torch.Tensor:
    """Sets `scheduler` up and returns the timesteps to take, the first about `strength` times those of training.

    Raises:
        InputError: the scheduler cannot start there.
    """
    name = type(scheduler).__name__
    if not all(hasattr(scheduler, attribute) for attribute in ("alphas_cumprod", "add_noise", "init_noise_sigma")):
        message, remedy = f"{name} is not a scheduler of discrete noise levels", "use DDIMScheduler or another like it"
        raise InputError(message, code="wrong_type", remedy=remedy)
    # LMS and PNDM's first steps draw on a past that a later start does not have
    if strength < 1 and ("LMS" in name or scheduler.config.get("skip_prk_steps") is False):
        message, remedy = f"is not for {name}, which can only start from noise", "use 1, or another scheduler"
        raise InputError(message, code="conflict", field="strength", value=f"{strength:g}", remedy=remedy)
    if strength == 1:
        scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = scheduler.timesteps
        # upstream's rounding adds a last timestep of -1 to trailing runs of 61 and some other lengths
        return timesteps if hasattr(scheduler, "sigmas") else timesteps[timesteps >= 0]
    limit = scheduler.config.num_train_timesteps
    remapped = any(scheduler.config.get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta"))
    if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters and not remapped:
        fractions = torch.arange(num_inference_steps, 0, -1) / num_inference_steps
        timesteps = (fractions * strength * limit).round().long() - 1
        scheduler.set_timesteps(timesteps=timesteps.clamp_min(0).tolist(), device=device)
        return scheduler.timesteps
    # The others only know evenly spread timesteps: those of a longer run, from the nearest to the start on
    guess, order = round(num_inference_steps / strength), scheduler.order
    best = (math.inf, guess)
    for longer in range(max(guess // 2, num_inference_steps), min(2 * guess, limit) + 1):
        scheduler.set_timesteps(longer, device=device)
        if scheduler.timesteps[-1] < 0:  # one too many, as above
            continue
        first = float(scheduler.timesteps[(longer - num_inference_steps) * order])
        best = min(best, (abs(first + 1 - strength * limit), longer))
    distance, longer = best
    if distance > 0.1 * limit:
        message = f"is where {name} cannot start with {num_inference_steps} steps"
        remedy = "use more steps or another scheduler"
        raise InputError(message, code="conflict", field="strength", value=f"{strength:g}", remedy=remedy)
    scheduler.set_timesteps(longer, device=device)
    start = (longer - num_inference_steps) * order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return scheduler.timesteps[start:]
