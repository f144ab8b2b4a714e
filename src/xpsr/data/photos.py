"""The clean pictures that training starts from, and what is said of them."""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from io import StringIO
from pathlib import Path

from xpsr.config import DataConfig
from xpsr.errors import InputError, TrainingError, one_line
from xpsr.files import find_images, path_key, read_bytes, sha256
from xpsr.prior import Prior, PriorFile

__all__ = ["Photo", "PriorTable", "list_photos", "report_missing"]

logger = logging.getLogger(__name__)

_NUM_NAMED = 3  # of those that are missing


@dataclass(frozen=True)
class Photo:
    """A clean picture, what is in it and what is wrong with it; either text may be empty."""

    path: Path
    content: str = ""
    quality: str = ""


class PriorTable:
    """The priors in a JSONL, found by path or by SHA-256.

    A line's `image` is relative to the JSONL's folder or to `root`. A later line goes before an earlier one.

    Raises:
        InputError: there is no such file, or a line is damaged.
    """

    def __init__(self, path: Path, root: Path):
        if not path.is_file():
            raise InputError(
                f"{path}: no such file of priors",
                code="not_found",
                remedy="describe the pictures into one, or leave priors out",
            )
        # one of the two where they are the same: a path that is not there takes long to follow on a network disk
        self._by_path: dict[Path, dict[str, Prior]] = {folder.resolve(): {} for folder in (path.parent, root)}
        self._by_sha256: dict[str, Prior] = {}
        for entry in PriorFile(path).read():
            prior = Prior.from_dict(entry)
            for folder, found in self._by_path.items():
                found[path_key(folder / entry["image"])] = prior
            if isinstance(entry.get("sha256"), str):
                self._by_sha256[entry["sha256"]] = prior

    def find(self, image: Path | None, digest: str | None = None) -> Prior | None:
        """Returns what is said of the picture at `image`, or of any with the SHA-256 `digest`.

        Where no digest is given and the path is not known, the file is read if the table knows any digest.
        """
        if image is not None:
            key = path_key(image)
            for found in self._by_path.values():
                if key in found:
                    return found[key]
            if digest is None and self._by_sha256 and image.is_file():
                digest = sha256(image)
        return self._by_sha256.get(digest) if isinstance(digest, str) else None  # a manifest may hold anything


def list_photos(config: DataConfig) -> list[Photo]:
    """Returns every training picture of `config.hr_dir` with what is said of it: in `priors`, or else in the manifest.

    Pictures without a content text are told in one warning.

    Raises:
        TrainingError: there is no picture, the manifest names files that are missing, or pictures have no prior and
            `config.require_priors`.
        InputError: a folder or file that is not there, or a damaged line in it.
    """
    hr_dir, manifest = config.hr_dir, config.manifest
    if not hr_dir.is_dir():
        raise InputError(
            "is a file, not a folder" if hr_dir.exists() else "is no such folder",
            code="not_found",
            field="data.hr_dir",
            value=str(hr_dir),
            remedy="use a folder of pictures; scripts/fetch_photos.py of the repository fetches the mini's",
        )
    if manifest is None:
        photos = [Photo(path) for path in find_images(hr_dir, recursive=True)]
    else:
        photos = _read_manifest(manifest, hr_dir)
        missing = [photo.path for photo in photos if not photo.path.is_file()]
        if missing:
            raise TrainingError(
                f"{manifest}: {len(missing)} of {len(photos)} files are missing, first {missing[0]}",
                code="not_found",
                remedy=f"add them to {hr_dir}, or take their lines out",
            )
    photos = [p for p in photos if not any(fnmatch(p.path.name, name) for name in config.exclude)]
    if not photos:
        raise TrainingError(f"{hr_dir}: holds no pictures to train on.", code="no_pictures")
    untold: set[Path] = set()
    if config.priors is not None:
        table = PriorTable(config.priors, hr_dir)
        for place, photo in enumerate(photos):
            prior = table.find(photo.path)
            if prior is None:
                untold.add(photo.path)
            else:
                photos[place] = Photo(photo.path, prior.content, prior.quality)
        names = [_name(photo.path, hr_dir) for photo in photos if photo.path in untold]
        report_missing(config.priors, names, len(photos), required=config.require_priors)
    silent = [_name(p.path, hr_dir) for p in photos if not p.content and p.path not in untold]
    if silent:
        counts = f"{len(silent)} of {len(photos)}"
        remedy = "describe them" + (" and set data.priors" if config.priors is None else "")
        logger.warning("%s: %s pictures have no content text (%s); %s.", hr_dir, counts, _some(silent), remedy)
    return photos


def report_missing(path: Path, names: Sequence[str], total: int, *, required: bool) -> None:
    """Warns once of all pictures without a prior, or raises.

    Raises:
        TrainingError: there are such, and priors are `required`.
    """
    if not names:
        return
    error = TrainingError(
        f"{path}: says nothing about {len(names)} of {total} pictures ({_some(names)})",
        code="no_prior",
        remedy="describe them too",
    )
    if required:
        raise error
    logger.warning("%s", error)


def _name(path: Path, folder: Path) -> str:
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", …" if len(names) > _NUM_NAMED else "")


def _read_manifest(path: Path, hr_dir: Path) -> list[Photo]:
    if not path.is_file():
        raise InputError(
            "is not a file",
            code="not_found",
            field="data.manifest",
            value=str(path),
            remedy="use null for all pictures, or correct the path",
        )
    if path.suffix.lower() == ".jsonl":
        entries = PriorFile(path).read()
        priors = [Prior.from_dict(entry) for entry in entries]
        return [Photo(hr_dir / e["image"], p.content, p.quality) for e, p in zip(entries, priors, strict=True)]
    text = read_bytes(path)
    try:
        rows = csv.DictReader(StringIO(text.decode("utf-8-sig"), newline=""), delimiter="\t")
        photos = []
        for row in rows:
            if "file" not in row:
                raise _damaged(path, "has no column 'file'")
            if not row["file"]:
                raise _damaged(path, f"line {rows.line_num} names no file")
            place = hr_dir / (row.get("package") or "") / row["file"]
            photos.append(Photo(place, (row.get("label") or "").strip().lower()))
        return photos
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, f"cannot be read ({one_line(error)})") from error


def _damaged(path: Path, problem: str) -> InputError:
    remedy = "use tab-separated columns package, file, label, in UTF-8"
    return InputError(f"{path}: {problem}", code="damaged", remedy=remedy)
