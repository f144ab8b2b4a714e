"""Pixels by OpenImageIO, which gives them as they are stored."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xpsr.files import refusal
from xpsr.image.picture import damaged

__all__ = ["TRUNCATED", "Read", "read"]

TRUNCATED = "it is truncated; what is missing is black or gray"
"""The notice of a picture that was accepted so."""

Read = tuple[NDArray[Any], bytes | None, bool]
"""(H, W, C) values, the profile of their colours where they are not sRGB, and whether rows are missing at the end."""


def read(content: bytes, suffix: str, name: str, *, accept_truncated: bool = False) -> Read:
    """Returns the values of the first picture in a file as they are stored.

    Args:
        content: a file's bytes.
        suffix: ".png", ".tif", ".jxl", ".jp2" or ".ppm", by which OpenImageIO knows the format.
        name: how errors call the picture.
        accept_truncated: whether rows may be missing; they are 0.

    Raises:
        InputError: it is truncated or damaged.
    """
    import OpenImageIO as oiio

    config = oiio.ImageSpec()
    config["oiio:UnassociatedAlpha"] = 1  # its colours as they are
    config["oiio:RawColor"] = 1  # CMYK as it is
    with _file_of(content, suffix) as path:
        source = oiio.ImageInput.open(str(path), config)
        if source is None:
            raise damaged(name, ValueError(oiio.geterror().replace(str(path), "it")))
        try:
            spec = source.spec()
            values = source.read_image(0, 0, 0, spec.nchannels, oiio.UNKNOWN)
            is_partial = values is None and accept_truncated
            if is_partial:
                values = _rows(source, spec)
            reason = source.geterror().replace(str(path), "it").strip().partition("\n")[0]  # of the first row
        except MemoryError as error:
            raise damaged(name, error) from error
        finally:
            source.close()
    if values is None:
        raise damaged(name, ValueError(reason or "its pixels cannot be decoded"))
    return values, _profile(spec), is_partial


def _rows(source: Any, spec: Any) -> NDArray[Any] | None:
    """Reads what can be read from the top, and 0 for the rest; None where that is nothing."""
    import OpenImageIO as oiio

    values: NDArray[Any] | None = None
    step = spec.getattribute("oiio:RowsPerChunk") or 64
    for top in range(0, spec.height, step):
        part = source.read_scanlines(top, min(top + step, spec.height), 0, 0, spec.nchannels, oiio.UNKNOWN)
        if part is None:
            break
        if values is None:
            values = np.zeros((spec.height, spec.width, spec.nchannels), part.dtype)
        values[top : top + len(part)] = part.reshape(-1, spec.width, spec.nchannels)
    return values


def _profile(spec: Any) -> bytes | None:
    """The profile in a file, or that a JPEG XL's words for its colours stand for; None: they are sRGB, or not said."""
    cicp, profile = spec.getattribute("CICP"), spec.getattribute("ICCProfile")
    if profile is None or (cicp is not None and cicp[0] in (0, 1) and cicp[1] == 13):
        return None
    return np.asarray(profile, np.uint8).tobytes()


@contextmanager
def _file_of(content: bytes, suffix: str) -> Iterator[Path]:
    """Yields a file of these bytes for as long as it is read: from Python, OpenImageIO reads files alone."""
    folder = Path(tempfile.gettempdir())
    try:
        number, named = tempfile.mkstemp(suffix=suffix, prefix="xpsr-")
    except OSError as error:
        raise refusal(folder, "cannot be written", error) from error
    try:
        try:
            with os.fdopen(number, "wb") as file:
                file.write(content)
        except OSError as error:
            raise refusal(folder, "cannot be written", error) from error
        yield Path(named)
    finally:
        with suppress(OSError):
            Path(named).unlink()
