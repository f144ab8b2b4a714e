"""`xpsr degrade`."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from xpsr.cli.progress import counting
from xpsr.cli.terminal import Parser, answer, complain, explain, parse
from xpsr.config import DEGRADATIONS, DegradationConfig, PairsConfig, load_config
from xpsr.config.checks import check_argument, within
from xpsr.errors import InputError

__all__ = ["run"]

_SHARD_SIZE = 1000  # pairs


def run(arguments: Sequence[str]) -> int:
    """Makes training pairs and returns the exit code."""
    parser = Parser(
        prog="xpsr degrade",
        usage="xpsr degrade INPUT OUTPUT [--preset xpsr] [--num-per-image 4] [--shards] [options]",
        description="Makes training pairs of the clean pictures below INPUT: OUTPUT/hr/NAME_0.png, NAME_1.png ... and\n"
        "OUTPUT/lr/ with the same names at a quarter of the size, blurred, resized, noisy and compressed twice; and\n"
        "OUTPUT/manifest.jsonl, which says what was done. The same command goes on after an interruption and ends\n"
        "with the same bytes. Pictures that cannot be used are skipped; OUTPUT/skipped.jsonl lists them (exit code 1).",
    )
    parser.add_argument("input", metavar="INPUT", type=Path, help="a folder of clean pictures, with all folders in it")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="a new folder, or one that this command has begun")
    add = parser.add_argument
    add("--preset", choices=tuple(DEGRADATIONS), default="xpsr", help="how strongly (default: xpsr)")
    add("--config", metavar="YAML", type=Path, help="ranges and probabilities that replace some of the preset's")
    add("--seed", metavar="N", type=int, help="(default: 0)")
    add("--num-per-image", metavar="N", type=int, help="pairs of each picture (default: 1)")
    add("--crop-size", metavar="N", type=int, help="random square crops of that side instead of whole pictures")
    add(
        "--crop-scales",
        metavar="X",
        type=float,
        nargs="+",
        help="each crop is cut from the picture reduced by one of these (default: 1)",
    )
    add("--min-size", metavar="N", type=int, help="pictures with a shorter side are skipped (default: 16)")
    add(
        "--min-detail", metavar="X", type=float, help="crops with a lower mean |Laplacian| are drawn again (default: 0)"
    )
    add("--sharpen", action="store_true", help="sharpen the clean pictures first, as XPSR's authors do")
    add("--shards", action="store_true", default=False, help="OUTPUT/shards/*.tar (WebDataset) instead of PNGs")
    add("--shard-size", metavar="N", type=int, help=f"pairs in a tar (default: {_SHARD_SIZE})")
    add("--workers", metavar="N", type=int, default=0, help="processes that do the work (default: 0, this one)")
    add("--quiet", action="store_true", default=False, help="no progress")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    args = parse(parser, arguments)
    given = vars(args)
    check_argument("workers", args.workers, int, within(0, 256, "0 or more"))
    shard_size = given.get("shard_size", _SHARD_SIZE)
    if "shard_size" in given and not args.shards:
        message = "is of tars, which nobody asked for"
        raise InputError(message, code="conflict", field="shard_size", value=f"{shard_size}", remedy="add --shards")
    degradation = DEGRADATIONS[args.preset]
    if "config" in given:
        degradation = load_config(DegradationConfig, args.config, default=degradation)
    names = ("seed", "num_per_image", "crop_size", "crop_scales", "min_size", "min_detail", "sharpen")
    options = {name: given[name] for name in names if name in given}
    config = PairsConfig(degradation=degradation, shard_size=shard_size if args.shards else None, **options)

    warnings.filterwarnings("ignore", "This DataLoader will create")  # it was asked for

    from xpsr.data.making import make_pairs
    from xpsr.data.manifest import MANIFEST

    try:
        with counting("degrading", quiet=args.quiet) as progress:
            made = make_pairs(
                args.input,
                args.output,
                config,
                num_workers=args.workers,
                progress=progress,
                on_skip=lambda source, problem: complain(f"skipped: {problem}"),
            )
    except InputError as error:  # the options are right
        complain(explain(error, "degrade"))
        return 1
    if made.skipped:
        total = made.num_pairs // config.num_per_image + len(made.skipped)
        complain(f"{len(made.skipped)} of {total} pictures were skipped; {args.output / 'skipped.jsonl'} lists them.")
    answer(args.output / MANIFEST)
    return 1 if made.skipped else 0
