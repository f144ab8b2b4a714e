"""The two networks of XPSR and the autoencoder of its bundled miniature.

`XPSRControlNet` reads the degraded picture and two texts: every cross-attention of diffusers' ControlNet becomes a
`SemanticFusionAttention`. `XPSRUNet` paints: after every ResNet of its decoder a conditional attention looks at the
ControlNet's residual of that place. Blocks are diffusers' own; nothing of them is copied here.

Source: XPSR, arXiv 2403.05049. The mapping to the reference's checkpoints is in `checkpoint.py`.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ControlNetModel, ModelMixin, Transformer2DModel, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import CROSS_ATTENTION_PROCESSORS, Attention, AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKLOutput
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding, ControlNetOutput
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

__all__ = [
    "ConditionalUpBlock",
    "HaarAutoencoder",
    "ImageEncoder",
    "SemanticFusionAttention",
    "WindowAttention",
    "WindowAttnProcessor",
    "XPSRControlNet",
    "XPSRControlNetOutput",
    "XPSRUNet",
    "predict_original_sample",
]


def _shows_signature_of(
    upstream: Callable[..., None], **added: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives an `__init__` the signature that `register_to_config` reads config keys from: upstream's and our own."""
    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in added.items()]
    signature = inspect.signature(upstream)

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        init.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *keywords])  # type: ignore[attr-defined]
        return init

    return decorate


class SemanticFusionAttention(nn.Module):
    """Attends to the content text and to the quality text in parallel, then lets the first look at the second.

    Takes the place of a `Transformer2DModel` in a diffusers block, which calls it with the content embeddings as
    `encoder_hidden_states` and hands `quality_hidden_states` through in `cross_attention_kwargs`. Without a quality
    text the content attention's output is the result.
    """

    def __init__(self, content: Transformer2DModel):
        super().__init__()
        self.content = content
        self.quality = _transformer_like(content, content.config.cross_attention_dim)
        self.fusion = _transformer_like(content, content.in_channels)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = False,  # part of the call that the blocks make; always a tuple
    ) -> tuple[torch.Tensor]:
        """Maps (B, C, H, W) to a tuple of one tensor of that shape."""
        options = dict(cross_attention_kwargs or {})
        quality_hidden_states = options.pop("quality_hidden_states", None)
        shared = {
            "attention_mask": attention_mask,
            "cross_attention_kwargs": options or None,
            "return_dict": False,
        }
        (content,) = self.content(
            hidden_states, encoder_hidden_states, encoder_attention_mask=encoder_attention_mask, **shared
        )
        if quality_hidden_states is None:
            return (content,)
        (quality,) = self.quality(hidden_states, quality_hidden_states, **shared)
        (fused,) = self.fusion(content, _as_tokens(quality), **shared)
        return (fused,)


class ImageEncoder(ControlNetConditioningEmbedding):
    """diffusers' image encoder with the image pyramid of the Degradation-Free Constraint.

    After every halving, `to_images[i]` predicts the clean picture at that size.
    """

    def __init__(
        self, conditioning_embedding_channels: int, conditioning_channels: int, block_out_channels: Sequence[int]
    ):
        super().__init__(conditioning_embedding_channels, conditioning_channels, tuple(block_out_channels))
        self.to_images = nn.ModuleList(nn.Conv2d(channels, 3, 3, padding=1) for channels in block_out_channels[1:])

    def forward(self, conditioning: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Maps pixels (B, 3, H, W) in [0, 1] to features at latent size and pictures in [-1, 1] at 1/2, 1/4, …"""
        hidden = F.silu(self.conv_in(conditioning))
        images = []
        for same, halve, to_image in zip(self.blocks[::2], self.blocks[1::2], self.to_images, strict=True):
            hidden = F.silu(halve(F.silu(same(hidden))))
            images.append(to_image(hidden))
        return self.conv_out(hidden), images


_GIVEN: Any = None  # no field is ever None, but accelerate's hooks make an output anew from a dict alone


@dataclass
class XPSRControlNetOutput(ControlNetOutput):
    """Residuals for the UNet, and the predictions that the Degradation-Free Constraint compares with the clean picture.

    `down_block_res_samples`: one (B, C_i, H_i, W_i) per skip connection, scaled; `mid_block_res_sample` likewise.
    `images`: predicted pictures (B, 3, H/2^i, W/2^i) in [-1, 1]. `latents`: predicted clean latents (B, C, H_i, W_i),
    one per residual, the middle last; neither depends on the scale.
    """

    down_block_res_samples: tuple[torch.Tensor, ...] = _GIVEN
    mid_block_res_sample: torch.Tensor = _GIVEN
    images: list[torch.Tensor] = _GIVEN
    latents: list[torch.Tensor] = _GIVEN


class _Refusals:
    """What diffusers offers and cannot do on these networks: each says so and names the way instead."""

    def set_attention_backend(self, backend: str) -> None:
        """Raises: this kind of attention does not look at diffusers' back ends."""
        raise NotImplementedError(
            f"set_attention_backend({backend!r}) has no effect on UNets and ControlNets; choose a kernel with"
            " torch.nn.attention.sdpa_kernel or a processor with set_attn_processor."
        )

    def enable_cache(self, config: Any) -> None:
        """Raises: a cache would hand one tile's features to the next."""
        raise NotImplementedError(
            f"{type(config).__name__}: diffusers' caches are made for transformers that see one picture at a time, not"
            " for UNets and tiles; use fewer num_inference_steps."
        )


class XPSRControlNet(_Refusals, ControlNetModel):
    """diffusers' `ControlNetModel` with Semantic-Fusion Attention, an image pyramid and latent heads.

    With `semantic_fusion=False`, an ablation, the stock attentions read both texts, one after the other in one row.
    """

    _repeated_blocks = UNet2DConditionModel._repeated_blocks  # for compile_repeated_blocks
    fuse_qkv_projections = UNet2DConditionModel.fuse_qkv_projections  # a ControlNet's own does nothing
    unfuse_qkv_projections = UNet2DConditionModel.unfuse_qkv_projections

    @register_to_config
    @_shows_signature_of(ControlNetModel.__init__, semantic_fusion=True)
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
        """A ControlNet of the same size as `unet`, its encoder copied; content, quality and fusion all start from the
        UNet's attention wherever the shapes agree. Keywords are those of `ControlNetModel.from_unet`, and our own."""
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
        controlnet_cond: torch.Tensor,
        conditioning_scale: float = 1.0,
        *,
        quality_hidden_states: torch.Tensor | None = None,
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
            conditioning_scale: factor of every residual.
            quality_hidden_states: quality embeddings (B, M, D); None skips that branch and the fusion.
            class_labels, added_cond_kwargs: what configs with class embeddings and SDXL-like ones want.
            guess_mode: shallow residuals count less, from 0.1 to 1 (the reference has it).
            fg_mask: (1 or B, 1, h, w); residuals count 1.5 where it is above 0.5 and 0.6 elsewhere,
                `conditioning_scale` is then ignored (the reference has it and never uses it).
        """
        features, images = self.image_encoder(controlnet_cond)
        fused = {"quality_hidden_states": quality_hidden_states} if self.config.semantic_fusion else {}
        if not fused and quality_hidden_states is not None:
            encoder_hidden_states = torch.cat([encoder_hidden_states, quality_hidden_states], 1)
        residuals, mid = super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            features,
            class_labels=class_labels,
            added_cond_kwargs=added_cond_kwargs,
            cross_attention_kwargs=fused,
            return_dict=False,
        )
        residuals = [*residuals, mid]
        latents = [to_latent(residual) for to_latent, residual in zip(self.to_latents, residuals, strict=True)]
        if fg_mask is not None:
            weight = torch.where(fg_mask > 0.5, 1.5, 0.6).to(sample)
            residuals = [r * F.interpolate(weight, size=r.shape[-2:], mode="nearest") for r in residuals]
        else:
            count = len(residuals)
            weights: Any = torch.logspace(-1, 0, count, device=sample.device) if guess_mode else [1.0] * count
            residuals = [r * (w * conditioning_scale) for r, w in zip(residuals, weights, strict=True)]
        return XPSRControlNetOutput(
            down_block_res_samples=tuple(residuals[:-1]),
            mid_block_res_sample=residuals[-1],
            images=images,
            latents=latents,
        )


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
            (hidden,) = attention(hidden, _as_tokens(residual), cross_attention_kwargs=grid, return_dict=False)
        for upsampler in self.upsamplers or []:
            hidden = upsampler(hidden, upsample_size)
        return hidden


class XPSRUNet(_Refusals, UNet2DConditionModel):
    """diffusers' `UNet2DConditionModel` with a conditional attention after every ResNet of the decoder.

    Each is a `Transformer2DModel` whose keys and values are the ControlNet's residual of that skip connection. With
    `conditional_attention_window` it looks at windows of that many latent pixels instead of the whole grid, every
    second one shifted by half: linear instead of quadratic in the picture's size (ours; the paper looks at the whole
    grid).
    """

    _no_split_modules = (*UNet2DConditionModel._no_split_modules, ConditionalUpBlock.__name__)

    @register_to_config
    @_shows_signature_of(UNet2DConditionModel.__init__, conditional_attention_window=None)
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
                if conditional_attention_window:
                    shift = index % 2 * (conditional_attention_window // 2)
                    for layer in attention.transformer_blocks:
                        for part in (layer.attn1, layer.attn2):
                            part.__class__ = WindowAttention
                            part.set_processor(WindowAttnProcessor(conditional_attention_window, shift))
                block.conditional_attentions.append(attention)

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, *, zero_init: bool = True) -> "XPSRUNet":
        """The same UNet with conditional attentions; with `zero_init` it starts as exactly the network it was.

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
        """What XPSR trains of a pretrained UNet: the conditional attentions."""
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
        mid_block_additional_residual: torch.Tensor,
        *,
        class_labels: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Predicts noise, velocity or sample (B, C, H, W) from latents, content text and the ControlNet's residuals.

        Each residual is both added to its skip connection and attended to.
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
        for block in self.down_blocks:
            text_of_block = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
            hidden, outputs = block(hidden, temb, **text_of_block)
            skips.extend(outputs)

        if self.mid_block is not None:
            text_of_block = (
                {"encoder_hidden_states": text} if getattr(self.mid_block, "has_cross_attention", False) else {}
            )
            hidden = self.mid_block(hidden, temb, **text_of_block)
        hidden = hidden + mid_block_additional_residual

        residuals = list(down_block_additional_residuals)
        for block in self.up_blocks:
            seen = [(skips.pop(), residuals.pop()) for _ in block.resnets]
            upsample_size = skips[-1].shape[-2:] if skips else None  # the last block is of the output's size
            hidden = block(hidden, temb, text, *zip(*seen, strict=True), upsample_size)

        if self.conv_norm_out is not None:
            hidden = self.conv_act(self.conv_norm_out(hidden))
        output = self.conv_out(hidden)
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)


class WindowAttention(Attention):
    """Keeps its windows, whatever processor is set for all attentions of a network."""

    def set_processor(self, processor: Any) -> None:
        """Takes a `WindowAttnProcessor` and leaves any other."""
        if isinstance(processor, WindowAttnProcessor):
            super().set_processor(processor)


class WindowAttnProcessor:
    """diffusers attention processor: tokens of a (height, width) grid attend within `size` x `size` windows.

    `shift` moves the windows up and left. Windows that hang over the edge see the edge's tokens repeated; a grid
    smaller than a window is one window. Queries and keys must be of the same grid.
    """

    def __init__(self, size: int, shift: int = 0):
        self.size, self.shift = size, shift

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        *,
        height: int,
        width: int,
    ) -> torch.Tensor:
        """Maps (B, height*width, C) to the same shape; masks do not exist on a grid."""
        assert attention_mask is None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        queries, keys, values = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        (rows, top, tall), (columns, left, wide) = (self._lines(n, context.device) for n in (height, width))
        counts = len(rows) // tall, len(columns) // wide

        def split(tokens: torch.Tensor) -> torch.Tensor:  # (B, H*W, C) -> (B*windows, heads, tall*wide, C/heads)
            grid = tokens.unflatten(1, (height, width))[:, rows][:, :, columns]
            grid = grid.unflatten(2, (counts[1], wide)).unflatten(1, (counts[0], tall))
            windows = grid.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)
            return windows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        windows = F.scaled_dot_product_attention(split(queries), split(keys), split(values))
        windows = windows.transpose(1, 2).flatten(-2)  # (B*windows, tall*wide, C)
        grid = windows.unflatten(0, (-1, *counts)).unflatten(3, (tall, wide)).permute(0, 1, 3, 2, 4, 5)
        grid = grid.flatten(3, 4).flatten(1, 2)[:, top : top + height, left : left + width]
        return attn.to_out[1](attn.to_out[0](grid.flatten(1, 2)))

    def _lines(self, length: int, device: torch.device) -> tuple[torch.Tensor, int, int]:
        """Which rows (or columns) the windows hold, how many of them stand before the first, and a window's size."""
        size, shift = (self.size, self.shift) if length >= self.size else (length, 0)
        lines = torch.arange(-shift, -(-(length + shift) // size) * size - shift, device=device)
        return lines.clamp(0, length - 1), shift, size


_STRIP_ROWS = 512


class HaarAutoencoder(ModelMixin, ConfigMixin):
    """An autoencoder of fixed two-level Walsh-Haar packets: stride 4, 48 channels, exact but for the refiner.

    Channels are the 16 orthonormal 4x4 Walsh patterns of each colour, less `latents_mean`, over `latents_std`. The
    decoder's small residual `refiner` (3x3 convolutions on pixels, zero at first) mends what a latent pixel cannot
    know of its neighbours. Speaks `AutoencoderKL`'s language: `encode(...).latent_dist`, `decode(...).sample`.
    """

    spatial_compression_ratio = 4
    latent_channels = 48

    @register_to_config
    def __init__(
        self,
        *,
        latents_mean: Sequence[float] = (0.0,) * 48,
        latents_std: Sequence[float] = (1.0,) * 48,
        refiner_channels: int = 16,
        refiner_layers: int = 2,
        scaling_factor: float = 1.0,
    ):
        super().__init__()
        widths = [3] + [refiner_channels] * refiner_layers
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(width_in, width_out, 3, padding=1), nn.SiLU()]
        last = nn.Conv2d(widths[-1], 3, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.refiner = nn.Sequential(*layers, last)

    @classmethod
    def from_pixels(
        cls, pixels: torch.Tensor, *, refiner_channels: int = 16, refiner_layers: int = 2
    ) -> "HaarAutoencoder":
        """Takes mean and spread from pictures (B, 3, H, W) in [-1, 1].

        Each channel is divided by the square root of its spread, all by one number that makes the overall variance 1:
        full whitening would drown a loss in high-frequency noise.
        """
        coefficients = cls().encode(pixels).latent_dist.mean.transpose(0, 1).flatten(1)  # (48, N)
        mean, spread = coefficients.mean(1), coefficients.std(1)
        std = spread.sqrt() * spread.mean().sqrt()  # (spread / std)^2 = spread / mean(spread), whose mean is 1
        std = std.clamp_min(1e-3)  # a constant picture has no spread
        return cls(
            latents_mean=mean.tolist(),
            latents_std=std.tolist(),
            refiner_channels=refiner_channels,
            refiner_layers=refiner_layers,
        )

    @apply_forward_hook
    def encode(self, x: torch.Tensor) -> AutoencoderKLOutput:
        """Maps pixels (B, 3, H, W) in [-1, 1] to a distribution without spread over (B, 48, H/4, W/4)."""
        if x.shape[-1] % 4 or x.shape[-2] % 4:
            raise ValueError(f"height and width must be multiples of 4, got {tuple(x.shape[-2:])}; pad the picture.")
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would cost two of the eight bits of a pixel
            packets = F.pixel_unshuffle(x.float(), 4).unflatten(1, (3, 16))  # (B, 3, 16, H/4, W/4)
            latents = torch.einsum("kp,bcphw->bckhw", _walsh_patterns().to(x.device), packets).flatten(1, 2)
            mean, std = self._statistics(x.device)
            latents = ((latents - mean) / std).to(x.dtype)
        moments = torch.cat([latents, torch.zeros_like(latents)], 1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments, deterministic=True))

    @apply_forward_hook
    def decode(self, z: torch.Tensor, *, refine: bool = True) -> DecoderOutput:
        """Maps (B, 48, h, w) to float32 pixels (B, 3, 4h, 4w), about [-1, 1]; `refine=False` inverts encode exactly."""
        with torch.autocast(z.device.type, enabled=False):
            mean, std = self._statistics(z.device)
            coefficients = (z.float() * std + mean).unflatten(1, (3, 16))
            packets = torch.einsum("kp,bckhw->bcphw", _walsh_patterns().to(z.device), coefficients).flatten(1, 2)
            pixels = F.pixel_shuffle(packets, 4)
        return DecoderOutput(sample=pixels + self._refinement(pixels) if refine else pixels)

    def _refinement(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the refiner adds, a strip of rows at a time: its features are five times the picture."""
        halo = sum(isinstance(layer, nn.Conv2d) for layer in self.refiner)  # rows that 3x3 convolutions look beyond
        dtype, height = self.dtype, pixels.shape[-2]
        strips = []
        for top in range(0, height, _STRIP_ROWS):
            first = max(top - halo, 0)
            strip = self.refiner(pixels[..., first : top + _STRIP_ROWS + halo, :].to(dtype))
            strips.append(strip[..., top - first : top - first + _STRIP_ROWS, :].float())
        return torch.cat(strips, -2)

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        # from the config, not from buffers: those would be rounded with the weights in half precision
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
            for values in (self.config.latents_mean, self.config.latents_std)
        )
        return mean, std


@functools.cache
def _walsh_patterns() -> torch.Tensor:
    """The 16 Walsh patterns of 4x4 pixels, (16, 16), orthonormal."""
    lines = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]], dtype=torch.float32) / 2
    return torch.einsum("ay,bx->abyx", lines, lines).flatten(0, 1).flatten(1)


def predict_original_sample(
    scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor
) -> torch.Tensor:
    """The clean latents that a network's output implies.

    Args:
        scheduler: any diffusers scheduler with `alphas_cumprod` and `config.prediction_type`.
        output: (B, C, H, W), what the network said of `sample`.
        timestep: (B,) or a single integer tensor.
        sample: (B, C, H, W) latents at that timestep.
    """
    alpha = scheduler.alphas_cumprod.to(sample.device)[timestep].to(sample.dtype).view(-1, 1, 1, 1)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (sample - (1 - alpha).sqrt() * output) / alpha.sqrt()
        case "v_prediction":
            return alpha.sqrt() * sample - (1 - alpha).sqrt() * output
        case "sample":
            return output
        case other:
            raise ValueError(f"prediction_type={other!r} is unknown; use epsilon, v_prediction or sample.")


def _transformer_like(stock: Transformer2DModel, cross_attention_dim: int) -> Transformer2DModel:
    heads = stock.transformer_blocks[0].attn1.heads
    return Transformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=stock.in_channels // heads,
        in_channels=stock.in_channels,
        num_layers=len(stock.transformer_blocks),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=stock.norm.num_groups,
        use_linear_projection=stock.use_linear_projection,
        only_cross_attention=stock.config.only_cross_attention,
        upcast_attention=stock.config.upcast_attention,
    )


def _as_tokens(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H*W, C)


def _skip_channels(unet: UNet2DConditionModel) -> list[int]:
    channels = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        channels += [resnet.out_channels for resnet in block.resnets]
        channels += [block.resnets[-1].out_channels] * len(block.downsamplers or [])
    return channels
