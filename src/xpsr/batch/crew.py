"""Those who work on a plan, as the runner sees them: hands that take pictures, and news of what became of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from xpsr.batch.items import Outcome, Ticket
from xpsr.errors import XPSRError

__all__ = ["Crew", "Finished", "Hand", "Lost", "News", "Ready"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A hand has loaded its model."""

    hand: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A hand has done with a picture."""

    hand: str
    number: int
    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A hand is there no more, and with it what it held.

    `error` is why it never began, which would be so again; None: it died.
    """

    hand: str
    error: XPSRError | None = None


News: TypeAlias = Ready | Finished | Lost


class Hand(Protocol):
    """One of a crew: a process, an actor, a thread."""

    name: str

    def give(self, ticket: Ticket) -> None:
        """Hands a picture over; what becomes of it is told in the crew's news."""

    def kill(self) -> None:
        """Ends it at once, whatever it holds; it is `Lost` then."""


class Crew(Protocol):
    """Hands, of which some may die and others join while work goes on.

    Attributes:
        news: what happened, in order.
        depth: how many pictures a hand holds at most, so that reading, computing and writing overlap.
    """

    news: "SimpleQueue[News]"
    depth: int

    def tend(self) -> Sequence[Hand]:
        """Replaces who died, takes in who joined, and returns all who are there; is called again and again."""

    def close(self, *, now: bool = False) -> None:
        """Lets all of them finish what they hold, and go; `now`: ends them at once."""
