"""Who is next: a bounded queue, fair among clients, of jobs that a worker for each device takes one by one.

Nothing here knows of HTTP or of processes. Pictures are not put through the networks together: a row of a batch differs
from the same picture alone by 7e-8, and results are to be those of `xpsr upscale` to the bit.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpsr.errors import InputError, XPSRError
from xpsr.prior import Prior
from xpsr.web.jobs import Job, JobState, Preview, Request
from xpsr.web.spool import Spool
from xpsr.web.turns import Turns

__all__ = ["Busy", "Place", "Scheduler", "ending", "no_such_job", "too_late"]

_USUAL_SECONDS = 5.0
"""What a job is thought to take before any has been done."""

_LONGEST_WAIT = 600
"""Seconds after which a client that was turned away is told to come again, at most."""

_MOST_KEPT = 1_000
"""Jobs that are kept when they are over; each has some KB of memory beside its files, and some 700 of longest texts."""

_UPLOADS = 4
"""As many times as many uploads as jobs may be on their way."""


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

    Clients take turns: one who has a job in the queue waits for at most one of each other client before its own is
    begun, and one who was served comes last.

    Upload and queue have `wait_seconds` together, and work has `max_seconds` of its own, so that nobody's heavy picture
    takes the time of those who wait. A job whose time is over in the queue fails there; one that is worked on is ended
    by whoever works on it.

    A job that is over is kept for `keep_seconds` from then on, so that whoever asks learns what became of it: one that
    is done with its upload and result, one that failed with its upload. One that was cancelled has no files any more
    from when nobody works on it. Where the disk is nearly full, or of too many jobs, the oldest ones of the client that
    keeps most go sooner; nobody can drive out what others keep but by keeping less.

    Args:
        spool: where what is uploaded lies.
        max_queue: jobs that wait or are worked on; cancelled ones too, while they are. Uploads have places of their
            own, four times as many, so that slow ones keep nobody out.
        max_per_client: of jobs and uploads, of one client.
        max_seconds: of work on a job.
        wait_seconds: from the first byte of an upload until somebody works on it.
        keep_seconds: how long jobs are kept that are over.
        num_hands: who work side by side.
        on_over: is told of every job that is over, once.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        max_queue: int,
        max_per_client: int,
        max_seconds: float,
        keep_seconds: float,
        wait_seconds: float = math.inf,
        num_hands: int = 1,
        on_over: Callable[[Job], None] = lambda job: None,
    ):
        self._spool, self._num_hands, self._on_over = spool, num_hands, on_over
        self._max_queue, self._max_per_client = max_queue, max_per_client
        self.max_seconds, self._wait_seconds, self._keep_seconds = max_seconds, wait_seconds, keep_seconds
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}  # the oldest first; one that is worked on may be forgotten already
        self._coming: list[Place] = []
        self._waiting = Turns()
        self._running: dict[Job, tuple[float, float]] = {}  # since when, and until when it might have waited
        self._seconds = _USUAL_SECONDS  # what a job takes, lately
        self.is_draining = self._is_closed = False

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
            self._make_room()
            place.folder = self._spool.new_folder()
            try:
                yield place
            finally:
                if place.job is None:
                    self._spool.remove(place.folder)
        finally:
            with self._changed:
                self._coming.remove(place)
                self._changed.notify_all()

    def submit(self, place: Place, request: Request) -> Job:
        """Puts a request in the queue, within the block that holds its place; the folder is the job's from now on.

        Raises:
            Busy: the queue was filled meanwhile, or the server has ended.
        """
        assert place.job is None, "a place is for one job"
        job = Job(
            request=request,
            owner=place.owner,
            client=place.client,
            folder=place.folder,
            deadline=place.began + self._wait_seconds,
            kept=request.bytes,
        )
        with self._changed:
            if self._is_closed:
                raise _to_end()
            self._refuse_above(self._max_queue)
            place.job = self._jobs[job.id] = job
            moved = self._waiting.add(job)
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
        """Ends a job that nobody wants any more; one that is over stays what it is.

        While it is worked on, it counts among its client's until whoever does so has let it go.
        """
        with self._changed:
            if job.is_over:
                return
            job.is_wanted = False
            moved = self._waiting.remove(job)
            self._end(job, "cancelled", error=job.cancelled_error())
            is_free = job not in self._running
            self._changed.notify_all()
        if is_free:
            self._spool.remove(job.folder)
        self._over([job], moved)

    def forget(self, job: Job) -> None:
        """Ends a job, which nobody finds any more, and removes what was uploaded and made for it.

        While it is worked on, its files go as soon as that ends.
        """
        self.cancel(job)
        with self._changed:
            self._jobs.pop(job.id, None)
            is_free = job not in self._running
        if is_free:
            self._spool.remove(job.folder)

    # what those who work say

    def take(self, *, timeout: float) -> Job | None:
        """Returns the next job, which is running then; None: there was none within `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            with self._changed:
                job, moved = self._waiting.next()
                if job is None:
                    left = end - time.monotonic()
                    if left <= 0:
                        return None
                    self._changed.wait(left)
                    continue
                now = time.monotonic()
                if is_late := now > job.deadline:
                    self._end(job, "failed", error=_waited(self._wait_seconds))
                else:
                    self._running[job], job.deadline = (now, job.deadline), now + self.max_seconds
                    job.started = time.time()
                    job.state = "running"
            if is_late:
                self._over([job], moved)
                continue
            _tell([job, *moved])
            return job

    def give_back(self, job: Job) -> None:
        """Puts a job that was taken, and that nobody has begun to work on, before all others again."""
        over: Collection[Job] = []
        moved: Collection[Job] = []
        with self._changed:
            _, deadline = self._running.pop(job)
            is_gone = job.is_over
            if not is_gone and self._is_closed:
                self._end(job, "failed", error=ending())
                over = [job]
            elif not is_gone:
                job.state, job.deadline = "waiting", deadline
                job.started = job.progress = job.preview = None
                moved = [job, *self._waiting.add_first(job)]
            self._changed.notify_all()
        if is_gone:
            self._spool.remove(job.folder)
        self._over(over, moved)

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
        """Takes down that a result is made; of a job that is over, that nobody works on it any more."""
        self._done(job, "done", record=record)

    def fail(self, job: Job, error: XPSRError) -> None:
        """Takes down why there is no result; of a job that is over, that nobody works on it any more."""
        self._done(job, "failed", error=error)

    # the house

    def drain(self) -> None:
        """Takes nothing on any more."""
        with self._changed:
            self.is_draining = True
            self._changed.notify_all()

    def close(self) -> None:
        """Takes nothing on any more, and fails what waits still: those who work have gone, or are to."""
        self.drain()
        with self._changed:
            self._is_closed = True
            left = self._waiting.clear()
            for job in left:
                self._end(job, "failed", error=ending())
        self._over(left, [])

    @property
    def is_idle(self) -> bool:
        """Whether nothing comes, waits or is worked on."""
        with self._changed:
            return not (self._num_coming() or self._waiting or self._running)

    @property
    def counts(self) -> dict[str, int]:
        """How many requests come, wait, are worked on, and are kept."""
        with self._changed:
            return {
                "coming": self._num_coming(),
                "waiting": len(self._waiting),
                "running": len(self._running),
                "kept": len(self._kept()),
            }

    @property
    def unfetched(self) -> int:
        """Results that nobody has had yet."""
        with self._changed:
            return sum(job.state == "done" and not job.is_fetched for job in self._jobs.values())

    def sweep(self) -> None:
        """Fails jobs that have waited too long, and forgets those whose time is over; is called every second or so."""
        now = time.monotonic()
        with self._changed:
            late = [job for job in self._waiting if now > job.deadline]
            moved = [other for job in late for other in self._waiting.remove(job)]
            for job in late:
                self._end(job, "failed", error=_waited(self._wait_seconds))
            gone = [job for job in self._kept() if job.until is not None and now >= job.until]
            for job in gone:
                del self._jobs[job.id]
            gone += self._drop(len(self._kept()) - _MOST_KEPT, lambda job: 1)
        self._over(late, moved)
        for job in gone:
            self._spool.remove(job.folder)

    # with the lock

    def _num_coming(self, client: str | None = None) -> int:
        return sum(place.job is None and client in (None, place.client) for place in self._coming)

    def _refuse(self, client: str) -> None:
        if self.is_draining:
            raise _to_end()
        mine = self._num_coming(client) + self._waiting.num_of(client)
        mine += sum(job.client == client for job in self._running)
        clients = self._waiting.clients | {job.client for job in self._running}
        if mine >= self._max_per_client:  # in one round of all clients it has one less
            seconds = self._in_seconds(len(clients))
            message = f"{mine} of your requests wait or are worked on, and the limit is {self._max_per_client}"
            raise Busy(message, code="too_many", remedy="wait for one of them", retry_after=seconds)
        self._refuse_above(self._max_queue)
        coming, most = self._num_coming(), _UPLOADS * self._max_queue
        if coming >= most:
            message, seconds = f"{coming} uploads are on their way, and the limit is {most}", self._in_seconds(1)
            raise Busy(message, code="busy", remedy=f"try again in {seconds} seconds", retry_after=seconds)

    def _refuse_above(self, most: int) -> None:
        total = len(self._waiting) + len(self._running)
        if total >= most:
            seconds = self._in_seconds(1)
            message = f"{total} requests wait or are worked on, and the limit is {most}"
            raise Busy(message, code="busy", remedy=f"try again in {seconds} seconds", retry_after=seconds)

    def _in_seconds(self, jobs: int) -> int:
        """In how many seconds so many jobs are done, more or less."""
        return min(max(math.ceil(self._seconds * jobs / self._num_hands), 1), _LONGEST_WAIT)

    def _end(
        self, job: Job, state: JobState, *, record: dict[str, Any] | None = None, error: XPSRError | None = None
    ) -> None:
        job.record, job.error, job.preview = record, error, None
        job.finished, job.until = time.time(), time.monotonic() + self._keep_seconds
        job.expires = job.finished + self._keep_seconds
        job.state = state  # last, since whoever reads the others goes by it

    def _kept(self) -> list[Job]:
        """Jobs that are over, the oldest first, without those that somebody works on."""
        return [job for job in self._jobs.values() if job.is_over and job not in self._running]

    def _drop(self, amount: int, size: Callable[[Job], int]) -> list[Job]:
        """Forgets jobs until so much of their sizes is gone, of who keeps most the oldest first, and returns them."""
        gone, of_client, sizes = list[Job](), dict[str, deque[Job]](), Counter[str]()
        for job in self._kept():
            of_client.setdefault(job.client, deque()).append(job)
            sizes[job.client] += size(job)
        while amount > 0 and sizes:
            ((client, _),) = sizes.most_common(1)
            job = of_client[client].popleft()
            sizes[client] -= size(job)
            if not of_client[client]:
                del sizes[client]
            del self._jobs[job.id]
            gone.append(job)
            amount -= size(job)
        return gone

    # without

    def _make_room(self) -> None:
        """Forgets jobs where the disk is nearly full, as far as that makes room.

        Raises:
            InputError: it makes none.
        """
        missing = self._spool.missing
        if not missing:
            return
        with self._changed:
            if sum(job.kept for job in self._kept()) < missing:  # others fill the disk
                raise self._spool.full()
            gone = self._drop(missing, lambda job: job.kept)
        for job in gone:
            self._spool.remove(job.folder)

    def _done(
        self, job: Job, state: JobState, *, record: dict[str, Any] | None = None, error: XPSRError | None = None
    ) -> None:
        size = self._spool.size(job.folder)
        with self._changed:
            began = self._running.pop(job, None)
            if began is None:  # it was let go already
                return
            if is_news := not job.is_over:  # or somebody wants it no more
                job.kept = size
                self._end(job, state, record=record, error=error)
                if state == "done":
                    self._seconds += 0.2 * (time.monotonic() - began[0] - self._seconds)
            self._changed.notify_all()
        if is_news:
            self._over([job], [])
        else:
            self._spool.remove(job.folder)

    def _over(self, jobs: Collection[Job], moved: Collection[Job]) -> None:
        try:
            for job in jobs:
                self._on_over(job)
        finally:
            _tell(dict.fromkeys([*jobs, *moved]))


def _tell(jobs: Collection[Job]) -> None:
    for job in jobs:
        job.changed()


def no_such_job(id: str) -> InputError:  # noqa: A002 - what it is
    """Returns the error of an id that no job has, or none that the client may see."""
    message = "is no job, or one that was forgotten"
    remedy = "results are kept for a limited time; restore the picture again"
    return InputError(message, code="no_such_job", field="id", value=id[:64], remedy=remedy)


def too_late(seconds: float) -> XPSRError:
    """Returns the error of a job that was not done in time."""
    message, remedy = f"it was not done within {seconds:g} seconds", "try again later, or a smaller picture or scale"
    return XPSRError(message, code="too_late", remedy=remedy)


def _waited(seconds: float) -> XPSRError:
    message, remedy = f"nobody had time for it within {seconds:g} seconds", "try again later"
    return XPSRError(message, code="too_late", remedy=remedy)


def ending() -> XPSRError:
    """Returns the error of a job that was not done before the server ended."""
    return XPSRError("the server ended before it was done", code="draining", remedy="try again soon")


def _to_end() -> Busy:
    return Busy("the server is to end", code="draining", remedy="try again soon", retry_after=10)
