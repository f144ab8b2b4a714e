"""Samples a second that the training data gives on this machine: `python -m benchmarks.data [--photos DIR]`.

Each source (degraded on the fly, stored pairs, shards) is read by 0, 1 and 2 workers, for some seconds each, as
`xpsr train` reads it: crops of 128 x 128 with texts as token ids, in batches. Prints a JSON line for each, then a
table.
Without --photos, 64 pictures of 512 x 512 are made up; real photographs compress and degrade like real ones.

Also the speed of `xpsr degrade`, in pairs a second of 512 x 512 and 128 x 128.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from transformers import CLIPTokenizer

from benchmarks.reporting import machine
from benchmarks.tables import markdown_table
from xpsr.config import DataConfig, PairsConfig
from xpsr.data import Collate, build_dataset, build_loader, make_pairs
from xpsr.model_files import bundled_models

NUM_PICTURES, SIZE = 64, 512
PACKAGES = ("xpsr", "torch", "opencv-python-headless", "pillow")


def make_up(folder: Path) -> Path:
    """Pictures with detail at all scales."""
    folder.mkdir()
    for seed in range(NUM_PICTURES):
        generator, pixels = np.random.default_rng(seed), np.zeros((SIZE, SIZE, 3))
        for cells in (4, 16, 64, 256):
            coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            pixels += np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float) * 2 / cells**0.5
        Image.fromarray((pixels / pixels.max() * 255).astype(np.uint8)).save(folder / f"{seed:03}.png")
    return folder


def measure(config: DataConfig, collate: Collate, *, batch_size: int, num_workers: int, seconds: float) -> float:
    """Samples a second after the first batch of every worker, which waits for it to start."""
    dataset = build_dataset(config, seed=0)
    batches = iter(build_loader(dataset, collate, batch_size=batch_size, stop=10**9, num_workers=num_workers))
    for _ in range(2 * num_workers + 1):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += len(next(batches).indices)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of pictures to use instead")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each measurement (default: 10)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    collate = Collate(CLIPTokenizer.from_pretrained(bundled_models()["mini"] / "tokenizer"))
    facts = machine(PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = args.photos or make_up(folder / "photos")
        for name, shard_size in (("stored", None), ("shards", 32)):
            options = PairsConfig(num_per_image=1, crop_size=SIZE, shard_size=shard_size)
            start = time.perf_counter()
            made = make_pairs(photos, folder / name, options)
            speed = made.num_pairs / (time.perf_counter() - start)
            print(json.dumps({"degrade": name, "pairs_per_second": round(speed, 1), **facts}), flush=True)
        configs = {
            "on the fly": DataConfig(hr_dir=photos),
            "stored": DataConfig(pairs=folder / "stored"),
            "shards": DataConfig(shards=(str(folder / "shards"),)),
        }
        table: dict[str, dict[str, str]] = {name: {} for name in configs}
        for (name, config), workers in itertools.product(configs.items(), args.workers):
            speed = measure(config, collate, batch_size=args.batch_size, num_workers=workers, seconds=args.seconds)
            table[name][f"{workers} workers"] = f"{speed:.0f}"
            row = {"source": name, "workers": workers, "samples_per_second": round(speed, 1), **facts}
            print(json.dumps(row), flush=True)
    print(f"\n{markdown_table(table, 'samples/s')}")


if __name__ == "__main__":
    main()
