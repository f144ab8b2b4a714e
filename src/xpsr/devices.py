"""Which device, which number type, and which of them the hardware computes with fast."""

import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import torch

from xpsr.errors import InputError

__all__ = [
    "Dtype",
    "devices",
    "fast_dtypes",
    "free_memory",
    "has_float64",
    "processor_name",
    "resolve_device",
    "resolve_dtype",
    "torch_dtype",
]

Dtype = Literal["fp32", "bf16", "fp16"]

_TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FAST_BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # as Linux calls them: x86, x86, ARM


def devices() -> list[str]:
    """Returns the devices of this machine, the fastest first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def processor_name() -> str:
    """Returns what the system calls this machine's processor; Python knows it on few."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def free_memory(device: torch.device, *, root: Path = Path("/")) -> int | None:
    """Returns how many bytes a process may still take on a device; None: the system does not tell.

    On a CPU that is what the machine has free, or less where a container allows less.

    Args:
        device: which one.
        root: where the system's files are.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = _number(root / "proc/meminfo", r"MemAvailable:\s+(\d+) kB")
    found = [] if available is None else [available * 1024]
    groups = root / "sys/fs/cgroup"
    for limit, used, counts, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        most, taken = _number(groups / limit, r"(\d+)"), _number(groups / used, r"(\d+)")
        if most is not None and taken is not None:  # of which files that are only cached are given back
            found.append(max(most - taken + (_number(groups / counts, rf"{cached} (\d+)") or 0), 0))
    return min(found, default=None)


def _number(path: Path, pattern: str) -> int | None:
    """The number that a line of one of the system's files says."""
    with suppress(OSError):
        found = re.search(rf"^{pattern}", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        return None if found is None else int(found[1])
    return None


def resolve_device(name: str | torch.device) -> torch.device:
    """Returns the device of that name; "auto" is the fastest one, "cuda" the first of them.

    Raises:
        InputError: it is not there; those that are, are listed.
    """
    found = devices()
    name = str(name)  # of a `torch.device` its name
    wanted = {"auto": found[0], "cuda": "cuda:0"}.get(name, name)
    if wanted not in found:
        there = f"this machine has: {', '.join(found)}"
        raise InputError("is not there", code="no_device", field="device", value=name, remedy=there)
    return torch.device(wanted)


def resolve_dtype(name: Dtype | Literal["auto"], device: torch.device) -> Dtype:
    """Returns the number type of that name; "auto" is half precision on CUDA, and on a CPU bfloat16 where it is fast.

    Raises:
        InputError: there is none of that name, or fp16 on a CPU.
    """
    if str(name) not in ("auto", *get_args(Dtype)):
        message, remedy = "is not one of auto, fp32, bf16, fp16", "use auto, fp32 or bf16"
        raise InputError(message, code="unknown_value", field="dtype", value=str(name), remedy=remedy)
    if device.type == "cpu" and name == "fp16":
        slow = "is about 20 times slower than fp32 on a CPU"
        raise InputError(slow, code="conflict", field="dtype", value=name, remedy="use auto, fp32 or bf16")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "fp16"
    return "bf16" if device.type == "cpu" and "bf16" in fast_dtypes(device) else "fp32"


def torch_dtype(name: Dtype) -> torch.dtype:
    """Returns torch's own name for a number type."""
    return _TORCH_DTYPES[name]


def fast_dtypes(device: torch.device) -> list[Dtype]:
    """Returns the number types that the hardware itself computes with; the others work, but slowly."""
    if device.type == "cpu":
        cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere nothing public tells
        flags = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.is_file() else []
        return ["fp32"] if _FAST_BF16_FLAGS.isdisjoint(flags) else ["fp32", "bf16"]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return ["fp32", "fp16", "bf16"]
    return ["fp32", "fp16"]


def has_float64(device: torch.device) -> bool:
    """Returns whether the device computes in double precision at all; Apple's do not."""
    return device.type != "mps"
