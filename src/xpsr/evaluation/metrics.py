"""Metrics as values: a name, what is needed, which way is better, and a function of one picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from xpsr.evaluation.fidelity import psnr_y, ssim_y
from xpsr.evaluation.niqe import niqe
from xpsr.evaluation.protocols import Protocol

__all__ = ["METRICS", "Metric", "Subject", "open_metrics"]

Needs = Literal["nothing", "hr", "lr"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A restored picture and what it is compared with: RGB (3, H, W) in [0, 1], float32.

    Attributes:
        restored: the restored picture.
        hr: its original, of the same size; None: there is none.
        lr: what it was restored from; None: it is not known.
    """

    restored: torch.Tensor
    hr: torch.Tensor | None = None
    lr: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is measured of a picture.

    Attributes:
        name: as protocols and reports call it, "psnr_y" for example.
        title: as tables head it, "PSNR (Y), dB" for example.
        needs: what a picture is compared with; "nothing" for what looks at the restored picture alone.
        lower_is_better: None: more is neither better nor worse.
        version: of the definition and the numbers in it; scores of two versions are never mixed.
        compute: maps a subject and the protocol to a score.
    """

    name: str
    title: str
    needs: Needs
    lower_is_better: bool | None
    version: str
    compute: Callable[[Subject, Protocol], float]

    @property
    def needs_reference(self) -> bool:
        """Whether there has to be an original."""
        return self.needs == "hr"


def _of_pair(function: Callable[[torch.Tensor, torch.Tensor], float]) -> Callable[[Subject, Protocol], float]:
    def compute(subject: Subject, protocol: Protocol) -> float:
        assert subject.hr is not None
        return function(subject.restored, subject.hr)

    return compute


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="psnr_y",
            title="PSNR (Y), dB",
            needs="hr",
            lower_is_better=False,
            version="1",
            compute=_of_pair(psnr_y),
        ),
        Metric(
            name="ssim_y", title="SSIM (Y)", needs="hr", lower_is_better=False, version="1", compute=_of_pair(ssim_y)
        ),
        Metric(
            name="niqe",
            title="NIQE",
            needs="nothing",
            lower_is_better=True,
            version="1",
            compute=lambda subject, protocol: niqe(subject.restored),
        ),
    )
}
"""Those that come with xpsr, by name."""


def open_metrics(
    protocol: Protocol, *, available: frozenset[Needs], weights: Path | None = None
) -> tuple[tuple[Metric, ...], Mapping[str, str]]:
    """Returns the metrics of a protocol that can be measured, and of each other one why not, in a line.

    Args:
        protocol: what is to be measured.
        available: what there is to compare with.
        weights: the folder of the weights of learned metrics.

    Raises:
        InputError: a metric is unknown, or its weights are not those that the protocol names.
    """
    found = [METRICS[name] for name in protocol.metrics]
    missing = {metric.name: f"needs {metric.needs}" for metric in found if metric.needs not in available}
    return tuple(metric for metric in found if metric.name not in missing), missing
