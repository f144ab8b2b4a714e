"""What the runner and a process that works for it say to each other: lines of JSON."""

import json
from dataclasses import asdict

from xpsr.batch.crew import Finished, Lost, News, Ready
from xpsr.batch.items import Failure, Item, Made, Order, Outcome, Ticket
from xpsr.config import UpscaleConfig, as_dict, override
from xpsr.errors import XPSRError, error_of
from xpsr.prior import Prior

__all__ = [
    "READY",
    "done_line",
    "failed_line",
    "order_line",
    "read_news",
    "read_order",
    "read_ticket",
    "ticket_line",
]

READY = '{"kind": "ready"}\n'
"""The model is loaded."""


def order_line(order: Order) -> str:
    """Writes an order."""
    return json.dumps(asdict(order) | {"config": as_dict(order.config)}) + "\n"


def read_order(line: str) -> Order:
    """Reads what `order_line` wrote."""
    values = json.loads(line)
    return Order(**values | {"config": override(UpscaleConfig(), values["config"])})


def ticket_line(ticket: Ticket) -> str:
    """Writes a ticket."""
    prior = None if ticket.prior is None else ticket.prior.as_dict()
    return json.dumps({"number": ticket.number, "item": asdict(ticket.item), "prior": prior}) + "\n"


def read_ticket(line: str) -> Ticket:
    """Reads what `ticket_line` wrote."""
    values = json.loads(line)
    prior = None if values["prior"] is None else Prior.from_dict(values["prior"])
    return Ticket(number=values["number"], item=Item(**values["item"]), prior=prior)


def done_line(number: int, outcome: Outcome) -> str:
    """Writes what became of a picture."""
    said = {"kind": "done", "number": number, "is_made": isinstance(outcome, Made), "outcome": asdict(outcome)}
    return json.dumps(said) + "\n"


def failed_line(error: XPSRError) -> str:
    """Writes why the work cannot begin."""
    return json.dumps({"kind": "failed", "error": {**error.parts, "kind": type(error).__name__}}) + "\n"


def read_news(line: str, hand: str) -> News:
    """Reads what a process wrote that is called `hand`."""
    said = json.loads(line)
    if said["kind"] == "ready":
        return Ready(hand=hand)
    if said["kind"] == "failed":
        return Lost(hand=hand, error=error_of(said["error"]))
    values = said["outcome"]
    outcome = Made(**values | {"notices": tuple(values["notices"])}) if said["is_made"] else Failure(**values)
    return Finished(hand=hand, number=said["number"], outcome=outcome)
