"""A suite run: results of each method on each set, their scores, and how long they took."""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from xpsr import __version__
from xpsr.benchmark.commands import Command
from xpsr.benchmark.restoring import Made, Models, restore_all
from xpsr.benchmark.suite import Pair, PictureSet, Suite, named_folder, open_set
from xpsr.benchmark.texts import SetTexts
from xpsr.config import MethodConfig, Size
from xpsr.devices import processor_name, resolve_device
from xpsr.errors import InputError, XPSRError, one_line
from xpsr.evaluation import Evaluation, Protocol, evaluate, load_protocol, write_report
from xpsr.evaluation.report import check_place
from xpsr.files import refusal
from xpsr.jsonl import append_lines, read_lines
from xpsr.model_files import resolve_model
from xpsr.prior import PriorFile

__all__ = ["Outcome", "SetOutcome", "find_sets", "run_suite", "why_not"]


@dataclass(frozen=True, kw_only=True)
class SetOutcome:
    """What a suite found on a set.

    Attributes:
        pictures: the set.
        evaluation: scores of the methods that have all results; None: no method has.
        seconds: for a picture, the median, by method; absent where nobody has measured it.
        failed: of methods that failed, why, in a line.
        left_out: of methods that have no meaning on the set, why, in a line.
    """

    pictures: PictureSet
    evaluation: Evaluation | None
    seconds: Mapping[str, float]
    failed: Mapping[str, str]
    left_out: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a suite found, set by set.

    Attributes:
        suite: what was run.
        sets: what was found, in the suite's order.
        skipped: of sets that are not there, what is missing, in a line.
        machines: where the seconds were measured.
    """

    suite: Suite
    sets: tuple[SetOutcome, ...]
    skipped: Mapping[str, str]
    machines: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every method has restored every set that is there."""
        return not any(one.failed for one in self.sets)


def find_sets(suite: Suite) -> tuple[list[PictureSet], dict[str, InputError]]:
    """Returns the sets of a suite that are there, and of each other one what is missing.

    Raises:
        InputError: pictures and originals of a set are no pairs.
    """
    found, missing = [], {}
    for config in suite.config.sets:
        try:
            found.append(open_set(config))
        except InputError as error:
            if error.code != "no_set":
                raise
            missing[config.name] = error
    return found, missing


def why_not(suite: Suite, method: MethodConfig) -> str | None:
    """Returns why a method cannot run on this machine, in a line; None: nothing is known against it."""
    if method.model is not None:
        try:
            resolve_model(method.model)
        except XPSRError as error:
            return one_line(error)
    if method.command is None:
        return None
    command = Command(template=method.command, folder=suite.folder)
    return None if command.program() else f"{command.words[0]} was not found"


def run_suite(
    suite: Suite,
    out: Path,
    *,
    device: str = "auto",
    weights: Path | None = None,
    workers: int = 0,
    skip_missing: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
    on_failure: Callable[[str, str, Exception], None] | None = None,
) -> Outcome:
    """Restores all sets with all methods, as far as that is not done, and scores them.

    Results are `out/results/SET/METHOD/NAME.png`, each with a record; a result is made again only where its picture,
    the method's settings or the model changed. A method that fails is left out and the others go on. What is wrong with
    the suite, its sets and texts is raised before anything is restored.

    Args:
        suite: what is to be run.
        out: the folder of results and reports, `out/SET/index.html` and others.
        device: of models; see `xpsr.Restorer`.
        weights: the folder of the weights of learned metrics; None: these are not measured.
        workers: processes that score.
        skip_missing: whether sets that are not there are left out.
        on_progress: is told how many of how many pictures are done, and of what.
        on_failure: is told of a method that failed: set, method and error.

    Raises:
        InputError: a set is not there, has no texts that a method asks for, the protocol is unknown, what lies where a
            report goes is of none, or another run is at work in `out`.
    """
    config, place = suite.config, str(resolve_device(device))
    protocol = load_protocol(config.protocol)
    sets, missing = find_sets(suite)
    if missing and (not skip_missing or not sets):
        raise next(iter(missing.values()))
    texts = {
        one.name: SetTexts(one, seed=config.seed, kept=PriorFile(out / "described.jsonl"), device=place) for one in sets
    }
    for one in sets:
        check_place(out / one.name)
        for method in config.methods:
            texts[one.name].check(method)
    with _alone_in(out):
        run = _Run(
            suite=suite,
            out=out,
            models=Models(device=place),
            machine=_machine(place),
            on_progress=on_progress or (lambda done, total, note: None),
            on_failure=on_failure or (lambda pictures, method, error: None),
        )
        total = sum(len(one.pairs) for one in sets) * len(config.methods)
        for method in config.methods:  # the outer loop, so that a model is loaded once
            for one in sets:
                run.restore(one, method, texts[one.name], total)
        outcomes = tuple(run.score(one, protocol, weights=weights, workers=workers) for one in sets)
        return Outcome(
            suite=suite,
            sets=outcomes,
            skipped={name: error.message for name, error in missing.items()},
            machines=tuple(run.machines),
        )


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keeps other runs out of a folder."""
    lock = FileLock(out / ".xpsr.lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        remedy = "wait for it, or choose another folder with -o"
        raise InputError(f"{out}: another run is at work there", code="in_use", remedy=remedy) from error
    except OSError as error:
        raise refusal(out, "cannot be written", error) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(kw_only=True)
class _Run:
    suite: Suite
    out: Path
    models: Models
    machine: str
    on_progress: Callable[[int, int, str], None]
    on_failure: Callable[[str, str, Exception], None]
    done: int = 0
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    machines: dict[str, None] = field(default_factory=dict)

    @property
    def _times(self) -> Path:
        return self.out / "times.jsonl"

    def results(self, pictures: PictureSet, method: str) -> Path:
        """The folder of a method's results."""
        return self.out / "results" / pictures.name / method

    def restore(self, pictures: PictureSet, method: MethodConfig, texts: SetTexts, total: int) -> None:
        """Makes what is missing of a method's results; what goes wrong is noted, and the other methods go on."""
        before, note = self.done, f"{pictures.name}: {method.name}"
        reason = why_not(self.suite, method)
        if not texts.has(method):
            self.left_out.setdefault(pictures.name, {})[method.name] = "the set has no texts by hand"
        elif reason is not None:
            self._fail(pictures, method, InputError(f"not run: {reason}", code="not_found"), f"not run: {reason}")
        else:
            try:
                for _ in self._restore(pictures, method, texts):
                    self.done += 1
                    self.on_progress(self.done, total, note)
            except Exception as error:  # the exit code tells
                if isinstance(error, InputError) and error.code == "disk_full":
                    raise
                self._fail(pictures, method, error, f"failed: {one_line(error)}")
        self.done = before + len(pictures.pairs)
        self.on_progress(self.done, total, note)

    def _fail(self, pictures: PictureSet, method: MethodConfig, error: Exception, told: str) -> None:
        self.failed.setdefault(pictures.name, {})[method.name] = told
        self.on_failure(pictures.name, method.name, error)

    def _restore(self, pictures: PictureSet, method: MethodConfig, texts: SetTexts) -> Iterator[None]:
        made = restore_all(
            method,
            pictures.pairs,
            self.results(pictures, method.name),
            size=Size(scale=self.suite.config.scale),
            seed=self.suite.config.seed,
            models=self.models,
            priors=lambda: texts.priors(method),
            base=self.suite.folder,
        )
        for one in made:
            if one is not None:
                self._note_time(pictures, method, one)
            yield

    def _note_time(self, pictures: PictureSet, method: MethodConfig, made: Made) -> None:
        line = {"set": pictures.name, "method": method.name, "name": made.name, "seconds": round(made.seconds, 4)}
        append_lines(self._times, [{**line, "first": made.is_first, "machine": self.machine}])

    def _seconds(self, pictures: PictureSet) -> dict[str, float]:
        """Medians by method. The first picture of a model counts only where there is no other."""
        last = {
            (line["method"], line["name"]): line for _, line in read_lines(self._times) if line["set"] == pictures.name
        }
        names = {pair.name for pair in pictures.pairs}
        medians = {}
        for method in self.suite.config.methods:
            lines = [line for (of, name), line in last.items() if of == method.name and name in names]
            warm = [line for line in lines if not line["first"]] or lines
            if warm:
                medians[method.name] = statistics.median(line["seconds"] for line in warm)
                self.machines |= dict.fromkeys(line["machine"] for line in warm)
        return medians

    def score(self, pictures: PictureSet, protocol: Protocol, *, weights: Path | None, workers: int) -> SetOutcome:
        """Scores the methods that have all results, and writes the report."""
        name = pictures.name
        failed, left_out = self.failed.get(name, {}), self.left_out.get(name, {})
        folders = {
            method.name: self.results(pictures, method.name)
            for method in self.suite.config.methods
            if method.name not in failed and method.name not in left_out
        }
        evaluation = None
        if folders:
            place = self.out / "inputs" / name
            has_hr = pictures.config.hr is not None
            evaluation = evaluate(
                folders,
                hr=named_folder(pictures.pairs, _original, place / "hr") if has_hr else None,
                lr=named_folder(pictures.pairs, _input, place / "lr"),
                protocol=protocol,
                weights=weights,
                workers=workers,
                cache=self.out / "scores.jsonl",
                on_progress=lambda done, total: self.on_progress(done, total, f"{name}: scoring"),
            )
            write_report(evaluation, self.out / name)
        seconds = self._seconds(pictures)
        return SetOutcome(pictures=pictures, evaluation=evaluation, seconds=seconds, failed=failed, left_out=left_out)


def _original(pair: Pair) -> Path:
    assert pair.hr is not None
    return pair.hr


def _input(pair: Pair) -> Path:
    return pair.lr


def _machine(device: str) -> str:
    """Names what results are made on."""
    accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    threads = torch.get_num_threads()
    return (
        f"{processor_name()}, {os.cpu_count()} cores, {accelerator}"
        f" ({threads} thread{'s' * (threads > 1)}; xpsr {__version__}, torch {torch.__version__})"
    )
