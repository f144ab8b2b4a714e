"""What a plan will take: a few of its pictures are restored, and thrown away."""

import dataclasses
import math
import random
import tempfile
import time
from pathlib import Path

from xpsr.batch.estimates import Estimate, Sample, estimate
from xpsr.batch.items import Made, Ticket
from xpsr.batch.running import Batch
from xpsr.batch.worker import Worker
from xpsr.errors import InputError
from xpsr.sources import read_sidecar

__all__ = ["rehearse"]

_SAMPLES = 8
_SECONDS = 60.0
"""Of measuring; more pictures are not begun after it."""


def rehearse(batch: Batch) -> Estimate:
    """Restores some of the pictures that wait, drawn by a chance that is always the same, and says what all take.

    Nothing of them is kept. Of the first one, which warms up, the second try counts.

    Raises:
        InputError: none of them can be restored, or nothing waits.
        ModelError: the model cannot be loaded.
    """
    count = batch.ledger.count_waiting()
    if not count:
        message, remedy = f"{batch.ledger.called}: nothing waits", "add pictures, or --retry-failed"
        raise InputError(message, code="nothing_to_do", remedy=remedy)
    orders = batch.orders()
    chosen = _drawn(batch, count)
    samples: list[Sample] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="xpsr-") as folder:
        config = dataclasses.replace(orders[0].config, on_existing="overwrite")
        worker = Worker(dataclasses.replace(orders[0], config=config, out=folder))
        start = time.perf_counter()
        chosen = _looked_at(batch, chosen)
        # one looks for all who work
        looking = (time.perf_counter() - start) / len(chosen) * len(orders)
        worker.work(chosen[0])
        for ticket in chosen:
            outcome = worker.work(ticket)
            if not isinstance(outcome, Made):
                failures.append(outcome.line)
                continue
            record = read_sidecar(Path(folder, ticket.item.target))
            assert record is not None
            pixels_in = math.prod(record["input_size"])
            samples.append(
                Sample(
                    pixels_in=pixels_in,
                    pixels_out=outcome.pixels,
                    seconds=outcome.seconds + looking,
                    bytes=outcome.bytes,
                )
            )
            if sum(sample.seconds for sample in samples) > _SECONDS:
                break
    if not samples:
        message = f"none of {len(failures)} pictures that were tried can be restored, such as: {failures[0]}"
        raise InputError(message, code="no_samples", remedy="see to that first")
    return estimate(count, samples, workers=len(orders))


def _looked_at(batch: Batch, tickets: list[Ticket]) -> list[Ticket]:
    """Pictures with what a describer says of them that is asked before all the work."""
    if not (batch.lookup.is_asked or batch.lookup.needs_files):
        return tickets
    with batch.looking_on() as look:
        priors, _ = batch.look(tickets, look)
    return [dataclasses.replace(ticket, prior=priors.get(ticket.number)) for ticket in tickets]


def _drawn(batch: Batch, count: int) -> list[Ticket]:
    """Some of the pictures that wait, from all over the plan."""
    places = sorted(random.Random(0).sample(range(count), min(count, _SAMPLES)))
    return [ticket for place in places for ticket in batch.ledger.waiting(skip=place, limit=1)]
