"""Where shots begin, by small pictures of the frames alone.

A frame begins a shot where both its picture and its histogram are quite other than those of the frame before it: other
by an absolute measure, and by a multiple of what frames of the shot have lately differed by. A pan or a shake changes
the picture but hardly the histogram. What is the same picture in another light, as in a fade, is no cut, nor is what
returns within a few frames, as after a flash; what becomes visible after a blank picture, as after a fade through
black, begins a shot, and so does another size. A dissolve from one picture to the next is not found.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from xpsr.sequence.frames import Frame, Look

__all__ = ["NUM_DESCRIBED", "Shot", "beginnings", "find_shots"]

# Of 60 photographs, one cut to the next: 98 % above .13 and .22, and of 150 all correlate by less than .9. Panned by an
# eighth of their width a frame: 98 % below .14 and .11.
_PICTURE = 0.08
"""Mean difference of luma, of 1, that a cut has at least."""

_HISTOGRAM = 0.15
"""Share of the pixels that are of another brightness after a cut, at least."""

_SAME = 0.9
"""Correlation of luma from which on two pictures are the same one, in whatever light."""

_TIMES_PICTURE, _TIMES_HISTOGRAM = 2, 3
"""How much more than lately both differ at a cut."""

_LATELY = 8
"""Frames of a shot whose differences a cut is compared with."""

_FLASH = 4
"""Frames that a flash lasts at most."""

_BLANK, _VISIBLE = 0.01, 0.02
"""Standard deviations of luma, of 1: below the first nothing is to be seen, from the second on there is something."""

NUM_DESCRIBED = 25
"""First frames of a shot of which one is described: about a second."""

_BINS = 32


@dataclass(frozen=True, kw_only=True)
class Shot:
    """Frames that show one thing.

    Attributes:
        number: of the shot in its sequence, from 1.
        frames: in their order.
        described: the frame that the prior of all is that of: of the first 25 the one with the most detail, so that a
            fade, a blurred frame or a flash does not speak for the shot, or the one that did when it was restored.
    """

    number: int
    frames: Sequence[Frame]
    described: Frame


def find_shots(frames: Sequence[Frame]) -> list[Shot]:
    """Returns the shots of a sequence, in their order."""
    starts = beginnings([frame.look for frame in frames])
    shots = []
    for number, (start, end) in enumerate(pairwise([*starts, len(frames)]), 1):
        own = frames[start:end]
        described = max(own[:NUM_DESCRIBED], key=lambda frame: _detail(frame.look.luma))
        shots.append(Shot(number=number, frames=own, described=described))
    return shots


def beginnings(looks: Sequence[Look]) -> list[int]:
    """Returns the places of the frames that begin a shot, in order; the first is one."""
    starts: list[int] = []
    lately: deque[tuple[float, float]] = deque(maxlen=_LATELY)
    was_blank, before, place = False, 0, 0  # `before` is the last frame that is no part of a flash
    while place < len(looks):
        look, spread = looks[place], float(looks[place].luma.std()) / 255
        begins = place == 0 or look.size != looks[before].size or (was_blank and spread >= _VISIBLE)
        if not begins:
            begins = _is_cut(looks[before], look, lately)
            if begins and (back := _return(looks, before, place, lately)) is not None:
                place = back
                continue
            lately.append(_differences(looks[before], look))
        if begins:
            starts.append(place)
            lately.clear()
        was_blank = spread < _BLANK or (was_blank and spread < _VISIBLE)
        before = place
        place += 1
    return starts


def _return(looks: Sequence[Look], before: int, place: int, lately: Sequence[tuple[float, float]]) -> int | None:
    """Where a shot goes on after a flash that begins at `place`; None: it does not, so that it is no flash."""
    for back in range(place + 1, min(place + 1 + _FLASH, len(looks))):
        if looks[back].size != looks[before].size:
            return None
        if not _is_cut(looks[before], looks[back], lately):
            return back
    return None


def _is_cut(one: Look, other: Look, lately: Sequence[tuple[float, float]]) -> bool:
    usual = np.mean(lately, axis=0) if lately else (0.0, 0.0)
    picture, histogram = _differences(one, other)
    if picture < max(_PICTURE, _TIMES_PICTURE * usual[0]) or histogram < max(_HISTOGRAM, _TIMES_HISTOGRAM * usual[1]):
        return False
    values = [look.luma - look.luma.mean(dtype=np.float64) for look in (one, other)]
    spread = np.sqrt(np.square(values[0]).mean() * np.square(values[1]).mean())
    return bool((values[0] * values[1]).mean() < _SAME * spread or not spread)


def _differences(one: Look, other: Look) -> tuple[float, float]:
    """By how much the luma of two frames differs, of 1, and how many of their pixels are of another brightness."""
    picture = np.abs(one.luma.astype(np.float32) - other.luma).mean() / 255
    histogram = np.abs(_histogram(one.luma) - _histogram(other.luma)).sum() / 2
    return float(picture), float(histogram)


def _histogram(luma: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shares of brightnesses, smoothed, or light that changes by a level would move whole areas to the next one."""
    counts, _ = np.histogram(luma, _BINS, (0, 256))
    return np.convolve(counts / luma.size, (0.25, 0.5, 0.25), "same")


def _detail(luma: NDArray[np.uint8]) -> float:
    """Mean difference of neighbours."""
    values = luma.astype(np.float32)
    return sum(float(np.abs(np.diff(values, axis=axis)).sum()) for axis in (0, 1)) / luma.size
