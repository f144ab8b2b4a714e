"""Who works: takes pictures of a plan one by one, from their sources to results that are in their places."""

import dataclasses
import hashlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xpsr.batch.items import Failure, Made, Order, Outcome, Ticket, failure_of
from xpsr.batch.restoring import Opened, open_job, open_restorer, restore_opened, write_restored
from xpsr.batch.stores import Results, fetch, is_address, stamp_of
from xpsr.errors import InputError, ModelError
from xpsr.model_files import fetch_model
from xpsr.prior import Prior, PriorLookup, completed
from xpsr.records import Recipe, Seen, look, occupied, what_to_do
from xpsr.restore import Restored
from xpsr.sources import Job, read_sidecar

__all__ = ["Held", "Worker"]


@dataclass(kw_only=True)
class Held:
    """A picture between two stages of the work; `folder` is removed at its end.

    `seconds` is what was worked on it so far, without what it waited between stages.
    """

    ticket: Ticket
    seconds: float = 0.0
    folder: tempfile.TemporaryDirectory[str]
    place: Path
    recipe: Recipe
    opened: Opened
    seen: Seen | None
    prior: Prior | None


class Worker:
    """A loaded model with what is needed to restore pictures of a plan.

    `work` does all of it for one picture. Its three stages may run in threads of their own, each stage in one, so that
    the next picture is read and the last one written while one is computed.

    Raises:
        InputError: an option that this machine or model cannot follow.
        ModelError: the model cannot be loaded.
    """

    def __init__(self, order: Order):
        config = order.config
        torch.set_num_threads(order.threads)
        self._results, self._folder = Results(order.out), fetch_model(config.model)
        self._prior_of = PriorLookup(order.describer, device=order.device)
        self._recipe = Recipe(config=config, describer=order.describer_name, folder=self._folder)
        self._scratch = order.scratch
        if order.weights not in ("", self._recipe.weights_key):
            message = f"{config.model}: is another model than the one that the plan was made for"
            raise ModelError(message, remedy="run the same command again")
        self._restorer = open_restorer(config, device=order.device)

    def work(self, ticket: Ticket) -> Outcome:
        """Restores a picture and returns what became of it; raises nothing that its picture can be blamed for."""
        held = self.open(ticket)
        if isinstance(held, Held):
            painted = self.paint(held)
            return painted if isinstance(painted, Failure) else self.write(held, painted)
        return held

    def open(self, ticket: Ticket) -> Held | Outcome:
        """The first stage: finds out whether there is anything to do, and reads the picture."""
        start = time.perf_counter()
        try:
            folder = tempfile.TemporaryDirectory(prefix="xpsr-", dir=self._scratch, ignore_cleanup_errors=True)
        except OSError as error:
            return failure_of(error)
        try:
            held = self._open(ticket, folder)
        except Exception as error:
            folder.cleanup()
            return failure_of(error)
        if isinstance(held, Made):
            folder.cleanup()
        else:
            held.seconds = time.perf_counter() - start
        return held

    def paint(self, held: Held) -> Restored | Failure:
        """The second stage: restores the picture that was read."""
        start = time.perf_counter()
        try:
            prior, item = held.prior, held.ticket.item
            if prior is None:
                source = held.opened.job.source
                prior = completed(self._prior_of(source.path, held.opened.picture), item.content, item.quality)
            # other tiles would give another result, by what else takes memory at the time
            restored = restore_opened(self._restorer, held.opened, prior, held.recipe, keeps_tiles=True)
        except Exception as error:
            held.folder.cleanup()
            return failure_of(error)
        held.seconds += time.perf_counter() - start
        return restored

    def write(self, held: Held, restored: Restored) -> Outcome:
        """The last stage: puts result and record in their places."""
        try:
            return self._write(held, restored)
        except Exception as error:
            return failure_of(error)
        finally:
            held.folder.cleanup()

    def _open(self, ticket: Ticket, folder: tempfile.TemporaryDirectory[str]) -> Held | Made:
        item, config = ticket.item, self._recipe.config
        here = {name: Path(folder.name, name) for name in ("source", "result")}
        for place in here.values():
            place.mkdir()
        stamp = "" if is_address(item.source) else stamp_of(item.source)
        source, place = fetch(item, here["source"]), self._results.place(item.target, here["result"])
        job = Job(source=source, target=place)
        recipe = self._recipe.with_config(
            dataclasses.replace(config, seed=item.seed, content=item.content, quality=item.quality)
        )
        prior = ticket.prior
        if prior is not None or (item.content is not None and item.quality is not None):
            prior = completed(prior or Prior(), item.content, item.quality)
        seen = None if config.on_existing == "overwrite" else look(place)
        state = _state(job, recipe, prior)
        if state == "is_there":
            return Made(status="skipped", output_stamp=self._results.stamp(item.target))
        if state == "is_done":
            record = read_sidecar(place)
            assert record is not None
            return self._made("adopted", ticket, recipe, place, record, float(record["seconds"]))
        opened = open_job(job, recipe)
        if source.address is None and stamp_of(item.source) != stamp:
            message = f"{item.source}: was changed while it was read"
            raise InputError(message, code="changed", remedy="run the same command again")
        return Held(
            ticket=ticket,
            folder=folder,
            place=place,
            recipe=recipe,
            opened=opened,
            seen=seen,
            prior=prior,
        )

    def _write(self, held: Held, restored: Restored) -> Made:
        start = time.perf_counter()
        record = write_restored(held.opened, restored, held.recipe, seen=held.seen).record
        self._results.send(held.place, held.ticket.item.target)
        seconds = held.seconds + time.perf_counter() - start
        return self._made("made", held.ticket, held.recipe, held.place, record, seconds)

    def _made(
        self, status: str, ticket: Ticket, recipe: Recipe, place: Path, record: dict[str, Any], seconds: float
    ) -> Made:
        width, height = record["output_size"]
        return Made(
            status=status,
            key=_key_of(record, recipe),
            output_sha256=record["output_sha256"],
            output_stamp=self._results.stamp(ticket.item.target),
            pixels=width * height,
            bytes=place.stat().st_size,
            seconds=round(seconds, 4),
            notices=tuple(record.get("notices", ())),
        )


def _key_of(record: dict[str, Any], recipe: Recipe) -> str:
    """Returns the SHA-256 of what a result is a function of: its source's bytes, texts, seed, settings and model."""
    facts = {
        "input": record["input_sha256"],
        "prior": record["prior"],
        "seed": record["seed"],
        "asked": recipe.asked,
        "size": recipe.config.target(*record["input_size"]).asked,
        "weights": recipe.weights,
        "machine": [record[name] for name in ("dtype", "engine")],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _state(job: Job, recipe: Recipe, prior: Prior | None) -> str:
    """As `what_to_do`, but that "error" leaves what this plan has made, before a run was killed."""
    mode = recipe.config.on_existing
    if mode == "error":
        recipe = recipe.with_config(dataclasses.replace(recipe.config, on_existing="update"))
    state = what_to_do(job, recipe, lambda path, digest: prior)
    assert job.target is not None
    if mode == "error" and state == "restore" and look(job.target)[0] is not None:
        raise occupied(job.target, "is there already")
    return state
