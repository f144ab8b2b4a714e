"""Looks at the photograph beside this file, restores it, draws both: `python examples/demo.py [OUT.png]`."""

import logging
import sys
from pathlib import Path

from PIL import Image

import xpsr


def main(out: Path) -> None:
    logging.disable(logging.WARNING)  # what libraries say while they load
    photograph = Path(__file__).with_name("moose.png")
    restored = xpsr.Restorer("mini").restore(photograph)
    out.parent.mkdir(parents=True, exist_ok=True)
    xpsr.write_image(out, restored.picture)

    with Image.open(photograph) as before, Image.open(out) as after:
        picture = Image.new("RGB", (2 * after.width + 8, after.height), "white")
        picture.paste(before.resize(after.size, Image.Resampling.BICUBIC), (0, 0))
        picture.paste(after, (after.width + 8, 0))
    picture.save(out)

    prior, (width, height), size = (restored.record[name] for name in ("prior", "input_size", "output_size"))
    print(f"content: {prior['content'] or '(nothing)'}")
    print(f"quality: {prior['quality']}")
    print(f"restored {width} x {height} to {size[0]} x {size[1]} in {restored.record['seconds']:.1f} s:")
    print(out.resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo.png"))
