"""What the scores of some pictures say of all: intervals of means, and tests of differences between methods."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xpsr.config import suggest
from xpsr.errors import InputError
from xpsr.evaluation.results import Evaluation, Interval, Method

__all__ = [
    "MIN_PICTURES",
    "Comparison",
    "Summary",
    "best_methods",
    "compare",
    "compare_all",
    "holm",
    "mean_interval",
    "signed_rank",
    "summaries",
]

MIN_PICTURES = 6
"""Of a test: with five, no difference can be significant at 5 %, however clear it is."""

_RESAMPLES = 10_000
_AT_ONCE = 2**20  # random numbers, so that memory does not grow with the number of pictures


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The mean of a metric over the pictures that have it, with its interval, and their median."""

    interval: Interval
    median: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a method differs from another in a metric, over the pictures that have it in both.

    Attributes:
        metric: its name.
        method: the one.
        baseline: the other.
        difference: mean of the one minus the other, with its interval.
        p: of Wilcoxon's signed-rank test, two-sided; None: fewer than `MIN_PICTURES` pictures.
        p_holm: the same after Holm's correction for all tests that were made in one go.
    """

    metric: str
    method: str
    baseline: str
    difference: Interval
    p: float | None
    p_holm: float | None


def mean_interval(values: Sequence[float] | NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Returns the mean of finite numbers and its 95 % interval: percentiles of the means of 10,000 resamples.

    The same numbers in any order give the same interval. One number has an interval of no width, which says nothing.

    Raises:
        InputError: there are no numbers.
    """
    if len(values) == 0:
        raise InputError("no numbers have no mean", code="no_values", remedy="give at least one")
    return _interval(tuple(sorted(map(float, values))), seed)


@functools.lru_cache(maxsize=1024)  # a report needs each several times
def _interval(values: tuple[float, ...], seed: int) -> Interval:
    array, generator = np.array(values), np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    rows = max(1, _AT_ONCE // len(array))
    for start in range(0, _RESAMPLES, rows):
        count = min(rows, _RESAMPLES - start)
        means[start : start + count] = array[
            generator.integers(0, len(array), (count, len(array)), dtype=np.int32)
        ].mean(1)
    mean = float(array.mean())
    low, high = (float(bound) for bound in np.percentile(means, (2.5, 97.5)))
    return Interval(mean=mean, low=min(low, mean), high=max(high, mean), count=len(array))  # but for rounding


def summaries(evaluation: Evaluation) -> dict[str, dict[str, Summary]]:
    """Returns a summary of each metric of each method; none of one that no picture of the method has."""
    found: dict[str, dict[str, Summary]] = {}
    for method in evaluation.methods:
        found[method.name] = {}
        for metric in evaluation.metrics:
            values = [row[metric.name] for row in method.scores if metric.name in row]
            if values:
                median = float(np.median(values))
                found[method.name][metric.name] = Summary(interval=mean_interval(values), median=median)
    return found


def best_methods(evaluation: Evaluation) -> dict[str, tuple[str, ...]]:
    """Returns the methods with the best mean by metric; none of one of which more is neither better nor worse.

    Nor is there a best one where the methods were not measured over the same pictures, or there is but one.
    """
    best: dict[str, tuple[str, ...]] = {}
    found = summaries(evaluation)
    for metric in evaluation.metrics:
        measured = {tuple(metric.name in row for row in method.scores) for method in evaluation.methods}
        is_measured = any(map(any, measured))
        if metric.lower_is_better is None or not is_measured or len(measured) > 1 or len(evaluation.methods) < 2:
            best[metric.name] = ()
            continue
        means = {name: row[metric.name].interval.mean for name, row in found.items()}
        first = (min if metric.lower_is_better else max)(means.values())
        best[metric.name] = tuple(name for name, mean in means.items() if mean == first)
    return best


def compare(evaluation: Evaluation, *, baseline: str) -> tuple[Comparison, ...]:
    """Returns how each other method differs from one, in each metric. Holm's correction is over all that is returned.

    Raises:
        InputError: there is no such method.
    """
    methods = {method.name: method for method in evaluation.methods}
    if baseline not in methods:
        remedy = suggest(baseline, methods).removeprefix("; ") or f"there are: {', '.join(methods)}"
        raise InputError("is no method", code="unknown_method", field="baseline", value=baseline, remedy=remedy)
    pairs = [(method, methods[baseline]) for name, method in methods.items() if name != baseline]
    return _comparisons(evaluation, pairs)


def compare_all(evaluation: Evaluation) -> tuple[Comparison, ...]:
    """Returns how each method differs from each that was named before it, in each metric.

    Holm's correction is over all that is returned: all pairs of methods in all metrics.
    """
    methods = evaluation.methods
    return _comparisons(
        evaluation, [(methods[j], methods[i]) for i in range(len(methods)) for j in range(i + 1, len(methods))]
    )


def _comparisons(evaluation: Evaluation, pairs: Sequence[tuple[Method, Method]]) -> tuple[Comparison, ...]:
    found = []
    for method, baseline in pairs:
        for metric in evaluation.metrics:
            differences = _differences(method, baseline, metric.name)
            if differences:  # without a picture that both have there is nothing to say
                found.append((metric.name, method.name, baseline.name, differences))
    tests = [signed_rank(differences) for *_, differences in found]
    corrected = iter(holm([p for p in tests if p is not None]))
    return tuple(
        Comparison(
            metric=metric,
            method=method,
            baseline=baseline,
            difference=mean_interval(differences),
            p=p,
            p_holm=None if p is None else next(corrected),
        )
        for (metric, method, baseline, differences), p in zip(found, tests, strict=True)
    )


def _differences(method: Method, baseline: Method, metric: str) -> list[float]:
    pairs: list[tuple[Mapping[str, float], Mapping[str, float]]] = list(
        zip(method.scores, baseline.scores, strict=True)
    )
    return [one[metric] - other[metric] for one, other in pairs if metric in one and metric in other]


def signed_rank(differences: Sequence[float]) -> float | None:
    """Returns p of Wilcoxon's signed-rank test that differences lie around 0, two-sided; None: they are too few.

    Differences of 0 are left out, as Wilcoxon did; where all are, p is 1.
    """
    from scipy.stats import wilcoxon

    if len(differences) < MIN_PICTURES:
        return None
    unequal = np.array(sorted(difference for difference in differences if difference != 0))
    return float(wilcoxon(unequal).pvalue) if len(unequal) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values after Holm's step-down correction, in the order given: none is below its own, nor above 1."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = highest
    return corrected
