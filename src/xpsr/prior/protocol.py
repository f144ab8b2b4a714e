"""What a describer is."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from xpsr.prior.texts import Prior, Questions

if TYPE_CHECKING:  # it loads torch
    from xpsr.image import ImageLike

__all__ = ["Describer"]


class Describer(Protocol):
    """Looks at pictures and says what is in them and what is wrong with them.

    One that holds much memory is a context manager too, which frees it at the end.
    """

    @property
    def name(self) -> str:
        """Which one it is: a model's id or folder, the address of a server, a file."""
        ...

    @property
    def revision(self) -> str | None:
        """Which state of it, where there are several."""
        ...

    @property
    def questions(self) -> Questions | None:
        """What it asks of a picture; None where it asks nothing."""
        ...

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """Returns one prior for each of `images`, in their order; a text of which nothing can be said is empty.

        Args:
            images: whatever `to_picture` takes; some describers take paths only.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: a picture cannot be used.
            ModelError: the describer cannot be loaded or reached, or fails.
        """
        ...
