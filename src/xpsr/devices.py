"""Which device, which number type, and which of them the hardware computes with fast."""

import logging
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from xpsr.caches import keep, kept
from xpsr.errors import InputError

__all__ = [
    "Dtype",
    "Offload",
    "SelfCheck",
    "WeightsDtype",
    "devices",
    "fast_dtypes",
    "free_memory",
    "has_float64",
    "processor_name",
    "ran_out_of_memory",
    "resolve_device",
    "resolve_dtype",
    "resolve_offload",
    "resolve_precision",
    "resolve_weights_dtype",
    "self_check",
    "torch_dtype",
]

logger = logging.getLogger(__name__)

Dtype = Literal["fp32", "bf16", "fp16"]
WeightsDtype = Literal["fp32", "bf16", "fp16", "fp8"]
Offload = Literal["none", "model", "group"]
"""What of a model waits in the computer's memory while the rest is on the device: nothing, networks, layers."""

_TORCH_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}
_NO_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    # oneDNN's, which does not say why
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
    # of CUDA's libraries, for their own room
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # as Linux calls them: x86, x86, ARM
_CPUINFO = Path("/proc/cpuinfo")  # of Linux; elsewhere nothing public tells

_TOLERANCE = 0.02
"""Largest error that is right: four times what bfloat16 shows where nothing but rounding is wrong."""
_FAST = 1.1
_HOPELESS = 0.25


def devices() -> list[str]:
    """Returns the devices of this machine, the fastest first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def processor_name() -> str:
    """Returns what the system calls this machine's processor; Python knows it on few."""
    with suppress(OSError):
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
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


def ran_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that there was no memory left, which torch says in several ways."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(sign in str(error) for sign in _NO_MEMORY)


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

    Whether it is, `self_check` tells, which takes a second or so the first time on a processor that has instructions
    for it.

    Raises:
        InputError: there is none of that name, or on a CPU fp16, or bf16 that is slow or wrong there.
    """
    if str(name) not in ("auto", *get_args(Dtype)):
        message, remedy = "is not one of auto, fp32, bf16, fp16", "use auto, fp32 or bf16"
        raise InputError(message, code="unknown_value", field="dtype", value=str(name), remedy=remedy)
    if device.type == "cpu" and name == "fp16":
        slow = "is about 20 times slower than fp32 on a CPU"
        raise InputError(slow, code="conflict", field="dtype", value=name, remedy="use auto, fp32 or bf16")
    if device.type == "cpu" and name == "bf16" and (fault := _bf16_fault(device)):
        raise InputError(fault, code="conflict", field="dtype", value=name, remedy="use auto or fp32")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "fp16"
    return "bf16" if device.type == "cpu" and "bf16" in fast_dtypes(device) else "fp32"


def resolve_precision(name: Dtype | Literal["auto"], device: torch.device) -> Dtype:
    """Returns the number type in which to train; "auto" is bfloat16 where the device is fast in it, else float16 on
    CUDA and float32 elsewhere. What is slow is told in a warning."""
    if name == "bf16" and device.type == "cpu" and (fault := _bf16_fault(device)):
        logger.warning("train.precision=bf16 %s; auto or fp32 is faster", fault)
    if name != "auto":
        return name
    if "bf16" in fast_dtypes(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def resolve_weights_dtype(name: WeightsDtype | Literal["auto"], dtype: Dtype) -> WeightsDtype:
    """Returns the number type in which weights lie in memory; "auto" is that of the arithmetic, which is fastest.

    Raises:
        InputError: there is none of that name, or it takes more memory than that of the arithmetic and gives nothing.
    """
    if str(name) not in ("auto", *get_args(WeightsDtype)):
        message, remedy = "is not one of auto, fp32, bf16, fp16, fp8", "use auto"
        raise InputError(message, code="unknown_value", field="weights_dtype", value=str(name), remedy=remedy)
    if name == "auto":
        return dtype
    if name != dtype and torch_dtype(name).itemsize >= torch_dtype(dtype).itemsize:
        message, remedy = f"saves nothing where dtype is {dtype}", f"use auto{'' if dtype == 'fp32' else ' or fp8'}"
        raise InputError(message, code="conflict", field="weights_dtype", value=name, remedy=remedy)
    return name


def resolve_offload(name: Offload, device: torch.device) -> Offload:
    """Returns how a model's parts wait beside a device.

    Raises:
        InputError: there is none of that name, or nothing beside the device: a CPU.
    """
    if str(name) not in get_args(Offload):
        message = "is not one of none, model, group"
        raise InputError(message, code="unknown_value", field="offload", value=str(name), remedy="use none")
    if name != "none" and device.type == "cpu":
        message = "is for graphics cards: a CPU has no other memory to wait in"
        raise InputError(
            message, code="conflict", field="offload", value=name, remedy="use none, or weights_dtype=bf16"
        )
    return name


def torch_dtype(name: Dtype | WeightsDtype) -> torch.dtype:
    """Returns torch's own name for a number type."""
    return _TORCH_DTYPES[name]


def fast_dtypes(device: torch.device) -> list[Dtype]:
    """Returns the number types that the hardware itself computes with; the others work, but slowly."""
    if device.type == "cpu":
        return ["fp32"] if _bf16_fault(device) else ["fp32", "bf16"]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return ["fp32", "fp16", "bf16"]
    return ["fp32", "fp16"]


def has_float64(device: torch.device) -> bool:
    """Returns whether the device computes in double precision at all; Apple's do not."""
    return device.type != "mps"


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """How a device computes in a number type, against float32 on the same device.

    Attributes:
        error: root mean square of the difference in a small block of layers, as a share of what the block gives.
        ratio: how many times as fast as float32 the slower of a matrix product and a convolution is.
    """

    error: float
    ratio: float

    @property
    def is_right(self) -> bool:
        """Whether the error is what rounding makes; NaN is not."""
        return self.error <= _TOLERANCE

    @property
    def is_fast(self) -> bool:
        """Whether both are faster."""
        return self.ratio >= _FAST


@lru_cache
def self_check(device: torch.device, dtype: Dtype) -> SelfCheck:
    """Returns how a device does in a number type; measured once, and kept in the user's cache for this processor and
    version of torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    key = f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}"
    found = kept("number_types.json", _is_check).get(key)
    if found is not None:
        return SelfCheck(**found)
    with _one_thread() if device.type == "cpu" else nullcontext():
        check = _checked(device, torch_dtype(dtype))
    keep("number_types.json", key, asdict(check), _is_check)
    return check


def _is_check(entry: object) -> bool:
    names = {field.name for field in fields(SelfCheck)}
    return isinstance(entry, dict) and entry.keys() == names and all(type(one) is float for one in entry.values())


def _bf16_fault(device: torch.device) -> str | None:
    """What is wrong with bfloat16 on this processor, or None."""
    flags = _CPUINFO.read_text(encoding="utf-8", errors="replace").split() if _CPUINFO.is_file() else None
    if flags is not None and _BF16_FLAGS.isdisjoint(flags):
        return "is slow on this processor, which has no instructions for it"
    check = self_check(device, "bf16")
    if not check.is_right:
        return f"is wrong on this processor, by {check.error:.0%}"
    return None if check.is_fast else f"is slow on this processor: {check.ratio:.2g} times as fast as fp32"


@torch.no_grad()
def _checked(device: torch.device, dtype: torch.dtype) -> SelfCheck:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def of_block(pixels: torch.Tensor, kernel: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        hidden = F.silu(F.group_norm(F.conv2d(pixels, kernel, padding=1), 4))
        tokens = F.linear(hidden.flatten(2).transpose(1, 2), square)  # (B, C, H, W) -> (B, H*W, C)
        heads = tokens.unflatten(-1, (2, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads).float()

    block = draw(1, 32, 8, 8), draw(32, 32, 3, 3) / 17, draw(32, 32) / 6
    expected, found = of_block(*block), of_block(*(value.to(dtype) for value in block))
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())

    small = draw(1, 32, 32, 32), draw(32, 32, 3, 3)
    image, tokens = (draw(1, 128, 32, 32), draw(128, 128, 3, 3)), (draw(1024, 512), draw(512, 512))
    ratios = []
    for layer, values in ((F.conv2d, small), (F.conv2d, image), (F.linear, tokens)):
        ratios.append(_seconds(layer, values) / _seconds(layer, tuple(value.to(dtype) for value in values)))
        if ratios[-1] < _HOPELESS:  # without instructions for it a convolution takes 200 times as long
            return SelfCheck(error=error, ratio=ratios[-1])
    return SelfCheck(error=error, ratio=min(ratios[1:]))


def _seconds(layer: Callable[..., torch.Tensor], values: tuple[torch.Tensor, ...]) -> float:
    """Least of what a layer takes; the first time, which chooses how it is computed, does not count.

    On a CPU, of its own time, where it is counted finely: what is found is kept, and what else the machine does just
    then is soon over.
    """
    is_fine = time.get_clock_info("process_time").resolution < 1e-4  # Windows counts in 64ths of a second
    clock = time.process_time if values[0].device.type == "cpu" and is_fine else time.perf_counter
    taken: list[float] = []
    while len(taken) < 4 or (len(taken) < 20 and sum(taken) < 0.1):
        start = clock()
        layer(*values)[..., :1].cpu()  # which waits for the device
        taken.append(clock() - start)
    return min(taken[1:])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several would wait for each other, which counts as their time, where the machine has other things to do."""
    with _COUNTING:
        usual = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(usual)


_COUNTING = threading.Lock()  # or the second to come would take one thread for the usual number
