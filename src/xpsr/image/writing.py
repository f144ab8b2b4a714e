"""Pictures to files, whole or not at all, and to bytes."""

import io
import os
from pathlib import Path

from PIL import Image

from xpsr.config.checks import check_argument
from xpsr.errors import InputError, one_line
from xpsr.files import WRITTEN_SUFFIXES, atomic_write
from xpsr.image.picture import to_pil
from xpsr.image.reading import ImageLike, to_picture

__all__ = ["image_bytes", "write_image"]

# A restored picture is not degraded again: Pillow's default is JPEG quality 75 with halved colour
_SAVE_OPTIONS: dict[str, dict[str, int | bool]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def write_image(path: str | os.PathLike[str], image: ImageLike) -> None:
    """Writes a picture whole or not at all, in the format that the suffix of `path` names.

    Args:
        path: where to; what is there is replaced.
        image: a PIL image, which is written as it is, or else whatever `to_picture` takes, in 8 bits.

    Raises:
        InputError: unknown suffix, a picture that the format cannot hold (alpha in JPEG, a side above 16383 in WebP),
            or `path` cannot be written.
    """
    place: Path = check_argument("path", path, Path)
    content = image_bytes(place, image)
    with atomic_write(place) as part:
        part.write_bytes(content)


def image_bytes(place: Path, image: ImageLike) -> bytes:
    """Returns what `write_image` writes.

    Raises:
        InputError: unknown suffix, or a picture that the format cannot hold.
    """
    if place.suffix.lower() not in WRITTEN_SUFFIXES:
        known = ", ".join(sorted(WRITTEN_SUFFIXES))
        message = f"{place}: suffix {place.suffix!r} cannot be written"
        raise InputError(message, code="unknown_format", remedy=f"use one of {known}")
    kind = Image.registered_extensions()[place.suffix.lower()]
    if not isinstance(image, Image.Image):
        picture = to_picture(image)
        image = to_pil(picture.pixels, picture.alpha)
    buffer = io.BytesIO()  # into a file, Pillow writes JPEG without a look at what the system answers
    try:
        image.save(buffer, kind, **_SAVE_OPTIONS.get(kind, {}))
    except (OSError, ValueError) as error:
        message = f"{place}: {kind} cannot hold this picture ({one_line(error)})"
        raise InputError(message, code="conflict", remedy="use .png") from error
    return buffer.getvalue()
