"""JSON objects, one a line, in files that survive a crash and that a person may edit."""

import codecs
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import lock_descriptor, unlock_descriptor

from xpsr.errors import InputError
from xpsr.files import atomic_write, read_bytes, refusal

__all__ = ["MAX_BYTES", "append_lines", "damaged", "read_lines", "to_line", "write_lines"]

logger = logging.getLogger(__name__)

MAX_BYTES = 2**28
"""Of a file of lines: priors of half a million pictures, or more."""


def to_line(entry: Mapping[str, Any]) -> str:
    """Returns one JSON object and a line break, in ASCII, because names of files need not be UTF-8."""
    return json.dumps(entry) + "\n"


def read_lines(
    path: Path, *, on_damage: Callable[[InputError], None] | None = None
) -> list[tuple[int, dict[str, Any]]]:
    """Returns the objects in a file with the numbers of their lines, from 1; none where there is no file.

    Empty lines are passed over, and so is a last line that was cut off. Any other line that is no JSON object is told
    to `on_damage` and passed over, or raised where that is None.

    Raises:
        InputError: such a line, or the file cannot be read.
    """
    try:
        content = read_bytes(path, limit=MAX_BYTES)
    except InputError as error:
        if error.code == "not_found":
            return []
        raise
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")  # some editors write a byte order mark
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry, problem = json.loads(line), "a JSON object is needed"
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # without a line break at its end
                continue
            entry, problem = None, str(error)
        if isinstance(entry, dict):
            entries.append((number, entry))
        elif on_damage is None:
            raise damaged(path, number, problem)
        else:
            on_damage(damaged(path, number, problem))
    return entries


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Writes objects as a whole file or not at all.

    Raises:
        InputError: `path` cannot be written.
    """
    with atomic_write(path) as part, part.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(to_line(entry) for entry in entries)


def append_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Adds objects to a file that a person reads, all of them or none; they are on the disk when this returns.

    Several processes and threads may add to one file. What a crash left of a last line is taken away, with a warning.

    Raises:
        InputError: the file cannot be written, or its last line is none of a JSONL.
    """
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode(errors="backslashreplace")
    try:
        # unbuffered: what did not fit on the disk must not be written again by what takes it back
        with path.open("ab+", buffering=0) as file, _locked(file, path):
            lines = _mend(file, path) + lines
            end = file.seek(0, os.SEEK_END)
            try:
                while lines:
                    lines = lines[file.write(lines) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise refusal(path, "cannot be written", error) from error


@contextmanager
def _locked(file: FileIO, path: Path) -> Iterator[None]:
    """Keeps out all others that do the same. The file itself is the lock, so none is left beside it."""
    try:
        lock_descriptor(file.fileno())
    except OSError as error:  # some file systems of networks
        logger.warning("%s: cannot be locked (%s); let one process at a time add to it.", path, error.strerror)
        yield
        return
    try:
        yield
    finally:
        unlock_descriptor(file.fileno())


def damaged(path: Path, number: int, problem: str) -> InputError:
    """Returns the error to raise for a line that is not what it should be."""
    return InputError(
        f"{path}, line {number}: {' '.join(problem.split())}", code="damaged", remedy="mend or delete the line"
    )


def _mend(file: FileIO, path: Path) -> bytes:
    """Takes away a last line that was cut off; returns what has to come before the next line."""
    if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) == b"\n":
        return b""  # nothing was cut off, and to read a log of a million lines takes long
    file.seek(0)
    data = file.readall()
    start = data.rfind(b"\n") + 1
    last = data[start:].removeprefix(codecs.BOM_UTF8)
    if not last.strip():
        return b""
    try:
        json.loads(last)
    except (ValueError, RecursionError) as error:
        number = data.count(b"\n") + 1
        if not last.startswith(b"{"):  # a file of another kind, or a person's words: not ours to delete
            raise damaged(path, number, str(error)) from error
        file.truncate(start)
        logger.warning("%s, line %d: was cut off and is taken away: %.80r", path, number, last)
        return b""
    return b"\n"  # a person's editor, or a process that was killed
