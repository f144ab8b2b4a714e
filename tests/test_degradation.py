"""Second-order degradation: plans, and what both ways of applying them make of pictures."""

import dataclasses
import hashlib
import json
import math
import sys
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from fork_server import run_python
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.config import DEGRADATIONS, DegradationConfig, DegradationStage, load_config
from xpsr.degradation import (
    Degraded,
    GaussianBlur,
    GaussianNoise,
    Jpeg,
    KernelFamily,
    Plan,
    PoissonNoise,
    Resize,
    SincBlur,
    apply_plan,
    apply_plans,
    compress_images,
    degrade,
    degrade_batch,
    draw_plan,
    draw_plans,
    filter_images,
    gaussian_kernel,
    plan_from_json,
    plan_to_json,
    resize_images,
    sharpen,
    sharpen_images,
    sinc_kernel,
)
from xpsr.errors import InputError

FAMILIES = get_args(KernelFamily)
XPSR = DEGRADATIONS["xpsr"]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=seeded(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeds(*values: int) -> list[torch.Generator]:
    return [seeded(value) for value in values]


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
    assert (result.blur, result.noise, result.jpeg_quality) == (0.0, 0.0, 100)
    assert result.parameters == [{"resize": "area", "height": 4, "width": 6, "factor": None}]
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    plain = degrade_batch(batch, DegradationConfig(plain_probability=1.0), seeds(0)).images
    assert np.allclose(plain[0].permute(1, 2, 0) * 255, means)


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
def test_kernels_are_normalised_and_symmetric(family: KernelFamily, size: int) -> None:
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


def test_sinc_kernel_is_the_bessel_function_of_the_published_formula() -> None:
    from scipy.special import j1

    for size, cutoff in ((7, 1.1), (21, math.pi), (99, 2.5)):
        axis = np.arange(size) - size // 2
        radius = np.hypot(axis[:, None], axis[None, :])
        radius[size // 2, size // 2] = 1
        expected = cutoff * j1(cutoff * radius) / (2 * math.pi * radius)
        expected[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
        assert np.allclose(sinc_kernel(cutoff, size), expected / expected.sum(), rtol=0, atol=1e-13)


# Presets


def test_presets_are_the_published_tables() -> None:
    kernels = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    for config in DEGRADATIONS.values():
        assert config.kernel_probabilities == kernels
        assert (config.generalized_beta, config.plateau_beta) == ((0.5, 4), (1, 2))
        assert (config.sinc_probability, config.final_sinc_probability, config.kernel_sizes) == (0.1, 0.8, (7, 21))
        assert (config.plain_probability, config.second_stage_probability) == (0, 1)
    assert {name: tuple(map(dataclasses.astuple, (c.first, c.second))) for name, c in DEGRADATIONS.items()} == {
        "xpsr": (
            (1, (0.2, 3), (0.2, 0.7, 0.1), (0.15, 1.5), 0.5, (1, 30), (0.05, 3), 0.4, (30, 95)),
            (0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), 0.5, (1, 25), (0.05, 2.5), 0.4, (30, 95)),
        ),
        "realesrgan": (
            (1, (0.2, 3), (0.2, 0.7, 0.1), (0.3, 1.5), 0.5, (1, 15), (0.05, 2), 0.4, (60, 95)),
            (0.5, (0.2, 1.5), (0.3, 0.4, 0.3), (0.6, 1.2), 0.5, (1, 12), (0.05, 1), 0.4, (60, 100)),
        ),
    }


BAD_OPTIONS = {
    "--sinc_probability=1.5": "sinc_probability=1.5 is not in [0, 1]",
    "--first.blur_probability=-0.1": "blur_probability=-0.1 is not in [0, 1]",
    "--second.gray_noise_probability=2": "gray_noise_probability=2 is not in [0, 1]",
    "--kernel_probabilities=[0, 0, 0, 0, 0, 0]": "kernel_probabilities=",
    "--first.resize_probabilities=[1, -1, 1]": "resize_probabilities=",
    "--first.blur_sigma=[0, 3]": "blur_sigma=[0, 3] is not from low to high within [0.01, 100]",
    "--first.resize_range=[1.5, 0.5]": "resize_range=[1.5, 0.5] is not from low to high",
    "--second.resize_range=[0.3, 0.9]": "resize_range=[0.3, 0.9] does not hold 1",
    "--first.gaussian_noise=[1, 256]": "gaussian_noise=[1, 256]",
    "--first.poisson_noise=[-1, 2]": "poisson_noise=[-1, 2]",
    "--first.jpeg_quality=[0, 95]": "jpeg_quality=[0, 95] is not from low to high within [1, 100]",
    "--kernel_sizes=[7, 20]": "kernel_sizes=[7, 20] are not odd",
    "--kernel_sizes=[7, 101]": "kernel_sizes=[7, 101]",
    "--plateau_beta=[1.5, 2]": "plateau_beta=[1.5, 2] does not hold 1",
    "--generalized_beta=[0, 2]": "generalized_beta=[0, 2]",
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_what_cannot_be_drawn_from_is_refused_in_one_line(option: str) -> None:
    with pytest.raises(InputError) as raised:
        load_config(DegradationConfig, None, [option])
    assert BAD_OPTIONS[option] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_not_a_number_is_refused() -> None:
    with pytest.raises(InputError, match=r"sinc_probability=nan is not in \[0, 1\]"):
        DegradationConfig(sinc_probability=math.nan)
    with pytest.raises(InputError, match=r"blur_sigma=\[0.2, nan\]"):
        DegradationStage(blur_sigma=(0.2, math.nan))


# Plans


def low_high(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    """Two ordered numbers."""
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: (min(pair), max(pair)))


def around_one(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(low, 1), st.floats(1, high))


PROBABILITY = st.sampled_from([0.0, 0.5, 1.0])
STAGES = st.builds(
    DegradationStage,
    blur_probability=PROBABILITY,
    blur_sigma=low_high(0.01, 20),
    resize_probabilities=st.sampled_from([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.2, 0.7, 0.1)]),
    resize_range=around_one(0.01, 3),
    gaussian_noise_probability=PROBABILITY,
    gaussian_noise=low_high(0, 255),
    poisson_noise=low_high(0, 100),
    gray_noise_probability=PROBABILITY,
    jpeg_quality=st.tuples(st.integers(1, 100), st.integers(1, 100)).map(lambda pair: (min(pair), max(pair))),
)
CONFIGS = st.builds(
    DegradationConfig,
    plain_probability=st.sampled_from([0.0, 0.1]),
    second_stage_probability=PROBABILITY,
    generalized_beta=around_one(0.1, 20),
    plateau_beta=around_one(0.1, 20),
    kernel_probabilities=st.sampled_from([XPSR.kernel_probabilities, (1,) * 6, (0, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 1)]),
    sinc_probability=PROBABILITY,
    final_sinc_probability=PROBABILITY,
    kernel_sizes=st.sampled_from([(1, 1), (7, 21), (31, 31)]),
    first=STAGES,
    second=STAGES,
)


@settings(max_examples=60, deadline=None)
@given(CONFIGS, st.integers(4, 14), st.integers(4, 14), st.integers(0, 2**31), st.sampled_from([1, 2, 4]))
def test_any_parameters_give_a_picture_both_ways(
    config: DegradationConfig, rows: int, columns: int, seed: int, scale: int
) -> None:
    height, width = max(rows * scale, 16), max(columns * scale, 16)
    plan = draw_plan(config, seeded(seed), height, width, scale=scale)
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    images = pictures(1, height, width, seed)
    by_torch = apply_plans(images, [plan])
    assert by_torch.images.shape == (1, 3, height // scale, width // scale)
    assert ((by_torch.images >= 0) & (by_torch.images <= 1)).all()  # false for NaN
    by_opencv = apply_plan(picture(height, width, seed), plan)
    assert by_opencv.image.shape == (height // scale, width // scale, 3)
    assert by_opencv.image.dtype == np.uint8
    assert by_opencv.parameters == by_torch.parameters[0] == plan_to_json(plan)
    for blur, noise, quality in (
        (by_opencv.blur, by_opencv.noise, by_opencv.jpeg_quality),
        (by_torch.blur[0], by_torch.noise[0], by_torch.jpeg_quality[0]),
    ):
        assert math.isfinite(blur) and math.isfinite(noise) and 1 <= quality <= 100


def test_draws_stay_in_their_ranges_and_reach_everything() -> None:
    plans = [draw_plan(XPSR, seeded(seed), 64, 64) for seed in range(600)]
    kinds: dict[type, list[Any]] = {}
    for step in (step for plan in plans for step in plan):
        kinds.setdefault(type(step), []).append(step)
    assert {step.kernel for step in kinds[GaussianBlur]} == set(FAMILIES)
    assert {step.size for step in kinds[GaussianBlur] + kinds[SincBlur]} == set(range(7, 22, 2))
    assert {step.resize for step in kinds[Resize]} == {"area", "bilinear", "bicubic"}
    factors = [step.factor for step in kinds[Resize] if step.factor is not None]
    assert 0.15 <= min(factors) < 0.2 and 1.4 < max(factors) <= 1.5
    assert sum(factor < 1 for factor in factors) / len(factors) == pytest.approx(0.7, abs=0.06)
    assert sum(factor > 1 for factor in factors) / len(factors) == pytest.approx(0.2, abs=0.06)
    assert {step.jpeg_quality for step in kinds[Jpeg]} == set(range(30, 96))
    assert {step.gray for step in kinds[GaussianNoise]} == {step.gray for step in kinds[PoissonNoise]} == {True, False}
    gaussian, poisson = len(kinds[GaussianNoise]), len(kinds[PoissonNoise])
    assert gaussian / (gaussian + poisson) == pytest.approx(0.5, abs=0.06)
    assert 29 < max(step.gaussian_noise for step in kinds[GaussianNoise]) <= 30
    iso = [step for step in kinds[GaussianBlur] if not step.kernel.endswith("aniso")]
    assert all(step.sigma[0] == step.sigma[1] and step.rotation == 0 for step in iso)
    assert sum(isinstance(plan[-1], Jpeg) for plan in plans) / len(plans) == pytest.approx(0.5, abs=0.06)
    ends = [plan for plan in plans if isinstance(plan[-1], SincBlur) or isinstance(plan[-2], SincBlur)]
    assert len(ends) / len(plans) == pytest.approx(0.8, abs=0.06)
    small = [step for plan in plans for step in plan if isinstance(step, SincBlur) and step.sinc < math.pi / 3]
    assert small and all(step.size >= 13 for step in small)


def test_shared_draws_are_the_same_for_all_of_a_batch_and_the_others_are_not() -> None:
    config = dataclasses.replace(XPSR, final_sinc_probability=1.0)
    for seed in range(8):
        plans = draw_plans(config, seeds(*range(6)), 64, 64, shared=seeded(seed))
        shapes = {
            tuple(
                step
                if isinstance(step, Resize)
                else type(step).__name__.replace("Gaussian", "Sinc")
                if isinstance(step, GaussianBlur)
                else type(step).__name__
                for step in plan
            )
            for plan in plans
        }
        assert len(shapes) == 1
        assert len({step.jpeg_quality for plan in plans for step in plan if isinstance(step, Jpeg)}) > 4
    alone = draw_plans(config, seeds(3), 64, 64, shared=seeded(1))
    assert alone == draw_plans(config, seeds(0, 1, 2, 3), 64, 64, shared=seeded(1))[3:]
    assert len({plan[1] for plan in draw_plans(config, seeds(*range(6)), 64, 64)}) == 6


BAD_STEPS = {
    "strange": ({"strange": 1}, "step 0 has the keys strange"),
    "even size": ({"sinc": 2.0, "size": 8}, "step 0: size=8 is not an odd number from 1 to 99; use 21, for example."),
    "cutoff": ({"sinc": 4.0, "size": 7}, "sinc=4 is not in [0.01, 3.14159]"),
    "tiny cutoff": ({"sinc": 1e-300, "size": 7}, "sinc=1e-300 is not in"),
    "family": ({"kernel": "box", "size": 7, "sigma": [1, 1], "rotation": 0, "beta": 1}, "kernel=box is not one of iso"),
    "sigma": ({"kernel": "iso", "size": 7, "sigma": [0, 1], "rotation": 0, "beta": 1}, "sigma=[0, 1] is not in"),
    "tiny sigma": ({"kernel": "iso", "size": 7, "sigma": [1e-200, 1], "rotation": 0, "beta": 1}, "sigma=[1e-200, 1]"),
    "sigmas": ({"kernel": "iso", "size": 7, "sigma": [1], "rotation": 0, "beta": 1}, "sigma=[1] is not a list of 2"),
    "height": ({"resize": "area", "height": 0, "width": 4, "factor": None}, "height=0 is not in [1, 999999]"),
    "way": ({"resize": "nearest", "height": 4, "width": 4, "factor": None}, "resize=nearest is not one of area"),
    "noise": ({"gaussian_noise": math.nan, "gray": True, "seed": 1}, "gaussian_noise=nan is not in [0, 255]"),
    "gray": ({"poisson_noise": 1.0, "gray": 1, "seed": 1}, "gray=1 is not true or false; use true."),
    "seed": ({"poisson_noise": 1.0, "gray": True, "seed": 2**32}, "seed=4294967296 is not in"),
    "quality": ({"jpeg_quality": 0}, "jpeg_quality=0 is not in [1, 100]"),
    "no float": ({"jpeg_quality": 10**400}, "jpeg_quality=100000"),
}


@pytest.mark.parametrize("case", BAD_STEPS)
def test_step_that_cannot_be_applied_is_refused(case: str) -> None:
    step, reason = BAD_STEPS[case]
    with pytest.raises(InputError) as raised:
        plan_from_json([step])
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


# The same bits


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def degraded_bits(threads: int = 1) -> str:
    """Of both ways, for several pictures."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        ones = [degrade(picture(72, 88, seed), XPSR, seeded(seed)).image for seed in range(6)]
        batch = degrade_batch(pictures(4, 48, 64), XPSR, seeds(1, 2, 3, 4)).images
    finally:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    return digest(*ones, batch.numpy())


def test_another_process_and_more_threads_give_the_same_bits() -> None:
    here = degraded_bits()
    assert here == degraded_bits(threads=2)
    code = "import test_degradation; print(test_degradation.degraded_bits())"
    done = run_python("-c", code, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.stdout.strip() == here, done.stderr


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=7), st.sampled_from([None, 0, 1, 2, 3]))
def test_a_picture_has_the_same_bits_in_any_batch(members: list[int], shared: int | None) -> None:
    size = (44, 52)

    def run(numbers: list[int]) -> torch.Tensor:
        batch = torch.cat([pictures(1, *size, number) for number in numbers])
        common = None if shared is None else seeded(shared)
        return degrade_batch(batch, XPSR, seeds(*numbers), shared=common).images

    together = run(members)
    for result, member in zip(together, members, strict=True):
        assert torch.equal(result, run([member])[0])


def test_a_plan_that_was_written_down_gives_the_same_picture() -> None:
    image = picture(64, 48)
    first = degrade(image, XPSR, seeded(5))
    again = apply_plan(image, plan_from_json(json.loads(json.dumps(first.parameters))))
    assert np.array_equal(first.image, again.image)
    assert (first.blur, first.noise, first.jpeg_quality) == (again.blur, again.noise, again.jpeg_quality)
    other = degrade(picture(64, 48, 1), XPSR, seeded(5))
    assert other.parameters == first.parameters  # what is drawn does not depend on the picture


def test_another_seed_gives_another_picture() -> None:
    image = picture(64, 64)
    assert len({digest(degrade(image, XPSR, seeded(seed)).image) for seed in range(8)}) == 8


# Both ways do the same


def smooth(height: int = 96, width: int = 128) -> np.ndarray:
    return cv2.GaussianBlur(picture(height, width), (0, 0), 3)


def both(image: np.ndarray, *plan: Any) -> tuple[Degraded, np.ndarray, float]:
    """By OpenCV; by torch, 0..255; and the mean difference of the pictures."""
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    by_opencv, by_torch = apply_plan(image, plan), apply_plans(batch, [plan]).images[0].permute(1, 2, 0).numpy() * 255
    return by_opencv, by_torch, float(np.abs(by_opencv.image - by_torch).mean())


SAME: dict[str, tuple[Plan, float]] = {
    "blur": ((GaussianBlur(kernel="aniso", size=21, sigma=(3.0, 1.0), rotation=0.8),), 0.3),
    "sinc": ((SincBlur(sinc=1.5, size=13),), 0.3),
    "bicubic": ((Resize(resize="bicubic", height=60, width=70),), 0.6),
    "bilinear": ((Resize(resize="bilinear", height=150, width=170),), 0.6),
    "area": ((Resize(resize="area", height=24, width=32),), 0.6),
    "jpeg": ((Jpeg(jpeg_quality=60),), 1.7),
    "best jpeg": ((Jpeg(jpeg_quality=100),), 1.2),  # libjpeg enlarges colours smoothly
}


@pytest.mark.parametrize("case", SAME)
def test_torch_does_what_opencv_does(case: str) -> None:
    plan, tolerance = SAME[case]
    assert both(smooth(), *plan)[2] < tolerance


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("kind", [GaussianNoise, PoissonNoise])
def test_noise_of_both_ways_is_equally_strong_and_gray_if_asked(kind: type, gray: bool) -> None:
    image = np.full((96, 96, 3), (90, 120, 150), np.uint8)
    image[::2] += 3  # six values
    value = {"gaussian_noise": 12.0} if kind is GaussianNoise else {"poisson_noise": 0.06}
    step = kind(**value, gray=gray, seed=7)
    ours, by_torch, _ = both(image, step)
    spread = [float((result - image.astype(float)).std()) for result in (ours.image, by_torch)]
    assert spread[0] == pytest.approx(spread[1], rel=0.05)
    assert ours.noise == pytest.approx(spread[0], rel=0.05)
    if kind is GaussianNoise:
        assert spread[0] == pytest.approx(12, rel=0.05)
    for result in (ours.image, by_torch):
        noise = result - image.astype(float)
        assert (np.ptp(noise, axis=2).max() < 2) == gray


def test_best_jpeg_keeps_a_gray_picture() -> None:
    gray = pictures(1, 40, 56)[:, :1].expand(-1, 3, -1, -1)
    best, good = (compress_images(gray, torch.tensor([quality])) for quality in (100.0, 95.0))
    assert (best - gray).abs().max() < 1e-5
    assert (good - gray).abs().max() > 1e-3


def test_jpeg_of_a_batch_takes_each_picture_at_its_quality_and_leaves_the_qualities() -> None:
    images, qualities = pictures(3, 33, 47), torch.tensor([10.0, 100.0, 70.0])
    together = compress_images(images, qualities)
    assert qualities.tolist() == [10, 100, 70]
    for index, quality in enumerate(qualities):
        assert torch.equal(together[index : index + 1], compress_images(images[index : index + 1], quality[None]))


def test_differentiable_jpeg_has_a_gradient() -> None:
    images = pictures(1, 16, 16).requires_grad_()
    compress_images(images, torch.tensor([50.0]), differentiable=True).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_reflection_goes_on_where_a_picture_is_smaller_than_the_kernel() -> None:
    kernel = gaussian_kernel("iso", 21, 4.0, 4.0, 0.0)
    for size in ((1, 1), (2, 3), (5, 30)):
        images = pictures(1, *size)
        expected = cv2.filter2D(images[0].permute(1, 2, 0).numpy(), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        filtered = filter_images(images, [torch.from_numpy(kernel)])[0].permute(1, 2, 0)
        assert np.allclose(filtered, expected, atol=1e-5)


def test_full_precision_whatever_autocast_says() -> None:
    images = pictures(1, 32, 32)
    plan = draw_plan(XPSR, seeded(1), 32, 32)
    outside = apply_plans(images, [plan]).images
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(apply_plans(images, [plan]).images, outside)


def test_resizing_by_a_factor_places_pixels_by_it() -> None:
    images = pictures(1, 45, 61)
    assert not torch.equal(
        resize_images(images, 27, 36, "bilinear", factor=0.6), resize_images(images, 27, 36, "bilinear")
    )
    assert resize_images(images, 1, 1, "area", factor=0.01).shape[-2:] == (1, 1)


def test_sharpening_raises_contrast_at_edges_only_and_is_the_same_both_ways() -> None:
    image = np.full((64, 64, 3), 100, np.uint8)
    image[:, 32:] = 160
    image[:32] += picture(32, 64)[..., :1] % 3  # below the threshold
    ours = sharpen(image)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    by_torch = sharpen_images(batch)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - by_torch).max() < 0.51
    assert ours[48, 33, 0] > 165 and ours[48, 30, 0] < 95
    assert np.array_equal(sharpen(image[:, :32]), image[:, :32])


# What is refused

BAD_ARRAYS = {
    "odd side": (np.zeros((15, 16, 3), np.uint8), "15 x 16 has sides that are not multiples of 4; use 12 x 16."),
    "too small": (np.zeros((2, 16, 3), np.uint8), "2 x 16 has sides that are not multiples of 4; use 4 x 16."),
    "gray": (np.zeros((16, 16), np.uint8), "uint8 (16, 16); use uint8 (H, W, 3)"),
    "alpha": (np.zeros((16, 16, 4), np.uint8), "uint8 (16, 16, 4); use uint8 (H, W, 3)"),
    "float": (np.zeros((16, 16, 3), np.float32), "float32 (16, 16, 3); use uint8"),
    "empty": (np.zeros((0, 16, 3), np.uint8), "uint8 (0, 16, 3); use uint8"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_array_that_is_no_picture_of_whole_blocks_is_refused(case: str) -> None:
    bad, reason = BAD_ARRAYS[case]
    with pytest.raises(InputError) as raised:
        degrade(bad, XPSR, seeded(0))
    assert reason in str(raised.value)


BAD_TENSORS = {
    "8 bits": (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "torch.uint8 (1, 3, 16, 16); use float32"),
    "half": (torch.zeros(1, 3, 16, 16).half(), "torch.float16"),
    "one picture": (torch.zeros(3, 16, 16), "(3, 16, 16); use float32 (B, 3, H, W)"),
    "empty": (torch.zeros(0, 3, 16, 16), "(0, 3, 16, 16) is empty"),
    "levels": (torch.full((1, 3, 16, 16), 255.0), "[255, 255], not in [0, 1]; divide"),
    "nan": (torch.full((1, 3, 16, 16), math.nan), "not in [0, 1]"),
    "odd side": (torch.zeros(1, 3, 18, 16), "multiples of 4; use 16 x 16"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensor_that_is_no_batch_of_pictures_is_refused(case: str) -> None:
    bad, reason = BAD_TENSORS[case]
    with pytest.raises(InputError) as raised:
        degrade_batch(bad, XPSR, seeds(0))
    assert reason in str(raised.value)


def test_numbers_of_generators_plans_and_sizes_that_do_not_match_are_refused() -> None:
    images = pictures(2, 16, 16)
    with pytest.raises(InputError, match="got 1 generators for 2 pictures; use one for each"):
        degrade_batch(images, XPSR, seeds(0))
    with pytest.raises(InputError, match="got 3 plans for 2 pictures; use one for each"):
        apply_plans(images, [(), (), ()])
    with pytest.raises(InputError, match=r"end in sizes \[\(4, 4\), \(16, 16\)\]"):
        apply_plans(images, [(), (Resize(resize="area", height=4, width=4),)])
    with pytest.raises(InputError, match="scale=0 does not shrink"):
        degrade(picture(16, 16), XPSR, seeded(0), scale=0)


@pytest.mark.gpu
def test_gpu_gives_the_same_bits_in_any_batch_and_agrees_with_the_cpu() -> None:
    images, quiet = pictures(4, 64, 64).cuda(), DegradationStage(gaussian_noise=(0, 0), gaussian_noise_probability=1)
    together = degrade_batch(images, XPSR, seeds(0, 1, 2, 3)).images
    for index in range(4):
        alone = degrade_batch(images[index : index + 1], XPSR, seeds(index)).images
        assert torch.equal(alone[0], together[index])
    config = DegradationConfig(first=quiet, second=quiet)
    on_gpu = degrade_batch(images, config, seeds(0, 1, 2, 3)).images.cpu()
    on_cpu = degrade_batch(images.cpu(), config, seeds(0, 1, 2, 3)).images
    assert (on_gpu - on_cpu).abs().median() < 1e-4
