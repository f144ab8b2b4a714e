"""What is timed: models, sizes, number types, threads, each combination of them."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.reporting import ROOT
from xpsr.image import Picture, resize, to_picture

PARTS = ("describe", "encode", "denoise", "decode", "whole")
PICTURE = ROOT / "examples" / "moose.png"


@dataclass(frozen=True, kw_only=True)
class Combination:
    """What is timed, and how.

    Attributes:
        model: "mini", "full" or a folder.
        width, height: of the picture that is restored, in pixels.
        scale: how much larger the result is.
        device, dtype: as `Restorer` takes them.
        threads: of torch; None: its own choice.
        engine: as `Restorer` takes it; None: its default.
        compiled: whether ControlNet and UNet are compiled.
        steps: of denoising in the whole; None: the model's own.
        parts: of `PARTS`.
        picture: a file, whose pixels are resized to the size.
        runs, warm_up: calls that count, and that do not.
        profile: whether the operators' shares are told, too.
    """

    model: str
    width: int
    height: int
    scale: float
    device: str
    dtype: str
    threads: int | None
    engine: str | None
    compiled: bool
    steps: int | None
    parts: tuple[str, ...]
    picture: str
    runs: int
    warm_up: int
    profile: bool


def positive(text: str) -> int:
    """Reads a number of 1 or more, for argparse.

    Raises:
        ValueError: it is none.
    """
    number = int(text)
    if number < 1:
        raise ValueError
    return number


positive.__name__ = "positive number"  # as argparse calls it


def picture_of(path: Path, width: int, height: int) -> Picture:
    """Reads a picture and resizes its colours to that size.

    Raises:
        InputError: it cannot be read.
    """
    return Picture(pixels=resize(to_picture(path).pixels, (height, width)).clamp(0, 1))
