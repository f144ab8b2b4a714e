"""What models are told: true, described, swapped and no texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from suite_helpers import QUALITIES, write_pictures

from xpsr.benchmark import PictureSet, SetTexts, open_set, swap
from xpsr.config import MethodConfig, SetConfig, TextsConfig
from xpsr.errors import InputError
from xpsr.prior import PriorFile

CLEAN = {"blur": "clean", "noise": "clean", "compression": "clean"}
NAMES = ("a", "b", "c", "d")


def texts_of(pictures: PictureSet, tmp_path: Path, seed: int = 0) -> SetTexts:
    return SetTexts(pictures, seed=seed, kept=PriorFile(tmp_path / "described.jsonl"), device="cpu")


def asking(content: Any, quality: Any) -> MethodConfig:
    return MethodConfig(name="m", model="mini", texts=TextsConfig(content=content, quality=quality))


@pytest.fixture
def pictures(tmp_path: Path) -> PictureSet:
    """Four pictures with texts of their own, all of one quality whose levels are known."""
    folder = write_pictures(tmp_path / "pictures", NAMES, side=32)
    lines = [
        {
            "image": f"lr/{name}.png",
            "content": f"a photograph of {name}",
            "quality": QUALITIES["clean"],
            "levels": CLEAN,
        }
        for name in NAMES
    ]
    (folder / "priors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_set(SetConfig(name="few", folder=folder, priors=folder / "priors.jsonl"))


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=30), st.integers(0, 2**32))
def test_swapped_is_a_derangement_to_other_texts_where_there_is_one(texts: list[str], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    if 2 * max(map(texts.count, texts)) > len(texts):
        with pytest.raises(InputError, match="texts are the same"):
            swap(texts, generator)
        return
    others = swap(texts, generator)
    assert sorted(others) == list(range(len(texts)))
    assert all(texts[place] != texts[other] for place, other in enumerate(others))


def test_true_texts_are_those_of_the_file_and_none_are_empty(pictures: PictureSet, tmp_path: Path) -> None:
    priors = texts_of(pictures, tmp_path).priors(asking("true", "none"))
    assert [(prior.content, prior.quality) for prior in priors] == [(f"a photograph of {name}", "") for name in NAMES]


def test_swapped_content_is_that_of_another_and_quality_the_opposite(pictures: PictureSet, tmp_path: Path) -> None:
    priors = texts_of(pictures, tmp_path).priors(asking("swapped", "swapped"))
    assert sorted(prior.content for prior in priors) == [f"a photograph of {name}" for name in NAMES]
    assert all(prior.content != f"a photograph of {name}" for name, prior in zip(NAMES, priors, strict=True))
    assert {prior.quality for prior in priors} == {QUALITIES["strong"]}
    assert texts_of(pictures, tmp_path).priors(asking("swapped", "swapped")) == priors
    others = [texts_of(pictures, tmp_path, seed).priors(asking("swapped", "none")) for seed in range(8)]
    assert any(other != others[0] for other in others)


def test_pictures_are_described_once(pictures: PictureSet, tmp_path: Path) -> None:
    texts, kept = texts_of(pictures, tmp_path), tmp_path / "described.jsonl"
    priors = texts.priors(asking("described", "described"))
    assert all(prior.quality for prior in priors)
    assert len(PriorFile(kept).read()) == len(NAMES)
    kept.unlink()
    assert texts.priors(asking("none", "described"))[0].quality == priors[0].quality
    assert not kept.exists()  # nobody was asked again


def test_texts_that_are_missing_are_known_before_any_work(pictures: PictureSet, tmp_path: Path) -> None:
    bare = PictureSet(config=SetConfig(name="bare", folder=pictures.config.folder), pairs=pictures.pairs)
    with pytest.raises(InputError, match="set bare: has no true texts, which m asks for"):
        texts_of(bare, tmp_path).check(asking("true", "none"))
    texts_of(bare, tmp_path).check(asking("swapped", "described"))
    assert not texts_of(bare, tmp_path).has(asking("by_hand", "none"))
    file = pictures.config.folder / "priors.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match=r"a\.png: .* says nothing about it"):
        texts_of(pictures, tmp_path).check(asking("true", "none"))


def test_texts_that_are_all_the_same_cannot_be_swapped(pictures: PictureSet, tmp_path: Path) -> None:
    file = pictures.config.folder / "priors.jsonl"
    file.write_text("".join(json.dumps({"image": f"lr/{name}.png", "quality": "good"}) + "\n" for name in NAMES))
    with pytest.raises(InputError, match="set few: quality cannot be swapped, as 4 of 4 texts are the same"):
        texts_of(pictures, tmp_path).check(asking("none", "swapped"))
