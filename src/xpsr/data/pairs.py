"""Pairs that were stored: crops of them with their texts. Where they are stored is the store's business.

An epoch shows every pair once. Sample `i` depends on the seed and on `i` alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch
from torch.utils.data import Dataset

from xpsr.config import DataConfig
from xpsr.data.crops import CLEAN, FLAT_ATTEMPTS, PICTURE_ATTEMPTS, flat, misjudge, none_usable
from xpsr.data.manifest import MANIFEST, TEACHER, Texts
from xpsr.data.photos import PriorTable, report_missing
from xpsr.data.pictures import Pixels, as_tensor, check_size, detail, turn
from xpsr.data.samples import Sample
from xpsr.data.seeding import chance, generator_for, randint
from xpsr.errors import InputError, TrainingError
from xpsr.files import by_stem, find_images, pair_images, partner, read_bytes
from xpsr.image import decode_rgb, picture_size
from xpsr.jsonl import read_lines
from xpsr.prior import Prior, quality_text

__all__ = [
    "FolderStore",
    "PairDataset",
    "PairStore",
    "StoredPair",
    "check_ratio",
    "cut_pair",
    "find_teachers",
    "priors_of",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredPair:
    """The bytes of picture files, and what is said of them; `name` is for messages, `teacher` is empty for none."""

    name: str
    hr: bytes
    lr: bytes
    teacher: bytes
    texts: Texts


class PairStore(Protocol):
    """Pairs by number, from 0 to `len` - 1; `name` is for messages."""

    name: str

    def __len__(self) -> int: ...

    def read(self, number: int) -> StoredPair:
        """Returns one pair; raises InputError where it cannot be read."""

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Returns int64 (len,): all numbers in an order that the generator draws."""


class PairDataset(Dataset[Sample]):
    """Endless crops of the pairs in a store; every pair once an epoch, in another order each time.

    A pair that cannot be read, or that is flat everywhere, is told once, and another one is drawn instead.

    Raises:
        TrainingError: from a sample: a pair that is not exactly `scale` : 1, or hardly any pair can be used.
    """

    def __init__(self, store: PairStore, config: DataConfig, *, seed: int):
        self.store, self.config, self.seed = store, config, seed
        self._unreadable: set[int] = set()
        self._told: dict[int, str] = {}
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))

    def __getitem__(self, index: int) -> Sample:
        generator = generator_for(self.seed, index)
        epoch, place = divmod(index, len(self.store))
        if self._order[0] != epoch:
            self._order = (epoch, self.store.order(generator_for(self.seed, epoch, 4)))
        number = int(self._order[1][place])
        for _ in range(PICTURE_ATTEMPTS):
            found = self._cut(number, generator)
            if found is not None:
                break
            problem = self._told[number]
            number = randint(len(self.store), generator)
        else:
            raise none_usable(self.store.name, "pairs", problem)
        (hr, *taught), lr, texts = found
        turns, others = randint(8, generator), generator_for(self.seed, index, 2)
        is_clean = chance(self.config.clean_condition_probability, generator_for(self.seed, index, 3))
        quality = (texts.clean_quality or quality_text(CLEAN)) if is_clean else self._quality(texts, others)
        prior = Prior(texts.content, quality)
        return Sample(
            hr=as_tensor(turn(hr, turns)),
            lr=as_tensor(turn(lr, turns)),
            prior=prior,
            index=index,
            is_clean=is_clean,
            # what it made of LR is nothing to make of HR
            teacher=None if is_clean or not taught else as_tensor(turn(taught[0], turns)),
        )

    def _cut(self, number: int, generator: torch.Generator) -> tuple[list[Pixels], Pixels, Texts] | None:
        """Returns windows of HR and, where there is one, of the teacher's picture, and that of LR."""
        if number in self._unreadable:
            return None
        config = self.config
        try:
            pair = self.store.read(number)
            hr, lr = decode_rgb(pair.hr, f"{pair.name} (hr)"), decode_rgb(pair.lr, f"{pair.name} (lr)")
            check_ratio(pair.name, hr.shape[1::-1], lr.shape[1::-1], config.scale)
            check_size(hr, config.min_size, pair.name)
            large = [hr]
            if pair.teacher:
                large.append(decode_rgb(pair.teacher, f"{pair.name} (teacher)"))
                check_ratio(f"{pair.name} (teacher)", large[1].shape[1::-1], lr.shape[1::-1], config.scale)
        except InputError as error:
            self._unreadable.add(number)
            self._tell(number, error)
            return None
        for _ in range(FLAT_ATTEMPTS):
            crops, small = cut_pair(large, lr, config.crop_size, config.scale, generator)
            if detail(crops[0]) >= config.min_detail or chance(config.flat_crop_probability, generator):
                return crops, small, pair.texts
        self._tell(number, flat(pair.name, config))  # and tried again: no sample depends on those before it
        return None

    def _tell(self, number: int, problem: InputError) -> None:
        if number not in self._told:
            self._told[number] = str(problem)
            logger.warning("%s It is passed over.", problem)

    def _quality(self, texts: Texts, generator: torch.Generator) -> str:
        source = self.config.quality_from
        if source == "prior" or (source == "auto" and texts.quality):
            return texts.quality
        if texts.levels is None:
            return ""
        return quality_text(misjudge(texts.levels, self.config.wrong_level_probability, generator))


class FolderStore:
    """Pairs in a folder: `hr/NAME.png` and `lr/NAME.png`, and `manifest.jsonl` where `make_pairs` made them.

    Without a manifest, every picture in `hr/` has a partner of its name, whatever it ends with, in `lr/`. In `teacher/`
    there may be one too.

    Raises:
        TrainingError: pictures of the manifest are missing, pairs are not exactly `scale` : 1, or have no prior and
            `config.require_priors`.
        InputError: there is no such folder, no pair in it, a picture without a partner, or a damaged line in the
            manifest or in the priors.
    """

    def __init__(self, folder: Path, config: DataConfig):
        self.name, self._folder = str(folder), folder
        for part in ("hr", "lr"):
            if not (folder / part).is_dir():
                raise InputError(
                    f"has no folder {part}",
                    code="not_found",
                    field="data.pairs",
                    value=str(folder),
                    remedy="make pairs of clean pictures first",
                )
        entries = [entry for _, entry in read_lines(folder / MANIFEST)] or [
            {"hr": f"hr/{hr.name}", "lr": f"lr/{lr.name}"} for hr, lr in pair_images(folder / "hr", folder / "lr")
        ]
        present = {f"{part}/{path.name}" for part in ("hr", "lr") for path in (folder / part).iterdir()}
        named = [str(entry.get(part)) for entry in entries for part in ("hr", "lr")]  # a manifest may hold anything
        missing = [name for name in named if name not in present]
        if missing:
            raise TrainingError(
                f"{folder}: {len(missing)} pictures of {len(entries)} pairs are missing, first {missing[0]}",
                code="not_found",
                remedy="make the pairs again",
            )
        for entry in entries:
            hr, lr = (_size(folder / entry[part], entry.get(f"{part}_size")) for part in ("hr", "lr"))
            if hr and lr:
                check_ratio(str(folder / entry["hr"]), hr, lr, config.scale)
        table = None if config.priors is None else PriorTable(config.priors, folder)
        found = [priors_of(table, entry, folder) for entry in entries]
        if table is not None and config.priors is not None:
            without = [entry["lr"] for entry, priors in zip(entries, found, strict=True) if priors == (None, None)]
            report_missing(config.priors, without, len(entries), required=config.require_priors)
        self._pairs = [
            (entry["hr"], entry["lr"], Texts.of(entry, f"{folder / MANIFEST}, {entry['hr']}", *priors))
            for entry, priors in zip(entries, found, strict=True)
        ]
        self._teachers = find_teachers(folder)
        for hr, _, _ in self._pairs:
            if (candidates := self._teachers.get(Path(hr).stem)) is not None:
                partner(folder / hr, candidates, folder / TEACHER)
        if config.quality_from == "degradation" and any(texts.levels is None for _, _, texts in self._pairs):
            raise TrainingError(
                f"needs the levels of a {MANIFEST} in {folder}",
                field="data.quality_from",
                value="degradation",
                remedy="use prior",
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, number: int) -> StoredPair:
        """Returns one pair.

        Raises:
            InputError: a file cannot be read.
        """
        hr, lr, texts = self._pairs[number]
        teacher = self._teachers.get(Path(hr).stem)
        return StoredPair(
            str(self._folder / hr),
            read_bytes(self._folder / hr),
            read_bytes(self._folder / lr),
            read_bytes(teacher[0]) if teacher else b"",
            texts,
        )

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Returns int64 (len,): all numbers, shuffled."""
        return torch.randperm(len(self), generator=generator)


def find_teachers(folder: Path) -> dict[str, list[Path]]:
    """Returns the pictures of a folder of pairs that a teacher made, by their names without suffix.

    Raises:
        InputError: their folder cannot be listed.
    """
    return by_stem(find_images(folder / TEACHER)) if (folder / TEACHER).is_dir() else {}


def check_ratio(name: str, hr: tuple[int, ...], lr: tuple[int, ...], scale: int) -> None:
    """Refuses a pair of which HR is not exactly `scale` times as wide and high as LR.

    Raises:
        TrainingError: it is not.
    """
    if hr != (lr[0] * scale, lr[1] * scale):
        raise TrainingError(
            f"{name}: {hr[0]} x {hr[1]} pixels with an LR of {lr[0]} x {lr[1]} is not exactly {scale} : 1",
            code="mismatched",
            remedy="make the pair again",
        )


def cut_pair(
    large: Sequence[Pixels], lr: Pixels, size: int, scale: int, generator: torch.Generator
) -> tuple[list[Pixels], Pixels]:
    """Cuts the same random window of all: of large ones (size, size, 3) and of LR (size / scale, size / scale, 3).

    What is smaller is continued by reflection. The edge is repeated, so that all stay in register.
    """
    small = size // scale
    down, right = max(small - lr.shape[0], 0), max(small - lr.shape[1], 0)
    if down or right:
        lr = cv2.copyMakeBorder(lr, 0, down, 0, right, cv2.BORDER_REFLECT)
        large = [cv2.copyMakeBorder(p, 0, down * scale, 0, right * scale, cv2.BORDER_REFLECT) for p in large]
    top, left = randint(lr.shape[0] - small + 1, generator), randint(lr.shape[1] - small + 1, generator)
    y, x = top * scale, left * scale
    return [p[y : y + size, x : x + size] for p in large], lr[top : top + small, left : left + small]


def priors_of(
    table: PriorTable | None, entry: dict[str, Any], folder: Path | None
) -> tuple[Prior | None, Prior | None]:
    """Returns the priors of LR and HR, of HR by those of the picture that it was made of where there is no other.

    That picture's path is relative to the folder of clean pictures, as those of its priors may be.
    """
    if table is None:
        return None, None
    place = {part: None if folder is None else folder / entry[part] for part in ("lr", "hr")}
    lr = table.find(place["lr"], entry.get("lr_sha256"))
    source = (folder or Path()) / entry["source"] if isinstance(entry.get("source"), str) else None
    hr = table.find(place["hr"], entry.get("hr_sha256")) or table.find(source, entry.get("source_sha256"))
    return lr, hr


def _size(path: Path, told: Any) -> tuple[int, int] | None:
    """Returns width and height, as the manifest tells or the file; None of one that cannot be read."""
    match told:
        case [int(width), int(height)]:
            return width, height
    try:
        return picture_size(path)
    except InputError:  # it is passed over when its turn comes
        return None
