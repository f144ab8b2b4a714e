"""Options with their explanations and the rules that their values follow."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from xpsr.config.names import nearest
from xpsr.errors import InputError, printable

__all__ = [
    "MAX_CHARACTERS",
    "PROBABILITY",
    "SEED",
    "Checked",
    "Limit",
    "Pattern",
    "Rule",
    "Span",
    "alternatives",
    "check_argument",
    "check_multiple",
    "fault",
    "is_text",
    "option",
    "said",
    "weights",
    "within",
]

T = TypeVar("T")

Rule: TypeAlias = Callable[[Any], tuple[str, str] | None]
"""What is wrong with a value and what to do about it, or None. What to do is empty where the default would do."""

MAX_CHARACTERS = 10_000
"""Longest text: some thirty times what a text encoder reads at once. Memory grows with the length, so that a text of a
few megabytes would take all there is."""


def option(default: T, explanation: str = "", rule: Rule | None = None) -> T:
    """Makes a dataclass field with its default, what `--help` says of it and what is asked of its value."""
    made: T = field(default=default, metadata={"help": explanation, "rule": rule})
    return made


@dataclass(frozen=True)
class Limit:
    """The rule that a number, or each number of a tuple, is finite and in a range; `usual` is what to use instead.

    `usual` begins with a value; empty, it is the option's default.
    """

    lowest: float
    highest: float
    usual: str = ""
    holds_lowest: bool = True
    holds_highest: bool = True

    def __call__(self, value: Any) -> tuple[str, str] | None:
        """Returns what is wrong and what to do, or None."""
        if all(self.holds(one) for one in (value if isinstance(value, tuple) else (value,))):
            return None
        ends = "[" if self.holds_lowest else "(", "]" if self.holds_highest else ")"
        message = f"is not in {ends[0]}{said(self.lowest)}, {said(self.highest)}{ends[1]}"
        return message, self.usual and f"use {self.usual}"

    def holds(self, value: float) -> bool:
        """Returns whether the value is within; NaN is not."""
        low = value >= self.lowest if self.holds_lowest else value > self.lowest
        return low and (value <= self.highest if self.holds_highest else value < self.highest)

    def __str__(self) -> str:
        above, below = "" if self.holds_lowest else "above ", "" if self.holds_highest else "below "
        return f"{above}{said(self.lowest)} to {below}{said(self.highest)}"


def within(lowest: float, highest: float, usual: str = "", *, open_at: str = "") -> Limit:
    """Returns the rule that a number is in [`lowest`, `highest`]; `open_at` is the end, "low" or "high", left out."""
    return Limit(lowest, highest, usual, holds_lowest=open_at != "low", holds_highest=open_at != "high")


PROBABILITY = within(0, 1, "0 for never and 1 for always")
SEED = within(0, 2**63 - 1, "0, for example")


@dataclass(frozen=True)
class Pattern:
    """The rule that a text is as a regular expression says; `what` is that in words, `usual` what to use instead."""

    pattern: str
    what: str
    usual: str

    def __call__(self, text: str) -> tuple[str, str] | None:
        """Returns what is wrong and what to do, or None."""
        return None if re.fullmatch(self.pattern, text) else (f"is not {self.what}", f"use {self.usual}")


def weights(values: tuple[float, ...]) -> tuple[str, str] | None:
    """Checks that numbers are weights of which one is above 0; is itself a rule."""
    if all(0 <= value <= 1e6 for value in values) and any(values):
        return None
    return "are not all in [0, 1e+06] with one above 0", ""


@dataclass(frozen=True)
class Span:
    """The rule that two numbers go from low to high within [lowest, highest], with `around` between them."""

    lowest: float
    highest: float
    around: float | None = None

    def __call__(self, values: tuple[float, float]) -> tuple[str, str] | None:
        """Returns what is wrong and what to do, or None."""
        low, high = values
        if not self.lowest <= low <= high <= self.highest:
            return f"is not from low to high within [{said(self.lowest)}, {said(self.highest)}]", ""
        if self.around is not None and not low <= self.around <= high:
            return f"does not hold {self.around:g}", ""
        return None

    def __str__(self) -> str:
        return f"from low to high within {said(self.lowest)} to {said(self.highest)}"


def is_text(text: str) -> tuple[str, str] | None:
    """Checks that a text can be read, and in the memory that there is; is itself a rule."""
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text)} characters, more than the limit of {MAX_CHARACTERS}", "shorten it"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half a character (U+{ord(text[error.start]):04X})", "write it in UTF-8"
    return None


def is_path(path: Path) -> tuple[str, str] | None:
    """Checks that the system can be asked about a path; is itself a rule."""
    with contextlib.suppress(ValueError):
        if b"\0" not in os.fsencode(path):
            return None
    return "holds characters that no path has", "name a file"


class Checked:
    """Base of the dataclasses of options: whoever makes one, from a file or in Python, gets what is right or an error.

    Lists become tuples, texts paths, and NumPy's numbers Python's, where the field is of that kind.

    Raises:
        InputError: a value is not of its field's type or, where it is not None, breaks the option's rule.
    """

    def __post_init__(self) -> None:
        """Checks each field by itself; subclasses go on with what does not go together."""
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = check_argument(f.name, getattr(self, f.name), f.type, f.metadata.get("rule"), default=f.default)
            object.__setattr__(self, f.name, value)


def check_argument(name: str, value: Any, kind: Any, rule: Rule | None = None, *, default: Any = None) -> Any:
    """Returns a value as one of a type: lists become tuples, texts paths, and NumPy's numbers Python's.

    One that is not of the type or, where it is not None, breaks the rule, is refused. The error's field is `name`; what
    to use instead is what the rule says is usual, or the `default`.

    Raises:
        InputError: it is refused.
    """
    value = _coerced(kind, value)
    rule = rule or (is_text if isinstance(value, str) else is_path if isinstance(value, Path) else None)
    if not _fits(kind, value):
        what, example = _words(kind, "" if value is None else said(value))
        message, remedy, code = f"is not {what}", f"use {example}", "wrong_type"
        if isinstance(rule, Limit | Span | Pattern) or rule is weights:  # a value of this option
            usual = isinstance(rule, Limit | Pattern) and rule.usual
            remedy = f"use {usual}" if usual else ""
        elif str in alternatives(kind) and value is None:
            remedy = f"use '{default or ''}'"
    elif rule is not None and value is not None and (broken := rule(value)) is not None:
        (message, remedy), code = broken, "out_of_range"
    else:
        return value
    shown = said(value)
    if code == "wrong_type" and isinstance(value, str) and _LOOKS_ELSE.fullmatch(value):
        shown = f"'{shown}'"  # "4 is not a number" would puzzle
    raise InputError(message, code=code, field=name, value=shown, remedy=remedy or f"use {said(default)}")


_LOOKS_ELSE = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|true|false|null", re.IGNORECASE)
"""A text that is written as a value of another type is."""

_SCALARS: dict[Any, tuple[Any, str, str]] = {
    int: (Integral, "a whole number", "1"),
    float: (Real, "a number", "0.5"),
    bool: (bool, "true or false", "true"),
    str: (str, "a text", ""),
    Path: (Path, "a path", ""),
    Callable: (Callable, "a function", "one"),
    dict[str, Any]: (dict, "a section", "options in it"),
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
    if kind is Path and isinstance(value, str | os.PathLike) and isinstance(text := os.fspath(value), str) and text:
        return Path(text)
    if isinstance(value, bool):  # to Python it is a number
        return value
    if kind is int and isinstance(value, Integral):
        return int(value)
    if kind is float and isinstance(value, Real):
        with contextlib.suppress(OverflowError):  # a whole number that is larger than any float
            return float(value)
    return value


def _fits(kind: Any, value: Any) -> bool:
    args = get_args(kind)
    if len(kinds := alternatives(kind)) > 1:
        return any(_fits(one, value) for one in kinds)
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in args
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
    _, what, example = _SCALARS.get(kind, (kind, f"a {kind.__name__}", "one"))
    return what, example or (f"'{given}'" if given else "a name")


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
    """Returns a value as it is written in YAML, more or less, in printable characters and not at any length."""
    if isinstance(value, tuple | list):
        text = f"[{', '.join(map(said, value[:_MOST_SAID]))}]"
    elif isinstance(value, float):
        text = f"{value:g}"
    elif value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    elif isinstance(value, int) and value.bit_length() > 10_000:  # more digits than Python writes
        text = f"a number of {value.bit_length()} bits"
    else:
        text = str(value) if isinstance(value, str | int | Path | dict) else type(value).__name__
    text = printable(text[: _MOST_SAID + 1])
    return text if len(text) <= _MOST_SAID else f"{text[: _MOST_SAID - 3]}..."


_MOST_SAID = 80  # characters, or members of a list
