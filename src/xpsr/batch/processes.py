"""A crew of processes on this machine, one for each device or share of the processor."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from xpsr.batch.crew import Hand, Lost, News
from xpsr.batch.items import Order, Ticket
from xpsr.batch.wire import order_line, read_news, ticket_line

__all__ = ["ProcessCrew", "start_process"]

_PYTHON = (sys.executable, "-P")  # -P: the folder it runs in may hold photographs, and a torch.py

_LONGEST_PAUSE = 60.0
"""Seconds between a process that died before it had begun and the next one in its place; the first is 1 s."""

_GOODBYE = 60.0
"""Seconds that a process without work has to go."""


def start_process(module: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a module of this package in a process that speaks lines of text by its standard streams.

    Its threads sleep while they wait, as those of the command line do. Ctrl-C does not reach it.
    """
    root = str(Path(__file__).parents[2])  # where this package is
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        (*_PYTHON, "-m", module),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": paths} | environment,
        start_new_session=True,
        text=True,
        encoding="utf-8",
    )


class ProcessCrew:
    """Processes, each with an order of its own; one that dies is started again.

    Args:
        orders: one for each process; they differ in their device.
    """

    depth = 3

    def __init__(self, orders: Sequence[Order]):
        self.news: SimpleQueue[News] = SimpleQueue()
        self._orders = list(orders)
        self._hands: list[_Process | None] = [None] * len(self._orders)
        self._started = 0
        self._pauses = [0.0] * len(self._orders)  # before the next start
        self._starts = [0.0] * len(self._orders)  # when the next one may be

    def tend(self) -> Sequence[Hand]:
        for place, order in enumerate(self._orders):
            hand, now = self._hands[place], time.monotonic()
            if hand is not None and hand.is_over:
                has_begun = hand.has_begun
                self._pauses[place] = 0.0 if has_begun else min(2 * self._pauses[place] or 1.0, _LONGEST_PAUSE)
                self._starts[place] = now + self._pauses[place]
                hand = self._hands[place] = None
            if hand is None and now >= self._starts[place]:
                self._started += 1
                self._hands[place] = _Process(f"process-{self._started}", order, self.news)
        return [hand for hand in self._hands if hand is not None and hand.is_ready]

    def close(self, *, now: bool = False) -> None:
        hands = [hand for hand in self._hands if hand is not None]
        for hand in hands:
            if now:
                hand.kill()
            hand.dismiss()
        for hand in hands:
            hand.wait()


class _Process:
    def __init__(self, name: str, order: Order, news: "SimpleQueue[News]"):
        self.name, self.is_ready, self.has_begun, self.is_over = name, False, False, False
        self._news = news
        self._process = start_process("xpsr.batch.process", OMP_NUM_THREADS=str(order.threads))
        self._send(order_line(order))
        threading.Thread(target=self._listen, daemon=True).start()

    def give(self, ticket: Ticket) -> None:
        self._send(ticket_line(ticket))

    def kill(self) -> None:
        self._process.kill()

    def dismiss(self) -> None:
        """Lets it finish what it holds, and go."""
        if self.is_ready:
            self._send("\n")
        else:  # it loads a model that nobody needs any more
            self.kill()
        with suppress(OSError):
            self._pipe.close()

    def wait(self) -> None:
        """Returns when it has gone, by itself or not."""
        try:
            self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    @property
    def _pipe(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _send(self, line: str) -> None:
        with suppress(OSError, ValueError):  # it has died, of which the news tell, and perhaps its pipe is closed
            self._pipe.write(line)
            self._pipe.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        last = Lost(hand=self.name)
        try:
            with self._process.stdout as lines:
                for line in lines:
                    news = read_news(line, self.name)
                    if isinstance(news, Lost):
                        last = news  # which is told when it has gone
                    else:
                        self.is_ready = self.has_begun = True
                        self._news.put(news)
        except (ValueError, KeyError, TypeError):  # it does not speak as it should
            self.kill()
        self._process.wait()
        with suppress(OSError):  # what was not read any more
            self._pipe.close()
        self.is_ready, self.is_over = False, True
        self._news.put(last)
