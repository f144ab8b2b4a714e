"""What stands around the API: who gets in, how much is read of what they send, and what every answer says.

It is ASGI itself, so that nothing between socket and API holds a body. A body that is too long or too slow ends, for
whoever reads it, as if the client had gone, and the client is told what was wrong, whatever the reader makes of that.
"""

import asyncio
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xpsr.config import ServeConfig
from xpsr.errors import InputError, XPSRError, printable, unexpected
from xpsr.web.door import Door, Proxies, address_of
from xpsr.web.problems import PROBLEM_JSON, headers_of, problem_of
from xpsr.web.scheduler import Busy, ending

__all__ = ["Answer", "Guards", "usual_headers"]

logger = logging.getLogger(__name__)
access = logging.getLogger("xpsr.web.access")

UPLOADS = ("/v1/upscale", "/v1/describe")
"""What takes pictures."""

_BESIDE = 2**16
"""Bytes beside the picture, of the form and its texts; and of any other body."""

_LINGER = 2.0
"""Seconds for which what is not wanted is still taken and thrown away, so that whoever sends it hears the answer.

It goes on as long as no pause is longer, within the limits of a request: slow lines hold much that is on its way.
"""

_MOST_AT_ONCE = 100
"""Requests of one client that are answered at the same moment: streams and downloads, beside the jobs."""

_PROBES = ("/healthz", "/readyz", "/metrics")
"""What machines ask for every few seconds."""

_ID = re.compile(r"(?<=^/v1/jobs/)([^/]{6})[^/]+")
"""Of a job. Who knows all of it may have the result, so the log does not tell."""

_EVERYWHERE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    b"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_POLICY = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def usual_headers(path: str) -> list[tuple[bytes, bytes]]:
    """Returns what every answer at a path says, whatever else it does."""
    is_page = path == "/" or path.startswith("/page/")
    policy = (b"content-security-policy", _PAGE_POLICY if is_page else _POLICY)
    return [*_EVERYWHERE, policy, (b"cache-control", b"no-cache" if is_page else b"no-store")]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A request and what became of it.

    Attributes:
        method: the request's, such as GET.
        route: which of the API's it was, such as "/v1/jobs/{id}"; "": none, or it did not get so far.
        status: the answer's; None: the client had gone before there was one.
        is_cut: the answer broke off, as the client went or something went wrong.
        received, sent: bytes of both bodies.
        seconds: from the request's head to the last byte of the answer.
    """

    method: str
    route: str
    status: int | None
    is_cut: bool
    received: int
    sent: int
    seconds: float


class Guards:
    """The middleware. It sets `state.client`, among whom the queue is fair, and `state.owner` of what is made.

    Args:
        app: what is within.
        config: of the server.
        door: which lets in or does not.
        on_answer: is told of every request, when it is over.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        config: ServeConfig,
        door: Door,
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ):
        self._app, self._config, self._door, self._on_answer = app, config, door, on_answer
        self._most = max(_MOST_AT_ONCE, 2 * config.max_per_client)
        self._at_once: Counter[str] = Counter()
        self._proxies = Proxies(config.forwarded_allow_ips)
        self._is_proxy_told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, client = scope["path"], address_of((scope.get("client") or (None,))[0])
        self._look_for_proxy(scope)
        exchange = _Exchange(scope, receive, send, config=self._config)
        state = scope.setdefault("state", {})
        try:
            state["owner"] = self._door.admit(path, scope["headers"])
            state["client"] = client = state["owner"] or client
            with self._among(client, path):
                exchange.check_length()
                await self._app(scope, exchange.receive, exchange.send)
            if exchange.breach is not None:
                raise exchange.breach
        except asyncio.CancelledError:  # the server ends, and this took too long
            await exchange.refuse(ending())
            raise
        except Exception as error:
            told = exchange.breach or error
            if isinstance(told, ClientDisconnect):
                return
            if exchange.status is not None and isinstance(error.__cause__ or error, FileNotFoundError):
                logger.warning("A file has gone while it was sent, and the answer broke off.")
                return
            if not isinstance(told, XPSRError):
                logger.exception("unexpected %s", type(error).__name__)
                told = unexpected()
            await exchange.refuse(told)
        finally:
            self._tell(scope, exchange, client)

    def _look_for_proxy(self, scope: Scope) -> None:
        """Tells, once, of a proxy that is not believed. Of one that is, the client is whom its header names."""
        if self._is_proxy_told:
            return
        forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
        host = (scope.get("client") or ("",))[0]
        if not forwarded or host in forwarded or host in self._proxies:
            return
        self._is_proxy_told = True
        line = "A request with X-Forwarded-For came from %s, whose word is not taken: if it is a proxy, all clients "
        line += "behind it count as one, unless it is named by --forwarded-allow-ips."
        logger.warning(line, printable(host[:64]))

    @contextmanager
    def _among(self, client: str, path: str) -> Iterator[None]:
        """Holds a place among a client's requests."""
        if self._at_once[client] >= self._most and path not in _PROBES:
            message = f"{self._most} of your requests are answered at this moment, and that is the limit"
            raise Busy(message, code="too_many", remedy="wait for one of them", retry_after=1)
        self._at_once[client] += 1
        try:
            yield
        finally:
            self._at_once[client] -= 1
            if not self._at_once[client]:
                del self._at_once[client]

    def _tell(self, scope: Scope, exchange: "_Exchange", client: str) -> None:
        answer = Answer(
            method=scope["method"],
            route=getattr(scope.get("route"), "path", ""),
            status=exchange.status,
            is_cut=exchange.is_cut,
            received=exchange.received,
            sent=exchange.sent,
            seconds=exchange.seconds,
        )
        self._on_answer(answer)
        access.log(
            logging.DEBUG if scope["path"] in _PROBES else logging.INFO,
            "%s %s %s%s %d bytes %.3f s %s",
            printable(answer.method[:16]),
            printable(_ID.sub(r"\1...", scope["path"])[:200]),
            answer.status or "-",
            " cut" if answer.is_cut else "",
            answer.sent,
            answer.seconds,
            client,
        )


class _Exchange:
    """A request as it is read within its limits, and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, config: ServeConfig):
        self._scope, self._receive, self._send = scope, receive, send
        self._is_upload = scope["path"] in UPLOADS and scope["method"] == "POST"
        self._max_bytes, self._upload_seconds = config.max_bytes, config.upload_seconds
        self._limit = _BESIDE + (config.max_bytes if self._is_upload else 0)
        headers = dict(scope["headers"])
        self._length = headers.get(b"content-length", b"")
        self._is_read = self._length == b"0" or not (self._length or b"transfer-encoding" in headers)
        self._is_early = False  # the answer comes before all of the request has
        self._start, self._end = time.monotonic(), math.nan
        self.received = self.sent = 0
        self.status: int | None = None
        self.breach: XPSRError | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the answer has begun and not come to its end."""
        return self.status is not None and math.isnan(self._end)

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the answer, or to now."""
        return (time.monotonic() if math.isnan(self._end) else self._end) - self._start

    def check_length(self) -> None:
        """Refuses a body that says it is too long before a byte of it is read.

        Raises:
            InputError: it does.
        """
        if self._length.isdigit() and (len(self._length) > 18 or int(self._length) > self._limit):
            raise self._too_large()

    async def receive(self) -> Message:
        """Is ASGI's, for the app."""
        message: Message = {"type": "http.disconnect"}
        if self.breach is not None:
            return message
        if self._is_read:
            return await self._receive()
        left = self._start + self._upload_seconds - time.monotonic()
        is_late = left <= 0  # what has come already would come through
        if not is_late:
            with anyio.move_on_after(left) as scope:
                message = await self._receive()
            is_late = scope.cancelled_caught
        if is_late:
            text = f"the request took longer to come than {self._upload_seconds:g} seconds"
            remedy = "send a smaller file, or on a faster line"
            self.breach = XPSRError(text, code="too_slow_upload", remedy=remedy, limit=self._upload_seconds)
            return message
        self.received += len(message.get("body", b""))
        self._is_read = not message.get("more_body", False)
        if self.received > self._limit:
            self.breach = self._too_large()
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Is ASGI's, for the app."""
        if self.breach is None or self.status is not None:  # else what it says is of a client that has not gone
            await self._pass(message)

    async def refuse(self, error: XPSRError) -> None:
        """Answers by an error, if nothing was answered yet."""
        if self.status is not None:
            return
        status, document = problem_of(error)
        body = json.dumps(document, ensure_ascii=False).encode()
        told = {"Content-Type": PROBLEM_JSON, "Content-Length": str(len(body)), **headers_of(error)}
        headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]
        await self._pass({"type": "http.response.start", "status": status, "headers": headers})
        await self._pass({"type": "http.response.body", "body": b"" if self._scope["method"] == "HEAD" else body})

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._is_early = message["status"], not self._is_read
            message = {**message, "headers": self._headers(message.get("headers", ()))}
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._end = time.monotonic()
                if self._is_early and not self._is_read:
                    await self._send({**message, "more_body": True})
                    await self._linger()
                    message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _headers(self, given: "list[tuple[bytes, bytes]]") -> list[tuple[bytes, bytes]]:
        names, usual = {name.lower() for name, _ in given}, usual_headers(self._scope["path"])
        if self._is_early:
            usual.append((b"connection", b"close"))
        return [*given, *((name, value) for name, value in usual if name not in names)]

    async def _linger(self) -> None:
        least = time.monotonic() + _LINGER
        most = max(least, self._start + self._upload_seconds)
        while (now := time.monotonic()) < (most if self.received <= self._max_bytes else least):
            message: Message = {}
            with anyio.move_on_after(min(_LINGER, most - now)):
                message = await self._receive()
            if not message.get("more_body", False):
                return
            self.received += len(message["body"])

    def _too_large(self) -> InputError:
        remedy = "is it another address that was meant?"
        if self._is_upload:
            remedy = f"send a picture's file of at most {self._max_bytes} bytes"
        message = f"the request has more than the limit of {self._limit} bytes"
        limit = self._max_bytes if self._is_upload else self._limit
        return InputError(message, code="too_large", remedy=remedy, limit=limit)
