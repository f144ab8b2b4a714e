"""What a run over pictures shows on a terminal while it lasts: one bar, with pictures, seconds and time left."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, TextIO

from xpsr.errors import printable

if TYPE_CHECKING:  # it takes a tenth of a second
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

__all__ = ["PictureBar", "counting", "picture_bar"]


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
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    with _on_terminal(
        BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    ) as progress:
        task = progress.add_task("", total=1.0)

        def draw(share: float, what: str) -> None:
            progress.update(task, completed=share, description=printable(what))

        yield PictureBar(draw, num_pictures=num_pictures, looks_ahead=looks_ahead)


@contextmanager
def counting(what: str, *, quiet: bool) -> Iterator[Callable[..., None] | None]:
    """Yields what shows on a terminal how many of how many are done, and a note; None elsewhere and where `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    with _on_terminal(TextColumn(what), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, note="": progress.update(
            task, completed=done, total=total, description=printable(note)
        )


@contextmanager
def _on_terminal(*columns: "ProgressColumn") -> Iterator["Progress"]:
    """Shows columns, and a description that is cut where it does not fit; what is printed appears above."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn
    from rich.table import Column

    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    description = TextColumn("{task.description}", markup=False, table_column=rest)
    console = Console(file=sys.stderr)
    bar = Progress(
        *columns,
        description,
        console=console,
        transient=True,
        expand=True,
        redirect_stdout=False,  # rich would break lines at the terminal's width
        redirect_stderr=False,
    )
    with bar as progress, ExitStack() as stack:
        stack.enter_context(redirect_stderr(_Above(console, sys.stderr)))
        if sys.stdout.isatty():  # or results would go from a file or a pipe to stderr
            stack.enter_context(redirect_stdout(_Above(console, sys.stdout)))
        yield progress


class _Above(io.TextIOBase):
    """A stream whose lines appear above a bar, each whole however long it is."""

    def __init__(self, console: "Console", file: TextIO):
        self._console, self._file, self._line = console, file, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
        return len(text)

    def isatty(self) -> bool:
        return self._file.isatty()

    def fileno(self) -> int:
        return self._file.fileno()
