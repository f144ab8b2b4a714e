"""What of a picture its file's header tells, before there is a model."""

from xpsr.config import UpscaleConfig
from xpsr.image import Limits, picture_size
from xpsr.sources import Source

__all__ = ["limits_of", "refuse_too_large"]


def limits_of(config: UpscaleConfig) -> Limits:
    """Returns what is refused before it is decoded."""
    given = {"max_pixels": config.max_pixels, "max_bytes": config.max_bytes}
    return Limits(**{name: value for name, value in given.items() if value is not None})


def refuse_too_large(source: Source, config: UpscaleConfig) -> None:
    """Raises `InputError` where the header of a picture's file tells that it, or its result, would be too large."""
    if source.content is None:
        config.refuse_large_result(*picture_size(source.path, limits=limits_of(config)))
