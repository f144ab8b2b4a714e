"""Options with their explanations and the rules that their values follow."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from xpsr.config.names import nearest
from xpsr.errors import InputError

__all__ = [
    "FINITE",
    "PROBABILITY",
    "SEED",
    "Checked",
    "Limit",
    "Rule",
    "above",
    "alternatives",
    "at_least",
    "check",
    "check_argument",
    "check_multiple",
    "fault",
    "option",
    "said",
    "span",
    "weights",
    "within",
]

T = TypeVar("T")

Rule: TypeAlias = Callable[[Any], tuple[str, str] | None]
"""What is wrong with a value and what to do about it, or None."""


def option(default: T, explanation: str = "", rule: Rule | None = None) -> T:
    """Makes a dataclass field with its default, what `--help` says of it and what is asked of its value."""
    made: T = field(default=default, metadata={"help": explanation, "rule": rule})
    return made


@dataclass(frozen=True)
class Limit:
    """The rule that a number, or each number of a tuple, is finite and in a range; `usual` is what to use instead."""

    lowest: float
    highest: float = math.inf
    usual: str = ""
    holds_lowest: bool = True
    holds_highest: bool = True

    def __call__(self, value: Any) -> tuple[str, str] | None:
        """Returns what is wrong and what to do, or None."""
        wrong = next((one for one in (value if isinstance(value, tuple) else (value,)) if not self.holds(one)), None)
        return None if wrong is None else (self._complaint(wrong), f"use {self.usual}")

    def holds(self, value: float) -> bool:
        """Returns whether the value is finite and within."""
        low = value >= self.lowest if self.holds_lowest else value > self.lowest
        high = value <= self.highest if self.holds_highest else value < self.highest
        return low and high and _is_finite(value)

    def _complaint(self, value: float) -> str:
        if self.highest < math.inf:
            ends = "[" if self.holds_lowest else "(", "]" if self.holds_highest else ")"
            return f"is not in {ends[0]}{said(self.lowest)}, {said(self.highest)}{ends[1]}"
        if not _is_finite(value):
            return "is not a finite number"
        if not self.holds_lowest:
            return f"is not above {self.lowest:g}"
        return f"is less than {'one' if self.lowest == 1 else f'{self.lowest:g}'}"


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that is larger than any float
        return False


def at_least(lowest: float, usual: str) -> Limit:
    """Returns the rule that a number is finite and at least `lowest`."""
    return Limit(lowest, usual=usual)


def above(lowest: float, usual: str) -> Limit:
    """Returns the rule that a number is finite and above `lowest`."""
    return Limit(lowest, usual=usual, holds_lowest=False)


def within(lowest: float, highest: float, usual: str, *, open_at: str = "") -> Limit:
    """Returns the rule that a number is in [`lowest`, `highest`]; `open_at` is the end, "low" or "high", left out."""
    return Limit(lowest, highest, usual, holds_lowest=open_at != "low", holds_highest=open_at != "high")


PROBABILITY = within(0, 1, "0 for never and 1 for always")
FINITE = Limit(-math.inf, usual="a number")
SEED = within(0, 2**63 - 1, "0, for example")


def weights(values: tuple[float, ...]) -> tuple[str, str] | None:
    """Checks that numbers are weights of which one is above 0; is itself a rule."""
    if all(0 <= value < math.inf for value in values) and any(values):
        return None
    return "are not all at least 0 with one above", "use weights, such as 1 for each"


def span(lowest: float, highest: float, *, around: float | None = None) -> Rule:
    """Returns the rule that two numbers go from low to high within [lowest, highest], with `around` between them."""

    def rule(values: tuple[float, float]) -> tuple[str, str] | None:
        low, high = values
        if not lowest <= low <= high <= highest:
            return f"is not from low to high within [{lowest}, {highest}]", "correct the two"
        if around is not None and not low <= around <= high:
            return f"does not hold {around:g}", "use a lower and a higher number than that"
        return None

    return rule


class Checked:
    """Base of the dataclasses of options: whoever makes one, from a file or in Python, gets what is right or an error.

    Lists become tuples, texts paths, and NumPy's numbers Python's, where the field is of that kind.

    Raises:
        InputError: a value is not of its field's type or, where it is not None, breaks the option's rule.
    """

    def __post_init__(self) -> None:
        """Checks each field by itself; subclasses go on with what does not go together."""
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _coerced(f.type, getattr(self, f.name))
            object.__setattr__(self, f.name, value)
            check_argument(f.name, value, f.type, f.metadata.get("rule"))


def check_argument(name: str, value: Any, kind: Any, rule: Rule | None = None) -> None:
    """Refuses a value that is not of a type or, where it is not None, breaks a rule; `name` is the error's field.

    Raises:
        InputError: it is refused.
    """
    if not _fits(kind, value):
        what, example = _words(kind, "" if value is None else said(value))
        message, remedy, code = f"is not {what}", f"use {example}", "wrong_type"
    elif rule is not None and value is not None and (broken := rule(value)) is not None:
        (message, remedy), code = broken, "out_of_range"
    else:
        return
    raise InputError(message, code=code, field=name, value=said(value), remedy=remedy)


_SCALARS: dict[Any, tuple[Any, str, str]] = {
    int: (Integral, "a whole number", "1"),
    float: (Real, "a number", "0.5"),
    bool: (bool, "true or false", "true"),
    str: (str, "a text", ""),
    Path: (Path, "a path", ""),
}
"""What values of a type are, that in words, and an example; none: the given one as a text."""


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Returns the types of a union, or the one type; None comes last."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _coerced(kind: Any, value: Any) -> Any:
    """Returns a value as a field of that kind holds it; what cannot be is left to the check."""
    kind = alternatives(kind)[0]
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_coerced(get_args(kind)[0], one) for one in value)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if isinstance(value, bool):  # to Python it is a number
        return value
    if kind is int and isinstance(value, Integral):
        return int(value)
    if kind is float and isinstance(value, Real):
        with contextlib.suppress(OverflowError):
            return float(value)
    return value


def _fits(kind: Any, value: Any) -> bool:
    args = get_args(kind)
    if len(kinds := alternatives(kind)) > 1:
        return any(_fits(one, value) for one in kinds)
    if get_origin(kind) is Literal:
        return value in args
    if get_origin(kind) is tuple:
        counted = isinstance(value, tuple) and (args[-1] is ... or len(value) == len(args))
        return counted and all(_fits(args[0], one) for one in value)
    if isinstance(value, bool) and kind is not bool:  # to Python it is a number
        return False
    return isinstance(value, _SCALARS.get(kind, (kind,))[0])


def _words(kind: Any, given: str) -> tuple[str, str]:
    """What a value of a type is, and one that is near to what was given."""
    args = get_args(kind)
    if len(alternatives(kind)) > 1:
        what, example = _words(args[0], given)
        return f"{what} or null", example
    if get_origin(kind) is Literal:
        return f"one of {', '.join(args)}", nearest(given, args) or args[0]
    if get_origin(kind) is tuple:
        count = 0 if args[-1] is ... else len(args)
        what, example = _words(args[0], given.strip("[]()'\" ").split(",")[0].strip("' \""))
        return f"a list{f' of {count}' if count else ''}, each {what}", f"[{', '.join([example] * (count or 1))}]"
    if dataclasses.is_dataclass(kind):
        return "a section", f"options in it, such as {dataclasses.fields(kind)[0].name}"
    _, what, example = _SCALARS[kind]
    return what, example or (f"'{given}'" if given else "a name")


def check(owner: Any, **rules: Rule) -> None:
    """Refuses attributes of an object that is no config and breaks a rule; None is never refused.

    Raises:
        InputError: the first that does.
    """
    for name, rule in rules.items():
        value = getattr(owner, name)
        if value is not None and (broken := rule(value)) is not None:
            raise fault(owner, name, *broken, code="out_of_range")


def check_multiple(config: Any, name: str, multiple: int, of: str = "") -> None:
    """Refuses a field that is no positive multiple; `of` says of what."""
    value = attrgetter(name)(config)
    if value < multiple or value % multiple:
        nearest_multiple = max(round(value / multiple), 1) * multiple
        raise fault(config, name, f"is not a multiple of {multiple}{of}", f"use {nearest_multiple}")


def fault(config: Any, name: str, message: str, remedy: str, *, code: str = "conflict") -> InputError:
    """Makes the error that says what is wrong with a field of `config`, dotted where it lies in a section."""
    return InputError(message, code=code, field=name, value=said(attrgetter(name)(config)), remedy=remedy)


def said(value: Any) -> str:
    """Returns a value as it is written in YAML, more or less, and not at any length."""
    if isinstance(value, tuple | list):
        text = f"[{', '.join(map(said, value))}]"
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
