"""Weights that lie in memory in fewer bits than a network computes with.

diffusers' layerwise casting converts a layer in place before and after its call, so two threads would meet in it. Here
a call converts a copy of its own.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["store_weights"]


class StoredLinear(nn.Linear):
    """A linear layer whose weight becomes, for the time of a call, of its input's number type."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class StoredConv2d(nn.Conv2d):
    """A convolution whose weight becomes, for the time of a call, of its input's number type."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight.to(x.dtype), self.bias)


_STORED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: StoredLinear, nn.Conv2d: StoredConv2d}


def store_weights(network: nn.Module, dtype: torch.dtype, *, compute_dtype: torch.dtype) -> None:
    """Rounds the weights of a network's linear layers and convolutions to `dtype`, in place; the rest is computed with.

    It then computes in `compute_dtype` what it would with rounded weights, and so it is called, from any number of
    threads. Norms, embeddings, biases and what lies directly in the network, its first and last layer, are small or
    matter most, and stay of `compute_dtype`; diffusers takes the first one's for the network's own.
    """
    stored = set()
    for name, layer in network.named_modules():
        kind = _STORED.get(type(layer))
        if kind is not None and "." in name:
            layer.__class__ = kind
            stored.add(f"{name}.weight")
    for name, parameter in network.named_parameters():
        # one at a time: there is never more than one layer's weight in both
        parameter.data = parameter.data.to(dtype if name in stored else compute_dtype)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(compute_dtype)
