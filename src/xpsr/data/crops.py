"""Crops of clean pictures, degraded on the fly, with their two texts.

Sample `i` of a dataset depends on the seed and on `i` alone, so a run can stop and go on anywhere, and any number of
workers draws the same samples.
"""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from xpsr.config import DataConfig, PairsConfig
from xpsr.data.photos import Photo, list_photos
from xpsr.data.pictures import Pictures, Pixels, as_tensor, detail, draw_crop, turn
from xpsr.data.samples import Sample
from xpsr.data.seeding import chance, generator_for, randint, uniform
from xpsr.degradation import Degraded, degrade
from xpsr.errors import InputError, TrainingError
from xpsr.prior import Level, Levels, Prior, quality_text

__all__ = ["CLEAN", "CropDataset", "flat", "levels", "misjudge", "none_usable"]

logger = logging.getLogger(__name__)

CLEAN = Levels(blur="clean", noise="clean", compression="clean")
FLAT_ATTEMPTS = 100  # crops of one picture; the chance that all of them are flat by mistake is below 1e-12
PICTURE_ATTEMPTS = 50


class CropDataset(Dataset[Sample]):
    """Endless crops of the pictures of `config`, each degraded anew.

    A picture that cannot be used, or that is flat everywhere, is told once, and another one is drawn instead.

    Raises:
        InputError, TrainingError: see `list_photos`; also from a sample, where hardly any picture can be used.
    """

    def __init__(self, config: DataConfig, *, seed: int):
        self.config, self.seed, self.photos = config, seed, list_photos(config)
        self._pictures = Pictures(min_size=config.min_size)
        self._flat: dict[Path, str] = {}

    def __getitem__(self, index: int) -> Sample:
        config, generator = self.config, generator_for(self.seed, index)
        photo, hr = self._draw_crop(generator)
        hr = turn(hr, randint(8, generator))
        start = generator.get_state()
        degraded = degrade(hr, config.degradation, generator, scale=config.scale)
        others = generator_for(self.seed, index, 2)  # draws that leave those above as they are
        clean = [fault for fault in ("blur", "noise") if getattr(levels(degraded), fault) == "clean"]
        if clean and chance(config.kept_fault_probability, others):
            hr = _with_fault(hr, clean[randint(len(clean), others)], others)
            generator.set_state(start)
            degraded = degrade(hr, config.degradation, generator, scale=config.scale)
        quality = quality_text(misjudge(levels(degraded), config.wrong_level_probability, others))
        is_clean = chance(config.clean_condition_probability, generator_for(self.seed, index, 3))
        if is_clean:
            quality = photo.quality or quality_text(CLEAN)
        return Sample(as_tensor(hr), as_tensor(degraded.image), Prior(photo.content, quality), index, is_clean)

    def _draw_crop(self, generator: torch.Generator) -> tuple[Photo, Pixels]:
        for _ in range(PICTURE_ATTEMPTS):
            photo = self.photos[randint(len(self.photos), generator)]
            picture = self._pictures.read(photo.path)
            if picture is None:
                continue
            for _ in range(FLAT_ATTEMPTS):
                hr, _, _ = draw_crop(picture, self.config.crop_size, self.config.crop_scales, generator)
                if detail(hr) >= self.config.min_detail or chance(self.config.flat_crop_probability, generator):
                    return photo, hr
            # told once, and yet tried again: no sample depends on those before it
            if photo.path not in self._flat:
                self._flat[photo.path] = str(flat(str(photo.path), self.config))
                logger.warning("%s It is passed over.", self._flat[photo.path])
        problem = self._pictures.unusable.get(photo.path) or self._flat[photo.path]
        raise none_usable(str(self.config.hr_dir), "pictures", problem)


def flat(name: str, config: DataConfig | PairsConfig) -> InputError:
    """Returns the error to raise for a picture, called `name`, of which many crops were flat."""
    return InputError(f"{name}: no crop of it has the detail of min_detail={config.min_detail:g}.", code="flat")


def none_usable(place: str, things: str, problem: str) -> TrainingError:
    """Returns the error to raise where none of many `things` in a row can be used, the last because of `problem`."""
    return TrainingError(
        f"{place}: of {PICTURE_ATTEMPTS} {things} in a row none can be used, the last because: {problem.rstrip('.')}",
        code="none_usable",
        remedy="check the folder for what is wrong with the others",
    )


def levels(degraded: Degraded) -> Levels:
    """Returns what a viewer would call the degradation."""

    def level(value: float, slight: float, strong: float) -> Level:
        return "clean" if value < slight else "slight" if value < strong else "strong"

    return Levels(
        blur=level(degraded.blur, 0.25, 0.45),
        noise=level(degraded.noise, 1.5, 5),
        compression=level(100 - degraded.jpeg_quality, 8.5, 25.5),
    )


def misjudge(told: Levels, probability: float, generator: torch.Generator) -> Levels:
    """Returns levels of which each is one off with that probability, as a describer's may be."""
    for fault in (f.name for f in fields(Levels)):
        if chance(probability, generator):
            told = replace(told, **{fault: _neighbour(getattr(told, fault), generator)})
    return told


def _with_fault(hr: Pixels, fault: str, generator: torch.Generator) -> Pixels:
    """Makes a picture blurry or grainy by intent: what the text does not call a fault is to stay."""
    if fault == "blur":
        sigma = 6.0 + 4.0 * uniform(generator)  # less is hardly seen after the reduction, and would only soften
        return cv2.GaussianBlur(hr, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    height, width = hr.shape[:2]
    grain = 1.5 + 2.5 * uniform(generator)  # pixels; finer grain does not survive the reduction
    amount, channels = 4 + 18 * uniform(generator), 1 if chance(0.5, generator) else 3
    coarse = torch.randn(round(height / grain), round(width / grain), channels, generator=generator).numpy() * amount
    noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return np.clip(np.round(hr + noise), 0, 255).astype(np.uint8)


def _neighbour(level: Level, generator: torch.Generator) -> Level:
    names: tuple[Level, ...] = get_args(Level)
    place = names.index(level) + (1 if chance(0.5, generator) else -1)
    return names[min(max(place, 0), len(names) - 1)]
