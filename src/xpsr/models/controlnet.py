"""`XPSRControlNet` reads the degraded picture and two texts.

Every cross-attention of diffusers' ControlNet becomes a `SemanticFusionAttention`. Source: XPSR, arXiv 2403.05049.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding, ControlNetOutput
from torch import nn

from xpsr.models.attention import SemanticFusionAttention
from xpsr.models.signature import Refusals, shows_signature_of

__all__ = ["ImageEncoder", "XPSRControlNet", "XPSRControlNetOutput"]


class ImageEncoder(ControlNetConditioningEmbedding):
    """diffusers' image encoder with the image pyramid of the Degradation-Free Constraint.

    After every halving, `to_images[i]` predicts the clean picture at that size.
    """

    def __init__(
        self, conditioning_embedding_channels: int, conditioning_channels: int, block_out_channels: Sequence[int]
    ):
        super().__init__(conditioning_embedding_channels, conditioning_channels, tuple(block_out_channels))
        self.to_images = nn.ModuleList(nn.Conv2d(channels, 3, 3, padding=1) for channels in block_out_channels[1:])

    def forward(
        self, conditioning: torch.Tensor, *, predict_clean: bool = True
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Maps pixels (B, 3, H, W) in [0, 1] to features at latent size and pictures in [-1, 1] at 1/2, 1/4, …

        Without `predict_clean`, which is what training needs, there are no pictures.
        """
        hidden = F.silu(self.conv_in(conditioning))
        images = []
        for same, halve, to_image in zip(self.blocks[::2], self.blocks[1::2], self.to_images, strict=True):
            hidden = F.silu(halve(F.silu(same(hidden))))
            if predict_clean:
                images.append(to_image(hidden))
        return self.conv_out(hidden), images


_GIVEN: Any = None  # no field is ever None, but accelerate's hooks make an output anew from a dict alone


@dataclass
class XPSRControlNetOutput(ControlNetOutput):
    """Residuals for the UNet, and the predictions that the Degradation-Free Constraint compares with the clean picture.

    `down_block_res_samples`: one (B, C_i, H_i, W_i) per skip connection, scaled; `mid_block_res_sample` likewise.
    `images`: predicted pictures (B, 3, H/2^i, W/2^i) in [-1, 1]. `latents`: predicted clean latents (B, C, H_i, W_i),
    one per residual, the middle last; neither depends on the scale, and without `predict_clean` both are empty.
    `image_features`: (B, C_0, H, W), what the image encoder saw; it depends on the picture alone.
    Of a call with `outermost_only`, the skip connections are those of the outermost level, and there is no middle.
    """

    down_block_res_samples: tuple[torch.Tensor, ...] = _GIVEN
    mid_block_res_sample: torch.Tensor | None = _GIVEN
    images: list[torch.Tensor] = _GIVEN
    latents: list[torch.Tensor] = _GIVEN
    image_features: torch.Tensor = _GIVEN


class XPSRControlNet(Refusals, ControlNetModel):
    """diffusers' `ControlNetModel` with Semantic-Fusion Attention, an image pyramid and latent heads.

    With `semantic_fusion=False`, an ablation, the stock attentions read both texts, one after the other in one row.

    Raises:
        ValueError: `controlnet_conditioning_channel_order` is not "rgb".
    """

    _repeated_blocks = UNet2DConditionModel._repeated_blocks  # for compile_repeated_blocks
    fuse_qkv_projections = UNet2DConditionModel.fuse_qkv_projections  # a ControlNet's own does nothing
    unfuse_qkv_projections = UNet2DConditionModel.unfuse_qkv_projections
    # A ControlNet has the same embeddings, but no methods of its own for them
    get_time_embed = UNet2DConditionModel.get_time_embed
    get_class_embed = UNet2DConditionModel.get_class_embed
    get_aug_embed = UNet2DConditionModel.get_aug_embed

    @register_to_config
    @shows_signature_of(ControlNetModel.__init__, semantic_fusion=True)
    def __init__(self, *args: Any, semantic_fusion: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        config = self.config
        if config.controlnet_conditioning_channel_order != "rgb":
            raise ValueError("controlnet_conditioning_channel_order must be 'rgb': pixels are RGB everywhere in xpsr.")
        # The stock forward embeds the condition itself; ours does it before, to keep the pictures that come with it.
        self.controlnet_cond_embedding = nn.Identity()
        self.image_encoder = ImageEncoder(
            config.block_out_channels[0], config.conditioning_channels, config.conditioning_embedding_out_channels
        )
        for block in (*self.down_blocks, self.mid_block):
            if semantic_fusion and getattr(block, "has_cross_attention", False):
                block.attentions = nn.ModuleList(SemanticFusionAttention(stock) for stock in block.attentions)
        zero_convs = (*self.controlnet_down_blocks, self.controlnet_mid_block)
        self.to_latents = nn.ModuleList(
            nn.Conv2d(conv.out_channels, config.in_channels, 3, padding=1) for conv in zero_convs
        )

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, load_weights_from_unet: bool = True, **kwargs: Any
    ) -> "XPSRControlNet":
        """Makes a ControlNet of the same size as `unet`, its encoder copied; content, quality and fusion all start from
        the UNet's attention wherever the shapes agree. Keywords are ours and those of `ControlNetModel.from_unet`.

        Raises:
            ValueError: a ControlNet has no place for what the UNet's config asks for.
        """
        fusing = kwargs.pop("semantic_fusion", True)
        controlnet = super().from_unet(unet, load_weights_from_unet=False, **kwargs)
        controlnet = controlnet if fusing else cls.from_config(controlnet.config, semantic_fusion=False)
        if load_weights_from_unet:
            source = unet.state_dict()
            unfit = []
            with torch.no_grad():
                for key, parameter in controlnet.state_dict().items():
                    origin = key
                    for branch in (".content.", ".quality.", ".fusion."):
                        origin = origin.replace(branch, ".")
                    if origin in source and source[origin].shape == parameter.shape:
                        parameter.copy_(source[origin])
                    elif origin in source and ".fusion." not in key:
                        unfit.append(key)
            if unfit:  # such as conv_in_kernel or time_embedding_dim, which diffusers' ControlNet does not know
                raise ValueError(f"this UNet's config has no ControlNet; {len(unfit)} shapes differ, first {unfit[0]}.")
        return controlnet

    def forward(  # two texts; upstream's masks and labels are not ours
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor | None,
        conditioning_scale: float = 1.0,
        *,
        quality_hidden_states: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        predict_clean: bool = True,
        outermost_only: bool = False,
        class_labels: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        guess_mode: bool = False,
        fg_mask: torch.Tensor | None = None,
    ) -> XPSRControlNetOutput:
        """Reads the picture and both texts.

        Args:
            sample: noisy latents (B, C, H, W).
            timestep: one for all, or (B,).
            encoder_hidden_states: content embeddings (B, N, D).
            controlnet_cond: pixels (B, 3, H*f, W*f) in [0, 1], f being 2 to the number of the image encoder's halvings.
                None where `image_features` are given. One row serves all, and B rows serve 2B samples in turn.
            conditioning_scale: factor of every residual.
            quality_hidden_states: quality embeddings (B, M, D); None skips that branch and the fusion.
            image_features: what an earlier call on the same picture gave under that name.
            predict_clean: whether to make the predictions that the Degradation-Free Constraint is about.
            outermost_only: whether the levels below the first, and the middle, are left out; without `predict_clean`.
            class_labels, added_cond_kwargs: what configs with class embeddings and SDXL-like ones want.
            guess_mode: shallow residuals count less, from 0.1 to 1 (the reference has it).
            fg_mask: (1 or B, 1, h, w); residuals count 1.5 where it is above 0.5 and 0.6 elsewhere,
                `conditioning_scale` is then ignored (the reference has it and never uses it).
        """
        assert not (predict_clean and outermost_only)
        images: list[torch.Tensor] = []
        if image_features is None:
            image_features, images = self.image_encoder(controlnet_cond, predict_clean=predict_clean)
        seen = image_features  # pixels that serve several rows of texts are encoded once
        if 1 < len(seen) < len(sample):
            seen = seen.repeat(len(sample) // len(seen), 1, 1, 1)
        fused = {"quality_hidden_states": quality_hidden_states} if self.config.semantic_fusion else {}
        if not fused and quality_hidden_states is not None:
            encoder_hidden_states = torch.cat([encoder_hidden_states, quality_hidden_states], 1)
        if outermost_only:
            temb = self._embedding(sample, timestep, encoder_hidden_states, class_labels, added_cond_kwargs)
            residuals, mid = self._outermost(sample, temb, encoder_hidden_states, seen, fused), []
        else:
            residuals, *mid = super().forward(
                sample,
                timestep,
                encoder_hidden_states,
                seen,
                class_labels=class_labels,
                added_cond_kwargs=added_cond_kwargs,
                cross_attention_kwargs=fused,
                return_dict=False,
            )
        residuals = [*residuals, *mid]
        heads = zip(self.to_latents, residuals, strict=True) if predict_clean else ()
        latents = [to_latent(residual) for to_latent, residual in heads]
        if fg_mask is not None:
            weight = torch.where(fg_mask > 0.5, 1.5, 0.6).to(sample)
            residuals = [r * F.interpolate(weight, size=r.shape[-2:], mode="nearest") for r in residuals]
        else:
            count = len(self.to_latents)
            weights: Any = torch.logspace(-1, 0, count, device=sample.device) if guess_mode else [1.0] * count
            residuals = [r * (w * conditioning_scale) for r, w in zip(residuals, weights, strict=not outermost_only)]
        return XPSRControlNetOutput(
            down_block_res_samples=tuple(residuals if outermost_only else residuals[:-1]),
            mid_block_res_sample=None if outermost_only else residuals[-1],
            images=images,
            latents=latents,
            image_features=image_features,
        )

    def _embedding(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        text: torch.Tensor,
        class_labels: torch.Tensor | None,
        added_cond_kwargs: dict[str, torch.Tensor] | None,
    ) -> torch.Tensor:
        """The embedding of the timestep, and of what else some configs want, (B, D)."""
        temb = self.time_embedding(self.get_time_embed(sample, timestep))
        others = self.get_class_embed(sample, class_labels), self.get_aug_embed(temb, text, added_cond_kwargs)
        for other in others:
            temb = temb if other is None else temb + other
        return temb

    def _outermost(
        self,
        sample: torch.Tensor,
        temb: torch.Tensor,
        text: torch.Tensor,
        image_features: torch.Tensor,
        fused: dict[str, Any],
    ) -> list[torch.Tensor]:
        """The residuals of the skip connections at the size of the latents, one more than the level has ResNets."""
        block = self.down_blocks[0]
        texts: dict[str, Any] = {}
        if getattr(block, "has_cross_attention", False):
            texts = {"encoder_hidden_states": text, "cross_attention_kwargs": fused}
        hidden = self.conv_in(sample) + image_features
        _, outputs = block(hidden, temb, **texts)
        skips = [hidden, *outputs][: len(block.resnets) + 1]  # what is halved belongs to the next level
        return [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=False)]
