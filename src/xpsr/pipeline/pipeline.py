"""From a small degraded picture to a large clean one: `XPSRPipeline`.

`__call__` reads as the method does: look up the prior, encode pixels and texts, denoise, decode.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextModel, CLIPTokenizer

from xpsr.config import (
    ModelFacts,
    PresetName,
    Settings,
    Size,
    as_size,
    given_settings,
    override,
    preset_settings,
    resolve_settings,
    usual_size,
)
from xpsr.config.checks import check_argument, fault, said
from xpsr.errors import InputError, ModelError
from xpsr.grain import add_grain
from xpsr.image import ImageLike, Picture, new_planes, to_picture, unbatched
from xpsr.models import Denoiser, HaarPackets, XPSRControlNet, XPSRUNet, joined, own_scheduler, start_at
from xpsr.pipeline.arguments import (
    OutputType,
    PassCallback,
    StepCallback,
    StepTensors,
    XPSRPipelineOutput,
    as_output,
    counted,
    one_each,
    one_generator_each,
    step_end,
)
from xpsr.pipeline.bands import add_strips, finished, rows_of_band
from xpsr.pipeline.conditions import MAX_OUTPUT_PIXELS, Conditions, Passes, fit_picture, lay_tiles
from xpsr.pipeline.denoising import EstimateCallback, StepEnd, TiledDenoiser, take_one_step, take_steps
from xpsr.pipeline.latents import (
    VAE_TILE,
    Autoencoder,
    decode_strips,
    encode_pixels,
    encode_strips,
    pixels_per_latent,
)
from xpsr.pipeline.loading import StoredPipeline
from xpsr.pipeline.previews import PreviewCallback, Previews
from xpsr.pipeline.texts import embed_texts
from xpsr.planning import TilePlan
from xpsr.prior import QUESTIONS, Describer, Prior, looking

__all__ = ["XPSRPipeline"]


class XPSRPipeline(StoredPipeline):
    """Restores and enlarges photographs.

    What is no component is the model's own and stored in `model_index.json`, so that a model needs no flags.

    Args:
        vae: `AutoencoderKL`, `DeepHaarAutoencoder` or `HaarAutoencoder`.
        text_encoder, tokenizer: CLIP; both texts go through them.
        unet, controlnet: the networks.
        scheduler: any diffusers scheduler.
        one_step_timestep: what the one step from the LR latents as they are is labelled with; None: not learned.
        settings: fields of `xpsr.Settings` that differ from the preset "default", or a whole one.
        one_step_residual: what the UNet's output is in the one step; see `predict_one_step`.
        one_step_only: whether the model has learned the one step alone, so that more steps are refused.
        scale: how much larger it has learned to make pictures, at once; other sizes are resampled.

    Raises:
        ModelError: an unknown setting.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"  # the ControlNet alternates with the UNet: it stays
    _callback_tensor_inputs = ("latents", "noise_pred")

    def __init__(
        self,
        vae: Autoencoder,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: XPSRUNet,
        controlnet: XPSRControlNet,
        scheduler: SchedulerMixin,
        one_step_timestep: int | None = None,
        settings: dict | None = None,  # type: ignore[type-arg]  # upstream's loader reads this annotation
        one_step_residual: bool = False,
        one_step_only: bool = False,
        scale: float = 4.0,
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
        try:
            complete = dataclasses.asdict(override(Settings(), given_settings(settings)))
        except InputError as error:
            raise error.recast(ModelError, source="model_index.json") from error
        self.register_to_config(
            one_step_timestep=one_step_timestep,
            one_step_residual=one_step_residual,
            one_step_only=one_step_only,
            scale=scale,
            settings=complete,
        )
        self.set_progress_bar_config(leave=False)  # a loop over pictures leaves the screen as it was

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent pixel, along a side."""
        return pixels_per_latent(self.vae)

    @property
    def facts(self) -> ModelFacts:
        """What decides which settings this model can follow."""
        return ModelFacts(
            num_train_timesteps=self.scheduler.config.num_train_timesteps,
            vae_scale_factor=self.vae_scale_factor,
            tile_multiple=2 ** (len(self.unet.config.block_out_channels) - 1),  # each level of the UNet halves them
            has_one_step=self.config.one_step_timestep is not None,
            has_several_steps=not self.config.one_step_only,
            has_fidelity=self.config.one_step_residual and isinstance(self.vae, HaarPackets) and self.vae.has_fidelity,
            scale=self.config.scale,
        )

    @property
    def denoiser(self) -> Denoiser:
        """ControlNet, UNet and guidance as one network, which every pass calls; `pipe.denoiser.compile()` stays."""
        kept: Denoiser | None = self.__dict__.get("_denoiser")
        if kept is None or kept.controlnet is not self.controlnet or kept.unet is not self.unet:
            kept = self.__dict__["_denoiser"] = Denoiser(self.controlnet, self.unet)
        return kept

    @denoiser.setter
    def denoiser(self, denoiser: Denoiser) -> None:  # of the same two networks, such as one that an engine computes
        self.__dict__["_denoiser"] = denoiser

    @torch.no_grad()
    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        *,
        scale: float | None = None,
        size: Size | str | None = None,
        prior: Prior | str | Sequence[Prior | str | None] | None = None,
        describer: str | os.PathLike[str] | Describer = "mini",
        preset: PresetName | None = None,
        settings: Settings | Mapping[str, Any] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        strength: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        callback_on_pass_end: PassCallback | None = None,
        callback_on_preview: PreviewCallback | None = None,
        plan: TilePlan | None = None,
        workspace: str | os.PathLike[str] | None = None,
    ) -> XPSRPipelineOutput:
        """Restores one picture or several. What is left out is the model's own default.

        Args:
            image: a path, the bytes of a file, an open file, a PIL image, an array (H, W, C), a tensor (C, H, W) in
                [0, 1], or a `Picture`; or a list of them, an array (B, H, W, C) or a tensor (B, C, H, W). Each picture
                is restored by itself, so several give what each gives alone.
            scale: how much larger the result is, along a side, 1/16 to 16; may be fractional. None: 4,
                or 2 or 1 where the result would have more than 2**26 pixels.
            size: the size instead of a scale: "3000x2000", or a `Size`, such as `Size(longest=3000)`.
            prior: what is in the picture and what is wrong with it; one for all or one each. A text is what is in it,
                and the describer says what is wrong; None: it says both; `Prior()`: nothing is said.
            describer: who looks: "mini", which comes with xpsr, "none", or what else `open_describer` takes, which is
                opened for this call; or one that is open.
            preset: "default", "paper" or "reference" instead of the model's own settings; see `xpsr.PRESETS`.
            settings: a `Settings`, which says all and goes without a preset; or some of its fields, over those of the
                preset or the model. `Settings` says what each one means.
            num_inference_steps, guidance_scale, strength: the three of them that are used most; they go before both.
            generator: one for all, which each picture uses from its present state on, or one each. None: a random one.
            latents: what to start from, in the last pass, instead of latents drawn here, (1, C, h, w) of the fitted
                picture, as noisy as the scheduler's first timestep.
            output_type: "pil", "np", "pt" (on the CPU, where large results have room) or "latent".
            return_dict: False gives the tuple (images, priors) instead.
            callback_on_step_end: called after every step with the pipeline, the step's index, its timestep and the
                tensors that `callback_on_step_end_tensor_inputs` names, of "latents" (1, C, h, w) and "noise_pred", the
                guided output of that step; "latents" in what it returns go on. The one step has no scheduler and no
                callback.
            callback_on_pass_end: called after every pass through the networks, which is one tile of one step, or a
                plan's `batch_size` of them, with how many tiles of how many are done for the picture. What it raises
                ends the call; the pipeline stays usable.
            callback_on_preview: called after every step but the last with what the picture looks like so far, a
                small (3, h, w) in [0, 1]; see `xpsr.pipeline.previews`.
            plan: how much is computed at once; its tiles go before those of the settings.
            workspace: a folder in which what a result of more than 2**26 pixels is made of lies meanwhile; None: in
                memory.

        Any number of threads may call one pipeline at once, each with a generator of its own: a call changes nothing of
        the pipeline. Not so one whose models are offloaded (`enable_model_cpu_offload` and the like), which moves them.

        Raises:
            InputError: a picture or an argument that cannot be used.
            XPSRError: the result is not finite.
        """
        resolved = self.settings(
            preset,
            settings,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            strength=strength,
            plan=plan,
        )
        target, folder = as_size(scale, size), None if workspace is None else Path(workspace)
        for name, value, kind in (
            ("output_type", output_type, OutputType),
            ("return_dict", return_dict, bool),
            ("latents", latents, torch.Tensor | None),
            ("callback_on_step_end", callback_on_step_end, Callable | None),
            ("callback_on_step_end_tensor_inputs", callback_on_step_end_tensor_inputs, StepTensors),
            ("callback_on_pass_end", callback_on_pass_end, Callable | None),
            ("callback_on_preview", callback_on_preview, Callable | None),
            ("workspace", workspace, str | os.PathLike | None),
        ):
            check_argument(name, value, kind)
        if output_type == "latent" and resolved.num_shifts > 1:
            if "num_shifts" in given_settings(settings):
                raise fault(resolved, "num_shifts", "averages pixels", "use 1 for latents")
            resolved = dataclasses.replace(resolved, num_shifts=1)
        if latents is not None and resolved.strength == 0:
            message = "are none of the one step's, which starts from the picture"
            raise InputError(message, code="conflict", field="latents", remedy="leave them out or take more steps")

        images = unbatched(image)
        asked = one_each(prior, len(images), "prior")
        generators = one_generator_each(generator, len(images))
        priors: list[Prior] = []
        results: list[Any] = []
        try:
            questions, device = QUESTIONS[preset or "default"], str(self._execution_device)
            with looking(describer, asked, questions=questions, device=device) as find_prior:
                for item, item_prior, item_generator in zip(images, asked, generators, strict=True):
                    picture = to_picture(item)
                    passes = self.passes(picture.width, picture.height, target, resolved)
                    previews = Previews(callback_on_preview, self.vae, picture=picture, passes=passes)
                    priors.append(find_prior(item, picture, item_prior))
                    seen = picture
                    for number, size_made in enumerate(passes.sizes):
                        conditions = self.encode(seen, priors[-1], resolved, size=size_made)
                        is_last = number == len(passes.sizes) - 1
                        made = new_planes((3, *size_made), folder)
                        for shift, offset in enumerate(passes.offsets):
                            moved, run = conditions.shifted(offset), number * len(passes.offsets) + shift
                            clean = self.denoise_strips(
                                moved,
                                resolved,
                                generator=item_generator,
                                latents=latents if is_last else None,
                                on_step_end=step_end(self, callback_on_step_end, callback_on_step_end_tensor_inputs),
                                on_estimate=previews.of_pass(moved, resolved, number=number),
                                on_pass_end=counted(callback_on_pass_end, passes.tiles, run),
                                plan=plan,
                            )
                            if is_last and output_type == "latent":
                                results.append(joined(clean))
                                break
                            pixels = self.decode_strips(clean, moved, resolved, plan=plan, workspace=folder)
                            add_strips(made, pixels, share=1 / len(passes.offsets))
                        seen = Picture(pixels=made)
                    if output_type != "latent":
                        add_grain(made, resolved.grain, item_generator)
                        results.append(as_output(made, picture, output_type))
        finally:  # after an error or a cancellation, too
            self.maybe_free_model_hooks()
        output = XPSRPipelineOutput(images=results, priors=priors)
        return output if return_dict else output.to_tuple()

    def settings(
        self,
        preset: PresetName | None = None,
        overrides: Settings | Mapping[str, Any] | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        strength: float | None = None,
        plan: TilePlan | None = None,
    ) -> Settings:
        """Returns what a call with these arguments does: `overrides` over those of the preset, or the model's own.

        Args:
            preset: None: the model's own.
            overrides: fields of a `Settings`, or a whole one, which goes without a preset.
            num_inference_steps, guidance_scale, strength: these go before `overrides`; None: not given.
            plan: its `tile_size` and `tile_overlap` go before everything.

        Raises:
            InputError: an unknown preset or setting, or one out of its range.
        """
        if preset is not None and isinstance(overrides, Settings):
            message, remedy = "does nothing beside a whole Settings", "leave one of them out"
            raise InputError(message, code="conflict", field="preset", value=said(preset), remedy=remedy)
        base = Settings(**self.config.settings) if preset is None else preset_settings(preset)
        named = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "strength": strength}
        given = {name: value for name, value in named.items() if value is not None}
        check_argument("plan", plan, TilePlan | None)
        if plan is not None:
            given |= {"tile_size": plan.tile_size, "tile_overlap": plan.tile_overlap}
        return resolve_settings(base, {**given_settings(overrides), **given}, self.facts)

    def passes(self, width: int, height: int, target: Size | None, settings: Settings) -> Passes:
        """Returns the way of a picture of that size through the model; `target` None: what makes sense for it.

        Raises:
            InputError: the result would be too large.
        """
        target = target or usual_size(width, height)
        target.refuse_above(MAX_OUTPUT_PIXELS, width, height)
        wide, high = target.of(width, height)
        return Passes.plan((height, width), (high, wide), settings, self.facts)

    def encode(self, picture: Picture, prior: Prior, settings: Settings, *, size: tuple[int, int]) -> Conditions:
        """Enlarges the picture for a result of that height and width, fits it to the model and embeds the texts."""
        fitted = fit_picture(picture, settings, self.facts, size=size)
        content, quality = [(prior.content, settings.content_suffix)], [(prior.quality, "")]
        if settings.guidance_scale > 1:
            content.insert(0, (settings.negative_content, ""))
            quality.insert(0, (settings.negative_quality, ""))

        device = self._execution_device  # to ask takes milliseconds

        def embed(texts: list[tuple[str, str]]) -> torch.Tensor:
            return embed_texts(self.text_encoder, self.tokenizer, texts, settings, device=device).to(self.unet.dtype)

        return dataclasses.replace(
            fitted,
            content=embed(content),
            quality=embed(quality),
            device=device,
            dtype=self.unet.dtype,
        )

    def prepare_latents(
        self,
        pixels: torch.Tensor,
        timestep: torch.Tensor,
        settings: Settings,
        *,
        generator: torch.Generator | None = None,
        scheduler: SchedulerMixin | None = None,
    ) -> torch.Tensor:
        """Returns what denoising starts from: (1, C, H/f, W/f).

        Noise is drawn in this order: for the autoencoder's sample, at `timestep`, at `added_noise_level`; with
        start="noise" only the start itself and the offset.

        Args:
            pixels: (1, 3, H, W) in [0, 1].
            timestep: (1,), the first that is denoised.
            settings: its `start`, `added_noise_level` and `offset_noise_scale`.
            generator: None: torch's own.
            scheduler: one that is set to the run's timesteps; None: the pipeline's.
        """
        scheduler = scheduler or self.scheduler
        noise_like = {"generator": generator, "device": self._execution_device, "dtype": self.unet.dtype}
        factor, channels = self.vae_scale_factor, self.unet.config.in_channels
        shape = (len(pixels), channels, pixels.shape[-2] // factor, pixels.shape[-1] // factor)
        if settings.start == "noise":
            noise = randn_tensor(shape, **noise_like)
            if settings.offset_noise_scale:
                noise = noise + settings.offset_noise_scale * randn_tensor((*shape[:2], 1, 1), **noise_like)
            return noise * scheduler.init_noise_sigma
        latents = encode_pixels(self.vae, pixels, generator).to(self.unet.dtype)
        latents = scheduler.add_noise(latents, randn_tensor(shape, **noise_like), timestep)
        if settings.added_noise_level:
            alpha = scheduler.alphas_cumprod[settings.added_noise_level].to(latents)
            latents = alpha.sqrt() * latents + (1 - alpha).sqrt() * randn_tensor(shape, **noise_like)
        return latents

    def denoise(
        self,
        conditions: Conditions,
        settings: Settings,
        *,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Returns clean latents (1, C, H/f, W/f) of the fitted picture."""
        return joined(self.denoise_strips(conditions, settings, generator=generator))

    def denoise_strips(
        self,
        conditions: Conditions,
        settings: Settings,
        *,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        on_step_end: StepEnd | None = None,
        on_pass_end: PassCallback | None = None,
        on_estimate: EstimateCallback | None = None,
        plan: TilePlan | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yields strips (1, C, rows, W/f) of what `denoise` returns; in the one step, as soon as they are known."""
        height, width = (side // self.vae_scale_factor for side in (conditions.height, conditions.width))
        shape, device = (1, self.unet.config.in_channels, height, width), conditions.device
        tiles, one_step, done = self.tiles(height, width, settings), settings.strength == 0, 0
        scheduler = own_scheduler(settings.scheduler, self.scheduler)
        if one_step:
            timesteps = torch.tensor([self.config.one_step_timestep], device=device)
        else:
            timesteps = start_at(scheduler, settings.strength, settings.num_inference_steps, device=device)
        num_passes = len(tiles) * len(timesteps)  # schedulers of a higher order pass more often

        def on_tiles(count: int) -> None:
            nonlocal done
            done += count
            bar.update(count)
            if on_pass_end is not None:
                on_pass_end(done, num_passes)

        tiled = TiledDenoiser(
            self.denoiser,
            conditions,
            settings,
            tiles,
            factor=self.vae_scale_factor,
            batch_size=1 if plan is None else plan.batch_size,
            is_repeated=not one_step,
            on_tiles=on_tiles,
        )
        with self.progress_bar(total=num_passes) as bar:
            if one_step:
                strips = encode_strips(self.vae, conditions, generator, plan)
                if settings.fidelity == 1:  # nothing of what the networks say would count
                    rows = 0
                    for strip in strips:
                        yield strip
                        rows += strip.shape[-2]
                        on_tiles(num_passes * rows // height - done)  # as they are decoded, which is what takes time
                    return
                step = {"scheduler": scheduler, "vae": self.vae, "residual": self.config.one_step_residual}
                yield from take_one_step(tiled, strips, shape, timesteps[0], settings, **step)
                return
            if latents is None:
                latents = self.prepare_latents(
                    conditions.pixels, timesteps[:1], settings, generator=generator, scheduler=scheduler
                )
            if latents.shape != shape:
                message = f"are of shape {tuple(latents.shape)}, and this picture needs {shape}"
                raise InputError(message, code="wrong_size", field="latents", remedy="make them anew or leave them out")
            latents = latents.to(device, conditions.dtype)
            told: dict[str, Any] = {"on_step_end": on_step_end, "on_estimate": on_estimate}
            yield take_steps(tiled, latents, timesteps, scheduler=scheduler, generator=generator, **told)

    def decode(self, latents: torch.Tensor, conditions: Conditions, settings: Settings) -> torch.Tensor:
        """Returns pixels (3, H, W) in [0, 1] of the result's size, their colours matched to the input's."""
        return joined(self.decode_strips([latents], conditions, settings))

    def decode_strips(
        self,
        strips: Iterable[torch.Tensor],
        conditions: Conditions,
        settings: Settings,
        *,
        plan: TilePlan | None = None,
        workspace: Path | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yields strips (3, rows, W) of what `decode` returns, of strips (1, C, rows, W/f) of the latents.

        `workspace` is a folder for what of a large picture must be known as a whole; None: that is in memory.
        """
        decoded = decode_strips(
            self.vae,
            strips,
            conditions.height // self.vae_scale_factor,
            rows=rows_of_band(conditions.width, plan),
            vae_tile=VAE_TILE if plan is None else plan.vae_tile,
            fidelity=settings.fidelity,
        )
        return finished(decoded, conditions, settings, workspace)

    tiles = staticmethod(lay_tiles)
