"""Protocols: what is measured and exactly how, so that two tables can be compared. Each one is a YAML file."""

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xpsr.config.checks import Checked, option, within
from xpsr.config.loading import load_config

__all__ = ["PROTOCOLS", "Protocol", "load_protocol"]

_FOLDER = Path(str(importlib.resources.files("xpsr"))) / "evaluation" / "protocols"

PROTOCOLS = ("basicsr", "xpsr")
"""Those that come with xpsr."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Checked):
    """What is measured of a picture, and how.

    Attributes:
        name: what reports call it.
        about: whose it is, and where that is said.
        metrics: names of `xpsr.evaluation.METRICS`, in the order of the table.
        crop: pixels of the border that metrics with a reference leave out.
        rounded_luma: whether luma is rounded to whole numbers before PSNR compares it.
        resize: what becomes of a restored picture that is not as large as its original.
    """

    name: str = "unnamed"
    about: str = ""
    metrics: tuple[str, ...] = ("psnr_y", "ssim_y", "niqe")
    crop: int = option(0, "", within(0, 2**10, "4, for example"))
    rounded_luma: bool = False
    resize: Literal["refuse", "bicubic"] = "refuse"


def load_protocol(name: str) -> Protocol:
    """Returns one of `PROTOCOLS`, or that of a YAML file.

    Raises:
        InputError: there is no such protocol or file, or the file says what no protocol can be.
    """
    path = _FOLDER / f"{name}.yaml" if name in PROTOCOLS else Path(name)
    return load_config(Protocol, path)
