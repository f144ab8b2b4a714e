"""A pipeline's parts from a model's folder, and a look at whether they work together."""

import dataclasses
import inspect
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers import DiffusionPipeline

from xpsr.checkpoint import load_scheduler, load_strict, load_tokenizer
from xpsr.config import MAX_SCALE, Settings, override
from xpsr.config.checks import said
from xpsr.config.names import unknown
from xpsr.errors import InputError, ModelError
from xpsr.image import Picture
from xpsr.model_files import HUB_OPTIONS, INDEX, damaged, fetch_model, verify_checksums
from xpsr.model_folder import finish_saving, loading, read_index, variant_there, weight_files
from xpsr.models import store_weights
from xpsr.pipeline.latents import decode_latents, encode_pixels
from xpsr.prior import Prior

if TYPE_CHECKING:
    from xpsr.pipeline.pipeline import XPSRPipeline

__all__ = ["StoredPipeline"]


# What `DiffusionPipeline.from_pretrained` knows beside a pipeline's own
_UPSTREAM = (
    *("custom_pipeline", "custom_revision", "device_map", "disable_mmap", "low_cpu_mem_usage", "max_memory"),
    *("offload_folder", "offload_state_dict", "trust_remote_code", "use_safetensors"),
)


class StoredPipeline(DiffusionPipeline):
    """A pipeline that is read and written with a look at every file."""

    @classmethod
    def from_pretrained(  # upstream's signature needs **kwargs
        cls, pretrained_model_name_or_path: str | os.PathLike[str] = "mini", **kwargs: Any
    ) -> Self:
        """Loads a model: `"mini"`, which comes with xpsr, a folder, or a name on the Hugging Face hub.

        Everything is loaded as float32 unless `dtype` says otherwise, however it is stored: float16, which halves the
        files, is unusably slow on a CPU. Other keywords are upstream's (`revision`, `token`, components to use instead
        of the stored ones, …).

        Raises:
            InputError: there is no such model or keyword.
            ModelError: a file of it is missing, damaged or does not fit the others.
        """
        dtype, variant = _take_dtype(kwargs), kwargs.pop("variant", None)
        _check_keywords(kwargs, inspect.signature(cls.__init__).parameters)
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder = fetch_model(pretrained_model_name_or_path, variant=variant, **hub)
        parts = load_parts(folder, given=kwargs, pipeline=cls.__name__, dtype=dtype, variant=variant)
        pipe: Any = super().from_pretrained(str(folder), **parts, **kwargs, dtype=dtype)
        if len(parts) == len(pipe.components):  # what the caller brings is the caller's
            check_parts(pipe, folder)
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As upstream, and writes the digests of the weights, with which they are compared when they are loaded."""
        super().save_pretrained(os.fspath(save_directory), *args, **kwargs)
        finish_saving(Path(save_directory))

    def enable_group_offload(self, *args: Any, offload_to_disk_path: str | None = None, **kwargs: Any) -> None:
        """As upstream, but not to disk: diffusers 0.42 would give layers of the same name in two networks one file."""
        if offload_to_disk_path is not None:
            raise NotImplementedError(
                "offload_to_disk_path mixes up the networks' layers here; offload each network to a folder of its own:"
                " pipe.unet.enable_group_offload(..., offload_to_disk_path=...), and so on."
            )
        super().enable_group_offload(*args, **kwargs)

    def _upload_folder(self, working_dir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        finish_saving(Path(working_dir))  # upstream uploads before it comes back
        return super()._upload_folder(working_dir, *args, **kwargs)


def _check_keywords(keywords: Collection[str], own: Collection[str]) -> None:
    """Raises `InputError` for a keyword of `from_pretrained` that would be passed over; `own` are the pipeline's."""
    known = [*own, *HUB_OPTIONS, *_UPSTREAM, "dtype", "variant"]
    for name in keywords:
        if name == "quantization_config":
            remedy = "quantize a network and give it: unet=XPSRUNet.from_pretrained(..., quantization_config=...)"
            raise InputError("is not for a pipeline", code="unknown_field", field=name, remedy=remedy)
        if name == "proxies":
            message, remedy = "are not taken by the hub's library", "set the environment variable HTTPS_PROXY"
            raise InputError(message, code="unknown_field", field=name, remedy=remedy)
        if name not in known:
            raise unknown(name, known)


def _take_dtype(keywords: dict[str, Any]) -> torch.dtype:
    """Takes `torch_dtype` or `dtype` out of the keywords of `from_pretrained`; float32 where there is none."""
    given = [(name, value) for name in ("torch_dtype", "dtype") if (value := keywords.pop(name, None)) is not None]
    for name, value in given:
        if not isinstance(value, torch.dtype):
            named = isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)
            remedy = f"use torch.{value if named else 'float32'}"
            raise InputError("is no torch.dtype", code="wrong_type", field=name, value=said(value), remedy=remedy)
    return given[0][1] if given else torch.float32


def load_parts(
    folder: Path,
    *,
    given: Collection[str],
    pipeline: str,
    dtype: torch.dtype,
    variant: str | None,
    weights_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Loads the components of a model's folder that are not `given`; `pipeline` is the class that asks for them.

    With a `weights_dtype`, weights of all but the autoencoder lie in memory in that number type; see `store_weights`.

    Raises:
        ModelError: a file is missing, damaged, of something else, or not what the folder's checksums say.
    """
    index, classes = read_index(folder, pipeline=pipeline)
    try:
        override(Settings(), index.get("settings") or {})
    except InputError as error:
        raise error.recast(ModelError, source=str(folder / INDEX)) from error
    networks = {
        name: variant_there(kind, folder / name, variant)
        for name, kind in classes.items()
        if name not in (*given, "tokenizer", "scheduler")
    }
    if variant is not None and networks and not any(networks.values()):
        message = f"{folder}: no part of it has files of the variant {variant!r}"
        raise ModelError(message, code="not_found", remedy="leave variant out")
    for name, own in networks.items():
        verify_checksums(folder, weight_files(classes[name], folder / name, own))
    parts: dict[str, Any] = {}
    for name, kind in classes.items():
        if name in given:
            continue
        if name == "tokenizer":
            parts[name] = load_tokenizer(folder / name)
        elif name == "scheduler":
            parts[name] = load_scheduler(kind, folder / name)
        elif weights_dtype is None or name == "vae":
            parts[name] = load_strict(kind, folder, subfolder=name, dtype=dtype, variant=variant)
        else:  # no network is ever in memory in more bits than it stays in, or than files usually have
            read = torch.float16 if weights_dtype.itemsize == 1 else weights_dtype
            parts[name] = load_strict(kind, folder, subfolder=name, dtype=read, variant=variant)
            store_weights(parts[name], weights_dtype, compute_dtype=dtype)
    if {"tokenizer", "text_encoder"} <= parts.keys():
        words, known = len(parts["tokenizer"]), parts["text_encoder"].config.vocab_size
        if words != known:
            message = f"{words} tokens, but the text encoder knows {known}"
            raise damaged(folder / "tokenizer", message, code="mismatch")
    return parts


@torch.no_grad()
def check_parts(pipe: "XPSRPipeline", folder: Path) -> None:
    """Passes the smallest picture through what was loaded of `folder`, once.

    Configs have many numbers that no weight's shape depends on; what they break shows here.

    Raises:
        ModelError: a part cannot be used, or not with the others, or the index has settings that do not go with them.
    """
    timestep, limit = pipe.config.one_step_timestep, pipe.scheduler.config.num_train_timesteps
    if timestep is not None and not (type(timestep) is int and 0 <= timestep < limit):
        raise damaged(folder / INDEX, f"one_step_timestep is {timestep!r}, neither null nor in [0, {limit - 1}]")
    if type(scale := pipe.config.scale) not in (int, float) or not 1 <= scale <= MAX_SCALE:
        raise damaged(folder / INDEX, f"scale is {scale!r}, not a number from 1 to {MAX_SCALE:g}")
    for name in ("one_step_residual", "one_step_only"):
        if type(value := pipe.config[name]) is not bool:
            raise damaged(folder / INDEX, f"{name} is {value!r}, neither true nor false")
    try:
        settings = pipe.settings()
    except InputError as error:
        raise error.recast(ModelError, source=str(folder / INDEX)) from error
    if pipe.unet.dtype is torch.float16:  # which CPUs take many seconds for
        return
    settings = dataclasses.replace(settings, fit="pad", num_shifts=1, min_working_size=0, guidance_scale=1.0)
    generator = torch.Generator().manual_seed(0)
    picture = Picture(pixels=torch.full((3, 1, 1), 0.5))
    with loading(folder / "text_encoder"):
        conditions = pipe.encode(picture, Prior("a photo"), settings, size=(1, 1))
        _refuse_not_finite(conditions.content)
    with loading(folder / "vae"):
        latents = encode_pixels(pipe.vae, conditions.pixels, generator).to(pipe.unet.dtype)
        _refuse_not_finite(latents)
    with loading(folder / "unet"):
        # at its lowest level the smallest picture is one pixel, which fits whatever it is added to
        larger = latents.repeat(1, 1, 2, 2)
        output, _ = pipe.denoiser(
            larger,
            torch.tensor(0, device=latents.device),
            conditions.pixels.repeat(1, 1, 2, 2),
            conditions.content,
            conditions.quality,
        )
        if output.shape != larger.shape:
            raise ValueError(f"it makes {tuple(output.shape)} of latents of {tuple(larger.shape)}")
        _refuse_not_finite(output.to(latents.dtype))
    with loading(folder / "vae"):
        pixels = decode_latents(pipe.vae, latents)
        if pixels.shape != conditions.pixels.shape:
            raise ValueError(f"it makes {tuple(pixels.shape)} of {tuple(conditions.pixels.shape)}")
        _refuse_not_finite(pixels.to(latents.dtype))


def _refuse_not_finite(values: torch.Tensor) -> None:
    # half precision may overflow in a sound model, whose user is told so with the picture
    if values.dtype == torch.float32 and not values.isfinite().all():
        raise ValueError("its weights give what is not finite")
