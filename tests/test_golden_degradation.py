"""The reference's degradation is reproduced, and the golden check tells what is not."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_degradation import Numbers, configured, degradation_sections
from golden_rows import Tensors
from safetensors.torch import load_file, save_file
from verify_golden import report, verify

from xpsr.config import DEGRADATIONS

GOLDEN = Path(__file__).parent / "golden" / "degradation" / "A"


@pytest.fixture(scope="module")
def numbers() -> Numbers:
    return Numbers(GOLDEN)


def off(numbers: Numbers, section: str) -> list[str]:
    """The rows of a section that are not ok."""
    return [
        row.name.removeprefix("degradation:") for row in degradation_sections(numbers)[section](numbers) if not row.ok
    ]


def changed(numbers: Numbers, tensors: Tensors) -> Numbers:
    """The same numbers but for some tensors; None takes one out."""
    other = object.__new__(Numbers)
    other.json, other.tensors = numbers.json, {**numbers.tensors, **tensors}
    return other


def test_every_number_of_the_reference_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(GOLDEN) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    rows = [
        re.fullmatch(r"degradation:(\S+)( \(levels\))? +\d\.\de[+-]\d\d +\d+e[+-]\d\d  ok(  .*)?", s) for s in lines
    ]
    assert [line for line, row in zip(lines, rows, strict=True) if row is None] == []
    named = {row[1] for row in rows if row}
    given = {"img", "usm/img", "make_train/gt_in", "degrade_process/img_hwc", "noise/gauss_explicit_noise"}
    given |= {"filter2D/kernel_single", "filter2D/kernel_batch", "jpeg/batch_quality_in"}
    stored = {
        name for name in load_file(GOLDEN / "degradation.safetensors") if not re.search(r"train/\d/.*kernel", name)
    }
    assert named == stored - given
    assert summary == f"{len(lines)} of {len(lines)} ok"


def test_preset_is_the_options_of_the_script(numbers: Numbers) -> None:
    assert configured(numbers.json["make_train_args"]) == DEGRADATIONS["xpsr"]


# By section, a tensor and how far it is moved, just beyond its tolerance
MOVES = {
    "kernel": ("kernel/plateau_aniso/k13/1", 2e-12),
    "random_mixed": ("random_mixed/3", 2e-12),
    "random_kernels": ("random_kernels/2/sinc", 3e-7),
    "filter2D": ("filter2D/out_batch", 3e-6),
    "usm": ("usm/out_w1_t4", 3e-5),
    "jpeg": ("jpeg/q75", 3e-5),
    "resize": ("resize/bicubic_x0.6", 3e-6),
    "noise": ("noise/2", 3e-6),
    "make_train": ("make_train/1/lq", 3e-5),
    "degrade_process": ("degrade_process/3/lq_resize_bak_1", 3e-5),
}


@pytest.mark.parametrize("section", MOVES)
def test_moved_lost_damaged_and_unknown_tensors_are_off_and_no_others(section: str, numbers: Numbers) -> None:
    name, distance = MOVES[section]
    golden = numbers.tensors[name]
    assert off(changed(numbers, {name: golden + distance}), section) == [name]
    damaged = golden.clone()
    damaged.view(-1)[-1] = math.nan
    assert name in off(changed(numbers, {name: damaged}), section)
    assert name in off(changed(numbers, {name: golden[None]}), section)
    assert off(changed(numbers, {f"{section}/strange": golden}), section) == [f"{section}/strange"]
    lost = changed(numbers, {})
    del lost.tensors[name]
    # how many cases of these there are is up to the file
    expected = [] if section in ("usm", "jpeg", "resize") else [name]
    assert off(lost, section)[:1] == expected


INPUTS = {
    "filter2D": ("filter2D/kernel_single", "filter2D/out_single"),
    "usm": ("usm/img", "usm/out_w1_t4"),
    "jpeg": ("jpeg/batch_quality_in", "jpeg/batch_quality_after_call"),
    "noise": ("noise/gauss_explicit_noise", "noise/gauss_explicit_out"),
    "make_train": ("make_train/0/kernel1", "make_train/0/lq"),
}


@pytest.mark.parametrize("section", INPUTS)
def test_changed_input_is_told(section: str, numbers: Numbers) -> None:
    name, result = INPUTS[section]
    assert result in off(changed(numbers, {name: numbers.tensors[name] * 0.9}), section)


@pytest.mark.parametrize("kind", ["jpeg/q", "jpeg/differentiable_q", "usm/out_", "resize/area_x", "resize/bicubic_"])
def test_missing_kind_of_tensors_is_told(kind: str, numbers: Numbers) -> None:
    without = changed(numbers, {})
    without.tensors = {name: value for name, value in without.tensors.items() if not name.startswith(kind)}
    assert f"{kind}*" in off(without, kind.partition("/")[0])


VALUES: list[tuple[str, Any, str, str]] = [
    ("kernel_params/beta_plateau/1", 1.5, "kernel", "kernel/plateau_iso/k7/1"),
    ("random_mixed/1/trace/3/2", -3.0, "random_mixed", "random_mixed/1"),
    ("random_kernels/1/trace/0/2", 13, "random_kernels", "random_kernels/1/kernel1"),
    ("noise/3/seed", 7, "noise", "noise/3"),
    ("noise/1/gray_prob", 0.0, "noise", "noise/1"),
    ("noise/0/range/1", 31, "noise", "noise/0"),
    ("make_train/0/trace/2/2", "area", "make_train", "make_train/0/lq"),
    ("make_train/0/seed", 9, "make_train", "make_train/0/lq"),
    ("make_train_args/jpeg_range/1", 90, "make_train", "make_train/2/lq"),
    ("degrade_process/1/trace_of_resize_bak_True/0/2", 0.9, "degrade_process", "degrade_process/1/gt"),
]


@pytest.mark.parametrize(("place", "value", "section", "row"), VALUES, ids=[case[0] for case in VALUES])
def test_changed_value_is_told(place: str, value: Any, section: str, row: str, numbers: Numbers) -> None:
    other = changed(numbers, {})
    other.json = json.loads(json.dumps(numbers.json))
    holder = other.json
    *outer, last = (int(key) if key.isdigit() else key for key in place.split("/"))
    for key in outer:
        holder = holder[key]  # type: ignore[index]
    assert holder[last] != value  # type: ignore[index]
    holder[last] = value  # type: ignore[index]
    assert row in off(other, section)


def test_quality_100_may_be_a_picture_too(numbers: Numbers) -> None:
    assert numbers.tensors["jpeg/q100"].isnan().all()
    rows = {row.name: row for row in degradation_sections(numbers)["jpeg"](numbers)}
    assert rows["degradation:jpeg/q100"].ok
    assert off(changed(numbers, {"jpeg/q100": numbers.tensors["img"][:1]}), "jpeg") == ["jpeg/q100"]


def test_unknown_section_is_told(numbers: Numbers) -> None:
    assert off(changed(numbers, {"strange/0": torch.zeros(2)}), "strange") == ["strange/0"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "cut values": ("degradation.json", cut, "degradation.json: not JSON"),
    "no values": ("degradation.json", Path.unlink, "degradation.json"),
    "cut tensors": ("degradation.safetensors", cut, "SafetensorError"),
    "no tensors": ("degradation.safetensors", Path.unlink, "degradation.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folder_is_refused_in_one_line(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "A"))
    file, change, reason = DAMAGES[damage]
    change(folder / file)
    assert report(folder) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "0 of 1 ok"
    (line,) = captured.err.splitlines()
    assert line.startswith("OFF: degradation: inf") and reason in line


def test_section_that_fails_leaves_the_others_compared(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "A"))
    tensors = load_file(folder / "degradation.safetensors")
    del tensors["usm/img"]
    save_file(tensors, folder / "degradation.safetensors")
    assert [row.name for row in verify(folder) if not row.ok] == ["degradation:usm"]
