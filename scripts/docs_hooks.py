"""What MkDocs calls at certain moments of a build: makes pages of the sources, and turns links that lead out of docs/.

`mkdocs.yml` names this file. Pages that are made: a command line's page for each command, and those that show files of
the project. In pages that people write, `<!-- NAME -->` is replaced by what is made under that name.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs_commands import command_page, command_table
from docs_errors import error_tables, find_codes
from docs_settings import sections
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import xpsr
from xpsr import _MODULE_OF
from xpsr.cli import COMMANDS
from xpsr.config import BatchConfig, BenchmarkConfig, DegradationConfig, ServeConfig

__all__ = ["on_config", "on_files", "on_page_markdown"]

ROOT = Path(__file__).parents[1]

_SHOWN = {
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "log.md": "benchmarks/LOG.md",
    "mini.md": "src/xpsr/weights/mini/README.md",
}
"""Pages that show files of the project, by the name that the page has."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")

_CONFIGS = {"batch": BatchConfig, "suite": BenchmarkConfig, "degradation": DegradationConfig, "server": ServeConfig}


def _config_tables() -> str:
    lines = []
    for name, kind in _CONFIGS.items():
        about = (kind.__doc__ or "").splitlines()[0]
        lines += [f"## Of a {name}", "", about, "", *sections(kind, level=3)]
    return "\n".join(lines)


def _public_names() -> str:
    rows = []
    for name in xpsr.__all__:
        place = f"{_MODULE_OF[name]}.{name}" if name in _MODULE_OF else None
        rows.append(f"| `{name}` | {'the version' if place is None else f'[`{place}`][{place}]'} |")
    return "\n".join(["| name | is |", "|---|---|", *rows])


_MADE: dict[str, Callable[[], str]] = {
    "commands": command_table,
    "configs": _config_tables,
    "public names": _public_names,
    "error codes": lambda: error_tables(find_codes().kinds),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts pages into the navigation in place of `FOLDER/`."""
    config.nav = [_filled(entry) for entry in config.nav or []]
    return config


def _filled(entry: Any) -> Any:
    """An entry of the navigation whose folders are lists of their pages."""
    if isinstance(entry, dict):
        return {title: _filled(inner) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [page for inner in entry for page in (_pages(inner) or [_filled(inner)])]
    return _pages(entry) or entry


def _pages(entry: Any) -> list[str]:
    if entry == "commands/":
        return [f"commands/{name}.md" for name in COMMANDS]
    if isinstance(entry, str) and entry.endswith("/"):
        return [f"{entry}{path.name}" for path in sorted((ROOT / "docs" / entry).glob("*.md"))]
    return []


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made of sources and other files of the project."""
    for name in COMMANDS:
        files.append(File.generated(config, f"commands/{name}.md", content=command_page(name)))
    for name, source in _SHOWN.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what is made, and turns links to files that the site shows elsewhere."""
    for name, make in _MADE.items():
        marker = f"<!-- {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    name = page.file.src_uri
    origin = posixpath.dirname(_SHOWN.get(name, f"docs/{name}"))
    return _LINK.sub(lambda link: _turned(link, origin, posixpath.dirname(name)), markdown)


def _turned(link: re.Match[str], origin: str, folder: str) -> str:
    """A link of a file in the folder `origin` of the project, for a page in `folder` of the site.

    What the site does not show stays as a text.
    """
    mark, text, target = link.groups()
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link[0]
    whole = posixpath.normpath(posixpath.join(origin, path))
    shown = {source: page for page, source in _SHOWN.items()}.get(whole)
    if shown is None and not whole.startswith("docs/"):
        return text
    there = shown or whole.removeprefix("docs/")
    return f"{mark}[{text}]({posixpath.relpath(there, folder or '.')}{hash_}{anchor})"
