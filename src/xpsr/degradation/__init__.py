"""Second-order degradation: blur, resize, noise and JPEG, twice, as Real-ESRGAN (arXiv 2107.10833) proposed it.

First a *plan* is drawn, a value that says every step with its parameters (`plan`); then it is applied, to one picture
with OpenCV and libjpeg, the fastest on a CPU (`arrays`), or to a batch on any device with torch (`tensors`). A plan can
be written down and applied again. Every draw comes from the caller's `torch.Generator`, one for each picture, so the
same seed gives the same bits in any process and any batch.

The clean picture is taken as it is; XPSR's authors sharpen it first, for which there are `sharpen` and
`sharpen_images`.
"""

from xpsr.degradation.arrays import Degraded, apply_plan, degrade, sharpen
from xpsr.degradation.kernels import USM_SIGMA, USM_SIZE, KernelFamily, gaussian_kernel, sinc_kernel
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
    draw_plan,
    draw_plans,
    plan_from_json,
    plan_to_json,
)
from xpsr.degradation.tensors import (
    DegradedBatch,
    add_noise,
    apply_plans,
    compress_images,
    degrade_batch,
    filter_images,
    gaussian_noise,
    poisson_noise,
    quantisation_factor,
    resize_images,
    sharpen_images,
)

__all__ = [
    "Degraded",
    "DegradedBatch",
    "GaussianBlur",
    "GaussianNoise",
    "Interpolation",
    "Jpeg",
    "KernelFamily",
    "Plan",
    "PoissonNoise",
    "Resize",
    "SincBlur",
    "Step",
    "USM_SIGMA",
    "USM_SIZE",
    "add_noise",
    "apply_plan",
    "apply_plans",
    "compress_images",
    "degrade",
    "degrade_batch",
    "draw_plan",
    "draw_plans",
    "filter_images",
    "gaussian_kernel",
    "gaussian_noise",
    "plan_from_json",
    "plan_to_json",
    "poisson_noise",
    "quantisation_factor",
    "resize_images",
    "sharpen",
    "sharpen_images",
    "sinc_kernel",
]
