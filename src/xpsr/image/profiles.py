"""Colour profiles: what a file's values are in sRGB, which the model knows, and the way back.

Profiles of curves and a matrix, and those of gray, are computed in float and without bounds, so that no colour is lost
that sRGB cannot hold. Profiles of tables, among them all of CMYK, go through LittleCMS in 8 bit.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageCms

from xpsr.image.icc import BrokenProfile, read_shaper

__all__ = ["from_srgb", "to_gray", "to_srgb"]

ColorModel: TypeAlias = Literal["gray", "rgb", "cmyk"]

_SPACES: dict[ColorModel, bytes] = {"gray": b"GRAY", "rgb": b"RGB ", "cmyk": b"CMYK"}
_MODES: dict[ColorModel, str] = {"gray": "L", "rgb": "RGB", "cmyk": "CMYK"}

_STRIP = 2**18  # pixels at a time, which a processor's cache holds

_HALF_STEP = 0.5 / 65535  # of 16 bits


def to_srgb(
    planes: torch.Tensor, icc: bytes | None, *, model: ColorModel
) -> tuple[torch.Tensor, torch.Tensor | None, str | None]:
    """Returns a file's picture in sRGB, what of it sRGB cannot hold, and what a user should know of it.

    Args:
        planes: float32 in [0, 1]: (1, H, W) gray, (3, H, W) RGB or (4, H, W) CMYK, where 1 is all of an ink.
        icc: the profile that says what they mean; None: they are sRGB, and CMYK is guessed.
        model: which of the three they are.

    Returns:
        `pixels`: (3, H, W) float32 in [0, 1].
        `excess`: (3, H, W) float32: the colour is `pixels + excess`, in sRGB that goes on beyond [0, 1]. None where no
            value is more than half a step of 16 bits beyond.
        A phrase where the profile is a table, is broken or does not fit the picture, and None where all is well. A
            broken profile raises nothing: the picture is taken for sRGB.
    """
    if not icc:
        return _unprofiled(planes, model), None, None
    try:
        shaper = read_shaper(icc, _SPACES[model])
        if shaper is None:
            table = _transformed(planes, _tables(icc, model, back=False))
            return table, None, "its colour profile is a table: colours pass it in 8 bit"
    except BrokenProfile as error:
        taken = "its colours are guessed" if model == "cmyk" else "taken for sRGB"
        return _unprofiled(planes, model), None, f"its colour profile {error}; {taken}"
    if shaper.is_srgb:
        return _unprofiled(planes, model), None, None
    colors = _in_strips(shaper.forward, planes, 3)
    pixels = colors.clamp(0, 1)
    excess = colors.sub_(pixels)
    low, high = excess.aminmax()
    return pixels, excess if max(-low, high) > _HALF_STEP else None, None


def from_srgb(
    pixels: torch.Tensor, excess: torch.Tensor | None, icc: bytes | None, *, model: ColorModel, keep_cmyk: bool = False
) -> torch.Tensor | None:
    """Returns what a file with this profile holds: the way back from `to_srgb`.

    Args:
        pixels: (3, H, W) float32 in [0, 1], sRGB; whole, or some rows of a picture.
        excess: (3, H, W) float32, which is added to them; None: nothing.
        icc: the file's profile; None: sRGB.
        model: what the file holds.
        keep_cmyk: goes back to CMYK, too, with the inks that the profile gives a colour.

    Returns:
        (1, H, W), (3, H, W) or (4, H, W) float32 in [0, 1], as `to_srgb` takes them; None where there is no way back: a
        CMYK picture that need not stay one, a broken profile, one that knows the other way only. The file is then to be
        sRGB, without the profile.
    """
    if model == "cmyk" and not (keep_cmyk and icc):
        return None
    if not icc:
        return to_gray(pixels) if model == "gray" else pixels
    try:
        shaper = read_shaper(icc, _SPACES[model])
        if shaper is None:
            return _transformed(pixels, _tables(icc, model, back=True))
    except BrokenProfile:
        return None
    if shaper.is_srgb:
        return to_gray(pixels) if model == "gray" else pixels
    colors = pixels if excess is None else pixels + excess
    return _in_strips(shaper.backward, colors, len(shaper.curves))


def to_gray(pixels: torch.Tensor) -> torch.Tensor:
    """Returns the brightness (1, H, W) of sRGB (3, H, W) in [0, 1] by the weights of its primaries (BT.709)."""
    red, green, blue = pixels
    return (green + 0.2126 * (red - green) + 0.0722 * (blue - green))[None]  # exact where all are equal


def _unprofiled(planes: torch.Tensor, model: ColorModel) -> torch.Tensor:
    """sRGB of planes without a profile: (3, H, W)."""
    if model == "cmyk":
        return (1 - planes[:3]) * (1 - planes[3:])
    return planes.expand(3, -1, -1).contiguous()


def _in_strips(function: Callable[[torch.Tensor], torch.Tensor], planes: torch.Tensor, channels: int) -> torch.Tensor:
    """`function`, (C, N) to (channels, N), of (C, H, W)."""
    flat = planes.flatten(1)
    result = flat.new_empty(channels, flat.shape[1])
    for start in range(0, flat.shape[1], _STRIP):
        result[:, start : start + _STRIP] = function(flat[:, start : start + _STRIP])
    return result.unflatten(1, planes.shape[1:])


@lru_cache(maxsize=4)  # it takes a fifth of a second for CMYK, and pictures are written in strips
def _tables(icc: bytes, model: ColorModel, *, back: bool) -> ImageCms.ImageCmsTransform:
    """LittleCMS's way from a profile to sRGB, or `back`; it knows which of its tables is for what.

    Raises:
        BrokenProfile: LittleCMS cannot use it.
    """
    try:
        profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        how = (ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION)
        if back:
            return ImageCms.buildTransform(srgb, profile, "RGB", _MODES[model], *how)
        return ImageCms.buildTransform(profile, srgb, _MODES[model], "RGB", *how)
    except Exception as error:  # Pillow's own kind, OSError, or whatever else the bytes lead to
        raise BrokenProfile("cannot be used") from error


def _transformed(planes: torch.Tensor, transform: ImageCms.ImageCmsTransform) -> torch.Tensor:
    """Sends planes (1, 3 or 4, H, W) through tables."""
    values = (planes * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (C, H, W) -> (H, W, C)
    source = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values, transform.input_mode)
    result = np.atleast_3d(np.array(transform.apply(source)))
    return torch.from_numpy(result).permute(2, 0, 1).float() / 255  # (H, W, C) -> (C, H, W)
