"""ControlNet, UNet and guidance as one network: what the pipeline, its tiles, compilation and export call."""

from dataclasses import dataclass

import torch
from torch import nn

from xpsr.models.controlnet import XPSRControlNet
from xpsr.models.unet import XPSRUNet

__all__ = ["Denoiser", "DenoiserCache"]


@dataclass
class DenoiserCache:
    """What the steps of a run share of one tile: made by the run, filled by the first step that is handed it.

    Attributes:
        deep_features: what the levels below the outermost one have said in that step.
    """

    deep_features: torch.Tensor | None = None


class Denoiser(nn.Module):
    """From noisy latents, and what the networks look at, to what they say of the latents; tensors in, tensors out.

    The networks stay their owners': making one of these costs nothing and copies nothing.
    """

    def __init__(self, controlnet: XPSRControlNet, unet: XPSRUNet):
        super().__init__()
        self.controlnet, self.unet = controlnet, unet

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        pixels: torch.Tensor,
        content: torch.Tensor,
        quality: torch.Tensor,
        image_features: torch.Tensor | None = None,
        *,
        guidance_scale: float = 1.0,
        conditioning_scale: float = 1.0,
        cache: DenoiserCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicts noise, velocity or sample, whichever the UNet has learned.

        Args:
            latents: (B, C, h, w), as noisy as `timestep` says.
            timestep: a scalar, one for all.
            pixels: (B, 3, H, W) in [0, 1], the picture that is restored.
            content: (B, N, D) embeddings; under guidance (2B, N, D), the negative ones first.
            quality: (B or 2B, M, D) likewise.
            image_features: what the call before gave for the same pixels; None: they are computed.
            guidance_scale: how far the output is led away from the negative texts, where there are any.
            conditioning_scale: how much the ControlNet's residuals count.
            cache: of the same tile and as many texts; an empty one is filled, and with a full one only the outermost
                level of both networks is computed.

        Returns:
            float32 (B, C, h, w), and the image features, which hold for every timestep.
        """
        copies = len(content) // len(latents)
        if copies > 1:
            latents = latents.repeat(copies, 1, 1, 1)
        output, image_features = self.predict(
            latents, timestep, pixels, content, quality, image_features, conditioning_scale, cache
        )
        if copies > 1:
            negative, positive = output.chunk(2)
            output = negative + guidance_scale * (positive - negative)
        return output, image_features

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        pixels: torch.Tensor,
        content: torch.Tensor,
        quality: torch.Tensor,
        image_features: torch.Tensor | None,
        conditioning_scale: float,
        cache: DenoiserCache | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Does what `forward` does, without guidance: latents (B or 2B, C, h, w) are one for each row of texts.

        An engine that computes the networks takes the place of this.
        """
        deep_features = None if cache is None else cache.deep_features
        control = self.controlnet(
            latents,
            timestep,
            content,
            pixels,
            conditioning_scale,
            quality_hidden_states=quality,
            image_features=image_features,
            predict_clean=False,
            outermost_only=deep_features is not None,
        )
        made = self.unet(
            latents,
            timestep,
            content,
            control.down_block_res_samples,
            control.mid_block_res_sample,
            deep_features=deep_features,
        )
        if cache is not None:
            cache.deep_features = made.deep_features
        return made.sample.float(), control.image_features
