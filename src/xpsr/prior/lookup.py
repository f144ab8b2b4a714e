"""The one way to the prior of a picture: the texts that are given, or what was written, or what a describer says."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xpsr.prior.cache import describe_files, written_priors
from xpsr.prior.describers import is_asked, open_describer, released
from xpsr.prior.files import FileDescriber, PriorFile
from xpsr.prior.protocol import Describer
from xpsr.prior.texts import Prior, Questions

if TYPE_CHECKING:  # it loads torch
    from xpsr.image import ImageLike

__all__ = ["PriorLookup"]


class PriorLookup:
    """Tells the prior of a picture: a text that is given, else what was written before, else what a describer says.

    It is called with a picture, from several threads at once where its describer may be.

    Args:
        describer: a name as `open_describer` takes it, or a describer; "none" leaves both texts empty.
        priors: a JSONL, a sidecar or a folder as `FileDescriber` reads it, instead of a describer.
        content: what is in every picture; None: what is found.
        quality: what is wrong with every picture; None: what is found.
        questions: what a describer that is opened here asks, and what it is shown; one that asks nothing takes none.
        device: of a model on this machine; see `open_describer`.

    Raises:
        InputError: a text that is none, priors that cannot be read, or an address without a model.
        ModelError: the mini's describer cannot be loaded.
    """

    def __init__(
        self,
        describer: str | os.PathLike[str] | Describer = "mini",
        *,
        priors: str | os.PathLike[str] | None = None,
        content: str | None = None,
        quality: str | None = None,
        questions: Questions | None = None,
        device: str = "auto",
    ):
        Prior(content or "", quality or "")  # refuses what is no text, before any picture
        self._content = content
        self._quality = quality
        self._describer: Describer | None
        if priors is not None:
            self._describer = FileDescriber(priors)
        elif describer == "none" or (content is not None and quality is not None):
            self._describer = None
        elif isinstance(describer, str | os.PathLike):
            asked = questions if is_asked(describer) else None
            self._describer = open_describer(describer, questions=asked, device=device)
        else:
            self._describer = describer
        self._ahead: dict[Path, Prior | Exception] = {}

    @property
    def name(self) -> str:
        """Who looks at pictures; "none" where nobody does."""
        return "none" if self._describer is None else self._describer.name

    @property
    def needs_files(self) -> bool:
        """Whether priors are found by the files of pictures, so that there are none of what has no file."""
        return isinstance(self._describer, FileDescriber)

    def known(self, file: PriorFile) -> Callable[[Path, str], Prior | None]:
        """Returns what tells the prior of a picture, by path and SHA-256, or None where somebody has to look for that.

        `file` is the one that `describe_ahead` keeps what is said in.

        Raises:
            InputError: the file cannot be read.
        """
        if self._describer is None or self.needs_files:
            return lambda image, digest: self(image)
        if self._describer.questions is None:  # who is not asked keeps nothing
            return lambda image, digest: None
        written = written_priors(self._describer, file)

        def tell(image: Path, digest: str) -> Prior | None:
            found = written(image, digest)
            return found and self._completed(found)

        return tell

    def describe_ahead(
        self, images: Sequence[Path], file: PriorFile, *, progress: Callable[[int], None] | None = None
    ) -> None:
        """Asks a model about all of `images` now and frees its memory; a describer that asks none looks when called.

        What is said is kept in `file`, and what `file` tells already is not asked. What is wrong with a picture is
        raised when its prior is looked up.

        Args:
            images: files.
            file: where it is kept.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: the file cannot be read or written.
            ModelError: the model cannot be loaded or reached, or fails.
        """
        if self._describer is None or self._describer.questions is None:
            return
        with released(self._describer):
            for image, prior in describe_files(self._describer, images, file, on_error=self._ahead.__setitem__):
                self._ahead[image] = prior
                if progress is not None:
                    progress(1)

    def __call__(self, image: "ImageLike") -> Prior:
        """Returns the prior of a picture, which is whatever `to_picture` takes; written priors are found by its path.

        Raises:
            InputError: there is no prior of the picture, or it cannot be read.
            ModelError: the describer fails.
        """
        found = self._ahead.get(Path(image)) if isinstance(image, str | os.PathLike) else None
        if isinstance(found, Exception):
            raise found
        if found is None:
            found = Prior() if self._describer is None else self._describer.describe([image])[0]
        return self._completed(found)

    def _completed(self, found: Prior) -> Prior:
        return Prior(
            found.content if self._content is None else self._content,
            found.quality if self._quality is None else self._quality,
            found.levels if self._quality is None else None,  # which the quality text was written from
        )
