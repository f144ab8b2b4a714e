"""EfficientNet-Lite0: the eyes of the bundled describer, and a judge of features in training and evaluation."""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["EfficientNetLite0"]


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
