"""What a picture's file was, and what it carried beside its pixels."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Metadata", "Origin"]


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What stands beside the pixels of a file, byte for byte.

    Attributes:
        icc: the embedded colour profile.
        exif: what EXIF holds, from its TIFF header on.
        xmp: the XMP packet.
        iptc: IPTC-IIM records, as Photoshop's image resource 0x0404 holds them.
        dpi: pixels an inch, horizontally and vertically.
        notices: what of the file is not in the picture, or was not as it should be, a phrase each.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Origin(Metadata):
    """What is given back to a result: the kind of its picture's file, and what stood there beside the pixels.

    Attributes:
        format: Pillow's name of the file's format: "JPEG", "PNG", "TIFF" and so on; "" where it has none.
        model: how its colours were stored; a palette is "rgb".
        bits: of a stored value: 1, 8, 10, 12 or 16, and 32 for floats.
    """

    format: str
    model: Literal["gray", "rgb", "cmyk"] = "rgb"
    bits: int = 8
