"""Crops, labels and batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xpsr.config import DataConfig, DegradationConfig
from xpsr.data import Collate, CropDataset, Sample, levels, list_photos
from xpsr.degradation import Degraded
from xpsr.errors import TrainingError
from xpsr.prior import Levels, quality_text
from xpsr.training import build_tokenizer


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index, (width, height) in enumerate([(80, 64), (48, 40), (20, 90)]):
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (tmp_path / "pack").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pack" / f"p{index}.png")
    (tmp_path / "manifest.tsv").write_bytes(
        b"package\tfile\tlabel\r\npack\tp0.png\tMoose\r\npack\tp1.png\t\r\npack\tp2.png\tsea\r\n"
    )
    return tmp_path


def config(photos: Path, **changes: object) -> DataConfig:
    return DataConfig(**({"hr_dir": photos, "manifest": photos / "manifest.tsv", "crop_size": 32} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer(Path(__file__).parents[1] / "data" / "vocabulary.txt", 600)


def same(a: Sample, b: Sample) -> bool:
    return torch.equal(a.hr, b.hr) and torch.equal(a.lr, b.lr) and a.prior == b.prior


def test_the_manifest_gives_labels_and_the_excluded_are_left_out(photos: Path) -> None:
    assert [(photo.path.name, photo.content) for photo in list_photos(config(photos, exclude=("p1.png",)))] == [
        ("p0.png", "moose"),
        ("p2.png", "sea"),
    ]
    assert len(list_photos(config(photos, manifest=None))) == 3


def test_sample_depends_on_seed_and_index_alone(photos: Path) -> None:
    one, other = CropDataset(config(photos), seed=1), CropDataset(config(photos), seed=1)
    backwards = [one[index] for index in reversed(range(12))][::-1]
    assert all(same(a, other[index]) for index, a in enumerate(backwards))
    assert not all(same(a, CropDataset(config(photos), seed=2)[index]) for index, a in enumerate(backwards))


def test_samples_have_one_size_even_where_the_picture_is_smaller(photos: Path) -> None:
    dataset = CropDataset(config(photos), seed=0)
    for index in range(12):
        sample = dataset[index]
        assert sample.hr.shape == (3, 32, 32)
        assert sample.lr.shape == (3, 8, 8)
        assert sample.hr.dtype == sample.lr.dtype == torch.uint8
        assert sample.prior.content in ("moose", "", "sea")
        assert sample.prior.quality.startswith("a ")


def test_lr_shows_the_same_crop_as_hr(photos: Path) -> None:
    dataset = CropDataset(config(photos, degradation=DegradationConfig(plain_probability=1)), seed=0)
    sample = dataset[3]
    blocks = sample.hr.float().unflatten(2, (8, 4)).unflatten(1, (8, 4)).mean((2, 4))
    assert (sample.lr.float() - blocks).abs().max() <= 1


def test_batch_is_float_in_unit_range_with_both_texts(photos: Path, tokenizer: Any) -> None:
    dataset = CropDataset(config(photos), seed=0)
    batch = Collate(tokenizer)([dataset[0], dataset[1]])
    assert batch.hr.shape == (2, 3, 32, 32)
    assert batch.hr.dtype == torch.float32
    assert batch.lr.min() >= 0 and batch.lr.max() <= 1
    assert batch.content_ids.shape == batch.quality_ids.shape == (2, 77)
    for ids, texts in ((batch.content_ids, "content"), (batch.quality_ids, "quality")):
        told = tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert [text.strip() for text in told] == [getattr(dataset[i].prior, texts) for i in (0, 1)]


def test_levels_follow_blur_noise_and_quality() -> None:
    empty = np.zeros((1, 1, 3), np.uint8)
    assert levels(Degraded(empty)) == Levels(blur="clean", noise="clean", compression="clean")
    assert levels(Degraded(empty, [], 0.3, 4.9, 80)) == Levels(blur="slight", noise="slight", compression="slight")
    assert levels(Degraded(empty, [], 0.5, 9, 40)) == Levels(blur="strong", noise="strong", compression="strong")


def test_every_combination_of_levels_has_its_own_sentence() -> None:
    steps = ("clean", "slight", "strong")
    texts = {quality_text(Levels(blur=b, noise=n, compression=c)) for b in steps for n in steps for c in steps}
    assert len(texts) == 27
    assert "a very blurry photograph with no noise and slight compression artifacts" in texts


def test_missing_files_and_empty_folders_are_named(photos: Path, tmp_path: Path) -> None:
    (photos / "pack" / "p2.png").unlink()
    with pytest.raises(TrainingError, match=r"1 of 3 files are missing, first .*p2\.png"):
        list_photos(config(photos))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="holds no pictures"):
        list_photos(DataConfig(hr_dir=tmp_path / "empty"))
    with pytest.raises(TrainingError, match="no such folder"):
        list_photos(DataConfig(hr_dir=tmp_path / "nowhere"))
