"""Python processes in which torch, diffusers and xpsr are imported already, for tests that need a process of its own.

A process that imports the pipeline pays seconds for it. One server imports what they share, once for all workers of a
test run, and forks for each that is asked for. Tests of the start itself (imports, help, missing libraries) start
`sys.executable` instead.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

ADDRESS = "XPSR_TESTS_FORK_SERVER"
PRELOADED = ("xpsr.cli", "xpsr.pipeline", "xpsr.restore", "xpsr.training")
STAND_IN = (sys.executable, "-I", "-S", __file__, "stand-in")
"""What is started in the place of Python by who speaks to a process by its standard streams: the forked one speaks, and
both end together, but signals other than SIGKILL do not reach it."""


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Serves this process and those it starts, where processes can be forked; imports nothing before it is needed."""
    if sys.platform != "linux":
        yield
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        os.environ[ADDRESS] = str(Path(folder, "socket"))
        listener.bind(os.environ[ADDRESS])
        listener.listen()
        with subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads do not survive a fork
            stdin=subprocess.PIPE,  # its end is the server's, even if this process is killed
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the tests
        ):
            yield
        del os.environ[ADDRESS]


def start_python(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    start_new_session: bool = False,
) -> "subprocess.Popen[str] | Forked":
    """Starts Python with these arguments: `-m MODULE ...`, `-c CODE ...` or `SCRIPT ...`; both outputs are kept."""
    command = [str(argument) for argument in arguments]
    if ADDRESS in os.environ:
        return Forked(command, cwd or Path.cwd(), dict(os.environ if env is None else env), start_new_session)
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=env,
        start_new_session=start_new_session,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Starts Python as `start_python` does and waits for its end."""
    with start_python(*arguments, **options) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


class Forked:
    """What tests need of `subprocess.Popen`, for a process that the server forked."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], start_new_session: bool) -> None:
        self.returncode: int | None = None
        self._outputs: list[IO[str]] = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(os.environ[ADDRESS])
        self._answers = self._connection.makefile("r")
        socket.send_fds(self._connection, [b"\n"], [file.fileno() for file in self._outputs])
        request = {"command": command, "cwd": str(cwd), "env": env, "session": start_new_session}
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        self.pid = int(self._answers.readline())

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self._end(None)
        for file in (*self._outputs, self._answers, self._connection):
            file.close()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._end(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._end(timeout)
        for file in self._outputs:
            file.seek(0)
        return self._outputs[0].read(), self._outputs[1].read()

    def _end(self, timeout: float | None) -> None:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._answers.readline())


def serve(listener: socket.socket) -> dict[str, Any]:
    """Returns once for every request, in a process forked for it; the server itself ends with its stdin."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        for name in PRELOADED:
            importlib.import_module(name)
        gc.freeze()  # what is imported is not gone through, and so not copied, when a process ends
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _, streams, *_ = socket.recv_fds(connection, 1, 3)
            with connection, connection.makefile("rw") as answers:
                request = json.loads(answers.readline())
                if (pid := os.fork()) == 0:
                    if len(streams) == 2:
                        streams = [os.open(os.devnull, os.O_RDONLY), *streams]
                    for number, file in enumerate(streams):
                        os.dup2(file, number)
                        os.close(file)
                    return request
                for file in streams:
                    os.close(file)
                answers.write(f"{pid}\n")
                answers.flush()
                ended = os.pidfd_open(pid)
                if ended not in select.select([connection, ended], [], [])[0]:  # nobody waits for it any more
                    os.kill(pid, signal.SIGKILL)
                    os._exit(0)
                answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
                answers.flush()
            os._exit(0)
        connection.close()
    sys.exit()


def stand_in(command: list[str]) -> int:
    """Has the server fork a process that has this one's streams, and waits for its end; returns its exit code."""
    request = {"command": command, "cwd": str(Path.cwd()), "env": dict(os.environ), "session": True}
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("r") as answers:
        connection.connect(os.environ[ADDRESS])
        socket.send_fds(connection, [b"\n"], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        answers.readline()
        os.closerange(0, 2)  # or who reads would not learn that the other one says no more
        return int(answers.readline())


def become(request: dict[str, Any]) -> None:
    """Does what `python` with these arguments does."""
    if request["session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    first, *rest = request["command"]
    sys.path[0] = str(Path(first).resolve().parent) if first not in ("-c", "-m") else ""
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv = request["command"]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "stand-in":
        os._exit(stand_in(sys.argv[2:]) & 0xFF)
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
