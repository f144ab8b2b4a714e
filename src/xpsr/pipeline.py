"""From a small degraded picture to a large clean one: `XPSRPipeline`.

`__call__` reads as the method does: look up the prior, encode pixels and texts, denoise, decode.
"""

import dataclasses
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from xpsr.checkpoint import fetch_model, load_strict
from xpsr.color import ColorMatch, match_color
from xpsr.errors import InputError, ModelError, XPSRError
from xpsr.image import ImageLike, Picture, resize, to_picture, to_pil
from xpsr.models import HaarAutoencoder, XPSRControlNet, XPSRUNet, predict_original_sample
from xpsr.prior import Prior
from xpsr.tiling import Tile, blend_tiles, gaussian_weights, pad_to_multiple, tile_grid

__all__ = ["XPSRPipeline", "XPSRPipelineOutput"]

MAX_SCALE = 16.0
MAX_OUTPUT_PIXELS = 2**27
"""Largest result, 134 megapixels; at about 90 bytes each (measured with the mini) that takes 12 GB."""


@dataclass
class XPSRPipelineOutput(BaseOutput):
    """`images`: one per input, PIL images, or arrays (H, W, C) or tensors (C, H, W) in [0, 1]; C is 4 where there was
    alpha. `priors`: the texts that were used, one per input."""

    images: list[Any]
    priors: list[Prior]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a picture is restored, every default resolved; `XPSRPipeline.__call__` says what each one means."""

    num_inference_steps: int
    guidance_scale: float
    strength: float
    tile_size: int
    tile_overlap: int
    num_shifts: int
    color_match: ColorMatch


@dataclass(frozen=True, kw_only=True)
class _Conditions:
    """What the networks look at. The two rows of the texts are the negative and the positive one under guidance."""

    pixels: torch.Tensor  # (1, 3, H, W) in [0, 1], enlarged and padded
    content: torch.Tensor  # (1 or 2, N, D)
    quality: torch.Tensor
    crop: Tile  # where the picture lies in the padded one
    multiple: int  # of which the padded one's sides are multiples

    def shifted(self, offset: int) -> "_Conditions":
        """The same with the picture `offset` pixels further down and to the right, on another grid of latent pixels."""
        pixels, crop = pad_to_multiple(self.crop.crop(self.pixels), self.multiple, offset=offset)
        return dataclasses.replace(self, pixels=pixels, crop=crop)


class XPSRPipeline(DiffusionPipeline):
    """Restores and enlarges photographs.

    The keyword arguments of the constructor are the model's own defaults; they are stored in `model_index.json`, so
    that a model needs no flags.

    Args:
        vae: `AutoencoderKL` or `HaarAutoencoder`.
        text_encoder, tokenizer: CLIP; both texts go through them.
        unet, controlnet: the networks.
        scheduler: any diffusers scheduler.
        num_inference_steps: 1 means the one step, if the model has learned it (`one_step_timestep`).
        guidance_scale: 1 or less is no guidance.
        strength: where denoising starts, as a fraction of the training timesteps; 1 is pure noise.
        one_step_timestep: what the one step from the LR latents as they are is labelled with; None: not learned.
        tile_size, tile_overlap: in latent pixels; larger pictures are denoised in tiles.
        num_shifts: the one step is taken on so many grids of latent pixels, each shifted against the last, and the
            pictures averaged, which hides the grid (cycle spinning, Coifman and Donoho 1995).
        color_match: how colours are brought back to those of the input.
        negative_content, negative_quality: what guidance leads away from.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"  # the ControlNet alternates with the UNet: it stays

    def __init__(
        self,
        vae: Any,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: XPSRUNet,
        controlnet: XPSRControlNet,
        scheduler: SchedulerMixin,
        num_inference_steps: int = 20,
        guidance_scale: float = 4.5,
        strength: float = 1.0,
        one_step_timestep: int | None = None,
        tile_size: int = 64,
        tile_overlap: int = 8,
        num_shifts: int = 1,
        color_match: str = "adain",  # a ColorMatch; upstream's loader reads this annotation and knows no Literal
        negative_content: str = "",
        negative_quality: str = "",
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            strength=strength,
            one_step_timestep=one_step_timestep,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            num_shifts=num_shifts,
            color_match=color_match,
            negative_content=negative_content,
            negative_quality=negative_quality,
        )

    @classmethod
    def from_pretrained(  # upstream's signature needs **kwargs
        cls, pretrained_model_name_or_path: str | Path = "mini", **kwargs: Any
    ) -> "XPSRPipeline":
        """Loads a model: `"mini"`, which comes with xpsr, a folder, or a name on the Hugging Face hub.

        Everything is loaded as float32 unless `dtype` says otherwise, however it is stored: float16, which halves the
        files, is unusably slow on a CPU. Other keywords are upstream's (`revision`, components to use instead of the
        stored ones, …).

        Raises:
            ModelError: there is no such model, or its weights do not match its config to the last key.
        """
        folder = fetch_model(
            str(pretrained_model_name_or_path),
            revision=kwargs.pop("revision", None),
            local_files_only=kwargs.pop("local_files_only", False),
        )
        kwargs["dtype"] = kwargs.pop("torch_dtype", None) or kwargs.get("dtype") or torch.float32
        try:
            haar = cls.load_config(folder)["vae"][1] == HaarAutoencoder.__name__
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(f"{folder}: model_index.json cannot be read ({error}); fetch the model again.") from error
        for name, kind in (
            ("vae", HaarAutoencoder if haar else AutoencoderKL),
            ("text_encoder", CLIPTextModel),
            ("unet", XPSRUNet),
            ("controlnet", XPSRControlNet),
        ):
            if name not in kwargs:
                kwargs[name] = load_strict(
                    kind, folder, subfolder=name, dtype=kwargs["dtype"], variant=kwargs.get("variant")
                )
        return super().from_pretrained(str(folder), **kwargs)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent pixel, along a side."""
        if isinstance(self.vae, HaarAutoencoder):
            return self.vae.spatial_compression_ratio
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        *,
        scale: float = 4,
        prior: Prior | Sequence[Prior] | None = None,
        negative_prior: Prior | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        strength: float | None = None,
        controlnet_conditioning_scale: float = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        num_shifts: int | None = None,
        color_match: ColorMatch | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
    ) -> XPSRPipelineOutput:
        """Restores one picture or a list of them. What is left out is the model's own default.

        Args:
            image: a PIL image, an array (H, W, C), a tensor (C, H, W) in [0, 1], a path, or a list of them. Each
                picture is restored by itself, so a list gives what its items give alone.
            scale: how much larger the result is, along a side; may be fractional.
            prior: what is in the picture and what is wrong with it; one for all or one each. None: empty texts.
            negative_prior: what guidance leads away from.
            num_inference_steps: denoising steps.
            guidance_scale: how strongly texts are followed; above 1 every step costs twice.
            strength: where to start: 1 from noise, less from the noised LR latents at that fraction of the training
                timesteps, 0 (one step only) from the LR latents as they are.
            controlnet_conditioning_scale: factor of the ControlNet's residuals.
            generator: one for all, which each picture uses from its present state on, or one each. None: a random one.
            tile_size, tile_overlap: in latent pixels.
            num_shifts: over how many shifted grids the one step is averaged; each takes as long as the first.
            color_match: "none", "adain" or "wavelet".
            output_type: "pil", "np" or "pt".

        Raises:
            InputError: a picture or an argument that cannot be used.
            XPSRError: the result is not finite.
        """
        settings = self.settings(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            strength=strength,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            num_shifts=num_shifts,
            color_match=color_match,
        )
        if not 0 < scale <= MAX_SCALE:
            raise InputError(f"scale={scale:g} is not in (0, {MAX_SCALE:g}]; 4 is what models are trained for.")
        if output_type not in ("pil", "np", "pt"):
            raise InputError(f"output_type={output_type!r} is unknown; use 'pil', 'np' or 'pt'.")
        negative = negative_prior or Prior(self.config.negative_content, self.config.negative_quality)

        images = list(image) if isinstance(image, (list, tuple)) else [image]
        priors = _one_each(prior or Prior(), len(images), "prior")
        results = []
        for item, item_prior, item_generator in zip(images, priors, _generators(generator, len(images)), strict=True):
            picture = to_picture(item)  # type: ignore[arg-type]  # a tuple is taken for a list above
            guided = settings.guidance_scale > 1
            conditions = self.encode(picture, item_prior, negative if guided else None, scale=scale)
            shares = []
            for shift in range(settings.num_shifts):
                moved = conditions.shifted(shift * self.vae_scale_factor // settings.num_shifts)
                latents = self.denoise(
                    moved,
                    settings,
                    controlnet_conditioning_scale=controlnet_conditioning_scale,
                    generator=item_generator,
                )
                pixels = self.decode(latents, moved, color_match=settings.color_match)
                shares.append(pixels / settings.num_shifts)
            pixels = sum(shares[1:], shares[0])
            results.append(_as_output(pixels, picture, output_type))
        self.maybe_free_model_hooks()
        return XPSRPipelineOutput(images=results, priors=priors)

    def settings(
        self,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        strength: float | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        num_shifts: int | None = None,
        color_match: ColorMatch | None = None,
    ) -> Settings:
        """What a call with these arguments does: the model's own default stands where one is None.

        Raises:
            InputError: an argument is out of its range.
        """
        config = self.config
        steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
        one_step = steps == 1 and config.one_step_timestep is not None
        if strength is None:
            strength = 0.0 if one_step else config.strength
        tile_size = config.tile_size if tile_size is None else tile_size
        if tile_overlap is None:
            tile_overlap = min(config.tile_overlap, tile_size // 2)

        limit = self.scheduler.config.num_train_timesteps
        if not 1 <= steps <= limit:
            raise InputError(f"num_inference_steps={steps} is not in [1, {limit}]; 1 to 50 is usual.")
        if not 0 <= strength <= 1:
            raise InputError(f"strength={strength:g} is not in [0, 1]; 1 starts from noise.")
        if strength == 0 and not one_step:
            raise InputError(
                "strength=0 starts from the picture as it is, which is the one step of a model that has learned it; use"
                " num_inference_steps=1 with such a model or strength above 0."
            )
        if strength and round(steps / strength) > limit:
            raise InputError(
                f"strength={strength:g} leaves fewer than {steps} of {limit} timesteps; use at most"
                f" {int(limit * strength)} steps."
            )
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        if tile_size < multiple or tile_size % multiple:
            raise InputError(
                f"tile_size={tile_size} is not a positive multiple of {multiple}; use"
                f" {max(tile_size // multiple, 1) * multiple}."
            )
        if not 0 <= tile_overlap < tile_size:
            raise InputError(f"tile_overlap={tile_overlap} is not in [0, tile_size={tile_size}); use {tile_size // 8}.")
        if num_shifts is None:
            num_shifts = config.num_shifts if strength == 0 else 1
        if num_shifts < 1 or self.vae_scale_factor % num_shifts:
            raise InputError(f"num_shifts={num_shifts} does not divide {self.vae_scale_factor} pixels; use 1 or 2.")
        if num_shifts > 1 and strength > 0:
            raise InputError(
                f"num_shifts={num_shifts} would average pictures of different noise; it is for the one step, use 1."
            )
        color_match = config.color_match if color_match is None else color_match
        if color_match not in get_args(ColorMatch):
            raise InputError(f"color_match={color_match!r} is unknown; use one of {', '.join(get_args(ColorMatch))}.")
        return Settings(
            num_inference_steps=steps,
            guidance_scale=config.guidance_scale if guidance_scale is None else guidance_scale,
            strength=strength,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            num_shifts=num_shifts,
            color_match=color_match,
        )

    def encode(self, picture: Picture, prior: Prior, negative: Prior | None, *, scale: float) -> _Conditions:
        """Enlarges the picture bicubically, pads it to the model's multiple and embeds the texts."""
        height, width = max(round(picture.height * scale), 1), max(round(picture.width * scale), 1)
        if height * width > MAX_OUTPUT_PIXELS:
            raise InputError(
                f"{picture.width} x {picture.height} times {scale:g} is {width} x {height} pixels, more than"
                f" {MAX_OUTPUT_PIXELS}; use a smaller scale."
            )
        enlarged = resize(picture.pixels, (height, width), method="bicubic")[None]
        multiple = self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        pixels, crop = pad_to_multiple(enlarged, multiple)
        priors = [prior] if negative is None else [negative, prior]
        return _Conditions(
            pixels=pixels.to(self._execution_device, self.unet.dtype),
            content=self.embed([p.content for p in priors]),
            quality=self.embed([p.quality for p in priors]),
            crop=crop,
            multiple=multiple,
        )

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeds texts: (B, N, D), cut after the encoder's number of tokens."""
        ids = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.text_encoder.config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(ids.to(self._execution_device))[0].to(self.unet.dtype)

    def denoise(
        self,
        conditions: _Conditions,
        settings: Settings,
        *,
        controlnet_conditioning_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Returns clean latents (1, C, H/f, W/f) of the padded picture."""
        lr_latents = self.vae.encode((conditions.pixels * 2 - 1).to(self.vae.dtype)).latent_dist.sample(generator)
        lr_latents = (lr_latents * self.vae.config.scaling_factor).to(self.unet.dtype)
        tiles = tile_grid(*lr_latents.shape[-2:], tile_size=settings.tile_size, overlap=settings.tile_overlap)
        weights = gaussian_weights(tiles[0].height, tiles[0].width, device=lr_latents.device)

        def predict(latents: torch.Tensor, timestep: torch.Tensor, progress: Any) -> torch.Tensor:
            def predictions() -> Iterator[tuple[Tile, torch.Tensor]]:
                for tile in tiles:
                    yield (
                        tile,
                        self._predict(
                            tile.crop(latents),
                            timestep,
                            tile.scaled(self.vae_scale_factor).crop(conditions.pixels),
                            conditions,
                            settings.guidance_scale,
                            controlnet_conditioning_scale,
                        ),
                    )
                    progress.update()

            return blend_tiles(predictions(), latents.shape, weights=weights).to(latents.dtype)

        if settings.strength == 0:
            timestep = torch.tensor(self.config.one_step_timestep, device=lr_latents.device)
            with self.progress_bar(total=len(tiles)) as progress:
                return predict_original_sample(
                    self.scheduler, predict(lr_latents, timestep, progress), timestep, lr_latents
                )

        timesteps = self._start_at(settings.strength, settings.num_inference_steps)
        noise = randn_tensor(lr_latents.shape, generator=generator, device=lr_latents.device, dtype=lr_latents.dtype)
        if settings.strength == 1:
            latents = noise * self.scheduler.init_noise_sigma
        else:
            latents = self.scheduler.add_noise(lr_latents, noise, timesteps[:1])
        accepts_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator} if accepts_generator else {}
        with self.progress_bar(total=len(timesteps) * len(tiles)) as progress:
            for timestep in timesteps:
                model_input = self.scheduler.scale_model_input(latents, timestep)
                output = predict(model_input, timestep, progress)
                latents = self.scheduler.step(output, timestep, latents, **options).prev_sample.to(latents.dtype)
        return latents

    def decode(self, latents: torch.Tensor, conditions: _Conditions, *, color_match: ColorMatch) -> torch.Tensor:
        """Returns pixels (3, H, W) in [0, 1], cropped, their colours matched to the input's."""
        latents = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        pixels = conditions.crop.crop(self.vae.decode(latents).sample.float() / 2 + 0.5)
        if not torch.isfinite(pixels).all():
            raise XPSRError(f"the result is not finite in {self.unet.dtype}; use float32 or bfloat16.")
        source = conditions.crop.crop(conditions.pixels.float())
        return match_color(pixels.clamp(0, 1), source, color_match)[0].clamp(0, 1)

    def _predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        pixels: torch.Tensor,
        conditions: _Conditions,
        guidance_scale: float,
        controlnet_conditioning_scale: float,
    ) -> torch.Tensor:
        rows = len(conditions.content)
        latents, pixels = latents.expand(rows, -1, -1, -1), pixels.expand(rows, -1, -1, -1)
        control = self.controlnet(
            latents,
            timestep,
            conditions.content,
            pixels,
            controlnet_conditioning_scale,
            quality_hidden_states=conditions.quality,
        )
        output = self.unet(
            latents,
            timestep,
            conditions.content,
            control.down_block_res_samples,
            control.mid_block_res_sample,
        ).sample.float()
        if rows == 1:
            return output
        negative, positive = output.chunk(2)
        return negative + guidance_scale * (positive - negative)

    def _start_at(self, strength: float, num_inference_steps: int) -> torch.Tensor:
        """Sets the scheduler up and returns the timesteps to take, the first about `strength` times those of training.

        Raises:
            InputError: the scheduler cannot start there.
        """
        scheduler, device = self.scheduler, self._execution_device
        name = type(scheduler).__name__
        if not all(hasattr(scheduler, attribute) for attribute in ("alphas_cumprod", "add_noise", "init_noise_sigma")):
            raise InputError(
                f"{name} is not a scheduler of discrete noise levels; use DDIMScheduler or another like it."
            )
        # LMS and PNDM's first steps draw on a past that a later start does not have
        if strength < 1 and ("LMS" in name or scheduler.config.get("skip_prk_steps") is False):
            raise InputError(f"{name} can only start from noise; use strength=1 or another scheduler.")
        if strength == 1:
            scheduler.set_timesteps(num_inference_steps, device=device)
            return scheduler.timesteps
        limit = scheduler.config.num_train_timesteps
        remapped = any(scheduler.config.get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta"))
        if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters and not remapped:
            fractions = torch.arange(num_inference_steps, 0, -1) / num_inference_steps
            timesteps = (fractions * strength * limit).round().long() - 1
            scheduler.set_timesteps(timesteps=timesteps.clamp_min(0).tolist(), device=device)
            return scheduler.timesteps
        # The others only know evenly spread timesteps: those of a longer run, from the nearest to the start on
        guess, order = round(num_inference_steps / strength), scheduler.order
        best = (math.inf, guess)
        for longer in range(max(guess // 2, num_inference_steps), min(2 * guess, limit) + 1):
            scheduler.set_timesteps(longer, device=device)
            first = float(scheduler.timesteps[(longer - num_inference_steps) * order])
            best = min(best, (abs(first + 1 - strength * limit), longer))
        distance, longer = best
        if distance > 0.1 * limit:
            raise InputError(
                f"{name} cannot start at strength={strength:g} with {num_inference_steps} steps; take more steps or"
                " another scheduler."
            )
        scheduler.set_timesteps(longer, device=device)
        start = (longer - num_inference_steps) * order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        return scheduler.timesteps[start:]


def _one_each(value: Any, count: int, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise InputError(f"{len(value)} values of {name} for {count} images; give one each or one for all.")
    return list(value)


def _generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[torch.Generator | None]:
    """One for each picture; a single one is copied, so that no picture's noise depends on those before it."""
    if not isinstance(generator, torch.Generator):
        return _one_each(generator, count, "generator")
    state = generator.get_state()
    copies = [torch.Generator(generator.device) for _ in range(count - 1)]
    for copy in copies:
        copy.set_state(state)
    return [generator, *copies]


def _as_output(pixels: torch.Tensor, picture: Picture, output_type: str) -> Image.Image | np.ndarray | torch.Tensor:
    size = (pixels.shape[-2], pixels.shape[-1])
    alpha = None if picture.alpha is None else resize(picture.alpha, size, method="lanczos")
    if output_type == "pil":
        return to_pil(pixels, alpha)
    planes = pixels if alpha is None else torch.cat([pixels, alpha.to(pixels)])
    return planes if output_type == "pt" else planes.permute(1, 2, 0).cpu().numpy()
