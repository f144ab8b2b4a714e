"""Whose turn it is: jobs that wait, a row for each client, of which one after the other is served."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from xpsr.web.jobs import Job

__all__ = ["Turns"]


class Turns:
    """Jobs that wait. Not for several threads at once.

    Whatever changes them sets the `place` of each, and returns those of whom that has changed.
    """

    def __init__(self) -> None:
        self._rows: OrderedDict[str, deque[Job]] = OrderedDict()  # by client; the first one is served next

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def __iter__(self) -> Iterator[Job]:
        for row in self._rows.values():
            yield from row

    @property
    def clients(self) -> set[str]:
        """Those who wait."""
        return set(self._rows)

    def num_of(self, client: str) -> int:
        """Returns how many of a client's jobs wait."""
        return len(self._rows.get(client, ()))

    def add(self, job: Job) -> list[Job]:
        """Puts a job at the end of its client's row."""
        self._rows.setdefault(job.client, deque()).append(job)
        return self._number()

    def add_first(self, job: Job) -> list[Job]:
        """Puts a job before all others, whose client is served next, then."""
        self._rows.setdefault(job.client, deque()).appendleft(job)
        self._rows.move_to_end(job.client, last=False)
        return self._number()

    def next(self) -> tuple[Job | None, list[Job]]:
        """Takes out the job whose turn it is; None: nobody waits."""
        if not self._rows:
            return None, []
        client, row = next(iter(self._rows.items()))
        job = row.popleft()
        self._rows.move_to_end(client)  # who was served is the last one to be served again
        if not row:
            del self._rows[client]
        return job, self._number()

    def remove(self, job: Job) -> list[Job]:
        """Takes out a job, if it is there."""
        row = self._rows.get(job.client)
        if row is None or job not in row:
            return []
        row.remove(job)
        if not row:
            del self._rows[job.client]
        return self._number()

    def clear(self) -> list[Job]:
        """Takes out, and returns, all of them."""
        left = list(self)
        self._rows.clear()
        return left

    def _number(self) -> list[Job]:
        rows, place, moved = [list(row) for row in self._rows.values()], 0, []
        for turn in range(max(map(len, rows), default=0)):
            for row in rows:
                if turn < len(row):
                    if row[turn].place != place:
                        row[turn].place = place
                        moved.append(row[turn])
                    place += 1
        return moved
