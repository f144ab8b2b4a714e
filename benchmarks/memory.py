"""How much memory this process, or another with all that it started, held at most.

Needs nothing but the standard library: what measures other code imports it into that code's own Python.
"""

import contextlib
import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """Returns the most bytes that this process held since `forget_peak`, pages of mapped files included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Lets `peak_memory` count anew, from what is held now; only Linux can, elsewhere it counts from the start."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def tree_memory(process: int) -> int:
    """Returns the bytes that a process and its descendants hold now; 0 where the system is not Linux.

    Pages that several share count once (PSS).
    """
    return sum(_bytes(f"/proc/{one}/smaps_rollup", "Pss:") for one in tree_of(process))


def process_peak(process: int) -> int:
    """Returns the most bytes that a running process held so far; 0 where the system is not Linux."""
    return _bytes(f"/proc/{process}/status", "VmHWM:")


def tree_of(process: int) -> list[int]:
    """Returns a process and all that it has started, directly or not, by their ids."""
    found, front = [process], [process]
    while front:
        one = front.pop()
        children: list[int] = []
        with contextlib.suppress(OSError):  # it, or one of its threads, has just ended
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                children += [int(number) for number in task.read_text().split()]
        found += children
        front += children
    return found


def _bytes(path: str, name: str) -> int:
    try:
        text = Path(path).read_text()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(name))
