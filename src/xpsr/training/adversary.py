"""The adversary of the one step: a discriminator that learns to tell restored pictures from clean ones."""

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from xpsr.config import TrainRunConfig
from xpsr.training.losses import Losses
from xpsr.training.optimizers import build_optimizer, optimizer_step

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Adversary", "UShapedDiscriminator"]


class UShapedDiscriminator(nn.Module):
    """Convolutions down to an eighth and back, but for the ends with spectral norm: a score of every pixel.

    A halving is blurred and has no stride of its own to learn with. Strided convolutions weigh pixels by where they lie
    on their grid, and what is trained against them grows that grid.
    """

    def __init__(self, widths: Sequence[int] = (24, 48, 96, 128)) -> None:
        super().__init__()
        steps = list(itertools.pairwise(widths))
        self.enter = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_conv(wide, narrow) for wide, narrow in steps)
        self.middle = _conv(widths[-1], widths[-1])
        self.up = nn.ModuleList(_conv(narrow, wide) for wide, narrow in reversed(steps))
        self.leave = nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps pictures (B, 3, H, W) in [0, 1] to float32 scores (B, 1, H, W)."""
        x = F.leaky_relu(self.enter(pixels * 2 - 1), 0.2)
        skipped = []
        for down in self.down:
            skipped.append(x)
            x = F.avg_pool2d(x, 4, 2, 1, ceil_mode=True, count_include_pad=False)
            x = F.leaky_relu(down(x), 0.2)
        x = F.leaky_relu(self.middle(x), 0.2)
        for up in self.up:
            skip = skipped.pop()
            x = skip + F.interpolate(F.leaky_relu(up(x), 0.2), size=skip.shape[-2:], mode="bilinear")
        return self.leave(x).float()


def _conv(width_in: int, width_out: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(width_in, width_out, 3, padding=1))


class Adversary:
    """A discriminator, its optimizer, and the losses that the two sides have of each other (hinge)."""

    def __init__(self, config: TrainRunConfig, accelerator: "Accelerator"):
        self.config, self.accelerator = config, accelerator
        with torch.random.fork_rng(devices=[]):  # modules are initialised from torch's global generator
            torch.manual_seed(config.train.seed)
            self.discriminator = UShapedDiscriminator().to(accelerator.device)
        self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self.parameters = list(self.discriminator.parameters())
        self.optimizer = build_optimizer(self.parameters, config.optimizer)

    def generator_loss(self, losses: Losses, *, step: int) -> torch.Tensor:
        """Returns the weighted term of a pass's restored pictures, 0 of none; the discriminator gets no gradient."""
        if losses.restored is None:
            return torch.zeros((), device=self.accelerator.device)
        loss = self.config.loss
        ramp = min(1.0, step / max(loss.adversarial_ramp_steps, 1))
        self.discriminator.requires_grad_(False)
        score = self.discriminator(losses.restored[losses.judged]).mean()
        return -loss.adversarial_weight * ramp * losses.one_step_weight * score

    def discriminator_loss(self, losses: Losses, *, num_passes: int) -> torch.Tensor:
        """Returns the discriminator's loss of a pass, and adds its gradient to those of the update's `num_passes`."""
        if losses.restored is None or losses.hr is None:
            return torch.zeros((), device=self.accelerator.device)
        self.discriminator.requires_grad_(True)
        # it is small, and in float16 its gradients would need a scaler of their own
        with self.accelerator.autocast() if self.config.train.precision == "bf16" else nullcontext():
            both = torch.cat([losses.hr, losses.restored.detach()])[losses.judged]
            real, fake = self.discriminator(both).chunk(2)
            hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) * losses.one_step_weight
        (hinge / num_passes).backward()
        return hinge

    def update(self, learning_rate: float) -> None:
        """Moves the discriminator by the gradients of an update, averaged over processes."""
        if self.accelerator.num_processes > 1:
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
            flat = self.accelerator.reduce(torch.cat([g.reshape(-1) for g in gradients]), "mean")
            for parameter, gradient in zip(
                self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True
            ):
                parameter.grad = gradient.view_as(parameter).clone()
        norm = self.config.optimizer.max_grad_norm
        rate = learning_rate * self.config.loss.adversary_rate
        optimizer_step(self.optimizer, self.parameters, learning_rate=rate, max_grad_norm=norm)
        self.optimizer.zero_grad(set_to_none=True)
