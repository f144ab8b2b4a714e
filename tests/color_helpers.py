"""Colour profiles as bytes, and the distance of two colours as the eye sees it."""

import itertools
import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ADOBE_RGB",
    "DISPLAY_P3",
    "GRAY_22",
    "PROPHOTO",
    "cmyk_profile",
    "curve_table",
    "gamma",
    "gray_profile",
    "icc_profile",
    "lab_of",
    "matrix_profile",
    "parametric",
    "rgb_table_profile",
    "visible_difference",
]

Array = NDArray[np.float64]

D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


def fixed(*values: float) -> bytes:
    """s15Fixed16 numbers."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def gamma(value: float) -> bytes:
    """A `curv` of one number, as ICC v2 has it."""
    return struct.pack(">4s4xIH", b"curv", 1, round(value * 256))


def curve_table(values: Sequence[float] | Array) -> bytes:
    """A `curv` of many numbers in [0, 1]."""
    numbers = np.round(np.asarray(values) * 65535).astype(">u2").tobytes()
    return struct.pack(">4s4xI", b"curv", len(values)) + numbers


def parametric(kind: int, *values: float) -> bytes:
    """A `para` of type 0 to 4, as ICC v4 has it."""
    return struct.pack(">4s4xHH", b"para", kind, 0) + fixed(*values)


def icc_profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], *, version: int = 4) -> bytes:
    """A whole profile; tags that are the same are stored once."""
    names, body, places = {**_described(version), **tags}, b"", {}
    start = 132 + 12 * len(names)
    table = struct.pack(">I", len(names))
    for name, content in names.items():
        if content not in places:
            places[content] = start + len(body)
            body += content + b"\0" * (-len(content) % 4)
        table += struct.pack(">4sII", name, places[content], len(content))
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    facts = (start + len(body), b"none", version << 24, kind, space, connection, b"acsp")
    header = struct.pack(">I4sI4s4s4s12x4s28x", *facts)
    header += fixed(*D50)
    return header + b"\0" * (128 - len(header)) + table + body


def _described(version: int) -> dict[bytes, bytes]:
    white = struct.pack(">4s4x", b"XYZ ") + fixed(*D50)
    if version == 2:
        text = b"made by a test\0"
        return {
            b"desc": struct.pack(">4s4xI", b"desc", len(text)) + text + b"\0" * 78,
            b"cprt": b"text\0\0\0\0" + text,
            b"wtpt": white,
        }
    text = "made by a test".encode("utf-16-be")
    note = struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(text), 28) + text
    return {b"desc": note, b"cprt": note, b"wtpt": white}


def matrix_profile(
    primaries: Sequence[tuple[float, float]], white: tuple[float, float], curve: bytes, *, version: int = 4
) -> bytes:
    """A profile of primaries and a white (x, y), adapted to D50 by Bradford's matrix."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    x, y = white
    light = np.array([x / y, 1, (1 - x - y) / y])
    to_xyz = columns * np.linalg.solve(columns, light)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ D50 / (_BRADFORD @ light)) @ _BRADFORD @ to_xyz
    tags = {}
    for letter, column in zip("rgb", adapted.T, strict=True):
        tags[f"{letter}XYZ".encode()] = struct.pack(">4s4x", b"XYZ ") + fixed(*column)
        tags[f"{letter}TRC".encode()] = curve
    return icc_profile(b"RGB ", b"XYZ ", tags, version=version)


def gray_profile(curve: bytes, *, connection: bytes = b"XYZ ", version: int = 2) -> bytes:
    return icc_profile(b"GRAY", connection, {b"kTRC": curve}, version=version)


_D65 = (0.3127, 0.3290)
_SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)

DISPLAY_P3 = matrix_profile([(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)], _D65, _SRGB_CURVE)
ADOBE_RGB = matrix_profile([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], _D65, gamma(563 / 256), version=2)
PROPHOTO = matrix_profile(
    [(0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105)], (0.345704, 0.358540), gamma(1.8), version=2
)
GRAY_22 = gray_profile(gamma(2.2))


def cmyk_profile(points: int = 9) -> bytes:
    """Inks that each take away one of sRGB's primaries, in tables of so many points a side."""

    def to_inks(lab: Array) -> Array:
        return np.pad(1 - rgb_of(lab), ((0, 0), (0, 1)))  # no black

    return _table_profile(b"CMYK", 4, points, lambda inks: lab_of((1 - inks[:, :3]) * (1 - inks[:, 3:])), to_inks)


def rgb_table_profile(points: int = 17) -> bytes:
    """sRGB, in tables of so many points a side."""
    return _table_profile(b"RGB ", 3, points, lab_of, rgb_of)


def _table_profile(
    space: bytes, channels: int, points: int, to_lab: Callable[[Array], Array], from_lab: Callable[[Array], Array]
) -> bytes:
    full, low = np.array([100 / 65280, 1 / 256, 1 / 256]) * 65535, np.array([0, 128, 128])  # Lab as 16 bits hold it
    tags = {
        b"A2B0": _lut(channels, 3, points, lambda values: (to_lab(values) + low) / full),
        b"B2A0": _lut(3, channels, 2 * points, lambda codes: from_lab(codes * full - low)),
    }
    return icc_profile(space, b"Lab ", tags, version=2)


def _lut(inputs: int, outputs: int, points: int, function: Callable[[Array], Array]) -> bytes:
    """An `mft2` of one table without curves."""
    head = struct.pack(">4s4xBBBx", b"mft2", inputs, outputs, points) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    grid = np.array(list(itertools.product(np.linspace(0, 1, points), repeat=inputs)))
    straight = struct.pack(">2H", 0, 65535)
    table = np.round(function(grid).clip(0, 1) * 65535).astype(">u2").tobytes()
    return head + struct.pack(">2H", 2, 2) + straight * inputs + table + straight * outputs


def lab_of(colors: Array) -> Array:
    """CIE L*a*b* (N, 3), white D50, of sRGB (N, 3), in and beyond [0, 1]."""
    size = np.abs(colors)
    light = np.copysign(np.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4), colors)
    return lab_of_xyz(light @ _SRGB.T)


def lab_of_xyz(xyz: Array) -> Array:
    ratio = xyz / D50
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)


def rgb_of(lab: Array) -> Array:
    """sRGB (N, 3), cut to [0, 1], of CIE L*a*b* (N, 3)."""
    y = (lab[:, 0] + 16) / 116
    root = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], axis=1)
    xyz = D50 * np.where(root > 6 / 29, root**3, (116 * root - 16) * 27 / 24389)
    light = np.linalg.solve(_SRGB, xyz.T).T.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def visible_difference(first: Array, second: Array) -> Array:
    """CIEDE2000 (N,) of CIE L*a*b* (N, 3) and (N, 3), after Sharma, Wu and Dalal (2005)."""
    lightness1, lightness2 = first[:, 0], second[:, 0]
    chroma = (np.hypot(first[:, 1], first[:, 2]) + np.hypot(second[:, 1], second[:, 2])) / 2
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    a1, a2, b1, b2 = first[:, 1] * stretch, second[:, 1] * stretch, first[:, 2], second[:, 2]
    chroma1, chroma2 = np.hypot(a1, b1), np.hypot(a2, b2)
    hue1, hue2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    gray = chroma1 * chroma2 == 0
    turn = np.where(gray, 0, (hue2 - hue1 + 180) % 360 - 180)
    hue = np.where(gray, hue1 + hue2, (hue1 + turn / 2) % 360)
    hue_step = 2 * np.sqrt(chroma1 * chroma2) * np.sin(np.radians(turn / 2))
    light, chroma = (lightness1 + lightness2) / 2, (chroma1 + chroma2) / 2

    def wave(factor: int, shift: int) -> Array:
        return np.cos(np.radians(factor * hue + shift))

    weight = 1 - 0.17 * wave(1, -30) + 0.24 * wave(2, 0) + 0.32 * wave(3, 6) - 0.20 * wave(4, -63)
    light_scale = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    chroma_scale, hue_scale = 1 + 0.045 * chroma, 1 + 0.015 * chroma * weight
    turning = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    turning = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * turning
    parts = ((lightness2 - lightness1) / light_scale, (chroma2 - chroma1) / chroma_scale, hue_step / hue_scale)
    return np.sqrt(sum(part**2 for part in parts) + turning * parts[1] * parts[2])
