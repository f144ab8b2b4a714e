"""What all commands share: options, one-line complaints, quiet libraries."""

import argparse
import atexit
import codecs
import functools
import gc
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from xpsr.config import RenamedWarning, suggest
from xpsr.errors import InputError, XPSRError, one_line, printable, unexpected
from xpsr.files import refusal

__all__ = [
    "DESCRIBERS",
    "Parser",
    "answer",
    "command_context",
    "complain",
    "explain",
    "explain_of",
    "loading",
    "mend_streams",
    "parse",
    "print_traceback",
    "quiet_hub",
    "quiet_libraries",
    "sayings",
]


DESCRIBERS = "mini, http://HOST/v1#MODEL, a model's folder or owner/name (default: mini)"


class _Operand(str):
    """An argument behind `--`, which is none of the options whatever it begins with."""

    __slots__ = ()


class Parser(argparse.ArgumentParser):
    """Leaves options that are not given out of the result, takes no abbreviations and raises `InputError`."""

    def __init__(self, *, prog: str, usage: str, description: str, epilog: str | None = None):
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )

    def _parse_optional(self, arg_string: str) -> Any:
        """Takes what stands behind `--` for no option."""
        return None if isinstance(arg_string, _Operand) else super()._parse_optional(arg_string)

    def error(self, message: str) -> NoReturn:
        """Replaces upstream's usage text and exit."""
        raise InputError(f"{message}; see {self.prog} --help.")


_FLAGS: ContextVar[Mapping[str, str]] = ContextVar("flags")
"""How the command that runs calls an argument: its flag, by the name that library and configs have for it."""


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Takes options and positionals in any order; an unknown option is refused with the nearest known one.

    What stands behind `--` is a positional. From then on errors about options name the flags.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    operands = [_Operand(argument) for argument in arguments[end + 1 :]]
    args, unknown = parser.parse_known_intermixed_args([*arguments[:end], *operands])
    if unknown:
        option = unknown[0].partition("=")[0]
        if isinstance(unknown[0], _Operand) or not option.startswith("-"):
            raise InputError(f"unexpected argument {unknown[0]}; see {parser.prog} --help.")
        nearest = suggest(option, parser._option_string_actions).replace("'", "")
        raise InputError(f"unknown option {option}{nearest or f'; see {parser.prog} --help.'}")
    flags = {action.dest: action.option_strings[-1] for action in reversed(parser._actions) if action.option_strings}
    # with a config file, what was not given as a flag may be its key
    _FLAGS.set({name: flag for name, flag in flags.items() if name in args or "config" not in args})
    return args


def sayings(prior: dict[str, Any]) -> Iterator[str]:
    """Yields lines of both texts."""
    for name in ("content", "quality"):
        yield f"    {name + ':':9}{printable(prior[name]) or '(nothing)'}"
    yield ""


def mend_streams() -> None:
    """Lets every line be printed: to a stream that is closed, and names that the encoding of stdout has not."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - to the end
    if isinstance(sys.stdout, io.TextIOWrapper):  # that of Python; stderr writes every letter of its own accord
        is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


@contextmanager
def command_context() -> Iterator[None]:
    """Runs a command: flags of one before are forgotten; what the library logs and former names are told in lines."""
    _FLAGS.set({})
    library, lines = logging.getLogger("xpsr"), _Lines()
    level = library.level
    library.addHandler(lines)
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, RenamedWarning):
                complain(str(message))
            else:
                show(message, category, *place, **more)

        warnings.showwarning = tell
        warnings.simplefilter("default", RenamedWarning)
        try:
            yield
        finally:
            library.removeHandler(lines)
            library.setLevel(level)


@contextmanager
def loading(what: str = "", *, quiet: bool = False) -> Iterator[None]:
    """Imports libraries and loads models, and says so on a terminal as long as it takes, unless `quiet`.

    The garbage collector pauses meanwhile: libraries make a million objects, and no garbage. It takes a sixth of the
    time until `xpsr upscale` begins.
    """
    told = "" if quiet or not sys.stderr.isatty() else f"loading {printable(what)}".rstrip() + " ..."
    print(told, end="", file=sys.stderr, flush=True)
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what was loaded stays; the collector need not look at it again
        _thaw_on_leaving()
        if was_on:
            gc.enable()
        if told:
            print("\r" + " " * len(told) + "\r", end="", file=sys.stderr, flush=True)


@functools.cache
def _thaw_on_leaving() -> None:
    """Lets the collector see everything at the end, where a library would say that something was left behind."""
    atexit.register(lambda: gc.unfreeze() if {"OpenImageIO", "triton"} & sys.modules.keys() else None)


def quiet_libraries() -> None:
    """Silences what the libraries of models say of their own accord; what matters is raised."""
    import diffusers.utils.logging
    import transformers.utils.logging

    quiet_hub()
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def quiet_hub() -> None:
    """Silences the hub's library, which is all of them that a download needs; its bar stays, as it may take an hour."""
    import huggingface_hub.utils.logging

    huggingface_hub.utils.logging.set_verbosity_error()


_LESS_MEMORY = {
    "benchmark": "fewer --workers, smaller pictures or methods of a smaller tile_size",
    "compare": "smaller pictures",
    "convert": "a machine with more",
    "data": "smaller pictures",
    "degrade": "fewer --workers or smaller pictures",
    "describe": "a smaller picture or another --describer",
    "doctor": "a machine with more",
    "evaluate": "fewer --workers or smaller pictures",
    "export": "a smaller --tile",
    "train": "a smaller train.batch_size with more train.gradient_accumulation_steps,"
    " train.gradient_checkpointing=true, or train.fit_memory=true on a GPU",
}


def explain(error: Exception, command: str = "upscale") -> str:
    """Says in one line what is wrong and what to do in that command, which calls its arguments as `parse` has seen."""
    text = one_line(error)
    if isinstance(error, XPSRError):
        # a file calls its keys itself
        return " ".join(error.sentence(_call if error.source is None else None).split())
    # torch raises RuntimeError on most devices, of a subclass only on some
    if isinstance(error, MemoryError) or re.search("out of memory|not enough memory|can't allocate memory", text):
        remedy = _LESS_MEMORY.get(command, "a smaller --tile-size, --scale or picture")
        return f"the memory does not suffice; use {remedy}."
    if isinstance(error, OSError) and error.filename is not None:
        return str(refusal(Path(os.fsdecode(error.filename)), "cannot be used", error))
    return f"{unexpected(error)}; run again with --debug to see where."


def explain_of(path: Path, error: Exception, command: str = "upscale") -> str:
    """Says the same of a picture or folder, which is named once whether the error names it or not."""
    text, name = explain(error, command), " ".join(printable(str(path)).split())
    return text if text.startswith((f"{name}:", f"{name}{os.sep}")) else f"{name}: {text}"


def _call(field: str, value: str | None) -> str:
    flag = _FLAGS.get({}).get(field)
    name, link = (field, "=") if flag is None else (flag, " ")
    return name if value is None else f"{name}{link}{value}"


def answer(line: object) -> None:
    """Prints a line of the result on stdout; a program that reads it gets every letter."""
    print(printable(str(line)) if sys.stdout.isatty() else line, flush=True)


def complain(message: str) -> None:
    """Prints a line on stderr."""
    print(f"xpsr: {printable(message)}", file=sys.stderr, flush=True)


def print_traceback() -> None:
    """Prints where the error being handled comes from, on stderr."""
    import traceback

    print(*map(printable, traceback.format_exc().splitlines()), sep="\n", file=sys.stderr, flush=True)


class _Lines(logging.Handler):
    """Prints what the library logs, a line each, on the stderr of the moment, which may keep lines and a bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(self.format(record)), file=sys.stderr, flush=True)
