"""What a request may ask for: names, kinds and ranges of its options, and a config from the texts of a form.

The rules are those of `Settings`, `Size` and `UpscaleConfig`; options that decide how much memory a picture takes, or
what is read from the server's disk, are no client's.
"""

import dataclasses
import json
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin

from xpsr.config import RenamedWarning, ServeConfig, Settings, Size, UpscaleConfig, nearest, renamed
from xpsr.config.checks import Limit, Pattern, Rule, Span, alternatives, check_argument, said
from xpsr.errors import InputError, printable

__all__ = ["DESCRIBE", "OPTIONS", "Option", "options_of", "parse_options", "refuse_target", "unknown_option"]

OptionKind: TypeAlias = Literal["number", "integer", "boolean", "text", "choice"]

_OF_MEMORY = frozenset({"tile_size", "tile_overlap", "min_working_size"})

_SETTINGS = {f.name: f for f in dataclasses.fields(Settings) if f.name not in _OF_MEMORY}
_SIZES = {f.name: f for f in dataclasses.fields(Size)}
_FIELDS = {f.name: f for f in dataclasses.fields(UpscaleConfig)}
_TELLING = _FIELDS | _SIZES | _SETTINGS  # whose metadata say what an option is

_HELP = {
    "preset": "Settings that go before the model's own.",
    "protect": "auto: the plain enlargement is taken where a result contradicts its picture.",
    "lr_consistency": "Corrects the result until, reduced, it is its picture again; for clean ones, as noise comes"
    " back, too.",
    "seed": "Of the noise that is drawn; a random one where none is given, and the job tells which.",
    "content": "What is in the picture; what the describer says where it is not given. May be empty.",
    "quality": "What is wrong with it; what the describer says where it is not given. May be empty.",
    "model": "Which of the server's models restores.",
    "describer": "Which of the server's describers looks; none: nothing is said.",
    "format": "Of the result; same: the picture's own, or png where that cannot be written.",
    "keep_cmyk": "CMYK pictures with a profile stay CMYK in jpg and tiff.",
    "strip_gps": "Leaves out where a picture was taken.",
    "strip_metadata": "Leaves out EXIF, XMP and IPTC; the colour profile stays.",
    "provenance": "Whether the result's file says that xpsr made it, with which model and seed.",
    "accept_truncated": "Whether a file that ends too early is read as far as it goes.",
    "map": "Whether a picture of what was invented is made, too.",
}
"""What is said of options whose dataclasses say nothing, or nothing of use to a client."""

_ASKED = (
    *("preset", *_SIZES, "protect", "lr_consistency", "seed", "content", "quality", "model", "describer"),
    *("format", "file_quality", "keep_cmyk", "strip_gps", "strip_metadata", "provenance", "accept_truncated"),
)
"""Beside the settings."""

_CHOICES: dict[str, tuple[str, ...]] = {"protect": ("auto",), "model": (), "describer": ()}
"""Of texts that are one of a few; which models and describers there are, each server says."""

_KINDS: dict[Any, OptionKind] = {float: "number", int: "integer", bool: "boolean"}

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,400})(\.[0-9]{1,400})?([eE][-+]?[0-9]{1,9})?")
"""A number as JSON has it, and not of any length."""

_INTERVAL = r"\[?\s*[0-9.eE+-]+\s*,\s*[0-9.eE+-]+\s*\]?"
"""What an interval looks like."""

_MAX_NAME = 64
"""Characters of an unknown option's name that are looked at, and told."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a client may say under a name.

    Attributes:
        kind: of its value; a "choice" is one of `choices`.
        help: what it does.
        minimum, maximum: of a number, or of each of several.
        choices: of which it is one; those of "model" and "describer" are the server's own.
        pattern: that a text fits, as a regular expression.
        default: what holds where it is not given; None: what the preset, the model or the picture says.
    """

    kind: OptionKind
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    pattern: str | None = None
    default: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Returns what is said of it, ready for JSON."""
        told = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in told.items()
            if value is not None
        }


def _option(name: str) -> Option:
    field, rule = _FIELDS[name], _rule(name)
    kind = alternatives(field.type)[0]
    about = _HELP.get(name) or _TELLING[name].metadata["help"]
    choices = get_args(kind) if get_origin(kind) is Literal else _CHOICES.get(name)
    if get_origin(kind) is tuple:
        about = f"{about} Two numbers, as 0,1."
    return Option(
        kind="choice" if choices is not None else _KINDS.get(kind, "text"),
        help=about,
        minimum=rule.lowest if isinstance(rule, Limit | Span) else None,
        maximum=rule.highest if isinstance(rule, Limit | Span) else None,
        choices=choices,
        pattern=rule.pattern if isinstance(rule, Pattern) else _INTERVAL if get_origin(kind) is tuple else None,
    )


def _rule(name: str) -> Rule | None:
    """The rule of an option, from the dataclass that has it."""
    rule: Rule | None = _TELLING[name].metadata.get("rule")
    return rule


OPTIONS: dict[str, Option] = {name: _option(name) for name in (*_SETTINGS, *_ASKED)} | {
    "map": Option(kind="boolean", help=_HELP["map"], default=False)
}
"""What a client may say of how a picture is restored, whatever the server."""

DESCRIBE = frozenset({"describer", "accept_truncated"})
"""Of them, what it may say where only texts are asked for."""


def options_of(config: ServeConfig) -> dict[str, Option]:
    """Returns `OPTIONS` with a server's own choices, and what holds there where nothing is said."""
    usual = _usual(config)
    choices = _choices(config)
    found = {}
    for name, option in OPTIONS.items():
        default = option.default if name == "map" else getattr(usual, name)
        found[name] = dataclasses.replace(option, choices=choices.get(name, option.choices), default=default)
    return found


def parse_options(
    fields: Mapping[str, str], config: ServeConfig, *, known: Collection[str] = OPTIONS.keys()
) -> tuple[UpscaleConfig, bool]:
    """Returns how a picture is to be restored, and whether a map is wanted.

    Numbers and booleans are written as in JSON, an interval as `0,1` or `[0,1]`. An empty `content` or `quality` says
    nothing of the picture; any other empty field is as if it were not there. What is not given is what the server is
    told.

    Args:
        fields: the texts of a form, by name.
        config: of the server.
        known: names of options that count.

    Raises:
        InputError: an option is unknown, or its value cannot be used.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedWarning)  # the server's log is no place for it
        fields = renamed(fields, known)
    given: dict[str, Any] = {}
    for name, text in fields.items():
        if name not in known:
            raise unknown_option(name, known)
        if text or name in ("content", "quality"):
            given[name] = _value(name, text, config)
    wants_map = given.pop("map", False)
    if _SIZES.keys() & given.keys():  # instead of whichever the server is told
        given = dict.fromkeys(_SIZES) | given
    return dataclasses.replace(_usual(config), **given), wants_map


def refuse_target(asked: UpscaleConfig, config: ServeConfig, width: int, height: int) -> None:
    """Refuses a result that is larger than the server makes, of a picture of that size.

    Raises:
        InputError: it has more than `config.max_output_pixels`, or a side that is enlarged too much.
    """
    target = asked.target(width, height)
    target.refuse_above(config.max_output_pixels, width, height)
    target.of(width, height)


def unknown_option(name: str, known: Collection[str] = OPTIONS.keys()) -> InputError:
    """Returns the error of a field that is none of the options, with the one that may be meant."""
    name = name[:_MAX_NAME]
    meant = nearest(name, known)
    remedy = "leave it out" if meant is None else f"did you mean '{meant}'?"
    return InputError("is not an option", code="unknown_key", field=printable(name), remedy=remedy)


def _usual(config: ServeConfig) -> UpscaleConfig:
    """How a picture is restored where a request says nothing."""
    return dataclasses.replace(
        config.upscale,
        model=next(iter(config.named("models"))),
        describer=next(iter(config.named("describers"))),
        memory=config.memory,
    )


def _choices(config: ServeConfig) -> dict[str, tuple[str, ...]]:
    describers = dict.fromkeys([*config.named("describers"), "none"])
    return {"model": tuple(config.named("models")), "describer": tuple(describers)}


def _value(name: str, text: str, config: ServeConfig) -> Any:
    """Returns what a text says, as the field of that name holds it.

    Raises:
        InputError: it cannot be used.
    """
    if name == "map":
        return check_argument(name, _read(bool, text), bool, default=False)
    if name in _CHOICES:
        return _chosen(name, text, _choices(config).get(name, _CHOICES[name]))
    kind = alternatives(_FIELDS[name].type)[0]
    return check_argument(name, _read(kind, text), kind, _rule(name), default=_TELLING[name].default)


def _read(kind: Any, text: str) -> Any:
    """Returns the JSON value that a text is for a field of that kind; the text itself where it is none."""
    if kind is str or get_origin(kind) is Literal:
        return text
    if get_origin(kind) is tuple:
        parts = text.strip().removeprefix("[").removesuffix("]").split(",", 2)
        return tuple(_read(get_args(kind)[0], part) for part in parts) if len(parts) == 2 else text
    text = text.strip()
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    return json.loads(text) if _NUMBER.fullmatch(text) else text


def _chosen(name: str, text: str, choices: Collection[str]) -> str:
    if text in choices:
        return text
    meant = nearest(text[:_MAX_NAME], choices)
    remedy = f"use one of {', '.join(choices)}" if meant is None else f"did you mean '{meant}'?"
    message = f"is not one of {', '.join(choices)}"
    raise InputError(message, code="unknown_value", field=name, value=said(text), remedy=remedy)
