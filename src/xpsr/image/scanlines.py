"""Rows of pixels to files by OpenImageIO, which knows 16 bits and floats and holds no more than some rows at a time."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from xpsr.errors import one_line

__all__ = ["write_scanlines"]

_NAMES = {"PNG": "png", "TIFF": "tiff", "JPEG": "jpeg", "JXL": "jpegxl"}


def write_scanlines(
    path: Path,
    kind: str,
    strips: Iterable[NDArray[Any]],
    *,
    shape: tuple[int, int, int],
    dtype: str,
    quality: int,
    has_alpha: bool,
    icc: bytes | None = None,
) -> None:
    """Writes a picture of which only a strip is known at a time.

    Args:
        path: the file.
        kind: "PNG", "TIFF", "JPEG" or "JXL", as Pillow calls them.
        strips: (rows, width, channels), one below the other.
        shape: height, width and channels of the whole.
        dtype: "uint8", "uint16" or "float32", which those formats hold that have it.
        quality: 1 to 100, of JPEG and JPEG XL, where 100 is lossless.
        has_alpha: the last channel is alpha; without it, four channels are CMYK, which a TIFF can be.
        icc: the colour profile, for JPEG XL, which has it among the pixels.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    import OpenImageIO as oiio

    height, width, channels = shape
    output = oiio.ImageOutput.create(_NAMES[kind])
    assert output is not None, f"OpenImageIO writes {kind}"
    spec = oiio.ImageSpec(width, height, channels, dtype.replace("float32", "float"))
    spec.alpha_channel = channels - 1 if has_alpha else -1
    if channels == 4 and not has_alpha:
        spec.attribute("tiff:ColorSpace", "CMYK")
        spec.attribute("oiio:RawColor", 1)
    spec.attribute("oiio:UnassociatedAlpha", 1)
    if kind in ("JPEG", "JXL"):
        spec.attribute("compression", f"{_NAMES[kind]}:{quality}")
    spec.attribute("jpeg:subsampling", "4:4:4")
    if kind == "TIFF":
        spec.attribute("compression", "zip")
        spec.attribute("tiff:bigtiff", int(width * height * channels * _BYTES[dtype] > _BIG))
    spec.attribute("png:compressionLevel", 4)  # half the time of 6, and 2 per cent more bytes
    if icc is not None:
        spec.attribute("ICCProfile", oiio.TypeDesc(f"uint8[{len(icc)}]"), icc)
    done = 0
    is_written = output.open(str(path), spec)
    for strip in strips if is_written else ():
        is_written = output.write_scanlines(done, done + len(strip), 0, strip)
        done += len(strip)
        if not is_written:
            break
    assert not is_written or done == height, "strips of the whole picture"
    is_closed = output.close()
    if not (is_written and is_closed and _is_whole(path, kind)):
        with path.open("ab") as file:  # the system's own words, where it is its fault
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
        raise OSError(one_line(Exception(output.geterror() or "the encoder did not end")))


def _is_whole(path: Path, kind: str) -> bool:
    """Returns whether a file ends as it should: the encoder of PNG does not tell of a full disk."""
    end = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}.get(kind, b"")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(end), 0))
        return file.read() == end


_BYTES = {"uint8": 1, "uint16": 2, "float32": 4}

_BIG = 2**32 - 2**26
"""Bytes from which a TIFF may need offsets of 64 bits: deflate makes noise longer, and metadata comes behind it."""
