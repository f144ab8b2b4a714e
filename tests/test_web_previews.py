"""What a server's workers tell of a picture so far: small, not too often, and only where somebody looks on."""

import io
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xpsr.config import ServeConfig, UpscaleConfig
from xpsr.web import worker as working
from xpsr.web.hands import Hand
from xpsr.web.jobs import Job, Preview, Request
from xpsr.web.process import news_parts, preview_of, request_line
from xpsr.web.scheduler import Scheduler
from xpsr.web.spool import Spool
from xpsr.web.worker import Told, Worker

STEPS = UpscaleConfig(
    content="a wall",
    quality="",
    seed=7,
    num_inference_steps=4,
    strength=0.4,
    num_shifts=1,
    tile_size=64,
    scale=4,
)


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> ServeConfig:
    return ServeConfig(models=(f"tiny={tiny_model}",), describers=("none",), devices=("cpu",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "upload", "PNG")
    return tmp_path


def request_of(folder: Path, **options: bool) -> Request:
    number = (folder / "upload").stat().st_size
    config = replace(STEPS, model="tiny", describer="none")
    return Request(
        kind="upscale",
        name="a.png",
        width=36,
        height=24,
        format="PNG",
        bytes=number,
        suffix=".png",
        config=config,
        **options,
    )


def is_shown(preview: Preview) -> bool:
    image = Image.open(io.BytesIO(preview.image))
    image.load()
    return image.format == "WEBP" and image.size == (144, 96) and len(preview.image) < 2**16


def test_previews_are_told_where_they_are_wanted_and_change_nothing(
    config: ServeConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "_PAUSE", 0)
    worker, results, told = Worker(config, device="cpu"), [], [list[Told](), list[Told]()]
    for number, wanted in enumerate((False, True)):
        worker.work(request_of(folder, wants_previews=wanted), folder, told[number].append, lambda: False)
        results.append((folder / "result.png").read_bytes())
    assert results[0] == results[1]
    without, shown = ([news.preview for news in each if news.preview is not None] for each in told)
    assert without == []
    assert [(preview.step, preview.steps) for preview in shown] == [(1, 4), (2, 4), (3, 4)]
    assert all(map(is_shown, shown))


def test_previews_come_no_more_often_than_they_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Told] = []
    show, now = working._Shower(told.append), 100.0
    monkeypatch.setattr(working.time, "monotonic", lambda: now)
    for step in range(1, 101):
        show(torch.zeros(3, 4, 5), step, 101)
        now += 0.01
    assert [news.preview.step for news in told if news.preview is not None] == [1, 35, 69]


def test_a_preview_goes_through_a_line_of_json() -> None:
    preview = Preview(image=bytes(range(256)), step=2, steps=5)
    line = json.dumps(news_parts(Told(preview=preview)))
    assert preview_of(json.loads(line)["preview"]) == preview
    assert news_parts(Told(progress=(1, 2)))["preview"] is None


def test_what_is_wanted_is_told_to_the_process(folder: Path) -> None:
    lines = [request_line("id", request_of(folder, wants_previews=wanted), folder) for wanted in (False, True)]
    assert [json.loads(line)["request"]["wants_previews"] for line in lines] == [False, True]


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Scheduler]:
    spool = Spool(tmp_path / "spool")
    yield Scheduler(spool, max_queue=8, max_per_client=8, max_seconds=120.0, keep_seconds=600.0)
    spool.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process that decodes takes")
def test_those_who_watch_a_job_see_its_previews(config: ServeConfig, folder: Path, scheduler: Scheduler) -> None:
    hand = Hand(config, "cpu", scheduler)
    hand.start()
    try:
        results, seen = [], [list[Preview](), list[Preview]()]
        for number, wanted in enumerate((True, False)):
            with scheduler.place("a") as place:
                (place.folder / "upload").write_bytes((folder / "upload").read_bytes())
                job = scheduler.submit(place, request_of(folder, wants_previews=wanted))
            over = threading.Event()
            job.watch(partial(_look, job, seen[number], over))
            assert (job.is_over or over.wait(60)) and job.state == "done", job.error
            assert job.preview is None
            results.append(job.result.read_bytes())
    finally:
        hand.close()
    assert results[0] == results[1] and seen[1] == []
    steps = [preview.step for preview in seen[0]]
    assert steps and steps == sorted(set(steps)) and set(steps) <= {1, 2, 3}
    assert all(map(is_shown, seen[0])) and {preview.steps for preview in seen[0]} == {4}


def _look(job: Job, seen: list[Preview], over: threading.Event) -> None:
    if job.preview is not None and job.preview not in seen:
        seen.append(job.preview)
    if job.is_over:
        over.set()
