"""Priors on disk: what `xpsr describe` and `xpsr upscale` wrote, a person, or the reference's scripts."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpsr.errors import InputError
from xpsr.files import find_images, path_key, read_bytes, refusal, sha256
from xpsr.jsonl import append_lines, damaged, read_lines
from xpsr.prior.texts import Prior, Questions, read_prior

if TYPE_CHECKING:  # it loads torch
    from xpsr.image import ImageLike

__all__ = ["FileDescriber", "PriorFile"]

MAX_BYTES = 2**20
"""Of a sidecar, or a text file with a prompt."""


class PriorFile:
    """A JSONL of priors, which a person may edit and several processes may add to.

    A line is `{"image", "sha256", "content", "quality", "describer", "revision", "question", "view"}`, and `"levels"`
    where the describer knows them; `image` is relative to the file's folder. Only `image` and the texts are needed, and
    unknown keys stay. A later line goes before an earlier one.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Returns every line, the oldest first; none where there is no file. A last line that was cut off is left out.

        Raises:
            InputError: another line is not what it should be.
        """
        entries = []
        for number, entry in read_lines(self.path):
            if not isinstance(entry.get("image"), str):
                raise damaged(self.path, number, 'lacks "image", the path of a picture')
            read_prior(entry, f"{self.path}, line {number}")
            entries.append(entry)
        return entries

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Adds lines, all of them or none; see `append_lines`.

        Raises:
            InputError: the file cannot be written, or its last line is none of a JSONL.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(self.path.parent, "cannot be made a folder", error) from error
        append_lines(self.path, entries)

    def relative(self, image: Path) -> str:
        """Returns how a line calls a picture."""
        return Path(os.path.relpath(os.path.realpath(image), os.path.realpath(self.path.parent))).as_posix()


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
        for image, digest, prior in _read(Path(path)):
            key = path_key(image)
            self._by_path[key] = prior
            if digest:
                self._by_sha256[digest] = prior
            elif not os.path.isfile(image):  # noqa: PTH113 - pathlib raises for a name that is too long
                self._by_stem.setdefault(Path(key).stem, {})[Path(key)] = prior

    def __repr__(self) -> str:
        return f"FileDescriber({self.name!r})"

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """Returns one prior for each of `images`, in their order.

        Args:
            images: paths.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: nothing was said about a picture, or it is not a path.
        """
        priors = []
        for image in images:
            if not isinstance(image, str | os.PathLike):
                message = f"{self.name}: priors are looked up by path, not for a {type(image).__name__}."
                raise InputError(message, code="wrong_type")
            priors.append(self._find(Path(image)))
            if progress:
                progress(1)
        return priors

    def _find(self, image: Path) -> Prior:
        key = path_key(image)
        if key in self._by_path:
            return self._by_path[key]
        if self._by_sha256 and os.path.isfile(image):  # noqa: PTH113
            digest = sha256(image)
            if digest in self._by_sha256:
                return self._by_sha256[digest]
        named = self._by_stem.get(Path(key).stem, {})
        if len(named) > 1:
            kin = {path: prior for path, prior in named.items() if path.parent.name == Path(key).parent.name}
            if len(kin) != 1:
                said = f"{image}: {self.name} has {len(named)} pictures of that name"
                raise InputError(said, code="ambiguous", remedy="give their full paths")
            named = kin
        for prior in named.values():
            return prior
        remedy = "describe it first, or add a line for it"
        raise InputError(f"{image}: {self.name} says nothing about it", code="no_prior", remedy=remedy)


def _read(path: Path) -> list[tuple[Path, str | None, Prior]]:
    """Returns path, SHA-256 where it is known, and prior of every picture, the latest last."""
    if not os.path.isdir(path):  # noqa: PTH112 - as above
        if not os.path.isfile(path):  # noqa: PTH113
            remedy = "name a JSONL of priors, a sidecar or a folder of them"
            raise InputError(f"{path}: no such file or folder", code="not_found", remedy=remedy)
        found = list(_read_file(path))
        if not found and path.suffix.lower() == ".json":
            remedy = "name one that xpsr upscale wrote"
            raise InputError(f'{path}: has no "prior", so it is no sidecar', code="no_prior", remedy=remedy)
    elif prompts := _prompt_folders(path):
        found = [(image, None, prior) for image, prior in _read_prompts(path, *prompts)]
    else:
        files = find_images(path, suffixes=frozenset({".json", ".jsonl"}))
        files.sort(key=lambda file: (file.stat().st_mtime_ns, file.name))
        found = [entry for file in files for entry in _read_file(file)]
    if not found:
        raise InputError(f"{path}: holds no priors", code="no_prior", remedy="write some with xpsr describe")
    return found


def _read_file(path: Path) -> Iterator[tuple[Path, str | None, Prior]]:
    """Yields the priors in a JSONL, or of a sidecar; none of another JSON."""
    if path.suffix.lower() != ".json":
        for entry in PriorFile(path).read():
            digest = entry.get("sha256")
            yield path.parent / entry["image"], digest if isinstance(digest, str) else None, Prior.from_dict(entry)
        return
    content = read_bytes(path, limit=MAX_BYTES)
    try:
        sidecar = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error})", code="damaged", remedy="mend it or write it again") from error
    if not isinstance(sidecar, dict) or "prior" not in sidecar:
        return
    source, prior = sidecar.get("input"), sidecar["prior"]
    if not isinstance(source, str) or not isinstance(prior, dict):
        said = f'{path}: a sidecar needs "input", a path, and "prior", an object'
        raise InputError(said, code="damaged", remedy="mend it or write it again")
    # from the sidecar's folder, or, as sidecars once had it, from where the command ran
    places = (path.parent / source, Path(source))
    image = next((place for place in places if os.path.exists(place)), places[0])  # noqa: PTH110
    yield image, None, read_prior(prior, str(path))


def _prompt_folders(path: Path) -> tuple[list[Path], list[Path]] | None:
    """Returns the reference's folders of content and of quality prompts, the better ones first; None where none are.

    Content is best asked of the clean picture (GT), quality of the degraded one.
    """
    contents = [path / name for name in ("highlevel_prompt_GT", "highlevel_prompt") if (path / name).is_dir()]
    qualities = [folder for folder in path.glob("lowlevel_prompt*") if folder.is_dir()]
    qualities.sort(key=lambda folder: (folder.name.endswith("_GT"), folder.name))
    return (contents, qualities) if contents or qualities else None


def _read_prompts(root: Path, contents: Sequence[Path], qualities: Sequence[Path]) -> Iterator[tuple[Path, Prior]]:
    texts: dict[Path, dict[str, str]] = {}
    for aspect, folders in (("content", contents), ("quality", qualities)):
        for folder in folders:
            for file in sorted((*folder.glob("*.txt"), *folder.glob("*/*.txt"))):
                # the suffix stays, in place of the picture's, which is not known: of IMG.1.txt the name is IMG.1
                found = texts.setdefault(root / file.relative_to(folder), {})
                if not found.get(aspect):
                    found[aspect] = _first_line(file)
    for image, found in texts.items():
        yield image, read_prior(found, f"{root}, prompts of {image.stem}")


def _first_line(path: Path) -> str:
    content = read_bytes(path, limit=MAX_BYTES)
    try:
        return content.decode("utf-8-sig").strip().split("\n")[0].strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 ({error})", code="damaged", remedy="write it again as text") from error
