"""ICC profiles of curves and a matrix, and those of gray, as functions between a device's values and sRGB.

sRGB goes on beyond [0, 1] here, its curve mirrored below 0, so that it holds every colour.
"""

import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["BrokenProfile", "Shaper", "read_shaper"]

_CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")  # of profiles that say what a device's values mean
_TABLES = (b"A2B0", b"A2B1", b"A2B2", b"D2B0", b"D2B1", b"D2B2", b"D2B3")  # they go before curves and matrix

# The largest of printers are a few MB; most have less than 20 tags, and curves of up to 4096 values
_MAX_BYTES = 2**25
_MAX_TAGS = 100
_MAX_SAMPLES = 2**16

_KNOTS = 2**16  # of a curve, so that values of 16 bits lie on them

# XYZ of sRGB's primaries, adapted to D50 (Bradford), a column each
_SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)

_ROUNDING = 1e-3  # of primaries, whose numbers have 16 bits behind the point and whose makers round differently

# By the type of a parametric curve: which of g, a, b, c, d, e, f are stored
_PARAMETERS = {0: "g", 1: "gab", 2: "gabc", 3: "gabcd", 4: "gabcdef"}


class BrokenProfile(ValueError):
    """What is wrong with a profile, as a predicate: "is truncated"."""


@dataclass(frozen=True, kw_only=True)
class Shaper:
    """Curves and a matrix between C values of a device, 1 or 3, and linear sRGB, where white is 1.

    Attributes:
        curves: (C, _KNOTS) light in [0, 1] at equal steps of the device's value.
        inverses: (C, _KNOTS) the device's value at equal steps of the square root of light.
        to_linear: (3, C).
        from_linear: (C, 3).
    """

    curves: torch.Tensor
    inverses: torch.Tensor
    to_linear: torch.Tensor
    from_linear: torch.Tensor

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Returns sRGB (3, N), in and beyond [0, 1], of a device's values (C, N) in [0, 1]."""
        return _encode(self.to_linear @ _interpolate(values, self.curves))

    def backward(self, colors: torch.Tensor) -> torch.Tensor:
        """Returns a device's values (C, N) in [0, 1] of sRGB (3, N), in and beyond [0, 1]."""
        return _interpolate((self.from_linear @ _decode(colors)).clamp(0, 1).sqrt(), self.inverses)

    @cached_property
    def is_srgb(self) -> bool:
        """Whether its primaries are sRGB's but for rounding, and its curves by less than half a step of 8 bits."""
        ramp = torch.linspace(0, 1, 1024).expand(len(self.curves), -1)
        same_curves = (self.forward(ramp) - ramp).abs().max() < 0.5 / 255
        channels = self.to_linear.shape[1]
        same_primaries = channels == 1 or (self.to_linear - torch.eye(3)).abs().max() < _ROUNDING
        return bool(same_curves and same_primaries)


@lru_cache(maxsize=4)  # pictures are written in strips, and those of a folder come from one camera
def read_shaper(icc: bytes, space: bytes) -> Shaper | None:
    """Returns the profile of a picture whose colours are in `space` ("GRAY", "RGB ", "CMYK"); None: it has tables.

    Raises:
        BrokenProfile: it cannot be read, is of another space, or absurd.
    """
    tags = _tags(icc)
    if icc[12:16] not in _CLASSES:
        raise BrokenProfile("describes no device")
    if icc[16:20] != space:
        kinds = {b"GRAY": "gray", b"RGB ": "RGB", b"CMYK": "CMYK"}
        raise BrokenProfile(f"is for {kinds.get(icc[16:20], 'other')} values, the picture is {kinds[space]}")
    if space == b"CMYK" or any(name in tags for name in _TABLES):
        return None
    try:
        if space == b"GRAY":
            return _gray_shaper(tags, icc[20:24])
        return _matrix_shaper(tags, icc[20:24])
    except KeyError as error:
        raise BrokenProfile(f"lacks its {error.args[0].decode()}") from error
    except (struct.error, ValueError) as error:
        raise BrokenProfile(str(error) if isinstance(error, BrokenProfile) else "is truncated") from error


def _tags(icc: bytes) -> dict[bytes, memoryview]:
    """What stands in a profile, by name; tags may lie over one another."""
    if len(icc) < 132 or icc[36:40] != b"acsp":
        raise BrokenProfile("is no profile")
    if len(icc) > _MAX_BYTES:
        raise BrokenProfile(f"has {len(icc)} bytes, more than {_MAX_BYTES}")
    count = int.from_bytes(icc[128:132])
    if count > _MAX_TAGS:
        raise BrokenProfile(f"has {count} tags, more than {_MAX_TAGS}")
    if len(icc) < 132 + 12 * count:
        raise BrokenProfile("is truncated")
    entries = struct.iter_unpack(">4sII", icc[132 : 132 + 12 * count])
    # what lies behind the end is cut there, and missed where it is read
    view = memoryview(icc)
    return {name: view[start : start + size] for name, start, size in entries}


def _gray_shaper(tags: dict[bytes, memoryview], connection: bytes) -> Shaper:
    light = _curve(tags[b"kTRC"])
    if connection == b"Lab ":  # the curve gives lightness
        light = np.where(light > 0.08, ((light * 100 + 16) / 116) ** 3, light * 100 / (24389 / 27))
    return _shaper([light], np.ones((3, 1)), _SRGB[1:2] / _SRGB[1].sum())


def _matrix_shaper(tags: dict[bytes, memoryview], connection: bytes) -> Shaper:
    if connection != b"XYZ ":
        raise BrokenProfile("has no tables")
    to_xyz = np.stack([_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=1)
    to_linear = np.linalg.solve(_SRGB, to_xyz)
    white = to_linear.sum(1, keepdims=True)
    if np.abs(white - 1).max() < _ROUNDING:  # so that white is white, and gray is gray
        to_linear = to_linear / white
    if np.abs(white - 1).max() > 0.5 or np.linalg.cond(to_linear) > 100:
        raise BrokenProfile("has absurd primaries")
    curves = [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return _shaper(curves, to_linear, np.linalg.inv(to_linear))


def _shaper(curves: list[NDArray[Any]], to_linear: NDArray[Any], from_linear: NDArray[Any]) -> Shaper:
    steps = np.linspace(0, 1, _KNOTS)
    inverses = [np.interp(steps**2, curve, steps) for curve in curves]
    return Shaper(
        curves=torch.from_numpy(np.stack(curves)).float(),
        inverses=torch.from_numpy(np.stack(inverses)).float(),
        to_linear=torch.from_numpy(to_linear).float(),
        from_linear=torch.from_numpy(from_linear).float(),
    )


def _xyz(tag: memoryview) -> NDArray[Any]:
    kind, *values = struct.unpack(">4s4x3i", tag[:20])
    if kind != b"XYZ ":
        raise BrokenProfile("has primaries of an unknown kind")
    return np.array(values) / 65536


def _curve(tag: memoryview) -> NDArray[Any]:
    """Light, rising in [0, 1], at _KNOTS equal steps of a device's value."""
    kind, count = struct.unpack(">4s4xI", tag[:12])
    steps = np.linspace(0, 1, _KNOTS)
    if kind == b"para":
        light = _parametric(steps, count >> 16, tag[12:])
    elif kind != b"curv":
        raise BrokenProfile("has curves of an unknown kind")
    elif count == 0:
        light = steps
    elif count == 1:
        light = steps ** (int.from_bytes(tag[12:14]) / 256)
    elif count > _MAX_SAMPLES:
        raise BrokenProfile(f"has curves of {count} values, more than {_MAX_SAMPLES}")
    else:
        samples = np.frombuffer(tag, ">u2", count, offset=12) / 65535
        light = np.interp(steps, np.linspace(0, 1, count), samples)
    if not np.isfinite(light).all():
        raise BrokenProfile("has absurd curves")
    light = light.clip(0, 1)
    rising = np.maximum.accumulate(light)
    if (rising - light).max() > 0.01 or rising[-1] - rising[0] < 0.1:  # rounded numbers may leave a small step
        raise BrokenProfile("has absurd curves")
    return rising


def _parametric(steps: NDArray[Any], kind: int, stored: memoryview) -> NDArray[Any]:
    """The parametric curve of type `kind`: (a x + b) ** g + e from d on, c x + f before it."""
    if kind not in _PARAMETERS:
        raise BrokenProfile("has curves of an unknown kind")
    names = _PARAMETERS[kind]
    values = struct.unpack(f">{len(names)}i", stored[: 4 * len(names)])
    given = {name: value / 65536 for name, value in zip(names, values, strict=True)}
    g, a, b, c, d, e, f = (given.get(name, 1.0 if name == "a" else 0.0) for name in "gabcdef")
    if kind in (1, 2):  # flat, where the base is negative
        c, d, e, f = 0.0, -b / a if a else 0.0, c, c
    with np.errstate(all="ignore"):  # absurd numbers give what is not finite
        return np.where(steps >= d, np.maximum(a * steps + b, 0) ** g + e, c * steps + f)


def _interpolate(values: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Looks values (C, N) in [0, 1] up in tables (C, _KNOTS), each in its own."""
    places = values * (_KNOTS - 1)
    left = places.to(torch.int32).clamp_(0, _KNOTS - 2)
    shares = places.sub_(left)
    found = torch.empty_like(shares)
    for table, index, share, result in zip(tables, left, shares, found, strict=True):
        torch.lerp(table.index_select(0, index), table.index_select(0, index + 1), share, out=result)
    return found


def _encode(light: torch.Tensor) -> torch.Tensor:
    """Linear sRGB to sRGB, both in and beyond [0, 1]."""
    size = light.abs()
    return torch.where(size <= 0.0031308, 12.92 * size, 1.055 * size.pow(1 / 2.4) - 0.055).copysign(light)


def _decode(colors: torch.Tensor) -> torch.Tensor:
    """sRGB to linear sRGB, both in and beyond [0, 1]."""
    size = colors.abs()
    return torch.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055).pow(2.4)).copysign(colors)
