"""A process that works for a server: `python -m xpsr.web.process`, which `Hand` starts and nobody else needs.

Both ends speak lines of JSON. The first line that comes in is the server's config and the device; those that follow are
jobs, one at a time, and the ids of jobs that nobody wants any more. What goes out is told of the job in hand.
"""

import base64
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when what they print cannot pass for news any more
    from xpsr.web.jobs import Preview, Request
    from xpsr.web.worker import Told, Worker

__all__ = ["error_parts", "main", "news_parts", "order_line", "preview_of", "request_line"]

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


def error_parts(error: Exception) -> dict[str, Any]:
    """Returns what an error tells, ready for JSON; of one that nobody has foreseen, where it is told."""
    from xpsr.errors import InputError, XPSRError

    if isinstance(error, XPSRError):
        parts = {part: getattr(error, part) for part in ("message", "code", "field", "value", "remedy", "source")}
        return parts | {"is_input": isinstance(error, InputError)}
    logging.getLogger(__name__).exception("unexpected %s", type(error).__name__)
    if isinstance(error, OSError):  # it names files of the server
        message, remedy = "the server cannot read or write its files", "try again later"
        return {"message": message, "code": "disk_full" if error.errno == 28 else "refused", "remedy": remedy}
    return {"message": "something went wrong that nobody has foreseen", "code": "unexpected", "remedy": None}


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when it is over
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told = threading.Lock()

    def tell(news: dict[str, Any]) -> None:
        try:
            with told:
                out.write(json.dumps(news) + "\n")
                out.flush()
        except OSError:  # the server has gone
            os._exit(1)

    line = sys.stdin.readline()
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
    _work(worker, tell)


def _work(worker: "Worker", tell: Callable[[dict[str, Any]], None]) -> None:
    from xpsr.config import UpscaleConfig, override
    from xpsr.web.jobs import Request

    jobs: SimpleQueue[dict[str, Any]] = SimpleQueue()
    unwanted: set[str] = set()

    def listen() -> None:
        for line in sys.stdin:
            told = json.loads(line)
            if "cancel" in told:
                unwanted.add(told["cancel"])
            else:
                jobs.put(told)
        os._exit(0)  # the server has gone

    threading.Thread(target=listen, daemon=True).start()
    while True:
        job = jobs.get()
        name, values = job["id"], job["request"]
        request = Request(**values | {"config": override(UpscaleConfig(), values["config"])})
        try:
            record = worker.work(request, Path(job["folder"]), _Teller(name, tell), partial(_holds, unwanted, name))
        except Exception as error:
            tell({"kind": "failed", "id": name, "error": error_parts(error)})
        else:
            tell({"kind": "done", "id": name, "record": record})
        unwanted.discard(name)


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
