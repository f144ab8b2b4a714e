"""Restores a photograph with `fidelity` 0, 0.5 and 1, and puts the results beside a plain enlargement of it.

    python compare_settings.py moose.png sheet.png      # from left to right: enlarged, fidelity 1, 0.5 and 0

Any setting can stand in the place of `fidelity`; docs/presets.md has them all.
"""

import sys
from pathlib import Path

from PIL import Image

from xpsr import XPSRPipeline


def main(photo: Path, sheet: Path) -> None:
    pipe = XPSRPipeline.from_pretrained("mini")  # a diffusers pipeline, whose results are PIL images
    pictures = [pipe(photo, settings={"fidelity": fidelity}).images[0] for fidelity in (1, 0.5, 0)]
    with Image.open(photo) as small:
        pictures.insert(0, small.convert("RGB").resize(pictures[0].size, Image.Resampling.BICUBIC))
    width, height = pictures[0].size
    whole = Image.new("RGB", (len(pictures) * width, height))
    for column, picture in enumerate(pictures):
        whole.paste(picture, (column * width, 0))
    whole.save(sheet)
    print(sheet)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
