"""`xpsr upscale`."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xpsr.cli.progress import counting, picture_bar
from xpsr.cli.terminal import (
    answer,
    complain,
    explain_of,
    loading,
    parse,
    print_traceback,
    quiet_hub,
    quiet_libraries,
    sayings,
)
from xpsr.cli.upscale_parser import upscale_parser
from xpsr.config import Size, UpscaleConfig, load_config
from xpsr.errors import InputError
from xpsr.files import IMAGE_SUFFIXES, OTHER_SUFFIXES, WRITTEN_SUFFIXES, is_remote, refusal
from xpsr.sources import Job, Source, find_sources, name_jobs, name_maps, read_sidecar, result_suffix

if TYPE_CHECKING:  # what help does without
    from xpsr.planning import TilePlan
    from xpsr.prior import PriorFile, PriorLookup
    from xpsr.records import Recipe, Seen
    from xpsr.restore import Restorer

__all__ = ["run"]

_LARGE = 2**24
"""Pixels of a result that takes so long that one wants to know before."""


def run(arguments: Sequence[str]) -> int:
    """Restores pictures and returns the exit code."""
    args = parse(upscale_parser(), arguments)
    if not vars(args).get("inputs"):
        raise InputError("no INPUT; name pictures or folders, as in: xpsr upscale photo.jpg.")
    base = load_config(UpscaleConfig, args.config) if "config" in args else UpscaleConfig()
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(base) if f.name in args}
    sizes = {f.name for f in dataclasses.fields(Size)}
    if sizes & given.keys():  # instead of whichever the file names
        given = dict.fromkeys(sizes) | given
    config = dataclasses.replace(base, **given)
    if "describer" in args and config.priors is not None:
        raise InputError(f"--describer {config.describer} does nothing beside priors ({config.priors}); leave one out.")
    inputs: list[str] = args.inputs
    out, is_alone = _output(vars(args).get("output", "outputs"), inputs)
    if "format" in args and out is not None and is_alone:
        raise InputError(f"--format {args.format} does nothing beside -o {out}, whose name says it; leave one out.")
    if out is None and args.dry_run:
        raise InputError("--dry-run writes no picture to standard output; leave -o - out, or name a folder with -o.")
    if out is None and args.json:
        raise InputError("--json and -o - both write on standard output; leave one of them out.")
    report = _Report(json=args.json, quiet=args.quiet or out is None, debug=args.debug)

    from xpsr.model_files import fetch_model, resolve_model
    from xpsr.prior import QUESTIONS, PriorFile, PriorLookup, is_asked
    from xpsr.records import Recipe

    device, looks_here = config.device, is_asked(config.describer) and not is_remote(config.describer)
    usual = {"engine": "torch", "weights_dtype": "auto", "offload": "none"}
    is_usual = all(getattr(config, name) == value for name, value in usual.items())
    # every other choice is on all machines, so that torch need not tell
    if not is_usual or device not in ("auto", "cpu") or config.dtype not in ("auto", "fp32") or looks_here:
        with loading(quiet=report.quiet):
            from xpsr.devices import resolve_offload, resolve_weights_dtype
            from xpsr.engines import resolve_place
        found, dtype = resolve_place(config.engine, device, config.dtype)
        resolve_weights_dtype(config.weights_dtype, "fp32" if found.type == "cpu" else dtype)
        resolve_offload(config.offload, found)
        device = str(found)
    if config.protect not in (None, "auto"):
        with loading(quiet=report.quiet):
            from xpsr.image import picture_size
        picture_size(Path(config.protect))  # a mask that cannot be read is known before any picture
    outside = None if is_alone else out
    sources = find_sources(inputs, recursive=args.recursive, outside=outside, on_error=report.failed, on_note=complain)
    jobs = [Job(source=source, target=None) for source in sources]
    if out is not None:
        jobs = name_jobs(
            sources,
            out,
            suffix=lambda source: _target_of(source, config).suffix,
            format=config.format,
            is_file=is_alone,
            on_error=report.failed,
        )
    if "map" in args:
        maps, is_one = _output(args.map, inputs, flag="--map")
        if maps is None:
            raise InputError("--map - is no place; name a folder, or FILE.png for one picture.")
        jobs = name_maps(jobs, maps, is_file=is_one, on_error=report.failed)
    if not jobs:
        return 1

    prior_of = PriorLookup(
        config.describer,
        priors=config.priors,
        content=config.content,
        quality=config.quality,
        questions=QUESTIONS[config.preset or "default"],
        device=device,
    )
    if not args.debug and not Path(resolve_model(config.model)).is_dir():
        quiet_hub()
    recipe = Recipe(config=config, describer=prior_of.name, folder=fetch_model(config.model))
    if config.engine != "torch":  # known before anybody looks at pictures
        from xpsr.engines import check_engine

        check_engine(recipe.folder, config.engine)
    kept = None if out is None or is_alone else PriorFile(out / "priors.jsonl")
    waiting = _undone(jobs, recipe, prior_of, kept, report)
    if waiting:
        with loading(quiet=report.quiet):  # torch, which takes seconds and which pictures that are done do not need
            from xpsr.batch.restoring import open_restorer, restore_file, write_options
            from xpsr.image import image_bytes

        waiting = _small_enough(waiting, config, report)
        report.made_less_large([job for job, _ in waiting], config)
    if not waiting:
        report.end(len(sources))
        return report.code

    if not args.debug:
        quiet_libraries()
    ahead = [job.source.path for job, _ in waiting if job.source.content is None] if prior_of.is_asked else []
    with picture_bar(len(waiting), looks_ahead=bool(ahead), quiet=report.quiet) as bar:
        if not args.dry_run:
            prior_of.describe_ahead(ahead, kept, progress=bar.looked)
        bar.show(f"loading {config.model}")
        with loading(quiet=True):
            restorer = open_restorer(config, device=device)
        folder = out.parent if out is not None and is_alone else out
        try:
            if folder is not None and not args.dry_run:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made a folder ({error.strerror}); choose another with -o."
            ) from error
        if args.dry_run:
            for job, _ in waiting:
                report.planned(job, restorer, config)
            report.end(len(sources))
            return report.code
        for number, (job, seen) in enumerate(waiting, 1):
            report.begins(job, restorer, config)
            bar.start(job.source.path.name)
            try:
                restored = restore_file(restorer, job, prior_of, recipe, seen=seen, progress=bar.passed)
                if job.target is None:
                    place = Path(f"result{result_suffix(job.source, config.format)}")
                    told = write_options(config, restored.record, source=job.source, named=str(job.source.path))
                    _send(image_bytes(place, restored.picture, told))
            except BrokenPipeError:  # whoever read the picture has gone
                raise
            except Exception as error:  # every picture is tried; the exit code tells
                report.failed(job.source.path, error)
                if isinstance(error, InputError) and error.code == "disk_full":
                    report.stopped([job for job, _ in waiting[number:]])
                    break
                continue
            report.restored(job, restored.record)
    report.end(len(sources))
    return report.code


def _target_of(source: Source, config: UpscaleConfig) -> Size:
    """How large the result of a picture is to be."""
    if config.size_asked is not None:
        return config.size_asked
    return config.target(*_size_of(source))


def _size_of(source: Source) -> tuple[int, int]:
    """Width and height of a picture, upright; those of one that cannot be read, which is refused later, are 1."""
    size = source.size
    if size is None and source.content is None:
        from xpsr.image import picture_size

        with suppress(InputError):
            size = picture_size(source.path)
    return size or (1, 1)


def _undone(
    jobs: Sequence[Job], recipe: "Recipe", prior_of: "PriorLookup", kept: "PriorFile | None", report: "_Report"
) -> list[tuple[Job, "Seen | None"]]:
    """Returns the pictures that are to be restored, with what was seen at their targets; the others are told."""
    from xpsr.records import look, what_to_do

    known, waiting = prior_of.known(kept), []
    with counting("checking", quiet=report.quiet) as count:
        for number, job in enumerate(jobs, 1):
            try:
                if job.source.content is not None and prior_of.needs_files:
                    message, remedy = "priors are told by the file of a picture", "give --content and --quality instead"
                    raise InputError(message, code="conflict", remedy=remedy)
                seen = None if job.target is None or recipe.config.on_existing == "overwrite" else look(job.target)
                state = what_to_do(job, recipe, known)
            except Exception as error:  # every picture is tried; the exit code tells
                report.failed(job.source.path, error)
            else:
                if state == "restore":
                    waiting.append((job, seen))
                else:
                    report.passed(job, state)
            if count is not None:
                count(number, len(jobs))
    return waiting


def _small_enough(
    waiting: Sequence[tuple[Job, "Seen | None"]], config: UpscaleConfig, report: "_Report"
) -> list[tuple[Job, "Seen | None"]]:
    """Returns the pictures that can be read and restored, as far as their files' headers tell; the others are told."""
    from xpsr.batch.restoring import refuse_too_large

    fit = []
    with counting("measuring", quiet=report.quiet) as count:
        for number, (job, seen) in enumerate(waiting, 1):
            try:
                refuse_too_large(job.source, config)
            except Exception as error:  # every picture is tried; the exit code tells
                report.failed(job.source.path, error)
            else:
                fit.append((job, seen))
            if count is not None:
                count(number, len(waiting))
    return fit


def _output(named: str, inputs: Sequence[str], *, flag: str = "-o") -> tuple[Path | None, bool]:
    """What -o or --map names: a folder and False, or the one picture itself and True; None is standard output."""
    path = Path(named)
    suffix = path.suffix.lower()
    if not named:
        raise InputError(f"{flag} is empty; name a folder, or FILE.png for one picture.")
    if named != "-" and (path.is_dir() or suffix not in IMAGE_SUFFIXES | OTHER_SUFFIXES):
        if path.is_file():
            raise InputError(f"{flag} names a folder, or FILE.png for one picture; {path} is a file of another kind.")
        return path, False
    if len(inputs) > 1 or Path(inputs[0]).is_dir():
        raise InputError(f"{flag} {named} is for one picture; name a folder with {flag} for several.")
    if named == "-":
        if getattr(sys.stdout, "name", None) == os.devnull:  # `mend_streams` did so
            raise InputError("-o - has no standard output, which is closed; add > FILE.png, or name it with -o.")
        if sys.stdout.isatty():
            raise InputError("-o - would show a picture's bytes on the terminal; add > FILE.png, or name it with -o.")
        return None, True
    if suffix not in WRITTEN_SUFFIXES:
        raise InputError(f"{flag} {named}: {suffix} cannot be written; use .png, for example.")
    return path, True


def _send(content: bytes) -> None:
    """Writes a picture to standard output."""
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise refusal(Path("-"), "cannot be written", error) from error


class _Report:
    """Tells what becomes of each picture, and the exit code."""

    def __init__(self, *, json: bool, quiet: bool, debug: bool):
        self.code = 0
        self._json, self.quiet, self._debug = json, quiet, debug
        self._passed: dict[str, list[Path]] = {"is_done": [], "is_there": []}

    def failed(self, source: Path, error: Exception) -> None:
        """Tells of a picture that cannot be restored."""
        self.code = 1
        message = explain_of(source, error)
        if self._debug:
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

    def restored(self, job: Job, record: dict[str, Any]) -> None:
        """Tells of a result that has been made."""
        if self._json:
            named = {"input": str(job.source.path), "output": str(job.target), "status": "restored"}
            _print_json({**record, **named})
        elif not self.quiet:
            width, height = record["output_size"]
            answer(f"{job.target}  {width} x {height}  {record['seconds']:.1f} s")
            for notice in record.get("notices", ()):
                complain(f"{job.source.path}: {notice}.")
            if any(record["prior"].values()):
                print(*sayings(record["prior"]), sep="\n", end="", file=sys.stderr, flush=True)

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
        scales = [(job, scale) for job in jobs if (scale := _target_of(job.source, config).scale) not in (None, 4)]
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


def _plan_in_words(plan: "TilePlan") -> str:
    from xpsr.planning import in_words, time_in_words

    parts = [f"tiles of {plan.tile_size}", *([f"bands of {plan.band_rows} rows"] if plan.band_rows else []), plan.dtype]
    memory = [in_words(plan.peak_bytes)] if plan.peak_bytes else []
    known = "time unknown yet" if plan.seconds is None else f"about {time_in_words(plan.seconds)}"
    return ", ".join([*parts, *memory, known])


def _print_json(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)
