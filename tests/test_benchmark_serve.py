"""A load on a server: whose result is whose, what of it is told, and whether the server grows; with a tiny model."""

import asyncio
import contextlib
import io
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks import serve
from benchmarks.serve import Load, colours_of, main, picture, spread
from benchmarks.watching import Sample, Watch, show_samples, slope
from fork_server import start_python
from PIL import Image

from xpsr.errors import InputError
from xpsr.jsonl import read_lines

HERE = "http://127.0.0.1:1"
SECONDS = 120


def sample(seconds: float, memory: int) -> Sample:
    return Sample(seconds=seconds, memory=memory, processes=1, threads=2, open_files=3, spooled=0)


def test_pictures_are_told_apart_by_their_colours_whatever_their_size() -> None:
    load = Load(HERE, count=100, side=24, options={})
    assert len(set(load.pictures)) == 100
    assert all(load.fault(number, picture(number, 96)) == "" for number in range(0, 100, 9))
    assert load.fault(3, picture(7, 96)) == "it is the result of picture 7"
    assert load.fault(3, b"no picture").startswith("no picture came back")


def test_colours_stay_when_a_picture_is_enlarged() -> None:
    content, kept = picture(0, 24), io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.resize((96, 96), Image.Resampling.BICUBIC).save(kept, "png")
    assert np.abs(colours_of(content) - colours_of(kept.getvalue())).max() < 0.02


def test_a_load_is_put_on_this_machine_alone() -> None:
    with pytest.raises(InputError, match="is not on this machine"):
        Load("http://photos.example.org", count=1, side=16, options={})


def test_a_server_elsewhere_is_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://photos.example.org"]) == 2
    assert "is not on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--concurrency", "0"], ["--requests", "0"], ["--option", "describer"]])
def test_arguments_that_ask_for_nothing_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([HERE, *arguments])
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told_for_each_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([HERE, "--requests", "2", "--concurrency", "1", "--side", "16"]) == 1
    captured = capsys.readouterr()
    assert "2 answered wrongly" in captured.out
    assert "0 (good): ConnectError" in captured.err


def test_growth_is_a_slope_over_time() -> None:
    samples = [sample(10 * number, 100 + number * 2**20) for number in range(20)]
    assert slope(samples, "memory") == pytest.approx(360 * 2**20)
    assert slope(samples, "threads") == 0
    assert slope(samples[:2], "memory") == 0
    assert "+360.0" in show_samples(samples)


def test_a_watch_sees_what_a_process_holds(tmp_path: Path) -> None:
    (tmp_path / "upload").touch()
    with Watch(os.getpid(), spool=tmp_path, every=0.01) as watch:
        time.sleep(0.05)
    last = watch.samples[-1]
    assert last.memory == watch.peak or watch.peak > 0
    assert last.processes >= 1 and last.threads >= 1 and last.open_files > 0 and last.spooled == 1
    assert max(watch.process_peaks.values()) > 2**20


def test_spread_is_of_percentiles() -> None:
    assert spread([1.0, 2.0, 3.0]) == {"p50": "2.00", "p90": "2.80", "p99": "2.98", "max": "3.00"}
    assert spread([]) == {}


def test_who_leaves_in_the_middle_leaves_the_connections_of_others_alone() -> None:
    """One of some hundred moments to leave was such that a connection was never given back, and all after it waited."""
    served: dict[str, int] = {}

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(size[1]) if size else 0)
                if name := re.search(rb'filename="(\d+)\.png"', body):
                    served[name[1].decode()] = port
                    if name[1] == b"5":
                        await reader.read()  # until it has left
                        return
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async def run() -> list[serve.Answer]:
        async with await asyncio.start_server(serve_one, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            load = Load(url, count=7, side=16, options={})
            return (await serve.soak(load, seconds=SECONDS, requests=7, concurrency=1))[0]

    answers = asyncio.run(run())
    assert [answer.kind for answer in answers[4:]] == ["good", "left", "good"] and answers[5].error == ""
    assert served["4"] == served["6"] != served.get("5")  # which may not have been sent by then


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[tuple[str, int, Path]]:
    """Address, process and spool of a server that takes two requests at a time."""
    folder = tmp_path_factory.mktemp("server")
    command = ["-m", "xpsr", "serve", "--port", "0", "--spool", str(folder), "--model", f"tiny={tiny_model}"]
    command += ["--describer", "none", "--device", "cpu", "--max-queue", "2", "--quiet"]
    with start_python(*command, cwd=folder) as process:
        try:
            out, end = Path(f"/proc/{process.pid}/fd/1"), time.monotonic() + SECONDS
            while not (found := re.findall(r"http://[\d.]+:\d+", out.read_text())):
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.05)
            yield found[0], process.pid, folder
        finally:
            for _ in range(2):  # at once, whatever nobody has fetched
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_everybody_gets_the_own_result_also_who_was_told_to_come_later(
    server: tuple[str, int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, process, spool = server
    kept = tmp_path / "rows.jsonl"
    arguments = [url, "--requests", "5", "--concurrency", "5", "--side", "12", "--pid", str(process)]
    assert main([*arguments, "--spool", str(spool), "--output", str(kept)]) == 0
    out = capsys.readouterr().out
    assert "5 good; 0 answered wrongly" in out
    assert re.search(r"^from request to result +[\d.]+", out, re.MULTILINE)
    ((_, row),) = read_lines(kept)
    assert row["turned_away"] > 0 and row["wrong"] == [] and len(row["spans"]["worked on"]) == 5
    assert row["samples"][-1]["memory"] > 0


@pytest.mark.slow
def test_a_sample_has_the_bytes_that_the_command_line_makes(
    server: tuple[str, int, Path], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [server[0], "--requests", "1", "--concurrency", "1", "--side", "12", "--sample", "1"]
    assert main([*arguments, "--option", "describer=none", "--model", str(tiny_model)]) == 0
    assert "1 of 1 compared with xpsr upscale have the same bytes" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_soak_sends_requests_of_all_kinds_and_tells_what_the_server_holds(
    server: tuple[str, int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    url, process, spool = server
    arguments = [url, "--soak", "60", "--requests", "10", "--concurrency", "1", "--side", "12", "--every", "0.2"]
    assert main([*arguments, "--pid", str(process), "--spool", str(spool)]) == 0
    out = capsys.readouterr().out
    assert "7 good, 1 cancelled, 1 left, 1 no picture" in out
    for quantity in ("memory, MiB", "processes", "threads", "open files", "spooled"):
        assert quantity in out
    assert "an hour" in out


@pytest.mark.slow
def test_a_soak_ends_in_time(server: tuple[str, int, Path], capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert main([server[0], "--soak", "0.5", "--concurrency", "1", "--side", "12"]) == 0
    assert time.monotonic() - start < SECONDS
    assert "answered wrongly" in capsys.readouterr().out
    assert set(serve.KINDS) == {"good", "cancelled", "left", "no picture"}
