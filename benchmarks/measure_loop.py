"""How much the training loop costs beside the arithmetic.

    python -m benchmarks.measure_loop configs/mini/2_join.yaml

Runs the loop on batches that are ready and takes the time of forward, backward, clipping and AdamW inside it; what is
left is the loop's own. In seconds of this process's CPU time, all taken at the same moments, so that other work on the
machine disturbs the shares little. Also says what making a batch costs, which workers do beside it.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from xpsr.config import TrainRunConfig, load_config
from xpsr.data import Sample, build_dataset
from xpsr.training import XPSRLoss, build_components, train

WARM = 2  # updates that do not count


class Ready(Dataset[Sample]):
    """Samples that were made before, again and again."""

    def __init__(self, samples: list[Sample]):
        self.samples = samples

    def __getitem__(self, index: int) -> Sample:
        return dataclasses.replace(self.samples[index % len(self.samples)], index=index)


class Clock:
    """When calls of a method began and how long they took."""

    def __init__(self, owner: type, name: str):
        self.began: list[float] = []
        self.took: list[float] = []
        original = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            self.began.append(time.process_time())
            result = original(*args, **options)
            self.took.append(time.process_time() - self.began[-1])
            return result

        setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--updates", type=int, default=30)
    args, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        overrides += [f"--train.output_dir={temporary}", f"--train.max_steps={args.updates}", "--train.device=cpu"]
        overrides += ["--train.gradient_accumulation_steps=1", "--train.checkpoint_every=1000000"]
        config = load_config(TrainRunConfig, args.config, overrides)
        dataset = build_dataset(config.data, seed=0)
        started = time.process_time()
        samples = [dataset[index] for index in range(4 * config.train.batch_size)]
        making = (time.process_time() - started) / 4
        components = build_components(config.model, torch.stack([sample.hr for sample in samples]).float() / 255)
        clocks = {
            "forward": Clock(XPSRLoss, "forward"),
            "backward": Clock(Accelerator, "backward"),
            "clipping": Clock(Accelerator, "clip_grad_norm_"),
            "AdamW": Clock(torch.optim.AdamW, "step"),
        }
        train(config, components, export=lambda *_: None, device=torch.device("cpu"), dataset=Ready(samples))
    began = clocks["forward"].began
    whole = (began[-1] - began[WARM]) / (len(began) - 1 - WARM)
    parts = {name: float(np.mean(clock.took[WARM:-1])) for name, clock in clocks.items()}
    own = whole - sum(parts.values())
    for name, seconds in {**parts, "the loop's own": own}.items():
        print(f"{name:15} {seconds:.4f} s an update, {seconds / whole:6.1%}")
    print(
        f"on forward and backward, and on these with clipping and AdamW, the loop's own is"
        f" {own / (parts['forward'] + parts['backward']):+.1%} and {own / (whole - own):+.1%}"
    )
    print(f"making a batch  {making:.4f} s, beside it with train.num_workers")


if __name__ == "__main__":
    main()
