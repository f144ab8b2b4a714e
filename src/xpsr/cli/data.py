"""`xpsr data`."""

import json
from collections.abc import Sequence
from pathlib import Path

from xpsr.cli.progress import counting
from xpsr.cli.terminal import Parser, answer, complain, explain, parse
from xpsr.config import suggest
from xpsr.config.checks import check_argument, within
from xpsr.config.sizes import MAX_SCALE
from xpsr.errors import InputError, XPSRError

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Runs `xpsr data check` and returns the exit code."""
    parser = Parser(
        prog="xpsr data",
        usage="xpsr data check DIR [--priors FILE] [--json] [options]",
        description="Looks for what is wrong with a folder of pictures, pairs (hr/ and lr/) or shards: pictures that\n"
        "cannot be read, are tiny or look like another one; pairs that are not exactly 4:1, show different pictures,\n"
        "lack a part or are not what the manifest says; and what has no prior. Exit code 1: something was found.",
    )
    parser.add_argument("action", metavar="check", help="the only one there is")
    parser.add_argument("folder", metavar="DIR", type=Path)
    add = parser.add_argument
    add("--priors", metavar="FILE", type=Path, help="a JSONL from xpsr describe (default: DIR/priors.jsonl, if it is)")
    add("--min-size", metavar="N", type=int, default=16, help="pixels a shorter side should have (default: 16)")
    add("--scale", metavar="N", type=int, default=4, help="of pairs (default: 4)")
    add("--json", action="store_true", default=False, help="all findings as one JSON object on stdout")
    add("--quiet", action="store_true", default=False, help="no progress")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    args = parse(parser, arguments)
    check_argument("scale", args.scale, int, within(1, MAX_SCALE, "4"))
    check_argument("min_size", args.min_size, int, within(0, 2**16, "16"))
    if args.action != "check":
        nearest = suggest(args.action, ["check"]).replace("'", "") or "; there is: check."
        raise InputError(f"unknown action {args.action}{nearest}")

    from xpsr.data.checking import check_folder

    try:
        with counting("checking", quiet=args.quiet) as progress:
            report = check_folder(
                args.folder,
                scale=args.scale,
                min_size=args.min_size,
                priors=vars(args).get("priors"),
                progress=progress,
            )
    except XPSRError as error:  # the options are right
        complain(explain(error, "data"))
        return 1
    if args.json:
        findings = [vars(finding) for finding in report.findings]
        summary = {"folder": str(args.folder), "layout": report.layout, "checked": report.num_checked}
        summary |= {"counts": report.counts(), "findings": findings, "hidden": report.hidden}
        print(json.dumps(summary, indent=1))
    else:
        for finding in report.findings:
            answer(f"{finding.kind}: {finding.name}: {finding.problem}")
        if report.hidden:
            names = ", ".join(report.hidden[:3]) + (" ..." if len(report.hidden) > 3 else "")
            answer(f"{args.folder}: {len(report.hidden)} hidden pictures passed over ({names}).")
        counts = ", ".join(f"{number} {kind}" for kind, number in report.counts().items()) or "nothing wrong"
        answer(f"{args.folder}: {report.num_checked} {report.layout.replace('shards', 'pairs')} checked: {counts}.")
    return 1 if report.findings else 0
