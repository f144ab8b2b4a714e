"""`xpsr describe`."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xpsr.cli.options import add_reading
from xpsr.cli.progress import counting
from xpsr.cli.terminal import (
    DESCRIBERS,
    Parser,
    answer,
    complain,
    explain_of,
    loading,
    parse,
    quiet_libraries,
    sayings,
)
from xpsr.config import PRESETS, UpscaleConfig
from xpsr.errors import InputError, printable
from xpsr.files import pair_images
from xpsr.sources import find_sources

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Describes pictures and returns the exit code."""
    args = parse(_parser(), arguments)
    given = vars(args)
    if ("pairs" in given) == bool(given.get("inputs")):
        raise InputError("name pictures or folders, or else --pairs DIR; as in: xpsr describe photos/.")
    if args.describer == "none":
        raise InputError("--describer none describes nothing; name mini, a server or a model.")
    reading = {name: given[name] for name in ("max_pixels", "max_bytes", "accept_truncated") if name in given}
    config = UpscaleConfig(**reading)

    with loading(quiet=args.quiet):
        from xpsr.batch.measuring import picture_file
        from xpsr.prior import QUESTIONS, PriorFile, describe_files, is_asked, open_describer

        if not args.debug:
            quiet_libraries()
    asked = [name for name in ("content_question", "quality_question", "content_view", "quality_view") if name in given]
    questions = None
    if is_asked(args.describer):
        changes = {name.removesuffix("_question"): given[name] for name in asked}
        questions = dataclasses.replace(QUESTIONS[args.preset], **changes)
    elif asked:
        option = f"--{asked[0]}".replace("_", "-")
        raise InputError(f"{option} is for models that are asked, and {args.describer} is not; leave it out.")
    failures = 0

    def fail(path: Path, error: Exception) -> None:
        nonlocal failures
        failures += 1
        complain(explain_of(path, error, "describe"))

    clean: dict[Path, Path] = {}
    if "pairs" in given:
        try:
            clean = {lr: hr for hr, lr in pair_images(args.pairs / "hr", args.pairs / "lr")}
        except InputError as error:
            fail(args.pairs, error)
    images = list(clean)
    if "inputs" in given:
        sources = find_sources(args.inputs, recursive=args.recursive, piped=False, on_error=fail, on_note=complain)
        images = [source.path for source in sources]
    if not images:
        return 1
    of_models = ("quality_model", "quantization", "revision", "dtype", "device")
    options = {name: given[name] for name in of_models if name in given}
    with loading(args.describer, quiet=args.quiet):
        describer = open_describer(args.describer, questions=questions, **options)

    seen = describe_files(
        describer,
        images,
        PriorFile(args.output),
        content_from=clean.get if clean else None,
        refresh=args.refresh,
        as_file=partial(picture_file, config=config),
        on_error=fail,
    )
    with counting("describing", quiet=args.quiet) as bar:
        for number, (image, prior) in enumerate(seen, start=1):
            if bar is not None:
                bar(number, len(images))
            if not args.quiet:
                print(printable(str(image)), *sayings(prior.as_dict()), sep="\n", end="", file=sys.stderr, flush=True)
    if args.output.exists():  # else there was nothing to write
        answer(args.output)
    return 1 if failures else 0


def _parser() -> Parser:
    parser = Parser(
        prog="xpsr describe",
        usage="xpsr describe INPUT [INPUT ...] [-o priors.jsonl] [options]",
        description="Looks at pictures and writes what is in them and what is wrong with them, a JSON object a line.\n"
        "What the file holds already is not asked again. Edit it and give it to xpsr upscale --priors.",
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="pictures, or folders of pictures")
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", type=Path, default=Path("priors.jsonl"), help="default: priors.jsonl")
    add("-r", "--recursive", action="store_true", default=False, help="search the folders in folders, too")
    add("--pairs", metavar="DIR", type=Path, help="training pairs instead: content of DIR/hr, quality of DIR/lr")
    add("--refresh", action="store_true", default=False, help="ask again about every picture")
    add("--describer", metavar="NAME", default="mini", help=DESCRIBERS)
    add("--quality-model", metavar="NAME", help="another model for the second question")
    add(
        "--preset",
        choices=tuple(PRESETS),
        default="default",
        help="the paper's questions (default, paper) or those of the authors' scripts (reference)",
    )
    add("--content-question", metavar="TEXT", help="instead of the preset's")
    add("--quality-question", metavar="TEXT", help="instead of the preset's")
    add("--content-view", choices=("whole", "crops"), help="what a model is shown: the picture, or parts unscaled")
    add("--quality-view", choices=("whole", "crops"), help="(default: crops, because shrinking hides what is wrong)")
    add("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu (default: auto)")
    add("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="number type of a model")
    add("--quantization", choices=("none", "int8", "int4"), default="none", help="of a model, to save memory")
    add("--revision", help="of a model on the hub")
    add_reading(parser)
    add("--quiet", action="store_true", default=False, help="only the file's name at the end")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    return parser
