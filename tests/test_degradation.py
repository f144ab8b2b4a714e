"""Second-order degradation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.config import DegradationConfig, DegradationStage
from xpsr.degradation import degrade, gaussian_kernel, sinc_kernel
from xpsr.errors import InputError

FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 24), st.integers(4, 24), st.integers(0, 2**31), st.sampled_from([1, 2, 4]))
def test_any_size_and_seed_gives_the_right_shape_and_the_same_bits_again(
    rows: int, columns: int, seed: int, scale: int
) -> None:
    image = picture(rows * scale, columns * scale, seed)
    first = degrade(image, DegradationConfig(), seeded(seed), scale=scale)
    again = degrade(image, DegradationConfig(), seeded(seed), scale=scale)
    assert first.image.shape == (rows, columns, 3)
    assert first.image.dtype == np.uint8
    assert np.array_equal(first.image, again.image)
    assert first.parameters == again.parameters
    assert all(math.isfinite(value) for value in (first.blur, first.noise))


def test_plain_reduction_is_the_mean_of_blocks() -> None:
    image = picture(16, 24)
    result = degrade(image, DegradationConfig(plain_probability=1.0), seeded(0))
    means = image.reshape(4, 4, 6, 4, 3).mean((1, 3))
    assert np.abs(result.image - means).max() <= 0.5
    assert (result.blur, result.noise, result.jpeg_quality, result.parameters) == (0.0, 0.0, 100, [])


def test_stronger_ranges_degrade_more() -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (64, 64, 3)).copy()

    def error(sigma: float) -> float:
        stage = DegradationStage(
            blur_probability=0,
            resize_probabilities=(0, 0, 1),
            gaussian_noise_probability=1,
            gaussian_noise=(sigma, sigma),
            jpeg_quality=(95, 95),
        )
        config = DegradationConfig(first=stage, second=stage, final_sinc_probability=0, sinc_probability=0)
        clean = degrade(smooth, DegradationConfig(plain_probability=1), seeded(1)).image.astype(float)
        return float(np.abs(degrade(smooth, config, seeded(1)).image - clean).mean())

    assert error(2) < error(10) < error(30)


def test_reported_noise_and_quality_are_those_of_the_drawn_parameters() -> None:
    stage = DegradationStage(
        blur_probability=0,
        resize_probabilities=(0, 0, 1),
        gaussian_noise_probability=1,
        gaussian_noise=(8, 8),
        jpeg_quality=(40, 90),
    )
    config = DegradationConfig(first=stage, second=stage, second_stage_probability=1, final_sinc_probability=0)
    gray = np.full((64, 64, 3), 128, np.uint8)
    result = degrade(gray, config, seeded(3), scale=1)
    qualities = [step["jpeg_quality"] for step in result.parameters if "jpeg_quality" in step]
    assert len(qualities) == 2
    assert result.jpeg_quality == min(qualities)
    assert result.noise == pytest.approx(8 * math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [7, 13, 21])
def test_kernels_are_normalised_and_symmetric(family: str, size: int) -> None:
    kernel = gaussian_kernel(family, size, 1.7, 0.9, 0.6, 0.8)
    assert kernel.shape == (size, size)
    assert kernel.sum() == pytest.approx(1)
    assert np.allclose(kernel, kernel[::-1, ::-1])
    assert np.allclose(kernel, kernel.T) == (not family.endswith("aniso"))


def test_a_wide_sinc_passes_everything_below_its_cutoff() -> None:
    kernel = sinc_kernel(math.pi / 2, 21)
    columns = np.arange(21) - 10
    response = [abs((kernel.sum(0) * np.exp(1j * frequency * columns)).sum()) for frequency in (0.0, 0.5, 2.8)]
    assert response[0] == pytest.approx(1)
    assert response[1] == pytest.approx(1, abs=0.1)
    assert response[2] < 0.1


@pytest.mark.parametrize(
    "bad", [np.zeros((15, 16, 3), np.uint8), np.zeros((16, 16), np.uint8), np.zeros((16, 16, 3), np.float32)]
)
def test_what_is_not_a_picture_of_whole_blocks_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="multiples of 4"):
        degrade(bad, DegradationConfig(), seeded(0))
