"""From a batch to its losses.

A batch is split. Some rows learn diffusion: noised clean latents, a random timestep. The others learn the *one step*:
the LR latents labelled with a fixed timestep, to the picture in one pass.

What is drawn for a row depends on the update's generator and the row's place in the update's whole batch, not on how
that batch is cut into passes and processes.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin
from torch import nn

from xpsr.config import LossConfig
from xpsr.config.checks import fault
from xpsr.data import Batch
from xpsr.errors import TrainingError
from xpsr.features import FeatureNetwork, feature_distance
from xpsr.models import predict_one_step
from xpsr.training.cache import EncodingCache
from xpsr.training.components import Components
from xpsr.training.flatness import flat_distance
from xpsr.training.grid import grid_distance

__all__ = ["BatchSlice", "Losses", "XPSRLoss", "degradation_free_terms", "diffusion_loss", "min_snr_weights"]


def degradation_free_terms(
    images: Sequence[torch.Tensor], latents: Sequence[torch.Tensor], hr: torch.Tensor, clean_latents: torch.Tensor
) -> list[torch.Tensor]:
    """Returns the terms of the Degradation-Free Constraint: the mean absolute error of each prediction, scalars.

    `images` are compared with `hr` (B, 3, H, W) in [-1, 1] and `latents` with `clean_latents` (B, C, h, w), reduced
    bilinearly to each prediction's size. The reference adds the sum of them all, times 0.05, to its loss.
    """
    pairs = [(image, hr) for image in images] + [(latent, clean_latents) for latent in latents]
    return [
        (prediction.float() - F.interpolate(target.float(), size=prediction.shape[-2:], mode="bilinear")).abs().mean()
        for prediction, target in pairs
    ]


def diffusion_loss(
    scheduler: SchedulerMixin,
    output: torch.Tensor,
    *,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    min_snr_gamma: float | None = None,
) -> torch.Tensor:
    """Returns the mean squared error of a network's output against what the scheduler's `prediction_type` asks for.

    All (B, C, H, W) but `timesteps` (B,); a float32 scalar. With `min_snr_gamma` each row counts `min_snr_weights`.
    """
    match scheduler.config.prediction_type:
        case "epsilon":
            target = noise
        case "v_prediction":
            target = scheduler.get_velocity(clean, noise, timesteps)
        case "sample":
            target = clean
        case other:
            raise TrainingError(
                "is unknown", field="prediction_type", value=str(other), remedy="use epsilon, v_prediction or sample"
            )
    if min_snr_gamma is None:
        return F.mse_loss(output.float(), target.float())
    errors = (output.float() - target.float()).square().flatten(1).mean(1)
    return (errors * min_snr_weights(scheduler, timesteps, min_snr_gamma)).mean()


def min_snr_weights(scheduler: SchedulerMixin, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Returns weights of timesteps (B,), float32: min(SNR, gamma) on the error of the sample (Hang et al. 2023).

    The squared error of the noise is SNR times that of the sample, the velocity's SNR + 1 times.
    """
    alpha = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    clipped = (alpha / (1 - alpha)).clamp(max=gamma)
    match scheduler.config.prediction_type:
        case "epsilon":
            return clipped * (1 - alpha) / alpha
        case "v_prediction":
            return clipped * (1 - alpha)  # SNR + 1 = 1 / (1 - alpha)
        case _:
            return clipped


def _window(corner: torch.Tensor, pixels: torch.Tensor, height: int, width: int) -> tuple[Any, ...]:
    """Returns the index of a window of `pixels` (B, 3, H, W), whose place `corner` (2,) says in shares of the room."""
    room = zip(corner.tolist(), pixels.shape[-2:], (height, width), strict=True)
    return (..., *(slice(start := int(c * (whole - side + 1)), start + side) for c, whole, side in room))


@dataclass(frozen=True)
class BatchSlice:
    """Which rows of an update's whole batch a pass sees: `rows` of `total` from `first` on."""

    first: int
    rows: int
    total: int

    @property
    def num_passes(self) -> int:
        """Returns how many passes of this size, over all processes, the update is made of."""
        return self.total // self.rows

    def one_step_rows(self, fraction: float) -> tuple[list[int], list[int], int]:
        """Returns the rows of this pass that take the one step, the others, and how many of the whole batch take it.

        They are spread evenly, so that passes hold about the same of both.
        """
        count = round(self.total * fraction)
        taken = [(row + 1) * count // self.total > row * count // self.total for row in range(self.total)]
        mine = taken[self.first : self.first + self.rows]
        return [i for i, one in enumerate(mine) if one], [i for i, one in enumerate(mine) if not one], count


@dataclass(frozen=True)
class Content:
    """The content texts of some rows, as who looks at their pictures may read them.

    Attributes:
        ids: int64 (B, N), token ids.
        is_word: bool (B, N), which of them belong to the text; none where it was left empty.
    """

    ids: torch.Tensor
    is_word: torch.Tensor

    def swapped(self) -> "Content":
        """Returns each row with the text of the row before it, of those of its pass alone."""
        return Content(self.ids.roll(1, 0), self.is_word.roll(1, 0))

    def is_swappable(self) -> torch.Tensor:
        """Returns which rows `swapped` gives a text, and another one: bool (B,)."""
        other = self.swapped()
        return other.is_word.any(1) & (other.ids != self.ids).any(1)


@dataclass
class Losses:
    """Weighted terms of one pass by name, and what the adversary needs to see.

    The mean over an update's passes, of all processes, is the loss of the whole batch, whatever rows each pass holds.
    """

    terms: dict[str, torch.Tensor] = field(default_factory=dict)
    restored: dict[str, list[torch.Tensor]] = field(default_factory=dict)  # features by network, of a window
    clean: dict[str, list[torch.Tensor]] = field(default_factory=dict)  # those of HR, or the teacher's picture, there
    content: Content | None = None  # the texts of these
    one_step_weight: float = 1.0  # what a mean over the rows that take the one step counts in a pass

    def total(self) -> torch.Tensor:
        """Returns the sum of the terms, a scalar."""
        return torch.stack(list(self.terms.values())).sum()


class XPSRLoss(nn.Module):
    """Both networks and the text encoder in one module, from a batch to its losses."""

    def __init__(
        self,
        components: Components,
        config: LossConfig,
        one_step_timestep: int | None,
        features: Mapping[str, FeatureNetwork] | None = None,
        cache: EncodingCache | None = None,
        *,
        residual: bool = False,
    ):
        super().__init__()
        if config.one_step_fraction and one_step_timestep is None:
            error = fault(config, "one_step_fraction", "needs a model with the one step", "set model.one_step_timestep")
            raise error.within("loss")
        self.parts = components.trainable()
        self.components, self.config, self.one_step_timestep = components, config, one_step_timestep or 0
        self.residual = residual
        self._unregistered = [features or {}]  # in a list: frozen, and no part of the state
        others = itertools.chain(*(part.parameters() for part in (components.unet, components.controlnet)))
        # a residual of zero need not be computed
        self.decoder_alone = (
            residual
            and config.one_step_fraction == 1
            and not config.degradation_free_weight
            and not any(parameter.requires_grad for parameter in others)
            and not any(parameter.any() for parameter in components.unet.conv_out.parameters())
        )
        self._cache = cache
        empty = components.tokenizer("", padding="max_length", return_tensors="pt").input_ids
        self.empty_ids: torch.Tensor
        self.register_buffer("empty_ids", empty, persistent=False)

    def forward(self, batch: Batch, generator: torch.Generator, batch_slice: BatchSlice | None = None) -> Losses:
        """Draws timesteps, noise and dropped texts from `generator` (on the CPU) and computes every term.

        Args:
            batch: some rows of an update's batch, or all.
            generator: the update's; every pass of it is given one in the same state.
            batch_slice: which rows these are; None: the whole batch.
        """
        config, parts, device, rows = self.config, self.components, batch.hr.device, len(batch.hr)
        part = batch_slice or BatchSlice(0, rows, rows)
        shifted = torch.rand((), generator=generator) < config.shift_probability
        corner = torch.rand(2, generator=generator)
        seeds = torch.randint(2**32, (part.total,), generator=generator)[part.first : part.first + rows].tolist()

        one_step_rows, other_rows, num_one_step = part.one_step_rows(config.one_step_fraction)
        order, one_step = one_step_rows + other_rows, len(one_step_rows)
        batch = Batch(**{f.name: getattr(batch, f.name)[order] for f in fields(batch)})
        generators = [torch.Generator().manual_seed(seeds[row]) for row in order]

        hr = batch.hr * 2 - 1
        # antialias selects the same cubic (a = -0.5) as Pillow, which inference enlarges with
        condition = F.interpolate(batch.lr, size=hr.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
        condition = torch.where(batch.is_clean.view(-1, 1, 1, 1), batch.hr, condition)
        if shifted:
            stride = 2 ** (len(parts.controlnet.image_encoder.blocks) // 2)
            inner = (..., slice(stride // 2, -stride // 2), slice(stride // 2, -stride // 2))
            hr, condition = hr[inner], condition[inner]
            batch = replace(batch, teacher=batch.teacher[inner])
        if self.decoder_alone:
            with torch.no_grad():
                latents = self._encode(condition * 2 - 1, generators)
            return self._one_step(Losses(content=self._read(batch.content_ids)), latents, hr, batch, corner, generators)
        with torch.no_grad():
            clean = self._encode(hr, generators)
            degraded = self._encode(condition[:one_step] * 2 - 1, generators[:one_step]) if one_step else clean[:0]

        num_timesteps = parts.scheduler.config.num_train_timesteps
        drawn = torch.stack([torch.randint(num_timesteps, (), generator=g) for g in generators])
        drawn[:one_step] = self.one_step_timestep
        timesteps = drawn.to(device)
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators]).to(device)
        noised = parts.scheduler.add_noise(torch.cat([degraded, clean[one_step:]]), noise, timesteps)
        sample = noised if config.one_step_start == "noised" else torch.cat([degraded, noised[one_step:]])

        content_ids = self._dropped(batch.content_ids, config.content_dropout, generators)
        content = self._embed(content_ids)
        quality = self._embed(self._dropped(batch.quality_ids, config.quality_dropout, generators))
        control = parts.controlnet(sample, timesteps, content, condition, quality_hidden_states=quality)
        output = parts.unet(
            sample, timesteps, content, control.down_block_res_samples, control.mid_block_res_sample
        ).sample.float()

        weight = one_step * part.num_passes / max(num_one_step, 1)
        losses = Losses(content=self._read(content_ids[:one_step]), one_step_weight=weight)
        if config.degradation_free_weight:
            losses.terms["degradation_free"] = self._degradation_free(control.images, control.latents, hr, clean)
        if num_one_step < part.total:
            noisy = slice(one_step, None)
            weight = (rows - one_step) * part.num_passes / (part.total - num_one_step)
            loss = output.sum() * 0  # a pass without such a row
            if one_step < rows:
                loss = diffusion_loss(
                    parts.scheduler,
                    output[noisy],
                    clean=clean[noisy],
                    noise=noise[noisy],
                    timesteps=timesteps[noisy],
                    min_snr_gamma=config.min_snr_gamma,
                )
            losses.terms["diffusion"] = config.diffusion_weight * weight * loss
        if not num_one_step:
            return losses
        latents = predict_one_step(
            parts.scheduler,
            output[:one_step],
            timesteps[:one_step],
            sample[:one_step],
            vae=parts.vae,
            residual=self.residual,
        )
        return self._one_step(losses, latents, hr, batch, corner, generators)

    def _one_step(
        self,
        losses: Losses,
        latents: torch.Tensor,
        hr: torch.Tensor,
        batch: Batch,
        corner: torch.Tensor,
        generators: list[torch.Generator],
    ) -> Losses:
        """Adds the terms of the first rows, which take the one step to `latents`; of none of them, terms of zero."""
        config, vae, features, count = self.config, self.components.vae, self._unregistered[0], len(latents)
        weights = {"pixel": config.pixel_weight}
        weights |= {"teacher": config.teacher_weight} if config.teacher_weight else {}
        weights |= {name: config.feature_weights[name] for name in features}
        weights |= {"grid": config.grid_weight} if config.grid_weight else {}
        weights |= {"flat": config.flat_weight} if config.flat_weight else {}
        if not count:
            # the decoder has a gradient all the same, of zeros: other processes wait for it
            decoder = [p for part in self.components.vae_parts().values() for p in part.parameters()]
            nothing = latents.sum() + sum((0 * p.sum() for p in decoder), torch.zeros((), device=latents.device))
            losses.terms |= dict.fromkeys(weights, nothing)
            return losses
        restored, hr = vae.decode(latents / vae.config.scaling_factor).sample.float() / 2 + 0.5, hr[:count] / 2 + 0.5
        distances = {"pixel": F.l1_loss(restored, hr)}
        if config.teacher_weight:
            errors = (restored - batch.teacher[:count]).abs().flatten(1).mean(1)
            distances["teacher"] = (errors * batch.has_teacher[:count]).mean()
        size = min(config.feature_crop, *hr.shape[-2:])
        window = _window(corner, restored, size, size)
        shown = hr[window]
        if features and config.teacher_features:  # of rows without a teacher's picture, that is HR
            drawn = torch.stack([torch.rand((), generator=g) for g in generators[:count]]) < config.teacher_features
            shown = torch.where(drawn.to(hr.device).view(-1, 1, 1, 1), batch.teacher[:count][window], shown)
        for name, network in features.items():
            found = network(restored[window])
            with torch.no_grad():
                targets = network(shown)
            distances[name] = feature_distance(found, targets)
            losses.restored[name], losses.clean[name] = found, targets
        if config.grid_weight:
            distances["grid"] = grid_distance(restored, hr, period=hr.shape[-1] // latents.shape[-1])
        if config.flat_weight:  # a clean picture may have noise of its own, a teacher's has none
            calm = torch.where(batch.has_teacher[:count].view(-1, 1, 1, 1) > 0, batch.teacher[:count], hr)
            distances["flat"] = flat_distance(restored, calm).mean()
        for name, distance in distances.items():
            losses.terms[name] = weights[name] * losses.one_step_weight * distance
        return losses

    def _degradation_free(
        self, images: list[torch.Tensor], latents: list[torch.Tensor], hr: torch.Tensor, clean: torch.Tensor
    ) -> torch.Tensor:
        config = self.config
        if config.degradation_free_images is not None:
            images = [images[index] for index in config.degradation_free_images]
        if config.degradation_free_latents is not None:
            latents = [latents[index] for index in config.degradation_free_latents]
        terms = degradation_free_terms(images, latents, hr, clean)
        weights = [config.degradation_free_image_weight] * len(images)
        weights += [config.degradation_free_latent_weight] * len(latents)
        weighted = [weight * term for weight, term in zip(weights, terms, strict=True)]
        return config.degradation_free_weight * torch.stack(weighted).sum()

    def _encode(self, pixels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        vae = self.components.vae
        distribution = vae.encode(pixels).latent_dist if self._cache is None else self._cache.encode(vae, pixels)
        return distribution.sample(generators).float() * vae.config.scaling_factor

    def _dropped(self, ids: torch.Tensor, dropout: float, generators: list[torch.Generator]) -> torch.Tensor:
        """Returns token ids with some rows' texts left empty."""
        dropped = torch.stack([torch.rand((), generator=g) < dropout for g in generators]).to(ids.device)
        return torch.where(dropped[:, None], self.empty_ids, ids)

    def _read(self, ids: torch.Tensor) -> Content:
        return Content(ids, ~torch.isin(ids, self.empty_ids))

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        encoder = self.components.text_encoder
        return encoder(ids)[0] if self._cache is None else self._cache.embed(encoder, ids)
