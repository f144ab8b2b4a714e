"""Two texts about a picture: what they are, what is asked for them, and which answers are none."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from xpsr.config import PresetName
from xpsr.config.checks import MAX_CHARACTERS, Checked, check_argument, said
from xpsr.errors import InputError

__all__ = [
    "MAX_CHARACTERS",
    "QUESTIONS",
    "Aspect",
    "Level",
    "Levels",
    "Prior",
    "Questions",
    "View",
    "clean_answer",
    "quality_text",
    "read_prior",
]

Aspect: TypeAlias = Literal["content", "quality"]
Level = Literal["clean", "slight", "strong"]
View: TypeAlias = Literal["whole", "crops"]

_LONGEST_ANSWER = 1000  # characters


@dataclass(frozen=True, kw_only=True)
class Levels(Checked):
    """How much is wrong with a picture, seen at its own resolution."""

    blur: Level
    noise: Level
    compression: Level


@dataclass(frozen=True)
class Prior:
    """Two texts about one picture. An empty text says nothing; the model then relies on the pixels alone.

    `levels` is what the quality text was written from, where a describer knows it.

    Raises:
        InputError: a text is no string, longer than `MAX_CHARACTERS`, or no Unicode, or the levels are none.
    """

    content: str = ""
    quality: str = ""
    levels: Levels | None = None

    def __post_init__(self) -> None:
        for name, text in (("content", self.content), ("quality", self.quality)):
            check_argument(name, text, str)
        check_argument("levels", self.levels, Levels | None)

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON values; `levels` only where they are known."""
        return {key: value for key, value in asdict(self).items() if key != "levels" or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Prior":
        """Takes what `as_dict` gave, or a person wrote; other keys are passed over.

        Raises:
            InputError: a text or a level is of another kind.
        """
        levels = values.get("levels")
        names = [f.name for f in fields(Levels)]
        if levels is not None and not (
            isinstance(levels, dict) and all(levels.get(name) in get_args(Level) for name in names)
        ):
            raise InputError(
                f"is not {', '.join(names)}, each one of {', '.join(get_args(Level))}",
                field="levels",
                value=said(levels)[:40],
                remedy="correct it or leave it out",
            )
        return cls(
            values.get("content", ""),
            values.get("quality", ""),
            None if levels is None else Levels(**{name: levels[name] for name in names}),
        )


def read_prior(values: Mapping[str, Any], place: str) -> Prior:
    """Returns `Prior.from_dict(values)`; an error begins with `place`, the file or line where the values stand.

    Raises:
        InputError: a text or a level is of another kind.
    """
    try:
        return Prior.from_dict(values)
    except InputError as error:
        raise error.recast(InputError, code="damaged", source=place) from error


def quality_text(levels: Levels) -> str:
    """Returns a sentence that says what is wrong.

    For example "a slightly blurry photograph with strong noise and no compression artifacts".
    """
    sharpness = {"clean": "sharp", "slight": "slightly blurry", "strong": "very blurry"}[levels.blur]
    amount = {"clean": "no", "slight": "slight", "strong": "strong"}
    return (
        f"a {sharpness} photograph with {amount[levels.noise]} noise"
        f" and {amount[levels.compression]} compression artifacts"
    )


@dataclass(frozen=True, kw_only=True)
class Questions(Checked):
    """What a describer is asked, and what it is shown: the whole picture or parts of it at their own resolution.

    Shrinking a picture hides its noise, its blur and its JPEG blocks.
    """

    content: str = "Please provide a descriptive summary of the content of this image."
    quality: str = (
        "Please describe the quality of this image and evaluate it based on factors such as clarity, color, noise, and"
        " lighting."
    )
    content_view: View = "whole"
    quality_view: View = "crops"

    def about(self, aspect: Aspect) -> tuple[str, View]:
        """Returns the question about `aspect`, and what is shown with it."""
        return (self.content, self.content_view) if aspect == "content" else (self.quality, self.quality_view)


QUESTIONS: dict[PresetName, Questions] = {
    "default": Questions(),
    "paper": Questions(),
    "reference": Questions(quality="Describe and evaluate the quality of the image.", quality_view="whole"),
}
"""The paper's questions, and those of the authors' scripts."""

_REFUSALS = re.compile(
    r"^\W*(?:unfortunately\W+)?(?:i(?:'|’)?m sorry|i am sorry"
    r"|sorry\W+(?:but )?(?:i\b|as an? |unable|no image|there is no)"
    r"|i apologi[sz]e|my apologies"
    r"|(?:as|i(?:'|’)m|i am)(?: just| only)? an? (?:ai\b|artificial|text-based|(?:large )?(?:vision.)?language model)"
    r"|(?:n/a|none|null)\W*$|unable to (?:see|view|process|describe)"
    r"|i (?:can(?:no|'|’)t|am not able to|am unable to|won(?:'|’)t) (?:help|assist|see|view|access|describe|provide"
    r"|process|analy|identify|fulfil|comply|do |determine)|i(?:'|’)m (?:unable|not able) to"
    r"|no image (?:was|is|has been)|there is no image|i (?:don(?:'|’)t|do not|cannot) see (?:an|any|the) image)",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    r"(?:ignore|forget) (?:all |any |of |the |your )*(?:your|previous|prior|above|earlier) (?:\w+ )?"
    r"(?:instructions|prompts?|rules)"
    r"|disregard (?:all |any |of |the |your )*(?:previous|prior|above) "
    r"|(?:reveal|print|repeat|output|(?:show|tell|give) (?:me|us)) (?:your|the) (?:\w+ )?system prompt"
    r"|you are now (?:an? |my |in \w+ mode|dan\b|free\b|root\b|jailbroken|unrestricted)|<\|[^|>]{1,40}\|>"
    r"|\[/?INST\]"
    r"|</?(?:system|assistant|user)>",
    re.IGNORECASE,
)


def clean_answer(answer: str) -> str:
    """Returns a model's answer as one line of plain text, without the thoughts that some write before; "" for none.

    None are refusals, loops, and answers that repeat orders written in the picture. Control and invisible characters
    are taken out; what is longer than 1,000 characters ends with the last whole sentence or word before.
    """
    kept = "".join(" " if unicodedata.category(c) in ("Zl", "Zp") or c.isspace() else c for c in answer)
    kept = "".join(c for c in kept if unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs", "Cn"))
    text = " ".join(kept.rpartition("</think>")[-1].split()).strip("\"'` ")
    if (
        "<think>" in text
        or not any(c.isalpha() for c in text)
        or _REFUSALS.search(text)
        or _ORDERS.search(text)
        or _loops(text[:MAX_CHARACTERS])  # it takes the square of the length
    ):
        return ""
    if len(text) <= _LONGEST_ANSWER:
        return text
    text = text[:_LONGEST_ANSWER]
    ends = [max(text.rfind(mark) for mark in marks) + 1 for marks in ((". ", "! ", "? ", "。", "！", "？"), (" ",))]
    # languages without spaces between words have no other place to end
    return text[: next((end for end in ends if end > _LONGEST_ANSWER // 2), _LONGEST_ANSWER)].rstrip()


def _loops(text: str) -> bool:
    """Whether a word or phrase comes four times or more in a row."""
    words = text.lower().split()
    if len(words) == 1:
        # not every language has spaces between words
        return (len(text) > 60 and text.isascii()) or re.search(r"(.{1,12})\1{5,}", text) is not None
    for length in range(1, len(words) // 4 + 1):
        run = 0
        for index in range(length, len(words)):
            run = run + 1 if words[index] == words[index - length] else 0
            if run >= 3 * length:
                return True
    return False
