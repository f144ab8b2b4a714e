"""Small sets of pictures and suites over them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

MOOSE = Path(__file__).parents[1] / "examples" / "moose.png"
QUALITIES = {
    "clean": "a sharp photograph with no noise and no compression artifacts",
    "strong": "a very blurry photograph with strong noise and strong compression artifacts",
}


def write_pictures(folder: Path, names: Sequence[str] = ("a", "b"), *, side: int = 8) -> Path:
    """A set of parts of the shipped photograph: lr/NAME.png of that side, hr/NAME.png of four times as much."""
    with Image.open(MOOSE) as moose:
        for place, name in enumerate(names):
            left = 16 + 4 * place
            part = moose.crop((left, 24, left + 4 * side, 24 + 4 * side))
            for below, picture in (("hr", part), ("lr", part.resize((side, side), Image.Resampling.BICUBIC))):
                (folder / below).mkdir(parents=True, exist_ok=True)
                picture.save(folder / below / f"{name}.png")
    return folder


def write_suite(path: Path, methods: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """A suite over `pictures`, beside it, that measures PSNR and is quick."""
    (path.parent / "psnr.yaml").write_text("name: psnr\nmetrics: [psnr_y]\n")
    suite = {"protocol": "psnr.yaml", "sets": [{"name": "few", "folder": "pictures"}], "methods": list(methods), **more}
    path.write_text(yaml.safe_dump(suite))
    return path


def write_program(path: Path, body: str) -> str:
    """A program of a few lines that sees `source`, `target` and `Image`; returns the command that runs it."""
    head = "import sys\nfrom pathlib import Path\nfrom PIL import Image\nsource, target = map(Path, sys.argv[1:3])\n"
    path.write_text(f"{head}{body}\n")
    return f"'{sys.executable}' '{path}'"


ENLARGE = "with Image.open(source) as image:\n    image.resize((4 * image.width, 4 * image.height)).save(target)"
"""Of one picture."""

ENLARGE_ALL = (
    "target.mkdir(exist_ok=True)\n"
    "for path in sorted(source.iterdir()):\n"
    "    with Image.open(path) as image:\n"
    "        image.resize((4 * image.width, 4 * image.height)).save(target / f'{path.stem}_out.png')"
)
"""Of a folder, under names of its own."""
