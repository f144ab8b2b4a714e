"""The command line's reference as Markdown, read from the commands' own parsers."""

import argparse
import contextlib
import io
import re
from collections.abc import Iterator
from unittest import mock

from docs_settings import code, sections

from xpsr.cli import COMMANDS
from xpsr.cli.terminal import Parser
from xpsr.config import TrainRunConfig, shipped_configs

__all__ = ["command_page", "command_table", "options_of", "parser_of"]


def parser_of(command: str) -> Parser:
    """Returns the parser of a command, which makes it when it runs: caught when it is to print its help."""
    caught: list[Parser] = []
    with (
        mock.patch.object(Parser, "print_help", lambda parser, file=None: caught.append(parser)),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        COMMANDS[command][0](["--help"])
    return caught[0]


def options_of(parser: Parser) -> set[str]:
    """Returns all options that a parser takes, such as `-o` and `--output`."""
    return {option for action in parser._actions for option in action.option_strings}


def command_table() -> str:
    """Returns a table of all commands, with links to their pages."""
    rows = [f"| [`xpsr {name}`](commands/{name}.md) | {escaped(summary)} |" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def command_page(command: str) -> str:
    """Returns the page of a command: usage, what it does, and all its options by group."""
    parser = parser_of(command)
    # without the path that it has on this machine
    description = (parser.description or "").replace(str(shipped_configs()), "configs/")
    usage = parser.format_usage().removeprefix("usage: ")
    lines = [f"# xpsr {command}", "", "```text", *re.sub(r"^ +", "", usage, flags=re.M).splitlines(), "```", ""]
    lines += [escaped(" ".join(description.split())), ""]
    for group in parser._action_groups:
        rows = [_row(parser, action) for action in group._group_actions if action.help != argparse.SUPPRESS]
        if rows:
            title = (group.title or "").replace("positional ", "")
            lines += [f"## {title[:1].upper()}{title[1:]}", ""]
            lines += ["| option | what it is |", "|---|---|", *rows, ""]
    if command == "train":
        lines += ["## Options of a run", "", "In the YAML they lie in sections; here it is `--SECTION.KEY=VALUE`.", ""]
        lines += sections(TrainRunConfig, level=3)
    return "\n".join(lines)


def _row(parser: Parser, action: argparse.Action) -> str:
    formatter = parser._get_formatter()
    takes = ""  # in the formatter's own words; choices are listed beside them
    if action.choices is None or action.metavar is not None:
        takes = formatter._format_args(action, formatter._get_default_metavar_for_optional(action)).strip()
    names = [f"{name} {takes}".strip() for name in action.option_strings] or [str(action.metavar or action.dest)]
    return f"| {', '.join(map(code, names))} | {' '.join(_told(formatter, action))} |"


def _told(formatter: argparse.HelpFormatter, action: argparse.Action) -> Iterator[str]:
    text = formatter._expand_help(action) if action.help else ""
    yield escaped(text)
    if action.choices is not None:
        yield f"One of {', '.join(code(str(choice)) for choice in action.choices)}."
    if "default" not in text and action.default not in (None, False, argparse.SUPPRESS) and action.nargs != 0:
        yield f"(default: {code(str(action.default))})"


def escaped(text: str) -> str:
    """Returns a text of help as Markdown that shows it letter by letter."""
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", text)
