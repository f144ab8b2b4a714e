"""What each text changes: restores degraded pictures with right, wrong, exchanged and no texts and scores every way.

    python benchmarks/ablate_prompts.py HR_DIR LR_DIR OUT [--model mini] [--priors data/validation.jsonl]

HR_DIR holds NAME.png, LR_DIR holds KIND/NAME.png. Results go to OUT/WAY/KIND/NAME.png, the table to stdout: PSNR-Y,
SSIM-Y, NIQE, and how far pixels are from those without texts (mean absolute difference, of 255).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from reporting import markdown_table

from xpsr import Prior, XPSRPipeline
from xpsr.evaluation import score
from xpsr.image import read_image, to_picture
from xpsr.prior import Level, Levels, PriorFile, quality_text
from xpsr.prior.mini import MiniDescriber

OPPOSITE: dict[Level, Level] = {"clean": "strong", "slight": "strong", "strong": "clean"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hr", type=Path)
    parser.add_argument("lr", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--priors", type=Path, default=Path(__file__).parents[1] / "data" / "validation.jsonl")
    args = parser.parse_args()
    priors = {entry["image"]: Prior.from_dict(entry) for entry in PriorFile(args.priors).read()}
    pipe = XPSRPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    describer = MiniDescriber.bundled()
    names = list(priors)
    scores: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    for index, name in enumerate(names):
        right, other = priors[name], priors[names[(index + 5) % len(names)]]
        original = read_image(args.hr / Path(name).name).pixels
        lr = args.lr / name
        ways = {
            "none": Prior(),
            "right": right,
            "described": describer.describe([lr])[0],
            "content only": replace(right, quality=""),
            "quality only": replace(right, content=""),
            "wrong content": replace(right, content=other.content),
            "wrong quality": replace(right, quality=quality_text(opposite(right.levels))),
            "exchanged": Prior(right.quality, right.content),
        }
        none = None
        for way, prior in ways.items():
            generator = torch.Generator().manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16):
                image = pipe(lr, scale=4, prior=prior, generator=generator).images[0]
            restored = to_picture(image).pixels
            none = restored if none is None else none
            target = args.out / way.replace(" ", "_") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            image.save(target)
            moved = (restored - none).abs().mean().item() * 255
            found = score(restored, original)
            row = found["psnr_y"], found["ssim_y"], found["niqe"], moved
            scores.setdefault((way, Path(name).parent.name), []).append(row)
    table: dict[str, dict[str, str]] = {}
    for (way, kind), rows in scores.items():
        psnr, ssim, naturalness, moved = np.mean(rows, axis=0)
        table.setdefault(way, {})[kind] = f"{psnr:.3f} / {ssim:.4f} / {naturalness:.3f} / {moved:.2f}"
    print(markdown_table(table, "PSNR-Y / SSIM-Y / NIQE / moved"))


def opposite(levels: Levels | None) -> Levels:
    """Strong where there is nothing or little, nothing where it is strong."""
    assert levels is not None
    return Levels(blur=OPPOSITE[levels.blur], noise=OPPOSITE[levels.noise], compression=OPPOSITE[levels.compression])


if __name__ == "__main__":
    main()
