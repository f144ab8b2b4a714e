"""What comes with a request: a form whose one file goes to disk as it comes, and whether that is a picture.

Nothing is believed: neither the file's name, which is on no disk, nor its type, and it is decoded in a process of its
own before it has a place in the queue.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request as HTTPRequest

from xpsr.config import ServeConfig, UpscaleConfig
from xpsr.config.checks import said
from xpsr.errors import InputError, printable
from xpsr.image import Facts, refuse_unwritable
from xpsr.sources import Source, result_suffix
from xpsr.web.decoding import inspect
from xpsr.web.jobs import UPLOAD
from xpsr.web.options import OPTIONS, refuse_target, unknown_option
from xpsr.web.spool import Spool

__all__ = ["IMAGE", "Form", "Inspector", "named", "receive_form"]

IMAGE = "image"
"""The field that holds the picture."""

_MAX_FIELDS = 80
_MAX_TEXT = 2**16
"""Bytes of a field that is a text; the longest text that is taken has fewer."""

_MAX_NAME = 200
"""Characters of what a picture is called."""

_AT_ONCE = 2**18
"""Bytes that are read, parsed and written in one go, in another thread."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form that has come.

    Attributes:
        fields: the texts in it, by name.
        name: what the client calls the picture, in printable characters and without folders.
        bytes: of the picture's file.
    """

    fields: dict[str, str]
    name: str
    bytes: int


def named(name: str) -> str:
    """Returns what a picture is called of which a client says that it is called so: no folders, nothing unprintable."""
    name = name.replace("\\", "/").rpartition("/")[2]
    name = printable(name).replace("\\", "_").strip()  # else what was unprintable would hold a folder again
    if name in ("", ".", ".."):
        return "picture"
    if len(name) > _MAX_NAME:
        suffix = Path(name).suffix[:10]
        name = name[: _MAX_NAME - len(suffix)] + suffix
    return name


async def receive_form(request: HTTPRequest, folder: Path, *, max_bytes: int, spool: Spool) -> Form:
    """Reads the form that comes with a request; its file lies in `folder` then, as `UPLOAD`.

    Args:
        request: whose body nobody has read.
        folder: of the place that is held for it.
        max_bytes: of the file.
        spool: which says what is told of a disk that is full.

    Raises:
        InputError: it is no form, or not one with one picture; or there is no room for it.
        ClientDisconnect: the client has gone.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        value = said(kind.decode("latin-1"))
        message, remedy = "is not multipart/form-data", f"send a form whose file is called {IMAGE}"
        raise InputError(
            message, code="unsupported_media_type", field="Content-Type", value=value or None, remedy=remedy
        )
    boundary = options.get(b"boundary")
    if not boundary:
        raise _malformed("its Content-Type names no boundary")
    try:
        with (folder / UPLOAD).open("wb") as file:
            reader = _Reader(file, boundary, max_bytes)
            async for part in _gathered(request.stream()):
                await anyio.to_thread.run_sync(reader.read, part)
            return reader.form()
    except OSError as error:
        raise spool.refusal(error) from error


async def _gathered(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yields the same bytes, in parts that are worth a thread."""
    held = bytearray()
    async for part in parts:
        held += part
        if len(held) >= _AT_ONCE:
            yield bytes(held)
            held.clear()
    yield bytes(held)


class _Reader:
    """Takes a multipart body as it comes: its texts are kept, its file is written."""

    def __init__(self, file: BufferedWriter, boundary: bytes, max_bytes: int):
        self._file, self._max_bytes = file, max_bytes
        self._fields: dict[str, str] = {}
        self._name: str | None = None  # of the picture
        self._size = 0
        self._header, self._headers = [b"", b""], dict[bytes, bytes]()
        self._field, self._text = "", bytearray()
        self._is_file = self._is_over = False
        names: dict[str, Any] = {
            "on_part_begin": self._begin,
            "on_header_field": self._hear_name,
            "on_header_value": self._hear_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._take,
            "on_part_end": self._close,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, names)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _malformed("the boundary that its Content-Type names is too long") from error

    def read(self, part: bytes) -> None:
        """Takes the next bytes.

        Raises:
            InputError: they are not those of a form, or are too many.
            OSError: they cannot be written.
        """
        try:
            self._parser.write(part)
        except FormParserError as error:
            raise _malformed("it is not what multipart/form-data is") from error

    def form(self) -> Form:
        """Returns what has come.

        Raises:
            InputError: it has not come to its end, or there was no picture.
            OSError: it cannot be written.
        """
        if not self._is_over:
            raise _malformed("it ends before its last boundary")
        if self._name is None:
            message, remedy = "is missing", "send a picture's file as the field of this name"
            raise InputError(message, code="missing", field=IMAGE, remedy=remedy)
        self._file.flush()
        return Form(fields=self._fields, name=named(self._name), bytes=self._size)

    def _begin(self) -> None:
        self._headers = {}
        self._text.clear()

    def _hear_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _hear_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[name.lower()], self._header = value, [b"", b""]

    def _open(self) -> None:
        """Decides what a part is, once its headers have come."""
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise _malformed("a part of it has no name")
        name, file = _text(options[b"name"]), options.get(b"filename")
        # programs send pictures without a name, too, and then say what they are
        is_typed = not self._headers.get(b"content-type", b"text/").lower().startswith(b"text/")
        self._field, self._is_file = name, file is not None or is_typed
        if len(self._fields) >= _MAX_FIELDS:
            raise _malformed(f"it has more than {_MAX_FIELDS} fields")
        if name != IMAGE and not self._is_file:
            if name in self._fields:
                raise InputError("is given twice", code="duplicate", field=said(name), remedy="leave one of them out")
            return
        if not self._is_file:
            raise InputError("is a text", code="wrong_type", field=IMAGE, remedy="send a picture's file")
        if name != IMAGE:
            if name not in OPTIONS:
                raise unknown_option(name, [IMAGE, *OPTIONS])
            raise InputError("is a file", code="wrong_type", field=name, remedy="send a text")
        if self._name is not None:
            message, remedy = "is given twice", "send a request for each picture"
            raise InputError(message, code="duplicate", field=IMAGE, remedy=remedy)
        self._name = "" if file is None else _text(file)

    def _take(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._text += data[start:end]
            if len(self._text) > _MAX_TEXT:
                message = f"has more than {_MAX_TEXT} bytes"
                raise InputError(message, code="out_of_range", field=said(self._field), remedy="shorten it")
            return
        self._size += end - start
        if self._size > self._max_bytes:
            message = f"has more than the limit of {self._max_bytes} bytes"
            remedy = "send a smaller file"
            raise InputError(message, code="too_large", field=IMAGE, remedy=remedy, limit=self._max_bytes)
        self._file.write(data[start:end])

    def _close(self) -> None:
        if not self._is_file:
            try:
                self._fields[self._field] = self._text.decode()
            except UnicodeDecodeError as error:
                message, remedy = "is not UTF-8", "write it in UTF-8"
                raise InputError(message, code="wrong_type", field=said(self._field), remedy=remedy) from error
        elif not (self._name or self._size):  # the field of a page in which nobody has chosen a file
            self._name = None

    def _end(self) -> None:
        self._is_over = True


class Inspector:
    """Looks through pictures that have come, not too many at once: each may take the memory of a large picture.

    One client has one at a time, so that many or slow ones of its own keep others waiting for one of them at most.

    Args:
        config: of the server.
        at_once: how many.
    """

    def __init__(self, config: ServeConfig, *, at_once: int = 2):
        self._config = config
        self._turns = anyio.CapacityLimiter(at_once)
        self._turn_of: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()  # of each client

    async def inspect(
        self, folder: Path, form: Form, asked: UpscaleConfig, *, client: str, makes: bool
    ) -> tuple[Facts, str]:
        """Returns what the picture in a folder is, and what the name of its result ends with.

        Args:
            folder: of the place that is held for it.
            form: that came with it.
            asked: how it is to be restored.
            client: who sent it.
            makes: whether there is to be a result, which it is refused for then where that cannot be made.

        Raises:
            InputError: it cannot be read, or its result would be too large or cannot be written.
        """
        async with self._turn_of.setdefault(client, anyio.Lock()):
            return await anyio.to_thread.run_sync(self._inspect, folder, form, asked, makes, limiter=self._turns)

    def _inspect(self, folder: Path, form: Form, asked: UpscaleConfig, makes: bool) -> tuple[Facts, str]:
        content = (folder / UPLOAD).read_bytes()
        facts = inspect(content, self._config, name=form.name, accept_truncated=asked.accept_truncated)
        suffix = result_suffix(Source(path=Path(form.name), content=content), asked.format)
        if makes:
            refuse_target(asked, self._config, facts.width, facts.height)
            size = asked.target(facts.width, facts.height).of(facts.width, facts.height)
            try:
                refuse_unwritable(Path(f"result{suffix}"), size, has_alpha=facts.has_alpha)
            except InputError as error:  # which names a file that nobody knows
                message = error.message.partition(": ")[2]
                raise InputError(
                    message, code=error.code, field="format", value=asked.format, remedy="use png"
                ) from error
        return facts, suffix


def _text(raw: bytes) -> str:
    """A name in a header, which is UTF-8 nearly always."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _malformed(message: str) -> InputError:
    return InputError(
        f"the body cannot be read: {message}", code="malformed", remedy="send a form of multipart/form-data"
    )
