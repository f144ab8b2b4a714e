"""A crew on Ray: the same results as one process makes, whoever comes and goes meanwhile."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import xpsr
from xpsr.batch import on_ray, runner
from xpsr.batch.crew import Crew, Finished, Lost
from xpsr.batch.inline import Inline
from xpsr.batch.items import Item, Made, Order, Ticket
from xpsr.batch.ledger import Ledger
from xpsr.batch.on_ray import RayCrew
from xpsr.batch.runner import Event, run
from xpsr.config import UpscaleConfig
from xpsr.errors import InputError, MissingDependencyError, XPSRError
from xpsr.files import sha256


def order_of(model: Path, out: Path, **options: Any) -> Order:
    config = UpscaleConfig(model=str(model), **options)
    return Order(config=config, describer="none", describer_name="none", out=str(out), device="cpu")


def items_in(folder: Path, count: int) -> list[Item]:
    folder.mkdir(exist_ok=True)
    items = []
    for number in range(count):
        path, size = folder / f"{number}.png", (8 + number % 9, 8 + number % 7, 3)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)).save(path)
        item = Item(id=path.name, source=str(path), target=path.name, seed=number, content="a cat", quality="noisy")
        items.append(item)
    return items


def restored(
    items: list[Item], out: Path, crew: Crew, on_event: Callable[[Event], None] = lambda event: None
) -> set[str]:
    """Has a crew restore pictures, each once, and returns the names of its hands."""
    events: list[Event] = []

    def take(event: Event) -> None:
        events.append(event)
        on_event(event)

    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.plan(items)
        assert run(ledger, crew, on_event=take, timeout=120) == "complete"
        tally = ledger.tally()
    made = [event.ticket.item.id for event in events if isinstance(event.outcome, Made)]
    assert sorted(made) == sorted(item.id for item in items) and tally.done == len(items) == tally.total
    return {event.hand for event in events}


def hashes(items: list[Item], out: Path) -> dict[str, str]:
    return {item.id: sha256(out / item.target) for item in items}


def until(is_so: Callable[[], bool], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.1)


def news_of(crew: RayCrew, kind: type[Any]) -> Any:
    """Tends a crew until there is news of a kind, and returns these."""
    found: list[Any] = []

    def look() -> bool:
        crew.tend()
        while not crew.news.empty():
            found.extend(news for news in [crew.news.get()] if isinstance(news, kind))
        return bool(found)

    until(look)
    return found[0]


def machines_of(crew: RayCrew) -> set[str]:
    crew.tend()
    return {hand.machine for hand in crew._hands}


def pid_of(hand: Any) -> int:
    from ray._private.state import actors

    return actors(hand._actor._actor_id.hex())["Pid"]


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """The address of a server that says one thing to whoever comes, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError), server.accept()[0] as connection:
                connection.sendall(answer)
                while connection.recv(1000):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


# Without a cluster


def test_without_ray_the_error_says_how_to_install_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"need Ray; run `pip install ray`\."):
        RayCrew(order_of(tiny_model, tmp_path), address="auto")


def test_a_dead_address_is_refused_at_once(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        dead = f"127.0.0.1:{server.getsockname()[1]}"
    start = time.monotonic()
    monkeypatch.setenv("RAY_ADDRESS", dead)
    for address in ("auto", dead):
        with pytest.raises(InputError, match=rf"{dead}: no Ray cluster answers there; is it the head's HOST:PORT"):
            RayCrew(order_of(tiny_model, tmp_path), address=address)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_cluster_is_not_waited_for(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_CONNECT", 0.3)
    with listening(answer) as address, pytest.raises(InputError, match="no Ray cluster answers there"):
        on_ray._refuse_silent(address)


def test_auto_takes_a_cluster_of_this_machine_only_if_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert not on_ray._is_running_here()
    (tmp_path / "ray").mkdir()
    with listening(b"\0\0\0\4\0\0\0\0\0") as address:  # settings of HTTP/2
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"{address}\n")
        assert on_ray._is_running_here()
    assert not on_ray._is_running_here(), "it crashed, and the file has stayed"


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:", ":6379", "head:port", "head:65536"])
def test_what_is_no_address_is_refused(tiny_model: Path, tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match=f"{address}: is no address of a Ray cluster; use HOST:PORT of its head"):
        RayCrew(order_of(tiny_model, tmp_path), address=address)


@pytest.mark.parametrize(
    ("needs", "line"),
    [
        ({"num_cpus": -1}, "num_cpus=-1 is no number of them"),
        ({"num_gpus": float("nan")}, "num_gpus=nan is no number of them"),
        ({"num_cpus": 0}, "num_cpus=0 leaves a worker nothing"),
        ({"num_gpus": 1.5}, "num_gpus=1.5 is not whole; use 2, or a part of one"),
    ],
)
def test_what_no_worker_can_need_is_refused(
    tiny_model: Path, tmp_path: Path, needs: dict[str, float], line: str
) -> None:
    with pytest.raises(InputError, match=line):
        RayCrew(order_of(tiny_model, tmp_path), address="auto", **needs)


def test_another_version_of_xpsr_is_refused(tmp_path: Path) -> None:
    with pytest.raises(XPSRError, match=rf": has xpsr {xpsr.__version__}, not 0\.0\.0; install the same on all"):
        on_ray._actor_class()().load(b"", "0.0.0", str(tmp_path))


def test_an_actor_is_there_before_torch_is_imported(tmp_path: Path) -> None:
    from ray import cloudpickle

    (tmp_path / "class").write_bytes(cloudpickle.dumps(on_ray._actor_class()))
    code = "import pickle, sys; pickle.load(open('class', 'rb'))(); assert not {'torch', 'xpsr'} & {*sys.modules}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)


# On a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one logical CPU each, on this one."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    running = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    running.options = options
    running.second = running.add_node(**options)
    yield running
    running.shutdown()


@pytest.fixture
def address(cluster: Any) -> Iterator[str]:
    import ray

    yield cluster.address
    ray.shutdown()  # a test that fails must not fail the next ones


@pytest.mark.slow
def test_machines_that_leave_and_join_change_no_result(
    cluster: Any, address: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(runner, "_MAX_LOSSES", 0)  # whom a machine takes with it has not crashed
    items, outs = items_in(tmp_path / "in", 40), (tmp_path / "inline", tmp_path / "ray")
    inline = Inline(order_of(tiny_model, outs[0]))
    restored(items, outs[0], inline)
    inline.close()

    handler = signal.getsignal(signal.SIGTERM)
    crew, former = RayCrew(order_of(tiny_model, outs[1]), address=address), set[str]()
    assert signal.getsignal(signal.SIGTERM) is handler

    def change(event: Event) -> None:
        if event.ticket.number == 10:
            former.update(hand.name for hand in crew.tend())
            for _ in range(2):  # and again while a worker there loads its model
                cluster.remove_node(cluster.second, allow_graceful=False)
                cluster.second = cluster.add_node(**cluster.options)
                until(lambda: cluster.second.node_id in machines_of(crew))
            until(lambda: any(hand.name not in former for hand in crew.tend()))

    until(lambda: len(crew.tend()) == 2)
    hands = restored(items, outs[1], crew, change)
    crew.close()
    assert len(hands) == 3 and len(former) == 2 and not capfd.readouterr().out
    assert hashes(items, outs[1]) == hashes(items, outs[0])
    import ray

    assert not ray.is_initialized()


@pytest.mark.slow
def test_what_a_killed_actor_held_is_done_by_others(
    address: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = items_in(tmp_path / "in", 12)
    monkeypatch.chdir(tmp_path)
    crew = RayCrew(order_of(tiny_model, Path("out")), address=address)  # relative: of this folder, not of Ray's
    killed: list[str] = []

    def kill(event: Event) -> None:
        if len(killed) < 2:
            hand = next(hand for hand in crew.tend() if hand.name not in killed)
            killed.append(hand.name)
            if len(killed) == 1:
                hand.kill()
            else:  # as the system does when memory runs out
                os.kill(pid_of(hand), signal.SIGKILL)

    hands = restored(items, Path("out"), crew, kill)
    crew.close(now=True)
    assert len(killed) == 2 and hands - set(killed)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_line(address: str, tmp_path: Path) -> None:
    order = order_of(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(XPSRError) as expected:
        Inline(order)
    crew = RayCrew(order, address=address)
    lost = news_of(crew, Lost)
    crew.close()
    assert type(lost.error) is type(expected.value) and str(lost.error) == str(expected.value)


@pytest.mark.slow
def test_a_machine_that_lacks_what_is_needed_is_told_of(
    address: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type("Unknown", (Order,), {"__module__": "only_here"})
    module = ModuleType("only_here")
    module.Unknown = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", module)
    crew = RayCrew(kind(**vars(order_of(tiny_model, tmp_path))), address=address)
    lost = news_of(crew, Lost)
    crew.close()
    line = "a worker on Ray cannot begin (No module named 'only_here'); install xpsr and what it needs on all machines."
    assert str(lost.error) == line


class Deadly(Order):
    """An order of which whoever reads it dies."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


@pytest.mark.slow
def test_who_dies_while_loading_is_news_unless_its_machine_has_gone(
    address: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "_GRACE", 1.0)
    crew = RayCrew(Deadly(**vars(order_of(tiny_model, tmp_path))), address=address)
    lost = news_of(crew, Lost)
    crew.close()
    assert lost.error is None


@pytest.mark.slow
def test_a_cluster_that_is_full_is_waited_for_but_not_for_ever(address: str, tiny_model: Path, tmp_path: Path) -> None:
    import ray

    class Holder:
        def is_there(self) -> bool:
            return True

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    holders = [ray.remote(num_cpus=1)(Holder).remote() for _ in range(2)]
    assert all(ray.get([holder.is_there.remote() for holder in holders]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "_PATIENCE", 2.0)
        crew = RayCrew(order_of(tiny_model, tmp_path / "out"), address=address)
        with pytest.raises(
            XPSRError, match="no worker could be started on Ray for 2 s; one worker needs 1 CPU "
        ) as caught:
            until(lambda: bool(crew.tend()))
        assert caught.value.code == "no_workers"
    ray.kill(holders[0])
    *items, last = items_in(tmp_path / "in", 4)
    assert len(restored(items, tmp_path / "out", crew)) == 1
    (hand,) = crew.tend()
    hand.give(Ticket(number=4, item=last))
    crew.close()  # when it has done what it holds
    told = [crew.news.get() for _ in range(crew.news.qsize())]
    assert [news.number for news in told if isinstance(news, Finished)] == [4] and hashes([last], tmp_path / "out")
    assert ray.get(holders[1].is_there.remote()), "it was not the crew that connected"


@pytest.mark.slow
def test_a_worker_that_no_machine_can_hold_is_refused_with_what_there_is(
    address: str, tiny_model: Path, tmp_path: Path
) -> None:
    import ray

    def refused(**needs: float) -> str:
        with pytest.raises(InputError) as caught:
            RayCrew(order_of(tiny_model, tmp_path), address=address, **needs)
        assert not ray.is_initialized() and caught.value.code == "too_few_resources"
        return str(caught.value)

    there = "there are 2 CPUs and 0 GPUs, on one machine at most 1 CPU and 0 GPUs; start its machines with `ray start"
    said = "is more than any machine of the cluster has: one worker needs"
    assert f"num_cpus=2 {said} 2 CPUs and 0 GPUs, and {there}" in refused(num_cpus=2)
    assert f"num_gpus=0.5 {said} 0.5 CPUs and 0.5 GPUs, and {there}" in refused(num_cpus=0.5, num_gpus=0.5)
