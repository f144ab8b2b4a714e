"""Rows of a comparison with golden numbers: what they are called, how far off ours are, and how far they may be."""

import math
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

EXACT = 0.0
ONE_LSB = 1.0  # of 8-bit pictures, absolute


@dataclass(frozen=True)
class Row:
    """One comparison; `note` says what is wrong where no number can."""

    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # false for NaN


def relative_error(ours: torch.Tensor, golden: torch.Tensor) -> float:
    """max|ours - golden| / max|golden|; whole numbers must be equal, 8-bit pictures are compared in levels."""
    if ours.shape != golden.shape:
        return math.inf
    if golden.dtype == torch.uint8:
        return float((ours.int() - golden.int()).abs().max())
    if not golden.is_floating_point():
        return 0.0 if torch.equal(ours.double(), golden.double()) else math.inf
    difference = (ours.detach().double() - golden.double()).abs().max()
    return float(difference / golden.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def compare(
    file: str,
    ours: Tensors,
    golden: Tensors,
    tolerance: float,
    *,
    given: Container[str] = (),
    also_in: Tensors | None = None,
    error: Callable[[torch.Tensor, torch.Tensor], float] = relative_error,
    note: str = "",
) -> Iterator[Row]:
    """One row for each of ours and each golden; those that only one side has are wrong.

    `given` are the names of goldens that ours were computed from, which need no row. `also_in` are goldens that stand
    in where `golden` lacks one. `note` says what `error` leaves out.
    """
    for name in dict.fromkeys([*ours, *(name for name in golden if name not in given)]):
        stored = golden.get(name, (also_in or {}).get(name))
        if stored is None:
            yield Row(f"{file}:{name}", math.inf, tolerance, "missing in the file")
        elif name not in ours:
            yield Row(f"{file}:{name}", math.inf, tolerance, "not known")
        else:
            limit = ONE_LSB if stored.dtype == torch.uint8 else tolerance if stored.is_floating_point() else EXACT
            yield Row(f"{file}:{name}", error(ours[name], stored), limit, note)


def equal(name: str, ours: Any, golden: Any) -> Row:
    """Values of a JSON file, which must be the same."""
    return Row(name, 0.0 if ours == golden else math.inf, EXACT, "" if ours == golden else f"ours: {str(ours)[:80]}")


def lacking(file: str, golden: Iterable[str], prefixes: Iterable[str]) -> Iterator[Row]:
    """A row for each kind of tensors, told by its names' prefix, of which the file holds none.

    How many of those there are is up to the file, so that none at all would go unnoticed.
    """
    names = list(golden)
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            yield Row(f"{file}:{prefix}*", math.inf, EXACT, "missing in the file")
