"""A crew of Ray actors, on as many machines as a cluster has.

Nothing of a picture goes through Ray: actors are given tickets, read sources and write results themselves, and the
ledger stays with the runner. What is on disks (sources, model, results; relative paths start at the runner's folder)
must therefore be reached by every machine under the same path, or lie behind addresses as of s3://.
"""

import math
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from xpsr import __version__
from xpsr.batch.crew import Finished, Hand, Lost, News, Ready
from xpsr.batch.items import Order, Outcome, Ticket, as_error, failure_of
from xpsr.errors import InputError, MissingDependencyError, XPSRError, brief

__all__ = ["RayCrew"]

_PATIENCE = 60.0
"""Seconds without a single actor, after which a run ends rather than waits."""

_GRACE = 30.0
"""Seconds in which Ray tells that a machine has gone, by its checks of every 3 s."""

_LOOK = 1.0
"""Seconds between two looks at what machines there are."""

_CONNECT = 5.0
"""Seconds in which a cluster must answer."""

_WAIT = "RAY_gcs_server_port_wait_time_s"
"""Ray's name for seconds in which a cluster must answer, or a new one must be there."""

_OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory of a cluster that is started here, next to Ray's least: nothing of a picture goes there."""


class RayCrew:
    """Actors, as many as the cluster's machines hold now; one that dies is replaced, and machines may come and go.

    Args:
        order: for every actor.
        address: HOST:PORT of a cluster; "local" for a new one of this machine alone, which ends with the crew; "auto"
            for the one that RAY_ADDRESS names or `ray start` has begun on this machine, or else as "local".
        num_cpus: of one actor, as Ray counts them.
        num_gpus: of one actor, which sees these alone; a part of one is allowed. With 0 it sees none.

    Raises:
        InputError: the cluster does not answer, or no machine of it can hold one actor.
        MissingDependencyError: Ray is not installed.
        XPSRError: Ray cannot connect or start.
    """

    depth = 3

    def __init__(self, order: Order, *, address: str, num_cpus: float = 1, num_gpus: float = 0):
        self.news: SimpleQueue[News] = SimpleQueue()
        self._order, self._needs = order, {"CPU": num_cpus, "GPU": num_gpus}
        self._hands: list[_Actor] = []
        self._died_early: list[tuple[_Actor, float]] = []  # and when
        self._started = 0
        _check(num_cpus, num_gpus)
        self._ray = _import_ray()
        self._is_ours = _connect(self._ray, address)
        try:
            self._refuse_too_small()
        except XPSRError:
            self.close(now=True)
            raise
        root = str(Path(__file__).parents[2])
        variables = {
            "PYTHONPATH": os.pathsep.join((root, "${PYTHONPATH}")),
            "OMP_NUM_THREADS": str(order.threads),
            "OMP_WAIT_POLICY": "passive",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # who asked for no GPU must not fill that of others
        }
        self._actors = self._ray.remote(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            max_restarts=0,  # the runner is to know who died
            max_task_retries=0,
            max_concurrency=self.depth + 1,  # and `stay`
            runtime_env={"env_vars": variables},
        )(_actor_class())
        self._next_look = self._placed_at = time.monotonic()

    def tend(self) -> Sequence[Hand]:
        """As `Crew.tend`.

        Raises:
            XPSRError: for a minute there has been no actor, nor room for one.
        """
        now = time.monotonic()
        if now >= self._next_look:
            self._look(now)
            self._next_look = now + _LOOK
        return [hand for hand in self._hands if hand.is_ready and not hand.is_over]

    def close(self, *, now: bool = False) -> None:
        """As `Crew.close`; leaves the cluster, too, if it was this crew that joined it."""
        hands, self._hands = self._hands, []
        for hand in hands:
            if hand.is_ready and not now:  # others load a model that nobody needs any more
                hand.wait()
            hand.kill()
        if self._is_ours:
            _show_events(True)
            self._ray.shutdown()
            self._is_ours = False

    def _look(self, now: float) -> None:
        machines = self._machines()
        for hand in self._hands:
            if hand.is_over:
                hand.kill()  # Ray may only have lost sight of it, and another one gets what it held
                if hand.has_died_early:
                    self._died_early.append((hand, now))
        self._hands = [hand for hand in self._hands if not hand.is_over]
        # whom a machine takes with it has not crashed; but that the machine has gone is known later
        self._died_early = [(hand, since) for hand, since in self._died_early if hand.machine in ("", *machines)]
        while self._died_early and now - self._died_early[0][1] > _GRACE:
            self.news.put(Lost(hand=self._died_early.pop(0)[0].name))
        if any(hand.machine for hand in self._hands):
            self._placed_at = now
        elif now - self._placed_at > _PATIENCE:
            message = f"no worker could be started on Ray for {_PATIENCE:.0f} s; {self._room()}"
            remedy = "are other jobs holding them, or have machines gone?"
            raise XPSRError(message, code="no_workers", remedy=remedy)
        for _ in range(sum(map(self._num_fitting, machines.values())) - len(self._hands)):
            self._started += 1
            self._hands.append(_Actor(f"ray-{self._started}", self._actors.remote(), self._order, self.news))

    def _machines(self) -> dict[str, dict[str, float]]:
        """Returns what each machine that is there has in all, whoever uses it now."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _num_fitting(self, machine: dict[str, float]) -> int:
        # Ray counts in parts of 1/10000
        shares = [machine.get(name, 0) / need + 1e-4 for name, need in self._needs.items() if need]
        return math.floor(min(shares))

    def _refuse_too_small(self) -> None:
        machines = self._machines().values()
        if any(map(self._num_fitting, machines)):
            return
        remedy = "start its machines with `ray start --num-cpus N --num-gpus N`, or ask for less"
        lacking = [name for name, need in self._needs.items() if all(one.get(name, 0) < need for one in machines)]
        message, field, value = "no machine of the cluster can hold a worker", None, None
        if lacking:
            message, field = "is more than any machine of the cluster has", f"num_{lacking[0].lower()}s"
            value = f"{self._needs[lacking[0]]:g}"
        message, code = f"{message}: {self._room()}", "too_few_resources"
        raise InputError(message, code=code, field=field, value=value, remedy=remedy)

    def _room(self) -> str:
        machines = self._machines().values()
        have = {name: [machine.get(name, 0) for machine in machines] for name in self._needs}
        most = {name: max(shares, default=0) for name, shares in have.items()}
        total = _amount({name: sum(shares) for name, shares in have.items()})
        return f"one worker needs {_amount(self._needs)}, and there are {total}, on one machine at most {_amount(most)}"


class _Actor:
    """An actor as the runner sees it, from when it was asked for.

    What it is asked for calls back, in a thread of Ray's that must not wait for Ray, so that nobody need go through all
    that is open. It tells of its end where it held pictures or cannot load the model; of other ends nobody need know
    but the crew.

    Attributes:
        machine: Ray's id of where it is; "": not placed yet.
    """

    def __init__(self, name: str, actor: Any, order: Order, news: "SimpleQueue[News]"):
        from ray.exceptions import RayTaskError

        self.name, self.machine, self.is_ready, self.is_over = name, "", False, False
        self._actor, self._news, self._raised = actor, news, RayTaskError
        self._error: XPSRError | None = None
        self._lock, self._asked, self._has_lost, self._is_told = threading.Lock(), set[Future[Any]](), False, False
        self._follow(actor.place.remote(), self._take_place, self._fail)
        self._follow(actor.load.remote(pickle.dumps(order), __version__, str(Path.cwd())), self._begin, self._fail)
        actor.stay.remote().future().add_done_callback(self._end)

    @property
    def has_died_early(self) -> bool:
        """Whether it died before it was ready, of which nobody has told yet."""
        return self.is_over and not self.is_ready and self._error is None

    def give(self, ticket: Ticket) -> None:
        def finish(outcome: Outcome) -> None:
            self._news.put(Finished(hand=self.name, number=ticket.number, outcome=outcome))

        self._follow(self._actor.work.remote(ticket), finish, lambda error: finish(failure_of(error)))

    def kill(self) -> None:
        import ray

        ray.kill(self._actor)

    def wait(self) -> None:
        """Returns when it holds nothing."""
        with self._lock:
            asked = list(self._asked)
        wait(asked)

    def _take_place(self, machine: str) -> None:
        self.machine = machine

    def _begin(self, host: str) -> None:
        self.name = f"{self.name}@{host}"
        self.is_ready = True
        self._news.put(Ready(hand=self.name))

    def _fail(self, error: Exception) -> None:
        if isinstance(error, ImportError) and not isinstance(error, XPSRError):
            remedy = "install xpsr and what it needs on all machines"
            self._error = XPSRError(f"a worker on Ray cannot begin ({brief(error)})", code="conflict", remedy=remedy)
        else:
            self._error = as_error(error)
        self.is_over = True

    def _end(self, _: "Future[Any]") -> None:
        self.is_over = True
        self._tell()

    def _follow(self, asked: Any, done: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        future = asked.future()
        with self._lock:
            self._asked.add(future)
        future.add_done_callback(partial(self._settle, done, failed))

    def _settle(self, done: Callable[[Any], None], failed: Callable[[Exception], None], future: "Future[Any]") -> None:
        error = future.exception()
        if error is None:
            done(future.result())
        elif isinstance(error, self._raised):
            failed(error.cause)
        else:
            self.is_over, self._has_lost = True, self.is_ready
        with self._lock:
            self._asked.discard(future)
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            # what it had finished is told by now
            is_end = self.is_over and not self._asked and (self._has_lost or self._error is not None)
            is_news, self._is_told = is_end and not self._is_told, is_end or self._is_told
        if is_news:
            self._news.put(Lost(hand=self.name, error=self._error))


def _actor_class() -> Any:
    """Returns the class of actors.

    Ray sends it as it stands here. It names nothing of xpsr but in quotes and imports it late: so an actor is there
    within seconds, before torch is imported, and can tell where xpsr is not.
    """

    class Restoring:
        def __init__(self) -> None:
            # reading, painting, writing: a thread each, as `Worker` wants it
            self._stages = [ThreadPoolExecutor(1) for _ in range(3)]

        def place(self) -> str:
            """Returns Ray's id of the machine, as soon as the actor is there."""
            import ray

            return ray.get_runtime_context().get_node_id()

        def stay(self) -> None:
            """Ends when the actor does, of which nobody else tells while it holds nothing."""
            threading.Event().wait()

        def load(self, order: bytes, version: str, folder: str) -> str:
            """Loads the model and returns the machine's name; unpickles here, as Ray would hide why that fails."""
            from xpsr import __version__
            from xpsr.batch.worker import Worker
            from xpsr.errors import XPSRError

            host = socket.gethostname()
            if __version__ != version:
                message = f"{host}: has xpsr {__version__}, not {version}"
                raise XPSRError(message, code="conflict", remedy="install the same on all machines")
            with suppress(OSError):  # who names a relative path is told that it is not there
                os.chdir(folder)
            self._worker = self._stages[1].submit(Worker, pickle.loads(order)).result()
            return host

        def work(self, ticket: "Ticket") -> "Outcome":
            """Restores a picture; is called for the next one while this one is still worked on."""
            from xpsr.batch.items import Failure
            from xpsr.batch.worker import Held

            reading, painting, writing = self._stages
            held = reading.submit(self._worker.open, ticket).result()
            if not isinstance(held, Held):
                return held
            painted = painting.submit(self._worker.paint, held).result()
            if isinstance(painted, Failure):
                return painted
            return writing.submit(self._worker.write, held, painted).result()

    return Restoring


def _amount(resources: dict[str, float]) -> str:
    return " and ".join(f"{count:g} {name}{'' if count == 1 else 's'}" for name, count in resources.items())


def _check(num_cpus: float, num_gpus: float) -> None:
    for field, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if not 0 <= value < math.inf:
            raise InputError("is no number of them", field=field, value=f"{value:g}", remedy="use 1, for example")
    if not num_cpus and not num_gpus:
        raise InputError("leaves a worker nothing", field="num_cpus", value="0", remedy="use 1, for example")
    if num_gpus > 1 and num_gpus != int(num_gpus):
        remedy = f"use {math.ceil(num_gpus)}, or a part of one"
        raise InputError("is not whole", field="num_gpus", value=f"{num_gpus:g}", remedy=remedy)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("workers on a cluster need Ray", remedy="run `pip install ray`") from error
    return ray


def _connect(ray: Any, address: str) -> bool:
    """Joins a cluster, or starts one; returns whether that was left to do."""
    if ray.is_initialized():
        return False
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or ("auto" if _is_running_here() else "local")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"address": address, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    elif address != "auto":  # in which case Ray finds it, with the token that it asks for
        _refuse_silent(address)
        options |= {"address": address}
    try:
        with _own_ways(is_new=address == "local"):
            ray.init(**options)
    except Exception as error:  # Ray raises whatever it meets with
        message, remedy = "Ray cannot be started here", "see the logs below /tmp/ray/session_latest"
        if address != "local":
            message = f"{address}: this Ray cluster cannot be joined"
            remedy = "has it the same Ray and Python, and does it ask for a token (RAY_AUTH_MODE=token)?"
        raise XPSRError(f"{message} ({brief(error)})", code="no_cluster", remedy=remedy) from error
    _show_events(False)
    return True


def _show_events(is_shown: bool) -> None:
    """Lets Ray print what happens to its machines, or not: it does so on standard output, whatever it is told."""
    import ray

    ray._private.worker._worker_logs_enabled = is_shown


def _is_running_here() -> bool:
    """Returns whether `ray start` has begun a cluster on this machine, and that still answers."""
    from ray._private.utils import read_ray_address

    address = read_ray_address()
    return bool(address) and _answers(*_parse(address))


def _refuse_silent(address: str) -> None:
    """Raises `InputError` where no cluster answers, of which Ray itself is sure only after many minutes."""
    if not _answers(*_parse(address)):
        remedy = "is it the head's HOST:PORT, as `ray start --head` tells, and does the head still run?"
        raise InputError(f"{address}: no Ray cluster answers there", code="no_cluster", remedy=remedy)


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        message = f"{address}: is no address of a Ray cluster"
        raise InputError(message, code="bad_address", remedy="use HOST:PORT of its head, auto or local")
    return host.strip("[]"), int(port)


def _answers(host: str, port: int) -> bool:
    """Returns whether a server of HTTP/2, which the head of a cluster is, answers within seconds."""
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
    try:
        with socket.create_connection((host, port), timeout=_CONNECT) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":  # this would have to be said in TLS
                return True
            connection.sendall(preface + settings)
            with connection.makefile("rb") as answer:
                return answer.read(9)[3:4] == settings[3:4]
    except OSError:
        return False


@contextmanager
def _own_ways(*, is_new: bool) -> Iterator[None]:
    """Has Ray give up soon what it would try for many minutes, and gives back SIGTERM, which it takes."""
    is_main, handler = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGTERM)
    is_hurried = not is_new and _WAIT not in os.environ
    if is_hurried:
        os.environ[_WAIT] = f"{_CONNECT:.0f}"
    try:
        yield
    finally:
        if is_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)
        if is_hurried:
            del os.environ[_WAIT]
