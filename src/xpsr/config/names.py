"""Names of options: what was meant by one that is unknown, and what has another name now."""

import difflib
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from xpsr.errors import InputError

__all__ = ["RENAMED", "RenamedWarning", "nearest", "renamed", "suggest", "unknown"]

RENAMED = {"min_size": "min_working_size"}
"""Settings by their former names, which are in configs, model folders and records."""


class RenamedWarning(FutureWarning):
    """An option was given under its former name; the message holds the present one."""


def renamed(values: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Returns `values` under the names of today, with a `RenamedWarning` for each that has another now.

    `known` are the names of today. One that holds the old name too means something else by it, and keeps it.

    Raises:
        InputError: an option is given under both names.
    """
    changed = dict(values)
    for old, new in RENAMED.items():
        if old in known or new not in known or old not in values:
            continue
        if new in values:
            message = f"is the former name of {new}, which is given too"
            raise InputError(message, code="duplicate", field=old, remedy="leave one of them out")
        warnings.warn(f"{old} is called {new} now; use that name.", RenamedWarning, stacklevel=2)
        changed[new] = changed.pop(old)
    return changed


def unknown(name: str, known: Collection[str]) -> InputError:
    """Makes the error of an option that is none of `known`."""
    meant = nearest(name, known)
    remedy = "leave it out" if meant is None else f"did you mean '{meant}'?"
    return InputError("is not an option", code="unknown_field", field=name, remedy=remedy)


def nearest(word: str, known: Collection[str]) -> str | None:
    """Returns the known word that is most like `word`, or None.

    A name of the same section that ends in the whole word goes first: `steps` means `num_inference_steps`.
    """
    section, _, leaf = word.rpartition(".")
    longer = [name for name in known if name.rpartition(".")[0] == section and name.endswith(f"_{leaf}")]
    return next(iter(longer or difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)


def suggest(word: str, known: Collection[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the nearest known word, or nothing."""
    meant = nearest(word, known)
    return "" if meant is None else f"; did you mean '{meant}'?"
