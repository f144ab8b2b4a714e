"""Random weights for networks that are only timed. Needs nothing but torch."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def random_weights(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Draws a parameter such that activations neither die nor explode."""
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)  # the latter of a norm
    return torch.randn(shape, generator=generator) * shape[1:].numel() ** -0.5


def with_random_weights(network: Network) -> Network:
    """Returns a network of the meta device, brought to the CPU; the same weights whenever it is called."""
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(random_weights(name, parameter.shape, generator))
        for name, buffer in network.named_buffers():
            assert name.endswith("position_ids"), name
            buffer.copy_(torch.arange(buffer.shape[-1]))
    return network
