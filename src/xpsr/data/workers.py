"""Worker processes: what they share with whoever started them, and how their errors come back."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from xpsr.errors import XPSRError

__all__ = ["Reporting", "iterate", "start_worker"]

T = TypeVar("T")


class Reporting(Dataset[T]):
    """A dataset whose errors, raised on purpose, `iterate` gets out of a worker with all their parts."""

    def __init__(self, dataset: Dataset[T]):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]  # asked only of datasets that have an end

    def __getitem__(self, index: int) -> T:
        try:
            return self._dataset[index]
        except XPSRError as error:
            if get_worker_info() is not None:
                error.add_note(pickle.dumps(error).hex())  # torch sends no more than the traceback, notes last
            raise


def iterate(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Yields what the loader of a `Reporting` dataset gives; an error raised on purpose comes back as it was."""
    iterator: Any = iter(loader)
    try:
        yield from iterator
    except XPSRError as error:
        if loader.num_workers == 0:
            raise
        raise pickle.loads(bytes.fromhex(error.message.split()[-1])) from error
    finally:
        if loader.num_workers:
            # An error keeps the iterator alive, and workers, which answer to no signal, would keep this process from
            # ending
            iterator._shutdown_workers()


def start_worker(number: int) -> None:
    """Settles a worker of a `DataLoader`: one thread, and no life without its parent.

    A signal to the whole group is the parent's to answer: it may need the worker's samples to come to a good end.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else every worker complains that it was forked
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Ends this process with its parent. torch looks only between tasks: a killed run would write for a while."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
