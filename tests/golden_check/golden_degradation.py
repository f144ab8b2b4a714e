"""What a folder says of the degradation, compared (tests/golden/README.md describes the format).

The draws of the reference are taken from the traces in degradation.json, or drawn again from the seeds there, and fed
to the operations of `xpsr.degradation`. Errors are absolute.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from golden_rows import EXACT, Row, Tensors, compare, lacking
from safetensors.torch import load_file

from xpsr.config import DEGRADATIONS, DegradationConfig, DegradationStage
from xpsr.degradation import (
    USM_SIGMA,
    USM_SIZE,
    Interpolation,
    KernelFamily,
    add_noise,
    compress_images,
    filter_images,
    gaussian_kernel,
    gaussian_noise,
    poisson_noise,
    quantisation_factor,
    resize_images,
    sharpen_images,
    sinc_kernel,
)

KERNEL, RANDOM_KERNEL, OPERATION, USM, JPEG, CHAIN = 1e-12, 1e-7, 1e-6, 1e-5, 1e-5, 1e-5  # tolerances
USM_OUTLIERS, JPEG_OUTLIERS, CHAIN_OUTLIERS = 0.005, 0.001, 0.02  # fractions that may be off by more
ONE_LEVEL = 1 / 255
STACKED = 21  # kernels that differ in size are padded to this
SCALE = 4


class Numbers:
    """The folder's tensors and what is said of them."""

    def __init__(self, folder: Path):
        try:
            self.json: dict[str, Any] = json.loads((folder / "degradation.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / 'degradation.json'}: not JSON: {error}") from error
        self.tensors = load_file(folder / "degradation.safetensors")

    def below(self, prefix: str) -> Tensors:
        return {name: value for name, value in self.tensors.items() if name.startswith(prefix)}


Section = Callable[[Numbers], Iterator[Row]]


def error_but_for(ours: torch.Tensor, golden: torch.Tensor, outliers: float = 0.0, *, blocks: bool = False) -> float:
    """The largest absolute error when a fraction of outliers is left out; `blocks`: of the 16 x 16 blocks."""
    if ours.shape != golden.shape or not (ours.isfinite().all() and golden.isfinite().all()):
        return math.inf
    errors = (ours.detach().double() - golden.double()).abs()
    if blocks:
        height, width = errors.shape[-2:]
        padded = torch.nn.functional.pad(errors, (0, -width % 16, 0, -height % 16))
        errors = torch.nn.functional.max_pool2d(padded, 16).amax(1)
    ordered = errors.flatten().sort().values
    return float(ordered[-1 - int(outliers * len(ordered))])


def rows(
    ours: Tensors, golden: Tensors, tolerance: float, outliers: float = 0.0, *, blocks: bool = False
) -> Iterator[Row]:
    """`compare` by `error_but_for`."""
    error = partial(error_but_for, outliers=outliers, blocks=blocks)
    note = f"but for {outliers:.1%} of the {'blocks' if blocks else 'values'}" if outliers else ""
    return compare("degradation", ours, golden, tolerance, error=error, note=note)


def chain_rows(ours: Tensors, golden: Tensors) -> Iterator[Row]:
    """Whole runs: half of the values nearly exact, nearly all within a level; a flipped coefficient moves a block."""
    yield from rows(ours, golden, CHAIN, 0.5)
    for row in rows(ours, {name: golden[name] for name in ours if name in golden}, ONE_LEVEL, CHAIN_OUTLIERS):
        yield Row(f"{row.name} (levels)", row.error, row.tolerance, row.note)


def kernels(numbers: Numbers) -> Iterator[Row]:
    """`kernel/*`: every family at every size with the parameters of `kernel_params`."""
    given, ours = numbers.json["kernel_params"], {}
    for size in given["sizes"]:
        for family in get_args(KernelFamily):
            for index, (sigma_x, sigma_y, rotation) in enumerate(given["sig_xyt"]):
                kind = family.partition("_")[0]
                beta = given[f"beta_{kind}"][index] if f"beta_{kind}" in given else 1.0
                kernel = gaussian_kernel(family, size, sigma_x, sigma_y, rotation, beta)
                ours[f"kernel/{family}/k{size}/{index}"] = torch.from_numpy(kernel)
        for index, cutoff in enumerate(given["omega"]):
            ours[f"kernel/sinc/k{size}/{index}"] = torch.from_numpy(sinc_kernel(cutoff, size))
    golden = numbers.below("kernel/")
    if "kernel/sinc_pad21" in golden:  # which of the kernels it is, the file does not say
        padded = golden["kernel/sinc_pad21"]
        made = [
            torch.from_numpy(padded_kernel(sinc_kernel(cutoff, size)))
            for cutoff in given["omega"]
            for size in given["sizes"]
        ]
        ours["kernel/sinc_pad21"] = min(made, key=lambda kernel: error_but_for(kernel, padded))
    yield from lacking("degradation", golden, ("kernel/sinc_pad21",))
    yield from rows(ours, golden, KERNEL)


class Trace:
    """The reference's draws of python's and numpy's generators, in order."""

    def __init__(self, entries: list[list[Any]]):
        self.entries = entries
        self.position = 0

    def next(self, function: str) -> Any:
        """The next draw, which must be one of the function."""
        if self.position >= len(self.entries) or self.entries[self.position][0] != function:
            found = self.entries[self.position][0] if self.position < len(self.entries) else "no more"
            raise ValueError(f"draw {self.position} of a trace is {found}, not {function}")
        value = self.entries[self.position][2]
        self.position += 1
        return value[0] if isinstance(value, list) else value

    def gaussian(self, size: int) -> np.ndarray:
        """A kernel of a family that is drawn first."""
        family: KernelFamily = self.next("random.choices")
        sigma_x = self.next("np.random.uniform")
        sigma_y, rotation, beta = sigma_x, 0.0, 1.0
        if family.endswith("aniso"):
            sigma_y, rotation = self.next("np.random.uniform"), self.next("np.random.uniform")
        if "_" in family:
            self.next("np.random.uniform")  # the coin for the side of 1; the range of the next draw has its result
            beta = self.next("np.random.uniform")
        return gaussian_kernel(family, size, sigma_x, sigma_y, rotation, beta)

    def blur(self, sinc_probability: float) -> np.ndarray:
        """A kernel of the first or the second blur."""
        size = self.next("random.choice")
        if self.next("np.random.uniform") < sinc_probability:
            return sinc_kernel(self.next("np.random.uniform"), size)
        return self.gaussian(size)

    def final(self, sinc_probability: float) -> np.ndarray:
        """The sinc kernel of the end, or the one that changes nothing."""
        if self.next("np.random.uniform") < sinc_probability:
            size = self.next("random.choice")
            return sinc_kernel(self.next("np.random.uniform"), size)
        return np.ones((1, 1))


def random_mixed(numbers: Numbers) -> Iterator[Row]:
    """`random_mixed/*`: a family is drawn, then its parameters."""
    ours = {}
    for case in numbers.json["random_mixed"]:
        kernel = Trace(case["trace"]).gaussian(case["kernel_size"])
        ours[f"random_mixed/{case['i']}"] = torch.from_numpy(kernel)
    yield from rows(ours, numbers.below("random_mixed/"), KERNEL)


SINC_PROBABILITY, FINAL_SINC_PROBABILITY = 0.1, 0.8


def padded_kernel(kernel: np.ndarray) -> np.ndarray:
    """A kernel in the middle of (21, 21) zeros."""
    return np.pad(kernel, (STACKED - len(kernel)) // 2)


def drawn_kernels(trace: Trace) -> list[torch.Tensor]:
    """Those of the two blurs and of the end, float32 (1, 21, 21) each."""
    made = [trace.blur(SINC_PROBABILITY), trace.blur(SINC_PROBABILITY), trace.final(FINAL_SINC_PROBABILITY)]
    return [torch.from_numpy(padded_kernel(kernel)).float()[None] for kernel in made]


def random_kernels(numbers: Numbers) -> Iterator[Row]:
    """`random_kernels/*`: the three kernels of a picture."""
    ours = {}
    for case in numbers.json["random_kernels"]:
        for name, kernel in zip(("kernel1", "kernel2", "sinc"), drawn_kernels(Trace(case["trace"])), strict=True):
            ours[f"random_kernels/{case['i']}/{name}"] = kernel[0]
    yield from rows(ours, numbers.below("random_kernels/"), RANDOM_KERNEL)


def filters(numbers: Numbers) -> Iterator[Row]:
    """`filter2D/*`: one kernel for all pictures, or one for each."""
    golden, images, ours = numbers.below("filter2D/"), numbers.tensors["img"], {}
    given = {name: golden.pop(name) for name in list(golden) if name.startswith("filter2D/kernel_")}
    for name, kernel in given.items():
        out = name.replace("kernel_", "out_")
        ours[out] = filter_images(images, kernel.expand(len(images), -1, -1))
    yield from lacking("degradation", given, ("filter2D/kernel_single", "filter2D/kernel_batch"))
    yield from rows(ours, golden, OPERATION)


def usm(numbers: Numbers) -> Iterator[Row]:
    """`usm/*`: unsharp masking; weight and threshold stand in the name."""
    golden, ours = numbers.below("usm/"), {}
    images = golden.pop("usm/img")
    kernel = gaussian_kernel("iso", USM_SIZE, USM_SIGMA, USM_SIGMA, 0.0)
    yield from rows(
        {"usm/kernel": torch.from_numpy(kernel).float()[None]}, {"usm/kernel": golden.pop("usm/kernel")}, USM
    )
    for name in golden:
        if match := re.fullmatch(r"usm/out_w([\d.]+)_t([\d.]+)", name):
            weight, threshold = map(float, match.groups())
            ours[name] = sharpen_images(images, weight=weight, threshold=threshold)
    yield from lacking("degradation", golden, ("usm/out_",))
    yield from rows(ours, golden, USM, USM_OUTLIERS)


def jpeg(numbers: Numbers) -> Iterator[Row]:
    """`jpeg/*`: the quality stands in the name; 100 is not a number in the reference and a picture here."""
    golden, images, ours = numbers.below("jpeg/"), numbers.tensors["img"], {}
    qualities = golden.pop("jpeg/batch_quality_in")
    ours["jpeg/batch_out"] = compress_images(images, qualities)
    factors = {"jpeg/batch_quality_after_call": quantisation_factor(qualities)}
    yield from rows(factors, {name: golden.pop(name) for name in factors if name in golden}, OPERATION)
    for name in list(golden):
        if match := re.fullmatch(r"jpeg/(differentiable_)?q([\d.]+)", name):
            quality = torch.tensor([float(match[2])])
            result = compress_images(images[:1], quality, differentiable=match[1] is not None)
            if quality == 100 and golden[name].isnan().all():
                in_range = bool(((result >= 0) & (result <= 1)).all())  # false for NaN
                yield Row(f"degradation:{name}", 0.0 if in_range else math.inf, EXACT, "NaN there, a picture here")
                del golden[name]
            else:
                ours[name] = result
    yield from lacking("degradation", golden, ("jpeg/q", "jpeg/differentiable_q"))
    yield from rows(ours, golden, JPEG, JPEG_OUTLIERS, blocks=True)


def resize(numbers: Numbers) -> Iterator[Row]:
    """`resize/*`: the interpolation and the factor, or the size, stand in the name."""
    golden, images, ours = numbers.below("resize/"), numbers.tensors["img"][:1], {}
    modes = get_args(Interpolation)
    for name, mode in itertools.product(golden, modes):
        if match := re.fullmatch(rf"resize/{mode}_(?:x([\d.]+)|(\d+)x(\d+))", name):
            factor = float(match[1]) if match[1] else None
            if factor is None:
                height, width = int(match[2]), int(match[3])
            else:
                height, width = (int(side * factor) for side in images.shape[-2:])
            ours[name] = resize_images(images, height, width, mode, factor=factor)
    kinds = [f"resize/{mode}_{how}" for mode in modes for how in ("x", "")]
    yield from lacking("degradation", golden, kinds)
    yield from rows(ours, golden, OPERATION)


def uniform(bounds: list[float], count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (bounds[1] - bounds[0]) + bounds[0]


def add_drawn_noise(
    images: torch.Tensor, generator: torch.Generator, *, gaussian: bool, bounds: list[float], gray_probability: float
) -> torch.Tensor:
    """Noise with the reference's draws in its order: strengths, gray flags, the gray pattern if any, the colour one."""
    strength = uniform(bounds, len(images), generator)
    gray = torch.rand(len(images), generator=generator) < gray_probability
    noises = []
    for is_gray in (True, False) if gray.any() else (False,):
        if gaussian:
            # the reference has one gray pattern for all of a batch
            shape = (1, 1, *images.shape[-2:]) if is_gray else images.shape
            fields = torch.randn(shape, generator=generator)
            noises.append(gaussian_noise(fields, strength))
        else:

            def sample(rates: torch.Tensor) -> torch.Tensor:
                return torch.poisson(rates, generator=generator)

            noises.append(poisson_noise(images, strength, gray=is_gray, sample=sample))
    noise = torch.where(gray.view(-1, 1, 1, 1), noises[0], noises[-1])
    return add_noise(images, noise)


def noise(numbers: Numbers) -> Iterator[Row]:
    """`noise/*`: drawn from the seeds, and a given one."""
    golden, images, ours = numbers.below("noise/"), numbers.tensors["img"], {}
    for case in numbers.json["noise"]:
        ours[f"noise/{case['i']}"] = add_drawn_noise(
            images,
            torch.Generator().manual_seed(case["seed"]),
            gaussian="gaussian" in case["fn"],
            bounds=case["range"],
            gray_probability=case["gray_prob"],
        )
    fields = golden.pop("noise/gauss_explicit_noise")
    ours["noise/gauss_explicit_out"] = add_noise(images, gaussian_noise(fields, torch.tensor([5.0, 20.0])))
    yield from rows(ours, golden, OPERATION)


def run_stages(
    images: torch.Tensor,
    config: DegradationConfig,
    drawn: list[torch.Tensor],
    trace: Trace,
    generator: torch.Generator,
    *,
    coin: str,
    factor: str,
) -> torch.Tensor:
    """The reference's degradation of a batch, (B, 3, H, W) to (B, 3, H / 4, W / 4).

    `drawn`: kernels of both blurs and the end, (B, k, k) each. `coin` and `factor`: the functions that it drew yes or
    no and the factors of resizes with.
    """
    first, second, final = drawn
    full_height, full_width = images.shape[-2:]
    height, width = full_height // SCALE, full_width // SCALE

    def quality(stage: DegradationStage) -> torch.Tensor:
        low, high = stage.jpeg_quality
        return torch.empty(len(images)).uniform_(low, high, generator=generator)

    def noised(pictures: torch.Tensor, stage: DegradationStage) -> torch.Tensor:
        gaussian = trace.next(coin) < stage.gaussian_noise_probability
        bounds = list(stage.gaussian_noise if gaussian else stage.poisson_noise)
        return add_drawn_noise(
            pictures, generator, gaussian=gaussian, bounds=bounds, gray_probability=stage.gray_noise_probability
        )

    def drawn_factor() -> float:
        return 1.0 if trace.next("random.choices") == "keep" else trace.next(factor)

    now = filter_images(images, first)
    ratio, mode = drawn_factor(), trace.next("random.choice")
    now = resize_images(now, int(full_height * ratio), int(full_width * ratio), mode, factor=ratio)
    now = noised(now, config.first)
    now = compress_images(now.clamp(0, 1), quality(config.first))

    if trace.next(coin) < config.second.blur_probability:
        now = filter_images(now, second)
    ratio, mode = drawn_factor(), trace.next("random.choice")
    now = resize_images(now, int(height * ratio), int(width * ratio), mode)
    now = noised(now, config.second)
    jpeg_last = trace.next(coin) < 0.5
    mode = trace.next("random.choice")
    if not jpeg_last:
        now = compress_images(now.clamp(0, 1), quality(config.second))
    now = filter_images(resize_images(now, height, width, mode), final)
    if jpeg_last:
        now = compress_images(now.clamp(0, 1), quality(config.second))
    return now.clamp(0, 1)


def configured(given: dict[str, Any]) -> DegradationConfig:
    """The options of the reference's script as ours."""

    def stage(end: str, **others: Any) -> DegradationStage:
        return DegradationStage(
            resize_probabilities=tuple(given[f"resize_prob{end}"]),
            resize_range=tuple(given[f"resize_range{end}"]),
            gaussian_noise_probability=given[f"gaussian_noise_prob{end}"],
            gaussian_noise=tuple(given[f"noise_range{end}"]),
            poisson_noise=tuple(given[f"poisson_scale_range{end}"]),
            gray_noise_probability=given[f"gray_noise_prob{end}"],
            jpeg_quality=tuple(given[f"jpeg_range{end}"]),
            **others,
        )

    # kernels are given as tensors, so that their ranges do not matter here
    second = stage("2", blur_probability=given["second_blur_prob"], blur_sigma=(0.2, 1.5))
    return DegradationConfig(first=stage(""), second=second)


def make_train(numbers: Numbers) -> Iterator[Row]:
    """`make_train/*`: the script that made the training pairs, from sharpened pictures to crops."""
    golden, ours = numbers.below("make_train/"), {}
    images, config = sharpen_images(golden.pop("make_train/gt_in")), configured(numbers.json["make_train_args"])
    for case in numbers.json["make_train"]:
        at, trace = f"make_train/{case['i']}", Trace(case["trace"])
        drawn = [golden.pop(f"{at}/{name}") for name in ("kernel1", "kernel2", "sinc_kernel")]
        generator = torch.Generator().manual_seed(case["seed"])
        lr = run_stages(images, config, drawn, trace, generator, coin="random.random", factor="random.uniform")
        top, left, size = trace.next("random.randint"), trace.next("random.randint"), case["gt_size_used"] // SCALE
        lr = lr[..., top : top + size, left : left + size]
        ours[f"{at}/lq"] = lr
        top, left, size = top * SCALE, left * SCALE, size * SCALE
        ours[f"{at}/gt"] = images[..., top : top + size, left : left + size]
        ours[f"{at}/lq_upsampled_bicubic"] = resize_images(lr, size, size, "bicubic")
    yield from chain_rows(ours, golden)


def degrade_process(numbers: Numbers) -> Iterator[Row]:
    """`degrade_process/*`: the data set's own degradation, rounded to 8 bits, as it is and resized back."""
    golden, ours = numbers.below("degrade_process/"), {}
    picture = golden.pop("degrade_process/img_hwc").permute(2, 0, 1)[None]
    for case in numbers.json["degrade_process"]:
        at, trace = f"degrade_process/{case['i']}", Trace(case["trace_of_resize_bak_True"])
        images = picture.flip(-1) if trace.next("random.random") < 0.5 else picture
        drawn = drawn_kernels(trace)
        config, generator = DEGRADATIONS["realesrgan"], torch.Generator().manual_seed(case["seed"])
        lr = run_stages(images, config, drawn, trace, generator, coin="np.random.uniform", factor="np.random.uniform")
        ours[f"{at}/gt"] = images
        ours[f"{at}/lq_resize_bak_0"] = (lr * 255).round().clamp(0, 255) / 255
        mode = trace.entries[-1][2]  # after draws that change nothing
        lr = resize_images(lr, images.shape[-2], images.shape[-1], mode)
        ours[f"{at}/lq_resize_bak_1"] = (lr * 255).round().clamp(0, 255) / 255
    yield from chain_rows(ours, golden)


SECTIONS: dict[str, Section] = {
    "kernel": kernels,
    "random_mixed": random_mixed,
    "random_kernels": random_kernels,
    "filter2D": filters,
    "usm": usm,
    "jpeg": jpeg,
    "resize": resize,
    "noise": noise,
    "make_train": make_train,
    "degrade_process": degrade_process,
}


def degradation_sections(numbers: Numbers) -> dict[str, Section]:
    """Every comparison that the format asks for, by the first part of its tensors' names."""
    found = {name.partition("/")[0] for name in numbers.tensors} - {"img"}

    def unknown(numbers: Numbers, name: str) -> Iterator[Row]:
        yield from rows({}, {k: v for k, v in numbers.tensors.items() if k.partition("/")[0] == name}, EXACT)

    return SECTIONS | {name: partial(unknown, name=name) for name in sorted(found - set(SECTIONS))}
