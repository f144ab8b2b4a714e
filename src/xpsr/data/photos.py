"""The clean pictures that training starts from, and what is said of them."""

import csv
import logging
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from xpsr.config import DataConfig
from xpsr.errors import TrainingError
from xpsr.image import IMAGE_SUFFIXES, sha256
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
        TrainingError: there is no such file.
        InputError: a line is damaged.
    """

    def __init__(self, path: Path, root: Path):
        if not path.is_file():
            raise TrainingError(f"{path}: no such file of priors; write one with xpsr describe, or leave priors out.")
        self._by_path: tuple[dict[str, Prior], ...] = ({}, {})
        self._by_sha256: dict[str, Prior] = {}
        folders = (path.parent.resolve(), root.resolve())
        for entry in PriorFile(path).read():
            prior = Prior.from_dict(entry)
            for folder, found in zip(folders, self._by_path, strict=True):
                found[_key(folder / entry["image"])] = prior
            if isinstance(entry.get("sha256"), str):
                self._by_sha256[entry["sha256"]] = prior
        self._root, self._resolved = root, folders[1]

    def find(self, image: Path | None, digest: str | None = None) -> Prior | None:
        """What is said of the picture at `image`, or of any with the SHA-256 `digest`.

        Where no digest is given and the path is not known, the file is read if the table knows any digest.
        """
        if image is not None:
            relative = os.path.relpath(image, self._root)  # links above the root were followed once for all
            key = _key(self._resolved / relative)
            for found in self._by_path:
                if key in found:
                    return found[key]
            if digest is None and self._by_sha256 and image.is_file():
                digest = sha256(image)
        return None if digest is None else self._by_sha256.get(digest)


def list_photos(config: DataConfig) -> list[Photo]:
    """Every training picture of `config.hr_dir` with what is said of it: in `priors`, or else in the manifest.

    Raises:
        TrainingError: there is no picture, the manifest names files that are missing, or pictures have no prior and
            `config.require_priors`.
        InputError: a damaged line in a JSONL.
    """
    if not config.hr_dir.is_dir():
        raise TrainingError(f"{config.hr_dir}: no such folder; set data.hr_dir or run scripts/fetch_photos.py.")
    if config.manifest is None:
        photos = [Photo(p) for p in sorted(config.hr_dir.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
    else:
        photos = _read_manifest(config.manifest, config.hr_dir)
        missing = [photo.path for photo in photos if not photo.path.is_file()]
        if missing:
            count = f"{len(missing)} of {len(photos)} files are missing"
            raise TrainingError(f"{config.manifest}: {count}, first {missing[0]}; run scripts/fetch_photos.py.")
    photos = [p for p in photos if not any(fnmatch(p.path.name, name) for name in config.exclude)]
    if not photos:
        raise TrainingError(f"{config.hr_dir}: holds no pictures to train on.")
    if config.priors is None:
        if config.require_priors:
            raise TrainingError("require_priors is set and priors is not; name a JSONL from xpsr describe.")
        return photos
    table, missing_names = PriorTable(config.priors, config.hr_dir), []
    for place, photo in enumerate(photos):
        prior = table.find(photo.path)
        if prior is None:
            missing_names.append(photo.path.relative_to(config.hr_dir).as_posix())
        else:
            photos[place] = Photo(photo.path, prior.content, prior.quality)
    report_missing(config.priors, missing_names, len(photos), required=config.require_priors)
    return photos


def report_missing(path: Path, names: Sequence[str], total: int, *, required: bool) -> None:
    """Warns once of all pictures without a prior, or raises.

    Raises:
        TrainingError: there are such, and priors are `required`.
    """
    if not names:
        return
    first = ", ".join(names[:_NUM_NAMED]) + (", …" if len(names) > _NUM_NAMED else "")
    said = f"{path}: says nothing about {len(names)} of {total} pictures ({first}); xpsr describe adds them."
    if required:
        raise TrainingError(said)
    logger.warning("%s", said)


def _read_manifest(path: Path, hr_dir: Path) -> list[Photo]:
    if path.suffix.lower() == ".jsonl":
        if not path.is_file():
            raise TrainingError(f"{path}: no such manifest; set data.manifest.")
        entries: list[dict[str, Any]] = PriorFile(path).read()
        priors = [Prior.from_dict(entry) for entry in entries]
        return [Photo(hr_dir / e["image"], p.content, p.quality) for e, p in zip(entries, priors, strict=True)]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if rows and "file" not in rows[0]:
        raise TrainingError(f"{path}: has no column 'file'; use tab-separated columns package, file, label.")
    return [
        Photo(hr_dir / (row.get("package") or "") / row["file"], (row.get("label") or "").strip().lower())
        for row in rows
    ]


def _key(path: Path) -> str:
    """A path as it is compared: without "..", and with letters composed as some file systems do and others do not."""
    return unicodedata.normalize("NFC", os.path.normpath(path))
