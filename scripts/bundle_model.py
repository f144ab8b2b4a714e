"""Puts a trained model into the package: `python scripts/bundle_model.py runs/mini/4_cool/model src/xpsr/weights/mini`.

The card and the describer that stand in the target are kept, all else is replaced. Writes `checksums.json`,
which the weights are compared with when they are loaded.
"""

import argparse
import json
import shutil
from pathlib import Path

from xpsr.model_files import write_checksums

MAX_MEGABYTES = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    if not (args.source / "model_index.json").is_file():
        parser.error(f"{args.source}: no model_index.json there")
    if args.source.resolve().is_relative_to(args.target.resolve()):
        parser.error(f"{args.target}: holds {args.source}, which would go with it")
    if args.target.exists() and not (args.target / "model_index.json").is_file():
        parser.error(f"{args.target}: is there and no model; nothing else is replaced")
    megabytes = sum(path.stat().st_size for path in args.source.rglob("*") if path.is_file()) / 2**20
    if megabytes > MAX_MEGABYTES:
        parser.error(f"{args.source}: {megabytes:.1f} MB, more than the {MAX_MEGABYTES} MB that may be bundled")
    described = args.target / "describer"
    if described.is_dir():
        shutil.copytree(described, args.source / "describer", dirs_exist_ok=True, copy_function=shutil.copyfile)
    card = args.target / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    shutil.rmtree(args.target, ignore_errors=True)
    shutil.copytree(args.source, args.target, copy_function=shutil.copyfile)
    for config in args.target.rglob("*.json"):
        content = json.loads(config.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None) is not None:  # a path of the machine that trained it
            config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if text is not None:
        card.write_text(text, encoding="utf-8")
    write_checksums(args.target)
    print(f"{args.target}: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
