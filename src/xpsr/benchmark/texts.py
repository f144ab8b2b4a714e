"""What a model is told of each picture of a set: right texts, wrong ones, or none."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from xpsr.benchmark.suite import PictureSet
from xpsr.config import MethodConfig, TextSource
from xpsr.data import generator_for
from xpsr.errors import InputError
from xpsr.prior import (
    QUESTIONS,
    FileDescriber,
    Level,
    Levels,
    Prior,
    PriorFile,
    describe_files,
    is_asked,
    open_describer,
    quality_text,
)
from xpsr.prior.describers import released
from xpsr.prior.texts import Aspect

__all__ = ["SetTexts", "swap"]

_OPPOSITE: dict[Level, Level] = {"clean": "strong", "slight": "strong", "strong": "clean"}


def swap(texts: Sequence[str], generator: torch.Generator) -> list[int]:
    """Returns for each text the place of another one, which is not the same text; each place is taken once.

    Raises:
        InputError: more than half of the texts are the same, so that it cannot be.
    """
    order = torch.randperm(len(texts), generator=generator).tolist()
    alike: dict[str, list[int]] = defaultdict(list)
    for place in order:
        alike[texts[place]].append(place)
    largest = max(map(len, alike.values()), default=0)
    if 2 * largest > len(texts):
        said = f"{largest} of {len(texts)} texts are the same"
        raise InputError(said, code="no_swap", remedy="take a set of pictures that differ, or leave 'swapped' out")
    # groups of the same text stand together, and none is longer than the step, whichever way round
    row = [place for group in alike.values() for place in group]
    found = [0] * len(texts)
    for place, other in zip(row, row[largest:] + row[:largest], strict=True):
        found[place] = other
    return found


class SetTexts:
    """The texts of a set, asked for once and kept.

    Args:
        pictures: the set.
        seed: of who is swapped with whom.
        kept: where what describers say is kept.
        device: of a describer on this machine.
    """

    def __init__(self, pictures: PictureSet, *, seed: int, kept: PriorFile, device: str):
        self._set, self._seed, self._kept, self._device = pictures, seed, kept, device
        self._said: dict[str, list[Prior]] = {}

    def has(self, method: MethodConfig) -> bool:
        """Returns whether the set has the texts by hand that a method asks for, if it does."""
        sources = (method.texts.content, method.texts.quality)
        return "by_hand" not in sources or self._set.config.by_hand is not None

    def check(self, method: MethodConfig) -> None:
        """Refuses a method whose texts cannot be had from the set's files.

        Raises:
            InputError: the set has no true texts, lacks that of a picture, or they cannot be swapped.
        """
        if method.model is None or not self.has(method):
            return
        if "true" in (method.texts.content, method.texts.quality) and self._set.config.priors is None:
            message = f"set {self._set.name}: has no true texts, which {method.name} asks for"
            remedy = "name their JSONL as priors of the set, or leave the method out with --methods"
            raise InputError(message, code="no_prior", remedy=remedy)
        aspects: tuple[Aspect, Aspect] = ("content", "quality")
        for aspect in aspects:
            source: TextSource = getattr(method.texts, aspect)
            if source != "described" and (source != "swapped" or self._set.config.priors is not None):
                self._texts(method, aspect, source)

    def priors(self, method: MethodConfig) -> list[Prior]:
        """Returns what a model is told of each picture; where a describer is needed, it looks at all of them first.

        Raises:
            InputError: as `check`, or a picture cannot be described.
            ModelError: the describer cannot be loaded or reached, or fails.
        """
        contents = self._texts(method, "content", method.texts.content)
        qualities = self._texts(method, "quality", method.texts.quality)
        return [Prior(content, quality) for content, quality in zip(contents, qualities, strict=True)]

    def _texts(self, method: MethodConfig, aspect: Aspect, source: TextSource) -> list[str]:
        config = self._set.config
        if source == "none":
            return [""] * len(self._set.pairs)
        if source == "by_hand":
            assert config.by_hand is not None
            priors = self._written(config.by_hand)
        elif source == "true" or (source == "swapped" and config.priors is not None):
            assert config.priors is not None
            priors = self._written(config.priors)
        else:
            priors = self._described(method)
        texts = [getattr(prior, aspect) for prior in priors]
        if source != "swapped":
            return texts
        levels = [prior.levels for prior in priors]
        if aspect == "quality" and all(levels):
            return [quality_text(_opposite(one)) for one in levels if one is not None]
        try:
            others = swap(texts, generator_for(self._seed, self._set.name, aspect))
        except InputError as error:
            message = f"set {self._set.name}: {aspect} cannot be swapped, as {error.message}"
            raise InputError(message, code=error.code, remedy=error.remedy) from error
        return [texts[other] for other in others]

    def _written(self, path: Path) -> list[Prior]:
        key = f"file {path}"
        if key not in self._said:
            self._said[key] = FileDescriber(path).describe([pair.lr for pair in self._set.pairs])
        return self._said[key]

    def _described(self, method: MethodConfig) -> list[Prior]:
        questions = QUESTIONS[method.preset or "default"]
        key = f"{method.describer} {questions}"
        if key not in self._said:
            name = method.describer
            describer = open_describer(name, questions=questions if is_asked(name) else None, device=self._device)
            with released(describer):
                found = dict(describe_files(describer, [pair.lr for pair in self._set.pairs], self._kept))
            self._said[key] = [found[pair.lr] for pair in self._set.pairs]
        return self._said[key]


def _opposite(levels: Levels) -> Levels:
    """Strong where there is nothing or little, nothing where it is strong."""
    return Levels(blur=_OPPOSITE[levels.blur], noise=_OPPOSITE[levels.noise], compression=_OPPOSITE[levels.compression])
