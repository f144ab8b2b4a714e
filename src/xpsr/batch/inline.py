"""A crew that needs no process but this one."""

import threading
from collections.abc import Sequence
from queue import SimpleQueue

from xpsr.batch.crew import Finished, Hand, News, Ready
from xpsr.batch.items import Order, Ticket, failure_of
from xpsr.batch.worker import Worker

__all__ = ["Inline"]


class Inline:
    """A crew of one thread in this process, for a look into it with a debugger, and for stores that only it can see."""

    name = "inline"
    depth = 1

    def __init__(self, order: Order):
        self.news: SimpleQueue[News] = SimpleQueue()
        self._inbox: SimpleQueue[Ticket | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(Worker(order),), daemon=True)
        self._thread.start()
        self.news.put(Ready(hand=self.name))

    def tend(self) -> Sequence[Hand]:
        return [self]

    def give(self, ticket: Ticket) -> None:
        self._inbox.put(ticket)

    def kill(self) -> None:
        """Raises: nobody can end a thread from outside, and so `BatchConfig` takes no timeout without processes."""
        raise NotImplementedError("a thread cannot be ended from outside; use a ProcessCrew where there is a timeout.")

    def close(self, *, now: bool = False) -> None:
        self._inbox.put(None)
        if not now:
            self._thread.join()

    def _work(self, worker: Worker) -> None:
        while (ticket := self._inbox.get()) is not None:
            try:
                outcome = worker.work(ticket)
            except Exception as error:
                outcome = failure_of(error)
            self.news.put(Finished(hand=self.name, number=ticket.number, outcome=outcome))
