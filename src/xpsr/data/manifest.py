"""The files beside stored pairs: their names, and JSON lines that survive a crash.

pairs/
  hr/NAME_0.png lr/NAME_0.png …   or shards/000000.tar … with shards/index.json
  manifest.jsonl                  a line for each pair: parameters, levels, sizes, hashes, source
  skipped.jsonl                   a line for each picture that could not be used, if there is any
  settings.json                   what they were made with
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpsr.errors import InputError
from xpsr.files import atomic_write
from xpsr.prior import Levels, Prior

__all__ = ["INDEX", "JOURNAL", "MANIFEST", "SETTINGS", "SKIPPED", "Texts", "read_lines", "to_line", "write_lines"]

MANIFEST, JOURNAL, SKIPPED, SETTINGS = "manifest.jsonl", "manifest.jsonl.part", "skipped.jsonl", "settings.json"
INDEX = "index.json"


@dataclass(frozen=True)
class Texts:
    """What is said of a stored pair: what is in it, what is wrong with its LR and with its HR."""

    content: str = ""
    quality: str = ""
    clean_quality: str = ""
    levels: Levels | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any], lr: Prior | None = None, hr: Prior | None = None) -> "Texts":
        """What a line of the manifest says, and the priors of both pictures, which go before it.

        Raises:
            InputError: a text or a level in the line is of another kind.
        """
        told, lr, hr = Prior.from_dict(entry), lr or Prior(), hr or Prior()
        content = lr.content or hr.content or told.content
        return cls(content, lr.quality or told.quality, hr.quality, told.levels)


def to_line(entry: Mapping[str, Any]) -> str:
    """One JSON object and a line break."""
    return json.dumps(entry) + "\n"  # in ASCII, because names of files need not be UTF-8


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line; none where there is no file. A last line that was cut off is left out.

    Raises:
        InputError: another line is damaged, or the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error
    entries = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break is empty, or was cut off
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}; mend or delete the line.") from error
        if not isinstance(entry, dict):
            raise InputError(f"{path}, line {number}: a JSON object is needed; mend or delete the line.")
        entries.append(entry)
    return entries


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON objects, one a line, all or nothing.

    Raises:
        InputError: `path` cannot be written.
    """
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(to_line(entry) for entry in entries)
