"""Who is next: a bounded queue, fair among clients, of jobs that a worker for each device takes one by one.

Nothing here knows of HTTP or of processes. Pictures are not put through the networks together: a row of a batch differs
from the same picture alone by 7e-8, and results are to be those of `xpsr upscale` to the bit.
"""

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpsr.errors import InputError, XPSRError
from xpsr.prior import Prior
from xpsr.web.jobs import Job, JobState, Preview, Request
from xpsr.web.spool import Spool

__all__ = ["Busy", "Place", "Scheduler", "no_such_job"]

logger = logging.getLogger(__name__)

_USUAL_SECONDS = 5.0
"""What a job is thought to take before any has been done."""

_LONGEST_WAIT = 600
"""Seconds after which a client that was turned away is told to come again, at most."""


class Busy(XPSRError):
    """There is no place for another request; `retry_after` is in how many seconds there may be."""

    code = "busy"

    def __init__(self, message: str, *, code: str, remedy: str, retry_after: int):
        super().__init__(message, code=code, remedy=remedy)
        self.retry_after = retry_after


@dataclass(eq=False)
class Place:
    """A place in the queue that is held for a client while the picture comes, from `Scheduler.place`."""

    client: str
    owner: str
    folder: Path
    began: float
    job: Job | None = None


class Scheduler:
    """Jobs of all clients, from their first byte until they are forgotten. Any thread may call it.

    Args:
        spool: where what is uploaded lies.
        max_queue: requests that come, wait or are worked on.
        max_per_client: of them, of one client.
        max_seconds: from the first byte of an upload to the result.
        keep_seconds: how long results are kept.
        num_hands: who work side by side.
        on_over: is told of every job that is over.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        max_queue: int,
        max_per_client: int,
        max_seconds: float,
        keep_seconds: float,
        num_hands: int = 1,
        on_over: Callable[[Job], None] = lambda job: None,
    ):
        self._spool, self._num_hands, self._on_over = spool, num_hands, on_over
        self._max_queue, self._max_per_client = max_queue, max_per_client
        self.max_seconds, self._keep_seconds = max_seconds, keep_seconds
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._coming: list[Place] = []
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # by client; the first one is served next
        self._running: list[Job] = []
        self._seconds = _USUAL_SECONDS  # what a job takes, lately
        self.is_draining = False

    # what clients ask for

    @contextmanager
    def place(self, client: str, *, owner: str = "") -> Iterator[Place]:
        """Holds a place for a request while its picture comes; without a `submit` in the block it is free at its end.

        Args:
            client: among whom the queue is fair.
            owner: who alone may see the job.

        Raises:
            Busy: there is none, or the server is to end.
            InputError: there is no room for a picture.
        """
        with self._changed:
            self._refuse(client)
            place = Place(client, owner, Path(), time.monotonic())
            self._coming.append(place)
        try:
            place.folder = self._spool.new_folder()
            yield place
        finally:
            with self._changed:
                self._coming.remove(place)
                self._changed.notify_all()
            if place.job is None and place.folder != Path():
                self._spool.remove(place.folder)

    def submit(self, place: Place, request: Request) -> Job:
        """Puts a request in the queue, within the block that holds its place; the folder is the job's from now on."""
        job = Job(
            request=request,
            owner=place.owner,
            client=place.client,
            folder=place.folder,
            deadline=place.began + self.max_seconds,
        )
        with self._changed:
            place.job = self._jobs[job.id] = job
            self._waiting.setdefault(job.client, deque()).append(job)
            moved = self._number()
            self._changed.notify_all()
        _tell(moved)
        return job

    def find(self, id: str, *, owner: str = "") -> Job:  # noqa: A002 - what it is
        """Returns a job.

        Raises:
            InputError: there is none of that id that is the owner's.
        """
        job = self._jobs.get(id)
        if job is None or job.owner != owner:
            raise no_such_job(id)
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job that nobody wants any more; one that is over stays what it is."""
        with self._changed:
            job.is_wanted = False
            if job.is_over:
                return
            moved = self._leave(job)
            self._end(job, "cancelled", error=job.cancelled_error())
            self._changed.notify_all()
        self._over(job, moved)

    def forget(self, job: Job) -> None:
        """Ends a job and removes what was uploaded and made for it; while it is worked on, as soon as that ends."""
        self.cancel(job)
        with self._changed:
            job.expires = 0.0
        self.sweep()

    # what those who work say

    def take(self, *, timeout: float) -> Job | None:
        """Returns the next job, which is running then; None: there was none within `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                job, moved = self._next()
                if job is not None:
                    self._running.append(job)
                    job.state, job.started = "running", time.time()
                    break
                left = end - time.monotonic()
                if moved or left <= 0 or not self._changed.wait(left):
                    break
        _tell(moved if job is None else [job, *moved])
        return job

    def report(
        self,
        job: Job,
        *,
        progress: tuple[int, int] | None = None,
        prior: Prior | None = None,
        preview: Preview | None = None,
    ) -> None:
        """Takes down how far a job is, as far as it still is wanted."""
        with self._changed:
            if job.is_over:
                return
            job.progress = progress or job.progress
            job.prior = prior or job.prior
            job.preview = preview or job.preview
        job.changed()

    def finish(self, job: Job, record: dict[str, Any]) -> None:
        """Takes down that a result is made."""
        self._done(job, "done", record=record)

    def fail(self, job: Job, error: XPSRError) -> None:
        """Takes down why there is none."""
        self._done(job, "failed", error=error)

    # the house

    def drain(self) -> None:
        """Takes nothing on any more."""
        with self._changed:
            self.is_draining = True
            self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether nothing comes, waits or is worked on."""
        with self._changed:
            return not (self._coming or self._waiting or self._running)

    @property
    def counts(self) -> dict[str, int]:
        """How many requests come, wait, are worked on, and are kept."""
        with self._changed:
            waiting = sum(map(len, self._waiting.values()))
            return {
                "coming": sum(place.job is None for place in self._coming),
                "waiting": waiting,
                "running": len(self._running),
                "kept": sum(job.is_over for job in self._jobs.values()),
            }

    @property
    def unfetched(self) -> int:
        """Results that nobody has had yet."""
        with self._changed:
            return sum(job.state == "done" and not job.is_fetched for job in self._jobs.values())

    def sweep(self) -> None:
        """Fails jobs that have waited too long, and forgets those whose time is over; is called every second or so."""
        now = time.time()
        with self._changed:
            late = [job for jobs in self._waiting.values() for job in jobs if time.monotonic() > job.deadline]
            moved = [other for job in late for other in self._leave(job)]
            for job in late:
                self._end(job, "failed", error=too_late(self.max_seconds))
            busy = set(map(id, self._running))
            gone = [
                job
                for job in self._jobs.values()
                if job.is_over and id(job) not in busy and job.expires is not None and now >= job.expires
            ]
            for job in gone:
                del self._jobs[job.id]
        for job in late:
            self._over(job, moved)
        for job in gone:
            self._spool.remove(job.folder)

    # with the lock

    def _refuse(self, client: str) -> None:
        mine = sum(place.client == client and place.job is None for place in self._coming)
        mine += len(self._waiting.get(client, ())) + sum(job.client == client for job in self._running)
        counts = sum(place.job is None for place in self._coming), sum(map(len, self._waiting.values()))
        total = sum(counts) + len(self._running)
        if self.is_draining:
            raise Busy("the server is to end", code="draining", remedy="try again soon", retry_after=10)
        seconds = min(max(math.ceil(self._seconds * total / self._num_hands), 1), _LONGEST_WAIT)
        if mine >= self._max_per_client:
            message = f"{mine} of your requests wait or are worked on, and the limit is {self._max_per_client}"
            raise Busy(message, code="too_many", remedy="wait for one of them", retry_after=min(seconds, 5))
        if total >= self._max_queue:
            message = f"{total} requests wait or are worked on, and the limit is {self._max_queue}"
            raise Busy(message, code="busy", remedy=f"try again in {seconds} seconds", retry_after=seconds)

    def _next(self) -> tuple[Job | None, list[Job]]:
        """Takes the next job out of the queue; returns whose place has changed, too."""
        if not self._waiting:
            return None, []
        client, jobs = next(iter(self._waiting.items()))
        job = jobs.popleft()
        self._waiting.move_to_end(client)  # who was served is the last one to be served again
        if not jobs:
            del self._waiting[client]
        return job, self._number()

    def _leave(self, job: Job) -> list[Job]:
        jobs = self._waiting.get(job.client)
        if jobs is None or job not in jobs:
            return []
        jobs.remove(job)
        if not jobs:
            del self._waiting[job.client]
        return self._number()

    def _number(self) -> list[Job]:
        """Tells the waiting how many are before them; returns those for whom that has changed."""
        rows, place, moved = [list(jobs) for jobs in self._waiting.values()], 0, []
        for turn in range(max(map(len, rows), default=0)):
            for row in rows:
                if turn < len(row):
                    if row[turn].place != place:
                        row[turn].place = place
                        moved.append(row[turn])
                    place += 1
        return moved

    def _end(
        self, job: Job, state: JobState, *, record: dict[str, Any] | None = None, error: XPSRError | None = None
    ) -> None:
        job.state, job.record, job.error, job.finished = state, record, error, time.time()
        job.expires = job.finished + self._keep_seconds
        job.preview = None

    def _done(
        self, job: Job, state: JobState, *, record: dict[str, Any] | None = None, error: XPSRError | None = None
    ) -> None:
        with self._changed:
            self._running.remove(job)
            if is_news := not job.is_over:  # or somebody wants it no more
                self._end(job, state, record=record, error=error)
                assert job.started is not None and job.finished is not None
                if state == "done":
                    self._seconds += 0.2 * (job.finished - job.started - self._seconds)
            self._changed.notify_all()
        if is_news:
            self._over(job, [])

    # without

    def _over(self, job: Job, moved: list[Job]) -> None:
        self._on_over(job)
        _tell([job, *moved])


def _tell(jobs: list[Job]) -> None:
    for job in jobs:
        job.changed()


def no_such_job(id: str) -> InputError:  # noqa: A002 - what it is
    """Returns the error of an id that no job has, or none that the client may see."""
    message, remedy = "is no job, or one that was forgotten", "results are kept for a limited time; ask again"
    return InputError(message, code="no_such_job", field="id", value=id[:64], remedy=remedy)


def too_late(seconds: float) -> XPSRError:
    """Returns the error of a job that was not done in time."""
    message, remedy = f"it was not done within {seconds:g} seconds", "try again later, or a smaller picture or scale"
    return XPSRError(message, code="too_late", remedy=remedy)
