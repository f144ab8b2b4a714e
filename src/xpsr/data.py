"""Training pairs: crops of clean pictures, degraded on the fly, with their two texts.

Sample `i` of a dataset depends on the seed and on `i` alone, so a run can stop and go on anywhere, and any number of
workers draws the same samples.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from xpsr.config import DataConfig
from xpsr.degradation import Degraded, degrade
from xpsr.errors import TrainingError
from xpsr.image import IMAGE_SUFFIXES
from xpsr.prior import Level, Levels, Prior, quality_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Batch", "Collate", "CropDataset", "Sample", "SequentialFrom", "generator_for", "levels", "list_photos"]

_CACHED_PICTURES = 2048  # decoded, about 0.8 MB each


@dataclass(frozen=True)
class Sample:
    """One pair: `hr` uint8 (3, S, S), `lr` uint8 (3, S/scale, S/scale), both RGB, and what is said of them."""

    hr: torch.Tensor
    lr: torch.Tensor
    prior: Prior
    index: int = 0
    is_clean: bool = False


@dataclass(frozen=True)
class Batch:
    """`hr` (B, 3, S, S) and `lr` (B, 3, S/scale, S/scale), float32 in [0, 1]; token ids of the texts, int64 (B, N).

    Where `is_clean`, bool (B,), the condition is `hr` itself instead of the enlarged `lr`. `indices`, int64 (B,), are
    the numbers of the samples.
    """

    hr: torch.Tensor
    lr: torch.Tensor
    content_ids: torch.Tensor
    quality_ids: torch.Tensor
    is_clean: torch.Tensor
    indices: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def pin_memory(self) -> "Batch":
        """The same batch in pinned memory; the loader calls this."""
        return Batch(*(getattr(self, f.name).pin_memory() for f in fields(self)))


def list_photos(config: DataConfig) -> list[tuple[Path, str]]:
    """Every training picture with its label, which may be empty.

    Raises:
        TrainingError: there is no picture, or the manifest names files that are missing.
    """
    if not config.hr_dir.is_dir():
        raise TrainingError(f"{config.hr_dir}: no such folder; set data.hr_dir or run scripts/fetch_photos.py.")
    if config.manifest is None:
        photos = [(p, "") for p in sorted(config.hr_dir.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
    else:
        with config.manifest.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        photos = [(config.hr_dir / row["package"] / row["file"], (row["label"] or "").strip().lower()) for row in rows]
        missing = [path for path, _ in photos if not path.is_file()]
        if missing:
            count = f"{len(missing)} of {len(photos)} files are missing"
            raise TrainingError(f"{config.manifest}: {count}, first {missing[0]}; run scripts/fetch_photos.py.")
    photos = [(path, label) for path, label in photos if path.name not in config.exclude]
    if not photos:
        raise TrainingError(f"{config.hr_dir}: holds no pictures to train on.")
    return photos


class CropDataset(Dataset[Sample]):
    """Endless crops of the pictures of `config`, each degraded anew."""

    def __init__(self, config: DataConfig, *, seed: int):
        self.config, self.seed, self.photos = config, seed, list_photos(config)

    def __getitem__(self, index: int) -> Sample:
        generator = generator_for(self.seed, index)
        size, scale = self.config.crop_size, self.config.scale
        path, label = self.photos[_randint(len(self.photos), generator)]
        picture = _read(path)
        fitting = [s for s in self.config.crop_scales if min(picture.shape[:2]) >= round(size / s)]
        reduction = fitting[_randint(len(fitting), generator)] if fitting else 1.0
        hr = _crop(picture, round(size / reduction), generator)
        if hr.shape[0] != size:
            hr = cv2.resize(hr, (size, size), interpolation=cv2.INTER_AREA)
        turns = _randint(8, generator)
        hr = np.rot90(hr[:, ::-1] if turns >= 4 else hr, turns % 4)
        degraded = degrade(np.ascontiguousarray(hr), self.config.degradation, generator, scale=scale)
        prior = Prior(label, quality_text(levels(degraded)))
        return Sample(_as_tensor(hr), _as_tensor(degraded.image), prior, index)


class SequentialFrom(Sampler[int]):
    """Indices start, start + 1, …, stop - 1."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


class Collate:
    """Makes a `Batch` of samples; every text is cut or padded to the tokenizer's length."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self.tokenizer = tokenizer

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        return Batch(
            hr=torch.stack([s.hr for s in samples]).float() / 255,
            lr=torch.stack([s.lr for s in samples]).float() / 255,
            content_ids=self._ids([s.prior.content for s in samples]),
            quality_ids=self._ids([s.prior.quality for s in samples]),
            is_clean=torch.tensor([s.is_clean for s in samples]),
            indices=torch.tensor([s.index for s in samples]),
        )

    def _ids(self, texts: list[str]) -> torch.Tensor:
        return self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def generator_for(*keys: int) -> torch.Generator:
    """A CPU generator of its own for every combination of keys.

    torch seeds its CPU generator with the low 32 bits of what it is given, so keys are hashed, not shifted together.
    """
    digest = hashlib.blake2b(",".join(map(str, keys)).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def levels(degraded: Degraded) -> Levels:
    """What a viewer would call the degradation."""

    def level(value: float, slight: float, strong: float) -> Level:
        return "clean" if value < slight else "slight" if value < strong else "strong"

    return Levels(
        blur=level(degraded.blur, 0.25, 0.45),
        noise=level(degraded.noise, 1.5, 5),
        compression=level(100 - degraded.jpeg_quality, 8.5, 25.5),
    )


def _randint(stop: int, generator: torch.Generator) -> int:
    return int(torch.randint(stop, (), generator=generator))


@lru_cache(maxsize=_CACHED_PICTURES)
def _read(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise TrainingError(f"{path}: not a picture that can be read; take it out of the folder or the manifest.")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _crop(picture: np.ndarray, size: int, generator: torch.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    if height < size or width < size:
        bottom, right = max(size - height, 0), max(size - width, 0)
        picture = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
        height, width = picture.shape[:2]
    top, left = _randint(height - size + 1, generator), _randint(width - size + 1, generator)
    return picture[top : top + size, left : left + size]


def _as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
