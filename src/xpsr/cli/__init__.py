"""The command line: `xpsr upscale`, `serve`, `train`, `evaluate`, `export` and others, a module each.

Results go to stdout, progress and complaints to stderr. torch is imported only when a command runs, so help is instant.
Exit codes: 0 all is well, 1 something failed, 2 a wrong option, 3 training stopped before its end, 130 Ctrl-C.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from xpsr import __version__
from xpsr.cli import (
    batch,
    benchmark,
    compare,
    convert,
    data,
    degrade,
    describe,
    doctor,
    evaluate,
    export,
    serve,
    train,
    upscale,
)
from xpsr.cli.terminal import Parser, command_context, complain, explain, mend_streams, parse, print_traceback
from xpsr.config import suggest
from xpsr.errors import InputError
from xpsr.files import IMAGE_SUFFIXES

__all__ = ["COMMANDS", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, by default that of `sys.argv`, and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before torch is imported: threads that wait for others by spinning take the processor from them, several times as
    # long wherever another program is at work (docs/tuning.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    mend_streams()
    try:
        with command_context():
            return _run(arguments)
    except KeyboardInterrupt:
        complain("interrupted.")
        return 130
    except BrokenPipeError:  # whoever read the results has gone, as in `xpsr upscale ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 1
    except Exception as error:
        if "--debug" in arguments:
            print_traceback()
        complain(explain(error, arguments[0] if arguments else ""))
        return 2 if isinstance(error, InputError) else 1


COMMANDS = {
    "upscale": (upscale.run, "restore and enlarge photographs"),
    "batch": (batch.run, "restore any number of photographs, on one machine or many"),
    "serve": (serve.run, "restore photographs that others send, by HTTP and a page in their browsers"),
    "describe": (describe.run, "write what is in pictures and what is wrong with them"),
    "degrade": (degrade.run, "make training pairs of clean pictures"),
    "data": (data.run, "check a folder of pictures, pairs or shards"),
    "train": (train.run, "train a model, or go on with one"),
    "evaluate": (evaluate.run, "score folders of restored pictures, and compare methods"),
    "compare": (compare.run, "make a page on which people vote, blindly, whose results are better"),
    "benchmark": (benchmark.run, "compare methods over sets of pictures, as a suite says"),
    "convert": (convert.run, "make a model of a checkpoint of the authors' code, or the reverse"),
    "export": (export.run, "write a model's networks for other engines than torch"),
    "doctor": (doctor.run, "say what is installed, which devices are there and whether the models are whole"),
}
"""By name, what each command does with its arguments, and a line about it."""


def _run(arguments: list[str]) -> int:
    parser = Parser(
        prog="xpsr",
        usage="xpsr [-h] [--version] COMMAND ...",
        description="Restores and enlarges photographs by diffusion that reads what is in them and what is wrong.",
        epilog="commands:\n"
        + "".join(f"  {name:11} {summary}\n" for name, (_, summary) in COMMANDS.items())
        + "\nfirst steps:\n  xpsr upscale photo.jpg\n  xpsr upscale --help\n",
    )
    parser.add_argument("--version", action="version", version=f"xpsr {__version__}")
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    if arguments[0] == "help":  # `xpsr help` and `xpsr help upscale`, as in other programs
        arguments = [*arguments[1:2], "--help"]
    name, *rest = arguments
    if name in COMMANDS:
        return COMMANDS[name][0](rest)
    if not name.startswith("-"):
        if Path(name).exists() or Path(name).suffix.lower() in IMAGE_SUFFIXES:
            raise InputError(f"unknown command {name}; to restore it: xpsr upscale {shlex.quote(name)}")
        nearest = suggest(name, list(COMMANDS)).replace("'", "") or f"; there are: {', '.join(COMMANDS)}."
        raise InputError(f"unknown command {name}{nearest}")
    parse(parser, arguments[:1])  # help and version end here
    raise InputError(f"a command comes first, one of: {', '.join(COMMANDS)}.")
