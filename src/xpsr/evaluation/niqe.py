"""NIQE (Mittal et al. 2013) with basicsr's statistics and blocks of 96 x 96."""

import functools
import importlib.resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xpsr.errors import InputError
from xpsr.evaluation.luma import luma

__all__ = ["niqe", "niqe_of_luma"]

_BLOCK = 96  # of NIQE, pixels


def niqe(pixels: torch.Tensor) -> float:
    """Returns how unlike natural pictures a picture (3, H, W) in [0, 1] is (Mittal et al. 2013); lower is better.

    Raises:
        InputError: it is smaller than two blocks of 96 x 96, or fewer than two are not flat.
    """
    return niqe_of_luma(luma(pixels).numpy())


def niqe_of_luma(y: NDArray[Any]) -> float:
    """Returns the same of luma (H, W) in [16, 235], which is rounded.

    Raises:
        InputError: as `niqe`.
    """
    height, width = y.shape
    rows, columns = height // _BLOCK, width // _BLOCK
    if rows * columns < 2:
        message = f"{width} x {height} pixels are too few for NIQE"
        raise InputError(message, code="too_small", remedy="use at least 192 x 96")
    prior = _natural_statistics()
    y = y[: rows * _BLOCK, : columns * _BLOCK].round()
    per_scale = []
    for scale in (1, 2):
        mean = _blur(y, prior["gaussian_window"])
        deviation = np.sqrt(np.abs(_blur(y * y, prior["gaussian_window"]) - mean**2))
        normal = (y - mean) / (deviation + 1)
        side = _BLOCK // scale
        blocks = normal.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(-1, side, side)
        per_scale.append(_block_features(blocks))
        y = _halve(y)
    features = np.concatenate(per_scale, 1)  # (blocks, 36)
    whole = features[~np.isnan(features).any(1)]  # a flat block has none
    if len(whole) < 2:
        raise InputError("NIQE needs at least two blocks of 96 x 96 that are not flat.", code="flat")
    difference = prior["mu_pris_param"].ravel() - np.nanmean(features, 0)
    covariance = (prior["cov_pris_param"] + np.cov(whole, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


@functools.cache
def _natural_statistics() -> dict[str, np.ndarray]:
    path = importlib.resources.files("xpsr") / "weights" / "niqe" / "pris_params.npz"
    with path.open("rb") as file, np.load(file) as content:
        return dict(content)


def _blur(y: NDArray[Any], window: NDArray[Any]) -> NDArray[Any]:
    import cv2

    return cv2.filter2D(y, cv2.CV_64F, window, borderType=cv2.BORDER_REPLICATE)


def _halve(y: NDArray[Any]) -> NDArray[Any]:
    """As MATLAB's `imresize(y, 0.5)`: bicubic, antialiased, reflected at the edges; even sides."""
    x = (np.abs(np.arange(8) - 3.5)) / 2
    weights = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
    weights /= weights.sum()
    for _ in range(2):  # (H, W) -> (W, H/2) -> (H/2, W/2)
        padded = np.pad(y, ((3, 3), (0, 0)), mode="symmetric")
        y = sum(weight * padded[k : k + len(y) : 2] for k, weight in enumerate(weights)).T
    return y


_SHAPES = np.arange(0.2, 10.001, 0.001)


@functools.cache
def _shape_table() -> tuple[np.ndarray, np.ndarray]:
    """For every shape of a generalised Gaussian, E|x|^2 / E x^2; and sqrt(G(1/a) / G(3/a))."""
    first, second, third = (_gamma(k / _SHAPES) for k in (1, 2, 3))
    return second**2 / (first * third), np.sqrt(first / third)


def _gamma(x: np.ndarray) -> np.ndarray:
    return torch.lgamma(torch.from_numpy(x)).exp().numpy()


def _fit(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape and both scales of the asymmetric generalised Gaussian of each block (N, h, w); NaN where it is flat."""
    values = blocks.reshape(len(blocks), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares, below = values**2, values < 0
        total, total_below = squares.sum(1), np.where(below, squares, 0).sum(1)
        left = np.sqrt(total_below / below.sum(1))
        right = np.sqrt((total - total_below) / (values > 0).sum(1))
        ratio = left / right
        r = np.abs(values).mean(1) ** 2 / (total / values.shape[1])
        r = r * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    table, scales = _shape_table()
    nearest = np.abs(table - r[:, None]).argmin(1)
    return _SHAPES[nearest], left * scales[nearest], right * scales[nearest]


def _block_features(blocks: np.ndarray) -> np.ndarray:
    """The 18 features of each block (N, h, w): of its values, and of their products with four neighbours."""
    shape, left, right = _fit(blocks)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [shape, (right - left) * _gamma(2 / shape) / _gamma(1 / shape), left, right]
    return np.stack(features, 1)
