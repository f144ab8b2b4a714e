"""What an evaluation found, as values: reports, pages and tests of significance are made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpsr.evaluation.metrics import Metric
from xpsr.evaluation.protocols import Protocol

__all__ = ["Case", "Evaluation", "Interval", "Method"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One restored picture and what it is compared with.

    Attributes:
        name: what all methods call it: the name of the original, or of the input, without suffix.
        restored: the file.
        hr: the original; None: there is none.
        lr: what it was restored from; None: it is not known.
    """

    name: str
    restored: Path
    hr: Path | None = None
    lr: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """A folder of restored pictures and their scores.

    Attributes:
        name: as the table calls it.
        cases: its pictures; those of all methods have the same names in the same order.
        scores: finite, of each picture by metric. One that cannot be measured (NIQE of a flat picture) is absent.
    """

    name: str
    cases: tuple[Case, ...]
    scores: tuple[Mapping[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % bootstrap interval, over `count` pictures."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one or more methods over the same pictures.

    Attributes:
        protocol: what was measured, and how.
        metrics: those that were measured, in the order of the table.
        not_measured: of each metric of the protocol that was not, why.
        methods: in the order in which they were named.
        facts: versions, checksums and machine, ready for JSON.
    """

    protocol: Protocol
    metrics: tuple[Metric, ...]
    not_measured: Mapping[str, str]
    methods: tuple[Method, ...]
    facts: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pictures, in order."""
        return tuple(case.name for case in self.methods[0].cases)
