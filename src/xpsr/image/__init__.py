"""Reads and writes pictures: whatever a user brings becomes RGB in [0, 1], upright, with its alpha beside it."""

from xpsr.image.alpha import bleed
from xpsr.image.origin import Origin
from xpsr.image.picture import Picture, to_pil, to_uint8
from xpsr.image.profiles import to_gray
from xpsr.image.reading import (
    MAX_PIXELS,
    ImageLike,
    decode_image,
    decode_rgb,
    picture_size,
    read_image,
    to_picture,
    unbatched,
)
from xpsr.image.resizing import resize, stretched_sizes
from xpsr.image.writing import WriteOptions, image_bytes, refuse_unwritable, write_image, write_into, write_strips
from xpsr.image.xmp import Provenance

__all__ = [
    "MAX_PIXELS",
    "ImageLike",
    "Origin",
    "Picture",
    "Provenance",
    "WriteOptions",
    "bleed",
    "decode_image",
    "decode_rgb",
    "image_bytes",
    "picture_size",
    "read_image",
    "refuse_unwritable",
    "resize",
    "stretched_sizes",
    "to_gray",
    "to_picture",
    "to_pil",
    "to_uint8",
    "unbatched",
    "write_image",
    "write_into",
    "write_strips",
]
