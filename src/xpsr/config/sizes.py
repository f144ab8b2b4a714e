"""How large a result is: asked for in one of five ways, and in pixels for a certain picture. No torch."""

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from xpsr.config.checks import Checked, Pattern, check_argument, option, said, within
from xpsr.errors import InputError

__all__ = [
    "MAX_OUTPUT_PIXELS",
    "MAX_SCALE",
    "MAX_SIDE",
    "PIXELS",
    "SCALE",
    "SIZE_SUFFIX",
    "Size",
    "as_size",
    "too_many_pixels",
    "usual_size",
]

MAX_SCALE = 16.0
"""A pipeline enlarges no further, along a side."""

SCALE = within(1 / MAX_SCALE, MAX_SCALE, "4, for example")

MAX_SIDE = 999_999
"""Pixels along a side that are asked for."""

MAX_OUTPUT_PIXELS = 2**30

USUAL_PIXELS = 2**26
"""Pixels that a result has at most where nobody says how large it is to be: 8192 x 8192."""

SIZE_SUFFIX = re.compile(r"_(x\d+(\.\d+)?|\d+x\d+|(longest|shortest)\d+|\d+(\.\d+)?mp)$")
"""What `Size.suffix` adds to a name."""

PIXELS = Pattern(
    "[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", f"WIDTHxHEIGHT, of 1 to {MAX_SIDE} pixels each", "3000x2000, for example"
)
"""The rule that a text is such a size."""

_SIDE = within(1, MAX_SIDE, "3000, for example")
_SUFFIXES = {"scale": "x{}", "size": "{}", "longest": "longest{}", "shortest": "shortest{}", "megapixels": "{}mp"}


@dataclass(frozen=True, kw_only=True)
class Size(Checked):
    """How large a result is. Exactly one of the fields is given.

    Raises:
        InputError: none or several are given, or one is out of its range.
    """

    scale: float | None = option(None, "How much larger, along a side; may be fractional.", SCALE)
    size: str | None = option(
        None, "WIDTHxHEIGHT in pixels; a picture whose sides are of another ratio is stretched.", PIXELS
    )
    longest: int | None = option(None, "Pixels of the longer side; the other follows.", _SIDE)
    shortest: int | None = option(None, "Pixels of the shorter side; the other follows.", _SIDE)
    megapixels: float | None = option(
        None, "Millions of pixels, as nearly as the sides' ratio allows.", within(1e-6, 1e6, "12, for example")
    )

    def __post_init__(self) -> None:
        """Asks for one way of the five."""
        super().__post_init__()
        if len(self.asked) > 1:
            (first, value), (second, _), *_ = self.asked.items()
            message, remedy = f"says the size, and {second} does too", "leave one of them out"
            raise InputError(message, code="conflict", field=first, value=said(value), remedy=remedy)
        if not self.asked:
            message = f"no size is asked for, as one of {', '.join(_SUFFIXES)}"
            raise InputError(message, code="missing", remedy="use scale=4, for example")

    @property
    def asked(self) -> dict[str, Any]:
        """The field that is given, by its name; records have it so."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def suffix(self) -> str:
        """What is added to the names of results: _x4, _3000x2000, _longest3000, _shortest1080 or _12mp."""
        ((name, value),) = self.asked.items()
        return "_" + _SUFFIXES[name].format(said(value))

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Returns width and height of the result of a picture of `width` x `height`, at least 1 each.

        Raises:
            InputError: a side would be more than `MAX_SCALE` times as long.
        """
        sides = self._of(width, height)
        if max(sides[0] / width, sides[1] / height) > MAX_SCALE:
            fits = (round(width * MAX_SCALE), round(height * MAX_SCALE))
            most = {
                "size": f"{fits[0]}x{fits[1]}",
                "longest": max(fits),
                "shortest": min(fits),
                "megapixels": _floored(fits[0] * fits[1] / 1e6),
            }
            message = f"makes {sides[0]} x {sides[1]} of {width} x {height}, more than {MAX_SCALE:g} times as long"
            ((name, value),) = self.asked.items()
            remedy = f"use {said(most[name])} or less"
            raise InputError(message, code="too_large", field=name, value=said(value), remedy=remedy)
        return sides

    def refuse_above(self, pixels: int, width: int, height: int) -> None:
        """Raises `InputError` where the result of a picture of `width` x `height`, or turned, has more pixels."""
        wide, high = self._of(width, height)
        if wide * high <= pixels:
            return
        message = too_many_pixels(wide * high, pixels, width, height)
        ((name, value),) = self.asked.items()
        smaller = self._times(min(math.sqrt(pixels / (wide * high)), MAX_SCALE * max(width, height) / max(wide, high)))
        while smaller is not None and math.prod(smaller._of(width, height)) > pixels:  # where a side is rounded up
            smaller = smaller._times(0.99)
        remedy = "crop the picture" if smaller is None else f"use {said(smaller.asked[name])} or less"
        raise InputError(message, code="too_large", field=name, value=said(value), remedy=remedy, limit=pixels)

    def _of(self, width: int, height: int) -> tuple[int, int]:
        if self.size is not None:
            wide, high = map(int, self.size.split("x"))
            return wide, high
        if self.longest is not None or self.shortest is not None:
            asked, side = (
                (self.longest, max(width, height)) if self.shortest is None else (self.shortest, min(width, height))
            )
            assert asked is not None
            return max(_rounded(width * asked, side), 1), max(_rounded(height * asked, side), 1)
        scale = self.scale
        if self.megapixels is not None:
            scale = math.sqrt(self.megapixels * 1e6 / (width * height))
        assert scale is not None
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def _times(self, factor: float) -> "Size | None":
        """One of the same kind, a little less than `factor` times as large along a side, in round numbers."""
        ((name, value),) = self.asked.items()
        if name == "size":
            sides = [max(int(_floored(int(side) * factor)), 1) for side in value.split("x")]
            return Size(size="{}x{}".format(*sides))
        number = _floored(value * (factor**2 if name == "megapixels" else factor))
        least: Any = max(int(number), 1) if isinstance(value, int) else number
        with suppress(InputError):  # less than can be asked for
            return None if least == value else Size(**{name: least})
        return None


def too_many_pixels(pixels: int, limit: int, width: int, height: int) -> str:
    """Returns what is wrong with a result of `pixels`, more than `limit`, of a picture of `width` x `height`.

    Both are told in millions with three digits, or as many more as tell them apart; small ones are told whole.
    """
    if limit < 10**5:
        return f"makes {pixels} pixels of {width} x {height}, more than {limit}"
    places = max(9 - len(str(limit)), 0)
    while (made := round(pixels / 1e6, places)) == (most := round(limit / 1e6, places)):
        places += 1
    return f"makes {made:.12g} megapixels of {width} x {height}, more than {most:.12g}"


def usual_size(width: int, height: int) -> Size:
    """Returns how large the result of a picture is where nobody says it: 4 times, or 2 or 1 if that is too large.

    A photograph of 12 megapixels becomes one of 48; times 4 it would have 192, which few programs open.
    """
    fits = (scale for scale in (4.0, 2.0) if width * height * scale**2 <= USUAL_PIXELS)
    return Size(scale=next(fits, 1.0))


def as_size(scale: Any, size: Any) -> Size | None:
    """Returns what a call with these arguments asks for; None: it gives neither, and `usual_size` holds.

    Args:
        scale: how much larger, along a side.
        size: "3000x2000", or a `Size`; instead of `scale`.

    Raises:
        InputError: both are given, or one cannot be used.
    """
    if isinstance(size, Size):
        if scale is not None:
            message, remedy = "says the size, and size does too", "leave one of them out"
            raise InputError(message, code="conflict", field="scale", value=said(scale), remedy=remedy)
        return size
    if not isinstance(size, str | None):
        message, remedy = "is neither WIDTHxHEIGHT nor a Size", "use '3000x2000' or Size(longest=3000), for example"
        raise InputError(message, code="wrong_type", field="size", value=said(size), remedy=remedy)
    if scale is not None:
        scale = check_argument("scale", scale, float, SCALE)
    return None if scale is None and size is None else Size(scale=scale, size=size)


def _rounded(product: int, divisor: int) -> int:
    """`product / divisor` to the nearest whole number, halves up; exact for numbers of any length."""
    return (2 * product + divisor) // (2 * divisor)


def _floored(value: float) -> float:
    """The first two digits of a number that is above 0."""
    digits = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / digits) * digits:.2g}")
