"""Files as answers: opened before anything is said, so that one that goes meanwhile is sent all the same; archives."""

import io
import logging
import os
import re
import struct
import time
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote

import anyio.to_thread
from starlette.requests import Request as HTTPRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from xpsr.errors import InputError
from xpsr.sources import folded
from xpsr.web.scheduler import no_such_job

__all__ = ["disposition", "numbered", "send_file", "zip_parts"]

logger = logging.getLogger(__name__)

_PIECE = 2**18
"""Bytes that are read at once."""

_MAX_STEM = 150
"""Bytes of a name in an archive, before what it ends with."""

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class _FileResponse(StreamingResponse):
    """An open file, or a part of it."""

    def __init__(self, file: BinaryIO, start: int, end: int, status: int, media_type: str, headers: dict[str, str]):
        super().__init__(_pieces(file, start, end), status_code=status, media_type=media_type, headers=headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


async def send_file(
    request: HTTPRequest,
    path: Path,
    *,
    job: str,
    media_type: str,
    name: str,
    kind: Literal["attachment", "inline"] = "attachment",
    headers: dict[str, str] | None = None,
) -> StreamingResponse:
    """Returns the answer that a file is, or the one range of it that is asked for.

    Args:
        request: what is answered.
        path: the file.
        job: the id of the job that it is of.
        media_type: of the file.
        name: what it is called when it is saved.
        kind: whether a browser saves or shows it.
        headers: more of them.

    Raises:
        InputError: the job was forgotten, and its files are gone; or the range is none of the file.
    """
    file = await anyio.to_thread.run_sync(_opened, path, job)
    try:
        place = os.fstat(file.fileno())
        tag = f'"{place.st_mtime_ns:x}-{place.st_size:x}"'
        told = {
            "Accept-Ranges": "bytes",
            "ETag": tag,
            "Content-Disposition": disposition(name, kind),
            **(headers or {}),
        }
        if request.method == "HEAD":
            return _FileResponse(file, 0, 0, 200, media_type, told | {"Content-Length": str(place.st_size)})
        start, end, status = 0, place.st_size, 200
        if request.headers.get("if-range", tag) == tag:
            asked = _range_of(request.headers.get("range", ""), place.st_size)
            if asked is not None:
                (start, end), status = asked, 206
                told["Content-Range"] = f"bytes {start}-{end - 1}/{place.st_size}"
        return _FileResponse(file, start, end, status, media_type, told | {"Content-Length": str(end - start)})
    except BaseException:
        file.close()
        raise


def disposition(name: str, kind: Literal["attachment", "inline"]) -> str:
    """Returns the header that says what a file is called, in letters of any script."""
    plain = re.sub(r"[^ !#-$&-.0-\[\]-~]", "_", name)  # for programs that know no other
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def numbered(names: Iterable[str]) -> list[str]:
    """Returns names that every system's files may have, no two alike but for what they end with: a.png, a_2.jpg."""
    taken: set[str] = set()
    found = []
    for name in names:
        stem, suffix = _usable(Path(name).stem), Path(name).suffix
        tried, number = stem, 1
        while folded(tried) in taken:
            number += 1
            tried = f"{stem}_{number}"
        taken.add(folded(tried))
        found.append(f"{tried}{suffix}")
    return found


def zip_parts(entries: Iterable[tuple[str, Path | bytes]]) -> Iterator[bytes]:
    """Yields an archive part by part, stored as it is, as pictures do not get smaller.

    Sizes and checksums come before what they are of, so that it can be read as it comes. Where a file has gone it has
    no end, which whoever reads it sees.

    Args:
        entries: the name of each, and the file or the bytes that it holds.
    """
    moment, written, listed = _moment(), 0, list[bytes]()
    try:
        for name, held in entries:
            with io.BytesIO(held) if isinstance(held, bytes) else held.open("rb") as file:
                crc = size = 0
                while piece := file.read(_PIECE):
                    crc, size = zlib.crc32(piece, crc), size + len(piece)
                file.seek(0)
                entry = _Entry(name.encode(), moment, crc, size, written)
                listed.append(entry.listed())
                yield (head := entry.head())
                written += len(head) + size
                yield from _pieces(file, 0, size)
    except OSError as error:
        logger.warning("An archive ends early: %s", error)
        return
    yield b"".join(listed)
    yield _end_of_zip(len(listed), sum(map(len, listed)), written)


_SIGNED = {"head": b"PK\3\4", "listed": b"PK\1\2", "end": b"PK\5\6", "end_64": b"PK\6\6", "place_64": b"PK\6\7"}
"""What the parts of a ZIP begin with."""

_FULL = 2**32 - 1
"""In place of a number that is too large for 32 bits and stands, with 64, elsewhere."""

_UTF8 = 1 << 11
"""The flag of a name in UTF-8."""


@dataclass(frozen=True)
class _Entry:
    """A stored file of a ZIP: its name, when it was put there, its checksum and size, and where it begins."""

    name: bytes
    moment: tuple[int, int]
    crc: int
    size: int
    place: int

    def head(self) -> bytes:
        """What stands before the file."""
        more = struct.pack("<2H2Q", 1, 16, self.size, self.size) if _is_large(self.size) else b""
        size = _FULL if more else self.size
        told = (45 if more else 20, _UTF8, 0, *self.moment, self.crc, size, size, len(self.name), len(more))
        return _SIGNED["head"] + struct.pack("<5H3I2H", *told) + self.name + more

    def listed(self) -> bytes:
        """What stands in the list at the end."""
        large = [self.size] * 2 * (_is_large(self.size)) + [self.place] * (_is_large(self.place))
        more = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
        size, place = (_FULL if _is_large(number) else number for number in (self.size, self.place))
        needs = 45 if large else 20
        made = 3 << 8 | needs  # by Unix, whose permissions follow
        told = (made, needs, _UTF8, 0, *self.moment, self.crc, size, size, len(self.name), len(more), 0, 0, 0)
        return _SIGNED["listed"] + struct.pack("<6H3I5H2I", *told, 0o100644 << 16, place) + self.name + more


def _end_of_zip(count: int, size: int, place: int) -> bytes:
    """What a ZIP ends with, whose list has so many entries and bytes, and begins there."""
    large = b""
    if _is_large(place):
        told = (44, 45, 45, 0, 0, count, count, size, place)
        large = _SIGNED["end_64"] + struct.pack("<Q2H2I4Q", *told)
        large += _SIGNED["place_64"] + struct.pack("<IQI", 0, place + size, 1)
    return large + _SIGNED["end"] + struct.pack("<4H2IH", 0, 0, count, count, size, _FULL if large else place, 0)


def _is_large(number: int) -> bool:
    return number >= _FULL


def _moment() -> tuple[int, int]:
    """The time and date of now, as a ZIP has them."""
    year, month, day, hour, minute, second, *_ = time.localtime()
    return hour << 11 | minute << 5 | second // 2, max(year - 1980, 0) << 9 | month << 5 | day


def _usable(stem: str) -> str:
    """A file's name without what ends it, as every system takes it."""
    stem = "".join("_" if sign in '<>:"/\\|?*' or unicodedata.category(sign)[0] == "C" else sign for sign in stem)
    return stem.encode()[:_MAX_STEM].decode(errors="ignore").strip(" .") or "picture"


def _opened(path: Path, job: str) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise no_such_job(job) from error


def _pieces(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left and (piece := file.read(min(_PIECE, left))):
        left -= len(piece)
        yield piece


def _range_of(header: str, size: int) -> tuple[int, int] | None:
    """First and last (not included) byte of the range that is asked for; None: all, as of what is not understood.

    Raises:
        InputError: the file is shorter.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        message, remedy = f"is none of a file of {size} bytes", "ask for less, or for all of it"
        code, value = "range_not_satisfiable", header[:80]
        raise InputError(message, code=code, field="Range", value=value, remedy=remedy, limit=size)
    return start, end
