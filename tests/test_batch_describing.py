"""Describers that are asked ahead of all work, while stores and disks give out; what they say: test_batch_cli.py."""

import errno
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from store_helpers import Store, new_store

from xpsr.batch.runner import Event
from xpsr.batch.running import Batch, open_batch
from xpsr.cli import main
from xpsr.config import BatchConfig, UpscaleConfig


class LookedAt(Store):
    """Tells `fail` of each look, too."""

    def info(self, path: str, **options: Any) -> Any:
        type(self).fail("look", path)
        return super().info(path, **options)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Store]]:
    """Eight pictures in a store, and said.jsonl with what is in each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xpsr.batch.stores._PAUSE", 0.0)
    monkeypatch.setattr("xpsr.batch.outage._LONGEST_PAUSE", 0.001)
    monkeypatch.setattr("xpsr.batch.running._TICK", 0.001)
    new_store(LookedAt)
    lines = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save("picture.png")
        content = Path("picture.png").read_bytes()
        fsspec.filesystem("try").pipe_file(f"/in/p{number}.png", content)
        said = {"image": f"p{number}.png", "sha256": hashlib.sha256(content).hexdigest(), "content": f"moose {number}"}
        lines.append(json.dumps(said))
    Path("said.jsonl").write_text("\n".join(lines))
    yield LookedAt
    LookedAt.fail = staticmethod(lambda what, path: None)


@pytest.fixture
def batch(store: type[Store], tiny_model: Path) -> Iterator[Batch]:
    upscale = UpscaleConfig(model=str(tiny_model), priors=Path("said.jsonl"))
    config = BatchConfig(workers=0, retries=2, upscale=upscale)
    told: list[str] = []
    with open_batch(
        ["try://in"],
        "out",
        config,
        folder=Path("out"),
        on_error=lambda name, error: told.append(str(error)),
        on_note=told.append,
    ) as opened:
        yield opened
    assert not told


def contents(batch: Batch) -> list[str | None]:
    """What was said of all that wait."""
    return [None if ticket.prior is None else ticket.prior.content for ticket in batch.ledger.waiting()]


def test_a_store_that_is_away_is_waited_for_and_then_the_run_ends(batch: Batch, store: type[Store]) -> None:
    events: list[Event] = []
    looks: list[int] = []

    def away(what: str, path: str) -> None:
        raise ConnectionError("no route to host")

    store.fail = staticmethod(away)
    assert batch.describe(on_event=events.append, on_look=looks.append).end == "trouble"
    assert not events and batch.ledger.tally().waiting == 8 and contents(batch) == [None] * 8

    def back(what: str, path: str) -> None:
        if len(looks) < count + 3:
            raise ConnectionError("no route to host")

    count = len(looks)
    store.fail = staticmethod(back)
    assert batch.describe(on_event=events.append, on_look=looks.append).end == "complete"
    assert not events and contents(batch) == [f"moose {number}" for number in range(8)] and looks[-1] == 8


def test_who_stops_need_not_wait_for_a_store_that_is_away(batch: Batch, store: type[Store]) -> None:
    looks = 0

    def away(what: str, path: str) -> None:
        raise ConnectionError("no route to host")

    def look(done: int) -> None:
        nonlocal looks
        looks += 1

    store.fail = staticmethod(away)
    assert batch.describe(is_stopping=lambda: looks > 1, on_look=look).end == "stopped"
    assert batch.ledger.tally().waiting == 8


@pytest.mark.parametrize("failures", [8, 12])  # a read is tried four times
def test_a_picture_that_cannot_be_fetched_is_tried_so_often_and_no_oftener(
    batch: Batch, store: type[Store], failures: int
) -> None:
    reads: Counter[str] = Counter()
    events: list[Event] = []

    def now_and_then(what: str, path: str) -> None:
        reads[path] += what == "get"
        if what == "get" and path.endswith("p3.png") and reads[path] <= failures:
            raise ConnectionError("reset by peer")

    store.fail = staticmethod(now_and_then)
    assert batch.describe(on_event=events.append).end == "complete"
    is_failed = failures == 12
    assert [event.is_last for event in events] == [False, False, True][: failures // 4]
    assert batch.ledger.tally().failed == is_failed and reads.total() == 7 + 8 + 4 - 3 * (not is_failed)
    assert contents(batch) == [f"moose {number}" for number in range(8) if number != 3 or not is_failed]


def test_a_picture_that_has_gone_fails_at_once(batch: Batch, store: type[Store]) -> None:
    fsspec.filesystem("try").rm_file("/in/p3.png")
    events: list[Event] = []
    assert batch.describe(on_event=events.append).end == "complete"
    assert [(event.is_last, getattr(event.outcome, "code", "")) for event in events] == [(True, "not_found")]


def test_a_full_disk_ends_the_run_with_all_else_waiting(store: type[Store], tiny_model: Path) -> None:
    reads = 0

    def fill(what: str, path: str) -> None:
        nonlocal reads
        reads += what == "get"
        if what == "get" and reads > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    store.fail = staticmethod(fill)
    machine = ["--model", str(tiny_model), "--device", "cpu", "--workers", "0", "--quiet", "--json"]
    options = ["batch", "try://in", "-o", "out", "--priors", "said.jsonl", *machine]
    assert main(options) == 1
    assert not list(Path("out").rglob("*.png"))
    store.fail = staticmethod(lambda what, path: None)
    assert main(options) == 0
    records = [json.loads(path.read_text()) for path in sorted(Path("out").rglob("p*.json"))]
    assert [record["prior"]["content"] for record in records] == [f"moose {number}" for number in range(8)]


def test_who_takes_the_room_of_others_does_not_make_them_fail(batch: Batch, store: type[Store]) -> None:
    reads = 0

    def fill(what: str, path: str) -> None:  # there is room for two copies at a time
        nonlocal reads
        reads += what == "get"
        if what == "get" and len(list(Path("out/.xpsr-scratch").rglob("*.png"))) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    store.fail = staticmethod(fill)
    assert batch.describe().end == "complete" and None not in contents(batch) and reads == 8 + 6 + 4 + 2
