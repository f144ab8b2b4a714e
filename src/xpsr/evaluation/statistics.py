"""Means and how sure they are."""

from collections.abc import Sequence

import numpy as np

from xpsr.evaluation.results import Interval

__all__ = ["mean_interval"]

_RESAMPLES = 2000


def mean_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Returns the mean of one or more finite values with its 95 % bootstrap interval."""
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(array), (_RESAMPLES, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [0.025, 0.975])
    return Interval(mean=float(array.mean()), low=float(low), high=float(high), count=len(array))
