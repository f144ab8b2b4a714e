"""`AutoencoderKL` in strips of rows that share the statistics of every GroupNorm: they give what the whole gives.

A norm looks at all of a picture, so what lies between two of them is made strip by strip and kept: one resnet's input,
its output in strips and, for a moment, these joined, in the computer's memory. At the widest level of Stable
Diffusion's autoencoder, whose first and last resnets have 128 channels at the size of the pixels, that is 1.5 kB a
pixel in float32 and half of that in half precision; what a device holds depends on the strip alone. The middle block,
with its attention over the whole picture, is at the latents' size and sees all of them at once.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UpDecoderBlock2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from xpsr.models import joined

__all__ = ["decode_in_strips", "encode_in_strips"]

Layers: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

_HALO = 2
"""Rows that a resnet, which has two convolutions, or what enlarges or halves looks at beyond each."""


@apply_forward_hook
def encode_in_strips(vae: AutoencoderKL, pixels: torch.Tensor, *, rows: int) -> DiagonalGaussianDistribution:
    """Returns the `latent_dist` of `vae.encode`, within what float32 rounds.

    Args:
        vae: its blocks are Stable Diffusion's, `DownEncoderBlock2D`; others are given all at once.
        pixels: (1, 3, H, W) in [-1, 1].
        rows: of pixels that the layers see at once.
    """
    encoder = vae.encoder
    features = _Features(pixels.cpu(), pixels.device, rows).through(encoder.conv_in)
    for block in encoder.down_blocks:
        features = _through_block(features, block)
    whole = encoder.mid_block(features.kept.to(pixels.device))
    moments = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(whole)))
    return DiagonalGaussianDistribution(moments if vae.quant_conv is None else vae.quant_conv(moments))


@apply_forward_hook
def decode_in_strips(vae: AutoencoderKL, latents: torch.Tensor, *, rows: int) -> Iterator[torch.Tensor]:
    """Yields strips (1, 3, rows, W) of the sample of `vae.decode`, within what float32 rounds.

    Args:
        vae: its blocks are Stable Diffusion's, `UpDecoderBlock2D`; others are given all at once.
        latents: (1, C, h, w), not scaled.
        rows: of pixels that the layers see at once.
    """
    decoder = vae.decoder
    if vae.post_quant_conv is not None:
        latents = vae.post_quant_conv(latents)
    middle = decoder.mid_block(decoder.conv_in(latents))
    rows >>= sum(len(block.upsamplers or []) for block in decoder.up_blocks)
    features = _Features(middle.cpu(), middle.device, max(rows, 1))
    for block in decoder.up_blocks:
        features = _through_block(features, block)
    norm = features.shared(decoder.conv_norm_out, _same)
    yield from features.strips(lambda strip: decoder.conv_out(decoder.conv_act(norm(strip))))


@dataclass(frozen=True)
class _Features:
    """Features of a whole picture, and how they are looked at.

    Attributes:
        kept: (1, C, H, W), in the computer's memory.
        device: of the layers.
        rows: of `kept` that the layers see at once.
        enlarge: what they go through first, whenever they are looked at: kept, what it makes would be the largest.
    """

    kept: torch.Tensor
    device: torch.device
    rows: int
    enlarge: Layers | None = None

    def strips(self, layers: Layers) -> Iterator[torch.Tensor]:
        """Yields strips (1, C', rows, W') of what layers, which look at most two rows beyond each, make of them."""
        height, rows = self.kept.shape[-2], self.rows + self.rows % 2  # what halves them has whole rows then
        for top in range(0, height, rows):
            first, last = max(top - _HALO, 0), min(top + rows + _HALO, height)
            strip = self.kept[..., first:last, :].to(self.device)
            made = layers(strip if self.enlarge is None else self.enlarge(strip))
            scale = Fraction(made.shape[-2], last - first)
            start, count = int((top - first) * scale), int((min(top + rows, height) - top) * scale)
            yield made[..., start : start + count, :]

    def through(self, layers: Layers) -> "_Features":
        """Returns what layers, which look at most two rows beyond each, make of them."""
        return self._made(joined([strip.cpu() for strip in self.strips(layers)]))

    def through_whole(self, layers: Layers) -> "_Features":
        """Returns what layers make of them that see them all at once."""
        whole = self.kept.to(self.device)
        return self._made(layers(whole if self.enlarge is None else self.enlarge(whole)).cpu())

    def _made(self, kept: torch.Tensor) -> "_Features":
        """What was made of them, looked at in strips of the same part of the picture."""
        return _Features(kept, self.device, max(self.rows * kept.shape[-2] // self.kept.shape[-2], 1))

    def shared(self, norm: nn.GroupNorm, layers: Layers) -> Layers:
        """Returns `norm` with the mean and variance of all that layers make of them."""
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for strip in self.strips(layers):
            groups = strip.float().unflatten(1, (norm.num_groups, -1)).flatten(2)  # (1, C, h, w) -> (1, groups, N)
            more = groups.shape[-1]
            variance, average = (value.cpu().double() for value in torch.var_mean(groups, -1, correction=0))
            distance, share = average - mean, more / (count + more)  # Chan's formula, which forgets no digits
            squares = squares + variance * more + distance.square() * count * share
            mean, count = mean + distance * share, count + more
        channels = norm.num_channels // norm.num_groups
        mean, spread = (
            value.repeat_interleave(channels, 1).to(self.device, torch.float32)[..., None, None]  # (1, C, 1, 1)
            for value in (mean, (squares / count + norm.eps).rsqrt())
        )
        weight, bias = (value.float()[:, None, None] for value in (norm.weight, norm.bias))
        return lambda strip: ((strip.float() - mean) * (spread * weight) + bias).to(strip.dtype)


def _through_block(features: _Features, block: Any) -> _Features:
    """Applies a block of Stable Diffusion's autoencoder in strips, another one all at once."""
    if type(block) not in (DownEncoderBlock2D, UpDecoderBlock2D):
        return features.through_whole(block)
    for resnet in block.resnets:
        features = _through_resnet(features, resnet)
    if type(block) is UpDecoderBlock2D:
        for upsampler in block.upsamplers or []:
            features = dataclasses.replace(features, enlarge=upsampler)
    else:
        for downsampler in block.downsamplers or []:
            features = features.through(downsampler)
    return features


def _through_resnet(features: _Features, resnet: Any) -> _Features:
    """Applies a resnet: a sweep for each of its norms, and one whose features are kept."""
    first = features.shared(resnet.norm1, _same)

    def half(strip: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = resnet.conv1(resnet.nonlinearity(first(strip)))
        return made

    second = features.shared(resnet.norm2, half)

    def whole(strip: torch.Tensor) -> torch.Tensor:
        made = resnet.conv2(resnet.nonlinearity(second(half(strip))))
        shortcut = strip if resnet.conv_shortcut is None else resnet.conv_shortcut(strip)
        return (shortcut + made) / resnet.output_scale_factor

    return features.through(whole)


def _same(strip: torch.Tensor) -> torch.Tensor:
    return strip
