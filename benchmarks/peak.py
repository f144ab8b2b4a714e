"""The most arithmetic that this machine does in a second, measured: what shares of a peak are shares of."""

import time
from dataclasses import dataclass

import torch

_SIDES = (1024, 1536, 2048, 3072, 4096)
_REPEATS = 3
_PATIENCE = 3.0  # seconds for one product, above which larger ones are left out


@dataclass(frozen=True, kw_only=True)
class Peak:
    """FLOP a second of the best product of two square matrices, of side `side`."""

    flops: float
    side: int


def matrix_peak(device: torch.device, dtype: torch.dtype, sides: tuple[int, ...] = _SIDES) -> Peak:
    """Returns the best of warm products of several sides, in `dtype`, on as many threads as torch has now.

    It is no upper bound: a convolution of a small picture, which fits into the caches, may be faster.
    """
    best = Peak(flops=0, side=0)
    for side in sides:
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        seconds = min(_multiply(a, b) for _ in range(_REPEATS + 1))
        if (flops := 2 * side**3 / seconds) > best.flops:
            best = Peak(flops=flops, side=side)
        if seconds > _PATIENCE:
            break
    return best


def _multiply(a: torch.Tensor, b: torch.Tensor) -> float:
    """Seconds."""
    start = time.perf_counter()
    a @ b
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start
