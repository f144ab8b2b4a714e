"""Pairs that were stored: crops of them with their texts. Where they are stored is the store's business.

An epoch shows every pair once. Sample `i` depends on the seed and on `i` alone.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch
from torch.utils.data import Dataset

from xpsr.config import DataConfig
from xpsr.data.crops import CLEAN, FLAT_ATTEMPTS, PICTURE_ATTEMPTS, misjudge
from xpsr.data.manifest import MANIFEST, Texts, read_lines
from xpsr.data.photos import PriorTable, report_missing
from xpsr.data.pictures import Pixels, as_tensor, detail, read_bytes, turn
from xpsr.data.samples import Sample
from xpsr.data.seeding import chance, generator_for, randint
from xpsr.errors import InputError, TrainingError
from xpsr.files import IMAGE_SUFFIXES
from xpsr.image import decode_rgb, picture_size
from xpsr.prior import Prior, quality_text

__all__ = ["FolderStore", "PairDataset", "PairStore", "StoredPair", "check_ratio", "cut_pair", "priors_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredPair:
    """The bytes of two picture files, and what is said of them; `name` is for messages."""

    name: str
    hr: bytes
    lr: bytes
    texts: Texts


class PairStore(Protocol):
    """Pairs by number, from 0 to `len` - 1; `name` is for messages."""

    name: str

    def __len__(self) -> int: ...

    def read(self, number: int) -> StoredPair:
        """One pair; raises InputError where it cannot be read."""

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """int64 (len,): all numbers in an order that the generator draws."""


class PairDataset(Dataset[Sample]):
    """Endless crops of the pairs in a store; every pair once an epoch, in another order each time.

    A pair that cannot be read, or that is flat everywhere, is told once, and another one is drawn instead.

    Raises:
        TrainingError: from a sample: a pair that is not exactly `scale` : 1, or hardly any pair can be used.
    """

    def __init__(self, store: PairStore, config: DataConfig, *, seed: int):
        self.store, self.config, self.seed = store, config, seed
        self._unusable: dict[int, str] = {}
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
            problem = self._unusable[number]
            number = randint(len(self.store), generator)
        else:
            raise TrainingError(
                f"{self.store.name}: of {PICTURE_ATTEMPTS} pairs in a row none can be used, the last because: {problem}"
                " See xpsr data check."
            )
        hr, lr, texts = found
        turns, others = randint(8, generator), generator_for(self.seed, index, 2)
        is_clean = chance(self.config.clean_condition_probability, generator_for(self.seed, index, 3))
        quality = (texts.clean_quality or quality_text(CLEAN)) if is_clean else self._quality(texts, others)
        prior = Prior(texts.content, quality)
        return Sample(as_tensor(turn(hr, turns)), as_tensor(turn(lr, turns)), prior, index, is_clean)

    def _cut(self, number: int, generator: torch.Generator) -> tuple[Pixels, Pixels, Texts] | None:
        if number in self._unusable:
            return None
        config = self.config
        try:
            pair = self.store.read(number)
            hr, lr = decode_rgb(pair.hr, f"{pair.name} (hr)"), decode_rgb(pair.lr, f"{pair.name} (lr)")
            check_ratio(pair.name, (hr.shape[1], hr.shape[0]), (lr.shape[1], lr.shape[0]), config.scale)
            if min(hr.shape[:2]) < config.min_size:
                size = f"{hr.shape[1]} x {hr.shape[0]} pixels"
                raise InputError(f"{pair.name}: has {size}, a side below min_size={config.min_size}.")
            for _ in range(FLAT_ATTEMPTS):
                crops = cut_pair(hr, lr, config.crop_size, config.scale, generator)
                if detail(crops[0]) >= config.min_detail or chance(config.flat_crop_probability, generator):
                    return *crops, pair.texts
            raise InputError(f"{pair.name}: no crop of it has the detail of min_detail={config.min_detail:g}.")
        except InputError as error:
            self._unusable[number] = str(error)
            logger.warning("%s It is passed over.", error)
            return None

    def _quality(self, texts: Texts, generator: torch.Generator) -> str:
        source = self.config.quality_from
        if source == "prior" or (source == "auto" and texts.quality):
            return texts.quality
        if texts.levels is None:
            return ""
        return quality_text(misjudge(texts.levels, self.config.wrong_level_probability, generator))


class FolderStore:
    """Pairs in a folder: `hr/NAME.png` and `lr/NAME.png`, and `manifest.jsonl` where `xpsr degrade` made them.

    Without a manifest, every picture in `hr/` has a partner of its name, whatever it ends with, in `lr/`.

    Raises:
        TrainingError: no pairs, pictures without a partner, pairs that are not exactly `scale` : 1, or pairs without a
            prior and `config.require_priors`.
        InputError: there is no such folder, or a damaged line in the manifest or in the priors.
    """

    def __init__(self, folder: Path, config: DataConfig):
        self.name, self._folder = str(folder), folder
        for part in ("hr", "lr"):
            if not (folder / part).is_dir():
                raise InputError(f"data.pairs={folder} has no folder {part}; make pairs with xpsr degrade.")
        entries = read_lines(folder / MANIFEST) or _list_pairs(folder)
        if not entries:
            raise TrainingError(f"{folder}: holds no pairs; make some with xpsr degrade.")
        present = {f"{part}/{path.name}" for part in ("hr", "lr") for path in (folder / part).iterdir()}
        missing = [f"{entry.get(p)}" for entry in entries for p in ("hr", "lr") if entry.get(p) not in present]
        if missing:
            raise TrainingError(
                f"{folder}: {len(missing)} pictures of {len(entries)} pairs are missing, first {missing[0]}; run the"
                " same xpsr degrade again."
            )
        for entry in entries:
            hr, lr = (entry.get(f"{part}_size") or _size(folder / entry[part]) for part in ("hr", "lr"))
            if hr and lr:
                check_ratio(str(folder / entry["hr"]), tuple(hr), tuple(lr), config.scale)
        table = None if config.priors is None else PriorTable(config.priors, folder)
        found = [priors_of(table, entry, folder) for entry in entries]
        if table is not None and config.priors is not None:
            without = [entry["lr"] for entry, priors in zip(entries, found, strict=True) if priors == (None, None)]
            report_missing(config.priors, without, len(entries), required=config.require_priors)
        self._pairs = [
            (entry["hr"], entry["lr"], Texts.of(entry, *priors)) for entry, priors in zip(entries, found, strict=True)
        ]
        if config.quality_from == "degradation" and any(texts.levels is None for _, _, texts in self._pairs):
            raise TrainingError(f"{folder}: quality_from=degradation needs the levels of a {MANIFEST}; use prior.")

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, number: int) -> StoredPair:
        """One pair.

        Raises:
            InputError: a file cannot be read.
        """
        hr, lr, texts = self._pairs[number]
        return StoredPair(str(self._folder / hr), read_bytes(self._folder / hr), read_bytes(self._folder / lr), texts)

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """int64 (len,): all numbers, shuffled."""
        return torch.randperm(len(self), generator=generator)


def check_ratio(name: str, hr: tuple[int, int], lr: tuple[int, int], scale: int) -> None:
    """Refuses a pair of which HR is not exactly `scale` times as wide and high as LR.

    Raises:
        TrainingError: it is not.
    """
    if hr != (lr[0] * scale, lr[1] * scale):
        raise TrainingError(
            f"{name}: {hr[0]} x {hr[1]} pixels with an LR of {lr[0]} x {lr[1]} is not exactly {scale} : 1; make the"
            " pair again with xpsr degrade."
        )


def cut_pair(hr: Pixels, lr: Pixels, size: int, scale: int, generator: torch.Generator) -> tuple[Pixels, Pixels]:
    """The same random window of both: HR (size, size, 3) and LR (size / scale, size / scale, 3).

    What is smaller is continued by reflection. The edge is repeated, so that both stay in register.
    """
    small = size // scale
    down, right = max(small - lr.shape[0], 0), max(small - lr.shape[1], 0)
    if down or right:
        lr = cv2.copyMakeBorder(lr, 0, down, 0, right, cv2.BORDER_REFLECT)
        hr = cv2.copyMakeBorder(hr, 0, down * scale, 0, right * scale, cv2.BORDER_REFLECT)
    top, left = randint(lr.shape[0] - small + 1, generator), randint(lr.shape[1] - small + 1, generator)
    y, x = top * scale, left * scale
    return hr[y : y + size, x : x + size], lr[top : top + small, left : left + small]


def priors_of(
    table: PriorTable | None, entry: dict[str, Any], folder: Path | None
) -> tuple[Prior | None, Prior | None]:
    """The priors of LR and HR, of HR by those of the picture that it was made of where there is no other."""
    if table is None:
        return None, None
    place = {part: None if folder is None else folder / entry[part] for part in ("lr", "hr")}
    lr = table.find(place["lr"], entry.get("lr_sha256"))
    return lr, table.find(place["hr"], entry.get("hr_sha256")) or table.find(None, entry.get("source_sha256"))


def _list_pairs(folder: Path) -> list[dict[str, Any]]:
    names: dict[str, dict[str, str]] = {"hr": {}, "lr": {}}
    for part, found in names.items():
        for path in sorted((folder / part).iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                found[path.stem] = f"{part}/{path.name}"
    alone = sorted(names["hr"].keys() ^ names["lr"].keys())
    if alone:
        raise TrainingError(f"{folder}: {len(alone)} pictures have no partner in hr or lr, first {alone[0]}.")
    return [{"hr": name, "lr": names["lr"][stem]} for stem, name in names["hr"].items()]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return picture_size(path)
    except InputError:  # it is passed over when its turn comes
        return None
