import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpsr.batch.items import Failure, Item, Made
from xpsr.batch.ledger import Ledger, Tally
from xpsr.errors import InputError
from xpsr.prior import Prior


def item(name: str, **changes: object) -> Item:
    values = {"id": name, "source": f"/in/{name}", "target": name, "seed": 1, "stamp": "1 2"}
    return Item(**values | changes)


def made(status: str = "made", **changes: object) -> Made:
    values = {"key": "k", "output_sha256": "d", "output_stamp": "3 4", "pixels": 16, "bytes": 90, "seconds": 0.5}
    return Made(status=status, **values | changes)


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger(tmp_path / "out" / "ledger.sqlite") as opened:
        yield opened


def states(ledger: Ledger) -> dict[str, str]:
    return {
        row.item.id: row.state
        for state in ("waiting", "running", "done", "skipped", "failed")
        for row in ledger.rows(state)
    }


def test_a_plan_waits_in_its_order_and_keeps_what_became_of_each(ledger: Ledger) -> None:
    ledger.plan([item("b.png"), item("a.png", content="a moose", quality="sharp"), item("c.png", seed=7)])
    tickets = ledger.waiting()
    assert [ticket.item.id for ticket in tickets] == ["b.png", "a.png", "c.png"]
    assert tickets[1].item == item("a.png", content="a moose", quality="sharp")
    assert [ticket.item.id for ticket in ledger.waiting(after=tickets[0].number, limit=1)] == ["a.png"]
    numbers = {ticket.item.id: ticket.number for ticket in tickets}
    ledger.keep(started=[(number, "hand", 9.0) for number in numbers.values()])
    assert ledger.tally() == Tally(running=3)
    failure = Failure(code="damaged", line="c.png: is damaged", remedy="mend it")
    ledger.keep(made=[(numbers["a.png"], made())], failed=[(numbers["c.png"], failure, True)])
    assert states(ledger) == {"a.png": "done", "b.png": "running", "c.png": "failed"}
    (row,) = ledger.rows("done")
    assert (row.output_sha256, row.output_stamp, row.key, row.pixels, row.bytes, row.seconds, row.attempts) == (
        *("d", "3 4", "k", 16, 90, 0.5),
        1,
    )
    (row,) = ledger.rows("failed")
    assert (row.code, row.line, row.remedy, row.worker) == ("damaged", "c.png: is damaged", "mend it", "hand")
    assert ledger.tally() == Tally(running=1, done=1, failed=1, seconds=0.5, pixels=16, bytes=90)
    assert ledger.tally().total == 3


def test_what_was_at_work_when_a_run_was_killed_waits_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.plan([item("a"), item("b"), item("c")])
        ledger.keep(started=[(1, "hand", 0.0), (2, "hand", 0.0)])
        ledger.keep(made=[(1, made())])
    with Ledger(path) as ledger:
        assert ledger.recover() == ["b"]
        assert [ticket.is_suspect for ticket in ledger.waiting()] == [True, False]
        assert states(ledger) == {"a": "done", "b": "waiting", "c": "waiting"}


def test_a_picture_that_is_planned_anew_waits_only_where_anything_of_it_is_another(ledger: Ledger) -> None:
    names = ("same", "stamp", "seed", "text", "place", "failed", "gone", "gone, done")
    ledger.plan([item(name) for name in names])
    ledger.keep(made=[(number, made()) for number, name in enumerate(names, 1) if name not in ("failed", "gone")])
    ledger.keep(failed=[(6, Failure(code="x", line="y"), True)])
    again = [
        *(item("same"), item("stamp", stamp="5 6"), item("seed", seed=2), item("text", content="a moose")),
        *(item("place", target="other"), item("failed"), item("new")),
    ]
    ledger.plan(again)
    assert states(ledger) == {
        "same": "done",
        "stamp": "waiting",
        "seed": "waiting",
        "text": "waiting",
        "place": "waiting",
        "failed": "failed",
        "new": "waiting",
    }
    assert ledger.retry_failed() == 1 and states(ledger)["failed"] == "waiting"
    ledger.reopen([1])
    assert states(ledger)["same"] == "waiting"


def test_what_an_input_that_cannot_be_read_may_hold_stays_and_is_not_handed_out(ledger: Ledger) -> None:
    ledger.plan([item("done"), item("failed"), item("said"), item("here")])
    ledger.keep(made=[(1, made())], failed=[(2, Failure(code="x", line="y"), True)])
    ledger.keep_priors({3: Prior(content="a moose")})
    before = states(ledger)
    unread: list[str] = []

    def items() -> Iterator[Item]:
        yield item("here")
        unread.append("a folder")  # which shows when all is found

    ledger.plan(items(), is_whole=lambda: not unread)
    assert states(ledger) == before and [ticket.item.id for ticket in ledger.waiting()] == ["here"]
    assert ledger.count_waiting() == 1 and ledger.tally().waiting == 2
    ledger.plan([item("said"), item("here")])
    assert [ticket.prior for ticket in ledger.waiting()] == [Prior(content="a moose"), None]
    assert states(ledger).keys() == {"said", "here"} and ledger.count_waiting() == 2


def test_results_that_will_be_replaced_are_known_as_long_as_they_are_there(ledger: Ledger) -> None:
    ledger.bind({"scale": 4})
    ledger.plan([item("a"), item("b"), item("c"), item("new")])
    ledger.keep(made=[(number, made(bytes=10 * number)) for number in (1, 2, 3)])
    assert ledger.tally().replaced_bytes == 0
    ledger.bind({"scale": 2}, replaces=True)
    assert ledger.tally().replaced_bytes == 60
    assert list(ledger.results()) == [(number, name, "3 4") for number, name in ((1, "a"), (2, "b"), (3, "c"))]
    ledger.keep(started=[(2, "hand", 0.0)])
    ledger.recover()
    ledger.reopen([2])  # which is gone
    assert ledger.tally().replaced_bytes == 40 and [ticket.is_suspect for ticket in ledger.waiting()][1]
    ledger.keep(started=[(1, "hand", 0.0)])
    assert ledger.tally().replaced_bytes == 40
    ledger.keep(made=[(1, made(bytes=7))])
    assert ledger.tally().replaced_bytes == 30 and ledger.tally().bytes == 7
    assert [number for number, *_ in ledger.results()] == [1, 3]
    ledger.keep(failed=[(3, Failure(code="x", line="y"), True)])
    ledger.retry_failed()  # nobody has looked whether its result is there
    assert ledger.tally().replaced_bytes == 0


def test_two_pictures_of_one_id_are_no_plan_and_change_nothing(ledger: Ledger) -> None:
    ledger.plan([item("a")])
    with pytest.raises(InputError, match="two pictures of the plan have one id; give each an id of its own"):
        ledger.plan([item("b"), item("b", source="/other")])
    assert states(ledger) == {"a": "waiting"}


def test_priors_are_kept_and_handed_out(ledger: Ledger) -> None:
    ledger.plan([item("a"), item("b"), item("c", content="x", quality="y")])
    assert [ticket.item.id for ticket in ledger.waiting(lacks_prior=True)] == ["a", "b"]
    ledger.keep_priors({1: Prior(content="a moose", quality="blurry")})
    assert [ticket.item.id for ticket in ledger.waiting(lacks_prior=True)] == ["b"]
    assert ledger.waiting()[0].prior == Prior(content="a moose", quality="blurry")
    assert ledger.waiting()[1].prior is None


def test_priors_are_of_the_plan_whatever_machine_restores(ledger: Ledger) -> None:
    prior = Prior(content="a moose", quality="blurry")
    for kind, kept in (("machine", prior), ("plan", None)):
        ledger.bind({"device": "cuda"}, kind=kind)
        ledger.plan([item("a")])
        ledger.keep_priors({1: prior})
        ledger.bind({"device": "cpu"}, kind=kind)
        assert ledger.waiting()[0].prior == kept


@pytest.mark.parametrize("content", [b"no database" * 99, None])
def test_a_ledger_that_cannot_be_opened_is_given_back(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ledger.sqlite"
    if content is None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 9")
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="ledger") as caught:
        Ledger(path)
    path.unlink()
    Ledger(path).close()  # while the error, and with it the first one, is still there
    assert caught.value.code in ("refused", "conflict")


def test_another_plan_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "out" / "ledger.sqlite"
    facts = {"scale": 4.0, "model": "mini", "inputs": ["/in"], "seed": None}
    with Ledger(path) as ledger:
        ledger.bind(facts)
        ledger.plan([item("a"), item("b")])
        ledger.keep(made=[(1, made())])
        ledger.bind(facts)
        assert ledger.facts == facts
        ledger.bind({"device": "cpu"}, kind="machine")
        ledger.bind(facts)
        assert ledger.facts == facts | {"device": "cpu"}
        with pytest.raises(InputError, match=r'another plan \(device "cpu", not "cuda"\)'):
            ledger.bind({"device": "cuda"}, kind="machine")
        with pytest.raises(
            InputError, match=r"is the output of another plan \(scale 4\.0, not 2\.0\); use the same op"
        ):
            ledger.bind(facts | {"scale": 2.0})
        assert states(ledger) == {"a": "done", "b": "waiting"}
        ledger.bind(facts | {"scale": 2.0}, replaces=True)
        assert states(ledger) == {"a": "waiting", "b": "waiting"} and ledger.facts["scale"] == 2


def test_a_second_run_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    path = tmp_path / "out" / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.plan([item("a")])
        with pytest.raises(InputError, match=r"another run is at work there; wait for its end, or choose another"):
            Ledger(path)
        with Ledger(path, read_only=True) as reader:
            assert reader.tally() == Tally(waiting=1)
            ledger.keep(made=[(1, made())])
            assert reader.tally().done == 1
    with Ledger(path) as ledger:  # the lock is gone with whoever held it
        assert ledger.tally().done == 1


def test_what_is_no_ledger_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no ledger of a batch; is it the right folder"):
        Ledger(tmp_path / "none.sqlite", read_only=True)
    (tmp_path / "text.sqlite").write_text("not a database at all, but long enough to have a header " * 9)
    for read_only in (False, True):
        with pytest.raises(InputError, match="cannot be used"):
            Ledger(tmp_path / "text.sqlite", read_only=read_only)
    sqlite3.connect(tmp_path / "other.sqlite").executescript("PRAGMA user_version = 99; CREATE TABLE t (a)").close()
    with pytest.raises(InputError, match="is of another version of xpsr"):
        Ledger(tmp_path / "other.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/out"):
        Ledger(tmp_path / "file" / "out" / "ledger.sqlite")
    Ledger(tmp_path / "text2.sqlite").close()  # a failure before kept no lock


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from(["start", "made", "skip", "fail", "again", "return", "kill"])),
        max_size=30,
    )
)
def test_whatever_happens_each_picture_is_in_one_state(tmp_path: Path, events: list[tuple[int, str]]) -> None:
    path = tmp_path / "any.sqlite"
    path.unlink(missing_ok=True)
    ledger = Ledger(path)
    ledger.plan([item(str(number)) for number in range(1, 7)])
    expected = dict.fromkeys(map(str, range(1, 7)), "waiting")
    failure = Failure(code="x", line="y")
    for number, what in events:
        if what == "kill":
            ledger.close()
            ledger = Ledger(path)
            ledger.recover()
            expected = {name: "waiting" if state == "running" else state for name, state in expected.items()}
            continue
        changes = {
            "start": ({"started": [(number, "hand", 0.0)]}, "running"),
            "made": ({"made": [(number, made())]}, "done"),
            "skip": ({"made": [(number, made("skipped"))]}, "skipped"),
            "fail": ({"failed": [(number, failure, True)]}, "failed"),
            "again": ({"failed": [(number, failure, False)]}, "waiting"),
            "return": ({"returned": [number]}, "waiting"),
        }
        change, state = changes[what]
        ledger.keep(**change)
        expected[str(number)] = state
    assert states(ledger) == expected
    assert [ticket.item.id for ticket in ledger.waiting()] == [n for n, state in expected.items() if state == "waiting"]
    ledger.close()


def test_a_plan_of_which_nothing_is_done_may_become_another(ledger: Ledger) -> None:
    ledger.bind({"inputs": ["/typo"], "scale": 4})
    ledger.plan([item("a")])
    ledger.bind({"inputs": ["/in"]})
    assert ledger.facts == {"inputs": ["/in"]}


def test_kinds_of_failures_are_counted(ledger: Ledger) -> None:
    ledger.plan([item(str(number)) for number in range(5)])
    for number, code in enumerate(("a", "b", "b", "b"), 1):
        ledger.keep(failed=[(number, Failure(code=code, line=f"line of {code}"), True)])
    assert ledger.failures() == [("b", 3, "line of b"), ("a", 1, "line of a")]
