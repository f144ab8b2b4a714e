"""What a network's output means."""

from typing import Any

import torch

__all__ = ["predict_original_sample"]


def predict_original_sample(
    scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor
) -> torch.Tensor:
    """The clean latents that a network's output implies.

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
