"""What the second-order degradation draws from, and its presets."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from xpsr.config.checks import PROBABILITY, Checked, Span, fault, option, weights

__all__ = ["DEGRADATIONS", "DegradationConfig", "DegradationName", "DegradationStage"]


@dataclass(frozen=True, kw_only=True)
class DegradationStage(Checked):
    """One of the two stages of the second-order degradation; pixel values below are on the 0..255 scale."""

    blur_probability: float = option(1.0, "That the picture is blurred.", PROBABILITY)
    blur_sigma: tuple[float, float] = option((0.2, 3.0), "Standard deviation of the blur, pixels.", Span(0.01, 100))
    resize_probabilities: tuple[float, float, float] = option(
        (0.2, 0.7, 0.1), "Weights of making it larger, smaller, or leaving it.", weights
    )
    resize_range: tuple[float, float] = option(
        (0.15, 1.5), "Factors of resizing; those below 1 make it smaller.", Span(0.01, 16, around=1)
    )
    gaussian_noise_probability: float = option(0.5, "That the noise is Gaussian, else Poisson.", PROBABILITY)
    gaussian_noise: tuple[float, float] = option((1.0, 30.0), "Standard deviation of Gaussian noise.", Span(0, 255))
    poisson_noise: tuple[float, float] = option((0.05, 3.0), "Scale of Poisson noise.", Span(0, 100))
    gray_noise_probability: float = option(0.4, "That the noise is the same in all colours.", PROBABILITY)
    jpeg_quality: tuple[int, int] = option((30, 95), "Qualities of JPEG, 1 to 100.", Span(1, 100))


@dataclass(frozen=True, kw_only=True)
class DegradationConfig(Checked):
    """The second-order degradation of Real-ESRGAN as XPSR uses it; the defaults are those of XPSR's training pairs."""

    plain_probability: float = option(0.0, "Of only an area reduction, nothing else.", PROBABILITY)
    second_stage_probability: float = option(1.0, "That the second stage follows.", PROBABILITY)
    kernel_probabilities: tuple[float, float, float, float, float, float] = option(
        (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        "Weights of the blur kernels: isotropic, anisotropic, the same two generalized, the same two with a plateau.",
        weights,
    )
    generalized_beta: tuple[float, float] = option(
        (0.5, 4.0), "Shapes of generalized kernels; 1 is the Gaussian's.", Span(0.1, 20, around=1)
    )
    plateau_beta: tuple[float, float] = option((1.0, 2.0), "Shapes of kernels with a plateau.", Span(0.1, 20, around=1))
    sinc_probability: float = option(0.1, "That a stage blurs with a sinc filter instead, which rings.", PROBABILITY)
    final_sinc_probability: float = option(0.8, "That a sinc filter follows at the end.", PROBABILITY)
    kernel_sizes: tuple[int, int] = option((7, 21), "Odd sizes of kernels, from .. to.", Span(1, 99))
    first: DegradationStage = option(DegradationStage(), "The first stage.")
    second: DegradationStage = option(
        DegradationStage(
            blur_probability=0.8,
            blur_sigma=(0.2, 1.5),
            resize_probabilities=(0.3, 0.4, 0.3),
            resize_range=(0.3, 1.2),
            gaussian_noise=(1.0, 25.0),
            poisson_noise=(0.05, 2.5),
        ),
        "The second stage.",
    )

    def __post_init__(self) -> None:
        """Refuses ranges and probabilities that cannot be drawn from."""
        super().__post_init__()
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise fault(self, "kernel_sizes", "are not odd", "use [7, 21], for example", code="out_of_range")


DegradationName: TypeAlias = Literal["xpsr", "realesrgan"]

DEGRADATIONS: dict[DegradationName, DegradationConfig] = {
    # What made the authors' training pairs (make_train)
    "xpsr": DegradationConfig(),
    # Real-ESRGAN's, as the authors' params_realesrgan.yml has it
    "realesrgan": DegradationConfig(
        first=DegradationStage(
            resize_range=(0.3, 1.5),
            gaussian_noise=(1.0, 15.0),
            poisson_noise=(0.05, 2.0),
            jpeg_quality=(60, 95),
        ),
        second=DegradationStage(
            blur_probability=0.5,
            blur_sigma=(0.2, 1.5),
            resize_probabilities=(0.3, 0.4, 0.3),
            resize_range=(0.6, 1.2),
            gaussian_noise=(1.0, 12.0),
            poisson_noise=(0.05, 1.0),
            jpeg_quality=(60, 100),
        ),
    ),
}
