"""What a run leaves beside its results for those who look after it: failures, metrics, a log, a page; and its status.

    failures.csv   what failed for good, for spreadsheets; written at the end
    metrics.prom   numbers as Prometheus reads them, anew every few seconds: the sign that a run is at work
    log.jsonl      what happened, a JSON object a line
    summary.html   all of it for people; written at the end

All of it lies in the folder of the ledger. A report that cannot be written is told of once, and the run goes on.
"""

import csv
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from xpsr.batch.estimates import Throughput, pixels_in_words, rate_in_words
from xpsr.batch.items import Made
from xpsr.batch.ledger import Ledger, State, Tally
from xpsr.batch.stores import shown
from xpsr.errors import InputError, printable
from xpsr.files import atomic_write, write_text
from xpsr.jsonl import append_lines
from xpsr.planning import in_words, time_in_words

if TYPE_CHECKING:  # the runner may ask for what is told here
    from xpsr.batch.runner import End, Event

__all__ = ["FAILURES", "LOG", "METRICS", "SUMMARY", "Reporter", "status", "status_in_words", "write_failures"]

FAILURES, METRICS, LOG, SUMMARY = "failures.csv", "metrics.prom", "log.jsonl", "summary.html"
"""Names of the files."""

logger = logging.getLogger(__name__)

_METRICS_SECONDS = 5.0
_LOG_SECONDS = 1.0  # each time, the disk is waited for
_LOG_LINES = 1000  # that are kept in memory at most

_SIGN_SECONDS = 30.0
"""After which a run whose metrics are not written any more has been killed, or hangs."""

_MOST_CODES = 5
_MOST_RUNNING = 10  # that are told to people


class Reporter:
    """Tells of one run, while it lasts and at its end.

    Args:
        ledger: of the run, which is about to begin.
        unplanned: sources of which the plan has no picture, each with what is wrong.
        clock: seconds, from anywhere.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        unplanned: Sequence[tuple[str, InputError]] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._unplanned = unplanned
        self.throughput = Throughput(clock)
        self._ledger, self._folder, self._clock = ledger, ledger.path.parent, clock
        self._start, self._start_time = clock(), time.time()
        self._lines: list[dict[str, Any]] = []
        self._made, self._retries = 0, 0
        self._failures: Counter[str] = Counter()
        self._complaints: set[str] = set()
        self._note({"event": "started", **_counts(ledger.tally())})
        for source, error in unplanned:
            self._note({"event": "unplanned", "source": source, "code": error.code, "line": str(error)})
        self._write_log()
        self._write_metrics(is_up=True)

    def on_event(self, event: "Event") -> None:
        """Takes in what became of a picture."""
        self.throughput.take(event)
        item, outcome = event.ticket.item, event.outcome
        place = {"id": item.id, "source": shown(item.source), "target": item.target}
        if isinstance(outcome, Made):
            self._made += outcome.status == "made"
            told: dict[str, Any] = {"event": outcome.status, **place, "seconds": outcome.seconds}
        else:
            if event.is_last:
                self._failures[outcome.code] += 1
            else:
                self._retries += 1
            kind = "failed" if event.is_last else "retried"
            told = {"event": kind, **place, "code": outcome.code, "line": outcome.line}
        self._note({**told, "worker": event.hand})
        if len(self._lines) >= _LOG_LINES:
            self._write_log()

    def on_tick(self) -> None:
        """Writes what is due; to be called several times a second."""
        self.throughput.tick()
        now = self._clock()
        if self._lines and now - self._logged >= _LOG_SECONDS:
            self._write_log()
        if now - self._measured >= _METRICS_SECONDS:
            self._write_metrics(is_up=True)

    def close(self, end: "End | None" = None) -> None:
        """Writes everything that tells of the whole run.

        Args:
            end: how it ended; None: it was broken off.
        """
        from xpsr.batch.summary import write_summary

        self.throughput.tick()
        seconds = self._clock() - self._start
        with self._going_on(LOG):
            ended = {"event": "ended", "how": end or "broken_off", "seconds": round(seconds, 3)}
            self._note({**ended, **_counts(self._ledger.tally())})
        self._write_log()
        self._write_metrics(is_up=False)
        with self._going_on(FAILURES):
            write_failures(self._ledger, self._folder / FAILURES, unplanned=self._unplanned)
        with self._going_on(SUMMARY):
            write_summary(
                self._ledger,
                self._folder / SUMMARY,
                seconds=seconds,
                made=self._made,
                rate=self.throughput.overall,
                num_unplanned=len(self._unplanned),
            )

    def in_words(self) -> str:
        """Returns how fast it is and how long it takes, "2.5 pictures/s, 3 min left"; "" where nobody knows yet."""
        tally, rate = self._ledger.tally(), self.throughput.recent
        eta = self.throughput.eta(tally.waiting + tally.running)
        return "" if rate is None or eta is None else f"{rate_in_words(rate)}, {time_in_words(eta)} left"

    def _note(self, told: dict[str, Any]) -> None:
        self._lines.append({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **told})

    def _write_log(self) -> None:
        lines, self._lines, self._logged = self._lines, [], self._clock()
        with self._going_on(LOG):
            append_lines(self._folder / LOG, lines)

    def _write_metrics(self, *, is_up: bool) -> None:
        self._measured = self._clock()
        with self._going_on(METRICS):
            metrics = self._metrics(self._ledger.tally(), is_up=is_up)
            write_text(self._folder / METRICS, "".join(_exposition(metrics, self._folder.absolute())))

    def _metrics(self, tally: Tally, *, is_up: bool) -> "Iterator[_Metric]":
        rate = self.throughput.recent if is_up else None
        eta = self.throughput.eta(tally.waiting + tally.running) if is_up else None
        yield "up", "gauge", "Whether a run is at work; one that was killed could not say so.", _one(is_up)
        yield "pictures", "gauge", "Pictures of the plan, by what became of them.", _by("state", _counts(tally))
        yield (
            "failures_total",
            "counter",
            "Pictures that failed for good in this run, by kind of error.",
            _by("code", self._failures),
        )
        yield "retries_total", "counter", "Tries of this run that failed and are made again.", _one(self._retries)
        yield "pixels_total", "counter", "Pixels of the results that are there.", _one(tally.pixels)
        yield "bytes_total", "counter", "Bytes of the results that are there.", _one(tally.bytes)
        yield "seconds_total", "counter", "Seconds of work on the results that are there.", _one(tally.seconds)
        yield "rate_pictures_per_second", "gauge", "Pictures finished lately; NaN: not known.", _one(rate)
        yield "eta_seconds", "gauge", "Until all are finished at that rate; NaN: not known.", _one(eta)
        yield "start_timestamp_seconds", "gauge", "When this run began, since 1970.", _one(self._start_time)
        yield "last_update_timestamp_seconds", "gauge", "When this was written, since 1970.", _one(time.time())

    @contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        """Lets a run go on without a report that cannot be written, and says so once."""
        try:
            yield
        except InputError as error:
            if name not in self._complaints:
                self._complaints.add(name)
                logger.warning("%s The run goes on, and %s lacks what happens.", error, name)


def _counts(tally: Tally) -> dict[str, int]:
    return {name: getattr(tally, name) for name in get_args(State)}


# Failures


def write_failures(ledger: Ledger, path: Path, *, unplanned: Sequence[tuple[str, InputError]] = ()) -> None:
    """Writes what failed for good as CSV: source, code, line, remedy; only the header where nothing did.

    Names come from strangers, and spreadsheets run what begins like a formula, so that an apostrophe is put in front of
    it, and of what begins with one: what reads the file takes one apostrophe away, where there is one.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        # all cells in quotes, or those who part them by semicolons would find formulas behind these
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(("source", "code", "line", "remedy"))
        for source, error in unplanned:
            writer.writerow(map(_harmless, (printable(source), error.code, str(error), error.remedy or "")))
        for row in ledger.rows("failed"):
            writer.writerow(map(_harmless, (shown(row.item.source), row.code, row.line, row.remedy)))


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(tuple("'=+-@\t\r\n＝＋－＠")) else cell


# Metrics

_Metric = tuple[str, str, str, Mapping[str, float]]
"""Name, type, what it is, and values by the label that tells them apart; "": there is but one."""


def _one(value: float | None) -> dict[str, float]:
    return {"": math.nan if value is None else float(value)}


def _by(label: str, counts: Mapping[str, int]) -> dict[str, float]:
    return {_label(label, text): float(count) for text, count in counts.items()}


def _exposition(metrics: Iterable[_Metric], folder: Path) -> Iterator[str]:
    """Yields lines of Prometheus' text format; the folder is a label of all, as a collector may have other plans."""
    plan = _label("folder", str(folder))
    for name, kind, about, values in metrics:
        yield f"# HELP xpsr_batch_{name} {about}\n# TYPE xpsr_batch_{name} {kind}\n"
        for label, value in values.items():
            labels = ",".join(filter(None, (plan, label)))
            yield f"xpsr_batch_{name}{{{labels}}} {'NaN' if math.isnan(value) else f'{value:.15g}'}\n"


def _label(name: str, text: str) -> str:
    escaped = printable(text).replace("\\", r"\\").replace('"', r"\"")
    return f'{name}="{escaped}"'


# Status


def status(ledger: Ledger) -> dict[str, Any]:
    """Returns how a plan stands, as JSON has it, while a run is at work or not.

    Whether one is, its metrics tell, which it writes every few seconds: to try its lock could keep out another run that
    begins at that moment.

    Args:
        ledger: of the plan, read only.

    Raises:
        InputError: it cannot be read.
    """
    tally, folder = ledger.tally(), ledger.path.parent
    run = _run_of(folder)
    return {
        "folder": str(folder),
        "pictures": {"total": tally.total, **_counts(tally)},
        "share_done": (tally.done + tally.skipped) / tally.total if tally.total else 1.0,
        "results": {
            "pixels": tally.pixels,
            "bytes": tally.bytes,
            "seconds": tally.seconds,
            "seconds_each": tally.seconds / tally.done if tally.done else None,
        },
        "run": run,
        "failures": [
            {"code": code, "count": count, "line": line} for code, count, line in ledger.failures()[:_MOST_CODES]
        ],
        "running": [
            {"id": row.item.id, "worker": row.worker, "since": _iso(row.since)} for row in ledger.rows("running")
        ],
        "next": _next(tally, run["state"]),
    }


def status_in_words(told: Mapping[str, Any]) -> list[str]:
    """Returns what `status` tells as lines for people."""
    counts, results, run = told["pictures"], told["results"], told["run"]
    states = ", ".join(f"{counts[state]:,} {state}" for state in counts if state != "total" and counts[state])
    share = math.floor(told["share_done"] * 1000) / 10  # not 100 % before the last one
    head = f"{printable(told['folder'])}: {share:g}% of {counts['total']:,} pictures are done"
    lines = [head + (f" ({states})" if states else ""), _run_in_words(run)]
    if counts["done"]:
        size, pixels = in_words(results["bytes"]), pixels_in_words(results["pixels"])
        lines.append(f"results: {pixels}, {size}; {results['seconds_each']:.3g} s of one worker for each picture")
    running = told["running"]
    if running:
        lines.append("in hand:" if run["state"] == "at_work" else "were in hand when it ended:")
        for one in running[:_MOST_RUNNING]:
            lines.append(f"    {printable(one['id'])} ({printable(one['worker'])}, since {_ago(one['since'])})")
        if len(running) > _MOST_RUNNING:
            lines.append(f"    and {len(running) - _MOST_RUNNING:,} more")
    if told["failures"]:
        lines.append("failed:")
        lines += [f"    {one['count']:,} {one['code']}, as {printable(one['line'])}" for one in told["failures"]]
    return [*lines, *told["next"]]


def _run_of(folder: Path) -> dict[str, Any]:
    """What the metrics of the last run tell: whether it is at work, when it said so, and how fast it is."""
    numbers = _numbers(folder / METRICS)
    last = numbers.get("last_update_timestamp_seconds", math.nan)
    if not 0 < last < 2**40:  # there are none, or they were written by somebody else
        return {"state": "none", "last_sign": None, "pictures_per_second": None, "eta_seconds": None}
    state = "ended" if not numbers.get("up") else "at_work" if time.time() - last < _SIGN_SECONDS else "silent"
    rates = {"pictures_per_second": "rate_pictures_per_second", "eta_seconds": "eta_seconds"}
    known = {name: numbers.get(metric, math.nan) for name, metric in rates.items()}
    return {
        "state": state,
        "last_sign": _iso(last),
        **{name: value if state == "at_work" and math.isfinite(value) else None for name, value in known.items()},
    }


def _numbers(path: Path) -> dict[str, float]:
    """Values of metrics of which there is but one; none where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        if line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        try:
            found[name.partition("{")[0].removeprefix("xpsr_batch_")] = float(value)
        except ValueError:  # written by somebody else
            continue
    return found


def _run_in_words(run: Mapping[str, Any]) -> str:
    if run["state"] == "none":
        return "no run is at work"
    if run["state"] == "ended":
        return f"no run is at work; the last one ended {_ago(run['last_sign'])}"
    if run["state"] == "silent":
        return f"a run gave its last sign {_ago(run['last_sign'])}: it was killed, or hangs"
    rate, eta = run["pictures_per_second"], run["eta_seconds"]
    speed = "" if rate is None else f", {rate_in_words(rate)}"
    return f"a run is at work{speed}" + ("" if eta is None else f", {time_in_words(eta)} left")


def _next(tally: Tally, state: str) -> list[str]:
    """What there is to do, in lines."""
    if state == "at_work":
        return []
    lines = []
    if tally.waiting + tally.running:
        lines.append("to go on, run the same command again")
    if tally.failed:
        lines.append(f"{FAILURES} says what failed; to try it again, run the same command with --retry-failed")
    return lines or [f"nothing is left to do; see {SUMMARY}"]


def _ago(when: str) -> str:
    return f"{time_in_words(max(0.0, time.time() - datetime.fromisoformat(when).timestamp()))} ago"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
