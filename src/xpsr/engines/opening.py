"""An ONNX file opened in an engine: tensors in, a tensor out. Any number of threads may call one at once."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from xpsr.caches import cache_folder
from xpsr.devices import Dtype

__all__ = ["Engine", "Run", "open_onnx", "open_openvino"]

Engine: TypeAlias = Literal["torch", "openvino", "onnx"]
"""What computes a model's networks."""

Run: TypeAlias = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
"""A graph's call: float32 tensors on the CPU by the names of the inputs, to its only output."""


def open_onnx(path: Path) -> Run:
    """Opens a file in onnxruntime, on the CPU with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors, which it raises as well
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        (output,) = session.run(None, {name: value.contiguous().numpy() for name, value in inputs.items()})
        return torch.from_numpy(output)

    return run


def open_openvino(path: Path, *, dtype: Dtype) -> Run:
    """Opens a file in OpenVINO, on the CPU with as many threads as torch has; what it compiles stays in the cache."""
    import openvino

    compiled = openvino.Core().compile_model(
        str(path),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[dtype],
            **_cache(),
        },
    )
    requests = threading.local()  # one holds the memory of a run, and serves one thread at a time

    def run(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        given = {name: value.contiguous().numpy() for name, value in inputs.items()}
        return torch.from_numpy(requests.own.infer(given, share_inputs=True)[0])

    return run


def _cache() -> dict[str, str]:
    try:
        return {"CACHE_DIR": str(cache_folder("openvino"))}
    except RuntimeError:  # a user without a home
        return {}
