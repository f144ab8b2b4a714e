"""The kernels of the blurs: six kinds of Gaussians and the sinc."""

import math
from typing import Literal, TypeAlias, get_args

import numpy as np

__all__ = ["KERNEL_FAMILIES", "USM_SIGMA", "USM_SIZE", "KernelFamily", "gaussian_kernel", "sinc_kernel"]

KernelFamily: TypeAlias = Literal[
    "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"
]
# In the order of `DegradationConfig.kernel_probabilities`
KERNEL_FAMILIES: tuple[KernelFamily, ...] = get_args(KernelFamily)
# Of unsharp masking: OpenCV's rule gives this sigma for this size
USM_SIZE, USM_SIGMA = 51, 8.0


def gaussian_kernel(
    family: KernelFamily, size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float = 1.0
) -> np.ndarray:
    """Returns a normalised float64 (size, size) kernel.

    Iso ones ignore `sigma_y` and `rotation` (radians). Generalised: exp(-q^beta / 2); plateau: 1 / (1 + q^beta); q is
    the squared Mahalanobis distance from the centre.
    """
    if not family.endswith("aniso"):
        sigma_y, rotation = sigma_x, 0.0
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    inverse = turn @ np.diag([sigma_x**-2, sigma_y**-2]) @ turn.T
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = axis[None, :], axis[:, None]
    distance = inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
    if family.startswith("plateau"):
        kernel = 1 / (distance**beta + 1)
    else:
        kernel = np.exp(-0.5 * (distance**beta if family.startswith("generalized") else distance))
    return kernel / kernel.sum()


def sinc_kernel(cutoff: float, size: int) -> np.ndarray:
    """Returns a normalised float64 (size, size) circular low-pass kernel; `cutoff` in radians a pixel, at most pi."""
    axis = np.arange(size) - (size - 1) / 2
    squares, places = np.unique(axis[:, None] ** 2 + axis[None, :] ** 2, return_inverse=True)
    radius = np.sqrt(squares)
    with np.errstate(invalid="ignore"):
        values = cutoff * _bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    values[radius == 0] = cutoff**2 / (4 * math.pi)
    kernel = values[places].reshape(size, size)
    return kernel / kernel.sum()


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    """Bessel's function of the first kind and order one, to the last digits; torch's has seven.

    The mean of sin(x sin t) sin t over a period; for a periodic function, equal steps converge faster than any power.
    """
    count = math.ceil(x.max() / 3) + 16
    sines = np.sin((np.arange(count) + 0.5) * (math.pi / 2 / count))
    return (np.sin(x[:, None] * sines) * sines).mean(1)
