"""The cross-modal prior: what is in a picture and what is wrong with it, in words."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Level", "Levels", "Prior", "quality_text"]

Level = Literal["clean", "slight", "strong"]


@dataclass(frozen=True)
class Prior:
    """Two texts about one picture. An empty text says nothing; the model then relies on the pixels alone."""

    content: str = ""
    quality: str = ""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """How much is wrong with a picture, seen at its own resolution."""

    blur: Level
    noise: Level
    compression: Level


def quality_text(levels: Levels) -> str:
    """One sentence that says what is wrong, e.g. "a slightly blurry photograph with strong noise and no compression
    artifacts"."""
    sharpness = {"clean": "sharp", "slight": "slightly blurry", "strong": "very blurry"}[levels.blur]
    amount = {"clean": "no", "slight": "slight", "strong": "strong"}
    return (
        f"a {sharpness} photograph with {amount[levels.noise]} noise"
        f" and {amount[levels.compression]} compression artifacts"
    )
