"""Looks for what is wrong with pictures and stored pairs before they are trained on."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from xpsr.data.manifest import INDEX, MANIFEST, TEACHER, Texts
from xpsr.data.pairs import find_teachers, priors_of
from xpsr.data.photos import PriorTable
from xpsr.data.pictures import Pixels
from xpsr.data.shards import TarPairs, find_tars, read_index
from xpsr.errors import InputError
from xpsr.files import by_stem, find_hidden, find_images, path_key, read_bytes, sha256
from xpsr.image import decode_rgb
from xpsr.jsonl import read_lines

__all__ = ["Finding", "Kind", "Report", "check_folder", "perceptual_hash"]

Kind = Literal[
    "unreadable", "tiny", "mismatched", "duplicate", "changed", "missing", "ambiguous", "unlisted", "no prior"
]

_MAX_DISTANCE = 3  # bits of 64; below the number of bands, so that near hashes share one
_NUM_BANDS = 4
_THUMBNAIL = 16
_MAX_DIFFERENCE = 4.0  # mean absolute difference of duplicates' thumbnails, of 0..255
_MIN_CORRELATION = 0.6  # of HR's and LR's thumbnails; severely degraded pairs stay above 0.8
_MIN_CONTRAST = 4.0  # standard deviation of a thumbnail below which it has nothing to correlate


@dataclass(frozen=True)
class Finding:
    """Something wrong with the picture or pair `name`."""

    kind: Kind
    name: str
    problem: str


@dataclass
class Report:
    """What was looked at and what was found; `layout` is pictures, pairs or shards.

    `hidden` are pictures below the folder that nobody reads, because their names or folders begin with a dot.
    """

    layout: Literal["pictures", "pairs", "shards"]
    num_checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)

    def counts(self) -> dict[Kind, int]:
        """Counts the findings of each kind that occurs."""
        return {kind: n for kind in get_args(Kind) if (n := sum(f.kind == kind for f in self.findings))}


@dataclass(frozen=True)
class _Item:
    """A picture (then `lr` is None) or a pair; the readers raise InputError. `source` tells pairs of one picture.

    `teacher` reads what another method made of `lr`, where there is such a picture.
    """

    name: str
    source: str
    hr: Callable[[], bytes]
    lr: Callable[[], bytes] | None
    entry: Mapping[str, Any]
    teacher: Callable[[], bytes] | None = None


def check_folder(
    folder: Path,
    *,
    scale: int = 4,
    min_size: int = 16,
    priors: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Reads every picture below a folder of pictures, of pairs (`hr/`, `lr/`) or of shards.

    Found are pictures that cannot be read, are smaller than `min_size`, look like another one (perceptual hash and
    thumbnail) or are not what the manifest says; pairs that are not exactly `scale` : 1, show different pictures or
    lack a part; and what has no prior, where `priors` is given or the folder has a `priors.jsonl`.

    Args:
        folder: what to look at.
        scale: HR's width and height through LR's.
        min_size: pixels that the shorter side of HR should have.
        priors: a JSONL of priors.
        progress: is told how many items of how many are done.

    Raises:
        InputError: nothing is there, no file `priors`, or a damaged line in the manifest or the priors.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder", code="not_found", remedy="name one with pictures, pairs or shards"
        )
    priors = priors or (folder / "priors.jsonl" if (folder / "priors.jsonl").is_file() else None)
    if (folder / "hr").is_dir() and (folder / "lr").is_dir():
        report = Report("pairs")
    elif (folder / "shards").is_dir() or find_tars(folder):
        report = Report("shards")
    else:
        report = Report("pictures")
    root = None if report.layout == "shards" else folder  # training knows no paths of what is in a tar
    table = None if priors is None else PriorTable(priors, root or Path())
    find = {"pairs": _find_pairs, "shards": _find_shards, "pictures": _find_pictures}[report.layout]
    items = find(folder, report)
    if not items and not report.findings:
        raise InputError(
            f"{folder}: holds no pictures, pairs or shards", code="no_pictures", remedy="name another folder"
        )
    report.hidden = [path.relative_to(folder).as_posix() for path in find_hidden(folder)]
    looks = _Looks()
    for item in items:
        report.findings += _check(item, scale, min_size, looks)
        if table is not None and _find_prior(table, item, root) is None:
            report.findings.append(Finding("no prior", item.name, f"{priors} says nothing about it"))
        report.num_checked += 1
        if progress is not None:
            progress(report.num_checked, len(items))
    return report


def perceptual_hash(pixels: Pixels) -> int:
    """Returns the signs of a picture's lowest frequencies: 64 bits that change little with scale, compression and
    brightness."""
    gray = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(gray.astype(np.float32))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _check(item: _Item, scale: int, min_size: int, looks: "_Looks") -> Iterator[Finding]:
    try:
        Texts.of(item.entry, "")
    except InputError as error:
        yield Finding("unreadable", item.name, str(error))
    pictures: dict[str, Pixels] = {}
    digests: dict[str, str] = {}
    for part, read in (("hr", item.hr), ("lr", item.lr), (TEACHER, item.teacher)):
        if read is None:
            continue
        try:
            content = read()
            pictures[part] = decode_rgb(content, item.name)
        except InputError as error:
            yield Finding("unreadable", item.name, f"{part}: {error}" if item.lr else str(error))
            continue
        digests[part] = hashlib.sha256(content).hexdigest()
        if item.entry.get(f"{part}_sha256") not in (None, digests[part]):
            yield Finding("changed", item.name, f"{part} is not the file that the manifest tells of")
    hr, lr = pictures.get("hr"), pictures.get("lr")
    if hr is not None and min(hr.shape[:2]) < min_size:
        yield Finding("tiny", item.name, f"{hr.shape[1]} x {hr.shape[0]} pixels, a side below {min_size}")
    if hr is not None and lr is not None:
        if hr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
            sizes = f"{hr.shape[1]} x {hr.shape[0]} and {lr.shape[1]} x {lr.shape[0]} pixels"
            yield Finding("mismatched", item.name, f"{sizes} are not exactly {scale} : 1")
        elif not _shows_same(_thumbnail(hr), _thumbnail(lr)):
            yield Finding("mismatched", item.name, "hr and lr show different pictures")
    teacher = pictures.get(TEACHER)
    if hr is not None and teacher is not None:
        if hr.shape != teacher.shape:
            sizes = f"{hr.shape[1]} x {hr.shape[0]} and {teacher.shape[1]} x {teacher.shape[0]} pixels"
            yield Finding("mismatched", item.name, f"{sizes} of hr and teacher are not the same")
        elif not _shows_same(_thumbnail(hr), _thumbnail(teacher)):
            yield Finding("mismatched", item.name, "hr and teacher show different pictures")
    twin = looks.find_or_add_pair(item.name, digests["hr"], digests["lr"]) if {"hr", "lr"} <= digests.keys() else None
    if twin is not None:
        yield Finding("duplicate", item.name, f"is the same pair as {twin}")
    elif hr is not None and (other := looks.find_or_add(item.source, item.name, hr)) is not None:
        yield Finding("duplicate", item.name, f"looks like {other}")


class _Looks:
    """Pictures by what they look like, of one source only the first, and pairs by their digests."""

    def __init__(self) -> None:
        self._seen: list[tuple[str, int, NDArray[np.uint8]]] = []
        self._by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._sources: set[str] = set()
        self._pairs: dict[tuple[str, ...], str] = {}

    def find_or_add_pair(self, name: str, *digests: str) -> str | None:
        """Returns the name of an earlier pair of the same two files, by the SHA-256 of HR and LR."""
        other = self._pairs.setdefault(digests, name)
        return None if other is name else other

    def find_or_add(self, source: str, name: str, pixels: Pixels) -> str | None:
        """Returns the name of an earlier picture of another source that looks the same."""
        if source in self._sources:
            return None
        self._sources.add(source)
        code, thumbnail = perceptual_hash(pixels), _thumbnail(pixels)
        bands = [(band, code >> 16 * band & 0xFFFF) for band in range(_NUM_BANDS)]
        for place in sorted({place for band in bands for place in self._by_band[band]}):
            other, other_code, other_thumbnail = self._seen[place]
            difference = float(cv2.absdiff(thumbnail, other_thumbnail).mean())
            if (code ^ other_code).bit_count() <= _MAX_DISTANCE and difference <= _MAX_DIFFERENCE:
                return other
        for band in bands:
            self._by_band[band].append(len(self._seen))
        self._seen.append((name, code, thumbnail))
        return None


def _thumbnail(pixels: Pixels) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _shows_same(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    a, b = (thumbnail.astype(np.float64) - thumbnail.mean() for thumbnail in (first, second))
    if min(a.std(), b.std()) < _MIN_CONTRAST:
        return abs(float(first.mean()) - float(second.mean())) < 32
    return float((a * b).mean() / (a.std() * b.std())) >= _MIN_CORRELATION


def _find_pictures(folder: Path, report: Report) -> list[_Item]:
    named = ((path, path.relative_to(folder).as_posix()) for path in find_images(folder, recursive=True))
    return [_Item(name, name, partial(read_bytes, path), None, {}) for path, name in named]


def _find_pairs(folder: Path, report: Report) -> list[_Item]:
    files = {part: by_stem(find_images(folder / part)) for part in ("hr", "lr")}
    teachers = find_teachers(folder)
    entries = {str(entry.get("name")): entry for _, entry in read_lines(folder / MANIFEST)}
    items = []
    for name in sorted({*files["hr"], *files["lr"], *teachers, *entries}):
        found = {part: files[part].get(name, []) for part in ("hr", "lr")}
        if absent := [part for part in found if not found[part]]:
            report.findings.append(Finding("missing", name, f"there is no {' and no '.join(absent)} picture"))
            continue
        taught = teachers.get(name, [])
        if several := [p.relative_to(folder).as_posix() for ps in (*found.values(), taught) if len(ps) > 1 for p in ps]:
            report.findings.append(Finding("ambiguous", name, f"there are {' and '.join(several)}"))
            continue
        entry = entries.get(name, {})
        if entries and not entry:
            report.findings.append(Finding("unlisted", name, f"{MANIFEST} does not tell of it"))
        if teachers and not taught:
            report.findings.append(Finding("missing", name, "there is no teacher picture"))
        hr, lr = found["hr"][0], found["lr"][0]
        entry = {**entry, "hr": f"hr/{hr.name}", "lr": f"lr/{lr.name}"}
        source = str(entry.get("source", name))
        teacher = partial(read_bytes, taught[0]) if taught else None
        items.append(_Item(name, source, partial(read_bytes, hr), partial(read_bytes, lr), entry, teacher))
    return items


def _find_shards(folder: Path, report: Report) -> list[_Item]:
    home = folder / "shards" if (folder / "shards").is_dir() else folder
    tars: dict[str, TarPairs | None] = {}
    for path in find_tars(home):
        try:
            tars[path_key(path)] = TarPairs(path)
        except InputError as error:
            tars[path_key(path)] = None
            report.findings.append(Finding("unreadable", path.name, str(error)))
    if (home / INDEX).is_file():
        try:
            report.findings += _check_index(home / INDEX, tars)
        except InputError as error:
            report.findings.append(Finding("unreadable", INDEX, str(error)))
    return [_in_tar(tar, number, report) for tar in tars.values() if tar is not None for number in range(len(tar))]


def _check_index(path: Path, tars: Mapping[str, TarPairs | None]) -> Iterator[Finding]:
    """Yields what an index says wrongly of the tars beside it, by their keys; one that cannot be read is None."""
    unlisted = {key: Path(key).name for key in tars}
    listed: set[str] = set()
    for shard in read_index(path):
        if shard.is_remote:
            continue
        key, name = path_key(Path(shard.url)), shard.url.removeprefix(f"{path.parent}/")
        unlisted.pop(key, None)
        if key in listed:
            yield Finding("duplicate", name, f"{INDEX} lists it twice")
        elif key not in tars:
            yield Finding("missing", name, f"{INDEX} lists it, and it is not in {path.parent}")
        elif (tar := tars[key]) is not None:
            if len(tar) != shard.num_pairs:
                yield Finding("changed", name, f"holds {len(tar)} pairs, {INDEX} says {shard.num_pairs}")
            elif shard.sha256 not in (None, sha256(tar.path)):
                yield Finding("changed", name, f"is not the file that {INDEX} tells of")
        listed.add(key)
    for name in unlisted.values():
        yield Finding("unlisted", name, f"{INDEX} does not tell of it")


def _in_tar(tar: TarPairs, number: int, report: Report) -> _Item:
    name = f"{tar.path.name}: {tar.names[number]}"
    entry: dict[str, Any] = {}
    try:
        entry = tar.entry(number)
    except InputError as error:
        report.findings.append(Finding("unreadable", name, str(error)))
    hr, lr, teacher = (partial(tar.part, number, kind) for kind in ("hr", "lr", TEACHER))
    source = str(entry.get("source", tar.names[number]))
    return _Item(name, source, hr, lr, entry, teacher if tar.holds(number, TEACHER) else None)


def _find_prior(table: PriorTable, item: _Item, root: Path | None) -> object:
    if item.lr is None and root is not None:
        return table.find(root / item.name)
    lr, hr = priors_of(table, dict(item.entry), root)
    return lr or hr
