"""A model's folder: its files are read and checked before anything is built of them.

Every fault is a `ModelError` that names the file and what to do. Nothing in a folder chooses what is imported or how
much memory is taken: classes stand in `CLASSES`, and a network is built only where its weights are about as many as its
config says.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin
from safetensors import SafetensorError, safe_open
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from xpsr.config import suggest
from xpsr.errors import ModelError, XPSRError, brief
from xpsr.model_files import INDEX, again, check_file, damaged, read_config, read_json, unreadable, write_checksums
from xpsr.models import HAAR_AUTOENCODERS, XPSRControlNet, XPSRUNet

__all__ = [
    "check_network",
    "finish_saving",
    "loading",
    "on_meta",
    "read_index",
    "variant_there",
    "weight_files",
]

CLASSES: dict[str, dict[tuple[str, str], Any]] = {
    "vae": {("diffusers", "AutoencoderKL"): AutoencoderKL}
    | {("xpsr.models", name): kind for name, kind in HAAR_AUTOENCODERS.items()},
    "text_encoder": {("transformers", "CLIPTextModel"): CLIPTextModel},
    "tokenizer": {
        ("transformers", "CLIPTokenizer"): CLIPTokenizer,
        ("transformers", "CLIPTokenizerFast"): CLIPTokenizer,  # until transformers 5
    },
    "unet": {("xpsr.models", "XPSRUNet"): XPSRUNet},
    "controlnet": {("xpsr.models", "XPSRControlNet"): XPSRControlNet},
}

# Of a model's index, beside its components
_OWN_KEYS = ("one_step_timestep", "one_step_residual", "one_step_only", "scale", "settings")

_COUNTS = ("num_batches_tracked", "position_ids")  # what networks count with, stored as whole numbers
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


def read_index(folder: Path, *, pipeline: str = "XPSRPipeline") -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what a folder's `model_index.json` says beside its components, and the class of each component.

    Raises:
        ModelError: it is damaged, of another pipeline, or names classes that are none of a model of xpsr.
    """
    path = folder / INDEX
    index = read_json(path)
    kind = index.get("_class_name")
    if kind not in ("XPSRPipeline", pipeline):
        shown = kind if isinstance(kind, str) and re.fullmatch(r"\w{1,80}", kind) else "no pipeline that xpsr knows"
        if shown.startswith("StableDiffusion"):
            remedy = "make a model with it: xpsr convert ... --base, or xpsr train with model.base"
        else:
            remedy = "give a model of xpsr, as xpsr train and xpsr convert write it"
        raise ModelError(f"{path}: holds {shown}, not XPSRPipeline", code="unknown_format", remedy=remedy)
    classes: dict[str, Any] = {}
    for name, known in {**CLASSES, "scheduler": {}}.items():
        entry = index.pop(name, None)
        if entry is None:
            raise damaged(path, f"names no {name}")
        named = tuple(entry) if isinstance(entry, list) else ()
        if len(named) != 2 or not all(isinstance(part, str) for part in named):
            raise damaged(path, f"{name} is not a library and a class")
        found = _scheduler_class(*named) if name == "scheduler" else known.get(named)
        if found is None:
            wanted = " or ".join(kind for _, kind in known) or "a scheduler of diffusers"
            raise damaged(path, f"{name} is {' '.join(named)[:80]}, not {wanted}")
        classes[name] = found
    others = [key for key in index if key[:1] != "_" and key not in _OWN_KEYS]
    if others:
        nearest = suggest(others[0], list(_OWN_KEYS)).removeprefix("; ")
        message = f"{path}: holds {others[0]!r}, which is no part of a model of xpsr"
        raise ModelError(message, code="unknown_field", remedy=nearest or again(path))
    if not isinstance(index.get("settings"), dict | None):
        raise damaged(path, "settings are no JSON object")
    return index, classes


def _scheduler_class(library: str, name: str) -> type[SchedulerMixin] | None:
    if library != "diffusers" or not re.fullmatch(r"\w+Scheduler", name):
        return None
    found = getattr(diffusers, name, None)
    return found if isinstance(found, type) and issubclass(found, SchedulerMixin) else None


def check_network(kind: Any, folder: Path, *, variant: str | None = None) -> None:
    """Compares a network's config with the headers of its weights, before memory is taken for either.

    The names are compared where they are loaded: libraries still read those of earlier versions.

    Raises:
        ModelError: a file is missing or damaged, or the config describes a network of another size.
    """
    files = weight_files(kind, folder, variant)
    adapter = folder / "adapter_config.json"
    if adapter.exists():  # transformers would load the model that it names
        message, remedy = f"{adapter}: an adapter, not a whole network", "give a model that it was merged into"
        raise ModelError(message, code="unknown_format", remedy=remedy)
    path = folder / "config.json"
    config = read_config(path)
    tensors: dict[str, int] = {}
    for file in files:
        tensors |= _elements(file)
    if kind in (XPSRUNet, XPSRControlNet, *HAAR_AUTOENCODERS.values()):
        known = inspect.signature(kind).parameters
        unknown = [key for key in config if key[:1] != "_" and key not in known]
        if unknown:
            nearest = suggest(unknown[0], list(known)).removeprefix("; ")
            message = f"{path}: holds {unknown[0]!r}, which {kind.__name__} does not know"
            raise ModelError(message, code="unknown_field", remedy=nearest or again(path))
    make = _text_encoder if kind is CLIPTextModel else kind.from_config
    network = on_meta(path, make, config, most_calls=1000 + 20 * len(tensors))
    described, stored = sum(tensor.numel() for tensor in network.state_dict().values()), sum(tensors.values())
    if described > 2 * stored + 10**6:
        raise damaged(path, f"describes {described} weights, but the files beside it hold {stored}", code="mismatch")


def _text_encoder(config: dict[str, Any]) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig.from_dict(config))


def variant_there(kind: Any, folder: Path, variant: str | None) -> str | None:
    """Returns `variant` if a network's folder has it, or else None: as upstream, its plain files are taken."""
    return variant if any(path.is_file() for path in _stored(kind, folder, variant)) else None


def _stored(kind: Any, folder: Path, variant: str | None) -> tuple[Path, Path]:
    """Where all of a network's weights are, or the index of its shards."""
    stem, middle = _stem(kind), "" if variant is None else f".{variant}"
    return folder / f"{stem}{middle}.safetensors", folder / f"{stem}.safetensors.index{middle}.json"


def _stem(kind: Any) -> str:
    return "model" if kind is CLIPTextModel else "diffusion_pytorch_model"


def weight_files(kind: Any, folder: Path, variant: str | None = None) -> list[Path]:
    """Returns the files that a network in `folder` is loaded from; the one of a variant or a shard may not be there.

    Raises:
        ModelError: there is no such folder, an index is damaged, or all there is are pickles or other variants.
    """
    if not folder.is_dir():
        raise damaged(folder, "is a file, not a folder" if folder.is_file() else "is missing", code="not_found")
    single, index = _stored(kind, folder, variant)
    if index.is_file() and not (kind is CLIPTextModel and single.exists()):  # transformers looks there first
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
            raise damaged(index, "has no weight_map of tensors to files")
        names = sorted(set(files.values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise damaged(index, f"names {outside[0][:80]!r}, which is not beside it")
        return [folder / name for name in names]
    if not single.exists():
        pickled = [path for path in sorted(folder.iterdir()) if path.suffix in _PICKLES]
        if pickled:
            message, remedy = f"{pickled[0]}: a pickle, which may run code", "get the model as .safetensors"
            raise ModelError(message, code="unknown_format", remedy=remedy)
        others = [path.name for path in sorted(folder.glob(f"{_stem(kind)}.*.safetensors"))]
        if variant is None and others:
            found = others[0].removesuffix(".safetensors").split(".", 1)[1]
            own, shard = re.subn(r"-\d{5}-of-\d{5}$", "", found)
            remedy = f"give variant='{own}'" + ("" if shard else f", or rename that to {single.name}")
            message = f"{single}: is missing, but {others[0]} is there"
            raise ModelError(message, code="not_found", remedy=remedy)
    return [single]


def _elements(path: Path) -> dict[str, int]:
    """How many numbers each tensor of a file holds, by its header."""
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            kinds = {part.get_dtype() for name, part in found.items() if name.rpartition(".")[2] not in _COUNTS}
            elements = {name: math.prod(part.get_shape()) for name, part in found.items()}
    except OSError as error:
        raise unreadable(path, error) from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise damaged(path, f"is cut off or damaged ({brief(error)})") from error
    others = sorted(kind for kind in kinds if "F" not in kind)
    if others:
        raise damaged(path, f"holds weights of type {others[0]}, not floating-point numbers")
    return elements


class _Counting(TorchFunctionMode):
    """Ends what calls torch more than so many times, as a network of endless layers would."""

    def __init__(self, most: int):
        super().__init__()
        self.left = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _TooMany
        return func(*args, **(kwargs or {}))


class _TooMany(Exception):
    pass


def on_meta(source: Path, make: Callable[[Any], Any], config: Any, *, most_calls: int = 100_000) -> Any:
    """Returns what `make` makes of a config, its tensors without memory.

    Raises:
        ModelError: whatever the config makes a library raise, or it describes endless layers.
    """
    try:
        with loading(source), torch.device("meta"), _Counting(most_calls):
            return make(config)
    except _TooMany as error:
        raise damaged(source, "describes far more layers than there are weights", code="mismatch") from error


@contextmanager
def loading(source: Path) -> Iterator[None]:
    """Turns what libraries raise while they make something of `source` into a `ModelError` that names it.

    It may be anything: a config of the wrong types fails wherever it is first used.
    """
    try:
        yield
    except (XPSRError, _TooMany, MemoryError):
        raise
    except Exception as error:
        raise damaged(source, f"cannot be used: {brief(error)}") from error


def finish_saving(folder: Path) -> None:
    """Writes the checksums of a model that was saved, perhaps over another.

    Libraries take away shards of before, but neither their index nor a whole file: the older of the two is removed.
    """
    for index in folder.glob("*/*.safetensors.index*.json"):
        stem, middle = re.fullmatch(r"(.*)\.safetensors\.index(.*)\.json", index.name).groups()  # type: ignore[union-attr]
        single = index.with_name(f"{stem}{middle}.safetensors")
        if single.is_file():
            min(single, index, key=lambda path: path.stat().st_mtime_ns).unlink()
    write_checksums(folder)
