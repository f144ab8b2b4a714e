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

__all__ = ["build_app", "serve"]

logger = logging.getLogger(__name__)

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
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
    disable_created_metrics()  # a second series for each one, of no use to anybody
    metrics = Metrics()
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        sockets = listen(config.host, config.port)
        for place in sockets:
            stack.enter_context(place)
        spool = Spool(config.spool)
        stack.callback(spool.close)
        scheduler = Scheduler(
            spool,
            max_queue=config.max_queue,
            max_per_client=config.max_per_client,
            max_seconds=config.max_seconds,
            wait_seconds=config.wait_seconds,
            keep_seconds=config.keep_seconds,
            num_hands=len(config.devices),
            on_over=metrics.over,
        )
        hands = [Hand(config, device, scheduler, on_death=partial(metrics.died, device)) for device in config.devices]
        app = build_app(config, scheduler, hands, spool, metrics=metrics)
        line = f"xpsr serves {', '.join(config.named('models'))} on {url_of(config.host, sockets)} (Ctrl-C ends it)"
        pool = stack.enter_context(ThreadPoolExecutor(len(hands)))

        def end() -> None:
            scheduler.close()
            with ThreadPoolExecutor(len(hands)) as closing:
                closing.map(Hand.close, hands)

        stack.callback(end)  # before the pool is left, which waits for those that load
        server = Server(app, config, scheduler, on_start=partial(announce, line), on_end=end)
        for start in [pool.submit(hand.start) for hand in hands]:
            start.result()
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
