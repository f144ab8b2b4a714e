"""Pairs a second of the degradation on one thread, by the processor's time, so that other work counts less.

python -m benchmarks.degradation PICTURE
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch

from benchmarks.tables import markdown_table
from xpsr.config import DEGRADATIONS, DegradationConfig
from xpsr.degradation import degrade, degrade_batch

BATCH = {128: 16, 512: 4}


def measure(run: Callable[[int], int]) -> float:
    """Pairs a second of CPU time; `run` takes a seed and returns how many pairs it made."""
    run(0)
    start, pairs, seed = time.process_time(), 0, 1
    while time.process_time() < start + 2:
        pairs, seed = pairs + run(seed), seed + 1
    return pairs / (time.process_time() - start)


def degrade_one(picture: np.ndarray, config: DegradationConfig, seed: int) -> int:
    degrade(picture, config, torch.Generator().manual_seed(seed))
    return 1


def degrade_many(images: torch.Tensor, config: DegradationConfig, share: bool, seed: int) -> int:
    generators = [torch.Generator().manual_seed(len(images) * seed + index) for index in range(len(images))]
    degrade_batch(images, config, generators, shared=torch.Generator().manual_seed(seed) if share else None)
    return len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", help="reduced to 128 x 128 and 512 x 512")
    photo = cv2.imread(parser.parse_args().picture)
    assert photo is not None, "not a picture"
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table: dict[str, dict[str, str]] = {}
    for size, count in BATCH.items():
        picture = cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA)[..., ::-1].copy()
        images = (torch.from_numpy(picture).permute(2, 0, 1).float() / 255).expand(count, -1, -1, -1)
        for name, config in DEGRADATIONS.items():
            ways = {
                "one": partial(degrade_one, picture, config),
                "batch": partial(degrade_many, images, config, False),
                "batch, shared draws": partial(degrade_many, images, config, True),
            }
            table[f"{size} to {size // 4}, {name}"] = {way: f"{measure(run):.3g}" for way, run in ways.items()}
    print(markdown_table(table, "pairs/s"))


if __name__ == "__main__":
    main()
