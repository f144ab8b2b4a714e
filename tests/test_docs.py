"""The documentation: what is made of the sources is whole, commands and links are right, the site asks nobody else."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from docs_commands import command_page, options_of, parser_of
from docs_errors import EXPLANATIONS, error_tables, find_codes
from docs_settings import sections

import xpsr
from xpsr.cli import COMMANDS
from xpsr.config import BatchConfig, TrainRunConfig

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def test_every_error_code_is_explained() -> None:
    codes = find_codes()
    assert codes.untraced == []
    explained = yaml.safe_load(EXPLANATIONS.read_text(encoding="utf-8"))
    rows = [(code, texts) for rows in explained.values() for code, texts in rows.items()]
    assert sorted(codes.kinds.keys() - {code for code, _ in rows}) == []
    assert len(dict(rows)) == len(rows)
    assert [code for code, texts in rows if len(texts) != 2 or not all(isinstance(text, str) for text in texts)] == []
    page = error_tables(codes.kinds)
    assert "`out_of_range`</span> | `InputError` |" in page
    assert "`busy`</span> | `Busy`, `InputError` |" in page


SOURCE = """
class XPSRError(Exception):
    code = "error"
class InputError(XPSRError):
    code = "invalid_input"
class Other:
    code = "of_no_error"
def refusal(path, *, code: str = "by_default") -> InputError:
    return InputError(path, code=code)
def closed(path, code) -> InputError: ...
def reads(path, number):
    kind = "assigned" if path else "otherwise"
    message, told = "no", "in_a_tuple"
    for what, listed in (("a", "first_of_a_loop"), ("b", "second_of_a_loop")):
        raise InputError(what, code=listed)
    raise InputError(message, code=kind) or refusal(path, code="by_name") or closed(path, "by_place")
    raise XPSRError(message, code=told if number else "chosen") or error.recast(InputError, code="recast")
    send({"code": "sent"}, code=found[number], status_code="not_one")
    raise InputError(message, code=elsewhere)
"""


def test_codes_are_found_wherever_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "source.py").write_text(SOURCE, encoding="utf-8")
    codes = find_codes(tmp_path)
    loop = ("first_of_a_loop", "second_of_a_loop")
    both = (*loop, "assigned", "otherwise", "by_default", "by_name", "by_place", "recast")
    assert codes.kinds == {
        "error": {"XPSRError"},
        **{code: {"InputError"} for code in ("invalid_input", *both)},
        **{code: {"XPSRError"} for code in ("in_a_tuple", "chosen")},
        "sent": set(),
    }
    assert codes.untraced == ["source.py:19"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_command_has_all_its_options(command: str) -> None:
    page, parser = command_page(command), parser_of(command)
    assert page.startswith(f"# xpsr {command}\n")
    shown = [action for action in parser._actions if action.help != "==SUPPRESS=="]
    for action in shown:
        for name in (*action.option_strings, *map(str, action.choices or ())):
            assert f"`{name}" in page
        assert action.option_strings or f"`{action.metavar}`" in page
    assert str(ROOT) not in page


def test_the_pages_of_configs_have_defaults_ranges_and_sections() -> None:
    rows = sections(BatchConfig, level=3)
    assert "| `threads` | `1` |" in " ".join(rows) and "Range: 1 to 1024." in " ".join(rows)
    assert "### data.degradation.first" in sections(TrainRunConfig, level=3)
    assert "| `train.resume` | `auto` |" in command_page("train")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_the_text_exist_with_their_options(path: Path) -> None:
    # those of blocks are in test_snippets.py
    for span in re.findall(r"`xpsr ([a-z][^`]*)`", path.read_text(encoding="utf-8")):
        name, *words = span.split()
        assert name in COMMANDS, words
        known = options_of(parser_of(name))
        for option in (word.partition("=")[0].rstrip(",.;]") for word in words if re.match(r"--?[a-z]", word)):
            if name == "train" and "." in option:
                attrgetter(option.removeprefix("--"))(TrainRunConfig())
            else:
                assert option in known, f"xpsr {name} {option}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_to_files(path: Path) -> None:
    made = {(ROOT / "docs" / "commands" / f"{name}.md").resolve() for name in COMMANDS}
    for target in re.findall(r"\]\(([^()\s#]+)[^()\s]*\)", path.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            place = (path.parent / target).resolve()
            assert place.exists() or place in made, target


def test_pages_that_programs_name_are_there() -> None:
    for folder in ("src", "scripts", "benchmarks", "configs", "suites", "examples", "data", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".md") and path != Path(__file__):
                for page in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
                    assert (ROOT / page).is_file(), f"{path}: {page}"


class Loads(HTMLParser):
    """Collects what a browser would load for a page."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        names = ["src", "srcset", "data", "poster", "xlink:href", "style"]
        if tag not in ("a", "area") and given.get("rel") not in ("canonical", "next", "prev"):
            names.append("href")
        self.found += [given[name] for name in names if name in given]
        assert "mermaid" not in given.get("class", "").split()  # whose script comes from elsewhere


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # a process of its own, and not one that has imported what models need: it needs none of that
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "mkdocs.yml", "-d", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text(encoding="utf-8")
        elsewhere = [one for one in Loads(text).found if re.search(r"(^|[\s(,'\"])(https?:)?//", one)]
        assert elsewhere == [], page
        assert "api.github.com" not in text and 'data-md-component="source"' not in text
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import\s*|url\(\s*)['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.slow
def test_the_site_has_every_public_name_command_and_code(site: Path) -> None:
    inventory = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in xpsr.__all__:
        assert f"<code>{name}</code>" in inventory
    for command in COMMANDS:
        assert (site / "commands" / command / "index.html").is_file()
    codes = (site / "troubleshooting" / "index.html").read_text(encoding="utf-8")
    assert all(f'id="{code}"' in codes for code in find_codes().kinds)
    assert "<!-- " not in "".join(re.findall(r"<article.*?</article>", codes, re.DOTALL))
