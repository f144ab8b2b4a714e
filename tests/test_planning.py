"""Plans: how much is computed at once for a budget of memory."""

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpsr.errors import InputError
from xpsr.planning import Costs, TilePlan, Work, in_words, parse_memory, plan_tiles, refuse_above, smaller_plan

FIRST = TilePlan(tile_size=128, tile_overlap=16, batch_size=4, band_rows=1024)
COSTS = Costs(fixed=6 * 10**8, tile=4000, band=90, vae_tile=1000, whole=0, source=15, result=24)

sides = st.integers(1, 20_000)


def work(height: int, width: int, *, scale: int = 4) -> Work:
    return Work(source=height * width // scale**2, working=(height, width), result=height * width, pixels_per_latent=4)


def test_where_memory_is_no_object_the_first_plan_is_taken():
    plan = plan_tiles(FIRST, work(2048, 2048), COSTS, budget=None, multiple=4)
    assert plan == dataclasses.replace(FIRST, peak_bytes=plan.peak_bytes)
    assert plan.peak_bytes > COSTS.fixed


@given(height=sides, width=sides, budget=st.integers(1, 10**11), multiple=st.sampled_from((1, 4, 8)))
def test_a_plan_fits_its_budget_or_there_is_none(height, width, budget, multiple):
    wanted = work(height, width)
    plan = plan_tiles(FIRST, wanted, COSTS, budget=budget, multiple=multiple)
    try:
        refuse_above(plan, budget)
    except InputError as error:
        budget = parse_memory(error.remedy.split()[1])
        plan = plan_tiles(FIRST, wanted, COSTS, budget=budget, multiple=multiple)  # the remedy is one
    assert COSTS.peak(plan, wanted) == plan.peak_bytes <= budget
    assert plan.tile_size % multiple == 0
    assert plan.tile_overlap <= plan.tile_size // 2


@given(height=sides, width=sides, budget=st.integers(10**9, 10**11), more=st.integers(0, 10**11))
def test_a_larger_budget_gives_no_smaller_plan(height, width, budget, more):
    plan = plan_tiles(FIRST, work(height, width), COSTS, budget=budget, multiple=4)
    larger = plan_tiles(FIRST, work(height, width), COSTS, budget=budget + more, multiple=4)
    assert larger.peak_bytes >= plan.peak_bytes
    for name in ("tile_size", "batch_size", "band_rows", "vae_tile"):
        assert getattr(larger, name) >= getattr(plan, name)


def chain(wanted: Work, costs: Costs, **limits: Any) -> list[TilePlan]:
    plans, plan = [], FIRST
    while plan is not None:
        plans.append(plan)
        plan = smaller_plan(plan, wanted, costs, multiple=4, **limits)
    return plans


def test_what_changes_the_result_is_given_up_last():
    costs = dataclasses.replace(COSTS, vae_tile=0)
    plans = chain(work(12_000, 16_000), costs)
    changed = [plan.tile_size < FIRST.tile_size for plan in plans]
    assert changed == sorted(changed)
    assert True in changed
    before = plans[changed.index(True) - 1]
    assert (before.batch_size, before.band_rows) == (1, 96)
    assert chain(work(12_000, 16_000), costs, keeps_tiles=True) == plans[: changed.index(True)]


@given(height=sides, width=sides)
def test_each_smaller_plan_takes_less_than_the_one_before(height, width):
    wanted = work(height, width)
    peaks = [COSTS.peak(plan, wanted) for plan in chain(wanted, COSTS)]
    assert all(more > less for more, less in itertools.pairwise(peaks))


def test_a_step_that_saves_nothing_is_passed_over():
    in_whole = dataclasses.replace(FIRST, batch_size=1, band_rows=None)
    plan = smaller_plan(in_whole, work(12_000, 16_000), dataclasses.replace(COSTS, vae_tile=0), multiple=4)
    assert plan is not None and (plan.tile_size, plan.vae_tile) == (64, 256)


def test_a_budget_that_is_too_small_says_how_much_is_enough():
    plan = plan_tiles(FIRST, work(512, 512), COSTS, budget=5 * 10**8, multiple=4)
    assert smaller_plan(plan, work(512, 512), COSTS, multiple=4) is None
    with pytest.raises(InputError, match=r"memory=500 MB is too little: .* 6\d\d MB at least; use 0\.\dGB or more"):
        refuse_above(plan, 5 * 10**8)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("4 gb", 4 * 10**9), ("1.5GiB", 3 * 2**29), ("800M", 8 * 10**8), ("123456", 123456)],
)
def test_memory_in_words(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-4GB", "0", "4XB", "4 i", "nan", "1e9", "4GB4"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(InputError, match=r"is no amount of memory; use 4GB, for example"):
        parse_memory(text)


@given(size=st.integers(1, 10**13))
def test_bytes_in_words_are_no_less_than_they_are(size):
    said = parse_memory(in_words(size))
    assert size <= said <= size + 10**8
