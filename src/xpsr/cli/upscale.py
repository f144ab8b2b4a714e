"""`xpsr upscale`."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xpsr.cli.progress import counting, picture_bar
from xpsr.cli.terminal import complain, loading, parse, quiet_hub, quiet_libraries
from xpsr.cli.upscale_parser import upscale_parser
from xpsr.cli.upscale_report import Report, target_of
from xpsr.cli.upscale_sequence import refuse_no_folder, restore_sequence
from xpsr.config import Size, UpscaleConfig, load_config
from xpsr.errors import InputError
from xpsr.files import IMAGE_SUFFIXES, OTHER_SUFFIXES, WRITTEN_SUFFIXES, is_remote, refusal
from xpsr.sources import Job, Source, find_sources, name_jobs, name_maps, result_suffix

if TYPE_CHECKING:  # what help does without
    from xpsr.prior import PriorFile, PriorLookup
    from xpsr.records import Recipe, Seen

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Restores pictures and returns the exit code."""
    args = parse(upscale_parser(), arguments)
    if not vars(args).get("inputs"):
        raise InputError("no INPUT; name pictures or folders, as in: xpsr upscale photo.jpg.")
    config, inputs = _config(args), args.inputs
    if args.sequence:
        refuse_no_folder(inputs, recursive=args.recursive)
    out, is_alone = _output(vars(args).get("output", "outputs"), inputs)
    if "format" in args and out is not None and is_alone:
        raise InputError(f"--format {args.format} does nothing beside -o {out}, whose name says it; leave one out.")
    if out is None and args.dry_run:
        raise InputError("--dry-run writes no picture to standard output; leave -o - out, or name a folder with -o.")
    if out is None and args.json:
        raise InputError("--json and -o - both write on standard output; leave one of them out.")
    report = Report(json=args.json, quiet=args.quiet or out is None, debug=args.debug)

    device = _checked_device(config, quiet=report.quiet)
    outside = None if is_alone else out
    sources = find_sources(inputs, recursive=args.recursive, outside=outside, on_error=report.failed, on_note=complain)
    jobs = [Job(source=source, target=None) for source in sources]
    if out is not None:
        jobs = name_jobs(
            sources,
            out,
            suffix=lambda source: target_of(source, config).suffix,
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

    from xpsr.prior import QUESTIONS, PriorFile, PriorLookup

    prior_of = PriorLookup(
        config.describer,
        priors=config.priors,
        content=config.content,
        quality=config.quality,
        questions=QUESTIONS[config.preset or "default"],
        device=device,
    )
    recipe = _recipe(config, prior_of, debug=args.debug)
    kept = None if out is None or is_alone else PriorFile(out / "priors.jsonl")
    if args.sequence:
        assert out is not None  # of a folder, it is one
        return restore_sequence(
            jobs, recipe, prior_of, kept, report, out=out, device=device, is_dry=args.dry_run, total=len(sources)
        )
    waiting = _undone(jobs, recipe, prior_of, kept, report)
    if waiting:
        folder = out.parent if out is not None and is_alone else out
        _restore(waiting, recipe, prior_of, kept, report, folder=folder, device=device, is_dry=args.dry_run)
    report.end(len(sources))
    return report.code


def _config(args: argparse.Namespace) -> UpscaleConfig:
    """What a file says, and what is given on the command line."""
    base = load_config(UpscaleConfig, args.config) if "config" in args else UpscaleConfig()
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(base) if f.name in args}
    sizes = {f.name for f in dataclasses.fields(Size)}
    if sizes & given.keys():  # instead of whichever the file names
        given = dict.fromkeys(sizes) | given
    config = dataclasses.replace(base, **given)
    if "describer" in args and config.priors is not None:
        raise InputError(f"--describer {config.describer} does nothing beside priors ({config.priors}); leave one out.")
    return config


def _checked_device(config: UpscaleConfig, *, quiet: bool) -> str:
    """Returns the device, and refuses what it cannot do, and a mask that cannot be read, before any picture."""
    from xpsr.prior import is_asked

    device, looks_here = config.device, is_asked(config.describer) and not is_remote(config.describer)
    usual = {"engine": "torch", "weights_dtype": "auto", "offload": "none"}
    is_usual = all(getattr(config, name) == value for name, value in usual.items())
    # every other choice is on all machines, so that torch need not tell
    if not is_usual or device not in ("auto", "cpu") or config.dtype not in ("auto", "fp32") or looks_here:
        with loading(quiet=quiet):
            from xpsr.devices import resolve_offload, resolve_weights_dtype
            from xpsr.engines import resolve_place
        found, dtype = resolve_place(config.engine, device, config.dtype)
        resolve_weights_dtype(config.weights_dtype, "fp32" if found.type == "cpu" else dtype)
        resolve_offload(config.offload, found)
        device = str(found)
    if config.protect not in (None, "auto"):
        with loading(quiet=quiet):
            from xpsr.image import picture_size
        picture_size(Path(config.protect))
    return device


def _recipe(config: UpscaleConfig, prior_of: "PriorLookup", *, debug: bool) -> "Recipe":
    """Finds the model, or fetches it from the hub, and refuses one that the engine cannot run."""
    from xpsr.model_files import fetch_model, resolve_model
    from xpsr.records import Recipe

    if not debug and not Path(resolve_model(config.model)).is_dir():
        quiet_hub()
    recipe = Recipe(config=config, describer=prior_of.name, folder=fetch_model(config.model))
    if config.engine != "torch":  # known before anybody looks at pictures
        from xpsr.engines import check_engine

        check_engine(recipe.folder, config.engine)
    return recipe


def _restore(
    waiting: Sequence[tuple[Job, "Seen | None"]],
    recipe: "Recipe",
    prior_of: "PriorLookup",
    kept: "PriorFile | None",
    report: Report,
    *,
    folder: Path | None,
    device: str,
    is_dry: bool,
) -> None:
    """Restores pictures into a folder, or to standard output, or tells how they would be."""
    from xpsr.model_files import refuse_settings

    config = recipe.config
    refuse_settings(recipe.folder, config.preset, config.overrides)
    waiting = _passing(waiting, partial(_refuse_large_result, config=config), report)
    if not waiting:
        return
    with loading(quiet=report.quiet):  # torch, which takes seconds and which pictures that are done do not need
        from xpsr.batch.measuring import refuse_too_large
    waiting = _passing(waiting, partial(refuse_too_large, config=config), report)
    report.made_less_large([job for job, _ in waiting], config)
    if not waiting:
        return
    with loading(quiet=report.quiet):
        from xpsr.batch.measuring import picture_file
        from xpsr.batch.restoring import make_folder, open_restorer, restore_file, write_options
        from xpsr.image import image_bytes

    if not report.debug:
        quiet_libraries()
    ahead = [job.source.path for job, _ in waiting if job.source.content is None] if prior_of.is_asked else []
    with picture_bar(len(waiting), looks_ahead=bool(ahead), quiet=report.quiet) as bar:
        if not is_dry:
            as_file = partial(picture_file, config=config)
            prior_of.describe_ahead(ahead, kept, as_file=as_file, progress=bar.looked)
        bar.show(f"loading {config.model}")
        with loading(quiet=True):
            restorer = open_restorer(config, device=device)
        if is_dry:
            for job, _ in waiting:
                report.planned(job, restorer, config)
            return
        if folder is not None:
            make_folder(folder)
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


def _undone(
    jobs: Sequence[Job], recipe: "Recipe", prior_of: "PriorLookup", kept: "PriorFile | None", report: Report
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


def _refuse_large_result(source: Source, config: UpscaleConfig) -> None:
    """Raises `InputError` where Pillow alone, without torch, tells that a picture's result would be too large."""
    if source.size is not None:
        config.refuse_large_result(*source.size)


def _passing(
    waiting: Sequence[tuple[Job, "Seen | None"]], refuse: Callable[[Source], None], report: Report
) -> list[tuple[Job, "Seen | None"]]:
    """Returns the pictures that can be read and restored, as far as their files' headers tell; the others are told."""
    fit = []
    with counting("measuring", quiet=report.quiet) as count:
        for number, (job, seen) in enumerate(waiting, 1):
            try:
                refuse(job.source)
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
