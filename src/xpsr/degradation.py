"""Second-order degradation: blur, resize, noise and JPEG, twice, as Real-ESRGAN (arXiv 2107.10833) proposed it.

The clean picture is taken as it is; XPSR's authors sharpen it first.

Runs on the CPU with OpenCV, whose filters and JPEG are the fastest there. Every draw comes from the caller's
`torch.Generator`, so the same seed gives the same bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from xpsr.errors import InputError

if TYPE_CHECKING:
    from xpsr.config import DegradationConfig, DegradationStage

__all__ = ["Degraded", "degrade", "gaussian_kernel", "sinc_kernel"]

_FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
# Variance of enlarging from pixels of size p, in pixels of the result: this times p^2 - 1
_BLUR_OF_COARSE_GRID = 0.2
_INTERPOLATIONS = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


@dataclass(frozen=True)
class Degraded:
    """A degraded picture and what was done to it.

    `image`: uint8 (h, w, 3) RGB. `parameters`: the drawn values, in order of use, JSON-ready. `blur`: standard
    deviation of all blurs together, in pixels of the result; `noise`: standard deviation, 0..255; `jpeg_quality`: the
    lowest that was applied, 100 for none. Noise and JPEG count for less the more the picture shrank afterwards.
    """

    image: np.ndarray
    parameters: list[dict[str, Any]] = field(default_factory=list)
    blur: float = 0.0
    noise: float = 0.0
    jpeg_quality: int = 100


def degrade(image: np.ndarray, config: "DegradationConfig", generator: torch.Generator, *, scale: int = 4) -> Degraded:
    """Degrades a clean picture and shrinks it.

    Args:
        image: uint8 (H, W, 3) RGB, H and W multiples of `scale`.
        config: ranges and probabilities.
        generator: a CPU generator; every draw comes from it.
        scale: H and W are divided by it.

    Raises:
        InputError: wrong dtype or shape.
    """
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or image.shape[0] % scale
        or image.shape[1] % scale
    ):
        raise InputError(
            f"degrade takes uint8 (H, W, 3) with sides that are multiples of {scale}, got {image.dtype} {image.shape}."
        )
    height, width = image.shape[0] // scale, image.shape[1] // scale
    draw = _Draw(generator)
    if draw.chance(config.plain_probability):
        return Degraded(_resize(image, height, width, "area"))

    state = _State(image.astype(np.float32) / 255, image.shape[1] / width)
    _stage(state, config, config.first, draw, target=None)
    if draw.chance(config.second_stage_probability):
        _stage(state, config, config.second, draw, target=(height, width), last=True)
    else:
        state.resize(height, width, draw.interpolation())
    quality = round(100 - state.compression)
    return Degraded(state.as_uint8(), state.parameters, math.sqrt(state.blur), math.sqrt(state.noise), quality)


def gaussian_kernel(
    family: str, size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float = 1.0
) -> np.ndarray:
    """A normalised float64 (size, size) kernel.

    `family` is one of iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso; iso ones ignore
    `sigma_y` and `rotation` (radians). Generalised: exp(-q^beta / 2); plateau: 1 / (1 + q^beta); q is the squared
    Mahalanobis distance from the centre.
    """
    if family.endswith("iso") and not family.endswith("aniso"):
        sigma_y, rotation = sigma_x, 0.0
    turn = np.array([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]])
    inverse = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
    axis = np.arange(size) - size // 2
    grid = np.stack(np.meshgrid(axis, axis), -1).astype(np.float64)
    distance = np.einsum("...i,ij,...j", grid, inverse, grid)
    if family.startswith("plateau"):
        kernel = 1 / (distance**beta + 1)
    else:
        kernel = np.exp(-0.5 * (distance**beta if family.startswith("generalized") else distance))
    return kernel / kernel.sum()


def sinc_kernel(cutoff: float, size: int) -> np.ndarray:
    """A normalised float64 (size, size) circular low-pass kernel; `cutoff` in radians per pixel (pi passes all)."""
    axis = np.arange(size) - (size - 1) / 2
    radius = np.hypot(*np.meshgrid(axis, axis))
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        kernel = cutoff * bessel / (2 * math.pi * radius)
    kernel[radius == 0] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


class _Draw:
    """Scalars and noise from one generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, bounds: Sequence[float]) -> float:
        low, high = bounds
        return low + (high - low) * torch.rand((), generator=self.generator, dtype=torch.float64).item()

    def chance(self, probability: float) -> bool:
        return self.uniform((0, 1)) < probability

    def index(self, probabilities: Sequence[float]) -> int:
        """Draws by weight; the weights need not sum to 1."""
        point, total = self.uniform((0, sum(probabilities))), 0.0
        for index, probability in enumerate(probabilities):
            total += probability
            if point < total:
                return index
        return len(probabilities) - 1

    def integer(self, bounds: Sequence[int]) -> int:
        low, high = bounds
        return min(int(self.uniform((low, high + 1))), high)

    def interpolation(self) -> str:
        return list(_INTERPOLATIONS)[self.index((1, 1, 1))]

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return torch.randn(shape, generator=self.generator).numpy()

    def poisson(self, rates: np.ndarray) -> np.ndarray:
        return torch.poisson(torch.from_numpy(np.ascontiguousarray(rates)), generator=self.generator).numpy()


class _State:
    """The picture on its way, float32 (H, W, 3) in [0, 1], and what has been done to it so far.

    `blur` is a variance in pixels of the final picture; `reduction` is how many pixels now make one of the final.
    """

    def __init__(self, pixels: np.ndarray, reduction: float):
        self.pixels, self.reduction = pixels, reduction
        self.parameters: list[dict[str, Any]] = []
        self.blur, self.noise, self.compression = 0.0, 0.0, 0.0

    def filter(self, kernel: np.ndarray, variance: float = 0.0, /, **parameters: Any) -> None:
        self.pixels = cv2.filter2D(self.pixels, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)
        self.blur += variance / self.reduction**2
        self.parameters.append(parameters)

    def resize(self, height: int, width: int, interpolation: str) -> None:
        factor = width / self.pixels.shape[1]
        if factor > 1:  # what was lost on a grid coarser than the result's stays lost
            self.blur += max(self.reduction**-2 - 1, 0) * _BLUR_OF_COARSE_GRID
        self.reduction *= factor
        self.pixels = _resize(self.pixels, height, width, interpolation)
        if factor < 1:
            self.noise *= factor  # decimation keeps the variance, averaging squares the factor: the middle is taken
            self.compression *= factor
        self.parameters.append({"resize": interpolation, "height": height, "width": width})

    def add_noise(self, stage: "DegradationStage", draw: _Draw) -> None:
        gray = draw.chance(stage.gray_noise_probability)
        shape = (*self.pixels.shape[:2], 1) if gray else self.pixels.shape
        if draw.chance(stage.gaussian_noise_probability):
            sigma = draw.uniform(stage.gaussian_noise)
            noise = draw.normal(shape) * (sigma / 255)
            self.parameters.append({"gaussian_noise": sigma, "gray": gray})
        else:
            strength = draw.uniform(stage.poisson_noise)
            base = cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY)[..., None] if gray else self.pixels
            base = np.round(np.clip(base, 0, 1) * 255) / 255
            levels = 2.0 ** math.ceil(math.log2(max(len(np.unique(base)), 2)))
            noise = (draw.poisson((base * levels).astype(np.float32)) / levels - base) * strength
            self.parameters.append({"poisson_noise": strength, "gray": gray})
        self.pixels = np.clip(self.pixels + noise, 0, 1).astype(np.float32)
        self.noise += float(np.mean(np.square(noise))) * 255**2

    def jpeg(self, quality: int) -> None:
        bgr = cv2.cvtColor(self.as_uint8(), cv2.COLOR_RGB2BGR)
        encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert decoded is not None
        self.pixels = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
        self.compression = max(self.compression, 100 - quality)
        self.parameters.append({"jpeg_quality": quality})

    def as_uint8(self) -> np.ndarray:
        return np.round(np.clip(self.pixels, 0, 1) * 255).astype(np.uint8)


def _stage(
    state: _State,
    config: "DegradationConfig",
    stage: "DegradationStage",
    draw: _Draw,
    target: tuple[int, int] | None,
    last: bool = False,
) -> None:
    """Blur, resize, noise and JPEG; the last stage also resizes to `target`, with or without a sinc filter."""
    if draw.chance(stage.blur_probability):
        kernel, variance, parameters = _draw_kernel(config, stage, draw)
        state.filter(kernel, variance, **parameters)
    factor = (1.0, 1.0, 1.0)
    match draw.index(stage.resize_probabilities):
        case 0:
            factor = (1.0, stage.resize_range[1], 1.0)
        case 1:
            factor = (stage.resize_range[0], 1.0, 1.0)
    resized = draw.uniform(factor[:2])
    height, width = target or state.pixels.shape[:2]
    state.resize(max(int(height * resized), 1), max(int(width * resized), 1), draw.interpolation())
    state.add_noise(stage, draw)
    if not last:
        state.jpeg(draw.integer(stage.jpeg_quality))
        return
    sinc = draw.uniform((math.pi / 3, math.pi)) if draw.chance(config.final_sinc_probability) else None
    quality, interpolation, jpeg_last = draw.integer(stage.jpeg_quality), draw.interpolation(), draw.chance(0.5)
    if not jpeg_last:
        state.jpeg(quality)
    state.resize(height, width, interpolation)
    if sinc is not None:
        state.filter(sinc_kernel(sinc, _draw_size(config, draw)), _blur_of_sinc(sinc), sinc=sinc)
    if jpeg_last:
        state.jpeg(quality)


def _draw_kernel(
    config: "DegradationConfig", stage: "DegradationStage", draw: _Draw
) -> tuple[np.ndarray, float, dict[str, Any]]:
    """A blur kernel, its variance per axis in pixels and its parameters."""
    size = _draw_size(config, draw)
    if draw.chance(config.sinc_probability):
        cutoff = draw.uniform((math.pi / (3 if size < 13 else 5), math.pi))
        return sinc_kernel(cutoff, size), _blur_of_sinc(cutoff), {"sinc": cutoff, "size": size}
    family = _FAMILIES[draw.index(config.kernel_probabilities)]
    sigma_x = draw.uniform(stage.blur_sigma)
    sigma_y, rotation = sigma_x, 0.0
    if family.endswith("aniso"):
        sigma_y, rotation = draw.uniform(stage.blur_sigma), draw.uniform((-math.pi, math.pi))
    beta = 1.0
    if "_" in family:
        low, high = config.generalized_beta if family.startswith("generalized") else config.plateau_beta
        beta = draw.uniform((low, 1.0)) if draw.chance(0.5) else draw.uniform((1.0, high))
    kernel = gaussian_kernel(family, size, sigma_x, sigma_y, rotation, beta)
    axis = np.arange(size) - size // 2
    variance = float((kernel.sum(0) @ axis**2 + kernel.sum(1) @ axis**2) / 2)
    parameters = {"kernel": family, "size": size, "sigma": [sigma_x, sigma_y], "rotation": rotation, "beta": beta}
    return kernel, variance, parameters


def _blur_of_sinc(cutoff: float) -> float:
    """The variance of the Gaussian that removes about as much as a low-pass at `cutoff`; one at pi removes nothing."""
    return 1.2**2 * (cutoff**-2 - math.pi**-2)


def _draw_size(config: "DegradationConfig", draw: _Draw) -> int:
    smallest, largest = config.kernel_sizes
    return smallest + 2 * draw.integer((0, (largest - smallest) // 2))


def _resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=_INTERPOLATIONS[interpolation])
