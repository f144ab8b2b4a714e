"""Seconds and memory of `xpsr evaluate` over many pictures: `python -m benchmarks.evaluation [--pictures 1000]`.

Pictures of 512 x 512 are made up in a temporary folder, with inputs of a quarter of the size, and scored by a process
with 1 and 2 workers. Meanwhile the memory of all these processes together is read every half second (PSS, in which
pages that several share count once; Linux). Prints a JSON line for each run, then a table: what is no more in the last
quarter of a run than in the second does not grow with the number of pictures. Seconds of the processors, of which
others take none away, stand beside those of the clock.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.memory import tree_memory
from benchmarks.reporting import machine
from benchmarks.tables import markdown_table

SIZE, SCALE = 512, 4
WANTED = ("psnr_y", "ssim_y", "niqe", "lr_psnr")
PACKAGES = ("xpsr", "torch", "numpy", "pillow")


def make_up(folder: Path, count: int) -> None:
    """Originals with detail at all scales, noisy results, and inputs."""
    for name in ("hr", "sr", "lr"):
        (folder / name).mkdir()
    generator, base = np.random.default_rng(0), np.zeros((SIZE, SIZE, 3))
    for cells in (8, 64, 256):
        coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        base += np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float) / cells**0.5
    base = np.tile(base * 240 / base.max(), (2, 2, 1)).astype(np.uint8)
    noise = generator.integers(0, 16, (2 * SIZE, 2 * SIZE, 3), dtype=np.uint8)
    for number in range(count):  # each another part of the same
        (top, left), (down, right) = generator.integers(0, SIZE, (2, 2))
        hr = base[top : top + SIZE, left : left + SIZE]
        sr = hr + noise[down : down + SIZE, right : right + SIZE]
        lr = Image.fromarray(hr).resize((SIZE // SCALE,) * 2, Image.Resampling.BICUBIC)
        for name, picture in (("hr", Image.fromarray(hr)), ("sr", Image.fromarray(sr)), ("lr", lr)):
            picture.save(folder / name / f"{number:04}.png", compress_level=1)


def processor_seconds() -> float:
    """Of all processes that have been started here and ended, and of those that they started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(folder: Path, workers: int) -> tuple[float, float, list[int]]:
    """Seconds of a run by the clock and of the processors, and its memory over time."""
    command = [sys.executable, "-m", "xpsr", "evaluate", "--pred", "sr", "--ref", "hr", "--lr", "lr", "--no-page"]
    command += ["--metrics", ",".join(WANTED), "--workers", str(workers), "-o", f"report{workers}", "--quiet"]
    start, before, samples = time.perf_counter(), processor_seconds(), []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            samples.append(tree_memory(process.pid))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"xpsr evaluate ended with {process.returncode}")
    return time.perf_counter() - start, processor_seconds() - before, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    facts = machine(PACKAGES)
    table = {}
    with tempfile.TemporaryDirectory() as temporary:
        make_up(Path(temporary), args.pictures)
        for workers in args.workers:
            seconds, busy, samples = measure(Path(temporary), workers)
            quarters = [max(part) // 2**20 for part in map(list, np.array_split(samples, 4))]
            row = {"pictures": args.pictures, "workers": workers, "seconds": round(seconds, 1), "metrics": WANTED}
            row["processor_seconds"] = round(busy, 1)
            print(json.dumps({**row, "peak_mib_by_quarter": [int(peak) for peak in quarters], **facts}), flush=True)
            columns = {"seconds": f"{seconds:.0f}", "of the processors": f"{busy:.0f}"}
            columns |= {f"peak of quarter {number}, MiB": f"{peak}" for number, peak in enumerate(quarters, 1)}
            table[f"{workers} workers"] = columns
    print(f"\n{markdown_table(table, ', '.join(WANTED))}")


if __name__ == "__main__":
    main()
