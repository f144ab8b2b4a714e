"""`xpsr upscale --sequence`: the frames of a video, shot by shot."""

import dataclasses
import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xpsr.cli.progress import counting, picture_bar
from xpsr.cli.terminal import loading, quiet_libraries
from xpsr.errors import InputError
from xpsr.sources import Job

if TYPE_CHECKING:  # what help does without
    from xpsr.cli.upscale_report import Report
    from xpsr.prior import Prior, PriorFile, PriorLookup
    from xpsr.records import Recipe, Seen
    from xpsr.sequence import Frame, Shot

__all__ = ["refuse_no_folder", "restore_sequence"]


def refuse_no_folder(inputs: Sequence[str], *, recursive: bool) -> None:
    """Raises `InputError` where what is named is not one folder of frames."""
    if recursive:
        raise InputError("--sequence takes the frames of one folder; leave --recursive out and name each folder alone.")
    if len(inputs) > 1:
        raise InputError(f"--sequence takes one folder of frames, not {len(inputs)} inputs; name each alone.")
    if not Path(inputs[0]).is_dir():
        remedy = "make one of a video with ffmpeg, and name it: xpsr upscale frames/ --sequence"
        raise InputError(f"--sequence takes a folder of frames, which {inputs[0]} is not; {remedy}.")


def restore_sequence(
    jobs: Sequence[Job],
    recipe: "Recipe",
    prior_of: "PriorLookup",
    kept: "PriorFile | None",
    report: "Report",
    *,
    out: Path,
    device: str,
    is_dry: bool,
    total: int,
) -> int:
    """Restores the frames of a folder and returns the exit code.

    Args:
        jobs: the frames, in any order, with their targets.
        recipe: how they are restored.
        prior_of: tells the prior of a shot, by the frame that it is described by.
        kept: where what a model says is kept.
        report: is told what becomes of each frame.
        out: the folder of the results, made if missing.
        device: that the model is loaded on.
        is_dry: whether nothing is to be made, and it is told what would be.
        total: how many pictures the folder has.
    """
    with loading(quiet=report.quiet):
        from xpsr.batch.measuring import picture_file
        from xpsr.batch.restoring import make_folder, open_restorer
        from xpsr.sequence import FrameRestorer, described_as_before, earlier_seed, find_shots, in_order, needed

    jobs = in_order(jobs)
    if recipe.config.seed is None:
        found = earlier_seed(jobs)
        seed = secrets.randbelow(2**32) if found is None else found
        recipe = recipe.with_config(dataclasses.replace(recipe.config, seed=seed))
    config = recipe.config
    shots = find_shots(_looked_at(jobs, recipe, report))
    if config.on_existing != "overwrite":
        shots = [described_as_before(shot) for shot in shots]
    waiting = _undone(shots, recipe, prior_of, kept, report)
    if is_dry:
        for shot in shots:
            report.shot(shot, is_described=recipe.describer != "none")
    todo = list(needed(shots, waiting))
    report.made_less_large([job for job, _ in waiting.values()], config)
    if not todo:
        report.end(total)
        return report.code

    if not report.debug:
        quiet_libraries()
    described = list(dict.fromkeys(shot.described.job.source.path for shot, _ in todo)) if prior_of.is_asked else []
    with picture_bar(len(todo), quiet=report.quiet) as bar:
        if not is_dry:
            bar.show(f"looking at {len(described)} shot{'s' * (len(described) != 1)}")
            prior_of.describe_ahead(described, kept, as_file=partial(picture_file, config=config))
        bar.show(f"loading {config.model}")
        with loading(quiet=True):
            restorer = open_restorer(config, device=device)
        if is_dry:
            for job, _ in waiting.values():
                report.planned(job, restorer, config)
            report.end(total)
            return report.code
        make_folder(out)
        frames, priors = FrameRestorer(restorer, recipe), _Priors(prior_of, recipe, report)
        for number, (shot, place) in enumerate(todo):
            job = shot.frames[place].job
            is_written = job.source.path in waiting
            _, seen = waiting.get(job.source.path, (job, None))
            report.begins(job, restorer, config)
            bar.start(job.source.path.name)
            try:
                restored = frames.restore(
                    shot, place, priors.of(shot), is_written=is_written, seen=seen, progress=bar.passed
                )
            except BrokenPipeError:
                raise
            except Exception as error:  # every frame is tried; the exit code tells
                report.failed(job.source.path, error)
                if isinstance(error, InputError) and error.code == "disk_full":
                    rest = [one.frames[at].job for one, at in todo[number + 1 :]]
                    report.stopped([job for job in rest if job.source.path in waiting])
                    break
                continue
            if restored is not None:
                report.restored(job, restored.record, says_prior=False)
    report.end(total)
    return report.code


def _looked_at(jobs: Sequence[Job], recipe: "Recipe", report: "Report") -> "list[Frame]":
    """Returns the frames that can be read and restored; the others are told."""
    from xpsr.sequence import open_frame

    frames = []
    with counting("looking for shots", quiet=report.quiet) as count:
        for number, job in enumerate(jobs, 1):
            try:
                frames.append(open_frame(job, recipe))
            except Exception as error:  # every frame is tried; the exit code tells
                report.failed(job.source.path, error)
            if count is not None:
                count(number, len(jobs))
    return frames


def _undone(
    shots: "Sequence[Shot]",
    recipe: "Recipe",
    prior_of: "PriorLookup",
    kept: "PriorFile | None",
    report: "Report",
) -> "dict[Path, tuple[Job, Seen | None]]":
    """Returns the frames whose results are to be made, by their files, with what was seen at their targets."""
    from xpsr.records import look, what_to_do
    from xpsr.sequence import facts_of

    known, waiting = prior_of.known(kept), {}

    def known_of(shot: "Shot") -> "Prior | None":
        return known(shot.described.job.source.path, shot.described.sha256)

    for shot in shots:
        for place, frame in enumerate(shot.frames):
            job = frame.job
            assert job.target is not None
            try:
                seen = None if recipe.config.on_existing == "overwrite" else look(job.target)
                of_frame = recipe.for_frame(facts_of(shot, place, recipe))
                state = what_to_do(job, of_frame, lambda path, digest, shot=shot: known_of(shot))  # type: ignore[misc]
            except Exception as error:  # every frame is tried; the exit code tells
                report.failed(job.source.path, error)
            else:
                if state == "restore":
                    waiting[job.source.path] = job, seen
                else:
                    report.passed(job, state)
    return waiting


class _Priors:
    """Tells the prior of each shot, which is looked up, and said, once."""

    def __init__(self, prior_of: "PriorLookup", recipe: "Recipe", report: "Report"):
        self._prior_of, self._recipe, self._report = prior_of, recipe, report
        self._found: dict[int, Prior | Exception] = {}

    def of(self, shot: "Shot") -> "Prior":
        """Returns the prior of a shot, and raises, for each of its frames, why there is none."""
        if shot.number not in self._found:
            self._found[shot.number] = self._look(shot)
        found = self._found[shot.number]
        if isinstance(found, Exception):
            raise found
        return found

    def _look(self, shot: "Shot") -> "Prior | Exception":
        from xpsr.batch.restoring import open_job

        job = shot.described.job
        try:
            found = self._prior_of(job.source.path, open_job(job, self._recipe).picture)
        except Exception as error:
            return error
        self._report.shot(shot, found, is_described=self._recipe.describer != "none")
        return found
