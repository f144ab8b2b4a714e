"""Plans applied to a batch of pictures with torch, on any device; and the operations that they are made of.

A picture's result does not depend on its companions, to the last bit: what sums (convolutions) runs picture by
picture, because libraries sum in another order when a batch grows, and the rest is elementwise. So is the noise, which
comes from a generator for each picture on the pictures' device. The bits differ between kinds of devices, and from the
result of `arrays`, whose JPEG is the real one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from xpsr.config import DegradationConfig
from xpsr.degradation.kernels import USM_SIGMA, USM_SIZE, gaussian_kernel
from xpsr.degradation.plan import (
    GaussianBlur,
    GaussianNoise,
    Interpolation,
    Jpeg,
    Plan,
    PoissonNoise,
    Resize,
    SincBlur,
    Step,
    damage,
    draw_plans,
    plan_to_json,
)
from xpsr.errors import InputError

__all__ = [
    "DegradedBatch",
    "add_noise",
    "apply_plans",
    "compress_images",
    "degrade_batch",
    "filter_images",
    "gaussian_noise",
    "poisson_noise",
    "quantisation_factor",
    "resize_images",
    "sharpen_images",
]

# ITU-T T.81, annex K: steps of quality 50. The standard's first index is the vertical frequency; the reference has the
# horizontal one there, which makes a difference in the brightness only.
_LUMA_STEPS = """
16 12 14 14 18 24 49 72   11 12 13 17 22 35 64 92   10 14 16 22 37 55 78 95   16 19 24 29 56 64 87 98
24 26 40 51 68 81 103 112   40 58 57 87 109 104 121 100   51 60 69 80 103 113 120 103   61 55 56 62 77 92 101 99
"""
_CHROMA_STEPS = """
17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
"""


@dataclass(frozen=True)
class DegradedBatch:
    """Degraded pictures and what was done to each; `parameters` and the levels are as in `Degraded`.

    `images`: (B, 3, h, w) in [0, 1], of the device and dtype that came in.
    """

    images: torch.Tensor
    parameters: list[list[dict[str, Any]]]
    blur: list[float]
    noise: list[float]
    jpeg_quality: list[int]


def degrade_batch(
    images: torch.Tensor,
    config: DegradationConfig,
    generators: Sequence[torch.Generator],
    *,
    scale: int = 4,
    shared: torch.Generator | None = None,
) -> DegradedBatch:
    """Degrades clean pictures and shrinks them, (B, 3, H, W) to (B, 3, H / scale, W / scale).

    Args:
        images: float32 or float64, RGB in [0, 1], H and W multiples of `scale`.
        config: ranges and probabilities.
        generators: a CPU generator for each picture, also if the pictures are on another device.
        scale: H and W are divided by it.
        shared: what the reference draws once for a batch comes from this generator, and the batch runs as one; None:
            everything is drawn for each picture (see `draw_plans`).

    Raises:
        InputError: wrong dtype, shape or range, or not one generator for each picture.
    """
    _check(images)
    if len(generators) != len(images):
        raise InputError(f"got {len(generators)} generators for {len(images)} pictures; use one for each.")
    return apply_plans(images, draw_plans(config, generators, *images.shape[-2:], scale=scale, shared=shared))


@torch.no_grad()
def apply_plans(images: torch.Tensor, plans: Sequence[Plan]) -> DegradedBatch:
    """Does to each picture what its plan says; the same plan gives the same bits in any batch.

    Pictures whose plans have the same kinds of steps and the same sizes run together.

    Raises:
        InputError: wrong dtype, shape or range, not one plan for each picture, or plans that end in several sizes.
    """
    _check(images)
    if len(plans) != len(images):
        raise InputError(f"got {len(plans)} plans for {len(images)} pictures; use one for each.")
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, plan in enumerate(plans):
        groups.setdefault(tuple(map(_kind, plan)), []).append(index)
    results: list[torch.Tensor] = [images[0]] * len(images)
    variances: list[list[torch.Tensor]] = [[] for _ in plans]
    for members in groups.values():
        batch = images[members]
        for steps in zip(*(plans[member] for member in members), strict=True):
            batch, added = _apply(batch, steps)
            if added is not None:
                for member, variance in zip(members, added, strict=True):
                    variances[member].append(variance)
        for member, result in zip(members, batch.clamp(0, 1), strict=True):
            results[member] = result
    sizes = {tuple(result.shape[-2:]) for result in results}
    if len(sizes) > 1:
        raise InputError(f"the plans end in sizes {sorted(sizes)}; use plans of one size for a batch.")
    # only here, so that a GPU is waited for once
    flat = iter(torch.stack([variance for each in variances for variance in each]).tolist() if any(variances) else [])
    done = [
        damage(plan, images.shape[-1], [next(flat) for _ in each]) for plan, each in zip(plans, variances, strict=True)
    ]
    return DegradedBatch(
        images=torch.stack(results),
        parameters=[plan_to_json(plan) for plan in plans],
        blur=[each.blur for each in done],
        noise=[each.noise for each in done],
        jpeg_quality=[each.jpeg_quality for each in done],
    )


def _kind(step: Step) -> object:
    """What pictures must have in common to take the step together."""
    if isinstance(step, Resize):
        return step
    return type(step), isinstance(step, GaussianNoise | PoissonNoise) and step.gray


def _apply(images: torch.Tensor, steps: Sequence[Step]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One step of each picture's plan, all of one kind; for noise also its mean square (B,), 0..255."""
    match steps[0]:
        case GaussianBlur() | SincBlur():
            kernels = [torch.from_numpy(step.weights) for step in steps if isinstance(step, GaussianBlur | SincBlur)]
            return filter_images(images, kernels), None
        case Resize(resize=interpolation, height=height, width=width, factor=factor):
            return resize_images(images, height, width, interpolation, factor=factor), None
        case Jpeg():
            qualities = images.new_tensor([step.jpeg_quality for step in steps if isinstance(step, Jpeg)])
            return compress_images(images.clamp(0, 1), qualities), None
        case GaussianNoise(gray=gray) | PoissonNoise(gray=gray):
            noisy = [step for step in steps if isinstance(step, GaussianNoise | PoissonNoise)]
            generators = [torch.Generator(images.device).manual_seed(step.seed) for step in noisy]
            if isinstance(noisy[0], GaussianNoise):
                sigmas = [step.gaussian_noise for step in noisy if isinstance(step, GaussianNoise)]
                shape = (1 if gray else 3, *images.shape[-2:])
                fields = [
                    torch.randn(shape, generator=generator, dtype=images.dtype, device=images.device)
                    for generator in generators
                ]
                noise = gaussian_noise(torch.stack(fields), images.new_tensor(sigmas))
            else:
                strengths = [step.poisson_noise for step in noisy if isinstance(step, PoissonNoise)]

                def count(rates: torch.Tensor) -> torch.Tensor:
                    pairs = zip(rates, generators, strict=True)
                    return torch.stack([torch.poisson(rate, generator=generator) for rate, generator in pairs])

                noise = poisson_noise(images, images.new_tensor(strengths), gray=gray, sample=count)
            added = torch.stack([each.square().mean() for each in noise]) * 255**2
            return add_noise(images, noise), added
    raise AssertionError(f"unknown step {steps[0]}")


def filter_images(images: torch.Tensor, kernels: Iterable[torch.Tensor]) -> torch.Tensor:
    """Cross-correlates each of (B, C, H, W) with its own kernel (k, k), k odd; the borders are reflected (101)."""
    return torch.cat(
        [
            _convolve(_reflect(image, kernel.shape[-1] // 2)[:, None], kernel[None, None])[:, 0][None]
            for image, kernel in zip(images, kernels, strict=True)
        ]
    )


def resize_images(
    images: torch.Tensor, height: int, width: int, interpolation: Interpolation, *, factor: float | None = None
) -> torch.Tensor:
    """Resizes (B, C, H, W) to (B, C, height, width) without antialiasing; area averages whatever falls on a pixel.

    `factor`: that which `height` and `width` were rounded down from, and by which pixels are placed; None: they are
    placed by the ratio of the sizes.
    """
    corners = None if interpolation == "area" else False
    rounded = None if factor is None else [int(side * factor) for side in images.shape[-2:]]
    if rounded == [height, width]:
        return F.interpolate(images, scale_factor=factor, mode=interpolation, align_corners=corners)
    return F.interpolate(images, size=(height, width), mode=interpolation, align_corners=corners)


def gaussian_noise(fields: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Returns noise of standard deviation `sigma` (B,), 0..255, of standard normal fields (B, 1 or 3, H, W)."""
    return fields * (sigma.view(-1, 1, 1, 1) / 255)


def poisson_noise(
    images: torch.Tensor,
    strength: torch.Tensor,
    *,
    gray: bool,
    sample: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Returns `strength` (B,) times the error of counting photons.

    A picture with n different 8-bit values counts up to the power of two that is not below n.

    Args:
        images: (B, 3, H, W), RGB in [0, 1].
        strength: factor for each picture.
        gray: the noise is that of the luminance, one for all channels.
        sample: makes Poisson counts of rates, both (B, 1 or 3, H, W).

    Returns:
        (B, 3, H, W), or (B, 1, H, W) if `gray`.
    """
    if gray:
        red, green, blue = images.unbind(1)
        images = (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]
    levels = (images * 255).round().clamp(0, 255)
    present = torch.zeros(len(images), 256, dtype=torch.int64, device=images.device)
    num_values = present.scatter_(1, levels.flatten(1).long(), 1).sum(1, keepdim=True)
    exponents = (num_values > 2 ** torch.arange(8, device=images.device)).sum(1)
    num_levels = (2**exponents).to(images.dtype).view(-1, 1, 1, 1)
    expected = levels / 255
    return (sample(expected * num_levels) / num_levels - expected) * strength.view(-1, 1, 1, 1)


def add_noise(images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Returns images (B, 3, H, W) plus noise, of that shape or (B, 1, H, W), clipped to [0, 1]."""
    return (images + noise).clamp(0, 1)


def quantisation_factor(quality: torch.Tensor) -> torch.Tensor:
    """Returns the factor of JPEG's quantisation steps for qualities of 1..100; 0 at 100."""
    return torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100


def compress_images(images: torch.Tensor, quality: torch.Tensor, *, differentiable: bool = False) -> torch.Tensor:
    """Does what JPEG does to pictures, without its bits: (B, 3, H, W) in [0, 1] to the same.

    Colours are halved in resolution, blocks that stand over are filled with black, nothing is rounded to 8 bits.

    Args:
        images: RGB in [0, 1].
        quality: (B,), 1..100. At 100 the steps would be 0; coefficients are kept as they are there.
        differentiable: rounds to nearest plus the cube of the remainder, which has a gradient.
    """
    height, width = images.shape[-2:]
    red, green, blue = (F.pad(images, (0, -width % 16, 0, -height % 16)) * 255).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    blue_chroma = -0.168736 * red - 0.331264 * green + 0.5 * blue + 128
    red_chroma = 0.5 * red - 0.418688 * green - 0.081312 * blue + 128
    factor = quantisation_factor(quality.to(images)).view(-1, 1, 1, 1)
    luma = _compress_planes(luma[:, None], _LUMA_STEPS, factor, differentiable)[:, 0]
    chroma = F.avg_pool2d(torch.stack([blue_chroma, red_chroma], 1), 2)
    chroma = _compress_planes(chroma, _CHROMA_STEPS, factor, differentiable) - 128
    blue_chroma, red_chroma = chroma.repeat_interleave(2, -1).repeat_interleave(2, -2).unbind(1)
    rgb = [
        luma + 1.402 * red_chroma,
        luma - 0.344136 * blue_chroma - 0.714136 * red_chroma,
        luma + 1.772 * blue_chroma,
    ]
    return (torch.stack(rgb, 1)[..., :height, :width] / 255).clamp(0, 1)


def _compress_planes(planes: torch.Tensor, table: str, factor: torch.Tensor, differentiable: bool) -> torch.Tensor:
    """Quantises the 8 x 8 cosine transform of (B, C, H, W), 0..255, with `factor` (B, 1, 1, 1) times the steps."""
    frequencies, places = np.arange(8)[:, None], np.arange(8)[None, :]
    cosines = np.cos((2 * places + 1) * frequencies * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    # (64, 1, 8, 8): rows then columns of frequencies
    waves = torch.from_numpy(np.einsum("uy,vx->uvyx", cosines, cosines).reshape(64, 1, 8, 8))
    quality_50 = planes.new_tensor([float(word) for word in table.split()]).view(1, 64, 1, 1)
    channels = planes.shape[1]
    blocks = torch.cat([_convolve((plane - 128)[:, None], waves, stride=8) for plane in planes])
    steps = (quality_50 * factor).repeat_interleave(channels, 0)
    lossless = steps == 0
    scaled = blocks / steps.masked_fill(lossless, 1)
    rounded = scaled.round()
    if differentiable:
        rounded = rounded + (scaled - rounded) ** 3
    blocks = torch.where(lossless, blocks, rounded * steps)
    planes = torch.cat([_convolve(block, waves, stride=8, transposed=True) for block in blocks.split(channels)])
    return planes.view(-1, channels, *planes.shape[-2:]) + 128


def sharpen_images(images: torch.Tensor, *, weight: float = 0.5, threshold: float = 10.0) -> torch.Tensor:
    """Sharpens (B, 3, H, W) in [0, 1] by unsharp masking, as `sharpen` does; nothing here asks for it."""
    kernel = torch.from_numpy(gaussian_kernel("iso", USM_SIZE, USM_SIGMA, USM_SIGMA, 0.0))
    kernels = [kernel] * len(images)
    residual = images - filter_images(images, kernels)
    mask = filter_images((residual.abs() * 255 > threshold).to(images.dtype), kernels)
    sharp = (images + weight * residual).clamp(0, 1)
    return mask * sharp + (1 - mask) * images


def _convolve(
    images: torch.Tensor, kernels: torch.Tensor, *, stride: int = 1, transposed: bool = False
) -> torch.Tensor:
    """A convolution in full precision, whatever autocast and the switches for TF32 say: JPEG rounds its result."""
    function = F.conv_transpose2d if transposed else F.conv2d
    with (
        torch.autocast(images.device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        return function(images.contiguous(), kernels.to(images), stride=stride)


def _reflect(image: torch.Tensor, margin: int) -> torch.Tensor:
    """Pads the last two dimensions by reflection without repeating the border, as often as a small picture needs."""
    for dim in (-2, -1):
        last = image.shape[dim] - 1
        places = torch.arange(-margin, last + 1 + margin, device=image.device)
        places = (places.remainder(2 * last) - last).abs().neg() + last if last else torch.zeros_like(places)
        image = image.index_select(dim, places)
    return image


def _check(images: torch.Tensor) -> None:
    if images.dtype not in (torch.float32, torch.float64) or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"got a tensor of {images.dtype} {tuple(images.shape)}; use float32 (B, 3, H, W).")
    if not images.numel():
        raise InputError(f"a batch of shape {tuple(images.shape)} is empty; use at least one picture of one pixel.")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise InputError(f"pixels are in [{low:g}, {high:g}], not in [0, 1]; divide 8-bit values by 255.")
