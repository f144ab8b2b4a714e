"""`xpsr evaluate`."""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from xpsr.cli.progress import counting
from xpsr.cli.terminal import Parser, answer, parse
from xpsr.config.checks import check_argument, within
from xpsr.errors import InputError
from xpsr.files import real_path

__all__ = ["run"]

CACHE = "cache.jsonl"

_NOT_OF_VOTES = ("pred", "hr", "lr", "metrics", "weights", "tile_size", "tile_overlap", "output")


def run(arguments: Sequence[str]) -> int:
    """Scores folders of restored pictures, or ranks by votes, and returns the exit code."""
    parser = Parser(
        prog="xpsr evaluate",
        usage="xpsr evaluate --pred [NAME=]DIR ... [--ref HR] [--lr LR] [-o REPORT] [options]\n"
        "       xpsr evaluate --votes FILE ... [--key FILE]",
        description="Scores folders of restored pictures: means with 95 % intervals, tests of differences, and with\n"
        "-o a report: scores.json, scores.csv, report.md and a page to look at, index.html. A picture belongs to the\n"
        "original of its name, with or without a size behind it (NAME_x4.png to NAME.png); one that is missing,\n"
        "surplus or of another size is an error. The same command goes on after an interruption, and scores again\n"
        "only what has changed. With --votes, ranks methods by what people chose on a page of xpsr compare.",
    )
    add = parser.add_argument
    add(
        "--pred",
        metavar="[NAME=]DIR",
        nargs="+",
        action="extend",
        help="restored pictures of a method, which the table calls NAME (default: as DIR); for each method one",
    )
    add("--ref", metavar="HR", dest="hr", type=_folder, help="a folder of the originals")
    add("--lr", metavar="LR", type=_folder, help="a folder of what was restored")
    add("--protocol", metavar="NAME", default="xpsr", help="what is measured and how, or a YAML (default: xpsr)")
    add("--metrics", metavar="A,B", help="those to measure instead of the protocol's, such as psnr_y,niqe")
    add("--weights", metavar="DIR", type=_folder, help="the weights of learned metrics")
    add("--tile-size", metavar="N", type=int, help="of the tiles that seam_energy looks at, pixels of the result")
    add("--tile-overlap", metavar="M", type=int, help="by how many pixels of the result these tiles overlap")
    add("--workers", metavar="N", type=int, default=0, help="processes that score (default: 0, this one)")
    add("-o", "--output", metavar="REPORT", type=_folder, help="a folder for the report (default: none is written)")
    add("--no-page", action="store_true", default=False, help="no index.html")
    add(
        "--votes",
        metavar="FILE",
        nargs="+",
        action="extend",
        type=Path,
        help="JSON files that a page of xpsr compare has saved",
    )
    add("--key", metavar="FILE", type=Path, help="key.json of that page (default: beside the first file of votes)")
    add("--json", action="store_true", default=False, help="what scores.json holds, instead of the table")
    add("--quiet", action="store_true", default=False, help="no progress")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    args = parse(parser, arguments)
    given = vars(args)
    if "votes" in given:
        return _rank(args)
    if "key" in given:
        raise InputError("--key means nothing without --votes; leave it out.")
    if "pred" not in given:
        raise InputError("nothing to evaluate; name a folder, as in: xpsr evaluate --pred A --ref HR.")
    check_argument("workers", args.workers, int, within(0, 256, "0 or more"))
    hr, lr, output = (given.get(name) for name in ("hr", "lr", "output"))
    methods = _methods(args.pred)
    if output is not None:
        _check_output(output, [*methods.values(), *filter(None, (hr, lr))])
    elif args.no_page:
        raise InputError("--no-page means nothing without -o; leave it out.")

    from xpsr.evaluation.protocols import load_protocol
    from xpsr.evaluation.report import PAGE, as_json, as_text, check_place, write_report
    from xpsr.evaluation.scoring import evaluate

    if output is not None:
        check_place(output)
    protocol = load_protocol(args.protocol)
    if "metrics" in given:
        names = tuple(filter(None, (name.strip() for name in args.metrics.split(","))))
        if not names:
            raise InputError("--metrics names none; write them as in: --metrics psnr_y,niqe.")
        protocol = dataclasses.replace(protocol, metrics=tuple(dict.fromkeys(names)))
    tiles = {name: given[name] for name in ("tile_size", "tile_overlap") if name in given}
    if tiles and "seam_energy" not in protocol.metrics:
        raise InputError(f"--{next(iter(tiles)).replace('_', '-')} means nothing without --metrics seam_energy.")
    protocol = dataclasses.replace(protocol, **tiles)
    with counting("scoring", quiet=args.quiet) as progress:
        evaluation = evaluate(
            methods,
            hr=hr,
            lr=lr,
            protocol=protocol,
            weights=given.get("weights"),
            workers=args.workers,
            cache=None if output is None else output / CACHE,
            on_progress=progress,
        )
    if output is not None:
        write_report(evaluation, output, page=not args.no_page)
    if args.json:
        print(json.dumps(as_json(evaluation), indent=1))
        return 0
    for line in as_text(evaluation).splitlines():
        answer(line)
    if output is not None:
        answer(f"\n{output / ('report.md' if args.no_page else PAGE)}")
    return 0


def _folder(text: str) -> Path:
    if not text:  # of a variable that is not set; it would be the current folder
        raise argparse.ArgumentTypeError("names no folder")
    return Path(text)


def _rank(args: argparse.Namespace) -> int:
    others = [name for name in _NOT_OF_VOTES if name in vars(args)]
    others += [name for name in ("json", "no_page") if vars(args)[name]]
    if others:
        flag = {"hr": "ref"}.get(others[0], others[0]).replace("_", "-")
        raise InputError(f"--{flag} means nothing with --votes; leave it out.")

    from xpsr.evaluation.votes import rank_votes, ranking_table

    for line in ranking_table(rank_votes(args.votes, key=vars(args).get("key"))).splitlines():
        answer(line)
    return 0


def _methods(given: Sequence[str]) -> dict[str, Path]:
    """Folders by what the table calls them: NAME, or as the folder is called, with its parent where two are alike."""
    named: list[tuple[str, Path]] = []
    for text in given:
        name, equals, folder = text.partition("=")
        is_named = bool(equals) and not Path(text).exists()
        if not (folder if is_named else text) or (is_named and not name.strip()):
            raise InputError(f"--pred '{text}' names no folder; write --pred DIR or --pred NAME=DIR.")
        named.append((name.strip(), Path(folder)) if is_named else ("", Path(text)))
    own = [name or _last(folder, 1) for name, folder in named]
    longer = [
        name or (_last(folder, 2) if own.count(short) > 1 else short)
        for (name, folder), short in zip(named, own, strict=True)
    ]
    for name in longer:
        if longer.count(name) > 1:
            folders = [str(folder) for other, (_, folder) in zip(longer, named, strict=True) if other == name]
            raise InputError(f"{' and '.join(folders)} are both called {name}; write --pred NAME={folders[-1]}.")
    return dict(zip(longer, (folder for _, folder in named), strict=True))


def _last(folder: Path, count: int) -> str:
    """The last parts of a folder's path, of "." or ".." too; of links, their own."""
    return "/".join(Path(os.path.abspath(folder)).parts[-count:])  # noqa: PTH100 - resolve() follows links


def _check_output(output: Path, inputs: Sequence[Path]) -> None:
    """Refuses a place for the report where pictures lie, whose records it might replace, and what is no folder."""
    if output.exists() and not output.is_dir():
        raise InputError(f"-o {output} is a file; name a folder for the report.")
    for folder in inputs:
        if real_path(folder) == real_path(output):
            raise InputError(f"-o {output} holds pictures that are scored; name another folder for the report.")
