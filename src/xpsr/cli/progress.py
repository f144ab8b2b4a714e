"""What a run over pictures shows on a terminal while it lasts: one bar, with pictures, seconds and time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xpsr.errors import printable

__all__ = ["PictureBar", "picture_bar"]


class PictureBar:
    """One bar over a run: pictures are looked at, all before the first is restored or each on its own, and restored.

    Args:
        draw: is told the share of the run that is done, in [0, 1], and what is being done.
        num_pictures: how many there are.
        looks_ahead: whether all are looked at before the first is restored: half of the bar.
    """

    def __init__(self, draw: Callable[[float, str], None], *, num_pictures: int, looks_ahead: bool):
        self._draw, self._count, self._half = draw, num_pictures, 0.5 if looks_ahead else 0.0
        self._share, self._looked, self._current, self._name = 0.0, 0, 0, ""
        if looks_ahead:
            self.looked(0)

    def show(self, what: str) -> None:
        """Something else is being done."""
        self._draw(self._share, what)

    def looked(self, count: int) -> None:
        """So many more pictures were looked at."""
        self._looked += count
        self._share = self._half * self._looked / self._count
        self.show(f"looking at {min(self._looked + 1, self._count)} of {self._count}")

    def start(self, name: str) -> None:
        """The next picture is being restored."""
        self._current, self._name = self._current + 1, name
        self.passed(0, 1)

    def passed(self, done: int, total: int) -> None:
        """So many passes of so many are done of the picture that is being restored."""
        self._share = self._half + (1 - self._half) * (self._current - 1 + done / total) / self._count
        self.show(f"restoring {self._current} of {self._count} {self._name}")


@contextmanager
def picture_bar(num_pictures: int, *, looks_ahead: bool = False, quiet: bool = False) -> Iterator[PictureBar]:
    """Yields a bar that is on the terminal until the block ends; one that shows nothing elsewhere and where `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield PictureBar(lambda share, what: None, num_pictures=num_pictures, looks_ahead=looks_ahead)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # or rich would move results from a file or a pipe to stderr
    ) as progress:
        task = progress.add_task("", total=1.0)

        def draw(share: float, what: str) -> None:
            progress.update(task, completed=share, description=printable(what))

        yield PictureBar(draw, num_pictures=num_pictures, looks_ahead=looks_ahead)
