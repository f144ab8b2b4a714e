"""Protocols: what is measured and exactly how, so that two tables can be compared. Each one is a YAML file."""

import dataclasses
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xpsr.config import load_config, suggest
from xpsr.config.checks import Checked, fault, option, within
from xpsr.errors import InputError

__all__ = ["PROTOCOLS", "Protocol", "load_protocol"]

_FOLDER = Path(str(importlib.resources.files("xpsr"))) / "evaluation" / "protocols"

PROTOCOLS = ("basicsr", "osediff", "stablesr", "xpsr")
"""Those that come with xpsr."""

_UNNAMED = "unnamed"


def _metric_names(names: tuple[str, ...]) -> tuple[str, str] | None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return f"names {twice[0]} twice", "leave one of them out"
    return None if names else ("names nothing to measure", "use [psnr_y, ssim_y], for example")


def _checksums(lines: tuple[str, ...]) -> tuple[str, str] | None:
    if all(re.fullmatch(r"[0-9a-f]{8,64}  ?[\w.-]+", line) for line in lines):
        return None
    return "are not all a SHA-256, or 8 or more digits of its beginning, and a file's name", "use lines of sha256sum"


@dataclass(frozen=True, kw_only=True)
class Protocol(Checked):
    """What is measured of a picture, and how.

    Attributes:
        name: what reports call it.
        about: whose it is, and where that is said.
        metrics: names of `xpsr.evaluation.METRICS`, or `pyiqa:NAME`, in the order of the table.
        crop: pixels of the border that PSNR, SSIM, MS-SSIM and the colour shift leave out.
        rounded_luma: whether luma is rounded to whole numbers before PSNR compares it.
        rounded_luma_ssim: whether it is before SSIM and MS-SSIM compare it.
        resize: what becomes of a restored picture that is not as large as its original.
        tile_size: of the tiles whose seams are looked for, pixels of the result; 0: they are not known.
        tile_overlap: of these tiles, pixels of the result.
        weights: of weights of learned metrics the SHA-256, or how it begins, and the file's name: lines of sha256sum.

    Raises:
        InputError: a value is not of its field's type or breaks its rule.
    """

    name: str = _UNNAMED
    about: str = ""
    metrics: tuple[str, ...] = option(("psnr_y", "ssim_y", "niqe"), "", _metric_names)
    crop: int = option(0, "", within(0, 2**10, "4, for example"))
    rounded_luma: bool = False
    rounded_luma_ssim: bool = False
    resize: Literal["refuse", "bicubic"] = "refuse"
    tile_size: int = option(0, "", within(0, 2**20, "512, for example"))
    tile_overlap: int = option(0, "", within(0, 2**20, "64, for example"))
    weights: tuple[str, ...] = option((), "", _checksums)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile_overlap and self.tile_overlap >= self.tile_size:
            remedy = "set tile_size, too" if not self.tile_size else f"use {self.tile_size // 8}"
            raise fault(self, "tile_overlap", f"is not below tile_size={self.tile_size}", remedy)

    @property
    def checksums(self) -> Mapping[str, str]:
        """The SHA-256 of weights, or how it begins, by the name of the file."""
        return {line.split()[1]: line.split()[0] for line in self.weights}

    @property
    def rules(self) -> Mapping[str, Any]:
        """What changes the number that a metric gives, ready for JSON; the rest says what is measured, and of whom."""
        others = {"name", "about", "metrics", "weights"}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in others}


def load_protocol(name: str) -> Protocol:
    """Returns one of `PROTOCOLS`, or that of a YAML file, which is called as the file where it has no name.

    Raises:
        InputError: there is no such protocol or file, or the file says what no protocol can be.
    """
    path = _FOLDER / f"{name}.yaml" if name in PROTOCOLS else Path(name)
    if not path.is_file():
        meant = suggest(name, PROTOCOLS).removeprefix("; ")
        known = f"there are {', '.join(PROTOCOLS)}, or name a YAML file"
        remedy = f"{known}; {meant}" if meant else known
        raise InputError("is no protocol", code="not_found", field="protocol", value=name, remedy=remedy)
    protocol = load_config(Protocol, path)
    return dataclasses.replace(protocol, name=path.stem) if protocol.name == _UNNAMED else protocol
