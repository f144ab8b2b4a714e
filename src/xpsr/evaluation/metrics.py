"""Metrics as values: a name, what is needed, which way is better, and a function of one picture.

In use:

    protocol = load_protocol("xpsr")
    metrics, not_measured = open_metrics(protocol, available=frozenset({"hr"}))
    subject = Subject(restored=pixels, hr=original)
    scores = {metric.name: metric.compute(subject, protocol) for metric in metrics}
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from xpsr.config import suggest
from xpsr.errors import InputError
from xpsr.evaluation.colors import color_shift
from xpsr.evaluation.consistency import lr_psnr
from xpsr.evaluation.detail import seam_energy, sharpness
from xpsr.evaluation.fidelity import ms_ssim, psnr, ssim
from xpsr.evaluation.foreign import PREFIX, Foreign, open_foreign, pyiqa_is_there
from xpsr.evaluation.learned import FILES, Distance, enet_distance, open_distance
from xpsr.evaluation.luma import luma
from xpsr.evaluation.niqe import niqe_of_luma
from xpsr.evaluation.protocols import Protocol
from xpsr.image import to_uint8

__all__ = ["METRICS", "Metric", "Needs", "Subject", "digest", "open_metrics"]

Needs = Literal["nothing", "hr", "lr"]

_Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A restored picture and what it is compared with: RGB (3, H, W) in [0, 1], float32.

    A gray picture comes as three equal channels, and transparency is not compared. All is compared in 8 bits.

    Attributes:
        restored: the restored picture.
        hr: its original, of the same size; None: there is none.
        lr: what it was restored from; None: it is not known.

    Raises:
        InputError: one of them is not (3, H, W), or holds a NaN or an infinity; or `hr` has another size.
    """

    restored: torch.Tensor
    hr: torch.Tensor | None = None
    lr: torch.Tensor | None = None

    def __post_init__(self) -> None:
        pictures = {"the restored picture": self.restored, "the original": self.hr, "the input": self.lr}
        for what, pixels in pictures.items():
            if pixels is None:
                continue
            if pixels.ndim != 3 or len(pixels) != 3 or not pixels.numel():
                message = f"{what} is of {tuple(pixels.shape)}, not (3, height, width)"
                raise InputError(message, code="wrong_size", remedy="give RGB pixels")
            if not pixels.sum().isfinite():  # much faster than to ask each one
                message = f"{what} holds pixels that are NaN or infinite"
                raise InputError(message, code="not_finite", remedy="make it again")
        if self.hr is not None and self.hr.shape != self.restored.shape:
            (height, width), (h, w) = self.hr.shape[-2:], self.restored.shape[-2:]
            message = f"the restored picture, {w} x {h}, is not as large as the original, {width} x {height}"
            raise InputError(message, code="wrong_size", remedy="compare pictures of one size")

    @cached_property
    def luma(self) -> NDArray[np.float64]:
        """Of the restored picture: (H, W), in [16, 235], of BT.601."""
        return luma(self.restored).numpy()

    @cached_property
    def hr_luma(self) -> NDArray[np.float64]:
        """Of its original."""
        return luma(self.original).numpy()

    @property
    def original(self) -> torch.Tensor:
        """`hr`, where a metric needs it."""
        assert self.hr is not None, "a metric that needs an original was given none"
        return self.hr


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is measured of a picture.

    `compute` gives a finite number or raises `InputError`. With the codes "too_small" and "flat" it says that there is
    too little to see in this picture: whoever scores many leaves it out there and counts it. Any other error is one: a
    picture of another size, or a NaN or infinite score ("not_finite"), which never goes into a mean.

    Attributes:
        name: as protocols and reports call it, "psnr_y" for example.
        title: as tables head it, "PSNR (Y), dB" for example.
        needs: what a picture is compared with; "nothing" for what looks at the restored picture alone.
        lower_is_better: None: more is neither better nor worse.
        version: of the definition and the numbers in it; scores of two versions are never mixed.
        compute: maps a subject and the protocol to a score.
    """

    name: str
    title: str
    needs: Needs
    lower_is_better: bool | None
    version: str
    compute: Callable[[Subject, Protocol], float]

    def __post_init__(self) -> None:
        if not isinstance(self.compute, _Finite):
            object.__setattr__(self, "compute", _Finite(self.name, self.compute))

    @property
    def needs_reference(self) -> bool:
        """Whether there has to be an original."""
        return self.needs == "hr"


@dataclass(frozen=True)
class _Finite:
    """A metric's function that raises where it would return what is no number."""

    name: str
    function: Callable[[Subject, Protocol], float]

    def __call__(self, subject: Subject, protocol: Protocol) -> float:
        score = float(self.function(subject, protocol))
        if not math.isfinite(score):
            message = f"its {self.name} is {score}, which is no score"
            raise InputError(message, code="not_finite", remedy="look at the picture, or leave out the metric")
        return score


def _inner(values: _Array, protocol: Protocol) -> _Array:
    """Without the border: (H, W) or (H, W, 3)."""
    height, width = values.shape[:2]
    crop = protocol.crop
    return values[crop : max(height - crop, crop), crop : max(width - crop, crop)]


def _lumas(subject: Subject, protocol: Protocol, *, rounded: bool) -> tuple[_Array, _Array]:
    a, b = _inner(subject.luma, protocol), _inner(subject.hr_luma, protocol)
    return (a.round(), b.round()) if rounded else (a, b)


def _colors(subject: Subject, protocol: Protocol) -> tuple[_Array, _Array]:
    """Of both the 8-bit values (H, W, 3), without the border."""
    a, b = (to_uint8(pixels).cpu().permute(1, 2, 0).numpy() for pixels in (subject.restored, subject.original))
    return _inner(a, protocol), _inner(b, protocol)


def _psnr_y(subject: Subject, protocol: Protocol) -> float:
    return psnr(*_lumas(subject, protocol, rounded=protocol.rounded_luma))


def _psnr_rgb(subject: Subject, protocol: Protocol) -> float:
    return psnr(*_colors(subject, protocol))


def _ssim_y(subject: Subject, protocol: Protocol) -> float:
    return ssim(*_lumas(subject, protocol, rounded=protocol.rounded_luma_ssim))


def _ssim_rgb(subject: Subject, protocol: Protocol) -> float:
    a, b = (pixels.astype(np.float64) for pixels in _colors(subject, protocol))
    return float(np.mean([ssim(a[..., channel], b[..., channel]) for channel in range(3)]))


def _ms_ssim_y(subject: Subject, protocol: Protocol) -> float:
    return ms_ssim(*_lumas(subject, protocol, rounded=protocol.rounded_luma_ssim))


def _color_shift(subject: Subject, protocol: Protocol) -> float:
    return color_shift(*_colors(subject, protocol))


def _lr_psnr(subject: Subject, protocol: Protocol) -> float:
    assert subject.lr is not None, "lr_psnr was given no input"
    return lr_psnr(subject.restored, subject.lr)


def _enet_dist(subject: Subject, protocol: Protocol) -> float:
    return enet_distance(subject.restored, subject.original)


def _niqe(subject: Subject, protocol: Protocol) -> float:
    return niqe_of_luma(subject.luma)


def _sharpness(subject: Subject, protocol: Protocol) -> float:
    return sharpness(subject.luma)


def _seam_energy(subject: Subject, protocol: Protocol) -> float:
    return seam_energy(subject.luma, tile_size=protocol.tile_size, overlap=protocol.tile_overlap)


def _unopened(subject: Subject, protocol: Protocol) -> float:
    raise AssertionError("open_metrics opens what needs weights")


_TABLE: tuple[tuple[str, str, Needs, bool | None, str, Callable[[Subject, Protocol], float]], ...] = (
    ("psnr_y", "PSNR (Y), dB", "hr", False, "1", _psnr_y),
    ("psnr_rgb", "PSNR (RGB), dB", "hr", False, "1", _psnr_rgb),
    ("ssim_y", "SSIM (Y)", "hr", False, "1", _ssim_y),
    ("ssim_rgb", "SSIM (RGB)", "hr", False, "1", _ssim_rgb),
    ("ms_ssim_y", "MS-SSIM (Y)", "hr", False, "1", _ms_ssim_y),
    ("enet_dist", "ENet-dist", "hr", True, "1", _enet_dist),
    ("lpips_alex", "LPIPS (AlexNet)", "hr", True, "0.1", _unopened),
    ("lpips_vgg", "LPIPS (VGG)", "hr", True, "0.1", _unopened),
    ("dists", "DISTS", "hr", True, "1", _unopened),
    ("color_shift", "Colour shift, CIEDE2000", "hr", True, "1", _color_shift),
    ("lr_psnr", "LR consistency, dB", "lr", False, "1", _lr_psnr),
    ("niqe", "NIQE", "nothing", True, "1", _niqe),
    ("sharpness", "Sharpness", "nothing", None, "1", _sharpness),
    ("seam_energy", "Seam energy", "nothing", True, "2", _seam_energy),
)

METRICS: dict[str, Metric] = {
    name: Metric(name=name, title=title, needs=needs, lower_is_better=lower, version=version, compute=compute)
    for name, title, needs, lower, version, compute in _TABLE
}
"""Those that come with xpsr, by name. Those of `xpsr.evaluation.learned.FILES` are of use once `open_metrics` has read
their weights."""

_LACKING = {
    "hr": "needs the originals",
    "lr": "needs the pictures that were restored",
}


def open_metrics(
    protocol: Protocol, *, available: Collection[Needs], weights: Path | None = None
) -> tuple[tuple[Metric, ...], Mapping[str, str]]:
    """Returns the metrics of a protocol that can be measured, and of each other one why not, in a line.

    Args:
        protocol: what is to be measured.
        available: what there is to compare with; that "nothing" is needs not be said.
        weights: the folder of the weights of learned metrics.

    Raises:
        InputError: a metric is unknown; `weights` is no folder; or weights are not those that the protocol names, or it
            names such as no metric has.
    """
    if weights is not None and not weights.is_dir():
        what = "is not a folder" if weights.exists() else "no such folder"
        raise InputError(f"{weights}: {what}", code="not_found", remedy="name the folder that holds the weights")
    known = sorted({file for files in FILES.values() for file in files})
    for file in protocol.checksums:
        if file not in known:
            remedy = suggest(file, known).removeprefix("; ") or f"there are {', '.join(known)}"
            raise InputError("is no file of weights", code="not_found", field="weights", value=file, remedy=remedy)
    opened: list[Metric] = []
    missing: dict[str, str] = {}
    for name in protocol.metrics:
        found = _open(name, protocol, available, weights)
        if isinstance(found, Metric):
            opened.append(found)
        else:
            missing[name] = found
    return tuple(opened), missing


def _open(name: str, protocol: Protocol, available: Collection[Needs], weights: Path | None) -> Metric | str:
    """A metric, or why it cannot be measured."""
    if name.startswith(PREFIX):
        return _open_foreign(name, available)
    if name not in METRICS:
        meant = suggest(name, METRICS).removeprefix("; ")
        remedy = meant or f"there are {', '.join(METRICS)} and {PREFIX}NAME"
        raise InputError("is no metric", code="not_found", field="metrics", value=name, remedy=remedy)
    metric = METRICS[name]
    if metric.needs != "nothing" and metric.needs not in available:
        return _LACKING[metric.needs]
    if name == "seam_energy" and not protocol.tile_size:
        return "needs the size of tiles; name tile_size and tile_overlap, in pixels of the result"
    return _open_learned(metric, protocol, weights) if name in FILES else metric


def _open_learned(metric: Metric, protocol: Protocol, weights: Path | None) -> Metric | str:
    files = FILES[metric.name]
    if weights is None:
        return f"needs {' and '.join(files)}; name the folder that holds them"
    absent = [file for file in files if not (weights / file).is_file()]
    if absent:
        return f"needs {' and '.join(absent)}; put {'it' if len(absent) == 1 else 'them'} into {weights}"
    distance, checksum = open_distance(metric.name, weights, protocol.checksums)
    return dataclasses.replace(metric, version=f"{metric.version} {checksum}", compute=_Learned(distance))


@dataclass(frozen=True)
class _Learned:
    distance: Distance

    def __call__(self, subject: Subject, protocol: Protocol) -> float:
        return self.distance(subject.restored, subject.original)


def _open_foreign(name: str, available: Collection[Needs]) -> Metric | str:
    if not pyiqa_is_there():
        return "needs pyiqa; install pyiqa (PolyForm Noncommercial since 2026)"
    found = open_foreign(name.removeprefix(PREFIX))
    if isinstance(found, str):
        return found
    if found.needs == "hr" and "hr" not in available:
        return _LACKING["hr"]
    return Metric(
        name=name,
        title=f"{name.removeprefix(PREFIX)} (pyiqa)",
        needs=found.needs,
        lower_is_better=found.lower_is_better,
        version=f"pyiqa {found.version}",
        compute=_OfForeign(found),
    )


@dataclass(frozen=True)
class _OfForeign:
    foreign: Foreign

    def __call__(self, subject: Subject, protocol: Protocol) -> float:
        return self.foreign.measure(subject.restored, subject.original if self.foreign.needs == "hr" else None)


def digest(protocol: Protocol, metrics: Collection[Metric]) -> str:
    """Returns the SHA-256 of all that changes a picture's scores but the pictures: rules and versions, in hexadecimal.

    Versions hold the checksums of weights, so `metrics` are those that `open_metrics` returned.
    """
    content = {"rules": protocol.rules, "metrics": {metric.name: metric.version for metric in metrics}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
