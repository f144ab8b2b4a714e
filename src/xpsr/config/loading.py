"""From a YAML and flags to a config, and back to plain values."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

from xpsr.config.checks import alternatives
from xpsr.config.names import RENAMED, renamed, unknown
from xpsr.errors import InputError, brief, one_line

__all__ = ["as_dict", "load_config", "override", "shipped_configs"]

T = TypeVar("T")

_PLACE = re.compile(r"\[\d+\]")
"""Which one of a list of sections, counted from 0."""

# Of a YAML; those that come with xpsr have 4 KB, 5 and 100
_MAX_BYTES, _MAX_DEPTH, _MAX_VALUES = 2**20, 50, 100_000


def shipped_configs() -> Path:
    """Returns the folder of the configs that come with xpsr: in the package of a wheel, at the root of a clone."""
    package = Path(__file__).parents[1]
    packed = package / "configs"
    return packed if packed.is_dir() else package.parents[1] / "configs"


def load_config(
    kind: type[T], path: Path | None = None, overrides: Sequence[str] = (), *, default: T | None = None
) -> T:
    """Builds a config of `kind` from its defaults, then the YAML at `path`, then overrides like `--train.max_steps=5`.

    A section, or a file, that is empty leaves the defaults. `default` is a config to start from instead.

    Raises:
        InputError: the file is missing, a key is unknown (the nearest known one is suggested) or given twice, or a
            value does not fit. Its field is named as it was given: `train.max_steps` in a file, `--train.max_steps`.
    """
    types, flags = dict(_options(kind)), dict(_flags(overrides))
    try:
        tree = {} if path is None else _named_today(kind, _read_yaml(path, overrides))
        for name, text in flags.items():
            value = _flag_value(text, types.get(name))
            for part in reversed(name.split(".")):
                value = {part: value}
            tree = _merged(tree, _named_today(kind, value))
        return override(kind() if default is None else default, tree)
    except InputError as error:
        field = error.field or ""
        if error.code == "unknown_field":  # with the whole name of what was meant
            error.remedy = unknown(_PLACE.sub("", field), types).remedy
        section, _, leaf = field.rpartition(".")
        former = (f"{section}.{old}".lstrip(".") for old, new in RENAMED.items() if new == leaf)
        flag = next((name for name in (field, *former) if name in flags), None)
        if flag is not None:
            error.field, error.value = f"--{flag}", flags[flag]
        elif path is not None and not any(f"{field}.".startswith(f"{name}.") for name in flags):
            error.source = str(path)
        raise


def _flags(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values of `--NAME=VALUE` and `--NAME VALUE`."""
    rest = list(overrides)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            message = f"'{name}' is no option"
            raise InputError(message, code="unknown_field", remedy="options look like --train.max_steps=1000")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError("has no value", code="wrong_type", field=name, remedy=f"use {name}=VALUE")
            value = rest.pop(0)
        yield name.removeprefix("--"), value


def _flag_value(text: str, kind: Any) -> Any:
    """What an option of that kind holds: a text as it stands, anything else as in YAML."""
    kinds = alternatives(kind)
    if {str, Path} & {*kinds}:
        return None if text == "null" and NoneType in kinds else text
    value = _parse_yaml(text)
    return text if value is None and dataclasses.is_dataclass(kind) else value


def _read_yaml(path: Path, overrides: Sequence[str]) -> dict[Any, Any]:
    if not path.is_file():
        remedy = f"those that come with xpsr, for train and degrade, are in {shipped_configs()}"
        lonely = next((flag for flag in overrides if flag.startswith("--") and "=" not in flag), None)
        hint = "" if lonely is None else f". Is it the value of an option? Write {lonely}={path} in one word"
        raise InputError("no such config file", code="not_found", remedy=remedy + hint)
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(
            f"not a config: more than {_MAX_BYTES} bytes", code="too_large", remedy="is it the right file?"
        )
    try:
        content = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "check the path and its permissions"
        raise InputError(f"cannot be read ({brief(error)})", code="refused", remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not YAML: {error}", code="not_yaml", remedy="write it in UTF-8") from error
    if not isinstance(content, Mapping | None):
        message = f"expected a mapping of options, got {type(content).__name__}"
        raise InputError(message, code="wrong_type", remedy="use lines like 'seed: 3'")
    return dict(content or {})


def _parse_yaml(text: str) -> Any:
    """What a YAML holds. A key stands once, 1e-4 is a number, as in YAML 1.2, and a date is a text."""
    import yaml

    sizes: dict[yaml.Node | None, float] = {}

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                return super().compose_node(parent, index)
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                message = f"not a config: nested more than {_MAX_DEPTH} deep"
                raise InputError(message, code="not_yaml", remedy="is it the right file?")
            node = super().compose_node(parent, index)
            self.depth -= 1
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            pairs = [entry if isinstance(entry, tuple) else (entry,) for entry in inner]
            # an alias counts as all that it stands for, and one of what is not complete yet for more than any
            sizes[node] = 1 + sum(sizes.get(child, math.inf) for pair in pairs for child in pair)
            if sizes[node] > _MAX_VALUES:
                message = f"not a config: more than {_MAX_VALUES} values, or aliases in a circle"
                raise InputError(message, code="not_yaml", remedy="is it the right file?")
            return node

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            lines: dict[str, int] = {}
            for key, _ in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines and name != "<<":
                    message = f"is given twice, in lines {lines[name]} and {line}"
                    raise InputError(message, code="duplicate", field=name, remedy="leave one of them out")
                lines[name] = line
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number that Python does not read
        raise InputError(f"not YAML: {one_line(error)}", code="not_yaml", remedy="mend it there") from error


def _named_today(kind: Any, tree: Mapping[Any, Any]) -> dict[Any, Any]:
    """The tree with former names replaced, in its sections too, so that a flag goes before a YAML under either name."""
    types = {f.name: f.type for f in dataclasses.fields(kind)}
    return {
        name: _named_today(types[name], value)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(types.get(name))
        else value
        for name, value in renamed(tree, types).items()
    }


def _merged(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> dict[Any, Any]:
    """Both, and where both have one the sections in them merged; else the new one counts."""
    both = {key for key in new if isinstance(new[key], Mapping) and isinstance(old.get(key), Mapping)}
    return {**old, **{key: _merged(old[key], value) if key in both else value for key, value in new.items()}}


def override(config: T, changes: Mapping[Any, Any]) -> T:
    """Returns `config` with some of its fields changed, in its sections too; former names are understood.

    Values are what JSON and YAML have: lists for tuples, texts for paths, mappings for sections; null leaves a section.
    A list of sections replaces the one that was there.

    Raises:
        InputError: a field is unknown, or a value is not of its type or breaks a rule.
    """
    return dataclasses.replace(config, **_values(type(config), changes, config))  # type: ignore[type-var]


def _values(kind: Any, changes: Mapping[Any, Any], config: Any = None) -> dict[str, Any]:
    """The fields that `changes` gives, with their sections made; those of `config` are where these start, if any."""
    types: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(kind)}
    values = renamed(changes, types)
    for name, value in values.items():
        if name not in types:
            raise unknown(str(name), dict(_options(kind)))
        try:
            if dataclasses.is_dataclass(types[name]) and isinstance(value, Mapping | None):
                section = types[name]() if config is None else getattr(config, name)
                values[name] = override(section, value or {})
            elif (member := _member(types[name])) is not None and isinstance(value, list):
                values[name] = tuple(_made(member, one, place) for place, one in enumerate(value))
        except InputError as error:
            # "[2].name" lies in "methods", "name" in "texts"
            listed = error.field is not None and error.field.startswith("[")
            raise (error.recast(InputError, field=f"{name}{error.field}") if listed else error.within(name)) from error
    return values


def _member(kind: Any) -> Any:
    """The sections that a list holds; None: it is no list of sections."""
    if get_origin(kind) is not tuple or not dataclasses.is_dataclass(get_args(kind)[0]):
        return None
    return get_args(kind)[0]


def _made(kind: Any, tree: Any, place: int) -> Any:
    """The section at a place of a list; what is none is left to the check of the list."""
    if not isinstance(tree, Mapping):
        return tree
    try:
        return kind(**_values(kind, tree))
    except InputError as error:
        raise error.within(f"[{place}]") from error


def _options(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all sections and options, with their types."""
    for f in dataclasses.fields(kind):
        yield prefix + f.name, f.type
        section = f.type if dataclasses.is_dataclass(f.type) else _member(f.type)
        if section is not None:
            yield from _options(section, f"{prefix}{f.name}.")


def as_dict(config: Any) -> dict[str, Any]:
    """Returns a config as plain JSON values, to be written beside a result."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))
