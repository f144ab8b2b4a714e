"""Priors on disk: one JSON object a line, which a person may edit.

A line is `{"image", "sha256", "content", "quality", "describer", "revision", "question", "view"}`, and `"levels"` where
the describer knows them; `image` is relative to the file's folder. Only `image` and the texts are needed, and unknown
keys stay. A later line goes before an earlier one.
"""

import codecs
import json
import logging
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock

from xpsr.errors import InputError, ModelError
from xpsr.prior.describers import Describer
from xpsr.prior.texts import Prior

__all__ = ["PriorFile", "describe_files", "path_key"]

logger = logging.getLogger(__name__)

_GROUP = 8  # pictures that are described before anything is written


class PriorFile:
    """A JSONL of priors that several processes may write to; a line is there whole or not at all."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def read(self) -> list[dict[str, Any]]:
        """Every line, the oldest first; none where there is no file. A last line that a crash cut off is passed over.

        Raises:
            InputError: another line is not what it should be.
        """
        if not self.path.exists():
            return []
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error}); name a JSONL of priors.") from error
        lines, entries = data.removeprefix(codecs.BOM_UTF8).split(b"\n"), []  # some editors write a byte order mark
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
                    raise InputError('a JSON object with "image" is needed')
                Prior.from_dict(entry)
            except ValueError as error:
                if number == len(lines) and isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
                    continue
                raise InputError(f"{self.path}, line {number}: {error}; mend or delete the line.") from error
            entries.append(entry)
        return entries

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Adds lines, all of them or none. What a crash left of a last line is taken away, with a warning.

        Raises:
            InputError: the file cannot be written, or its last line is none of a JSONL.
        """
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # unbuffered: what did not fit on the disk must not be written again by what takes it back
            with self._lock, self.path.open("ab+", buffering=0) as file:
                lines = self._mend(file) + lines
                end = file.seek(0, os.SEEK_END)
                try:
                    while lines:
                        lines = lines[file.write(lines) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another with -o.") from error

    def _mend(self, file: FileIO) -> bytes:
        """Takes away a last line that was cut off; what has to come before the next line."""
        file.seek(0)
        data = file.readall()
        start = data.rfind(b"\n") + 1
        last = data[start:].removeprefix(codecs.BOM_UTF8)
        if not last.strip():
            return b""
        try:
            json.loads(last)
        except ValueError as error:
            number = data.count(b"\n") + 1
            if not last.startswith(b"{"):  # a file of another kind, or a person's words: not ours to delete
                raise InputError(f"{self.path}, line {number}: {error}; mend or delete the line.") from error
            file.truncate(start)
            logger.warning("%s, line %d: was cut off and is taken away: %.80r", self.path, number, last)
            return b""
        return b"\n"  # a person's editor, or a process that was killed

    def relative(self, image: Path) -> str:
        """How a line calls a picture."""
        return Path(os.path.relpath(image.resolve(), self.path.parent.resolve())).as_posix()


def path_key(path: Path) -> str:
    """A path as it is compared: without links, and with letters composed as some file systems do and others do not."""
    try:
        path = path.resolve()
    except (OSError, ValueError, RuntimeError):  # no path could be so: it is compared as it was written
        path = path.absolute()
    return unicodedata.normalize("NFC", str(path))


def describe_files(
    describer: Describer,
    images: Sequence[Path],
    file: PriorFile,
    *,
    content_from: Callable[[Path], Path | None] | None = None,
    refresh: bool = False,
    on_error: Callable[[Path, Exception], None] | None = None,
) -> Iterator[tuple[Path, Prior]]:
    """Describes pictures that the file does not hold yet and adds them to it, a few at a time; yields every prior.

    A line counts for a picture if it has its SHA-256 (or, without one, its path) and was written by this describer with
    these questions, or says not who wrote it. What a person changed in a line is kept.

    Args:
        describer: who looks.
        images: files.
        file: what is already known, and where the rest goes.
        content_from: another picture that the content is asked of, such as the clean one of a training pair.
        refresh: asks again about every picture.
        on_error: is told of a picture that cannot be described, and the rest goes on; None: the error is raised.
    """
    identity = _identity(describer)
    known = {} if refresh else _known(file, identity)
    waiting: list[tuple[Path, str]] = []

    def describe() -> Iterator[tuple[Path, Prior]]:
        group, waiting[:] = list(waiting), []
        done = []
        for image, digest, prior in _describe_group(describer, group, content_from, on_error):
            entry = {"image": file.relative(image), "sha256": digest, **prior.as_dict(), **identity}
            done.append((entry, image, prior))
        # a picture of which nothing could be said is asked about again next time
        if entries := [entry for entry, _, prior in done if prior.content or prior.quality]:
            file.append(entries)
        yield from ((image, prior) for _, image, prior in done)

    for image in images:
        try:
            digest = _checked_sha256(image, file)
        except InputError as error:
            if on_error is None:
                raise
            on_error(image, error)
            continue
        lines = [known[name] for name in (digest, path_key(image)) if name in known]
        if lines:
            yield image, max(lines, key=lambda line: line[0])[1]
            continue
        waiting.append((image, digest))
        if len(waiting) == _GROUP:
            yield from describe()
    yield from describe()


def _describe_group(
    describer: Describer,
    group: Sequence[tuple[Path, str]],
    content_from: Callable[[Path], Path | None] | None,
    on_error: Callable[[Path, Exception], None] | None,
) -> Iterator[tuple[Path, str, Prior]]:
    def look(images: Sequence[tuple[Path, str]]) -> list[Prior]:
        priors = describer.describe([image for image, _ in images])
        if content_from is None:
            return priors
        sources = [content_from(image) for image, _ in images]
        clean = [source for source in sources if source is not None]
        contents = iter(describer.describe(clean) if clean else [])
        return [
            prior if source is None else Prior(next(contents).content, prior.quality, prior.levels)
            for prior, source in zip(priors, sources, strict=True)
        ]

    try:
        priors = look(group) if group else []
    except ModelError:  # the describer is at fault, not a picture
        raise
    except Exception as error:
        if on_error is None:
            raise
        if len(group) == 1:
            on_error(group[0][0], error)
            return
        for one in group:  # the others are not to suffer
            yield from _describe_group(describer, [one], content_from, on_error)
        return
    for (image, digest), prior in zip(group, priors, strict=True):
        yield image, digest, prior


def _checked_sha256(image: Path, file: PriorFile) -> str:
    """A picture's SHA-256.

    Raises:
        InputError: it cannot be read, or no line of the file can hold its name.
    """
    from xpsr.files import sha256

    try:
        file.relative(image).encode()
        return sha256(image)
    except UnicodeEncodeError as error:
        raise InputError(f"{image}: the name is not UTF-8; rename it.") from error
    except OSError as error:
        raise InputError(f"{image}: cannot be read ({error.strerror}); check the path and its permissions.") from error


def _identity(describer: Describer) -> dict[str, Any]:
    questions = None if describer.questions is None else asdict(describer.questions)
    return {
        "describer": describer.name,
        "revision": describer.revision,
        "question": questions and {"content": questions["content"], "quality": questions["quality"]},
        "view": questions and {"content": questions["content_view"], "quality": questions["quality_view"]},
    }


def _known(file: PriorFile, identity: dict[str, Any]) -> dict[str, tuple[int, Prior]]:
    """The last line that counts, and its place, by SHA-256 or else by the picture's path."""
    folder = file.path.parent
    return {
        entry.get("sha256") or path_key(folder / entry["image"]): (place, Prior.from_dict(entry))
        for place, entry in enumerate(file.read())
        if "describer" not in entry or {key: entry.get(key) for key in identity} == identity
    }
