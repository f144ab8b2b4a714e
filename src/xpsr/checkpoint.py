"""Weights: the reference's names and ours, and strict loading of a model's parts.

The reference stores what we call `attentions.N.content`, `.quality` and `.fusion` as `attentions.N`,
`attentions_lowlevel.N` and `attentions_connect.N`; `conditional_attentions` as `pixel_attentions`; `image_encoder` as
`controlnet_cond_embedding` with `to_rgbs`; and `to_latents` as `conv_degradation`, the last of them apart.
"""

import copy
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin, SchedulerMixin
from transformers import CLIPTokenizer

from xpsr.errors import ModelError
from xpsr.model_files import MAX_CONFIG_BYTES, again, check_file, damaged, read_config
from xpsr.model_folder import check_network, loading, variant_there

__all__ = [
    "StateDict",
    "controlnet_from_reference",
    "controlnet_to_reference",
    "listed",
    "load_scheduler",
    "load_strict",
    "load_tokenizer",
    "refuse_mismatch",
    "try_scheduler",
    "unet_from_reference",
    "unet_to_reference",
]

Network = TypeVar("Network", bound=ModelMixin)
StateDict = Mapping[str, torch.Tensor]

_MOST_NAMED = 8
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

    Where there are none of `variant`, the plain ones are taken.

    Raises:
        ModelError: a file is missing or damaged, or keys are missing, unexpected or of another shape (listed).
    """
    folder = Path(source, subfolder)
    variant = variant_there(kind, folder, variant)
    check_network(kind, folder, variant=variant)
    with loading(folder):
        model, info = kind.from_pretrained(
            str(source),
            subfolder=subfolder,
            use_safetensors=True,  # upstream would fall back to a pickle
            ignore_mismatched_sizes=True,  # or upstream stops at the first; all are refused below
            output_loading_info=True,
            dtype=dtype,
            variant=variant,
            local_files_only=True,
        )
    misshapen = [key for key, *_ in info["mismatched_keys"]]
    refuse_mismatch(str(folder), info["missing_keys"], info["unexpected_keys"], misshapen)
    return model


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads CLIP's tokenizer of a folder; upstream would make one of two words of a folder that holds none.

    Raises:
        ModelError: a file is missing or damaged, or the parts of the vocabulary do not fit.
    """
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        remedy = f"{again(folder)}, or give a folder with CLIP's tokenizer"
        raise ModelError(f"{folder}: neither tokenizer.json nor vocab.json there", code="not_found", remedy=remedy)
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".jinja", ".json", ".txt") or path.name.startswith("."):
            continue  # no file that a tokenizer reads
        if path.suffix == ".json" and path.name != "tokenizer_config.json":
            read_config(path)  # libraries count to the largest number of a vocabulary
        elif path.suffix == ".json" or not path.is_dir():
            check_file(path, MAX_CONFIG_BYTES)
    if not (folder / "tokenizer.json").exists():
        check_file(folder / "merges.txt")
    with loading(folder):
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        vocabulary = tokenizer.get_vocab()
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        first, *_, last = tokenizer("a photo", verbose=False).input_ids
    specials = {"bos": first, "eos": last, "pad": tokenizer.pad_token_id}
    for name, number in specials.items():
        token = getattr(tokenizer, f"{name}_token")
        if number is None or vocabulary.get(token) != number:
            raise damaged(folder, f"the vocabulary has no {name}_token that a text is told with")
    # what is cut off would fall apart into bytes, and every text would be another
    made = {"".join(pair) for pair in model["merges"]} | {*tokenizer.get_added_vocab()}
    unmade = [token for token in vocabulary if token not in made and len(token.removesuffix("</w>")) > 1]
    if unmade:
        raise damaged(folder, f"{len(unmade)} words of the vocabulary are made by no merge, such as {unmade[0][:40]!r}")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise damaged(folder, "the numbers of the vocabulary are not 0, 1, 2, ...")
    return tokenizer


def load_scheduler(kind: type[SchedulerMixin], folder: Path, **changes: Any) -> SchedulerMixin:
    """Loads a scheduler as `kind.from_pretrained` does, and takes a step with it.

    `changes` are of its config.

    Raises:
        ModelError: the config is missing or damaged, or no step can be taken as it says.
    """
    path = folder / "scheduler_config.json"
    read_config(path)
    with loading(path):
        return try_scheduler(kind.from_pretrained(str(folder), local_files_only=True, **changes))


def try_scheduler(scheduler: SchedulerMixin) -> SchedulerMixin:
    """Takes some steps with a copy of a scheduler and returns it; raises whatever its config makes it raise."""
    trial, sample = copy.deepcopy(scheduler), torch.zeros(1, 4, 8, 8)
    trial.set_timesteps(min(4, trial.config.num_train_timesteps))
    with torch.random.fork_rng(devices=[]):  # whoever loads a model has seeded it for something else
        for timestep in trial.timesteps:
            if hasattr(trial, "add_noise"):
                trial.add_noise(sample, sample, timestep[None])
            sample = trial.step(sample, timestep, trial.scale_model_input(sample, timestep)).prev_sample
    if not sample.isfinite().all():
        raise ValueError("its steps give what is not finite")
    return scheduler


def refuse_mismatch(
    name: str, missing: Collection[str], unexpected: Collection[str], misshapen: Collection[str]
) -> None:
    """Raises `ModelError` that lists keys of weights which do not match their config, if there are any."""
    faults = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    found = [f"{fault}: {listed(sorted(keys))}" for fault, keys in faults if keys]
    if found:
        message = f"{name}: the weights do not match the config: {'; '.join(found)}"
        raise ModelError(message, code="mismatch", remedy=again(Path(name)))


def listed(keys: Sequence[str]) -> str:
    """Names the first of `keys` and how many more there are."""
    return ", ".join(keys[:_MOST_NAMED]) + (f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else "")
