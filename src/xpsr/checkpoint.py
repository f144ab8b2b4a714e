"""Weights: the reference's names and ours, strict loading, and the models that come with xpsr.

The reference stores what we call `attentions.N.content`, `.quality` and `.fusion` as `attentions.N`,
`attentions_lowlevel.N` and `attentions_connect.N`; `conditional_attentions` as `pixel_attentions`; `image_encoder` as
`controlnet_cond_embedding` with `to_rgbs`; and `to_latents` as `conv_degradation`, the last of them apart.
"""

import importlib.resources
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import ModelMixin
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError

from xpsr.config import nearest
from xpsr.config.checks import check_argument, said
from xpsr.errors import InputError, ModelError
from xpsr.files import sha256

__all__ = [
    "StateDict",
    "brief",
    "bundled_models",
    "checksums",
    "controlnet_from_reference",
    "controlnet_to_reference",
    "download",
    "fetch_model",
    "listed",
    "load_strict",
    "refuse_mismatch",
    "resolve_model",
    "unet_from_reference",
    "unet_to_reference",
]

Network = TypeVar("Network", bound=ModelMixin)
StateDict = Mapping[str, torch.Tensor]

_BRANCHES = {"attentions": "content", "attentions_lowlevel": "quality", "attentions_connect": "fusion"}


def unet_from_reference(state: StateDict) -> dict[str, torch.Tensor]:
    """Returns a reference UNet's state under our names."""
    return {key.replace(".pixel_attentions.", ".conditional_attentions."): value for key, value in state.items()}


def unet_to_reference(state: StateDict) -> dict[str, torch.Tensor]:
    """Returns our UNet's state under the reference's names."""
    return {key.replace(".conditional_attentions.", ".pixel_attentions."): value for key, value in state.items()}


def controlnet_from_reference(state: StateDict) -> dict[str, torch.Tensor]:
    """Returns a reference ControlNet's state under our names."""
    middle = len({key.split(".")[1] for key in state if key.startswith("conv_degradation.")})

    def rename(key: str) -> str:
        key = re.sub(
            r"\.(attentions|attentions_lowlevel|attentions_connect)\.(\d+)\.",
            lambda match: f".attentions.{match[2]}.{_BRANCHES[match[1]]}.",
            key,
        )
        key = re.sub(r"^conv_degradation_mid\.0\.", f"to_latents.{middle}.", key)
        key = re.sub(r"^conv_degradation\.(\d+)\.0\.", r"to_latents.\1.", key)
        return re.sub(r"^controlnet_cond_embedding\.", "image_encoder.", key).replace(".to_rgbs.", ".to_images.")

    return {rename(key): value for key, value in state.items()}


def controlnet_to_reference(state: StateDict) -> dict[str, torch.Tensor]:
    """Returns our ControlNet's state under the reference's names."""
    middle = len({key.split(".")[1] for key in state if key.startswith("to_latents.")}) - 1
    stored = {ours: theirs for theirs, ours in _BRANCHES.items()}

    def rename(key: str) -> str:
        key = re.sub(
            r"\.attentions\.(\d+)\.(content|quality|fusion)\.", lambda match: f".{stored[match[2]]}.{match[1]}.", key
        )
        key = re.sub(rf"^to_latents\.{middle}\.", "conv_degradation_mid.0.", key)
        key = re.sub(r"^to_latents\.(\d+)\.", r"conv_degradation.\1.0.", key)
        return re.sub(r"^image_encoder\.", "controlnet_cond_embedding.", key).replace(".to_images.", ".to_rgbs.")

    return {rename(key): value for key, value in state.items()}


def load_strict(
    kind: type[Network],
    source: str | Path,
    *,
    subfolder: str,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> Network:
    """Loads as `kind.from_pretrained` does, refusing weights that do not match the config to the last key.

    Raises:
        ModelError: the folder cannot be read, or keys are missing, unexpected or of another shape (listed).
    """
    name = f"{source}/{subfolder}"
    try:
        model, info = kind.from_pretrained(
            str(source),
            subfolder=subfolder,
            use_safetensors=True,  # upstream would fall back to a pickle
            ignore_mismatched_sizes=True,  # or upstream stops at the first; all are refused below
            output_loading_info=True,
            dtype=dtype,
            variant=variant,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        message, remedy = f"{name}: cannot be loaded: {brief(error)}", "fetch or train the model again"
        raise ModelError(message, code="damaged", remedy=remedy) from error
    misshapen = [key for key, *_ in info["mismatched_keys"]]
    refuse_mismatch(name, info["missing_keys"], info["unexpected_keys"], misshapen)
    return model


def bundled_models() -> dict[str, Path]:
    """Returns the folders of the models that come with xpsr, by name."""
    weights = Path(str(importlib.resources.files("xpsr"))) / "weights"
    return {path.parent.name: path.parent for path in sorted(weights.glob("*/model_index.json"))}


def resolve_model(name: str | os.PathLike[str]) -> str:
    """Finds a model: a bundled name, a folder, or `owner/name` on the Hugging Face hub, which is returned as it is.

    Raises:
        InputError: nothing of that name.
        ModelError: a folder without a model.
    """
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    check_argument("model", name, str)
    bundled = bundled_models()
    if name in bundled:
        return str(bundled[name])
    path = Path(name)
    if name and path.is_dir():
        if not (path / "model_index.json").is_file():
            message, remedy = f"{name}: no model_index.json there", "give a folder written by save_pretrained"
            raise ModelError(message, code="not_found", remedy=remedy)
        return name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.parent.is_dir():
        return name
    meant = nearest(name, bundled)
    remedy = f"use {', '.join([*bundled, 'a folder'])}, or owner/name on the hub"
    raise InputError(
        "is no model",
        code="not_found",
        field="model",
        value=said(name),
        remedy=remedy if meant is None else f"did you mean '{meant}'?",
    )


def fetch_model(name: str | os.PathLike[str], *, revision: str | None = None, local_files_only: bool = False) -> Path:
    """Returns the folder of the model that `resolve_model` finds; one on the hub is brought into the hub's cache first.

    Raises:
        InputError: there is no such model.
        ModelError: the hub does not give it.
    """
    source = resolve_model(name)
    if Path(source).is_dir():
        return Path(source)
    # upstream's own download refuses components whose classes it does not know
    return download(
        source,
        ["*.json", "*.txt", "*/*.safetensors"],  # the components, not a copy of all in one file
        revision=revision,
        local_files_only=local_files_only,
    )


def checksums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every weight file in a model folder, by relative path."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*.safetensors"))}


def download(name: str, patterns: list[str], *, revision: str | None = None, local_files_only: bool = False) -> Path:
    """Returns the hub's cache with those files of `owner/name`.

    Raises:
        ModelError: the hub does not give it, or cannot be reached and the cache lacks it.
    """
    try:
        folder = snapshot_download(name, revision=revision, local_files_only=local_files_only, allow_patterns=patterns)
    except LocalEntryNotFoundError as error:
        if local_files_only:
            message, remedy = f"{name}: is not in the hub's cache", "fetch it first, or give a folder"
            raise ModelError(message, code="not_found", remedy=remedy) from error
        message, remedy = f"{name}: the hub cannot be reached", "check the network, or give a folder"
        raise ModelError(message, code="unreachable", remedy=remedy) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: cannot be fetched from the hub: {brief(error)}", code="no_download") from error
    return Path(folder)


def refuse_mismatch(
    name: str, missing: Collection[str], unexpected: Collection[str], misshapen: Collection[str]
) -> None:
    """Raises `ModelError` that lists keys of weights which do not match their config, if there are any."""
    faults = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    found = [f"{fault}: {listed(sorted(keys))}" for fault, keys in faults if keys]
    if found:
        raise ModelError(f"{name}: the weights do not match the config: {'; '.join(found)}.", code="mismatch")


def listed(keys: Sequence[str], most: int = 8) -> str:
    """Names the first of `keys` and how many more there are."""
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def brief(error: Exception) -> str:
    """Returns what an error of another library says, on one line."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(text.split())[:300].rstrip(".")
