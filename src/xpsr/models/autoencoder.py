"""The autoencoder of the bundled miniature."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKLOutput
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

__all__ = ["HaarAutoencoder"]

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


def _walsh_patterns() -> torch.Tensor:
    """The 16 Walsh patterns of 4x4 pixels, (16, 16), orthonormal."""
    lines = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]], dtype=torch.float32) / 2
    return torch.einsum("ay,bx->abyx", lines, lines).flatten(0, 1).flatten(1)
