"""Files and folders: found, named, read and written whole or not at all. Knows nothing of what is in a picture."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from xpsr.errors import InputError, one_line

__all__ = [
    "IMAGE_SUFFIXES",
    "OTHER_SUFFIXES",
    "RAW_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "atomic_write",
    "by_stem",
    "find_hidden",
    "find_images",
    "is_remote",
    "list_images",
    "no_pictures",
    "pair_images",
    "partner",
    "path_key",
    "read_bytes",
    "real_path",
    "refusal",
    "refuse_used",
    "sha256",
    "whole_folder",
    "write_text",
]

logger = logging.getLogger(__name__)

WRITTEN_SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".jxl", ".png", ".tif", ".tiff", ".webp"})
"""Lower-case ends of the names that pictures can be written under."""

IMAGE_SUFFIXES = WRITTEN_SUFFIXES | {
    *(".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".mpo"),
    *(".pbm", ".pgm", ".pnm", ".ppm", ".tga"),
}
"""Lower-case ends of the names that count as pictures in a folder. Whether one can be read shows when it is opened:
HEIC and HEIF need the extra `formats`."""

RAW_SUFFIXES = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"})
"""Lower-case ends of the names of what sensors saw, which has to be developed to be a picture."""

OTHER_SUFFIXES = frozenset({".apng", ".ico", ".psd"}) | RAW_SUFFIXES
"""Lower-case ends of names that are pictures too, to those who took them, but are passed over in a folder: animations,
icons, layers, and what sensors saw."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def find_images(
    folder: Path,
    *,
    recursive: bool = False,
    suffixes: frozenset[str] = IMAGE_SUFFIXES,
    outside: Path | None = None,
    on_other: Callable[[Path], None] = lambda path: None,
) -> list[Path]:
    """Returns the files in `folder`, or below it, whose names end like a picture's, sorted; there may be none.

    What is hidden is left out, and so is what lies in a hidden folder: "._photo.jpg" is what macOS leaves beside a
    photo.jpg, ".thumbnails/photo.jpg" a thumbnail. A link that leads nowhere is not: whoever opens it says so.
    Pipes and devices are, and links to them: to open one may take for ever.

    Args:
        folder: where to look; links to folders in it are not followed.
        recursive: whether to look into its folders too.
        suffixes: lower-case ends of names, with their dots.
        outside: a folder whose files are left out.
        on_other: is told of what is called like a picture and is no file.

    Raises:
        InputError: `folder` cannot be listed.
    """
    excluded = outside and os.path.realpath(outside)

    def refuse(error: OSError) -> None:
        if error.filename == str(folder):
            raise refusal(folder, "cannot be read", error) from error
        logger.warning("%s It is passed over.", refusal(Path(error.filename), "cannot be read", error))

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        parent = Path(place)
        if excluded is not None and os.path.realpath(place) == excluded:
            folders.clear()
            continue
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        paths = (parent / name for name in names if not name.startswith("."))
        for path in paths:
            if path.suffix.lower() in suffixes:
                is_picture = os.path.isfile(path) or not os.path.exists(path)  # noqa: PTH110, PTH113 - pathlib raises
                (found.append if is_picture else on_other)(path)
    return sorted(found)


def find_hidden(folder: Path) -> list[Path]:
    """Returns the pictures below `folder` that `find_images` leaves out because they are hidden, sorted."""
    hidden = {path for entry in folder.rglob(".*") for path in (entry, *entry.rglob("*"))}
    return sorted(path for path in hidden if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def list_images(path: str | os.PathLike[str], *, recursive: bool = False, outside: Path | None = None) -> list[Path]:
    """Returns `path` itself if it is a file, or else the pictures that `find_images` finds in the folder `path`.

    Raises:
        InputError: nothing is there, the folder cannot be listed or holds no picture.
    """
    path = Path(path)
    try:
        path.stat()
    except OSError as error:
        raise refusal(path, "cannot be read", error) from error
    if not path.is_dir():
        return [path]
    images = find_images(path, recursive=recursive, outside=outside)
    if not images:
        raise no_pictures(path)
    return images


def no_pictures(folder: Path, remedy: str = "name a folder with .jpg, .png or other pictures") -> InputError:
    """Returns the error to raise for a folder without any."""
    return InputError(f"{folder}: holds no pictures", code="no_pictures", remedy=remedy)


def pair_images(hr_dir: Path, lr_dir: Path) -> list[tuple[Path, Path]]:
    """Returns the pictures of two folders as pairs of one name each, whatever they end with, sorted by name.

    Raises:
        InputError: a folder cannot be listed or holds no picture, or a picture has no partner, or several.
    """
    hr, lr = by_stem(list_images(hr_dir)), by_stem(list_images(lr_dir))
    for stem, images in lr.items():
        for image in images:
            partner(image, hr.get(stem, ()), hr_dir)
    return [(image, partner(image, lr.get(stem, ()), lr_dir)) for stem, images in hr.items() for image in images]


def by_stem(images: Iterable[Path]) -> dict[str, list[Path]]:
    """Returns pictures by their names without suffix; what has more than one cannot be paired by its name."""
    found: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        found[image.stem].append(image)
    return dict(found)


def partner(image: Path, candidates: Sequence[Path], folder: Path) -> Path:
    """Returns the only one of the pictures in `folder` that belong to `image` by their names.

    Raises:
        InputError: there is none, or there are several.
    """
    if not candidates:
        raise InputError(
            f"{image}: has no partner in {folder}",
            code="no_partner",
            remedy="give both the same name, or take the one away",
        )
    if len(candidates) > 1:
        named = " and ".join(map(str, candidates))
        raise InputError(f"{image}: may belong to {named}", code="ambiguous", remedy="keep one of them")
    return candidates[0]


def is_remote(name: str) -> bool:
    """Returns whether a name is an http(s) address and no path."""
    return name.lower().startswith(("http://", "https://"))


def real_path(path: Path) -> Path:
    """Returns where an entry of a folder really is; of a link, where the link is."""
    return Path(os.path.realpath(path.parent), path.name)


def path_key(path: Path) -> str:
    """Returns a path as it is compared: without links, its letters composed as only some file systems do."""
    try:
        path = path.resolve()
    except (OSError, ValueError, RuntimeError):  # no path could be so: it is compared as it was written
        path = path.absolute()
    return unicodedata.normalize("NFC", str(path))


def read_bytes(path: Path, *, limit: int | None = None) -> bytes:
    """Returns the bytes of a file.

    Raises:
        InputError: it cannot be read, or there are more than `limit`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(-1 if limit is None else limit + 1)  # of a device, a size would say nothing
        if limit is not None and len(content) > limit:
            message = f"{path}: has more than {limit} bytes"
            raise InputError(message, code="too_large", remedy="is it the right file?")
        return content
    except OSError as error:
        raise refusal(path, "cannot be read", error) from error


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise refusal(path, "cannot be read", error) from error


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, is_new: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; what is written there becomes `path` when the block ends well.

    If the block fails, the temporary file is removed and `path` is left as it was.

    Args:
        path: where to; what is there is replaced.
        is_new: what is there, or comes there meanwhile, is not replaced.

    Raises:
        InputError: the operating system refuses: no such folder, no permission, disk full; or something is there.
    """
    path = Path(path)
    # The name is short and random: it fits wherever `path` fits, and two writers do not meet
    part = path.with_name(f".xpsr-{secrets.token_hex(4)}.part")
    try:
        yield part
        if is_new:
            _link(part, path)
        else:
            part.replace(path)
    except OSError as error:
        raise refusal(path, "cannot be written", error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def _link(part: Path, path: Path) -> None:
    """Gives a file a second name, which nothing may have; where the disk knows no links, it is moved there."""
    try:
        os.link(part, path)  # unlike a look before a move, it leaves no time for another to come between
    except OSError as error:
        if os.path.lexists(path):
            message, remedy = f"{path}: is there already", "move it, or choose another place"
            raise InputError(message, code="exists", remedy=remedy) from error
        part.replace(path)


def write_text(path: str | os.PathLike[str], text: str, *, is_new: bool = False) -> None:
    """Writes `text` as UTF-8, whole or not at all; `is_new`: only where nothing is.

    Raises:
        InputError: `path` cannot be written.
    """
    with atomic_write(path, is_new=is_new) as part:
        part.write_text(text, encoding="utf-8")


def refuse_used(folder: Path) -> None:
    """Raises `InputError` where a folder that is to be made is there already and not empty, or cannot be looked at."""
    try:
        is_used = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise refusal(folder, "cannot be used", error) from error
    if is_used:
        raise InputError(f"{folder}: exists and is not empty", code="not_empty", remedy="remove it or choose another")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder beside the one that is wanted, which it becomes when all is written, and else is gone.

    Raises:
        InputError: the system refuses to write.
    """
    out = Path(os.path.realpath(folder))
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        part.mkdir(parents=True)
        yield part
        if out.is_dir():
            out.rmdir()
        part.replace(out)
    except OSError as error:
        raise refusal(folder, "cannot be written", error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def refusal(path: Path, what: str, error: OSError) -> InputError:
    """Returns the error to raise where the system refuses: `what` says what it refuses ("cannot be read")."""
    full, missing = error.errno in _DISK_FULL, isinstance(error, FileNotFoundError)
    remedy = "check the path" if missing else "check the path and its permissions"
    remedy = "free space or choose another disk" if full else remedy
    remedy = "choose a shorter name" if error.errno == errno.ENAMETOOLONG else remedy
    reason = error.strerror or one_line(error)
    code = "disk_full" if full else "not_found" if missing else "refused"
    return InputError(f"{path}: {what} ({reason})", code=code, remedy=remedy)
