"""What is done to a picture, as a value: drawn from a generator, written as JSON, applied by `arrays` or `tensors`.

A plan is a tuple of steps in order of use. Noise is not in it, only the seed that gives it, so a plan is small, and
what is drawn does not depend on the picture.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch

from xpsr.config import DegradationConfig, DegradationStage
from xpsr.config.checks import Rule, check_argument, within
from xpsr.config.sizes import MAX_SIDE
from xpsr.degradation.kernels import KERNEL_FAMILIES, KernelFamily, gaussian_kernel, sinc_kernel
from xpsr.errors import InputError

__all__ = [
    "Damage",
    "GaussianBlur",
    "GaussianNoise",
    "Interpolation",
    "Jpeg",
    "Plan",
    "PoissonNoise",
    "Resize",
    "SincBlur",
    "Step",
    "damage",
    "draw_plan",
    "draw_plans",
    "plan_from_json",
    "plan_to_json",
]

Interpolation: TypeAlias = Literal["area", "bilinear", "bicubic"]
_INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
_MAX_SEED = 2**32 - 1  # torch seeds its CPU generator with 32 bits
# Variance of enlarging from pixels of size p, in pixels of the result: this times p^2 - 1
_BLUR_OF_COARSE_GRID = 0.2


@dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """Blur with a kernel of one of the six families, `size` x `size` (odd); `sigma` x and y in pixels."""

    kernel: KernelFamily
    size: int
    sigma: tuple[float, float]
    rotation: float = 0.0
    beta: float = 1.0

    @cached_property
    def weights(self) -> np.ndarray:
        """float64 (size, size), of sum 1."""
        return gaussian_kernel(self.kernel, self.size, *self.sigma, self.rotation, self.beta)

    @property
    def variance(self) -> float:
        """Mean of the variances along both axes, in pixels."""
        axis = np.arange(self.size) - self.size // 2
        return float((self.weights.sum(0) @ axis**2 + self.weights.sum(1) @ axis**2) / 2)


@dataclass(frozen=True, kw_only=True)
class SincBlur:
    """Low-pass that rings, `size` x `size` (odd); `sinc` is the cutoff in radians per pixel."""

    sinc: float
    size: int

    @cached_property
    def weights(self) -> np.ndarray:
        """float64 (size, size), of sum 1."""
        return sinc_kernel(self.sinc, self.size)

    @property
    def variance(self) -> float:
        """That of the Gaussian that removes about as much as a low-pass at the cutoff; one at pi removes nothing."""
        return 1.2**2 * (self.sinc**-2 - math.pi**-2)


@dataclass(frozen=True, kw_only=True)
class Resize:
    """To `height` x `width` with the interpolation named `resize`.

    `factor`: the exact one that the size was rounded from; torch places pixels by it as the reference does, OpenCV
    places them by the ratio of the sizes.
    """

    resize: Interpolation
    height: int
    width: int
    factor: float | None = None


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Noise of standard deviation `gaussian_noise` (0..255), the same in all channels if `gray`."""

    gaussian_noise: float
    gray: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class PoissonNoise:
    """`poisson_noise` times the error of counting photons; the more 8-bit values a picture has, the more photons."""

    poisson_noise: float
    gray: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """JPEG of quality 1..100, with halved colour resolution."""

    jpeg_quality: float


Step: TypeAlias = GaussianBlur | SincBlur | Resize | GaussianNoise | PoissonNoise | Jpeg
Plan: TypeAlias = tuple[Step, ...]

# A step is told by the names of its fields, which are its keys in JSON
_KINDS = {frozenset(f.name for f in fields(kind)): kind for kind in get_args(Step)}


def plan_to_json(plan: Plan) -> list[dict[str, Any]]:
    """Returns one dictionary of JSON values for each step; numbers survive to the last bit."""
    return [{f.name: _json_value(getattr(step, f.name)) for f in fields(step)} for step in plan]


def _json_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def plan_from_json(steps: Iterable[Mapping[str, Any]]) -> Plan:
    """Returns the plan that `plan_to_json` wrote.

    Raises:
        InputError: a step has unknown keys, or a value that cannot be applied.
    """
    plan = []
    for index, values in enumerate(steps):
        kind = _KINDS.get(frozenset(values))
        if kind is None:
            known = "; ".join(", ".join(f.name for f in fields(kind)) for kind in _KINDS.values())
            raise InputError(f"step {index} has the keys {', '.join(values)}, not those of any step: {known}.")
        try:
            given = {f.name: check_argument(f.name, values[f.name], f.type, _RULES.get(f.name)) for f in fields(kind)}
        except InputError as error:
            raise error.recast(InputError, source=f"step {index}") from error
        plan.append(kind(**given))
    return tuple(plan)


def _is_size(size: int) -> tuple[str, str] | None:
    return None if size in range(1, 100, 2) else ("is not an odd number from 1 to 99", "use 21, for example")


# Of the fields of steps; a config draws nothing beyond, and what is not here may be anything of its type
_RULES: dict[str, Rule] = {
    "size": _is_size,
    "sigma": within(0.01, 100, "1, for example"),
    "rotation": within(-2 * math.pi, 2 * math.pi, "0"),
    "beta": within(0.1, 20, "1"),
    "sinc": within(0.01, math.pi, "2, for example"),
    "height": within(1, MAX_SIDE, "64, for example"),
    "width": within(1, MAX_SIDE, "64, for example"),
    "factor": within(0.01, 16, "null"),
    "gaussian_noise": within(0, 255, "10, for example"),
    "poisson_noise": within(0, 100, "1, for example"),
    "seed": within(0, _MAX_SEED, "0, for example"),
    "jpeg_quality": within(1, 100, "75, for example"),
}


def draw_plans(
    config: DegradationConfig,
    generators: Sequence[torch.Generator],
    height: int,
    width: int,
    *,
    scale: int = 4,
    shared: torch.Generator | None = None,
) -> list[Plan]:
    """Draws a plan for each generator, for pictures of `height` x `width`.

    `shared`: where the reference draws once for a batch (resizes, kind of noise, whether there is a second blur, order
    of the end), this generator is asked once for all of them; strengths and kernels are each picture's own anyway.
    None: everything is each picture's own.

    Raises:
        InputError: see `draw_plan`.
    """
    if shared is None:
        return [draw_plan(config, generator, height, width, scale=scale) for generator in generators]
    seed = _Draw(shared).seed()
    return [
        draw_plan(config, generator, height, width, scale=scale, structure=torch.Generator().manual_seed(seed))
        for generator in generators
    ]


def draw_plan(
    config: DegradationConfig,
    generator: torch.Generator,
    height: int,
    width: int,
    *,
    scale: int = 4,
    structure: torch.Generator | None = None,
) -> Plan:
    """Draws what is done to a picture of `height` x `width` until it is `scale` times smaller.

    Args:
        config: ranges and probabilities.
        generator: a CPU generator; every draw comes from it.
        height: of the clean picture, a multiple of `scale`; so is `width`.
        scale: 1 keeps the size.
        structure: where the draws come from that a batch may share (see `draw_plans`); None: from `generator` too.

    Raises:
        InputError: `scale` is below 1, the size is not a multiple of it, or the generator is not on the CPU.
    """
    if scale < 1:
        raise InputError(f"scale={scale} does not shrink; use a whole number of at least 1, such as 4.")
    if height < 1 or width < 1 or height % scale or width % scale:
        nearest = f"{max(height // scale, 1) * scale} x {max(width // scale, 1) * scale}"
        raise InputError(f"a picture of {height} x {width} has sides that are not multiples of {scale}; use {nearest}.")
    if generator.device.type != "cpu":
        raise InputError(f"the generator is one of {generator.device}; use a CPU generator, torch.Generator().")
    own = _Draw(generator)
    common = own if structure is None else _Draw(structure)
    target = (height // scale, width // scale)
    if own.chance(config.plain_probability):
        return (Resize(resize="area", height=target[0], width=target[1]),)

    steps = _begin(config, config.first, (height, width), own, common, is_current_size=True)
    quality = own.integer(config.first.jpeg_quality)
    steps.append(Jpeg(jpeg_quality=quality))
    if not common.chance(config.second_stage_probability):
        return (*steps, Resize(resize=common.interpolation(), height=target[0], width=target[1]))
    steps += _begin(config, config.second, target, own, common, is_current_size=False)
    jpeg = Jpeg(jpeg_quality=own.integer(config.second.jpeg_quality))
    end: list[Step] = [Resize(resize=common.interpolation(), height=target[0], width=target[1])]
    if own.chance(config.final_sinc_probability):
        end.append(SincBlur(sinc=own.uniform((math.pi / 3, math.pi)), size=own.kernel_size(config)))
    return (*steps, *end, jpeg) if common.chance(0.5) else (*steps, jpeg, *end)


def _begin(
    config: DegradationConfig,
    stage: DegradationStage,
    size: tuple[int, int],
    own: "_Draw",
    common: "_Draw",
    *,
    is_current_size: bool,
) -> list[Step]:
    """Blur, resize to `size` times what is drawn, and noise."""
    steps: list[Step] = []
    if common.chance(stage.blur_probability):
        steps.append(_draw_blur(config, stage, own))
    low, high = stage.resize_range
    factor = common.uniform(((1.0, high), (low, 1.0), (1.0, 1.0))[common.index(stage.resize_probabilities)])
    height, width = (max(int(side * factor), 1) for side in size)
    resize = Resize(
        resize=common.interpolation(), height=height, width=width, factor=factor if is_current_size else None
    )
    steps.append(resize)
    gray, seed = own.chance(stage.gray_noise_probability), own.seed()
    if common.chance(stage.gaussian_noise_probability):
        steps.append(GaussianNoise(gaussian_noise=own.uniform(stage.gaussian_noise), gray=gray, seed=seed))
    else:
        steps.append(PoissonNoise(poisson_noise=own.uniform(stage.poisson_noise), gray=gray, seed=seed))
    return steps


def _draw_blur(config: DegradationConfig, stage: DegradationStage, own: "_Draw") -> Step:
    size = own.kernel_size(config)
    if own.chance(config.sinc_probability):
        return SincBlur(sinc=own.uniform((math.pi / (3 if size < 13 else 5), math.pi)), size=size)
    family = KERNEL_FAMILIES[own.index(config.kernel_probabilities)]
    sigma_x = own.uniform(stage.blur_sigma)
    sigma_y, rotation, beta = sigma_x, 0.0, 1.0
    if family.endswith("aniso"):
        sigma_y, rotation = own.uniform(stage.blur_sigma), own.uniform((-math.pi, math.pi))
    if "_" in family:
        low, high = config.generalized_beta if family.startswith("generalized") else config.plateau_beta
        beta = own.uniform((low, 1.0)) if own.chance(0.5) else own.uniform((1.0, high))
    return GaussianBlur(kernel=family, size=size, sigma=(sigma_x, sigma_y), rotation=rotation, beta=beta)


class _Draw:
    """Scalars from one generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, bounds: tuple[float, float]) -> float:
        low, high = bounds
        return low + (high - low) * torch.rand((), generator=self.generator, dtype=torch.float64).item()

    def chance(self, probability: float) -> bool:
        return self.uniform((0, 1)) < probability

    def index(self, probabilities: Sequence[float]) -> int:
        """Draws by weight; the weights need not sum to 1."""
        point = self.uniform((0, sum(probabilities)))
        ends = np.cumsum(probabilities)
        last = int(np.flatnonzero(probabilities)[-1])  # rounding may put the point on the very end
        return min(int(np.searchsorted(ends, point, side="right")), last)

    def integer(self, bounds: tuple[int, int]) -> int:
        low, high = bounds
        return min(int(self.uniform((low, high + 1))), high)

    def kernel_size(self, config: DegradationConfig) -> int:
        smallest, largest = config.kernel_sizes
        return smallest + 2 * self.integer((0, (largest - smallest) // 2))

    def interpolation(self) -> Interpolation:
        return _INTERPOLATIONS[self.index((1, 1, 1))]

    def seed(self) -> int:
        return int(torch.randint(_MAX_SEED + 1, (), generator=self.generator))


@dataclass(frozen=True)
class Damage:
    """What a plan did in all, as a viewer would measure it; see `Degraded`."""

    blur: float
    noise: float
    jpeg_quality: int


def damage(plan: Plan, width: int, noise_variances: Iterable[float]) -> Damage:
    """Returns the damage to a picture that was `width` wide.

    `noise_variances`: the mean square of what each noise step added, 0..255, in order.
    """
    variances = iter(noise_variances)
    final_width = next((step.width for step in reversed(plan) if isinstance(step, Resize)), width)
    # how many pixels now make one of the final
    now, reduction = width, width / final_width
    blur, noise, compression = 0.0, 0.0, 0.0
    for step in plan:
        match step:
            case GaussianBlur() | SincBlur():
                blur += step.variance / reduction**2
            case Resize():
                factor = step.width / now
                if factor > 1:  # what was lost on a grid coarser than the result's stays lost
                    blur += max(reduction**-2 - 1, 0) * _BLUR_OF_COARSE_GRID
                else:  # decimation keeps the variance, averaging squares the factor: the middle is taken
                    noise, compression = noise * factor, compression * factor
                now, reduction = step.width, reduction * factor
            case GaussianNoise() | PoissonNoise():
                noise += next(variances)
            case Jpeg():
                compression = max(compression, 100 - step.jpeg_quality)
    return Damage(math.sqrt(blur), math.sqrt(noise), round(100 - compression))
