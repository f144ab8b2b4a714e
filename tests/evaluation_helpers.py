"""Pictures that are scored."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

MOOSE = Path(__file__).parents[1] / "examples" / "moose.png"


def photo(size: tuple[int, int] = (288, 200), noise: float = 0.0) -> torch.Tensor:
    """(3, H, W) in [0, 1], in 8 bits: a photograph, enlarged, and some noise."""
    with Image.open(MOOSE) as image:
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)) / 255
    noisy = pixels + noise * np.random.default_rng(0).standard_normal(pixels.shape)
    return torch.from_numpy(np.round(noisy.clip(0, 1) * 255) / 255).permute(2, 0, 1).float()
