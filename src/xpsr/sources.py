"""Which pictures a person means by names, what their results are called, and which files are results. No torch."""

import dataclasses
import hashlib
import io
import json
import os
import re
import stat
import sys
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from xpsr.errors import InputError
from xpsr.files import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    WRITTEN_SUFFIXES,
    by_stem,
    find_images,
    no_pictures,
    path_key,
    real_path,
    refusal,
    sha256,
)

__all__ = [
    "Job",
    "ResultFormat",
    "Source",
    "find_sources",
    "folded",
    "name_jobs",
    "name_maps",
    "named_suffix",
    "read_record",
    "read_sidecar",
    "record_place",
    "result_suffix",
]

ResultFormat = Literal["same", "png", "jpg", "tiff", "webp", "avif", "jxl"]
"""What results are written as; "same": what their pictures are, or else as `result_suffix` says."""

_LIKE = {".jpe": ".jpg", ".jfif": ".jpg", ".mpo": ".jpg"}
"""What is written instead of other names of a format."""

_BEGINNINGS = {
    rb"\xff\xd8\xff": ".jpg",
    rb"\x89PNG": ".png",
    rb"II\*\0|MM\0\*|II\+\0|MM\0\+": ".tif",
    rb"RIFF....WEBP": ".webp",
    rb"....ftypavi[fs]": ".avif",
    rb"\xff\x0a|\0\0\0\x0cJXL ": ".jxl",
}
"""How files begin, whose names may lie."""

_MAX_PIPED = 2**29
"""Bytes that are read from a pipe: eight for each pixel of the largest picture."""

_DESCRIPTOR = re.compile("/dev/(stdin|fd/.*)|/proc/.*/fd/.*", re.DOTALL)
"""Names of what a process has open: another one finds another file under it, or none."""

_MAX_SIDECAR = 2**20
"""Bytes; a sidecar has some 3,000 and two texts of at most 10,000 characters."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture to restore.

    Attributes:
        path: as it was named; "-" is standard input.
        below: where its result lies below the folder of all results.
        content: its bytes, if they can be read but once.
        address: what records call it, where `path` is but a copy; None: records call it by its path.
    """

    path: Path
    below: Path = Path()
    content: bytes | None = None
    address: str | None = None

    def sha256(self) -> str:
        """Returns the SHA-256 of its bytes, in hexadecimal.

        Raises:
            InputError: it cannot be read.
        """
        return sha256(self.path) if self.content is None else hashlib.sha256(self.content).hexdigest()

    @cached_property
    def size(self) -> tuple[int, int] | None:
        """Width and height, upright, as its header has them; None: Pillow alone cannot tell."""
        from PIL import Image  # which most commands do without

        from xpsr.orientation import upright_size

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, among others
            try:
                with Image.open(self.path if self.content is None else io.BytesIO(self.content)) as image:
                    return upright_size(image)
            except Exception:  # whatever its plugins raise: the picture is refused when it is read
                return None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A picture to restore, and the files that its result and the map of what was invented become.

    None: the result stays in memory, and there is no map.
    """

    source: Source
    target: Path | None
    map: Path | None = None


def find_sources(
    inputs: Sequence[str],
    *,
    on_error: Callable[[Path, InputError], None],
    on_note: Callable[[str], None],
    recursive: bool = False,
    outside: Path | None = None,
    piped: bool = True,
) -> list[Source]:
    """Returns the pictures that were named and those in the folders that were named, each once.

    Of a folder, what earlier runs have written is left out; a picture that is named itself is taken whatever it is.

    Args:
        inputs: names of files and folders; "-" is standard input.
        on_error: is told of what cannot be used.
        on_note: is told in a line what of a folder is passed over.
        recursive: whether to look into the folders of a folder, too.
        outside: a folder whose files are left out where it lies in one that was named.
        piped: whether what can be read but once, such as standard input, can be used.

    Raises:
        InputError: a name is empty.
    """
    if "" in inputs:
        message, remedy = "an empty name is no picture", "is a variable of the shell empty?"
        raise InputError(message, code="not_found", remedy=remedy)
    found: dict[Path, Source] = {}  # by where they really are: what is named twice is there once
    for name in dict.fromkeys(inputs):
        path = Path(name)
        try:
            kind = _kind(name)
            if kind == "pipe":
                found[path] = Source(path=path, content=_read_pipe(name, piped))
                continue
            images, note = _search(path, recursive=recursive, outside=outside) if kind == "folder" else ([path], "")
        except InputError as error:
            on_error(path, error)
            continue
        if note:
            on_note(f"{path}: {note}.")
        for image in images:
            below = image.parent.relative_to(path) if kind == "folder" else Path()
            found.setdefault(real_path(image), Source(path=image, below=below))
    return list(found.values())


def _kind(name: str) -> Literal["file", "folder", "pipe"]:
    if name == "-":
        return "pipe"
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 - as it was named
    except OSError as error:
        raise refusal(Path(name), "cannot be read", error) from error
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) and not _DESCRIPTOR.fullmatch(name) else "pipe"


def _read_pipe(name: str, allowed: bool) -> bytes:
    if not allowed:
        raise InputError(f"{name}: can be read but once", code="wrong_type", remedy="save it in a file and name that")
    if name == "-" and (sys.stdin is None or sys.stdin.isatty()):
        message, remedy = "-: standard input is closed or a terminal", "send a picture: cat photo.jpg | xpsr upscale -"
        raise InputError(message, code="wrong_type", remedy=remedy)
    try:
        if name == "-":
            content = sys.stdin.buffer.read(_MAX_PIPED + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(_MAX_PIPED + 1)
    except OSError as error:
        raise refusal(Path(name), "cannot be read", error) from error
    if len(content) > _MAX_PIPED:
        message, remedy = f"{name}: has more than the limit of {_MAX_PIPED} bytes", "send one picture"
        raise InputError(message, code="too_large", remedy=remedy)
    return content


def _search(folder: Path, *, recursive: bool, outside: Path | None) -> tuple[list[Path], str]:
    """Returns the pictures in a folder that are to be restored, and in words what is passed over."""
    # resolve() raises where a link leads to itself, before Python 3.13
    root, excluded = os.path.realpath(folder), outside and os.path.realpath(outside)
    if excluded == root:
        outside = excluded = None
    specials: list[Path] = []
    found = find_images(
        folder,
        recursive=recursive,
        suffixes=IMAGE_SUFFIXES | OTHER_SUFFIXES,
        outside=outside,
        on_other=specials.append,
    )
    images: list[Path] = []
    others: list[Path] = []
    results: list[Path] = []
    links: list[Path] = []
    for path in found:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            links.append(path)  # whoever made the folder chose what it leads to, perhaps not the user
            continue
        is_other = path.suffix.lower() not in IMAGE_SUFFIXES
        (others if is_other else images if read_sidecar(path) is None else results).append(path)
    folders: list[Path] = []
    if not recursive:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        # links to folders are not followed
        inner = [path for path in entries if path.is_dir() and not path.is_symlink()]
        folders = [path for path in inner if os.path.realpath(path) != excluded]
    kinds = (
        ("file", "", others, "convert to PNG or TIFF to have them"),
        ("special file", "", sorted(specials), "name them to read them"),
        ("link", " out of it", links, "name them to follow them"),
        ("result", " of xpsr", results, "name them to restore them again"),
        ("folder", "", folders, "add --recursive to search them"),
    )
    told = [
        f"{len(paths)} {kind}{'s' * (len(paths) > 1)}{what} ({', '.join(path.name for path in paths[:3])}"
        f"{', ...' * (len(paths) > 3)}; {remedy})"
        for kind, what, paths, remedy in kinds
        if paths
    ]
    note = f"passed over: {', '.join(told)}" if told else ""
    if not images:
        raise no_pictures(folder, note) if note else no_pictures(folder)
    return images, note


def name_jobs(
    sources: Sequence[Source],
    out: Path,
    *,
    suffix: Callable[[Source], str],
    format: ResultFormat = "same",  # noqa: A002 - what it is
    is_file: bool = False,
    on_error: Callable[[Path, InputError], None],
) -> list[Job]:
    """Returns where the result of each picture goes: `out/NAME_x4.jpg` for a JPEG, whatever else is restored.

    Where another picture of its folder has the same name but for the suffix, as photo.jpg and photo.png, NAME is with
    the suffix. No result goes where one of the pictures is, nor where that of another goes, on file systems that do
    not tell upper case from lower, too; `on_error` is told.

    Args:
        sources: pictures.
        out: the folder of all results.
        suffix: tells what the name of a picture's result ends with but for the format, `_x4` for example.
        format: of all results.
        is_file: `out` is the name of the only result itself.
        on_error: is told of pictures whose results have no place.
    """
    files = [source.path for source in sources if source.content is None]
    inputs = {*map(_key, files), *(folded(path_key(path)) for path in files)}  # a link, and what it leads to
    taken: dict[str, tuple[Path, Path]] = {}  # by their records
    folders: dict[Path, dict[str, list[Path]]] = {}
    jobs = []
    for source in sources:
        path = source.path
        target = out
        if not is_file:
            name = f"{_result_stem(source, folders)}{suffix(source)}{result_suffix(source, format)}"
            target = out / source.below / name
        record = target.with_suffix(".json")
        key = _key(record)
        if _key(target) in inputs:
            message, remedy = f"{path}: its result would replace the input {target}", "choose another place with -o"
            on_error(path, InputError(message, code="conflict", remedy=remedy))
        elif key in taken:
            other, place = taken[key]
            replaced = target if _key(target) == _key(place) else record
            remedy = "choose another folder with -o, or name the folder that holds both with --recursive"
            if path.parent == other.parent:
                remedy = "rename one of them"
            message = f"{path}: its result would replace {replaced}, that of {other}"
            on_error(path, InputError(message, code="conflict", remedy=remedy))
        else:
            taken[key] = path, target
            jobs.append(Job(source=source, target=target))
    return jobs


def name_maps(
    jobs: Sequence[Job], maps: Path, *, is_file: bool = False, on_error: Callable[[Path, InputError], None]
) -> list[Job]:
    """Returns jobs with places for their maps: `maps/NAME_x4.png`, as their results are called.

    Args:
        jobs: with the names of their results.
        maps: the folder of all maps.
        is_file: `maps` is the name of the only map itself.
        on_error: is told of pictures whose maps would be where a picture or its result is.
    """
    taken = {_key(job.source.path) for job in jobs if job.source.content is None}
    taken |= {_key(job.target) for job in jobs if job.target is not None}
    placed = []
    for job in jobs:
        place = maps
        if not is_file:
            stem = _result_stem(job.source, {}) if job.target is None else job.target.stem
            place = maps / job.source.below / f"{stem}.png"
        if _key(place) in taken:
            message, remedy = f"{job.source.path}: its map would replace {place}", "choose another place with --map"
            on_error(job.source.path, InputError(message, code="conflict", remedy=remedy))
        else:
            taken.add(_key(place))
            placed.append(dataclasses.replace(job, map=place))
    return placed


def result_suffix(source: Source, format: ResultFormat) -> str:  # noqa: A002 - what it is
    """Returns what the name of a result ends with: as that of its picture, where such a file holds all that it held.

    That is .png for what cannot be written, as GIF and HEIC, and for BMP, which has no place for metadata. A name that
    lies, as that of a PNG called .jpg, does not count.
    """
    if format != "same":
        return named_suffix("", format)
    start = _start_of(source)
    kind = next((suffix for begins, suffix in _BEGINNINGS.items() if re.match(begins, start, re.DOTALL)), None)
    if kind is None and source.content is not None:
        return ".png"
    suffix = source.path.suffix
    named = _LIKE.get(suffix.lower(), suffix).lower()
    if kind is not None and {".jpeg": ".jpg", ".tiff": ".tif"}.get(named, named) != kind:
        return kind
    return named_suffix(suffix, format)


def named_suffix(suffix: str, format: ResultFormat) -> str:  # noqa: A002 - what it is
    """Returns what the name of a result ends with, as `result_suffix`, for a picture whose name ends with `suffix`.

    No file is opened, so that a name that lies counts.
    """
    if format != "same":
        return {"tiff": ".tif"}.get(format, f".{format}")
    suffix = _LIKE.get(suffix.lower(), suffix)
    return suffix if suffix.lower() in WRITTEN_SUFFIXES - {".bmp"} else ".png"


def _start_of(source: Source) -> bytes:
    """The first bytes of a picture; none where it cannot be read, which is told when it is to be."""
    if source.content is not None:
        return source.content[:16]
    try:
        with source.path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""


def _result_stem(source: Source, folders: dict[Path, dict[str, list[Path]]]) -> str:
    """The name of a picture, with its suffix where another picture beside it has the same without; fills `folders`."""
    path = source.path
    if source.content is not None:
        return "stdin" if path.name == "-" else path.stem
    if path.parent not in folders:
        try:
            found = find_images(path.parent)
        except InputError:  # a file in it can be named all the same
            found = []
        alike = folders[path.parent] = {}
        for stem, images in by_stem(found).items():
            alike.setdefault(folded(stem), []).extend(images)
    beside = folders[path.parent].get(folded(path.stem), [])
    return path.name if any(_is_another(path, image) for image in beside) else path.stem


def _is_another(path: Path, image: Path) -> bool:
    try:
        return not path.samefile(image) and read_sidecar(image) is None
    except OSError:  # a link that leads nowhere
        return False


def folded(name: str) -> str:
    """A name as file systems compare it that know no upper case, and letters only composed or only taken apart."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _key(path: Path) -> str:
    return folded(str(real_path(path)))


def read_sidecar(picture: Path) -> dict[str, Any] | None:
    """Returns the record beside a picture that tells how xpsr made it; None where there is none of that picture.

    Whether the picture is still the one of the record, its `output_sha256` tells.
    """
    record = read_record(record_place(picture))
    return record if record is not None and _is_named(picture, record) else None


def record_place(picture: Path) -> Path:
    """Returns where the record of a result is, or is to be: NAME.json, or NAME.webp.json where NAME.json is another's.

    So photo_x4.jpg and photo_x4.webp, which was made later, have a record each.
    """
    short, whole = picture.with_suffix(".json"), picture.with_name(f"{picture.name}.json")
    first, own = read_record(short), read_record(whole)
    if first is not None:
        return short if _is_named(picture, first) else whole
    return whole if own is not None and _is_named(picture, own) else short


def _is_named(picture: Path, record: dict[str, Any]) -> bool:
    """Returns whether a record is of a picture of that name."""
    return unicodedata.normalize("NFC", record["output"]) == unicodedata.normalize("NFC", picture.name)


def read_record(path: Path) -> dict[str, Any] | None:
    """Returns a record, of whichever picture; None: the file is none, or not there."""
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(_MAX_SIDECAR))
    except (OSError, ValueError, RecursionError):
        return None
    texts = ("input", "input_sha256", "output", "output_sha256")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in texts):
        return None
    return record
