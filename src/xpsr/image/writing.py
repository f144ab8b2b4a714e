"""Pictures to files, whole or not at all, and to bytes."""

import io
import os
from pathlib import Path

from PIL import Image

from xpsr.errors import InputError, one_line
from xpsr.files import WRITTEN_SUFFIXES, atomic_write
from xpsr.image.picture import Picture, to_pil

__all__ = ["png_bytes", "write_image"]

# A restored picture is not degraded again: Pillow's default is JPEG quality 75 with halved colour
_SAVE_OPTIONS: dict[str, dict[str, int | bool]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def write_image(path: str | os.PathLike[str], image: Picture | Image.Image) -> None:
    """Writes `image` whole or not at all, in the format that the suffix of `path` names.

    Raises:
        InputError: unknown suffix, a picture that the format cannot hold (alpha in JPEG, a side above 16383 in WebP),
            or `path` cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        known = ", ".join(sorted(WRITTEN_SUFFIXES))
        message = f"{path}: suffix {path.suffix!r} cannot be written"
        raise InputError(message, code="unknown_format", remedy=f"use one of {known}")
    kind = Image.registered_extensions()[path.suffix.lower()]
    picture = to_pil(image.pixels, image.alpha) if isinstance(image, Picture) else image
    with atomic_write(path) as part:
        try:
            picture.save(part, kind, **_SAVE_OPTIONS.get(kind, {}))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's refusal, not the encoder's
                raise
            message = f"{path}: {kind} cannot hold this picture ({one_line(error)})"
            raise InputError(message, code="conflict", remedy="use .png") from error


def png_bytes(image: Picture) -> bytes:
    """Returns `image` as the bytes of a PNG."""
    buffer = io.BytesIO()
    to_pil(image.pixels, image.alpha).save(buffer, "PNG")
    return buffer.getvalue()
