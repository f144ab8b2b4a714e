"""Plans applied to one picture, an array, on the CPU: OpenCV's filters and libjpeg, the fastest there."""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from xpsr.config import DegradationConfig
from xpsr.degradation.kernels import USM_SIGMA, USM_SIZE
from xpsr.degradation.plan import (
    GaussianBlur,
    GaussianNoise,
    Interpolation,
    Jpeg,
    Plan,
    PoissonNoise,
    Resize,
    SincBlur,
    damage,
    draw_plan,
    plan_to_json,
)
from xpsr.errors import InputError

__all__ = ["Degraded", "apply_plan", "degrade", "sharpen"]

_INTERPOLATIONS: dict[Interpolation, int] = {
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
}


@dataclass(frozen=True)
class Degraded:
    """A degraded picture and what was done to it.

    `image`: uint8 (h, w, 3) RGB. `parameters`: the plan, JSON-ready; `plan_from_json` reads it. `blur`: standard
    deviation of all blurs together, in pixels of the result; `noise`: standard deviation, 0..255; `jpeg_quality`: the
    lowest that was applied, 100 for none. Noise and JPEG count for less the more the picture shrank afterwards.
    """

    image: np.ndarray
    parameters: list[dict[str, Any]] = field(default_factory=list)
    blur: float = 0.0
    noise: float = 0.0
    jpeg_quality: int = 100


def degrade(image: np.ndarray, config: DegradationConfig, generator: torch.Generator, *, scale: int = 4) -> Degraded:
    """Degrades a clean picture and shrinks it.

    Args:
        image: uint8 (H, W, 3) RGB, H and W multiples of `scale`.
        config: ranges and probabilities.
        generator: a CPU generator; every draw comes from it.
        scale: H and W are divided by it.

    Raises:
        InputError: wrong dtype or shape.
    """
    _check(image)
    return apply_plan(image, draw_plan(config, generator, *image.shape[:2], scale=scale))


def apply_plan(image: np.ndarray, plan: Plan) -> Degraded:
    """Does what the plan says to a uint8 (H, W, 3) RGB picture; the same plan gives the same bits.

    Raises:
        InputError: wrong dtype or shape.
    """
    _check(image)
    # what is only resized stays in 8 bits, which OpenCV averages exactly
    exact = all(isinstance(step, Resize) for step in plan)
    pixels = image if exact else image.astype(np.float32) / 255
    variances = []
    for step in plan:
        match step:
            case GaussianBlur() | SincBlur():
                weights = step.weights.astype(np.float32)
                pixels = cv2.filter2D(pixels, -1, weights, borderType=cv2.BORDER_REFLECT_101)
            case Resize():
                if pixels.shape[:2] != (step.height, step.width):
                    size = (step.width, step.height)
                    pixels = cv2.resize(pixels, size, interpolation=_INTERPOLATIONS[step.resize])
            case GaussianNoise() | PoissonNoise():
                noise = _gaussian(pixels, step) if isinstance(step, GaussianNoise) else _poisson(pixels, step)
                variances.append(float(np.mean(np.square(noise))) * 255**2)
                pixels = np.clip(pixels + noise, 0, 1)
            case Jpeg():
                pixels = _compress(pixels, step.jpeg_quality)
    result = pixels if exact else _to_uint8(pixels)
    done = damage(plan, image.shape[1], variances)
    return Degraded(result, plan_to_json(plan), done.blur, done.noise, done.jpeg_quality)


def sharpen(image: np.ndarray, *, weight: float = 0.5, threshold: float = 10.0) -> np.ndarray:
    """Sharpens by unsharp masking, as XPSR's authors do their ground truth; nothing here asks for it.

    Args:
        image: uint8 (H, W, 3) RGB.
        weight: how much of the difference to the blurred picture is added.
        threshold: differences up to this, 0..255, are left alone; the border between is softened.

    Returns:
        uint8 (H, W, 3).
    """
    _check(image)
    pixels = image.astype(np.float32) / 255
    residual = pixels - _usm_blur(pixels)
    mask = _usm_blur((np.abs(residual) * 255 > threshold).astype(np.float32))
    return _to_uint8(pixels + mask * (np.clip(pixels + weight * residual, 0, 1) - pixels))


def _check(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"got an array of {image.dtype} {image.shape}; use uint8 (H, W, 3), RGB.")


def _gaussian(pixels: np.ndarray, step: GaussianNoise) -> np.ndarray:
    shape = (*pixels.shape[:2], 1 if step.gray else 3)
    generator = torch.Generator().manual_seed(step.seed)
    return torch.randn(shape, generator=generator).mul_(step.gaussian_noise / 255).numpy()


def _poisson(pixels: np.ndarray, step: PoissonNoise) -> np.ndarray:
    base = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None] if step.gray else pixels
    levels = _to_uint8(base)
    num_levels = 2.0 ** (int(np.count_nonzero(np.bincount(levels.ravel()))) - 1).bit_length()
    expected = levels.astype(np.float32) * np.float32(1 / 255)
    counts = torch.poisson(
        torch.from_numpy(expected * num_levels), generator=torch.Generator().manual_seed(step.seed)
    ).numpy()
    return (counts / num_levels - expected) * step.poisson_noise


def _compress(pixels: np.ndarray, quality: float) -> np.ndarray:
    bgr = cv2.cvtColor(_to_uint8(pixels), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / 255


def _usm_blur(pixels: np.ndarray) -> np.ndarray:
    row = cv2.getGaussianKernel(USM_SIZE, USM_SIGMA, ktype=cv2.CV_32F)
    return cv2.sepFilter2D(pixels, -1, row, row, borderType=cv2.BORDER_REFLECT_101)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
