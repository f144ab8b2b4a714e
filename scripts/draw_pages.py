"""Draws what photographs have little of: letters of many scripts, signs, windows of programs and line art.

    python scripts/draw_pages.py photos/pages --count 120
    cat data/captions.jsonl photos/pages.jsonl > captions.jsonl
    xpsr degrade photos pairs --config configs/mini/degradation.yaml --crop-size 256 --num-per-image 2 --min-detail 2
    mkdir -p pairs/teacher && cp pairs/hr/page_*.png pairs/teacher/

Pictures are 512 x 512 PNGs, each by (seed, number) alone where the same fonts are installed; FOLDER.jsonl beside their
folder says what is on them. Letters are so large that a fourth of that still tells them apart: 28 pixels and more. They
are clean, so they are their own teacher.
"""

import argparse
import json
import math
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, FINE = 512, 2  # pixels of a picture; it is drawn so many times as large, which smooths its edges
SMALLEST = 28  # pixels of the smallest letters' font

SCRIPTS = {
    "Latin": [(0x41, 0x5A), *[(0x61, 0x7A)] * 6, (0xC0, 0xD6), (0xE0, 0xF6)],
    "Greek": [(0x391, 0x3A1), (0x3B1, 0x3C9)],
    "Cyrillic": [(0x410, 0x42F), (0x430, 0x44F)],
    "Hebrew": [(0x5D0, 0x5EA)],
    "Arabic": [(0x627, 0x63A), (0x641, 0x64A)],
    "Devanagari": [(0x915, 0x939)],
    "Thai": [(0xE01, 0xE2E)],
    "Georgian": [(0x10D0, 0x10F0)],
    "Armenian": [(0x531, 0x556), (0x561, 0x586)],
    "Chinese": [(0x4E00, 0x5FFF)],
    "Japanese": [(0x3042, 0x3093), (0x30A2, 0x30F3)],
    "Korean": [(0xAC00, 0xD7A3)],
}
"""Letters of scripts by ranges of Unicode, both ends included; what stands twice is drawn twice as often."""

Colour = tuple[int, int, int]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder; what is there of the same names is replaced")
    parser.add_argument("--count", type=int, default=120, metavar="N", help="pictures (default: 120)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)")
    parser.add_argument("--fonts", type=Path, metavar="DIR", help="TrueType and OpenType fonts (default: the system's)")
    args = parser.parse_args()
    if args.count < 1:
        parser.error(f"--count {args.count}: draw 1 or more")
    fonts = [p for p in args.fonts.rglob("*") if p.is_file()] if args.fonts else system_fonts()
    fonts = sorted(path for path in fonts if path.suffix.lower() in (".ttf", ".otf", ".ttc"))
    scripts = {name: able for name in SCRIPTS if (able := [font for font in fonts if has_letters(font, name)])}
    if not scripts:
        parser.error("no fonts with letters are installed; name a folder of some by --fonts DIR")
    args.output.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(args.count):
        image, content = draw(random.Random(f"{args.seed} {number}"), scripts)
        image.save(args.output / f"page_{number:04}.png")
        entries.append(json.dumps({"image": f"{args.output.name}/page_{number:04}.png", "content": content}) + "\n")
    args.output.with_name(f"{args.output.name}.jsonl").write_text("".join(entries), encoding="utf-8")
    print(f"{args.count} pictures; scripts: {', '.join(scripts)}")
    return 0


def system_fonts() -> list[Path]:
    """Returns the files of the fonts that fontconfig knows of; none where it is not installed."""
    try:
        listed = subprocess.run(
            ["fc-list", "--format", "%{file}\\n"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [Path(line) for line in set(listed.splitlines())]


@cache
def has_letters(font: Path, script: str) -> bool:
    """Returns whether a font draws a script's letters, digits and commas, rather than boxes in their place."""
    try:
        face = ImageFont.truetype(str(font), 24)
        box = bytes(face.getmask("\uffff"))
        # of thousands of letters some tell enough
        codes = [code for low, high in SCRIPTS[script] for code in {*range(low, high, 1 + (high - low) // 99), high}]
        needed = [*map(chr, codes), *"0123456789,."]
        return all(any(mask := bytes(face.getmask(letter))) and mask != box for letter in needed)
    except OSError:
        return False


def draw(rng: random.Random, scripts: Mapping[str, Sequence[Path]]) -> tuple[Image.Image, str]:
    """Returns a picture, 8-bit RGB, and what is on it."""
    content, paint = rng.choices(KINDS, weights=[4, 3, 2, 2])[0]
    script = "Latin" if rng.random() < 0.5 and "Latin" in scripts else rng.choice(sorted(scripts))
    dark, light = colours(rng)
    ground, ink = (light, dark) if rng.random() < 0.7 else (dark, light)
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), ground)
    paint(image, rng, ink, Letters(rng, script, rng.choice(scripts[script])))
    return image.resize((SIDE, SIDE), Image.Resampling.BOX), content.format(script)


class Letters:
    """Words of a script in one font."""

    def __init__(self, rng: random.Random, script: str, font: Path):
        self._rng, self._font, self._ranges = rng, font, SCRIPTS[script]
        self._long = 3 if script in ("Chinese", "Japanese", "Korean") else 9

    def words(self, count: int) -> str:
        """Returns so many words that mean nothing, and a number now and then."""
        return " ".join(self._word() for _ in range(count))

    def _word(self) -> str:
        if self._rng.random() < 0.1:
            return str(self._rng.randrange(10 ** self._rng.randint(1, 4)))
        chosen = self._rng.choices(self._ranges, k=self._rng.randint(1, self._long))
        return "".join(chr(self._rng.randint(*span)) for span in chosen) + self._rng.choice(["", "", "", ",", "."])

    def face(self, pixels: float) -> ImageFont.FreeTypeFont:
        """Returns the font in a size that is given in pixels of the picture."""
        return ImageFont.truetype(str(self._font), round(pixels * FINE))


def colours(rng: random.Random) -> tuple[Colour, Colour]:
    """Returns a dark and a light colour."""
    if rng.random() < 0.4:
        return (0, 0, 0), (255, 255, 255)
    dark, light = (tuple(rng.randint(low, low + 90) for _ in range(3)) for low in (0, 165))
    return dark, light  # type: ignore[return-value]  # of three each


def page(image: Image.Image, rng: random.Random, ink: Colour, letters: Letters) -> None:
    size = SMALLEST * 2 ** rng.uniform(0, 1.2)
    canvas, face, top = ImageDraw.Draw(image), letters.face(size), rng.uniform(0, size)
    while top < SIDE:
        canvas.text((rng.choice([8, 8, 40]) * FINE, top * FINE), letters.words(8), font=face, fill=ink)
        top += size * rng.uniform(1.3, 1.6)


def sign(image: Image.Image, rng: random.Random, ink: Colour, letters: Letters) -> None:
    """Large words, a frame maybe, turned a little."""
    ground, canvas = image.getpixel((0, 0)), ImageDraw.Draw(image)
    for row in range(rng.randint(2, 4)):
        place = (rng.uniform(20, 90) * FINE, (30 + 120 * row) * FINE)
        canvas.text(place, letters.words(2), font=letters.face(rng.uniform(50, 110)), fill=ink)
    if rng.random() < 0.5:
        canvas.rectangle(_box(12, 12, SIDE - 12, SIDE - 12), outline=ink, width=rng.randint(4, 12) * FINE)
    angle = rng.gauss(0, 6)
    image.paste(image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=ground))


def window(image: Image.Image, rng: random.Random, ink: Colour, letters: Letters) -> None:
    """Bars, panels and buttons with words on them."""
    canvas, accent = ImageDraw.Draw(image), tuple(rng.randint(0, 255) for _ in range(3))
    canvas.rectangle(_box(0, 0, SIDE, 48), fill=accent)
    canvas.text((12 * FINE, 8 * FINE), letters.words(2), font=letters.face(SMALLEST), fill=(255, 255, 255))
    top = 64.0
    while top < SIDE - 60:
        left, height = rng.choice([16, 16, 48]), rng.uniform(40, 72)
        box = _box(left, top, left + rng.uniform(160, 440), top + height)
        fill, pen = rng.choice([None, None, accent]), rng.choice([2, 4]) * FINE
        canvas.rounded_rectangle(box, rng.choice([0, 8]) * FINE, outline=ink, width=pen, fill=fill)
        canvas.text(((left + 12) * FINE, (top + 4) * FINE), letters.words(2), font=letters.face(SMALLEST), fill=ink)
        top += height + rng.uniform(8, 32)


def lines(image: Image.Image, rng: random.Random, ink: Colour, letters: Letters) -> None:
    """Waves, circles, stars and hatching, of pens of 3 to 9 pixels; `letters` are not used."""
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.randint(5, 14)):
        width, (x, y) = round(rng.uniform(3, 9) * FINE), (rng.uniform(0, SIDE), rng.uniform(0, SIDE))
        rng.choice(_FIGURES)(canvas, rng, x, y, ink, width)


def _wave(canvas: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, ink: Colour, width: int) -> None:
    height, period, angle = rng.uniform(5, 60), rng.uniform(30, 150), rng.uniform(0, math.pi)
    along = [(t, height * math.sin(t * 2 * math.pi / period)) for t in range(-400, 401, 2)]
    cos, sin = math.cos(angle), math.sin(angle)
    canvas.line(
        [((x + cos * t - sin * h) * FINE, (y + sin * t + cos * h) * FINE) for t, h in along], ink, width, joint="curve"
    )


def _circle(canvas: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, ink: Colour, width: int) -> None:
    across, high = rng.uniform(10, 120), rng.uniform(10, 120)
    canvas.ellipse(_box(x - across, y - high, x + across, y + high), outline=ink, width=width)


def _star(canvas: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, ink: Colour, width: int) -> None:
    corners, outer, inner = rng.randint(3, 9), rng.uniform(30, 120), rng.uniform(10, 60)
    around = [(outer if i % 2 else inner, math.pi * i / corners) for i in range(2 * corners + 1)]
    points = [((x + r * math.cos(a)) * FINE, (y + r * math.sin(a)) * FINE) for r, a in around]
    canvas.line(points, ink, width, joint="curve")


def _hatching(canvas: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, ink: Colour, width: int) -> None:
    step, angle, length = rng.uniform(10, 24), rng.uniform(0, math.pi), rng.uniform(40, 160)
    cos, sin = math.cos(angle), math.sin(angle)
    for i in range(rng.randint(4, 12)):
        start = (x - sin * i * step, y + cos * i * step)
        canvas.line([_scaled(start), _scaled((start[0] + cos * length, start[1] + sin * length))], ink, width)


_FIGURES: list[Callable[..., None]] = [_wave, _circle, _star, _hatching]
KINDS: list[tuple[str, Callable[..., None]]] = [
    ("a page of {} text", page),
    ("a sign with {} letters", sign),
    ("a screenshot with {} text", window),
    ("a drawing of lines", lines),
]
"""What is drawn: what it is called, with the script's name, and by what."""


def _scaled(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * FINE, point[1] * FINE


def _box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [value * FINE for value in (left, top, right, bottom)]


if __name__ == "__main__":
    raise SystemExit(main())
