"""`XPSRUNet` paints: after every ResNet of its decoder a conditional attention looks at the ControlNet's residual.

Source: XPSR, arXiv 2403.05049.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import CROSS_ATTENTION_PROCESSORS, AttnProcessor
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from xpsr.models.attention import PiecewiseFeedForward, WindowAttention, WindowAttnProcessor, as_tokens
from xpsr.models.signature import Refusals, shows_signature_of

__all__ = ["ConditionalUpBlock", "XPSRUNet", "XPSRUNetOutput"]


@dataclass
class XPSRUNetOutput(UNet2DConditionOutput):
    """What the UNet predicts, and what a later step may take instead of computing it.

    `sample`: (B, C, H, W). `deep_features`: (B, C', H, W), what the outermost decoder block is given by those below it.
    """

    deep_features: torch.Tensor | None = None


class ConditionalUpBlock(UpBlock2D):
    """A decoder block with a conditional attention after every ResNet.

    `XPSRUNet` turns diffusers' blocks, `UpBlock2D` and `CrossAttnUpBlock2D`, into this class. It has a call of its own,
    because diffusers hangs hooks (group offloading) on the calls of blocks.
    """

    def forward(  # upstream's blocks are given no residuals apart from the skips
        self,
        hidden: torch.Tensor,
        temb: torch.Tensor,
        text: torch.Tensor,
        skips: Sequence[torch.Tensor],
        residuals: Sequence[torch.Tensor],
        upsample_size: tuple[int, int] | None,
    ) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, C', H', W'); one skip and one residual for every ResNet."""
        recompute = torch.is_grad_enabled() and self.gradient_checkpointing  # the attentions see to themselves
        for index, (resnet, skip, residual) in enumerate(zip(self.resnets, skips, residuals, strict=True)):
            hidden = torch.cat([hidden, skip + residual], 1)
            hidden = self._gradient_checkpointing_func(resnet, hidden, temb) if recompute else resnet(hidden, temb)
            if getattr(self, "has_cross_attention", False):
                (hidden,) = self.attentions[index](hidden, text, return_dict=False)
            attention = self.conditional_attentions[index]
            windowed = isinstance(attention.transformer_blocks[0].attn1, WindowAttention)
            grid = {"height": hidden.shape[-2], "width": hidden.shape[-1]} if windowed else None
            (hidden,) = attention(hidden, as_tokens(residual), cross_attention_kwargs=grid, return_dict=False)
        for upsampler in self.upsamplers or []:
            hidden = upsampler(hidden, upsample_size)
        return hidden


class XPSRUNet(Refusals, UNet2DConditionModel):
    """diffusers' `UNet2DConditionModel` with a conditional attention after every ResNet of the decoder.

    Each is a `Transformer2DModel` whose keys and values are the ControlNet's residual of that skip connection. With
    `conditional_attention_window` it looks at windows of that many latent pixels instead of the whole grid, every
    second one shifted by half: linear instead of quadratic in the picture's size (ours; the paper looks at the whole
    grid).

    Raises:
        ValueError: `up_block_types` has another block than `UpBlock2D` and `CrossAttnUpBlock2D`.
    """

    _no_split_modules = (*UNet2DConditionModel._no_split_modules, ConditionalUpBlock.__name__)

    @register_to_config
    @shows_signature_of(UNet2DConditionModel.__init__, conditional_attention_window=None)
    def __init__(self, *args: Any, conditional_attention_window: int | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        config = self.config
        heads = config.num_attention_heads or config.attention_head_dim
        heads = [heads] * len(self.up_blocks) if isinstance(heads, int) else list(heads)[::-1]
        skips = _skip_channels(self)
        for block, block_heads in zip(self.up_blocks, heads, strict=True):
            if type(block) not in (UpBlock2D, CrossAttnUpBlock2D):
                raise ValueError(
                    f"up_block_types holds {type(block).__name__}; XPSRUNet knows UpBlock2D and CrossAttnUpBlock2D."
                )
            block.__class__ = ConditionalUpBlock
            block.conditional_attentions = nn.ModuleList()
            for index, resnet in enumerate(block.resnets):
                attention = Transformer2DModel(
                    num_attention_heads=block_heads,
                    attention_head_dim=resnet.out_channels // block_heads,
                    in_channels=resnet.out_channels,
                    cross_attention_dim=skips.pop(),
                    norm_num_groups=config.norm_num_groups,
                    use_linear_projection=config.use_linear_projection,
                    upcast_attention=config.upcast_attention,
                )
                for layer in attention.transformer_blocks:
                    layer.ff.__class__ = PiecewiseFeedForward
                    if conditional_attention_window:
                        shift = index % 2 * (conditional_attention_window // 2)
                        for part in (layer.attn1, layer.attn2):
                            part.__class__ = WindowAttention
                            part.set_processor(WindowAttnProcessor(conditional_attention_window, shift))
                block.conditional_attentions.append(attention)

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, *, zero_init: bool = True) -> "XPSRUNet":
        """Makes the same UNet with conditional attentions; with `zero_init` it starts as exactly the network it was.

        The reference starts them at random (`zero_init=False`), which changes the output from the first step on.
        """
        model = cls.from_config(unet.config)
        missing = set(model.load_state_dict(unet.state_dict(), strict=False).missing_keys)
        assert all(".conditional_attentions." in key for key in missing)
        if zero_init:
            model.zero_conditional_attentions()
        return model

    def zero_conditional_attentions(self) -> None:
        """Sets the last layer of every conditional attention to zero, so that each passes its input on unchanged."""
        for block in self.up_blocks:
            for attention in block.conditional_attentions:
                nn.init.zeros_(attention.proj_out.weight)
                nn.init.zeros_(attention.proj_out.bias)

    def conditional_parameters(self) -> list[nn.Parameter]:
        """Returns what XPSR trains of a pretrained UNet: the conditional attentions."""
        return [p for name, p in self.named_parameters() if ".conditional_attentions." in name]

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """Raises: FreeU scales the skips inside the stock blocks' calls."""
        raise NotImplementedError(
            "FreeU is not part of XPSR's decoder, whose skips carry the picture; change controlnet_conditioning_scale."
        )

    def set_default_attn_processor(self) -> None:
        """As upstream, which would refuse the windows among the processors to be replaced; they stay."""
        if {type(p) for p in self.attn_processors.values()} <= {WindowAttnProcessor, *CROSS_ATTENTION_PROCESSORS}:
            self.set_attn_processor(AttnProcessor())
        else:
            super().set_default_attn_processor()  # raises, or knows the older kind of attention

    def forward(  # the residuals are required here
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        down_block_additional_residuals: Sequence[torch.Tensor],
        mid_block_additional_residual: torch.Tensor | None,
        *,
        deep_features: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        return_dict: bool = True,
    ) -> XPSRUNetOutput | tuple[torch.Tensor]:
        """Predicts noise, velocity or sample (B, C, H, W) from latents, content text and the ControlNet's residuals.

        Args:
            sample: noisy latents (B, C, H, W).
            timestep: one for all, or (B,).
            encoder_hidden_states: content embeddings (B, N, D).
            down_block_additional_residuals: the ControlNet's (B, C_i, H_i, W_i), one for each skip connection, which
                are both added to it and attended to.
            mid_block_additional_residual: likewise of the middle, where it is added alone.
            deep_features: of an earlier step; then only the outermost level is computed (DeepCache, Ma et al. 2023),
                and its residuals are enough.
            class_labels, timestep_cond, added_cond_kwargs: what configs with class embeddings, of distilled models and
                SDXL-like ones want.
            return_dict: whether an `XPSRUNetOutput` is returned, or a tuple of the sample alone.
        """
        if self.config.center_input_sample:
            sample = 2 * sample - 1
        temb = self.time_embedding(self.get_time_embed(sample, timestep), timestep_cond)
        class_emb = self.get_class_embed(sample, class_labels)
        if class_emb is not None:
            temb = torch.cat([temb, class_emb], -1) if self.config.class_embeddings_concat else temb + class_emb
        added = self.get_aug_embed(temb, encoder_hidden_states, added_cond_kwargs)
        temb = temb if added is None else temb + added
        temb = temb if self.time_embed_act is None else self.time_embed_act(temb)
        text = self.process_encoder_hidden_states(encoder_hidden_states, added_cond_kwargs)

        hidden = self.conv_in(sample)
        skips = [hidden]
        for block in self.down_blocks if deep_features is None else self.down_blocks[:1]:
            text_of_block = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
            hidden, outputs = block(hidden, temb, **text_of_block)
            skips.extend(outputs)

        outermost, residuals = self.up_blocks[-1], list(down_block_additional_residuals)
        if deep_features is None:
            if self.mid_block is not None:
                text_of_block = (
                    {"encoder_hidden_states": text} if getattr(self.mid_block, "has_cross_attention", False) else {}
                )
                hidden = self.mid_block(hidden, temb, **text_of_block)
            hidden = hidden + mid_block_additional_residual
            for block in self.up_blocks[:-1]:
                seen = [(skips.pop(), residuals.pop()) for _ in block.resnets]
                hidden = block(hidden, temb, text, *zip(*seen, strict=True), skips[-1].shape[-2:])
            deep_features = hidden

        # With deep features the halved ones, and whatever lies below, are left over
        count = len(outermost.resnets)
        skips, residuals = skips[:count][::-1], residuals[:count][::-1]
        hidden = outermost(deep_features, temb, text, skips, residuals, None)

        if self.conv_norm_out is not None:
            hidden = self.conv_act(self.conv_norm_out(hidden))
        output = self.conv_out(hidden)
        return XPSRUNetOutput(sample=output, deep_features=deep_features) if return_dict else (output,)


def _skip_channels(unet: UNet2DConditionModel) -> list[int]:
    channels = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        channels += [resnet.out_channels for resnet in block.resnets]
        channels += [block.resnets[-1].out_channels] * len(block.downsamplers or [])
    return channels
