"""The frames of a sequence: in their order, each looked at once before any is restored."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xpsr.batch.restoring import open_job
from xpsr.image import Picture, to_pil
from xpsr.records import Recipe
from xpsr.sources import Job, folded

__all__ = ["Frame", "Look", "in_order", "look_at", "open_frame"]

_SIDE = 48
"""Pixels on the longer side of what is kept of a frame: noise is averaged away, and little moves far."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is kept of a frame to tell shots apart.

    Attributes:
        size: width and height of the frame.
        luma: (h, w) uint8, the frame made small, at most 48 x 48.
    """

    size: tuple[int, int]
    luma: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A picture of a sequence, and where its result goes.

    Attributes:
        job: both files.
        sha256: of the picture's file, in hexadecimal.
        look: what it looks like.
    """

    job: Job
    sha256: str
    look: Look


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Returns frames as the numbers in their names count: frame_2 before frame_10, whatever zeros they begin with."""
    return sorted(jobs, key=lambda job: (_pieces(folded(job.source.path.name)), job.source.path.name))


def _pieces(name: str) -> list[tuple[str, int]]:
    """Texts of a name, each with the number behind it; the last has none, which counts as the least."""
    pieces = re.split(r"([0-9]+)", name)
    return [(text, int(number)) for text, number in zip(pieces[::2], [*pieces[1::2], "-1"], strict=True)]


def open_frame(job: Job, recipe: Recipe) -> Frame:
    """Looks at a frame.

    Raises:
        InputError: it cannot be read, or its result could not be made or written.
    """
    opened = open_job(job, recipe)
    return Frame(job=job, sha256=opened.sha256, look=look_at(opened.picture))


def look_at(picture: Picture) -> Look:
    """Returns what is kept of a frame."""
    image = to_pil(picture.pixels).convert("L")
    scale = min(_SIDE / max(image.size), 1)
    width, height = (max(round(side * scale), 1) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BOX)
    return Look(size=image.size, luma=np.asarray(small))
