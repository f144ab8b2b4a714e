"""What a picture looks like so far: shown between steps, small, and without a trace in the result."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from test_pipeline import SCHEDULERS, scheduler

from xpsr import Prior, Restorer, Size, XPSRPipeline
from xpsr.convert import convert_reference
from xpsr.image import resize, to_picture
from xpsr.models import predict_original_sample
from xpsr.pipeline.previews import PREVIEW_SIDE

STEPS: dict[str, Any] = {"num_inference_steps": 3, "strength": 0.4, "tile_size": 16, "tile_overlap": 4}
Shown = list[tuple[torch.Tensor, int, int]]


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def stable(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Restorer:
    """One with Stable Diffusion's kind of autoencoder."""
    folder = tmp_path_factory.mktemp("stable") / "model"
    convert_reference(golden, base=golden, out=folder)
    return Restorer(folder, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def pipe(restorer: Restorer) -> XPSRPipeline:
    return restorer.pipe


def noise(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))


def smooth(height: int, width: int) -> torch.Tensor:
    """Brighter to the right, redder to the bottom: what is cut off or moved shows."""
    right, down = torch.linspace(0.1, 0.9, width), torch.linspace(0.1, 0.9, height)[:, None]
    return torch.stack([down.expand(height, width), right.expand(height, width), (down + right) / 2])


def previews_of(restorer: Restorer, image: torch.Tensor, **options: Any) -> tuple[torch.Tensor, Shown]:
    shown: Shown = []
    given = {"settings": STEPS, "seed": 1, "preview": lambda *now: shown.append(now), **options}
    return restorer.restore(image, Prior("a cat", "noisy"), **given).picture.pixels, shown


def copying(pipe: XPSRPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the networks know what is clean: the latents of the picture that they are shown."""

    def look(
        latents: torch.Tensor, timestep: torch.Tensor, pixels: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, ...]:
        clean = pipe.vae.encode(pixels * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
        return velocity(pipe.scheduler, latents, timestep, clean), latents[:0]

    monkeypatch.setattr(XPSRPipeline, "denoiser", staticmethod(look))


def velocity(scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    alpha = scheduler.alphas_cumprod[timestep.long()].clamp(1e-8, 1 - 1e-8)
    return alpha.sqrt() * (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt() - (1 - alpha).sqrt() * clean


@pytest.mark.parametrize(
    "changes",
    [
        *({"scheduler": name} for name in ("model", "ddpm", "ddim", "unipc", "dpm")),
        {"scheduler": "ddpm", "guidance_scale": 2.0},
        {"cache_interval": 2},
        {"color_match": "wavelet", "tile_size": 64},
        {"strength": 1.0, "start": "noise", "scheduler": "ddpm"},
    ],
    ids=str,
)
def test_steps_are_shown_in_order_and_the_result_is_the_same_to_the_bit(
    restorer: Restorer, changes: dict[str, Any]
) -> None:
    settings = {**STEPS, "num_inference_steps": 4, **changes}
    made, shown = previews_of(restorer, noise(10, 13), settings=settings)
    assert torch.equal(
        made, restorer.restore(noise(10, 13), Prior("a cat", "noisy"), settings=settings, seed=1).picture.pixels
    )
    assert [(step, steps) for _, step, steps in shown] == [(1, 4), (2, 4), (3, 4)]
    for image, *_ in shown:
        assert image.shape == (3, 40, 52) and image.dtype == torch.float32 and image.device.type == "cpu"
        assert image.min() >= 0 and image.max() <= 1
    assert not torch.equal(shown[0][0], shown[1][0])


@pytest.mark.parametrize("name", ["model", "ddpm"])
def test_those_of_stable_diffusion_s_autoencoder_leave_no_trace_either(stable: Restorer, name: str) -> None:
    settings = {"num_inference_steps": 3, "scheduler": name, "min_working_size": 0, "tile_size": 32, "tile_overlap": 8}
    made, shown = previews_of(stable, noise(20, 70), settings=settings)
    assert [image.shape for image, *_ in shown] == [(3, 73, 256)] * 2
    assert torch.equal(
        made, stable.restore(noise(20, 70), Prior("a cat", "noisy"), settings=settings, seed=1).picture.pixels
    )


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((10, 13), Size(scale=4), (40, 52)),
        ((13, 7), Size(scale=2.5), (32, 18)),
        ((1, 1), Size(scale=1), (1, 1)),
        ((97, 71), Size(scale=4), (256, 187)),
        ((20, 80), Size(scale=4), (64, 256)),
        ((65, 66), Size(scale=1), (65, 66)),
        ((20, 20), Size(size="300x200"), (171, 256)),
    ],
)
@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_preview_shows_the_whole_picture_and_no_padding(
    pipe: XPSRPipeline,
    monkeypatch: pytest.MonkeyPatch,
    fit: str,
    size: tuple[int, int],
    target: Size,
    expected: tuple[int, int],
) -> None:
    copying(pipe, monkeypatch)
    settings = {**STEPS, "num_inference_steps": 2, "color_match": "none", "fit": fit, "tile_size": 64}
    shown: Shown = []
    image = smooth(*size)
    pipe(image, size=target, prior=Prior(), settings=settings, callback_on_preview=lambda *now: shown.append(now))
    assert max(expected) <= PREVIEW_SIDE
    for preview, *_ in shown:
        assert preview.shape == (3, *expected)
        assert (preview - resize(image, expected)).abs().max() < 0.08
        assert (preview - resize(image, expected)).abs().mean() < 0.01


@pytest.mark.parametrize(("height", "width", "expected"), [(1, 70, (4, 256)), (70, 1, (256, 4)), (1, 1, (4, 4))])
def test_the_thinnest_picture_is_shown(restorer: Restorer, height: int, width: int, expected: tuple[int, int]) -> None:
    _, shown = previews_of(restorer, noise(height, width), settings={**STEPS, "color_match": "wavelet"})
    assert [image.shape for image, *_ in shown] == [(3, *expected)] * 2


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.filterwarnings("ignore")  # diffusers warns of options that a scheduler does not know
def test_any_scheduler_s_estimate_is_what_the_networks_know(
    pipe: XPSRPipeline, kind: str, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "LMSDiscrete" and strength < 1:
        return  # it is refused
    pipe = copy.copy(pipe)
    pipe.scheduler = scheduler(kind, pipe)
    copying(pipe, monkeypatch)
    settings = pipe.settings(overrides={"num_inference_steps": 4, "strength": strength, "tile_size": 64})
    conditions = pipe.encode(to_picture(smooth(8, 8)), Prior(), settings, size=(32, 32))
    clean = pipe.vae.encode(conditions.pixels * 2 - 1).latent_dist.mean
    told: list[tuple[torch.Tensor, int, int]] = []
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        list(pipe.denoise_strips(conditions, settings, generator=generator, on_estimate=lambda *now: told.append(now)))
    assert [step for _, step, _ in told] == list(range(1, told[0][2] + 1)) and len(told) >= 4
    for estimate, *_ in told:
        assert (estimate - clean).abs().mean() < 0.05


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"])
def test_the_estimate_is_diffusers_own(pipe: XPSRPipeline, kind: str, prediction_type: str) -> None:
    one = scheduler(kind, pipe)
    one.register_to_config(prediction_type=prediction_type)
    one.set_timesteps(5)
    timestep, sample, output = one.timesteps[2], torch.randn(1, 4, 6, 5), torch.randn(1, 4, 6, 5)
    if hasattr(one, "set_begin_index"):
        one.set_begin_index(2)
    noisy = one.scale_model_input(sample, timestep)
    stepped = copy.deepcopy(one).step(output, timestep, sample)
    if hasattr(one, "convert_model_output"):
        one._init_step_index(timestep)
        own = one.convert_model_output(output, sample=sample)
    else:
        own = stepped.pred_original_sample
    ours = predict_original_sample(one, output, timestep.long(), noisy)
    assert (ours - own).abs().max() < 1e-3 * own.abs().max()


def test_the_estimate_comes_nearer_to_the_result(restorer: Restorer) -> None:
    settings = {**STEPS, "num_inference_steps": 6, "scheduler": "ddim"}
    made, shown = previews_of(restorer, noise(12, 16), settings=settings)
    errors = [float((image - resize(made, (48, 64))).square().mean()) for image, *_ in shown]
    assert errors[-1] < errors[0] / 2


def test_the_steps_of_a_picture_that_goes_through_again_are_counted_on(restorer: Restorer) -> None:
    _, shown = previews_of(restorer, noise(8, 6), scale=9)
    assert [now for _, *now in shown] == [[step, 6] for step in range(1, 6)]
    assert {image.shape for image, *_ in shown} == {(3, 72, 54)}


def test_gray_pictures_stay_gray(restorer: Restorer) -> None:
    _, shown = previews_of(restorer, noise(9, 9)[:1].expand(3, -1, -1))
    assert shown and all(torch.equal(image[0], image[1]) and torch.equal(image[1], image[2]) for image, *_ in shown)


def test_the_one_step_has_no_steps_between(restorer: Restorer) -> None:
    _, shown = previews_of(restorer, noise(9, 9), settings={"num_inference_steps": 1, "strength": 0.0})
    assert shown == []


def test_what_is_raised_there_ends_the_call_and_the_next_one_is_whole(restorer: Restorer) -> None:
    class Enough(Exception):
        pass

    def stop(image: torch.Tensor, step: int, steps: int) -> None:
        if step == 2:
            raise Enough

    whole, _ = previews_of(restorer, noise(9, 9))
    with pytest.raises(Enough):
        previews_of(restorer, noise(9, 9), preview=stop)
    assert torch.equal(previews_of(restorer, noise(9, 9))[0], whole)


def test_what_is_not_finite_is_shown_as_something(pipe: XPSRPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: Shown = []

    def infinite(latents: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, ...]:
        return (latents * 0 + (math.inf if not shown else 0)), latents[:0]

    def stop(*now: Any) -> None:
        shown.append(now)
        raise KeyboardInterrupt

    monkeypatch.setattr(XPSRPipeline, "denoiser", staticmethod(infinite))
    with pytest.raises(KeyboardInterrupt):
        pipe(noise(8, 8), prior=Prior(), settings=STEPS, callback_on_preview=stop)
    assert shown[0][0].isfinite().all()


@pytest.mark.parametrize("offload", ["model", "every layer"])
def test_offloaded_models_give_the_same(tiny_model: Path, offload: str) -> None:
    pipe = Restorer(tiny_model, device="cpu", dtype="fp32").pipe
    shown: Shown = []
    options: dict[str, Any] = {"prior": Prior(), "settings": STEPS, "output_type": "pt"}

    def run(**more: Any) -> torch.Tensor:
        made: torch.Tensor = pipe(noise(9, 9), generator=torch.Generator().manual_seed(1), **options, **more).images[0]
        return made

    if offload == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        for part in (pipe.unet, pipe.controlnet, pipe.vae, pipe.text_encoder):
            cpu_offload(part, torch.device("cpu"))
    whole = run()
    assert torch.equal(run(callback_on_preview=lambda *now: shown.append(now)), whole)
    assert len(shown) == 2


def test_no_network_goes_away_for_a_preview(tiny_model: Path) -> None:
    pipe = Restorer(tiny_model, device="cpu", dtype="fp32").pipe
    pipe.enable_model_cpu_offload(device="cpu")
    moves: list[str] = []
    for name in ("vae", "unet"):
        hook = getattr(pipe, name)._hf_hook
        hook.pre_forward = _noted(hook.pre_forward, moves, name)
    settings = {**STEPS, "tile_size": 64}
    pipe(noise(9, 9), prior=Prior(), settings=settings, callback_on_preview=lambda *_: moves.append("preview"))
    assert moves[moves.index("unet") :] == ["unet", "preview", "unet", "preview", "unet"]


def _noted(function: Callable[..., Any], calls: list[str], name: str) -> Callable[..., Any]:
    def noted(*given: Any, **options: Any) -> Any:
        calls.append(name)
        return function(*given, **options)

    return noted


@pytest.mark.parametrize(("side", "expected"), [(24, 16), (70, 17), (140, 32)])
def test_of_a_large_picture_few_latents_are_decoded(stable: Restorer, side: int, expected: int) -> None:
    seen: list[int] = []
    handle = stable.pipe.vae.decoder.register_forward_pre_hook(lambda _, given: seen.append(max(given[0].shape)))
    settings = {"num_inference_steps": 2, "min_working_size": 0, "tile_size": 160, "guidance_scale": 1.0}
    _, shown = previews_of(stable, noise(8, 2 * side), scale=4, settings=settings)
    handle.remove()
    assert seen[0] == expected and [max(image.shape) for image, *_ in shown] == [min(8 * side, 256)]


def test_what_a_decoder_adds_is_not_waited_for(restorer: Restorer) -> None:
    calls: list[int] = []
    handle = restorer.pipe.vae.decoder.conv_in.register_forward_hook(lambda *_: calls.append(1))
    restorer.restore(noise(9, 9), Prior(), settings=STEPS)
    usual = len(calls)
    _, shown = previews_of(restorer, noise(9, 9))
    handle.remove()
    assert shown and len(calls) == 2 * usual
