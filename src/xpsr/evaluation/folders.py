"""Folders of pictures scored against folders of originals."""

from pathlib import Path

from xpsr.errors import InputError
from xpsr.evaluation.metrics import score
from xpsr.files import list_images
from xpsr.image import read_image

__all__ = ["evaluate_folders"]


def evaluate_folders(hr_dir: Path, restored_dir: Path) -> dict[str, dict[str, float]]:
    """`score` of every picture of `hr_dir`, by its name, and what is called as it is, or begins so, in `restored_dir`.

    Raises:
        InputError: a picture is missing, or of another size.
    """
    results, found = {}, list_images(restored_dir)
    for path in list_images(hr_dir):
        of_it = [p for p in found if p.stem == path.stem] or [p for p in found if p.stem.startswith(path.stem)]
        if not of_it:
            raise InputError(f"{restored_dir}: no picture for {path.name}.")
        results[path.name] = score(read_image(of_it[0]).pixels, read_image(path).pixels)
    return results
