"""Distances in the features of networks: ENet-dist, LPIPS and DISTS.

The weights of the first come with xpsr. Those of the others lie in a folder that the user names, under the names that
they were published by; `FILES` says which. They are read as tensors, never as code.
"""

import functools
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from xpsr.caches import digest
from xpsr.errors import InputError, brief
from xpsr.features import EfficientNetFeatures, feature_distance
from xpsr.image import to_uint8

__all__ = ["FILES", "MIN_SIDE", "Distance", "check_side", "enet_distance", "open_distance"]

Distance = Callable[[torch.Tensor, torch.Tensor], float]
"""Of two pictures (3, H, W) in [0, 1]."""

MIN_SIDE = 32  # pixels: the coarsest features of EfficientNet and VGG have a side of 1 or 2 then

_ALEX, _VGG = "alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"  # torchvision's

FILES: Mapping[str, tuple[str, str]] = {
    "lpips_alex": (_ALEX, "alex.pth"),
    "lpips_vgg": (_VGG, "vgg.pth"),
    "dists": (_VGG, "weights.pt"),
}
"""Of each learned metric its network's and its own file."""

_Layer = tuple[int, int, int, int, int] | None  # widths, kernel, stride, padding; None: pooling
_ALEX_LAYERS: tuple[_Layer, ...] = (
    (3, 64, 11, 4, 2),
    None,
    (64, 192, 5, 1, 2),
    None,
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
_VGG_WIDTHS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def enet_distance(restored: torch.Tensor, hr: torch.Tensor) -> float:
    """Returns 1 - cosine of EfficientNet-Lite0's features at strides 4, 8, 16 and 32, averaged; 0 for equal pictures.

    Args:
        restored: (3, H, W) in [0, 1], compared in 8 bits.
        hr: of the same shape.

    Raises:
        InputError: a side is below `MIN_SIDE`.
    """
    check_side(hr, "ENet-dist")
    network = _efficientnet()
    with torch.inference_mode():
        pictures = (_eight_bit(pixels).contiguous(memory_format=torch.channels_last) for pixels in (restored, hr))
        one, other = map(network, pictures)
        return max(feature_distance(one, other).item(), 0.0)  # equal ones may come out at -1e-8


@functools.cache
def _efficientnet() -> EfficientNetFeatures:
    network = EfficientNetFeatures((3, 5, 11, 16)).eval()
    for convolution in network.modules():
        if isinstance(convolution, nn.Conv2d):  # channels last are twice as fast on a CPU
            weight = convolution.weight
            weight.data = weight.contiguous(memory_format=torch.channels_last)
    return network


def check_side(pixels: torch.Tensor, name: str) -> None:
    """Refuses a picture (..., H, W) too small for a network."""
    height, width = pixels.shape[-2:]
    if min(height, width) < MIN_SIDE:
        message = f"{width} x {height} pixels are too few for {name}"
        raise InputError(message, code="too_small", remedy=f"use at least {MIN_SIDE} x {MIN_SIDE}")


def _eight_bit(pixels: torch.Tensor) -> torch.Tensor:
    """(3, H, W) -> (1, 3, H, W), values as a file of 8 bits has them."""
    return to_uint8(pixels)[None].cpu().float() / 255


def open_distance(name: str, folder: Path, checksums: Mapping[str, str]) -> tuple[Distance, str]:
    """Returns one of the metrics of `FILES`, and the SHA-256 of its two files, joined by a plus sign.

    Args:
        name: of the metric.
        folder: where its files are.
        checksums: SHA-256, or how it begins, by the name of the file; others are not checked.

    Raises:
        InputError: a file is missing, is not what its checksum says, or does not hold what it should.
    """
    found = [_read(folder / file, checksums.get(file, "")) for file in FILES[name]]
    (network, sum_of_network), (head, sum_of_head) = found
    made = Dists if name == "dists" else functools.partial(Lpips, name)
    try:
        distance = made(network, head).eval()
    except (RuntimeError, KeyError, AttributeError) as error:
        files = " and ".join(str(folder / file) for file in FILES[name])
        message = f"{files}: do not hold the weights of {name} ({brief(error)})"
        raise InputError(message, code="mismatch", remedy="get them again") from error
    return distance.measure, f"{sum_of_network}+{sum_of_head}"


def _read(path: Path, expected: str) -> tuple[Mapping[str, torch.Tensor], str]:
    if not path.is_file():
        raise InputError(f"{path}: no such file", code="not_found", remedy="docs/metrics.md says where to get it")
    found = digest(path)
    if not found.startswith(expected):
        message = f"{path}: its SHA-256 is {found[: max(len(expected), 8)]}, and the protocol says {expected}"
        raise InputError(message, code="damaged", remedy="get it again, or leave it out of the protocol's weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        message = f"{path}: holds no weights that can be read ({brief(error)})"
        raise InputError(message, code="damaged", remedy="get it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no weights", code="damaged", remedy="get it again")
    if not all(value.isfinite().all() for value in state.values()):
        raise InputError(f"{path}: its weights are not finite", code="damaged", remedy="get it again")
    return state, found


class _Convolutions(nn.Module):
    """Convolutions, each with a ReLU, and pooling, under the names that torchvision gives their weights.

    Args:
        layers: what it is made of.
        pool: makes what stands for each None, of the width there.
        looked_at: numbers of the modules after which features are taken.
        state: weights; those that do not begin with "features." are passed over.
    """

    def __init__(
        self,
        layers: Sequence[_Layer],
        pool: Callable[[int], nn.Module],
        looked_at: Sequence[int],
        state: Mapping[str, torch.Tensor],
    ):
        super().__init__()
        modules: list[nn.Module] = []
        width = 3
        for layer in layers:
            if layer is None:
                modules.append(pool(width))
            else:
                width_in, width, kernel, stride, padding = layer
                modules += [nn.Conv2d(width_in, width, kernel, stride, padding), nn.ReLU()]
        self.looked_at = tuple(looked_at)
        self.features = nn.Sequential(*modules)
        self.load_state_dict({name: value for name, value in state.items() if name.startswith("features.")})
        self.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        x, found = pixels, []
        for number, module in enumerate(self.features):
            x = module(x)
            if number in self.looked_at:
                found.append(x)
        return found


def _alexnet(state: Mapping[str, torch.Tensor]) -> _Convolutions:
    return _Convolutions(_ALEX_LAYERS, lambda width: nn.MaxPool2d(3, 2), (1, 4, 7, 9, 11), state)


def _vgg16(state: Mapping[str, torch.Tensor], pool: Callable[[int], nn.Module]) -> _Convolutions:
    layers: list[_Layer] = []
    width_in = 3
    for width, count in _VGG_WIDTHS:
        layers += [None] if layers else []
        for _ in range(count):
            layers.append((width_in, width, 3, 1, 1))
            width_in = width
    return _Convolutions(layers, pool, (3, 8, 15, 22, 29), state)


class Lpips(nn.Module):
    """LPIPS (Zhang et al. 2018), version 0.1: squared differences of features of unit length, weighted by channel."""

    def __init__(self, name: str, network: Mapping[str, torch.Tensor], head: Mapping[str, torch.Tensor]):
        super().__init__()
        self.name = name
        if name == "lpips_alex":
            self.network, widths = _alexnet(network), [layer[1] for layer in _ALEX_LAYERS if layer]
        else:
            self.network, widths = _vgg16(network, lambda width: nn.MaxPool2d(2)), [width for width, _ in _VGG_WIDTHS]
        self.weights = [head[f"lin{k}.model.1.weight"].view(1, width, 1, 1) for k, width in enumerate(widths)]
        # means and deviations of ImageNet's colours, for pixels in [-1, 1]
        self.mean = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
        self.deviation = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

    @torch.inference_mode()
    def measure(self, restored: torch.Tensor, hr: torch.Tensor) -> float:
        """Returns the distance of two pictures (3, H, W) in [0, 1], compared in 8 bits."""
        check_side(hr, self.name)
        stages = zip(*(self._unit(_eight_bit(pixels)) for pixels in (restored, hr)), self.weights, strict=True)
        return sum(((one - other).square() * weight).sum(1).mean().item() for one, other, weight in stages)

    def _unit(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        found = self.network((2 * pixels - 1 - self.mean) / self.deviation)
        return [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in found]


class Dists(nn.Module):
    """DISTS (Ding et al. 2020): 1 - the similarity of means and of structure of features, weighted by channel."""

    def __init__(self, network: Mapping[str, torch.Tensor], head: Mapping[str, torch.Tensor]):
        super().__init__()
        self.network = _vgg16(network, _L2Pooling)
        total = head["alpha"].sum() + head["beta"].sum()
        widths = [3, *(width for width, _ in _VGG_WIDTHS)]
        self.alpha, self.beta = (torch.split(head[part].flatten() / total, widths) for part in ("alpha", "beta"))
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        self.deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

    @torch.inference_mode()
    def measure(self, restored: torch.Tensor, hr: torch.Tensor) -> float:
        """Returns the distance of two pictures (3, H, W) in [0, 1], compared in 8 bits."""
        check_side(hr, "DISTS")
        pictures = [_eight_bit(pixels) for pixels in (restored, hr)]
        stages = zip(*([x, *self.network((x - self.mean) / self.deviation)] for x in pictures), strict=True)
        similarity = 0.0
        for (one, other), alpha, beta in zip(stages, self.alpha, self.beta, strict=True):
            a, b = one[0].flatten(1), other[0].flatten(1)  # (1, C, h, w) -> (C, h * w)
            mean_a, mean_b = a.mean(1), b.mean(1)
            var_a, var_b = a.var(1, correction=0), b.var(1, correction=0)
            covariance = (a * b).mean(1) - mean_a * mean_b
            means = (2 * mean_a * mean_b + 1e-6) / (mean_a**2 + mean_b**2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (var_a + var_b + 1e-6)
            similarity += ((alpha * means).sum() + (beta * structure).sum()).item()
        return max(1 - similarity, 0.0)  # of equal ones it comes out at -1e-7


class _L2Pooling(nn.Module):
    """The root of the squares' average over 3 x 3 by a Hann window: half the size without aliases (Hénaff 2016)."""

    def __init__(self, width: int):
        super().__init__()
        line = torch.from_numpy(np.hanning(5)[1:-1]).float()
        window = torch.outer(line, line)
        self.window = (window / window.sum()).expand(width, 1, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (F.conv2d(x.square(), self.window, stride=2, padding=1, groups=len(self.window)) + 1e-12).sqrt()
