"""How much `xpsr upscale --sequence` flickers, beside single frames: `python -m benchmarks.sequence [PHOTO ...]`.

Of each photograph of 512 x 512 and more, three sequences are made in a temporary folder: still, with a disc that moves
across (6 pixels a frame); a pan (1 pixel a frame); a zoom (.4 % a frame). Each is reduced to a quarter, and every
frame gets noise of its own and is saved as JPEG. They are restored as single frames, each looked at and with a seed of
its own, and with --sequence. Prints a JSON line for each, with flicker as `xpsr.evaluation.flicker` defines it, how
many pairs of texts the frames were restored with, and PSNR and SSIM against the clean frames, by which blending shows
that leaves trails; then a table of means over the photographs.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.reporting import machine, occasion
from benchmarks.tables import markdown_table
from xpsr.cli import main as run_xpsr
from xpsr.evaluation import flicker, score
from xpsr.image import read_image, resize, to_pil

PHOTO = Path(__file__).parents[1] / "examples" / "moose_original.jpg"
SIDE, SCALE, DISC = 448, 4, 96
KINDS = ("still", "pan", "zoom")
LEVELS = {"mild": (3, 85), "strong": (8, 60)}
"""Standard deviation of the noise, of 255, and quality of JPEG."""


def frames_of(photo: torch.Tensor, kind: str, count: int) -> Iterator[torch.Tensor]:
    """Yields clean frames (3, 448, 448) in [0, 1]."""
    rows, columns = torch.meshgrid(*[torch.arange(DISC) - (DISC - 1) / 2] * 2, indexing="ij")
    mask = ((DISC / 2 - 2 - (rows**2 + columns**2).sqrt()) / 2).clamp(0, 1)
    disc = photo.flip(-1)[:, 200 : 200 + DISC, 200 : 200 + DISC]
    for number in range(count):
        if kind == "still":
            frame = photo[:, 32 : 32 + SIDE, 32 : 32 + SIDE].clone()
            left = 60 + 6 * number % (SIDE - DISC - 60)
            frame[:, 180 : 180 + DISC, left : left + DISC].lerp_(disc, mask)
        elif kind == "pan":
            frame = photo[:, 8 : 8 + SIDE, number : number + SIDE]
        else:
            side = round(SIDE * (1 - 0.004 * number))
            frame = resize(photo[:, :SIDE, :SIDE][:, SIDE - side :, SIDE - side :], (SIDE, SIDE))
        yield frame


def degrade(frame: torch.Tensor, number: int, level: str) -> Image.Image:
    """A frame a quarter as large, with noise of its own."""
    small = resize(frame, (SIDE // SCALE, SIDE // SCALE))
    noise = torch.randn(small.shape, generator=torch.Generator().manual_seed(number))
    return to_pil((small + LEVELS[level][0] / 255 * noise).clamp(0, 1))


def measure(results: Path, originals: Sequence[torch.Tensor]) -> dict[str, float | None]:
    """Flicker, texts and likeness of the frames in a folder, in the order of their names."""
    made = [read_image(path).pixels for path in sorted(results.glob("*.png"))]
    found = flicker(made, originals)
    scores = [score(one, original) for one, original in zip(made, originals, strict=True)]
    means = {name: round(float(np.mean([one[name] for one in scores])), 4) for name in ("psnr_y", "ssim_y")}
    texts = {json.dumps(json.loads(path.read_text())["prior"]) for path in results.glob("*.json")}
    of_still = {"still": None if found.still is None else round(found.still, 3), "change": round(found.change, 3)}
    return {**of_still, "still_share": round(found.still_share, 3), **means, "texts": len(texts)}


def restore(frames: Path, out: Path, *options: str) -> None:
    """Restores a folder as the command line does."""
    code = run_xpsr(["upscale", str(frames), "-o", str(out), "--format", "png", "--quiet", *options])
    if code:
        raise SystemExit(code)


def compare(photo: torch.Tensor, kind: str, level: str, count: int, folder: Path) -> dict[str, dict[str, float | None]]:
    """Restores a sequence in both ways and measures each."""
    originals = list(frames_of(photo, kind, count))
    frames = folder / "frames"
    frames.mkdir()
    for number, original in enumerate(originals):
        degrade(original, number, level).save(frames / f"{number:04}.jpg", quality=LEVELS[level][1])
    restore(frames, folder / "single frames")
    restore(frames, folder / "sequence", "--sequence")
    return {name: measure(folder / name, originals) for name in ("single frames", "sequence")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", metavar="PHOTO", nargs="*", type=Path, default=[PHOTO])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--levels", nargs="+", choices=tuple(LEVELS), default=list(LEVELS))
    args = parser.parse_args()
    print(json.dumps({**machine(("xpsr", "torch", "pillow")), **occasion()}), flush=True)
    rows = defaultdict(list)
    for path in args.photos:
        photo = read_image(path).pixels
        for kind in args.kinds:
            for level in args.levels:
                with tempfile.TemporaryDirectory() as temporary:
                    found = compare(photo, kind, level, args.frames, Path(temporary))
                for method, row in found.items():
                    facts = {"photo": path.stem, "kind": kind, "level": level, "method": method}
                    print(json.dumps({**facts, **row}), flush=True)
                    rows[f"{kind}, {level}: {method}"].append(row)
    table = {}
    for name, found_rows in rows.items():
        columns = {key: [value for row in found_rows if (value := row[key]) is not None] for key in found_rows[0]}
        table[name] = {key: f"{np.mean(values):.3f}" for key, values in columns.items() if values}
    print(f"\n{markdown_table(table)}")


if __name__ == "__main__":
    main()
