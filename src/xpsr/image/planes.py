"""Planes of pixels that lie in memory or, where they are large, in a temporary file that memory maps."""

import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import IO

import torch

from xpsr.files import refusal

__all__ = ["IN_MEMORY", "drop_from_memory", "new_planes"]

IN_MEMORY = 2**26
"""Pixels of a picture up to which its planes are in memory, whatever folder there is for them."""

_MAPS: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()
"""By the address of their first byte: tensors know of theirs only that it is some memory."""

_BLANK = 2**24
"""Bytes that are written at once where the system cannot reserve room in a file."""


def new_planes(shape: tuple[int, int, int], folder: Path | None) -> torch.Tensor:
    """Returns planes (C, H, W) float32 of zeros.

    Those of more than 2**26 pixels lie in a file without a name in `folder`, which is gone with the last tensor that
    shows a part of them, however the program ends. `drop_from_memory` keeps the process small.

    Args:
        shape: channels, height, width.
        folder: where there is room for large ones; None: in memory.

    Raises:
        InputError: the folder cannot be written to, or its disk is full.
    """
    channels, height, width = shape
    if folder is None or height * width <= IN_MEMORY:
        return torch.zeros(shape)
    size = channels * height * width * 4
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file, size)  # else a full disk would end the process where it touches the memory
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise refusal(folder, f"has no room for {size / 1e9:.1f} GB of a picture", error) from error
    planes = torch.frombuffer(mapped, dtype=torch.float32).view(shape)
    _MAPS[planes.data_ptr()] = mapped
    return planes


def drop_from_memory(planes: torch.Tensor) -> None:
    """Writes a part (C, rows, W) of planes to their file and takes it out of memory; those in memory stay.

    What is looked at again comes back by itself.
    """
    mapped = _MAPS.get(planes.untyped_storage().data_ptr())
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED") or planes.numel() == 0:
        return
    for plane in planes:
        start = plane.storage_offset() * 4
        end = start + ((plane.shape[0] - 1) * plane.stride(0) + plane.shape[1]) * 4
        start -= start % mmap.PAGESIZE
        mapped.flush(start, end - start)
        mapped.madvise(mmap.MADV_DONTNEED, start, end - start)


def _reserve(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    blank = bytes(_BLANK)
    for start in range(0, size, _BLANK):
        file.write(blank[: size - start])
    file.flush()
