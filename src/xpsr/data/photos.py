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
from xpsr.errors import InputError, TrainingError
from xpsr.files import IMAGE_SUFFIXES, sha256
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
            raise InputError(f"{path}: no such file of priors; write one with xpsr describe, or leave priors out.")
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

    Pictures without a content text are told in one warning.

    Raises:
        TrainingError: there is no picture, the manifest names files that are missing, or pictures have no prior and
            `config.require_priors`.
        InputError: a folder or file that is not there, or a damaged line in it.
    """
    hr_dir, manifest = config.hr_dir, config.manifest
    if not hr_dir.is_dir():
        reason = "a file, not a folder" if hr_dir.exists() else "no such folder"
        raise InputError(f"data.hr_dir={hr_dir} is {reason}; use a folder of pictures, or run scripts/fetch_photos.py.")
    if manifest is None:
        photos = [Photo(p) for p in sorted(hr_dir.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
    else:
        photos = _read_manifest(manifest, hr_dir)
        missing = [photo.path for photo in photos if not photo.path.is_file()]
        if missing:
            count = f"{len(missing)} of {len(photos)} files are missing"
            raise TrainingError(f"{manifest}: {count}, first {missing[0]}; run scripts/fetch_photos.py.")
    photos = [p for p in photos if not any(fnmatch(p.path.name, name) for name in config.exclude)]
    if not photos:
        raise TrainingError(f"{hr_dir}: holds no pictures to train on.")
    untold: set[Path] = set()
    if config.priors is not None:
        table = PriorTable(config.priors, hr_dir)
        for place, photo in enumerate(photos):
            prior = table.find(photo.path)
            if prior is None:
                untold.add(photo.path)
            else:
                photos[place] = Photo(photo.path, prior.content, prior.quality)
        names = [path.relative_to(hr_dir).as_posix() for path in (p.path for p in photos) if path in untold]
        report_missing(config.priors, names, len(photos), required=config.require_priors)
    silent = [p.path.relative_to(hr_dir).as_posix() for p in photos if not p.content and p.path not in untold]
    if silent:
        remedy = "set data.priors (xpsr describe writes them)" if config.priors is None else "see xpsr describe"
        counts = f"{len(silent)} of {len(photos)}"
        logger.warning("%s: %s pictures have no content text (%s); %s.", hr_dir, counts, _some(silent), remedy)
    return photos


def report_missing(path: Path, names: Sequence[str], total: int, *, required: bool) -> None:
    """Warns once of all pictures without a prior, or raises.

    Raises:
        TrainingError: there are such, and priors are `required`.
    """
    if not names:
        return
    said = f"{path}: says nothing about {len(names)} of {total} pictures ({_some(names)}); xpsr describe adds them."
    if required:
        raise TrainingError(said)
    logger.warning("%s", said)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", …" if len(names) > _NUM_NAMED else "")


def _read_manifest(path: Path, hr_dir: Path) -> list[Photo]:
    if not path.is_file():
        raise InputError(f"data.manifest={path} is not a file; use one like data/photos.tsv, or null for all pictures.")
    if path.suffix.lower() == ".jsonl":
        entries: list[dict[str, Any]] = PriorFile(path).read()
        priors = [Prior.from_dict(entry) for entry in entries]
        return [Photo(hr_dir / e["image"], p.content, p.quality) for e, p in zip(entries, priors, strict=True)]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if rows and "file" not in rows[0]:
        raise InputError(f"{path}: has no column 'file'; use tab-separated columns package, file, label.")
    return [
        Photo(hr_dir / (row.get("package") or "") / row["file"], (row.get("label") or "").strip().lower())
        for row in rows
    ]


def _key(path: Path) -> str:
    """A path as it is compared: without "..", and with letters composed as some file systems do and others do not."""
    return unicodedata.normalize("NFC", os.path.normpath(path))
