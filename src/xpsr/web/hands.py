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
from xpsr.errors import XPSRError, error_of, one_line, unexpected
from xpsr.prior import Prior
from xpsr.web.jobs import Job
from xpsr.web.process import order_line, preview_of, request_line
from xpsr.web.scheduler import Scheduler, ending, too_late

__all__ = ["Hand"]

logger = logging.getLogger(__name__)

_TICK = 0.05
"""Seconds after which is looked whether a job is still wanted and in time."""

_IDLE = 1.0
"""Seconds after which one who waits for jobs looks whether its process is still there."""

_GRACE = 30.0
"""Seconds that a job has to end when its time is over, and a process to begin with one; then the process is ended."""

_LONGEST_PAUSE = 60.0
"""Seconds between a process that died before it had begun and the next one in its place; the first is 1 s."""

_LONGEST_LOAD = 1800.0
"""Seconds that a process in the place of another may take to load what that one has loaded."""

_LONGEST_LINE = 2**24
"""Characters of what a process says at once: some thousand where all is well, and a picture of a few hundred pixels."""

_KINDS: dict[str, dict[str, type]] = {
    "ready": {"facts": dict},
    "refused": {"error": dict},
    "begun": {"id": str},
    "news": {"id": str},
    "done": {"id": str, "record": dict},
    "failed": {"id": str, "error": dict},
}
"""What a process says, and what belongs to it."""


class Hand:
    """A device: a thread that takes jobs from the scheduler, and a process that does them.

    One job at a time is in a process, and none is handed over before the last one has been told to be over, cancelled
    or not; so nothing that is said of one can be taken for another's.

    A process that dies is started again. The job that it had begun fails; one that it had not goes back. One that does
    not end a job when its time is over, or says nonsense, is ended.

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
        self._is_ending = threading.Event()
        self._process: _Process | None = None
        self._thread = threading.Thread(target=self._work, name=f"xpsr-{device}", daemon=True)

    def start(self) -> None:
        """Loads the models and begins to work.

        Raises:
            InputError: an option that this machine or a model cannot follow.
            ModelError: a model cannot be loaded.
            MissingDependencyError: an engine is not installed.
            XPSRError: the process died, or this system has not what the server needs.
        """
        try:
            self._launch()
            self._thread.start()
        except BaseException:
            if self._process is not None:
                self._process.kill()
            raise

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

    def _launch(self, *, timeout: float | None = None) -> None:
        """Starts a process, and returns when it has its models."""
        process = self._process = _Process(self._order)
        if self._is_ending.is_set():  # `close` has not seen this one
            process.kill()
        self.facts = process.wait_until_ready(timeout=timeout)

    def _work(self) -> None:
        while not self._is_ending.is_set():
            try:
                if not self.is_ready:
                    self._revive()
                elif job := self._scheduler.take(timeout=_IDLE):
                    self._do(job)
            except Exception:  # a mistake of ours, which must not take the device away from all who wait
                logger.exception("The thread for %s has failed; it goes on.", self.device)
                self._is_ending.wait(1)

    def _revive(self) -> None:
        """Starts a process in the place of one that died, again and again."""
        pause = 1.0
        while not self._is_ending.is_set():
            logger.warning("The process for %s has died; another one is started.", self.device)
            self._on_death()
            try:
                self._launch(timeout=_LONGEST_LOAD)
                return
            except XPSRError as error:
                if self._process is not None:
                    self._process.kill()
                if not self._is_ending.is_set():
                    logger.error("It does not start: %s", error)
            self._is_ending.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _do(self, job: Job) -> None:
        """Hands over a job, and tells the scheduler what becomes of it."""
        process = self._process
        assert process is not None
        try:
            self._hand_over(job, process)
        except Exception:
            process.kill()  # it may be at work on it
            self._scheduler.fail(job, unexpected())
            raise

    def _hand_over(self, job: Job, process: "_Process") -> None:
        process.say(request_line(job.id, job.request, job.folder))
        handed = time.monotonic()
        has_begun = is_told = False  # is told that nobody wants it any more
        while True:
            now = time.monotonic()
            if not is_told and (not job.is_wanted or now > job.deadline):
                process.say(json.dumps({"cancel": job.id}) + "\n")
                is_told = True
            if now > job.deadline + _GRACE or (not has_begun and now > handed + _GRACE):
                process.kill()
            try:
                news = process.news.get(timeout=_TICK)
            except Empty:
                continue
            if news is None:
                break
            if news.get("id") != job.id:
                continue
            has_begun = True
            if news["kind"] == "news":
                self._scheduler.report(
                    job, progress=news.get("progress"), prior=news.get("prior"), preview=news.get("preview")
                )
            elif news["kind"] == "done":
                self._scheduler.finish(job, news["record"])
                return
            elif news["kind"] == "failed":
                error = error_of(news["error"])
                is_late = error.code == "cancelled" and job.is_wanted
                self._scheduler.fail(job, too_late(self._scheduler.max_seconds) if is_late else error)
                return
        if self._is_ending.is_set():
            self._scheduler.fail(job, ending())
        elif not has_begun:
            self._scheduler.give_back(job)
        elif time.monotonic() > job.deadline:
            self._scheduler.fail(job, too_late(self._scheduler.max_seconds))
        else:
            message, remedy = "the process that worked on it died", "try again; if it does so again, a smaller picture"
            self._scheduler.fail(job, XPSRError(message, code="worker_died", remedy=remedy))


class _Process:
    """A process, and what it says; None is the last.

    Raises:
        XPSRError: it cannot be started.
    """

    def __init__(self, order: str):
        self.news: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.is_ready = self.is_over = False
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        try:
            self._process = start_process("xpsr.web.process")
            try:
                for work in (self._speak, self._listen):
                    threading.Thread(target=work, daemon=True).start()
            except RuntimeError:
                self._lines.put(None)
                with self._process:  # whose pipes nobody else would close
                    self._process.kill()
                raise
        except (OSError, RuntimeError) as error:  # no more memory, files, processes, threads
            message = f"the process that restores pictures cannot be started ({error})"
            raise XPSRError(message, code="refused", remedy="see what else this machine does") from error
        self.say(order)

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        """Sends it a line, without waiting for one that does not listen."""
        self._lines.put(line)

    def wait_until_ready(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Returns the facts of what it has loaded.

        Raises:
            XPSRError: it cannot work, died, or has not loaded its models within `timeout` seconds.
        """
        try:
            news = self.news.get(timeout=timeout)
        except Empty:
            message = f"the process that restores pictures has loaded no models within {timeout:g} seconds"
            raise XPSRError(message, code="too_slow", remedy="see what holds it up") from None
        if news is not None and news["kind"] == "refused":
            raise error_of(news["error"])
        if news is None or news["kind"] != "ready":
            message = "the process that restores pictures died while it loaded its models"
            raise XPSRError(message, code="worker_died", remedy="see what it wrote before, or what killed it")
        self.is_ready = True
        facts: dict[str, Any] = news["facts"]
        return facts

    def kill(self) -> None:
        self._process.kill()
        with suppress(TimeoutExpired):
            self._process.wait(10)

    def _speak(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(OSError, ValueError):  # it has died, of which the news tell
            while (line := self._lines.get()) is not None:
                pipe.write(line)
                pipe.flush()
        with suppress(OSError, ValueError):
            pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            with self._process.stdout as lines:
                while line := lines.readline(_LONGEST_LINE):
                    self.news.put(_read(line))
        except Exception as error:  # whatever nonsense does: nobody else would learn that the process is of no use
            logger.error("The process for pictures does not speak as it should (%s); it is ended.", one_line(error))
        self._process.kill()  # who says no more is of no use, whatever it does
        self._process.wait()
        self._lines.put(None)
        self.is_over = True
        self.news.put(None)


def _read(line: str) -> dict[str, Any]:
    """Returns news, with what the scheduler takes of them.

    Raises:
        Exception: they are none.
    """
    news = json.loads(line)
    parts = _KINDS[news["kind"]] if isinstance(news, dict) and news.get("kind") in _KINDS else None
    if parts is None or not all(isinstance(news.get(part), kind) for part, kind in parts.items()):
        raise ValueError("that is no news")
    if news.get("progress") is not None:
        done, total = news["progress"]
        news["progress"] = int(done), int(total)
    if news.get("prior") is not None:
        news["prior"] = Prior.from_dict(news["prior"])
    if news.get("preview") is not None:
        news["preview"] = preview_of(news["preview"])
    return news
