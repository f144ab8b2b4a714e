"""Scores of a few pictures, by a protocol that needs nothing but them: what training is validated by."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from xpsr.errors import InputError
from xpsr.evaluation.fidelity import MIN_SIDE_SSIM
from xpsr.evaluation.metrics import METRICS, Subject
from xpsr.evaluation.protocols import Protocol, load_protocol

__all__ = ["MIN_SIDE", "mean_scores", "score"]

MIN_SIDE = 2 * 4 + MIN_SIDE_SSIM
"""Pixels, of a picture that `score` can compare: SSIM's window within the border of the `basicsr` protocol."""


def score(restored: torch.Tensor, hr: torch.Tensor) -> dict[str, float]:
    """Returns what the `basicsr` protocol measures of restored pixels (3, H, W) in [0, 1]: `psnr_y`, `ssim_y`, `niqe`.

    NIQE is left out where there is too little to see.

    Raises:
        InputError: the pictures cannot be compared: they differ in size, or a side is below `MIN_SIDE`.
    """
    protocol, subject = _basicsr(), Subject(restored=restored, hr=hr)
    scores = {}
    for name in protocol.metrics:
        metric = METRICS[name]
        try:
            scores[name] = metric.compute(subject, protocol)
        except InputError as error:
            if metric.needs_reference or error.code not in ("too_small", "flat"):
                raise
    return scores


@functools.cache
def _basicsr() -> Protocol:
    return load_protocol("basicsr")


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns means by name over the pictures that have the score."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
