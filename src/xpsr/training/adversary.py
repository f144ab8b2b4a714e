"""The adversary of the one step: a discriminator that learns to tell restored pictures from clean ones."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from xpsr.config import TrainRunConfig
from xpsr.training.losses import Content, Losses
from xpsr.training.optimizers import build_optimizer, optimizer_step

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Adversary", "FeatureDiscriminator"]


class FeatureDiscriminator(nn.Module):
    """Scores of pictures by their features in frozen networks, a few convolutions for each map (Sauer et al. 2021).

    What tells restored pictures from clean ones is easy to see there: it learns within minutes, where one that looks at
    pixels has to learn to look first.

    Args:
        widths: channels of the features, by network.
        vocabulary: tokens of texts that say what the pictures hold; it learns what each looks like (a projection
            discriminator, Miyato and Koyama 2018). 0: it reads no texts.
    """

    WIDTH = 48

    def __init__(self, widths: Mapping[str, Sequence[int]], *, vocabulary: int = 0) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleList(_head(width, self.WIDTH) for width in of_network)
                for name, of_network in widths.items()
            }
        )
        self.words = self.expected = None
        if vocabulary:
            self.words = nn.Embedding(vocabulary, self.WIDTH)
            maps = sum(len(of_network) for of_network in widths.values())
            self.expected = nn.ModuleList(nn.Linear(self.WIDTH, self.WIDTH, bias=False) for _ in range(maps))

    def forward(
        self, features: Mapping[str, Sequence[torch.Tensor]], content: Content | None = None
    ) -> list[torch.Tensor]:
        """Maps features (B, C, h, w) by network, each map of mean square about 1, to float32 scores (B, 1, h, w).

        With `content`, one that reads scores whether a picture is clean *and* what its text says.
        """
        return self.judge(self.look(features), content)

    def look(self, features: Mapping[str, Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """Returns what `judge` judges, (B, WIDTH, h, w) of each map: the same, whatever texts it is then shown with."""
        return [
            head[:-1](one)
            for name, heads in self.heads.items()
            for head, one in zip(self._of(heads), features[name], strict=True)
        ]

    def judge(self, seen: Sequence[torch.Tensor], content: Content | None) -> list[torch.Tensor]:
        """Returns the scores of what `look` has seen."""
        judges = [head[-1] for heads in self.heads.values() for head in self._of(heads)]
        scores = [judge(one) for judge, one in zip(judges, seen, strict=True)]
        if self.words is not None and self.expected is not None and content is not None:
            counted = content.is_word.unsqueeze(-1)
            meaning = (self.words(content.ids) * counted).sum(1) / counted.sum(1).clamp_min(1)  # (B, WIDTH), 0: no text
            expected = [expect(meaning)[..., None, None] for expect in self.expected]
            scores = [
                score + (one * wanted).mean(1, keepdim=True)
                for score, one, wanted in zip(scores, seen, expected, strict=True)
            ]
        return [score.float() for score in scores]

    @staticmethod
    def _of(heads: nn.Module) -> Iterable[nn.Sequential]:
        return cast(Iterable[nn.Sequential], heads)


def _head(channels: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 1),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 1, 3, padding=1),
    )


class Adversary:
    """A discriminator, its optimizer, and the losses that the two sides have of each other (hinge).

    Args:
        config: the run's.
        accelerator: the run's.
        widths: channels of the features that it looks at, by network.
        vocabulary: tokens of the texts that it reads where `loss.adversary_content` is above 0.
    """

    def __init__(
        self,
        config: TrainRunConfig,
        accelerator: "Accelerator",
        widths: Mapping[str, Sequence[int]],
        *,
        vocabulary: int = 0,
    ):
        self.config, self.accelerator = config, accelerator
        with torch.random.fork_rng(devices=[]):  # modules are initialised from torch's global generator
            torch.manual_seed(config.train.seed)
            read = vocabulary if config.loss.adversary_content else 0
            self.discriminator = FeatureDiscriminator(widths, vocabulary=read).to(accelerator.device)
        self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self.parameters = list(self.discriminator.parameters())
        self.optimizer = build_optimizer(self.parameters, config.optimizer)

    def generator_loss(self, losses: Losses, *, step: int) -> torch.Tensor:
        """Returns the weighted term of a pass's restored pictures, 0 of none; the discriminator gets no gradient."""
        if not losses.restored:
            return torch.zeros((), device=self.accelerator.device)
        loss = self.config.loss
        ramp = min(1.0, step / max(loss.adversarial_ramp_steps, 1))
        self.discriminator.requires_grad_(False)
        with self._precision():
            scores = self.discriminator(_scaled(losses.restored, losses.clean), losses.content)
        return -loss.adversarial_weight * ramp * losses.one_step_weight * _mean([score.mean() for score in scores])

    def discriminator_loss(self, losses: Losses, *, num_passes: int) -> torch.Tensor:
        """Returns the discriminator's loss of a pass, and adds its gradient to those of the update's `num_passes`."""
        if not losses.restored:
            return torch.zeros((), device=self.accelerator.device)
        self.discriminator.requires_grad_(True)
        restored = {name: [one.detach() for one in of_network] for name, of_network in losses.restored.items()}
        with self._precision():
            clean = self.discriminator.look(_scaled(losses.clean, losses.clean))
            real = self.discriminator.judge(clean, losses.content)
            fake = self.discriminator(_scaled(restored, losses.clean), losses.content)
            hinges = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
            hinge = _mean(hinges)
            weight = self.config.loss.adversary_content
            if weight and losses.content is not None:
                false = self.discriminator.judge(clean, losses.content.swapped())
                hinge = hinge + weight * _mean([_false_hinge(one, losses.content) for one in false])
            hinge = hinge * losses.one_step_weight
        (hinge / num_passes).backward()
        return hinge

    def _precision(self) -> AbstractContextManager[Any]:
        # it is small, and in float16 its gradients would need a scaler of their own
        return self.accelerator.autocast() if self.config.train.precision == "bf16" else nullcontext()

    def update(self, learning_rate: float) -> None:
        """Moves the discriminator by the gradients of an update, averaged over processes."""
        if self.accelerator.num_processes > 1:
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
            flat = self.accelerator.reduce(torch.cat([g.reshape(-1) for g in gradients]), "mean")
            for parameter, gradient in zip(
                self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True
            ):
                # laid out as the parameter is: torch's fused optimizer pairs them by their places in memory
                parameter.grad = torch.empty_like(parameter).copy_(gradient.view_as(parameter))
        norm = self.config.optimizer.max_grad_norm
        rate = learning_rate * self.config.loss.adversary_rate
        optimizer_step(self.optimizer, self.parameters, learning_rate=rate, max_grad_norm=norm)
        self.optimizer.zero_grad(set_to_none=True)


def _scaled(
    features: Mapping[str, Sequence[torch.Tensor]], clean: Mapping[str, Sequence[torch.Tensor]]
) -> dict[str, list[torch.Tensor]]:
    """Returns features over the root mean square that those of the clean picture have: strong ones stay strong.

    Of each picture by itself, or a score would depend on which pictures share its pass.
    """
    return {
        name: [
            one.float() / other.float().square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
            for one, other in zip(of_network, clean[name], strict=True)
        ]
        for name, of_network in features.items()
    }


def _false_hinge(scores: torch.Tensor, content: Content) -> torch.Tensor:
    """Returns the hinge of clean pictures shown with texts of others: of those rows whose texts differ."""
    rows = content.is_swappable()
    return (F.relu(1 + scores).flatten(1).mean(1) * rows).sum() / rows.sum().clamp_min(1)


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(values)).mean()
