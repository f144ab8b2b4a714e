"""Settings and the rules about them: what a model does, and what it refuses, before there is one."""

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.config import (
    PRESETS,
    ModelFacts,
    RenamedWarning,
    Settings,
    override,
    preset_settings,
    renamed,
    resolve_settings,
)
from xpsr.errors import InputError

MINI = ModelFacts(num_train_timesteps=1000, vae_scale_factor=4, tile_multiple=4, has_one_step=True)
BASE = Settings(num_inference_steps=1, strength=0.1, tile_size=144, tile_overlap=16, num_shifts=2)


def resolved(facts: ModelFacts = MINI, **overrides: Any) -> Settings:
    return resolve_settings(BASE, overrides, facts)


def test_what_is_not_given_follows_what_is() -> None:
    assert resolved() == dataclasses.replace(BASE, strength=0.0)
    several = resolved(num_inference_steps=4)
    assert (several.strength, several.num_shifts, several.start) == (0.1, 1, "lr")
    assert resolved(num_inference_steps=4, strength=1.0, start="noise").start == "noise"
    assert resolved(tile_size=16).tile_overlap == 8
    assert resolved(tile_size=16, tile_overlap=12).tile_overlap == 12
    assert resolved(dataclasses.replace(MINI, has_one_step=False)).strength == 0.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_inference_steps": 1001, "strength": 1.0}, "num_inference_steps=1001 is more than the 1000 timesteps"),
        ({"num_inference_steps": 4, "strength": 0.0}, "num_inference_steps=4 is not the one step, which strength=0 is"),
        ({"num_inference_steps": 50, "strength": 0.01}, "strength=0.01 leaves fewer than 50 of 1000 timesteps"),
        ({"start": "noise", "strength": 0.5}, "start=noise is for strength=1, not 0.5; use lr."),
        ({"added_noise_level": 1000}, "added_noise_level=1000 is not below 1000; use 0 for none."),
        ({"offset_noise_scale": 0.1, "start": "lr"}, "offset_noise_scale=0.1 is for start=noise; use 0."),
        ({"tile_size": 15}, "tile_size=15 is not a multiple of 4; use 16."),
        ({"tile_size": 16, "tile_overlap": 16}, "tile_overlap=16 is not below tile_size=16; use 2."),
        ({"num_shifts": 3}, "num_shifts=3 does not divide the 4 pixels of a latent pixel; use 1 or 2 or 4."),
        ({"num_inference_steps": 2, "num_shifts": 2}, "num_shifts=2 is for the one step"),
        ({"fit": "stretch", "num_shifts": 2}, "num_shifts=2 is for fit=pad, not stretch; use 1."),
        ({"fit": "crop"}, "fit=crop is not one of pad, stretch; use pad."),
        ({"min_working_size": -1}, "min_working_size=-1 is not in [0, 65536]; use 0 to ask for nothing."),
        ({"tile_size": "large"}, "tile_size=large is not a whole number; use 64 to 320."),
        ({"tile_size": 64.5}, "tile_size=64.5 is not a whole number; use 64 to 320."),
        ({"tile_size": None}, "tile_size=null is not a whole number; use 64 to 320."),
        ({"tile_size": True}, "tile_size=true is not a whole number; use 64 to 320."),
        ({"guidance_scale": 10**400}, "guidance_scale=1000000000"),
        ({"content_suffix": 5}, "content_suffix=5 is not a text; use '5'."),
        ({"tile_sise": 16}, "tile_sise is not an option; did you mean 'tile_size'?"),
        ({"steps": 4}, "steps is not an option; did you mean 'num_inference_steps'?"),
    ],
)
def test_what_cannot_be_is_refused_with_field_value_and_remedy(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        resolved(**overrides)
    assert str(caught.value).startswith(message)
    assert caught.value.code in ("conflict", "out_of_range", "wrong_type", "unknown_field")
    assert caught.value.field is not None and caught.value.remedy


@pytest.mark.parametrize(
    ("base", "given", "followed"),
    [
        (BASE, {"fit": "stretch"}, {"num_shifts": 1, "strength": 0.0}),
        (BASE, {"start": "noise"}, {"strength": 1.0, "num_shifts": 1}),
        (BASE, {"offset_noise_scale": 0.1}, {"start": "noise", "strength": 1.0}),
        (Settings(start="noise", offset_noise_scale=0.1), {"strength": 0.5}, {"start": "lr", "offset_noise_scale": 0}),
        (Settings(), {"strength": 0.0}, {"num_inference_steps": 1}),
        (preset_settings("reference"), {"tile_size": 318, "tile_weights": "reference"}, {"tile_overlap": 8}),
        (Settings(tile_size=318, tile_weights="reference"), {"tile_weights": "symmetric"}, {"tile_size": 320}),
    ],
)
def test_a_default_gives_way_to_what_was_given(base: Settings, given: dict[str, Any], followed: dict[str, Any]) -> None:
    found = resolve_settings(base, given, MINI)
    assert {name: getattr(found, name) for name in {**given, **followed}} == {**given, **followed}


def test_a_model_without_the_one_step_needs_noise() -> None:
    with pytest.raises(InputError, match=r"^strength=0 is the one step, which this model has not learned; use 1, or a"):
        resolved(dataclasses.replace(MINI, has_one_step=False), strength=0.0)


def test_numbers_of_numpy_are_numbers() -> None:
    made = override(Settings(), {"tile_size": np.int64(64), "strength": np.float32(0.5)})
    assert (type(made.tile_size), type(made.strength)) == (int, float)


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "num_inference_steps": st.sampled_from([1, 1, 2, 20]) | st.integers(-1, 1100),
        "strength": st.sampled_from([0.0, 0.001, 0.1, 0.999, 1.0, 1.5]),
        "start": st.sampled_from(["lr", "noise"]),
        "tile_size": st.integers(0, 40),
        "tile_overlap": st.integers(-1, 40),
        "tile_weights": st.sampled_from(["symmetric", "reference"]),
        "num_shifts": st.sampled_from([1, 2]) | st.integers(0, 9),
        "fit": st.sampled_from(["pad", "stretch"]),
        "added_noise_level": st.sampled_from([0, 5, 800, 1000]),
        "offset_noise_scale": st.sampled_from([0.0, 0.1]),
        "cache_interval": st.sampled_from([1, 2]),
        "scheduler": st.sampled_from(["model", "unipc"]),
        "fidelity": st.sampled_from([0.0, 0.5]),
    },
)
FACTS = st.builds(
    ModelFacts,
    num_train_timesteps=st.sampled_from([10, 1000]),
    vae_scale_factor=st.sampled_from([1, 2, 4, 8]),
    tile_multiple=st.sampled_from([1, 2, 8]),
    has_one_step=st.booleans(),
    has_several_steps=st.booleans(),
    has_fidelity=st.booleans(),
)


BASES = (
    resolve_settings(BASE, {}, MINI),
    BASE,
    *(preset_settings(name) for name in PRESETS),
    Settings(start="noise", offset_noise_scale=0.1),
    Settings(tile_size=318, tile_weights="reference", fit="stretch"),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(BASES), CHANGES)
def test_an_error_is_about_what_was_given(base: Settings, changes: dict[str, Any]) -> None:
    with contextlib.suppress(InputError):
        resolve_settings(base, changes, MINI)
        return
    with pytest.raises(InputError) as caught:
        resolve_settings(base, changes, MINI)
    assert caught.value.field in changes, str(caught.value)


@settings(max_examples=300, deadline=None)
@given(CHANGES, FACTS)
def test_what_is_resolved_can_be_done_and_resolves_to_itself(changes: dict[str, Any], facts: ModelFacts) -> None:
    try:
        found = resolve_settings(Settings(), changes, facts)
    except InputError:
        return
    assert {name: getattr(found, name) for name in changes} == changes
    assert resolve_settings(found, dataclasses.asdict(found), facts) == found
    assert found.tile_overlap < found.tile_size and facts.vae_scale_factor % found.num_shifts == 0
    assert (found.strength == 0) <= (facts.has_one_step and found.num_inference_steps == 1)
    assert (found.num_shifts > 1) <= (found.strength == 0)


def test_former_names_are_understood_and_told() -> None:
    with pytest.warns(RenamedWarning, match="min_size is called min_working_size now; use that name") as told:
        assert resolved(min_size=64).min_working_size == 64
    assert len(told) == 1 and issubclass(RenamedWarning, FutureWarning)
    with pytest.raises(InputError, match=r"^min_size is the former name of min_working_size, which is given too; "):
        resolved(min_size=64, min_working_size=64)
    assert renamed({"min_size": 3}, ["min_size", "min_working_size"]) == {"min_size": 3}
    assert renamed({"min_size": 3}, ["min_size"]) == {"min_size": 3}


def test_presets_are_found_by_name() -> None:
    assert preset_settings("paper").guidance_scale == 5.5
    with pytest.raises(InputError, match=r"^preset=papre is not one of default, paper, reference; use paper\.$"):
        preset_settings("papre")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "draws"),
    [
        (Settings(), True),
        (Settings(num_inference_steps=1, strength=0), False),
        (Settings(num_inference_steps=1, strength=0, grain=0.4), True),
    ],
)
def test_steps_from_noise_and_grain_depend_on_the_seed(settings: Settings, draws: bool) -> None:
    assert settings.draws_noise is draws


def test_guidance_is_in_its_interval_of_the_steps() -> None:
    guided = Settings(guidance_interval=[0.25, 0.75])  # type: ignore[arg-type]  # as a YAML has it
    assert guided.guidance_interval == (0.25, 0.75)
    assert [guided.is_guided(index, 8) for index in range(8)] == [*[False] * 2, *[True] * 4, *[False] * 2]
    assert all(Settings().is_guided(index, 8) for index in range(8))
    assert Settings().is_guided(0, 1)


@pytest.mark.parametrize("interval", [(0.5, 0.2), (-0.1, 1), (0, 1.5), (0.5,), "half", (0, float("nan"))])
def test_what_is_no_guidance_interval_is_refused(interval: Any) -> None:
    with pytest.raises(InputError, match=r"^guidance_interval=.*; use \[0, 1\]\.$"):
        resolved(guidance_interval=interval)


def test_deep_levels_are_renewed_at_each_interval_and_where_the_texts_change() -> None:
    several = Settings(cache_interval=3, guidance_interval=(0, 0.5))
    assert [index for index in range(8) if several.renews_cache(index, 8)] == [0, 3, 4, 6]
    assert not any(Settings().renews_cache(index, 8) for index in range(8))


def test_the_one_step_keeps_nothing_for_later_steps() -> None:
    with pytest.raises(InputError, match=r"^cache_interval=2 is for several steps, and this is the one step; use 1\.$"):
        resolved(cache_interval=2)
    cached = dataclasses.replace(BASE, cache_interval=2)
    assert resolve_settings(cached, {}, MINI).cache_interval == 1
    assert resolved(cache_interval=2, num_inference_steps=4).cache_interval == 2
