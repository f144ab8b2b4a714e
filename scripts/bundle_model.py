"""Puts a trained model into the package: `python scripts/bundle_model.py runs/mini/4_cool/model src/xpsr/weights/mini`.

The card and the describer that stand in the target are kept, all else is replaced. Writes `checksums.json`,
which the weights are compared with when they are loaded. What would be larger than may be bundled replaces nothing.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from xpsr.model_files import write_checksums

MAX_MEGABYTES = 52  # with the describer


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
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "model"
        shutil.copytree(args.source, made, copy_function=shutil.copyfile)
        if (args.target / "describer").is_dir():
            shutil.copytree(
                args.target / "describer", made / "describer", dirs_exist_ok=True, copy_function=shutil.copyfile
            )
        if (args.target / "README.md").is_file():
            shutil.copyfile(args.target / "README.md", made / "README.md")
        for config in made.rglob("*.json"):
            content = json.loads(config.read_text(encoding="utf-8"))
            if content.pop("_name_or_path", None) is not None:  # a path of the machine that trained it
                config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_checksums(made)
        megabytes = sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) / 2**20
        if megabytes > MAX_MEGABYTES:
            parser.error(f"{args.source}: {megabytes:.1f} MB, more than the {MAX_MEGABYTES} MB that may be bundled")
        shutil.rmtree(args.target, ignore_errors=True)
        shutil.copytree(made, args.target, copy_function=shutil.copyfile)
    print(f"{args.target}: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
