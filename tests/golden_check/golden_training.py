"""What a whole system's folder says of training, compared: one step, and what a ControlNet takes from a UNet."""

import copy
import math
import re
from collections.abc import Iterator

import torch
from golden_rows import Row, Tensors, compare, equal, lacking
from golden_system import System
from torch import nn

from xpsr.checkpoint import controlnet_to_reference, unet_to_reference
from xpsr.config import OptimizerConfig
from xpsr.models import XPSRControlNet
from xpsr.training import build_optimizer, degradation_free_terms, diffusion_loss, optimizer_step

LOSS, GRADIENT = 1e-5, 3e-5  # tolerances, of relative errors
DEGRADATION_FREE_WEIGHT = 0.05
INPUTS = (
    "pixel_values",
    "conditioning_pixel_values",
    "encoder_hidden_states",
    "lowlevel_encoder_hidden_states",
    "noise",
    "timesteps",
    "vae_posterior_noise",
)


def trained(system: System) -> dict[str, nn.Parameter]:
    """What the reference trains, under its names: the ControlNet and the UNet's conditional attentions."""
    control = dict(system.pipe.controlnet.named_parameters())
    unet = {name: p for name, p in system.pipe.unet.named_parameters() if ".conditional_attentions." in name}
    names = [f"controlnet.{name}" for name in controlnet_to_reference(control)]
    names += [f"unet.{name}" for name in unet_to_reference(unet)]
    return dict(zip(names, [*control.values(), *unet.values()], strict=True))  # renaming keeps the order


def training_step(system: System, golden: Tensors) -> tuple[Tensors, dict[str, torch.Tensor | None]]:
    """The reference's loss on its inputs under the golden names, and the gradient of everything trained.

    A gradient is None where the loss does not depend on the parameter. The system's weights are updated.
    """
    pipe = system.pipe
    inputs = {name.removeprefix("in/"): value for name, value in golden.items() if name.startswith("in/")}
    pipe.unet.requires_grad_(False)
    parameters = trained(system)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    with torch.no_grad():
        posterior = pipe.vae.encode(inputs["pixel_values"]).latent_dist
        clean = (posterior.mean + posterior.std * inputs["vae_posterior_noise"]) * pipe.vae.config.scaling_factor
        noisy = pipe.scheduler.add_noise(clean, inputs["noise"], inputs["timesteps"])
    control = pipe.controlnet(
        noisy,
        inputs["timesteps"],
        inputs["encoder_hidden_states"],
        inputs["conditioning_pixel_values"],
        quality_hidden_states=inputs["lowlevel_encoder_hidden_states"],
    )
    output = pipe.unet(
        noisy,
        inputs["timesteps"],
        inputs["encoder_hidden_states"],
        control.down_block_res_samples,
        control.mid_block_res_sample,
    ).sample
    mse = diffusion_loss(pipe.scheduler, output, clean=clean, noise=inputs["noise"], timesteps=inputs["timesteps"])
    terms = [
        DEGRADATION_FREE_WEIGHT * term
        for term in degradation_free_terms(control.images, control.latents, inputs["pixel_values"], clean)
    ]
    names = [f"term/cond_mid/{index}" for index in range(len(control.images))]
    names += [f"term/degradation_rgb/{index}" for index in range(len(control.latents) - 1)]
    names += ["term/degradation_rgb_mid"]
    constraint = torch.stack(terms).sum()
    ours = {
        "in/latents": clean,
        "noisy_latents": noisy,
        "model_pred": output,
        "mse_loss": mse,
        "degradation_loss": constraint,
        "loss": mse + constraint,
        **dict(zip(names, terms, strict=True)),
    }
    ours["loss"].backward()
    # the stored norms are of these; the stored gradients are those after clipping
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()}
    config = OptimizerConfig(learning_rate=5e-5, betas=(0.9, 0.999), weight_decay=1e-2, max_grad_norm=1.0)
    ours["grad_total_norm"] = optimizer_step(
        build_optimizer(list(parameters.values()), config),
        list(parameters.values()),
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
    )
    for name, parameter in parameters.items():
        ours[f"grad/{name}"], ours[f"updated/{name}"] = parameter.grad, parameter.detach()
    return ours, gradients


def loss(system: System) -> Iterator[Row]:
    """loss.safetensors and loss_info.json: one training step."""
    golden, info = system.load("loss"), system.json("loss_info.json")
    spare = System(system.folder, copy.deepcopy(system.pipe))
    ours, gradients = training_step(spare, golden)
    given = {f"in/{name}" for name in INPUTS}
    # of every parameter's gradient and update only some are stored, but both
    shown = {name.partition("/")[2] for name in golden if name.startswith(("grad/", "updated/"))}
    ours = {k: v for k, v in ours.items() if not k.startswith(("grad/", "updated/")) or k.partition("/")[2] in shown}
    yield from lacking("loss", golden, ("grad/controlnet.", "grad/unet."))
    for row in compare("loss", ours, golden, LOSS, given=given):
        yield Row(row.name, row.error, GRADIENT if ":grad" in row.name else row.tolerance, row.note)

    pixel = sorted({re.sub(r"(pixel_attentions).*", r"\1", name[5:]) for name in gradients if name.startswith("unet.")})
    yield equal("loss_info.json:trainable_unet_modules", pixel, sorted(info["trainable_unet_modules"]))
    for part in ("unet", "controlnet"):
        size = sum(value.numel() for name, value in trained(spare).items() if name.startswith(f"{part}."))
        yield equal(f"loss_info.json:n_trainable_{part}", size, info[f"n_trainable_{part}"])
    # exact zeros are computed, as for queries and keys of a single latent pixel; absent is what no output depends on
    unused = [name for name, gradient in gradients.items() if gradient is None]
    yield equal("loss_info.json:params_with_no_grad", sorted(unused), sorted(info["params_with_no_grad"]))
    norms, stored_norms = {n: float(g.norm()) for n, g in gradients.items() if g is not None}, info["grad_norms"]
    yield equal("loss_info.json:grad_norms (names)", sorted(norms), sorted(stored_norms))
    # a gradient that is zero but for rounding, as of a bias before a norm, has a norm of which no digit is right
    zero = 1e-6 * max(stored_norms.values())
    errors = {
        name: 0.0 if norm <= zero and stored_norms[name] <= zero else abs(norm / max(stored_norms[name], zero) - 1)
        for name, norm in norms.items()
        if name in stored_norms
    }
    worst = max(errors, key=lambda n: errors[n] if errors[n] == errors[n] else math.inf)
    yield Row(f"loss_info.json:grad_norms ({len(errors)})", errors[worst], GRADIENT, f"worst: {worst}")


@torch.no_grad()
def from_unet(system: System) -> Iterator[Row]:
    """from_unet.json: what a ControlNet takes over from a UNet, what starts at zero, what is new."""
    golden, pipe = system.json("from_unet.json"), system.pipe
    controlnet = XPSRControlNet.from_unet(
        pipe.unet, conditioning_embedding_out_channels=pipe.controlnet.config.conditioning_embedding_out_channels
    )
    source = pipe.unet.state_dict()
    copied: dict[str, str] = {}
    zero: list[str] = []
    fresh: list[str] = []
    for name, value in controlnet_to_reference(controlnet.state_dict()).items():
        origin = name.replace("attentions_lowlevel.", "attentions.").replace("attentions_connect.", "attentions.")
        if origin in source and source[origin].shape == value.shape and torch.equal(source[origin], value):
            copied[name] = origin
        else:
            (fresh if value.any() else zero).append(name)
    ours = {"copied": copied, "zero_init": sorted(zero), "fresh_init": sorted(fresh)}
    for name, mine in ours.items():
        theirs = golden[name] if isinstance(golden[name], dict) else sorted(golden[name])
        yield equal(f"from_unet.json:{name}", mine, theirs)
    yield equal("from_unet.json:counts", {name: len(mine) for name, mine in ours.items()}, golden["counts"])
