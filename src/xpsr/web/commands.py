"""The command line that gives what a request gave, for whoever wants the same picture at home, or again."""

import shlex
from typing import Any

from xpsr.config import ServeConfig, UpscaleConfig
from xpsr.prior import Prior
from xpsr.web.jobs import Request

__all__ = ["command_line"]

_FLAGS = {
    "num_inference_steps": "--steps",
    "num_shifts": "--shifts",
    "controlnet_conditioning_scale": "--conditioning-scale",
}
"""Where a flag of `xpsr upscale` is called otherwise than its option."""

_NO_FLAGS = frozenset({"device", "memory", "compile", "offload", "priors", "max_pixels", "max_bytes", "on_existing"})
"""Of the server's machine, of its disk, or of what is there already."""

_USUAL = {name: value for name, value in vars(UpscaleConfig()).items() if name not in _NO_FLAGS}
"""What `xpsr upscale` does where nothing is said."""


def command_line(request: Request, config: ServeConfig, *, prior: Prior | None, seed: int | None) -> str | None:
    """Returns the `xpsr upscale` that gives the same picture, quoted for a shell.

    There is none, and None is returned, where the server has a model or a describer under a name of its own, which
    nobody else knows.

    Args:
        request: what was asked for.
        config: of the server.
        prior: what was said of the picture; None: nobody has looked yet.
        seed: of its noise; None: the one that was asked for, if any.
    """
    values = {name: getattr(request.config, name) for name in _USUAL}
    if seed is not None:
        values["seed"] = seed
    if prior is not None:  # with both texts nobody looks
        values |= {"content": prior.content, "quality": prior.quality, "describer": _USUAL["describer"]}
    for kind, name in (("models", values["model"]), ("describers", values["describer"])):
        if config.named(kind).get(name, name) != name:
            return None
    words = [word for name, value in values.items() if value != _USUAL[name] for word in _words(name, value)]
    if request.wants_map:
        words += ["--map", "maps"]
    # a lone - is standard input, and a lone -- nothing
    name = f"./{request.name}" if request.name in ("-", "--") else request.name
    words = [*words, "--", name] if name.startswith("-") else [name, *words]
    return shlex.join(["xpsr", "upscale", *words])


def _words(name: str, value: Any) -> list[str]:
    """The arguments that give an option its value."""
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, tuple):
        return [flag, *map(_text, value)]
    text = _text(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _text(value: Any) -> str:
    """A value as the parser reads it back, to the last bit."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
