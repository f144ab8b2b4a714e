"""Folders of pictures scored against folders of originals."""

from collections import defaultdict
from pathlib import Path

from xpsr.config import SIZE_SUFFIX
from xpsr.evaluation.validation import score
from xpsr.files import by_stem, list_images, partner
from xpsr.image import read_image

__all__ = ["evaluate_folders"]


def evaluate_folders(hr_dir: Path, restored_dir: Path) -> dict[str, dict[str, float]]:
    """Returns the `score` of every picture of `hr_dir` by its name.

    The restored picture is the one that has the original's name, whatever it ends with, or else its name and a size
    (`NAME_x4`, `NAME_3000x2000`). What belongs to no original is passed over.

    Raises:
        InputError: a folder holds no picture, or an original has no restored picture, several, that of another
            original, or one of another size.
    """
    pairs = _pair(hr_dir, restored_dir)
    return {hr.name: score(read_image(restored).pixels, read_image(hr).pixels) for hr, restored in pairs}


def _pair(hr_dir: Path, restored_dir: Path) -> list[tuple[Path, Path]]:
    restored = list_images(restored_dir)
    exact, scaled = by_stem(restored), defaultdict(list)
    for image in restored:
        if end := SIZE_SUFFIX.search(image.stem):
            scaled[image.stem[: end.start()]].append(image)
    pairs = [(hr, partner(hr, exact.get(hr.stem) or scaled[hr.stem], restored_dir)) for hr in list_images(hr_dir)]
    originals = defaultdict(list)
    for hr, image in pairs:
        originals[image].append(hr)
    return [(partner(image, originals[image], hr_dir), image) for _, image in pairs]
