"""From a YAML and flags to a config, and back to plain values."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from xpsr.config.checks import said
from xpsr.errors import InputError, one_line

__all__ = ["as_dict", "load_config", "suggest"]

T = TypeVar("T")


def load_config(
    kind: type[T], path: Path | None = None, overrides: Sequence[str] = (), *, default: T | None = None
) -> T:
    """Builds a config of `kind` from its defaults, then the YAML at `path`, then overrides like `--train.max_steps=5`.

    A section, or a file, that is empty leaves the defaults. `default` is a config to start from instead.

    Raises:
        InputError: the file is missing, a key is unknown (the nearest known one is suggested) or given twice, or a
            value does not fit.
    """
    try:
        flags = _flags(overrides)
        if path is not None and not path.is_file():
            raise InputError(_missing(path, overrides))
        known = dict(_options(kind))
        values = {} if path is None else dict(_walk(_read_yaml(path), known))
        values |= {key: value for given, text in flags for key, value in _walk_flag(given, text, known)}
        return _build(kind, _parse(kind, values, known, default))
    except InputError as error:
        raise InputError(f"{path or 'config'}: {error}") from error


def _missing(path: Path, overrides: Sequence[str]) -> str:
    text = "no such config file; configs/ holds the ones that come with xpsr."
    lonely = next((flag for flag in overrides if flag.startswith("--") and "=" not in flag), None)
    return text if lonely is None else f"{text} Is it the value of an option? Write {lonely}={path} in one word."


def _flags(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of `--NAME=VALUE` and `--NAME VALUE`."""
    found, rest = [], list(overrides)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            raise InputError(f"'{name}' is no option; options look like --train.max_steps=1000.")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"{name} has no value; use {name}=VALUE.")
            value = rest.pop(0)
        found.append((name.removeprefix("--"), value))
    return found


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = _load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"expected a mapping of sections, got {type(content).__name__}.")
    return content


def _load(text: str) -> Any:
    """What a YAML holds. A key stands once, and 1e-4 is a number, as in YAML 1.2."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            lines: dict[str, int] = {}
            for key, _ in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines and name != "<<":
                    raise InputError(
                        f"'{name}' is given twice, in lines {lines[name]} and {line}; leave one of them out."
                    )
                lines[name] = line
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {' '.join(str(error).split())}") from error


def _options(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all sections and options, with their types."""
    for f in dataclasses.fields(kind):
        yield prefix + f.name, f.type
        if dataclasses.is_dataclass(f.type):
            yield from _options(f.type, f"{prefix}{f.name}.")


def _walk(node: Mapping[Any, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the options in nested sections; unknown ones are refused."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if key not in known:
            raise InputError(f"'{key}' is not an option{suggest(key, list(known)) or '.'}")
        if not dataclasses.is_dataclass(known[key]):
            yield key, value
        elif isinstance(value, Mapping):
            yield from _walk(value, known, f"{key}.")
        elif value is not None:
            first = dataclasses.fields(known[key])[0].name
            raise InputError(f"{key}={said(value)} is not a section; use options below it, such as {key}.{first}.")


def _walk_flag(key: str, text: str, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if not dataclasses.is_dataclass(known.get(key)):
        if key not in known:
            raise InputError(f"'{key}' is not an option{suggest(key, list(known)) or '.'}")
        yield key, _Text(text)
        return
    value = _load(text)
    *sections, last = key.split(".")
    yield from _walk({last: text if value is None else value}, known, "".join(f"{part}." for part in sections))


class _Text(str):
    """A value as it stands on the command line, of whatever type it turns out to be."""


def _parse(kind: type, values: Mapping[str, Any], known: Mapping[str, Any], default: Any) -> Any:
    """All options with values of their types, in sections."""
    from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, logger=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_class_arguments(kind, None)
    if default is not None:
        parser.set_defaults(as_dict(default))
    arguments = []
    for key, value in values.items():
        if value == "" and Path in (known[key], *get_args(known[key])):
            raise InputError(f"{key}= is empty; use {_expected(known[key])}, or leave it out.")
        if value is None and type(None) not in get_args(known[key]):
            raise InputError(_unfit(key, value, known[key]))
        if isinstance(value, _Text):
            arguments.append(f"--{key}={value}")
        else:
            nested = value
            for part in reversed(key.split(".")):
                nested = {part: nested}
            arguments.append(f"--config={json.dumps(nested, default=str)}")
    try:
        return parser.parse_args(arguments)
    except (ArgumentError, TypeError, ValueError) as error:
        for argument, (key, value) in zip(arguments, values.items(), strict=True):
            try:
                parser.parse_args([argument])
            except (ArgumentError, TypeError, ValueError):
                raise InputError(_unfit(key, value, known[key])) from error
        raise InputError(one_line(error)) from error


def _unfit(key: str, value: Any, kind: Any) -> str:
    example = _example(kind, "" if value is None else str(value))
    return f"{key}={said(value)} is not {_expected(kind)}; use {example}."


def _expected(kind: Any) -> str:
    """What a value of a type is, in words."""
    args = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join("null" if arg is type(None) else _expected(arg) for arg in args)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(args)}"
    if get_origin(kind) is tuple:
        of = _expected(args[0])
        return f"a list, each {of}" if args[-1] is ... else f"a list of {len(args)}, each {of}"
    return {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(kind, "a text")


def _example(kind: Any, given: str) -> str:
    """A value that a type takes, near the one that was given."""
    args = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return _example(args[0], given)
    if get_origin(kind) is Literal:
        return given if given in args else str(next(iter(difflib.get_close_matches(given, args, n=1)), args[0]))
    if get_origin(kind) is tuple:
        one = _example(args[0], given.strip("[]()'\" ").split(",")[0].strip("' \""))
        return f"[{', '.join([one] * (1 if args[-1] is ... else len(args)))}]"
    if kind is str or kind is Path:
        return given or "a name"
    return {int: "1", float: "0.5", bool: "true"}[kind]


def _build(kind: type[T], values: Any, prefix: str = "") -> T:
    """A config of parsed values; what it says of its own fields gets the section in front."""
    given = {
        f.name: _build(f.type, values[f.name], f"{prefix}{f.name}.")  # type: ignore[arg-type]
        if dataclasses.is_dataclass(f.type)
        else values[f.name]
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    try:
        return kind(**given)
    except InputError as error:
        first = re.split(r"[= ]", str(error), maxsplit=1)[0]
        raise InputError(f"{prefix if first in given else ''}{error}") from error


def suggest(word: str, known: Sequence[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest known word, or nothing."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values, to be written beside a result."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))
