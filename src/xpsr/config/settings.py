"""How a picture is restored: settings, presets, and which settings a model can follow."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from xpsr.config.checks import FINITE, Checked, at_least, fault, option, within
from xpsr.config.loading import override
from xpsr.config.names import nearest, renamed
from xpsr.errors import InputError

__all__ = [
    "MAX_SCALE",
    "PRESETS",
    "SCALE",
    "ModelFacts",
    "PresetName",
    "Settings",
    "preset_settings",
    "resolve_settings",
]

MAX_SCALE = 16.0
"""A pipeline enlarges no further."""

SCALE = within(0, MAX_SCALE, "4, for example", open_at="low")


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """How a picture is restored. The defaults are the preset `default`, for models of Stable Diffusion's kind.

    Lengths are in latent pixels unless said otherwise; timesteps are those of training, usually 0 to 999. What no model
    can do is refused here, what a certain model cannot do by `resolve_settings`.
    """

    num_inference_steps: int = option(
        20, "Denoising steps; 1 is the one step, of a model that has learned it.", at_least(1, "1 to 50")
    )
    guidance_scale: float = option(4.5, "How strongly texts are followed; above 1 every step costs twice.", FINITE)
    controlnet_conditioning_scale: float = option(1.0, "Factor of the ControlNet's residuals.", FINITE)
    strength: float = option(
        1.0,
        "Where to start, as a fraction of the training timesteps; 0 (one step only) is the LR latents as they are.",
        within(0, 1, "1 to start from noise"),
    )
    start: Literal["lr", "noise"] = option("lr", "From the noised LR latents, or (strength 1 only) from noise alone.")
    added_noise_level: int = option(
        0,
        "Timestep at which the LR latents are noised once more, as the reference does (800); 0: they are not.",
        at_least(0, "0 for none"),
    )
    offset_noise_scale: float = option(
        0.0, 'Weight of noise that is the same in all of a channel, added to start="noise"; there for parity.', FINITE
    )
    tile_size: int = option(128, "Larger pictures are denoised in square tiles of this side.", at_least(1, "64 to 320"))
    tile_overlap: int = option(
        32,
        "Tiles overlap by so much, and are blended there; at most half a tile where only tile_size is given.",
        at_least(0, "an eighth of tile_size"),
    )
    tile_weights: Literal["symmetric", "reference"] = option(
        "symmetric",
        "The reference's lie half a pixel low, and its tiles are no larger than the picture's smaller side.",
    )
    num_shifts: int = option(
        1,
        "The one step is taken on so many grids, each shifted against the last, and averaged (cycle spinning,"
        " Coifman and Donoho 1995), which hides the grid.",
        at_least(1, "1 or 2"),
    )
    fit: Literal["pad", "stretch"] = option(
        "pad",
        "To the model's multiple of pixels: by reflection, cropped off again, or as the reference does by"
        " resizing (in 8 bits).",
    )
    min_working_size: int = option(
        512,
        "Pixels that the smaller side has at least while the model works; the result is reduced again.",
        at_least(0, "0 to ask for nothing"),
    )
    color_match: Literal["none", "adain", "wavelet"] = option(
        "adain", "How colours are brought back to those of the input."
    )
    content_suffix: str = option(
        "clean, high-resolution, 8k, high quality, clear text.", "Said after every content text."
    )
    reserve_suffix: bool = option(
        True, "Content texts that are cut leave room for the suffix; the reference cuts the suffix."
    )
    long_texts: Literal["chunk", "cut"] = option(
        "chunk",
        "What is longer than the text encoder's places is embedded in further chunks, or cut off as the reference"
        " does.",
    )
    negative_content: str = option(
        "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed.",
        "What guidance leads away from, of the content text.",
    )
    negative_quality: str = option(
        "high resolution, best quality, clear", "What guidance leads away from, of the quality text."
    )


PresetName: TypeAlias = Literal["default", "paper", "reference"]

PRESETS: dict[PresetName, Settings] = {
    "default": Settings(),
    # Guidance and negative text as the paper has them
    "paper": Settings(guidance_scale=5.5, negative_content="blurry, dotted, noise, unclear, lowres, over-smoothed"),
    # What the authors' test script does
    "reference": Settings(
        added_noise_level=800,
        tile_size=320,
        tile_overlap=8,
        tile_weights="reference",
        fit="stretch",
        reserve_suffix=False,
        long_texts="cut",
    ),
}


def preset_settings(name: PresetName) -> Settings:
    """Returns the settings of a preset.

    Raises:
        InputError: there is none of that name.
    """
    if name not in PRESETS:
        message, remedy = f"is not one of {', '.join(PRESETS)}", f"use {nearest(name, PRESETS) or 'default'}"
        raise InputError(message, code="out_of_range", field="preset", value=name, remedy=remedy)
    return PRESETS[name]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What decides which settings a model can follow.

    `vae_scale_factor` is pixels per latent pixel along a side, `tile_multiple` the latent pixels of which a tile's side
    is a multiple, so that every level of the UNet halves it.
    """

    num_train_timesteps: int
    vae_scale_factor: int
    tile_multiple: int
    has_one_step: bool


def resolve_settings(base: Settings, overrides: Mapping[str, Any], facts: ModelFacts) -> Settings:
    """Returns what a model does with `overrides` over `base`, such as its own settings or those of a preset.

    What is not among the overrides follows them: one step is the one step of a model that has learned it (strength 0),
    a later start is from the LR latents, tiles overlap by at most a half, and several steps take one grid.

    Raises:
        InputError: an unknown setting, one that no model can do, or one that this model cannot do.
    """
    given = renamed(overrides, vars(base))
    settings = override(base, given)
    if settings.num_inference_steps == 1 and facts.has_one_step and "strength" not in given:
        settings = dataclasses.replace(settings, strength=0.0)
    implied: dict[str, Any] = {"tile_overlap": min(settings.tile_overlap, settings.tile_size // 2)}
    if settings.strength < 1:
        implied["start"] = "lr"
    if settings.strength > 0:
        implied["num_shifts"] = 1
    settings = dataclasses.replace(settings, **{name: implied[name] for name in implied.keys() - given.keys()})
    for name, message, remedy in _faults(settings, facts):
        raise fault(settings, name, message, remedy)
    return settings


def _faults(settings: Settings, facts: ModelFacts) -> Iterator[tuple[str, str, str]]:
    """Fields that the model cannot follow, each with what is wrong and what to do."""
    steps, strength, limit = settings.num_inference_steps, settings.strength, facts.num_train_timesteps
    if steps > limit:
        yield "num_inference_steps", f"is more than the {limit} timesteps", "use 1 to 50"
    if strength == 0 and not facts.has_one_step:
        yield "strength", "is the one step, which this model has not learned", "use a number above 0"
    if strength == 0 and steps > 1:
        yield "num_inference_steps", "is not the one step, which strength=0 is", "use 1, or a strength above 0"
    if strength > 0 and round(steps / strength) > limit:
        least, most = math.ceil(100 * steps / limit) / 100, int(limit * strength)
        fewer = f", or at most {most} steps" if most else ""
        yield "strength", f"leaves fewer than {steps} of {limit} timesteps", f"use {least:g} or more{fewer}"
    if settings.start == "noise" and strength < 1:
        yield "start", f"is for strength=1, not {strength:g}", "use lr"
    if settings.added_noise_level >= limit:
        yield "added_noise_level", f"is not below {limit}", "use 0 for none"
    if settings.offset_noise_scale and settings.start != "noise":
        yield "offset_noise_scale", "is for start=noise", "use 0"
    multiple = 1 if settings.tile_weights == "reference" else facts.tile_multiple
    if settings.tile_size % multiple:
        least = math.ceil(settings.tile_size / multiple) * multiple
        yield "tile_size", f"is not a multiple of {multiple}", f"use {least}"
    if settings.tile_overlap >= settings.tile_size:
        yield "tile_overlap", f"is not below tile_size={settings.tile_size}", f"use {settings.tile_size // 8}"
    factor = facts.vae_scale_factor
    if factor % settings.num_shifts:
        *some, last = (str(number) for number in range(1, factor + 1) if factor % number == 0)
        yield "num_shifts", f"does not divide the {factor} pixels of a latent pixel", f"use {', '.join(some)} or {last}"
    if settings.num_shifts > 1 and strength > 0:
        yield "num_shifts", "is for the one step, or pictures of different noise would be averaged", "use 1"
    if settings.num_shifts > 1 and settings.fit != "pad":
        yield "num_shifts", f"is for fit=pad, not {settings.fit}", "use 1"
