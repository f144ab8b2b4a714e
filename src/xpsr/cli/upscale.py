"""`xpsr upscale`."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from xpsr.cli.progress import counting, picture_bar
from xpsr.cli.terminal import (
    DESCRIBERS,
    Parser,
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
from xpsr.config import PRESETS, Size, UpscaleConfig, load_config
from xpsr.errors import InputError
from xpsr.files import IMAGE_SUFFIXES, OTHER_SUFFIXES, WRITTEN_SUFFIXES, is_remote, refusal
from xpsr.sources import Job, ResultFormat, Source, find_sources, name_jobs, name_maps, read_sidecar, result_suffix

if TYPE_CHECKING:  # what help does without
    from xpsr.ledger import Recipe, Seen
    from xpsr.prior import PriorFile, PriorLookup

__all__ = ["run"]


def _upscale_parser() -> Parser:
    default = UpscaleConfig()
    parser = Parser(
        prog="xpsr upscale",
        usage="xpsr upscale INPUT [INPUT ...] [-o OUT] [options]",
        description="Restores and enlarges photographs. Each becomes OUT/NAME_x4 in the format that it has, with all\n"
        "settings beside it in OUT/NAME_x4.json; NAME is that of the picture, with its suffix where another picture\n"
        "in its folder has the same without. No input is ever replaced, and nothing that xpsr has not made, unless\n"
        "you say so. The same command again restores what is new or was changed. What is not given is the model's own\n"
        "default.",
    )
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="*", help="pictures, folders of pictures, - for standard input"
    )
    parser.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        default=False,
        help="search the folders in folders, too; OUT gets the same folders",
    )
    group = parser.add_argument_group("result")
    add = group.add_argument
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="folder, made if missing (default: outputs), where a model's texts are kept in priors.jsonl, too; of one"
        " picture also FILE.png, or - for standard output",
    )
    add(
        "--on-existing",
        choices=("update", "skip", "overwrite", "error"),
        help="what is there already: update passes over what is done, makes again what is of a changed picture or of"
        f" other settings and refuses to replace anything else; error refuses it all (default: {default.on_existing})",
    )
    add(
        "--format",
        choices=get_args(ResultFormat),
        help="of results (default: the picture's own, or png where that cannot be written)",
    )
    add("--file-quality", type=int, metavar="N", help="1 to 100, of lossy formats (default: 95 for jpg, webp lossless)")
    add(
        "--keep-cmyk",
        action="store_true",
        help="CMYK pictures with a profile stay CMYK in jpg and tiff (default: sRGB)",
    )
    add("--strip-gps", action="store_true", help="leave out where a picture was taken")
    add("--strip-metadata", action="store_true", help="leave out EXIF, XMP and IPTC; the colour profile stays")
    add(
        "--no-provenance",
        dest="provenance",
        action="store_false",
        help="do not write into results that xpsr made them, with which model and seed",
    )
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--scale",
        type=float,
        metavar="X",
        help="how much larger; 2.5 is fine too (default: 4, or 2 or 1 where the result would be above 67 megapixels)",
    )
    add("--size", metavar="WxH", help="or so many pixels, 3000x2000; named NAME_3000x2000")
    add("--longest", type=int, metavar="N", help="or so many on the longer side; named NAME_longest3000")
    add("--shortest", type=int, metavar="N", help="or on the shorter one")
    add("--megapixels", type=float, metavar="M", help="or so many millions of them")
    add = parser.add_argument_group("fidelity").add_argument
    add(
        "--fidelity",
        type=float,
        metavar="F",
        help="0 paints what looks best, 1 no more than the picture tells (default: the model's)",
    )
    add(
        "--protect",
        metavar="auto|MASK",
        help="take the plain enlargement where a result contradicts its picture (auto), or where a mask is white",
    )
    add(
        "--lr-consistency",
        action="store_true",
        help="correct results until, reduced, they are their pictures again; for clean ones, as noise comes back, too",
    )
    add(
        "--map",
        metavar="PLACE",
        help="folder of pictures of what was invented, named as the results; of one picture also FILE.png",
    )
    add = parser.add_argument_group("what is read").add_argument
    add("--max-pixels", type=int, metavar="N", help="of a picture; more are refused (default: 67108864, 8192 x 8192)")
    add("--max-bytes", type=int, metavar="N", help="of a file; more are refused (default: 536870912)")
    add("--accept-truncated", action="store_true", help="read a file that ends too early as far as it goes")
    add = parser.add_argument_group("restoration").add_argument
    add("--content", metavar="TEXT", help="what is in the pictures (default: what the describer says)")
    add("--quality", metavar="TEXT", help="what is wrong with them (default: what the describer says)")
    add(
        "--priors",
        type=Path,
        metavar="PATH",
        help="texts written before: .jsonl, sidecar, folder of them or of the authors' .txt prompts",
    )
    add("--describer", metavar="NAME", help=f"none, a .jsonl, {DESCRIBERS}")
    add("--preset", choices=tuple(PRESETS), help="settings that go before the model's own")
    add("--steps", dest="num_inference_steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    add(
        "--guidance-scale",
        type=float,
        metavar="G",
        help="weight of the texts; above 1 is slower (default: the model's)",
    )
    add(
        "--guidance-interval",
        nargs=2,
        type=float,
        metavar=("FROM", "TO"),
        help="fractions of the steps between which texts are so followed; others take half the time (default: 0 1)",
    )
    add(
        "--cache-interval",
        type=int,
        metavar="N",
        help="compute the deep levels of the networks in every Nth step alone; faster, and less exact (default: 1)",
    )
    add("--strength", type=float, metavar="S", help="where to start, 1 is pure noise (default: the model's)")
    add(
        "--shifts",
        dest="num_shifts",
        type=int,
        metavar="N",
        help="grids to average the one step over, 1, 2 or 4 for the mini; 1 is fastest, more hide the grid (default:"
        " the model's)",
    )
    add("--seed", type=int, metavar="S", help="the same for every picture (default: a random one for each)")
    add("--color-match", choices=("none", "adain", "wavelet"), help="to the input (default: the model's)")
    add("--min-working-size", type=int, metavar="N", help="pixels of the smaller side while the model works; 0: any")
    add("--min-size", dest="min_working_size", type=int, help=argparse.SUPPRESS)  # its former name
    add("--content-suffix", metavar="TEXT", help="said after every content text")
    add("--negative-content", metavar="TEXT", help="what guidance leads away from, in content")
    add("--negative-quality", metavar="TEXT", help="and in quality")
    add("--conditioning-scale", dest="controlnet_conditioning_scale", type=float, metavar="X", help="of the ControlNet")
    add("--start", choices=("lr", "noise"), help="from the noised input, or (strength 1) from noise alone")
    add = parser.add_argument_group("the authors' ways, all of them in --preset reference").add_argument
    add("--fit", choices=("pad", "stretch"), help="to the model's multiple of pixels (default: pad)")
    add("--added-noise-level", type=int, metavar="T", help="noise the input once more, at this timestep (default: not)")
    add("--offset-noise-scale", type=float, metavar="X", help="noise that a channel shares, with --start noise")
    add("--tile-weights", choices=("symmetric", "reference"), help="how tiles are laid and blended")
    add("--long-texts", choices=("chunk", "cut"), help="what the text encoder has no places for (default: chunk)")
    add("--no-reserve-suffix", dest="reserve_suffix", action="store_false", help="let long texts push the suffix out")
    add = parser.add_argument_group("model and machine").add_argument
    add("--model", help=f"bundled name, folder, or owner/name on the hub (default: {default.model})")
    add("--device", help=f"auto, cuda, cuda:1, mps or cpu (default: {default.device})")
    add("--dtype", choices=("auto", "fp32", "bf16", "fp16"), help=f"number type (default: {default.dtype})")
    add(
        "--engine",
        choices=("torch", "openvino", "onnx"),
        help=f"what computes; all but torch: on the CPU, a --model that xpsr export wrote (default: {default.engine})",
    )
    add(
        "--weights-dtype",
        choices=("auto", "fp32", "bf16", "fp16", "fp8"),
        help="in which weights lie in memory; bf16 and fp16 halve it and fp8 quarters it, a little slower (default: as"
        " --dtype)",
    )
    add("--offload", choices=("none", "model", "group"), help="of a graphics card: keep networks, or layers, in RAM")
    add("--compile", action="store_true", help="compile the networks first; for many pictures, or a large one")
    add("--tile-size", type=int, metavar="N", help="in latent pixels; less takes less memory (default: the model's)")
    add("--tile-overlap", type=int, metavar="N", help="in latent pixels (default: the model's)")
    add = parser.add_argument_group("running").add_argument
    add("--config", type=Path, metavar="FILE", help="YAML of settings; options given here go before it")
    add("--json", action="store_true", default=False, help="one JSON object a picture on stdout")
    add("--quiet", action="store_true", default=False, help="neither progress nor result lines")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Restores pictures and returns the exit code."""
    args = parse(_upscale_parser(), arguments)
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
    if out is None and args.json:
        raise InputError("--json and -o - both write on standard output; leave one of them out.")
    report = _Report(json=args.json, quiet=args.quiet or out is None, debug=args.debug)

    from xpsr.ledger import Recipe
    from xpsr.model_files import fetch_model, resolve_model
    from xpsr.prior import QUESTIONS, PriorFile, PriorLookup, is_asked

    device, looks_here = config.device, is_asked(config.describer) and not is_remote(config.describer)
    usual = {"engine": "torch", "weights_dtype": "auto", "offload": "none"}
    is_usual = all(getattr(config, name) == value for name, value in usual.items())
    # every other choice is on all machines, so that torch need not tell
    if not is_usual or device not in ("auto", "cpu") or config.dtype not in ("auto", "fp32") or looks_here:
        with loading(quiet=report.quiet):
            from xpsr.devices import resolve_offload, resolve_weights_dtype
            from xpsr.engines import resolve_place
        found, dtype = resolve_place(config.engine, device, config.dtype)
        resolve_weights_dtype(config.weights_dtype, dtype)
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
            from xpsr.batch import restore_file, write_options
            from xpsr.image import image_bytes
            from xpsr.restore import Restorer

        waiting = _small_enough(waiting, config, report)
        report.made_less_large([job for job, _ in waiting], config)
    if not waiting:
        report.end(len(sources))
        return report.code

    if not args.debug:
        quiet_libraries()
    ahead = [job.source.path for job, _ in waiting if job.source.content is None] if prior_of.is_asked else []
    with picture_bar(len(waiting), looks_ahead=bool(ahead), quiet=report.quiet) as bar:
        prior_of.describe_ahead(ahead, kept, progress=bar.looked)
        bar.show(f"loading {config.model}")
        with loading(quiet=True):
            restorer = Restorer(
                config.model,
                device=device,
                dtype=config.dtype,
                engine=config.engine,
                weights_dtype=config.weights_dtype,
                compile=config.compile,
                offload=config.offload,
            )
        restorer.pipe.settings(config.preset, config.overrides)  # what this model cannot do is known before any picture
        folder = out.parent if out is not None and is_alone else out
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made a folder ({error.strerror}); choose another with -o."
            ) from error
        for number, (job, seen) in enumerate(waiting, 1):
            bar.start(job.source.path.name)
            try:
                restored = restore_file(restorer, job, prior_of, recipe, seen=seen, progress=bar.passed)
                if job.target is None:
                    place = Path(f"result{result_suffix(job.source, config.format)}")
                    _send(image_bytes(place, restored.picture, write_options(config, restored.record)))
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
    return config.target(*(source.size() or (1, 1)))  # what cannot be read is refused later


def _undone(
    jobs: Sequence[Job], recipe: "Recipe", prior_of: "PriorLookup", kept: "PriorFile | None", report: "_Report"
) -> list[tuple[Job, "Seen | None"]]:
    """Returns the pictures that are to be restored, with what was seen at their targets; the others are told."""
    from xpsr.ledger import look, what_to_do

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
    from xpsr.batch import refuse_too_large

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


def _print_json(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)
