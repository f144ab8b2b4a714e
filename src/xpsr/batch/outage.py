"""A store, or a disk, that is away: what tells of it, and how long whoever works waits for it."""

import time
from collections.abc import Callable

__all__ = ["FULL", "OUTSIDE", "Outage"]

FULL = 3
"""Pictures for which there is no room, after which it is the disk's fault and not theirs."""

OUTSIDE = ("store", "refused", "no_credentials", "not_found")
"""Codes of what pictures meet with when a store, or a disk, is away; and some of them when it is not."""

_MOST_PAUSES = 10
"""Looks in a row that find it away, before the run ends; after each it pauses, from 1 s on twice as long."""

_LONGEST_PAUSE = 60.0  # seconds


class Outage:
    """Looks whether sources and results can be reached, and has whoever works pause where they cannot.

    Args:
        is_reachable: whether they can.
    """

    def __init__(self, is_reachable: Callable[[], bool]):
        self._is_reachable = is_reachable
        self._pauses = 0  # in a row
        self._resume_at = 0.0

    @property
    def is_pausing(self) -> bool:
        """Whether nothing is to be begun now."""
        return time.monotonic() < self._resume_at

    @property
    def is_too_long(self) -> bool:
        """Whether there is no more sense in waiting."""
        return self._pauses > _MOST_PAUSES

    def look(self) -> bool:
        """Returns whether they cannot be reached now, after which a pause begins, each time a longer one."""
        if self._is_reachable():
            self._pauses = 0
            return False
        self._pauses += 1
        self._resume_at = time.monotonic() + min(2.0 ** (self._pauses - 1), _LONGEST_PAUSE)
        return True

    def reset(self) -> None:
        """Forgets the pauses, as something worked."""
        self._pauses, self._resume_at = 0, 0.0
