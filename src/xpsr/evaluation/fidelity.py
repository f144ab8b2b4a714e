"""How like its original a picture is: PSNR and SSIM, which leave out a border of 4 pixels."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F

from xpsr.errors import InputError
from xpsr.evaluation.luma import luma
from xpsr.evaluation.niqe import niqe

__all__ = ["BORDER", "MIN_SIDE", "mean_scores", "psnr_y", "score", "ssim_y"]

BORDER = 4  # pixels
MIN_SIDE = 2 * BORDER + 11  # of a picture that can be compared, pixels
_PERFECT_PSNR = 99.0


def psnr_y(restored: torch.Tensor, hr: torch.Tensor) -> float:
    """Returns the peak signal-to-noise ratio (dB) of two pictures (3, H, W) in [0, 1], of rounded luma; 99 if equal."""
    a, b = (_inner(y).round() for y in _pair(restored, hr))
    error = (a - b).square().mean().item()
    return 10 * float(np.log10(255**2 / error)) if error else _PERFECT_PSNR


def ssim_y(restored: torch.Tensor, hr: torch.Tensor) -> float:
    """Returns the structural similarity (Wang et al. 2004) of two pictures (3, H, W) in [0, 1]; 1 if they are equal."""
    a, b = (_inner(y) for y in _pair(restored, hr))
    line = torch.exp(-0.5 * ((torch.arange(11, dtype=torch.float64) - 5) / 1.5).square())
    line = line / line.sum()

    def blur(y: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(y[None, None], line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))[0, 0]

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean().item()


def score(restored: torch.Tensor, hr: torch.Tensor) -> dict[str, float]:
    """Returns `psnr_y`, `ssim_y` and, where there is enough to see, `niqe` of restored pixels (3, H, W) in [0, 1]."""
    scores = {"psnr_y": psnr_y(restored, hr), "ssim_y": ssim_y(restored, hr)}
    with suppress(InputError):  # too small, or flat
        scores["niqe"] = niqe(restored)
    return scores


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns means by name over the pictures that have the score."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _pair(restored: torch.Tensor, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if restored.shape != hr.shape:
        message = f"pictures of {tuple(restored.shape)} and {tuple(hr.shape)} cannot be compared."
        raise InputError(message, code="wrong_size")
    if min(hr.shape[-2:]) < MIN_SIDE:
        message, remedy = (
            f"pictures of {tuple(hr.shape)} are too small to compare",
            f"use at least {MIN_SIDE} x {MIN_SIDE}",
        )
        raise InputError(message, code="too_small", remedy=remedy)
    return luma(restored), luma(hr)


def _inner(y: torch.Tensor) -> torch.Tensor:
    return y[BORDER:-BORDER, BORDER:-BORDER]
