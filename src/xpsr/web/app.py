"""The whole server: API and page within their guards, those who work, and how both begin and end."""

import hashlib
import importlib.resources
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

import anyio
import anyio.to_thread
from fastapi import FastAPI
from prometheus_client import disable_created_metrics
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from xpsr import __version__
from xpsr.config import ServeConfig
from xpsr.web.api import HandLike, build_api
from xpsr.web.door import Door
from xpsr.web.guards import Guards
from xpsr.web.hands import Hand
from xpsr.web.metrics import Metrics, Worker
from xpsr.web.problems import add_handlers
from xpsr.web.scheduler import Scheduler
from xpsr.web.server import Server, listen, url_of
from xpsr.web.spool import Spool

__all__ = ["Service", "build_app", "serve"]

logger = logging.getLogger(__name__)

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
"""Of files of the page; what the system says of them differs from machine to machine."""

_SHARED = ("base.css", "base.js")
"""Of files that pages of reports have, too."""


class Hands(HandLike, Worker, Protocol):
    """Who works, as far as app and numbers want to know."""


def build_app(
    config: ServeConfig,
    scheduler: Scheduler,
    hands: Sequence[Hands],
    spool: Spool,
    *,
    metrics: Metrics | None = None,
) -> FastAPI:
    """Returns what answers requests; nothing listens or works yet.

    Args:
        config: of the server.
        scheduler: of the jobs. While the app runs, it is swept every second.
        hands: who does them.
        spool: where files lie.
        metrics: of whom scheduler and hands know; None: new ones, which do not count jobs.

    Raises:
        InputError: the file of tokens, a name or an address is not as it should be.
    """
    metrics = metrics or Metrics()
    metrics.watch(scheduler, hands)
    app = FastAPI(
        title="xpsr",
        summary="Restores and enlarges photographs.",
        version=__version__,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # they would be to whatever Host says
        lifespan=partial(_sweeping, scheduler),
    )
    app.add_middleware(Guards, config=config, door=Door(config), on_answer=metrics.answered)
    add_handlers(app)
    app.include_router(build_api(config, scheduler, hands, spool))

    def numbers() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_api_route("/metrics", numbers, include_in_schema=False)
    if config.page:
        answer = _page()
        for path in ("/", "/page/{name:path}"):
            app.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)
    return app


class Service:
    """A server without sockets: the app, the queue behind it, and those who work.

    Args:
        config: of the server; where it listens is not looked at.

    Attributes:
        app: what answers requests, for any server of ASGI.
        scheduler: the queue.

    Raises:
        InputError: an address, a file or an option cannot be used.
    """

    def __init__(self, config: ServeConfig):
        disable_created_metrics()  # a second series for each one, of no use to anybody
        metrics = Metrics()
        self._spool = Spool(config.spool)
        try:
            self.scheduler = Scheduler(
                self._spool,
                max_queue=config.max_queue,
                max_per_client=config.max_per_client,
                max_seconds=config.max_seconds,
                wait_seconds=config.wait_seconds,
                keep_seconds=config.keep_seconds,
                num_hands=len(config.devices),
                on_over=metrics.over,
            )
            self._hands = [
                Hand(config, device, self.scheduler, on_death=partial(metrics.died, device))
                for device in config.devices
            ]
            self.app = build_app(config, self.scheduler, self._hands, self._spool, metrics=metrics)
        except BaseException:
            self._spool.close()
            raise

    def start(self) -> None:
        """Loads the models, of all devices at once, and begins to work.

        Raises:
            InputError: an option that this machine or a model cannot follow.
            ModelError: a model cannot be loaded.
            XPSRError: a process died while it loaded its models.
        """
        with ThreadPoolExecutor(len(self._hands)) as pool:
            try:
                for start in [pool.submit(hand.start) for hand in self._hands]:
                    start.result()
            except BaseException:
                self.end()  # before the pool is left, which waits for those that load
                raise

    def end(self) -> None:
        """Ends whatever is in hand; whoever waits for it is told so."""
        self.scheduler.close()
        with ThreadPoolExecutor(len(self._hands)) as closing:
            closing.map(Hand.close, self._hands)

    def close(self) -> None:
        """Ends it, and removes what is kept."""
        self.end()
        self._spool.close()


def serve(config: ServeConfig, *, announce: Callable[[str], None]) -> None:
    """Answers requests until a signal ends it; `Server` says how.

    Args:
        config: of the server.
        announce: is told once, when it listens, where that is.

    Raises:
        InputError: an address, a file or an option cannot be used.
        ModelError: a model cannot be loaded.
        XPSRError: a process died while it loaded its models.
        KeyboardInterrupt: Ctrl-C ended it, or a second signal what the first one had not yet.
    """
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        sockets = listen(config.host, config.port)
        for place in sockets:
            stack.enter_context(place)
        service = Service(config)
        stack.callback(service.close)
        line = f"xpsr serves {', '.join(config.named('models'))} on {url_of(config.host, sockets)} (Ctrl-C ends it)"
        server = Server(service.app, config, service.scheduler, on_start=partial(announce, line), on_end=service.end)
        service.start()
        server.run(sockets)
    if server.was_interrupted:
        raise KeyboardInterrupt


@asynccontextmanager
async def _sweeping(scheduler: Scheduler, app: FastAPI) -> AsyncIterator[None]:
    async def sweep() -> None:
        while True:
            await anyio.sleep(1)
            try:
                await anyio.to_thread.run_sync(scheduler.sweep)
            except Exception:
                logger.exception("what is over cannot be forgotten")

    async with anyio.create_task_group() as group:
        group.start_soon(sweep)
        yield
        group.cancel_scope.cancel()


@contextmanager
def _terminable() -> Iterator[None]:
    """Ends the block by SIGTERM as by Ctrl-C, as long as `Server` does not see to both."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _page() -> Callable[[Request], Awaitable[Response]]:
    """Returns what answers with the page's files. They are small and in memory, so that no path leads to any other."""
    folder = Path(str(importlib.resources.files("xpsr") / "web" / "page"))
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.suffix in _TYPES}
    files |= {name: folder.parent.parent / "evaluation" / "pages" / name for name in _SHARED}
    answers = {name: _file(path) for name, path in files.items()}

    async def answer(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in answers:
            raise HTTPException(404)
        content, headers = answers[name]
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"etag": headers["etag"]})
        return Response(content, headers=headers)

    return answer


def _file(path: Path) -> tuple[bytes, dict[str, str]]:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return content, {"content-type": _TYPES[path.suffix], "etag": etag}
