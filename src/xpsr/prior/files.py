"""Priors that were written before: by `xpsr describe` or `xpsr upscale`, by a person, by the reference's scripts."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xpsr.errors import InputError
from xpsr.prior.cache import PriorFile, path_key
from xpsr.prior.texts import Prior, Questions

if TYPE_CHECKING:  # it loads torch
    from xpsr.image import ImageLike

__all__ = ["FileDescriber"]


class FileDescriber:
    """Looks up what was said about a picture.

    A picture is found by its path, else by the SHA-256 of its file, else by its name without the suffix where only one
    prior, or one with a folder of that name, has it. Its name is not enough for a prior that tells the SHA-256 of
    another file, or the path of another picture that is there. Of several priors about one picture the last one counts:
    further down in a JSONL, later written of sidecars.

    Args:
        path: one of
            a JSONL of priors, as `xpsr describe` writes it; a line with `image` (relative to the file) and the two
            texts is enough;
            a sidecar, as `xpsr upscale` writes it beside a result;
            a folder with these;
            a folder of the reference's training or test data, with `highlevel_prompt` or `highlevel_prompt_GT` and
            `lowlevel_prompt*`, of which the first lines of NAME.txt or SOURCE/NAME.txt are read.

    Raises:
        InputError: nothing is there, or a file is damaged; the message names the line.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.name = os.fspath(path)
        self.revision: str | None = None
        self.questions: Questions | None = None
        self._by_path: dict[str, Prior] = {}
        self._by_sha256: dict[str, Prior] = {}
        self._by_stem: dict[str, dict[Path, Prior]] = {}
        for image, sha256, prior in _read(Path(path)):
            key = path_key(image)
            self._by_path[key] = prior
            if sha256:
                self._by_sha256[sha256] = prior
            elif not os.path.isfile(image):  # noqa: PTH113 - pathlib raises for a name that is too long
                self._by_stem.setdefault(Path(key).stem, {})[Path(key)] = prior

    def __repr__(self) -> str:
        return f"FileDescriber({self.name!r})"

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """One prior for each of `images`, in their order.

        Args:
            images: paths.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: nothing was said about a picture, or it is not a path.
        """
        priors = []
        for image in images:
            if not isinstance(image, str | os.PathLike):
                raise InputError(f"{self.name}: priors are looked up by path, not for a {type(image).__name__}.")
            priors.append(self._find(Path(image)))
            if progress:
                progress(1)
        return priors

    def _find(self, image: Path) -> Prior:
        key = path_key(image)
        if key in self._by_path:
            return self._by_path[key]
        if self._by_sha256 and image.is_file():
            from xpsr.files import sha256

            try:
                digest = sha256(image)
            except OSError as error:
                raise InputError(f"{image}: cannot be read ({error.strerror}); check its permissions.") from error
            if digest in self._by_sha256:
                return self._by_sha256[digest]
        named = self._by_stem.get(Path(key).stem, {})
        if len(named) > 1:
            kin = {path: prior for path, prior in named.items() if path.parent.name == Path(key).parent.name}
            if len(kin) != 1:
                raise InputError(f"{image}: {self.name} has {len(named)} pictures of that name; give their full paths.")
            named = kin
        for prior in named.values():
            return prior
        raise InputError(f"{image}: {self.name} says nothing about it; describe it first, or add a line for it.")


def _read(path: Path) -> Iterator[tuple[Path, str | None, Prior]]:
    """Path, SHA-256 where it is known, and prior of every picture, the latest last."""
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: no such file or folder; name a JSONL of priors, a sidecar or a folder of them.")
        found = list(_read_file(path))
        if not found and path.suffix.lower() == ".json":
            raise InputError(f'{path}: has no "prior", so it is no sidecar; name one that xpsr upscale wrote.')
    else:
        prompts = _prompt_folders(path)
        if prompts:
            found = [(image, None, prior) for image, prior in _read_prompts(path, *prompts)]
        else:
            files = [
                file for file in path.iterdir() if file.suffix in (".json", ".jsonl") and not file.name.startswith(".")
            ]
            files.sort(key=lambda file: (file.stat().st_mtime_ns, file.name))
            found = [entry for file in files for entry in _read_file(file)]
    if not found:
        raise InputError(f"{path}: holds no priors; write some with xpsr describe.")
    yield from found


def _read_file(path: Path) -> Iterator[tuple[Path, str | None, Prior]]:
    """The priors in a JSONL, or of a sidecar; none of another JSON."""
    if path.suffix.lower() != ".json":
        for entry in PriorFile(path).read():
            digest = entry.get("sha256")
            yield path.parent / entry["image"], digest if isinstance(digest, str) else None, Prior.from_dict(entry)
        return
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); mend it or write it again.") from error
    if not isinstance(sidecar, dict) or "prior" not in sidecar:
        return
    source, prior = sidecar.get("input"), sidecar["prior"]
    if not isinstance(source, str) or not isinstance(prior, dict):
        raise InputError(f'{path}: a sidecar needs "input", a path, and "prior", an object; mend it or write it again.')
    try:
        found = Prior.from_dict(prior)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    # as it was named then and there, or beside the sidecar
    places = (Path(source), path.parent / source)
    yield next((place for place in places if place.exists()), places[0]), None, found


def _prompt_folders(path: Path) -> tuple[list[Path], list[Path]] | None:
    """The reference's folders of content and of quality prompts, the better ones first; None where they are not there.

    Content is best asked of the clean picture (GT), quality of the degraded one.
    """
    contents = [path / name for name in ("highlevel_prompt_GT", "highlevel_prompt") if (path / name).is_dir()]
    qualities = [folder for folder in path.glob("lowlevel_prompt*") if folder.is_dir()]
    qualities.sort(key=lambda folder: (folder.name.endswith("_GT"), folder.name))
    return (contents, qualities) if contents or qualities else None


def _read_prompts(root: Path, contents: Sequence[Path], qualities: Sequence[Path]) -> Iterator[tuple[Path, Prior]]:
    texts: dict[Path, list[str]] = {}
    for place, folders in enumerate((contents, qualities)):
        for folder in folders:
            for file in sorted((*folder.glob("*.txt"), *folder.glob("*/*.txt"))):
                # the suffix stays, in place of the picture's, which is not known: of IMG.1.txt the name is IMG.1
                found = texts.setdefault(root / file.relative_to(folder), ["", ""])
                found[place] = found[place] or _first_line(file)
    for image, (content, quality) in texts.items():
        yield image, Prior(content, quality)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip().split("\n")[0].strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); mend it or write it again.") from error
