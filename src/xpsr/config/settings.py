"""How a picture is restored: settings, presets, and which settings a model can follow."""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from xpsr.config.checks import Checked, Span, check_argument, fault, option, said, within
from xpsr.config.loading import override
from xpsr.config.names import renamed
from xpsr.errors import InputError

__all__ = [
    "PRESETS",
    "ModelFacts",
    "PresetName",
    "Settings",
    "given_settings",
    "preset_settings",
    "resolve_settings",
]

_FACTOR = within(-100, 100)
_MAX_STEPS = 10_000
_TILE = within(1, 2**16, "64 to 320")
_MAX_SIDE = 2**16  # latent pixels, or pixels, more than the sides of any picture that is read


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """How a picture is restored. The defaults are the preset `default`, for models of Stable Diffusion's kind.

    Lengths are in latent pixels unless said otherwise; timesteps are those of training, usually 0 to 999. What no model
    can do is refused here, what a certain model cannot do by `resolve_settings`.
    """

    num_inference_steps: int = option(
        20, "Denoising steps; 1 is the one step, of a model that has learned it.", within(1, _MAX_STEPS, "1 to 50")
    )
    scheduler: Literal["model", "ddpm", "ddim", "unipc", "dpm"] = option(
        "model",
        "Of several steps: the model's own, or DDPM, DDIM, UniPC or DPM-Solver++ with its noise levels; the last two"
        " need fewest.",
    )
    guidance_scale: float = option(4.5, "How strongly texts are followed; above 1 every step costs twice.", _FACTOR)
    guidance_interval: tuple[float, float] = option(
        (0.0, 1.0),
        "Fractions of the steps between which there is guidance (Kynkäänniemi et al. 2024); others cost half.",
        Span(0, 1),
    )
    cache_interval: int = option(
        1,
        "Every so many steps the deep levels of the networks are computed, and kept for the steps between (DeepCache,"
        " Ma et al. 2023); 1: in every step.",
        within(1, _MAX_STEPS, "1 to 5"),
    )
    controlnet_conditioning_scale: float = option(1.0, "Factor of the ControlNet's residuals.", _FACTOR)
    strength: float = option(
        1.0,
        "Where to start, as a fraction of the training timesteps; 0 (one step only) is the LR latents as they are.",
        within(0, 1, "1 to start from noise"),
    )
    start: Literal["lr", "noise"] = option("lr", "From the noised LR latents, or (strength 1 only) from noise alone.")
    added_noise_level: int = option(
        0,
        "Timestep at which the LR latents are noised once more, as the reference does (800); 0: they are not.",
        within(0, _MAX_STEPS - 1, "0 for none"),
    )
    offset_noise_scale: float = option(
        0.0, 'Weight of noise that is the same in all of a channel, added to start="noise"; there for parity.', _FACTOR
    )
    tile_size: int = option(128, "Larger pictures are denoised in square tiles of this side.", _TILE)
    tile_overlap: int = option(
        32,
        "Tiles overlap by so much, and are blended there; at most half a tile where only tile_size is given.",
        within(0, _MAX_SIDE),
    )
    tile_weights: Literal["symmetric", "reference"] = option(
        "symmetric",
        "The reference's lie half a pixel low, and its tiles are no larger than the picture's smaller side.",
    )
    num_shifts: int = option(
        1,
        "The one step is taken on so many grids, each shifted against the last, and averaged (cycle spinning,"
        " Coifman and Donoho 1995), which hides the grid.",
        within(1, 64, "1 or 2"),
    )
    fidelity: float = option(
        0.0,
        "Of the one step, where a model knows both ways: 0 paints what looks best, 1 what is nearest to the picture.",
        within(0, 1),
    )
    fit: Literal["pad", "stretch"] = option(
        "pad",
        "To the model's multiple of pixels: by reflection, cropped off again, or as the reference does by"
        " resizing (in 8 bits).",
    )
    min_working_size: int = option(
        512,
        "Pixels that the smaller side has at least while the model works; the result is reduced again.",
        within(0, _MAX_SIDE, "0 to ask for nothing"),
    )
    color_match: Literal["none", "adain", "wavelet"] = option(
        "adain", "How colours are brought back to those of the input."
    )
    grain: float = option(
        0.0,
        "Noise as fine as a pixel where the result has fine detail, as a share of it; from the seed.",
        within(0, 1, "0 for none"),
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

    @property
    def draws_noise(self) -> bool:
        """Whether pictures depend on the seed; latents have no grain."""
        return self.strength > 0 or self.grain > 0

    def is_guided(self, index: int, num_steps: int) -> bool:
        """Returns whether the step of that index, from 0, lies in the guidance interval; the first lies at 0."""
        low, high = self.guidance_interval
        return low <= index / num_steps < high

    def renews_cache(self, index: int, num_steps: int) -> bool:
        """Returns whether the step of that index computes the deep levels and keeps them for the steps after it.

        So does every `cache_interval`-th, where it is above 1, and the first of as many texts.
        """
        if self.cache_interval == 1:
            return False
        is_other = self.is_guided(index, num_steps) != self.is_guided(max(index - 1, 0), num_steps)
        return is_other or index % self.cache_interval == 0


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
    check_argument("preset", name, PresetName)
    return PRESETS[name]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What decides which settings a model can follow.

    `vae_scale_factor` is pixels per latent pixel along a side, `tile_multiple` the latent pixels of which a tile's side
    is a multiple, so that every level of the UNet halves it; `scale` is what it has learned to enlarge by.
    """

    num_train_timesteps: int
    vae_scale_factor: int
    tile_multiple: int
    has_one_step: bool
    has_several_steps: bool = True
    has_fidelity: bool = False
    scale: float = 4.0


def given_settings(settings: Settings | Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the settings that a call is given, by name; a `Settings` gives all of them.

    Raises:
        InputError: `settings` is neither a `Settings` nor a mapping.
    """
    values: Any = dataclasses.asdict(settings) if isinstance(settings, Settings) else settings
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        message, remedy = "is neither a Settings nor a mapping", "use {'num_inference_steps': 4}, for example"
        raise InputError(message, code="wrong_type", field="settings", value=said(settings), remedy=remedy)
    return dict(values)


def resolve_settings(base: Settings, overrides: Mapping[str, Any], facts: ModelFacts) -> Settings:
    """Returns what a model does with `overrides` over `base`, such as its own settings or those of a preset.

    What is not among the overrides follows them, so that an error is about what was given:

    - strength 0 is one step, and one step is strength 0 of a model that has learned it;
    - noise that a channel shares is for a start from noise, and that for strength 1; any other strength starts from the
      LR latents;
    - tiles overlap by at most a half, and their side is a multiple that the model takes;
    - more than one grid is for one step and fit="pad"; schedulers and kept deep levels are for several steps;
    - the more fidelity is asked for, the less grain there is, and at 1 none.

    Raises:
        InputError: an unknown setting, one that no model can do, or one that this model cannot do.
    """
    given = renamed(overrides, vars(base))
    settings = override(base, given)

    def follow(**implied: Any) -> None:
        nonlocal settings
        changes = {name: value for name, value in implied.items() if name not in given}
        settings = dataclasses.replace(settings, **changes)

    if given.get("offset_noise_scale"):
        follow(start="noise")
    if settings.start == "noise" and {"start", "offset_noise_scale"} & given.keys():
        follow(strength=1.0)
    elif settings.num_inference_steps == 1 and facts.has_one_step:
        follow(strength=0.0)
    if settings.strength == 0:
        follow(num_inference_steps=1, cache_interval=1, scheduler="model")
    if settings.strength < 1:
        follow(start="lr")
    if settings.start != "noise":
        follow(offset_noise_scale=0.0)
    if settings.strength > 0 or settings.fit != "pad":
        follow(num_shifts=1)
    if "fidelity" in given:
        follow(grain=settings.grain * (1 - settings.fidelity))
    if given.get("tile_weights") == "symmetric":
        follow(tile_size=math.ceil(settings.tile_size / facts.tile_multiple) * facts.tile_multiple)
    follow(tile_overlap=min(settings.tile_overlap, settings.tile_size // 2))
    for name, message, remedy in _faults(settings, facts, given):
        raise fault(settings, name, message, remedy)
    return settings


def _faults(settings: Settings, facts: ModelFacts, given: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Fields that the model cannot follow, each with what is wrong and what to do."""
    steps, strength, limit = settings.num_inference_steps, settings.strength, facts.num_train_timesteps
    if steps > limit:
        yield "num_inference_steps", f"is more than the {limit} timesteps", f"use 1 to {min(limit, 50)}"
    if strength > 0 and not facts.has_several_steps:
        larger = ", and no preset of larger models"
        if steps > 1:
            remedy = "use 1" if "num_inference_steps" in given else f"use 1{larger}"
            yield "num_inference_steps", "is more than the one step that this model has learned", remedy
        remedy = "use 0" if "strength" in given else f"use 0{larger}"
        yield "strength", "is of diffusion, and this model has learned the one step alone", remedy
    if strength == 0 and not facts.has_one_step:
        yield "strength", "is the one step, which this model has not learned", "use 1, or another number above 0"
    if strength == 0 and steps > 1:
        yield "num_inference_steps", "is not the one step, which strength=0 is", "use 1, or a strength above 0"
    if strength > 0 and round(steps / strength) > limit:
        least, most = math.ceil(100 * steps / limit) / 100, int(limit * strength)
        if "num_inference_steps" in given and "strength" not in given and most:
            message = f"is more than strength={strength:g} leaves of the {limit} timesteps"
            yield "num_inference_steps", message, f"use at most {most}, or a strength of {least:g} or more"
        fewer = f", or at most {most} steps" if most else ""
        yield "strength", f"leaves fewer than {steps} of {limit} timesteps", f"use {least:g} or more{fewer}"
    if strength == 0:
        for name, usual in (("cache_interval", 1), ("scheduler", "model")):
            if getattr(settings, name) != usual:
                yield name, "is for several steps, and this is the one step", f"use {usual}"
    if settings.fidelity and not (facts.has_fidelity and strength == 0):
        what = "is of the one step" if facts.has_fidelity else "is of a model that knows a faithful way, too"
        yield "fidelity", what, "use 0"
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
        divisors = " or ".join(str(number) for number in range(1, factor + 1) if factor % number == 0)
        yield "num_shifts", f"does not divide the {factor} pixels of a latent pixel", f"use {divisors}"
    if settings.num_shifts > 1 and strength > 0:
        yield "num_shifts", "is for the one step, or pictures of different noise would be averaged", "use 1"
    if settings.num_shifts > 1 and settings.fit != "pad":
        yield "num_shifts", f"is for fit=pad, not {settings.fit}", "use 1"
