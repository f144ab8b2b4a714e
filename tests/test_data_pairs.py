"""Stored pairs, in folders and in shards: what is made is what is read."""

import json
import logging
import os
import shutil
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from xpsr.config import DataConfig, DegradationConfig, PairsConfig
from xpsr.data import Collate, FolderStore, PairDataset, ShardStore, build_dataset, make_pairs
from xpsr.data.crops import CLEAN
from xpsr.data.pairs import cut_pair
from xpsr.data.shards import TarPairs, list_shards
from xpsr.errors import InputError, TrainingError
from xpsr.files import sha256
from xpsr.prior import Levels, quality_text
from xpsr.training import build_tokenizer

NUM_PICTURES, PER_PICTURE = 6, 2


def photograph(seed: int, width: int, height: int) -> np.ndarray:
    """Something with structure, so that a reduction still shows it."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    for seed in range(NUM_PICTURES):
        Image.fromarray(photograph(seed, 66 + 4 * seed, 81)).save(folder / f"p{seed}.png")
    return folder


def made(clean: Path, target: Path, **changes: Any) -> Path:
    make_pairs(clean, target, PairsConfig(**({"num_per_image": PER_PICTURE, "seed": 1} | changes)))
    return target


@pytest.fixture(scope="session")
def pairs(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(clean, tmp_path_factory.mktemp("made") / "pairs")


@pytest.fixture(scope="session")
def shards(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(clean, tmp_path_factory.mktemp("made") / "sharded", shard_size=4)


def config(**changes: Any) -> DataConfig:
    return DataConfig(**({"crop_size": 32} | changes))


def entries(pairs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (pairs / "manifest.jsonl").read_text().splitlines()]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# What is stored


def test_pairs_are_exactly_four_to_one_and_the_manifest_tells_all(clean: Path, pairs: Path) -> None:
    lines = entries(pairs)
    assert [line["name"] for line in lines] == [f"p{i}_{k}" for i in range(NUM_PICTURES) for k in range(PER_PICTURE)]
    for line in lines:
        with Image.open(pairs / line["hr"]) as hr, Image.open(pairs / line["lr"]) as lr:
            assert hr.size == tuple(line["hr_size"]) == (lr.width * 4, lr.height * 4)
            assert lr.size == tuple(line["lr_size"])
            with Image.open(clean / line["source"]) as source:
                trimmed = source.crop((0, 0, *hr.size))
            assert np.array_equal(np.asarray(hr), np.asarray(trimmed)), "the ground truth is not touched"
        assert not line["sharpened"] and line["parameters"] and line["seed"] == 1
        assert line["hr_sha256"] == sha256(pairs / line["hr"]) and line["lr_sha256"] == sha256(pairs / line["lr"])
        assert line["source_sha256"] == sha256(clean / line["source"])
    assert len({line["lr_sha256"] for line in lines}) == len(lines)


def test_shards_hold_the_same_pairs(pairs: Path, shards: Path) -> None:
    assert [path.name for path in sorted((shards / "shards").glob("*.tar"))] == [f"00000{i}.tar" for i in range(3)]
    found = {}
    for path in sorted((shards / "shards").glob("*.tar")):
        tar = TarPairs(path)
        for number, name in enumerate(tar.names):
            hr, lr, teacher, line = tar.read(number)
            assert (hr, lr, teacher) == (
                (pairs / "hr" / f"{name}.png").read_bytes(),
                (pairs / "lr" / f"{name}.png").read_bytes(),
                b"",
            )
            found[name] = line
    assert list(found.values()) == entries(shards)
    assert [{k: v for k, v in line.items() if k != "shard"} for line in found.values()] == entries(pairs)


def test_crops_of_a_reduced_picture_are_that_and_the_manifest_says_where(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    reduced = made(tmp_path / "photos", tmp_path / "pairs", num_per_image=12, crop_size=32, crop_scales=(1.0, 0.5, 0.2))
    lines = entries(reduced)
    assert {line["crop_scale"] for line in lines} == {1.0, 0.5}  # for a fifth it is too small
    for line in lines:
        left, top = line["place"]
        side = round(32 / line["crop_scale"])
        window = pixels[top : top + side, left : left + side].astype(float)
        step = side // 32
        means = window.reshape(32, step, 32, step, 3).mean((1, 3))
        with Image.open(reduced / line["hr"]) as hr:
            assert np.abs(np.asarray(hr) - means).max() <= 0.5
    (whole,) = entries(made(tmp_path / "photos", tmp_path / "small", num_per_image=1, crop_size=64, crop_scales=(0.5,)))
    assert whole["crop_scale"] == 1.0 and whole["hr_size"] == [64, 64]


def test_a_folder_of_before_there_were_scales_is_gone_on_with(clean: Path, tmp_path: Path) -> None:
    before = entries(made(clean, tmp_path / "pairs", crop_size=16))
    path = tmp_path / "pairs" / "settings.json"
    former = json.loads(path.read_text())
    assert former["config"].pop("crop_scales") == [1.0]
    path.write_text(json.dumps(former))
    assert entries(made(clean, tmp_path / "pairs", crop_size=16)) == before
    with pytest.raises(InputError, match=r"was made with crop_scales: \[1\.0\], not \[0\.5\]"):
        made(clean, tmp_path / "pairs", crop_size=16, crop_scales=(0.5,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_scales": (0.5,)}, r"are of crops, but whole pictures are made; set crop_size"),
        ({"crop_scales": (), "crop_size": 16}, r"is no scale"),
        ({"crop_scales": (1.5,), "crop_size": 16}, r"is not in \(0, 1\]"),
    ],
)
def test_scales_that_say_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PairsConfig(**changes)


def test_sharpening_is_recorded_and_changes_the_ground_truth(clean: Path, pairs: Path, tmp_path: Path) -> None:
    sharp = made(clean, tmp_path / "sharp", sharpen=True)
    assert all(line["sharpened"] for line in entries(sharp))
    assert (sharp / "hr" / "p0_0.png").read_bytes() != (pairs / "hr" / "p0_0.png").read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(16, 70),
    height=st.integers(16, 70),
    crop=st.none() | st.integers(4, 20).map(lambda n: 4 * n),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_picture_gives_pairs_of_four_to_one(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, crop: int | None, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (line,) = entries(made(folder, folder / "pairs", num_per_image=1, crop_size=crop, seed=seed))
    expected = [width - width % 4, height - height % 4] if crop is None else [crop, crop]
    assert line["hr_size"] == expected and [4 * side for side in line["lr_size"]] == expected
    dataset = build_dataset(config(pairs=folder / "pairs"), seed=seed)
    assert dataset[0].hr.shape == (3, 32, 32)


def test_crops_are_drawn_for_each_pair(clean: Path, tmp_path: Path) -> None:
    lines = entries(made(clean, tmp_path / "crops", crop_size=64, num_per_image=3))
    assert all(line["hr_size"] == [64, 64] for line in lines)
    assert len({(line["source"], *line["place"]) for line in lines}) > len(lines) // 2


def test_webdataset_reads_the_shards(shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = []
    for path in sorted((shards / "shards").glob("*.tar")):
        with path.open("rb") as file:
            members = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": file}])
            samples += list(webdataset.tariterators.group_by_keys(members))
    assert [sample["__key__"] for sample in samples] == [line["name"] for line in entries(shards)]
    assert all({"hr.png", "lr.png", "json"} <= sample.keys() for sample in samples)


def test_shards_that_webdataset_wrote_are_read(pairs: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for line in entries(pairs):
            content = {"hr.png": (pairs / line["hr"]).read_bytes(), "lr.png": (pairs / line["lr"]).read_bytes()}
            writer.write({"__key__": line["name"], **content, "json": {"content": "a wall"}})
    dataset = build_dataset(config(shards=(str(tmp_path / "theirs.tar"),)), seed=0)
    assert dataset[0].prior.content == "a wall" and dataset[0].prior.quality == ""


# A teacher's pictures


def teach(pairs: Path, names: list[str]) -> None:
    """Gives pairs a teacher whose pictures are HR's negatives."""
    (pairs / "teacher").mkdir()
    for name in names:
        with Image.open(pairs / "hr" / f"{name}.png") as image:
            ImageOps.invert(image).save(pairs / "teacher" / f"{name}.webp", lossless=True)


def in_tar(pairs: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as tar:
        for part in ("hr", "lr", "teacher"):
            for path in sorted((pairs / part).iterdir()):
                tar.add(path, f"{path.stem}.{part}{path.suffix}")
    return target


@pytest.mark.parametrize("stored", ["folder", "shard"])
def test_a_teachers_picture_is_cut_and_turned_as_hr_is(pairs: Path, tmp_path: Path, stored: str) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    teach(folder, ["p0_0", "p3_1"])
    source = {"pairs": folder} if stored == "folder" else {"shards": (str(in_tar(folder, tmp_path / "a.tar")),)}
    dataset = build_dataset(config(**source), seed=0)
    samples = [dataset[index] for index in range(NUM_PICTURES * PER_PICTURE)]
    taught = [sample for sample in samples if sample.teacher is not None]
    assert len(taught) == 2
    assert all(torch.equal(255 - sample.hr, sample.teacher) for sample in taught)
    batch = Collate(build_tokenizer(None, 600))(samples)
    assert batch.has_teacher.tolist() == [sample.teacher is not None for sample in samples]
    assert torch.equal(batch.teacher[~batch.has_teacher], batch.hr[~batch.has_teacher])
    clean = build_dataset(config(**source, clean_condition_probability=1), seed=0)
    assert all(clean[index].teacher is None for index in range(NUM_PICTURES * PER_PICTURE))


def test_a_teachers_picture_of_another_size_stops_and_a_second_one_is_refused(pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    teach(folder, ["p0_0"])
    Image.new("RGB", (64, 64)).save(folder / "teacher" / "p1_0.png")
    dataset = build_dataset(config(pairs=folder), seed=0)
    with pytest.raises(TrainingError, match=r"p1_0\.png \(teacher\): 64 x 64 .* not exactly 4 : 1"):
        [dataset[index] for index in range(NUM_PICTURES * PER_PICTURE)]
    Image.new("RGB", (64, 64)).save(folder / "teacher" / "p0_0.png")
    with pytest.raises(InputError, match=r"p0_0\.png: may belong to .*p0_0\.png and .*p0_0\.webp"):
        build_dataset(config(pairs=folder), seed=0)


# Crops of pairs


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12), st.integers(0, 2**31))
def test_both_crops_show_the_same_place(height: int, width: int, small: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lr = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    hr = lr.repeat(4, axis=0).repeat(4, axis=1)
    (hr_crop,), lr_crop = cut_pair([hr], lr, 4 * small, 4, generator)
    assert lr_crop.shape == (small, small, 3)
    assert np.array_equal(hr_crop, lr_crop.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("kind", ["pairs", "shards"])
def test_an_epoch_shows_every_pair_once_in_another_order(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    dataset = build_dataset(config(**({"pairs": folder} if kind == "pairs" else {"shards": (str(folder),)})), seed=3)
    assert isinstance(dataset, PairDataset)
    total = NUM_PICTURES * PER_PICTURE
    orders = [dataset.store.order(torch.Generator().manual_seed(epoch)).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(total)) for order in orders) and orders[0] != orders[1]
    forwards = [dataset[index] for index in range(2 * total)]
    again = build_dataset(dataset.config, seed=3)
    for index in reversed(range(2 * total)):  # depends on the index alone
        sample = again[index]
        assert torch.equal(sample.hr, forwards[index].hr) and torch.equal(sample.lr, forwards[index].lr)
        assert sample.prior == forwards[index].prior and sample.index == index
        assert sample.hr.shape == (3, 32, 32) and sample.lr.shape == (3, 8, 8)


def test_shards_shuffle_a_few_at_a_time(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.data.shards._MIXED_SHARDS", 1)
    order = ShardStore(config(shards=(str(shards),))).order(torch.Generator().manual_seed(0)).tolist()
    assert all(len({number // 4 for number in order[start : start + 4]}) == 1 for start in (0, 4, 8))


def test_lr_is_that_of_hr_whichever_way_it_is_turned(clean: Path, tmp_path: Path) -> None:
    reduced = made(clean, tmp_path / "pairs", degradation=DegradationConfig(plain_probability=1))
    dataset = build_dataset(config(pairs=reduced), seed=0)
    for index in range(12):
        sample = dataset[index]
        small = sample.hr.float().unflatten(2, (8, 4)).unflatten(1, (8, 4)).mean((2, 4))
        assert (sample.lr.float() - small).abs().max() <= 1


# Texts


def test_texts_of_pairs_come_from_priors_or_from_the_parameters(
    clean: Path, pairs: Path, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    lines = entries(folder)
    priors = write_lines(
        folder / "priors.jsonl",
        [{"image": f"lr/{line['name']}.png", "content": line["name"], "quality": "bad"} for line in lines[:-2]]
        + [{"image": "x.png", "content": "source", "quality": "fine", "sha256": sha256(clean / lines[-1]["source"])}],
    )
    by_name = {line["name"]: quality_text(Levels(**line["levels"])) for line in lines}

    def texts(**changes: Any) -> dict[str, str]:
        dataset = build_dataset(config(pairs=folder, priors=priors, **changes), seed=0)
        return {s.prior.content: s.prior.quality for s in (dataset[i] for i in range(len(lines)))}

    auto = texts()
    assert auto.pop("source") in (by_name["p5_0"], by_name["p5_1"])  # of two pairs of one picture
    assert set(auto) == {line["name"] for line in lines[:-2]} and set(auto.values()) == {"bad"}
    told = texts(quality_from="degradation")
    assert {name: text for name, text in told.items() if name != "source"} == {name: by_name[name] for name in auto}
    assert texts(quality_from="prior")["source"] == ""
    cleaned = texts(clean_condition_probability=1.0)
    assert cleaned.pop("source") == "fine" and set(cleaned.values()) == {quality_text(CLEAN)}
    assert not caplog.records

    write_lines(priors, [{"image": "lr/p0_0.png", "content": "one"}])
    texts()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "nothing about 11 of 12 pictures (lr/p0_1.png" in record.message
    with pytest.raises(TrainingError, match="nothing about 11 of 12"):
        texts(require_priors=True)

    # shards are told by what they say of their pairs, wherever they lie
    write_lines(priors, [{"image": "x.png", "content": "hash", "sha256": line["lr_sha256"]} for line in lines])
    sharded = build_dataset(config(shards=(str(shards),), priors=priors, require_priors=True), seed=0)
    assert {sharded[index].prior.content for index in range(len(lines))} == {"hash"}
    write_lines(priors, [])
    with pytest.raises(TrainingError, match="nothing about 12 of 12"):
        build_dataset(config(shards=(str(shards),), priors=priors, require_priors=True), seed=0)


def test_pairs_without_a_manifest_are_told_by_their_names(pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    (folder / "manifest.jsonl").unlink()
    dataset = build_dataset(config(pairs=folder), seed=0)
    assert dataset[0].prior.quality == ""
    with pytest.raises(TrainingError, match=r"needs the levels of a manifest\.jsonl"):
        build_dataset(config(pairs=folder, quality_from="degradation"), seed=0)
    shutil.copy(folder / "lr" / "p0_0.png", folder / "lr" / "p0_0.jpg")
    with pytest.raises(InputError, match=r"hr/p0_0\.png: may belong to .*lr/p0_0\.jpg and .*lr/p0_0\.png"):
        build_dataset(config(pairs=folder), seed=0)
    for name in ("p0_0.png", "p0_0.jpg"):
        (folder / "lr" / name).unlink()
    with pytest.raises(InputError, match=r"hr/p0_0\.png: has no partner in .*lr"):
        build_dataset(config(pairs=folder), seed=0)


# Bad input


def test_pairs_that_are_not_exactly_four_to_one_stop_in_one_line(pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    Image.fromarray(photograph(0, 17, 20)).save(folder / "lr" / "p0_0.png")
    dataset = build_dataset(config(pairs=folder), seed=0)  # the manifest does not know yet
    with pytest.raises(TrainingError, match=r"p0_0.png: 64 x 80 pixels with an LR of 17 x 20 is not exactly 4 : 1"):
        [dataset[index] for index in range(12)]
    (folder / "manifest.jsonl").unlink()
    with pytest.raises(TrainingError, match="is not exactly 4 : 1; make the pair again"):
        build_dataset(config(pairs=folder), seed=0)


def test_a_damaged_pair_is_passed_over(pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    (folder / "lr" / "p0_0.png").write_bytes(b"")
    dataset = build_dataset(config(pairs=folder), seed=0)
    assert [dataset[index].index for index in range(24)] == list(range(24))
    (record,) = caplog.records
    assert "p0_0.png (lr): is empty (0 bytes)" in record.message
    (folder / "lr" / "p0_1.png").unlink()
    with pytest.raises(TrainingError, match=r"1 pictures of 12 pairs are missing, first lr/p0_1.png"):
        FolderStore(folder, config())


@pytest.mark.parametrize("sizes", [{"hr_size": 5}, {"lr_size": [1]}, {"hr_size": ["a", "b"], "lr_size": None}])
def test_sizes_in_a_manifest_that_are_none_are_looked_up(pairs: Path, tmp_path: Path, sizes: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    write_lines(folder / "manifest.jsonl", [line | sizes for line in entries(folder)])
    assert len(FolderStore(folder, config())) == NUM_PICTURES * PER_PICTURE


def test_damaged_texts_of_a_pair_are_told_with_its_name(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    write_lines(folder / "manifest.jsonl", [line | {"content": 5} for line in entries(folder)])
    with pytest.raises(InputError, match=r"manifest\.jsonl, hr/p0_0\.png: content=5 is not a text"):
        FolderStore(folder, config())
    parts = {f"{part}.png": (pairs / part / "p0_0.png").read_bytes() for part in ("hr", "lr")}
    members = {f"{name}.{end}": content for name in "abc" for end, content in parts.items()}
    tar_of(tmp_path / "a.tar", members | {"a.json": b'{"levels": 5}', "b.json": b"[" * 100_000})
    dataset = build_dataset(config(shards=(str(tmp_path / "a.tar"),)), seed=0)
    assert [dataset[index].index for index in range(6)] == list(range(6))
    told = sorted(record.message for record in caplog.records)
    assert len(told) == 2 and "a.tar: a: levels=5 is not" in told[0] and "a.tar: b cannot be read" in told[1]


def test_a_pair_that_is_flat_everywhere_is_told_once_and_changes_no_later_sample(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    for part in ("hr", "lr"):
        with Image.open(folder / part / "p0_0.png") as image:
            Image.new("RGB", image.size).save(folder / part / "p0_0.png")
    options = config(pairs=folder, min_detail=1.0, flat_crop_probability=0.0)
    dataset = build_dataset(options, seed=0)
    samples = [dataset[index] for index in range(36)]
    (record,) = caplog.records
    assert "hr/p0_0.png: no crop of it has the detail of min_detail=1" in record.message
    for index in range(24, 36):  # as a run that goes on there sees them
        assert torch.equal(build_dataset(options, seed=0)[index].hr, samples[index].hr)


def test_hardly_any_usable_pair_stops_in_one_line(pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    for path in (folder / "hr").iterdir():
        path.write_bytes(b"?")
    with pytest.raises(TrainingError, match=r"of 50 pairs in a row none can be used, the last because: .*; check the"):
        build_dataset(config(pairs=folder), seed=0)[0]


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return path


def test_a_tar_is_refused_in_one_line(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "shards" / "000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.tar").write_bytes(b"no tar at all")
    tar_of(tmp_path / "half.tar", {"a.hr.png": b"x", "a.json": b"{}"})
    tar_of(tmp_path / "empty.tar", {"readme.txt": b"x"})
    for name, message in (("cut", "not a whole tar"), ("no", "not a whole tar"), ("half", "a has no lr picture")):
        with pytest.raises(InputError, match=message):
            list_shards([str(tmp_path / f"{name}.tar")])
    with pytest.raises(TrainingError, match="holds no pairs"):
        ShardStore(config(shards=(str(tmp_path / "empty.tar"),)))
    with pytest.raises(InputError, match="no such shard or folder"):
        list_shards([str(tmp_path / "nowhere")])


def test_hidden_tars_are_no_shards(shards: Path, tmp_path: Path) -> None:
    for name in ("a.tar", "._a.tar"):
        shutil.copy(shards / "shards" / "000000.tar", tmp_path / name)
    assert [Path(shard.url).name for shard in list_shards([str(tmp_path)])] == ["a.tar"]


def test_an_index_that_does_not_fit_is_refused(shards: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "sharded")) / "shards"
    index = json.loads((folder / "index.json").read_text())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    index["shardlist"][0]["nsamples"] = 5
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(TrainingError, match="holds 4 pairs, its index says 5"):
        [ShardStore(config(shards=(str(folder),))).read(number) for number in range(5)]
    (folder / "000000.tar").write_bytes(whole := (folder / "000000.tar").read_bytes()[:-30_000] + bytes(30_000))
    assert len(whole) == index["shardlist"][0]["filesize"]
    with pytest.raises(TrainingError, match=r"000000.tar: "):
        [ShardStore(config(shards=(str(folder),))).read(number) for number in range(4)]
    (folder / "000001.tar").unlink()
    with pytest.raises(TrainingError, match=r"000001.tar: is missing; make the shards and their index again"):
        list_shards([str(folder)])
    (folder / "index.json").write_text("[]")
    with pytest.raises(InputError, match="not an index of shards"):
        list_shards([str(folder / "index.json")])


def test_names_that_are_not_utf_8_are_no_hindrance(clean: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    try:
        shutil.copy(clean / "p0.png", photos / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system knows no such names")
    rows = (made(photos, tmp_path / "pairs") / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(row)["source"] for row in rows] == [os.fsdecode(b"caf\xe9.png")] * PER_PICTURE
