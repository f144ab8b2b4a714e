"""What all commands share: options, one-line complaints, quiet libraries."""

import argparse
import gc
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from xpsr.config import RenamedWarning, suggest
from xpsr.errors import InputError, XPSRError, one_line

__all__ = [
    "DESCRIBERS",
    "Parser",
    "command_context",
    "complain",
    "counting",
    "explain",
    "loading",
    "quiet_libraries",
    "parse",
    "pictures_in",
    "print_traceback",
    "sayings",
]


DESCRIBERS = "mini, http://HOST/v1#MODEL, a model's folder or owner/name (default: mini)"


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

    def error(self, message: str) -> NoReturn:
        """Replaces upstream's usage text and exit."""
        raise InputError(f"{message}; see {self.prog} --help.")


_FLAGS: ContextVar[Mapping[str, str]] = ContextVar("flags")
"""How the command that runs calls an argument: its flag, by the name that library and configs have for it."""


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Takes options and positionals in any order; an unknown option is refused with the nearest known one.

    From then on errors about them name the flags.
    """
    args, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        option = unknown[0].partition("=")[0]
        nearest = suggest(option, parser._option_string_actions).replace("'", "")
        raise InputError(f"unknown option {option}{nearest or f'; see {parser.prog} --help.'}")
    flags = {action.dest: action.option_strings[-1] for action in reversed(parser._actions) if action.option_strings}
    # with a config file, what was not given as a flag may be its key
    _FLAGS.set({name: flag for name, flag in flags.items() if name in args or "config" not in args})
    return args


def sayings(prior: dict[str, Any]) -> Iterator[str]:
    """Yields lines of both texts."""
    for name in ("content", "quality"):
        yield f"    {name + ':':9}{prior[name] or '(nothing)'}"
    yield ""


def pictures_in(inputs: Sequence[Path], on_error: Callable[[Path, InputError], None]) -> list[Path]:
    """Returns the pictures that were named and those in the folders that were named, each once.

    What is told to `on_error` is left out; what looks like a photograph in a folder and is not read is told in a line.
    """
    from xpsr.files import list_images, passed_over, real_path

    found: dict[Path, Path] = {}  # by where they really are: what is named twice is there once
    for path in inputs:
        try:
            for image in list_images(path):
                found.setdefault(real_path(image), image)
            others = passed_over(path)
        except InputError as error:
            on_error(path, error)
            continue
        if others:
            names = ", ".join(other.name for other in others[:3]) + (" ..." if len(others) > 3 else "")
            complain(f"{path}: {len(others)} files passed over ({names}); convert them to PNG or TIFF to have them.")
    return list(found.values())


@contextmanager
def command_context() -> Iterator[None]:
    """Runs a command: flags of one before are forgotten, former names of options are told in a line of their own."""
    _FLAGS.set({})
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, RenamedWarning):
                complain(str(message))
            else:
                show(message, category, *place, **more)

        warnings.showwarning = tell
        warnings.simplefilter("default", RenamedWarning)
        yield


@contextmanager
def loading() -> Iterator[None]:
    """Imports libraries and loads models without the garbage collector: they make a million objects, and no garbage.

    It takes a sixth of the time until `xpsr upscale` begins.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what was loaded stays; the collector need not look at it again
        if was_on:
            gc.enable()


def quiet_libraries() -> None:
    """Silences what the libraries of models say of their own accord; what matters is raised."""
    import diffusers.utils.logging
    import huggingface_hub.utils.logging
    import transformers.utils.logging

    huggingface_hub.utils.logging.set_verbosity_error()  # but a download's bar stays: it may take an hour
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


@contextmanager
def counting(what: str, *, quiet: bool) -> Iterator[Callable[..., None] | None]:
    """Yields what shows on a terminal how many of how many are done, and a note; None elsewhere and where `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    done_of_all = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*done_of_all, TextColumn("{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, note="": bar.update(task, completed=done, total=total, description=note)


_LESS_MEMORY = {
    "convert": "a machine with more",
    "data": "smaller pictures",
    "degrade": "fewer --workers or smaller pictures",
    "describe": "a smaller picture or another --describer",
    "train": "a smaller train.batch_size with more train.gradient_accumulation_steps,"
    " train.gradient_checkpointing=true, or train.fit_memory=true on a GPU",
}


def explain(error: Exception, command: str = "upscale") -> str:
    """Says in one line what is wrong and what to do in that command, which calls its arguments as `parse` has seen."""
    text = one_line(error)
    if isinstance(error, XPSRError):
        return " ".join(error.sentence(_call).split())
    # torch raises RuntimeError on most devices, of a subclass only on some
    if isinstance(error, MemoryError) or re.search("out of memory|not enough memory|can't allocate memory", text):
        remedy = _LESS_MEMORY.get(command, "a smaller --tile-size, --scale or picture")
        return f"the memory does not suffice; use {remedy}."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions."
    return f"unexpected {type(error).__name__}: {text}; run again with --debug to see where."


def _call(field: str, value: str | None) -> str:
    flag = _FLAGS.get({}).get(field)
    name, link = (field, "=") if flag is None else (flag, " ")
    return name if value is None else f"{name}{link}{value}"


def complain(message: str) -> None:
    """Prints a line on stderr."""
    print(f"xpsr: {message}", file=sys.stderr, flush=True)


def print_traceback() -> None:
    """Prints where the error being handled comes from, on stderr."""
    import traceback

    traceback.print_exc()
