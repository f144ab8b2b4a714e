"""What `xpsr benchmark` is told: which methods restore which sets of pictures."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from xpsr.config.checks import SEED, Checked, Pattern, fault, option, said, within
from xpsr.config.loading import override
from xpsr.config.names import renamed
from xpsr.config.settings import PresetName, Settings
from xpsr.config.sizes import SCALE
from xpsr.errors import InputError, one_line

__all__ = ["BenchmarkConfig", "MatrixConfig", "MethodConfig", "SetConfig", "TextSource", "TextsConfig"]

TextSource: TypeAlias = Literal["none", "described", "true", "swapped", "by_hand"]

# Folders are called so, and --methods and --sets have commas between them
_NAME = Pattern(
    r"[A-Za-z0-9]([A-Za-z0-9 ._+=@-]{0,98}[A-Za-z0-9_+=@-])?",
    "a name of 1 to 100 letters, digits, spaces and ._+=@-",
    "mini-20, for example",
)
_TAKEN = ("results", "inputs", "summary.md", "times.jsonl", "described.jsonl", "scores.jsonl")
_KINDS = ("resize", "model", "command")
_SHORT = {"num_inference_steps": "steps", "guidance_scale": "guidance", "num_shifts": "shifts"}
_PLACES = re.compile(r"\{(input|output|inputs|outputs)\}")


def _as_text(value: Any) -> Any:
    """What YAML reads in `content: true`, which means the text."""
    if isinstance(value, list | tuple):
        return [_as_text(one) for one in value]
    return "true" if value is True else value


@dataclass(frozen=True, kw_only=True)
class TextsConfig(Checked):
    """What a model is told of a picture.

    none: nothing. described: what the describer says. true: what the set's `priors` say. swapped: what they, or without
    them the describer, say of another picture; of quality, where the levels are known, the opposite. by_hand: what the
    set's `by_hand` says.
    """

    content: TextSource = option("described", "What is in the picture.")
    quality: TextSource = option("described", "What is wrong with it.")

    def __post_init__(self) -> None:
        """Reads the word that YAML has for something else."""
        for name in ("content", "quality"):
            object.__setattr__(self, name, _as_text(getattr(self, name)))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class MethodConfig(Checked):
    """One way to restore pictures: exactly one of `resize`, `model` and `command`."""

    name: str = option("", "What the tables call it; its results are in a folder of that name.", _NAME)
    resize: Literal["bicubic", "lanczos", "nearest"] | None = option(None, "A plain enlargement.")
    model: str | None = option(None, "mini, a model's folder, or owner/name on the hub.")
    command: str | None = option(
        None,
        "A program and its arguments, with {input} and {output} for a picture, or {inputs} and {outputs} for a folder.",
    )
    preset: PresetName | None = option(None, "Of a model: settings that go before its own.")
    settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Of a model: some of `xpsr.Settings`.", "rule": None}
    )
    protect: Literal["auto"] | None = option(None, "Of a model: see xpsr upscale --protect.")
    lr_consistency: bool = option(False, "Of a model: see xpsr upscale --lr-consistency.")
    texts: TextsConfig = option(TextsConfig(), "Of a model: what it is told.")
    describer: str = option("mini", "Of a model: who describes.")
    timeout: float | None = option(
        None, "Seconds that a command may take, for a picture or a folder; null: any.", within(1e-3, 1e7, "600")
    )

    def __post_init__(self) -> None:
        """Refuses what is no one way, and settings that no model has."""
        super().__post_init__()
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            message = f"is none of {', '.join(_KINDS)}" if not given else f"is {' and '.join(given)}"
            raise fault(self, "name", message, "give exactly one of them")
        of_others = {
            "model": ("timeout",),
            "command": ("preset", "settings", "protect", "lr_consistency", "texts", "describer"),
        }
        of_others["resize"] = (*of_others["model"], *of_others["command"])
        for name in of_others[given[0]]:
            if getattr(self, name) not in (None, {}, False, TextsConfig(), "mini"):
                raise fault(self, name, f"does nothing beside {given[0]}", "leave it out")
        object.__setattr__(self, "settings", _checked_settings(self.settings))
        if self.command is not None:
            places = set(_PLACES.findall(self.command))
            if places not in ({"input", "output"}, {"inputs", "outputs"}):
                message = "has neither {input} and {output} nor {inputs} and {outputs}"
                remedy = "name the pictures so, as in 'prog -i {input} -o {output}'"
                raise fault(self, "command", message, remedy)
            try:
                program = shlex.split(self.command)[0]
            except ValueError as error:
                remedy = "close it, or write it with a backslash"
                raise fault(self, "command", f"is no command ({one_line(error)})", remedy) from error
            if _PLACES.search(program):
                raise fault(self, "command", "begins with a picture", "begin with the program")


def _checked_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Settings as `Settings` holds them, under the names of today."""
    try:
        given = renamed(given, [f.name for f in dataclasses.fields(Settings)])
        settings = override(Settings(), given)
    except InputError as error:
        code = "unknown_setting" if error.code == "unknown_field" else error.code  # whose name was suggested already
        raise error.within("settings").recast(InputError, code=code) from error
    return {name: getattr(settings, name) for name in given}


@dataclass(frozen=True, kw_only=True)
class MatrixConfig(Checked):
    """Many methods in few lines: a model with each content, with each quality, with each of each setting."""

    name: str = option("", "What the names of its methods begin with; by default the model's own name.")
    model: str = option("mini", "As of a method.")
    preset: PresetName | None = option(None, "As of a method.")
    settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "As of a method; of a list, each value in turn.", "rule": None}
    )
    describer: str = option("mini", "As of a method.")
    content: tuple[TextSource, ...] = option(("described",), "Each of these in turn.")
    quality: tuple[TextSource, ...] = option(("described",), "With each of these.")

    def __post_init__(self) -> None:
        """Reads the words that YAML has for something else, and makes the methods once to check them."""
        for name in ("content", "quality"):
            object.__setattr__(self, name, _as_text(getattr(self, name)))
        super().__post_init__()
        for name in ("content", "quality"):
            if not getattr(self, name):
                raise fault(self, name, "is empty", "give one text at least")
        for name, values in self.settings.items():
            if values == []:
                message, remedy = "is empty", "give one value at least, or leave it out"
                raise InputError(message, field=f"settings.{name}", value="[]", remedy=remedy)
        tuple(self.methods())

    def methods(self) -> Iterator[MethodConfig]:
        """Yields a method for each combination, named by what differs: "mini content=true quality=none"."""
        axes: dict[str, Sequence[Any]] = {"content": self.content, "quality": self.quality}
        axes |= {name: values if isinstance(values, list) else [values] for name, values in self.settings.items()}
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            differing = [
                f"{_SHORT.get(name, name)}={said(value)}" for name, value in chosen.items() if len(axes[name]) > 1
            ]
            name = " ".join([self.name or Path(self.model).name, *differing])
            texts = TextsConfig(content=chosen.pop("content"), quality=chosen.pop("quality"))
            yield MethodConfig(
                name=name, model=self.model, preset=self.preset, settings=chosen, texts=texts, describer=self.describer
            )


@dataclass(frozen=True, kw_only=True)
class SetConfig(Checked):
    """Pictures, as they lie where somebody unpacked them."""

    name: str = option("", "What the tables call it; the report is in a folder of that name.", _NAME)
    folder: Path = option(Path(), "Where it lies; --set NAME=FOLDER replaces it.")
    lr: Path = option(Path("lr"), "Folder of the pictures to restore, below `folder`; or the only one.")
    hr: Path | None = option(
        Path("hr"), "Folder of their originals, below `folder`, or the only one; null: there are none."
    )
    endings: tuple[str, ...] = option(
        (), "What is taken off the ends of names before pictures and originals are paired, [_HR, _LR4] for example."
    )
    priors: Path | None = option(None, "The true texts: a JSONL as xpsr describe writes it.")
    by_hand: Path | None = option(None, "Texts that a person wrote, in the same form.")
    how: str = option("", "How to come by the pictures, in a line.")
    pictures: int | None = option(None, "How many there are.", within(1, 10**7, "12, for example"))


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Checked):
    """A suite: methods x sets, and how results are scored."""

    about: str = option("", "What is compared, and why.")
    protocol: str = option("xpsr", "What is measured: the name of a protocol, or its file.")
    scale: float = option(4.0, "How much larger results are, along a side.", SCALE)
    seed: int = option(0, "Of noise, and of who is swapped with whom.", SEED)
    baseline: str | None = option(None, "The method that the others are compared with; null: the first.")
    sets: tuple[SetConfig, ...] = option((), "Pictures.")
    methods: tuple[MethodConfig, ...] = option((), "Ways to restore them.")
    matrix: tuple[MatrixConfig, ...] = option((), "More of these, as grids.")

    def __post_init__(self) -> None:
        """Makes methods of grids, and refuses what is called alike."""
        super().__post_init__()
        made = (method for matrix in self.matrix for method in matrix.methods())
        object.__setattr__(self, "methods", (*self.methods, *made))
        object.__setattr__(self, "matrix", ())
        for name in ("sets", "methods"):
            named = [one.name for one in getattr(self, name)]
            folded = [one.casefold() for one in named]  # some file systems do not tell them apart
            for place, one in enumerate(folded):
                if one in folded[:place]:
                    message, field_ = "is the name of two", f"{name}.name"
                    raise InputError(message, code="duplicate", field=field_, value=named[place], remedy="rename one")
        for one in self.sets:
            if one.name.casefold() in _TAKEN:
                message, field_ = "is what xpsr writes beside the folders of sets", "sets.name"
                raise InputError(message, code="conflict", field=field_, value=one.name, remedy="rename the set")
        if self.methods and self.baseline not in (None, *[one.name for one in self.methods]):
            raise fault(self, "baseline", "is none of the methods", f"use {self.methods[0].name}, for example")
