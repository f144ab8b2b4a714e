"""The mean of two models' weights: `python scripts/average_models.py FIRST SECOND OUT [--share .5]`.

For two states of one training, whose mean is often better than both. All else, the describer too, is SECOND's.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from xpsr.model_files import write_checksums

PARTS = ("vae", "text_encoder", "unet", "controlnet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of SECOND, in [0, 1] (default: 0.5)")
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error(f"--share={args.share:g} is not in [0, 1]")
    if args.out.exists():
        parser.error(f"{args.out}: exists; name a new folder")
    for folder in (args.first, args.second):
        if not (folder / "model_index.json").is_file():
            parser.error(f"{folder}: no model_index.json there")
    averaged = {path: average(args.first / path, args.second / path, args.share) for path in weights(args.second)}
    shutil.copytree(args.second, args.out)
    for path, tensors in averaged.items():
        save_file(tensors, args.out / path, metadata={"format": "pt"})
    write_checksums(args.out)
    print(args.out)


def weights(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for part in PARTS for path in sorted((folder / part).glob("*.safetensors"))]


def average(first: Path, second: Path, share: float) -> dict[str, torch.Tensor]:
    one, other = load_file(first), load_file(second)
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        raise SystemExit(f"{first} and {second} are of different models")
    return {
        name: torch.lerp(one[name].float(), value.float(), share).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in other.items()
    }


if __name__ == "__main__":
    main()
