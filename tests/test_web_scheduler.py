"""Who is next, and what is kept: bounds, turns, ends and folders, whatever clients and those who work do and when."""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
from filelock import lock_descriptor
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from xpsr.config import UpscaleConfig
from xpsr.errors import InputError, XPSRError
from xpsr.prior import Prior
from xpsr.web.jobs import OVER, Job, Preview, Request
from xpsr.web.scheduler import Busy, Place, Scheduler
from xpsr.web.spool import Spool

RECORD = {"seed": 1}


def request(number: int = 0) -> Request:
    config = UpscaleConfig(seed=number)
    return Request(kind="upscale", name="a.png", width=4, height=3, format="PNG", bytes=7, suffix=".png", config=config)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path)
    yield opened
    opened.close()


def scheduler_of(spool: Spool, **options: Any) -> Scheduler:
    usual = {"max_queue": 8, "max_per_client": 4, "max_seconds": 600.0, "keep_seconds": 600.0}
    return Scheduler(spool, **usual | options)


def submit(scheduler: Scheduler, client: str = "a", *, owner: str = "", size: int = 7) -> Job:
    with scheduler.place(client, owner=owner) as place:
        (place.folder / "upload").write_bytes(bytes(size))
        return scheduler.submit(place, request())


def take(scheduler: Scheduler) -> Job:
    job = scheduler.take(timeout=5)
    assert job is not None
    return job


def folders(spool: Spool) -> set[Path]:
    return {path for path in spool.folder.iterdir() if path.is_dir()}


# one after another


def test_a_job_passes_from_its_place_to_its_end_and_is_forgotten(spool: Spool) -> None:
    ended: list[Job] = []
    scheduler = scheduler_of(spool, keep_seconds=0.05, on_over=ended.append)
    with scheduler.place("a", owner="me") as place:
        assert scheduler.counts == {"coming": 1, "waiting": 0, "running": 0, "kept": 0} and not scheduler.is_idle
        (place.folder / "upload").write_bytes(b"picture")
        job = scheduler.submit(place, request())
        assert scheduler.counts == {"coming": 0, "waiting": 1, "running": 0, "kept": 0}
    assert scheduler.find(job.id, owner="me") is job and job.state == "waiting" and job.place == 0
    assert take(scheduler) is job and job.state == "running" and job.started is not None
    scheduler.report(job, prior=Prior("a cat", "sharp"))
    scheduler.report(job, progress=(1, 4), preview=Preview(image=b"w", step=1, steps=4))
    assert (job.progress, job.prior) == ((1, 4), Prior("a cat", "sharp")) and job.preview is not None
    job.result.write_bytes(bytes(100))
    scheduler.finish(job, RECORD)
    assert (job.state, job.record, job.error, job.preview, job.kept) == ("done", RECORD, None, None, 107)
    assert job.finished is not None and job.expires == pytest.approx(job.finished + 0.05) and scheduler.unfetched == 1
    assert scheduler.is_idle and ended == [job] and scheduler.counts["kept"] == 1
    scheduler.sweep()
    assert scheduler.find(job.id, owner="me") is job and job.result.exists()
    time.sleep(0.06)
    scheduler.sweep()
    with pytest.raises(InputError, match=r"^id=.* is no job, or one that was forgotten"):
        scheduler.find(job.id, owner="me")
    assert not folders(spool) and scheduler.unfetched == 0


def test_nobody_finds_what_is_anothers(spool: Spool) -> None:
    scheduler = scheduler_of(spool)
    job = submit(scheduler, owner="me")
    for owner in ("", "you"):
        with pytest.raises(InputError) as caught:
            scheduler.find(job.id, owner=owner)
        assert caught.value.code == "no_such_job"
    with pytest.raises(InputError) as caught:
        scheduler.find("x" * 10_000)
    assert len(str(caught.value)) < 200


def test_clients_take_turns_and_places_tell_how_many_are_before(spool: Spool) -> None:
    scheduler = scheduler_of(spool)
    many = [submit(scheduler, "many") for _ in range(4)]
    one, two = submit(scheduler, "one"), [submit(scheduler, "two") for _ in range(2)]
    expected = [many[0], one, two[0], many[1], two[1], many[2], many[3]]
    assert [job.place for job in expected] == list(range(7))
    assert [take(scheduler) for _ in range(3)] == expected[:3]
    late = submit(scheduler, "one")  # who was served comes last
    assert [take(scheduler) for _ in range(5)] == [many[1], two[1], late, many[2], many[3]]


def test_a_full_queue_and_a_full_hand_say_when_to_come_again(spool: Spool) -> None:
    scheduler = scheduler_of(spool, max_queue=3, max_per_client=2)
    jobs = [submit(scheduler), submit(scheduler)]
    with pytest.raises(Busy, match=r"^2 of your requests wait or are worked on, and the limit is 2; wait") as caught:
        submit(scheduler)
    assert (caught.value.code, caught.value.retry_after) == ("too_many", 5)
    last = submit(scheduler, "b")
    with pytest.raises(Busy, match=r"^3 requests wait or are worked on, and the limit is 3; try again in 5") as full:
        submit(scheduler, "c")
    assert (full.value.code, full.value.retry_after) == ("busy", 5)
    scheduler.forget(last)
    assert len(folders(spool)) == 2
    assert take(scheduler) is jobs[0]
    scheduler.cancel(jobs[0])  # it counts until whoever works on it has let it go
    with pytest.raises(Busy):
        submit(scheduler)
    scheduler.fail(jobs[0], jobs[0].cancelled_error())
    assert submit(scheduler).state == "waiting"


def test_how_long_jobs_take_decides_when_to_come_again(spool: Spool) -> None:
    scheduler = scheduler_of(spool, max_queue=1, num_hands=2)
    for _ in range(30):  # as quick as can be
        submit(scheduler)
        scheduler.finish(take(scheduler), RECORD)
    submit(scheduler)
    with pytest.raises(Busy) as caught:
        submit(scheduler, "b")
    assert caught.value.retry_after == 1
    scheduler._seconds = 10**6
    with pytest.raises(Busy) as caught:
        submit(scheduler, "b")
    assert caught.value.retry_after == 600


def test_a_place_is_free_again_whatever_becomes_of_the_upload(spool: Spool) -> None:
    scheduler = scheduler_of(spool, max_queue=1)
    for error in (ConnectionError, KeyboardInterrupt, GeneratorExit):
        for _ in range(2):
            with pytest.raises(error), scheduler.place("a"):
                raise error
            assert scheduler.is_idle and not folders(spool)
    with scheduler.place("a") as place:
        assert place.folder.is_dir()
    assert scheduler.is_idle and not folders(spool)


def test_a_place_that_gets_no_folder_removes_no_other(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "photo.jpg").write_bytes(b"precious")
    monkeypatch.chdir(home)
    scheduler = scheduler_of(spool)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(InputError, match="the server has no room for more pictures; try again later") as caught:
        submit(scheduler)
    assert caught.value.code == "disk_full" and scheduler.is_idle and (home / "photo.jpg").exists()
    # nothing outside of the test's own folder is named here: a fault of `remove` must cost nobody anything
    for folder in (Path(), home):
        spool.remove(folder)
    assert (home / "photo.jpg").exists() and spool.folder.is_dir()


def full(*_: Any, **__: Any) -> str:
    raise OSError(28, "No space left on device", "/srv/secret")


def test_a_cancelled_job_loses_its_files_as_soon_as_nobody_works_on_it(spool: Spool) -> None:
    ended: list[Job] = []
    scheduler = scheduler_of(spool, on_over=ended.append)
    waiting, running = submit(scheduler, "b"), submit(scheduler)
    assert take(scheduler) is waiting
    running, waiting = waiting, running
    for job in (waiting, running):
        scheduler.cancel(job)
        assert (job.state, job.is_wanted, job.error and job.error.code) == ("cancelled", False, "cancelled")
        assert scheduler.find(job.id) is job
    assert folders(spool) == {running.folder} and ended == [waiting, running] and scheduler.counts["running"] == 1
    scheduler.report(running, progress=(1, 2), preview=Preview(image=b"w", step=1, steps=2))  # too late
    assert running.progress is None and running.preview is None
    scheduler.finish(running, RECORD)  # so is this
    assert (running.state, running.record) == ("cancelled", None)
    assert not folders(spool) and scheduler.is_idle and ended == [waiting, running]
    scheduler.cancel(running)
    assert ended == [waiting, running]


def test_a_job_that_is_done_stays_done(spool: Spool) -> None:
    scheduler = scheduler_of(spool)
    job = submit(scheduler)
    take(scheduler)
    scheduler.finish(job, RECORD)
    scheduler.cancel(job)
    scheduler.fail(job, XPSRError("again"))
    scheduler.finish(job, {})
    assert (job.state, job.record, job.is_wanted) == ("done", RECORD, True) and job.folder.exists()


def test_what_is_forgotten_is_found_by_nobody_and_goes_when_it_is_let_go(spool: Spool) -> None:
    scheduler = scheduler_of(spool)
    done, running, waiting = (submit(scheduler, client) for client in "abc")
    for job in (done, running):
        assert take(scheduler) is job
    scheduler.finish(done, RECORD)
    for job in (done, running, waiting):
        scheduler.forget(job)
        scheduler.forget(job)
        with pytest.raises(InputError):
            scheduler.find(job.id)
    assert [job.state for job in (done, running, waiting)] == ["done", "cancelled", "cancelled"]
    assert folders(spool) == {running.folder}
    assert scheduler.counts == {"coming": 0, "waiting": 0, "running": 1, "kept": 0}
    scheduler.fail(running, running.cancelled_error())
    assert not folders(spool) and scheduler.is_idle


def test_who_waits_has_a_deadline_that_counts_from_the_first_byte(spool: Spool) -> None:
    scheduler = scheduler_of(spool, wait_seconds=0.2)
    with scheduler.place("a") as place:
        time.sleep(0.15)
        slow = scheduler.submit(place, request())
    assert slow.deadline < time.monotonic() + 0.06
    time.sleep(0.1)
    scheduler.sweep()
    assert slow.state == "failed" and slow.error is not None and slow.folder.exists()
    assert str(slow.error) == "nobody had time for it within 0.2 seconds; try again later."
    stale, fresh = submit(scheduler), submit(scheduler)
    stale.deadline, fresh.deadline = time.monotonic() - 1, time.monotonic() + 60
    assert take(scheduler) is fresh and fresh.state == "running"  # nobody begins with one whose time is over
    assert stale.state == "failed" and stale.error is not None and stale.error.code == "too_late"


def test_work_has_seconds_of_its_own_however_long_a_job_has_waited(spool: Spool) -> None:
    scheduler = scheduler_of(spool, wait_seconds=60, max_seconds=100)
    with scheduler.place("a") as place:
        place.began -= 59
        job = scheduler.submit(place, request())
    assert job.deadline < time.monotonic() + 1.1
    assert take(scheduler) is job
    assert 99 < job.deadline - time.monotonic() <= 100


def test_slow_uploads_keep_no_job_out(spool: Spool) -> None:
    scheduler = scheduler_of(spool, max_queue=2, max_per_client=3)
    with ExitStack() as stack:
        for number in range(8):  # four times the queue
            stack.enter_context(scheduler.place(f"slow {number // 3}"))
        with pytest.raises(Busy, match="8 uploads are on their way, and the limit is 8"):
            stack.enter_context(scheduler.place("another"))
    first = [stack.enter_context(scheduler.place(f"slow {number}")) for number in range(3)]
    scheduler.submit(first[0], request())
    scheduler.submit(first[1], request())
    with pytest.raises(Busy, match="2 requests wait or are worked on, and the limit is 2"):
        scheduler.submit(first[2], request())
    stack.close()
    assert scheduler.counts == {"coming": 0, "waiting": 2, "running": 0, "kept": 0}


def test_a_job_that_nobody_has_begun_comes_back_first(spool: Spool) -> None:
    scheduler = scheduler_of(spool)
    first, second, other = submit(scheduler), submit(scheduler), submit(scheduler, "b")
    assert take(scheduler) is first
    scheduler.give_back(first)
    assert (first.state, first.started, first.place) == ("waiting", None, 0)
    assert [take(scheduler) for _ in range(3)] == [first, other, second]
    scheduler.cancel(second)
    scheduler.give_back(second)
    assert second.state == "cancelled" and not second.folder.exists() and scheduler.counts["waiting"] == 0


def test_a_job_that_comes_back_waits_no_longer_than_it_might_have(spool: Spool) -> None:
    scheduler = scheduler_of(spool, wait_seconds=0.1, max_seconds=100)
    job = submit(scheduler)
    might, work = job.deadline, take(scheduler).deadline
    assert work - might > 99
    scheduler.give_back(job)
    assert job.deadline == might
    time.sleep(0.11)
    scheduler.sweep()
    assert job.error is not None and str(job.error).startswith("nobody had time for it within 0.1 seconds")


def test_a_job_that_comes_back_after_the_end_is_told_so(spool: Spool) -> None:
    ended: list[Job] = []
    scheduler = scheduler_of(spool, on_over=ended.append)
    job = submit(scheduler)
    take(scheduler)
    scheduler.close()
    scheduler.give_back(job)
    assert (job.state, ended) == ("failed", [job]) and job.error is not None and job.error.code == "draining"
    assert scheduler.is_idle


def test_a_server_that_drains_ends_what_it_has(spool: Spool) -> None:
    scheduler = scheduler_of(spool)
    running = submit(scheduler)
    take(scheduler)
    with scheduler.place("b") as place:
        scheduler.drain()
        waiting = scheduler.submit(place, request())  # which had its place before
    with pytest.raises(Busy, match="the server is to end; try again soon") as caught:
        submit(scheduler)
    assert (caught.value.code, caught.value.retry_after) == ("draining", 10) and not scheduler.is_idle
    scheduler.close()
    assert waiting.state == "failed" and waiting.error is not None and waiting.error.code == "draining"
    assert running.state == "running"
    scheduler.finish(running, RECORD)
    assert scheduler.is_idle and scheduler.take(timeout=0) is None


def test_nothing_is_taken_on_after_the_end(spool: Spool) -> None:
    scheduler = scheduler_of(spool)
    with scheduler.place("a") as place:
        scheduler.close()
        with pytest.raises(Busy, match="the server is to end"):
            scheduler.submit(place, request())
    assert scheduler.is_idle and not folders(spool)


def test_whoever_watches_hears_of_every_change_and_harms_nobody(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = scheduler_of(spool)
    job, other = submit(scheduler), submit(scheduler, "b")
    heard: list[str] = []

    def note() -> None:
        heard.append(job.state)

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    job.watch(gone)
    ends = [job.watch(note), job.watch(note)]  # the same one twice
    take(scheduler)
    ends[0]()
    ends[0]()
    scheduler.report(job, progress=(1, 2))
    scheduler.finish(job, RECORD)
    assert heard == ["running", "running", "running", "done"]
    assert (
        caplog.text.count("RuntimeError: Event loop is closed") == 1 and job.id not in caplog.text
    )  # who knows it has the result
    ends[1]()
    places: list[int] = []
    other.watch(lambda: places.append(other.place))
    assert not job._watchers and take(scheduler) is other and places == [0]


def test_whoever_reads_a_state_finds_what_belongs_to_it(spool: Spool) -> None:
    scheduler = scheduler_of(spool, max_queue=10**6, max_per_client=10**6)
    jobs: list[Job] = [submit(scheduler)]
    is_over, faults = threading.Event(), []

    def read() -> None:
        while not is_over.is_set():
            job = jobs[-1]
            state = job.state
            if (state == "done" and not (job.record and job.finished and job.expires)) or (
                state == "running" and job.started is None
            ):
                faults.append(state)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        scheduler.finish(take(scheduler), RECORD)
        jobs.append(submit(scheduler))
    is_over.set()
    reader.join()
    assert not faults


# room


def test_a_disk_that_is_nearly_full_makes_who_keeps_most_lose_the_oldest(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(spool)
    jobs = {name: submit(scheduler, name[0], size=10**6) for name in ("b0", "a0", "a1", "a2")}
    for _ in jobs:
        scheduler.finish(take(scheduler), RECORD)
    disk = shutil.disk_usage(spool.folder)
    reserve = min(2**29, disk.total // 20)

    def usage(_: Path) -> Any:
        used = sum(spool.size(folder) for folder in folders(spool))
        return type(disk)(disk.total, 0, reserve + 2_500_000 - used)

    monkeypatch.setattr("shutil.disk_usage", usage)
    job = submit(scheduler, "c", size=10)
    assert {name for name, kept in jobs.items() if kept.folder.exists()} == {"b0", "a2"} and job.folder.exists()
    with pytest.raises(InputError):
        scheduler.find(jobs["a0"].id)
    assert scheduler.find(jobs["b0"].id)
    # others fill the disk: nothing that could go would help
    monkeypatch.setattr("shutil.disk_usage", lambda _: type(disk)(disk.total, 0, 0))
    with pytest.raises(InputError) as caught:
        submit(scheduler, "c")
    assert caught.value.code == "disk_full" and jobs["b0"].folder.exists() and scheduler.counts["coming"] == 0


def test_of_very_many_jobs_the_oldest_are_forgotten(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.web.scheduler._MOST_KEPT", 5)
    scheduler = scheduler_of(spool)
    jobs = []
    for client in "abbbbbbbb":
        jobs.append(submit(scheduler, client))
        scheduler.finish(take(scheduler), RECORD)
    scheduler.sweep()
    assert [job.folder.exists() for job in jobs] == [True, *[False] * 4, *[True] * 4]
    assert scheduler.counts["kept"] == 5


def test_a_spool_is_for_its_user_alone_and_goes_at_the_end(tmp_path: Path) -> None:
    parent = tmp_path / "new" / "spool"
    spool = Spool(parent)
    folder = spool.new_folder()
    (folder / "upload").write_bytes(b"x")
    if sys.platform != "win32":
        assert all(path.stat().st_mode & 0o77 == 0 for path in (spool.folder, folder))
    assert spool.size(folder) == 1 and spool.size(folder / "none") == 0
    closing = threading.Thread(target=spool.close)  # whoever ends a server may be another than who began
    closing.start()
    closing.join()
    assert not list(parent.iterdir())


def test_servers_share_a_parent_and_remove_only_what_killed_ones_left(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    kept = first.new_folder()
    left = tmp_path / "xpsr-serve-killed"
    (left / "job").mkdir(parents=True)
    for name in ("server.lock", "job/upload"):
        (left / name).write_bytes(b"")
    foreign = tmp_path / "xpsr-serve-notes"  # somebody's own
    foreign.mkdir()
    (foreign / "a.txt").write_text("mine")
    target = tmp_path / "photos"
    target.mkdir()
    for name in ("server.lock", "a.jpg"):
        (target / name).write_text("mine")
    (tmp_path / "xpsr-serve-link").symlink_to(target)
    (tmp_path / "xpsr-serve-file").write_text("mine")
    inner = tmp_path / "xpsr-serve-dead"
    inner.mkdir()
    (inner / "server.lock").write_text("")
    (inner / "photos").symlink_to(target)
    second = Spool(tmp_path)
    assert not left.exists() and not inner.exists()
    assert kept.is_dir() and first.folder != second.folder
    assert (foreign / "a.txt").exists() and (target / "a.jpg").exists() and (tmp_path / "xpsr-serve-file").exists()
    second.close()
    first.close()
    assert foreign.exists() and not kept.exists()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives files away")
def test_what_is_anothers_stays_even_for_root(tmp_path: Path) -> None:
    foreign = tmp_path / "xpsr-serve-theirs"
    foreign.mkdir()
    (foreign / "server.lock").write_text("")
    os.chown(foreign, 12345, 12345)
    Spool(tmp_path).close()
    assert foreign.exists()


@pytest.mark.parametrize("when", ["before its lock is made", "before it is locked", "while it is locked"])
def test_a_server_whose_new_folder_another_one_takes_makes_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Between the steps of one that begins, its folder looks like what a killed server left."""
    taken: list[Path] = []
    make = tempfile.mkdtemp

    def made(**options: Any) -> str:
        folder = make(**options)
        if when == "before its lock is made" and not taken:
            taken.append(Path(folder))
            taken[0].rmdir()
        return folder

    def locked(number: int, *, blocking: bool) -> bool:
        folder = next(tmp_path.iterdir(), tmp_path)
        if taken or when == "before its lock is made":
            return lock_descriptor(number, blocking=blocking)
        taken.append(folder)
        if when == "while it is locked":
            return False
        shutil.rmtree(folder)
        return lock_descriptor(number, blocking=blocking)

    monkeypatch.setattr("tempfile.mkdtemp", made)
    monkeypatch.setattr("xpsr.web.spool.lock_descriptor", locked)
    spool = Spool(tmp_path)
    assert taken and spool.folder != taken[0] and spool.new_folder().is_dir()
    assert spool.folder.stat().st_mode & 0o77 == 0
    spool.close()


def test_servers_that_begin_at_once_harm_each_other_not(tmp_path: Path) -> None:
    spools: list[Spool] = []
    threads = [threading.Thread(target=lambda: spools.append(Spool(tmp_path))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({spool.folder for spool in spools}) == 12 and all(spool.new_folder().is_dir() for spool in spools)
    for spool in spools:
        spool.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_cleaned_away_is_made_again(spool: Spool, tmp_path: Path) -> None:
    shutil.rmtree(spool.folder)
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(spool.new_folder())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {folder.parent for folder in made} == {spool.folder} and len(set(made)) == 6
    assert [path for path in tmp_path.iterdir() if path.name.startswith("xpsr-serve-")] == [spool.folder]


def test_a_spool_that_cannot_be_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be used for uploads"):
        Spool(tmp_path / "file")
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    with pytest.raises(InputError, match=r": has no room for uploads; free space, or choose another disk\.") as caught:
        Spool(tmp_path)
    assert caught.value.code == "disk_full" and not list(tmp_path.glob("xpsr-serve-*"))


def test_what_a_client_is_told_of_the_disk_names_no_file(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, code in ((28, "disk_full"), (122, "disk_full"), (30, "refused"), (24, "refused")):
        told = spool.refusal(OSError(number, os.strerror(number), "/srv/secret"))
        assert told.code == code and "secret" not in str(told) and told.remedy == "try again later"


# at any time and in any order


class Model:
    """What a client may know of a job."""

    def __init__(self, job: Job, client: str):
        self.job, self.client, self.state = job, client, "waiting"
        self.overtaken: Counter[str] = Counter()  # by whom, while it was its client's next
        self.came_back = False


class Machine(RuleBasedStateMachine):
    """The scheduler against lists."""

    places = Bundle("places")
    jobs = Bundle("jobs")
    MAX_QUEUE, MAX_PER_CLIENT = 6, 3

    @initialize()
    def begin(self) -> None:
        self.home = tempfile.TemporaryDirectory()
        self.spool = Spool(Path(self.home.name))
        self.ended: Counter[str] = Counter()
        self.scheduler = Scheduler(
            self.spool,
            max_queue=self.MAX_QUEUE,
            max_per_client=self.MAX_PER_CLIENT,
            max_seconds=1000,
            keep_seconds=1000,
            on_over=lambda job: self.ended.update([job.id]),
        )
        self.coming: list[tuple[Any, Place]] = []
        self.models: dict[str, Model] = {}
        self.running: list[Model] = []
        self.found: set[str] = set()
        self.is_draining = self.is_closed = False

    def teardown(self) -> None:
        if hasattr(self, "home"):
            for manager, _ in self.coming:
                manager.__exit__(None, None, None)
            self.spool.close()
            self.home.cleanup()

    def waiting(self) -> list[Model]:
        return [model for model in self.models.values() if model.state == "waiting"]

    def load(self) -> Counter[str]:
        """Requests of each client that count."""
        return Counter(
            [place.client for _, place in self.coming if place.job is None]
            + [model.client for model in [*self.waiting(), *self.running]]
        )

    def jobs_in_hand(self) -> int:
        return len(self.waiting()) + len(self.running)

    @rule(client=st.sampled_from("abcd"), target=places)
    def come(self, client: str) -> Any:
        manager, load = self.scheduler.place(client), self.load()
        if self.is_draining or load[client] >= self.MAX_PER_CLIENT or self.jobs_in_hand() >= self.MAX_QUEUE:
            with pytest.raises(Busy) as caught:
                manager.__enter__()
            code = "too_many" if load[client] >= self.MAX_PER_CLIENT else "busy"
            assert caught.value.code == ("draining" if self.is_draining else code)
            assert 1 <= caught.value.retry_after <= 600
            return None
        self.coming.append((manager, place := manager.__enter__()))
        assert place.folder.is_dir()
        return place

    @rule(place=consumes(places), is_good=st.booleans(), target=jobs)
    def upload(self, place: Place | None, is_good: bool) -> Model | None:
        if place is None:
            return None
        manager = next(manager for manager, other in self.coming if other is place)
        model = None
        if is_good and (self.is_closed or self.jobs_in_hand() >= self.MAX_QUEUE):
            with pytest.raises(Busy):
                self.scheduler.submit(place, request())
        elif is_good:
            model = Model(self.scheduler.submit(place, request()), place.client)
            self.models[model.job.id] = model
            self.found.add(model.job.id)
        manager.__exit__(None, None, None)
        self.coming = [(manager, other) for manager, other in self.coming if other is not place]
        assert place.folder.exists() == (model is not None)
        return model

    @rule()
    def take(self) -> None:
        waiting = self.waiting()
        job = self.scheduler.take(timeout=0)
        assert (job is None) == (not waiting)
        if job is None:
            return
        model = self.models[job.id]
        assert model.state == "waiting" and job.state == "running" and job.is_wanted
        mine = [other for other in waiting if other.client == model.client]
        assert next(other for other in mine if other is model or not other.came_back) is model  # in their order
        firsts = {other.client: other for other in reversed(waiting)}
        for other in firsts.values():
            if other.client != model.client:
                other.overtaken[model.client] += 1
                assert other.overtaken[model.client] <= 1
        model.state = "running"
        self.running.append(model)

    def ran(self, choice: int) -> Model:
        model = self.running.pop(choice % len(self.running))
        model.job.result.write_bytes(b"x")
        return model

    @precondition(lambda self: self.running)
    @rule(choice=st.integers(0, 5), is_good=st.booleans())
    def end(self, choice: int, is_good: bool) -> None:
        model = self.ran(choice)
        if is_good:
            self.scheduler.finish(model.job, RECORD)
        else:
            self.scheduler.fail(model.job, XPSRError("no"))
        if model.state == "running":
            model.state = "done" if is_good else "failed"
        self.scheduler.finish(model.job, {})  # once is enough
        self.scheduler.fail(model.job, XPSRError("again"))

    @precondition(lambda self: self.running)
    @rule(choice=st.integers(0, 5))
    def give_back(self, choice: int) -> None:
        model = self.running.pop(choice % len(self.running))
        self.scheduler.give_back(model.job)
        if model.state == "running":
            model.state, model.came_back = "waiting", True
            for other in self.waiting():
                other.overtaken[model.client] = 0  # its turn was none

    @precondition(lambda self: self.running)
    @rule(choice=st.integers(0, 5))
    def report(self, choice: int) -> None:
        model = self.running[choice % len(self.running)]
        self.scheduler.report(model.job, progress=(1, 2), preview=Preview(image=b"", step=1, steps=2))
        assert (model.job.preview is None) == (model.state != "running")

    @rule(model=jobs)
    def cancel(self, model: Model | None) -> None:
        if model is not None:
            self.scheduler.cancel(model.job)
            if model.state in ("waiting", "running"):
                model.state = "cancelled"

    @rule(model=consumes(jobs))
    def forget(self, model: Model | None) -> None:
        if model is not None:
            self.scheduler.forget(model.job)
            self.found.discard(model.job.id)
            if model.state in ("waiting", "running"):
                model.state = "cancelled"

    @rule(model=jobs)
    def grow_late(self, model: Model | None) -> None:
        if model is not None and model.state == "waiting":
            model.job.deadline = 0
            self.scheduler.sweep()
            model.state = "failed"
            assert model.job.error is not None and model.job.error.code == "too_late"

    @rule(model=consumes(jobs))
    def expire(self, model: Model | None) -> None:
        if model is not None and model.state in OVER:
            model.job.until = 0
            self.scheduler.sweep()
            if model not in self.running:  # else when it has been let go
                self.found.discard(model.job.id)
            else:
                self.scheduler.forget(model.job)
                self.found.discard(model.job.id)

    @rule()
    def sweep(self) -> None:
        self.scheduler.sweep()

    @precondition(lambda self: len(self.models) > 12)
    @rule()
    def drain(self) -> None:
        self.scheduler.drain()
        self.is_draining = True

    @precondition(lambda self: self.is_draining)
    @rule()
    def close(self) -> None:
        self.scheduler.close()
        self.is_closed = True
        for model in self.waiting():
            model.state = "failed"

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        if not hasattr(self, "models"):
            return
        load, waiting = self.load(), self.waiting()
        assert self.jobs_in_hand() <= self.MAX_QUEUE and all(count <= self.MAX_PER_CLIENT for count in load.values())
        counts = self.scheduler.counts
        assert counts["running"] == len(self.running) and counts["waiting"] == len(waiting)
        assert counts["coming"] == sum(place.job is None for _, place in self.coming)
        assert self.scheduler.is_idle == (not load)
        for name, model in self.models.items():
            job = model.job
            assert job.state == model.state and job.is_over == (job.state in OVER)
            assert (job.record is not None) == (job.state == "done")
            assert (job.error is not None) == (job.state in ("failed", "cancelled"))
            assert self.ended[name] == (1 if job.is_over else 0)
            is_kept = name in self.found and job.state != "cancelled"
            assert job.folder.exists() == (is_kept or model in self.running or job.state == "waiting")
            assert (name in self.found) == self.is_found(name)
        assert sorted(model.job.place for model in waiting) == list(range(len(waiting)))
        assert len(folders(self.spool)) == len(
            {place.folder for _, place in self.coming}
            | {model.job.folder for model in self.models.values() if model.job.folder.exists()}
        )

    def is_found(self, name: str) -> bool:
        try:
            return self.scheduler.find(name) is self.models[name].job
        except InputError:
            return False


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def eventually(holds: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def test_many_clients_and_hands_at_once_lose_nothing_and_do_nothing_twice(spool: Spool) -> None:
    over: Counter[str] = Counter()
    tally = threading.Lock()

    def on_over(job: Job) -> None:
        with tally:
            over[job.id] += 1

    scheduler = Scheduler(
        spool, max_queue=12, max_per_client=3, max_seconds=60, keep_seconds=600, num_hands=3, on_over=on_over
    )
    jobs: list[Job] = []
    faults: list[str] = []
    done: Counter[str] = Counter()
    is_ending = threading.Event()

    def be_client(name: str) -> None:
        random = Random(name)
        for _ in range(30):
            try:
                with scheduler.place(name) as place:
                    if random.random() < 0.1:
                        continue  # it went away
                    (place.folder / "upload").write_text(name)
                    job = scheduler.submit(place, request())
            except Busy:
                time.sleep(random.random() / 500)
                continue
            jobs.append(job)
            heard = threading.Event()
            unwatch = job.watch(heard.set)
            chance = random.random()
            if chance < 0.2:
                scheduler.cancel(job)
            elif chance < 0.3:
                scheduler.forget(job)
            elif chance < 0.6:
                while not job.is_over:
                    heard.wait(1)
                    heard.clear()
            unwatch()

    def be_hand(number: int) -> None:
        random = Random(number)
        while not is_ending.is_set():
            job = scheduler.take(timeout=0.05)
            if job is None:
                continue
            if not job.folder.exists() or (job.folder / "upload").read_text() != job.client:
                faults.append("a running job has no files, or another's")
            for step in range(random.randrange(4)):
                scheduler.report(job, progress=(step, 4))
                time.sleep(random.random() / 1000)
            if random.random() < 0.1:
                scheduler.give_back(job)
                continue
            job.result.write_text(job.client)
            with tally:
                done[job.id] += 1
            if random.random() < 0.2:
                scheduler.fail(job, XPSRError("no"))
            else:
                scheduler.finish(job, RECORD)

    def be_house() -> None:
        while not is_ending.wait(0.002):
            scheduler.sweep()
            counts = scheduler.counts
            if (load := counts["waiting"] + counts["running"]) > 12:
                faults.append(f"{load} at once")

    clients = [threading.Thread(target=be_client, args=(f"client {number}",)) for number in range(8)]
    others = [threading.Thread(target=be_hand, args=(number,)) for number in range(3)] + [
        threading.Thread(target=be_house)
    ]
    for thread in [*clients, *others]:
        thread.start()
    for thread in clients:
        thread.join()
    assert eventually(lambda: scheduler.is_idle)
    is_ending.set()
    for thread in others:
        thread.join()
    assert not faults and len(jobs) > 50
    assert over == Counter(job.id for job in jobs) and max(done.values()) == 1
    assert all(job.is_over and not job._watchers for job in jobs)
    assert all(job.id in done for job in jobs if job.state in ("done", "failed"))
    kept = {job.folder for job in jobs if job.state in ("done", "failed")}
    assert folders(spool) == kept and all((folder / "result.png").exists() for folder in kept)
