"""What the machine has: memory, and number types that are right and fast, found out once."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from xpsr import devices
from xpsr.devices import SelfCheck, fast_dtypes, free_memory, resolve_dtype, resolve_precision, self_check
from xpsr.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where verdicts are kept, of a processor that says to have the instructions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(devices, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("model name\t: Quick 9000\nflags\t\t: fpu avx512_bf16\n")
    self_check.cache_clear()
    yield tmp_path / "cache" / "xpsr" / "number_types.json"
    self_check.cache_clear()


def keep_verdict(place: Path, **verdict: float) -> None:
    self_check.cache_clear()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(
        json.dumps({f"Quick 9000, {torch.get_num_threads()} threads, torch {torch.__version__}, bf16": verdict})
    )


def test_bfloat16_is_measured_once_and_kept(place: Path) -> None:
    check = self_check(CPU, "bf16")
    assert check.is_right and check.error > 1e-4
    assert check.ratio > 0
    (kept,) = json.loads(place.read_text()).values()
    assert kept == {"error": check.error, "ratio": check.ratio}
    keep_verdict(place, error=0.01, ratio=5.0)
    assert self_check(CPU, "bf16") == SelfCheck(error=0.01, ratio=5.0)


def test_it_is_measured_by_one_thread_since_several_wait_for_each_other(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, counted = torch.get_num_threads(), []
    measured = SelfCheck(error=0.02, ratio=3.0)
    monkeypatch.setattr(devices, "_checked", lambda *_: counted.append(torch.get_num_threads()) or measured)
    torch.set_num_threads(2)
    try:
        self_check(CPU, "bf16")
        assert counted == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(usual)


def test_a_clock_of_the_processor_that_ticks_too_seldom_is_not_asked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = SimpleNamespace(resolution=1 / 64)  # as on Windows
    monkeypatch.setattr(time, "get_clock_info", lambda name: coarse)
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    assert self_check(CPU, "bf16").ratio > 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"KEY": []}', '{"KEY": {}}', '{"KEY": {"error": "x"}}'])
def test_a_damaged_file_is_as_none(place: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = SelfCheck(error=0.02, ratio=3.0)
    monkeypatch.setattr(devices, "_checked", lambda *_: measured)
    place.parent.mkdir(parents=True)
    place.write_text(
        content.replace("KEY", f"Quick 9000, {torch.get_num_threads()} threads, torch {torch.__version__}, bf16")
    )
    assert self_check(CPU, "bf16") == measured
    self_check.cache_clear()
    monkeypatch.setattr(devices, "_checked", lambda *_: None)
    assert self_check(CPU, "bf16") == measured


def test_auto_is_bfloat16_where_it_is_right_and_fast_and_what_is_not_is_refused(place: Path) -> None:
    keep_verdict(place, error=0.01, ratio=1.8)
    assert resolve_dtype("auto", CPU) == resolve_dtype("bf16", CPU) == "bf16"
    assert fast_dtypes(CPU) == ["fp32", "bf16"]
    for verdict, message in (
        ({"error": 0.01, "ratio": 0.3}, "is slow on this processor: 0.3 times as fast as fp32"),
        ({"error": 0.5, "ratio": 1.8}, "is wrong on this processor, by 50%"),
        ({"error": float("nan"), "ratio": 1.8}, "is wrong on this processor, by nan%"),
    ):
        keep_verdict(place, **verdict)
        assert resolve_dtype("auto", CPU) == "fp32" and fast_dtypes(CPU) == ["fp32"]
        with pytest.raises(InputError, match=rf"^dtype=bf16 {message}; use auto or fp32\.$"):
            resolve_dtype("bf16", CPU)


def test_training_takes_what_is_fast_and_says_what_is_not(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_verdict(place, error=0.01, ratio=1.8)
    assert resolve_precision("auto", CPU) == resolve_precision("bf16", CPU) == "bf16"
    assert not caplog.records
    keep_verdict(place, error=0.01, ratio=0.03)
    assert resolve_precision("auto", CPU) == "fp32" and not caplog.records
    assert resolve_precision("bf16", CPU) == "bf16"
    (record,) = caplog.records
    assert record.message == (
        "train.precision=bf16 is slow on this processor: 0.03 times as fast as fp32; auto or fp32 is faster"
    )
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


def test_a_processor_without_the_instructions_is_not_measured(place: Path) -> None:
    devices._CPUINFO.write_text("model name\t: Slow 1\nflags\t\t: fpu avx2\n")
    assert resolve_dtype("auto", CPU) == "fp32"
    with pytest.raises(InputError, match="has no instructions for it; use auto or fp32"):
        resolve_dtype("bf16", CPU)
    assert not place.exists()


def test_half_precision_is_never_for_a_cpu() -> None:
    with pytest.raises(InputError, match="about 20 times slower than fp32 on a CPU"):
        resolve_dtype("fp16", CPU)
    assert resolve_dtype("auto", torch.device("mps")) == "fp32"


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


MEMINFO = {"proc/meminfo": "MemTotal:       24683656 kB\nMemFree:  16156316 kB\nMemAvailable:   18944896 kB\n"}


def test_free_memory_is_what_the_system_calls_available(tmp_path):
    write(tmp_path, MEMINFO)
    assert free_memory(CPU, root=tmp_path) == 18944896 * 1024


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "4000000000\n", "memory.current": "1500000000\n", "memory.stat": "file 9\ninactive_file 500\n"},
        {
            "memory/memory.limit_in_bytes": "4000000000\n",
            "memory/memory.usage_in_bytes": "1500000000\n",
            "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 500\n",
        },
    ],
)
def test_a_container_that_allows_less_counts(tmp_path, files):
    write(tmp_path, MEMINFO)
    write(tmp_path / "sys/fs/cgroup", files)
    assert free_memory(CPU, root=tmp_path) == 2_500_000_500


def test_a_container_without_a_limit_does_not(tmp_path):
    write(tmp_path, MEMINFO)
    write(tmp_path / "sys/fs/cgroup", {"memory.max": "max\n", "memory.current": "1500000000\n"})
    assert free_memory(CPU, root=tmp_path) == 18944896 * 1024


def test_a_system_that_does_not_tell(tmp_path):
    assert free_memory(CPU, root=tmp_path) is None


@pytest.mark.gpu
def test_free_memory_of_a_gpu():
    assert free_memory(torch.device("cuda:0")) > 0
