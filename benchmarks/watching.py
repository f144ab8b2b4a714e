"""What a running server holds over time: memory, open files, threads, files on the disk; and whether it grows."""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.memory import process_peak, tree_memory, tree_of
from benchmarks.tables import table


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a process and all that it started hold at a moment.

    Attributes:
        seconds: since the watch began.
        memory: bytes, what several share counted once (PSS).
        processes, threads, open_files: how many.
        spooled: files below the server's folder of uploads and results.
    """

    seconds: float
    memory: int
    processes: int
    threads: int
    open_files: int
    spooled: int


QUANTITIES = tuple(field.name for field in fields(Sample) if field.name != "seconds")


class Watch:
    """Looks at a server's processes every so often, from a thread of its own, while the block lasts.

    Args:
        process: the server's.
        spool: its folder of uploads and results; None: files are not counted.
        every: seconds between two looks.
    """

    def __init__(self, process: int, *, spool: Path | None, every: float):
        self._process, self._spool, self._every = process, spool, every
        self._start = time.monotonic()
        self._is_over = threading.Event()
        self._peaks: dict[int, int] = {}
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def peak(self) -> int:
        """The most bytes that all of them held at one look."""
        return max((sample.memory for sample in self.samples), default=0)

    @property
    def process_peaks(self) -> dict[int, int]:
        """The most bytes that each process held ever, by its id, also between two looks (RSS)."""
        return dict(self._peaks)

    def look(self) -> Sample:
        """Looks now."""
        tree = tree_of(self._process)
        for process in tree:
            self._peaks[process] = max(process_peak(process), self._peaks.get(process, 0))
        return Sample(
            seconds=time.monotonic() - self._start,
            memory=tree_memory(self._process),
            processes=len(tree),
            threads=sum(_entries(Path(f"/proc/{process}/task")) for process in tree),
            open_files=sum(_entries(Path(f"/proc/{process}/fd")) for process in tree),
            spooled=0 if self._spool is None else sum(path.is_file() for path in self._spool.rglob("*")),
        )

    def _look_on(self) -> None:
        while not self._is_over.wait(self._every):
            self.samples.append(self.look())
        self.samples.append(self.look())


def slope(samples: Sequence[Sample], quantity: str) -> float:
    """Returns by how much a quantity grows in an hour, by least squares; 0.0 of fewer than three samples."""
    if len(samples) < 3:
        return 0.0
    times, values = [sample.seconds for sample in samples], [float(getattr(sample, quantity)) for sample in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((moment - middle) ** 2 for moment in times)
    leaning = sum((moment - middle) * (value - mean) for moment, value in zip(times, values, strict=True))
    return 3600 * leaning / spread if spread else 0.0


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the second half, by when caches are filled and pools have all their threads."""
    return list(samples[len(samples) // 2 :])


def show_samples(samples: Sequence[Sample], *, growth: bool = True, markdown: bool = False) -> str:
    """Returns a table: each quantity at first, half-way, at last and at most; with `growth`, how much it grows."""
    rows: list[Mapping[str, str]] = []
    late = settled(samples)
    for quantity in QUANTITIES:
        scale = 2**20 if quantity == "memory" else 1
        values = [getattr(sample, quantity) / scale for sample in samples]
        rows.append(
            {
                "": "memory, MiB" if quantity == "memory" else quantity.replace("_", " "),
                "first": f"{values[0]:,.0f}",
                "half-way": f"{values[len(values) // 2]:,.0f}",
                "last": f"{values[-1]:,.0f}",
                "most": f"{max(values):,.0f}",
                "an hour": f"{slope(late, quantity) / scale:+,.1f}" if growth else "",
            }
        )
    return table(rows, markdown=markdown)


def _entries(folder: Path) -> int:
    with contextlib.suppress(OSError):  # it has just ended
        return len(list(folder.iterdir()))
    return 0
