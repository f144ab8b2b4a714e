"""How an opened picture is to be turned, and how large it is then; nothing is decoded. No torch."""

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

__all__ = ["orientation_of", "upright_size"]


def orientation_of(image: Image.Image) -> int:
    """Returns how a camera was held, 1 to 8, as EXIF or else XMP says; 1 where neither can be read."""
    try:
        found = Image.Image.getexif(image).get(0x0112, 1)  # a PNG's own would decode it first
    except Exception:  # on damaged metadata Pillow raises whatever the bytes lead to; the pixels may be whole
        return 1
    return found if found in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height that an image has once it is decoded and turned.

    An orientation that stands behind the pixels of a PNG is not seen.
    """
    width, height = image.size
    by_pillow = image.format == "HEIF" or (isinstance(image, TiffImageFile) and 0x0112 in image.tag_v2)
    return (height, width) if orientation_of(image) >= 5 and not by_pillow else (width, height)
