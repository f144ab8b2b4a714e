"""Jobs as clients follow them: threads change them, and a loop waits without asking again and again."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from starlette.requests import ClientDisconnect, Request

from xpsr.config import ServeConfig
from xpsr.web.jobs import Job
from xpsr.web.schemas import PreviewEvent, as_json, job_document

__all__ = ["events_of", "until_over"]

_PAUSE = 0.1
"""Seconds between two events of a job, at least."""

_QUIET = 15.0
"""Seconds after which a stream of events says that it is still there."""


async def until_over(job: Job, request: Request) -> None:
    """Returns when nothing more becomes of a job.

    Args:
        job: the job.
        request: whose client waits for it; its body has been read.

    Raises:
        ClientDisconnect: the client has gone.
    """
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        with _watching(job) as changed:
            gone.add_done_callback(lambda _: changed.set())
            while not job.is_over:
                if gone.done():
                    raise ClientDisconnect
                await changed.wait()
                changed.clear()
    finally:
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def events_of(job: Job, config: ServeConfig) -> AsyncIterator[str]:
    """Yields server-sent events of a job until it is over: `job` after every change, and `preview`.

    Args:
        job: the job.
        config: of the server.
    """
    told, shown = "", None
    with _watching(job) as changed:
        while True:
            is_over, preview = job.is_over, job.preview
            if preview is not None and preview is not shown:
                shown = preview
                image = f"data:image/webp;base64,{base64.b64encode(preview.image).decode()}"
                event = PreviewEvent(image=image, step=preview.step, steps=preview.steps)
                yield f"event: preview\ndata: {as_json(event)}\n\n"
            if (document := as_json(job_document(job, config))) != told:
                told = document
                yield f"event: job\ndata: {document}\n\n"
            if is_over:
                if job.state == "done" and job.request.kind == "describe":  # which has no other result
                    job.is_fetched = True
                return
            try:
                await asyncio.wait_for(changed.wait(), _QUIET)
            except TimeoutError:
                yield ": still here\n\n"
            await asyncio.sleep(_PAUSE)  # what changes meanwhile is told at once
            changed.clear()


async def _until_gone(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextmanager
def _watching(job: Job) -> Iterator[asyncio.Event]:
    """Sets an event after every change of a job, which other threads make."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(changed.set)

    unwatch = job.watch(tell)
    try:
        yield changed
    finally:
        unwatch()
