"""Reads and writes pictures: whatever a user brings becomes RGB in [0, 1], upright, with its alpha beside it."""

from xpsr.image.alpha import bleed
from xpsr.image.credentials import Credentials, check_signing
from xpsr.image.isolation import Facts, decode_in_process, inspect_in_process
from xpsr.image.limits import MAX_PIXELS, Limits
from xpsr.image.origin import Origin
from xpsr.image.picture import Picture, to_pil, to_uint8
from xpsr.image.planes import IN_MEMORY, drop_from_memory, new_planes
from xpsr.image.profiles import to_gray
from xpsr.image.reading import (
    ImageLike,
    PictureFile,
    decode_image,
    decode_rgb,
    picture_size,
    read_image,
    to_picture,
    unbatched,
)
from xpsr.image.resizing import Resized, resize, resized_rows, rows_seen, stretched_sizes
from xpsr.image.writing import WriteOptions, image_bytes, refuse_unwritable, write_image, write_into, write_strips
from xpsr.image.xmp import Provenance

__all__ = [
    "Credentials",
    "Facts",
    "IN_MEMORY",
    "MAX_PIXELS",
    "ImageLike",
    "Limits",
    "Origin",
    "Picture",
    "PictureFile",
    "Provenance",
    "Resized",
    "WriteOptions",
    "bleed",
    "check_signing",
    "decode_image",
    "decode_in_process",
    "decode_rgb",
    "drop_from_memory",
    "image_bytes",
    "inspect_in_process",
    "new_planes",
    "picture_size",
    "read_image",
    "refuse_unwritable",
    "resize",
    "resized_rows",
    "rows_seen",
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
