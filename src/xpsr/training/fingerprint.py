"""What a run is known by: what may not change between its start and its going on."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from xpsr.config import TrainRunConfig, as_dict
from xpsr.training.components import Components

__all__ = ["difference", "fingerprint"]

_LEADING = 4096  # values of each weight that are looked at: another model differs everywhere
# taken over from the checkpoint, since they are measured on pictures, which may have become more
_MEASURED = {"latents_mean", "latents_std"}
_ABOUT_FILES = {"dtype", "torch_dtype", "transformers_version", "architectures"}


def fingerprint(config: TrainRunConfig, components: Components) -> dict[str, Any]:
    """Returns JSON-ready values by name: architectures, schedule, parts, seed, and digests of what is frozen.

    To be called once the trained parts are chosen, before weights are sharded.
    """
    found: dict[str, Any] = {
        "train.seed": config.train.seed,
        "model.one_step_timestep": config.model.one_step_timestep,
        "model.one_step_residual": config.model.is_residual,
    }
    found |= {f"parts.{name}": value for name, value in as_dict(config.parts).items()}
    for name in ("vae", "text_encoder", "unet", "controlnet", "scheduler"):
        settings = getattr(components, name).config
        settings = settings.to_dict() if hasattr(settings, "to_dict") else dict(settings)
        kept = {k: v for k, v in settings.items() if not k.startswith("_") and k not in _MEASURED | _ABOUT_FILES}
        found |= {f"{name}.{key}": value for key, value in kept.items()}
    words = json.dumps(components.tokenizer.get_vocab(), sort_keys=True)
    found["the tokenizer's vocabulary"] = hashlib.blake2b(words.encode(), digest_size=8).hexdigest()
    found["frozen weights"] = _digest_of_frozen(components)
    return json.loads(json.dumps(found, default=str))


def difference(now: Mapping[str, Any], then: Mapping[str, Any]) -> str | None:
    """Returns the first thing that is not as it was, in words; names that only one of them knows do not count."""
    for name in then:
        if name in now and now[name] != then[name]:
            return f"{name} is {now[name]}, that run's is {then[name]}"
    return None


def _digest_of_frozen(components: Components) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in ("vae", "text_encoder", "unet", "controlnet"):
        for name, parameter in getattr(components, part).named_parameters():
            if not parameter.requires_grad:
                # large ones may be kept in half precision
                values = parameter.detach().flatten()[:_LEADING].to("cpu", torch.float16)
                digest.update(f"{part}.{name}".encode() + values.numpy().tobytes())
    return digest.hexdigest()
