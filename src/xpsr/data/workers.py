"""Worker processes: what they share with whoever started them, and how their errors come back."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from xpsr.errors import InputError, TrainingError

__all__ = ["iterate", "start_worker"]


def iterate(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Yields what the loader gives; an error that a worker raised on purpose comes back as it was, in one line."""
    iterator: Any = iter(loader)
    try:
        yield from iterator
    except (InputError, TrainingError) as error:
        if loader.num_workers == 0:
            raise
        # torch puts the worker's traceback in front; the last line is "package.Class: message"
        line = str(error).strip().splitlines()[-1]
        raise type(error)(line.partition(": ")[2]) from error
    finally:
        if loader.num_workers:
            # An error keeps the iterator alive, and workers, which answer to no signal, would keep this process from
            # ending
            iterator._shutdown_workers()


def start_worker(number: int) -> None:
    """Settles a worker of a `DataLoader`: one thread, and no life without its parent.

    A signal to the whole group is the parent's to answer: it may need the worker's samples to come to a good end.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
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
