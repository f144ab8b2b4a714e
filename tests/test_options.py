"""Flags reach what they are for: a field of a config, with every choice that they offer, or whoever describes."""

import argparse
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from docs_commands import parser_of
from PIL import Image

from xpsr.cli import batch, main, serve, upscale
from xpsr.cli.terminal import parse
from xpsr.config import UpscaleConfig
from xpsr.config.checks import alternatives
from xpsr.errors import InputError
from xpsr.prior import QUESTIONS

CONFIG_OF: dict[str, Callable[[argparse.Namespace], Any]] = {
    "upscale": upscale._config,
    "batch": lambda args: batch._config(vars(args)),
    "serve": lambda args: serve._config(vars(args)),
}
OWN = {"help", "inputs", "output", "config", "json", "quiet", "debug"}  # of no config
OWN |= {"recursive", "sequence", "map", "dry_run", "status", "retry_failed", "ledger"}
VALUES = {int: ("3", 3), float: ("1", 1.0), Path: ("a.pem", Path("a.pem")), None: ("text", "text")}
OTHER = {"size": "9x6", "memory": "4GB", "protect": "auto", "shard": "2/3", "forwarded_allow_ips": "10.0.0.1"}
BESIDE = {"num_cpus": ["--ray", "auto"], "num_gpus": ["--ray", "auto"]}


def given(action: argparse.Action, choice: str | None) -> tuple[list[str], Any]:
    """Words for an option, and what its field is to hold."""
    text, value = VALUES[action.type] if choice is None else (choice, choice)  # type: ignore[index]
    if choice is None and action.dest in OTHER:
        text = value = OTHER[action.dest]
    if action.nargs == 0:
        return [], action.const
    if action.nargs == 2:
        return [text, text], (value, value)
    is_list = isinstance(action, argparse._AppendAction)
    return [text], (value,) if is_list else value


FLAGS = [
    pytest.param(command, action.dest, action.option_strings[-1], choice, id=f"{command} {action.option_strings[-1]}")
    for command in CONFIG_OF
    for action in parser_of(command)._actions
    for choice in (action.choices or [None])
    if action.dest not in OWN
]


@pytest.mark.parametrize(("command", "name", "flag", "choice"), FLAGS)
def test_a_flag_is_a_field_of_the_config(command: str, name: str, flag: str, choice: str | None) -> None:
    parser = parser_of(command)
    words, expected = given(parser._option_string_actions[flag], choice)
    config = CONFIG_OF[command](parse(parser, [flag, *words, *BESIDE.get(name, [])]))
    holder = config if hasattr(config, name) else config.upscale
    assert getattr(holder, name) == expected


def test_every_field_has_a_flag_that_offers_all_its_choices() -> None:
    actions = {action.dest: action for action in parser_of("upscale")._actions}
    for f in dataclasses.fields(UpscaleConfig):
        kind = alternatives(f.type)[0]
        assert actions[f.name].choices == (get_args(kind) if get_origin(kind) is Literal else None)


def test_describe_hands_its_flags_to_whoever_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def opened(name: str, **options: Any) -> None:
        asked.update(options, name=name)
        raise InputError("it is enough to be asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xpsr.prior.open_describer", opened)
    Path("a.png").touch()
    options = {"quality_model": "b", "revision": "v1", "dtype": "bf16", "device": "cpu", "quantization": "int4"}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    questions = ["--preset", "reference", "--content-question", "What?", "--quality-view", "whole"]
    assert main(["describe", "a.png", "--describer", "somebody/model", *flags, *questions]) == 2
    expected = dataclasses.replace(QUESTIONS["reference"], content="What?", quality_view="whole")
    assert asked == {"name": "somebody/model", "questions": expected, **options}


def test_describe_reads_pictures_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    Image.effect_noise((32, 32), 60).save(content, "JPEG")
    Path("cut.jpg").write_bytes(content.getvalue()[:-80])
    assert main(["describe", "cut.jpg", "--max-pixels", "1023"]) == 1
    assert "cut.jpg: 32 x 32 pixels exceed the limit of 1023" in capsys.readouterr().err
    assert main(["describe", "cut.jpg"]) == 1
    assert "cut.jpg: is truncated or damaged" in capsys.readouterr().err
    assert main(["describe", "cut.jpg", "--accept-truncated"]) == 0
    assert main(["describe", "cut.jpg", "--max-pixels", "0"]) == 2
