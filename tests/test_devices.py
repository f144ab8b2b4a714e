"""What the machine has."""

import pytest
import torch

from xpsr.devices import free_memory

CPU = torch.device("cpu")


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
