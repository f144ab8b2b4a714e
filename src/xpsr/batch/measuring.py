"""How pictures are read, and what of one its file's header tells, before there is a model."""

from pathlib import Path

from xpsr.config import UpscaleConfig
from xpsr.image import Limits, PictureFile, picture_size
from xpsr.sources import Source

__all__ = ["limits_of", "picture_file", "refuse_too_large"]


def limits_of(config: UpscaleConfig) -> Limits:
    """Returns what is refused before it is decoded."""
    given = {"max_pixels": config.max_pixels, "max_bytes": config.max_bytes}
    return Limits(**{name: value for name, value in given.items() if value is not None})


def picture_file(path: Path, config: UpscaleConfig) -> PictureFile:
    """Returns a picture's file that whoever looks at it reads as it is read to be restored."""
    return PictureFile(path, limits=limits_of(config), accept_truncated=config.accept_truncated)


def refuse_too_large(source: Source, config: UpscaleConfig) -> None:
    """Raises `InputError` where the header of a picture's file tells that it, or its result, would be too large."""
    place = source.path if source.content is None else source.content
    config.refuse_large_result(*picture_size(place, limits=limits_of(config), named=str(source.path)))
