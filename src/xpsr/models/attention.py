"""Attentions that XPSR adds to diffusers' blocks: fusion of two texts, and windows.

Source: XPSR, arXiv 2403.05049, for the fusion; the windows, and what is done piece by piece, are ours.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import nn

__all__ = ["PiecewiseFeedForward", "SemanticFusionAttention", "WindowAttention", "WindowAttnProcessor", "as_tokens"]

_PIECE = 4096  # tokens; of 16,384 at once a layer of width 64 takes three times as long (benchmarks/LOG.md)


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
        (fused,) = self.fusion(content, as_tokens(quality), **shared)
        return (fused,)


class PiecewiseFeedForward(FeedForward):
    """diffusers' layer; on a CPU it takes some thousand of many tokens at a time, which gives the same, sooner."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps (B, tokens, C) to the same shape."""
        whole = hidden_states.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if whole or hidden_states.shape[1] <= _PIECE:
            return super().forward(hidden_states)
        return torch.cat([*map(super().forward, hidden_states.split(_PIECE, 1))], 1)


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
        (rows, top, tall), (columns, left, wide) = (self._lines(n, context.device) for n in (height, width))
        across, size = len(columns) // wide, tall * wide
        # One gather into the order of windows and one out of it: views and permutations would each copy once more
        seen = rows.view(-1, 1, tall, 1) * width + columns.view(1, -1, 1, wide)
        row, column = (torch.arange(n, device=context.device) for n in (height, width))
        row, column = (row + top)[:, None], column + left
        places = (row // tall * across + column // wide) * size + row % tall * wide + column % wide

        def split(tokens: torch.Tensor) -> torch.Tensor:  # (B, H*W, C) -> (B*windows, heads, tall*wide, C/heads)
            windows = tokens.index_select(1, seen.flatten()).unflatten(1, (-1, size)).flatten(0, 1)
            return windows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        windows = F.scaled_dot_product_attention(
            split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        )
        windows = windows.transpose(1, 2).flatten(-2)  # (B*windows, tall*wide, C)
        tokens = windows.unflatten(0, (len(hidden_states), -1)).flatten(1, 2).index_select(1, places.flatten())
        return attn.to_out[1](attn.to_out[0](tokens))

    def _lines(self, length: int, device: torch.device) -> tuple[torch.Tensor, int, int]:
        """Which rows (or columns) the windows hold, how many of them stand before the first, and a window's size."""
        size, shift = (self.size, self.shift) if length >= self.size else (length, 0)
        lines = torch.arange(-shift, -(-(length + shift) // size) * size - shift, device=device)
        return lines.clamp(0, length - 1), shift, size


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


def as_tokens(hidden_states: torch.Tensor) -> torch.Tensor:
    """Turns a grid (B, C, H, W) into tokens (B, H*W, C)."""
    return hidden_states.flatten(2).transpose(1, 2)
