"""How a picture is restored, and the presets."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from xpsr.config.checks import FINITE, at_least, check, option, within

__all__ = ["PRESETS", "PresetName", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a picture is restored. The defaults are the preset `default`, for models of Stable Diffusion's kind.

    Lengths are in latent pixels unless said otherwise; timesteps are those of training, usually 0 to 999.
    """

    num_inference_steps: int = option(20, "Denoising steps; 1 is the one step, of a model that has learned it.")
    guidance_scale: float = option(4.5, "How strongly texts are followed; above 1 every step costs twice.")
    controlnet_conditioning_scale: float = option(1.0, "Factor of the ControlNet's residuals.")
    strength: float = option(
        1.0, "Where to start, as a fraction of the training timesteps; 0 (one step only) is the LR latents as they are."
    )
    start: Literal["lr", "noise"] = option("lr", "From the noised LR latents, or (strength 1 only) from noise alone.")
    added_noise_level: int = option(
        0, "Timestep at which the LR latents are noised once more, as the reference does (800); 0: they are not."
    )
    offset_noise_scale: float = option(
        0.0, 'Weight of noise that is the same in all of a channel, added to start="noise"; there for parity.'
    )
    tile_size: int = option(128, "Larger pictures are denoised in square tiles of this side.")
    tile_overlap: int = option(
        32, "Tiles overlap by so much, and are blended there; at most half a tile where only tile_size is given."
    )
    tile_weights: Literal["symmetric", "reference"] = option(
        "symmetric",
        "The reference's lie half a pixel low, and its tiles are no larger than the picture's smaller side.",
    )
    num_shifts: int = option(
        1,
        "The one step is taken on so many grids, each shifted against the last, and averaged (cycle spinning,"
        " Coifman and Donoho 1995), which hides the grid.",
    )
    fit: Literal["pad", "stretch"] = option(
        "pad",
        "To the model's multiple of pixels: by reflection, cropped off again, or as the reference does by"
        " resizing (in 8 bits).",
    )
    min_size: int = option(
        512, "Pixels that the smaller side has at least while the model works; the result is reduced again."
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

    def __post_init__(self) -> None:
        """Refuses what no model can do; what a certain model cannot do, its pipeline refuses."""
        check(
            self,
            "",
            {
                "num_inference_steps": at_least(1, "1 to 50"),
                "guidance_scale": FINITE,
                "controlnet_conditioning_scale": FINITE,
                "strength": within(0, 1, "1 to start from noise"),
                "added_noise_level": at_least(0, "0 for none"),
                "offset_noise_scale": FINITE,
                "tile_size": at_least(1, "64 to 320"),
                "tile_overlap": at_least(0, "an eighth of tile_size"),
                "num_shifts": at_least(1, "1 or 2"),
                "min_size": at_least(0, "0 to ask for nothing"),
            },
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
