"""What the networks say of latents, tile by tile, and the one step of which only some rows are known at a time."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

import torch

from xpsr.config import Settings
from xpsr.devices import has_float64
from xpsr.models import (
    GRID_HALO,
    Denoiser,
    DenoiserCache,
    Rows,
    estimate_clean,
    joined,
    predict_one_step,
    streamed,
)
from xpsr.pipeline.conditions import Conditions
from xpsr.tiling import Tile, blend_rows, gaussian_weights, row_by_row

__all__ = ["EstimateCallback", "StepEnd", "TiledDenoiser", "take_one_step", "take_steps"]

StepEnd: TypeAlias = Callable[[int, torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]
EstimateCallback: TypeAlias = Callable[[torch.Tensor, int, int], None]

_KEPT_FEATURES = 2**28
"""Bytes of image features that are kept from step to step; those of larger pictures are computed again."""


class TiledDenoiser:
    """A denoiser of latents that go through it in tiles, of one picture and its texts.

    Args:
        denoiser: both networks.
        conditions: what they look at.
        settings: of the weights, and of guidance.
        tiles: in latents; each has its part of the picture.
        factor: pixels per latent pixel, along a side.
        batch_size: tiles of a row that go through the networks together.
        is_repeated: whether the same tiles come again, so that what the networks see of them is kept.
        on_tiles: is told after every pass how many tiles it had.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: Conditions,
        settings: Settings,
        tiles: list[Tile],
        *,
        factor: int,
        batch_size: int,
        is_repeated: bool,
        on_tiles: Callable[[int], None],
    ) -> None:
        self.rows = row_by_row(tiles)
        self._denoiser, self._conditions, self._settings = denoiser, conditions, settings
        self._factor, self._batch_size, self._on_tiles = factor, batch_size, on_tiles
        self._num_tiles, self._is_repeated = len(tiles), is_repeated
        self._features: dict[Tile, torch.Tensor] = {}  # of each batch, by its first tile
        self._caches: dict[Tile, DenoiserCache] = {}  # likewise
        symmetric, device = settings.tile_weights == "symmetric", conditions.device
        self._weights = gaussian_weights(
            tiles[0].height,
            tiles[0].width,
            symmetric=symmetric,
            dtype=torch.float32 if symmetric or not has_float64(device) else torch.float64,
            device=device,
        )

    def predict(
        self,
        latents_of: Callable[[int, int], torch.Tensor],
        shape: tuple[int, ...],
        timestep: torch.Tensor,
        *,
        index: int = 0,
        num_steps: int = 1,
    ) -> Iterator[torch.Tensor]:
        """Yields what the networks say, a strip of rows after each row of tiles.

        Args:
            latents_of: gives rows (1, C, bottom - top, w) of the latents, as noisy as `timestep` says; it is asked for
                those of each row of tiles, from the top on.
            shape: (1, C, h, w) of the whole.
            timestep: a scalar.
            index, num_steps: which step it is, of how many; the settings tell by them what is guided and what kept.

        Yields:
            (1, C, rows, w), together `shape`, in the dtype of the latents.
        """
        self._is_guided = self._settings.is_guided(index, num_steps)
        if self._settings.renews_cache(index, num_steps):
            self._caches = {row[start]: DenoiserCache() for row in self.rows for start in self._starts(row)}
        outputs = self._outputs(latents_of, timestep)
        is_alone = self._num_tiles == 1
        alone = (output for _, output in outputs)
        for strip in alone if is_alone else blend_rows(outputs, shape, weights=self._weights):
            yield strip.to(self._conditions.dtype)

    def _outputs(
        self, latents_of: Callable[[int, int], torch.Tensor], timestep: torch.Tensor
    ) -> Iterator[tuple[Tile, torch.Tensor]]:
        for row in self.rows:
            top, bottom = row[0].top, row[0].top + row[0].height
            latents = latents_of(top, bottom)
            pixels = self._pixels(top * self._factor, bottom * self._factor)
            for start in self._starts(row):
                batch = row[start : start + self._batch_size]
                yield from zip(batch, self._forward(batch, latents, pixels, timestep).split(1), strict=True)

    def _starts(self, row: list[Tile]) -> range:
        return range(0, len(row), self._batch_size)

    def _pixels(self, top: int, bottom: int) -> torch.Tensor:
        return self._conditions.pixels[..., top:bottom, :] if self._is_repeated else self._conditions.rows(top, bottom)

    def _forward(
        self, batch: list[Tile], latents: torch.Tensor, pixels: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """Returns float32 (B, C, h, w) of tiles that lie in a row of `latents` and `pixels`."""
        texts = self._conditions.texts(is_guided=self._is_guided)
        content, quality = (text.repeat_interleave(len(batch), 0) for text in texts)  # the negative ones first
        output, seen = self._denoiser(
            _columns(latents, batch, 1),
            timestep,
            _columns(pixels, batch, self._factor),
            content,
            quality,
            self._features.get(batch[0]),
            guidance_scale=self._settings.guidance_scale,
            conditioning_scale=self._settings.controlnet_conditioning_scale,
            cache=self._caches.get(batch[0]),
        )
        if self._is_repeated and seen.nbytes * self._num_tiles <= _KEPT_FEATURES * len(batch):
            self._features[batch[0]] = seen
        self._on_tiles(len(batch))
        return output


def take_one_step(
    tiled: TiledDenoiser,
    strips: Iterable[torch.Tensor],
    shape: tuple[int, ...],
    timestep: torch.Tensor,
    settings: Settings,
    *,
    scheduler: Any,
    vae: Any,
    residual: bool,
) -> Iterator[torch.Tensor]:
    """Yields clean latents (1, C, rows, w), of LR latents as they are of which only some rows are known at a time.

    Args:
        tiled: the networks.
        strips: the LR latents (1, C, rows, w), from the top on; no more of them is kept than is needed.
        shape: (1, C, h, w) of the whole.
        timestep: what the one step is labelled with.
        settings: its `fidelity`.
        scheduler, vae, residual: as of `predict_one_step`.
    """
    coming, latents = iter(strips), Rows()

    def latents_of(top: int, bottom: int) -> torch.Tensor:
        while latents.bottom < bottom:
            latents.append(next(coming))
        return latents.between(top, bottom)

    def pairs() -> Iterator[torch.Tensor]:
        for output in tiled.predict(latents_of, shape, timestep):
            yield torch.cat([output * (1 - settings.fidelity), latents.take(output.shape[-2])], 1)

    def clean(pair: torch.Tensor) -> torch.Tensor:
        output, sample = pair.chunk(2, 1)
        return predict_one_step(scheduler, output, timestep, sample, vae=vae, residual=residual)

    return streamed(pairs(), clean, halo=GRID_HALO, height=shape[-2])


def take_steps(
    tiled: TiledDenoiser,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    scheduler: Any,
    generator: torch.Generator | None,
    on_step_end: StepEnd | None,
    on_estimate: EstimateCallback | None = None,
) -> torch.Tensor:
    """Returns clean latents (1, C, h, w).

    Args:
        tiled: the networks.
        latents: (1, C, h, w), as noisy as the first timestep.
        timesteps: those that `scheduler` is set to.
        scheduler: one that is this run's alone: it keeps its past.
        generator: of a scheduler that draws noise.
        on_step_end: is told after every step, and may change its latents.
        on_estimate: is told before that, after every step, the clean latents (1, C, h, w) that the step heads for,
            which step it is, from 1 on, and of how many.
    """
    accepts_generator = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if accepts_generator else {}
    for index, timestep in enumerate(timesteps):
        noisy = scheduler.scale_model_input(latents, timestep)
        predicted = tiled.predict(partial(_rows, noisy), latents.shape, timestep, index=index, num_steps=len(timesteps))
        output = joined(predicted)
        stepped = scheduler.step(output, timestep, latents, **options)
        if on_estimate is not None:
            on_estimate(estimate_clean(scheduler, stepped, output, timestep, noisy), index + 1, len(timesteps))
        latents = stepped.prev_sample.to(latents.dtype)
        del stepped  # what it tells beside them need not wait for the next pass
        if on_step_end is not None:
            latents = on_step_end(index, timestep, {"latents": latents, "noise_pred": output})
    return latents


def _rows(latents: torch.Tensor, top: int, bottom: int) -> torch.Tensor:
    return latents[..., top:bottom, :]


def _columns(rows: torch.Tensor, tiles: list[Tile], factor: int) -> torch.Tensor:
    """Cuts tiles (B, C, h, w) out of rows (1, C, h, W) that are as high as they, and `factor` times as wide."""
    starts = [(tile.left * factor, (tile.left + tile.width) * factor) for tile in tiles]
    parts = [rows[..., start:end] for start, end in starts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
