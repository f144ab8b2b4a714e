"""From a picture to a larger one, with a tiny untrained model."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr import Prior, Settings, XPSRPipeline
from xpsr.config import RenamedWarning
from xpsr.errors import InputError, ModelError, XPSRError
from xpsr.image import resize, to_picture
from xpsr.models import start_at
from xpsr.tiling import blend_rows
from xpsr.training import Components


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> XPSRPipeline:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode=None)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def restore(pipe: XPSRPipeline, image: Any, **options: Any) -> np.ndarray:
    return np.asarray(pipe(image, output_type="np", **{"describer": "none", **options}).images[0])


def prepared(pipe: XPSRPipeline, image: Any, **overrides: Any) -> tuple[Any, Settings]:
    resolved = pipe.settings(overrides=overrides)
    return pipe.encode(to_picture(image), Prior(), resolved, size=(image.height * 4, image.width * 4)), resolved


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 1.37, 2.5, 3, 4, 5]))
def test_any_size_and_scale_gives_exactly_the_enlarged_size(
    pipe: XPSRPipeline, width: int, height: int, scale: float
) -> None:
    result = restore(pipe, noise_picture(width, height), scale=scale)
    assert result.shape == (max(round(height * scale), 1), max(round(width * scale), 1), 3)
    assert np.isfinite(result).all()
    assert result.min() >= 0 and result.max() <= 1


def test_a_list_gives_what_its_items_give_alone(pipe: XPSRPipeline) -> None:
    images = [noise_picture(12, 10, seed=1), noise_picture(20, 9, seed=2), noise_picture(12, 10, seed=3)]
    priors = [Prior("a dog", "blurry"), Prior("", "noisy"), Prior("the sea", "")]
    options = {"num_inference_steps": 2, "guidance_scale": 2.0}
    together = pipe(images, prior=priors, generator=[seeded(i) for i in range(3)], **options)
    assert together.priors == priors
    for index in range(3):
        alone = pipe(images[index], prior=priors[index], generator=seeded(index), **options)
        assert together.images[index].tobytes() == alone.images[0].tobytes()


def test_one_generator_gives_every_picture_the_noise_it_has_alone(pipe: XPSRPipeline) -> None:
    images = [noise_picture(8, 8, seed=1), noise_picture(8, 8, seed=2)]
    together = pipe(images, describer="none", num_inference_steps=2, generator=seeded(7)).images
    alone = pipe(images[1], describer="none", num_inference_steps=2, generator=seeded(7)).images[0]
    assert together[1].tobytes() == alone.tobytes()


@pytest.mark.slow
def test_six_threads_with_different_steps_give_what_they_give_alone(pipe: XPSRPipeline) -> None:
    image = noise_picture(12, 10)

    def run(steps: int) -> np.ndarray:
        return restore(pipe, image, num_inference_steps=steps, generator=seeded(steps), prior=Prior("a dog", "blurry"))

    steps = [2, 3, 4, 5, 6, 7]
    alone = [run(n) for n in steps]
    before = copy.deepcopy(pipe.scheduler.__dict__)
    for _ in range(3):
        with ThreadPoolExecutor(6) as threads:
            together = list(threads.map(run, steps))
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert str(pipe.scheduler.__dict__) == str(before)


def test_the_denoiser_is_kept_while_its_networks_are(tiny_model: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    kept = pipe.denoiser
    assert pipe.denoiser is kept and kept.unet is pipe.unet
    pipe.unet = copy.deepcopy(pipe.unet)
    assert pipe.denoiser is not kept and pipe.denoiser.unet is pipe.unet


def test_bars_over_passes_leave_nothing_on_the_screen(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    capsys.readouterr()
    for _ in range(2):
        restore(pipe, noise_picture(8, 8))
    shown = capsys.readouterr().err
    assert "0/1" in shown and "\n" not in shown and not shown.rpartition("\r")[0].rpartition("\r")[2].strip()


@pytest.mark.slow
def test_a_denoiser_that_is_compiled_is_what_every_call_runs(tiny_model: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    expected = restore(pipe, noise_picture(8, 8))
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        def run(*values: torch.Tensor) -> Any:
            runs.append(1)
            return graph(*values)

        return run

    pipe.denoiser.compile(backend=backend)
    for calls in (1, 2):
        assert np.abs(restore(pipe, noise_picture(8, 8)) - expected).max() < 1e-4
        assert len(runs) >= calls


def test_no_pictures_give_no_results_whatever_comes_with_them(pipe: XPSRPipeline) -> None:
    assert pipe([], generator=seeded()).images == []
    assert pipe([], prior=[], generator=[]).images == []


def test_an_empty_list_of_priors_is_not_one_for_each_picture(pipe: XPSRPipeline) -> None:
    with pytest.raises(InputError, match="prior has 0 values for 1 images"):
        pipe(noise_picture(8, 8), prior=[])


def test_every_pass_is_told_and_what_is_raised_there_ends_the_call(pipe: XPSRPipeline) -> None:
    image = noise_picture(24, 8)
    told: list[tuple[int, int]] = []
    options: dict[str, Any] = {"num_inference_steps": 2, "settings": {"tile_size": 16, "tile_overlap": 4}}
    whole = restore(pipe, image, generator=seeded(), callback_on_pass_end=lambda *now: told.append(now), **options)
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)} and len(told) >= 4

    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Enough

    with pytest.raises(Enough):
        restore(pipe, image, generator=seeded(), callback_on_pass_end=stop, **options)
    assert np.array_equal(whole, restore(pipe, image, generator=seeded(), **options))


def test_image_features_are_computed_once_for_a_tile_unless_they_are_too_large(
    pipe: XPSRPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    handle = pipe.controlnet.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    options: dict[str, Any] = {"num_inference_steps": 3, "settings": {"tile_size": 16, "tile_overlap": 4}}
    image = noise_picture(24, 8)
    kept = restore(pipe, image, generator=seeded(), **options)
    num_tiles = len(calls)
    monkeypatch.setattr("xpsr.pipeline.denoising._KEPT_FEATURES", 0)
    again = restore(pipe, image, generator=seeded(), **options)
    handle.remove()
    assert len(calls) == num_tiles + 3 * num_tiles
    assert np.array_equal(kept, again)


def test_deep_levels_are_computed_in_every_second_step_and_by_default_in_all(pipe: XPSRPipeline) -> None:
    deep = [*pipe.unet.down_blocks[1:], pipe.unet.mid_block, *pipe.unet.up_blocks[:-1]]
    deep += [*pipe.controlnet.down_blocks[1:], pipe.controlnet.mid_block]
    calls: list[int] = []
    handles = [block.register_forward_hook(lambda *_: calls.append(1)) for block in deep]
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0}
    results = {}
    for interval in (None, 1, 2):
        calls.clear()
        changes = {"tile_size": 16, "tile_overlap": 4} | ({} if interval is None else {"cache_interval": interval})
        results[interval] = restore(pipe, noise_picture(24, 8), generator=seeded(), settings=changes, **options)
        num_tiles = len(calls) / len(deep) / (2 if interval == 2 else 4)
        assert num_tiles == 2
    for handle in handles:
        handle.remove()
    assert np.array_equal(results[None], results[1])
    assert not np.array_equal(results[1], results[2])


def test_negative_texts_are_looked_at_within_the_guidance_interval_alone(pipe: XPSRPipeline) -> None:
    rows: list[int] = []
    handle = pipe.unet.conv_in.register_forward_pre_hook(lambda _, seen: rows.append(len(seen[0])))

    def run(interval: tuple[float, float], guidance_scale: float, **changes: Any) -> np.ndarray:
        rows.clear()
        settings = {"guidance_interval": interval, **changes}
        options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": guidance_scale, "settings": settings}
        return restore(pipe, noise_picture(8, 8), generator=seeded(), **options)

    run((0.25, 0.75), 3.0)
    assert rows == [1, 2, 2, 1]
    run((0.25, 0.75), 3.0, cache_interval=4)
    assert rows == [1, 2, 2, 1]
    without = run((0.0, 0.0), 3.0)
    assert rows == [1] * 4
    assert np.array_equal(without, run((0.0, 1.0), 1.0))
    handle.remove()


def test_a_generator_moves_on_between_calls(pipe: XPSRPipeline) -> None:
    generator = seeded(0)
    first, second = (restore(pipe, noise_picture(8, 8), num_inference_steps=2, generator=generator) for _ in range(2))
    assert not np.array_equal(first, second)


def test_save_and_load_keep_the_result_and_the_models_defaults(pipe: XPSRPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    again = XPSRPipeline.from_pretrained(tmp_path / "model")
    again.set_progress_bar_config(disable=True)
    assert {k: v for k, v in again.config.items() if not k.startswith("_")}.keys() == {
        k for k in pipe.config if not k.startswith("_")
    }
    assert again.config.one_step_timestep == pipe.config.one_step_timestep
    assert np.array_equal(restore(pipe, noise_picture(9, 7)), restore(again, noise_picture(9, 7)))


SCHEDULERS = (
    *("DDPM", "DDIM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete"),
    *("EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM"),
    *("SASolver", "TCD", "UniPCMultistep"),
)


def scheduler(kind: str, pipe: XPSRPipeline) -> Any:
    options = {"skip_prk_steps": True} if kind == "PNDM" else {}  # its first steps need a long past
    return getattr(diffusers, f"{kind}Scheduler").from_config(pipe.scheduler.config, **options)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.filterwarnings("ignore")  # diffusers warns of options that a scheduler does not know
def test_any_scheduler_carries_a_model_that_knows_the_answer_to_it(
    pipe: XPSRPipeline, kind: str, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = copy.copy(pipe)
    pipe.scheduler = scheduler(kind, pipe)
    clean = torch.randn(1, 48, 8, 8, generator=seeded(5))

    def velocity(latents: torch.Tensor, timestep: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
        alpha = pipe.scheduler.alphas_cumprod[timestep.long()].clamp(1e-8, 1 - 1e-8)
        noise = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean, latents[:0]

    monkeypatch.setattr(XPSRPipeline, "denoiser", staticmethod(velocity))
    conditions, settings = prepared(pipe, pipe_input(clean, pipe), num_inference_steps=4, strength=strength)
    if kind == "LMSDiscrete" and strength < 1:
        with pytest.raises(InputError, match="can only start from noise"):
            pipe.denoise(conditions, settings, generator=seeded())
        return
    latents = pipe.denoise(conditions, settings, generator=seeded())
    assert (latents - clean).abs().mean() < 0.1
    first = start_at(copy.deepcopy(pipe.scheduler), strength, 4)[0]
    assert abs(float(first) - 999) <= 1 or strength < 1


@pytest.mark.parametrize(("name", "kind"), [("ddpm", "DDPM"), ("ddim", "DDIM"), ("unipc", "UniPCMultistep")])
def test_a_scheduler_of_the_settings_is_that_of_the_pipeline_for_one_run(
    pipe: XPSRPipeline, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    other, changes, picture = copy.copy(pipe), {"num_inference_steps": 3, "strength": 0.6}, noise_picture(9, 7)
    other.scheduler = scheduler(kind, pipe)
    expected = restore(other, picture, generator=seeded(), settings=changes)
    caplog.clear()
    made = restore(pipe, picture, generator=seeded(), settings={**changes, "scheduler": name})
    assert np.array_equal(made, expected)
    assert not caplog.records
    usual = restore(pipe, picture, generator=seeded(), settings=changes)
    assert np.array_equal(usual, made) == isinstance(other.scheduler, type(pipe.scheduler))


def pipe_input(latents: torch.Tensor, pipe: XPSRPipeline) -> Image.Image:
    """Any picture whose latents have this size."""
    side = latents.shape[-1] * pipe.vae_scale_factor // 4
    return noise_picture(side, side)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.integers(1, 50), strength=st.floats(0.06, 1.0))
def test_strength_is_the_start_timestep_and_all_steps_are_taken(
    pipe: XPSRPipeline, steps: int, strength: float
) -> None:
    timesteps = start_at(copy.deepcopy(pipe.scheduler), strength, steps)
    assert len(timesteps) == steps
    assert abs(timesteps[0].item() + 1 - strength * 1000) <= 1
    assert (timesteps.diff() < 0).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.integers(1, 20), strength=st.floats(0.1, 0.99))
@example(steps=14, strength=0.23046875)  # 61 timesteps, which upstream's rounding makes 62
def test_a_scheduler_of_fixed_timesteps_starts_near_or_refuses(pipe: XPSRPipeline, steps: int, strength: float) -> None:
    try:
        timesteps = start_at(scheduler("DDIM", pipe), strength, steps)
    except InputError:
        assert steps < 5  # with n of n + 1 steps left, the start is 1 / (n + 1) below that with n of n
        return
    assert len(timesteps) == steps
    assert abs(timesteps[0].item() + 1 - strength * 1000) <= 100


@pytest.mark.parametrize("steps", [20, 61, 103])
@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_no_timestep_is_negative(pipe: XPSRPipeline, kind: str, steps: int) -> None:
    timesteps = start_at(scheduler(kind, pipe), 1.0, steps)
    assert len(timesteps) == steps and timesteps.min() >= 0


@pytest.mark.parametrize("kind", ["IPNDM", "EDMEuler", "FlowMatchEulerDiscrete"])
def test_schedulers_of_another_kind_are_refused_in_one_line(kind: str) -> None:
    other = getattr(diffusers, f"{kind}Scheduler")()
    with pytest.raises(InputError, match=f"{kind}Scheduler is not a scheduler of discrete noise levels"):
        start_at(other, 1.0, 4)


def test_starting_from_noise_forgets_the_latents_but_not_the_condition(pipe: XPSRPipeline) -> None:
    images = [noise_picture(8, 8, seed=s) for s in (1, 2)]
    options: dict[str, Any] = {"settings": {"start": "noise"}, "strength": 1.0, "num_inference_steps": 1}
    a, b = (restore(pipe, i, generator=seeded(), **options) for i in images)
    c = restore(pipe, images[0], generator=seeded(1), **options)
    assert not np.array_equal(a, c)  # noise matters
    assert not np.array_equal(a, b)  # so does the picture, through the ControlNet alone


def test_one_step_from_the_picture_draws_no_noise(pipe: XPSRPipeline) -> None:
    image = noise_picture(10, 10)
    assert np.array_equal(restore(pipe, image, generator=seeded(1)), restore(pipe, image, generator=seeded(2)))


def test_both_texts_and_guidance_change_the_result(pipe: XPSRPipeline) -> None:
    image = noise_picture(8, 8)
    plain = restore(pipe, image)
    assert not np.array_equal(plain, restore(pipe, image, prior=Prior(content="a moose")))
    assert not np.array_equal(plain, restore(pipe, image, prior=Prior(quality="very noisy")))
    guided = restore(pipe, image, prior=Prior("a moose", "noisy"), guidance_scale=3.0)
    assert not np.array_equal(guided, restore(pipe, image, prior=Prior("a moose", "noisy")))
    same = restore(pipe, image, guidance_scale=3.0)  # away from what it is
    assert np.allclose(plain, same, atol=1e-5)


def test_each_tile_sees_its_own_part_of_the_picture_and_the_results_are_blended(
    pipe: XPSRPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(
        latents: torch.Tensor, timestep: torch.Tensor, pixels: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, ...]:
        assert pixels.shape[-2:] == (latents.shape[-2] * 4, latents.shape[-1] * 4)
        # what v makes of the one step: the picture that the ControlNet was shown
        seen = pipe.vae.encode(pixels * 2 - 1).latent_dist.mean
        alpha = pipe.scheduler.alphas_cumprod[250]
        return (alpha.sqrt() * latents - seen) / (1 - alpha).sqrt(), latents[:0]

    monkeypatch.setattr(XPSRPipeline, "denoiser", staticmethod(look))
    nothing = lambda vae, strips, height, **_: (torch.zeros_like(pixels) for _, pixels in strips)  # noqa: E731
    monkeypatch.setattr(type(pipe.vae), "residual_strips", nothing)
    image = noise_picture(40, 24)
    enlarged = resize(to_picture(image).pixels, (96, 160)).permute(1, 2, 0).numpy()
    for num_shifts in (1, 2, 4):
        result = restore(pipe, image, settings={"tile_overlap": 8, "num_shifts": num_shifts})
        assert np.abs(result - enlarged).max() < 1e-4


def test_tiles_change_little_and_leave_no_seam(pipe: XPSRPipeline) -> None:
    image = noise_picture(40, 24)
    whole = restore(pipe, image, settings={"tile_size": 64})
    # group norms see a tile's own statistics: near, not equal
    difference = restore(pipe, image, settings={"tile_size": 16, "tile_overlap": 8}) - whole
    assert 0 < np.abs(difference).mean() < 0.05
    jumps = np.abs(np.diff(difference, axis=1)).mean((0, 2))  # jumps[x - 1] is between the columns x - 1 and x
    borders = sorted({x for start in (0, 8, 16, 24) for x in (4 * start, 4 * start + 64)} - {0, 160})
    # 1.01; where the last tile wins it is 1.59, where tiles are averaged without a fall-off 1.35
    assert jumps[[x - 1 for x in borders]].mean() < 1.15 * np.median(jumps)


def test_settings_in_a_folder_are_read_under_former_names_and_refused_with_theirs(
    pipe: XPSRPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["settings"] = {"min_size": 48}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.warns(RenamedWarning, match="min_size is called min_working_size now"):
        former = XPSRPipeline.from_pretrained(tmp_path)
    assert former.settings().min_working_size == 48
    former.save_pretrained(tmp_path)
    assert "min_size" not in json.loads((tmp_path / "model_index.json").read_text())["settings"]
    index["settings"] = {"tile_size": 0}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    problem = r"model_index\.json: tile_size=0 is not in \[1, 65536\]; use "
    with pytest.raises(ModelError, match=f"^{tmp_path}/{problem}") as caught:
        XPSRPipeline.from_pretrained(tmp_path)
    assert (caught.value.field, caught.value.code) == ("tile_size", "out_of_range")


@pytest.mark.parametrize("has_float64", [True, False])
def test_the_reference_s_weights_are_of_a_type_that_the_device_has(
    pipe: XPSRPipeline, has_float64: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = []

    def blend(*arguments: Any, weights: torch.Tensor) -> torch.Tensor:
        types.append(weights.dtype)
        return blend_rows(*arguments, weights=weights)

    monkeypatch.setattr("xpsr.pipeline.denoising.has_float64", lambda device: has_float64)  # as a Mac's GPU has not
    monkeypatch.setattr("xpsr.pipeline.denoising.blend_rows", blend)
    settings = {"tile_weights": "reference", "tile_size": 16, "tile_overlap": 4}
    restore(pipe, noise_picture(24, 20), settings=settings)
    assert types == [torch.float64 if has_float64 else torch.float32]


def test_a_residual_step_of_a_network_that_says_nothing_is_the_decoder_alone(tiny_model: Path, tmp_path: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model, one_step_residual=True)
    torch.nn.init.zeros_(pipe.unet.conv_out.weight)
    torch.nn.init.zeros_(pipe.unet.conv_out.bias)
    pipe.save_pretrained(tmp_path)
    pipe = XPSRPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.one_step_residual
    image = noise_picture(12, 16)
    with torch.no_grad():
        latents = pipe.vae.encode(resize(to_picture(image).pixels, (64, 48))[None] * 2 - 1).latent_dist.mean
        alone = pipe.vae.decode(latents).sample[0] / 2 + 0.5
    restored = restore(pipe, image, prior=Prior("a moose", "very noisy"))
    assert np.abs(restored - alone.clamp(0, 1).permute(1, 2, 0).numpy()).max() < 1e-5
    assert not XPSRPipeline.from_pretrained(tiny_model).config.one_step_residual  # a folder that says nothing of it


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_inference_steps": 8}, "num_inference_steps"),
        ({"preset": "paper"}, "num_inference_steps"),
        ({"strength": 0.5}, "strength"),
    ],
)
def test_a_model_of_one_step_refuses_more_with_the_reason(
    tiny_model: Path, options: dict[str, Any], field: str
) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model, one_step_only=True)
    assert pipe.settings().num_inference_steps == 1
    with pytest.raises(InputError, match="this model has learned") as refused:
        pipe(noise_picture(8, 8), **options)
    assert refused.value.field == field


def test_shifts_are_the_mean_of_the_picture_on_each_grid(pipe: XPSRPipeline) -> None:
    image = noise_picture(12, 12)
    enlarged = resize(to_picture(image).pixels, (48, 48))
    moved = torch.nn.functional.pad(enlarged, (2, 0, 2, 0), mode="reflect")
    alone = XPSRPipeline(**pipe.components, one_step_timestep=250, settings=pipe.config.settings, scale=1)
    expected = (restore(alone, enlarged, scale=1) + restore(alone, moved, scale=1)[2:, 2:]) / 2
    assert np.abs(restore(pipe, image, settings={"num_shifts": 2}) - expected).max() < 1e-5


def test_a_batch_equals_its_items_with_guidance_and_tiles(pipe: XPSRPipeline) -> None:
    images = [noise_picture(20, 24, seed=1), noise_picture(30, 12, seed=2)]
    options: dict[str, Any] = {
        "guidance_scale": 2.0,
        "num_inference_steps": 2,
        "settings": {"tile_size": 16},
        "prior": Prior("a", "b"),
    }
    together = pipe(images, generator=[seeded(1), seeded(2)], **options).images
    alone = [pipe(image, generator=seeded(i + 1), **options).images[0] for i, image in enumerate(images)]
    assert [image.tobytes() for image in together] == [image.tobytes() for image in alone]


def test_every_kind_of_input_gives_the_same_picture(pipe: XPSRPipeline, tmp_path: Path) -> None:
    image = noise_picture(9, 6)
    image.save(tmp_path / "p.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    results = [restore(pipe, item) for item in (image, array, tensor, tmp_path / "p.png", str(tmp_path / "p.png"))]
    assert all(np.allclose(results[0], other, atol=1e-6) for other in results[1:])


def test_alpha_is_enlarged_and_put_back(pipe: XPSRPipeline) -> None:
    image = noise_picture(8, 6, "RGBA")
    result = pipe(image, describer="none").images[0]
    assert result.mode == "RGBA"
    alpha = torch.from_numpy(np.asarray(image)[..., 3] / np.float32(255))[None]
    expected = (resize(alpha, (24, 32))[0] * 255).round().to(torch.uint8)
    assert np.array_equal(np.asarray(result)[..., 3], expected.numpy())


def test_orientation_gray_and_palette_are_understood(pipe: XPSRPipeline, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    noise_picture(8, 6).save(tmp_path / "turned.jpg", exif=exif)
    assert pipe(tmp_path / "turned.jpg", describer="none").images[0].size == (24, 32)
    assert pipe(noise_picture(8, 6, "L"), describer="none").images[0].mode == "RGB"
    assert pipe(noise_picture(8, 6).quantize(16), describer="none").images[0].mode == "RGB"


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_colour_match_brings_the_mean_back(pipe: XPSRPipeline, method: Any) -> None:
    image = Image.new("RGB", (12, 12), (200, 60, 30))
    target = np.array([200, 60, 30]) / 255

    def distance(color_match: Any) -> float:
        result = restore(pipe, image, settings={"color_match": color_match}, num_inference_steps=2, generator=seeded())
        return float(np.abs(result.mean((0, 1)) - target).max())

    assert distance(method) < min(distance("none"), 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, r"scale=0 is not in \[0\.0625, 16\]"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"scale": -1}, "scale=-1"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"strength": 1.5}, "strength=1.5"),
        ({"strength": 0.0, "num_inference_steps": 4}, "num_inference_steps=4 is not the one step"),
        ({"strength": 0.01, "num_inference_steps": 50}, "at most 10 steps"),
        ({"settings": {"tile_size": 15}}, "use 16"),
        ({"settings": {"tile_size": 0}}, "use 64 to 320"),
        ({"settings": {"tile_overlap": 16}}, "tile_overlap=16"),
        (
            {"settings": {"num_shifts": 3}},
            "num_shifts=3 does not divide the 4 pixels of a latent pixel; use 1 or 2 or 4.",
        ),
        ({"settings": {"num_shifts": 0}}, "num_shifts=0"),
        ({"settings": {"num_shifts": 2}, "num_inference_steps": 2}, "for the one step"),
        ({"output_type": "jpeg"}, "output_type=jpeg is not one of pil, np, pt, latent; use "),
        ({"output_type": "latent", "settings": {"num_shifts": 2}}, "averages pixels"),
        ({"preset": "papre"}, "preset=papre is not one of default, paper, reference; use paper."),
        ({"settings": {"tile_sise": 16}}, "did you mean 'tile_size'"),
        ({"settings": {"fit": "crop"}}, "fit=crop is not one of pad, stretch"),
        (
            {"settings": {"start": "noise"}, "strength": 0.5, "num_inference_steps": 2},
            "start=noise is for strength=1, not 0.5; use lr.",
        ),
        ({"settings": {"offset_noise_scale": 0.1, "start": "lr"}}, "offset_noise_scale=0.1 is for start=noise"),
        ({"settings": {"added_noise_level": 1000}}, "added_noise_level=1000"),
        ({"settings": {"min_working_size": -1}}, "min_working_size=-1"),
        ({"settings": {"fit": "stretch", "num_shifts": 2}}, "num_shifts=2 is for fit=pad, not stretch; use 1."),
        ({"latents": torch.zeros(1, 48, 8, 8)}, "latents are none of the one step.s, which starts from the picture"),
        ({"latents": torch.zeros(1, 48, 9, 8), "num_inference_steps": 2}, "needs .1, 48, 8, 8."),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "is not a list, each one of latents, noise_pred"),
        ({"prior": [Prior(), Prior()]}, "prior has 2 values for 1 images"),
        ({"generator": [seeded(), seeded()]}, "generator has 2 values"),
        ({"generator": [[seeded()]]}, r"generator=\[Generator\] is no generator; use torch\.Generator\(\)"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(
    pipe: XPSRPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pipe(noise_picture(8, 8), **{"describer": "none", **options})
    assert "\n" not in str(caught.value)
    assert caught.value.field


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (
            (2000, 2500),
            {"scale": 16},
            "scale=16 makes 1280 megapixels of 2500 x 2000, more than 1074; use 14 or less.",
        ),
        (
            (2100, 2100),
            {"scale": 15.9},
            "scale=15.9 makes 1115 megapixels of 2100 x 2100, more than 1074; use 15 or less.",
        ),
        (
            (2, 2000),
            {"settings": {"min_working_size": 2048}},
            "min_working_size=2048 makes 4194 megapixels of 2000 x 2, more than 1074; use 1036 or less.",
        ),
    ],
)
def test_results_too_large_are_refused_with_what_would_do(
    pipe: XPSRPipeline, size: tuple[int, int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        pipe(torch.zeros(1, *size, dtype=torch.uint8), describer="none", **options)
    assert message in str(caught.value)


def test_a_result_that_is_not_finite_is_not_returned(tiny_model: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(
        XPSRError, match=r"not finite in torch.float32; use a guidance_scale nearer to 1, or another model\.$"
    ):
        pipe(noise_picture(8, 8), describer="none")


def test_from_pretrained_takes_components_of_the_caller(tiny_model: Path, pipe: XPSRPipeline) -> None:
    again = XPSRPipeline.from_pretrained(tiny_model, unet=pipe.unet)
    assert again.unet is pipe.unet
    assert isinstance(again, XPSRPipeline)
    assert Components(**again.components).unet is pipe.unet


def test_latents_are_of_one_grid_unless_more_are_asked_for(pipe: XPSRPipeline) -> None:
    shifted = XPSRPipeline(**pipe.components, one_step_timestep=250, settings={**pipe.config.settings, "num_shifts": 2})
    shifted.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"output_type": "latent", "describer": "none"}
    found = shifted(noise_picture(8, 8), **options).images[0]
    assert torch.equal(found, pipe(noise_picture(8, 8), **options).images[0])
