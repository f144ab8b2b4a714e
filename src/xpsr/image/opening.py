"""A file opened by Pillow: which format it is, how large, and what stands beside its pixels, which are not read yet."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from xpsr.errors import InputError
from xpsr.files import RAW_SUFFIXES
from xpsr.image.limits import Limits, check_size, too_many_pixels
from xpsr.image.picture import damaged

__all__ = ["open_image", "without_remarks"]

# Of what Pillow knows: others are no photographs, start programs (EPS) or have readers that few have looked at
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM", "TGA")

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


class _Pillow:
    """The modules that a filter of warnings is about. Equal to no other, so each reader finds its own filter again."""

    match = re.compile(r"(PIL|pillow_heif)\b").match


@contextmanager
def without_remarks() -> Iterator[None]:
    """Passes over Pillow's remarks on size, which is checked here, and on doubtful metadata.

    `warnings.catch_warnings` puts the whole list of filters back, and with it, where threads overlap, those of another
    reader: the process would be without warnings for good. Here a reader takes away the one filter that it brought.
    """
    # Warnings that are ignored leave no trace in the registries of modules, so nothing else has to be set back
    filters: Any = warnings.filters
    place: Any
    mine = ("ignore", None, Warning, _Pillow(), 0)
    filters.insert(0, mine)
    try:
        yield
    finally:
        for place in (filters, warnings.filters):  # another list where someone catches warnings, perhaps with a copy
            with suppress(ValueError):
                place.remove(mine)


def open_image(file: BinaryIO, name: str, limits: Limits) -> Image.Image:
    """Returns a picture whose pixels are not read yet.

    Raises:
        InputError: the file is empty, of no format that is read, damaged, or larger than `limits` say.
    """
    if Image.MAX_IMAGE_PIXELS is not None and limits.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limits.max_pixels  # who raises our limit means Pillow's, too, which is the process's
    try:
        image = _identify(file, name)
    except Image.DecompressionBombError as error:
        raise too_many_pixels("its", name, limits) from error
    except UnidentifiedImageError as error:
        if file.seek(0, os.SEEK_END) == 0:
            message, remedy = f"{name}: is empty (0 bytes)", "copy or download it again"
            raise InputError(message, code="damaged", remedy=remedy) from error
        message, remedy = f"{name}: is not an image that can be read", "convert it to PNG or JPEG"
        if os.path.splitext(name)[1].lower() in RAW_SUFFIXES:  # noqa: PTH122 - a name, of a file or not
            message = f"{name}: is a camera's raw file, which would have to be developed first"
            remedy = "export it as TIFF"
        raise InputError(message, code="unknown_format", remedy=remedy) from error
    except InputError:
        raise
    except Exception as error:  # on a damaged header Pillow raises whatever the bytes lead to
        raise damaged(name, error) from error
    check_size(image.width, image.height, name, limits)
    return image


def _identify(file: BinaryIO, name: str) -> Image.Image:
    """`Image.open`, with the plugin for HEIC where the first bytes ask for it; a name may lie (`mv a.heic a.jpg`)."""
    start = file.read(12)
    file.seek(0)
    if start[4:8] != b"ftyp" or start[8:12] not in _HEIF_BRANDS:
        return Image.open(file, formats=_FORMATS)
    try:  # an AVIF may begin so, too
        return Image.open(file, formats=("AVIF",))
    except UnidentifiedImageError:
        file.seek(0)
    try:
        import pillow_heif
    except ImportError as error:
        # Of this picture alone, so that those beside it are read: no MissingDependencyError
        message, remedy = f"{name}: HEIC needs a plugin", "run: pip install pillow-heif"
        raise InputError(message, code="missing_dependency", remedy=remedy) from error
    pillow_heif.register_heif_opener()
    return Image.open(file, formats=("HEIF",))
