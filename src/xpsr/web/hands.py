"""Who works, as the server sees them: a thread for each device, which hands jobs to a process and starts it again."""

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from subprocess import TimeoutExpired
from typing import Any

from xpsr.batch.processes import start_process
from xpsr.config import ServeConfig
from xpsr.errors import InputError, XPSRError
from xpsr.prior import Prior
from xpsr.web.jobs import Job
from xpsr.web.process import order_line, preview_of, request_line
from xpsr.web.scheduler import Scheduler, too_late

__all__ = ["Hand"]

logger = logging.getLogger(__name__)

_TICK = 0.05
"""Seconds after which is looked whether a job is still wanted and in time."""

_GRACE = 30.0
"""Seconds that a job has to end when its time is over; then its process is ended."""

_LONGEST_PAUSE = 60.0
"""Seconds between a process that died before it had begun and the next one in its place; the first is 1 s."""


class Hand:
    """A device: a thread that takes jobs from the scheduler, and a process that does them.

    Args:
        config: of the server.
        device: as `xpsr.devices.resolve_device` takes it.
        scheduler: where jobs come from.
        on_death: is told whenever a process has died.
    """

    def __init__(
        self, config: ServeConfig, device: str, scheduler: Scheduler, *, on_death: Callable[[], None] = lambda: None
    ):
        self.device, self.facts = device, dict[str, Any]()
        self._order, self._scheduler, self._on_death = order_line(config, device), scheduler, on_death
        self._max_seconds = config.max_seconds
        self._is_ending = threading.Event()
        self._process: _Process | None = None
        self._thread = threading.Thread(target=self._work, name=f"xpsr-{device}", daemon=True)

    def start(self) -> None:
        """Loads the models and begins to work.

        Raises:
            InputError: an option that this machine or a model cannot follow.
            ModelError: a model cannot be loaded.
            XPSRError: the process died.
        """
        self._process = _Process(self._order)
        try:
            self.facts = self._process.wait_until_ready()
        except XPSRError:
            self._process.kill()
            raise
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether the process is there, with its models."""
        return self._process is not None and self._process.is_ready and not self._process.is_over

    @property
    def pid(self) -> int | None:
        """Of the process that is there."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """Ends thread and process, whatever is in hand."""
        self._is_ending.set()
        if self._process is not None:
            self._process.kill()
        if self._thread.is_alive():
            self._thread.join(10)

    def _work(self) -> None:
        while not self._is_ending.is_set():
            if not self.is_ready:
                self._revive()
                continue
            job = self._scheduler.take(timeout=1.0)
            if job is not None:
                self._do(job)

    def _revive(self) -> None:
        """Starts a process in the place of one that died, again and again."""
        pause = 1.0
        while not self._is_ending.is_set():
            logger.warning("The process for %s has died; another one is started.", self.device)
            self._process = _Process(self._order)
            try:
                self.facts = self._process.wait_until_ready()
                return
            except XPSRError as error:
                self._process.kill()
                logger.error("It does not start: %s", error)
            self._is_ending.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _do(self, job: Job) -> None:
        """Hands over a job, and tells the scheduler what becomes of it."""
        process = self._process
        assert process is not None
        process.say(request_line(job.id, job.request, job.folder))
        is_told = False  # that nobody wants it any more
        while True:
            try:
                news = process.news.get(timeout=_TICK)
            except Empty:
                now = time.monotonic()
                if not is_told and (not job.is_wanted or now > job.deadline):
                    process.say(json.dumps({"cancel": job.id}) + "\n")
                    is_told = True
                if now > job.deadline + _GRACE:
                    process.kill()
                continue
            if news is None:
                break
            if news.get("id") != job.id:
                continue
            if news["kind"] == "news":
                progress, prior, preview = news["progress"], news["prior"], news["preview"]
                self._scheduler.report(
                    job,
                    progress=None if progress is None else (int(progress[0]), int(progress[1])),
                    prior=None if prior is None else Prior.from_dict(prior),
                    preview=None if preview is None else preview_of(preview),
                )
            elif news["kind"] == "done":
                self._scheduler.finish(job, news["record"])
                return
            else:
                error = _error_of(news["error"])
                is_late = error.code == "cancelled" and job.is_wanted
                self._scheduler.fail(job, too_late(self._max_seconds) if is_late else error)
                return
        if not self._is_ending.is_set():
            self._on_death()
        if time.monotonic() > job.deadline:
            self._scheduler.fail(job, too_late(self._max_seconds))
        else:
            message, remedy = "the process that worked on it died", "try again; if it does so again, a smaller picture"
            self._scheduler.fail(job, XPSRError(message, code="worker_died", remedy=remedy))


class _Process:
    """A process, and what it says; None is the last."""

    def __init__(self, order: str):
        self.news: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.is_ready = self.is_over = False
        self._process = start_process("xpsr.web.process")
        self.say(order)
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has died, of which the news tell
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def wait_until_ready(self) -> dict[str, Any]:
        """Returns the facts of what it has loaded.

        Raises:
            XPSRError: it cannot work, or died.
        """
        news = self.news.get()
        if news is None:
            raise XPSRError("The process that restores pictures died while it loaded its models.", code="worker_died")
        if news["kind"] == "refused":
            raise _error_of(news["error"])
        self.is_ready = True
        facts: dict[str, Any] = news["facts"]
        return facts

    def kill(self) -> None:
        self._process.kill()
        with suppress(TimeoutExpired):
            self._process.wait(10)

    def _listen(self) -> None:
        assert self._process.stdout is not None and self._process.stdin is not None
        try:
            with self._process.stdout as lines:
                for line in lines:
                    self.news.put(json.loads(line))
        except ValueError:  # it does not speak as it should
            self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._process.stdin.close()
        self.is_over = True
        self.news.put(None)


def _error_of(parts: dict[str, Any]) -> XPSRError:
    told = {part: parts.get(part) for part in ("code", "field", "value", "remedy", "source")}
    kind = InputError if parts.get("is_input") else XPSRError
    return kind(str(parts["message"]), **told)
