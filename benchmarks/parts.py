"""The parts of a restoration, timed one by one: a worker that is given one combination."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.combinations import Combination, picture_of
from benchmarks.models import Subject, open_subject
from benchmarks.operators import count_flops, operator_shares
from benchmarks.peak import matrix_peak
from benchmarks.processes import answer_request
from benchmarks.timing import measure
from xpsr.config import Settings
from xpsr.config.sizes import as_size, usual_size
from xpsr.devices import torch_dtype
from xpsr.models import start_at
from xpsr.pipeline.conditions import Conditions
from xpsr.pipeline.latents import encode_pixels
from xpsr.prior import Prior, open_describer


def measure_combination(combination: Combination) -> dict[str, Any]:
    """Returns what a worker answers: `parts`, each with what `Timing` has, FLOPs and shares, and the measured peak."""
    if combination.threads is not None:
        torch.set_num_threads(combination.threads)
    subject = open_subject(
        combination.model,
        device=combination.device,
        dtype=combination.dtype,
        engine=combination.engine,
        compiled=combination.compiled,
    )
    peak = matrix_peak(subject.device, torch_dtype(subject.dtype))
    results: dict[str, dict[str, Any]] = {}
    with torch.no_grad():
        for name, run in _parts(subject, combination):
            flops = count_flops(run)
            timing = measure(run, runs=combination.runs, warm_up=combination.warm_up, device=subject.device)
            results[name] = {
                **{key: round(value, 4) if isinstance(value, float) else value for key, value in vars(timing).items()},
                "gflop": round(flops / 1e9, 3),
                "gflops": round(flops / timing.seconds / 1e9, 2),
                "peak_share": round(flops / timing.seconds / peak.flops, 4),
            }
            if combination.profile:
                shares = operator_shares(run, subject.device, runs=combination.runs)
                results[name]["operators"] = {kind: round(share, 4) for kind, share in shares.items()}
    return {
        "device": str(subject.device),
        "dtype": subject.dtype,
        "threads": torch.get_num_threads(),
        "peak_gflops": round(peak.flops / 1e9, 1),
        "peak_side": peak.side,
        "parts": {name: results[name] for name in combination.parts},
    }


def _parts(subject: Subject, combination: Combination) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each part that is asked for, ready to be called.

    The whole comes first, so that nothing that the others are given adds to its memory.
    """
    pipe, wanted = subject.pipe, combination.parts
    picture = picture_of(Path(combination.picture), combination.width, combination.height)
    describer = open_describer("mini", device=str(subject.device))
    if "whole" in wanted:
        yield "whole", lambda: subject.restore(picture, describer, combination.scale, combination.steps)
    if "describe" in wanted:
        yield "describe", lambda: describer.describe([picture])
    if not {"encode", "denoise", "decode"} & set(wanted):
        return
    settings = pipe.settings(num_inference_steps=combination.steps)
    target = as_size(combination.scale, None) or usual_size(picture.width, picture.height)
    width, height = target.of(picture.width, picture.height)
    prior: Prior = describer.describe([picture])[0]

    def encode() -> tuple[Conditions, torch.Tensor]:
        conditions = pipe.encode(picture, prior, settings, size=(height, width))
        return conditions, _first_latents(subject, conditions, settings)

    with _arithmetic(subject):
        if "encode" in wanted:
            yield "encode", encode
        conditions, latents = encode()
        step = _Step(subject, conditions, latents, settings)
        if "denoise" in wanted:
            yield "denoise", step
        if "decode" in wanted:
            yield "decode", lambda: pipe.decode(latents, conditions, settings)


@contextmanager
def _arithmetic(subject: Subject) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=subject.autocast):
        yield


def _first_latents(subject: Subject, conditions: Conditions, settings: Settings) -> torch.Tensor:
    """What denoising starts from."""
    pipe = subject.pipe
    if settings.strength == 0:
        return encode_pixels(pipe.vae, conditions.pixels, torch.Generator().manual_seed(0)).to(pipe.unet.dtype)
    timesteps = start_at(pipe.scheduler, settings.strength, settings.num_inference_steps, device=subject.device)
    generator = torch.Generator().manual_seed(0)
    return pipe.prepare_latents(conditions.pixels, timesteps[:1], settings, generator=generator)


class _Step:
    """One step of denoising: a pass of every tile.

    Of several steps all but the first are handed the image's features by the one before, and such a one is timed.
    """

    def __init__(self, subject: Subject, conditions: Conditions, latents: torch.Tensor, settings: Settings):
        self._pipe, self._conditions, self._latents, self._settings = subject.pipe, conditions, latents, settings
        self._tiles = subject.pipe.tiles(latents.shape[-2], latents.shape[-1], settings)
        self._features: list[torch.Tensor | None] = [None] * len(self._tiles)
        if settings.strength > 0:
            self._features = list(self())

    def __call__(self) -> list[torch.Tensor]:
        """Returns each tile's features."""
        pipe, conditions, settings = self._pipe, self._conditions, self._settings
        timestep = torch.tensor(pipe.config.one_step_timestep or 500, device=self._latents.device)
        seen = []
        for tile, features in zip(self._tiles, self._features, strict=True):
            _, kept = pipe.denoiser(
                tile.crop(self._latents),
                timestep,
                tile.scaled(pipe.vae_scale_factor).crop(conditions.pixels),
                conditions.content,
                conditions.quality,
                features,
                guidance_scale=settings.guidance_scale,
                conditioning_scale=settings.controlnet_conditioning_scale,
            )
            seen.append(kept)
        return seen


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`measure_combination` of what JSON makes of a `Combination`."""
    return measure_combination(Combination(**{**request, "parts": tuple(request["parts"])}))


if __name__ == "__main__":
    answer_request(answer)
