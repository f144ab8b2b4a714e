"""Conversion: from the reference's checkpoints to a model folder, and back.

No network is made: tensors stay mapped from their files until they are written, shard by shard.
"""

import contextlib
import dataclasses
import inspect
import json
import logging
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, ModelMixin
from diffusers import __version__ as diffusers_version
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from xpsr.checkpoint import (
    StateDict,
    controlnet_from_reference,
    controlnet_to_reference,
    listed,
    load_tokenizer,
    refuse_mismatch,
    try_scheduler,
    unet_from_reference,
    unet_to_reference,
)
from xpsr.config import PRESETS
from xpsr.errors import InputError, ModelError, brief
from xpsr.files import refuse_used, whole_folder
from xpsr.model_files import check_file, damaged, download, fetch_model, read_config, read_json, write_checksums
from xpsr.model_folder import loading, on_meta
from xpsr.models import XPSRControlNet, XPSRUNet

__all__ = ["convert_reference", "convert_to_reference", "load_reference"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """One of the two networks in the reference's layout."""

    kind: type[ModelMixin]
    class_name: str
    flags: dict[str, Any]  # beyond diffusers' config, with the only values that XPSR is trained with
    later: dict[str, Any]  # what the reference's config does not know yet, with the values that it works as
    from_reference: Callable[[StateDict], dict[str, torch.Tensor]]
    to_reference: Callable[[StateDict], dict[str, torch.Tensor]]


_GIVE_REFERENCE = "give a folder with the reference's unet/ and controlnet/"

_LAYOUTS = {
    "unet": _Layout(
        kind=XPSRUNet,
        class_name="UNet2DConditionModel",
        flags={f"{where}_use_lowlevel_prompt": False for where in ("down", "mid")}
        | {"up_use_lowlevel_prompt": [False] * 4},
        later={"conditional_attention_window": None, "dropout": 0.0, "reverse_transformer_layers_per_block": None},
        from_reference=unet_from_reference,
        to_reference=unet_to_reference,
    ),
    "controlnet": _Layout(
        kind=XPSRControlNet,
        class_name="ControlNetModel",
        flags={"return_rgbs": True, "use_latent_pred": True, "use_lowlevel_prompt": True, "use_rrdb": False},
        later={"mid_block_type": "UNetMidBlock2DCrossAttn", "semantic_fusion": True},
        from_reference=controlnet_from_reference,
        to_reference=controlnet_to_reference,
    ),
}


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A network of a model folder; its weights are still where they were read."""

    name: str
    config: dict[str, Any]
    state: StateDict
    stem: str = "diffusion_pytorch_model"


def load_reference(folder: Path) -> tuple[XPSRUNet, XPSRControlNet]:
    """Loads both networks of a reference checkpoint, `folder/unet` and `folder/controlnet`.

    Raises:
        ModelError: a file is missing or damaged, or weights do not match the config.
    """
    networks: list[Any] = []
    for name, layout in _LAYOUTS.items():
        part = _read_reference(folder, name)
        network = layout.kind.from_config(part.config)
        network.load_state_dict(part.state)
        networks.append(network.eval())
    return networks[0], networks[1]


def convert_reference(
    reference: Path,
    out: Path,
    *,
    base: str | Path,
    tokenizer: Path | None = None,
    config: Path | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "2GB",
) -> None:
    """Writes a model folder for `XPSRPipeline.from_pretrained`, whole or not at all.

    Args:
        reference: a checkpoint of the reference, with `unet/` and `controlnet/`.
        out: the new folder; it must not exist, or be empty.
        base: the Stable Diffusion that the reference was trained on, which gives VAE, text encoder, tokenizer and
            scheduler: a folder of diffusers' layout, `owner/name` on the hub, or one .safetensors or .ckpt file of
            LDM's layout.
        tokenizer: a folder with CLIP's vocabulary, instead of the base's; one file holds none.
        config: a folder with `vae/config.json`, `text_encoder/config.json` and, if wanted,
            `scheduler/scheduler_config.json`, for a base in one file whose sizes its tensors do not tell.
        dtype: of the written weights; None: as they are stored.
        max_shard_size: of a weight file, such as "2GB".

    Raises:
        InputError: `out` is in use, or an argument does not fit.
        ModelError: a file is missing or damaged, weights do not match their config to the last key (listed), or the
            base does not fit the reference.
    """
    if not re.fullmatch(r"\d+(\.\d+)?[KMGT]B", max_shard_size):
        value, remedy = repr(max_shard_size), "use 2GB, for example"
        raise InputError("is not a size", code="wrong_type", field="max_shard_size", value=value, remedy=remedy)
    refuse_used(out)
    if not reference.is_dir():
        fault = "is a file, not a folder" if reference.exists() else "no such folder"
        raise ModelError(f"{reference}: {fault}", code="not_found", remedy=_GIVE_REFERENCE)
    parts = [_read_reference(reference, name) for name in _LAYOUTS]
    extra, scheduler, tokenizer = _read_base(
        base, config=config, tokenizer=tokenizer, latent_size=parts[0].config["sample_size"]
    )
    _refuse_misfits(reference, base, tokenizer, *(part.config for part in (*parts, *extra)))
    known = inspect.signature(DDPMScheduler).parameters  # the reference reads whatever the base has as DDPM's
    with loading(Path(base) / "scheduler" / "scheduler_config.json"):
        sampler = try_scheduler(
            DDPMScheduler.from_config({key: value for key, value in scheduler.items() if key in known})
        )
    parts += extra
    del extra
    with whole_folder(out) as target, _writing(out):
        while parts:  # what is written is let go, and its memory with it
            _write_part(target, parts.pop(0), dtype=dtype, max_shard_size=max_shard_size)
        sampler.save_config(target / "scheduler")
        (target / "tokenizer").mkdir()
        for path in (*tokenizer.glob("*.json"), *tokenizer.glob("*.txt")):
            shutil.copyfile(path, target / "tokenizer" / path.name)
        index = {
            "_class_name": "XPSRPipeline",
            "_diffusers_version": diffusers_version,
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["xpsr.models", "XPSRUNet"],
            "controlnet": ["xpsr.models", "XPSRControlNet"],
            "scheduler": ["diffusers", "DDPMScheduler"],
            "one_step_timestep": None,
            "one_step_residual": False,
            "one_step_only": False,
            "scale": 4.0,
            "settings": dataclasses.asdict(PRESETS["default"]),
        }
        _write_json(target / "model_index.json", index)
        write_checksums(target)


def convert_to_reference(model: str | Path, out: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes a model's networks in the reference's layout, `out/unet` and `out/controlnet`, whole or not at all.

    `model` is what `fetch_model` takes; `out` and `dtype` are as above.

    Raises:
        InputError: `out` is in use.
        ModelError: the model cannot be read, or the reference has no such network.
    """
    refuse_used(out)
    source = fetch_model(str(model))
    parts = []
    for name, layout in _LAYOUTS.items():
        folder = source / name
        config = read_config(folder / "config.json")
        for key, only in layout.later.items():
            if config.pop(key, only) != only:
                message = f"{folder}: the reference has no {key}, so it cannot represent this model."
                raise ModelError(message, code="mismatch")
        network = on_meta(folder / "config.json", layout.kind.from_config, config)
        state = _read_weights(folder, "diffusion_pytorch_model")
        _compare(folder, state, network.state_dict())
        for key, value in state.items():
            block = re.match(r"up_blocks\.(\d+)\.conditional_attentions\..*\.attn2\.to_k\.weight", key)
            if (
                block
                and network.config["up_block_types"][int(block[1])] == "UpBlock2D"
                and value.shape[0] != value.shape[1]
            ):
                message = f"{folder}: the reference has no UpBlock2D that reads skips of another width ({key})."
                raise ModelError(message, code="mismatch")
        config = {**config, **layout.flags, "_class_name": layout.class_name}
        parts.append(_Part(name=name, config=config, state=layout.to_reference(state)))
    with whole_folder(out) as target, _writing(out):
        while parts:
            _write_part(target, parts.pop(0), dtype=dtype, max_shard_size=sys.maxsize)  # it knows no shards


def _read_base(
    base: str | Path, *, config: Path | None, tokenizer: Path | None, latent_size: int | None
) -> tuple[list[_Part], dict[str, Any], Path]:
    """VAE and text encoder of a Stable Diffusion, its scheduler's config, and where the tokenizer lies."""
    if Path(base).is_file():
        if tokenizer is None:
            message, remedy = f"{base}: one file holds no tokenizer", "give a folder with CLIP's (--tokenizer)"
            raise InputError(message, code="not_found", remedy=remedy)
        return *_read_single_file(Path(base), config, tokenizer, latent_size=latent_size), tokenizer
    if config is not None:
        message = f"{base}: no file, but a config is for a base in one file"
        raise InputError(message, code="conflict", remedy="leave it out")
    folder = _fetch_base(str(base))
    parts = [_read_vae(folder / "vae"), _read_text_encoder(folder / "text_encoder")]
    return parts, read_config(folder / "scheduler" / "scheduler_config.json"), tokenizer or folder / "tokenizer"


def _refuse_misfits(
    reference: Path,
    base: str | Path,
    tokenizer: Path,
    unet: dict[str, Any],
    controlnet: dict[str, Any],
    vae: dict[str, Any],
    text_encoder: dict[str, Any],
) -> None:
    """Raises `ModelError` where the base is of other sizes than the one that the reference was trained on."""
    halvings = len(controlnet["conditioning_embedding_out_channels"]) - 1
    for what, found, needed in (
        ("width of the text encoder (hidden_size)", text_encoder["hidden_size"], unet["cross_attention_dim"]),
        ("number of the VAE's latent_channels", vae["latent_channels"], unet["in_channels"]),
        ("VAE's reduction", 2 ** (len(vae["block_out_channels"]) - 1), 2**halvings),
    ):
        if found != needed:
            message = f"{base}: the {what} is {found}, but {reference} was trained with {needed}"
            raise ModelError(message, code="mismatch", remedy="give the Stable Diffusion that it was trained on")
    vocabulary = len(load_tokenizer(tokenizer))
    if vocabulary != text_encoder["vocab_size"]:
        message = f"{tokenizer}: {vocabulary} tokens, but the text encoder knows {text_encoder['vocab_size']}"
        raise ModelError(message, code="mismatch", remedy="give its own")


def _fetch_base(base: str) -> Path:
    """The folder of a Stable Diffusion in diffusers' layout; of one on the hub, what XPSR takes from it."""
    if base and Path(base).is_dir():
        return Path(base)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or Path(base).parent.is_dir():
        remedy = "give a folder or one file of Stable Diffusion 1.5, or owner/name on the hub"
        raise ModelError(f"{base}: no such base", code="not_found", remedy=remedy)
    weights = ("vae/diffusion_pytorch_model", "text_encoder/model")
    patterns = [f"{stem}{rest}" for stem in weights for rest in (".safetensors*", "-*.safetensors")]
    return download(base, [*patterns, "*/config.json", "tokenizer/*", "scheduler/*"])


def _read_reference(reference: Path, name: str) -> _Part:
    """A network of a reference checkpoint under our names, its weights compared with its config."""
    layout, folder = _LAYOUTS[name], reference / name
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json there", code="not_found", remedy=_GIVE_REFERENCE)
    config = read_config(folder / "config.json")
    for flag, only in layout.flags.items():
        value = config.pop(flag, only)
        if value != only and (any(value) if isinstance(value, list) else value) != (only is True):
            reason = f"{flag} is {json.dumps(value)}, but XPSR is trained with {json.dumps(only)}"
            remedy = "weights of another architecture cannot be converted"
            raise ModelError(f"{folder}: {reason}", code="mismatch", remedy=remedy)
    unknown = [key for key in config if key[:1] != "_" and key not in inspect.signature(layout.kind).parameters]
    if unknown:
        message = f"{folder}: config.json holds {listed(unknown)}, which {layout.kind.__name__} does not know"
        raise ModelError(message, code="unknown_field", remedy="delete there what changes nothing")
    network = on_meta(folder / "config.json", layout.kind.from_config, config)
    state = _read_weights(folder, "diffusion_pytorch_model")
    _compare(folder, state, layout.to_reference(network.state_dict()))
    config = {**json.loads(network.to_json_string()), **config, "_class_name": layout.kind.__name__}
    return _Part(name=name, config=config, state=layout.from_reference(state))


def _read_vae(folder: Path) -> _Part:
    path = folder / "config.json"
    network = on_meta(path, AutoencoderKL.from_config, read_config(path))
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # until diffusers 0.17
    state = {
        re.sub(r"\.(query|key|value|proj_attn)\.", lambda match: f".{names[match[1]]}.", key): value
        for key, value in _read_weights(folder, "diffusion_pytorch_model").items()
    }
    _compare(folder, state, network.state_dict())
    return _Part(name="vae", config=json.loads(network.to_json_string()), state=state)


def _read_text_encoder(folder: Path) -> _Part:
    config = read_config(folder / "config.json")
    return _text_encoder(folder, config, _read_weights(folder, "model", pickled="pytorch_model"))


def _text_encoder(source: Path, config: dict[str, Any], stored: StateDict) -> _Part:
    state = {key.removeprefix("text_model."): value for key, value in stored.items()}  # until transformers 5
    state.pop("embeddings.position_ids", None)  # 0, 1, 2, …, until transformers 4.31
    full = on_meta(source, CLIPTextConfig.from_dict, config)
    full.architectures = ["CLIPTextModel"]
    _compare(source, state, on_meta(source, CLIPTextModel, full).state_dict())
    return _Part(name="text_encoder", config=json.loads(full.to_json_string()), state=state, stem="model")


def _read_single_file(
    path: Path, config: Path | None, tokenizer: Path, *, latent_size: int | None
) -> tuple[list[_Part], dict[str, Any]]:
    """VAE and text encoder, and the scheduler's config, of a Stable Diffusion in one file of LDM's layout.

    Configs that are not given follow from the tensors' shapes and, where those do not tell, Stable Diffusion 1's
    conventions.
    """
    stored = _read_file(path)
    vae, text = (
        {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
        for prefix in ("first_stage_model.", "cond_stage_model.transformer.")
    )
    scheduler: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler |= {"num_train_timesteps": 1000, "steps_offset": 1, "clip_sample": False}
    if "betas" in stored:
        usual, betas = DDPMScheduler(**scheduler).betas, stored["betas"].float()
        if betas.shape != usual.shape or not torch.allclose(betas, usual, rtol=1e-3):  # half precision is that coarse
            scheduler |= {"num_train_timesteps": len(betas), "trained_betas": betas.tolist()}
    if config is not None:
        vae_config, text_config = (read_config(config / name / "config.json") for name in ("vae", "text_encoder"))
        if (config / "scheduler").is_dir():
            scheduler = read_config(config / "scheduler" / "scheduler_config.json")
    else:
        try:
            vae_config, text_config = _infer_vae_config(vae), _infer_text_config(text)
        except KeyError as error:
            message, remedy = f"{path}: no {error.args[0]} there", "give a whole Stable Diffusion 1.5 in LDM's layout"
            raise ModelError(message, code="unknown_format", remedy=remedy) from error
        except ValueError as error:
            remedy = "give a folder with its vae/config.json and text_encoder/config.json (--config)"
            raise ModelError(f"{path}: {error}", code="unknown_format", remedy=remedy) from error
        if latent_size is not None:  # of which diffusers makes the VAE's tiles
            vae_config["sample_size"] = latent_size * 2 ** (len(vae_config["block_out_channels"]) - 1)
        scale = stored.get("scale_factor", torch.tensor(0.18215))
        vae_config["scaling_factor"] = float(f"{scale.item():.6g}")  # not 0.1821500062942505
        vocabulary = load_tokenizer(tokenizer)
        text_config |= {f"{name}_token_id": getattr(vocabulary, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    network = on_meta(path, AutoencoderKL.from_config, vae_config)
    converted = convert_ldm_vae_checkpoint(vae, vae_config)
    kept = {value.data_ptr() for value in converted.values()}  # upstream drops in silence what it does not know
    unknown = {key: value for key, value in vae.items() if value.data_ptr() not in kept}
    _compare(path, {**converted, **unknown}, network.state_dict())
    part = _Part(name="vae", config=json.loads(network.to_json_string()), state=converted)
    return [part, _text_encoder(path, text_config, text)], scheduler


def _infer_vae_config(state: StateDict) -> dict[str, Any]:
    found = [re.fullmatch(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", key) for key in state]
    blocks = {(int(match[1]), int(match[2])): len(state[match[0]]) for match in found if match}
    widths = [blocks[level, block] for level, block in sorted(blocks) if block == 0]
    if any(width % 32 for width in widths):
        raise ValueError(f"{widths} channels in the VAE are no multiples of LDM's 32 groups a norm")
    return {
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        "out_channels": len(state["decoder.conv_out.weight"]),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": sum(level == 0 for level, _ in blocks),
        "norm_num_groups": 32,
    }


def _infer_text_config(state: StateDict) -> dict[str, Any]:
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    vocabulary, width = state["embeddings.token_embedding.weight"].shape
    if width % 64:
        raise ValueError(f"{width} channels in the text encoder are no multiple of CLIP's 64 a head")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "max_position_embeddings": len(state["embeddings.position_embedding.weight"]),
        "intermediate_size": len(state["encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": len({key.split(".")[2] for key in state if key.startswith("encoder.layers.")}),
    }


def _read_weights(folder: Path, stem: str, *, pickled: str | None = None) -> dict[str, torch.Tensor]:
    """All tensors of a network, of one file or of shards; safetensors go before pickles."""
    names = [f"{stem}.safetensors", f"{pickled or stem}.bin"]
    for name in names:
        if (folder / name).is_file():
            return _read_file(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            files = read_json(index).get("weight_map")
            if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
                raise damaged(index, "has no weight_map of tensors to files")
            shards = [_read_file(folder / Path(file).name) for file in sorted(set(files.values()))]
            return {key: value for shard in shards for key, value in shard.items()}
    message = f"{folder}: neither {names[0]} nor {names[1]} there, nor an index of shards"
    raise ModelError(message, code="not_found", remedy="fetch it again")


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a file, mapped into memory. Pickles are read as tensors only: nothing in them is run."""
    check_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise damaged(path, f"cannot be read: {brief(error)}") from error
    try:
        # those of torch before 1.6 are no zip files, and cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        content = content.get("state_dict", content)
        return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # whatever a pickle of anything raises; torch's words recommend to run it
        message = f"{path}: a damaged pickle, or more than tensors in it"
        raise ModelError(message, code="damaged", remedy="give it as .safetensors") from error


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Says in our words what the library that writes weights says of a disk."""
    try:
        yield
    except SafetensorError as error:
        message = f"{out}: cannot be written: {brief(error)}"
        raise InputError(message, code="refused", remedy="make room or choose another") from error


def _write_part(folder: Path, part: _Part, *, dtype: torch.dtype | None, max_shard_size: str | int) -> None:
    target = folder / part.name
    target.mkdir()
    _write_json(target / "config.json", part.config)
    sizes = {
        key: torch.empty(value.shape, dtype=dtype or value.dtype, device="meta") for key, value in part.state.items()
    }
    plan = split_torch_state_dict_into_shards(
        sizes, filename_pattern=f"{part.stem}{{suffix}}.safetensors", max_shard_size=max_shard_size
    )
    for file, keys in plan.filename_to_tensors.items():
        shard = {key: part.state[key].to(sizes[key].dtype).contiguous() for key in keys}
        lost = [key for key in keys if dtype is torch.float16 and not shard[key].isfinite().all()]
        if lost:
            message = f"{part.name}: {listed(lost)} too large for float16"
            raise InputError(message, code="out_of_range", remedy="use bfloat16 or float32")
        save_file(shard, target / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(target / f"{part.stem}.safetensors.index.json", index)
    logger.info("%s: %d tensors, files: %d", part.name, len(part.state), len(plan.filename_to_tensors))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _compare(source: Path, state: StateDict, expected: StateDict) -> None:
    misshapen = [key for key in state.keys() & expected.keys() if state[key].shape != expected[key].shape]
    refuse_mismatch(str(source), expected.keys() - state.keys(), state.keys() - expected.keys(), misshapen)
