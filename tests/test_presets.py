"""Settings and presets: what each option does, alone."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr import PRESETS, Prior, Settings, XPSRPipeline
from xpsr.config import UpscaleConfig, override
from xpsr.config.checks import said
from xpsr.devices import has_float64
from xpsr.errors import ModelError
from xpsr.image import resize, stretched_sizes, to_picture
from xpsr.model_files import bundled_models
from xpsr.models import XPSRControlNet
from xpsr.pipeline.texts import token_rows
from xpsr.tiling import gaussian_weights


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> XPSRPipeline:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def condition_of(pipe: XPSRPipeline, image: Image.Image, **options: Any) -> tuple[torch.Tensor, Image.Image]:
    """The pixels that the ControlNet was shown last, and the result."""
    seen: list[torch.Tensor] = []

    def look(module: XPSRControlNet, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen.append(arguments[3])

    handle = pipe.controlnet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        result = pipe(image, describer="none", **options).images[0]
    finally:
        handle.remove()
    return seen[-1], result


def test_every_setting_can_be_given_to_upscale() -> None:
    mine = {f.name: f.type for f in dataclasses.fields(Settings)}
    theirs = {f.name: f.type for f in dataclasses.fields(UpscaleConfig)}
    assert {name: theirs[name] for name in mine} == {name: kind | None for name, kind in mine.items()}
    assert UpscaleConfig(fit="stretch", min_working_size=0).overrides == {"fit": "stretch", "min_working_size": 0}


def test_every_setting_is_explained_with_the_default_of_the_mini() -> None:
    page = (Path(__file__).parents[1] / "docs" / "presets.md").read_text(encoding="utf-8")
    table = page.partition("## What each setting does")[2].partition("## The presets")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    explained = {row[0].strip("`"): row[1].strip("`") for row in rows}
    (mini,) = (folder for name, folder in bundled_models().items() if name == "mini")
    stored = json.loads((mini / "model_index.json").read_text(encoding="utf-8"))["settings"]
    defaults = vars(override(Settings(), stored))  # a setting that is younger than the model is the default
    shown = {True: "yes", False: "no", "": "empty"}
    names = [f.name for f in dataclasses.fields(Settings)]
    assert {name: explained.get(name) for name in names} == {
        name: said(value) if type(value) in (int, float, tuple) else shown.get(value, value)
        for name, value in ((name, defaults[name]) for name in names)
    }


def test_presets_differ_from_the_default_where_they_say() -> None:
    def changes(name: Any) -> set[str]:
        default, preset = vars(PRESETS["default"]), vars(PRESETS[name])
        return {key for key in default if default[key] != preset[key]}

    assert PRESETS["default"] == Settings()
    assert changes("paper") == {"guidance_scale", "negative_content"}
    assert changes("reference") == {
        *("added_noise_level", "fit", "long_texts", "reserve_suffix", "tile_overlap", "tile_size", "tile_weights"),
    }


def test_a_preset_goes_before_the_model_and_settings_before_the_preset(pipe: XPSRPipeline) -> None:
    assert pipe.settings().num_inference_steps == 1
    assert pipe.settings("paper").guidance_scale == 5.5
    assert pipe.settings("paper", {"guidance_scale": 2.0}) == dataclasses.replace(PRESETS["paper"], guidance_scale=2.0)


def test_a_model_folder_with_an_unknown_setting_is_refused(pipe: XPSRPipeline) -> None:
    with pytest.raises(ModelError, match="did you mean 'tile_size'"):
        XPSRPipeline(**pipe.components, settings={"tile_sizes": 3})


@given(height=st.integers(1, 300), width=st.integers(1, 300), min_size=st.integers(0, 200))
def test_stretching_ends_at_multiples_not_below_the_smallest_size(height: int, width: int, min_size: int) -> None:
    sizes = stretched_sizes((height, width), min_size=min_size, multiple=8)
    assert sizes[0] == (height, width)
    assert all(side % 8 == 0 and side >= 8 for side in sizes[-1])
    assert min(sizes[-2]) >= min_size
    assert all(0 <= before - after < 8 for before, after in zip(sizes[-2], sizes[-1], strict=True) if before >= 8)


def test_stretch_resizes_in_eight_bits_and_back(pipe: XPSRPipeline) -> None:
    seen, result = condition_of(pipe, picture(9, 7), scale=2.5, settings={"fit": "stretch"})
    enlarged = resize(to_picture(picture(9, 7)).pixels, (18, 22), eight_bit=True)
    assert torch.equal(seen[0], resize(enlarged, (16, 20), eight_bit=True))
    assert torch.equal((seen * 255).round() / 255, seen)
    assert result.size == (22, 18)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_small_picture_is_worked_on_at_the_smallest_size(pipe: XPSRPipeline, fit: str) -> None:
    options = {"settings": {"fit": fit, "min_working_size": 64, "tile_size": 32}}
    seen, result = condition_of(pipe, picture(12, 8), scale=2, **options)
    assert seen.shape[-2:] == (64, 96)
    assert result.size == (24, 16)
    seen, _ = condition_of(pipe, picture(20, 18), scale=4, **options)
    assert seen.shape[-2:] == (72, 80)


WORDS = st.lists(st.sampled_from(["a", "dog", "cat's", "12", "blüh", "🙂", ",", "church"]), max_size=60).map(" ".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=WORDS, suffix=st.sampled_from(["", "clean, high quality", "sharp " * 100]), reserve=st.booleans())
def test_tokens_fill_the_encoder_and_the_suffix_survives_if_room_is_kept(
    pipe: XPSRPipeline, text: str, suffix: str, reserve: bool
) -> None:
    resolved = pipe.settings(overrides={"long_texts": "cut", "reserve_suffix": reserve})
    tokenizer, places = pipe.tokenizer, pipe.text_encoder.config.max_position_embeddings
    (ids,) = token_rows(tokenizer, text, resolved, places=places, suffix=suffix)
    joined = f"{text} {suffix}" if suffix else text
    plain = tokenizer(joined, padding="max_length", max_length=places, truncation=True).input_ids
    assert len(ids) == places
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id in ids
    if not (suffix and reserve) or len(tokenizer(joined, verbose=False).input_ids) <= places:
        assert ids == plain
    else:
        kept = tokenizer(suffix, add_special_tokens=False, verbose=False).input_ids[-places + 2 :]
        assert ids[-1 - len(kept) : -1] == kept


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=WORDS, times=st.integers(1, 4))
def test_long_texts_are_embedded_whole_in_chunks(pipe: XPSRPipeline, text: str, times: int) -> None:
    text = " ".join([text] * times)
    rows = token_rows(pipe.tokenizer, text, pipe.settings(), places=77)
    tokenizer, special = pipe.tokenizer, set(pipe.tokenizer.all_special_ids)
    whole = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    assert [token for row in rows for token in row if token not in special] == whole
    assert all(len(row) == 77 and row[0] == tokenizer.bos_token_id for row in rows)
    assert len(rows) == max(-(-len(whole) // 75), 1)


def test_the_end_of_a_long_text_counts_unless_it_is_cut(pipe: XPSRPipeline) -> None:
    def result(text: str, **changes: Any) -> bytes:
        options = {"prior": Prior(text, "dark"), "guidance_scale": 2.0, "settings": changes}
        return pipe(picture(6, 6), **{"describer": "none", **options}).images[0].tobytes()

    one, other = (" ".join(["a dog"] * 60 + [end]) for end in ("barks", "sleeps"))
    assert result(one) != result(other)
    assert result(one, long_texts="cut") == result(other, long_texts="cut")


def test_the_suffix_and_the_negative_texts_reach_the_networks(pipe: XPSRPipeline) -> None:
    def result(**changes: Any) -> bytes:
        return (
            pipe(picture(6, 6), guidance_scale=2.0, prior=Prior("a dog", "dark"), settings=changes).images[0].tobytes()
        )

    plain = result()
    for changes in ({"content_suffix": "sharp"}, {"negative_content": "a cat"}, {"negative_quality": "clear"}):
        assert result(**changes) != plain


def test_callbacks_see_every_step_and_may_change_the_latents(pipe: XPSRPipeline) -> None:
    seen = []

    def watch(_: Any, index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((index, int(timestep), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])} if index == 2 else {}

    latents = pipe(
        picture(8, 8),
        num_inference_steps=3,
        strength=1.0,
        output_type="latent",
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=["latents", "noise_pred"],
    ).images[0]
    assert seen == [(index, t, ["latents", "noise_pred"]) for index, t in enumerate((999, 666, 332))]
    assert latents.shape == (1, 48, 8, 8) and not latents.any()


def test_given_latents_take_the_place_of_drawn_ones(pipe: XPSRPipeline, tiny_model: Path) -> None:
    other = XPSRPipeline.from_pretrained(tiny_model)  # without noise in its steps
    other.set_progress_bar_config(disable=True)
    other.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    options: dict[str, Any] = {"num_inference_steps": 2, "settings": {"start": "noise"}, "strength": 1.0}
    drawn = other(picture(8, 8), describer="none", generator=seeded(3), **options).images[0]
    latents = torch.randn(1, 48, 8, 8, generator=seeded(3))
    assert other(picture(8, 8), describer="none", latents=latents, **options).images[0].tobytes() == drawn.tobytes()


def test_noise_is_drawn_in_the_order_of_the_reference(pipe: XPSRPipeline) -> None:
    pixels, timestep = torch.rand(1, 3, 16, 16, generator=seeded()), torch.tensor([600])
    clean = pipe.vae.encode(pixels * 2 - 1).latent_dist.mean
    alphas = pipe.scheduler.alphas_cumprod

    def noised(latents: torch.Tensor, noise: torch.Tensor, at: int) -> torch.Tensor:
        return alphas[at].sqrt() * latents + (1 - alphas[at]).sqrt() * noise

    generator = seeded(5)
    torch.randn(clean.shape, generator=generator)  # for the autoencoder's sample, which has no spread here
    once = noised(clean, torch.randn(clean.shape, generator=generator), 600)
    twice = noised(once, torch.randn(clean.shape, generator=generator), 300)
    for level, expected in ((0, once), (300, twice)):
        ours = pipe.prepare_latents(
            pixels, timestep, pipe.settings("default", {"added_noise_level": level}), generator=seeded(5)
        )
        torch.testing.assert_close(ours, expected)


def test_offset_noise_moves_whole_channels(pipe: XPSRPipeline) -> None:
    pixels, timestep = torch.rand(1, 3, 16, 16), torch.tensor([999])

    def start(weight: float) -> torch.Tensor:
        resolved = pipe.settings("default", {"start": "noise", "offset_noise_scale": weight})
        return pipe.prepare_latents(pixels, timestep, resolved, generator=seeded())

    difference = start(0.5) - start(0.0)
    torch.testing.assert_close(difference, difference.mean((-2, -1), keepdim=True).expand_as(difference))
    assert difference.std() > 0.2


@pytest.mark.parametrize(("size", "tiles"), [((24, 10), 1), ((16, 16), 1), ((17, 16), 2), ((40, 8), 9), ((40, 40), 9)])
def test_the_reference_decides_on_tiles_by_area_and_lays_squares(
    pipe: XPSRPipeline, size: tuple[int, int], tiles: int
) -> None:
    resolved = pipe.settings("reference", {"tile_size": 16, "tile_overlap": 4})
    laid = pipe.tiles(*size, resolved)
    assert len(laid) == tiles
    if tiles > 1:
        assert {(tile.height, tile.width) for tile in laid} == {(min(*size, 16),) * 2}


def test_the_reference_blends_in_double_precision_with_its_weights(pipe: XPSRPipeline) -> None:
    image, options = picture(20, 6), {"settings": {"tile_size": 16, "tile_overlap": 8, "num_shifts": 1}}
    ours = pipe(image, describer="none", output_type="pt", **options).images[0]
    options["settings"] = {**options["settings"], "tile_weights": "reference"}
    theirs = pipe(image, describer="none", output_type="pt", **options).images[0]
    assert theirs.dtype == ours.dtype == torch.float32
    assert not torch.equal(ours, theirs)


def test_the_references_weights_are_double_only_where_there_is_double(
    pipe: XPSRPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert has_float64(torch.device("cpu")) and not has_float64(torch.device("mps"))
    asked: list[torch.dtype] = []

    def weights(*size: int, dtype: torch.dtype, **options: Any) -> torch.Tensor:
        asked.append(dtype)
        return gaussian_weights(*size, dtype=dtype, **options)

    monkeypatch.setattr("xpsr.pipeline.denoising.gaussian_weights", weights)
    for double in (True, False):
        monkeypatch.setattr("xpsr.pipeline.denoising.has_float64", lambda device, double=double: double)
        pipe(
            torch.rand(3, 8, 8),
            describer="none",
            settings={"tile_weights": "reference", "tile_size": 16, "tile_overlap": 4},
        )
    assert asked == [torch.float64, torch.float32]
