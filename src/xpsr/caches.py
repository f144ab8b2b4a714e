"""The user's cache folder, and the digests of large files that are kept there. No torch."""

import json
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from xpsr.errors import InputError
from xpsr.files import atomic_write, refusal, sha256

__all__ = ["cache_folder", "digest", "keep", "kept"]

logger = logging.getLogger(__name__)

_LARGE = 2**26
"""Bytes from which on a file's digest is kept: those of smaller files take less than a fifth of a second."""
_MOST_KEPT = 256
_MOST_BYTES = 2**20


def cache_folder(name: str) -> Path:
    """Returns the folder, or file, of that name in the user's cache; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "xpsr", name).expanduser()


def kept(file: str, is_whole: Callable[[Any], bool]) -> dict[str, Any]:
    """Returns the entries of a JSON file of the cache, by name, without what is damaged.

    There are none where it is missing, or the user has no home.
    """
    try:
        with cache_folder(file).open("rb") as opened:
            content = json.loads(opened.read(_MOST_BYTES))
    except (OSError, ValueError, RuntimeError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if is_whole(entry)}


def keep(file: str, name: str, entry: Any, is_whole: Callable[[Any], bool]) -> None:
    """Adds an entry to a JSON file of the cache, in the place of the oldest where there are many, if that can be."""
    others = {key: value for key, value in kept(file, is_whole).items() if key != name}
    with suppress(OSError, InputError, RuntimeError):  # without a cache it is found out again next time
        place = cache_folder(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(place) as part:
            entries = {**dict(list(others.items())[1 - _MOST_KEPT :]), name: entry}
            part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal; a large one that has not changed is read once and not again.

    Raises:
        InputError: it cannot be read.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise refusal(path, "cannot be read", error) from error
    # The last one tells a file that was changed and given its former time
    return _digest(path, (state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns))


@lru_cache(maxsize=256)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    if state[0] < _LARGE:
        return sha256(path)
    name = str(path.resolve())
    found, *known = kept("digests.json", _is_digest).get(name) or [""]
    if tuple(known) == state:
        return str(found)
    logger.info("Checking %s (%.1f GB).", path, state[0] / 1e9)
    made = sha256(path)
    keep("digests.json", name, [made, *state], _is_digest)
    return made


def _is_digest(entry: object) -> bool:
    """Whether it is a digest, and the size, times and number of its file."""
    if not isinstance(entry, list) or not entry or not isinstance(entry[0], str):
        return False
    return re.fullmatch("[0-9a-f]{64}", entry[0]) is not None
