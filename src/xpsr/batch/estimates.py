"""How fast a run is, how long the rest of it takes, and what a plan will take before it has begun."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from xpsr.batch.items import Made
from xpsr.batch.ledger import Tally
from xpsr.planning import in_words, time_in_words

if TYPE_CHECKING:  # the runner may ask for `shortage`
    from xpsr.batch.runner import Event

__all__ = ["Estimate", "Range", "Sample", "Throughput", "estimate", "pixels_in_words", "rate_in_words", "shortage"]

_WINDOW = 60.0
"""Seconds that count as lately."""

_FEW = 10
"""Pictures that say how fast a run is lately, also where they took longer than that."""

_LEAST = 2
"""Pictures of which a rate is told at all."""

_LONGEST_TICK = 5.0
"""Seconds between two ticks; what is longer was a pause of the process or the machine."""

_BESIDE = 2**13
"""Bytes that a result takes beside its file: its record, blocks that are filled in part, lines of ledger and log."""

_ENOUGH = 20
"""Results that tell how large all will be; of fewer than 400, a twentieth does."""


class Throughput:
    """How many pictures are finished in a second: made, or failed for good.

    What an earlier run has made, and what is skipped, costs next to nothing and does not count. Neither does the first
    picture of each hand, which tells when it began: to load a model takes its time, and the first ones of all hands
    come at once. Pauses, as of a machine that sleeps, do not pass for slowness.

    Args:
        clock: seconds, from anywhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._asked = clock, clock()
        self._now = 0.0  # without pauses
        self._hands: set[str] = set()
        self._count, self._start = 0, 0.0
        self._times: deque[float] = deque()  # of what was finished lately, and of the last one before

    def take(self, event: "Event") -> None:
        """Takes in what became of a picture."""
        if not event.is_last or (isinstance(event.outcome, Made) and event.outcome.status != "made"):
            return
        self.tick()
        if not self._times:
            self._start = self._now
            self._times.append(self._now)
        elif event.hand in self._hands:
            self._count += 1
            self._times.append(self._now)
            self._forget()
        self._hands.add(event.hand)

    def tick(self) -> None:
        """Has to be called several times a second."""
        asked, self._asked = self._asked, self._clock()
        self._now += min(self._asked - asked, _LONGEST_TICK)
        self._forget()

    def _forget(self) -> None:
        while len(self._times) > _FEW + 1 and self._times[1] <= self._now - _WINDOW:
            self._times.popleft()

    @property
    def recent(self) -> float | None:
        """Pictures in a second, of the last minute or the last few; None: nobody knows yet."""
        if self._count < _LEAST:
            return None
        start, count = self._times[0], len(self._times) - 1
        if count > _FEW:
            start = max(start, self._now - _WINDOW)
        return count / (self._now - start) if self._now > start else None

    @property
    def overall(self) -> float | None:
        """Pictures in a second since the first one; None: nobody knows yet."""
        return self._count / (self._now - self._start) if self._count >= _LEAST and self._now > self._start else None

    def eta(self, left: int) -> float | None:
        """Returns in how many seconds so many more are finished; None: nobody knows."""
        rate = self.recent
        return 0.0 if not left else left / rate if rate else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What one picture took: pixels of source and result, seconds from reading to writing, bytes of the result."""

    pixels_in: int
    pixels_out: int
    seconds: float
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """What is expected, and between which two it lies, 19 times out of 20."""

    low: float
    expected: float
    high: float

    def in_words(self, say: Callable[[float], str]) -> str:
        """Returns "12 h to 19 h", or only one where both are the same."""
        low, high = say(self.low), say(self.high)
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a plan takes.

    Attributes:
        pictures: how many there are.
        workers: how many work at once, each as fast as whoever restored the sample.
        num_samples: pictures that were restored to find out.
        pixels_in: of all sources.
        pixels_out: of all results.
        seconds: until all are done.
        bytes: of results, and what is written beside them.
    """

    pictures: int
    workers: int
    num_samples: int
    pixels_in: Range
    pixels_out: Range
    seconds: Range
    bytes: Range

    def in_words(self) -> list[str]:
        """Returns lines for people."""
        told_by = f"{self.num_samples} of them" if self.num_samples > 1 else "one of them, which tells little"
        each = f"{self.workers} workers, each as fast as the one that was measured" * (self.workers > 1)
        return [
            f"pictures: {self.pictures:,}, as told by {told_by}",
            f"pixels:   {self.pixels_in.in_words(pixels_in_words)} become {self.pixels_out.in_words(pixels_in_words)}",
            f"time:     {self.seconds.in_words(time_in_words)} with {each or '1 worker'}",
            f"disk:     {self.bytes.in_words(lambda size: in_words(math.ceil(size)))}",
        ]


def estimate(pictures: int, samples: Sequence[Sample], *, workers: int = 1) -> Estimate:
    """Returns what so many pictures take, as a few of them tell that were drawn from all by chance.

    The ranges are those of Student's t for means (95 %), so that few samples or very different ones make them wide; of
    one sample nobody knows, and half and twice are said. What all workers share, a disk or a GPU, is not in it.

    Args:
        pictures: how many there are.
        samples: what some of them took, at least one.
        workers: how many will work at once.
    """
    return Estimate(
        pictures=pictures,
        workers=workers,
        num_samples=len(samples),
        pixels_in=_total(pictures, [one.pixels_in for one in samples]),
        pixels_out=_total(pictures, [one.pixels_out for one in samples]),
        seconds=_total(pictures, [one.seconds / workers for one in samples]),
        bytes=_total(pictures, [one.bytes + _BESIDE for one in samples]),
    )


def _total(count: int, values: Sequence[float]) -> Range:
    """What `count` values add up to, of which some are known."""
    num, expected = len(values), count * fmean(values)
    if num >= count:
        return Range(low=expected, expected=expected, high=expected)
    if num == 1:
        return Range(low=expected / 2, expected=expected, high=expected * 2)
    from scipy.special import stdtrit

    # those that are known are part of the sum, so the more of all they are, the less is open
    error = float(stdtrit(num - 1, 0.975)) * count * stdev(values) / math.sqrt(num) * math.sqrt(1 - num / count)
    return Range(low=max(expected - error, count * min(values)), expected=expected, high=expected + error)


def shortage(free_bytes: int | None, tally: Tally) -> int:
    """Returns how many bytes are missing for what waits, if it is like what is done; 0: none, or nobody knows yet.

    Args:
        free_bytes: room for results; None: nobody knows.
        tally: of a ledger. Twenty results tell, or a twentieth of all.
    """
    if free_bytes is None or not tally.done or tally.done < min(_ENOUGH, tally.total / _ENOUGH):
        return 0
    each = tally.bytes / tally.done + _BESIDE
    return max(0, math.ceil(each * (tally.waiting + tally.running)) - tally.replaced_bytes - free_bytes)


def pixels_in_words(pixels: float) -> str:
    """Returns pixels as people say them: "0.4 megapixels", "12 megapixels", "3.1 gigapixels", "2.6 terapixels"."""
    power = 12 if pixels >= 10**12 else 9 if pixels >= 10**9 else 6
    size = pixels / 10**power
    name = {6: "megapixels", 9: "gigapixels", 12: "terapixels"}[power]
    return f"{size:.1f} {name}" if size < 10 else f"{size:,.0f} {name}"


def rate_in_words(rate: float) -> str:
    """Returns pictures in a second as people say them: "1,200 pictures/s", "2.5 pictures/s", "40 pictures/h"."""
    number, unit = (rate, "s") if rate >= 0.1 else (rate * 3600, "h")
    return f"{number:,.0f} pictures/{unit}" if number >= 100 else f"{number:.3g} pictures/{unit}"
