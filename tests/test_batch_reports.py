"""What is told of a run: failures, metrics, log, page, status, and what it will take."""

import csv
import errno
import html
import json
import math
import re
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import opened
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr.batch.estimates import Sample, Throughput, estimate, pixels_in_words, rate_in_words, shortage
from xpsr.batch.inline import Inline
from xpsr.batch.items import Failure, Item, Made, Order, Outcome, Ticket
from xpsr.batch.ledger import Ledger, Tally
from xpsr.batch.reports import FAILURES, LOG, METRICS, SUMMARY, Reporter, status, status_in_words, write_failures
from xpsr.batch.runner import Event, run
from xpsr.batch.summary import write_summary
from xpsr.config import UpscaleConfig
from xpsr.errors import printable
from xpsr.jsonl import append_lines, read_lines

HOSTILE = '"><img src=http://localhost/x onerror=alert(1)>\x1b[2J\u202e.png'
DAMAGED = Failure(code="damaged", line="is damaged; save it again.", remedy="save it again")
PASSING = Failure(code="store", line="cannot be reached; is it there?", may_pass=True)
MADE = Made(status="made", pixels=1000, bytes=300, seconds=2.0)

TEXTS = st.text(min_size=1, max_size=30) | st.sampled_from(["=1+1", "'=1", "@x", '"', "a\r\nb", "a;=1", "\\n", "{x}"])


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def item_of(name: str, *, source: str | None = None) -> Item:
    return Item(id=name, source=source or f"/in/{name}", target=f"{name}.png", seed=0)


def filled(folder: Path, names: Sequence[str]) -> Ledger:
    """A ledger whose pictures all wait."""
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.plan(map(item_of, names))
    return ledger


def happens(
    ledger: Ledger, reporter: Reporter | None, ticket: Ticket, outcome: Outcome, *, is_last: bool = True
) -> None:
    """As the runner does it."""
    if reporter:
        reporter.on_event(Event(ticket=ticket, outcome=outcome, is_last=is_last, hand="process-1"))
    if isinstance(outcome, Made):
        ledger.keep(made=[(ticket.number, outcome)])
    else:
        ledger.keep(failed=[(ticket.number, outcome, is_last)])


def failing(folder: Path, names: Sequence[str], failure: Failure = DAMAGED) -> Ledger:
    ledger = filled(folder, names)
    for ticket in ledger.waiting():
        happens(ledger, None, ticket, failure)
    return ledger


def cells_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def metrics_of(folder: Path) -> dict[str, float]:
    """Reads Prometheus' text format: every sample has a HELP and a TYPE before it."""
    found: dict[str, float] = {}
    known: set[str] = set()
    for line in (folder / METRICS).read_text(encoding="utf-8").split("\n")[:-1]:
        if line.startswith("#"):
            _, word, name, _ = line.split(" ", 3)
            known.add(f"{word} {name}")
            continue
        text = r'="((?:[^"\\\n]|\\["\\n])*)"'
        matched = re.fullmatch(rf"([a-z_]+)\{{folder{text}(?:,([a-z]+{text}))?\}} (\S+)", line)
        assert matched and matched[2] == str(folder), line
        assert {f"HELP {matched[1]}", f"TYPE {matched[1]}"} <= known
        found[matched[1].removeprefix("xpsr_batch_") + (f"{{{matched[3]}}}" if matched[3] else "")] = float(matched[5])
    return found


# Counters of the ledger


STEPS = st.lists(st.tuples(st.sampled_from(["start", "make", "skip", "fail", "retry"]), st.integers(1, 8)), max_size=20)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, last=st.sampled_from(["recover", "retry_failed", "reopen", "plan", "bind", "none"]))
def test_the_tally_is_that_of_all_rows(tmp_path_factory: pytest.TempPathFactory, steps: Any, last: str) -> None:
    path = tmp_path_factory.mktemp("tally") / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.bind({"model": "a"})
        ledger.plan(item_of(str(number)) for number in range(8))
        for step, number in steps:
            made = Made(status="skipped" if step == "skip" else "made", pixels=number, bytes=2 * number, seconds=0.5)
            ledger.keep(
                started=[(number, "a", 1.0)] * (step == "start"),
                made=[(number, made)] * (step in ("make", "skip")),
                failed=[(number, DAMAGED, step == "fail")] * (step in ("fail", "retry")),
            )
        match last:
            case "recover":
                ledger.recover()
            case "retry_failed":
                ledger.retry_failed()
            case "reopen":
                ledger.reopen([1, 2, 3])
            case "plan":
                ledger.plan(item_of(str(number), source=f"/other/{number // 4}") for number in range(2, 10))
            case "bind":
                ledger.bind({"model": "b"}, replaces=True)
    with Ledger(path, read_only=True) as ledger:
        rows = [row for state in ("waiting", "running", "done", "skipped", "failed") for row in ledger.rows(state)]
        done = [row for row in rows if row.state == "done"]
        sums = {name: sum(getattr(row, name) for row in done) for name in ("seconds", "pixels", "bytes")}
        replaced = sum(row.bytes for row in rows if row.state in ("waiting", "running"))
        assert ledger.tally() == Tally(**Counter(row.state for row in rows), **sums, replaced_bytes=replaced)


# failures.csv


@settings(max_examples=25, deadline=None)
@given(names=st.lists(TEXTS, max_size=4, unique=True), line=TEXTS)
def test_failures_are_csv_whatever_they_are_called(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], line: str
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.plan(item_of(name, source=name) for name in names)
        failure = Failure(code="damaged", line=line, remedy=line)
        ledger.keep(failed=[(ticket.number, failure, True) for ticket in ledger.waiting()])
        write_failures(ledger, folder / FAILURES)
    head, *rows = cells_of(folder / FAILURES)
    assert head == ["source", "code", "line", "remedy"]
    assert [[cell.removeprefix("'") for cell in row] for row in rows] == [
        [name, "damaged", line, line] for name in names
    ]
    assert not any(cell.startswith(tuple("=+-@\t\r\n")) for row in rows for cell in row)
    assert all(
        text.startswith('"') for text in re.split(r"(?<=\")\r\n", (folder / FAILURES).read_bytes().decode())[:-1]
    )
    assert not list(folder.glob("*.part"))


# metrics.prom


@settings(max_examples=25, deadline=None)
@given(codes=st.lists(TEXTS, min_size=1, max_size=4, unique_by=printable))
def test_metrics_are_prometheus_text_whatever_codes_are_called(
    tmp_path_factory: pytest.TempPathFactory, codes: list[str]
) -> None:
    clock = Clock()
    with filled(tmp_path_factory.mktemp("prom"), list(map(str, range(len(codes))))) as ledger:
        reporter = Reporter(ledger, clock=clock)
        for ticket, code in zip(ledger.waiting(), codes, strict=True):
            happens(ledger, reporter, ticket, Failure(code=code, line="x"))
        clock.now += 6
        reporter.on_tick()
        found = metrics_of(ledger.path.parent)
        labels = [name[len('failures_total{code="') : -2] for name in found if name.startswith("failures_total")]
    assert [re.sub(r'\\(["\\])', r"\1", label) for label in labels] == list(map(printable, codes))


def test_metrics_tell_of_the_ledger_and_are_written_every_few_seconds(tmp_path: Path) -> None:
    clock, before = Clock(), time.time()
    with filled(tmp_path, list("abcdef")) as ledger:
        reporter = Reporter(ledger, clock=clock)
        assert reporter.in_words() == ""
        assert metrics_of(tmp_path)['pictures{state="waiting"}'] == 6 and math.isnan(
            metrics_of(tmp_path)["eta_seconds"]
        )
        tickets = ledger.waiting()
        for ticket, outcome in zip(tickets, [MADE, MADE, MADE, DAMAGED], strict=False):
            clock.now += 1
            happens(ledger, reporter, ticket, outcome)
            reporter.on_tick()
        happens(ledger, reporter, tickets[4], PASSING, is_last=False)
        ledger.keep(started=[(tickets[5].number, "process-1", 1.0)])
        assert metrics_of(tmp_path)['pictures{state="done"}'] == 0  # nothing is due yet
        clock.now += 1.5
        reporter.on_tick()
        found = metrics_of(tmp_path)
        states = {"waiting": 1, "running": 1, "done": 3, "skipped": 0, "failed": 1}
        assert {name: found[f'pictures{{state="{name}"}}'] for name in states} == states
        sums = {"pixels_total": 3000, "bytes_total": 900, "seconds_total": 6, "retries_total": 1, "up": 1}
        assert {name: found[name] for name in sums} == sums
        assert found['failures_total{code="damaged"}'] == 1
        assert found["rate_pictures_per_second"] == pytest.approx(3 / 4.5) and found["eta_seconds"] == pytest.approx(3)
        assert before <= found["start_timestamp_seconds"] <= found["last_update_timestamp_seconds"] <= time.time()
        reporter.close("stopped")
        found = metrics_of(tmp_path)
        assert found["up"] == 0 and math.isnan(found["eta_seconds"]) and math.isnan(found["rate_pictures_per_second"])


# log.jsonl


def test_the_log_tells_what_happened_in_order(tmp_path: Path) -> None:
    clock = Clock()
    outcomes = [MADE, Made(status="adopted"), Made(status="skipped"), DAMAGED]
    with filled(tmp_path, [HOSTILE, "b", "c", "d", "e"]) as ledger:
        reporter = Reporter(ledger, clock=clock)
        tickets = ledger.waiting()
        happens(ledger, reporter, tickets[4], PASSING, is_last=False)
        for ticket, outcome in zip(tickets, outcomes, strict=False):
            happens(ledger, reporter, ticket, outcome)
            reporter.on_tick()
        assert len(read_lines(tmp_path / LOG)) == 1
        clock.now += 1
        reporter.on_tick()
        assert len(read_lines(tmp_path / LOG)) == 6
        reporter.close("disk_full")
    lines = [line for _, line in read_lines(tmp_path / LOG)]
    kinds = ["started", "retried", "made", "adopted", "skipped", "failed", "ended"]
    assert [line["event"] for line in lines] == kinds
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in lines)
    assert (
        lines[2].items() >= {"id": HOSTILE, "source": f"/in/{HOSTILE}", "seconds": 2.0, "worker": "process-1"}.items()
    )
    assert lines[5].items() >= {"code": "damaged", "line": DAMAGED.line, "target": "d.png"}.items()
    assert lines[0]["waiting"] == 5
    assert lines[-1].items() >= {"how": "disk_full", "seconds": 1.0, "done": 2, "skipped": 1, "failed": 1}.items()


def test_the_log_keeps_no_more_than_a_thousand_lines_in_memory(tmp_path: Path) -> None:
    with filled(tmp_path, ["a"]) as ledger:
        reporter = Reporter(ledger, clock=Clock())
        (ticket,) = ledger.waiting()
        for _ in range(999):
            reporter.on_event(Event(ticket=ticket, outcome=MADE, is_last=True, hand="a"))
        assert len(read_lines(tmp_path / LOG)) == 1
        reporter.on_event(Event(ticket=ticket, outcome=MADE, is_last=True, hand="a"))
        assert len(read_lines(tmp_path / LOG)) == 1001


def test_a_long_log_is_not_read_to_add_to_it(tmp_path: Path) -> None:
    with (tmp_path / LOG).open("wb") as file:
        file.truncate(2**26)
        file.seek(0, 2)
        file.write(b"\n")
    tracemalloc.start()
    append_lines(tmp_path / LOG, [{"id": "a"}])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 and (tmp_path / LOG).read_bytes().endswith(b'\0\n{"id": "a"}\n')


def test_a_name_that_is_no_utf8_is_in_the_log(tmp_path: Path) -> None:
    append_lines(tmp_path / LOG, [{"id": "a\udcff é"}])
    assert read_lines(tmp_path / LOG) == [(1, {"id": "a\udcff é"})]


def test_a_report_that_cannot_be_written_is_told_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (LOG, METRICS, FAILURES, SUMMARY):
        (tmp_path / name).mkdir()
    clock = Clock()
    with filled(tmp_path, ["a"]) as ledger:
        reporter = Reporter(ledger, clock=clock)
        (ticket,) = ledger.waiting()
        for _ in range(3):
            happens(ledger, reporter, ticket, MADE)
            clock.now += 10
            reporter.on_tick()
        reporter.close("complete")
    assert [re.search(r"and (\S+) lacks", message)[1] for message in caplog.messages] == [
        LOG,
        METRICS,
        FAILURES,
        SUMMARY,
    ]
    assert not list(tmp_path.glob("*.part"))


# How fast a run is


def event(hand: str = "a", outcome: Outcome = MADE, *, is_last: bool = True) -> Event:
    return Event(ticket=Ticket(number=1, item=item_of("a")), outcome=outcome, is_last=is_last, hand=hand)


def passes(throughput: Throughput, clock: Clock, seconds: float) -> None:
    """So many seconds go by, with ticks."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(clock.now + 0.5, end)
        throughput.tick()


@pytest.mark.parametrize(("hands", "each"), [(1, 0.5), (1, 300.0), (8, 10.0)])
def test_the_rate_is_that_of_the_hands_and_not_of_how_they_began(hands: int, each: float) -> None:
    clock = Clock()
    throughput = Throughput(clock)
    assert throughput.recent is throughput.overall is throughput.eta(5) is None and throughput.eta(0) == 0
    passes(throughput, clock, 40)  # a model is loaded
    for turn in range(20):
        passes(throughput, clock, each)
        for hand in range(hands):
            throughput.take(event(str(hand)))
        if turn == 0:
            assert throughput.recent is None
        if turn > 1:
            assert throughput.recent == pytest.approx(hands / each) == throughput.overall
            assert throughput.eta(10) == pytest.approx(10 * each / hands)


def test_what_cost_nothing_does_not_count() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    for _ in range(50):
        passes(throughput, clock, 1)
        throughput.take(event(outcome=Made(status="adopted")))
        throughput.take(event(outcome=Made(status="skipped")))
        throughput.take(event(outcome=PASSING, is_last=False))
    assert throughput.recent is None
    for _ in range(4):
        throughput.take(event(outcome=DAMAGED))
        passes(throughput, clock, 2)
    assert throughput.recent == pytest.approx(3 / 8)


def test_the_rate_follows_a_run_that_slows_down_but_not_a_machine_that_slept() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    for _ in range(600):
        passes(throughput, clock, 0.5)
        throughput.take(event())
    assert throughput.recent == pytest.approx(2)
    clock.now += 8 * 3600  # nobody ticked
    throughput.tick()
    assert throughput.recent == pytest.approx(2, rel=0.1)
    for _ in range(100):
        passes(throughput, clock, 2)
        throughput.take(event())
    assert throughput.recent == pytest.approx(0.5) and throughput.overall == pytest.approx(700 / 500, rel=0.02)
    passes(throughput, clock, 1000)  # nothing is finished any more
    assert throughput.recent == pytest.approx(10 / 1020, rel=0.02)
    for _ in range(15):
        passes(throughput, clock, 2)
        throughput.take(event())
    assert throughput.recent == pytest.approx(0.5, rel=0.5)


# What a plan will take


def sample(seconds: float, size: int = 3 * 10**6) -> Sample:
    return Sample(pixels_in=10**5, pixels_out=16 * 10**5, seconds=seconds, bytes=size)


def test_an_estimate_is_as_sure_as_its_sample() -> None:
    few, many = ([sample(one) for one in (2.0, 4.0, 3.0) * times] for times in (1, 10))
    rough, fine = estimate(10_000, few, workers=4), estimate(10_000, many, workers=4)
    assert rough.seconds.expected == fine.seconds.expected == pytest.approx(7500)
    assert rough.seconds.low < fine.seconds.low < 7500 < fine.seconds.high < rough.seconds.high
    assert rough.seconds.low >= 10_000 * 2 / 4 and rough.pixels_out.low == rough.pixels_out.high == 16 * 10**9
    alone = estimate(100, [sample(3.0)])
    assert (alone.seconds.low, alone.seconds.expected, alone.seconds.high) == (150, 300, 600)
    whole = estimate(3, few)
    assert whole.seconds.low == whole.seconds.high == 9
    assert rough.in_words() == [
        "pictures: 10,000, as told by 3 of them",
        "pixels:   1.0 gigapixels become 16 gigapixels",
        "time:     84 min to 3.9 h with 4 workers, each as fast as the one that was measured",
        "disk:     30.1 GB",
    ]
    assert alone.in_words()[0].endswith("as told by one of them, which tells little")
    assert alone.in_words()[2] == "time:     3 min to 10 min with 1 worker"


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=20), st.integers(1, 10**6), st.integers(1, 64))
def test_what_is_expected_lies_between_low_and_high(times: list[float], count: int, workers: int) -> None:
    found = estimate(count, [sample(one) for one in times], workers=workers)
    for one in (found.seconds, found.bytes, found.pixels_in, found.pixels_out):
        assert 0 < one.low <= one.expected * (1 + 1e-9) and one.expected <= one.high * (1 + 1e-9) < math.inf
    assert len(found.in_words()) == 4


def test_an_estimate_holds_for_most_plans() -> None:
    rng = np.random.default_rng(0)
    times = rng.lognormal(0, 0.5, 2000)
    hits = 0
    for _ in range(100):
        found = estimate(2000, [sample(float(one)) for one in rng.choice(times, 12, replace=False)]).seconds
        hits += found.low <= times.sum() <= found.high
    assert hits >= 85


def test_a_disk_that_will_not_do_is_known_from_enough_results() -> None:
    def missing(done: int, waiting: int, free: int | None = 10**9) -> int:
        return shortage(free, Tally(done=done, waiting=waiting, running=1, bytes=done * 10**6))

    assert missing(20, 2000) == 2001 * (10**6 + 8192) - 10**9
    assert missing(19, 2000) == 0 and missing(0, 2000) == 0  # nobody knows yet
    assert missing(5, 94, 10**6) > 0 and missing(4, 95, 10**6) == 0
    assert missing(20, 900) == 0 and missing(20, 2000, None) == 0
    replacing = Tally(done=20, waiting=2000, bytes=20 * 10**6, replaced_bytes=1999 * 10**6)
    assert shortage(10**8, replacing) == 0 < shortage(10**6, replacing)  # each result takes the room of its former one


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (pixels_in_words(0), "0.0 megapixels"),
        (pixels_in_words(12_345_678), "12 megapixels"),
        (pixels_in_words(2.5e12), "2.5 terapixels"),
        (rate_in_words(1234.5), "1,234 pictures/s"),
        (rate_in_words(2.54), "2.54 pictures/s"),
        (rate_in_words(0.01), "36 pictures/h"),
    ],
)
def test_words_for_people(said: str, words: str) -> None:
    assert said == words


# --status


def told(folder: Path) -> dict[str, Any]:
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        return json.loads(json.dumps(status(ledger)))


def test_status_tells_how_a_run_stands(tmp_path: Path) -> None:
    now = time.time()
    with filled(tmp_path, [HOSTILE, *map(str, range(19))]) as ledger:
        assert status_in_words(told(tmp_path)) == [
            f"{tmp_path}: 0% of 20 pictures are done (20 waiting)",
            "no run is at work",
            "to go on, run the same command again",
        ]
        clock = Clock()
        reporter = Reporter(ledger, clock=clock)
        tickets = ledger.waiting()
        for ticket in tickets[1:8]:
            clock.now += 2
            happens(ledger, reporter, ticket, MADE)
            reporter.on_tick()
        codes = ["damaged"] * 2 + ["a", "b", "c", "d"]
        for ticket, code in zip(tickets[8:], codes, strict=False):
            happens(ledger, reporter, ticket, Failure(code=code, line=f"{HOSTILE} {ticket.number}"))
        ledger.keep(started=[(tickets[0].number, "process-1", now - 600), (tickets[14].number, "process-2", now)])
        clock.now += 5
        reporter.on_tick()
        assert reporter.in_words() == "0.706 pictures/s, 10 s left"
        found = told(tmp_path)
        assert found["pictures"] == {"total": 20, "waiting": 5, "running": 2, "done": 7, "skipped": 0, "failed": 6}
        assert found["share_done"] == 0.35
        assert found["results"] == {"pixels": 7000, "bytes": 2100, "seconds": 14.0, "seconds_each": 2.0}
        assert found["run"]["state"] == "at_work" and found["run"]["pictures_per_second"] == pytest.approx(12 / 17)
        first = {"code": "damaged", "count": 2, "line": f"{HOSTILE} 9"}
        assert found["failures"][0] == first and len(found["failures"]) == 5
        assert [one["worker"] for one in found["running"]] == ["process-1", "process-2"]
        assert found["next"] == []
        lines = status_in_words(found)
        assert lines[1] == "a run is at work, 0.706 pictures/s, 10 s left"
        assert lines[2] == "results: 0.0 megapixels, 3 kB; 2 s of one worker for each picture"
        assert lines[3:5] == ["in hand:", f"    {printable(HOSTILE)} (process-1, since 11 min ago)"]
        assert f"    2 damaged, as {printable(HOSTILE)} 9" in lines
        assert lines == list(map(printable, lines))
        reporter.close("stopped")
    found = told(tmp_path)
    assert found["run"].items() >= {"state": "ended", "pictures_per_second": None, "eta_seconds": None}.items()
    lines = status_in_words(found)
    assert re.fullmatch(r"no run is at work; the last one ended \d s ago", lines[1])
    assert lines[3] == "were in hand when it ended:" and "run the same command again" in lines[-2]
    assert lines[-1] == "failures.csv says what failed; to try it again, run the same command with --retry-failed"


def test_status_tells_of_a_run_that_was_killed_and_one_that_has_nothing_left(tmp_path: Path) -> None:
    with filled(tmp_path, ["a"]) as ledger:
        Reporter(ledger)
        text = (tmp_path / METRICS).read_text()
        late = re.sub(r"(last_update_timestamp_seconds\{.*\}) \S+\n", rf"\1 {time.time() - 7200}\n", text)
        (tmp_path / METRICS).write_text(late)
        assert status_in_words(told(tmp_path))[1] == "a run gave its last sign 2.1 h ago: it was killed, or hangs"
        happens(ledger, None, ledger.waiting()[0], MADE)
        for nonsense in ("\x00\xff", text.replace(" 1", " nan"), "xpsr_batch_last_update_timestamp_seconds 1e300\n"):
            (tmp_path / METRICS).write_text(nonsense, encoding="latin-1")
            assert told(tmp_path)["run"]["state"] in ("none", "ended")
        assert status_in_words(told(tmp_path))[-1] == "nothing is left to do; see summary.html"


def test_many_that_run_are_told_in_brief(tmp_path: Path) -> None:
    with filled(tmp_path, list(map(str, range(30)))) as ledger:
        ledger.keep(started=[(number, "a", 1.0) for number in range(1, 26)])
        lines = status_in_words(told(tmp_path))
    assert len(told(tmp_path)["running"]) == 25 and "    and 15 more" in lines and len(lines) == 15


# summary.html


class Page(HTMLParser):
    """Counts elements and keeps texts of cells."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.images: list[dict[str, str | None]] = []
        self.cells: list[str] = []
        self.heads: list[str | None] = []
        self._in_cell = False
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "th":
            self.heads.append(dict(attrs).get("scope"))
        if tag in ("td", "th"):
            self._in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


def save(path: Path, size: tuple[int, int] = (300, 200)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 30)).save(path)
    return path


def test_the_page_has_thumbnails_of_what_can_be_read_and_is_safe_to_open(tmp_path: Path) -> None:
    good, died = save(tmp_path / "in" / "good.png"), save(tmp_path / "in" / "died.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    sources = {
        HOSTILE: str(good),
        "died": str(died),
        "bad": str(tmp_path / "in" / "bad.png"),
        "gone": "/nowhere/x.png",
        "far": "memory://bucket/x.png",
        "folder": str(tmp_path),
    }
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.plan(item_of(name, source=source) for name, source in sources.items())
        for ticket in ledger.waiting():
            died_of = Failure(code="worker_died", line="died") if ticket.item.id == "died" else DAMAGED
            happens(ledger, None, ticket, died_of)
        write_summary(ledger, tmp_path / SUMMARY)
    page = Page(tmp_path / SUMMARY)
    (image,) = page.images
    assert image["alt"] == printable(HOSTILE) and image["src"] and image["src"].startswith("data:image/jpeg;base64,")
    assert page.cells.count("no picture") == 5 and page.tags["script"] == 0
    assert {*map(printable, sources)} <= set(page.cells)
    assert "All of them are in" in page.text


def test_the_page_is_there_where_the_disk_has_no_room_for_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xpsr.batch.summary.tempfile.TemporaryDirectory", refuse)
    with failing(tmp_path, ["a"]) as ledger:
        write_summary(ledger, tmp_path / SUMMARY)
    assert Page(tmp_path / SUMMARY).cells.count("no picture") == 1


@settings(max_examples=25, deadline=None)
@given(name=TEXTS, fact=st.dictionaries(TEXTS, TEXTS | st.none() | st.lists(st.integers(), max_size=2), min_size=1))
def test_names_and_facts_are_text_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, name: str, fact: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("page")
    with failing(folder, [name], Failure(code=name, line=name)) as ledger:
        ledger.bind({"settings": fact})
        write_summary(ledger, folder / SUMMARY)
    page = Page(folder / SUMMARY)
    assert page.cells.count(printable(name)) >= 4
    values = {value if isinstance(value, str) else json.dumps(value) for value in fact.values()}
    assert {printable(f"settings.{key}") for key in fact} | set(map(printable, values)) <= set(page.cells)
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "p",
        "h1",
        "main",
        "section",
        "h2",
        "dl",
        "dt",
    }
    allowed |= {"dd", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "a", "span"}
    assert set(page.tags) <= allowed and all(page.heads)


def test_the_page_shows_two_hundred_failures_and_the_slowest_twenty(tmp_path: Path) -> None:
    with filled(tmp_path, [f"{number:04}" for number in range(280)]) as ledger:
        for ticket in ledger.waiting():
            slow = Made(status="made", seconds=ticket.number, pixels=10**6, bytes=10**6)
            happens(ledger, None, ticket, DAMAGED if ticket.number > 30 else slow)
        write_summary(ledger, tmp_path / SUMMARY, seconds=100.0, made=30, rate=0.3)
    page = Page(tmp_path / SUMMARY)
    assert page.cells.count("no picture") == 200
    assert "The first 200 of 250; all of them are in" in page.text
    assert [cell for cell in page.cells if re.fullmatch(r"\d+\.0", cell) and cell != "1.0"] == [
        f"{number}.0" for number in range(30, 10, -1)
    ]
    assert "Failed: 250. The last run made 30 in 2 min, 0.3 pictures/s." in html.unescape(page.text)


def test_a_browser_shows_the_page_in_the_dark_and_on_a_telephone(browser: Any, tmp_path: Path) -> None:
    with failing(tmp_path, [HOSTILE, "a" * 200]) as ledger:
        ledger.bind({"weights": {"unet": "0" * 64}})
        write_summary(ledger, tmp_path / SUMMARY)
    options = {"color_scheme": "dark", "viewport": {"width": 360, "height": 700}}
    with opened(browser, tmp_path / SUMMARY, **options) as page:
        assert page.title() == "0 of 2 pictures are done" == page.inner_text("h1")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 21, 19)"
        assert page.locator("img").count() == page.locator("script").count() == 0


# All of it


def test_a_run_without_failures_is_reported_without_torch(tmp_path: Path) -> None:
    with filled(tmp_path, ["a"]) as ledger:
        happens(ledger, None, ledger.waiting()[0], MADE)
    code = (
        "import sys; from pathlib import Path; from xpsr.batch import reports; from xpsr.batch.ledger import Ledger;"
        f"ledger = Ledger(Path({str(tmp_path)!r}, 'ledger.sqlite')); reporter = reports.Reporter(ledger);"
        "reporter.on_tick(); reporter.close('complete');"
        "print(*reports.status_in_words(reports.status(ledger)), {'torch', 'numpy', 'cv2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("nothing is left to do; see summary.html set()\n") and (tmp_path / SUMMARY).exists()


def test_a_run_leaves_its_reports(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", (9, 7))
    (tmp_path / "in" / "c.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    config = UpscaleConfig(model=str(tiny_model), dtype="fp32", on_existing="error")
    order = Order(config=config, describer="none", describer_name="none", out=str(out), device="cpu")
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.plan(item_of(f"{name}.png", source=str(tmp_path / "in" / f"{name}.png")) for name in "abc")
        reporter, crew = Reporter(ledger), Inline(order)
        try:
            end = run(ledger, crew, on_event=reporter.on_event, on_tick=reporter.on_tick)
        finally:
            crew.close()
        reporter.close(end)
    assert [line["event"] for _, line in read_lines(out / LOG)] == ["started", "made", "made", "failed", "ended"]
    assert len(cells_of(out / FAILURES)) == 2
    found = told(out)
    assert found["pictures"].items() >= {"done": 2, "failed": 1}.items() and found["run"]["state"] == "ended"
    assert found["results"]["pixels"] == 2 * 16 * 63
    assert metrics_of(out)['pictures{state="done"}'] == 2
    assert "2 of 3 pictures are done" in (out / SUMMARY).read_text(encoding="utf-8")
