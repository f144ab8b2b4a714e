"""Pictures and features that pass by as strips of rows, from the top on: the same as the whole, in less memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

__all__ = ["Rows", "joined", "split_rows", "streamed"]


class Rows:
    """Rows (..., rows, W) that have come and are still needed: a window that moves down a picture.

    Attributes:
        top, bottom: the first row that is here, and the one after the last.
    """

    def __init__(self) -> None:
        self.top = self.bottom = 0
        self._held: torch.Tensor | None = None

    def append(self, strip: torch.Tensor) -> None:
        """Takes the rows below those that are here."""
        self._held = strip if self._held is None else torch.cat([self._held, strip], -2)
        self.bottom += strip.shape[-2]

    def between(self, top: int, bottom: int) -> torch.Tensor:
        """Returns those rows of the picture, as a view."""
        assert self._held is not None and self.top <= top <= bottom <= self.bottom
        return self._held[..., top - self.top : bottom - self.top, :]

    def drop_above(self, row: int) -> None:
        """Forgets the rows above one."""
        if self._held is not None and row > self.top:
            # a view would keep what is above
            self._held = None if row == self.bottom else self.between(row, self.bottom).clone()
            self.top = row

    def take(self, count: int) -> torch.Tensor:
        """Returns the first so many rows, and forgets them."""
        taken = self.between(self.top, self.top + count)
        self.drop_above(self.top + count)
        return taken


def streamed(
    strips: Iterable[torch.Tensor], layers: Callable[[torch.Tensor], torch.Tensor], *, halo: int, height: int
) -> Iterator[torch.Tensor]:
    """Applies layers that look `halo` rows beyond each, to strips of rows as they come; each row is made once.

    Args:
        strips: (..., rows, W), together `height` rows.
        layers: gives as many rows as it is given, or a whole number of times as many.
        halo: rows.
        height: of the whole.

    Yields:
        Strips of what the layers make of the whole, later by `halo` rows.
    """
    if torch.compiler.is_exporting():
        yield layers(joined(strips))
        return
    rows, done = Rows(), 0
    for strip in strips:
        rows.append(strip)
        del strip  # of many stages, each would hold one while those after it are at work
        ready = height if rows.bottom == height else rows.bottom - halo
        if ready <= done:
            continue
        results = [_made(layers, rows, done, ready)]
        done = ready
        rows.drop_above(max(ready - halo, 0) if ready < height else height)
        yield results.pop()


def _made(layers: Callable[[torch.Tensor], torch.Tensor], rows: Rows, first: int, last: int) -> torch.Tensor:
    """Returns what layers make of the rows from one to another, of all that are here."""
    result = layers(rows.between(rows.top, rows.bottom))
    scale = result.shape[-2] // (rows.bottom - rows.top)
    return result[..., (first - rows.top) * scale : (last - rows.top) * scale, :]


def split_rows(whole: torch.Tensor, rows: int) -> Sequence[torch.Tensor]:
    """Returns strips of so many rows each; of what is exported, whose graph holds for every height, the whole."""
    return [whole] if torch.compiler.is_exporting() else whole.split(rows, -2)


def joined(strips: Iterable[torch.Tensor]) -> torch.Tensor:
    """Returns the whole (..., H, W) that strips of rows make up."""
    parts = list(strips)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)
