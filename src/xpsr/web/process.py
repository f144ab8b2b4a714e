"""A process that works for a server: `python -m xpsr.web.process`, which `Hand` starts and nobody else needs.

Both ends speak lines of JSON. The first line that comes in is the server's config and the device; those that follow are
jobs, one at a time, and the ids of jobs that nobody wants any more. What goes out is told of the job in hand: that it
is begun, how far it is, and what became of it.
"""

import base64
import errno
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when what they print cannot pass for news any more
    from xpsr.web.jobs import Preview, Request
    from xpsr.web.worker import Told, Worker

__all__ = ["error_parts", "main", "news_parts", "order_line", "preview_of", "request_line"]

logger = logging.getLogger(__name__)

_OF_FILES = ("disk_full", "refused", "not_found")
"""Codes of errors that the system's own give, of files that are the server's."""

_PAUSE = 0.05
"""Seconds between two news of progress."""


def order_line(config: Any, device: str) -> str:
    """Writes the first line: a `ServeConfig`, and on which device."""
    from xpsr.config import as_dict

    return json.dumps({"config": as_dict(config), "device": device}) + "\n"


def request_line(id: str, request: "Request", folder: Path) -> str:  # noqa: A002 - what it is
    """Writes a job; what the client calls the picture stays where it is."""
    from xpsr.config import as_dict

    told = vars(request) | {"name": "", "config": as_dict(request.config)}
    return json.dumps({"id": id, "folder": str(folder), "request": told}) + "\n"


def error_parts(error: Exception, *, hidden: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns what an error tells, ready for JSON.

    One that nobody has foreseen, and one of the server's own files, are told in the server's log and not to clients.

    Args:
        error: any.
        hidden: texts that no client should see, such as paths of the server, and what is written in their places.
    """
    from xpsr.devices import ran_out_of_memory
    from xpsr.errors import XPSRError, unexpected
    from xpsr.files import refusal

    cause = error.__cause__
    if isinstance(error, XPSRError) and error.code in _OF_FILES and isinstance(cause, OSError) and hidden is not None:
        error = cause
    if isinstance(error, XPSRError):
        parts = error.parts.items()
        told = {part: _without(hidden or {}, value) if isinstance(value, str) else value for part, value in parts}
        return told | {"kind": type(error).__name__}
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    if ran_out_of_memory(error) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        message, remedy = "memory ran out", "use a smaller scale or picture, or try again later"
        return {"message": message, "code": "out_of_memory", "remedy": remedy}
    if isinstance(error, OSError):
        is_full = refusal(Path(), "", error).code == "disk_full"
        message = "the server has no room for the result" if is_full else "the server cannot read or write its files"
        return {"message": message, "code": "disk_full" if is_full else "refused", "remedy": "try again later"}
    return unexpected().parts


def _without(hidden: Mapping[str, str], text: Any) -> str:
    text = str(text)
    for one in sorted(hidden, key=len, reverse=True):
        text = text.replace(one, hidden[one])
    return text


def news_parts(told: "Told") -> dict[str, Any]:
    """Returns what is told on the way, ready for JSON; a preview's file as base64."""
    parts = asdict(told)
    if told.preview is not None:
        parts["preview"]["image"] = base64.b64encode(told.preview.image).decode()
    return parts


def preview_of(parts: dict[str, Any]) -> "Preview":
    """Returns the preview of which `news_parts` tells."""
    from xpsr.web.jobs import Preview

    return Preview(**parts | {"image": base64.b64decode(parts["image"])})


def main() -> None:
    """Works until nothing more comes in."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not pass for news
    inbox = os.fdopen(os.dup(0), encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # and what they start must not read jobs
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is over
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told = threading.Lock()

    def tell(news: dict[str, Any]) -> None:
        line = json.dumps(news) + "\n"
        try:
            with told:
                out.write(line)
                out.flush()
        except OSError:  # the server has gone
            os._exit(1)

    line = inbox.readline()
    if not line:
        return
    from xpsr.config import ServeConfig, override
    from xpsr.web.worker import Worker

    order = json.loads(line)
    try:
        worker = Worker(override(ServeConfig(), order["config"]), device=order["device"])
    except Exception as error:
        tell({"kind": "refused", "error": error_parts(error)})
        return
    tell({"kind": "ready", "facts": worker.facts})
    _work(worker, inbox, tell)


def _work(worker: "Worker", inbox: Iterable[str], tell: Callable[[dict[str, Any]], None]) -> None:
    from xpsr.errors import XPSRError

    jobs: SimpleQueue[dict[str, Any]] = SimpleQueue()
    unwanted: set[str] = set()

    def listen() -> None:
        with suppress(ValueError):
            for line in inbox:
                told = json.loads(line)
                if "cancel" in told:
                    unwanted.add(told["cancel"])
                else:
                    jobs.put(told)
        os._exit(0)  # the server has gone

    threading.Thread(target=listen, daemon=True).start()
    while True:
        job = jobs.get()
        name = job["id"]
        unwanted.intersection_update({name})  # those of jobs that were over when nobody wanted them any more
        tell({"kind": "begun", "id": name})
        is_foreseen = True
        try:
            record = worker.work(
                _request_of(job), Path(job["folder"]), _Teller(name, tell), partial(_holds, unwanted, name)
            )
            tell({"kind": "done", "id": name, "record": record})
        except Exception as error:
            is_foreseen = isinstance(error, XPSRError)
            folder = job["folder"]
            hidden = {**worker.hidden, f"{folder}{os.sep}": "", folder: "its folder"}
            tell({"kind": "failed", "id": name, "error": error_parts(error, hidden=hidden)})
        if not is_foreseen and not worker.is_well():
            os._exit(1)  # the next process may be


def _request_of(job: dict[str, Any]) -> "Request":
    from xpsr.config import UpscaleConfig, override
    from xpsr.web.jobs import Request

    values = job["request"]
    return Request(**values | {"config": override(UpscaleConfig(), values["config"])})


def _holds(names: set[str], name: str) -> bool:
    return name in names


class _Teller:
    """Tells how far a job is, and not too often."""

    def __init__(self, id: str, tell: Callable[[dict[str, Any]], None]):  # noqa: A002 - what it is
        self._id, self._tell, self._last = id, tell, 0.0

    def __call__(self, told: "Told") -> None:
        now = time.monotonic()
        if told.progress is not None and told.progress[0] < told.progress[1] and now < self._last + _PAUSE:
            return
        self._last = now
        self._tell({"kind": "news", "id": self._id, **news_parts(told)})


if __name__ == "__main__":
    main()
