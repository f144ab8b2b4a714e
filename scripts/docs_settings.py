"""Configs as Markdown tables, read from the dataclasses that check them."""

import dataclasses
import json
from typing import Any, get_args, get_origin

from xpsr.cli.train import explained

__all__ = ["code", "sections"]


def sections(kind: Any, *, level: int, name: str = "") -> list[str]:
    """Returns the options of a config and of the sections in it as Markdown: a heading and a table for each.

    Args:
        kind: the dataclass.
        level: of the headings.
        name: of the section, dotted; empty: the config itself, whose options have no heading.
    """
    rows, inner = [], []
    for f in dataclasses.fields(kind):
        whole = f"{name}.{f.name}".lstrip(".")
        section = _section(f.type)
        if section is not None:
            inner.append((whole, section))
        elif f.metadata.get("help"):
            rows.append(f"| {code(whole)} | {_shown(f)} | {_cell(explained(f))} |")
    summary = (kind.__doc__ or "").splitlines()[0]
    lines = [f"{'#' * level} {name}", "", summary, ""] if name else []
    if rows:
        lines += ["| option | default | what it is |", "|---|---|---|", *rows, ""]
    for whole, section in inner:
        lines += sections(section, level=level, name=whole)
    return lines


def code(text: str) -> str:
    """Returns a text as code in a cell of a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def _section(kind: Any) -> Any:
    """The dataclass of a section, or of those in a list; None: it is no section."""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return kind if dataclasses.is_dataclass(kind) else None


def _shown(f: "dataclasses.Field[Any]") -> str:
    value = f.default if f.default is not dataclasses.MISSING else None
    return code(json.dumps(value, default=str, ensure_ascii=False).replace('"', "")) or "empty"


def _cell(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|" else letter for letter in text)
