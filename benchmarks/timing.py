"""How long a call takes, by the clock and of the processors, and the memory that it needs.

Needs nothing but the standard library and torch: what measures other code imports it into that code's own Python.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.memory import forget_peak, peak_memory


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What some calls of the same took.

    Attributes:
        seconds: by the clock, the median.
        seconds_min, seconds_max: the fastest and the slowest call.
        cpu_seconds: of all threads of this process, the median.
        peak_mb: MiB that this process held at most while they ran, with all that it had loaded; see `memory`.
        device_peak_mb: MiB of a CUDA device likewise; None without one.
        runs: how many calls.
    """

    seconds: float
    seconds_min: float
    seconds_max: float
    cpu_seconds: float
    peak_mb: int
    device_peak_mb: int | None
    runs: int


def measure(run: Callable[[], Any], *, runs: int, warm_up: int, device: torch.device) -> Timing:
    """Calls `run` without counting `warm_up` times, then `runs` times (at least once)."""
    is_cuda = device.type == "cuda"

    def finish() -> None:
        if is_cuda:
            torch.cuda.synchronize(device)

    for _ in range(warm_up):
        run()
    finish()
    forget_peak()
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    walls, cpus = [], []
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        finish()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Timing(
        seconds=statistics.median(walls),
        seconds_min=min(walls),
        seconds_max=max(walls),
        cpu_seconds=statistics.median(cpus),
        peak_mb=round(peak_memory() / 2**20),
        device_peak_mb=round(torch.cuda.max_memory_allocated(device) / 2**20) if is_cuda else None,
        runs=runs,
    )
