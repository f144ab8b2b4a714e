"""The one way to the prior of a picture: the texts that are given, or what was written, or what a describer says."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from xpsr.config.checks import check_argument, said
from xpsr.errors import InputError
from xpsr.prior.cache import describe_files, written_priors
from xpsr.prior.describers import MiniLater, NoDescriber, check_describer, is_asked, open_describer, released
from xpsr.prior.files import FileDescriber, PriorFile
from xpsr.prior.protocol import Describer
from xpsr.prior.texts import Prior, Questions

if TYPE_CHECKING:  # it loads torch
    from xpsr.image import ImageLike, Picture

__all__ = ["PriorLookup", "completed", "looking"]


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
        check_describer(describer)
        for name, text in (("content", content), ("quality", quality)):
            check_argument(name, text, str | None)
        self._content = content
        self._quality = quality
        self._describer: Describer
        if priors is not None:
            self._describer = FileDescriber(priors)
        elif content is not None and quality is not None:
            self._describer = NoDescriber()
        elif describer == "mini":
            self._describer = MiniLater()
        elif isinstance(describer, str | os.PathLike):
            self._describer = _opened(describer, questions, device)
        else:
            self._describer = describer
        self._ahead: dict[Path, Prior | Exception] = {}

    @property
    def name(self) -> str:
        """Who looks at pictures; "none" where nobody does."""
        return self._describer.name

    @property
    def is_asked(self) -> bool:
        """Whether `describe_ahead` asks a model."""
        return self._describer.questions is not None

    @property
    def needs_files(self) -> bool:
        """Whether priors are found by the files of pictures, so that there are none of what has no file."""
        return isinstance(self._describer, FileDescriber)

    def known(self, file: PriorFile | None) -> Callable[[Path, str], Prior | None]:
        """Returns what tells the prior of a picture, by path and SHA-256, or None where somebody has to look for that.

        `file` is the one that `describe_ahead` keeps what is said in, if any.

        Raises:
            InputError: the file cannot be read.
        """
        if self.needs_files or isinstance(self._describer, NoDescriber):
            return lambda image, digest: self(image)
        if file is None or not self.is_asked:  # who is not asked keeps nothing
            return lambda image, digest: None
        written = written_priors(self._describer, file)

        def tell(image: Path, digest: str) -> Prior | None:
            found = written(image, digest)
            return found and self._completed(found)

        return tell

    def describe_ahead(
        self,
        images: Sequence[Path],
        file: PriorFile | None,
        *,
        as_file: Callable[[Path], os.PathLike[str]] = Path,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Asks a model about all of `images` now and frees its memory; a describer that asks none looks when called.

        The mini's describer is opened, so that what is wrong with it is known before the first picture.

        What is said is kept in `file`, and what `file` tells already is not asked. What is wrong with a picture is
        raised when its prior is looked up.

        Args:
            images: files.
            file: where it is kept; None: nowhere.
            as_file: as of `describe_files`.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: the file cannot be read or written.
            ModelError: the model cannot be loaded or reached, or fails.
            MissingDependencyError: it needs a package that is missing.
        """
        if isinstance(self._describer, MiniLater):
            self._describer.open()
        if not self.is_asked:
            return
        with released(self._describer):
            seen = describe_files(self._describer, images, file, as_file=as_file, on_error=self._ahead.__setitem__)
            for image, prior in seen:
                self._ahead[image] = prior
                if progress is not None:
                    progress(1)

    @contextmanager
    def looking_on(
        self, *, as_file: Callable[[Path], os.PathLike[str]] = Path
    ) -> "Iterator[Callable[[Sequence[Path]], dict[Path, Prior | Exception]]]":
        """Yields what asks about some files after others, and frees a model at the end of the block.

        It returns for each file what is said, or why nothing is. `as_file` is as of `describe_files`.

        Raises:
            ModelError: the model cannot be loaded or reached.
            MissingDependencyError: it needs a package that is missing.
        """

        def look(images: Sequence[Path]) -> dict[Path, Prior | Exception]:
            found: dict[Path, Prior | Exception] = {}
            seen = describe_files(self._describer, images, None, as_file=as_file, on_error=found.__setitem__)
            for image, prior in seen:
                found[image] = self._completed(prior)
            return found

        def look_up(images: Sequence[Path]) -> dict[Path, Prior | Exception]:
            found: dict[Path, Prior | Exception] = {}
            for image in images:
                try:
                    found[image] = self(image)
                except InputError as error:
                    found[image] = error
            return found

        if self.needs_files:
            yield look_up
        else:
            with released(self._describer):
                yield look

    def __call__(self, image: "ImageLike", picture: "Picture | None" = None) -> Prior:
        """Returns the prior of a picture, which is whatever `to_picture` takes; written priors are found by its path.

        `picture` is what was read of it, if it was, so that nobody reads it again.

        Raises:
            InputError: there is no prior of the picture, or it cannot be read.
            ModelError: the describer fails.
        """
        found = self._ahead.get(Path(image)) if isinstance(image, str | os.PathLike) else None
        if isinstance(found, Exception):
            raise found
        if found is None:
            (found,) = self._describer.describe([image if picture is None or self.needs_files else picture])
        return self._completed(found)

    def _completed(self, found: Prior) -> Prior:
        return completed(found, self._content, self._quality)


def completed(found: Prior, content: str | None, quality: str | None) -> Prior:
    """Returns a prior with the texts that are given in the place of those that were found."""
    return Prior(
        found.content if content is None else content,
        found.quality if quality is None else quality,
        found.levels if quality is None else None,  # which the quality text was written from
    )


def _opened(name: str | os.PathLike[str], questions: Questions | None, device: str) -> Describer:
    return open_describer(name, questions=questions if is_asked(name) else None, device=device)


@contextmanager
def looking(
    describer: str | os.PathLike[str] | Describer,
    priors: Sequence[Prior | str | None],
    *,
    questions: Questions,
    device: str,
) -> Iterator[Callable[["ImageLike", "Picture", Prior | str | None], Prior]]:
    """Yields what makes a whole prior of one of `priors`, of a picture as it was given and as it was read.

    A `Prior` is whole. Of a text, which is what is in the picture, the describer says what is wrong; of None both.

    Args:
        describer: a describer, or the name of one, which is opened if anything is to be said, and freed at the end.
        priors: all that will be asked for.
        questions: what a describer that is opened here asks, if it asks anything.
        device: of a model on this machine that is opened here.

    Raises:
        InputError: a prior or a describer that is none.
        ModelError: the describer cannot be loaded.
    """
    check_describer(describer)
    for one in priors:
        _check_prior(one)
    if isinstance(describer, str | os.PathLike):
        needed = not all(isinstance(prior, Prior) for prior in priors)
        looks: Describer = _opened(describer, questions, device) if needed else NoDescriber()
        held = released(looks)
    else:
        looks, held = describer, nullcontext()

    def find(image: "ImageLike", picture: "Picture", prior: Prior | str | None) -> Prior:
        if isinstance(prior, Prior):
            return prior
        # what was written is found by the path, and errors name it
        (found,) = looks.describe([image if isinstance(image, str | os.PathLike) and describer != "mini" else picture])
        return found if prior is None else dataclasses.replace(found, content=prior)

    with held:
        yield find


def _check_prior(prior: object) -> None:
    if isinstance(prior, str):
        check_argument("prior", prior, str)
    elif not isinstance(prior, Prior | None):
        message, remedy = "is neither a text nor a Prior", "use Prior(content=..., quality=...)"
        raise InputError(message, code="wrong_type", field="prior", value=said(prior), remedy=remedy)
