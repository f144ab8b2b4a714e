"""Pictures that are described once: what a file of priors holds is not asked again, and what it lacks is added."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xpsr.errors import InputError, MissingDependencyError, ModelError
from xpsr.files import path_key, sha256
from xpsr.prior.files import PriorFile
from xpsr.prior.protocol import Describer
from xpsr.prior.texts import Prior

__all__ = ["describe_files", "written_priors"]

_GROUP = 8  # pictures that are described before anything is written


def describe_files(
    describer: Describer,
    images: Sequence[Path],
    file: PriorFile | None,
    *,
    content_from: Callable[[Path], Path | None] | None = None,
    as_file: Callable[[Path], os.PathLike[str]] = Path,
    refresh: bool = False,
    on_error: Callable[[Path, Exception], None] | None = None,
) -> Iterator[tuple[Path, Prior]]:
    """Describes pictures that the file does not hold yet and adds them to it, a few at a time; yields every prior.

    A line counts for a picture if it has its SHA-256 (or, without one, its path) and was written by this describer with
    these questions, or says not who wrote it. What a person changed in a line is kept.

    Args:
        describer: who looks.
        images: files.
        file: what is already known, and where the rest goes; None: nothing is known, and nothing kept.
        content_from: another picture that the content is asked of, such as the clean one of a training pair.
        as_file: what the describer is given of a path, such as a `PictureFile` that says how it is read.
        refresh: asks again about every picture.
        on_error: is told of a picture that cannot be described, and the rest goes on; None: the error is raised.

    Raises:
        InputError: the file cannot be read or written.
        ModelError: the describer cannot be loaded or reached, or fails.
        MissingDependencyError: it needs a package that is missing.
    """
    identity = _identity(describer)
    known = {} if refresh or file is None else _known(file, identity)
    waiting: list[tuple[Path, str]] = []

    def look(images: Sequence[Path]) -> list[Prior]:
        priors = describer.describe([as_file(image) for image in images])
        if content_from is None:
            return priors
        sources = [content_from(image) for image in images]
        clean = [as_file(source) for source in sources if source is not None]
        contents = iter(describer.describe(clean) if clean else [])
        return [
            prior if source is None else Prior(next(contents).content, prior.quality, prior.levels)
            for prior, source in zip(priors, sources, strict=True)
        ]

    def describe() -> Iterator[tuple[Path, Prior]]:
        group, waiting[:] = list(waiting), []
        done = list(_describe_group(look, group, on_error))
        # a picture of which nothing could be said is asked about again next time
        if file is not None and (worth := [one for one in done if one[2].content or one[2].quality]):
            file.append(
                [
                    {"image": file.relative(image), "sha256": digest, **prior.as_dict(), **identity}
                    for image, digest, prior in worth
                ]
            )
        yield from ((image, prior) for image, _, prior in done)

    for image in images:
        try:
            digest = _checked_sha256(image, file)
        except InputError as error:
            if on_error is None:
                raise
            on_error(image, error)
            continue
        prior = _last(known, image, digest)
        if prior is not None:
            yield image, prior
            continue
        waiting.append((image, digest))
        if len(waiting) == _GROUP:
            yield from describe()
    yield from describe()


def written_priors(describer: Describer, file: PriorFile) -> Callable[[Path, str], Prior | None]:
    """Returns what tells, by a picture's path and SHA-256, the prior that `describe_files` would find in the file.

    Raises:
        InputError: the file cannot be read.
    """
    known = _known(file, _identity(describer))
    return lambda image, digest: _last(known, image, digest)


def _describe_group(
    look: Callable[[Sequence[Path]], list[Prior]],
    group: Sequence[tuple[Path, str]],
    on_error: Callable[[Path, Exception], None] | None,
) -> Iterator[tuple[Path, str, Prior]]:
    try:
        priors = look([image for image, _ in group]) if group else []
    except (ModelError, MissingDependencyError):  # the describer is at fault, not a picture
        raise
    except Exception as error:
        if on_error is None:
            raise
        if len(group) == 1:
            on_error(group[0][0], error)
            return
        for one in group:  # the others are not to suffer
            yield from _describe_group(look, [one], on_error)
        return
    for (image, digest), prior in zip(group, priors, strict=True):
        yield image, digest, prior


def _checked_sha256(image: Path, file: PriorFile | None) -> str:
    """Returns a picture's SHA-256.

    Raises:
        InputError: it cannot be read, or no line of the file can hold its name.
    """
    try:
        if file is not None:
            file.relative(image).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{image}: the name is not UTF-8", code="bad_name", remedy="rename it") from error
    return sha256(image)


def _identity(describer: Describer) -> dict[str, Any]:
    questions = None if describer.questions is None else asdict(describer.questions)
    return {
        "describer": describer.name,
        "revision": describer.revision,
        "question": questions and {"content": questions["content"], "quality": questions["quality"]},
        "view": questions and {"content": questions["content_view"], "quality": questions["quality_view"]},
    }


def _known(file: PriorFile, identity: dict[str, Any]) -> dict[str, tuple[int, Prior]]:
    """Returns the last line that counts, and its place, by SHA-256 or else by the picture's path."""
    known = {}
    for place, entry in enumerate(file.read()):
        if "describer" not in entry or {key: entry.get(key) for key in identity} == identity:
            digest = entry.get("sha256")
            key = digest if digest and isinstance(digest, str) else path_key(file.path.parent / entry["image"])
            known[key] = (place, Prior.from_dict(entry))
    return known


def _last(known: dict[str, tuple[int, Prior]], image: Path, digest: str) -> Prior | None:
    lines = [known[name] for name in (digest, path_key(image)) if name in known]
    return max(lines, key=lambda line: line[0])[1] if lines else None
