"""Files as answers: opened before anything is said, so that one that goes meanwhile is sent all the same; archives."""

import io
import os
import re
import time
import zipfile
from collections.abc import Iterable, Iterator
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

__all__ = ["MEDIA_TYPES", "disposition", "numbered", "send_file", "zip_parts"]

MEDIA_TYPES = {
    ".avif": "image/avif",
    ".jpg": "image/jpeg",
    ".jxl": "image/jxl",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".webp": "image/webp",
}
"""Of results, by what their names end with."""

_PIECE = 2**18
"""Bytes that are read at once."""

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
        start, end, status = 0, place.st_size, 200
        if request.method == "GET" and request.headers.get("if-range", tag) == tag:
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
    return f"{kind}; filename*=UTF-8''{quote(name, safe='')}"


def numbered(names: Iterable[str]) -> list[str]:
    """Returns names of files of which no two are alike but for what they end with: a.png, a_2.jpg, a_3.png."""
    taken: set[str] = set()
    found = []
    for name in names:
        stem, suffix = Path(name).stem, Path(name).suffix
        tried, number = stem, 1
        while folded(tried) in taken:
            number += 1
            tried = f"{stem}_{number}"
        taken.add(folded(tried))
        found.append(f"{tried}{suffix}")
    return found


def zip_parts(entries: Iterable[tuple[str, Path | bytes]]) -> Iterator[bytes]:
    """Yields an archive part by part, stored as it is, as pictures do not get smaller.

    Args:
        entries: the name of each, and the file or the bytes that it holds.

    Raises:
        OSError: a file has gone; whoever reads the archive sees that it does not end.
    """
    sink = _Sink()
    now = time.localtime()[:6]
    with zipfile.ZipFile(sink, "w") as archive:  # type: ignore[call-overload]
        for name, held in entries:
            info = zipfile.ZipInfo(name, now)
            info.external_attr = 0o644 << 16
            with io.BytesIO(held) if isinstance(held, bytes) else held.open("rb") as file:
                info.file_size = file.seek(0, io.SEEK_END)  # what is large needs another header
                file.seek(0)
                with archive.open(info, "w") as entry:
                    while piece := file.read(_PIECE):
                        entry.write(piece)
                        yield sink.taken()
    yield sink.taken()


class _Sink:
    """A file that can only be written, whose bytes are taken out again."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        self._held += data
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        return held


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
        raise InputError(message, code="range_not_satisfiable", field="Range", value=header[:80], remedy=remedy)
    return start, end
