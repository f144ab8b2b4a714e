"""The model that is trained."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xpsr.config.checks import Checked, check_multiple, fault, option, said, within
from xpsr.config.settings import ModelFacts, Settings, resolve_settings
from xpsr.errors import InputError

__all__ = ["ModelConfig"]

MINI_STRIDE, BASE_STRIDE = 4, 8  # pixels per latent pixel of the mini's autoencoder, and of Stable Diffusion's
NUM_TIMESTEPS = 1000
TEXT_HEADS = 2  # of a new text encoder
_BYTE_TOKENS = 2 * 256 + 2  # every byte, within and at the end of a word, and two marks
_MAX_LEVELS, _MAX_WIDTH = 6, 2048  # with which a network is as large as any machine holds
_WIDTH = within(1, _MAX_WIDTH)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The model that is trained: a folder to go on from, a Stable Diffusion to build on, or the sizes of a new one.

    With `path`, the folder's own sizes and defaults hold; with `base`, the sizes of its UNet. Else the mini's kind is
    built, by default with the mini's sizes. `prediction_type` and `zero_terminal_snr` count everywhere.
    """

    path: Path | None = option(
        None, "A model's folder to go on from, as xpsr train or xpsr convert writes it; its sizes hold."
    )
    base: str | None = option(
        None, "A folder of Stable Diffusion 1.5's kind to build on, or its name on the hub; its sizes hold."
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = option(
        None, "What the UNet predicts; null: as the model does, and v_prediction of a new one."
    )
    zero_terminal_snr: bool | None = option(
        None, "Rescale the betas so that t=999 is noise alone; null: as the model does, and true of a new one."
    )
    zero_init: bool = option(
        True, "With base: conditional attentions start at zero; the reference starts them at random."
    )
    block_out_channels: tuple[int, ...] = option((64, 96, 160), "Width of each level of a new model's UNet.", _WIDTH)
    num_attention_heads: tuple[int, ...] = option(
        (1, 2, 2),
        "Heads of each level, as many numbers; each divides its level's width.",
        within(1, 256),
    )
    layers_per_block: int = option(1, "Layers of each level.", within(1, 4, "1 or 2"))
    norm_num_groups: int = option(16, "Groups of its norms; divides every width.", within(1, _MAX_WIDTH, "16 or 32"))
    conditional_attention_window: int | None = option(
        8,
        "Conditional attentions look at windows of so many latent pixels; null: at all of the picture.",
        within(1, 1024, "8, or null to look at all of the picture"),
    )
    conditioning_channels: tuple[int, ...] = option(
        (16, 32, 64),
        "Widths of the ControlNet's picture encoder; every one after the first halves the picture.",
        _WIDTH,
    )
    text_width: int = option(64, "Width of a new model's text encoder; even.", within(TEXT_HEADS, _MAX_WIDTH))
    text_layers: int = option(2, "Layers of a new model's text encoder.", within(0, 32))
    vocabulary: Path | None = option(
        None, "Text that a new model's tokenizer learns its words from; null: the one that comes with xpsr."
    )
    vocabulary_size: int = option(
        2048, "Tokens that a new model's tokenizer knows at most.", within(_BYTE_TOKENS, 2**17)
    )
    decoder_channels: int = option(
        64, "Width of the decoder of a new model's autoencoder, a multiple of 4.", within(4, _MAX_WIDTH)
    )
    decoder_layers: int = option(48, "Its residual blocks.", within(0, 256))
    one_step_timestep: int | None = option(
        250,
        "What the one step is labelled with; null: a model without the one step.",
        within(0, NUM_TIMESTEPS - 1),
    )
    one_step_residual: bool | None = option(
        None,
        "The one step adds the UNet's output to the LR latents; false: it is what prediction_type says; null: as the"
        " model does, and true of a new one.",
    )
    settings: Settings = option(
        Settings(
            num_inference_steps=1,
            guidance_scale=1.0,
            strength=0.1,
            tile_size=128,
            tile_overlap=16,
            num_shifts=1,
            color_match="none",
            min_working_size=0,
            content_suffix="",
            negative_content="",
            negative_quality="",
        ),
        "What its folder tells a pipeline to do unless it is told otherwise.",
    )

    @property
    def is_new(self) -> bool:
        """Whether its sizes are those here."""
        return self.path is None and self.base is None

    @property
    def is_residual(self) -> bool:
        """Whether the one step adds the UNet's output to the LR latents."""
        return self.is_new if self.one_step_residual is None else self.one_step_residual

    def __post_init__(self) -> None:
        """Refuses what cannot be built; a folder's own sizes are not known here."""
        super().__post_init__()
        if self.path is not None and self.base is not None:
            message = "goes on with a model, and base builds a new one"
            raise fault(self, "path", message, "leave one of them out")
        if self.prediction_type == "epsilon" and self.zero_terminal_snr:
            message = "leaves nothing to predict noise from at the last timestep"
            raise fault(self, "zero_terminal_snr", message, "use false, or prediction_type=v_prediction")
        if self.is_new:
            self._check_sizes()
        # of a folder only that it is the mini's kind or Stable Diffusion's
        stride = MINI_STRIDE if self.is_new else BASE_STRIDE
        if self.path is None:
            self._check_conditioning(stride)
        self._check_settings(stride)

    def _check_sizes(self) -> None:
        widths, heads, groups = self.block_out_channels, self.num_attention_heads, self.norm_num_groups
        if not 1 <= len(widths) <= _MAX_LEVELS:
            message = f"is not 1 to {_MAX_LEVELS} levels"
            raise fault(self, "block_out_channels", message, "use [64, 96, 160], for example")
        if len(heads) != len(widths):
            message = f"is not a number for each of block_out_channels={said(widths)}"
            raise fault(self, "num_attention_heads", message, f"use {len(widths)} numbers")
        for count, width in zip(heads, widths, strict=True):
            if width % count:
                message = f"is {count} for {width} channels, which it does not divide"
                raise fault(self, "num_attention_heads", message, f"use {math.gcd(count, width)} there")
            if width % groups:
                message, most = f"is no divisor of {width} in block_out_channels", math.gcd(*widths)
                raise fault(self, "norm_num_groups", message, f"use {most}, or one of its divisors")
        check_multiple(self, "decoder_channels", 4)
        if self.text_width % TEXT_HEADS:
            raise fault(self, "text_width", "is not even", f"use {self.text_width + 1}")

    def _check_conditioning(self, stride: int) -> None:
        if 2 ** (len(self.conditioning_channels) - 1) != stride:
            usual = {MINI_STRIDE: (16, 32, 64), BASE_STRIDE: (16, 32, 96, 256)}[stride]
            message = f"is not {len(usual)} widths, with which a picture gets as small as its latents, {stride} times"
            raise fault(self, "conditioning_channels", message, f"use {said(usual)}")

    def _check_settings(self, stride: int) -> None:
        """Refuses what a pipeline would refuse after the run: by default, in one step, or in several."""
        facts = ModelFacts(
            num_train_timesteps=NUM_TIMESTEPS,
            vae_scale_factor=stride,
            tile_multiple=2 ** (len(self.block_out_channels) - 1) if self.is_new else 1,
            has_one_step=self.one_step_timestep is not None,
        )
        several: dict[str, Any] = {"strength": self.settings.strength, "num_shifts": 1}
        for overrides in ({}, {"num_inference_steps": 1}, several):
            try:
                resolve_settings(self.settings, overrides, facts)
            except InputError as error:
                raise error.within("settings") from error
