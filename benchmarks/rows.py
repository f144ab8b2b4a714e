"""What was measured, a row each: kept in a file of JSON lines, counted where it failed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.reporting import machine, occasion
from xpsr.jsonl import append_lines

PACKAGES = ("xpsr", "torch", "diffusers", "transformers")


class Rows:
    """Rows of one run; each gets the machine, the versions, the time and the commit, and goes to the file at once.

    Args:
        path: to which lines are added; None: they are kept here alone.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: Path | None):
        self._path, self._facts = path, machine(PACKAGES)
        self.all: list[dict[str, Any]] = []
        if path is not None:
            append_lines(path, [])  # before hours have gone by

    def add(self, row: Mapping[str, Any]) -> None:
        """Keeps a row.

        Raises:
            InputError: the file cannot be written.
        """
        self.all.append({**row})
        if self._path is not None:
            append_lines(self._path, [{**row, **occasion(), **self._facts}])

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Returns the rows of one kind."""
        return [row for row in self.all if row["kind"] == kind]

    @property
    def failed(self) -> int:
        """How many rows say that something could not be measured."""
        return sum("error" in row for row in self.all)
