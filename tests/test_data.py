"""Crops that are degraded on the fly, what is said of them, and who reads which sample."""

import json
import logging
import multiprocessing
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from xpsr.config import DataConfig, DegradationConfig, DegradationStage
from xpsr.data import Collate, CropDataset, Sample, build_dataset, build_loader, levels, list_photos
from xpsr.data.crops import CLEAN
from xpsr.data.loading import RankBatches
from xpsr.data.pictures import Pictures
from xpsr.degradation import Degraded
from xpsr.errors import InputError, TrainingError
from xpsr.files import sha256
from xpsr.prior import Level, Levels, quality_text
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
    return build_tokenizer(None, 600)


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
    with pytest.raises(InputError, match=r"data\.hr_dir=.*nowhere is no such folder"):
        list_photos(DataConfig(hr_dir=tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"data\.hr_dir=.*manifest\.tsv is a file, not a folder"):
        list_photos(DataConfig(hr_dir=photos / "manifest.tsv"))
    with pytest.raises(InputError, match=r"data\.manifest=.*gone\.tsv is not a file"):
        list_photos(config(photos, manifest=photos / "gone.tsv"))


def test_hidden_files_are_no_training_pictures(photos: Path) -> None:
    for name in ("._p0.png", ".thumbs/p0.png"):
        (photos / "pack" / name).parent.mkdir(exist_ok=True)
        (photos / "pack" / name).write_bytes((photos / "pack" / "p0.png").read_bytes())
    assert [photo.path.name for photo in list_photos(config(photos, manifest=None))] == ["p0.png", "p1.png", "p2.png"]


# What is wrong with a picture


MILD = DegradationConfig(plain_probability=1)  # adds no fault of its own


def faults(photos: Path, **changes: object) -> DataConfig:
    """Crops of a smooth picture, upright or turned, in which every fault would show."""
    y, x = np.mgrid[:64, :64].astype(np.float32)
    pixels = np.stack([128 + 100 * np.sin(x / 5 + c) * np.cos(y / 7 - c) for c in range(3)], -1)
    (photos / "smooth").mkdir(exist_ok=True)
    Image.fromarray(pixels.round().astype(np.uint8)).save(photos / "smooth" / "waves.png")
    return config(photos, hr_dir=photos / "smooth", manifest=None, crop_scales=(1.0,), crop_size=64, **changes)


def test_a_kept_fault_is_in_the_target_and_in_lr_but_not_in_the_text(photos: Path) -> None:
    plain = CropDataset(faults(photos, degradation=MILD), seed=3)
    kept = CropDataset(faults(photos, degradation=MILD, kept_fault_probability=1.0), seed=3)
    grainy = blurry = 0
    for index in range(24):
        photograph, sample = plain[index].hr.float(), kept[index]
        changed = (sample.hr.float() - photograph).abs().mean()
        assert changed > 0.5, "the target differs from the photograph"
        assert sample.prior.quality == quality_text(CLEAN), "the text says of no fault"
        lr = sample.hr.float().unflatten(2, (16, 4)).unflatten(1, (16, 4)).mean((2, 4))
        assert (sample.lr.float() - lr).abs().max() <= 1, "LR shows the target's fault"
        rough = [
            float(np.abs(cv2.Laplacian(t.permute(1, 2, 0).numpy(), cv2.CV_32F)).mean())
            for t in (photograph, sample.hr.float())
        ]
        grainy, blurry = grainy + (rough[1] > rough[0]), blurry + (rough[1] < rough[0])
    assert grainy and blurry, "both kinds occur"


def test_kept_faults_leave_alone_what_the_degradation_adds(photos: Path) -> None:
    noisy = DegradationStage(
        gaussian_noise_probability=1, gaussian_noise=(30, 30), blur_sigma=(3, 3), blur_probability=1
    )
    everything = DegradationConfig(first=noisy, second=noisy, sinc_probability=0, kernel_sizes=(21, 21))
    plain = CropDataset(faults(photos, degradation=everything), seed=3)
    kept = CropDataset(faults(photos, degradation=everything, kept_fault_probability=1.0), seed=3)
    seen = 0
    for index in range(8):
        if "no noise" not in plain[index].prior.quality and "sharp" not in plain[index].prior.quality:
            seen += 1
            assert same(plain[index], kept[index])
    assert seen


def test_no_kept_fault_and_no_wrong_level_change_nothing_else(photos: Path) -> None:
    plain = CropDataset(config(photos), seed=5)
    told = CropDataset(config(photos, wrong_level_probability=1.0), seed=5)
    for index in range(8):
        assert torch.equal(plain[index].hr, told[index].hr) and torch.equal(plain[index].lr, told[index].lr)


def test_a_wrong_level_is_one_off(photos: Path) -> None:
    names = get_args(Level)
    sentences = {
        quality_text(Levels(blur=b, noise=n, compression=c)): (b, n, c) for b in names for n in names for c in names
    }
    plain = CropDataset(config(photos), seed=5)
    told = CropDataset(config(photos, wrong_level_probability=1.0), seed=5)
    distances = set()
    for index in range(12):
        true, said = (sentences[dataset[index].prior.quality] for dataset in (plain, told))
        distances |= {abs(names.index(a) - names.index(b)) for a, b in zip(true, said, strict=True)}
    assert distances == {0, 1}  # 0 where a neighbour would lie beyond the ends
    never = CropDataset(config(photos, wrong_level_probability=0.0), seed=5)
    assert all(never[index].prior == plain[index].prior for index in range(4))


def test_a_clean_condition_has_the_quality_text_of_the_clean_picture(photos: Path) -> None:
    lines = [{"image": "pack/p0.png", "content": "x", "quality": "grainy film"}]
    (photos / "priors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {"clean_condition_probability": 0.5, "priors": photos / "priors.jsonl"}
    never = CropDataset(config(photos), seed=2)
    dataset = CropDataset(config(photos, **options), seed=2)
    samples = [dataset[index] for index in range(40)]
    assert 8 < sum(sample.is_clean for sample in samples) < 32
    for index, sample in enumerate(samples):
        assert torch.equal(sample.hr, never[index].hr) and torch.equal(sample.lr, never[index].lr)
        if sample.is_clean:
            expected = "grainy film" if sample.prior.content == "x" else quality_text(CLEAN)
            assert sample.prior.quality == expected
        else:
            assert sample.prior.quality == never[index].prior.quality


# What is passed over


def test_flat_crops_are_rejected_as_often_as_told(photos: Path) -> None:
    half = np.zeros((64, 256, 3), np.uint8)
    half[:, 128:] = np.random.default_rng(0).integers(0, 256, (64, 128, 3))
    (photos / "half").mkdir()
    Image.fromarray(half).save(photos / "half" / "half.png")
    options = {
        "hr_dir": photos / "half",
        "manifest": None,
        "crop_scales": (1.0,),
        "min_detail": 20.0,
        "degradation": MILD,
    }

    def flat(probability: float) -> int:
        dataset = CropDataset(config(photos, flat_crop_probability=probability, **options), seed=0)
        return sum(int(dataset[index].hr.max()) == 0 for index in range(60))

    assert flat(0.0) == 0
    assert 0 < flat(0.5) < flat(1.0)


def test_a_picture_that_is_flat_everywhere_is_told_once_and_cannot_stand_alone(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (64, 64)).save(photos / "pack" / "flat.png")
    options = {"manifest": None, "min_detail": 1.0, "flat_crop_probability": 0.0}
    dataset = CropDataset(config(photos, **options), seed=0)
    assert all(dataset[index].hr.float().std() > 0 for index in range(12))
    _, told = [record.message for record in caplog.records]  # after the one about content texts
    assert told == f"{photos / 'pack' / 'flat.png'}: no crop of it has the detail of min_detail=1. It is passed over."
    with pytest.raises(TrainingError, match=r"none can be used, the last because: .*: no crop of it has the detail"):
        CropDataset(config(photos, **options, exclude=("p*.png",)), seed=0)[0]


def test_unusable_pictures_are_passed_over_and_told_once(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (photos / "pack" / "p1.png").read_bytes()
    (photos / "pack" / "p1.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (99, 9)).save(photos / "pack" / "p3.png")
    dataset = CropDataset(config(photos, manifest=None), seed=0)
    for index in range(30):
        assert dataset[index].hr.shape == (3, 32, 32)
    told = [record.message for record in caplog.records]
    assert len(told) == 3 and "have no content text" in told[0]
    assert any("p1.png: is truncated or damaged" in line and line.endswith("It is passed over.") for line in told)
    assert any("p3.png: has 99 x 9 pixels, a side below min_size=16" in line for line in told)


class Kept(Dataset[torch.Tensor]):
    """Of four pictures of the same size that were read one after another, how many did not have to be read again."""

    def __init__(self, pictures: Pictures, paths: list[Path]):
        self.pictures, self.paths = pictures, paths

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        first = [self.pictures.read(path) for path in self.paths]
        last_first = zip(reversed(self.paths), reversed(first), strict=True)
        return torch.tensor([self.pictures.read(path) is pixels for path, pixels in last_first]).sum()


@pytest.mark.parametrize(("num_workers", "kept"), [(0, 4), (1, 4), (2, 2), (4, 1)])
def test_all_workers_together_keep_as_many_pictures_as_one_process(tmp_path: Path, num_workers: int, kept: int) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        Image.new("RGB", (10, 10)).save(path)
    dataset = Kept(Pictures(min_size=1, limit=4 * 300), paths)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=num_workers, multiprocessing_context="fork" if num_workers else None
    )
    assert [int(number) for number in loader] == [kept] * 4


def test_too_few_usable_pictures_stop_in_one_line(photos: Path) -> None:
    for path in (photos / "pack").iterdir():
        path.write_bytes(b"not a picture")
    broken = CropDataset(config(photos), seed=0)
    with pytest.raises(TrainingError, match=r"none can be used, the last because: .*p\d\.png: is not an image"):
        broken[0]


def test_crops_that_do_not_shrink_to_whole_pixels_are_refused(photos: Path) -> None:
    with pytest.raises(InputError, match="crop_size=30 is not a multiple of 4; use 32"):
        config(photos, crop_size=30)
    with pytest.raises(InputError, match="no prior knows"):
        config(photos, quality_from="prior")


# Priors


def test_priors_are_found_by_either_folder_and_by_hash(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notes").mkdir()
    lines = [
        {"image": "pack/p0.png", "content": "first"},  # below hr_dir
        {"image": "pack/p0.png", "content": "a moose", "quality": "sharp"},  # later, so it counts
        {"image": "../pack/p1.png", "content": "from here"},  # relative to the file
        {"image": "elsewhere.png", "content": "the sea", "sha256": sha256(photos / "pack" / "p2.png")},
    ]
    priors = tmp_path / "notes" / "priors.jsonl"
    priors.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = list_photos(config(photos, priors=priors, require_priors=True))
    assert [(photo.content, photo.quality) for photo in found] == [
        ("a moose", "sharp"),
        ("from here", ""),
        ("the sea", ""),
    ]
    assert not caplog.records


def test_missing_priors_are_one_warning_or_an_error(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "priors.jsonl").write_text('{"image": "pack/p1.png", "content": "x"}\n')
    options = {"priors": photos / "priors.jsonl"}
    assert [photo.content for photo in list_photos(config(photos, **options))] == ["moose", "x", "sea"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "says nothing about 2 of 3 pictures (pack/p0.png, pack/p2.png)" in record.message
    with pytest.raises(TrainingError, match="says nothing about 2 of 3"):
        list_photos(config(photos, **options, require_priors=True))
    with pytest.raises(InputError, match=r"nowhere\.jsonl: no such file of priors"):
        list_photos(config(photos, priors=photos / "nowhere.jsonl"))
    with pytest.raises(InputError, match="require_priors=true is set and priors is not"):
        config(photos, require_priors=True)


def test_pictures_without_a_content_text_are_one_warning(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    list_photos(config(photos, manifest=None))
    list_photos(config(photos))
    (photos / "priors.jsonl").write_text(
        '{"image": "pack/p0.png", "content": "x"}\n{"image": "pack/p1.png", "quality": "a sharp photograph"}\n'
    )
    list_photos(config(photos, manifest=None, priors=photos / "priors.jsonl"))
    assert [record.message.removeprefix(f"{photos}: ") for record in caplog.records] == [
        "3 of 3 pictures have no content text (pack/p0.png, pack/p1.png, pack/p2.png); describe them and set"
        " data.priors.",
        "1 of 3 pictures have no content text (pack/p1.png); describe them and set data.priors.",
        f"{photos / 'priors.jsonl'}: says nothing about 1 of 3 pictures (pack/p2.png); describe them too.",
        "1 of 3 pictures have no content text (pack/p1.png); describe them.",
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_manifest_may_be_json_lines(photos: Path) -> None:
    (photos / "m.jsonl").write_text('{"image": "pack/p2.png", "content": "sea"}\n{"image": "pack/p0.png"}\n')
    found = list_photos(config(photos, manifest=photos / "m.jsonl"))
    assert [(photo.path.name, photo.content) for photo in found] == [("p2.png", "sea"), ("p0.png", "")]
    (photos / "m.jsonl").write_text(json.dumps({"image": str(photos / "pack" / "p2.png")}) + "\n")
    (photos / "empty").mkdir()  # pictures may lie elsewhere
    (elsewhere,) = list_photos(config(photos, hr_dir=photos / "empty", manifest=photos / "m.jsonl"))
    assert elsewhere.path == photos / "pack" / "p2.png"


def test_a_manifest_of_columns_may_begin_with_a_byte_order_mark(photos: Path) -> None:
    (photos / "m.tsv").write_text("file\tlabel\npack/p2.png\tSea\n", encoding="utf-8-sig")
    assert [photo.content for photo in list_photos(config(photos, manifest=photos / "m.tsv"))] == ["sea"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"name\tlabel\na\tb\n", "has no column 'file'"),
        (b"package\tfile\n\npack\n", "line 3 names no file"),
        ("file\tlabel\np0.png\tcafé\n".encode("latin-1"), "cannot be read ('utf-8' codec"),
        (b"file\tlabel\np0.png\t" + b"x" * 200_000, "cannot be read (field larger"),
    ],
)
def test_a_damaged_manifest_of_columns_is_one_line(photos: Path, content: bytes, problem: str) -> None:
    (photos / "m.tsv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        list_photos(config(photos, manifest=photos / "m.tsv"))
    assert str(caught.value).startswith(f"{photos / 'm.tsv'}: {problem}") and caught.value.code == "damaged"


# Who reads which sample


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40), st.integers(0, 60), st.integers(1, 7), st.integers(1, 5))
def test_ranks_share_the_samples_without_overlap_or_loss(start: int, count: int, batch_size: int, ranks: int) -> None:
    stop = start + count
    shares = [
        list(RankBatches(start, stop, batch_size=batch_size, rank=rank, world_size=ranks)) for rank in range(ranks)
    ]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(start, stop))
    for step in range(max(map(len, shares), default=0)):  # what all read in a step comes next in the global order
        together = [index for share in shares for index in (share[step] if step < len(share) else [])]
        first = start + step * batch_size * ranks
        assert together == list(range(first, min(first + batch_size * ranks, stop)))
    if count % (batch_size * ranks) == 0:
        assert len({len(share) for share in shares}) == 1


@pytest.mark.parametrize(
    ("num_workers", "start_method"),
    [(0, None), (1, "fork"), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)],
)
def test_ranks_and_workers_give_the_samples_of_one_process(
    photos: Path, tokenizer: Any, num_workers: int, start_method: str | None
) -> None:
    dataset = build_dataset(config(photos), seed=5)
    alone = {index: dataset[index] for index in range(4, 16)}
    for world_size in (1, 2, 3):
        seen: list[int] = []
        for rank in range(world_size):
            loader = build_loader(
                dataset,
                Collate(tokenizer),
                batch_size=2,
                start=4,  # as after an interruption
                stop=16,
                rank=rank,
                world_size=world_size,
                num_workers=num_workers,
                start_method=start_method,
            )
            batches = list(loader)
            assert len(batches) == len(loader) == 6 // world_size
            for batch in batches:
                for row, index in enumerate(batch.indices.tolist()):
                    assert torch.equal((batch.lr[row] * 255).round().to(torch.uint8), alone[index].lr)
                    seen.append(index)
        assert sorted(seen) == list(range(4, 16))
        if start_method == "spawn":  # slow to start; once is enough
            break


def test_a_batch_tells_numbers_and_clean_rows(photos: Path, tokenizer: Any) -> None:
    dataset = CropDataset(config(photos, clean_condition_probability=0.5), seed=0)
    batch = Collate(tokenizer)([dataset[index] for index in range(7, 19)])
    assert batch.indices.dtype == torch.int64 and batch.indices.tolist() == list(range(7, 19))
    assert batch.is_clean.dtype == torch.bool
    assert batch.is_clean.tolist() == [dataset[index].is_clean for index in range(7, 19)]
    assert all(getattr(batch.to(torch.device("cpu")), f.name) is not None for f in fields(batch))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_worker_comes_back_in_one_line(photos: Path, tokenizer: Any, num_workers: int) -> None:
    for path in (photos / "pack").iterdir():
        path.write_bytes(b"")
    dataset = build_dataset(config(photos), seed=0)
    loader = build_loader(dataset, Collate(tokenizer), batch_size=1, stop=4, num_workers=num_workers)
    with pytest.raises(TrainingError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"{photos}: of 50 pictures in a row none can be used")
    assert "\n" not in str(caught.value)
    assert caught.value.code == "none_usable" and caught.value.remedy, "its parts are data there too"
    assert not multiprocessing.active_children(), "one that outlives the error would keep this process from ending"


def test_a_loader_refuses_ranks_that_are_not_there(photos: Path) -> None:
    with pytest.raises(InputError, match=r"rank=2 is not in \[0, 1\]"):
        RankBatches(0, 4, batch_size=1, rank=2, world_size=2)
    with pytest.raises(InputError, match="batch_size=0"):
        RankBatches(0, 4, batch_size=0)
    with pytest.raises(InputError, match="is set and so is shards"):
        config(photos, pairs=photos, shards=("a.tar",))
