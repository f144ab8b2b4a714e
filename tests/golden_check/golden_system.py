"""What a whole system's folder says of inference, compared (tests/golden/README.md describes the format).

Every section yields rows. Networks and numbers come from the `System`, so that a test can spoil them.
"""

import copy
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from diffusers import Transformer2DModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.schedulers import scheduling_ddpm
from golden_rows import EXACT, ONE_LSB, Row, Tensors, compare, equal, lacking, relative_error
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from xpsr.checkpoint import controlnet_to_reference, unet_to_reference
from xpsr.color import binomial_blur, match_adain, match_wavelet
from xpsr.config import PRESETS
from xpsr.image import read_image, resize, stretched_sizes, to_uint8
from xpsr.pipeline import XPSRPipeline
from xpsr.prior import Prior
from xpsr.tiling import gaussian_weights

NETWORK, LOOP, SCHEDULER = 1e-5, 3e-5, 1e-6  # tolerances, of relative errors


class System:
    """The folder's system as a pipeline of ours, and its numbers."""

    def __init__(self, folder: Path, pipe: XPSRPipeline):
        self.folder, self.pipe = folder, pipe
        self.run: dict[str, Any] = self.json("run.json")
        pipe.set_progress_bar_config(disable=True)

    def load(self, name: str) -> Tensors:
        return load_file(self.folder / f"{name}.safetensors")

    def json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.folder / name}: not JSON: {error}") from error

    def image(self, run: str) -> torch.Tensor:
        """Pixels (3, H, W) in [0, 1] of the picture that the run of that name restores."""
        return read_image(self.folder / f"{'loop' if run.startswith('loop') else run}_image.png").pixels

    def prior(self) -> tuple[Prior, dict[str, Any]]:
        """The texts, and the settings that say the rest of them."""
        text, suffix = self.run["prompt"], PRESETS["reference"].content_suffix
        settings = {"negative_content": self.run["neg"], "negative_quality": self.run["low_negative_prompt_hardcoded"]}
        if text.endswith(f" {suffix}"):
            return Prior(text.removesuffix(f" {suffix}"), self.run["low"]), settings
        return Prior(text, self.run["low"]), {**settings, "content_suffix": ""}


def texts(system: System) -> Iterator[Row]:
    """run.json: token ids; and that the numbers in it are those of the other files."""
    run, tokenizer = system.run, system.pipe.tokenizer
    stored = {
        "prompt": run["prompt"],
        "neg": run["neg"],
        "low": run["low"],
        "low_neg": run["low_negative_prompt_hardcoded"],
        "empty": "",
    }
    places = system.pipe.text_encoder.config.max_position_embeddings
    options = {"padding": "max_length", "max_length": places, "truncation": True}
    for name in dict.fromkeys([*stored, *run["token_ids"]]):
        ours = tokenizer(stored[name], **options).input_ids if name in stored else None
        yield equal(f"run.json:token_ids.{name}", ours, run["token_ids"].get(name))
    yield equal(
        "run.json:low_negative_prompt_hardcoded",
        PRESETS["reference"].negative_quality,
        run["low_negative_prompt_hardcoded"],
    )
    forward = system.load("forward")
    yield equal("run.json:lat", list(forward["in/main/sample"].shape[-2:]), run["lat"])
    yield equal("run.json:odd", list(forward["in/odd/sample"].shape[-2:]), run["odd"])
    yield equal("run.json:t", forward["in/main/timestep"].tolist(), run["t"])
    yield equal("run.json:emb", list(system.pipe.controlnet.config.conditioning_embedding_out_channels), run["emb"])
    for key, file in (("pil_hw", "loop"), *((name, name) for name in run if re.fullmatch(r"tiled\d*", name))):
        size = list(system.image(file).shape[-2:])
        yield equal(f"run.json:{key}", size, run[key]["hw"] if file != "loop" else run[key])


CASES: dict[str, dict[str, Any]] = {
    "normal": {},
    "scale07": {"conditioning_scale": 0.7},
    "lownone": {},
    "odd": {},
    "guess": {"conditioning_scale": 0.9, "guess_mode": True},
    "fgmask": {},
}
INPUTS = ("sample", "timestep", "encoder_hidden_states", "lowlevel_encoder_hidden_states", "controlnet_cond")


@torch.no_grad()
def forward_pass(system: System, inputs: Tensors, options: dict[str, Any]) -> Tensors:
    """All outputs of one pass of both networks, under the golden names."""
    control = system.pipe.controlnet(
        inputs["sample"],
        inputs["timestep"],
        inputs["encoder_hidden_states"],
        inputs["controlnet_cond"],
        quality_hidden_states=inputs.get("lowlevel_encoder_hidden_states"),
        **options,
    )
    output = system.pipe.unet(
        inputs["sample"],
        inputs["timestep"],
        inputs.get("unet_encoder_hidden_states", inputs["encoder_hidden_states"]),
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


def forward_inputs(golden: Tensors, case: str) -> tuple[Tensors, dict[str, Any]]:
    """What a case is fed with, and its options."""
    prefix = "in/odd/" if case == "odd" else "in/main/"
    inputs = {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}
    options = dict(CASES[case])
    mask = inputs.pop("fg_mask", None)
    if case == "fgmask":
        options["fg_mask"] = mask
    if case == "lownone":
        del inputs["lowlevel_encoder_hidden_states"]
    return inputs, options


def forward(system: System) -> Iterator[Row]:
    """forward.safetensors: single passes of both networks."""
    golden = system.load("forward")
    given = {f"in/{kind}/{name}" for kind in ("main", "odd") for name in INPUTS} | {"in/main/fg_mask"}
    unknown = [name for name in golden if name not in given and name.split("/")[0] not in CASES]
    yield from compare("forward", {}, {name: golden[name] for name in unknown}, NETWORK)
    for case in CASES:
        ours = forward_pass(system, *forward_inputs(golden, case))
        # predictions are stored once where the case does not change them; the residuals and the output always
        shared = ("cond_mid/",) if case == "lownone" else ("cond_mid/", "degradation_rgb")
        stands_in = {
            f"{case}/{name}": golden[f"normal/{name}"]
            for name in ours
            if case not in ("normal", "odd") and name.startswith(shared) and f"normal/{name}" in golden
        }
        stored = {name: value for name, value in golden.items() if name.startswith(f"{case}/")}
        named = {f"{case}/{name}": value for name, value in ours.items()}
        yield from compare("forward", named, stored, NETWORK, also_in=stands_in)


def module_of(system: System, key: str) -> nn.Module | None:
    """The module of ours whose output is stored under `<net>/<path>` or `<net>.<path>`; None: there is no such one."""
    network, _, path = key.replace("/", ".", 1).partition(".")
    if network not in ("unet", "controlnet"):
        return None
    net = getattr(system.pipe, network)
    path = re.sub(r"^(conv_degradation_mid|conv_degradation\.\d+)$", r"\1.0", path)  # lists of one
    to_reference, state = controlnet_to_reference if network == "controlnet" else unet_to_reference, net.state_dict()
    for theirs, ours in zip(to_reference(state), state, strict=True):  # renaming keeps the order
        rest = theirs.removeprefix(path)
        if theirs.startswith(f"{path}.") and ours.endswith(rest):
            return net.get_submodule(ours.removesuffix(rest))
    above, _, leaf = path.rpartition(".")
    found = getattr(module_of(system, f"{network}.{above}") if above else net, leaf, None)
    return found if isinstance(found, nn.Module) else None  # one without parameters


@torch.no_grad()
def probes(system: System, golden: Tensors) -> Tensors:
    """Stand-alone calls of sub-modules."""
    hidden, context, temb = (golden[f"probe/{name}"] for name in ("hidden", "context", "temb"))
    ours: Tensors = {}
    for key in golden:
        name = key.removeprefix("probe/")
        module = module_of(system, name)
        if name.startswith("time_proj_"):
            timesteps = [int(value) for value in re.findall(r"t(\d+)", name.removeprefix("time_proj"))]
            ours[key] = system.pipe.unet.time_proj(torch.tensor(timesteps))
        elif isinstance(module, Transformer2DModel):
            ours[key] = module(hidden, context, return_dict=False)[0]
        elif isinstance(module, ResnetBlock2D):
            ours[key] = module(hidden, temb)
        elif module is not None:
            ours[key] = module(hidden)
    return ours


def debug(system: System) -> Iterator[Row]:
    """debug.safetensors: activations inside the networks in the case `normal`, and the probes."""
    golden, passes = system.load("debug"), system.load("forward")
    given = ("probe/hidden", "probe/context", "probe/temb")
    probed = {key: value for key, value in golden.items() if key.startswith("probe/")}
    stored = {key: value for key, value in golden.items() if key not in probed}
    seen: Tensors = {}

    def keep(key: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[key] = (output[0] if isinstance(output, tuple) else output)[:1]

        return hook

    modules = {key: module_of(system, key) for key in stored}
    handles = [module.register_forward_hook(keep(key)) for key, module in modules.items() if module is not None]
    forward_pass(system, *forward_inputs(passes, "normal"))
    for handle in handles:
        handle.remove()
    yield from lacking("debug", golden, ("unet/", "controlnet/", "probe/unet.", "probe/time_proj_"))
    yield from compare("debug", seen, stored, NETWORK)
    ours = probes(system, probed)
    yield from compare("debug", ours, probed, NETWORK, given=given)


def scheduler(system: System) -> Iterator[Row]:
    """scheduler.safetensors: the noise schedule, timesteps, noising and a chain of steps."""
    golden, ddpm = system.load("scheduler"), copy.deepcopy(system.pipe.scheduler)
    ours: Tensors = {"betas": ddpm.betas, "alphas_cumprod": ddpm.alphas_cumprod}
    for name in golden:
        if name.startswith("timesteps/"):
            ddpm.set_timesteps(int(name.split("/")[1]))
            ours[name] = ddpm.timesteps
    clean, noise, timesteps = (golden[f"add_noise/{name}"] for name in ("x0", "noise", "t"))
    ours["add_noise/out"] = ddpm.add_noise(clean, noise, timesteps)
    ours["velocity/out"] = ddpm.get_velocity(clean, noise, timesteps)
    given = {"add_noise/x0", "add_noise/noise", "add_noise/t"}
    yield from lacking("scheduler", golden, ["timesteps/"])
    chain = len({name.split("/")[1] for name in golden if name.startswith("step/")})
    ddpm.set_timesteps(chain)
    sample = golden["step/0/sample"]
    for index, timestep in enumerate(ddpm.timesteps):
        step = f"step/{index}"
        given |= {f"{step}/model_output", f"{step}/variance_noise"}
        ours[f"{step}/sample"] = sample
        ours[f"{step}/variance"] = ddpm._get_variance(timestep)
        with mock.patch.object(scheduling_ddpm, "randn_tensor", return_value=golden[f"{step}/variance_noise"]):
            sample = ddpm.step(golden[f"{step}/model_output"], timestep, sample).prev_sample
        ours[f"{step}/prev_sample"] = sample
    yield from compare("scheduler", ours, golden, SCHEDULER, given=given)


def draws(seed: int, shape: Iterable[int]) -> Iterator[torch.Tensor]:
    generator, size = torch.Generator().manual_seed(seed), tuple(shape)
    while True:
        yield torch.randn(size, generator=generator)


@torch.no_grad()
def prepare_latents(system: System) -> Iterator[Row]:
    """prepare_latents.safetensors: what denoising starts from."""
    golden, pipe = system.load("prepare_latents"), system.pipe
    seed = system.run["generator_seeds"]["prepare_latents"]
    image = system.image("loop")[None]
    posterior = pipe.vae.encode(golden["image"] * 2 - 1).latent_dist
    ours: Tensors = {
        "image": golden["image"],  # as it was given; it is the loop's picture or a random one
        "vae/moments": posterior.parameters,
        "vae/mean": posterior.mean,
        "vae/std": posterior.std,
    }
    if golden["image"].shape == image.shape and relative_error(image, golden["image"]) < 1 / 255:
        ours["image"] = image
    shape = posterior.mean.shape
    noise = dict(zip(("vae_posterior", "init", "added"), draws(seed, shape), strict=False))
    ours |= {f"noise/{name}": value for name, value in noise.items()}
    base = PRESETS["reference"]
    for name in golden:
        generator = torch.Generator().manual_seed(seed)
        if match := re.fullmatch(r"img/level(\d+)_steps(\d+)/latents", name):
            level, steps = map(int, match.groups())
            pipe.scheduler.set_timesteps(steps)
            settings = replace(base, added_noise_level=level)
            start = pipe.scheduler.timesteps[:1]
            ours[name] = pipe.prepare_latents(golden["image"], start, settings, generator=generator)
        elif match := re.fullmatch(r"noise_mode/latents_offset([\d.]+)", name):
            weight = float(match[1])
            settings = replace(base, start="noise", added_noise_level=0, offset_noise_scale=weight)
            latents = pipe.prepare_latents(golden["image"], pipe.scheduler.timesteps[:1], settings, generator=generator)
            # the reference drew the offset from another generator, so ours is exchanged for the stored one
            again = torch.Generator().manual_seed(seed)
            ours["noise_mode/noise"] = torch.randn(shape, generator=again)
            drawn = torch.randn((*shape[:2], 1, 1), generator=again)
            ours[name] = latents - weight * drawn + weight * golden["noise_mode/offset_noise"]
    yield from lacking("prepare_latents", golden, ("img/level", "noise_mode/latents_offset"))
    yield from compare("prepare_latents", ours, golden, NETWORK, given={"noise_mode/offset_noise"})


def colorfix(system: System) -> Iterator[Row]:
    """colorfix.safetensors: both colour matches, in float and truncated to 8 bits as the reference does."""
    golden = system.load("colorfix")

    def pixels(values: torch.Tensor) -> torch.Tensor:
        return values.permute(2, 0, 1)[None].float() / 255  # (H, W, C) -> (1, C, H, W)

    def truncated(values: torch.Tensor) -> torch.Tensor:
        return (values.clamp(0, 1) * 255).to(torch.uint8)[0].permute(1, 2, 0)

    files = {
        f"{name}_u8": torch.from_numpy(np.array(Image.open(system.folder / f"colorfix_{name}.png")))
        for name in ("source", "target")
    }
    for name, picture in files.items():
        yield equal(f"colorfix:{name}", picture.tolist(), golden[name].tolist())
    target, source = pixels(files["target_u8"]), pixels(files["source_u8"])
    low = match_wavelet(torch.zeros_like(target), target)
    flat = torch.full((1, 3, *golden["adain/flat_target_u8"].shape[:2]), 0.5)  # any flat picture gets the same colour
    ours = {
        "adain/float": match_adain(target, source),
        "adain/u8": truncated(match_adain(target, source)),
        "adain/flat_target_u8": truncated(match_adain(flat, source)),
        "wavelet/float": match_wavelet(target, source),
        "wavelet/u8": truncated(match_wavelet(target, source)),
        "wavelet/target_low": low,
        "wavelet/target_high": match_wavelet(target, torch.zeros_like(target)),
    }
    for name in golden:
        if match := re.fullmatch(r"wavelet/blur_r(\d+)", name):
            ours[name] = binomial_blur(target, int(match[1]))
    yield from lacking("colorfix", golden, ["wavelet/blur_r"])
    yield from compare("colorfix", ours, golden, SCHEDULER, given=files)


def loop_settings(system: System, name: str) -> dict[str, Any]:
    """How the run `name` differs from the preset `reference`."""
    run = system.run
    settings = {
        **system.prior()[1],
        "min_working_size": 0,
        "color_match": "none",
        "num_inference_steps": run["steps"],
        "guidance_scale": 1.0 if name == "loop_nocfg" else float(run["guidance"]),
        "controlnet_conditioning_scale": float(run["cond_scale"]),
        "added_noise_level": run["added_noise_level"],
    }
    if name == "loop_noise":
        settings |= {"start": "noise", "added_noise_level": 0}
    if not name.startswith("loop"):
        settings |= {"tile_size": run[name]["size"], "tile_overlap": run[name]["overlap"]}
    return settings


def restore(
    system: System,
    name: str,
    step_noise: Iterable[torch.Tensor],
    *,
    changes: Mapping[str, Any] | None = None,
    output_type: Literal["latent", "pt"] = "latent",
    see_step: Callable[[Any, int, torch.Tensor, Tensors], Tensors] | None = None,
) -> torch.Tensor:
    """The run `name` of the pipeline, with other settings where `changes` says so; its steps draw `step_noise`."""
    # the reference's steps drew from torch's global generator
    with mock.patch.object(scheduling_ddpm, "randn_tensor", side_effect=step_noise):
        return system.pipe(
            system.image(name),
            scale=1,
            prior=system.prior()[0],
            preset="reference",
            settings={**loop_settings(system, name), **(changes or {})},
            generator=torch.Generator().manual_seed(loop_seed(system, name)),
            output_type=output_type,
            callback_on_step_end=see_step,
            callback_on_step_end_tensor_inputs=("latents", "noise_pred"),
        ).images[0]


def loop_seed(system: System, name: str) -> int:
    return system.run["generator_seeds"][name.removeprefix("loop_")]


@torch.no_grad()
def run_loop(system: System, name: str, step_noise: list[torch.Tensor]) -> Tensors:
    """All of the run `name` under the golden names."""
    pipe, image = system.pipe, system.image(name)
    settings = pipe.settings("reference", loop_settings(system, name))
    ours: Tensors = {}
    unet_outputs: list[torch.Tensor] = []
    steps: list[torch.Tensor] = []
    condition: dict[str, torch.Tensor] = {}

    def see_condition(module: nn.Module, arguments: Any, keywords: Any) -> None:
        condition.update(content=arguments[2], pixels=arguments[3], quality=keywords["quality_hidden_states"])

    def see_output(module: nn.Module, arguments: Any, output: Any) -> None:
        unet_outputs.append(output.sample)

    def see_step(_: Any, index: int, timestep: torch.Tensor, tensors: Tensors) -> Tensors:
        ours[f"step/{index}/latents"] = tensors["latents"]
        ours[f"step/{index}/noise_pred"] = tensors["noise_pred"]
        ours[f"step/{index}/unet_out"] = unet_outputs[-1]
        steps.append(timestep)
        return {}

    handles = [
        pipe.controlnet.register_forward_pre_hook(see_condition, with_kwargs=True),
        pipe.unet.register_forward_hook(see_output),
    ]
    try:
        final = restore(system, name, step_noise, see_step=see_step)
    finally:
        for handle in handles:
            handle.remove()
    timesteps, seed = torch.stack(steps), loop_seed(system, name)
    start = torch.Generator().manual_seed(seed)
    ours |= {
        "init_latents": pipe.prepare_latents(image[None], timesteps[:1], settings, generator=start),
        "final_latents": final,
        "n_unet_calls": torch.tensor(len(unet_outputs)),
        "timesteps": timesteps,
        "prompt_embeds": condition["content"],
        "lowlevel_prompt_embeds": condition["quality"],
    }
    kinds = ["init"] if settings.start == "noise" else ["vae_posterior", "init", "added"]
    ours |= {f"noise/{kind}": noise for kind, noise in zip(kinds, draws(seed, final.shape), strict=False)}
    if name == "loop":
        posterior = pipe.vae.encode(image[None] * 2 - 1).latent_dist
        ours |= {
            "controlnet_cond": condition["pixels"][:1],
            "decoded": pipe.vae.decode(final / pipe.vae.config.scaling_factor).sample,
            "decoded_uint8": to_uint8(restore(system, name, step_noise, output_type="pt")).permute(1, 2, 0)[None],
            "vae/posterior_mean": posterior.mean,
            "vae/posterior_std": posterior.std,
        }
    if not name.startswith("loop"):
        height, width = final.shape[-2:]
        tiles = pipe.tiles(height, width, settings)
        ours["tile_boxes_xyxy"] = torch.tensor([[t.left, t.top, t.left + t.width, t.top + t.height] for t in tiles])
        ours["tile_weights_f64"] = reference_weights(tiles[0].height, tiles[0].width, final.shape[1])
    return ours


def reference_weights(height: int, width: int, channels: int) -> torch.Tensor:
    return gaussian_weights(height, width, symmetric=False, dtype=torch.float64).expand(1, channels, -1, -1)


def loop(system: System, name: str) -> Iterator[Row]:
    """loop*.safetensors and tiled*.safetensors: whole runs of the pipeline with the preset `reference`."""
    golden = system.load(name)
    given = [f"noise/step/{index}" for index in range(system.run["steps"])]
    ours = run_loop(system, name, [golden[key] for key in given])
    # the two main runs tell of every step what was predicted, the others need not
    details = {"loop": (), "tiled": ("/unet_out",)}.get(name, ("/unet_out", "/noise_pred"))
    ours = {key: value for key, value in ours.items() if key in golden or not key.endswith(details)}
    for key in golden:
        if match := re.fullmatch(r"gaussian_weights_(\d+)x(\d+)_f64", key):
            ours[key] = reference_weights(int(match[2]), int(match[1]), golden[key].shape[1])
    yield from compare(name, ours, golden, LOOP, given=given)


def preprocess(system: System) -> Iterator[Row]:
    """preprocess/: sizes and 8-bit resizing before and after the model."""
    folder, pipe, cases = system.folder / "preprocess", system.pipe, system.json("preprocess/cases.json")
    kinds = ("final_resize_of_input", "lr", "pipeline_input")
    named = {f"{case['name']}_{kind}" for case in cases for kind in kinds}
    for path in sorted(folder.glob("*.png")):
        if path.stem not in named:
            yield Row(f"preprocess/{path.name}", math.inf, EXACT, "not known")
    for case in cases:
        name, multiple = case["name"], pipe.vae_scale_factor
        settings = pipe.settings("reference", {"min_working_size": case["process_size"]})
        lr, expected, final = (
            read_image(folder / f"{name}_{kind}.png") for kind in ("lr", "pipeline_input", "final_resize_of_input")
        )
        size = (lr.height * case["upscale"], lr.width * case["upscale"])
        conditions = pipe.encode(lr, Prior(), settings, size=size)
        sizes = stretched_sizes(
            size,
            min_size=case["process_size"],
            multiple=multiple,
        )
        steps: dict[str, tuple[int, ...]] = {
            "lr": (lr.height, lr.width),
            "after_upscale": sizes[0],
            "after_min_resize": sizes[-2],
            "pipeline_input": conditions.pixels.shape[-2:],
            "final": conditions.size,
        }
        for step, (height, width) in steps.items():
            yield equal(f"preprocess/cases.json:{name}.{step}_wh", [width, height], case[f"{step}_wh"])
        ours = {
            "pipeline_input": to_uint8(conditions.pixels[0]),
            "final_resize_of_input": to_uint8(resize(expected.pixels, conditions.size, eight_bit=True)),
        }
        stored = {"pipeline_input": to_uint8(expected.pixels), "final_resize_of_input": to_uint8(final.pixels)}
        for row in compare(f"preprocess/{name}", ours, stored, ONE_LSB):
            yield Row(row.name, row.error, EXACT)
