"""Scores: known values, and those that basicsr's way of counting gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve
from scipy.signal import convolve2d
from scipy.special import gamma

from xpsr.errors import InputError
from xpsr.evaluation import luma, mean_scores, niqe, psnr_y, score, ssim_y

MOOSE = Path(__file__).parents[1] / "examples" / "moose.png"


def photo(size: tuple[int, int] = (288, 200), noise: float = 0.0) -> torch.Tensor:
    """(3, H, W) in [0, 1], in 8 bits: a photograph, enlarged, and some noise."""
    with Image.open(MOOSE) as image:
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC)) / 255
    noisy = pixels + noise * np.random.default_rng(0).standard_normal(pixels.shape)
    return torch.from_numpy(np.round(noisy.clip(0, 1) * 255) / 255).permute(2, 0, 1).float()


def test_equal_pictures_are_perfect_and_noise_is_not() -> None:
    clean = photo()
    assert (psnr_y(clean, clean), ssim_y(clean, clean)) == (99.0, pytest.approx(1))
    assert psnr_y(photo(noise=0.02), clean) > psnr_y(photo(noise=0.1), clean)
    assert ssim_y(photo(noise=0.02), clean) > ssim_y(photo(noise=0.1), clean)


def test_psnr_of_a_known_difference() -> None:
    gray = torch.full((3, 32, 32), 100 / 255)
    lighter = gray + 10 / 255  # luma differs by 10 * 219 / 255, rounded on both sides
    difference = luma(lighter).round()[0, 0] - luma(gray).round()[0, 0]
    assert psnr_y(lighter, gray) == pytest.approx(20 * np.log10(255 / difference.item()))
    bordered = gray.clone()
    bordered[:, :4] = bordered[:, :, -4:] = 0
    assert psnr_y(bordered, gray) == 99.0  # a border of 4 does not count


def test_ssim_is_that_of_two_dimensional_windows() -> None:
    clean, noisy = photo((64, 48)), photo((64, 48), noise=0.1)
    line = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2

    def blur(y: np.ndarray) -> np.ndarray:
        return convolve2d(y, window, mode="valid")

    a, b = (luma(p)[4:-4, 4:-4].numpy() for p in (noisy, clean))
    mean_a, mean_b = blur(a), blur(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_a * mean_b + c1) * (2 * (blur(a * b) - mean_a * mean_b) + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2 + c2)
    assert ssim_y(noisy, clean) == pytest.approx((above / below).mean(), abs=1e-9)


def reference_niqe(pixels: torch.Tensor) -> float:
    """NIQE block by block, with SciPy's convolution and gamma function."""
    file = Path(__file__).parents[1] / "src" / "xpsr" / "weights" / "niqe" / "pris_params.npz"
    prior = np.load(file)
    shapes = np.arange(0.2, 10.001, 0.001)
    table = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))

    def fit(block: np.ndarray) -> tuple[float, float, float]:
        left, right = np.sqrt((block[block < 0] ** 2).mean()), np.sqrt((block[block > 0] ** 2).mean())
        g = left / right
        r = np.abs(block).mean() ** 2 / (block**2).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        shape = shapes[np.argmin((table - r) ** 2)]
        width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        return shape, left * width, right * width

    def halve(y: np.ndarray) -> np.ndarray:
        x = np.abs(np.arange(8) - 3.5) / 2
        weights = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
        weights /= weights.sum()
        for axis in (0, 1):
            y = np.moveaxis(y, axis, 0)
            padded = np.pad(y, [(3, 3), (0, 0)], mode="symmetric")
            y = np.moveaxis(sum(weights[k] * padded[k : k + len(y) : 2] for k in range(8)), 0, axis)
        return y

    y = np.round(luma(pixels).numpy())
    rows, columns = y.shape[0] // 96, y.shape[1] // 96
    y, scales = y[: rows * 96, : columns * 96], []
    for side in (96, 48):
        mean = convolve(y, prior["gaussian_window"], mode="nearest")
        spread = np.sqrt(np.abs(convolve(y * y, prior["gaussian_window"], mode="nearest") - mean * mean))
        normal, features = (y - mean) / (spread + 1), []
        for row in range(rows):
            for column in range(columns):
                block = normal[row * side : (row + 1) * side, column * side : (column + 1) * side]
                shape, left, right = fit(block)
                found = [shape, (left + right) / 2]
                for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    shape, left, right = fit(block * np.roll(block, shift, axis=(0, 1)))
                    found += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
                features.append(found)
        scales.append(features)
        y = halve(y)
    all_features = np.concatenate(scales, 1)
    d = prior["mu_pris_param"].ravel() - all_features.mean(0)
    covariance = (prior["cov_pris_param"] + np.cov(all_features, rowvar=False)) / 2
    return float(np.sqrt(d @ np.linalg.pinv(covariance) @ d))


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_niqe_is_that_of_the_block_by_block_procedure(noise: float) -> None:
    pixels = photo(noise=noise)
    assert niqe(pixels) == pytest.approx(reference_niqe(pixels), abs=1e-6)


def test_niqe_needs_something_to_see() -> None:
    with pytest.raises(InputError, match="192 x 96"):
        niqe(photo((100, 100)))
    flat = torch.full((3, 192, 192), 0.5)
    with pytest.raises(InputError, match="not flat"):
        niqe(flat)
    assert score(flat, flat).keys() == {"psnr_y", "ssim_y"}
    assert score(photo(), photo()).keys() == {"psnr_y", "ssim_y", "niqe"}


def test_means_are_over_the_pictures_that_have_a_score() -> None:
    assert mean_scores([{"psnr_y": 30.0, "niqe": 4.0}, {"psnr_y": 20.0}]) == {"psnr_y": 25.0, "niqe": 4.0}


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        psnr_y(photo((64, 48)), photo((48, 64)))
    with pytest.raises(InputError, match="too small"):
        ssim_y(torch.zeros(3, 18, 30), torch.zeros(3, 18, 30))
