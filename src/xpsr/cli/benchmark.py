"""`xpsr benchmark`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xpsr.cli.progress import counting
from xpsr.cli.terminal import Parser, answer, complain, explain, loading, parse, print_traceback, quiet_libraries
from xpsr.errors import InputError, XPSRError, one_line
from xpsr.files import write_text

if TYPE_CHECKING:  # it loads torch
    from xpsr.benchmark import Suite

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Runs a suite and returns the exit code."""
    parser = Parser(
        prog="xpsr benchmark",
        usage="xpsr benchmark SUITE.yaml [-o OUT] [--set NAME=FOLDER ...] [options]",
        description="Restores the sets of SUITE.yaml with its methods, scores the results and prints a table a set.\n"
        "Results go to OUT/results/SET/METHOD, reports to OUT/SET/index.html, the tables to OUT/summary.md. The same\n"
        "command goes on after an interruption, and makes again only what depends on what was changed. Nothing is\n"
        "downloaded but a model from the hub that the suite names; where a set is not there, a line says how to come\n"
        "by it. Exit code 1: a method failed or its program is not installed; the others have run.",
    )
    parser.add_argument("suite", metavar="SUITE.yaml", type=Path, help="suites/ of a clone holds some to start from")
    add = parser.add_argument
    add("-o", "--output", metavar="OUT", type=Path, help="a folder (default: outputs/NAME, of NAME.yaml)")
    add(
        "--set",
        metavar="[NAME=]FOLDER",
        action="append",
        help='where a set lies; NAME may be a pattern, "small-*", and FOLDER alone is for all sets',
    )
    add("--sets", metavar="A,B", help="only these")
    add("--methods", metavar="A,B", help="only these")
    add("--skip-missing", action="store_true", default=False, help="leave out sets that are not there")
    add("--list", action="store_true", default=False, help="say what would be run and what is missing; run nothing")
    add("--device", default="auto", help="of models: auto, cuda, cuda:1, mps or cpu (default: auto)")
    add("--weights", metavar="DIR", type=Path, help="the weights of learned metrics")
    add("--workers", metavar="N", type=int, default=0, help="processes that score (default: 0, this one)")
    add("--quiet", action="store_true", default=False, help="no progress")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    args = parse(parser, arguments)
    given = vars(args)

    with loading(quiet=args.quiet):
        from xpsr.benchmark import as_markdown, find_sets, load_suite, run_suite

        if not args.debug:
            quiet_libraries()
    suite = load_suite(args.suite, folders=[_folder(text) for text in given.get("set", ())])
    suite = suite.only(methods=_names(given, "methods"), sets=_names(given, "sets"))
    if args.list:
        return _list(suite)
    _, missing = find_sets(suite)
    for error in missing.values():
        complain(explain(error, "benchmark"))
    if missing and (not args.skip_missing or len(missing) == len(suite.config.sets)):
        return 2
    out = given.get("output", Path("outputs") / suite.name)

    def fail(pictures: str, method: str, error: Exception) -> None:
        if args.debug:
            print_traceback()
        complain(f"{pictures}, {method}: {_said(error)}")

    with counting("", quiet=args.quiet) as bar:
        outcome = run_suite(
            suite,
            out,
            device=args.device,
            weights=given.get("weights"),
            workers=args.workers,
            skip_missing=args.skip_missing,
            on_progress=bar,
            on_failure=fail,
        )
    tables = as_markdown(outcome)
    write_text(out / "summary.md", tables)
    answer(tables.rstrip("\n"))
    complain(f"{out / 'summary.md'}; pictures and intervals: {out}/SET/.")
    return 0 if outcome.is_whole else 1


def _said(error: Exception) -> str:
    return explain(error, "benchmark") if isinstance(error, XPSRError) else one_line(error)


def _folder(text: str) -> tuple[str, Path]:
    """The name, or pattern, of a set and its folder."""
    name, equals, folder = text.partition("=")
    if not equals or Path(text).is_dir():
        name, folder = "*", text
    if not name or not folder:
        raise InputError(f"--set {text}: is not NAME=FOLDER.")
    return name, Path(folder)


def _names(given: dict[str, str], option: str) -> list[str] | None:
    if option not in given:
        return None
    names = [name.strip() for name in given[option].split(",") if name.strip()]
    if not names:
        raise InputError(f"--{option} is empty; name some, with commas between them.")
    return names


def _list(suite: "Suite") -> int:
    from xpsr.benchmark import find_sets, why_not

    found, missing = find_sets(suite)
    for one in found:
        answer(f"set {one.name}: {len(one.pairs)} picture{'s' * (len(one.pairs) > 1)}")
    for name, error in missing.items():
        answer(explain(error, "benchmark").replace(f"set {name}: ", f"set {name}: missing; ", 1))
    for method in suite.config.methods:
        way = next(
            f"{kind} {getattr(method, kind)}" for kind in ("resize", "model", "command") if getattr(method, kind)
        )
        reason = why_not(suite, method)
        answer(f"method {method.name}: {way}" + (f"; missing: {reason}" if reason else ""))
    return 0
