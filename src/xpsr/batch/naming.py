"""What results of a plan are called, and which pictures of one may not have theirs in the same place."""

import os
import string
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xpsr.batch.stores import name_of
from xpsr.errors import InputError
from xpsr.files import IMAGE_SUFFIXES, OTHER_SUFFIXES
from xpsr.sources import ResultFormat, folded, named_suffix

__all__ = ["Keys", "Naming", "below", "is_hidden", "record_key", "suffix_of"]

_FIELDS = ("stem", "suffix", "size")
_PICTURES = IMAGE_SUFFIXES | OTHER_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How the names of results follow from those of their pictures.

    Args:
        name: the name without what its format adds. {stem} is the picture's name without its suffix, {suffix} that
            suffix with its dot, {size} the size that was asked for; a / makes folders. It needs {stem}.
        format: of results; "same": what the names of pictures say theirs is, as no file is opened.
        size: what {size} stands for, such as "x4"; "": none was asked for.

    Raises:
        InputError: the name has no {stem}, has a field that there is not, or leads out of its folder.
    """

    name: str = "{stem}"
    format: ResultFormat = "same"
    size: str = ""

    def __post_init__(self) -> None:
        known = ", ".join(f"{{{field}}}" for field in _FIELDS)
        try:
            parts = list(string.Formatter().parse(self.name))
        except ValueError as error:
            raise self._fault(f"has a brace alone ({error})", f"use {known}, and {{{{ for a brace") from error
        fields = [field for _, field, _, _ in parts if field is not None]
        unknown = [field for field in fields if field not in _FIELDS]
        if unknown:
            raise self._fault(f"has {{{unknown[0]}}}, which is not known", f"use {known}")
        if any(form or conversion for _, _, form, conversion in parts):
            raise self._fault("has a : or ! in its braces", f"use {known} as they are")
        if "stem" not in fields:
            raise self._fault("gives pictures of one folder the same name", "use {stem}, for example {stem}_restored")
        if "size" in fields and not self.size:
            raise self._fault("has {size}, and no size was asked for", "leave {size} out, or ask for a size")
        example = self.name.format(stem="a", suffix=".b", size="c")
        if below(example) is None or any(part in ("", ".") for part in example.split("/")):
            raise self._fault("leads out of the folder of results, or nowhere", "use a name such as {stem}_restored")

    def of(self, id: str, source: str) -> tuple[str, str]:  # noqa: A002 - an item's
        """Returns where the result of a picture goes, and what pictures share whose names differ in the suffix alone.

        Args:
            id: of an `Item`; the result's folder is that of the id.
            source: of an `Item`.
        """
        folder, slash, name = id.rpartition("/")
        suffix = suffix_of(name_of(source))
        stem = _stem(name, suffix)
        return self._target(f"{folder}{slash}", stem, suffix), folded(f"{folder}{slash}{stem}")

    def among_several(self, id: str, source: str) -> str:  # noqa: A002 - an item's
        """Returns where the result of a picture goes that is not the only one of its folder with its stem.

        As of photo.jpg and photo.png, {stem} is with the suffix, unless the name has {suffix} itself.
        """
        folder, slash, name = id.rpartition("/")
        suffix = suffix_of(name_of(source))
        return self._target(f"{folder}{slash}", _stem(name, suffix) if "{suffix}" in self.name else name, suffix)

    def _target(self, folder: str, stem: str, suffix: str) -> str:
        named = self.name.format(stem=stem, suffix=suffix, size=self.size)
        return f"{folder}{named}{named_suffix(suffix, self.format)}"

    def _fault(self, message: str, remedy: str) -> InputError:
        return InputError(message, code="bad_name", field="name", value=self.name, remedy=remedy)


class Keys:
    """Many texts by their hashes, eight bytes each, to know which may be among them more than once or in another one.

    Texts that are not alike may have the same hash, if hardly ever, so that texts of those that are returned are to be
    compared.
    """

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, text: str) -> None:
        self._hashes.append(hash(text))

    @property
    def count(self) -> int:
        return len(self._hashes)

    def repeated(self) -> set[int]:
        """Returns the hashes that were added more than once."""
        hashes = np.sort(self._array())
        return set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())

    def common(self, other: "Keys") -> set[int]:
        """Returns the hashes that were added to both."""
        return set(np.intersect1d(self._array(), other._array()).tolist())

    def _array(self) -> NDArray[np.int64]:
        return np.array(self._hashes, np.int64)


def record_key(target: str) -> str:
    """Returns what results have in common whose records, or who themselves, would be in the same place."""
    return folded(target.rpartition(".")[0])


def below(name: str) -> str | None:
    """Returns a path with / and without what says nothing, such as ./; None: it is empty or leads out of its folder."""
    drive, path = os.path.splitdrive(name)  # of Windows
    path = path.replace(os.sep, "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    leads_out = drive or path.startswith("/") or ".." in parts or "\0" in path
    return None if leads_out or not parts else "/".join(parts)


def is_hidden(path: str) -> bool:
    """Returns whether a path with /, or a folder in it, is hidden."""
    return path.startswith(".") or "/." in path


def suffix_of(name: str) -> str:
    """The end of a name from its last dot on, as `Path.suffix`."""
    name = name.rpartition("/")[2]
    start = name.rfind(".")
    return name[start:] if 0 < start < len(name) - 1 else ""


def _stem(name: str, suffix: str) -> str:
    """A name without the suffix of its picture; an id may have another, or none, as in v1.5."""
    own = suffix_of(name)
    return name[: len(name) - len(own)] if own and (own == suffix or own.lower() in _PICTURES) else name
