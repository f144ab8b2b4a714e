"""What is exported of a pipeline: modules of tensors alone, and numbers to try them on."""

from typing import Any

import torch
from torch import nn

from xpsr.models import DeepHaarAutoencoder, Denoiser, XPSRControlNet, XPSRUNet
from xpsr.pipeline import XPSRPipeline

__all__ = ["INPUTS", "example_inputs", "networks_of"]

INPUTS = {
    "image_encoder": ("pixels",),
    "denoiser": ("latents", "timestep", "image_features", "content", "quality", "conditioning_scale"),
    "decoder": ("latents",),
}
"""Names of the inputs of each part, in order."""


class _ImageEncoder(nn.Module):
    """Pixels (1, 3, H, W) in [0, 1] to features (1, C, h, w), which hold for every timestep."""

    def __init__(self, controlnet: XPSRControlNet):
        super().__init__()
        self.encoder = controlnet.image_encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.encoder(pixels, predict_clean=False)[0]
        return features


class _Denoiser(nn.Module):
    """A `Denoiser` of one row of texts, without guidance: latents (1, C, h, w) to the same shape."""

    def __init__(self, controlnet: XPSRControlNet, unet: XPSRUNet):
        super().__init__()
        self.denoiser = Denoiser(controlnet, unet)

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        image_features: torch.Tensor,
        content: torch.Tensor,
        quality: torch.Tensor,
        conditioning_scale: Any,  # a tensor, so that it stays an input; the networks multiply by it
    ) -> torch.Tensor:
        unseen = image_features[:, :3]  # the features stand for the pixels
        output: torch.Tensor = self.denoiser(
            latents, timestep, unseen, content, quality, image_features, conditioning_scale=conditioning_scale
        )[0]
        return output


class _Decoder(nn.Module):
    """What decoding latents (1, 48, h, w) adds to their exact inverse: (1, 3, 4h, 4w)."""

    def __init__(self, vae: DeepHaarAutoencoder):
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.residual(latents, latents[:, :3])  # it looks at the latents alone


def networks_of(pipe: XPSRPipeline) -> dict[str, nn.Module]:
    """Returns what is exported, by part; an autoencoder of another kind than the mini's stays torch's."""
    networks: dict[str, nn.Module] = {
        "image_encoder": _ImageEncoder(pipe.controlnet),
        "denoiser": _Denoiser(pipe.controlnet, pipe.unet),
    }
    if isinstance(pipe.vae, DeepHaarAutoencoder):
        networks["decoder"] = _Decoder(pipe.vae)
    return {part: network.eval() for part, network in networks.items()}


def example_inputs(pipe: XPSRPipeline, part: str, tile: tuple[int, int] | None) -> dict[str, torch.Tensor]:
    """Returns float32 inputs of a part, the same at every call, for latents of a size (height, width); None: of any."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    height, width = tile or (24, 32)
    channels, factor = pipe.unet.config.in_channels, pipe.vae_scale_factor
    places, dim = pipe.text_encoder.config.max_position_embeddings, pipe.text_encoder.config.hidden_size
    features = pipe.controlnet.config.block_out_channels[0]
    values = {
        "pixels": torch.rand(1, 3, height * factor, width * factor, generator=generator),
        "latents": normal(1, channels, height, width),
        "timestep": torch.tensor(250.0),
        "image_features": normal(1, features, height, width),
        "content": normal(1, places, dim),
        "quality": normal(1, places, dim),
        "conditioning_scale": torch.tensor(1.0),
    }
    return {name: values[name] for name in INPUTS[part]}
