"""What `xpsr upscale` tells of its pictures, and the exit code."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xpsr.cli.terminal import answer, complain, explain_of, print_traceback, sayings
from xpsr.config import Size, UpscaleConfig
from xpsr.errors import InputError
from xpsr.sources import Job, Source, read_sidecar

if TYPE_CHECKING:  # what help does without
    from xpsr.planning import TilePlan
    from xpsr.prior import Prior
    from xpsr.restore import Restorer
    from xpsr.sequence import Shot

__all__ = ["Report", "target_of"]

_LARGE = 2**24
"""Pixels of a result that takes so long that one wants to know before."""


class Report:
    """Tells what becomes of each picture, and the exit code."""

    def __init__(self, *, json: bool, quiet: bool, debug: bool):
        self.code = 0
        self._json, self.quiet, self.debug = json, quiet, debug
        self._passed: dict[str, list[Path]] = {"is_done": [], "is_there": []}

    def failed(self, source: Path, error: Exception) -> None:
        """Tells of a picture that cannot be restored."""
        self.code = 1
        message = explain_of(source, error)
        if self.debug:
            print_traceback()
        complain(message)
        if self._json:
            facts = {name: getattr(error, name, None) for name in ("code", "field", "value", "remedy")}
            told = {name: value for name, value in facts.items() if value is not None}
            _print_json({"input": str(source), "status": "failed", "error": message, **told})

    def planned(self, job: Job, restorer: "Restorer", config: UpscaleConfig) -> None:
        """Tells how a result would be made."""
        from xpsr.batch.restoring import plan_of

        try:
            width, height = _size_of(job.source)
            plan = plan_of(restorer, width, height, config, has_workspace=job.target is not None)
            if plan.seconds is None and restorer.measure(config.preset, config.overrides):
                plan = plan_of(restorer, width, height, config, has_workspace=job.target is not None)
        except Exception as error:  # every picture is planned; the exit code tells
            self.failed(job.source.path, error)
            return
        wide, high = config.target(width, height).of(width, height)
        if self._json:
            named = {"input": str(job.source.path), "output": str(job.target), "status": "planned"}
            sizes = {"input_size": [width, height], "output_size": [wide, high]}
            _print_json({**named, **sizes, "plan": dataclasses.asdict(plan)})
        elif not self.quiet:
            answer(f"{job.target}  {wide} x {high}  {_plan_in_words(plan)}")

    def begins(self, job: Job, restorer: "Restorer", config: UpscaleConfig) -> None:
        """Tells how a large result is made, which takes a while."""
        from xpsr.batch.restoring import plan_of

        width, height = _size_of(job.source)
        with suppress(InputError):  # of which it is told when it is tried
            wide, high = config.target(width, height).of(width, height)
            if wide * high >= _LARGE and not self.quiet:
                plan = plan_of(restorer, width, height, config, has_workspace=job.target is not None)
                complain(f"{job.source.path}: making {wide} x {high}: {_plan_in_words(plan)}.")

    def restored(self, job: Job, record: dict[str, Any], *, says_prior: bool = True) -> None:
        """Tells of a result that has been made, and unless that was told before, with which texts."""
        if self._json:
            named = {"input": str(job.source.path), "output": str(job.target), "status": "restored"}
            _print_json({**record, **named})
        elif not self.quiet:
            width, height = record["output_size"]
            answer(f"{job.target}  {width} x {height}  {record['seconds']:.1f} s")
            for notice in record.get("notices", ()):
                complain(f"{job.source.path}: {notice}.")
            if says_prior and any(record["prior"].values()):
                print(*sayings(record["prior"]), sep="\n", end="", file=sys.stderr, flush=True)

    def shot(self, shot: "Shot", prior: "Prior | None" = None, *, is_described: bool) -> None:
        """Tells which frames are one shot, whether one describes it, and the texts where they are known."""
        if self.quiet:
            return
        first, last = (shot.frames[place].job.source.path.name for place in (0, -1))
        which = first if len(shot.frames) == 1 else f"{len(shot.frames)} frames, {first} to {last}"
        by = f", described by {shot.described.job.source.path.name}" if is_described else ""
        complain(f"shot {shot.number}: {which}{by}.")
        if prior is not None and any(prior.as_dict().values()):
            print(*sayings(prior.as_dict()), sep="\n", end="", file=sys.stderr, flush=True)

    def passed(self, job: Job, state: Literal["is_done", "is_there"]) -> None:
        """Tells of a picture whose result is there; in words, at the end."""
        assert job.target is not None
        self._passed[state].append(job.target)
        if self._json:
            status = "done" if state == "is_done" else "skipped"
            named = {"input": str(job.source.path), "output": str(job.target), "status": status}
            _print_json({**((state == "is_done" and read_sidecar(job.target)) or {}), **named})

    def stopped(self, rest: Sequence[Job]) -> None:
        """Tells of the pictures that are given up."""
        if rest:
            complain(f"{len(rest)} more picture{'s were' if len(rest) > 1 else ' was'} not tried.")
        for job in rest if self._json else ():
            _print_json({"input": str(job.source.path), "output": str(job.target), "status": "not_tried"})

    def made_less_large(self, jobs: Sequence[Job], config: UpscaleConfig) -> None:
        """Tells of large pictures, for which nobody has said how large their results are to be."""
        if config.size_asked is not None or self.quiet:
            return
        scales = [(job, scale) for job in jobs if (scale := target_of(job.source, config).scale) not in (None, 4)]
        if len(scales) == 1:
            ((job, scale),) = scales
            times = "no larger" if scale == 1 else f"{scale:g} times as large"
            complain(f"{job.source.path}: is large already, so its result is {times}; --scale 4 makes it 4 times.")
        elif scales:
            complain(f"{len(scales)} pictures are large already: they become 2 or 1 times as large; --scale says more.")

    def end(self, total: int) -> None:
        """Tells how many pictures were passed over."""
        for state, what in (("is_done", "done"), ("is_there", "there")):
            targets = self._passed[state]
            if targets and not self.quiet:
                subject = f"{targets[0]} was" if total == 1 else f"{len(targets)} of {total} pictures were"
                complain(
                    f"{subject} {what} already; --on-existing overwrite makes {'it' if total == 1 else 'them'} again."
                )


def target_of(source: Source, config: UpscaleConfig) -> Size:
    """How large the result of a picture is to be."""
    if config.size_asked is not None:
        return config.size_asked
    return config.target(*_size_of(source))


def _size_of(source: Source) -> tuple[int, int]:
    """Width and height of a picture, upright; those of one that cannot be read, which is refused later, are 1."""
    size = source.size
    if size is None:
        from xpsr.image import picture_size

        with suppress(InputError):
            size = picture_size(source.path if source.content is None else source.content)
    return size or (1, 1)


def _plan_in_words(plan: "TilePlan") -> str:
    from xpsr.planning import in_words, time_in_words

    parts = [f"tiles of {plan.tile_size}", *([f"bands of {plan.band_rows} rows"] if plan.band_rows else []), plan.dtype]
    memory = [in_words(plan.peak_bytes)] if plan.peak_bytes else []
    known = "time unknown yet" if plan.seconds is None else f"about {time_in_words(plan.seconds)}"
    return ", ".join([*parts, *memory, known])


def _print_json(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)
