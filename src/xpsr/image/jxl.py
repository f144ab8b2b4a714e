"""What stands in front of a JPEG XL's pixels: its size, so that limits come before decoding, and its metadata."""

from dataclasses import dataclass

from xpsr.errors import InputError
from xpsr.image.chunks import boxes
from xpsr.image.picture import damaged

__all__ = ["JXLHeader", "is_jxl", "read_header"]

_BARE, _BOXED = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_ENOUGH = 4096  # bytes of the codestream; what is read here takes some 40
_MAX_EXTRA = 16  # channels; each takes as much memory as a colour

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


@dataclass(frozen=True, kw_only=True)
class JXLHeader:
    """The beginning of a JPEG XL.

    Attributes:
        width: pixels in a row, upright.
        height: pixels in a column.
        bits: of a stored value; 32 for any kind of float.
        is_animated: there may be more than one frame.
        exif: what its box of that name holds, from the TIFF header on.
        xmp: the XMP packet.
        notices: what of its metadata cannot be read.
    """

    width: int
    height: int
    bits: int
    is_animated: bool
    exif: bytes | None = None
    xmp: bytes | None = None
    notices: tuple[str, ...] = ()


def is_jxl(content: bytes) -> bool:
    """Returns whether a file begins as a JPEG XL does."""
    return content.startswith((_BARE, _BOXED))


def read_header(content: bytes, name: str) -> JXLHeader:
    """Returns what is known before a JPEG XL is decoded.

    Raises:
        InputError: the file ends before, or has more channels than a picture needs.
    """
    stream, exif, xmp, notices = b"", None, None, []
    if content.startswith(_BARE):
        stream = content[:_ENOUGH]
    else:
        for kind, start, end in boxes(content):
            if kind in (b"jxlc", b"jxlp") and len(stream) < _ENOUGH:
                start += 4 if kind == b"jxlp" else 0
                stream += content[start : min(end, start + _ENOUGH)]
            elif kind == b"Exif":
                if content[start : start + 4] not in (b"MM\0*", b"II*\0"):  # some programs leave the next number out
                    start += 4 + int.from_bytes(content[start : start + 4])  # bytes before the TIFF header
                exif = exif or content[start:end] or None
            elif kind == b"xml ":
                xmp = xmp or content[start:end]
            elif kind == b"brob" and content[start : start + 4] in (b"Exif", b"xml "):
                kept = "EXIF" if content[start : start + 4] == b"Exif" else "XMP"
                notices.append(f"its compressed {kept} is left out")
    try:
        width, height, bits, is_animated, extra = _parse(_Bits(stream))
    except EOFError as error:
        raise damaged(name, error) from error
    if extra > _MAX_EXTRA:
        message = f"{name}: has {extra} channels beside its colours, above the limit of {_MAX_EXTRA}"
        raise InputError(message, code="too_large", remedy="save it as RGB")
    return JXLHeader(
        width=width,
        height=height,
        bits=bits,
        is_animated=is_animated,
        exif=exif,
        xmp=xmp,
        notices=tuple(dict.fromkeys(notices)),
    )


class _Bits:
    """Reads numbers of some bits, the lowest first."""

    def __init__(self, stream: bytes):
        self._number, self._left = int.from_bytes(stream[2:], "little"), 8 * (len(stream) - 2)

    def take(self, count: int) -> int:
        if count > self._left:
            raise EOFError("it ends in its header")
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        self._left -= count
        return value

    def choose(self, *kinds: tuple[int, int]) -> int:
        """A number of which two bits say how it is written: an offset, and how many bits are added to it."""
        offset, count = kinds[self.take(2)]
        return offset + self.take(count)


def _parse(bits: _Bits) -> tuple[int, int, int, bool, int]:
    """Reads SizeHeader and ImageMetadata of ISO/IEC 18181-1 as far as the number of extra channels."""
    width, height = _size(bits)
    if bits.take(1):  # all is as usual
        return width, height, 8, False, 0
    is_animated = False
    if bits.take(1):
        if bits.take(3) >= 4:  # orientation less 1, which the decoder applies: a row is a column
            width, height = height, width
        if bits.take(1):
            _size(bits)  # how large it is meant to be shown
        if bits.take(1):
            _skip_preview(bits)
        is_animated = bool(bits.take(1))
        if is_animated:
            bits.choose((100, 0), (1000, 0), (1, 10), (1, 30)), bits.choose((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.choose((0, 0), (0, 3), (0, 16), (0, 32)), bits.take(1)
    if bits.take(1):
        bits.choose((32, 0), (16, 0), (24, 0), (1, 6)), bits.take(4)
        depth = 32
    else:
        depth = bits.choose((8, 0), (10, 0), (12, 0), (1, 6))
    bits.take(1)  # whether 16 bits are enough while it is decoded
    return width, height, depth, is_animated, bits.choose((0, 0), (1, 0), (2, 4), (1, 12))


def _size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if is_small else bits.choose((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    return (side() if ratio == 0 else height * _RATIOS[ratio][0] // _RATIOS[ratio][1]), height


def _skip_preview(bits: _Bits) -> None:
    kinds = ((16, 0), (32, 0), (1, 5), (33, 9)) if bits.take(1) else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.choose(*kinds)
    if bits.take(3) == 0:
        bits.choose(*kinds)
