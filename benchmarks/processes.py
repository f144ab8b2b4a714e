"""Work in processes of its own, so that no measurement sees what another has left behind."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.memory import process_peak, tree_memory
from benchmarks.reporting import ROOT
from xpsr.errors import XPSRError, one_line, printable

_EVERY = 0.1  # seconds between looks at a process's memory
_NO_MEMORY = "out of memory; try a smaller size, or a smaller dtype"


class BenchmarkError(XPSRError):
    """Something that could not be measured; the message is what its row says."""

    code = "not_measured"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a command took, with all processes that it started and waited for.

    `peak_mb` are MiB, of a command that was watched: on Linux of all of them together, looked at ten times a second,
    elsewhere of the largest.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: int
    output: str


def run_command(command: Sequence[str], *, stdin: str = "", threads: int | None = None, watched: bool = True) -> Run:
    """Runs a command from the repository's root, its libraries with so many threads.

    Only where it is watched is the memory of what it starts counted, which holds it up a little.

    Raises:
        BenchmarkError: there is no such command, or it failed: the last line of what it said.
    """
    env = dict(os.environ)
    if threads is not None:
        env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as asked:
        asked.write(stdin)
        asked.seek(0)
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=asked, stdout=subprocess.PIPE, stderr=said, text=True
            )
        except OSError as error:
            message = f"{command[0]} cannot be run ({error.strerror})"
            raise BenchmarkError(message, remedy="name a program that is here") from error
        tree = [0]
        watch = threading.Thread(target=_watch, args=(process.pid, tree), daemon=True)
        if watched:
            watch.start()
        assert process.stdout is not None
        output = process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)  # subprocess's own waiting tells no usage of one child
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if watched:
            watch.join()
        said.seek(0)
        errors = said.read()
    if process.returncode:
        raise BenchmarkError(_why(process.returncode, errors or output))
    # Linux counts what a process had of ours before it became the command, too
    largest = 0 if sys.platform == "linux" else usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Run(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mb=round(max(tree[0], largest) / 2**20),
        output=output,
    )


def _watch(process: int, tree: list[int]) -> None:
    """Keeps the most memory of a process and its descendants in `tree`, until it has ended."""
    while (held := tree_memory(process)) > 0:
        tree[0] = max(tree[0], held, process_peak(process))
        time.sleep(_EVERY)


def _why(returncode: int, errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    last = printable(lines[-1].strip()) if lines else "it said nothing"
    if returncode == -9:
        return "was killed, as systems do when memory runs out; try a smaller size, or a smaller dtype"
    return f"ended with {returncode}: {last}"


def ask_worker(
    module: str, request: Mapping[str, Any], *, python: str = sys.executable, threads: int | None = None
) -> dict[str, Any]:
    """Runs `python -m module`, a worker, in a process of its own; returns its answer to a request.

    Raises:
        BenchmarkError: the worker failed.
    """
    run = run_command([python, "-m", module], stdin=json.dumps(request), threads=threads, watched=False)
    try:
        answer: dict[str, Any] = json.loads(run.output.strip().rpartition("\n")[2])
    except ValueError as error:
        raise BenchmarkError(f"{module} answered nothing") from error
    if "error" in answer:
        raise BenchmarkError(answer["error"])
    return answer


def answer_request(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """What a worker does: reads a request from stdin and prints the answer, or why there is none, as a line of JSON."""
    try:
        result = answer(json.load(sys.stdin))
    except XPSRError as error:
        result = {"error": str(error)}
    except MemoryError:
        result = {"error": _NO_MEMORY}
    except RuntimeError as error:
        # torch raises its OutOfMemoryError for devices only, and a plain one on a CPU
        if "out of memory" not in str(error).lower() and "can't allocate memory" not in str(error).lower():
            raise
        result = {"error": _NO_MEMORY, "detail": one_line(error)}
    print(json.dumps(result))
