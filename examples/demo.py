"""Looks at the photograph beside this file, restores it, draws both: `python examples/demo.py [OUT.png]`."""

import sys
import time
from pathlib import Path

from PIL import Image

import xpsr
from xpsr.cli.terminal import hush
from xpsr.prior import open_describer


def main(out: Path) -> None:
    hush()  # what the libraries say while they load
    before = Image.open(Path(__file__).with_name("moose.png")).convert("RGB")
    pipe = xpsr.XPSRPipeline.from_pretrained("mini")
    pipe.set_progress_bar_config(disable=True)

    start = time.perf_counter()
    prior = open_describer("mini").describe([before])[0]
    after = pipe(before, prior=prior).images[0]
    seconds = time.perf_counter() - start

    picture = Image.new("RGB", (2 * after.width + 8, after.height), "white")
    picture.paste(before.resize(after.size, Image.Resampling.BICUBIC), (0, 0))
    picture.paste(after, (after.width + 8, 0))
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
    print(f"content: {prior.content or '(nothing)'}")
    print(f"quality: {prior.quality}")
    print(f"restored {before.width} x {before.height} to {after.width} x {after.height} in {seconds:.1f} s:")
    print(out.resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo.png"))
