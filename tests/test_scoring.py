"""Folders scored: the same numbers however many processes work, and only what was not scored before."""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xpsr.errors import InputError
from xpsr.evaluation import METRICS, Evaluation, Metric, evaluate, load_protocol, score, write_report
from xpsr.image import read_image, resize

NAMES = ("p0", "p1", "p2")
PROTOCOL = dataclasses.replace(load_protocol("basicsr"), metrics=("psnr_y", "ssim_y", "niqe"))
PSNR, SSIM, NIQE = (f"{name} {METRICS[name].version}" for name in PROTOCOL.metrics)
"""What scores are called in the cache."""


def save(path: Path, seed: int, noise: float = 0.0, size: tuple[int, int] = (200, 104)) -> None:
    path.parent.mkdir(exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (26, 50, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), float)
    pixels = pixels + noise * np.random.default_rng(seed).standard_normal(pixels.shape)
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Originals, inputs and the results of the methods a and b."""
    for seed, name in enumerate(NAMES):
        save(tmp_path / "hr" / f"{name}.png", seed)
        save(tmp_path / "lr" / f"{name}.png", seed, size=(50, 26))
        save(tmp_path / "a" / f"{name}_x4.png", seed, noise=8)
        save(tmp_path / "b" / f"{name}.png", seed, noise=16)
    return tmp_path


def run(folder: Path, **options: Any) -> Evaluation:
    """Evaluates both methods, with the cache `folder/report/cache.jsonl`."""
    given = {"hr": folder / "hr", "lr": folder / "lr", "protocol": PROTOCOL, "cache": folder / "report" / "cache.jsonl"}
    return evaluate({"a": folder / "a", "b": folder / "b"}, **{**given, **options})  # type: ignore[arg-type]


def scores(evaluation: Evaluation) -> list[tuple[Any, ...]]:
    return [method.scores for method in evaluation.methods]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "report" / "cache.jsonl").read_text().splitlines()]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes what former runs left, so that it shows whether it is taken."""
    changed = lines(folder)
    for line in changed:
        change(line)
    (folder / "report" / "cache.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))


def test_scores_are_those_of_each_picture(folders: Path) -> None:
    counted: list[tuple[int, int]] = []
    alone = run(folders, on_progress=lambda done, total: counted.append((done, total)))
    assert counted == [(done, 6) for done in range(1, 7)]
    assert alone.names == NAMES and [method.name for method in alone.methods] == ["a", "b"]
    expected = score(read_image(folders / "a" / "p1_x4.png").pixels, read_image(folders / "hr" / "p1.png").pixels)
    assert alone.methods[0].scores[1]["psnr_y"] == pytest.approx(expected["psnr_y"], abs=0.5)
    assert alone.methods[0].scores[1]["niqe"] == pytest.approx(expected["niqe"])
    assert alone.methods[0].cases[1].lr == folders / "lr" / "p1.png"
    save(folders / "b" / "p1.png", 1, noise=300, size=(8, 8))
    with pytest.raises(InputError, match=r"b/p1\.png \(8 x 8, not 200 x 104\)"):
        run(folders)
    assert [line["picture"] for line in lines(folders)] == ["p0", "p0", "p1", "p1", "p2", "p2"]


@pytest.mark.slow
def test_scores_are_the_same_however_many_processes_work(folders: Path) -> None:
    alone, several = run(folders), run(folders, workers=2, cache=folders / "other.jsonl")
    assert scores(several) == scores(alone)
    assert (folders / "other.jsonl").read_bytes() == (folders / "report" / "cache.jsonl").read_bytes()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_process_comes_back_as_it_was(folders: Path, workers: int) -> None:
    content = (folders / "b" / "p1.png").read_bytes()
    (folders / "b" / "p1.png").write_bytes(content[: len(content) // 2])  # its header is whole
    with pytest.raises(InputError, match=r"b/p1\.png: is truncated or damaged.*; copy or download it again\."):
        run(folders, workers=workers)
    assert len(lines(folders)) >= 3  # what was scored by then


def test_only_what_has_changed_is_scored_again(folders: Path) -> None:
    first = run(folders)
    rewrite(folders, lambda line: line["scores"].update({PSNR: 12.5}))
    assert {row["psnr_y"] for rows in scores(run(folders)) for row in rows} == {12.5}
    save(folders / "b" / "p1.png", 1, noise=2)
    changed = run(folders)
    assert [row["psnr_y"] == 12.5 for rows in scores(changed) for row in rows] == [True] * 4 + [False, True]
    assert changed.methods[1].scores[1]["psnr_y"] > first.methods[1].scores[1]["psnr_y"]
    (folders / "a" / "p0_x4.png").rename(folders / "a" / "p0.png")  # a name is no content
    assert run(folders).methods[0].scores[0]["psnr_y"] == 12.5
    save(folders / "hr" / "p0.png", 0, noise=1)  # NIQE does not look at the original
    rewrite(folders, lambda line: line["scores"].update({NIQE: 3.5}))
    again = run(folders).methods[0].scores[0]
    assert again["psnr_y"] != 12.5 and again["niqe"] == 3.5


def test_another_protocol_version_or_metric_is_not_taken_for_the_same(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(PROTOCOL, metrics=("psnr_y",))
    first = run(folders, protocol=few)
    rewrite(folders, lambda line: line["scores"].update({PSNR: 12.5}))
    more = dataclasses.replace(PROTOCOL, metrics=("ssim_y", "psnr_y"), name="mine")  # a name changes no number
    assert [tuple(row) for row in scores(run(folders, protocol=more))[0]] == [("ssim_y", "psnr_y")] * 3
    assert run(folders, protocol=more).methods[0].scores[0]["psnr_y"] == 12.5
    cropped = dataclasses.replace(few, crop=7)
    assert run(folders, protocol=cropped).methods[0].scores[0]["psnr_y"] != 12.5
    monkeypatch.setitem(METRICS, "psnr_y", dataclasses.replace(METRICS["psnr_y"], version="of tomorrow"))
    assert scores(run(folders, protocol=few)) == scores(first)


def test_scores_of_another_version_of_a_library_are_made_again(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(folders)
    rewrite(folders, lambda line: line["scores"].update({PSNR: 12.5}))
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name == "scikit-image" else installed(name)
    )
    again = run(folders)  # or its report would say that 9.9 had found 12.5
    assert again.facts["versions"]["scikit-image"] == "9.9" and scores(again) == scores(first)


def test_a_run_that_was_interrupted_goes_on(folders: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folders, on_progress=interrupt)
    assert [(line["picture"]) for line in lines(folders)] == ["p0", "p0", "p1"]
    path = folders / "report" / "cache.jsonl"
    path.write_bytes(path.read_bytes()[:-20])  # and a crash in the middle of a line
    whole = run(folders)
    assert len(lines(folders)) == 6
    assert scores(run(folders, cache=None)) == scores(whole)


@pytest.mark.parametrize("damage", ['{"scores": 3}', "[1]", '"', "\udc80"])
def test_a_damaged_line_of_the_cache_is_passed_over(folders: Path, damage: str) -> None:
    first = run(folders)
    kept = lines(folders)
    path = folders / "report" / "cache.jsonl"
    odd = {**kept[1], "scores": {PSNR: float("nan"), SSIM: True, NIQE: "why"}}
    text = damage + "\n" + "".join(json.dumps(line) + "\n" for line in [kept[0], odd, *kept[2:]])
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert scores(run(folders)) == scores(first)


def test_what_a_picture_has_no_score_for_is_absent_and_stays_so(folders: Path) -> None:
    Image.new("RGB", (200, 104), (90, 90, 90)).save(folders / "b" / "p1.png")
    for _ in range(2):  # the second time from the cache
        found = run(folders)
        assert "niqe" not in found.methods[1].scores[1] and "psnr_y" in found.methods[1].scores[1]
        assert all("niqe" in row for row in found.methods[0].scores)
    assert lines(folders)[3]["scores"][NIQE] == "flat"


def test_a_metric_that_no_picture_has_is_not_measured(folders: Path) -> None:
    for method in ("a", "b"):
        for path in (folders / method).iterdir():
            save(path, 0, size=(64, 64))
    only = {"hr": None, "lr": None}
    with pytest.raises(InputError, match=r"nothing could be measured \(niqe: every picture is too small\); use larger"):
        run(folders, **only)
    for path in (folders / "hr").iterdir():
        save(path, 1, size=(64, 64))
    found = run(folders, lr=None)
    assert [metric.name for metric in found.metrics] == ["psnr_y", "ssim_y"]
    assert found.not_measured == {"niqe": "every picture is too small"}


def test_without_originals_only_what_needs_none_is_measured(folders: Path) -> None:
    found = run(folders, hr=None)
    assert [metric.name for metric in found.metrics] == ["niqe"]
    assert found.not_measured.keys() == {"psnr_y", "ssim_y"}
    with pytest.raises(
        InputError, match=r"nothing can be measured \(psnr_y needs the originals\); give what is needed"
    ):
        run(folders, hr=None, protocol=dataclasses.replace(PROTOCOL, metrics=("psnr_y",)))


def test_a_score_that_is_not_finite_is_refused_by_picture_and_metric(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Metric(
        name="broken", title="Broken", needs="nothing", lower_is_better=True, version="1", compute=lambda *_: np.nan
    )
    monkeypatch.setitem(METRICS, "broken", broken)
    with pytest.raises(InputError, match=r"a/p0_x4\.png: its broken is nan, which is no score; look at the picture"):
        run(folders, protocol=dataclasses.replace(PROTOCOL, metrics=("broken",)))


def test_a_protocol_may_resize_results_to_their_originals(folders: Path) -> None:
    save(folders / "b" / "p1.png", 1, size=(100, 52))
    resizes = dataclasses.replace(PROTOCOL, resize="bicubic")
    found = run(folders, protocol=resizes).methods[1].scores[1]["psnr_y"]
    pixels = resize(read_image(folders / "b" / "p1.png").pixels, (104, 200))
    expected = score(pixels, read_image(folders / "hr" / "p1.png").pixels)["psnr_y"]
    assert found == pytest.approx(expected, abs=0.5)


def test_facts_tell_versions_machine_and_a_checksum_that_sha256sum_gives(folders: Path) -> None:
    import hashlib

    facts = run(folders).facts
    files = sorted((folders / "a").iterdir())
    text = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    assert facts["folders"]["methods"]["a"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert facts["folders"]["hr"]["pictures"] == 3
    assert facts["versions"].keys() >= {"xpsr", "python", "torch"} and facts["machine"].keys() >= {"cpu", "cores"}
    json.dumps(facts)


def test_a_name_that_is_no_utf_8_is_scored_and_kept_too(folders: Path) -> None:
    for name in ("hr", "lr", "a", "b"):
        path = next((folders / name).glob("p1*"))
        path.rename(path.with_name(os.fsdecode(b"p\xff.png")))
    first = run(folders)
    assert scores(run(folders)) == scores(first) and len(lines(folders)) == 6
    write_report(first, folders / "report", page=False)
    assert "p\udcff" in json.loads((folders / "report" / "scores.json").read_text())["methods"]["a"]["pictures"]


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_scored(folders: Path) -> None:
    (folders / "report").write_text("")
    counted: list[int] = []
    with pytest.raises(InputError, match=r"report.cache\.jsonl: cannot be read"):
        run(folders, on_progress=lambda done, total: counted.append(done))
    assert counted == []
