"""`xpsr compare`."""

import os
from collections.abc import Sequence
from pathlib import Path

from xpsr.cli.terminal import Parser, answer, parse
from xpsr.errors import InputError

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Writes the page of a blind comparison and returns the exit code."""
    parser = Parser(
        prog="xpsr compare",
        usage="xpsr compare A/ B/ [C/ ...] -o PAGE/ [--lr LR/] [--ref HR/] [options]",
        description="Makes a page on which people vote, without knowing whose they are, which result of a picture is\n"
        "better: PAGE/index.html, one file that needs no network, to be handed to them, and PAGE/key.json, which says\n"
        "what they saw and stays with you. Votes are saved from the page as a file; xpsr evaluate --votes ranks them.",
    )
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="*", help="results of one method each, two or more")
    add = parser.add_argument
    add("-o", "--output", metavar="PAGE", type=Path, help="folder of the page")
    add("--lr", metavar="DIR", type=Path, help="what the results were made from, to be shown beside them")
    add("--ref", metavar="DIR", type=Path, help="originals, to be shown; it is asked then which result is closer")
    add("--names", metavar="A,B,...", help="of the methods, in the key alone (default: those of the folders)")
    add("--seed", metavar="N", type=int, default=0, help="of what is drawn at random (default: 0)")
    add("--max-pictures", metavar="N", type=int, default=24, help="drawn of those in the folders (default: 24)")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    args = parse(parser, arguments)
    folders = args.folders
    if "output" not in args:
        raise InputError("no PAGE; name a folder with -o PAGE.")
    if len(folders) < 2:
        raise InputError("two folders or more are compared, as in: xpsr compare A/ B/ -o PAGE/.")
    names = args.names.split(",") if "names" in args else _names(folders)
    if len(names) != len(folders):
        raise InputError(f"--names are {len(names)}, and folders {len(folders)}; give each one.")
    if len(set(names)) < len(names) or not all(names):
        raise InputError("two methods have one name, or one has none; tell them apart with --names A,B.")

    from xpsr.evaluation import KEY_NAME, PAGE_NAME, write_comparison

    write_comparison(
        dict(zip(names, folders, strict=True)),
        args.output,
        lr=vars(args).get("lr"),
        ref=vars(args).get("ref"),
        seed=args.seed,
        max_pictures=args.max_pictures,
    )
    answer(args.output / PAGE_NAME)
    answer(args.output / KEY_NAME)
    return 0


def _names(folders: Sequence[Path]) -> list[str]:
    """What folders are called: by their own names, or by their paths where those are the same."""
    names = [Path(os.path.realpath(folder)).name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
