"""A process that works on a plan: `python -m xpsr.batch.process`, which `ProcessCrew` starts and nobody else needs.

Both ends speak lines of JSON. The first line that comes in is the order, the last one is empty, and those between are
tickets; what goes out are news.
Three threads, so that the next picture is read, and the last one written, while one is computed.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from queue import Queue, SimpleQueue
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:  # imported when what they print cannot pass for news any more
    from xpsr.batch.items import Outcome, Ticket
    from xpsr.batch.worker import Worker
    from xpsr.restore import Restored

__all__ = ["main"]


def main() -> None:
    """Works until it is told that nothing more comes in; where whoever started it has gone, it ends at once."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not pass for news
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner says when it is over
    signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.platform != "win32" else signal.SIG_DFL)
    told = threading.Lock()

    from xpsr.batch.items import as_error
    from xpsr.batch.wire import READY, done_line, failed_line, read_order
    from xpsr.batch.worker import Worker

    def tell(line: str) -> None:
        try:
            with told:
                out.write(line)
                out.flush()
        except OSError:  # whoever started this has gone
            os._exit(1)

    line = sys.stdin.readline()
    if not line:
        return
    try:
        worker = Worker(read_order(line))
    except Exception as error:
        tell(failed_line(as_error(error)))
        return
    tell(READY)

    def done(number: int, outcome: "Outcome") -> None:
        tell(done_line(number, outcome))

    work_on(worker, sys.stdin, done)


def work_on(worker: "Worker", inbox: IO[str], done: "Callable[[int, Outcome], None]") -> None:
    """Takes tickets from lines until there are no more, and tells what became of each."""
    from xpsr.batch.items import Failure
    from xpsr.batch.wire import read_ticket
    from xpsr.batch.worker import Held

    opened: Queue[Held | None] = Queue(maxsize=1)
    painted: Queue[tuple[Held, Restored] | None] = Queue(maxsize=1)
    tickets: SimpleQueue[Ticket | None] = SimpleQueue()

    def listen() -> None:
        for line in inbox:
            if not line.strip():
                tickets.put(None)
                return
            tickets.put(read_ticket(line))
        # who started this has gone, and the next run may be at work already; whatever is half-written has no name yet
        os._exit(1)

    def read() -> None:
        while (ticket := tickets.get()) is not None:
            held = worker.open(ticket)
            if isinstance(held, Held):
                opened.put(held)
            else:
                done(ticket.number, held)
        opened.put(None)

    def write() -> None:
        while (one := painted.get()) is not None:
            held, restored = one
            done(held.ticket.number, worker.write(held, restored))

    threads = [threading.Thread(target=_or_end, args=(work,), daemon=True) for work in (listen, read, write)]
    for thread in threads:
        thread.start()
    while (held := opened.get()) is not None:
        restored = worker.paint(held)
        if isinstance(restored, Failure):
            done(held.ticket.number, restored)
        else:
            painted.put((held, restored))
    painted.put(None)
    threads[-1].join()


def _or_end(work: Callable[[], None]) -> None:
    """Does a thread's work; where it fails, the process ends, since the others would wait for it for ever."""
    try:
        work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


if __name__ == "__main__":
    main()
