"""A picture as the model sees it, and what it can be made of: RGB in [0, 1] with its alpha beside it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from xpsr.errors import InputError, one_line
from xpsr.image.origin import Origin
from xpsr.image.profiles import ColorModel, is_srgb, to_srgb
from xpsr.orientation import orientation_of

__all__ = [
    "NUM_COLORS",
    "Picture",
    "Stored",
    "as_rgb",
    "damaged",
    "from_array",
    "from_pil",
    "from_stored",
    "from_tensor",
    "stored",
    "to_pil",
    "to_uint8",
    "turned",
    "turned_values",
    "upright",
]

# Floats may leave [0, 1] by rounding (one bfloat16 step above 1 is 0.008) and are clipped; anything further is refused
_TOLERANCE = 0.01

NUM_COLORS: dict[ColorModel, int] = {"gray": 1, "rgb": 3, "cmyk": 4}
"""Channels of a kind of colours, without alpha."""

_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture ready for the model.

    Attributes:
        pixels: (3, H, W) float32 RGB in [0, 1].
        alpha: (1, H, W) float32 in [0, 1], 0 is transparent; None where every pixel is opaque.
        excess: (3, H, W) float32, what its colours are beyond `pixels` where sRGB cannot hold them; None: nothing.
        origin: the file that it came from; None for what did not come from a file.
    """

    pixels: torch.Tensor
    alpha: torch.Tensor | None = None
    excess: torch.Tensor | None = None
    origin: Origin | None = None

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.pixels.shape[-1]

    @property
    def height(self) -> int:
        """Pixels in a column."""
        return self.pixels.shape[-2]

    @property
    def is_gray(self) -> bool:
        """Whether it has no colour: its file holds none, or its three channels are equal but for rounding."""
        if self.origin is not None and self.origin.model == "gray":
            return True
        red, *others = self.pixels
        return all(bool((red - other).abs().max() < 1e-4) for other in others)


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Returns float `pixels` of any shape, clamped to [0, 1], as uint8 in [0, 255], rounded to the nearest."""
    return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_pil(pixels: torch.Tensor, alpha: torch.Tensor | None = None) -> Image.Image:
    """Returns (3, H, W) RGB in [0, 1] as an 8-bit RGB image, or RGBA with `alpha` (1, H, W) in [0, 1]."""
    planes = pixels if alpha is None else torch.cat([pixels, alpha.to(pixels)])
    return Image.fromarray(to_uint8(planes).permute(1, 2, 0).cpu().numpy())  # (C, H, W) -> (H, W, C)


def from_pil(image: Image.Image, name: str) -> Picture:
    """Reads a PIL image of any mode that converts to RGB; `to_picture` says how. Errors call it `name`.

    Only where it carries a profile has the picture an origin, so that a result goes back into that.

    Raises:
        InputError: it is damaged, or its mode does not convert.
    """
    found, icc = stored(upright(image, name), name), image.info.get("icc_profile")
    bits = {255.0: 8, 65535.0: 16}.get(found.full, 32)
    origin = Origin(format=image.format or "", model=found.model, bits=bits, icc=icc) if icc else None
    return from_stored(found, name, origin)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Values as a file stores them, upright.

    Attributes:
        values: (H, W, C) of any number type: 1 channel of gray, 3 of RGB or 4 of CMYK, and one more of straight alpha.
        full: the value that is 1.
        model: which colours they are.
    """

    values: NDArray[Any]
    full: float
    model: ColorModel


def stored(image: Image.Image, name: str) -> Stored:
    """Returns the values of a PIL image.

    Raises:
        InputError: its mode does not convert to RGB.
    """
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):  # Pillow's conversion would clip these at 255
        return Stored(values=np.asarray(image)[..., None], full=65535.0, model="gray")
    if mode == "F":
        return Stored(values=np.asarray(image)[..., None], full=1.0, model="gray")
    if mode == "CMYK":
        return Stored(values=np.asarray(image), full=255.0, model="cmyk")
    model: ColorModel = "gray" if mode in ("1", "L", "LA", "La") else "rgb"
    target = "L" if model == "gray" else "RGB"
    if image.has_transparency_data:
        target = "LA" if model == "gray" else "RGBA"
    try:
        values = np.asarray(image if mode == target else image.convert(target))
    except ValueError as error:
        message = f"{name}: mode {mode} does not convert to RGB"
        raise InputError(message, code="unknown_format", remedy="save it as RGB") from error
    return Stored(values=values if values.ndim == 3 else values[..., None], full=255.0, model=model)


def from_array(array: NDArray[Any]) -> Picture:
    """Reads an array (H, W) or (H, W, 1, 3 or 4), or a batch of one: uint8, uint16, or floats in [0, 1].

    Raises:
        InputError: another shape or dtype, or values outside.
    """
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 4:
        message = f"picture: shape {array.shape} is a batch of {len(array)}"
        raise InputError(message, code="wrong_size", remedy="pass its pictures one by one")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        message, remedy = f"picture: shape {array.shape} is no picture", "an array is (H, W, 3), channels last"
        raise InputError(message, code="wrong_size", remedy=remedy)
    values = array if array.ndim == 3 else array[..., None]
    model: ColorModel = "gray" if values.shape[-1] == 1 else "rgb"
    return from_stored(Stored(values=values, full=_full_scale(array.dtype.name), model=model), "picture")


def from_tensor(tensor: torch.Tensor) -> Picture:
    """Reads a tensor (1, 3 or 4, H, W), or a batch of one: uint8, uint16, or floats in [0, 1].

    Raises:
        InputError: another shape or dtype, or values outside.
    """
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and shape[0] != 1:
        message = f"picture: shape {shape} is a batch of {shape[0]}"
        raise InputError(message, code="wrong_size", remedy="pass its pictures one by one")
    if tensor.ndim not in (3, 4) or shape[-3] not in (1, 3, 4):
        message, remedy = f"picture: shape {shape} is no picture", "a tensor is (3, H, W), channels first"
        raise InputError(message, code="wrong_size", remedy=remedy)
    scale = _full_scale(str(tensor.dtype).removeprefix("torch."))
    planes = tensor.detach().float().reshape(shape[-3:]) / scale
    if planes.numel() == 0:
        raise _no_pixels(planes.shape[2], planes.shape[1], "picture")
    planes = _in_range(planes, "picture")
    alpha = planes[3:].contiguous() if len(planes) == 4 and bool((planes[3] < 1).any()) else None
    return Picture(pixels=planes[:3].expand(3, -1, -1).contiguous(), alpha=alpha)


def _full_scale(dtype: str) -> float:
    if dtype.startswith(("float", "bfloat")):
        return 1.0
    if dtype not in _FULL_SCALE:
        message, remedy = f"picture: dtype {dtype} has no known range", "use uint8, uint16 or floats in [0, 1]"
        raise InputError(message, code="wrong_type", remedy=remedy)
    return _FULL_SCALE[dtype]


def from_stored(found: Stored, name: str, origin: Origin | None = None) -> Picture:
    """Returns stored values as the model sees them. Errors call them `name`.

    Raises:
        InputError: there are none, or floats among them are not in [0, 1].
    """
    if found.values.size == 0:
        height, width = found.values.shape[:2]
        raise _no_pixels(width, height, name)
    planes = torch.from_numpy(_to_floats(found.values, found.full))
    if found.values.dtype.kind != "u":
        planes = _in_range(planes, name)
    num_colors = NUM_COLORS[found.model]
    colors, alpha = planes[:num_colors], planes[num_colors:]
    pixels, excess, notice = to_srgb(colors, None if origin is None else origin.icc, model=found.model)
    if origin is not None and notice is not None:
        origin = replace(origin, notices=(*origin.notices, notice))
    is_opaque = len(alpha) == 0 or bool((found.values[..., -1] >= found.full).all())
    return Picture(pixels=pixels, alpha=None if is_opaque else alpha.contiguous(), excess=excess, origin=origin)


def as_rgb(found: Stored, name: str, origin: Origin) -> NDArray[np.uint8]:
    """Returns stored values as uint8 (H, W, 3): the bits of `to_uint8(from_stored(...).pixels)`, at once if they can.

    Raises:
        InputError: as `from_stored`.
    """
    if found.values.dtype == np.uint8 and is_srgb(origin.icc, model=found.model):
        rgb = found.values[..., :3] if found.model == "rgb" else found.values[..., :1].repeat(3, axis=2)
        return np.array(rgb, order="C")
    return to_uint8(from_stored(found, name, origin).pixels).permute(1, 2, 0).contiguous().numpy()


def _to_floats(values: NDArray[Any], full: float) -> NDArray[np.float32]:
    """Returns (H, W, C) values divided by `full` as (C, H, W), by some rows at a time, which stay in the cache."""
    height, width, channels = values.shape
    planes = np.empty((channels, height, width), np.float32)
    rows = max(1, 2**16 // width)
    for top in range(0, height, rows):
        part = values[top : top + rows]
        for channel in range(channels):
            np.divide(part[..., channel], np.float32(full), out=planes[channel, top : top + rows], casting="same_kind")
    return planes


def _in_range(planes: torch.Tensor, name: str) -> torch.Tensor:
    """Clips what is in [0, 1] but for rounding, and refuses anything else."""
    low, high = planes.min().item(), planes.max().item()  # NaN and infinity show here too
    if not (np.isfinite(low) and np.isfinite(high)):
        message = f"{name}: holds NaN or infinite values"
        raise InputError(message, code="not_finite", remedy="replace them by values in [0, 1]")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        remedy = "if it is in [-1, 1], pass (x + 1) / 2" if low < 0 else "divide it by its full scale (255 for 8 bit)"
        message = f"{name}: values lie in [{low:.4g}, {high:.4g}], outside [0, 1]"
        raise InputError(message, code="out_of_range", remedy=remedy)
    return planes.clamp(0, 1)


def _no_pixels(width: int, height: int, name: str) -> InputError:
    message = f"{name}: has no pixels ({width} x {height})"
    return InputError(message, code="too_small", remedy="use at least 1 x 1")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, name: str) -> Image.Image:
    """Returns an image turned as its camera said.

    Raises:
        InputError: its pixels cannot be decoded.
    """
    try:
        image.load()  # orientation of a PNG may stand behind its pixels
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes lead to
        raise damaged(name, error) from error
    return turned(image)


def turned(image: Image.Image) -> Image.Image:
    """Returns a decoded image turned as its camera said."""
    turn = _TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def turned_values(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Returns (H, W, C) values turned as `turned` does; a view."""
    if orientation >= 5:  # as the EXIF standard counts: a row is a column
        values = values.swapaxes(0, 1)
    flips_rows, flips_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return values[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]


def damaged(name: object, error: Exception) -> InputError:
    """Returns the error to raise for a picture whose bytes are not what they should be."""
    if isinstance(error, MemoryError):
        return InputError(f"{name}: does not fit in memory", code="too_large", remedy="crop or shrink it")
    message = f"{name}: is truncated or damaged ({one_line(error)})"
    return InputError(message, code="damaged", remedy="copy or download it again")
