"""A model by its name, and its files: fetched, digested, read before anything is made of them. No torch.

Every fault of a file is a `ModelError` that names it and what to do.
"""

import importlib.resources
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xpsr.caches import digest
from xpsr.config import (
    ModelFacts,
    PresetName,
    Settings,
    given_settings,
    nearest,
    override,
    preset_settings,
    resolve_settings,
)
from xpsr.config.checks import check_argument, said
from xpsr.errors import InputError, ModelError, XPSRError, brief

__all__ = [
    "CHECKSUMS",
    "HUB_OPTIONS",
    "INDEX",
    "MAX_CONFIG_BYTES",
    "MAX_CONFIG_NUMBER",
    "again",
    "bundled_models",
    "check_file",
    "checksums",
    "damaged",
    "download",
    "fetch_model",
    "read_config",
    "read_json",
    "refuse_settings",
    "resolve_model",
    "unreadable",
    "verify_checksums",
    "weight_patterns",
    "write_checksums",
]

INDEX, CHECKSUMS = "model_index.json", "checksums.json"
MAX_CONFIG_BYTES = 2**23
MAX_CONFIG_NUMBER = 2**20
"""Of any number in the config of a network, scheduler or tokenizer; the largest in use is a vocabulary of 49,408."""

# What makes transformers or diffusers fetch, import or quantize at a config's word
_ACTING_KEYS = ("attn_implementation", "_attn_implementation", "auto_map", "quantization_config")


def bundled_models() -> dict[str, Path]:
    """Returns the folders of the models that come with xpsr, by name."""
    weights = Path(str(importlib.resources.files("xpsr"))) / "weights"
    return {path.parent.name: path.parent for path in sorted(weights.glob(f"*/{INDEX}"))}


def resolve_model(name: str | os.PathLike[str]) -> str:
    """Finds a model: a bundled name, a folder, or `owner/name` on the Hugging Face hub, which is returned as it is.

    Raises:
        InputError: nothing of that name.
        ModelError: a folder without a model.
    """
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    try:
        check_argument("model", name, str)
    except InputError as error:
        if error.code == "wrong_type":  # as a text it would be no model either
            error.remedy = "name a folder, or mini"
        raise
    bundled = bundled_models()
    if name in bundled:
        return str(bundled[name])
    path = Path(name)
    if name and os.path.isdir(path):  # noqa: PTH112 - pathlib raises for a name that no folder can have
        if not (path / INDEX).exists():
            remedy = "give a folder written by save_pretrained"
            if all((path / part / "config.json").is_file() for part in ("unet", "controlnet")):
                remedy = "if it is the authors' checkpoint, make a model of it: xpsr convert"
            message = f"{name}: no {INDEX} there"
            raise ModelError(message, code="not_found", remedy=remedy)
        return name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not os.path.isdir(path.parent):  # noqa: PTH112
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


HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
"""What the hub is asked with, as `huggingface_hub` names it."""


def fetch_model(name: str | os.PathLike[str], *, variant: str | None = None, **hub: Any) -> Path:
    """Returns the folder of the model that `resolve_model` finds; one on the hub is brought into the hub's cache first.

    `hub` are `HUB_OPTIONS`.

    Raises:
        InputError: there is no such model.
        ModelError: the hub does not give it.
    """
    source = resolve_model(name)
    if Path(source).is_dir():
        return Path(source)
    # upstream's own download refuses components whose classes it does not know
    patterns = ["*.json", "*.txt", "describer/*.safetensors"]  # the components, not a copy of all in one file
    folder = download(source, [*patterns, *weight_patterns("*", variant)], **hub)
    if variant is not None and any(folder.glob(f"*/*.{variant}*.safetensors")):  # parts without it are plain
        names = {path.parent.name for path in folder.glob("*/config.json")} - {"describer"}
        plain = sorted(part for part in names if not any(folder.glob(f"{part}/*.{variant}*.safetensors")))
        if plain:
            download(source, [pattern for part in plain for pattern in weight_patterns(part)], **hub)
    return folder


def weight_patterns(part: str, variant: str | None = None) -> list[str]:
    """Returns what to ask the hub for to have the weights of a part, without those of other variants."""
    ends = ("", "-*") if variant is None else (f".{variant}", f".{variant}-*")
    return [f"{part}/{stem}{end}.safetensors" for stem in ("diffusion_pytorch_model", "model") for end in ends]


def download(name: str, patterns: list[str], **hub: Any) -> Path:
    """Returns the hub's cache with those files of `owner/name`; `hub` are `HUB_OPTIONS`.

    Raises:
        ModelError: the hub does not give it, or cannot be reached and the cache lacks it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, allow_patterns=patterns, **hub)
    except LocalEntryNotFoundError as error:
        if hub.get("local_files_only"):
            message, remedy = f"{name}: is not in the hub's cache", "fetch it first, or give a folder"
            raise ModelError(message, code="not_found", remedy=remedy) from error
        message, remedy = f"{name}: the hub cannot be reached", "check the network, or give a folder"
        raise ModelError(message, code="unreachable", remedy=remedy) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: cannot be fetched from the hub: {brief(error)}", code="no_download") from error
    return Path(folder)


def refuse_settings(folder: Path, preset: PresetName | None, overrides: Mapping[str, Any]) -> None:
    """Raises `InputError` for settings that a model cannot follow, as far as its folder tells before it is loaded.

    What its networks alone tell is passed over, and so are damaged files: both show when it is loaded.
    """
    try:
        index, scheduler = read_json(folder / INDEX), read_json(folder / "scheduler" / "scheduler_config.json")
        own = override(Settings(), given_settings(index.get("settings")))
    except XPSRError:
        return
    timesteps = scheduler.get("num_train_timesteps")
    if type(timesteps) is not int:
        return
    facts = ModelFacts(
        num_train_timesteps=timesteps,
        vae_scale_factor=0,  # of which every number is a divisor
        tile_multiple=1,
        has_one_step=index.get("one_step_timestep") is not None,
        has_several_steps=not index.get("one_step_only"),
        has_fidelity=True,
    )
    resolve_settings(own if preset is None else preset_settings(preset), overrides, facts)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file of at most `MAX_CONFIG_BYTES`.

    Raises:
        ModelError: it is missing, cannot be read, too large, or holds something else.
    """
    check_file(path, MAX_CONFIG_BYTES)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is not JSON ({brief(error)})") from error
    if not isinstance(content, dict):
        raise damaged(path, "holds no JSON object")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """Returns the config of a network or scheduler, whose numbers are within `MAX_CONFIG_NUMBER`.

    Raises:
        ModelError: as `read_json`, or it holds what would fetch, import or quantize something.
    """
    config = read_json(path)
    for key in _ACTING_KEYS:
        if config.get(key) is not None:
            message, remedy = f"{path}: {key} is not for models of xpsr", "remove it there"
            raise ModelError(message, code="unknown_field", remedy=remedy)
    for key, value in config.items():
        for number in _numbers(value):
            if not (abs(number) <= MAX_CONFIG_NUMBER or math.isinf(number)):  # a range of schedulers may be open
                raise damaged(path, f"{key} holds {number:.4g}, beyond the limit of {MAX_CONFIG_NUMBER}")
    return config


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def check_file(path: Path, limit: int | None = None) -> None:
    """Raises `ModelError` where `path` is no regular file of 1 to `limit` bytes."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        problem = "is a link to nothing" if path.is_symlink() else "is missing"
        raise damaged(path, problem, code="not_found") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not path.is_file():
        raise damaged(path, "is a folder, not a file" if path.is_dir() else "is no regular file")
    if size == 0:
        raise damaged(path, "is empty")
    if limit is not None and size > limit:
        raise damaged(path, f"has {size} bytes, more than the limit of {limit}")


def checksums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every weight file of a model's parts, which may be links, by relative path."""
    files = sorted(path for path in folder.glob("*/*.safetensors") if path.is_file())  # no device or broken link
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def write_checksums(folder: Path) -> None:
    """Writes the digests of a folder's weights to its `checksums.json`."""
    (folder / CHECKSUMS).write_text(json.dumps(checksums(folder), indent=2) + "\n", encoding="utf-8")


def verify_checksums(folder: Path, files: Iterable[Path]) -> None:
    """Compares those of a folder's `files` that its `checksums.json` names, if it has one, with what it says of them.

    Raises:
        ModelError: a file differs.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return
    expected = read_json(path)
    if not all(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in expected.values()):
        raise damaged(path, "holds what is no SHA-256")
    for file in files:
        named = expected.get(file.relative_to(folder).as_posix())
        if named is not None and file.is_file() and digest(file) != named:
            message = f"{file}: is not what {CHECKSUMS} says: damaged, or changed"
            remedy = f"{again(folder)}, or remove {CHECKSUMS} if it was changed on purpose"
            raise ModelError(message, code="damaged", remedy=remedy)


def damaged(path: Path, problem: str, *, code: str = "damaged") -> ModelError:
    """Returns the error to raise for a file of a model, with a remedy that fits where it lies."""
    return ModelError(f"{path}: {problem}", code=code, remedy=again(path))


def again(path: Path) -> str:
    """Returns how to have a file of a model anew."""
    return "install xpsr again" if Path(__file__).parent in path.parents else "copy or download it again"


def unreadable(path: Path, error: OSError) -> ModelError:
    """Returns the error to raise for a file of a model that the system does not let read."""
    if isinstance(error, PermissionError):
        return ModelError(f"{path}: cannot be read ({brief(error)})", code="damaged", remedy="check its permissions")
    return damaged(path, f"cannot be read ({brief(error)})")
