"""A picture as the model sees it, and what it can be made of: RGB in [0, 1] with its alpha beside it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from xpsr.errors import InputError, one_line
from xpsr.image.origin import Origin

__all__ = ["Picture", "damaged", "from_array", "from_pil", "from_tensor", "to_pil", "to_uint8", "upright"]

# Floats may leave [0, 1] by rounding (one bfloat16 step above 1 is 0.008) and are clipped; anything further is refused
_TOLERANCE = 0.01

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

    Raises:
        InputError: it is damaged, or its mode does not convert.
    """
    image = upright(image, name)
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow's conversion to RGB would clip these at 255
        return _from_planes(np.asarray(image)[..., None], 65535.0, name)
    if image.mode == "F":
        return _from_planes(np.asarray(image)[..., None], 1.0, name)
    try:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except ValueError as error:
        message = f"{name}: mode {image.mode} does not convert to RGB"
        raise InputError(message, code="unknown_format", remedy="save it as RGB") from error
    return _from_planes(np.asarray(image), 255.0, name)


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
    planes = array if array.ndim == 3 else array[..., None]
    return _from_planes(planes, _full_scale(array.dtype.name), "picture")


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
    return _checked(tensor.detach().float().reshape(shape[-3:]) / scale, "picture")


def _full_scale(dtype: str) -> float:
    if dtype.startswith(("float", "bfloat")):
        return 1.0
    if dtype not in _FULL_SCALE:
        message, remedy = f"picture: dtype {dtype} has no known range", "use uint8, uint16 or floats in [0, 1]"
        raise InputError(message, code="wrong_type", remedy=remedy)
    return _FULL_SCALE[dtype]


def _from_planes(planes: NDArray[Any], scale: float, name: str) -> Picture:
    pixels = torch.from_numpy(planes.astype(np.float32, order="C"))
    return _checked(pixels.permute(2, 0, 1).contiguous() / scale, name)  # (H, W, C) -> (C, H, W)


def _checked(planes: torch.Tensor, name: str) -> Picture:
    """Splits float32 (C, H, W), C one of 1, 3, 4, into pixels and alpha, refusing what is not in [0, 1]."""
    if planes.numel() == 0:
        message = f"{name}: has no pixels ({planes.shape[2]} x {planes.shape[1]})"
        raise InputError(message, code="too_small", remedy="use at least 1 x 1")
    low, high = planes.min().item(), planes.max().item()  # NaN and infinity show here too
    if not (np.isfinite(low) and np.isfinite(high)):
        message = f"{name}: holds NaN or infinite values"
        raise InputError(message, code="not_finite", remedy="replace them by values in [0, 1]")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        remedy = "if it is in [-1, 1], pass (x + 1) / 2" if low < 0 else "divide it by its full scale (255 for 8 bit)"
        message = f"{name}: values lie in [{low:.4g}, {high:.4g}], outside [0, 1]"
        raise InputError(message, code="out_of_range", remedy=remedy)
    planes = planes.clamp(0, 1)
    pixels = planes[:3].expand(3, -1, -1).contiguous()
    has_alpha = len(planes) == 4 and bool((planes[3] < 1).any())
    return Picture(pixels=pixels, alpha=planes[3:].contiguous() if has_alpha else None)


def upright(image: Image.Image, name: str) -> Image.Image:
    """Returns an image turned as its camera said.

    Raises:
        InputError: its pixels cannot be decoded.
    """
    try:
        image.load()  # orientation of a PNG may stand behind its pixels
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise whatever the damaged bytes lead to
        raise damaged(name, error) from error


def damaged(name: object, error: Exception) -> InputError:
    """Returns the error to raise for a picture whose bytes are not what they should be."""
    message = f"{name}: is truncated or damaged ({one_line(error)})"
    return InputError(message, code="damaged", remedy="copy or download it again")
