"""Batches whose processes are killed at random moments: nothing is lost, half-written or mixed up."""

import csv
import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fork_server import run_python
from PIL import Image

from xpsr.batch.crew import Finished, Lost, Ready
from xpsr.batch.inline import Inline
from xpsr.batch.items import Failure, Item, Made, Order, Outcome, Ticket
from xpsr.batch.ledger import Ledger
from xpsr.batch.process import work_on
from xpsr.batch.processes import ProcessCrew
from xpsr.batch.restoring import Opened, open_job
from xpsr.batch.wire import failed_line, order_line, read_news, read_order, ticket_line
from xpsr.batch.worker import Worker
from xpsr.config import UpscaleConfig
from xpsr.errors import InputError, ModelError
from xpsr.files import sha256
from xpsr.prior import Prior
from xpsr.records import Recipe
from xpsr.sources import Job


def save_noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)).save(path)


def order_of(model: Path, out: Path) -> Order:
    config = UpscaleConfig(model=str(model), device="cpu", on_existing="error")
    return Order(config=config, describer="none", describer_name="none", out=str(out), device="cpu")


def test_a_process_answers_every_ticket_and_overlaps_their_stages(tiny_model: Path, tmp_path: Path) -> None:
    order = read_order(order_line(order_of(tiny_model, tmp_path / "out")))
    assert order == order_of(tiny_model, tmp_path / "out")
    lines = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        if number == 4:
            path.write_bytes(b"nothing")
        else:
            save_noise(path, number)
        item = Item(id=path.name, source=str(path), target=f"sub/{path.name}", seed=number)
        lines.append(ticket_line(Ticket(number=number, item=item, prior=Prior(content=f"number {number}"))))
    said: dict[int, Outcome] = {}
    work_on(Worker(order), io.StringIO("".join(lines) + "\n"), said.__setitem__)
    assert sorted(said) == list(range(6))
    assert isinstance(said[4], Failure) and said[4].code == "unknown_format"
    for number, outcome in said.items():
        if isinstance(outcome, Made):
            target = tmp_path / "out" / "sub" / f"{number}.png"
            assert outcome.output_sha256 == sha256(target) and outcome.pixels == 28 * 36
            record = json.loads(target.with_suffix(".json").read_text())
            assert (record["seed"], record["prior"]["content"]) == (number, f"number {number}")


def test_a_thread_that_fails_ends_its_process_and_does_not_hang(tmp_path: Path) -> None:
    code = "from xpsr.batch.process import _or_end\nimport time\n_or_end(lambda: 1 / 0)\ntime.sleep(60)"
    done = run_python("-c", code)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("says", ["print('junk')", "print('{}')", "pass"])
def test_a_process_that_does_not_speak_as_it_should_is_lost_and_its_successor_waits(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    code = f"import sys, time\nsys.stdin.readline(); {says}; sys.stdout.flush()"
    code += "\ntime.sleep(60)" if says != "pass" else ""
    monkeypatch.setattr("xpsr.batch.processes._PYTHON", (sys.executable, "-c", code))
    crew = ProcessCrew([order_of(tiny_model, tmp_path)])
    assert crew.tend() == []
    news = crew.news.get(timeout=30)
    assert isinstance(news, Lost) and news.error is None
    assert crew.tend() == [] and crew._hands == [None]  # the next one is not started at once
    crew.close()


def test_a_thread_refuses_to_be_ended_and_works_on(tiny_model: Path, tmp_path: Path) -> None:
    save_noise(tmp_path / "a.png", 0)
    crew = Inline(order_of(tiny_model, tmp_path / "out"))
    with pytest.raises(NotImplementedError, match="use a ProcessCrew where there is a timeout"):
        crew.kill()
    crew.give(Ticket(number=0, item=Item(id="a.png", source=str(tmp_path / "a.png"), target="a.png", seed=0)))
    crew.close()
    news = [crew.news.get_nowait() for _ in range(2)]
    assert isinstance(news[0], Ready) and isinstance(news[1], Finished) and isinstance(news[1].outcome, Made)


def test_a_worker_refuses_another_model_than_the_plan_is_for(tiny_model: Path, tmp_path: Path) -> None:
    order = order_of(tiny_model, tmp_path / "out")
    with pytest.raises(ModelError, match="is another model than the one that the plan was made for; run the same"):
        Worker(dataclasses.replace(order, weights="of another"))


def test_a_source_that_changes_while_it_is_read_makes_no_result(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.png"
    save_noise(source, 0)

    def read(job: Job, recipe: Recipe) -> Opened:
        opened = open_job(job, recipe)
        save_noise(source, 1)
        os.utime(source, ns=(1, 1))
        return opened

    monkeypatch.setattr("xpsr.batch.worker.open_job", read)
    item = Item(id="a.png", source=str(source), target="a.png", seed=0)
    outcome = Worker(order_of(tiny_model, tmp_path / "out")).work(Ticket(number=1, item=item))
    assert isinstance(outcome, Failure) and outcome.code == "changed"
    assert "was changed while it was read; run the same command again" in outcome.line
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_loaded_is_told_in_one_line(tiny_model: Path, tmp_path: Path) -> None:
    line = order_line(order_of(tmp_path / "none", tmp_path))
    code = f"import io, sys; sys.stdin = io.StringIO({line!r}); from xpsr.batch.process import main; main()"
    done = run_python("-c", code)
    news = read_news(done.stdout, "hand")
    assert done.returncode == 0 and isinstance(news, Lost) and isinstance(news.error, InputError)
    assert "none" in str(news.error) and "\n" not in str(news.error)


def test_what_a_process_refuses_is_refused_as_if_it_were_here() -> None:
    error = InputError("is above 8", code="out_of_range", field="scale", value="9", remedy="use 8", limit=8)
    news = read_news(failed_line(error), "hand")
    assert isinstance(news, Lost) and type(news.error) is InputError and news.error.parts == error.parts


def children(process: int) -> list[int]:
    """Processes that it has started."""
    found: list[int] = []
    with suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            found += [int(number) for number in task.read_text().split()]
    return found


def tally(folder: Path) -> dict[str, int]:
    try:
        with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
            found = ledger.tally()
    except Exception:  # it is not there yet
        return {"done": 0, "waiting": -1}
    return {name: getattr(found, name) for name in ("done", "failed", "waiting", "running", "skipped")}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ten_kills_lose_nothing_and_mix_nothing_up(tiny_model: Path, tmp_path: Path) -> None:
    rng, bad = random.Random(0), set(range(0, 500, 50))
    for number in range(500):
        path = tmp_path / "photos" / f"{number % 7}" / f"{number}.png"
        save_noise(path, number)
        if number in bad:
            path.write_bytes(path.read_bytes()[: number // 10])
    machine = ["--model", str(tiny_model), "--device", "cpu", "--workers", "2", "--quiet"]

    said = tmp_path / "said.txt"

    def start(out: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "xpsr", "batch", "photos", "-o", out, *machine]
        with said.open("ab") as file:
            return subprocess.Popen(command, cwd=tmp_path, stderr=file, start_new_session=True)

    out = tmp_path / "out"
    for kill in range(10):
        process = start("out")
        before = tally(out)["done"]
        while process.poll() is None and tally(out)["done"] < before + rng.randrange(1, 40):
            time.sleep(0.02)
        workers = children(process.pid)
        assert process.poll() is None and workers, said.read_text()
        if kill % 2:  # one worker, and then the runner
            os.kill(rng.choice(workers), signal.SIGKILL)
            time.sleep(rng.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for path in out.rglob("*.png"):  # at every moment, what is there is whole
            Image.open(path).load()
    last = start("out")
    assert last.wait(timeout=900) == 1, said.read_text()
    assert tally(out) == {"done": 490, "failed": 10, "waiting": 0, "running": 0, "skipped": 0}
    with (out / "failures.csv").open(newline="", encoding="utf-8") as file:
        failed = {Path(row["source"]).stem for row in csv.DictReader(file)}
    assert failed == {str(number) for number in bad}
    whole = start("whole")
    assert whole.wait(timeout=900) == 1

    def hashes(folder: Path) -> dict[str, str]:
        return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*.png")}

    made = hashes(out)
    assert len(made) == 490 and made == hashes(tmp_path / "whole")
    for name in rng.sample(sorted(made), 3):
        seed = json.loads((out / name).with_suffix(".json").read_text())["seed"]
        command = ["upscale", f"photos/{name}", "-o", "alone.png", "--seed", str(seed), "--on-existing", "overwrite"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        single = ["--model", str(tiny_model), "--device", "cpu", "--quiet"]
        subprocess.run(
            [sys.executable, "-m", "xpsr", *command, *single], cwd=tmp_path, check=True, env=environment, timeout=300
        )
        assert sha256(tmp_path / "alone.png") == made[name]
