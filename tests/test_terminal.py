"""What commands show on a terminal, and what they keep off it."""

import errno
import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docs_commands import options_of, parser_of
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from xpsr.cli import COMMANDS, main
from xpsr.cli.progress import PictureBar, counting, picture_bar
from xpsr.cli.terminal import (
    answer,
    command_context,
    complain,
    explain,
    explain_of,
    loading,
    mend_streams,
    print_traceback,
    sayings,
)
from xpsr.config import TrainConfig
from xpsr.errors import printable
from xpsr.files import refusal


class Screen(io.StringIO):
    """A terminal that remembers all that was written to it."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal(width: int = 100) -> Iterator[Screen]:
    """A terminal in the place of stderr; in a test's body, since pytest sets stderr before it."""
    with pytest.MonkeyPatch.context() as patch:
        screen = Screen()
        patch.setattr(sys, "stderr", screen)
        for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", str(width))
        yield screen


# Control characters


@given(st.text())
@example("\x1b]0;title\x07\x1b[2J\x9b31m\r\n\t\x7f\u2028\u202egnp.exe\ud800")
def test_what_is_printable_is_one_line_that_moves_no_cursor(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1 and printable(shown) == shown
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in shown)
    shown.encode()


@pytest.mark.parametrize("text", ["Straße 東京 ☃", "👩\u200d🎨", "می\u200cخواهم", "e\u0301"])
def test_letters_stay(text: str) -> None:
    assert printable(text) == text


def test_nothing_reaches_the_terminal_raw() -> None:
    with terminal() as screen, command_context():
        complain("\x1b[2Ja.png: gone")
        logging.getLogger("xpsr.files").warning("%s is passed over", "b\x1b]0;x\x07.png")
        try:
            raise ValueError("c\x1b[31m")
        except ValueError:
            print_traceback()
    assert "\x1b" not in screen.getvalue()
    assert screen.getvalue().startswith("xpsr: \\x1b[2Ja.png: gone\nb\\x1b]0;x\\x07.png is passed over\nTraceback")
    assert all("\x1b" not in line for line in sayings({"content": "\x1b[2Ja dog", "quality": "\x07"}))


def test_an_unknown_command_is_told_without_its_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_name_is_told_once_whatever_it_holds() -> None:
    path = Path("a\x1b[2J  b\n.png")
    error = refusal(path, "cannot be read", FileNotFoundError(errno.ENOENT, "No such file or directory"))
    said = "a\\x1b[2J b\\n.png: cannot be read (No such file or directory); check the path."
    assert explain_of(path, error) == said
    assert explain_of(Path("c"), error) == f"c: {said}" and explain_of(Path("a"), error) == f"a: {said}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_remedy_for_too_little_memory_names_options_that_the_command_has(command: str) -> None:
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")):
        said = explain(error, command)
        assert said.startswith("the memory does not suffice; use ")
        assert set(re.findall(r"--[a-z-]+", said)) <= options_of(parser_of(command))
        assert all(hasattr(TrainConfig(), name) for name in re.findall(r"train\.(\w+)", said))


# Streams


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_any_name_can_be_printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    mend_streams()
    answer("猫\udce9.png")
    assert stream.buffer.getvalue() == (
        "猫".encode() + b"\xe9.png\n" if encoding == "utf-8" else b"\\u732b\\udce9.png\n"
    )  # type: ignore[attr-defined]


def test_a_stream_that_is_closed_takes_all_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("stdout", "stderr"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, None)
            assert main(["upscale", "gone.png"]) == 1 and main(["doctor", "--nothing"]) == 2
            if name == "stdout":
                assert main(["upscale", "gone.png", "-o", "-"]) == 2
            getattr(sys, name).close()


# Loading


def test_loading_is_told_at_once_and_taken_away() -> None:
    with terminal() as screen:
        with loading("mini"):
            assert screen.getvalue() == "loading mini ..."
        assert screen.getvalue() == "loading mini ...\r" + " " * 16 + "\r"


def test_loading_is_told_on_terminals_alone_and_not_if_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with loading("mini"):
        pass
    assert capsys.readouterr() == ("", "")
    with terminal() as screen, loading("mini", quiet=True):
        pass
    assert screen.getvalue() == ""


# The bar


def shares(*, looks_ahead: bool) -> list[float]:
    """What a bar over three pictures, of four passes each, shows."""
    shown: list[float] = []
    bar = PictureBar(lambda share, what: shown.append(share), num_pictures=3, looks_ahead=looks_ahead)
    if looks_ahead:
        bar.looked(2), bar.looked(1)
    for name in "abc":
        bar.start(name)
        for done in range(1, 5):
            bar.passed(done, 4)
    return shown


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_a_run_has_one_bar_that_only_grows(looks_ahead: bool) -> None:
    shown = shares(looks_ahead=looks_ahead)
    assert shown == sorted(shown) and shown[-1] == 1 and all(0 <= share <= 1 for share in shown)


def test_the_bar_tells_pictures_and_time_and_leaves_nothing() -> None:
    with terminal() as screen, picture_bar(3) as bar:
        bar.start("a[red]\x1b[2J.png")
        bar.passed(1, 2)
    text = screen.getvalue()
    assert "restoring 1 of 3 a[red]\\x1b[2J.png" in text and "left" in text and "0:00:00" in text
    assert text.endswith("\x1b[2K")  # the last thing is that its line is wiped


def test_the_bar_stays_beside_a_long_name_and_lines_above_it_are_whole() -> None:
    line = "outputs/" + "b" * 90 + "[red].png  4096 x 4096  :cat: 12.5 s"
    with terminal(width=80) as screen:
        with picture_bar(3) as bar:
            bar.start("a" * 200 + ".png")
            complain(line)
            bar.passed(1, 2)
        complain("after")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).splitlines()
    bars = [text for text in shown if "restoring" in text]
    assert f"xpsr: {line}" in shown and shown[-1].endswith("xpsr: after")
    assert bars and all("left" in text and "0:00:00" in text and "restoring 1 of 3 aaa" in text for text in bars)
    assert max(len(text.split("\r")[-1]) for text in bars) <= 80


def test_looking_for_what_is_done_is_shown(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Image.new("RGB", (8, 8)).save(f"{name}.png")
    Path("outputs").mkdir()
    Path("outputs/a_x4.png").touch()
    with terminal() as screen:
        assert main(["upscale", "a.png", "b.png", "--model", str(tiny_model), "--describer", "none"]) == 1
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search("checking .* 2/2", shown) and "restoring 1 of 1 b.png" in shown
    assert [line for line in shown.splitlines() if line.startswith("xpsr: a.png: outputs/a_x4.png: is there already, ")]


def test_there_is_no_bar_off_terminals_or_if_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with picture_bar(3) as bar:
        bar.start("a.png")
    assert capsys.readouterr() == ("", "")
    with terminal() as screen, picture_bar(3, quiet=True) as bar:
        bar.start("a.png")
    assert screen.getvalue() == ""


def test_other_bars_leave_nothing_either() -> None:
    with terminal() as screen, counting("checking", quiet=False) as bar:
        assert bar is not None
        bar(1, 2, "\x1b[2J")
    assert "checking" in screen.getvalue() and "\x1b[2J" not in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")
