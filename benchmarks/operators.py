"""What operators a call is made of: how many FLOPs it counts, and which kinds take its time."""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

KINDS = ("convolution", "matmul", "attention", "norm", "elementwise", "copy/layout", "other")

# The first that is found in an operator's name, without `aten::`, says what it is
_NAMES = (
    ("attention", r"attention|softmax|fmha|flash"),
    ("norm", r"(batch|group|layer|rms|instance)_norm|GroupNorm|LayerNorm|RowwiseMoments|var_mean|native_norm"),
    ("convolution", r"conv|im2col|col2im|slow_conv|xnn|winograd|implicit"),
    ("matmul", r"(^|_)(mm|addmm|bmm|baddbmm|matmul|linear|einsum|gemm|gemv)|mkl_|gemm|cutlass|xmma"),
    (
        "copy/layout",
        r"copy|clone|contiguous|^cat$|^stack$|pad|reorder|index|gather|scatter|slice|permute|transpose|reshape|view"
        r"|^to$|memcpy|memset|empty|fill|zero|repeat|expand|unfold|roll|flip|shuffle|as_strided|CatArray|resize_",
    ),
    (
        "elementwise",
        r"^(add|sub|rsub|mul|div|pow|sqrt|rsqrt|exp|log|sin|cos|abs|neg|sign|clamp|clip|where|lerp|addcmul|addcdiv|round"
        r"|floor|ceil|frac|sigmoid|silu|gelu|relu|leaky_relu|tanh|erf|softplus|hardswish|maximum|minimum|lt|gt|le|ge|eq"
        r"|ne|isfinite|bitwise|logical|masked|sum|mean|max|min|all|any|prod|std|var)(_|$)|elementwise|vectorized|reduce",
    ),
)
_PATTERNS = tuple((kind, re.compile(names)) for kind, names in _NAMES)


def kind_of(operator: str) -> str:
    """Returns which of `KINDS` an operator or kernel of torch's profiler is."""
    name = operator.rpartition("::")[2] if operator.startswith(("aten::", "mkldnn::")) else operator
    return next((kind for kind, pattern in _PATTERNS if pattern.search(name)), "other")


def count_flops(run: Callable[[], Any]) -> float:
    """Calls `run` once, uncompiled; returns the FLOPs of its products, convolutions and attentions.

    A multiplication with its addition counts as two; what is done element by element is not counted.
    """

    def attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        # torch counts that of CUDA; upstream calls this with all that the operator is given
        return int(sdpa_flop_count(query, key, value))

    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        run()
    return float(counter.get_total_flops())


def operator_shares(run: Callable[[], Any], device: torch.device, *, runs: int) -> dict[str, float]:
    """Calls `run` some times; returns what share of its operators' own time each of `KINDS` takes, those that take any.

    On CUDA it is the time of the kernels.
    """
    is_cuda = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    if is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        for _ in range(runs):
            run()
        if is_cuda:
            torch.cuda.synchronize(device)
    times: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        if is_cuda and event.device_type.name == "CUDA":
            times[kind_of(event.key)] += event.self_device_time_total
        elif not is_cuda:
            times[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(times.values())
    return {kind: times[kind] / total for kind in KINDS if times[kind]}
