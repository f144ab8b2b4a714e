"""Intervals, tests and their correction: what must hold of any scores, and known values."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.errors import InputError
from xpsr.evaluation import METRICS, Case, Evaluation, Method, compare, compare_all, load_protocol, mean_interval
from xpsr.evaluation.statistics import best_methods, holm, signed_rank, summaries

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


def evaluation(scores: dict[str, list[dict[str, float]]], *metrics: str) -> Evaluation:
    count = len(next(iter(scores.values())))
    cases = tuple(Case(name=f"p{number}", restored=Path(f"p{number}.png")) for number in range(count))
    return Evaluation(
        protocol=load_protocol("xpsr"),
        metrics=tuple(METRICS[name] for name in metrics),
        not_measured={},
        methods=tuple(Method(name=name, cases=cases, scores=tuple(rows)) for name, rows in scores.items()),
        facts={},
    )


def of_psnr(**values: list[float]) -> Evaluation:
    return evaluation({name: [{"psnr_y": value} for value in row] for name, row in values.items()}, "psnr_y")


@settings(max_examples=25, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_an_interval_holds_its_mean_in_any_order_of_the_pictures(values: list[float], order: random.Random) -> None:
    interval = mean_interval(values)
    assert min(values) - 1e-6 <= interval.low <= interval.mean <= interval.high <= max(values) + 1e-6
    assert interval.mean == pytest.approx(np.mean(values), abs=1e-6) and interval.count == len(values)
    order.shuffle(values)
    assert mean_interval(values) == interval


def test_an_interval_is_that_of_theory_and_narrows_with_more_pictures() -> None:
    values = np.random.default_rng(1).normal(30, 2, 400)
    interval = mean_interval(values)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)
    few = mean_interval(values[:25])
    assert few.high - few.low > 3 * (interval.high - interval.low)
    assert mean_interval(values, seed=1) != interval
    large = mean_interval(np.arange(5_000.0))  # by some resamples at a time
    assert large.high - large.low == pytest.approx(2 * 1.96 * 5_000 / 12**0.5 / 5_000**0.5, rel=0.05)
    alone = mean_interval([3.25])
    assert (alone.low, alone.mean, alone.high, alone.count) == (3.25, 3.25, 3.25, 1)
    with pytest.raises(InputError, match="no numbers have no mean"):
        mean_interval([])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_is_never_below_p(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= after <= 1 for p, after in zip(p_values, corrected, strict=True))
    assert [after for _, after in sorted(zip(p_values, corrected, strict=True))] == sorted(corrected)
    if p_values:
        assert min(corrected) == min(1, min(p_values) * len(p_values))


def test_holm_of_known_values() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(20, 40), min_size=8, max_size=40), st.floats(0.01, 3))
def test_a_method_that_is_better_everywhere_is_detected_and_an_equal_one_is_not(
    values: list[float], shift: float
) -> None:
    scores = of_psnr(a=values, better=[value + shift for value in values], same=list(values))
    better, same = compare(scores, baseline="a")
    assert better.p is not None and better.p_holm is not None and better.p < 0.01 and better.p_holm < 0.02
    assert 0 < better.difference.low <= better.difference.mean <= better.difference.high
    assert better.difference.mean == pytest.approx(shift)
    assert (same.p, same.p_holm) == (1.0, 1.0)
    assert (same.difference.low, same.difference.mean, same.difference.high) == (0, 0, 0)
    assert best_methods(scores) == {"psnr_y": ("better",)}


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]), min_size=6, max_size=60), st.data())
def test_a_test_gives_a_probability_that_depends_on_neither_order_nor_sign(
    differences: list[float], data: st.DataObject
) -> None:
    p = signed_rank(differences)
    assert p is not None and 0 < p <= 1
    assert signed_rank(data.draw(st.permutations(differences))) == p
    assert signed_rank([-difference for difference in differences]) == pytest.approx(p, abs=1e-9)


def test_too_few_pictures_have_no_p() -> None:
    (comparison,) = compare_all(of_psnr(a=[1.0] * 5, b=[2.0] * 5))
    assert (comparison.p, comparison.p_holm, comparison.difference.mean) == (None, None, 1.0)
    assert signed_rank([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 2**6)  # all of 64 signs but two are less one-sided


def test_all_pairs_are_compared_and_corrected_together() -> None:
    generator = np.random.default_rng(0)
    values = {name: list(generator.normal(mean, 1, 12)) for name, mean in (("a", 30), ("b", 31), ("c", 32))}
    found = compare_all(of_psnr(**values))
    assert [(one.method, one.baseline) for one in found] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert [one.p_holm for one in found] == holm([one.p for one in found if one.p is not None])
    with pytest.raises(InputError, match=r"baseline=bb is no method; did you mean 'b'\?"):
        compare(of_psnr(**values), baseline="bb")


def test_pictures_without_a_score_count_neither_in_means_nor_in_differences() -> None:
    rows = {
        "a": [{"psnr_y": 30.0, "niqe": 5.0}, {"psnr_y": 32.0}],
        "b": [{"psnr_y": 31.0}, {"psnr_y": 30.0, "niqe": 3.0}],
    }
    scores = evaluation(rows, "psnr_y", "niqe")
    found = summaries(scores)
    assert (found["a"]["niqe"].interval.count, found["a"]["niqe"].interval.mean) == (1, 5.0)
    assert (found["a"]["psnr_y"].median, found["a"]["psnr_y"].interval.count) == (31.0, 2)
    assert [one.metric for one in compare_all(scores)] == ["psnr_y"]  # none has NIQE in both
    assert best_methods(scores) == {"psnr_y": ("a",), "niqe": ()}  # over other pictures: not to be compared


def test_where_more_is_neither_better_nor_worse_there_is_no_best() -> None:
    scores = of_psnr(a=[1.0], b=[2.0])
    neutral = dataclasses.replace(METRICS["psnr_y"], lower_is_better=None)
    assert best_methods(dataclasses.replace(scores, metrics=(neutral,))) == {"psnr_y": ()}
    lower = dataclasses.replace(METRICS["psnr_y"], lower_is_better=True)
    assert best_methods(dataclasses.replace(scores, metrics=(lower,))) == {"psnr_y": ("a",)}
    assert best_methods(of_psnr(a=[1.0], b=[1.0])) == {"psnr_y": ("a", "b")}
    assert best_methods(of_psnr(a=[1.0])) == {"psnr_y": ()}
