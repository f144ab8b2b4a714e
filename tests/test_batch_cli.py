"""`xpsr batch` from the outside, with a tiny model in this process; processes that are killed: test_batch_kills.py."""

import csv
import errno
import json
import os
import shutil
import signal
import sqlite3
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from xpsr.batch import restoring
from xpsr.batch.ledger import Ledger
from xpsr.batch.running import _devices, open_batch
from xpsr.cli import main
from xpsr.config import BatchConfig, UpscaleConfig
from xpsr.errors import ModelError
from xpsr.files import sha256


@dataclass
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


def save_noise(path: str | Path, seed: int = 0, size: tuple[int, int] = (9, 7)) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def batch(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    loaded_once: None,
) -> Run:
    """Runs `xpsr batch` in an empty folder, with the tiny model and no process but this one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xpsr.batch.runner._TICK", 0.01)
    machine = ["--model", str(tiny_model), "--device", "cpu", "--workers", "0", "--quiet"]

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(["batch", *arguments, *(machine if "--status" not in arguments else [])])
        shown = capsys.readouterr()
        return Result(code, shown.out, shown.err)

    return run


@pytest.fixture
def photos(batch: Run) -> list[Path]:
    """Six pictures in two folders, and one that is none."""
    paths = [save_noise(f"photos/{'trip/' * (n % 2)}p{n}.png", n) for n in range(6)]
    Path("photos/bad.png").write_bytes(b"nothing")
    return paths


def results(folder: str | Path = "out") -> dict[str, str]:
    """SHA-256 of all results, by where they are."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(Path(folder).rglob("*.png"))}


def states(folder: str = "out") -> dict[str, int]:
    with Ledger(Path(folder, "ledger.sqlite"), read_only=True) as ledger:
        tally = ledger.tally()
    return {name: getattr(tally, name) for name in ("done", "skipped", "failed", "waiting", "running")}


def test_a_folder_becomes_a_folder_and_what_fails_stops_nothing(batch: Run, photos: list[Path]) -> None:
    done = batch("photos", "-o", "out")
    assert done.code == 1
    assert list(results()) == [path.relative_to("photos").as_posix() for path in sorted(photos)]
    assert states() == {"done": 6, "skipped": 0, "failed": 1, "waiting": 0, "running": 0}
    first, second = done.err.splitlines()
    assert first.endswith("photos/bad.png: is not an image that can be read; convert it to PNG or JPEG.")
    assert second == "xpsr: out/failures.csv lists what failed; --retry-failed tries it again."
    with Path("out/failures.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["source"].endswith("bad.png") and row["line"].endswith(first.partition(": ")[2])
    record = json.loads(Path("out/trip/p1.json").read_text())
    assert record["input"] == "../../photos/trip/p1.png" and record["output_sha256"] == results()["trip/p1.png"]
    for name in ("summary.html", "metrics.prom", "log.jsonl"):
        assert Path("out", name).stat().st_size


def test_who_sits_at_a_terminal_is_told_where_the_page_is(
    photos: list[Path], tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = ["--model", str(tiny_model), "--device", "cpu", "--workers", "0"]
    for is_terminal, flags in ((False, []), (True, []), (True, ["--quiet"]), (True, ["--json"])):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        main(["batch", "photos/trip", "-o", "out", "--ledger", "ledger", *machine, *flags])
        is_told = "xpsr: ledger/summary.html shows them.\n" in capsys.readouterr().err
        assert is_told == (is_terminal and not flags)
    assert Path("ledger/summary.html").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="the file system takes only Unicode")
def test_a_name_that_is_no_text_is_told_and_stops_nothing(batch: Run, photos: list[Path]) -> None:
    Path("photos/bad.png").replace(os.fsdecode(b"photos/na\xffme.png"))
    done = batch("photos", "-o", "out")
    assert done.code == 1 and "the name is not UTF-8; rename it." in done.err and states()["done"] == 6
    assert "na\\udcffme.png" in Path("out/failures.csv").read_text(encoding="utf-8")
    told = [json.loads(line) for line in Path("out/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (told[1]["event"], told[1]["code"], told[1]["source"][-9:]) == ("unplanned", "bad_name", "na\udcffme.png")
    assert "Could not be planned: 1; failures.csv tells why." in Path("out/summary.html").read_text(encoding="utf-8")


def test_a_result_is_that_of_upscale(batch: Run, photos: list[Path], tiny_model: Path) -> None:
    batch("photos", "-o", "out", "--seed", "5", "--scale", "3")
    batch("photos/trip", "-o", "unseeded")
    seed = json.loads(Path("unseeded/p3.json").read_text())["seed"]
    assert seed != json.loads(Path("unseeded/p1.json").read_text())["seed"]
    machine = ["--model", str(tiny_model), "--device", "cpu", "--quiet"]
    assert main(["upscale", "photos/trip/p3.png", "-o", "alone.png", "--seed", "5", "--scale", "3", *machine]) == 0
    assert sha256(Path("alone.png")) == results()["trip/p3.png"]
    assert main(["upscale", "photos/trip/p3.png", "-o", "alone2.png", "--seed", str(seed), *machine]) == 0
    assert sha256(Path("alone2.png")) == results("unseeded")["p3.png"]


def test_the_same_command_again_does_nothing_and_loads_nothing(
    batch: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch("photos", "-o", "out")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    monkeypatch.setattr("xpsr.batch.restoring.Restorer", None)
    again = batch("photos", "-o", "out")
    assert (again.code, again.err.splitlines()[0]) == (1, "xpsr: 6 of 7 pictures were done already; nothing waits.")
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")} == before


def test_what_is_new_gone_or_changed_is_done_and_nothing_else(batch: Run, photos: list[Path]) -> None:
    batch("photos", "-o", "out")
    before = {path.name: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    kept = results()
    save_noise("photos/new.png", 9)
    save_noise("photos/p0.png", 10)
    save_noise("photos/bad.png", 11)
    Path("out/p2.png").unlink()
    assert batch("photos", "-o", "out").code == 0
    after = {path.name: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    assert {name for name in after if after[name] != before.get(name)} == {"new.png", "p0.png", "bad.png", "p2.png"}
    now = results()
    assert now["p2.png"] == kept["p2.png"] and now["p0.png"] != kept["p0.png"]
    assert states() == {"done": 8, "skipped": 0, "failed": 0, "waiting": 0, "running": 0}


def test_a_folder_that_is_away_keeps_its_part_of_the_ledger(batch: Run, photos: list[Path]) -> None:
    save_noise("more/m.png", 8)
    batch("photos", "more", "-o", "out")
    Path("out/p0.png").unlink()
    Path("photos").rename("away")
    for flags in ([], ["--dry-run"]):
        ended = batch("photos", "more", "-o", "out", *flags)
        assert "photos: cannot be read (No such file or directory)" in ended.err and "p0.png" not in ended.err
        assert ended.code == (2 if flags else 1)
    assert states() == {"done": 6, "skipped": 0, "failed": 1, "waiting": 1, "running": 0}
    Path("away").rename("photos")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    assert batch("photos", "more", "-o", "out").code == 1
    after = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    assert after.keys() - before.keys() == {Path("out/p0.png")} and before.items() <= after.items()


def test_a_result_that_the_user_has_changed_is_not_replaced(batch: Run, photos: list[Path]) -> None:
    batch("photos", "-o", "out")
    save_noise("out/p0.png", 77)
    changed = batch("photos", "-o", "out")
    assert changed.code == 1 and "out/p0.png: has been changed since xpsr made it; move it," in changed.err
    assert batch("photos", "-o", "out", "--on-existing", "skip", "--retry-failed").code == 1
    assert states() == {"done": 5, "skipped": 1, "failed": 1, "waiting": 0, "running": 0}


@pytest.mark.parametrize(
    ("mode", "code", "is_mine"), [("update", 1, True), ("error", 1, True), ("skip", 0, True), ("overwrite", 0, False)]
)
def test_a_file_that_is_in_the_way(batch: Run, photos: list[Path], mode: str, code: int, is_mine: bool) -> None:
    Path("photos/bad.png").unlink()
    mine = sha256(save_noise("out/p0.png", 77))
    ended = batch("photos", "-o", "out", "--on-existing", mode)
    assert ended.code == code and (results()["p0.png"] == mine) == is_mine
    assert ("out/p0.png: is there already" in ended.err) == (code == 1)
    if mode == "error":  # what this plan has made is not in the way
        Path("out/p0.png").unlink()
        assert batch("photos", "-o", "out", "--on-existing", mode, "--retry-failed").code == 0
        save_noise("photos/p2.png", 99)
        assert batch("photos", "-o", "out", "--on-existing", mode).code == 1


def test_another_plan_is_refused_and_says_what_differs(batch: Run, photos: list[Path]) -> None:
    Path("photos/bad.png").unlink()
    batch("photos", "-o", "out")
    before = results()
    other = batch("photos", "-o", "out", "--scale", "2")
    assert other.code == 2
    assert other.err.splitlines() == [
        "xpsr: out: is the output of another plan (scale null, not 2.0); use the same options, choose another -o"
        " (and --ledger), or add --on-existing overwrite."
    ]
    assert results() == before
    assert batch("photos", "-o", "out", "--scale", "2", "--on-existing", "overwrite").code == 0
    assert results().keys() == before.keys() and not set(results().values()) & set(before.values())


def test_an_output_that_another_run_works_on_is_refused(batch: Run, photos: list[Path]) -> None:
    with Ledger(Path("out/ledger.sqlite")):
        busy = batch("photos", "-o", "out")
    assert (busy.code, busy.err) == (
        2,
        "xpsr: out: another run is at work there; wait for its end, or choose another -o (or --ledger).\n",
    )


def test_what_was_finished_but_not_noted_is_adopted(
    batch: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch("photos", "-o", "out")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    for path in Path("out").glob("ledger.sqlite*"):
        path.unlink()
    monkeypatch.setattr("xpsr.restore.Restorer.restore", None)
    again = batch("photos", "-o", "out")
    assert again.code == 1 and len(again.err.splitlines()) == 2  # the picture that is none
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")} == before
    assert states()["done"] == 6


def test_ctrl_c_finishes_what_is_in_hand_and_the_rest_later(
    batch: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpsr.batch.reports import Reporter

    on_event, count = Reporter.on_event, 0

    def press(self: Reporter, event: Any) -> None:
        nonlocal count
        count += 1
        on_event(self, event)
        if count == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "on_event", press)
        stopped = batch("photos", "-o", "out")
    assert stopped.code == 130 and "finishing what is in hand" in stopped.err
    found = states()
    assert found["running"] == 0 and found["waiting"] >= 3 and found["done"] == len(results())
    assert batch("photos", "-o", "out").code == 1 and states()["done"] == 6


def test_sources_that_vanish_or_change_after_the_plan_fail_in_one_line(
    batch: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpsr.batch.running import Batch

    run = Batch.run

    def later(self: Batch, **options: Any) -> Any:
        Path("photos/p0.png").unlink()
        save_noise("photos/p2.png", 99)
        return run(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "run", later)
        ended = batch("photos", "-o", "out")
    lines = ended.err.splitlines()
    assert ended.code == 1 and len(lines) == 4
    assert any("p0.png: cannot be read" in line for line in lines)
    assert any(
        "p2.png: has been changed since the plan was made; run the same command again." in line for line in lines
    )
    assert batch("photos", "-o", "out").code == 1
    assert states() == {"done": 5, "skipped": 0, "failed": 1, "waiting": 0, "running": 0}


def test_lists_say_what_is_in_pictures_and_describers_are_asked_before(batch: Run, photos: list[Path]) -> None:
    rows = [{"source": "photos/p0.png", "id": "one", "seed": 3, "content": "a moose", "quality": "sharp"}]
    rows += [{"source": "photos/p2.png", "id": "two"}]
    Path("list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("said.jsonl").write_text(
        json.dumps(
            {"image": "photos/p2.png", "sha256": sha256(Path("photos/p2.png")), "content": "a cat", "quality": "x"}
        )
        + "\n"
    )
    assert batch("list.jsonl", "-o", "out", "--priors", "said.jsonl").code == 0
    one, two = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("one", "two"))
    assert (one["prior"]["content"], one["prior"]["quality"], one["seed"]) == ("a moose", "sharp", 3)
    assert (two["prior"]["content"], two["prior"]["quality"]) == ("a cat", "x")


class Flaky(MemoryFileSystem):
    """A store whose every third write fails."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its parent has it
    pseudo_dirs = [""]  # noqa: RUF012
    writes = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("flaky://"))  # type: ignore[no-any-return]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode:
            type(self).writes += 1
            if self.writes % 3 == 0:
                raise OSError("the store is tired")
        return super()._open(path, mode, **options)


@pytest.fixture
def flaky() -> Iterator[MemoryFileSystem]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.store, Flaky.pseudo_dirs, Flaky.writes = {}, [""], 0
    yield fsspec.filesystem("flaky")
    Flaky.store = {}


def test_a_store_that_fails_every_third_write_loses_nothing(
    batch: Run, photos: list[Path], flaky: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpsr.batch.stores._PAUSE", 0.001)
    ended = batch("photos", "-o", "flaky://bucket/out", "--ledger", "kept")
    assert ended.code == 1 and Flaky.writes > 12
    assert states("kept") == {"done": 6, "skipped": 0, "failed": 1, "waiting": 0, "running": 0}
    assert batch("photos", "-o", "out").code == 1
    there = {name.partition("/out/")[2] for name in flaky.find("bucket/out")}
    assert {name for name in there if name.endswith(".png")} == results().keys()
    assert not {name for name in there if ".part" in name}
    for name in results():
        assert flaky.cat_file(f"bucket/out/{name}") == Path("out", name).read_bytes()
    flaky.rm_file("bucket/out/p0.png")  # which the next run finds out
    assert batch("photos", "-o", "flaky://bucket/out", "--ledger", "kept").code == 1
    assert flaky.exists("bucket/out/p0.png")


def test_a_full_disk_loses_nothing_and_says_so(batch: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    count, write = 0, restoring.write_into

    def fill(part: Path, *rest: Any) -> Any:
        nonlocal count
        count += 1
        if count > 2:
            part.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(part, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "write_into", fill)
        full = batch("photos", "-o", "out")
    assert full.code == 1 and "out: the disk is full; free some of it, and run the same command again." in full.err
    assert len(results()) == states()["done"] == 2 and states()["running"] == 0 and states()["failed"] <= 1
    assert not list(Path("out").rglob("*.part"))
    batch("photos", "-o", "whole")
    assert batch("photos", "-o", "out").code == 1 and results() == results("whole")


@pytest.mark.parametrize("ledger", ["out", "kept"])
def test_a_disk_that_will_not_hold_the_rest_ends_the_run_early(
    batch: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch, ledger: str
) -> None:
    usage = shutil.disk_usage(".")
    with monkeypatch.context() as patch:
        patch.setattr("xpsr.batch.running._DISK_SECONDS", 0.0)
        patch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1) if Path(path).name == "out" else usage)
        short = batch("photos", "-o", "out", "--ledger", ledger)
    assert short.code == 1 and "out: the disk is too small by about " in short.err
    assert 1 <= states(ledger)["done"] < 6 and states(ledger)["running"] == 0
    assert batch("photos", "-o", "out", "--ledger", ledger).code == 1 and states(ledger)["done"] == 6


def test_results_that_are_replaced_need_no_more_room(
    batch: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("xpsr.batch.running._DISK_SECONDS", 0.0)
    monkeypatch.setattr("xpsr.batch.estimates._BESIDE", 0)
    batch("photos", "-o", "out")
    size = Path("out/p0.png").stat().st_size
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=size))
    again = batch("photos", "-o", "out", "--seed", "1", "--on-existing", "overwrite")
    assert "too small" not in again.err and states()["done"] == 6
    for path in Path("out").rglob("*.png"):  # whose room is part of the free one
        path.unlink()
    short = batch("photos", "-o", "out", "--seed", "2", "--on-existing", "overwrite")
    assert "out: the disk is too small by about " in short.err and states()["done"] < 6


def test_what_a_killed_run_has_left_is_removed(batch: Run, photos: list[Path]) -> None:
    batch("photos", "-o", "out")
    with Ledger(Path("out/ledger.sqlite")) as ledger:
        ledger.keep(started=[(row.number, "hand", 0.0) for row in ledger.rows("done", limit=1)])
        (row,) = ledger.rows("running")
    part, copy = Path("out", row.item.target).with_name(".xpsr-1234.part"), Path("out/.xpsr-scratch/xpsr-1/a.png")
    copy.parent.mkdir(parents=True)
    for path in (part, copy):
        path.write_bytes(b"half")
    batch("photos", "-o", "out")
    assert not part.exists() and not Path("out/.xpsr-scratch").exists() and states()["done"] == 6


def test_what_a_killed_run_has_left_is_removed_though_no_describer_answers(
    batch: Run, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("said.jsonl").write_text("".join(json.dumps({"image": str(path), "content": "x"}) + "\n" for path in photos))
    options = ("photos", "-o", "out", "--priors", "said.jsonl")
    batch(*options)
    with Ledger(Path("out/ledger.sqlite")) as ledger:
        ledger.keep(started=[(row.number, "hand", 0.0) for row in ledger.rows("done", limit=1)])
        (row,) = ledger.rows("running")
    part = Path("out", row.item.target).with_name(".xpsr-1234.part")
    part.write_bytes(b"half")

    def refuse(self: object) -> None:
        raise ModelError("cannot be reached", code="refused")

    with monkeypatch.context() as patch:
        patch.setattr("xpsr.batch.running.Batch.looking_on", refuse)
        assert batch(*options).code == 1
    assert batch(*options).code == 1 and states()["done"] == 6 and not part.exists()


def test_a_rehearsal_leaves_alone_what_a_run_is_writing(batch: Run, photos: list[Path]) -> None:
    batch("photos", "-o", "out")
    part = Path("out/.xpsr-1234.part")
    part.write_bytes(b"half")
    with Ledger(Path("out/ledger.sqlite")) as ledger:
        ledger.keep(started=[(row.number, "hand", 0.0) for row in list(ledger.rows("done"))])
        assert batch("photos", "-o", "out", "--dry-run").code == 0
    assert part.exists()


def test_what_another_machine_made_is_overwritten_and_what_was_said_of_it_stays(batch: Run, photos: list[Path]) -> None:
    lines = [json.dumps({"image": str(path), "content": f"a {path.stem}", "quality": "x"}) for path in photos]
    Path("said.jsonl").write_text("\n".join(lines))
    options = ("photos", "-o", "out", "--priors", "said.jsonl", "--exclude", "bad.png")
    assert batch(*options).code == 0
    with closing(sqlite3.connect("out/ledger.sqlite")) as db, db:
        db.execute("UPDATE facts SET value = '\"cuda\"' WHERE name = 'device'")
    for path in photos[:2]:
        Path("out", path.relative_to("photos")).unlink()
    refused = batch(*options)
    assert refused.code == 2 and 'is the output of another plan (device "cuda", not "cpu")' in refused.err
    for path in Path("out").rglob("*.json"):
        path.write_text("{}")
    again = batch(*options, "--on-existing", "overwrite")
    assert again.code == 0 and "nothing waits" not in again.err and states()["done"] == 6
    said = {path.stem: json.loads(path.read_text())["prior"]["content"] for path in Path("out").rglob("*.json")}
    assert said == {path.stem: f"a {path.stem}" for path in photos}


@pytest.mark.parametrize(("workers", "count"), [(None, 2), (0, 1), (3, 3)])
def test_graphics_cards_take_turns(monkeypatch: pytest.MonkeyPatch, workers: int | None, count: int) -> None:
    monkeypatch.setattr("xpsr.devices.resolve_device", lambda device: torch.device("cuda:0"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert _devices("auto", BatchConfig(workers=workers)) == ["cuda:0", "cuda:1", "cuda:0"][:count]


def test_an_input_that_was_never_there_is_no_sign_that_a_store_is_away(tiny_model: Path, photos: list[Path]) -> None:
    config = BatchConfig(workers=0, upscale=UpscaleConfig(model=str(tiny_model)))
    told: list[str] = []
    named = ["photos", "nowhere", "memory://nowhere/a.png"]
    with open_batch(
        named, "out", config, folder=Path("out"), on_error=lambda name, _: told.append(name), on_note=print
    ) as batch:
        assert len(told) == 2 and batch._is_reachable()
        Path("photos").rename("away")
        assert not batch._is_reachable()


def test_failures_of_tar_files_and_stores_name_what_a_person_knows(batch: Run, photos: list[Path]) -> None:
    with tarfile.open("set.tar", "w") as tar:
        tar.add("photos/bad.png", "a/bad.png")
        tar.add("photos/p0.png", "a/p0.png")
    fsspec.filesystem("memory").pipe_file("/in/worse.png", b"nothing")
    ended = batch("set.tar", "memory://in/worse.png", "-o", "out")
    assert states()["done"] == 1 and states()["failed"] == 2
    assert "set.tar::a/bad.png: is not an image" in ended.err and "memory://in/worse.png: is not an" in ended.err
    told = Path("out/failures.csv").read_text() + Path("out/summary.html").read_text()
    assert "set.tar::a/bad.png" in told and ".xpsr-scratch" not in told + ended.err
    Path("said.jsonl").write_text('{"image": "elsewhere.png", "content": "a moose", "quality": "dark"}')
    unsaid = batch("set.tar", "-o", "said", "--priors", "said.jsonl")
    assert unsaid.code == 1 and "set.tar::a/p0.png" in unsaid.err and ".xpsr-scratch" not in unsaid.err


def test_a_describer_that_asks_a_model_is_asked_once_and_before_all_others(batch: Run, photos: list[Path]) -> None:
    asked = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal asked
            self.rfile.read(int(self.headers["Content-Length"]))
            asked += 1
            assert not list(Path("out").rglob("*.png"))
            body = json.dumps({"choices": [{"message": {"content": "a red panda"}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        describer = f"http://127.0.0.1:{server.server_address[1]}/v1#a-model"
        ended = batch("photos", "-o", "out", "--describer", describer)
        first = asked
        batch("photos", "-o", "out", "--describer", describer)
        server.shutdown()
    assert states()["done"] == 6 and first == asked == 2 * 6, (
        ended.err
    )  # content and quality; not of what is no picture
    assert json.loads(Path("out/p0.json").read_text())["prior"]["content"] == "a red panda"
    lines = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert [line["worker"] for line in lines if line["event"] == "failed"] == ["describer"]


def test_status_tells_how_a_folder_stands(batch: Run, photos: list[Path]) -> None:
    batch("photos", "-o", "out")
    told = batch("--status", "out")
    assert told.code == 0 and "7 pictures" in told.out and "1 failed" in told.out
    facts = json.loads(batch("--status", "out", "--json").out)
    assert facts["pictures"] == {"total": 7, "waiting": 0, "running": 0, "done": 6, "skipped": 0, "failed": 1}
    nothing = batch("--status", "elsewhere")
    assert nothing.code == 2 and nothing.err.count("\n") == 1 and "there is no ledger of a batch" in nothing.err


def test_a_rehearsal_makes_nothing(batch: Run, photos: list[Path]) -> None:
    told = batch("photos", "-o", "out", "--dry-run")
    assert told.code == 0 and "pictures: 7" in told.out and "time:" in told.out and "disk:" in told.out
    assert not results() and not Path("out").exists()
    facts = json.loads(batch("photos", "-o", "out", "--dry-run", "--json").out)
    assert facts["pictures"] == 7 and 0 < facts["seconds"]["expected"] < 100


def test_a_rehearsal_calls_the_output_as_it_was_named(batch: Run, photos: list[Path]) -> None:
    batch("photos", "-o", "out")
    done = batch("photos", "-o", "out", "--dry-run")
    assert (done.code, done.err) == (2, "xpsr: out: nothing waits; add pictures, or --retry-failed.\n")
    other = batch("photos", "-o", "out", "--dry-run", "--scale", "2")
    assert other.code == 2 and other.err.startswith("xpsr: out: is the output of another plan (scale null, not 2.0);")


def test_one_json_object_a_picture(batch: Run, photos: list[Path]) -> None:
    lines = [json.loads(line) for line in batch("photos", "-o", "out", "--json").out.splitlines()]
    assert sorted(line["id"] for line in lines if line["status"] == "made") == sorted(results())
    assert [line["code"] for line in lines if line["status"] == "failed"] == ["unknown_format"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no INPUT; name folders, lists or addresses"),
        (["photos"], "no -o OUT; name the folder of all results"),
        (["photos", "-o", "out", "--shard", "3/2"], "--shard 3/2 is no share: the first number is above the second"),
        (["photos", "-o", "out", "--ray", "auto", "--workers", "2"], "leave one of them out"),
        (["photos", "-o", "out", "--protect", "mask.png"], "is the mask of one picture; use auto."),
        (["photos", "-o", ""], "no -o OUT; name the folder of all results"),
        (["photos", "-o", "out", "--timeout", "9"], "is for processes, which can be ended, and workers=0 has none"),
        (["nowhere", "-o", "out"], "nowhere: cannot be read (No such file or directory)"),
        (["-", "-o", "out"], "xpsr: -: can be read but once; save it in a file and name that."),
        (["photos", "-o", "photos"], "photos: results would be among the pictures they are made of"),
        (["photos", "-o", "nothing://bucket"], "nothing://bucket: is no address that fsspec knows"),
        (["--status", "out", "other"], "--status is of one folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(batch: Run, photos: list[Path], arguments: list[str], said: str) -> None:
    ended = batch(*arguments)
    assert ended.code != 0 and said in ended.err and not results("out" if Path("out").exists() else "photos/none")
    assert all(line.startswith("xpsr: ") for line in ended.err.splitlines())


def test_a_yaml_says_what_options_say(batch: Run, photos: list[Path]) -> None:
    Path("batch.yaml").write_text("include: ['p*.png']\nexclude: ['p4*']\nname: '{stem}_{size}'\nupscale: {scale: 2}\n")
    assert batch("photos", "-o", "out", "--config", "batch.yaml").code == 0
    assert list(results()) == ["p0_x2.png", "p2_x2.png", *(f"trip/p{n}_x2.png" for n in (1, 3, 5))]
    Path("batch.yaml").write_text("incude: ['p*.png']\n")
    wrong = batch("photos", "-o", "out2", "--config", "batch.yaml")
    assert wrong.code == 2 and "incude" in wrong.err and "include" in wrong.err
