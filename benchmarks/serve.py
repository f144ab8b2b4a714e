"""Puts a load on a running server: `python -m benchmarks.serve URL [--concurrency N] [--requests N] [--pid PID]`.

Sends pictures of which no two are alike, several at a time, and looks whether each gets the result that is its own: as
large as it should be, of all pictures that were sent the most like its own, and of some (`--sample`) with the bytes
that `xpsr upscale` makes. Prints how long they took and waited, how many were told to come later, and, given the
server's process, what memory it took.

With `--soak SECONDS` the load goes on for so long; among good requests there are some that are cancelled, left or no
pictures. What the server holds is looked at all the while, and whether it grows. Start it with `--keep-seconds 60`, or
the files of an hour's results grow as they should.

    xpsr serve --port 8123 --max-queue 100 --max-per-client 100 &
    python -m benchmarks.serve http://127.0.0.1:8123 --pid $!
"""

import argparse
import asyncio
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

from benchmarks.combinations import PICTURE, positive
from benchmarks.reporting import ROOT
from benchmarks.rows import Rows
from benchmarks.tables import table
from benchmarks.watching import Watch, show_samples
from xpsr.errors import InputError, XPSRError

_HERE = ("127.0.0.1", "localhost", "::1")
_GRID = 4  # colours along a side by which pictures are told apart
_PATIENCE = 900.0  # seconds for a request with all its tries
_MOST = 1_000_000  # requests of a soak

KINDS = ("good", "cancelled", "left", "no picture")
"""Of requests; all but the first only in a soak."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a request.

    Attributes:
        number: the picture's.
        kind: of `KINDS`.
        seconds: from the first try to the last byte of the answer.
        turned_away: how often it was told to come later.
        job: its id; "" where there is none.
        error: what was wrong with the answer; "": nothing.
    """

    number: int
    kind: str
    seconds: float
    turned_away: int
    job: str = ""
    error: str = ""


def picture(number: int, side: int) -> bytes:
    """Returns a PNG of side x side pixels: a part of a photograph, in colours that no other number has."""
    noise = np.random.default_rng(number).integers(0, 256, (_GRID, _GRID, 3), dtype=np.uint8)
    colours = Image.fromarray(noise).resize((side, side), Image.Resampling.NEAREST)
    with Image.open(PICTURE) as image:
        left, top = (number * step % max(image.width - side, 1) for step in (13, 29))
        part = image.convert("RGB").crop((left, top, left + side, top + side))
    kept = io.BytesIO()
    Image.blend(part, colours, 0.6).save(kept, "png")
    return kept.getvalue()


def colours_of(content: bytes) -> np.ndarray[Any, Any]:
    """Returns the mean colours of the parts of a picture's file, (3 * 4 * 4,) in [0, 1]; of a grid they are 4 x 4."""
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64).reshape(-1) / 255


class Load:
    """A server, and the pictures that are sent to it.

    Args:
        url: of a server on this machine.
        count: how many different pictures.
        side: of each, in pixels.
        token: that requests carry; None: none.
        options: of every request, such as {"describer": "none"}.

    Raises:
        InputError: the server is not on this machine.
    """

    def __init__(self, url: str, *, count: int, side: int, token: str | None = None, options: dict[str, str]):
        if urlsplit(url).hostname not in _HERE:
            message, remedy = "is not on this machine, and a load is put on nobody else", "use http://127.0.0.1:8000"
            raise InputError(message, field="url", value=url, remedy=remedy)
        self.url, self._options = url, options
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.pictures = [picture(number, side) for number in range(count)]
        self._colours = np.stack([colours_of(content) for content in self.pictures])

    def client(self, connections: int) -> httpx.AsyncClient:
        """Returns who asks, with so many connections."""
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=5)
        return httpx.AsyncClient(base_url=self.url, headers=self._headers, timeout=_PATIENCE, limits=limits)

    async def ask(self, client: httpx.AsyncClient, number: int, kind: str = "good") -> Answer:
        """Sends a request of a kind until it is taken on, and looks at what comes back."""
        start, tries = time.perf_counter(), 0

        def answer(**told: str) -> Answer:
            return Answer(number=number, kind=kind, seconds=time.perf_counter() - start, turned_away=tries, **told)

        while True:
            try:
                response = await self._send(client, number, kind)
            except httpx.HTTPError as error:
                return answer(error=f"{type(error).__name__}: {error}")
            if response is None:
                return answer()
            if response.status_code not in (429, 503) or time.perf_counter() - start > _PATIENCE:
                break
            tries += 1
            await asyncio.sleep(float(response.headers["retry-after"]) * (1 + number % 8 / 8))  # not all at once
        job = response.headers.get("x-xpsr-job", "")
        if kind == "no picture":
            return answer(error="" if response.status_code == 422 else f"{response.status_code} instead of 422")
        if kind == "cancelled":
            await asyncio.sleep(0.01 * (number % 50))
            gone = await client.delete(f"/v1/jobs/{job}")
            return answer(error="" if gone.status_code == 204 else f"{gone.status_code} instead of 204")
        if response.status_code != 200:
            return answer(job=job, error=f"{response.status_code} {response.text[:200]}")
        return answer(job=job, error=await asyncio.to_thread(self.fault, number, response.content))

    async def _send(self, client: httpx.AsyncClient, number: int, kind: str) -> httpx.Response | None:
        """Sends a request once; None: it was left."""
        content = self.pictures[number % len(self.pictures)]
        if kind == "no picture":
            content = content[: 40 + number % 400]
        headers = {"Prefer": "respond-async"} if kind == "cancelled" else {}
        request = client.post(
            "/v1/upscale",
            files={"image": (f"{number}.png", content)},
            data={"seed": str(number), **self._options},
            headers=headers,
        )
        if kind != "left":
            return await request
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(request, 0.05 + 0.02 * (number % 50))
        return None

    def fault(self, number: int, result: bytes) -> str:
        """Returns why a result is not that of a picture; "" where it is."""
        number %= len(self.pictures)
        try:
            colours = colours_of(result)
        except OSError as error:
            return f"no picture came back: {error}"
        nearest = int(np.square(self._colours - colours).mean(axis=1).argmin())
        return "" if nearest == number else f"it is the result of picture {nearest}"

    def sample_fault(self, number: int, result: bytes, *, model: str) -> str:
        """Returns how a result differs from what `xpsr upscale` makes of the same picture; "" where it does not."""
        with tempfile.TemporaryDirectory() as name:
            source, made = Path(name, f"{number}.png"), Path(name, "out.png")
            source.write_bytes(self.pictures[number])
            command = [sys.executable, "-m", "xpsr", "upscale", str(source), "-o", str(made), "--seed", str(number)]
            told = {name: value for name, value in self._options.items() if name != "format"}
            command += ["--model", model, *(f"--{name.replace('_', '-')}={value}" for name, value in told.items())]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"xpsr upscale ended with {done.returncode}: {done.stderr.strip()[-200:]}"
            return "" if made.read_bytes() == result else "its bytes are not those that xpsr upscale makes"


async def put_load(load: Load, *, requests: int, concurrency: int) -> tuple[list[Answer], float]:
    """Sends so many good requests, so many at a time; returns what became of each, and the seconds of all."""
    numbers = iter(range(requests))
    answers: list[Answer] = []
    async with load.client(concurrency) as client:

        async def work() -> None:
            for number in numbers:
                answers.append(await load.ask(client, number))

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return answers, time.perf_counter() - start


async def soak(load: Load, *, seconds: float, requests: int, concurrency: int) -> tuple[list[Answer], float]:
    """Sends requests of all kinds for so long, at most so many; returns what `put_load` does."""
    numbers = iter(range(requests))
    answers: list[Answer] = []
    start = time.perf_counter()
    async with load.client(concurrency) as client:

        async def work() -> None:
            for number in numbers:
                if time.perf_counter() - start > seconds:
                    break
                kind = {3: "cancelled", 5: "left", 7: "no picture"}.get(number % 10, "good")
                # a request that is left in the middle can keep its place among a client's connections for ever
                who = load.client(1) if kind == "left" else contextlib.nullcontext(client)
                async with who as asking:
                    answers.append(await load.ask(asking, number, kind))

        await asyncio.gather(*(work() for _ in range(concurrency)))
        return answers, time.perf_counter() - start


async def spans_of(load: Load, answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Returns the seconds of which good answers' are made, of those whose jobs the server still knows."""
    spans: dict[str, list[float]] = {"until it was in the queue": [], "in the queue": [], "worked on": []}
    async with load.client(4) as client:
        for one in answers:
            if one.error or not one.job:
                continue
            response = await client.get(f"/v1/jobs/{one.job}")
            if response.status_code != 200:  # it is forgotten by now
                continue
            created, started, finished = (
                datetime.fromisoformat(response.json()[name]).timestamp() for name in ("created", "started", "finished")
            )
            parts = (max(one.seconds - (finished - created), 0), started - created, finished - started)
            for name, seconds in zip(spans, parts, strict=True):
                spans[name].append(seconds)
    return spans


async def samples_of(load: Load, numbers: Sequence[int], *, model: str) -> list[Answer]:
    """Asks for some results once more, and compares them with those of `xpsr upscale`."""
    answers = []
    async with load.client(1) as client:
        for number in numbers:
            answer = await load.ask(client, number)
            if not answer.error:
                response = await client.get(f"/v1/jobs/{answer.job}/result")
                fault = await asyncio.to_thread(load.sample_fault, number, response.content, model=model)
                answer = replace(answer, error=fault)
            answers.append(answer)
    return answers


def spread(values: Sequence[float]) -> dict[str, str]:
    """Returns a table's cells: median, two percentiles and the largest, in seconds; none of nothing."""
    if not values:
        return {}
    points = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: f"{np.percentile(values, share):.2f}" for name, share in points.items()}


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0; 1: something was answered wrongly; 2: the arguments cannot be used."""
    args = parser().parse_args(arguments)
    try:
        return asyncio.run(_run(args))
    except XPSRError as error:
        print(f"benchmarks.serve: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("url", help="of a server on this machine")
    add("--concurrency", type=positive, default=100, metavar="N", help="requests at a time (default: 100)")
    add("--requests", type=positive, metavar="N", help="all of them (default: 100; with --soak: a million at most)")
    add("--side", type=positive, default=48, metavar="PIXELS", help="of the pictures (default: 48)")
    add(
        "--option",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="of every request, as describer=none",
    )
    add("--token-file", type=Path, metavar="FILE", help="whose first line is sent with every request")
    add("--pid", type=int, help="the server's process, whose memory is told then (Linux)")
    add("--spool", type=Path, metavar="FOLDER", help="the server's, whose files are counted then")
    add("--every", type=float, default=1.0, metavar="SECONDS", help="between looks at the process (default: 1)")
    add("--sample", type=int, default=0, metavar="N", help="results compared with those of xpsr upscale (default: 0)")
    add("--model", default="mini", help="the server's default, for --sample (default: mini)")
    add("--soak", type=float, metavar="SECONDS", help="go on for so long")
    add("--markdown", action="store_true", help="print Markdown tables")
    add("-o", "--output", type=Path, metavar="FILE", help="a .jsonl, to which rows are added")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError
    return name, value


_pair.__name__ = "NAME=VALUE"  # as argparse calls it


async def _run(args: argparse.Namespace) -> int:
    options = {"format": "png", **dict(args.option)}
    token = None if args.token_file is None else args.token_file.read_text().split()[0]
    requests = args.requests or (100 if args.soak is None else _MOST)
    rows = Rows(args.output)
    load = Load(args.url, count=min(requests, 100), side=args.side, token=token, options=options)
    with ExitStack() as stack:
        watch = None
        if args.pid is not None:
            watch = stack.enter_context(Watch(args.pid, spool=args.spool, every=args.every))
        if args.soak is None:
            answers, seconds = await put_load(load, requests=requests, concurrency=args.concurrency)
        else:
            asked = {"seconds": args.soak, "requests": requests, "concurrency": args.concurrency}
            answers, seconds = await soak(load, **asked)
    spans = await spans_of(load, [one for one in answers if one.kind == "good"][-1000:])
    sampled = await samples_of(load, range(args.sample), model=args.model)
    for report in _reports(answers, seconds, spans, watch, growth=args.soak is not None, markdown=args.markdown):
        print(report, end="\n\n")
    if args.sample:
        same = sum(not one.error for one in sampled)
        print(f"{same} of {args.sample} compared with xpsr upscale have the same bytes\n")
    for one in (wrong := [one for one in [*answers, *sampled] if one.error])[:20]:
        print(f"{one.number} ({one.kind}): {one.error}", file=sys.stderr)
    rows.add(
        {
            "kind": "serve",
            "concurrency": args.concurrency,
            "side": args.side,
            "options": options,
            "seconds": seconds,
            "latencies": [one.seconds for one in answers if one.kind == "good" and not one.error],
            "spans": spans,
            "turned_away": sum(one.turned_away for one in answers),
            "wrong": [asdict(one) for one in wrong],
            "samples": [] if watch is None else [asdict(sample) for sample in watch.samples],
        }
    )
    return 1 if wrong else 0


def _reports(
    answers: Sequence[Answer],
    seconds: float,
    spans: Mapping[str, Sequence[float]],
    watch: Watch | None,
    *,
    growth: bool,
    markdown: bool,
) -> list[str]:
    good = [one for one in answers if one.kind == "good"]
    right = [one.seconds for one in good if not one.error]
    kinds = Counter(one.kind for one in answers)
    told = [
        f"{len(answers)} requests in {seconds:.1f} s, {len(right) / seconds:.2f} results a second",
        ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind]),
        f"{sum(bool(one.error) for one in answers)} answered wrongly",
        f"{sum(one.turned_away for one in answers)} times told to come later",
    ]
    rows = [{"seconds": name} | spread(values) for name, values in {"from request to result": right, **spans}.items()]
    reports = ["; ".join(told), table([row for row in rows if len(row) > 1], markdown=markdown)]
    if watch is not None and watch.samples:
        peaks = sorted(watch.process_peaks.values(), reverse=True)
        largest = ", ".join(f"{peak / 2**20:,.0f}" for peak in peaks[:6])
        reports.append(f"memory at most {watch.peak / 2**20:,.0f} MiB at one look (PSS); processes' peaks: {largest}")
        reports.append(show_samples(watch.samples, growth=growth, markdown=markdown))
    return [report for report in reports if report]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
