"""What describers share that ask a model: how a picture is called, and what becomes of a bad answer."""

import logging
import os
from typing import TYPE_CHECKING

from xpsr.prior.texts import Aspect

if TYPE_CHECKING:  # it loads torch
    from xpsr.image import ImageLike

__all__ = ["SECOND_SEED", "SECOND_TEMPERATURE", "name_picture", "report_no_text"]

logger = logging.getLogger(__name__)

# The first answer is the most likely one; where it is none, one more is drawn, the same every time
SECOND_TEMPERATURE = 0.7
SECOND_SEED = 0


def name_picture(image: "ImageLike", index: int) -> str:
    """Returns how messages call a picture: its path, or its place, counted from 1."""
    return str(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"picture {index + 1}"


def report_no_text(picture: str, aspect: Aspect, answer: str) -> None:
    """Warns that a text stays empty because the model's second answer was no better than the first."""
    said = f"which cannot be used: {answer.strip()[:80]!r}" if answer.strip() else "which was empty"
    logger.warning(
        "%s: the %s text stays empty; the model was asked twice and gave an answer %s", picture, aspect, said
    )
