"""The adversary of the one step: a discriminator that learns to tell restored pictures from clean ones."""

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

__all__ = ["Adversary", "PatchDiscriminator"]


class PatchDiscriminator(nn.Module):
    """A small PatchGAN with spectral norm: (B, 3, H, W) in [0, 1] to a map of scores (B, 1, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out, stride in ((3, 48, 2), (48, 64, 2), (64, 128, 2), (128, 128, 1)):
            size = 4 if stride == 2 else 3
            layers += [spectral_norm(nn.Conv2d(width_in, width_out, size, stride, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(128, 1, 3, 1, 1)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps pictures (B, 3, H, W) in [0, 1] to float32 scores (B, 1, h, w)."""
        return self.layers(pixels * 2 - 1).float()


class Adversary:
    """A discriminator, its optimizer, and the losses that the two sides have of each other (hinge)."""

    def __init__(self, config: TrainRunConfig, accelerator: "Accelerator"):
        self.config, self.accelerator = config, accelerator
        with torch.random.fork_rng(devices=[]):  # modules are initialised from torch's global generator
            torch.manual_seed(config.train.seed)
            self.discriminator = PatchDiscriminator().to(accelerator.device)
        self.parameters = list(self.discriminator.parameters())
        self.optimizer = build_optimizer(self.parameters, config.optimizer)

    def generator_loss(self, losses: Losses, *, step: int) -> torch.Tensor:
        """Returns the weighted term of a pass's restored pictures, 0 of none; the discriminator gets no gradient."""
        if losses.restored is None:
            return torch.zeros((), device=self.accelerator.device)
        loss = self.config.loss
        ramp = min(1.0, step / max(loss.adversarial_ramp_steps, 1))
        self.discriminator.requires_grad_(False)
        score = self.discriminator(losses.restored).mean()
        return -loss.adversarial_weight * ramp * losses.one_step_weight * score

    def discriminator_loss(self, losses: Losses, *, num_passes: int) -> torch.Tensor:
        """Returns the discriminator's loss of a pass, and adds its gradient to those of the update's `num_passes`."""
        if losses.restored is None or losses.hr is None:
            return torch.zeros((), device=self.accelerator.device)
        self.discriminator.requires_grad_(True)
        # it is small, and in float16 its gradients would need a scaler of their own
        with self.accelerator.autocast() if self.config.train.precision == "bf16" else nullcontext():
            real, fake = self.discriminator(torch.cat([losses.hr, losses.restored.detach()])).chunk(2)
            hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) * losses.one_step_weight
        (hinge / num_passes).backward()
        return hinge

    def update(self, learning_rate: float) -> None:
        """Moves the discriminator by the gradients of an update, averaged over processes."""
        if self.accelerator.num_processes > 1:
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
            flat = self.accelerator.reduce(torch.cat([g.view(-1) for g in gradients]), "mean")
            for parameter, gradient in zip(
                self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True
            ):
                parameter.grad = gradient.view_as(parameter).clone()
        norm = self.config.optimizer.max_grad_norm
        optimizer_step(self.optimizer, self.parameters, learning_rate=learning_rate, max_grad_norm=norm)
        self.optimizer.zero_grad(set_to_none=True)
