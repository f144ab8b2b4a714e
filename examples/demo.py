"""Looks at the photograph beside this file, restores it, draws both and the original: `python demo.py [OUT.png]`."""

import logging
import sys
from pathlib import Path

from PIL import Image

import xpsr

BICUBIC = Image.Resampling.BICUBIC


def main(out: Path) -> None:
    logging.disable(logging.WARNING)  # what libraries say while they load
    photograph = Path(__file__).with_name("moose.png")
    restored = xpsr.Restorer("mini").restore(photograph, seed=0)  # of the grain
    out.parent.mkdir(parents=True, exist_ok=True)
    xpsr.write_image(out, restored.picture)

    original = photograph.with_name("moose_original.jpg")  # before it was reduced, blurred and compressed
    pictures = [Image.open(path).convert("RGB").resize((512, 512), BICUBIC) for path in (photograph, out, original)]
    sheet = Image.new("RGB", (3 * 512 + 2 * 8, 512), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * (512 + 8), 0))
    sheet.save(out)

    prior, (width, height), size = (restored.record[name] for name in ("prior", "input_size", "output_size"))
    print(f"content: {prior['content'] or '(nothing)'}")
    print(f"quality: {prior['quality']}")
    print(f"restored {width} x {height} to {size[0]} x {size[1]} in {restored.record['seconds']:.1f} s")
    print("left to right: before, after, the original (which it has never seen)")
    print(out.resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo.png"))
