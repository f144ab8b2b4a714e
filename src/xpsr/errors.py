"""Every error that xpsr raises on purpose.

    XPSRError
    ├── InputError              a picture, argument or option that cannot be used (also a ValueError)
    ├── ModelError              a model folder that cannot be read or matched to its weights
    ├── MissingDependencyError  an optional package is not installed (also an ImportError)
    ├── TrainingError           a training run that cannot start or go on
    └── Cancelled               whoever asked for something wants it no more

An error is one line, what is wrong (value and limit) and what to do about it, and its parts are data: whoever shows it
calls the field as its reader does, a flag, a YAML key or a member of a JSON object.
"""

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

__all__ = [
    "Cancelled",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "TrainingError",
    "XPSRError",
    "brief",
    "error_of",
    "one_line",
    "printable",
    "unexpected",
]

Kind = TypeVar("Kind", bound="XPSRError")

_PARTS = ("message", "code", "field", "value", "remedy", "source", "limit")


class XPSRError(Exception):
    """Base of all errors that xpsr raises on purpose.

    Args:
        message: what is wrong. With a `field`, what follows its name and value ("is not in [0, 1]"); with a `remedy`,
            without a full stop. Alone, the whole line.
        code: which kind of error it is, for programs, such as "out_of_range"; None: the class's own.
        field: the option or argument that is at fault, dotted where it lies in a section, as in `train.max_steps`.
        value: what the field held, as text.
        remedy: what to do, as in "use 8", or whether something else was meant.
        source: the file that the error is about, such as a config.
        limit: what would have been taken at most, for programs; the message says it, too.
    """

    code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        value: str | None = None,
        remedy: str | None = None,
        source: str | None = None,
        limit: float | None = None,
    ):
        super().__init__(message)
        self.message, self.field, self.value, self.remedy, self.source = message, field, value, remedy, source
        self.code, self.limit = code or self.code, limit

    @property
    def parts(self) -> dict[str, Any]:
        """All that it tells, by the names of its arguments, ready for JSON."""
        return {name: getattr(self, name) for name in _PARTS}

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self, call: Callable[[str, str | None], str] | None = None) -> str:
        """Returns the error as one printable line; `call` says how a field and its value (None: without) are written.

        By default as `field=value`, or `field` alone. The `source` goes in front.
        """
        call = call or (lambda field, value: field if value is None else f"{field}={value}")
        subject = "" if self.field is None else f"{call(self.field, self.value)} "
        source = "" if self.source is None else f"{self.source}: "
        stop = "" if self.remedy is None or self.remedy.endswith("?") else "."
        return printable(f"{source}{subject}{self.message}" + ("" if self.remedy is None else f"; {self.remedy}{stop}"))

    def within(self, section: str) -> Self:
        """Returns the same error of a field that lies in `section`, such as `model.settings`."""
        return self.recast(type(self), field=None if self.field is None else f"{section}.{self.field}")

    def recast(
        self, kind: type[Kind], *, code: str | None = None, field: str | None = None, source: str | None = None
    ) -> Kind:
        """Returns an error of `kind` with the same parts, but for those that are given."""
        changes = {"code": code, "field": field, "source": source}
        return kind(**self.parts | {name: value for name, value in changes.items() if value})


class InputError(XPSRError, ValueError):
    """A picture, argument or option that cannot be used."""

    code = "invalid_input"


class ModelError(XPSRError):
    """A model folder that cannot be read or matched to its weights."""

    code = "invalid_model"


class MissingDependencyError(XPSRError, ImportError):
    """An optional package is not installed; the message holds the exact install command."""

    code = "missing_dependency"


class TrainingError(XPSRError):
    """A training run that cannot start or go on."""

    code = "training_failed"


class Cancelled(XPSRError):
    """Whoever asked for something wants it no more."""

    code = "cancelled"


def error_of(parts: Mapping[str, Any]) -> XPSRError:
    """Returns the error that another process tells of, by its `parts` and, as "kind", the name of its class.

    Whatever they hold, it is an error: what is no text becomes one, and a kind that nobody knows is an `XPSRError`.
    """
    given = {part: parts.get(part) for part in ("code", "field", "value", "remedy", "source")}
    told = {part: None if text is None else str(text) for part, text in given.items()}
    limit = parts.get("limit")
    kinds = {kind.__name__: kind for kind in (InputError, ModelError, MissingDependencyError)}
    return kinds.get(str(parts.get("kind")), XPSRError)(
        str(parts.get("message")), **told, limit=limit if isinstance(limit, int | float) else None
    )


def unexpected(error: Exception | None = None) -> XPSRError:
    """Returns what is told of an error that nobody has foreseen; None: not even its name, which is for the log."""
    if error is None:
        return XPSRError("something went wrong that nobody has foreseen", code="unexpected")
    return XPSRError(f"unexpected {type(error).__name__}: {one_line(error)}", code="unexpected")


def printable(text: str) -> str:
    r"""Returns a text as a terminal may have it: what would move its cursor or turn its letters is written as \x1b.

    File names and what models say may hold such characters.
    """
    return "".join(ascii(letter)[1:-1] if _moves(letter) else letter for letter in text)


def _moves(letter: str) -> bool:
    # controls, formats, lone surrogates, ends of lines; but not the joiners that emoji and some scripts need
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in "\u200c\u200d"


def one_line(error: Exception) -> str:
    """Returns what any error says, without line breaks; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def brief(error: Exception) -> str:
    """Returns what an error of another library says, on one line."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.split())[:300].rstrip(".")
