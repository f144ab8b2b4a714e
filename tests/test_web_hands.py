"""Who works for a server: a process that restores what the command line would, and what its hand makes of one that
dies, hangs, lies or talks nonsense."""

import dataclasses
import gc
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr.cli import main
from xpsr.config import ServeConfig, UpscaleConfig, override
from xpsr.errors import InputError, MissingDependencyError, ModelError, XPSRError, error_of
from xpsr.image import Picture, decode_image, read_image
from xpsr.planning import keep_rate
from xpsr.prior import Prior
from xpsr.sources import Source, result_suffix
from xpsr.web.hands import Hand, _read
from xpsr.web.jobs import UPLOAD, Job, Kind, Request
from xpsr.web.process import _request_of, error_parts, order_line, request_line
from xpsr.web.scheduler import Scheduler
from xpsr.web.spool import Spool
from xpsr.web.worker import Worker, _show

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pictures of strangers need processes that fork")


def eventually(holds: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def noise(seed: int = 0, width: int = 9, height: int = 7) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PICTURE = saved(noise())


def upload(folder: Path, content: bytes) -> None:
    (folder / "upload").write_bytes(content)


@dataclass
class House:
    """What a server has beside HTTP: a queue, a spool, and one hand."""

    hand: Hand
    scheduler: Scheduler
    spool: Spool
    deaths: list[int] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def submit(
        self,
        picture: bytes = PICTURE,
        *,
        client: str = "a",
        kind: Kind = "upscale",
        name: str = "photo.png",
        wants_map: bool = False,
        put: Callable[[Path, bytes], object] = upload,
        **options: Any,
    ) -> Job:
        """Hands in a picture, as `put` puts it in the job's folder."""
        with Image.open(io.BytesIO(picture)) as image:
            width, height, kind_of_file = image.width, image.height, image.format or ""
        config = UpscaleConfig(**{"model": "tiny", "describer": "none", **options})
        with self.scheduler.place(client) as place:
            put(place.folder, picture)
            request = Request(
                kind=kind,
                name=name,
                width=width,
                height=height,
                format=kind_of_file,
                bytes=len(picture),
                suffix=result_suffix(Source(path=Path(name), content=picture), config.format),
                config=config,
                wants_map=wants_map,
            )
            return self.scheduler.submit(place, request)

    def ended(self, job: Job) -> Job:
        """Returns a job when it is over; what is told of it tells nothing of the server."""
        assert eventually(lambda: job.is_over), "the job does not end"
        told = json.dumps([job.record, vars(job.error) if job.error else None, str(job.error)])
        assert not [secret for secret in self.secrets if secret in told], told
        return job

    def done(self, *arguments: Any, **options: Any) -> Job:
        job = self.ended(self.submit(*arguments, **options))
        assert job.state == "done", job.error
        return job


@contextmanager
def house_of(
    config: ServeConfig, parent: Path, *, is_started: bool = True, max_seconds: float = 600
) -> Iterator[House]:
    spool = Spool(parent)
    scheduler = Scheduler(spool, max_queue=1000, max_per_client=1000, max_seconds=max_seconds, keep_seconds=600)
    deaths: list[int] = []
    hand = Hand(config, "cpu", scheduler, on_death=lambda: deaths.append(1))
    house = House(hand, scheduler, spool, deaths)
    try:
        if is_started:
            hand.start()
        yield house
    finally:
        hand.close()
        scheduler.close()
        spool.close()


# a process that does not do as it should: programs in its place, so that nothing is loaded

SAYING = """
import json, os, sys, time
order = json.loads(sys.stdin.readline())
def say(**news):
    print(json.dumps(news), flush=True)
def told(text, end="\\n"):
    sys.stdout.buffer.write((text + end).encode("latin-1"))
    sys.stdout.flush()
def hear():
    while "folder" not in (line := json.loads(sys.stdin.readline())):
        pass
    return line["id"]
"""

HONEST = """
say(kind="ready", facts={"pid": os.getpid()})
while True:
    name = hear()
    say(kind="begun", id=name)
    say(kind="done", id=name, record={"by": os.getpid()})
"""

READY = 'say(kind="ready", facts={})\n'
BEGUN = READY + 'name = hear(); say(kind="begun", id=name)\n'
STAY = "\ntime.sleep(600)"

Programs = Callable[..., House]


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    """Makes a house whose first processes run these programs, and those that follow an honest one."""
    for name, seconds in (("_GRACE", 0.3), ("_TICK", 0.01), ("_IDLE", 0.05)):
        monkeypatch.setattr(f"xpsr.web.hands.{name}", seconds)
    opened: list[Any] = []

    def play(*programs: str, is_started: bool = True, max_seconds: float = 60) -> House:
        marks = tmp_path / "marks"
        marks.mkdir()
        for number, program in enumerate(programs):
            (marks / f"{number}.py").write_text(SAYING + program)
        code = f"""
import os
for number in range(1000):
    try:
        os.close(os.open({str(marks)!r} + "/" + str(number), os.O_CREAT | os.O_EXCL))
        break
    except FileExistsError:
        pass
place = {str(marks)!r} + "/" + str(number) + ".py"
exec(open(place).read() if os.path.exists(place) else {SAYING + HONEST!r})
"""
        monkeypatch.setattr("xpsr.batch.processes._PYTHON", (sys.executable, "-I", "-S", "-c", code))
        manager = house_of(ServeConfig(), tmp_path / "spool", is_started=is_started, max_seconds=max_seconds)
        opened.append(manager)
        return manager.__enter__()

    yield play
    for manager in opened:
        manager.__exit__(None, None, None)


NONSENSE = {
    "junk": "told('junk')",
    "no news": "told('{}')",
    "a list": "told('[]')",
    "a number": "told('7')",
    "an unknown kind": "say(kind='song', id=name)",
    "no text as kind": "say(kind=[], id=name)",
    "no id": "say(kind='news', progress=[1, 2])",
    "no text as id": "say(kind='news', id=[name])",
    "no record": "say(kind='done', id=name)",
    "no error": "say(kind='failed', id=name, error='it failed')",
    "endless progress": 'told(\'{"kind": "news", "id": "\' + name + \'", "progress": [Infinity, 1]}\')',
    "one number": "say(kind='news', id=name, progress=5)",
    "three numbers": "say(kind='news', id=name, progress=[1, 2, 3])",
    "words": "say(kind='news', id=name, progress=['a', 'b'])",
    "a prior that is a text": "say(kind='news', id=name, prior='a cat')",
    "a prior of numbers": "say(kind='news', id=name, prior={'content': 5})",
    "levels of lists": "say(kind='news', id=name, prior={'levels': {'blur': [1]}})",
    "too deep": "told('[' * 100_000)",
    "no text at all": "told('\\xff\\xfe')",
    "a line without end": "told('x' * 5000, end='')",
    "nothing more": "os.close(1)",
    "its end": "os._exit(0)",
}


@pytest.mark.parametrize("said", sorted(NONSENSE.keys() - {"no text at all"}))  # it may hide that the job was begun
def test_a_process_that_says_nonsense_is_ended_and_the_job_that_it_had_begun_fails(
    played: Programs, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr("xpsr.web.hands._LONGEST_LINE", 4000)
    house = played(BEGUN + NONSENSE[said] + STAY)
    job, next_one = house.submit(), house.submit()
    house.ended(job)
    assert job.state == "failed" and job.error is not None and job.error.code == "worker_died"
    assert str(job.error) == "the process that worked on it died; try again; if it does so again, a smaller picture."
    assert house.ended(next_one).state == "done" and house.deaths == [1] and house.hand.is_ready


@pytest.mark.parametrize("said", ["junk", "no text at all", "its end", "nothing more"])
def test_a_job_that_no_process_has_begun_goes_back_and_is_done_by_the_next(played: Programs, said: str) -> None:
    house = played(READY + "name = hear()\n" + NONSENSE[said] + STAY)
    job = house.submit()
    states: list[str] = []
    job.watch(lambda: states.append(job.state))
    house.ended(job)
    assert states[-3:] == ["waiting", "running", "done"] and job.record == {"by": house.hand.pid}
    assert house.hand.facts == {"pid": house.hand.pid} and house.deaths == [1]


def test_a_process_that_speaks_of_other_jobs_is_not_believed(played: Programs) -> None:
    others = "\n".join(
        f"say(kind={kind!r}, id='another', record={{}}, error={{}}, progress=[1, 2])"
        for kind in ("begun", "news", "done", "failed")
    )
    house = played(READY + "hear()\n" + others + "\n" + READY + STAY)
    job = house.submit()
    house.ended(job)  # nothing was begun: another process has done it
    assert job.state == "done" and job.record == {"by": house.hand.pid} and job.progress is None and house.deaths == [1]


def test_what_is_said_of_a_job_twice_is_not_taken_for_the_next(played: Programs) -> None:
    house = played(
        READY
        + "first = hear()\n"
        + "for _ in range(2): say(kind='done', id=first, record={'of': 1})\n"
        + "second = hear()\n"
        + "say(kind='failed', id=first, error={}); say(kind='begun', id=second)\n"
        + "say(kind='done', id=first, record={'of': 1}); say(kind='done', id=second, record={'of': 2})"
        + STAY
    )
    jobs = [house.ended(house.submit()) for _ in range(2)]
    assert [job.record for job in jobs] == [{"of": 1}, {"of": 2}] and not house.deaths


def test_a_process_that_hangs_is_ended_when_the_time_of_its_job_is_over(played: Programs) -> None:
    house = played(BEGUN + STAY, max_seconds=0.5)
    job = house.submit()
    house.ended(job)
    assert job.error is not None and job.error.code == "too_late"
    assert str(job.error) == "it was not done within 0.5 seconds; try again later, or a smaller picture or scale."
    assert eventually(lambda: house.hand.is_ready and house.deaths == [1])
    assert house.ended(house.submit()).state == "done"


def test_a_process_that_only_says_how_far_it_is_is_ended_too(played: Programs) -> None:
    forever = (
        "done = 0\nwhile True:\n done += 1; say(kind='news', id=name, progress=[done, done + 1]); time.sleep(0.001)"
    )
    house = played(BEGUN + forever, max_seconds=0.5)
    job = house.ended(house.submit())
    assert job.error is not None and job.error.code == "too_late" and job.progress is not None
    assert eventually(lambda: house.hand.is_ready and house.deaths == [1])


def test_a_process_that_begins_nothing_is_ended_and_reads_nothing_of_what_it_is_sent(played: Programs) -> None:
    house = played(READY + STAY)
    long = "ü" * 10_000
    job = house.submit(content=long, content_suffix=long, negative_content=long)  # more than a pipe holds
    assert house.ended(job).state == "done" and house.deaths == [1]


def test_a_job_that_nobody_wants_any_more_holds_a_deaf_process_no_longer_than_its_time(played: Programs) -> None:
    house = played(BEGUN + STAY, max_seconds=0.7)
    job, waiting = house.submit(), house.submit()
    waiting.deadline += 60
    assert eventually(lambda: job.state == "running")
    house.scheduler.cancel(job)
    assert house.ended(waiting).state == "done" and job.state == "cancelled"
    assert not job.folder.exists() and house.deaths == [1] and house.scheduler.is_idle


def test_a_cancelled_job_that_is_done_all_the_same_stays_cancelled(played: Programs) -> None:
    wait = "while 'cancel' not in json.loads(sys.stdin.readline()): pass\n"
    house = played(BEGUN + wait + "say(kind='done', id=name, record={})\n" + HONEST)
    job = house.submit()
    assert eventually(lambda: job.state == "running")
    house.scheduler.cancel(job)
    assert house.done() and job.state == "cancelled" and job.record is None and not job.folder.exists()
    assert not house.deaths


def test_one_that_never_becomes_ready_again_is_replaced(played: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.web.hands._LONGEST_LOAD", 0.5)
    house = played(READY, STAY)
    first = house.hand.pid
    assert house.ended(house.submit()).state == "done" and len(house.deaths) == 2
    assert house.hand.pid != first and house.hand.is_ready


@pytest.mark.parametrize(
    ("program", "kind", "message"),
    [
        ("", XPSRError, "the process that restores pictures died while it loaded its models; see what it wrote before"),
        ("told('junk')" + STAY, XPSRError, "died while it loaded its models"),
        ("say(kind='begun', id='1')" + STAY, XPSRError, "died while it loaded its models"),
        (
            "say(kind='refused', error={'kind': 'InputError', 'message': 'is bad', 'field': 'fit', 'value': 'pad'})",
            InputError,
            "^fit=pad is bad$",
        ),
        ("say(kind='refused', error={'kind': ['x'], 'message': {}, 'remedy': 7})" + STAY, XPSRError, r"^{}; 7\.$"),
    ],
)
def test_a_process_that_does_not_begin_is_told_at_the_start_and_leaves_nothing(
    played: Programs, program: str, kind: type[XPSRError], message: str
) -> None:
    house = played(program, is_started=False)
    with pytest.raises(kind, match=message) as caught:
        house.hand.start()
    assert type(caught.value) is kind and not house.hand.is_ready
    assert house.hand.pid is not None and not is_there(house.hand.pid)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [1, 2])
def test_a_process_that_no_thread_can_listen_to_is_ended(
    played: Programs, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    house = played(HONEST, is_started=False)
    started: list[Any] = []
    start, start_process = threading.Thread.start, sys.modules["xpsr.web.hands"].start_process

    def start_some(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == number:
            raise RuntimeError("can't start new thread")
        start(thread)

    processes: list[Any] = []

    def kept(module: str) -> Any:
        processes.append(start_process(module))
        return processes[-1]

    with monkeypatch.context() as patch:
        patch.setattr("xpsr.web.hands.start_process", kept)
        patch.setattr("threading.Thread.start", start_some)
        with pytest.raises(XPSRError, match=r"cannot be started \(can't start new thread\); see what else") as caught:
            house.hand.start()
    assert caught.value.code == "refused" and house.hand.pid is None
    assert eventually(lambda: processes[0].poll() is not None, seconds=10)


def test_the_end_fails_what_is_in_hand_and_waits_for_nobody(played: Programs) -> None:
    house = played(BEGUN + STAY)
    job, waiting = house.submit(), house.submit()
    assert eventually(lambda: job.state == "running")
    pid, started = house.hand.pid, time.monotonic()
    house.hand.close()
    assert time.monotonic() - started < 5 and pid is not None and not is_there(pid) and not house.hand.is_ready
    assert job.error is not None and job.error.code == "draining" and waiting.state == "waiting"
    house.hand.close()  # once more harms nobody
    house.scheduler.close()
    assert waiting.error is not None and waiting.error.code == "draining" and not house.deaths


def test_the_end_reaches_a_process_that_is_being_started_again(played: Programs) -> None:
    house = played(READY, STAY)
    assert eventually(lambda: house.deaths == [1] and (Path(house.spool.folder.parents[1]) / "marks" / "1").exists())
    started = time.monotonic()
    house.hand.close()
    assert time.monotonic() - started < 5 and house.hand.pid is not None and not is_there(house.hand.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_the_end_reaches_a_process_that_is_started_after_it(played: Programs) -> None:
    house = played(is_started=False)
    house.hand.close()
    with pytest.raises(XPSRError) as caught:
        house.hand.start()
    assert caught.value.code == "worker_died" and not house.hand.is_ready
    assert house.hand.pid is not None and not is_there(house.hand.pid)


def test_many_deaths_leave_neither_threads_nor_files_behind(played: Programs) -> None:
    house = played(HONEST, *[READY + "hear()"] * 20)

    def tally() -> int:
        return threading.active_count() + len(list(Path("/proc/self/fd").iterdir()))

    assert house.done()
    before = tally()
    assert house.hand.pid is not None
    os.kill(house.hand.pid, signal.SIGKILL)
    job = house.ended(house.submit())
    assert job.state == "done" and job.record == {"by": house.hand.pid} and len(house.deaths) in (20, 21)
    assert eventually(lambda: tally() <= before, seconds=10), (tally(), before)


def test_a_mistake_of_the_servers_own_takes_no_device_away(
    played: Programs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house = played()
    mistakes = [OSError("of the metrics")]

    def on_over(job: Job) -> None:
        if mistakes:
            raise mistakes.pop()

    monkeypatch.setattr(house.scheduler, "_on_over", on_over)
    job, next_one = house.submit(), house.submit()
    assert house.ended(next_one).state == "done" and job.state == "done" and "of the metrics" in caplog.text


def test_two_hands_share_the_work_and_do_nothing_twice(played: Programs) -> None:
    slow = HONEST.replace('say(kind="done"', 'time.sleep(0.02); say(kind="done"')
    house = played(slow, slow)
    other = Hand(ServeConfig(), "cpu", house.scheduler)
    try:
        other.start()
        jobs = [house.submit() for _ in range(30)]
        by = {house.ended(job).record["by"] for job in jobs if house.ended(job).record}  # type: ignore[index]
        assert by == {house.hand.pid, other.pid} and all(job.state == "done" for job in jobs)
    finally:
        other.close()


def test_a_hand_that_was_never_started_ends(tmp_path: Path) -> None:
    with house_of(ServeConfig(), tmp_path, is_started=False) as house:
        assert not house.hand.is_ready and house.hand.pid is None


# what passes between the two

parts = st.none() | st.text(max_size=40)
errors = st.builds(
    lambda kind, message, code, **others: kind(message, code=code or None, **others),
    st.sampled_from([XPSRError, InputError, ModelError, MissingDependencyError]),
    st.text(max_size=40),
    parts,
    field=parts,
    value=parts,
    remedy=parts,
    source=parts,
)


@settings(max_examples=50, deadline=None)
@given(errors)
def test_errors_pass_whole(error: XPSRError) -> None:
    passed = error_of(json.loads(json.dumps(error_parts(error))))
    assert type(passed) is type(error) and str(passed) == str(error)
    assert all(getattr(passed, part) == getattr(error, part) for part in ("code", "field", "value", "remedy", "source"))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["/srv/spool/1/", "/srv/spool/1", "/m/large", "/m/large/unet", "http://h/k3y", " ", "x"]))
)
def test_errors_hide_what_no_client_should_see(words: list[str]) -> None:
    hidden = {"/srv/spool/1": "its folder", "/srv/spool/1/": "", "/m/large": "large", "http://h/k3y": "eye"}
    text = "".join(words)
    for error in (InputError(text, field="model", value=text, remedy=text, source=text), OSError(2, "no", text)):
        told = json.dumps(error_parts(error, hidden=hidden))
        assert not [secret for secret in hidden if secret in told]


def test_orders_and_requests_pass_whole(tmp_path: Path) -> None:
    config = ServeConfig(
        models=("a=/x", "b"), spool=tmp_path, memory="4GB", upscale=UpscaleConfig(dtype="fp32", strip_gps=True)
    )
    told = json.loads(order_line(config, "cuda:1"))
    assert override(ServeConfig(), told["config"]) == config and told["device"] == "cuda:1"
    request = Request(
        kind="describe",
        name="my secret\n\ud800.png",
        width=4,
        height=3,
        format="TIFF",
        bytes=7,
        suffix=".tif",
        config=UpscaleConfig(guidance_interval=(0.25, 0.5), content="größer\n", seed=3, priors=Path("a"), megapixels=2),
        wants_map=True,
    )
    line = request_line("id", request, tmp_path)
    assert line.count("\n") == 1 and "secret" not in line
    assert _request_of(json.loads(line)) == dataclasses.replace(request, name="")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "levels", "blur"]), inner),
    max_leaves=5,
)
news = st.fixed_dictionaries(
    {"kind": st.sampled_from(["ready", "refused", "begun", "news", "done", "failed"]) | json_values},
    optional=dict.fromkeys(("id", "facts", "error", "record", "progress", "prior"), json_values),
)


@settings(max_examples=300, deadline=None)
@given(news)
def test_whatever_a_process_says_is_news_or_is_refused(said: dict[str, Any]) -> None:
    try:
        told = _read(json.dumps(said))
    except Exception:  # which ends the process
        return
    assert told["kind"] in ("ready", "refused", "begun", "news", "done", "failed")
    progress, prior = told.get("progress"), told.get("prior")
    assert progress is None or (len(progress) == 2 and all(type(number) is int for number in progress))
    assert prior is None or isinstance(prior, Prior)
    if told["kind"] in ("refused", "failed"):
        error = error_of(told["error"])
        assert str(error) and all(
            isinstance(getattr(error, part), str | None) for part in ("message", "field", "value", "remedy", "source")
        )


def test_a_process_whose_server_has_gone_before_it_began_ends() -> None:
    from xpsr.batch.processes import start_process

    with start_process("xpsr.web.process") as process:
        out, _ = process.communicate(timeout=60)  # closes its input
    assert process.returncode == 0 and out == ""


# a real one, with a tiny model


class Refusing(BaseHTTPRequestHandler):
    """A describer that takes no picture, and repeats where it was asked."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        said = json.dumps({"error": {"message": f"no picture for {self.path}"}}).encode()
        self.send_response(400 if "picky" in self.path else 404)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def house(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for the whole module: a start takes seconds. Whoever kills its process waits for nobody: jobs do."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    config = ServeConfig(
        models=(f"tiny={tiny_model}",),
        describers=("none", "mini", f"picky={address}/k3y/picky/v1#m", f"broken={address}/k3y/v1#m"),
        max_pixels=10_000,
        max_output_pixels=160_000,
        upscale=UpscaleConfig(dtype="fp32"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as many as the tests' own process has
        try:
            with house_of(config, tmp_path_factory.mktemp("house")) as opened:
                opened.secrets += [address, "127.0.0.1", "k3y", str(tiny_model), tempfile.gettempdir(), sys.prefix]
                opened.secrets += [
                    str(Path(__file__).parents[1]),
                    opened.spool.folder.name,
                    opened.spool.folder.parent.name,
                ]
                yield opened
                theirs = [opened.hand.pid, *descendants(opened.hand.pid)]
            assert eventually(lambda: not [pid for pid in theirs if pid and is_there(pid)], seconds=20)
        finally:
            server.shutdown()
            server.server_close()
            serving.join()


def descendants(pid: int | None) -> list[int]:
    """Processes that it has started, and those that these have; where the system tells."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def by_command_line(folder: Path, model: Path, picture: bytes, name: str, *more: str, **options: Any) -> Path:
    """Restores a picture by `xpsr upscale`, in a folder of its own, and returns the result."""
    folder.mkdir()
    (folder / name).write_bytes(picture)
    (folder / "config.yaml").write_text(json.dumps({"describer": "none", **options}))
    machine = ("--model", str(model), "--device", "cpu", "--dtype", "fp32", "--quiet")
    given = ("--config", str(folder / "config.yaml"), "-o", str(folder / "out"), *more)
    assert main(["upscale", str(folder / name), *given, *machine]) == 0
    (result,) = [path for path in (folder / "out").iterdir() if path.suffix not in (".json", ".jsonl")]
    return result


def deep_tiff() -> bytes:
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, np.random.default_rng(3).integers(0, 2**16, (7, 9, 3), dtype=np.uint16), photometric="rgb")
    return file.getvalue()


def transparent() -> bytes:
    image = noise(4)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return saved(image)


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a photo.png", PICTURE, {"seed": 5}),
        ("mini.jpg", saved(noise(1), "JPEG", dpi=(300, 300)), {"seed": 6, "describer": "mini"}),
        (
            "texts.png",
            PICTURE,
            {"seed": 7, "content": "größer", "quality": "", "strength": 1, "num_inference_steps": 2, "scale": 2.5},
        ),
        ("half.png", PICTURE, {"seed": 8, "content": "a cat", "describer": "mini", "lr_consistency": True}),
        (
            "many.png",
            transparent(),
            {
                "seed": 9,
                "preset": "paper",
                "num_inference_steps": 1,
                "min_working_size": 0,
                "protect": "auto",
                "longest": 50,
                "format": "webp",
                "file_quality": 40,
                "provenance": False,
            },
        ),
        ("deep.tif", deep_tiff(), {"seed": 10, "strip_metadata": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_result_is_that_of_the_command_line_to_the_byte(
    house: House, tiny_model: Path, tmp_path: Path, name: str, content: bytes, options: dict[str, Any]
) -> None:
    job = house.submit(content, name=name, wants_map=True, **options)
    expected = by_command_line(
        tmp_path / "cli", tiny_model, content, name, "--map", str(tmp_path / "map.png"), **options
    )
    house.ended(job)
    assert job.state == "done" and job.record is not None, job.error
    assert job.result.read_bytes() == expected.read_bytes() and job.result_name == expected.name
    assert (job.folder / "map.png").read_bytes() == (tmp_path / "map.png").read_bytes()
    assert job.record["bytes"] == expected.stat().st_size
    theirs = json.loads(expected.with_suffix(".json").read_text())
    for record in (mine := dict(job.record), theirs):
        for part in ("input", "output", "seconds", "bytes"):
            record.pop(part, None)
        record["model"] = record["model"]["sha256"]
    assert mine == theirs and job.record["model"]["name"] == "tiny"
    assert job.prior is not None and job.prior.as_dict() == theirs["prior"]
    assert job.progress is not None and job.progress[0] == job.progress[1] > 0
    shown = {"input.png", "view.png"} if name.endswith(".tif") else set()
    assert {path.name for path in job.folder.iterdir()} == {
        *("upload", "map.png", "result.json", job.result.name),
        *shown,
    }


def pixels(picture: Picture | Path) -> torch.Tensor:
    return (picture if isinstance(picture, Picture) else read_image(picture)).pixels


def test_what_browsers_do_not_show_lies_beside_in_what_they_do(house: House) -> None:
    content = deep_tiff()
    job = house.done(content, name="deep.tif", scale=2.0)
    assert (job.result.name, job.result_name) == ("result.tiff", "deep_x2.tif")
    for seen, shown in ((decode_image(content, "picture"), "input.png"), (read_image(job.result), "view.png")):
        with Image.open(job.folder / shown) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (seen.width, seen.height))
        assert (pixels(job.folder / shown) - pixels(seen)).abs().max() <= 0.5 / 255 + 1e-6
    assert {path.name for path in house.done(PICTURE, format="tiff").folder.iterdir()} >= {"view.png"}
    told = house.done(content, kind="describe", describer="mini")
    assert {path.name for path in told.folder.iterdir()} == {"upload", "input.png"}


def test_what_browsers_show_is_no_larger_than_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.web.worker._MAX_SHOWN", 1000)
    image = noise(6, 80, 40)
    image.putalpha(Image.new("L", image.size, 128))
    _show(decode_image(saved(image), "picture"), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as shown:
        assert shown.mode == "RGBA" and shown.size == (44, 22)


def test_what_is_seen_is_what_the_command_line_sees(house: House, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    assert main(["describe", str(tmp_path / "a.png"), "-o", str(tmp_path / "priors.jsonl"), "--quiet"]) == 0
    seen = json.loads((tmp_path / "priors.jsonl").read_text().splitlines()[-1])
    job = house.done(PICTURE, kind="describe", describer="mini")
    assert job.record is not None and job.prior is not None and job.record == {"prior": job.prior.as_dict()}
    assert job.record["prior"] == {part: seen[part] for part in ("content", "quality", "levels")}
    assert {path.name for path in job.folder.iterdir()} == {"upload"}


def test_what_is_told_of_a_model_is_what_it_can_do_and_not_where_it_lies(house: House) -> None:
    (model,) = house.hand.facts["models"]
    assert (model["name"], model["scale"], model["has_one_step"], model["draws_noise"]) == ("tiny", 4.0, True, False)
    assert model["settings"]["tile_size"] == 16 and house.hand.facts["describers"] == [
        "none",
        "mini",
        "picky",
        "broken",
    ]
    assert not [secret for secret in house.secrets if secret in json.dumps(house.hand.facts)]


LONG: dict[str, Any] = {"strength": 1.0, "num_inference_steps": 500, "scale": 8.0}
"""Of a picture that takes minutes."""


def test_a_job_that_is_cancelled_makes_room_for_the_next(house: House) -> None:
    began = time.monotonic()
    running, waiting, last = house.submit(**LONG), house.submit(**LONG), house.submit(seed=5)
    assert eventually(lambda: running.progress is not None)
    pid = house.hand.pid
    house.scheduler.cancel(waiting)
    assert not waiting.folder.exists() and running.folder.exists()
    house.scheduler.cancel(running)
    assert running.state == "cancelled" and house.ended(last).state == "done" and time.monotonic() - began < 60
    assert last.result.read_bytes() == house.done(seed=5).result.read_bytes() and house.hand.pid == pid
    assert not running.folder.exists() and {running.state, waiting.state} == {"cancelled"} and house.scheduler.is_idle


def test_a_job_whose_time_is_over_ends_and_the_same_process_goes_on(house: House) -> None:
    job, pid = house.submit(**LONG), house.hand.pid
    assert eventually(lambda: job.progress is not None)
    job.deadline = time.monotonic()
    house.ended(job)
    assert job.state == "failed" and job.error is not None and job.error.code == "too_late"
    assert house.done() and house.hand.pid == pid and job.folder.exists() and not job.result.exists()
    late = house.submit()
    late.deadline = 0
    assert house.ended(late).error is not None and late.started is None


def blocked(name: str) -> Callable[[Path, bytes], None]:
    """Returns what puts a picture in a folder in which `name` cannot be written."""

    def put(folder: Path, content: bytes) -> None:
        upload(folder, content)
        (folder / name).mkdir()

    return put


CUT = saved(noise(2, 60, 60))
FAILURES: list[tuple[str, str, bytes, dict[str, Any]]] = [
    ("damaged", r"^picture: is truncated or damaged", CUT[:2000] + bytes(len(CUT) - 2000), {}),
    ("too_large", r"^picture: ", saved(noise(2, 101, 100)), {}),
    ("too_large", r"^scale=16 makes .* of 60 x 60, more than .*; use 6.6 or less", CUT, {"scale": 16.0}),
    ("unknown_value", r"^model=no/such is none of this server's; use one of tiny\.$", PICTURE, {"model": "no/such"}),
    ("unknown_value", "^describer=who is none of this server's; use one of none, mini", PICTURE, {"describer": "who"}),
    ("unknown_value", "^protect is not auto; use auto, or leave it out", PICTURE, {"protect": "/etc/hostname"}),
    ("conflict", "^fidelity=0.5 is of a model that knows a faithful way, too; use 0", PICTURE, {"fidelity": 0.5}),
    ("not_described", "^the describer picky does not take this picture; use another", PICTURE, {"describer": "picky"}),
    ("no_describer", "^the describer broken does not answer; use another one, or", PICTURE, {"describer": "broken"}),
    ("refused", "^the server cannot read or write its files; try again", PICTURE, {"put": lambda folder, content: 0}),
    ("conflict", "^result.png: is a folder", PICTURE, {"put": blocked("result.png")}),
    ("refused", "^the server cannot", PICTURE, {"put": blocked("map.png"), "wants_map": True}),
]


def test_errors_tell_what_is_wrong_and_nothing_of_the_server(house: House) -> None:
    died = len(house.deaths)
    jobs = [house.submit(content, **options) for _, _, content, options in FAILURES]
    faults = []
    for job, (code, message, *_) in zip(jobs, FAILURES, strict=True):
        error = house.ended(job).error
        if error is None or error.code != code or not re.search(message, str(error)):
            faults.append(f"{error and error.code}: {error}, not {code}: {message}")
    assert not faults, "\n".join(faults)
    assert house.done() and len(house.deaths) == died


def test_signals_that_are_for_the_server_end_no_job(house: House) -> None:
    job, pid = house.submit(strength=1.0, num_inference_steps=20), house.hand.pid
    assert pid is not None and eventually(lambda: job.progress is not None)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert house.ended(job).state == "done" and house.done() and house.hand.pid == pid


def test_what_nobody_has_foreseen_is_told_as_that_and_ends_nothing(house: House, tmp_path: Path) -> None:
    process = house.hand._process
    assert process is not None
    request = json.loads(request_line("1", house.done().request, tmp_path))
    for name, value in (("request", {"secret": 1}), ("folder", 7)):
        process.say(json.dumps(request | {name: value}) + "\n")
    told = [process.news.get(timeout=60) for _ in range(4)]
    assert [news and news["kind"] for news in told] == ["begun", "failed"] * 2
    for news in told[1::2]:
        assert news is not None and news["error"]["code"] == "unexpected"
        assert str(error_of(news["error"])) == "something went wrong that nobody has foreseen"
    assert house.done() and house.hand._process is process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts files and threads in /proc")
def test_a_hundred_jobs_leave_nothing_behind(house: House) -> None:
    texts: dict[str, Any] = {"content": "a", "quality": "b"}  # nobody looks

    def tally() -> dict[str, int]:
        gc.collect()
        return {
            "threads": threading.active_count(),
            "files": len(list(Path("/proc/self/fd").iterdir())),
            "threads there": len(list(Path(f"/proc/{house.hand.pid}/task").iterdir())),
            "files there": len(list(Path(f"/proc/{house.hand.pid}/fd").iterdir())),
            "processes": len(descendants(house.hand.pid)),
            "jobs": len(house.scheduler._jobs),
            "folders": len(list(house.spool.folder.iterdir())),
        }

    small = saved(noise(5, 4, 3))
    house.done(small, **texts)
    left, before = [], tally()
    for number in range(100):
        job = house.submit(small, kind="upscale" if number % 5 == 0 else "describe", **texts)
        unwatch = job.watch(lambda: None)
        house.ended(job)
        unwatch()
        assert job.state == "done" and not job._watchers
        house.scheduler.forget(job)
        left.append(weakref.ref(job))
    del job, unwatch
    assert eventually(lambda: all(tally()[name] <= count for name, count in before.items()), 10), (tally(), before)
    house.done(small, **texts)
    gc.collect()
    assert [job() for job in left if job() is not None] == []
    assert house.scheduler.is_idle


@pytest.mark.slow
def test_jobs_of_many_clients_that_are_cancelled_at_random_are_not_mixed_up(
    house: House, tiny_model: Path, tmp_path: Path
) -> None:
    random, died = Random(0), len(house.deaths)
    (tmp_path / "photos").mkdir()
    contents = {f"{number}.png": saved(noise(number, 5 + number % 7, 4 + number % 5)) for number in range(30)}
    for name, content in contents.items():
        (tmp_path / "photos" / name).write_bytes(content)
    machine = ("--model", str(tiny_model), "--device", "cpu", "--dtype", "fp32", "--quiet", "--seed", "3")
    assert main(["upscale", str(tmp_path / "photos"), "-o", str(tmp_path / "out"), *machine]) == 0
    jobs: dict[str, Job] = {}
    names = list(contents)
    random.shuffle(names)

    def be_client(number: int) -> None:
        chance = Random(number)
        for name in names[number::5]:
            job = house.submit(contents[name], name=name, client=str(number), describer="mini", seed=3)
            jobs[name] = job
            if chance.random() < 0.4:
                eventually(lambda job=job: job.state != "waiting", seconds=chance.random())  # type: ignore[misc]
                house.scheduler.cancel(job)
            if chance.random() < 0.5:
                eventually(lambda job=job: job.is_over)  # type: ignore[misc]

    clients = [threading.Thread(target=be_client, args=(number,)) for number in range(5)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    for name, job in jobs.items():
        result = tmp_path / "out" / f"{name.removesuffix('.png')}_x4.png"
        assert house.ended(job).state in ("done", "cancelled")
        if job.state == "done":
            assert job.result.read_bytes() == result.read_bytes() and job.result_name == result.name
    assert eventually(lambda: house.scheduler.is_idle) and len(house.deaths) == died
    states = [job.state for job in jobs.values()]
    assert len(states) == 30 and states.count("done") >= 10 and states.count("cancelled") >= 3
    assert not [job for job in jobs.values() if job.state == "cancelled" and job.folder.exists()]


def test_a_process_that_is_killed_at_work_costs_one_job(house: House) -> None:
    expected = house.done(seed=4).result.read_bytes()
    before, died = house.hand.pid, len(house.deaths)
    theirs = descendants(before)
    job, waiting = house.submit(**LONG), house.submit(seed=4)
    assert before is not None and eventually(lambda: job.progress is not None)
    os.kill(before, signal.SIGKILL)
    house.ended(job)
    assert job.error is not None and job.error.code == "worker_died" and job.folder.exists()
    assert house.ended(waiting).state == "done" and waiting.result.read_bytes() == expected
    assert house.hand.pid != before and len(house.deaths) == died + 1 and house.hand.facts["models"]
    assert eventually(lambda: not [pid for pid in theirs if is_there(pid)], seconds=20)


@pytest.mark.slow
def test_a_job_that_is_handed_to_a_process_that_was_killed_is_done_by_the_next(house: House) -> None:
    expected = house.done(seed=4).result.read_bytes()
    before, died = house.hand.pid, len(house.deaths)
    assert before is not None
    time.sleep(0.2)  # the hand waits for jobs
    os.kill(before, signal.SIGKILL)
    job = house.ended(house.submit(seed=4))
    assert job.state == "done" and job.result.read_bytes() == expected
    assert house.hand.pid != before and len(house.deaths) == died + 1


@pytest.mark.slow
def test_a_process_whose_server_has_gone_ends_in_the_middle_of_its_work(house: House) -> None:
    job, process = house.submit(**LONG), house.hand._process
    assert process is not None and eventually(lambda: job.progress is not None)
    theirs = [process.pid, *descendants(process.pid)]
    process._lines.put(None)  # closes its input, as the end of the server does
    assert house.ended(job).error is not None
    assert eventually(lambda: not [pid for pid in theirs if is_there(pid)], seconds=20)
    assert house.done()


# a start that fails


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_told_at_the_start(tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(tiny_model, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    config = ServeConfig(models=(f"tiny={broken}",), describers=("none",), upscale=UpscaleConfig(dtype="fp32"))
    with house_of(config, tmp_path / "spool", is_started=False) as house:
        with pytest.raises(ModelError, match=r"unet/diffusion_pytorch_model\.safetensors: is ") as caught:
            house.hand.start()
        assert caught.value.code == "damaged" and "\n" not in str(caught.value)
        assert house.hand.pid is not None and not is_there(house.hand.pid)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"upscale": UpscaleConfig(fidelity=0.5)},
            r"^fidelity=0\.5 is of a model that knows a faithful way, too; use 0\.$",
        ),
        (
            {"upscale": UpscaleConfig(num_inference_steps=2000)},
            r"^num_inference_steps=2000 is more than the 1000 timesteps; use 1 to 50\.$",
        ),
        (
            {"upscale": UpscaleConfig(engine="onnx")},
            "holds no exported networks; make a folder that does: xpsr export",
        ),
        ({"memory": "1"}, r"^memory=1 is too little for the model tiny, whatever the picture; use [\d.]+ [MG]B"),
        ({"models": ("no/where/at/all",)}, "^model=no/where/at/all is no model"),
        ({"describers": ("texts=priors.jsonl",)}, "priors.jsonl"),
    ],
)
def test_what_this_machine_or_a_model_cannot_follow_is_told_at_the_start(
    tiny_model: Path, given: dict[str, Any], message: str
) -> None:
    config = ServeConfig(**{"models": (f"tiny={tiny_model}",), "describers": ("none",), **given})
    with pytest.raises(InputError, match=message):
        Worker(config, device="cpu")


def test_a_device_that_is_not_there_is_told_at_the_start(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="device=cuda:77"):
        Worker(ServeConfig(models=(f"tiny={tiny_model}",)), device="cuda:77")


def test_a_result_tells_of_its_model_what_clients_call_it(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "secretname")
    config = ServeConfig(models=(f"second={tmp_path / 'secretname'}",), describers=("none",))
    request = Request(
        kind="upscale",
        name="a.png",
        width=9,
        height=7,
        format="PNG",
        bytes=len(PICTURE),
        suffix=".png",
        config=UpscaleConfig(model="second", describer="none", scale=1.0),
    )
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / UPLOAD).write_bytes(PICTURE)
    Worker(config, device="cpu").work(request, tmp_path / "job", lambda told: None, lambda: False)
    result = (tmp_path / "job" / "result.png").read_bytes()
    assert b"second" in result and b"secretname" not in result


def test_what_would_take_far_too_long_is_refused_before_anybody_works_on_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    worker = Worker(ServeConfig(models=(f"tiny={tiny_model}",), describers=("none",), max_seconds=10), device="cpu")
    restorer, job = worker._restorers["tiny"], tmp_path / "job"
    job.mkdir()
    (job / UPLOAD).write_bytes(PICTURE)
    config = UpscaleConfig(model="tiny", describer="none", scale=1.0)
    shape = {"width": 9, "height": 7, "format": "PNG", "bytes": len(PICTURE), "suffix": ".png"}
    request = Request(kind="upscale", name="a.png", config=config, **shape)
    told: list[object] = []
    key = restorer._rate_key(restorer.pipe.settings())
    keep_rate(key, 1.0)
    pixels = restorer.plan(9, 7, scale=1.0).seconds
    assert pixels is not None
    keep_rate(key, 2 * 25 / pixels - 1.0)  # the mean with the last one is what it is now
    with pytest.raises(
        InputError, match=r"^it would take about 25 seconds, and the limit is 10; use a smaller"
    ) as found:
        worker.work(request, job, told.append, lambda: False)
    assert found.value.code == "too_large" and not told and not (job / "result.png").exists()
    keep_rate(key, 2 * 15 / pixels - 25 / pixels)  # which may be an error of the estimate
    assert restorer.plan(9, 7, scale=1.0).seconds == pytest.approx(15)
    worker.work(request, job, told.append, lambda: False)
    assert (job / "result.png").exists()
