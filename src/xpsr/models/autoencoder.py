"""Autoencoders of the mini's kind: exact Walsh-Haar packets, and what a decoder adds to their inverse."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKLOutput
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from xpsr.models.strips import Rows, joined, split_rows, streamed

__all__ = ["GRID_HALO", "HAAR_AUTOENCODERS", "DeepHaarAutoencoder", "HaarAutoencoder", "HaarPackets", "ResidualDecoder"]

GRID_HALO = 4  # latent pixels on either side of one that `HaarPackets.without_grid` looks at
_STRIP_ROWS = 512  # pixels, of what the refiner is given at once
_STRIP_LATENTS = 2**16  # of what the decoder is given at once: its widest layers take 3 kB for each of them


class HaarPackets(ModelMixin, ConfigMixin, ABC):
    """Fixed two-level Walsh-Haar packets: stride 4, 48 channels. What decoding adds to their inverse, a subclass says.

    Channels are the 16 orthonormal 4x4 Walsh patterns of each colour, less `latents_mean`, over `latents_std`. Speaks
    `AutoencoderKL`'s language: `encode(...).latent_dist`, `decode(...).sample`.
    """

    spatial_compression_ratio = 4
    latent_channels = 48

    @apply_forward_hook
    def encode(self, x: torch.Tensor) -> AutoencoderKLOutput:
        """Maps pixels (B, 3, H, W) in [-1, 1] to a distribution without spread over (B, 48, H/4, W/4)."""
        if x.shape[-1] % 4 or x.shape[-2] % 4:
            raise ValueError(f"height and width must be multiples of 4, got {tuple(x.shape[-2:])}; pad the picture.")
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would cost two of the eight bits of a pixel
            mean, std = self._statistics(x.device)
            latents = ((_packets(x.float()) - mean) / std).to(x.dtype)
        moments = torch.cat([latents, torch.zeros_like(latents)], 1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments, deterministic=True))

    @apply_forward_hook
    def decode(self, z: torch.Tensor, *, refine: bool = True, fidelity: float = 0.0) -> DecoderOutput:
        """Maps (B, 48, h, w) to float32 pixels (B, 3, 4h, 4w), about [-1, 1]; `refine=False` inverts encode exactly.

        `fidelity`, 0 to 1, is for one that `has_fidelity`: at 0 it adds what looks best, at 1 what is safest.
        """
        pixels = self._inverse(z)
        if refine:
            pixels = pixels + self.residual(z, pixels, fidelity=fidelity).float()
        return DecoderOutput(sample=pixels)

    @apply_forward_hook
    def decode_strips(
        self, strips: Iterable[torch.Tensor], height: int, *, fidelity: float = 0.0
    ) -> Iterator[torch.Tensor]:
        """Does what `decode` does with latents of which only a strip is known at a time.

        Args:
            strips: (B, 48, rows, w), from the top on, together `height` rows.
            height: of the whole, in latents.
            fidelity: as of `decode`.

        Yields:
            Strips (B, 3, rows, 4w) of the pixels; their rows are not those of the strips that come.
        """
        waiting = Rows()  # what is added comes some rows later

        def inverted() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for z in strips:
                pixels = self._inverse(z)
                waiting.append(pixels)
                yield z, pixels

        for added in self.residual_strips(inverted(), height, fidelity=fidelity):
            yield waiting.take(added.shape[-2]) + added.float()

    @property
    def has_fidelity(self) -> bool:
        """Whether it knows more than one way to decode."""
        return False

    def without_grid(self, latents: torch.Tensor) -> torch.Tensor:
        """Returns what latents (B, 48, h, w), or a change of them, say without what repeats from one to the next.

        Of each pattern but the mean, the average over the 9 x 9 latents around is taken away. What an average says of
        such a pattern are the frequencies of the grid of latents, of which photographs have next to nothing; but for a
        network nothing is easier to say, and what it says shows as dots four pixels apart.
        """
        patterns = torch.arange(self.latent_channels, device=latents.device) % 16 > 0  # the first is the mean
        return latents - _average(latents) * patterns.view(-1, 1, 1)

    @abstractmethod
    def residual(self, z: torch.Tensor, pixels: torch.Tensor, *, fidelity: float = 0.0) -> torch.Tensor:
        """Returns what is added to `pixels` (B, 3, 4h, 4w), the exact inverse of `z` (B, 48, h, w)."""

    @abstractmethod
    def residual_strips(
        self, strips: Iterable[tuple[torch.Tensor, torch.Tensor]], height: int, *, fidelity: float = 0.0
    ) -> Iterator[torch.Tensor]:
        """Yields strips of what `residual` returns for the whole of strips of latents and pixels, `height` latents."""

    def _inverse(self, z: torch.Tensor) -> torch.Tensor:
        with torch.autocast(z.device.type, enabled=False):
            mean, std = self._statistics(z.device)
            coefficients = (z.float() * std + mean).unflatten(1, (3, 16))
            packets = torch.einsum("kp,bckhw->bcphw", _walsh_patterns().to(z.device), coefficients).flatten(1, 2)
            return F.pixel_shuffle(packets, 4)

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        # from the config, not from buffers: those would be rounded with the weights in half precision
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
            for values in (self.config.latents_mean, self.config.latents_std)
        )
        return mean, std


class HaarAutoencoder(HaarPackets):
    """Walsh-Haar packets whose inverse a small `refiner` (3x3 convolutions on pixels, zero at first) mends.

    The first minis have it; new ones have a `DeepHaarAutoencoder`.
    """

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
            layers += [_conv(width_in, width_out), nn.SiLU()]
        last = _conv(widths[-1], 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.refiner = nn.Sequential(*layers, last)

    def residual(self, z: torch.Tensor, pixels: torch.Tensor, *, fidelity: float = 0.0) -> torch.Tensor:
        """Returns (B, 3, 4h, 4w), of the exact inverse alone."""
        pairs = ((z, strip) for strip in pixels.split(_STRIP_ROWS, -2))
        return joined(self.residual_strips(pairs, z.shape[-2], fidelity=fidelity))

    def residual_strips(
        self, strips: Iterable[tuple[torch.Tensor, torch.Tensor]], height: int, *, fidelity: float = 0.0
    ) -> Iterator[torch.Tensor]:
        """Yields strips (B, 3, rows, 4w), of the exact inverse alone."""
        if fidelity:
            raise ValueError(f"{type(self).__name__} has no weights for fidelity={fidelity:g}; use 0.")
        halo = sum(isinstance(layer, nn.Conv2d) for layer in self.refiner)  # rows that 3x3 convolutions look beyond
        pixels = (strip.to(self.dtype) for _, strip in strips)
        return streamed(pixels, self.refiner, halo=halo, height=4 * height)


class DeepHaarAutoencoder(HaarPackets):
    """Walsh-Haar packets whose inverse a deep convolutional `decoder` of the latents adds to: `ResidualDecoder`.

    One `with_fidelity` has a second one, `faithful`, of differences: with them on its weights, the decoder paints
    nothing that the picture does not tell, and with a share of them a share of it.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latents_mean: Sequence[float] = (0.0,) * 48,
        latents_std: Sequence[float] = (1.0,) * 48,
        decoder_channels: int = 64,
        decoder_layers: int = 24,
        scaling_factor: float = 1.0,
        with_fidelity: bool = False,
    ):
        super().__init__()
        self.decoder = ResidualDecoder(decoder_channels, decoder_layers, latent_channels=self.latent_channels)
        self.faithful = None
        if with_fidelity:
            self.faithful = ResidualDecoder(decoder_channels, decoder_layers, latent_channels=self.latent_channels)

    @classmethod
    def from_pixels(
        cls, pixels: torch.Tensor, *, decoder_channels: int = 64, decoder_layers: int = 24
    ) -> "DeepHaarAutoencoder":
        """Takes mean and spread from pictures (B, 3, H, W) in [-1, 1].

        Each channel is divided by the square root of its spread, all by one number that makes the overall variance 1:
        full whitening would drown a loss in high-frequency noise.
        """
        coefficients = _packets(pixels.float()).transpose(0, 1).flatten(1)  # (48, N)
        mean, spread = coefficients.mean(1), coefficients.std(1)
        std = spread.sqrt() * spread.mean().sqrt()  # (spread / std)^2 = spread / mean(spread), whose mean is 1
        std = std.clamp_min(1e-3)  # a constant picture has no spread
        return cls(
            latents_mean=mean.tolist(),
            latents_std=std.tolist(),
            decoder_channels=decoder_channels,
            decoder_layers=decoder_layers,
        )

    def residual(self, z: torch.Tensor, pixels: torch.Tensor, *, fidelity: float = 0.0) -> torch.Tensor:
        """Returns (B, 3, 4h, 4w), of the latents alone; with the share `fidelity` of `faithful` on the weights."""
        added = self._decoder_of(fidelity)(z.to(self.dtype))
        return joined(_unrepeated(split_rows(added, _STRIP_ROWS), added.shape[-2]))

    def residual_strips(
        self, strips: Iterable[tuple[torch.Tensor, torch.Tensor]], height: int, *, fidelity: float = 0.0
    ) -> Iterator[torch.Tensor]:
        """Yields strips (B, 3, rows, 4w) likewise."""
        latents = (z.to(self.dtype) for z, _ in strips)
        return _unrepeated(self._decoder_of(fidelity).streamed(latents, height), 4 * height)

    @property
    def has_fidelity(self) -> bool:
        """Whether it has `faithful`."""
        return self.faithful is not None

    def faithful_weights(self) -> dict[str, torch.Tensor]:
        """Returns the decoder's weights at fidelity 1, by name, float32."""
        return {name: value.float() for name, value in self._weights_of(1).items()}

    @torch.no_grad()
    def set_faithful_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Makes `faithful` the difference of the decoder, as it is now, to `weights`."""
        assert self.faithful is not None
        for name, difference in self.faithful.named_parameters():
            own = self.decoder.get_parameter(name)
            difference.copy_(weights[name].to(difference.device, torch.float32) - own.float())

    def _weights_of(self, fidelity: float) -> dict[str, torch.Tensor]:
        assert self.faithful is not None
        differences = self.faithful.state_dict()
        return {name: value + fidelity * differences[name] for name, value in self.decoder.state_dict().items()}

    def _decoder_of(self, fidelity: float) -> "ResidualDecoder":
        if fidelity == 0:
            return self.decoder
        if self.faithful is None:
            raise ValueError(f"{type(self).__name__} has no weights for fidelity={fidelity:g}; use 0.")
        channels, layers = self.config.decoder_channels, self.config.decoder_layers
        with torch.device("meta"):
            mixed = ResidualDecoder(channels, layers, latent_channels=self.latent_channels)
        mixed.load_state_dict(self._weights_of(fidelity), assign=True)
        return mixed.to(self.device)  # weights of offloaded layers wait elsewhere


HAAR_AUTOENCODERS: dict[str, type[HaarPackets]] = {
    kind.__name__: kind for kind in (DeepHaarAutoencoder, HaarAutoencoder)
}
"""By the name that `model_index.json` calls them."""


class ResidualDecoder(nn.Module):
    """Latents (B, C, h, w) to pixels (B, 3, 4h, 4w): residual blocks at the latents' size, then twice a pixel shuffle.

    A new one says next to nothing. Large pictures go through it a strip of rows at a time, which gives the same.
    """

    def __init__(self, channels: int, layers: int, *, latent_channels: int):
        super().__init__()
        self.conv_in = _conv(latent_channels, channels)
        self.blocks = nn.ModuleList(_residual_block(channels) for _ in range(layers))
        self.up1, self.mid = _conv(channels, 2 * channels), _conv(channels // 2, channels // 2)
        self.up2, self.conv_out = _conv(channels // 2, channels), _conv(channels // 4, 3)
        nn.init.normal_(self.conv_out.weight, std=0.01)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns what is added to the exact inverse of `z`."""
        rows = max(1, _STRIP_LATENTS // z.shape[-1])
        return joined(self.streamed(split_rows(z, rows), z.shape[-2]))

    def streamed(self, strips: Iterable[torch.Tensor], height: int) -> Iterator[torch.Tensor]:
        """Yields strips (B, 3, rows, 4w) of what `forward` returns for the whole of strips of latents.

        Each layer keeps the last rows that it has seen, so that nothing is made twice but within a block.
        """
        strips = (strip.contiguous(memory_format=torch.channels_last) for strip in strips)
        strips = streamed(strips, self.conv_in, halo=1, height=height)
        for block in self.blocks:
            strips = streamed(strips, partial(_added, block), halo=2, height=height)
        return streamed(strips, self._enlarge, halo=3, height=height)

    def _enlarge(self, h: torch.Tensor) -> torch.Tensor:
        h = F.pixel_shuffle(self.up1(F.silu(h)), 2)  # (B, C, h, w) -> (B, C/2, 2h, 2w)
        h = F.silu(self.mid(F.silu(h)), inplace=True).add_(h)
        h = F.pixel_shuffle(self.up2(F.silu(h)), 2)  # (B, C/2, 2h, 2w) -> (B, C/4, 4h, 4w)
        return self.conv_out(F.silu(h))


class _PreActivated(nn.Sequential):
    """Layers after a SiLU that has no number among them: the trained weights are called by their numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.silu(x))


def _residual_block(channels: int) -> nn.Module:
    last = _conv(channels, channels)
    # half of what keeps the variance, or it would grow with every block
    nn.init.normal_(last.weight, std=0.5 * (2 / (9 * channels)) ** 0.5)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return _PreActivated(_conv(channels, channels), nn.SiLU(inplace=True), last)


def _conv(width_in: int, width_out: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, padding=1)


def _added(block: nn.Module, h: torch.Tensor) -> torch.Tensor:
    return block(h).add_(h)


def _unrepeated(strips: Iterable[torch.Tensor], height: int) -> Iterator[torch.Tensor]:
    """Yields pixels (B, C, rows, W) without what repeats from latent to latent, as `HaarPackets.without_grid`.

    Ramps, which are patterns as well, stay: what is smoothed over a latent's width is not looked at.
    """
    return streamed(strips, _without_repeats, halo=4 * (GRID_HALO + 1), height=height)


def _without_repeats(pixels: torch.Tensor) -> torch.Tensor:
    # two averages over four pixels are one over seven that lies in the middle
    smooth = F.avg_pool2d(pixels, 4, 1, 2, count_include_pad=False)
    smooth = F.avg_pool2d(smooth, 4, 1, 1, count_include_pad=False)
    return pixels - F.pixel_shuffle(_average(F.pixel_unshuffle(pixels - smooth, 4)), 4)


def _average(latents: torch.Tensor) -> torch.Tensor:
    """Returns the averages over the windows around latents (B, C, h, w)."""
    side, half = 2 * GRID_HALO + 1, GRID_HALO
    rows = F.avg_pool2d(latents, (side, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, half), count_include_pad=False)


def _packets(pixels: torch.Tensor) -> torch.Tensor:
    """Returns the coefficients (B, 48, H/4, W/4) of float32 pixels (B, 3, H, W)."""
    blocks = F.pixel_unshuffle(pixels, 4).unflatten(1, (3, 16))  # (B, 3, 16, H/4, W/4)
    return torch.einsum("kp,bcphw->bckhw", _walsh_patterns().to(pixels.device), blocks).flatten(1, 2)


def _walsh_patterns() -> torch.Tensor:
    """The 16 Walsh patterns of 4x4 pixels, (16, 16), orthonormal."""
    lines = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]], dtype=torch.float32) / 2
    return torch.einsum("ay,bx->abyx", lines, lines).flatten(0, 1).flatten(1)
