"""What a run would take, found out without weights and pictures: on the meta device, a mini on the CPU."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch.utils.flop_counter import FlopCounterMode

from xpsr.config import ModelConfig, TrainRunConfig
from xpsr.data import Batch
from xpsr.errors import ModelError
from xpsr.model_files import read_config, resolve_model
from xpsr.model_folder import loading
from xpsr.models import HAAR_AUTOENCODERS, XPSRControlNet, XPSRUNet
from xpsr.training.components import (
    Components,
    build_components,
    choose_parts,
    with_schedule,
    without_fusion,
)
from xpsr.training.losses import XPSRLoss
from xpsr.training.state import keeps_half

__all__ = ["STABLE_DIFFUSION_1_5", "meta_components", "plan_run"]

_SHARED = {
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
# The configs of Stable Diffusion 1.5's parts, and of the ControlNet on it, beyond the classes' defaults
STABLE_DIFFUSION_1_5: dict[str, dict[str, Any]] = {
    "unet": {
        **_SHARED,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    },
    "controlnet": {**_SHARED, "conditioning_embedding_out_channels": [16, 32, 96, 256]},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "latent_channels": 4,
        "layers_per_block": 2,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder": {
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "max_position_embeddings": 77,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "vocab_size": 49408,
    },
    "scheduler": {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "steps_offset": 1,
    },
}
_KNOWN_BASES = dict.fromkeys(
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"), STABLE_DIFFUSION_1_5
)

# Dense half-precision peaks of the makers' data sheets; float32 (TF32 off) is about a sixteenth of them
_PEAK_FLOPS = {"A100": 312e12, "H100": 989e12}
_UTILISATION = 0.35
_GB = 1e9


def plan_run(config: TrainRunConfig) -> str:
    """Returns parameters, memory and days as a text of some lines.

    Raises:
        InputError: parts that the model does not have, or nothing is trained.
        ModelError: the configs of `model.path` or `model.base` are not here.
    """
    components = meta_components(config)
    choose_parts(components, config.parts, config.effective_loss, seed=0)
    parts = dict(components.trainable()) | ({} if components.vae_parts() else {"vae": components.vae})
    lines = ["parameters, in millions            all   trained"]
    for name, part in [*parts.items(), ("in all", None)]:
        of_it = itertools.chain(*(p.parameters() for p in parts.values())) if part is None else part.parameters()
        counted = [(p.numel(), p.requires_grad) for p in of_it]
        total, trained = sum(n for n, _ in counted), sum(n for n, yes in counted if yes)
        lines.append(f"  {name:28} {total / 1e6:9.2f} {trained / 1e6:9.2f}")

    flops, activations = _measure(config, components)
    memory = _memory(config, components) | {"activations": activations}
    run = config.train
    lines += ["", f"memory of one GPU in GB, {run.batch_size} x {config.data.crop_size} px at once, estimated"]
    lines += [f"  {name:28} {size / _GB:9.2f}" for name, size in memory.items()]
    lines += [f"  {'in all':28} {sum(memory.values()) / _GB:9.2f}"]
    if run.parallel == "fsdp":
        lines += ["  of several GPUs each has its share of all but activations and copies"]

    updates, passes = run.max_steps, run.gradient_accumulation_steps
    per_update = flops * passes
    lines += ["", f"one pass: {flops / 1e12:.2f} TFLOP; an update of {passes}, a run of {updates}"]
    slower = 16 if run.precision == "fp32" else 1
    for name, peak in _PEAK_FLOPS.items():
        days = per_update * updates / (peak * _UTILISATION / slower) / 86400
        samples = run.batch_size * passes * updates
        lines.append(f"  {name}: {days:.2f} days at {_UTILISATION:.0%} of its peak, for {samples:,} samples a GPU")
    return "\n".join([*lines, ""])


def meta_components(config: TrainRunConfig) -> Components:
    """Builds the components of a run on the meta device; of the tokenizer only that it is one.

    Those of a mini are on the CPU: they are small, and torch has no autocast on the meta device to switch off.

    Raises:
        ModelError: the configs of `model.path` or `model.base` are not here.
    """
    model, fusion = config.model, not config.ablate.semantic_fusion
    if model.path is None and model.base is None:
        return build_components(model, torch.rand(4, 3, 64, 64), semantic_fusion=fusion)
    configs = _configs(model)
    if model.base is not None:
        configs["controlnet"] = {
            **{key: configs["unet"][key] for key in _SHARED if key in configs["unet"]},
            "conditioning_embedding_out_channels": list(model.conditioning_channels),
        }
    from transformers import CLIPTextConfig, CLIPTextModel

    haar = HAAR_AUTOENCODERS.get(configs["vae"].get("_class_name", ""))
    with loading(Path(model.path or model.base or "")), torch.device("meta" if haar is None else "cpu"):
        components = Components(
            vae=(haar or AutoencoderKL).from_config(configs["vae"]),
            text_encoder=CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
            tokenizer=_NoTokenizer(configs["text_encoder"].get("max_position_embeddings", 77)),
            unet=XPSRUNet.from_config(configs["unet"]),
            controlnet=XPSRControlNet.from_config(configs["controlnet"]),
            scheduler=DDPMScheduler.from_config(configs["scheduler"]),
        )
        components = with_schedule(components, model)
        return components if fusion else without_fusion(components)


class _NoTokenizer:
    """Knows only how long a text is; what a run would take follows from no word of it."""

    def __init__(self, places: int):
        self._places = places

    def __call__(self, text: str, **options: Any) -> SimpleNamespace:  # as a tokenizer is called
        return SimpleNamespace(input_ids=torch.zeros(1, self._places, dtype=torch.long, device="cpu"))


def _configs(model: ModelConfig) -> dict[str, dict[str, Any]]:
    source, field = str(model.path or model.base), "model.base" if model.path is None else "model.path"
    if source in _KNOWN_BASES and not Path(source).is_dir():
        return {name: dict(values) for name, values in _KNOWN_BASES[source].items()}
    folder = Path(resolve_model(source) if model.path is not None else source)
    names = {name: f"{name}/config.json" for name in ("unet", "controlnet", "vae", "text_encoder")}
    names["scheduler"] = "scheduler/scheduler_config.json"
    if model.path is None:
        del names["controlnet"]
    if not folder.is_dir():
        remedy = f"name a folder; by name, a dry run knows {', '.join(_KNOWN_BASES)}"
        raise ModelError("has no configs here", code="not_found", field=field, value=source, remedy=remedy)
    return {name: read_config(folder / file) for name, file in names.items()}


def _measure(config: TrainRunConfig, components: Components) -> tuple[float, float]:
    """Returns FLOPs of a pass, forward and backward, and bytes of what it keeps for the backward pass."""
    run, size, scale = config.train, config.data.crop_size, config.data.scale
    timestep = config.model.one_step_timestep or 0
    # feature networks are small beside the others, and not on the meta device
    loss = XPSRLoss(components, config.effective_loss, timestep, residual=config.model.is_residual)
    device = next(components.unet.parameters()).device
    loss.to(device)
    loss.train()
    for network in (components.unet, components.controlnet):
        if run.gradient_checkpointing:
            network.enable_gradient_checkpointing()
    rows = run.batch_size
    ids = torch.zeros(rows, loss.empty_ids.shape[1], dtype=torch.long, device=device)
    batch = Batch(
        hr=torch.zeros(rows, 3, size, size, device=device),
        lr=torch.zeros(rows, 3, size // scale, size // scale, device=device),
        content_ids=ids,
        quality_ids=ids,
        is_clean=torch.zeros(rows, dtype=torch.bool, device=device),
        indices=torch.zeros(rows, dtype=torch.long, device=device),
        teacher=torch.zeros(rows, 3, size, size, device=device),
        has_teacher=torch.zeros(rows, dtype=torch.bool, device=device),
    )
    with FlopCounterMode(display=False) as counter:
        with _saved_bytes(loss) as saved:
            total = loss(batch, torch.Generator().manual_seed(0)).total()
        total.backward()
    half = 0.5 if run.precision != "fp32" else 1.0
    return float(counter.get_total_flops()), sum(saved.values()) * half


@contextmanager
def _saved_bytes(module: torch.nn.Module) -> Iterator[Mapping[int, int]]:
    """Yields bytes of the tensors that are kept for the backward pass, by storage; parameters are none of them."""
    own = {p.untyped_storage()._cdata for p in itertools.chain(module.parameters(), module.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _memory(config: TrainRunConfig, components: Components) -> dict[str, float]:
    """Returns bytes by what they are for."""
    run = config.train
    module = components.trainable()
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = sum(
        p.numel() * (2 if keeps_half(p) and run.precision != "fp32" and run.parallel != "fsdp" else 4)
        for p in module.parameters()
        if not p.requires_grad
    )
    if not components.vae_parts():  # which are among the parts
        frozen += 4 * sum(p.numel() for p in components.vae.parameters())
    moments = 8 if config.optimizer.kind == "adamw" else 2
    return {
        "trained weights": 4.0 * trained,
        "frozen weights": float(frozen),
        "gradients": 4.0 * trained,
        "optimizer": float(moments * trained),
        "averaged weights (EMA)": 4.0 * trained if config.optimizer.ema_decay else 0.0,
        "copies for half precision": 2.0 * trained
        if run.precision != "fp32" and not run.gradient_checkpointing
        else 0.0,
    }
