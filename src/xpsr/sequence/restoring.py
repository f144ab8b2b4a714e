"""Frames on disk to frames on disk, each result blended with those of the frames before it in its shot.

What a result depends on is its frame, the four before it in the shot, and the frame that the shot is described by; its
record names them by their SHA-256. So a run that was interrupted goes on anywhere, to the bit: what was made of each of
the four frames alone is made once more. And a frame that was changed has the four after it made again, and no others
but where it describes the shot.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpsr.batch.restoring import Opened, open_job, restore_opened, write_restored
from xpsr.image import bleed
from xpsr.prior import Prior
from xpsr.protection import contradictions, invented, lr_psnr
from xpsr.records import Recipe, Seen
from xpsr.restore import Restored, Restorer
from xpsr.sequence.blending import NUM_EARLIER, Made, blend
from xpsr.sequence.shots import NUM_DESCRIBED, Shot
from xpsr.sources import Job, read_sidecar

__all__ = ["FrameRestorer", "described_as_before", "earlier_seed", "facts_of", "needed"]


def earlier_seed(jobs: Iterable[Job]) -> int | None:
    """Returns the seed of a sequence that was begun already, by the first of its records; None: there is none."""
    for job in jobs:
        record = None if job.target is None else read_sidecar(job.target)
        if record is not None and "sequence" in record and isinstance(record.get("seed"), int):
            return int(record["seed"])
    return None


def described_as_before(shot: Shot) -> Shot:
    """Returns a shot, described by the frame that a record of its first ones names, if that is among these still.

    So frames that are added to the end of a short one change nothing before them, whatever detail they have.
    """
    first = shot.frames[:NUM_DESCRIBED]
    for job in (frame.job for frame in first):
        record = None if job.target is None else read_sidecar(job.target)
        sequence = None if record is None else record.get("sequence")
        digest = sequence.get("described_sha256") if isinstance(sequence, dict) else None
        for frame in first:
            if frame.sha256 == digest:
                return dataclasses.replace(shot, described=frame)
    return shot


def facts_of(shot: Shot, place: int, recipe: Recipe) -> dict[str, Any]:
    """Returns what the result of a shot's frame depends on beside the frame: what its record has to say to be of use.

    Args:
        shot: the frame's.
        place: of the frame in it, from 0.
        recipe: how it is restored. Where nobody looks at frames, none describes a shot.
    """
    earlier = shot.frames[max(place - NUM_EARLIER, 0) : place]
    return {
        "described_sha256": None if recipe.describer == "none" else shot.described.sha256,
        "previous_sha256": [frame.sha256 for frame in reversed(earlier)],
    }


def needed(shots: Sequence[Shot], waiting: Collection[Path]) -> Iterator[tuple[Shot, int]]:
    """Yields the frames that a run restores, in their order, each by its shot and its place there from 0.

    Args:
        shots: of the sequence.
        waiting: files of the frames whose results are to be made; with them go those that they are blended with.
    """
    for shot in shots:
        is_waiting = [frame.job.source.path in waiting for frame in shot.frames]
        for place in range(len(is_waiting)):
            if any(is_waiting[place : place + 1 + NUM_EARLIER]):
                yield shot, place


@dataclass(frozen=True, kw_only=True)
class _Earlier:
    """What was made of a frame before, as long as it may be needed."""

    shot: int
    place: int
    sha256: str
    made: Made


class FrameRestorer:
    """Restores the frames of a sequence one after the other, in the order of `needed`.

    It holds what was made of the last four frames: 12 bytes for each pixel of a result.

    Args:
        restorer: the model.
        recipe: how frames are restored; its config has a seed, or what is drawn would differ from frame to frame.
    """

    def __init__(self, restorer: Restorer, recipe: Recipe):
        assert recipe.config.seed is not None
        self._restorer, self._recipe = restorer, recipe
        self._earlier: deque[_Earlier] = deque(maxlen=NUM_EARLIER)

    def restore(
        self,
        shot: Shot,
        place: int,
        prior: Prior,
        *,
        is_written: bool = True,
        seen: Seen | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Restored | None:
        """Restores a frame, blends it with the earlier ones of its shot, and writes the result with its record.

        Args:
            shot, place: the frame.
            prior: of the shot.
            is_written: whether its result is wanted; if not, others will be blended with it.
            seen: what `look` saw at the target; nothing else is replaced. None: whatever is there is.
            progress: is told after every tile of every step how many passes of how many are done.

        Returns:
            What was written; None: nothing.

        Raises:
            InputError: the frame cannot be read, or its result cannot be written.
            XPSRError: the result is not finite, or memory ran out.
        """
        start, frame = time.perf_counter(), shot.frames[place]
        opened = open_job(frame.job, self._recipe)
        # other tiles would give another result, by what else takes memory at the time
        restored = restore_opened(self._restorer, opened, prior, self._recipe, progress=progress, keeps_tiles=True)
        source = bleed(opened.picture.pixels, opened.picture.alpha)
        made = Made(source=source, pixels=restored.picture.pixels)
        earlier = [
            one for one in reversed(self._earlier) if one.shot == shot.number and place - one.place <= NUM_EARLIER
        ]
        self._earlier.append(_Earlier(shot=shot.number, place=place, sha256=opened.sha256, made=made))
        if not is_written:
            return None
        restored, weights = _blended(restored, made, [one.made for one in earlier], opened)
        facts = {
            "shot": shot.number,
            "frame": place + 1,
            "described": None if self._recipe.describer == "none" else shot.described.job.source.path.name,
            **facts_of(shot, place, self._recipe),
            "previous_sha256": [one.sha256 for one in earlier],  # as they were read now
            "weights": [round(weight, 4) for weight in weights],
        }
        record = {**restored.record, "sequence": facts, "seconds": round(time.perf_counter() - start, 3)}
        return write_restored(opened, dataclasses.replace(restored, record=record), self._recipe, seen=seen)


def _blended(restored: Restored, made: Made, earlier: Sequence[Made], opened: Opened) -> tuple[Restored, list[float]]:
    """Returns a result blended with earlier ones, what its record and its map say of it, and the mean weights."""
    folder = None if opened.job.target is None else opened.job.target.parent
    blended = blend(made, earlier, folder=folder)
    if blended.pixels is made.pixels:
        return restored, blended.weights
    pixels, source = blended.pixels, made.source
    shown, share = invented(pixels, source, folder=folder)
    fidelity = {
        **restored.record["fidelity"],
        "contradicted": round(float(contradictions(pixels, source).mean()), 4),
        "lr_psnr": round(lr_psnr(pixels, source), 2),
        "invented": round(share, 4),
    }
    picture = dataclasses.replace(restored.picture, pixels=pixels)
    return Restored(picture=picture, map=shown, record={**restored.record, "fidelity": fidelity}), blended.weights
