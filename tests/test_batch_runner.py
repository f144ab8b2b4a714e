import random
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpsr.batch.crew import Finished, Hand, Lost, News, Ready
from xpsr.batch.items import Failure, Item, Made, Outcome, Ticket
from xpsr.batch.ledger import Ledger
from xpsr.batch.runner import Event, run
from xpsr.errors import ModelError, XPSRError

MADE = Made(status="made", key="k", output_sha256="d", output_stamp="1 2", pixels=4, bytes=9, seconds=0.1)
BAD = Failure(code="damaged", line="is damaged")
PASSING = Failure(code="unexpected", line="the store failed", may_pass=True)


class Chance:
    """A crew whose hands answer, fail and die as chance has it; of some pictures they always die."""

    def __init__(self, *, deadly: set[str], bad: set[str], weak: set[str], seed: int, num_hands: int, depth: int):
        self.news: SimpleQueue[News] = SimpleQueue()
        self.depth = depth
        self.random = random.Random(seed)
        self.deadly, self.bad, self.weak = deadly, bad, weak
        self.hands = [OneOfChance(self, f"hand {number}") for number in range(num_hands)]
        self.count, self.given, self.death_rate = num_hands, 0, 0.05

    def tend(self) -> list[Hand]:
        for place, hand in enumerate(self.hands):
            if hand.is_dead:
                self.hands[place] = OneOfChance(self, f"hand {self.count}")
                self.count += 1
                self.news.put(Ready(hand=self.hands[place].name))
            elif hand.held:
                hand.act()
        return [hand for hand in self.hands if not hand.is_dead]

    def close(self, *, now: bool = False) -> None:
        assert now or not any(hand.held for hand in self.hands)


class OneOfChance:
    def __init__(self, crew: Chance, name: str):
        self.crew, self.name, self.is_dead = crew, name, False
        self.held: list[Ticket] = []

    def give(self, ticket: Ticket) -> None:
        others = [other for hand in self.crew.hands for other in hand.held if not hand.is_dead]
        assert ticket.number not in {other.number for other in others}, "nobody else has it"
        self.held.append(ticket)
        assert len(self.held) <= self.crew.depth
        self.crew.given += 1

    def kill(self) -> None:
        self.is_dead = True
        self.held = []
        self.crew.news.put(Lost(hand=self.name))

    def act(self) -> None:
        ticket = self.crew.random.choice(self.held)
        name = ticket.item.id
        if name in self.crew.deadly or self.crew.random.random() < self.crew.death_rate:
            self.kill()
            return
        self.held.remove(ticket)
        outcome: Outcome = MADE
        if name in self.crew.bad:
            outcome = BAD
        elif name in self.crew.weak and self.crew.random.random() < 0.5:
            outcome = PASSING
        self.crew.news.put(Finished(hand=self.name, number=ticket.number, outcome=outcome))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.batch.runner._TICK", 0.002)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def plan(ledger: Ledger, count: int) -> None:
    ledger.plan(Item(id=str(n), source=f"/in/{n}", target=f"{n}.png", seed=0) for n in range(count))


def ended(ledger: Ledger) -> dict[str, set[str]]:
    return {state: {row.item.id for row in ledger.rows(state)} for state in ("waiting", "running", "done", "failed")}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 40),
    st.sets(st.integers(0, 39), max_size=3),
    st.sets(st.integers(0, 39), max_size=5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2**20),
)
def test_every_picture_ends_right_whoever_dies(
    tmp_path: Path, count: int, deadly: set[int], bad: set[int], num_hands: int, depth: int, seed: int
) -> None:
    path = tmp_path / "ledger.sqlite"
    path.unlink(missing_ok=True)
    killers, damaged = {str(n) for n in deadly if n < count}, {str(n) for n in bad - deadly if n < count}
    crew = Chance(deadly=killers, bad=damaged, weak=set(), seed=seed, num_hands=num_hands, depth=depth)
    crew.death_rate = 0.02
    events: list[Event] = []
    with Ledger(path) as ledger:
        plan(ledger, count)
        # chance may kill a hand that holds one innocent picture; not eight times
        assert run(ledger, crew, retries=8, on_event=events.append) == "complete"
        found = ended(ledger)
        assert found["failed"] == killers | damaged and not found["waiting"] | found["running"]
        assert found["done"] == {str(n) for n in range(count)} - killers - damaged
        codes = {row.item.id: row.code for row in ledger.rows("failed")}
        assert codes == dict.fromkeys(killers, "worker_died") | dict.fromkeys(damaged, "damaged")
    lasting = [event.ticket.item.id for event in events if event.is_last]
    assert sorted(lasting) == sorted(str(n) for n in range(count))  # each is told once
    crew.close()


def test_what_may_pass_is_tried_again_so_often_and_no_oftener(ledger: Ledger) -> None:
    plan(ledger, 1)
    crew = Chance(deadly=set(), bad=set(), weak={"0"}, seed=0, num_hands=1, depth=1)
    crew.death_rate = 0
    crew.random = random.Random()
    crew.random.random = lambda: 0.2  # type: ignore[method-assign]  # it fails every time
    events: list[Event] = []
    run(ledger, crew, retries=3, on_event=events.append)
    (row,) = ledger.rows("failed")
    assert (row.attempts, row.code, [event.is_last for event in events]) == (4, "unexpected", [False] * 3 + [True])
    assert crew.given == 4


def test_what_cannot_pass_is_tried_once(ledger: Ledger) -> None:
    plan(ledger, 1)
    crew = Chance(deadly=set(), bad={"0"}, weak=set(), seed=0, num_hands=1, depth=1)
    crew.death_rate = 0
    run(ledger, crew, retries=3)
    assert crew.given == 1 and next(ledger.rows("failed")).attempts == 1


def test_stopping_finishes_what_is_in_hand_and_leaves_the_rest(ledger: Ledger) -> None:
    plan(ledger, 50)
    crew = Chance(deadly=set(), bad=set(), weak=set(), seed=0, num_hands=2, depth=3)
    crew.death_rate = 0
    events: list[Event] = []
    end = run(ledger, crew, is_stopping=lambda: len(events) >= 5, on_event=events.append)
    assert end == "stopped"
    found = ended(ledger)
    assert 5 <= len(found["done"]) <= 5 + 6 and not found["running"]
    assert len(found["waiting"]) == 50 - len(found["done"]) == 50 - crew.given
    assert run(ledger, crew) == "complete" and ledger.tally().done == 50


def test_a_full_disk_ends_the_run_and_blames_no_picture(ledger: Ledger) -> None:
    plan(ledger, 20)
    crew = Chance(deadly=set(), bad={str(n) for n in range(7, 20)}, weak=set(), seed=0, num_hands=1, depth=2)
    crew.death_rate, crew.news = 0, _Full()
    assert run(ledger, crew) == "disk_full"
    found = ended(ledger)
    assert not found["failed"] | found["running"] and found["waiting"] | found["done"] == {str(n) for n in range(20)}


class _Full(SimpleQueue):  # type: ignore[type-arg]
    def put(self, news: News) -> None:
        if isinstance(news, Finished) and isinstance(news.outcome, Failure):
            full = Failure(code="disk_full", line="cannot be written", may_pass=True)
            news = Finished(hand=news.hand, number=news.number, outcome=full)
        super().put(news)


def test_a_picture_that_takes_too_long_is_ended(ledger: Ledger) -> None:
    plan(ledger, 3)

    class Slow(Chance):
        def tend(self) -> list[Hand]:
            for hand in self.hands:
                if any(ticket.item.id == "1" for ticket in hand.held):
                    return [hand for hand in self.hands if not hand.is_dead]
            return super().tend()

    crew = Slow(deadly=set(), bad=set(), weak=set(), seed=0, num_hands=1, depth=1)
    crew.death_rate = 0
    run(ledger, crew, retries=1, timeout=0.3)
    (row,) = ledger.rows("failed")
    assert (row.item.id, row.code, row.attempts) == ("1", "too_slow", 2)
    assert row.line == "/in/1: took more than 0.3 s; give it more with --timeout, or leave it out."
    assert ledger.tally().done == 2


def test_a_crew_that_cannot_begin_ends_the_run(ledger: Ledger) -> None:
    plan(ledger, 3)
    crew = Chance(deadly=set(), bad=set(), weak=set(), seed=0, num_hands=1, depth=1)
    crew.death_rate = 0
    crew.hands[0].is_dead = True
    crew.news.put(Lost(hand="hand 0", error=ModelError("m: is damaged; fetch it again.")))
    with pytest.raises(ModelError, match="is damaged; fetch it again"):
        run(ledger, crew)
    assert not ended(ledger)["running"]


def test_a_crew_that_dies_before_it_begins_ends_the_run(ledger: Ledger) -> None:
    plan(ledger, 3)

    class Stillborn(Chance):
        def tend(self) -> list[Hand]:
            self.news.put(Lost(hand="somebody"))
            return []

    crew = Stillborn(deadly=set(), bad=set(), weak=set(), seed=0, num_hands=1, depth=2)
    with pytest.raises(XPSRError, match="processes in a row died before they had begun; see what killed them"):
        run(ledger, crew)
    assert not ended(ledger)["running"]


def test_a_picture_that_is_too_large_for_the_disk_does_not_stop_the_others(ledger: Ledger) -> None:
    plan(ledger, 20)
    crew = Chance(deadly=set(), bad={"3"}, weak=set(), seed=0, num_hands=2, depth=2)
    crew.death_rate, crew.news = 0, _Full()
    assert run(ledger, crew, retries=1) == "complete"
    assert ended(ledger)["failed"] == {"3"} and ledger.tally().done == 19


def test_a_store_that_is_away_is_waited_for_and_no_picture_is_blamed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpsr.batch.outage._LONGEST_PAUSE", 0.01)
    plan(ledger, 20)
    crew = Chance(deadly=set(), bad=set(map(str, range(20))), weak=set(), seed=0, num_hands=2, depth=2)
    away = Away(until=8)
    crew.death_rate, crew.news = 0, away
    assert run(ledger, crew, is_reachable=lambda: not away.is_away) == "complete"
    assert ledger.tally().done == 20 and not away.is_away
    away.until = 10**6
    more = [Item(id=f"more {n}", source=f"/in/{n}", target=f"more {n}.png", seed=0) for n in range(20)]
    ledger.plan(more)
    crew.bad = {item.id for item in more}
    assert run(ledger, crew, is_reachable=lambda: not away.is_away) == "trouble"
    found = ended(ledger)
    assert not found["failed"] | found["running"] and len(found["waiting"]) == 20


@pytest.mark.parametrize("code", ["refused", "no_credentials", "store", "not_found"])
def test_many_pictures_that_nobody_may_read_stop_no_others(ledger: Ledger, code: str) -> None:
    plan(ledger, 60)
    barred = {str(n) for n in range(40)}
    crew = Chance(deadly=set(), bad=barred, weak=set(), seed=0, num_hands=2, depth=3)
    crew.death_rate, crew.news = 0, Away(until=10**6, code=code)
    assert run(ledger, crew, retries=1) == "complete"  # all else can be reached
    assert ended(ledger)["failed"] == barred and ledger.tally().done == 20


class Away(SimpleQueue):  # type: ignore[type-arg]
    """News of a crew whose bad pictures fail with a code until so many have, and then are made."""

    def __init__(self, *, until: int, code: str = "store"):
        self.until, self.code = until, code

    @property
    def is_away(self) -> bool:
        return self.until > 0

    def put(self, news: News) -> None:
        if isinstance(news, Finished) and isinstance(news.outcome, Failure):
            self.until -= 1
            gone = Failure(code=self.code, line="cannot be used", may_pass=self.code != "not_found")
            news = Finished(hand=news.hand, number=news.number, outcome=gone if self.is_away else MADE)
        super().put(news)


def test_a_disk_that_was_full_for_some_is_tried_with_others_first_next_time(ledger: Ledger) -> None:
    plan(ledger, 20)
    crew = Chance(deadly=set(), bad={"0", "1", "2"}, weak=set(), seed=0, num_hands=1, depth=1)
    crew.death_rate, crew.news = 0, _Full()
    assert run(ledger, crew, retries=0) == "disk_full"
    run(ledger, crew, retries=0)
    assert ledger.tally().done == 17


def test_a_replacement_that_cannot_begin_does_not_end_the_others_work(ledger: Ledger) -> None:
    plan(ledger, 10)

    class Tight(Chance):
        def tend(self) -> list[Hand]:
            if self.given == 5:
                self.news.put(Lost(hand="another", error=ModelError("m: no memory is left for it.")))
                self.given += 1
            return super().tend()

    crew = Tight(deadly=set(), bad=set(), weak=set(), seed=0, num_hands=1, depth=1)
    crew.death_rate = 0
    assert run(ledger, crew) == "complete" and ledger.tally().done == 10


def test_what_a_killed_run_was_at_work_on_comes_last_and_alone(ledger: Ledger) -> None:
    plan(ledger, 8)
    ledger.keep(started=[(1, "hand", 0.0), (2, "hand", 0.0)])
    ledger.recover()
    order: list[str] = []
    crew = Chance(deadly=set(), bad=set(), weak=set(), seed=0, num_hands=1, depth=3)
    crew.death_rate = 0
    run(ledger, crew, on_event=lambda event: order.append(event.ticket.item.id))
    assert set(order[:6]) == {str(n) for n in range(2, 8)} and order[6:] == ["0", "1"]
