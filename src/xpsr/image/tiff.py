"""TIFFs of more than 8 bits, or of another kind that Pillow would get wrong, read or refused by what they are."""

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from xpsr.errors import InputError
from xpsr.image.limits import Limits, check_size
from xpsr.image.oiio import TRUNCATED, read
from xpsr.image.picture import NUM_COLORS, Stored, damaged
from xpsr.image.profiles import ColorModel

__all__ = ["TiffHeader", "is_tiff", "read_tiff", "tiff_header", "tiff_stand_in", "unread_compression"]

_MAX_SAMPLES = 16
"""Channels of a TIFF; what measures light at more wavelengths is no picture, and takes the memory of many."""

_UNREAD = {
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy DNG",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
"""Compressions of TIFF that the libraries are mostly built without."""

# Tags of TIFF
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _FORMAT, _SUBFILE, _SUB_IFDS, _DNG = 322, 323, 338, 339, 254, 330, 50706

_MODELS: dict[int, ColorModel] = {0: "gray", 1: "gray", 2: "rgb", 5: "cmyk"}


def is_tiff(content: bytes) -> bool:
    """Returns whether a file begins as a TIFF does, BigTIFF too."""
    return content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


@dataclass(frozen=True, kw_only=True)
class TiffHeader:
    """What the first directory of a TIFF says of its pixels.

    Attributes:
        width: pixels in a row.
        height: pixels in a column.
        bits: of a value; of unequal channels the most.
        kind: 1 unsigned, 2 signed, 3 float.
        photometric: what the values mean: 0 gray with white at 0, 1 gray, 2 RGB, 3 palette, 5 CMYK and so on.
        samples: channels.
        extra: what those beyond the colours are: 1 premultiplied alpha, 2 alpha, 0 anything.
        compression: its number in the standard.
    """

    width: int
    height: int
    bits: int
    kind: int
    photometric: int
    samples: int
    extra: tuple[int, ...]
    compression: int


def tiff_header(content: bytes, name: str, limits: Limits) -> TiffHeader:
    """Returns what the first directory says.

    Raises:
        InputError: it cannot be read, is too large, or is of a camera's raw file.
    """
    try:
        is_big = content[2:4] in (b"+\0", b"\0+")
        directory = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if is_big else 8])
        file = io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)

        def number(tag: int, default: int) -> int:
            return max(numbers(tag, default))

        def numbers(tag: int, default: int) -> tuple[int, ...]:
            value = directory.get(tag, default)
            return tuple(int(one) for one in (value if isinstance(value, tuple) else (value,))) or (default,)

        header = TiffHeader(
            width=number(_WIDTH, 0),
            height=number(_HEIGHT, 0),
            bits=number(_BITS, 1),
            kind=number(_FORMAT, 1),
            photometric=number(_PHOTOMETRIC, 1),
            samples=number(_SAMPLES, 1),
            extra=numbers(_EXTRA, 0) if _EXTRA in directory else (),
            compression=number(_COMPRESSION, 1),
        )
        tile = number(_TILE_WIDTH, 1), number(_TILE_HEIGHT, 1)
        is_raw = _DNG in directory or header.photometric in (32803, 34892)
        is_preview = bool(number(_SUBFILE, 0) & 1) and _SUB_IFDS in directory
    except Exception as error:  # Pillow raises whatever the damaged bytes lead to
        raise damaged(name, error) from error
    check_size(header.width, header.height, name, limits)
    check_size(*tile, name, limits)
    if is_raw or is_preview or content[8:10] == b"CR":
        message = f"{name}: is a camera's raw file, which would have to be developed first"
        raise InputError(message, code="unknown_format", remedy="export it as TIFF")
    if header.samples > _MAX_SAMPLES:
        message = f"{name}: has {header.samples} channels, above the limit of {_MAX_SAMPLES}"
        raise InputError(message, code="too_large", remedy="save it as RGB")
    return header


def tiff_stand_in(content: bytes) -> Image.Image | None:
    """Returns a TIFF that Pillow refuses for the kind of its pixels as one of 8-bit gray, for its metadata; or None."""
    is_big = content[2:4] in (b"+\0", b"\0+")
    order: Literal["little", "big"] = "little" if content[:1] == b"I" else "big"
    head, entry, wide = (8, 20, 8) if is_big else (2, 12, 4)
    place = int.from_bytes(content[8:16] if is_big else content[4:8], order)
    count = int.from_bytes(content[place : place + head], order)
    places: dict[int, int] = {}
    for start in range(place + head, min(place + head + count * entry, len(content) - entry + 1), entry):
        places.setdefault(int.from_bytes(content[start : start + 2], order), start + 2)
    samples = 2 if _EXTRA in places else 1  # with alpha, which cannot be taken out without moving what follows
    plain = {
        _BITS: [8] * samples,
        _SAMPLES: [samples],
        _PHOTOMETRIC: [1],
        _PLANAR: [1],
        _FORMAT: [1],
        _COMPRESSION: [1],
        _EXTRA: [2],
    }
    changed = bytearray(content)
    for tag, numbers in plain.items():
        if tag in places:
            value = b"".join(number.to_bytes(2, order) for number in numbers).ljust(wide, b"\0")
            new = (3).to_bytes(2, order) + len(numbers).to_bytes(wide, order) + value  # 3: numbers of two bytes
            changed[places[tag] : places[tag] + len(new)] = new
    try:
        return Image.open(io.BytesIO(changed), formats=("TIFF",))
    except Exception:  # on damaged directories Pillow raises whatever the bytes lead to
        return None


def read_tiff(
    content: bytes, header: TiffHeader, name: str, *, accept_truncated: bool
) -> tuple[Stored, tuple[str, ...]]:
    """Returns the pixels of a TIFF that Pillow does not read right, and notices.

    Raises:
        InputError: it is of a kind that is not read, which is named, or truncated or damaged.
    """
    model = _MODELS.get(header.photometric)
    what = {3: "a palette", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
    problem = None
    if model is None:
        meaning = what.get(header.photometric, f"photometric interpretation {header.photometric}")
        problem = f"of {header.bits} bits a value and {meaning}"
    elif header.kind not in (1, 3) or (header.kind == 1 and header.bits > 16):
        number = {1: "unsigned", 2: "signed", 3: "float"}.get(header.kind, "complex or unknown")
        problem = f"of {number} numbers of {header.bits} bits"
    if problem is not None:
        raise _unread(problem, name)
    assert model is not None
    try:
        values, _, is_partial = read(content, ".tif", name, accept_truncated=accept_truncated)
    except InputError as error:
        raise unread_compression(header, name) or error from error
    notices: tuple[str, ...] = (TRUNCATED,) if is_partial else ()
    colors = NUM_COLORS[model]
    if values.shape[2] < colors:
        raise damaged(name, ValueError(f"it has {values.shape[2]} of {colors} channels"))
    is_alpha = values.shape[2] > colors and header.extra[:1] in ((1,), (2,))
    dropped = values.shape[2] - colors - is_alpha
    if dropped:
        channels = "channel beside its colours is" if dropped == 1 else "channels beside its colours are"
        notices += (f"{dropped} {channels} left out",)
    # the header may say it by a tag that OpenImageIO does not believe
    full = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    values = values[..., : colors + is_alpha]
    if header.photometric == 0:
        values = np.concatenate([full - values[..., :1], values[..., 1:]], axis=2, dtype=values.dtype, casting="unsafe")
    if is_alpha and header.extra[0] == 1:
        values, full = _straight(values, full), 1.0
    return Stored(values=values, full=full, model=model), notices


def unread_compression(header: TiffHeader, name: str) -> InputError | None:
    """Returns the error to raise for a TIFF that could not be read, if it is for how it is compressed."""
    compression = _UNREAD.get(header.compression)
    return None if compression is None else _unread(f"compressed by {compression}", name)


def _unread(problem: str, name: str) -> InputError:
    message = f"{name}: is a TIFF {problem}, which is not read"
    return InputError(message, code="unknown_format", remedy="save it as RGB of 8 or 16 bits, with LZW or Deflate")


def _straight(values: NDArray[Any], full: float) -> NDArray[np.float32]:
    """Returns premultiplied (H, W, C) values in [0, 1], the colours divided by the alpha."""
    straight = np.divide(values, np.float32(full), dtype=np.float32)
    alpha = straight[..., -1:]
    np.divide(straight[..., :-1], alpha, out=straight[..., :-1], where=alpha > 0)
    np.clip(straight[..., :-1], 0, 1, out=straight[..., :-1])
    return straight
