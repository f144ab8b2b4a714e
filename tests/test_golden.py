"""First numerical truth: the reference's numbers, reproduced with its own tiny weights, and mistakes told by them.

The comparisons are those of `golden_check/`; what the files hold is in `golden/README.md`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from golden_rows import Tensors, relative_error
from golden_system import CASES, LOOP, NETWORK, System, debug, forward_inputs, forward_pass, restore
from torch import nn
from verify_golden import load, sections

from xpsr.models import SemanticFusionAttention
from xpsr.pipeline import denoising, pipeline
from xpsr.tiling import gaussian_weights

ROWS = {
    "run": 13,
    "forward": len(CASES) * 18,
    "debug": 24 + 3,
    "scheduler": 25,
    "prepare_latents": 13,
    "colorfix": 11,
    "loop": 29,
    "loop_nocfg": 14,
    "loop_noise": 12,
    "tiled": 22,
    "tiled2": 16,
    "preprocess": 21,
    "loss": 37,
    "from_unet": 4,
}


@pytest.fixture(scope="module")
def system(golden: Path) -> System:
    return load(golden)


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """Puts the system right again after a test."""
    with ExitStack() as stack:
        yield stack


def test_every_file_of_the_folder_has_its_section(golden: Path) -> None:
    assert list(sections(golden)) == list(ROWS)
    assert {path.stem for path in golden.glob("*.safetensors")} <= ROWS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_numbers_are_the_reference_s(name: str, system: System) -> None:
    rows = list(sections(system.folder)[name](system))
    assert [row for row in rows if not row.ok] == []
    assert len({row.name for row in rows}) == len(rows) == ROWS[name]


def test_noise_of_the_steps_is_torch_s_global_one(system: System) -> None:
    # The last step's noise has no other effect: it is multiplied by 1e-10
    generator = torch.Generator().manual_seed(5)
    offset = torch.randn(1, 4, 1, 1, generator=generator)
    assert torch.equal(offset, system.load("prepare_latents")["noise_mode/offset_noise"])
    for name in ("loop", "loop_nocfg", "loop_noise", "tiled", "tiled2"):
        stored = system.load(name)
        if name == "loop_noise":
            torch.randn(1, 4, 1, 1, generator=generator)  # the offset, of weight 0
        for index in range(system.run["steps"]):
            noise = torch.randn(stored["final_latents"].shape, generator=generator)
            assert torch.equal(noise, stored[f"noise/step/{index}"]), (name, index)


# Mistakes within one pass of the networks, made by changing the system or the inputs of the pass. What each of them
# changes in the reference is in `mutants.json`.
Injection = Callable[[System, Tensors, ExitStack], None]


def tokens(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H*W, C)


def swap_texts(system: System, inputs: Tensors, undo: ExitStack) -> None:
    content, quality = inputs["encoder_hidden_states"], inputs["lowlevel_encoder_hidden_states"]
    inputs |= {"encoder_hidden_states": quality, "lowlevel_encoder_hidden_states": content}
    inputs["unet_encoder_hidden_states"] = content


def read_content_twice(system: System, inputs: Tensors, undo: ExitStack) -> None:
    inputs["lowlevel_encoder_hidden_states"] = inputs["encoder_hidden_states"]


def read_no_quality(system: System, inputs: Tensors, undo: ExitStack) -> None:
    del inputs["lowlevel_encoder_hidden_states"]


def paint_from_quality(system: System, inputs: Tensors, undo: ExitStack) -> None:
    inputs["unet_encoder_hidden_states"] = inputs["lowlevel_encoder_hidden_states"]


def stretch_pixels(system: System, inputs: Tensors, undo: ExitStack) -> None:
    inputs["controlnet_cond"] = inputs["controlnet_cond"] * 2 - 1


def reverse_colours(system: System, inputs: Tensors, undo: ExitStack) -> None:
    inputs["controlnet_cond"] = inputs["controlnet_cond"].flip(1)


def count_timesteps_from_one(system: System, inputs: Tensors, undo: ExitStack) -> None:
    inputs["timestep"] = inputs["timestep"] + 1


Fusion = Callable[[SemanticFusionAttention, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def fuse(wrong: Fusion, system: System, inputs: Tensors, undo: ExitStack) -> None:
    def forward(
        layer: SemanticFusionAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        cross_attention_kwargs: dict[str, torch.Tensor],
        **unused: Any,  # the blocks' masks
    ) -> tuple[torch.Tensor]:
        content = layer.content(hidden_states, encoder_hidden_states, return_dict=False)[0]
        return (wrong(layer, hidden_states, content, cross_attention_kwargs["quality_hidden_states"]),)

    undo.enter_context(mock.patch.object(SemanticFusionAttention, "forward", forward))


def with_roles_swapped(
    layer: SemanticFusionAttention, hidden: torch.Tensor, content: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    quality = layer.quality(hidden, text, return_dict=False)[0]
    return layer.fusion(quality, tokens(content), return_dict=False)[0]


def one_after_the_other(
    layer: SemanticFusionAttention, hidden: torch.Tensor, content: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    quality = layer.quality(content, text, return_dict=False)[0]
    return layer.fusion(content, tokens(quality), return_dict=False)[0]


def by_sum(
    layer: SemanticFusionAttention, hidden: torch.Tensor, content: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    return content + layer.quality(hidden, text, return_dict=False)[0]


def hook_inputs(undo: ExitStack, module: nn.Module, change: Callable[[tuple[Any, ...]], Any]) -> None:
    """`module` gets what `change` makes of its arguments, if it returns any."""
    undo.callback(module.register_forward_pre_hook(lambda _, arguments: change(arguments)).remove)


def hook_output(undo: ExitStack, module: nn.Module, change: Callable[[tuple[Any, ...], Any], Any]) -> None:
    """`module` gives what `change` makes of its arguments and its output, if it returns any."""
    undo.callback(module.register_forward_hook(lambda _, arguments, output: change(arguments, output)).remove)


def decoder_layers(system: System) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every ResNet of the decoder with its conditional attention, in the order of the computation."""
    for block in system.pipe.unet.up_blocks:
        yield from zip(block.resnets, block.conditional_attentions, strict=True)


def attend_to_nothing(system: System, inputs: Tensors, undo: ExitStack) -> None:
    for _, attention in decoder_layers(system):
        hook_output(undo, attention, lambda given, output: (given[0],))


def attend_to_unscaled_residuals(system: System, inputs: Tensors, undo: ExitStack) -> None:
    for _, attention in decoder_layers(system):
        hook_inputs(undo, attention, lambda given: (given[0], given[1] / 0.7))


def attend_to_skip_and_residual(system: System, inputs: Tensors, undo: ExitStack) -> None:
    for resnet, attention in decoder_layers(system):
        width = attention.config.cross_attention_dim
        seen: list[torch.Tensor] = []
        hook_inputs(undo, resnet, lambda given, s=seen, w=width: s.append(given[0][:, -w:]))
        hook_inputs(undo, attention, lambda given, s=seen: (given[0], tokens(s.pop())))


def attend_without_adding(system: System, inputs: Tensors, undo: ExitStack) -> None:
    residuals: list[torch.Tensor] = []

    def take(given: tuple[Any, ...]) -> tuple[Any, ...]:
        residuals[:] = given[3]
        return (*given[:3], [torch.zeros_like(residual) for residual in given[3]], given[4])

    hook_inputs(undo, system.pipe.unet, take)
    for _, attention in decoder_layers(system):
        hook_inputs(undo, attention, lambda given: (given[0], tokens(residuals.pop())))


def attend_before_the_text(system: System, inputs: Tensors, undo: ExitStack) -> None:
    for block in system.pipe.unet.up_blocks:
        if not getattr(block, "has_cross_attention", False):
            continue
        seen: dict[str, Any] = {}
        hook_inputs(undo, block, lambda given, s=seen: s.update(text=given[2], residuals=given[4]))
        texts, pixels = dict(block.attentions.named_children()), dict(block.conditional_attentions.named_children())
        undo.enter_context(mock.patch.dict(block.attentions._modules, pixels))
        undo.enter_context(mock.patch.dict(block.conditional_attentions._modules, texts))
        for index in texts:
            hook_inputs(undo, texts[index], lambda given, s=seen: (given[0], s["text"]))
            hook_inputs(undo, pixels[index], lambda given, s=seen, i=int(index): (given[0], tokens(s["residuals"][i])))


def approximate_gelu(system: System, inputs: Tensors, undo: ExitStack) -> None:
    undo.enter_context(mock.patch.object(GEGLU, "gelu", lambda layer, gate: F.gelu(gate, approximate="tanh")))


def swap_sine_and_cosine(system: System, inputs: Tensors, undo: ExitStack) -> None:
    for network in (system.pipe.unet, system.pipe.controlnet):
        undo.enter_context(mock.patch.object(network.time_proj, "flip_sin_to_cos", False))


def attentions_of(system: System) -> Iterator[Attention]:
    for network in (system.pipe.unet, system.pipe.controlnet):
        yield from (module for module in network.modules() if isinstance(module, Attention))


def double_head_count(system: System, inputs: Tensors, undo: ExitStack) -> None:
    for attention in attentions_of(system):
        undo.enter_context(mock.patch.object(attention, "heads", attention.heads * 2))


def scale_by_all_channels(system: System, inputs: Tensors, undo: ExitStack) -> None:
    for attention in attentions_of(system):
        hook_output(undo, attention.to_q, lambda given, queries, heads=attention.heads: queries / heads**0.5)


PASSES: dict[str, tuple[Injection, str]] = {
    "controlnet: high and low prompts swapped": (swap_texts, "normal"),
    "controlnet: low prompt = high prompt": (read_content_twice, "normal"),
    "controlnet: low-level path skipped": (read_no_quality, "normal"),
    "unet: fed the low prompt as encoder_hidden_states": (paint_from_quality, "normal"),
    "controlnet: image in [-1,1] instead of [0,1]": (stretch_pixels, "normal"),
    "controlnet: BGR image": (reverse_colours, "normal"),
    "timesteps off by one": (count_timesteps_from_one, "normal"),
    "SFA: fusion query and key/value swapped": (partial(fuse, with_roles_swapped), "normal"),
    "SFA: low-level attention sequential after high-level (not parallel)": (
        partial(fuse, one_after_the_other),
        "normal",
    ),
    "SFA: sum instead of fusion attention": (partial(fuse, by_sum), "normal"),
    "unet: no pixel attention (plain ControlNet additive only)": (attend_to_nothing, "normal"),
    "scale 0.7: pixel attention sees un-scaled residuals": (attend_to_unscaled_residuals, "scale07"),
    "unet: pixel attention sees skip+residual instead of residual": (attend_to_skip_and_residual, "normal"),
    "unet: residuals only attended, not added to the skips": (attend_without_adding, "normal"),
    "unet: pixel attention before the text attention": (attend_before_the_text, "normal"),
    "GEGLU tanh-approximated GELU": (approximate_gelu, "normal"),
    "timestep embedding sin|cos order": (swap_sine_and_cosine, "normal"),
    "wrong head count": (double_head_count, "normal"),
    "attention scale 1/sqrt(C) instead of 1/sqrt(head dim)": (scale_by_all_channels, "normal"),
}


@pytest.mark.parametrize("mistake", PASSES)
def test_mistake_in_the_networks_changes_what_it_changes_in_the_reference(
    mistake: str, system: System, undo: ExitStack
) -> None:
    inject, case = PASSES[mistake]
    golden, recorded = system.load("forward"), system.json("mutants.json")[mistake]
    inputs, options = forward_inputs(golden, case)
    inject(system, inputs, undo)
    outputs = forward_pass(system, inputs, options)
    errors = {name: relative_error(outputs[name], golden[f"{case}/{name}"]) for name in ("unet_sample", "mid_res")}
    assert errors["unet_sample"] > NETWORK
    assert errors == pytest.approx(recorded, rel=0.02, abs=NETWORK)


# These two lie below the noise of whole networks; the probes show them.
EPSILONS = {
    "Transformer2D GroupNorm eps 1e-5 instead of 1e-6": ("attentions", 1e-5),
    "ResNet/out GroupNorm eps 1e-6 instead of 1e-5": ("resnets", 1e-6),
}


@pytest.mark.parametrize("mistake", EPSILONS)
def test_probes_tell_a_wrong_epsilon(mistake: str, system: System, undo: ExitStack) -> None:
    kind, epsilon = EPSILONS[mistake]
    for block in system.pipe.unet.down_blocks:
        for module in getattr(block, kind, nn.ModuleList()).modules():
            if isinstance(module, nn.GroupNorm):
                undo.enter_context(mock.patch.object(module, "eps", epsilon))
    errors = {row.name: row.error for row in debug(system)}
    assert errors[f"debug:probe/unet.down_blocks.0.{kind}.0"] > 100 * NETWORK


# Mistakes that only a whole run shows, made by changing the system or the settings. What each of them changes in the
# reference is in `mutants_loop.json`.


def swap_halves(system: System, undo: ExitStack) -> None:
    hook_output(undo, system.pipe.unet, lambda given, output: UNet2DConditionOutput(sample=output.sample.flip(0)))


def skip_first_noising(system: System, undo: ExitStack) -> None:
    keep = mock.patch.object(system.pipe.scheduler, "add_noise", lambda latents, noise, timesteps: latents)
    undo.enter_context(keep)


def exchange_noises(system: System, undo: ExitStack) -> None:
    draw, kept = pipeline.randn_tensor, []

    def exchanged(shape: tuple[int, ...], **options: Any) -> torch.Tensor:
        if not kept:
            kept.append(draw(shape, **options))
            return draw(shape, **options)
        return kept.pop()

    undo.enter_context(mock.patch.object(pipeline, "randn_tensor", exchanged))


def take_posterior_mean(system: System, undo: ExitStack) -> None:
    sample = DiagonalGaussianDistribution.sample

    def mean(posterior: DiagonalGaussianDistribution, generator: torch.Generator) -> torch.Tensor:
        sample(posterior, generator)  # all noise after it stays the same
        return posterior.mean

    undo.enter_context(mock.patch.object(DiagonalGaussianDistribution, "sample", mean))


def configure_scheduler(option: dict[str, Any], system: System, undo: ExitStack) -> None:
    changed = DDPMScheduler.from_config({**system.pipe.scheduler.config, **option})
    undo.enter_context(mock.patch.object(system.pipe, "scheduler", changed))


def silence_steps(system: System, undo: ExitStack) -> None:
    def load_silent(name: str) -> Tensors:
        stored = System.load(system, name)
        return {k: torch.zeros_like(v) if k.startswith("noise/step/") else v for k, v in stored.items()}

    undo.enter_context(mock.patch.object(system, "load", load_silent))


def condition_one_half(system: System, undo: ExitStack) -> None:
    def second(residual: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(residual[:1]), residual[1:]])

    hook_inputs(undo, system.pipe.unet, lambda given: (*given[:3], [second(r) for r in given[3]], second(given[4])))


def weigh(weights: Callable[..., torch.Tensor], system: System, undo: ExitStack) -> None:
    undo.enter_context(mock.patch.object(denoising, "gaussian_weights", weights))


def symmetric(height: int, width: int, *, symmetric: bool, dtype: torch.dtype, device: Any) -> torch.Tensor:
    return gaussian_weights(height, width, symmetric=True, dtype=dtype, device=device)


def uniform(height: int, width: int, *, symmetric: bool, dtype: torch.dtype, device: Any) -> torch.Tensor:
    return torch.ones(height, width, dtype=dtype, device=device)


RUNS: dict[str, Callable[[System, ExitStack], None]] = {
    "CFG halves swapped": swap_halves,
    "only the second noising": skip_first_noising,
    "two noisings with the noises exchanged": exchange_noises,
    "VAE posterior mean instead of sample": take_posterior_mean,
    "timesteps without steps_offset": partial(configure_scheduler, {"steps_offset": 0}),
    "DDIM-like (no variance noise)": silence_steps,
    "fixed_large variance": partial(configure_scheduler, {"variance_type": "fixed_large"}),
    "UNet residuals of the conditional half only (guess-mode-like)": condition_one_half,
    "tile weights: y midpoint (T-1)/2": partial(weigh, symmetric),
    "tile weights uniform": partial(weigh, uniform),
}
SETTINGS: dict[str, Callable[[System], dict[str, Any]]] = {
    "low-level negative = high-level negative_prompt": lambda system: {"negative_quality": system.run["neg"]},
    'low-level negative = ""': lambda system: {"negative_quality": ""},
    'high-level negative = ""': lambda system: {"negative_content": ""},
    "low-level conditional prompt used in both halves": lambda system: {"negative_quality": system.run["low"]},
    "second noising (added_noise_level) omitted": lambda system: {"added_noise_level": 0},
    "no tiling at all": lambda system: {"tile_size": 320},
}


def final_latents(system: System, name: str, changes: dict[str, Any]) -> torch.Tensor:
    stored = system.load(name)
    noise = [stored[f"noise/step/{index}"] for index in range(system.run["steps"])]
    return restore(system, name, noise, changes=changes)


@pytest.mark.parametrize("mistake", [*RUNS, *SETTINGS])
def test_mistake_in_a_run_changes_what_it_changes_in_the_reference(
    mistake: str, system: System, undo: ExitStack
) -> None:
    ((name, recorded),) = system.json("mutants_loop.json")[mistake].items()
    if mistake in RUNS:
        RUNS[mistake](system, undo)
    changes = SETTINGS[mistake](system) if mistake in SETTINGS else {}
    error = relative_error(final_latents(system, name, changes), system.load(name)["final_latents"])
    assert error > 100 * LOOP
    assert error == pytest.approx(recorded, rel=0.02)


def test_every_recorded_mistake_is_injected(golden: Path) -> None:
    recorded = [
        json.loads((golden / file).read_text(encoding="utf-8")) for file in ("mutants.json", "mutants_loop.json")
    ]
    assert recorded[0].keys() == {*PASSES, *EPSILONS}
    assert recorded[1].keys() == {*RUNS, *SETTINGS, "(no mistake)"}
