"""HTTP on sockets: uvicorn, with limits for whoever holds connections, and an end that lets go of nobody's result."""

import asyncio
import errno
import json
import logging
import math
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from xpsr.config import ServeConfig
from xpsr.errors import InputError, brief
from xpsr.web.door import Proxies, address_of
from xpsr.web.guards import usual_headers
from xpsr.web.problems import PROBLEM_JSON, problem
from xpsr.web.scheduler import Scheduler

__all__ = ["Server", "listen", "url_of"]

logger = logging.getLogger(__name__)

_HEAD_SECONDS = 10.0
"""That the head of a request may take to come, from when the connection is there."""

_IDLE_SECONDS = 15
"""For which a connection is kept after an answer."""

_STUCK_SECONDS = 60.0
"""For which a client may take nothing of what it asked for."""

_MAX_HEAD = 2**15
"""Bytes of the head of a request; browsers send cookies of all that is on this machine to a server on it."""

_MOST_CONNECTIONS = 1000
"""At the same moment; whoever comes then is cut off."""

_MOST_OF_ONE = 100
"""Connections of one address, unless it is a proxy's."""

_AT_A_TIME = 2**14
"""Bytes that are taken from a connection before others have their turn; in tiny chunks, that is work enough."""

_TINY = (2000, 64)
"""Pieces of a body, from which on their mean must not be below so many bytes: each costs as much as a large one."""

_FILES = 4096
"""Connections, uploads and results that can be open, where the system lets a process have so many."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Returns sockets of all addresses of a host, bound but deaf: a port that is in use is told before models load.

    Raises:
        InputError: host or port cannot be used.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise _no_host(host, error) from error
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        place = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # where it would let two servers have one port
                place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                place.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken = sockets[0].getsockname()[1] if sockets else port  # of port 0: the same one for all
            place.bind((address[0], taken, *address[2:]))
            sockets.append(place)
        except OSError as error:
            place.close()
            if error.errno != errno.EADDRNOTAVAIL:  # one of several addresses may be of a protocol that is switched off
                for other in sockets:
                    other.close()
                raise _refusal(host, port, error) from error
            refused = error
    if not sockets:
        assert refused is not None
        raise _no_host(host, refused) from refused
    return sockets


def url_of(host: str, sockets: Sequence[socket.socket]) -> str:
    """Returns where a browser finds what listens at sockets of a host."""
    name = f"[{host.strip('[]')}]" if ":" in host else host
    return f"http://{name}:{sockets[0].getsockname()[1]}"


class Server(uvicorn.Server):
    """Serves until it is told to end, finishes what is in hand, and lets clients fetch their results meanwhile.

    The first SIGTERM or SIGINT drains the scheduler; the server ends when nothing is in hand or kept for anybody who
    has not had it, at the latest after `drain_seconds`. The second ends it at once. Whoever waits then is told so.

    Args:
        app: what is served.
        config: of the server.
        scheduler: what is drained.
        on_start: is called when it listens.
        on_end: ends whatever is in hand, before the last answers are sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServeConfig,
        scheduler: Scheduler,
        *,
        on_start: Callable[[], None],
        on_end: Callable[[], None],
    ):
        proxies = Proxies(config.forwarded_allow_ips)
        settings = uvicorn.Config(
            app,
            http=partial(_Connection, _Crowd(proxies)),  # type: ignore[arg-type]
            ws="none",
            loop="asyncio",
            lifespan="on",
            workers=1,
            log_config=None,
            log_level="critical",  # strangers send what they like; what matters, xpsr logs itself
            access_log=False,
            server_header=False,
            proxy_headers=bool(config.forwarded_allow_ips),
            forwarded_allow_ips=list(proxies),
            timeout_keep_alive=_IDLE_SECONDS,
        )
        super().__init__(settings)
        self._where, self._scheduler = (config.host, config.port), scheduler
        self._on_start, self._on_end = on_start, on_end
        self._drain_seconds, self._deadline = config.drain_seconds, math.inf
        self._signals: list[int] = []
        self._is_ending = False

    @property
    def was_interrupted(self) -> bool:
        """Whether somebody pressed Ctrl-C, or did not want to wait."""
        return signal.SIGINT in self._signals or len(self._signals) > 1

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves, at sockets of `listen`, until the end.

        Raises:
            InputError: another server was faster.
        """
        _allow_files()
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise _refusal(*self._where, error) from error
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Replaces upstream's, which takes no more connections; `on_tick` sees to it."""
        self._signals.append(sig)
        if self._is_ending:  # and answers are on their way still
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.loop.call_soon_threadsafe(connection.transport.abort)

    async def on_tick(self, counter: int) -> bool:
        """Looks, ten times a second, whether it is over."""
        if self._signals and math.isinf(self._deadline):
            self._scheduler.drain()
            self._deadline = time.monotonic() + self._drain_seconds
            if not self._is_done:
                line = "It ends when all is done and fetched, in %g seconds at the latest; once more: at once."
                logger.warning(line, self._drain_seconds)
        left = self._deadline - time.monotonic()
        if not self._signals or (len(self._signals) == 1 and left > 0 and not self._is_done):
            return await super().on_tick(counter)
        await asyncio.to_thread(self._on_end)
        self._is_ending = True
        # for answers that are on their way
        self.config.timeout_graceful_shutdown = max(math.ceil(left), 1) if len(self._signals) == 1 else 1
        return True

    @property
    def _is_done(self) -> bool:
        return self._scheduler.is_idle and not self._scheduler.unfetched


class _Crowd:
    """Whose connections there are, so that no address has them all.

    Args:
        proxies: those that may have any share of them.
    """

    def __init__(self, proxies: Proxies):
        self._proxies = proxies
        self._counts: Counter[str] = Counter()
        self._total, self._told = 0, -math.inf

    def enter(self, host: str | None) -> str | None:
        """Returns what a connection from an address is counted as, or None: there are too many."""
        name, now = address_of(host), time.monotonic()
        is_full = self._total >= _MOST_CONNECTIONS
        if is_full or (self._counts[name] >= _MOST_OF_ONE and host not in self._proxies):
            if now - self._told >= 60:
                self._told = now
                most = _MOST_CONNECTIONS if is_full else _MOST_OF_ONE
                logger.warning("There are %d connections%s; more are cut off.", most, "" if is_full else f" of {name}")
            return None
        self._counts[name] += 1
        self._total += 1
        return name

    def leave(self, name: str) -> None:
        """Forgets a connection."""
        self._total -= 1
        self._counts[name] -= 1
        if not self._counts[name]:
            del self._counts[name]


class _Reader(h11.Connection):
    """Reads requests, and refuses bodies that come in too many tiny pieces."""

    _pieces = _bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _TINY[0] and self._bytes < _TINY[1] * self._pieces:
                raise h11.RemoteProtocolError("the body comes in too many tiny pieces")
        return event


class _Connection(H11Protocol):
    """A connection that is closed where no request comes, or nobody takes the answer; or at once, of too many."""

    def __init__(self, crowd: _Crowd, *args: Any, **kwargs: Any):  # the others as upstream's are given
        super().__init__(*args, **kwargs)
        self.conn = _Reader(h11.SERVER, _MAX_HEAD)
        self._crowd, self._name = crowd, ""
        self._waiting_for_head: asyncio.TimerHandle | None = None
        self._waiting_for_room: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        name = self._crowd.enter(peer[0] if isinstance(peer, tuple) else None)
        if name is None:
            transport.abort()
            return
        self._name = name
        transport.max_size = _AT_A_TIME  # type: ignore[attr-defined]
        super().connection_made(transport)
        self._expect_head(_HEAD_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Replaces upstream's, which is no problem document."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is on its way, and breaks off
            self.transport.close()
            return
        detail, remedy = "the request is no valid HTTP/1.1, or its head is too long", "mend what sends it"
        if self.conn.their_state is h11.SEND_BODY:
            detail, remedy = "the body comes in too many tiny pieces", "send larger ones"
        body = json.dumps(problem(400, "malformed", f"{detail}; {remedy}", remedy=remedy)).encode()
        told = [(b"content-type", PROBLEM_JSON.encode()), (b"content-length", str(len(body)).encode())]
        head = h11.Response(
            status_code=400, headers=[*told, (b"connection", b"close"), *usual_headers("")], reason=b"Bad Request"
        )
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        self._expect_head(_HEAD_SECONDS + _IDLE_SECONDS)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._waiting_for_room = self.loop.call_later(_STUCK_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._waiting_for_room is not None:
            self._waiting_for_room.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._waiting_for_head, self._waiting_for_room):
            if timer is not None:
                timer.cancel()
        if self._name:
            self._crowd.leave(self._name)
            super().connection_lost(exc)

    def _expect_head(self, seconds: float) -> None:
        if self._waiting_for_head is not None:
            self._waiting_for_head.cancel()
        self._waiting_for_head = self.loop.call_later(seconds, self._look_for_head)

    def _look_for_head(self) -> None:
        if self.conn.their_state is h11.IDLE or self.transport.is_closing():  # or the last bytes are never taken
            self.transport.abort()


def _no_host(host: str, error: Exception) -> InputError:
    message = f"is no address of this machine ({brief(error)})"
    remedy = "use 127.0.0.1 for this machine alone, or 0.0.0.0 for whoever reaches it"
    return InputError(message, code="refused", field="host", value=host, remedy=remedy)


def _refusal(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        message, remedy = "is in use", "choose another, or 0 for any that is free"
    elif error.errno == errno.EACCES and port < 1024:
        message, remedy = "is for the system's own programs, as all below 1024 are", "use 8000, behind a proxy"
    else:
        message, remedy = f"cannot be listened at ({brief(error)})", f"choose another, or another host than {host}"
    return InputError(message, code="refused", field="port", value=str(port), remedy=remedy)


def _allow_files() -> None:
    """Lets this process have more files open than is usual."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
