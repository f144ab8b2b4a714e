"""How much the frames of a restored video flicker, against clean originals.

The usual measure is the warping error: a frame is moved onto the next along the optical flow of the original, and what
differs then is counted where the flow is trusted (Lai et al., Learning Blind Video Temporal Consistency, 2018). What it
says depends on who found the flow, and how well. Where the original stands still the flow is known without looking for
it: it is none, and the warping error is the mean change of a result from frame to frame. That is `still`. Of what moves
it says nothing; there `change` tells how far the results change otherwise than the originals do, which counts flicker
as well as what lags behind.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from xpsr.errors import InputError
from xpsr.evaluation.luma import luma

__all__ = ["Flicker", "flicker"]

_STILL = 1.0
"""Levels that luma may change by where an original stands still."""

_AROUND = 4
"""Pixels around that have to stand still, too: what moves is seen as far as that in a result."""


@dataclass(frozen=True, kw_only=True)
class Flicker:
    """How results change from frame to frame; lower is better.

    Attributes:
        still: mean absolute change of luma where the original stands still, in levels of 255, beyond that of the
            original there; None: it does so nowhere.
        still_share: share of all pixels, over all pairs of frames, where it does.
        change: mean absolute difference, everywhere, between the change of the results and that of the originals.
    """

    still: float | None
    still_share: float
    change: float


def flicker(results: Iterable[torch.Tensor], originals: Iterable[torch.Tensor]) -> Flicker:
    """Measures the flicker of results; a frame is looked at when it comes, and two are held.

    Args:
        results: (3, H, W) in [0, 1] each, frame by frame.
        originals: of the same frames, as many and as large.

    Raises:
        InputError: there are less than two frames, or two that belong together differ in size.
        ValueError: there are more of one than of the other.
    """
    before: tuple[torch.Tensor, torch.Tensor] | None = None
    excess = change = 0.0
    num_still = num_pixels = 0
    for result, original in zip(results, originals, strict=True):
        if result.shape != original.shape or (before is not None and result.shape[-2:] != before[0].shape):
            message = f"a frame has {tuple(result.shape)}, and its original or the frame before it another size"
            raise InputError(message, code="wrong_size", remedy="measure each shot, against originals of its size")
        now = luma(result), luma(original)
        if before is not None:
            of_result, of_original = (one - other for one, other in zip(now, before, strict=True))
            moved = F.max_pool2d(of_original.abs()[None, None], 2 * _AROUND + 1, stride=1, padding=_AROUND)[0, 0]
            still = moved <= _STILL
            excess += float((of_result.abs() - of_original.abs())[still].sum())
            change += float((of_result - of_original).abs().sum())
            num_still += int(still.sum())
            num_pixels += still.numel()
        before = now
    if not num_pixels:
        raise InputError("flicker is that of two frames or more", code="too_small", remedy="measure more of them")
    return Flicker(
        still=excess / num_still if num_still else None,
        still_share=num_still / num_pixels,
        change=change / num_pixels,
    )
