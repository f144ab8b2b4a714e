"""From what a user names to results in their places: plan, ledger, describers and crew, one after the other."""

import dataclasses
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xpsr.batch.inputs import plan_items
from xpsr.batch.items import Failure, Order, Ticket, failure_of
from xpsr.batch.ledger import LEDGER, Ledger
from xpsr.batch.outage import FULL, OUTSIDE, Outage
from xpsr.batch.stores import Results, fetch, is_address, plain, stamp_of
from xpsr.config import BatchConfig, as_dict
from xpsr.errors import InputError, XPSRError, printable
from xpsr.files import sha256
from xpsr.model_files import fetch_model
from xpsr.prior import QUESTIONS, Prior, PriorLookup
from xpsr.records import Recipe
from xpsr.sources import Source

if TYPE_CHECKING:  # they load torch
    from xpsr.batch.crew import Crew
    from xpsr.batch.runner import End, Event

__all__ = ["Batch", "Ending", "open_batch"]

Look: TypeAlias = Callable[[Sequence[Path]], dict[Path, Prior | Exception]]

_MACHINE = frozenset({"device", "offload", "on_existing", "max_pixels", "max_bytes", "accept_truncated"})
"""Fields of `UpscaleConfig` that no result depends on."""

_DISK_SECONDS = 5.0
"""After which the disk is looked at again."""

_WORKER = 3 * 2**29
"""Bytes of memory without which no further worker is started, where nobody says how many; the mini takes about 1 GB."""

_TICK = 0.2
"""Seconds after which somebody looks whether a pause is over."""

_LOOKED_AT = 32
"""Pictures that a describer is shown before what it said is kept."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended.

    Attributes:
        end: "complete"; "stopped" where somebody asked for it; "disk_full"; "disk_short" where the disk has no room for
            what waits; "trouble" where sources or results could not be reached.
        missing_bytes: which that lacks.
    """

    end: "End"
    missing_bytes: int = 0


@dataclass(kw_only=True)
class Batch:
    """A plan with its ledger, which nobody else can use meanwhile; `open_batch` makes one.

    Attributes:
        inputs: what was named and is there.
        out: the folder of all results, or its address.
        results: the same, to be written to.
        folder: where ledger and reports are, which is `out` where that is a folder of this machine.
        config: of the run.
        ledger: what became of each picture.
        lookup: who tells what is in pictures and what is wrong with them.
        weights: `Recipe.weights_key` of the model.
        broken_off: targets that a run was at work on when it was killed.
    """

    inputs: Sequence[str]
    out: str
    results: Results
    folder: Path
    config: BatchConfig
    ledger: Ledger
    lookup: PriorLookup
    weights: str
    broken_off: Sequence[str]

    def describe(
        self,
        *,
        is_stopping: Callable[[], bool] = lambda: False,
        on_event: "Callable[[Event], None]" = lambda event: None,
        on_look: Callable[[int], None] = lambda done: None,
    ) -> Ending:
        """Has a describer that asks a model, or that reads what was written, look at all pictures that wait.

        What it says goes into the ledger, so that nobody is asked twice; its memory is free when this returns. Unless
        it was "complete", there are pictures of which nothing was said yet, and `run` is not to be called.

        Args:
            is_stopping: whether to end.
            on_event: is told of each picture of which nothing can be said, which fails or is tried again.
            on_look: is told how many were looked at so far, several times a second in a pause.

        Raises:
            ModelError: it cannot be loaded or reached.
            MissingDependencyError: it needs a package that is missing.
        """
        self.results.sweep(self.broken_off)  # the ledger tells of them once, and this may end in an error
        if not (self.lookup.is_asked or self.lookup.needs_files):
            return Ending(end="complete")
        from xpsr.batch.runner import Event

        after = done = 0
        tries: Counter[int] = Counter()
        outage = Outage(self._is_reachable)
        with self.looking_on() as look:
            while not is_stopping():
                if outage.is_pausing:
                    time.sleep(_TICK)
                    on_look(done)
                    continue
                tickets = self.ledger.waiting(after=after, limit=_LOOKED_AT, lacks_prior=True)
                if not tickets:
                    if not after:
                        return Ending(end="complete")
                    after = 0  # those that are tried again come after all others
                    continue
                after = tickets[-1].number
                priors, failed = self.look(tickets, look)
                self.ledger.keep_priors(priors)
                end, excused = _blame(failed, outage, has_worked=bool(priors))
                final: list[tuple[int, Failure, bool]] = []
                for ticket in tickets:
                    failure = failed.get(ticket.number)
                    if failure is None or failure.code in excused:
                        continue
                    tries[ticket.number] += 1
                    is_last = not failure.may_pass or tries[ticket.number] > self.config.retries
                    if is_last:
                        final.append((ticket.number, failure, True))
                    on_event(Event(ticket=ticket, outcome=failure, is_last=is_last, hand="describer"))
                self.ledger.keep(failed=final)
                done += len(priors) + len(final)
                on_look(done)
                if end is not None:
                    return Ending(end=end)
        return Ending(end="stopped")

    def looking_on(self) -> AbstractContextManager[Look]:
        """As `PriorLookup.looking_on`, of pictures that are read as the config says."""
        from xpsr.batch.measuring import picture_file

        return self.lookup.looking_on(as_file=partial(picture_file, config=self.config.upscale))

    def look(self, tickets: Sequence[Ticket], look: Look) -> tuple[dict[int, Prior], dict[int, Failure]]:
        """Returns what `look`, of `looking_on`, says of pictures, and of which it can say nothing."""
        priors: dict[int, Prior] = {}
        failed: dict[int, Failure] = {}
        with tempfile.TemporaryDirectory(prefix="xpsr-", dir=self._scratch) as folder:
            sources: dict[Path, list[tuple[int, Source]]] = {}
            for ticket in tickets:
                here = Path(folder, str(ticket.number))
                try:
                    here.mkdir()
                    source = fetch(ticket.item, here)
                    sources.setdefault(source.path, []).append((ticket.number, source))
                except Exception as error:  # every picture is tried
                    failed[ticket.number] = failure_of(error)
            for path, found in look(list(sources)).items():
                for number, source in sources[path]:
                    if isinstance(found, Exception):
                        failed[number] = _named(failure_of(found), source)
                    else:
                        priors[number] = found
        return priors, failed

    def run(
        self,
        *,
        is_stopping: Callable[[], bool] = lambda: False,
        on_event: "Callable[[Event], None]" = lambda event: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Ending:
        """Restores all pictures that wait.

        Args:
            is_stopping: whether to finish what is in hand and to end.
            on_event: is told what becomes of each picture.
            on_tick: is called several times a second.

        Raises:
            XPSRError: nobody can work, as the model cannot be loaded or process after process dies.
        """
        from xpsr.batch.estimates import shortage
        from xpsr.batch.runner import run

        self.results.sweep(self.broken_off)
        if is_stopping() or not self.ledger.count_waiting():
            return Ending(end="stopped" if is_stopping() else "complete")
        config, crew, missing = self.config, self._crew(), 0
        looked, is_whole = time.monotonic(), False

        def look_at_disk() -> None:
            nonlocal looked, missing
            if time.monotonic() - looked >= _DISK_SECONDS:
                looked = time.monotonic()
                missing = shortage(self.results.free_bytes(), self.ledger.tally())
            on_tick()

        try:
            end = run(
                self.ledger,
                crew,
                retries=config.retries,
                timeout=config.timeout,
                is_reachable=self._is_reachable,
                is_stopping=lambda: missing > 0 or is_stopping(),
                on_event=on_event,
                on_tick=look_at_disk,
            )
            is_whole = True
        finally:
            crew.close(now=not is_whole)
        is_short = missing > 0 and end == "stopped"
        return Ending(end="disk_short" if is_short else end, missing_bytes=missing if is_short else 0)

    def _is_reachable(self) -> bool:
        """Returns whether all inputs are there, and results can be written."""
        try:
            for name in self.inputs:
                stamp_of(plain(name))
        except XPSRError:
            return False
        return self.results.is_reachable()

    def orders(self) -> list[Order]:
        """Returns what each worker on this machine is told; on Ray, what all of them are.

        The number type is decided here, once: each for itself, workers might decide differently.

        Raises:
            InputError: results that are there were made on another kind of device, or in another number type.
        """
        import torch

        from xpsr.devices import resolve_dtype
        from xpsr.engines import resolve_place

        config = self.config
        devices = _devices(config.upscale.device, config)
        if config.ray is not None and config.num_gpus:  # of which this machine may have none
            kind, dtype = "cuda", resolve_dtype(config.upscale.dtype, torch.device("cuda"))
        else:
            place, dtype = resolve_place(config.upscale.engine, devices[0], config.upscale.dtype)
            kind = place.type
        facts = {"device": kind, "computed_in": dtype}
        self.ledger.bind(facts, kind="machine", replaces=config.upscale.on_existing == "overwrite")
        upscale = dataclasses.replace(config.upscale, dtype=dtype)
        # whoever asks a model, or reads what was written, has done so
        describer = self.lookup.name if self.lookup.name == "mini" else "none"
        return [
            Order(
                config=upscale,
                describer=describer,
                describer_name=self.lookup.name,
                out=self.out,
                device=device,
                threads=config.threads,
                weights=self.weights,
                scratch=None if config.ray is not None else str(self._scratch),
            )
            for device in devices
        ]

    @property
    def _scratch(self) -> Path:
        return _scratch_of(self.folder)

    def _crew(self) -> "Crew":
        config, orders = self.config, self.orders()
        if config.ray is not None:
            from xpsr.batch.on_ray import RayCrew

            return RayCrew(orders[0], address=config.ray, num_cpus=config.num_cpus, num_gpus=config.num_gpus)
        if config.workers == 0:
            from xpsr.batch.inline import Inline

            return Inline(orders[0])
        from xpsr.batch.processes import ProcessCrew

        return ProcessCrew(orders)


@contextmanager
def open_batch(
    inputs: Sequence[str],
    out: str,
    config: BatchConfig,
    *,
    folder: Path,
    called: Path | None = None,
    on_error: Callable[[str, InputError], None],
    on_note: Callable[[str], None],
) -> Iterator[Batch]:
    """Makes the plan of a batch, or finds it as an earlier run has left it, and holds its ledger until the block ends.

    Args:
        inputs: folders, pictures, lists, tar files and addresses, as `plan_items` takes them.
        out: the folder of all results, or its address.
        config: how.
        folder: where the ledger is.
        called: what errors call that folder, where it is a copy.
        on_error: is told of what cannot be planned.
        on_note: is told in a line what is passed over.

    Raises:
        InputError: `folder` is of another plan, or another run is at work there; or nothing can be planned.
    """
    upscale = config.upscale
    lookup = PriorLookup(
        upscale.describer,
        priors=upscale.priors,
        content=upscale.content,
        quality=upscale.quality,
        questions=QUESTIONS[upscale.preset or "default"],
        device=upscale.device,
    )
    recipe = Recipe(config=upscale, describer=lookup.name, folder=fetch_model(upscale.model))
    asked = upscale.size_asked
    absent: set[str] = set()
    unread: set[str] = set()

    def tell(name: str, error: InputError) -> None:
        absent.add(name)
        on_error(name, error)

    # the ledger is for whoever comes from another folder, too
    inputs = [name if name in ("", "-") or is_address(name) else str(Path(name).absolute()) for name in inputs]
    with Ledger(folder / LEDGER, called=called) as ledger:
        facts = _facts(out, config, recipe)
        ledger.bind(facts, replaces=upscale.on_existing == "overwrite")
        results = Results(out)
        broken_off = ledger.recover()
        ledger.plan(
            plan_items(
                inputs,
                out=out,
                include=config.include,
                exclude=config.exclude,
                name=config.name,
                format=upscale.format,
                size="" if asked is None else asked.suffix.lstrip("_"),
                seed=upscale.seed,
                content=upscale.content,
                quality=upscale.quality,
                part=config.part,
                on_error=tell,
                on_note=on_note,
                on_unread=unread.add,
            ),
            is_whole=lambda: not unread,  # what is away for now will be back
        )
        ledger.reopen(list(results.changed(ledger.results())))
        scratch = _scratch_of(folder)
        shutil.rmtree(scratch, ignore_errors=True)  # what a run that was killed has left
        scratch.mkdir(parents=True)
        batch = Batch(
            inputs=[name for name in inputs if plain(name) not in absent],
            out=out,
            results=results,
            folder=folder,
            config=config,
            ledger=ledger,
            lookup=lookup,
            weights=recipe.weights_key,
            broken_off=broken_off,
        )
        try:
            if upscale.on_existing == "overwrite":
                batch.orders()  # what another machine has made waits again
            yield batch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _blame(failed: Mapping[int, Failure], outage: Outage, *, has_worked: bool) -> tuple["End | None", tuple[str, ...]]:
    """Returns how a run ends after pictures of which some failed, if it does, and codes for which none is to blame."""
    codes = [failure.code for failure in failed.values()]
    if has_worked:
        outage.reset()
    elif codes.count("disk_full") >= FULL:
        return "disk_full", ("disk_full",)
    excused = ("disk_full",) if has_worked else ()  # others took the room meanwhile
    if not set(OUTSIDE).isdisjoint(codes) and outage.look():
        return "trouble" if outage.is_too_long else None, (*excused, *OUTSIDE)
    return None, excused


def _named(failure: Failure, source: Source) -> Failure:
    """Returns a failure that calls a picture, of which there was a copy, by its address."""
    if source.address is None:
        return failure
    return dataclasses.replace(
        failure, line=failure.line.replace(printable(str(source.path)), printable(source.address))
    )


def _scratch_of(folder: Path) -> Path:
    """Where copies of pictures lie on their way, so that whoever holds the ledger can empty it."""
    return folder / ".xpsr-scratch"


def _facts(out: str, config: BatchConfig, recipe: Recipe) -> dict[str, Any]:
    """What all results of a plan depend on, by the name of the option that says it."""
    priors = config.upscale.priors
    plan = {name: getattr(config, name) for name in ("name", "threads")}
    said = as_dict(config.upscale).items()
    settings = {name: value for name, value in said if name not in _MACHINE and value is not None}
    return {
        **({"output": out} if is_address(out) else {}),  # a folder that holds its ledger may be moved
        **plan,
        **settings,
        **({} if priors is None or not priors.is_file() else {"priors_sha256": sha256(priors)}),
        "weights": recipe.weights,
        "model_index": recipe.asked["model_index"],
    }


def _devices(device: str, config: BatchConfig) -> list[str]:
    """One device for each worker: all graphics cards in turn, or the CPU for each share of its cores.

    On Ray there is one, as each of its machines has it.
    """
    if config.ray is not None:
        return ["cuda" if config.num_gpus else "cpu"]
    if device == "cpu" and config.workers is not None:  # torch, which takes seconds, need not tell
        return ["cpu"] * max(config.workers, 1)
    import torch

    from xpsr.devices import free_memory, resolve_device

    found = resolve_device(device)
    if found.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        free = free_memory(found)
        most = cores if free is None else free // _WORKER
        most = max(1, min(cores // config.threads, most))
        return ["cpu"] * (most if config.workers is None else max(config.workers, 1))
    cards = [str(found)]
    if found.type == "cuda" and device != str(found):  # "auto" or "cuda", and no certain one
        cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    count = len(cards) if config.workers is None else max(config.workers, 1)
    return [cards[number % len(cards)] for number in range(count)]
