"""What frozen encoders said of pictures and texts, kept on disk: pays where the same crops come again and again."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors.torch import load_file, save
from torch import nn

from xpsr.files import atomic_write
from xpsr.models import HaarPackets

__all__ = ["EncodingCache"]

_TEXTS_IN_MEMORY = 1024


class EncodingCache:
    """A folder of encodings, named by what was encoded and by which weights; several processes may share it.

    Every row is encoded by itself, so that what is read is bit for bit what would be computed again. The mini's
    autoencoder, which costs less than a file, and a text encoder that is trained are passed through.

    Raises:
        InputError: from both methods: an encoding cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: dict[int, str] = {}
        self._texts: dict[bytes, torch.Tensor] = {}

    def encode(self, vae: Any, pixels: torch.Tensor) -> DiagonalGaussianDistribution:
        """Returns the distribution of the latents of pixels (B, 3, H, W) in [-1, 1]."""
        if isinstance(vae, HaarPackets):
            return vae.encode(pixels).latent_dist
        rows = [
            self._kept(vae, _bytes(row), lambda row=row: vae.encode(row[None]).latent_dist.parameters) for row in pixels
        ]
        return DiagonalGaussianDistribution(torch.cat(rows).to(pixels.device))

    def embed(self, encoder: Any, ids: torch.Tensor) -> torch.Tensor:
        """Returns embeddings (B, N, D) of token ids (B, N)."""
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            return encoder(ids)[0]
        rows = []
        for row in ids:
            key = _bytes(row)
            if key not in self._texts:
                if len(self._texts) >= _TEXTS_IN_MEMORY:
                    self._texts.pop(next(iter(self._texts)))
                self._texts[key] = self._kept(encoder, key, lambda row=row: encoder(row[None])[0])
            rows.append(self._texts[key])
        return torch.cat(rows).to(ids.device)

    def _kept(self, network: nn.Module, content: bytes, compute: Any) -> torch.Tensor:
        name = hashlib.blake2b(content, digest_size=20).hexdigest()
        path = self.folder / self._name(network) / name[:2] / f"{name}.safetensors"
        if path.is_file():
            return load_file(path)["encoding"]
        value: torch.Tensor = compute().detach().cpu().contiguous()
        with atomic_write(path) as part:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(save({"encoding": value}))
        return value

    def _name(self, network: nn.Module) -> str:
        """Tells networks apart by their weights, and by the number type that they compute with."""
        if id(network) not in self._names:
            digest = hashlib.blake2b(digest_size=8)
            for name, value in network.state_dict().items():
                digest.update(name.encode() + _bytes(value))
            device = next(network.parameters()).device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
            self._names[id(network)] = f"{type(network).__name__}-{digest.hexdigest()}-{dtype}".replace("torch.", "")
        return self._names[id(network)]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
