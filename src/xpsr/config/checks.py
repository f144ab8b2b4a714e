"""Options with their explanations, and what their values may be, as tables.

A check's message is one line: the option, its value, the limit and a remedy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xpsr.errors import InputError

__all__ = [
    "FINITE",
    "PROBABILITY",
    "Limit",
    "above",
    "at_least",
    "check",
    "check_crop_size",
    "check_range",
    "check_weights",
    "option",
    "said",
    "within",
]

T = TypeVar("T")


def option(default: T, explanation: str) -> T:
    """A dataclass field with its default; `--help` shows the explanation."""
    made: T = field(default=default, metadata={"help": explanation})
    return made


@dataclass(frozen=True)
class Limit:
    """What a number, or each number of a tuple, may be; `usual` is what the message advises."""

    lowest: float
    highest: float = math.inf
    usual: str = ""
    holds_lowest: bool = True
    holds_highest: bool = True

    def holds(self, value: float) -> bool:
        """Whether the value is finite and within."""
        low = value >= self.lowest if self.holds_lowest else value > self.lowest
        high = value <= self.highest if self.holds_highest else value < self.highest
        return low and high and math.isfinite(value)

    def complaint(self, value: float) -> str:
        """What is wrong with a value that is not within."""
        if math.isfinite(self.highest):
            ends = "[" if self.holds_lowest else "(", "]" if self.holds_highest else ")"
            return f"is not in {ends[0]}{said(self.lowest)}, {said(self.highest)}{ends[1]}"
        if not math.isfinite(value):
            return "is not a finite number"
        if not self.holds_lowest:
            return f"is not above {self.lowest:g}"
        return f"is less than {'one' if self.lowest == 1 else f'{self.lowest:g}'}"


def at_least(lowest: float, usual: str) -> Limit:
    """Any finite number from `lowest` on."""
    return Limit(lowest, usual=usual)


def above(lowest: float, usual: str) -> Limit:
    """Any finite number above `lowest`."""
    return Limit(lowest, usual=usual, holds_lowest=False)


def within(lowest: float, highest: float, usual: str, *, open_at: str = "") -> Limit:
    """From `lowest` to `highest`; `open_at` names the ends ("low", "high") that are left out."""
    return Limit(lowest, highest, usual, holds_lowest=open_at != "low", holds_highest=open_at != "high")


PROBABILITY = within(0, 1, "0 for never and 1 for always")


FINITE = Limit(-math.inf, usual="a number")


def check(config: Any, section: str, limits: Mapping[str, Limit]) -> None:
    """Checks fields of `config` by name; None is never refused, and of a tuple every number is checked.

    Raises:
        InputError: one is not within its limit.
    """
    for name, limit in limits.items():
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        for number in numbers:
            if not limit.holds(number):
                raise InputError(f"{section}{name}={said(value)} {limit.complaint(number)}; use {limit.usual}.")


def said(value: Any) -> str:
    """A value as it is written in YAML, more or less."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(said, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def check_weights(name: str, values: Sequence[float]) -> None:
    """Refuses weights of which none is above 0."""
    if not all(0 <= value < math.inf for value in values) or not any(values):
        raise InputError(
            f"{name}={list(values)} are not all at least 0 with one above; use weights, such as 1 for each."
        )


def check_range(
    name: str, values: tuple[float, float], lowest: float, highest: float, *, holds: float | None = None
) -> None:
    """Refuses two numbers that are not a range within [lowest, highest], or do not enclose `holds`."""
    low, high = values
    if not lowest <= low <= high <= highest:
        raise InputError(
            f"{name}={list(values)} is not from low to high within [{lowest}, {highest}]; correct the two."
        )
    if holds is not None and not low <= holds <= high:
        raise InputError(f"{name}={list(values)} does not hold {holds:g}; use a lower and a higher number than that.")


def check_crop_size(size: int, multiple: int, *, name: str = "crop_size") -> None:
    """Refuses crops that do not shrink to whole pixels."""
    if size < multiple or size % multiple:
        nearest = max(round(size / multiple), 1) * multiple
        raise InputError(f"{name}={size} is not a multiple of {multiple}; use {nearest}.")
