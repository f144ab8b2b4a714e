"""Scores of pictures against their originals, and of pictures alone.

Knows nothing of models, so any method can be scored. Luma is that of BT.601 in [16, 235]. PSNR and SSIM leave out a
border of 4 pixels; SSIM's window is a Gaussian of 11 x 11 with a deviation of 1.5, whole windows only; NIQE has
basicsr's statistics and blocks of 96 x 96.
"""

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from xpsr.errors import InputError
from xpsr.image import list_images, read_image, to_uint8

__all__ = ["BORDER", "MIN_SIDE", "evaluate_folders", "luma", "mean_scores", "niqe", "psnr_y", "score", "ssim_y"]

BORDER = 4  # pixels
MIN_SIDE = 2 * BORDER + 11  # of a picture that can be compared, pixels
_BLOCK = 96  # of NIQE, pixels
_PERFECT_PSNR = 99.0


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """BT.601 luma (H, W) of RGB (3, H, W) in [0, 1]: float64 in [16, 235], of values rounded to 8 bits."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64)
    return torch.tensordot(weights, to_uint8(pixels).cpu().double(), dims=1) / 255 + 16


def psnr_y(restored: torch.Tensor, hr: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two pictures (3, H, W) in [0, 1], on rounded luma; 99 if they are equal."""
    a, b = (_inner(y).round() for y in _pair(restored, hr))
    error = (a - b).square().mean().item()
    return 10 * float(np.log10(255**2 / error)) if error else _PERFECT_PSNR


def ssim_y(restored: torch.Tensor, hr: torch.Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of two pictures (3, H, W) in [0, 1]; 1 if they are equal."""
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


def niqe(pixels: torch.Tensor) -> float:
    """How unlike natural pictures a picture (3, H, W) in [0, 1] is (Mittal et al. 2013); lower is better.

    Raises:
        InputError: it is smaller than two blocks of 96 x 96.
    """
    height, width = pixels.shape[-2:]
    rows, columns = height // _BLOCK, width // _BLOCK
    if rows * columns < 2:
        raise InputError(f"NIQE needs a picture of at least 192 x 96, not {width} x {height}.")
    prior = _natural_statistics()
    y = luma(pixels).round()[: rows * _BLOCK, : columns * _BLOCK]
    per_scale = []
    for scale in (1, 2):
        mean = _blur_niqe(y, prior["gaussian_window"])
        deviation = (_blur_niqe(y * y, prior["gaussian_window"]) - mean.square()).abs().sqrt()
        normal = ((y - mean) / (deviation + 1)).numpy()
        side = _BLOCK // scale
        blocks = normal.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(-1, side, side)
        per_scale.append(_block_features(blocks))
        y = _halve(y)
    features = np.concatenate(per_scale, 1)  # (blocks, 36)
    whole = features[~np.isnan(features).any(1)]  # a flat block has none
    if len(whole) < 2:
        raise InputError("NIQE needs at least two blocks of 96 x 96 that are not flat.")
    difference = prior["mu_pris_param"].ravel() - np.nanmean(features, 0)
    covariance = (prior["cov_pris_param"] + np.cov(whole, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def score(restored: torch.Tensor, hr: torch.Tensor) -> dict[str, float]:
    """`psnr_y`, `ssim_y` and, where the picture has enough to see, `niqe` of a restored picture (3, H, W) in [0, 1]."""
    scores = {"psnr_y": psnr_y(restored, hr), "ssim_y": ssim_y(restored, hr)}
    with suppress(InputError):  # too small, or flat
        scores["niqe"] = niqe(restored)
    return scores


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by name over the pictures that have the score."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def evaluate_folders(hr_dir: Path, restored_dir: Path) -> dict[str, dict[str, float]]:
    """`score` of every picture of `hr_dir`, by its name, and what is called as it is, or begins so, in `restored_dir`.

    Raises:
        InputError: a picture is missing, or of another size.
    """
    results, found = {}, list_images(restored_dir)
    for path in list_images(hr_dir):
        of_it = [p for p in found if p.stem == path.stem] or [p for p in found if p.stem.startswith(path.stem)]
        if not of_it:
            raise InputError(f"{restored_dir}: no picture for {path.name}.")
        results[path.name] = score(read_image(of_it[0]).pixels, read_image(path).pixels)
    return results


def _pair(restored: torch.Tensor, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if restored.shape != hr.shape:
        raise InputError(f"pictures of {tuple(restored.shape)} and {tuple(hr.shape)} cannot be compared.")
    if min(hr.shape[-2:]) < MIN_SIDE:
        raise InputError(f"pictures of {tuple(hr.shape)} are too small to compare; at least {MIN_SIDE} x {MIN_SIDE}.")
    return luma(restored), luma(hr)


def _inner(y: torch.Tensor) -> torch.Tensor:
    return y[BORDER:-BORDER, BORDER:-BORDER]


# NIQE


@functools.cache
def _natural_statistics() -> dict[str, np.ndarray]:
    path = importlib.resources.files("xpsr") / "weights" / "niqe" / "pris_params.npz"
    with path.open("rb") as file, np.load(file) as content:
        return dict(content)


def _blur_niqe(y: torch.Tensor, window: np.ndarray) -> torch.Tensor:
    kernel = torch.from_numpy(window).double()
    padding = [kernel.shape[1] // 2] * 2 + [kernel.shape[0] // 2] * 2
    return F.conv2d(F.pad(y[None, None], padding, mode="replicate"), kernel[None, None])[0, 0]


def _halve(y: torch.Tensor) -> torch.Tensor:
    """As MATLAB's `imresize(y, 0.5)`: bicubic, antialiased, reflected at the edges; even sides."""
    x = (np.abs(np.arange(8) - 3.5)) / 2
    weights = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
    line = torch.from_numpy(weights / weights.sum())
    for _ in range(2):  # (H, W) -> (W, H/2) -> (H/2, W/2)
        padded = torch.cat([y[:3].flip(0), y, y[-3:].flip(0)])
        y = F.conv1d(padded.T[:, None], line.view(1, 1, -1), stride=2)[:, 0]
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
        left, right = (np.sqrt(np.where(side, values**2, 0).sum(1) / side.sum(1)) for side in (values < 0, values > 0))
        ratio = left / right
        r = np.abs(values).mean(1) ** 2 / (values**2).mean(1)
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
