"""`xpsr batch`."""

import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpsr.cli.options import add_machine, add_reading, add_restoration, add_signing, add_writing
from xpsr.cli.progress import counting
from xpsr.cli.terminal import Parser, answer, complain, explain, loading, parse, quiet_hub, quiet_libraries
from xpsr.config import BatchConfig, Size, UpscaleConfig, load_config
from xpsr.errors import InputError

if TYPE_CHECKING:  # what help does without
    from xpsr.batch.runner import Event
    from xpsr.batch.running import Batch, Ending

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Restores many pictures, or tells how far that is, and returns the exit code."""
    args = parse(_parser(), arguments)
    given = vars(args)
    if args.status:
        return _status(given, as_json=args.json)
    if not given.get("inputs"):
        raise InputError("no INPUT; name folders, lists or addresses, as in: xpsr batch photos -o restored.")
    if not given.get("output"):
        raise InputError("no -o OUT; name the folder of all results, as in: xpsr batch photos -o restored.")
    config, called = _config(given), _folder(args.output, given.get("ledger"))
    report = _Report(as_json=args.json, quiet=args.quiet)
    from xpsr.batch.ledger import copied
    from xpsr.batch.running import open_batch

    if not args.debug:
        quiet_hub()
    with ExitStack() as stack:
        folder = called
        if args.dry_run:  # which changes nothing, the ledger neither
            folder = copied(called, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xpsr-"))))
        batch = stack.enter_context(
            open_batch(
                args.inputs,
                args.output,
                config,
                folder=folder,
                called=called,
                on_error=report.unplanned,
                on_note=complain,
            )
        )
        if args.retry_failed:
            complain(f"{batch.ledger.retry_failed()} that failed are tried again.")
        if not args.debug:
            quiet_libraries()
        if args.dry_run:
            with loading(quiet=args.quiet):
                from xpsr.batch.rehearsal import rehearse
            told = rehearse(batch)
            if args.json:
                print(json.dumps(dataclasses.asdict(told)), flush=True)
            else:
                answer("\n".join(told.in_words()))
            return report.code
        return _work(batch, report, quiet=args.quiet)


def _work(batch: "Batch", report: "_Report", *, quiet: bool) -> int:
    """Does all that waits, and returns the exit code."""
    from xpsr.batch.reports import Reporter

    tally = batch.ledger.tally()
    if not tally.waiting and tally.total:
        complain(f"{tally.done + tally.skipped} of {tally.total} pictures were done already; nothing waits.")
    reporter, ending = Reporter(batch.ledger, unplanned=report.lines), None
    with _stopping() as is_stopping:

        def on_event(event: "Event") -> None:
            reporter.on_event(event)
            report.happened(event)

        try:
            with counting("looking", quiet=quiet) as bar:

                def on_look(done: int) -> None:
                    reporter.on_tick()
                    if bar is not None:
                        bar(done, tally.waiting)

                ending = batch.describe(is_stopping=is_stopping, on_event=on_event, on_look=on_look)
            if ending.end == "complete":
                with counting("restoring", quiet=quiet) as bar:

                    def on_tick() -> None:
                        reporter.on_tick()
                        if bar is not None:
                            now = batch.ledger.tally()
                            bar(now.total - now.waiting - now.running, now.total, reporter.in_words())

                    ending = batch.run(is_stopping=is_stopping, on_event=on_event, on_tick=on_tick)
        finally:
            reporter.close(None if ending is None else ending.end)
    report.end(batch, ending)
    return 130 if ending.end == "stopped" else report.code


def _parser() -> Parser:
    default = BatchConfig()
    parser = Parser(
        prog="xpsr batch",
        usage="xpsr batch INPUT [INPUT ...] -o OUT [options]\n       xpsr batch --status OUT [--json]",
        description="Restores any number of photographs: what is done is never done again, and what fails never stops\n"
        "the rest. The same command goes on wherever it was interrupted. Results are in OUT as their pictures are in\n"
        "INPUT, each with its record beside it; what became of each is in OUT/ledger.sqlite, failures in\n"
        "failures.csv, a page for people in summary.html, numbers for Prometheus in metrics.prom, what happened in\n"
        "log.jsonl.\n"
        "Exit code 1: some pictures failed; 130: interrupted, and something waits.",
    )
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        help="folders with all that is in them, pictures, lists (.txt, .jsonl, .csv, .parquet), .tar files, addresses"
        " (s3://BUCKET/FOLDER)",
    )
    group = parser.add_argument_group("results")
    add = group.add_argument
    add("-o", "--output", metavar="OUT", help="folder of all results, or an address")
    add("--name", metavar="TEMPLATE", help="of results, of {stem}, {suffix}, {size} (default: {stem})")
    add(
        "--on-existing",
        choices=("update", "skip", "overwrite", "error"),
        help="what is where a result goes: update makes again what is of a changed picture and lets the picture fail"
        " where anything else is; error lets it fail always, skip leaves what is there; overwrite replaces it, and"
        " makes everything again where options are others than before (default: update)",
    )
    add_writing(group)
    add_signing(group)
    add = parser.add_argument_group("pictures").add_argument
    add(
        "--include",
        metavar="PATTERN",
        action="append",
        help='only those, "trip/**" or "*.jpg"; several are fine',
    )
    add("--exclude", metavar="PATTERN", action="append", help="not those")
    add("--shard", metavar="I/N", help="the Ith of N shares of the pictures, for machines that share nothing else")
    add_restoration(
        parser,
        seed="the same for every picture (default: of each, the first 32 bits of the SHA-256 of its id)",
        protect="auto",
    )
    add_reading(parser)
    add_machine(parser)
    add = parser.add_argument_group("work").add_argument
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes; 0: none more (default: one a graphics card, or a core if memory allows)",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        help=f"of each worker on a CPU; results of other numbers differ in last bits (default: {default.threads})",
    )
    add(
        "--retries",
        type=int,
        metavar="N",
        help=f"tries again of what may have failed by chance (default: {default.retries})",
    )
    add("--timeout", type=float, metavar="SECONDS", help="that a picture may take (default: any time)")
    add(
        "--ray",
        metavar="auto|local|HOST:PORT",
        help="work on a Ray cluster; auto: the one that runs here, or a new one",
    )
    add("--num-cpus", type=float, metavar="N", help="of a worker on Ray (default: 1)")
    add("--num-gpus", type=float, metavar="N", help="of a worker on Ray (default: 0)")
    add = parser.add_argument_group("running").add_argument
    add("--dry-run", action="store_true", default=False, help="restore a few, keep none, say what all of them take")
    add("--status", action="store_true", default=False, help="say how OUT stands, also while a run is at work")
    add("--retry-failed", action="store_true", default=False, help="try again what failed for good, too")
    add("--ledger", metavar="FOLDER", help="of ledger and reports (default: OUT; where that is an address, xpsr-batch)")
    add("--config", type=Path, metavar="FILE", help="YAML; options given here go before it")
    add("--json", action="store_true", default=False, help="one JSON object a picture on stdout")
    add("--quiet", action="store_true", default=False, help="neither progress nor result lines")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    return parser


def _config(given: dict[str, Any]) -> BatchConfig:
    """What a file says, and what is given on the command line."""
    base = load_config(BatchConfig, given["config"]) if "config" in given else BatchConfig()
    names = {f.name for f in dataclasses.fields(BatchConfig)} - {"upscale"}
    own: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in names
    }
    restoration = {f.name: given[f.name] for f in dataclasses.fields(UpscaleConfig) if f.name in given}
    sizes = {f.name for f in dataclasses.fields(Size)}
    if sizes & restoration.keys():  # instead of whichever the file names
        restoration = dict.fromkeys(sizes) | restoration
    return dataclasses.replace(base, **own, upscale=dataclasses.replace(base.upscale, **restoration))


def _folder(out: str, ledger: str | None) -> Path:
    """Where ledger and reports are."""
    from xpsr.batch.stores import is_address

    return Path(ledger or ("xpsr-batch" if is_address(out) else out))


def _status(given: dict[str, Any], *, as_json: bool) -> int:
    from xpsr.batch.ledger import LEDGER, Ledger
    from xpsr.batch.reports import status, status_in_words

    named = [given["output"]] if "output" in given else given.get("inputs", [])
    if len(named) != 1:
        raise InputError("--status is of one folder; name it, as in: xpsr batch --status restored.")
    with Ledger(_folder(named[0], given.get("ledger")) / LEDGER, read_only=True) as ledger:
        told = status(ledger)
    if as_json:
        print(json.dumps(told), flush=True)
    else:
        answer("\n".join(status_in_words(told)))
    return 0


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yields what tells whether somebody asked for an end, by Ctrl-C or SIGTERM; the second time, it comes at once."""
    asked = 0

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        complain("finishing what is in hand; Ctrl-C again ends at once, and the same command goes on later.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Report:
    """Tells what becomes of each picture, and the exit code."""

    def __init__(self, *, as_json: bool, quiet: bool):
        self.code = 0
        self.lines: list[tuple[str, InputError]] = []
        self._json, self._quiet = as_json, quiet

    def unplanned(self, source: str, error: InputError) -> None:
        """Tells of what cannot be planned."""
        self.code = 1
        self.lines.append((source, error))
        complain(explain(error, "batch"))
        if self._json:
            print(json.dumps({"source": source, "status": "unplanned", "line": str(error)}), flush=True)

    def happened(self, event: "Event") -> None:
        """Tells what became of a picture."""
        from xpsr.batch.stores import shown

        item, outcome = event.ticket.item, event.outcome
        status = getattr(outcome, "status", "failed" if event.is_last else "retried")
        if self._json:
            told = {"id": item.id, "source": shown(item.source), "target": item.target, "status": status}
            print(json.dumps(told | dataclasses.asdict(outcome)), flush=True)
        if status == "failed":
            complain(getattr(outcome, "line", ""))
        elif not self._quiet:
            for notice in getattr(outcome, "notices", ()):
                complain(f"{shown(item.source)}: {notice}.")

    def end(self, batch: "Batch", ending: "Ending") -> None:
        """Tells how it ended."""
        tally = batch.ledger.tally()
        if tally.failed:
            self.code = 1
        counts = [f"{getattr(tally, name)} {name}" for name in ("done", "skipped", "failed", "waiting")]
        listed = ", ".join(count for count in counts if not count.startswith("0 ")) or "nothing"
        if not self._quiet and not self._json:
            answer(f"{batch.out}: {listed}")
            if sys.stderr.isatty():
                complain(f"{batch.folder / 'summary.html'} shows them.")
        if ending.end == "trouble":
            self.code = 1
            complain(f"{batch.out}: sources or results cannot be reached; see to it, and run the same command again.")
        elif ending.end in ("disk_full", "disk_short"):
            from xpsr.planning import in_words

            self.code = 1
            short = f"is too small by about {in_words(ending.missing_bytes)}"
            what = "is full" if ending.end == "disk_full" else short
            complain(f"{batch.out}: the disk {what}; free some of it, and run the same command again.")
        elif tally.failed:
            complain(f"{batch.folder / 'failures.csv'} lists what failed; --retry-failed tries it again.")
