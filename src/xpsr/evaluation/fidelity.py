"""How like another picture a picture is: PSNR, SSIM and MS-SSIM of planes in [0, 255]."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xpsr.errors import InputError

__all__ = ["MAX_PSNR", "MIN_SIDE_MS_SSIM", "MIN_SIDE_SSIM", "check_size", "ms_ssim", "psnr", "ssim"]

Plane = NDArray[Any]  # of numbers

MAX_PSNR = 99.0
"""dB. Of equal pictures PSNR is infinite, which no mean survives and JSON has no word for; nothing is given more."""

MIN_SIDE_SSIM = 11  # pixels, its window
MIN_SIDE_MS_SSIM = 11 * 16  # pixels: its window on the coarsest of five scales
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of Wang, Simoncelli and Bovik 2003


def psnr(a: Plane, b: Plane) -> float:
    """Returns the peak signal-to-noise ratio (dB) of arrays of one shape, with values in [0, 255]; at most `MAX_PSNR`.

    Raises:
        InputError: they are empty.
    """
    from skimage.metrics import peak_signal_noise_ratio

    check_size(a, 1, "PSNR")
    with np.errstate(divide="ignore"):  # of equal ones
        return min(float(peak_signal_noise_ratio(a, b, data_range=255)), MAX_PSNR)


def ssim(a: Plane, b: Plane) -> float:
    """Returns the structural similarity (Wang et al. 2004) of planes (H, W) in [0, 255]: Gaussian window, sigma 1.5.

    The mean is over the windows that lie within the picture, as in the authors' code.

    Raises:
        InputError: a side is below `MIN_SIDE_SSIM`.
    """
    from skimage.metrics import structural_similarity

    check_size(a, MIN_SIDE_SSIM, "SSIM")
    return float(
        structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    )


def ms_ssim(a: Plane, b: Plane) -> float:
    """Returns the multi-scale structural similarity (Wang et al. 2003) of planes (H, W) in [0, 255], over five scales.

    Each scale is the mean of 2 x 2 pixels of the one before; a negative term counts as 0. As in the authors' code the
    mean is over windows within the picture, where torchmetrics mirrors it at its edges on the coarsest scale.

    Raises:
        InputError: a side is below `MIN_SIDE_MS_SSIM`.
    """
    check_size(a, MIN_SIDE_MS_SSIM, "MS-SSIM")
    product, last = 1.0, len(_SCALE_WEIGHTS) - 1
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            a, b = _halve(a), _halve(b)
        similarity, contrast = _terms(a, b)
        product *= max(similarity if scale == last else contrast, 0) ** weight
    return product


def _terms(a: Plane, b: Plane) -> tuple[float, float]:
    """SSIM, and its part without the means: the agreement of contrast and structure."""
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    means = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((means * contrast).mean()), float(contrast.mean())


def _blur(plane: Plane) -> Plane:
    """By a Gaussian of 11 pixels, sigma 1.5, where it lies within the plane: (H, W) -> (H - 10, W - 10)."""
    import cv2

    line = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    line /= line.sum()
    return cv2.sepFilter2D(plane, cv2.CV_64F, line, line)[5:-5, 5:-5]


def _halve(plane: Plane) -> Plane:
    height, width = (side // 2 * 2 for side in plane.shape)  # an odd line is left out
    return plane[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def check_size(plane: Plane, side: int, name: str) -> None:
    """Refuses what has a side below `side`: (H, W) or (H, W, 3)."""
    height, width = plane.shape[:2]
    if min(height, width) < side:
        message = f"{width} x {height} pixels, without the border, are too few for {name}"
        raise InputError(message, code="too_small", remedy=f"use at least {side} x {side}")
