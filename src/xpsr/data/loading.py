"""From a config to batches: which dataset, and who of all ranks and workers reads which sample."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from xpsr.config import DataConfig
from xpsr.data.crops import CropDataset
from xpsr.data.pairs import FolderStore, PairDataset
from xpsr.data.samples import Batch, Collate, Sample
from xpsr.data.shards import ShardStore
from xpsr.data.workers import Reporting, iterate, start_worker
from xpsr.errors import InputError

__all__ = ["Loader", "RankBatches", "build_dataset", "build_loader"]


def build_dataset(config: DataConfig, *, seed: int) -> Dataset[Sample]:
    """Returns the endless dataset that `config` names: stored pairs, shards, or pictures that are degraded on the fly.

    Raises:
        TrainingError: see `CropDataset`, `FolderStore` and `ShardStore`.
        InputError: a file or folder that is named is not there, or a damaged manifest, index, shard or file of priors.
    """
    if config.pairs is not None:
        return PairDataset(FolderStore(config.pairs, config), config, seed=seed)
    if config.shards:
        return PairDataset(ShardStore(config), config, seed=seed)
    return CropDataset(config, seed=seed)


class RankBatches(Sampler[list[int]]):
    """The batches of one rank, as lists of sample numbers.

    The samples start, start + 1, …, stop - 1 are cut into slices of `batch_size`, and rank r of n takes the slices r,
    r + n, r + 2n …: what all ranks read in one step are `batch_size * n` samples in a row. If `stop - start` is a
    multiple of that, all ranks have the same number of full batches.
    """

    def __init__(self, start: int, stop: int, *, batch_size: int, rank: int = 0, world_size: int = 1):
        if not 0 <= rank < world_size:
            limit, remedy = f"is not in [0, {world_size - 1}]", "ranks count from 0"
            raise InputError(limit, code="out_of_range", field="rank", value=str(rank), remedy=remedy)
        if batch_size < 1:
            limit, remedy = "is less than one", "use 1 or more"
            raise InputError(limit, code="out_of_range", field="batch_size", value=str(batch_size), remedy=remedy)
        self.stop, self.batch_size = stop, batch_size
        self._starts = range(start + rank * batch_size, stop, batch_size * world_size)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, min(start + self.batch_size, self.stop))) for start in self._starts)

    def __len__(self) -> int:
        return len(self._starts)


class Loader:
    """Iterates over batches; an error of a worker is raised as it was, in one line."""

    def __init__(self, loader: "DataLoader[Sample]"):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return iterate(self._loader)


def build_loader(
    dataset: Dataset[Sample],
    collate: Collate,
    *,
    batch_size: int,
    start: int = 0,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> Loader:
    """Returns the batches of the samples `start` … `stop` - 1 that are this rank's, in order.

    Args:
        dataset: what `build_dataset` gave.
        collate: knows the tokenizer.
        batch_size: of one rank.
        start: how many samples all ranks together have seen before; a run goes on there.
        stop: the sample to stop before; a multiple of `batch_size * world_size` after `start` gives all ranks as much.
        rank: this process among `world_size`, from 0.
        world_size: how many processes share the samples.
        num_workers: processes that read ahead, two batches each; 0 reads in this one.
        pin_memory: for a GPU.
        start_method: how workers start: "fork", "spawn" …; None: torch's default.

    Raises:
        InputError: `rank` or `batch_size` out of range.
    """
    return Loader(
        DataLoader(
            Reporting(dataset),
            batch_sampler=RankBatches(start, stop, batch_size=batch_size, rank=rank, world_size=world_size),
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # or it draws from the global generator, whose state a checkpoint holds
            multiprocessing_context=start_method if num_workers else None,
        )
    )
