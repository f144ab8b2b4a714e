"""How much the training loop costs beside the arithmetic: `python scripts/measure_loop.py configs/train_mini.yaml`.

Compares, per update and in seconds of this process's CPU time, which other work on the machine disturbs little: forward
and backward of `XPSRLoss` alone; those with clipping and AdamW; the whole loop on batches that are ready; and what
making a batch costs, which workers do beside it.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from xpsr.config import TrainRunConfig, load_config
from xpsr.data import Collate, CropDataset, Sample, generator_for
from xpsr.training import Components, Share, XPSRLoss, build_components, build_optimizer, engine, optimizer_step


class Ready(CropDataset):
    """Samples that were made before."""

    samples: tuple[Sample, ...] = ()

    def __getitem__(self, index: int) -> Sample:
        return dataclasses.replace(self.samples[index % len(self.samples)], index=index)


def seconds(function: Callable[[], None], *, repeats: int) -> float:
    function()  # warm
    started = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - started) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--updates", type=int, default=20)
    args, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        config = load_config(TrainRunConfig, args.config, [*overrides, f"--train.output_dir={temporary}"])
        rows, precision = config.train.batch_size, config.train.precision
        dataset = CropDataset(config.data, seed=0)
        started = time.process_time()
        Ready.samples = tuple(dataset[index] for index in range(4 * rows))
        making = (time.process_time() - started) / 4

        def components() -> Components:
            torch.manual_seed(0)
            return build_components(config.model, torch.stack([s.hr for s in Ready.samples]).float() / 255)

        parts = components()
        loss = XPSRLoss(parts, config.effective_loss, config.model.one_step_timestep, None)
        loss.parts.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        batch = Collate(parts.tokenizer)(Ready.samples[:rows])
        parameters = [p for p in loss.parts.parameters() if p.requires_grad]
        optimizer = build_optimizer(parameters, config.optimizer)

        def forward_backward() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                total = loss(batch, generator_for(0), Share(0, rows, rows)).total()
            total.backward()

        def update() -> None:
            forward_backward()
            optimizer_step(optimizer, parameters, learning_rate=1e-5, max_grad_norm=1.0)

        bare = [seconds(function, repeats=args.updates) for function in (forward_backward, update)]
        engine.CropDataset = Ready  # type: ignore[misc]
        took = []
        for steps in (2, 2 + args.updates):  # the difference leaves out what happens once
            run = dataclasses.replace(
                config.train, max_steps=steps, checkpoint_every=10**9, resume="never", device="cpu", num_workers=0
            )
            fresh = components()
            started = time.process_time()
            engine.train(
                dataclasses.replace(config, train=run), fresh, export=lambda *_: None, device=torch.device("cpu")
            )
            took.append(time.process_time() - started)
        loop = (took[1] - took[0]) / args.updates
    print(f"forward and backward       {bare[0]:.4f} s an update")
    print(f"with clipping and AdamW    {bare[1]:.4f} s")
    print(f"the loop on ready batches  {loop:.4f} s, {loop / bare[1] - 1:+.1%} on the former")
    print(f"making a batch             {making:.4f} s, beside it with train.num_workers")


if __name__ == "__main__":
    main()
