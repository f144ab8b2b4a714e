"""Folders of restored pictures scored: by several processes, and only what has not been scored before."""

import hashlib
import importlib.metadata
import json
import logging
import math
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import torch

from xpsr import __version__
from xpsr.config.checks import check_argument, within
from xpsr.devices import processor_name
from xpsr.errors import InputError, XPSRError, printable
from xpsr.evaluation.metrics import Metric, Needs, Subject, digest, open_metrics
from xpsr.evaluation.pairing import check_cases, pair_methods
from xpsr.evaluation.protocols import Protocol
from xpsr.evaluation.results import Case, Evaluation, Method
from xpsr.files import refusal, sha256
from xpsr.image import read_image, resize
from xpsr.jsonl import append_lines, read_lines

__all__ = ["evaluate"]

logger = logging.getLogger(__name__)

Score: TypeAlias = float | str
"""A number, or why there is none for this picture: "too_small" or "flat"."""

_ABSENT = {"too_small": "too small", "flat": "flat"}
"""Codes of errors of metrics that a picture has no score for, in words."""

_PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "pillow", "opencv-python-headless")
_FLUSH_SECONDS = 5.0


def evaluate(
    methods: Mapping[str, Path],
    *,
    hr: Path | None,
    lr: Path | None,
    protocol: Protocol,
    weights: Path | None = None,
    workers: int = 0,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Returns the scores of folders of restored pictures; the same ones however many processes work.

    Args:
        methods: the folder of each method's pictures, by its name.
        hr: the folder of the originals; None: only what needs none is measured.
        lr: the folder of what was restored; None: only what needs none is measured.
        protocol: what is measured, and how.
        weights: the folder of the weights of learned metrics.
        workers: processes that score, on a core each; 0: this one.
        cache: a JSONL to take scores of unchanged files from and to add new ones to. After a run that was killed, the
            same call goes on.
        on_progress: is told how many pictures of how many are scored; those of each method count.

    Raises:
        InputError: pictures do not belong together, or cannot be read or compared; nothing can be measured; a score is
            not finite; the cache cannot be written. What was scored by then is in the cache.
        XPSRError: a worker process was killed.
    """
    check_argument("workers", workers, int, within(0, 256, "0 or more"))
    paired = pair_methods(methods, hr=hr, lr=lr)
    given: dict[Needs, Path | None] = {"hr": hr, "lr": lr}
    available = frozenset(needs for needs, folder in given.items() if folder is not None)
    plan = _Plan(protocol=protocol, available=available, weights=weights)
    metrics, not_measured = plan.open()
    if not metrics:
        reasons = "; ".join(f"{name} {reason}" for name, reason in not_measured.items())
        message = f"nothing can be measured ({reasons})"
        raise InputError(message, code="nothing_measured", remedy="give what is needed, or name other metrics")
    check_cases(paired, resizes=protocol.resize == "bicubic")
    store = _Store(cache, protocol, metrics)
    total, found = sum(map(len, paired.values())), defaultdict[str, list[Mapping[str, Score]]](list)
    with store.writing(), closing(_scored(_jobs(paired, store), plan, metrics, workers=workers)) as scored:
        for job, scores in scored:
            found[job.method].append({metric.name: scores[metric.name] for metric in metrics})
            store.keep(job, scores)
            if on_progress is not None:
                on_progress(sum(map(len, found.values())), total)
    absent = _never_measured(metrics, found)
    kept = tuple(metric for metric in metrics if metric.name not in absent)
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
        raise InputError(
            f"nothing could be measured ({reasons})", code="nothing_measured", remedy="use larger pictures"
        )
    return Evaluation(
        protocol=protocol,
        metrics=kept,
        not_measured={**not_measured, **absent},
        methods=tuple(
            Method(name=name, cases=cases, scores=tuple(map(_numbers, found[name]))) for name, cases in paired.items()
        ),
        facts={"measure": digest(protocol, kept), **_facts(methods, paired, hr=hr, lr=lr, store=store)},
    )


def _numbers(scores: Mapping[str, Score]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if not isinstance(score, str)}


def _never_measured(metrics: Sequence[Metric], found: Mapping[str, Sequence[Mapping[str, Score]]]) -> dict[str, str]:
    """Why no picture of any method has a score, by metric, for those of which it is so."""
    absent = {}
    for metric in metrics:
        scores = [row[metric.name] for rows in found.values() for row in rows]
        reasons = {_ABSENT[score] for score in scores if isinstance(score, str)}
        if all(isinstance(score, str) for score in scores):
            absent[metric.name] = f"every picture is {' or '.join(sorted(reasons))}"
    return absent


# One picture


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What workers have to know once; unlike metrics it can be sent to another process."""

    protocol: Protocol
    available: frozenset[Needs]
    weights: Path | None

    def open(self) -> tuple[tuple[Metric, ...], Mapping[str, str]]:
        return open_metrics(self.protocol, available=self.available, weights=self.weights)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A picture of a method: what is known of it, and which metrics are to be computed.

    Attributes:
        method: its name.
        case: the picture.
        digests: SHA-256 of the restored picture, the original and the input; "" where there is none.
        known: scores of former runs by metric.
        missing: names of the other metrics.
    """

    method: str
    case: Case
    digests: tuple[str, str, str]
    known: Mapping[str, Score]
    missing: tuple[str, ...]


def _measure(case: Case, metrics: Sequence[Metric], protocol: Protocol) -> dict[str, Score]:
    """Computes metrics of a picture; no more than its three files are held in memory."""
    needed = {metric.needs for metric in metrics}
    restored = read_image(case.restored).pixels
    hr = read_image(case.hr).pixels if case.hr and ("hr" in needed or protocol.resize == "bicubic") else None
    lr = read_image(case.lr).pixels if case.lr and "lr" in needed else None
    if hr is not None and restored.shape != hr.shape:
        if protocol.resize != "bicubic":  # it was of that size when it was looked at
            message = f"{case.restored}: is not as large as {case.hr}"
            raise InputError(message, code="wrong_size", remedy="leave pictures as they are while they are scored")
        height, width = hr.shape[-2:]
        restored = resize(restored, (height, width))
    try:
        subject = Subject(restored=restored, hr=hr, lr=lr)
        return {metric.name: _score(subject, metric, protocol) for metric in metrics}
    except InputError as error:
        raise InputError(f"{case.restored}: {error.message}", code=error.code, remedy=error.remedy) from error


def _score(subject: Subject, metric: Metric, protocol: Protocol) -> Score:
    try:
        return metric.compute(subject, protocol)
    except InputError as error:
        if error.code in _ABSENT:
            return error.code
        raise


# Many pictures


def _scored(
    jobs: Iterator[_Job], plan: _Plan, metrics: Sequence[Metric], *, workers: int
) -> Generator[tuple[_Job, dict[str, Score]], None, None]:
    """Yields jobs with all their scores, in order; only a few of them are under way at any time."""
    if workers == 0:
        for job in jobs:
            missing = [metric for metric in metrics if metric.name in job.missing]
            with _one_thread():
                new = _measure(job.case, missing, plan.protocol) if missing else {}
            yield job, {**job.known, **new}
        return
    # Spawned: what a library keeps in threads does not survive a fork
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(plan,))
    waiting: deque[tuple[_Job, Future[dict[str, Score]] | None]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(_measure_in_worker, job.case, job.missing) if job.missing else None))
            if len(waiting) > 4 * workers:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    except BrokenProcessPool as error:
        message, remedy = (
            "a worker process was killed, perhaps for its memory",
            "use fewer --workers, or smaller pictures",
        )
        raise XPSRError(message, code="worker_died", remedy=remedy) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(job: _Job, future: Future[dict[str, Score]] | None) -> tuple[_Job, dict[str, Score]]:
    return job, {**job.known, **({} if future is None else future.result())}


@contextmanager
def _one_thread() -> Iterator[None]:
    """With more, sums are added up in another order, and the last digits of scores depend on the machine's cores."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)


_OPENED: list[tuple[_Plan, dict[str, Metric]]] = []
"""What a worker process has opened, once, when it started."""


def _start_worker(plan: _Plan) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # for the parent to answer
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _OPENED.append((plan, {metric.name: metric for metric in plan.open()[0]}))


def _follow_parent() -> None:
    """Ends this process with its parent, which may be killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _measure_in_worker(case: Case, names: Sequence[str]) -> dict[str, Score]:
    plan, metrics = _OPENED[0]
    return _measure(case, [metrics[name] for name in names], plan.protocol)


# What was scored before


class _Store:
    """Scores of former runs, by what they depend on: files, protocol, versions of the metric and of libraries."""

    def __init__(self, path: Path | None, protocol: Protocol, metrics: Sequence[Metric]):
        self._path, self._metrics, self._protocol = path, metrics, _key_of(protocol)
        self._resizes = protocol.resize != "refuse"
        self._known: dict[tuple[str, ...], Score] = {}
        self._new: list[dict[str, Any]] = []
        self._written = time.monotonic()
        self.digests: dict[Path, str] = {}
        if path is not None:
            self._read(path)

    def job(self, method: str, case: Case) -> _Job:
        """Returns what is known of a case and what is to be done."""
        paths = (case.restored, case.hr, case.lr)
        for path in paths:
            if path is not None and path not in self.digests:  # the original of a picture serves all methods
                self.digests[path] = sha256(path)
        restored, hr, lr = ("" if path is None else self.digests[path] for path in paths)
        digests = (restored, hr, lr)
        found = {metric.name: self._known.get(self._key(metric, digests)) for metric in self._metrics}
        known = {name: score for name, score in found.items() if score is not None}
        missing = tuple(name for name, score in found.items() if score is None)
        return _Job(method=method, case=case, digests=digests, known=known, missing=missing)

    def keep(self, job: _Job, scores: Mapping[str, Score]) -> None:
        """Notes the new scores of a job; some seconds' worth of them is written at once."""
        if self._path is None or not job.missing:
            return
        versions = {metric.name: metric.version for metric in self._metrics}
        restored, hr, lr = job.digests
        line = {
            "picture": printable(job.case.name),
            "restored": restored,
            "hr": hr,
            "lr": lr,
            "protocol": self._protocol,
        }
        self._new.append({**line, "scores": {f"{name} {versions[name]}": scores[name] for name in job.missing}})
        if time.monotonic() - self._written > _FLUSH_SECONDS:
            self._write()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is noted in the block is written when it ends, however it ends."""
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise refusal(self._path.parent, "cannot be made", error) from error
            append_lines(self._path, [])  # or an hour's work may find no place
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        if self._path is not None and self._new:
            append_lines(self._path, self._new)
        self._new, self._written = [], time.monotonic()

    def _key(self, metric: Metric, digests: tuple[str, str, str]) -> tuple[str, ...]:
        """What a score depends on. Where pictures are resized, all scores depend on the original's size."""
        restored, hr, lr = digests
        hr = hr if metric.needs == "hr" or self._resizes else ""
        return metric.name, metric.version, self._protocol, restored, hr, lr if metric.needs == "lr" else ""

    def _read(self, path: Path) -> None:
        for _, line in read_lines(path, on_damage=lambda error: logger.warning("%s", error)):
            scores = line.get("scores")
            if line.get("protocol") != self._protocol or not isinstance(scores, dict):
                continue
            digests = (str(line.get("restored")), str(line.get("hr")), str(line.get("lr")))
            for metric in self._metrics:
                score = scores.get(f"{metric.name} {metric.version}")
                if (isinstance(score, str) and score in _ABSENT) or (isinstance(score, float) and math.isfinite(score)):
                    self._known[self._key(metric, digests)] = score


def _key_of(protocol: Protocol) -> str:
    """The SHA-256, in hexadecimal, of what else may change scores: the protocol's rules, and who reads and computes.

    A report names the versions that are installed, and what others computed would stand under their names.
    """
    content = {"rules": protocol.rules, "versions": _versions()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _jobs(paired: Mapping[str, Sequence[Case]], store: _Store) -> Iterator[_Job]:
    """Yields a job for each picture of each method, all methods of a picture one after the other."""
    for cases in zip(*paired.values(), strict=True):
        for method, case in zip(paired, cases, strict=True):
            yield store.job(method, case)


# What a table has to tell beside numbers


def _facts(
    methods: Mapping[str, Path],
    paired: Mapping[str, Sequence[Case]],
    *,
    hr: Path | None,
    lr: Path | None,
    store: _Store,
) -> dict[str, Any]:
    """Versions, machine, date, and of each folder a checksum of all its files, JSON-ready."""
    first = next(iter(paired.values()))
    folders = {
        "hr": None if hr is None else _folder(hr, [case.hr for case in first], store.digests),
        "lr": None if lr is None else _folder(lr, [case.lr for case in first], store.digests),
        "methods": {
            name: _folder(methods[name], [case.restored for case in cases], store.digests)
            for name, cases in paired.items()
        },
    }
    versions = {**_versions(), "python": platform.python_version()}
    machine = {"platform": platform.platform(), "cpu": processor_name(), "cores": os.cpu_count()}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": date, "versions": versions, "machine": machine, "folders": folders}


def _versions() -> dict[str, str]:
    versions = {"xpsr": __version__}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _folder(folder: Path, paths: Sequence[Path | None], digests: Mapping[Path, str]) -> dict[str, Any]:
    """Where it is, how many pictures count, and the SHA-256 of what `sha256sum` prints of them, sorted by name."""
    lines = sorted((os.fsencode(path.name), digests[path]) for path in paths if path is not None)
    text = b"".join(digest.encode() + b"  " + name + b"\n" for name, digest in lines)
    return {"path": str(folder), "pictures": len(lines), "sha256": hashlib.sha256(text).hexdigest()}
