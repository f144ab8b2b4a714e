"""Goes through a plan: hands pictures out, takes results and failures in, and keeps the ledger."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty
from typing import Literal

from xpsr.batch.crew import Crew, Finished, Hand, Lost, News, Ready
from xpsr.batch.items import Failure, Made, Outcome, Ticket
from xpsr.batch.ledger import Ledger
from xpsr.batch.outage import FULL, OUTSIDE, Outage
from xpsr.batch.stores import shown
from xpsr.errors import XPSRError

__all__ = ["End", "Event", "run"]

End = Literal["complete", "stopped", "disk_full", "disk_short", "trouble"]

_TICK = 0.2
"""Seconds after which the ledger is written at the latest, and the crew tended."""

_BATCH = 500
"""Rows that are written at once, at most."""

_SUSPICIOUS = 3
"""Failures with codes of `OUTSIDE` in a row, after which somebody looks whether a store, or a disk, is away."""

_MAX_LOSSES = 8
"""Hands in a row that may die before they have taken a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What became of a picture; `is_last` is whether it is tried no more."""

    ticket: Ticket
    outcome: Outcome
    is_last: bool
    hand: str


@dataclass(kw_only=True)
class _Run:
    """One pass through the waiting pictures of a ledger."""

    ledger: Ledger
    crew: Crew
    retries: int
    timeout: float | None
    outage: Outage
    on_event: Callable[[Event], None]
    queue: deque[Ticket] = field(default_factory=deque)
    suspects: deque[Ticket] = field(default_factory=deque)  # of hands that died while they held several
    tested: set[int] = field(default_factory=set)  # numbers of suspects that are in a hand now
    after: int = 0
    held: dict[str, dict[int, Ticket]] = field(default_factory=dict)  # by hand and number
    since: dict[str, float] = field(default_factory=dict)  # when a hand began with what it works on
    ended: set[str] = field(default_factory=set)  # hands that held a picture for too long
    attempts: dict[int, int] = field(default_factory=dict)
    losses: int = 0
    started: list[tuple[int, str, float]] = field(default_factory=list)
    made: list[tuple[int, Made]] = field(default_factory=list)
    failed: list[tuple[int, Failure, bool]] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    is_read: bool = False  # whether the ledger has no more that wait
    has_worked: bool = False
    full: int = 0  # pictures in a row that a full disk did not take
    trouble: int = 0  # failures in a row that may be nobody's fault
    end: End | None = None

    def hand_out(self) -> None:
        """Gives everybody who has room for them pictures."""
        if self.outage.is_pausing:
            return
        hands = self.crew.tend()
        for turn in range(self.crew.depth):  # one each, before anybody gets a second
            for hand in hands:
                held = self.held.setdefault(hand.name, {})
                # what a hand may have died of goes to one that holds nothing else
                alone = any(number in self.tested for number in held)
                if len(held) > turn or alone:
                    continue
                if self.has_more() and self.queue:
                    ticket = self.queue.popleft()
                elif not held and self.suspects:  # last, as they may take a hand with them
                    ticket = self.suspects.popleft()
                    self.tested.add(ticket.number)
                else:
                    continue
                if not held:
                    self.since[hand.name] = time.monotonic()
                held[ticket.number] = ticket
                self.started.append((ticket.number, hand.name, time.time()))
                hand.give(ticket)

    def has_more(self) -> bool:
        """Returns whether any picture waits that is in nobody's hand."""
        if not self.queue and not self.is_read:
            found = self.ledger.waiting(after=self.after, limit=_BATCH)
            for ticket in found:
                (self.suspects if ticket.is_suspect else self.queue).append(ticket)
            if found:
                self.after = found[-1].number
            self.is_read = not found
        return bool(self.queue or self.suspects)

    def take(self, news: News) -> None:
        match news:
            case Ready():
                pass
            case Finished(hand=hand, number=number, outcome=outcome):
                held = self.held.get(hand, {})
                if number in held:  # what a lost hand held, somebody else has now
                    ticket = held.pop(number)
                    self.since[hand] = time.monotonic()
                    self.tested.discard(number)
                    self.losses, self.has_worked = 0, True
                    self._enter(ticket, outcome, hand)
            case Lost(hand=hand, error=error):
                self._bury(hand, error)

    def _bury(self, hand: str, error: XPSRError | None) -> None:
        held = list(self.held.pop(hand, {}).values())
        self.since.pop(hand, None)
        if error is not None and not self.has_worked:
            raise error  # which all others would meet with, too
        if not held:
            self.losses += 1
            if self.losses > _MAX_LOSSES and not self.num_held:
                if error is not None:
                    raise error
                message = f"{self.losses} processes in a row died before they had begun"
                raise XPSRError(message, code="workers_died", remedy="see what killed them: is there enough memory?")
        if len(held) == 1:
            (ticket,) = held
            self.tested.discard(ticket.number)
            self._enter(ticket, self._death(ticket, is_late=hand in self.ended), hand)
            return
        # which of them it died of nobody knows, so nobody is blamed yet
        self.suspects.extend(held)
        self.returned.extend(ticket.number for ticket in held)

    def _death(self, ticket: Ticket, *, is_late: bool) -> Failure:
        what, code, remedy = "the process that worked on it died", "worker_died", "is there enough memory for it?"
        if is_late:
            what, code = f"took more than {self.timeout:g} s", "too_slow"
            remedy = "give it more with --timeout, or leave it out"
        error = XPSRError(f"{shown(ticket.item.source)}: {what}", code=code, remedy=remedy)
        return Failure(code=code, line=str(error), remedy=remedy, may_pass=True)

    def _enter(self, ticket: Ticket, outcome: Outcome, hand: str) -> None:
        number = ticket.number
        if isinstance(outcome, Made):
            self.full = self.trouble = 0
            self.outage.reset()
            self.made.append((number, outcome))
            self.on_event(Event(ticket=ticket, outcome=outcome, is_last=True, hand=hand))
            return
        if outcome.code == "disk_full":
            self.full += 1
            if self.full >= FULL:
                self.end = "disk_full"
            if self.end is not None:
                self.failed.append((number, outcome, False))  # it comes last next time, in case it is too large alone
                return
        if outcome.code in OUTSIDE and self._is_away():  # no picture is to blame
            self.returned.append(number)
            self.queue.append(ticket)
            return
        tries = self.attempts[number] = self.attempts.get(number, 0) + 1
        is_last = not outcome.may_pass or tries > self.retries
        self.failed.append((number, outcome, is_last))
        if not is_last:
            is_suspect = outcome.code in ("worker_died", "too_slow", "out_of_memory")
            (self.suspects if is_suspect else self.queue).append(ticket)
        self.on_event(Event(ticket=ticket, outcome=outcome, is_last=is_last, hand=hand))

    def _is_away(self) -> bool:
        """Returns whether a failure is that of a store or disk that cannot be reached, for which the run then waits."""
        self.trouble += 1
        if self.outage.is_pausing:  # of pictures that were in a hand already
            return True
        if self.trouble < _SUSPICIOUS:
            return False
        if not self.outage.look():
            self.trouble = 0
            return False
        if self.outage.is_too_long:
            self.end = "trouble"
        return True

    def end_late(self, hands: dict[str, Hand]) -> None:
        """Ends hands that hold a picture for too long."""
        now = time.monotonic()
        for name, held in self.held.items():
            if self.timeout and held and name in hands and now - self.since[name] > self.timeout:
                self.ended.add(name)
                hands[name].kill()

    @property
    def num_held(self) -> int:
        return sum(map(len, self.held.values()))

    def write(self) -> None:
        """Brings the ledger up to date."""
        if self.started or self.made or self.failed or self.returned:
            over = {number for number, _ in self.made} | {number for number, *_ in self.failed} | set(self.returned)
            self.ledger.keep(
                started=[one for one in self.started if one[0] not in over],
                made=self.made,
                failed=self.failed,
                returned=self.returned,
            )
            self.started, self.made, self.failed, self.returned = [], [], [], []


def run(
    ledger: Ledger,
    crew: Crew,
    *,
    retries: int = 2,
    timeout: float | None = None,
    is_reachable: Callable[[], bool] = lambda: True,
    is_stopping: Callable[[], bool] = lambda: False,
    on_event: Callable[[Event], None] = lambda event: None,
    on_tick: Callable[[], None] = lambda: None,
) -> End:
    """Has a crew restore all pictures that wait, and returns how it ended.

    Args:
        ledger: of the plan.
        crew: who works; who dies while it holds one picture has it counted as a try, who holds several has them tried
            one by one.
        retries: how often a picture is tried again that may have failed by chance.
        timeout: seconds that a picture may take; whoever works on it longer is ended. None: any time.
        is_reachable: whether sources and results can be reached at all; asked where several pictures in a row fail.
        is_stopping: whether to hand out no more and to come to an end.
        on_event: is told what becomes of each picture.
        on_tick: is called several times a second.

    Raises:
        XPSRError: nobody can work: the model cannot be loaded, or process after process dies.
        InputError: the ledger cannot be written.
    """
    work = _Run(
        ledger=ledger, crew=crew, retries=retries, timeout=timeout, outage=Outage(is_reachable), on_event=on_event
    )
    try:
        while True:
            is_ending = work.end is not None or is_stopping()
            if not is_ending:
                work.hand_out()
            if not work.num_held and (is_ending or not work.has_more()):
                break
            try:
                work.take(crew.news.get(timeout=_TICK))
                while len(work.made) < _BATCH:
                    work.take(crew.news.get_nowait())
            except Empty:
                pass
            work.end_late({hand.name: hand for hand in crew.tend()})
            work.write()
            on_tick()
    finally:
        work.returned.extend(number for held in work.held.values() for number in held)  # where an error ended it
        work.write()
    if work.end is not None:
        return work.end
    return "stopped" if is_stopping() and ledger.tally().waiting else "complete"
