"""Lists of pictures: a line or a row each, in a .txt, .jsonl, .csv or .parquet, here or behind an address."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

from xpsr.batch.naming import below, suffix_of
from xpsr.batch.stores import is_address, open_address, plain, telling
from xpsr.config.checks import SEED, is_text, said
from xpsr.errors import InputError, MissingDependencyError, brief
from xpsr.files import WRITTEN_SUFFIXES, refusal

__all__ = ["LISTS", "Found", "read_list"]

LISTS = frozenset({".txt", ".jsonl", ".csv", ".parquet"})
"""Lower-case ends of the names of lists."""

_TEXTS = ("source", "id", "target", "content", "quality")
_COLUMNS = (*_TEXTS, "seed")
_ROWS = 10_000
"""Of a .parquet that are read at once."""


class Found(NamedTuple):
    """A picture that was found, or is on a list; its fields are those of `Item`, where they are known.

    Attributes:
        target: "": it follows from the id.
        link: where the file is that the source, a link, leads to; "": it is none.
    """

    id: str
    source: str
    stamp: str = ""
    target: str = ""
    seed: int | None = None
    content: str | None = None
    quality: str | None = None
    link: str = ""


def read_list(name: str, *, on_error: Callable[[str, InputError], None]) -> Iterator[Found]:
    """Yields the pictures of a list, in their order, without stamps.

    A .txt has a source a line; empty lines and those that begin with # are passed over. A .jsonl has objects, a .csv a
    header, a .parquet columns: "source" and, where wanted, "id", "target", "seed", "content" and "quality". Others are
    passed over, and an empty cell is as none. Relative sources are relative to the folder of the list. An id that is
    not given is the source as the list has it, without root and dots.

    Args:
        name: the list's path or address.
        on_error: is told of each line that is not used, by list and number.

    Raises:
        InputError: the list cannot be read, or has no sources.
        MissingDependencyError: pyarrow, which a .parquet needs, is not installed.
        XPSRError: its store cannot be reached.
    """
    rows = {".txt": _of_txt, ".jsonl": _of_jsonl, ".csv": _of_csv, ".parquet": _of_parquet}
    suffix = PurePath(name).suffix.lower()
    folder = name.rpartition("/")[0] if is_address(name) else os.path.dirname(name)  # noqa: PTH120 - "" is this one
    with _opened(name) as file:
        for number, row in rows[suffix](file, name):
            try:
                yield _checked(row, folder) if isinstance(row, Mapping) else _fail(row)
            except InputError as error:
                place = f"{name}, {'row' if suffix == '.parquet' else 'line'} {number}"
                on_error(place, error.recast(InputError, source=place))


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    try:
        if is_address(name):
            with telling(name, "cannot be read"), open_address(name) as file:
                yield file
        else:
            with Path(name).open("rb") as file:
                yield file
    except OSError as error:
        raise refusal(Path(name), "cannot be read", error) from error


def _fail(problem: str) -> Found:
    raise InputError(problem, code="damaged", remedy="mend or delete the line")


# A row of each kind of list, or what is wrong with it, and its number, from 1


def _of_txt(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with _text(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                yield number, {"source": line.rstrip("\n")}


def _of_jsonl(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with _text(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"is no JSON object ({brief(error)})"
                continue
            yield number, row if isinstance(row, dict) else "is no JSON object"


def _of_csv(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with _text(file, newline="") as lines:
        reader, header = csv.reader(lines), list[str]()
        while True:
            try:
                if (cells := next(reader, None)) is None:
                    break
            except csv.Error as error:
                yield reader.line_num, f"is no line of a CSV ({brief(error)})"
                continue
            if not any(cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _refuse_without_source(header, name)
            elif len(cells) != len(header):
                yield reader.line_num, f"has {len(cells)} cells, and the header {len(header)}"
            else:
                yield reader.line_num, {key: cell or None for key, cell in zip(header, cells, strict=True)}


def _of_parquet(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingDependencyError(f"{name}: needs pyarrow", remedy="run `pip install pyarrow`") from error
    try:
        table = ParquetFile(file)
        _refuse_without_source(table.schema_arrow.names, name)
        wanted = [column for column in _COLUMNS if column in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(_ROWS, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        message = f"{name}: cannot be read as Parquet ({brief(error)})"
        raise InputError(message, code="damaged", remedy="write it anew") from error


def _text(file: BinaryIO, newline: str | None = None) -> io.TextIOWrapper:
    # what is no UTF-8 is the fault of its line alone; some editors write a byte order mark
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _refuse_without_source(columns: list[str], name: str) -> None:
    if "source" not in columns:
        message = f"{name}: has no column source, only {said(columns)}"
        raise InputError(message, code="missing", remedy=f"name its columns, of {', '.join(_COLUMNS)}")


# What a row means


def _checked(row: Mapping[str, Any], folder: str) -> Found:
    """Returns a picture of a list that is in `folder`.

    Raises:
        InputError: something in the row is of no use.
    """
    source, called, target, content, quality = map(row.get, _TEXTS)
    for name, value in zip(_TEXTS, (source, called, target, content, quality), strict=True):
        if value is not None and not isinstance(value, str):
            raise _wrong(name, value, "is no text", "write it in quotes", code="wrong_type")
    if not source:
        raise InputError("has no source", code="missing", remedy="mend or delete the line")
    if "\0" in source:
        raise _wrong("source", source, "has characters that no path has", "mend or delete the line")
    for name, text in (("content", content), ("quality", quality)):
        if text is not None and (broken := is_text(text)) is not None:
            raise _wrong(name, text, *broken, code="out_of_range")
    if target:
        if (place := below(target)) is None:
            raise _wrong("target", target, "leads out of the folder of results", "write it as trip/a.png")
        if (suffix := suffix_of(place).lower()) not in WRITTEN_SUFFIXES:
            raise _wrong("target", target, f"ends with no format that is written ({suffix or 'none'})", "use .png")
        target = place
    id = below(called) if called else _id_of(source)  # noqa: A001 - an item's
    if not id:
        raise _wrong("id", called or source, "is no name below a folder", "use one without root and ..")
    if not is_address(source):
        is_below = is_address(folder) and not os.path.isabs(source)  # noqa: PTH117 - of millions
        source = f"{folder}/{source}" if is_below else os.path.join(folder, source)  # noqa: PTH118
    return Found(
        id=id,
        source=plain(source),
        target=target or "",
        seed=_seed(row.get("seed")),
        content=content,
        quality=quality,
    )


def _id_of(source: str) -> str:
    """Returns what a source is called: without root, scheme, . and .., so that it is below whatever it is put."""
    if is_address(source):
        path = source.partition("://")[2].partition("?")[0]
    else:
        path = os.path.splitdrive(source)[1].replace(os.sep, "/")
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))


def _seed(value: Any) -> int | None:
    """Returns a seed that may be a text, as in a CSV, or a float, as in a table where others have none."""
    if value is None:
        return None
    try:
        seed = int(value)
        is_whole = not isinstance(value, bool) and (isinstance(value, str) or seed == value)
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise _wrong("seed", value, "is not a whole number", "use 0, for example", code="wrong_type")
    if (broken := SEED(seed)) is not None:
        raise _wrong("seed", value, *broken, code="out_of_range")
    return seed


def _wrong(name: str, value: Any, message: str, remedy: str, *, code: str = "bad_name") -> InputError:
    return InputError(message, code=code, field=name, value=said(value), remedy=remedy)
