"""What became of every picture of a plan: a row each in SQLite, so that a run that was killed goes on where it was.

One process at a time writes, the runner; anybody may read meanwhile. What is written comes in transactions of many
rows: a power cut loses the last second of them, not the results, which the next run finds in their places and adopts.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from filelock import FileLock, Timeout

from xpsr.batch.items import Failure, Item, Made, Ticket
from xpsr.batch.schema import SCHEMA, VERSION
from xpsr.errors import InputError, one_line
from xpsr.prior import Prior

__all__ = ["LEDGER", "Ledger", "Row", "State", "Tally", "copied"]

LEDGER = "ledger.sqlite"
"""What the file is called, in the folder of all results."""

State = Literal["waiting", "running", "done", "skipped", "failed"]

_ROWS = 10_000
"""That are written or read in one go."""

_READY = "WHERE state = 'waiting' AND number NOT IN (SELECT number FROM absent)"
_ITEM = "number, id, source, target, seed, content, quality, stamp"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What a ledger has of one picture; what `Item`, `Made` and `Failure` say of their fields is true here.

    `since` is when its `worker` got it, in seconds since 1970; 0 where nobody has it.
    """

    number: int
    item: Item
    state: State
    attempts: int
    code: str
    line: str
    remedy: str
    seconds: float
    pixels: int
    bytes: int
    key: str
    output_sha256: str
    output_stamp: str
    worker: str
    since: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """How many pictures are in which state, and what those that are done took together: seconds, pixels, bytes.

    `replaced_bytes` is what results take that will be replaced, as their pictures wait again or are at work.
    """

    waiting: int = 0
    running: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0.0
    pixels: int = 0
    bytes: int = 0
    replaced_bytes: int = 0

    @property
    def total(self) -> int:
        return self.waiting + self.running + self.done + self.skipped + self.failed


class Ledger:
    """The file of a plan. A context manager, which closes it.

    Args:
        path: the file; what is not there is made, unless it is only read.
        read_only: to look into, also while a run is at work.
        called: what errors call its folder, where it is a copy of another's.

    Raises:
        InputError: another run is at work with it, or it is none, or there is none to read.
    """

    def __init__(self, path: Path, *, read_only: bool = False, called: Path | None = None):
        self.path, self.called = path, called or path.parent
        if read_only and not path.is_file():
            message, remedy = f"{path}: there is no ledger of a batch", "is it the right folder?"
            raise InputError(message, code="not_found", remedy=remedy)
        with self._speaking(), ExitStack() as stack:
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.callback(self._locked().release)
            mode = "ro" if read_only else "rwc"
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True)
            stack.callback(self._db.close)
            self._db.isolation_level = None  # transactions begin where we say so
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                message = f"{path}: is of another version of xpsr"
                raise InputError(message, code="conflict", remedy="choose another folder with -o")
            if not read_only:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.executescript(SCHEMA)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
            elif version == 0:
                raise InputError(
                    f"{path}: is no ledger of a batch", code="wrong_type", remedy="is it the right folder?"
                )
            self._db.execute("CREATE TEMP TABLE absent (number INTEGER PRIMARY KEY)")
            self._held = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets others have the file."""
        self._held.close()

    def copy(self, path: Path) -> None:
        """Writes the ledger as it is now into another file."""
        with self._speaking(), closing(sqlite3.connect(path)) as other:
            self._db.backup(other)

    # The plan

    def bind(self, facts: Mapping[str, Any], *, kind: str = "plan", replaces: bool = False) -> None:
        """Says what all results depend on; it is kept, and compared with as soon as there are results.

        Args:
            facts: by name, what JSON can hold.
            kind: what they are about; those of each kind are compared, and replaced, by themselves. On the "plan"
                depends what was said of pictures, too, which others leave.
            replaces: whether other facts take the place of those that are there, and all pictures wait again.

        Raises:
            InputError: the ledger is of another plan; it says what differs.
        """
        rows = self._all("SELECT name, value FROM facts WHERE kind = ?", (kind,))
        known, wanted = {name: json.loads(value) for name, value in rows}, json.loads(json.dumps(dict(facts)))
        names = sorted(known.keys() | wanted.keys())
        differing = [name for name in names if known.get(name) != wanted.get(name)]
        tally = self.tally()
        if known and differing and not replaces and tally.done + tally.skipped:
            parts = [f"{name} {_brief(known.get(name))}, not {_brief(wanted.get(name))}" for name in differing[:3]]
            shown = "; ".join(parts) + ", …" * (len(differing) > 3)
            message = f"{self.called}: is the output of another plan ({shown})"
            remedy = "use the same options, choose another -o (and --ledger), or add --on-existing overwrite"
            raise InputError(message, code="conflict", remedy=remedy)
        if differing:
            with self._transaction():
                self._db.execute("DELETE FROM facts WHERE kind = ?", (kind,))
                self._db.executemany(
                    "INSERT INTO facts VALUES (?, ?, ?)",
                    [(kind, name, json.dumps(value)) for name, value in wanted.items()],
                )
                if known:
                    forgets = ", prior = NULL" if kind == "plan" else ""
                    self._db.execute(f"UPDATE jobs SET state = 'waiting', attempts = 0{forgets}")

    @property
    def facts(self) -> dict[str, Any]:
        """What all results depend on."""
        return {name: json.loads(value) for name, value in self._all("SELECT name, value FROM facts")}

    def plan(self, items: Iterable[Item], *, is_whole: Callable[[], bool] = lambda: True) -> None:
        """Takes the pictures of a plan.

        One that is here keeps its state, unless its source, seed, texts or place is another: then it waits again. One
        that is not among them any more is dropped; its result stays where it is.

        Args:
            items: the pictures.
            is_whole: asked at their end, whether they are all. If not, those that are not among them stay, and are not
                handed out.

        Raises:
            InputError: two have the same id.
        """
        with self._transaction():
            self._db.execute("CREATE TEMP TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
            self._db.execute("DELETE FROM seen")
            self._db.execute("DELETE FROM absent")
            try:
                for chunk in _chunks(items):
                    self._db.executemany("INSERT INTO seen VALUES (?)", [(item.id,) for item in chunk])
                    self._db.executemany(_INSERT, [_values(item) for item in chunk])
            except sqlite3.IntegrityError as error:
                message = f"{self.called}: two pictures of the plan have one id"
                raise InputError(message, code="conflict", remedy="give each an id of its own") from error
            unseen = "FROM jobs WHERE id NOT IN (SELECT id FROM seen)"
            self._db.execute(f"DELETE {unseen}" if is_whole() else f"INSERT INTO absent SELECT number {unseen}")
            self._db.execute("DELETE FROM seen")

    # The work

    def recover(self) -> list[str]:
        """Lets everything wait again that was at work when a run ended without a word; returns targets of that.

        It counts as a try, as it may have been the reason, and is a suspect of the next run.
        """
        targets = [target for (target,) in self._all("SELECT target FROM jobs WHERE state = 'running'")]
        self._change(
            "UPDATE jobs SET state = 'waiting', worker = NULL, since = NULL, attempts = attempts + 1"
            " WHERE state = 'running'"
        )
        return targets

    def retry_failed(self) -> int:
        """Lets all that failed wait again; returns how many."""
        return self._change("UPDATE jobs SET state = 'waiting', attempts = 0, bytes = NULL WHERE state = 'failed'")

    def results(self) -> Iterator[tuple[int, str, str]]:
        """Yields number, target and stamp of all results, also of those that will be replaced."""
        replaced = "state = 'waiting' AND bytes > 0"
        query = f"SELECT number, target, output_stamp FROM jobs WHERE state IN ('done', 'skipped') OR {replaced}"
        with self._speaking():
            yield from self._db.execute(query)

    def reopen(self, numbers: Iterable[int]) -> None:
        """Lets these pictures wait again, as their results are gone or were changed."""
        attempts = "CASE state WHEN 'waiting' THEN attempts ELSE 0 END"  # a suspect stays one
        query = f"UPDATE jobs SET state = 'waiting', attempts = {attempts}, bytes = NULL WHERE number = ?"
        with self._transaction():
            self._db.executemany(query, [(number,) for number in numbers])

    def waiting(self, *, after: int = 0, skip: int = 0, limit: int = _ROWS, lacks_prior: bool = False) -> list[Ticket]:
        """Returns pictures that wait and are in reach, in their order.

        Args:
            after: only those with numbers above it.
            skip: so many of the first are left out.
            limit: how many at most.
            lacks_prior: only those of which nobody has said all that is said of a picture.
        """
        lacks = "AND prior IS NULL AND (content IS NULL OR quality IS NULL)" if lacks_prior else ""
        where = f"{_READY} AND number > ? {lacks} ORDER BY number LIMIT ? OFFSET ?"
        return [
            Ticket(
                number=number,
                item=_item(values),
                prior=prior and Prior.from_dict(json.loads(prior)),
                is_suspect=attempts > 0,
            )
            for number, *values, prior, attempts in self._all(
                f"SELECT {_ITEM}, prior, attempts FROM jobs {where}", (after, limit, skip)
            )
        ]

    def count_waiting(self) -> int:
        """Returns how many pictures wait and are in reach."""
        ((count,),) = self._all(f"SELECT count(*) FROM jobs {_READY}")
        return int(count)

    def keep_priors(self, priors: Mapping[int, Prior]) -> None:
        """Keeps what a describer said of pictures, by number."""
        rows = [(json.dumps(prior.as_dict()), number) for number, prior in priors.items()]
        with self._transaction():
            self._db.executemany("UPDATE jobs SET prior = ? WHERE number = ?", rows)

    def keep(
        self,
        *,
        started: Sequence[tuple[int, str, float]] = (),
        made: Sequence[tuple[int, Made]] = (),
        failed: Sequence[tuple[int, Failure, bool]] = (),
        returned: Sequence[int] = (),
    ) -> None:
        """Writes what happened, all of it or nothing.

        Args:
            started: number, who has it, and since when, in seconds since 1970.
            made: number and what was made.
            failed: number, why, and whether this was the last try.
            returned: numbers of what nobody has begun and that waits again.
        """
        with self._transaction():
            self._db.executemany(
                "UPDATE jobs SET state = 'running', worker = ?, since = ? WHERE number = ?",
                [(worker, since, number) for number, worker, since in started],
            )
            self._db.executemany(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, code = NULL, line = NULL, remedy = NULL,"
                " seconds = ?, pixels = ?, bytes = ?, key = ?, output_sha256 = ?, output_stamp = ?, since = NULL"
                " WHERE number = ?",
                [
                    (
                        "skipped" if one.status == "skipped" else "done",
                        *(one.seconds, one.pixels, one.bytes, one.key, one.output_sha256, one.output_stamp, number),
                    )
                    for number, one in made
                ],
            )
            self._db.executemany(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, code = ?, line = ?, remedy = ?, since = NULL"
                " WHERE number = ?",
                [
                    ("failed" if is_last else "waiting", one.code, one.line, one.remedy, number)
                    for number, one, is_last in failed
                ],
            )
            self._db.executemany(
                "UPDATE jobs SET state = 'waiting', worker = NULL, since = NULL WHERE number = ?",
                [(number,) for number in returned],
            )

    # What is told

    def tally(self) -> Tally:
        """Returns how many pictures are in which state."""
        # kept by triggers: to count a million rows takes most of a second
        totals = {
            state: rest for state, *rest in self._all("SELECT state, pictures, seconds, pixels, bytes FROM totals")
        }
        counts = {state: totals[state][0] for state in get_args(State)}
        _, seconds, pixels, size = totals["done"]
        replaced = totals["waiting"][3] + totals["running"][3]
        return Tally(**counts, seconds=seconds, pixels=pixels, bytes=size, replaced_bytes=replaced)

    def failures(self) -> list[tuple[str, int, str]]:
        """Returns the kinds of failures, the most frequent first: code, how many, and the line of one."""
        query = "SELECT code, count(*) AS number, line FROM jobs WHERE state = 'failed' GROUP BY code"
        return [tuple(row) for row in self._all(f"{query} ORDER BY number DESC, code")]

    def rows(self, state: State, *, slowest: bool = False, limit: int = -1) -> Iterator[Row]:
        """Yields rows of a state, in their order or the slowest first."""
        order = "seconds DESC, number" if slowest else "number"
        query = (
            f"SELECT {_ITEM}, state, attempts, code, line, remedy, seconds, pixels, bytes, key, output_sha256,"
            f" output_stamp, worker, since FROM jobs WHERE state = ? ORDER BY {order} LIMIT ?"
        )
        with self._speaking():
            for values in self._db.execute(query, (state, limit)):
                yield _row(values)

    # SQLite

    def _locked(self) -> FileLock:
        """Keeps other runs out, by a file of its own, as SQLite locks its own file for moments."""
        lock = FileLock(self.path.with_name(f"{self.path.name}-lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            message = f"{self.called}: another run is at work there"
            remedy = "wait for its end, or choose another -o (or --ledger)"
            raise InputError(message, code="busy", remedy=remedy) from error
        return lock

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._speaking():
            return self._db.execute(query, values).fetchall()

    def _change(self, query: str) -> int:
        with self._transaction():
            return self._db.execute(query).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._speaking():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turns what SQLite and the system refuse into errors of one line."""
        try:
            yield
        except sqlite3.Error as error:
            full = "full" in str(error)
            remedy = "free space or choose another disk" if full else "is it a ledger of xpsr, and may it be written?"
            message = f"{self.path}: cannot be used ({one_line(error)})"
            raise InputError(message, code="disk_full" if full else "refused", remedy=remedy) from error
        except OSError as error:
            message = f"{self.path}: cannot be written ({error.strerror or one_line(error)})"
            raise InputError(message, code="refused", remedy="check the path and its permissions") from error


def copied(folder: Path, to: Path) -> Path:
    """Copies the ledger of a folder, if there is one, into another, which is returned; a run may be at work with it."""
    if (folder / LEDGER).is_file():
        with Ledger(folder / LEDGER, read_only=True) as ledger:
            ledger.copy(to / LEDGER)
    return to


_INSERT = """
INSERT INTO jobs (id, source, target, seed, content, quality, stamp) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    source = excluded.source, target = excluded.target, seed = excluded.seed, content = excluded.content,
    quality = excluded.quality, stamp = excluded.stamp, prior = NULL, state = 'waiting', attempts = 0
WHERE (source, target, seed, stamp) != (excluded.source, excluded.target, excluded.seed, excluded.stamp)
    OR content IS NOT excluded.content OR quality IS NOT excluded.quality
"""


def _values(item: Item) -> tuple[Any, ...]:
    return item.id, item.source, item.target, item.seed, item.content, item.quality, item.stamp


def _item(values: Sequence[Any]) -> Item:
    names = ("id", "source", "target", "seed", "content", "quality", "stamp")
    return Item(**dict(zip(names, values, strict=True)))


def _row(values: Sequence[Any]) -> Row:
    number, *of_item = values[:8]
    state, attempts, code, line, remedy, seconds, pixels, size, key, digest, stamp, worker, since = values[8:]
    return Row(
        number=number,
        item=_item(of_item),
        state=state,
        attempts=attempts,
        code=code or "",
        line=line or "",
        remedy=remedy or "",
        seconds=seconds or 0.0,
        pixels=pixels or 0,
        bytes=size or 0,
        key=key or "",
        output_sha256=digest or "",
        output_stamp=stamp or "",
        worker=worker or "",
        since=since or 0.0,
    )


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _ROWS:
            yield chunk
            chunk = []
    yield chunk


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
