"""First numerical truth: the reference's numbers, reproduced with its own tiny weights (`golden/README.md`)."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from diffusers.schedulers import scheduling_ddpm
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from xpsr.checkpoint import controlnet_from_reference, load_reference, unet_from_reference
from xpsr.models import SemanticFusionAttention, XPSRControlNet, XPSRUNet

FORWARD_TOLERANCE = 1e-5
DEBUG_TOLERANCE = 1e-5
SCHEDULER_TOLERANCE = 1e-6
TEXT_TOLERANCE = 3e-5

Tensors = dict[str, torch.Tensor]
Networks = tuple[XPSRUNet, XPSRControlNet]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What one pass of both networks takes; the fields are named as in `forward.safetensors`."""

    sample: torch.Tensor
    timestep: torch.Tensor
    encoder_hidden_states: torch.Tensor
    lowlevel_encoder_hidden_states: torch.Tensor | None
    controlnet_cond: torch.Tensor
    unet_encoder_hidden_states: torch.Tensor


def error(ours: torch.Tensor, golden: torch.Tensor) -> float:
    """max|ours - golden| / max|golden|"""
    assert ours.shape == golden.shape
    return ((ours - golden).abs().max() / golden.abs().max()).item()


def inputs_of(forward: Tensors, case: str) -> Inputs:
    folder = "in/odd/" if case == "odd" else "in/main/"
    names = ("sample", "timestep", "encoder_hidden_states", "lowlevel_encoder_hidden_states", "controlnet_cond")
    values = {name: forward[folder + name] for name in names}
    if case == "lownone":
        values["lowlevel_encoder_hidden_states"] = None
    return Inputs(**values, unet_encoder_hidden_states=values["encoder_hidden_states"])


def options_of(forward: Tensors, case: str) -> dict[str, Any]:
    match case:
        case "scale07":
            return {"conditioning_scale": 0.7}
        case "guess":
            return {"conditioning_scale": 0.9, "guess_mode": True}
        case "fgmask":
            return {"fg_mask": forward["in/main/fg_mask"]}
        case _:
            return {}


@torch.no_grad()
def run(networks: Networks, inputs: Inputs, options: dict[str, Any]) -> Tensors:
    """All outputs of one pass under the golden names."""
    unet, controlnet = networks
    control = controlnet(
        inputs.sample,
        inputs.timestep,
        inputs.encoder_hidden_states,
        inputs.controlnet_cond,
        quality_hidden_states=inputs.lowlevel_encoder_hidden_states,
        **options,
    )
    output = unet(
        inputs.sample,
        inputs.timestep,
        inputs.unet_encoder_hidden_states,
        control.down_block_res_samples,
        control.mid_block_res_sample,
    ).sample
    return {
        **{f"down_res/{index}": residual for index, residual in enumerate(control.down_block_res_samples)},
        "mid_res": control.mid_block_res_sample,
        **{f"cond_mid/{index}": image for index, image in enumerate(control.images)},
        **{f"degradation_rgb/{index}": latents for index, latents in enumerate(control.latents[:-1])},
        "degradation_rgb_mid": control.latents[-1],
        "unet_sample": output,
    }


@pytest.fixture(scope="module")
def forward(golden: Path) -> Tensors:
    return load_file(golden / "forward.safetensors")


@pytest.fixture(scope="module")
def debug(golden: Path) -> Tensors:
    return load_file(golden / "debug.safetensors")


@pytest.fixture(scope="module")
def networks(golden: Path) -> Networks:
    return load_reference(golden)


@pytest.fixture
def scheduler(golden: Path) -> DDPMScheduler:
    config = json.loads((golden / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    del config["skip_prk_steps"], config["set_alpha_to_one"]  # PNDM's; the reference reads the file as DDPM's too
    return DDPMScheduler.from_config(config)


@pytest.mark.parametrize("case", ["normal", "scale07", "lownone", "odd", "guess", "fgmask"])
def test_forward_is_the_reference_s(case: str, networks: Networks, forward: Tensors) -> None:
    outputs = run(networks, inputs_of(forward, case), options_of(forward, case))
    assert {key for key in forward if key.startswith(f"{case}/")} <= {f"{case}/{name}" for name in outputs}
    # Predictions that do not depend on the case are stored once
    expected = {name: forward.get(f"{case}/{name}", forward[f"normal/{name}"]) for name in outputs}
    errors = {name: error(outputs[name], expected[name]) for name in outputs}
    assert len(errors) == 18
    assert {name: value for name, value in errors.items() if value > FORWARD_TOLERANCE} == {}


def module_of(networks: Networks, key: str) -> nn.Module:
    """The module of ours whose output is stored in `debug.safetensors` under `key`."""
    network, path = key.split("/")
    unet, controlnet = networks
    if network == "controlnet":
        (name,) = controlnet_from_reference({f"{path}.weight": torch.empty(0)})
        return controlnet.get_submodule(name.removesuffix(".weight"))
    (name,) = unet_from_reference({f"{path}.weight": torch.empty(0)})
    module = unet.get_submodule(name.removesuffix(".weight"))
    if module in list(unet.up_blocks):  # our forward walks through a decoder block: take the last thing in it
        return module.upsamplers[-1] if module.upsamplers else module.conditional_attentions[-1]
    return module


def test_activations_inside_are_the_reference_s(networks: Networks, forward: Tensors, debug: Tensors) -> None:
    keys = [key for key in debug if not key.startswith("probe/")]
    seen: Tensors = {}

    def keep(key: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[key] = (output[0] if isinstance(output, tuple) else output)[:1]

        return hook

    handles = [module_of(networks, key).register_forward_hook(keep(key)) for key in keys]
    run(networks, inputs_of(forward, "normal"), {})
    for handle in handles:
        handle.remove()
    errors = {key: error(seen[key], debug[key]) for key in keys}
    assert len(errors) == 24
    assert {key: value for key, value in errors.items() if value > DEBUG_TOLERANCE} == {}


@torch.no_grad()
def probe(unet: XPSRUNet, debug: Tensors) -> Tensors:
    block = unet.down_blocks[0]
    hidden, context, temb = (debug[f"probe/{name}"] for name in ("hidden", "context", "temb"))
    return {
        "probe/unet.down_blocks.0.attentions.0": block.attentions[0](hidden, context, return_dict=False)[0],
        "probe/unet.down_blocks.0.resnets.0": block.resnets[0](hidden, temb),
        "probe/time_proj_t0_t1_t501_t999": unet.time_proj(torch.tensor([0, 1, 501, 999])),
    }


def test_probes_are_the_reference_s(networks: Networks, debug: Tensors) -> None:
    for key, ours in probe(networks[0], debug).items():
        assert error(ours, debug[key]) <= DEBUG_TOLERANCE, key


@pytest.mark.parametrize("eps", [("attentions", 1e-5), ("resnets", 1e-6)], ids=str)
def test_probes_tell_a_wrong_epsilon(eps: tuple[str, float], networks: Networks, debug: Tensors) -> None:
    kind, value = eps
    unet = copy.deepcopy(networks[0])
    for module in getattr(unet.down_blocks[0], kind)[0].modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = value
    key = f"probe/unet.down_blocks.0.{kind}.0"
    assert error(probe(unet, debug)[key], debug[key]) > 100 * DEBUG_TOLERANCE


# Mistakes in what goes in. The numbers that they should cause are in mutants.json.
WRONG_INPUTS: dict[str, Callable[[Inputs], Inputs]] = {
    "controlnet: high and low prompts swapped": lambda inputs: replace(
        inputs,
        encoder_hidden_states=inputs.lowlevel_encoder_hidden_states,
        lowlevel_encoder_hidden_states=inputs.encoder_hidden_states,
    ),
    "controlnet: low prompt = high prompt": lambda inputs: replace(
        inputs, lowlevel_encoder_hidden_states=inputs.encoder_hidden_states
    ),
    "controlnet: low-level path skipped": lambda inputs: replace(inputs, lowlevel_encoder_hidden_states=None),
    "unet: fed the low prompt as encoder_hidden_states": lambda inputs: replace(
        inputs, unet_encoder_hidden_states=inputs.lowlevel_encoder_hidden_states
    ),
    "controlnet: image in [-1,1] instead of [0,1]": lambda inputs: replace(
        inputs, controlnet_cond=inputs.controlnet_cond * 2 - 1
    ),
    "controlnet: BGR image": lambda inputs: replace(inputs, controlnet_cond=inputs.controlnet_cond.flip(1)),
    "timesteps off by one": lambda inputs: replace(inputs, timestep=inputs.timestep + 1),
}


def assert_as_wrong_as_recorded(outputs: Tensors, expected: Tensors, mistake: str, golden: Path) -> None:
    """The error is above the tolerance, and the one that the same mistake causes in the reference."""
    recorded = json.loads((golden / "mutants.json").read_text(encoding="utf-8"))[mistake]
    for name in ("unet_sample", "mid_res"):
        found = error(outputs[name], expected[name])
        assert found == pytest.approx(recorded[name], rel=0.02, abs=FORWARD_TOLERANCE)
    assert error(outputs["unet_sample"], expected["unet_sample"]) > 2 * FORWARD_TOLERANCE


def normal(forward: Tensors) -> Tensors:
    return {name: forward[f"normal/{name}"] for name in ("unet_sample", "mid_res")}


@pytest.mark.parametrize("mistake", WRONG_INPUTS)
def test_wrong_inputs_are_told(mistake: str, networks: Networks, forward: Tensors, golden: Path) -> None:
    outputs = run(networks, WRONG_INPUTS[mistake](inputs_of(forward, "normal")), {})
    assert_as_wrong_as_recorded(outputs, normal(forward), mistake, golden)


def tokens(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H*W, C)


def fuse_with_roles_swapped(layer: SemanticFusionAttention, content: Any, quality: Any) -> torch.Tensor:
    return layer.fusion(quality, tokens(content), return_dict=False)[0]


def fuse_by_sum(layer: SemanticFusionAttention, content: Any, quality: Any) -> torch.Tensor:
    return content + quality


WRONG_FUSIONS: dict[str, Callable[[SemanticFusionAttention, Any, Any], torch.Tensor]] = {
    "SFA: fusion query and key/value swapped": fuse_with_roles_swapped,
    "SFA: sum instead of fusion attention": fuse_by_sum,
}


@pytest.mark.parametrize("mistake", WRONG_FUSIONS)
def test_wrong_fusion_is_told(
    mistake: str, networks: Networks, forward: Tensors, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_forward(
        layer: SemanticFusionAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        cross_attention_kwargs: dict[str, torch.Tensor],
        **unused: Any,
    ) -> tuple[torch.Tensor]:
        content = layer.content(hidden_states, encoder_hidden_states, return_dict=False)[0]
        quality = layer.quality(hidden_states, cross_attention_kwargs["quality_hidden_states"], return_dict=False)[0]
        return (WRONG_FUSIONS[mistake](layer, content, quality),)

    monkeypatch.setattr(SemanticFusionAttention, "forward", wrong_forward)
    outputs = run(networks, inputs_of(forward, "normal"), {})
    assert_as_wrong_as_recorded(outputs, normal(forward), mistake, golden)


def decoder_layers(unet: XPSRUNet) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every ResNet of the decoder with its conditional attention, in the order of the computation."""
    for block in unet.up_blocks:
        yield from zip(block.resnets, block.conditional_attentions, strict=True)


def attend_to_nothing(unet: XPSRUNet) -> None:
    unet.zero_conditional_attentions()


def attend_to_skip_and_residual(unet: XPSRUNet) -> None:
    for resnet, attention in decoder_layers(unet):
        width = attention.config.cross_attention_dim
        seen: list[torch.Tensor] = []
        resnet.register_forward_pre_hook(lambda module, args, s=seen, w=width: s.append(args[0][:, -w:]))
        attention.register_forward_pre_hook(lambda module, args, s=seen: (args[0], tokens(s.pop())))


def attend_without_adding(unet: XPSRUNet) -> None:
    given: list[torch.Tensor] = []

    def take_residuals(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        given[:] = args[3]
        return (*args[:3], [torch.zeros_like(residual) for residual in args[3]], args[4])

    unet.register_forward_pre_hook(take_residuals)
    for _, attention in decoder_layers(unet):
        attention.register_forward_pre_hook(lambda module, args: (args[0], tokens(given.pop())))


WRONG_UNETS: dict[str, Callable[[XPSRUNet], None]] = {
    "unet: no pixel attention (plain ControlNet additive only)": attend_to_nothing,
    "unet: pixel attention sees skip+residual instead of residual": attend_to_skip_and_residual,
    "unet: residuals only attended, not added to the skips": attend_without_adding,
}


@pytest.mark.parametrize("mistake", WRONG_UNETS)
def test_wrong_decoder_is_told(mistake: str, networks: Networks, forward: Tensors, golden: Path) -> None:
    unet = copy.deepcopy(networks[0])
    WRONG_UNETS[mistake](unet)
    outputs = run((unet, networks[1]), inputs_of(forward, "normal"), {})
    assert_as_wrong_as_recorded(outputs, normal(forward), mistake, golden)


def test_attending_to_unscaled_residuals_is_told(networks: Networks, forward: Tensors, golden: Path) -> None:
    unet = copy.deepcopy(networks[0])
    for _, attention in decoder_layers(unet):
        attention.register_forward_pre_hook(lambda module, args: (args[0], args[1] / 0.7))
    outputs = run((unet, networks[1]), inputs_of(forward, "scale07"), options_of(forward, "scale07"))
    expected = {name: forward[f"scale07/{name}"] for name in ("unet_sample", "mid_res")}
    assert_as_wrong_as_recorded(outputs, expected, "scale 0.7: pixel attention sees un-scaled residuals", golden)


def swap_sine_and_cosine(network: nn.Module) -> None:
    network.time_proj.flip_sin_to_cos = False


def double_head_count(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, Attention):
            module.heads *= 2


WRONG_NETWORKS = {
    "timestep embedding sin|cos order": swap_sine_and_cosine,
    "wrong head count": double_head_count,
}


@pytest.mark.parametrize("mistake", WRONG_NETWORKS)
def test_wrong_network_is_told(mistake: str, networks: Networks, forward: Tensors, golden: Path) -> None:
    unet, controlnet = copy.deepcopy(networks)
    WRONG_NETWORKS[mistake](unet)
    WRONG_NETWORKS[mistake](controlnet)
    outputs = run((unet, controlnet), inputs_of(forward, "normal"), {})
    assert_as_wrong_as_recorded(outputs, normal(forward), mistake, golden)


def test_approximated_gelu_is_told(
    networks: Networks, forward: Tensors, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GEGLU, "gelu", lambda layer, gate: F.gelu(gate, approximate="tanh"))
    outputs = run(networks, inputs_of(forward, "normal"), {})
    assert_as_wrong_as_recorded(outputs, normal(forward), "GEGLU tanh-approximated GELU", golden)


@pytest.fixture(scope="module")
def schedule(golden: Path) -> Tensors:
    return load_file(golden / "scheduler.safetensors")


def test_noise_schedule_is_the_reference_s(scheduler: DDPMScheduler, schedule: Tensors) -> None:
    assert error(scheduler.betas, schedule["betas"]) <= SCHEDULER_TOLERANCE
    assert error(scheduler.alphas_cumprod, schedule["alphas_cumprod"]) <= SCHEDULER_TOLERANCE


@pytest.mark.parametrize("num_inference_steps", [1, 3, 5, 7, 20, 50])
def test_timesteps_are_the_reference_s(num_inference_steps: int, scheduler: DDPMScheduler, schedule: Tensors) -> None:
    scheduler.set_timesteps(num_inference_steps)
    assert torch.equal(scheduler.timesteps, schedule[f"timesteps/{num_inference_steps}"])


def test_noising_and_velocity_are_the_reference_s(scheduler: DDPMScheduler, schedule: Tensors) -> None:
    clean, noise, timesteps = (schedule[f"add_noise/{name}"] for name in ("x0", "noise", "t"))
    assert error(scheduler.add_noise(clean, noise, timesteps), schedule["add_noise/out"]) <= SCHEDULER_TOLERANCE
    assert error(scheduler.get_velocity(clean, noise, timesteps), schedule["velocity/out"]) <= SCHEDULER_TOLERANCE


def test_chain_of_steps_is_the_reference_s(
    scheduler: DDPMScheduler, schedule: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler.set_timesteps(5)
    sample = schedule["step/0/sample"]
    for index, timestep in enumerate(scheduler.timesteps):
        step = {
            name: schedule[f"step/{index}/{name}"] for name in ("model_output", "sample", "prev_sample", "variance")
        }
        noise = schedule[f"step/{index}/variance_noise"]
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, noise=noise, **kwargs: noise)
        assert error(sample, step["sample"]) <= SCHEDULER_TOLERANCE
        assert error(scheduler._get_variance(timestep), step["variance"]) <= SCHEDULER_TOLERANCE
        sample = scheduler.step(step["model_output"], timestep, sample).prev_sample
        assert error(sample, step["prev_sample"]) <= SCHEDULER_TOLERANCE


def test_texts_become_the_reference_s_embeddings(golden: Path) -> None:
    settings = json.loads((golden / "run.json").read_text(encoding="utf-8"))
    tokenizer = CLIPTokenizer.from_pretrained(golden / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(golden / "text_encoder").eval()
    texts = {
        "neg": settings["neg"],
        "prompt": settings["prompt"],
        "low_neg": settings["low_negative_prompt_hardcoded"],
        "low": settings["low"],
        "empty": "",
    }
    ids = {
        name: tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
        for name, text in texts.items()
    }
    assert {name: value[0].tolist() for name, value in ids.items()} == settings["token_ids"]
    loop = load_file(golden / "loop.safetensors")
    with torch.no_grad():
        embeds = {name: encoder(value).last_hidden_state for name, value in ids.items()}
    content, quality = (torch.cat([embeds[a], embeds[b]]) for a, b in (("neg", "prompt"), ("low_neg", "low")))
    assert error(content, loop["prompt_embeds"]) <= TEXT_TOLERANCE
    assert error(quality, loop["lowlevel_prompt_embeds"]) <= TEXT_TOLERANCE
