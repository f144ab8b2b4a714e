"""Damages pictures of all formats and reads them, in a process with limits: none may crash, hang or take more memory.

    python scripts/fuzz_pictures.py --count 100000 --keep findings

Picture number i of a seed is always the same. Each becomes a picture or an `InputError`; anything else is a finding,
whose file is kept and whose number is printed. So are those that wanted more memory than the limit, and were refused.
`tests/test_fuzz.py` does some of it.
"""

import argparse
import io
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from xpsr.errors import InputError
from xpsr.image import Limits, decode_image

LIMITS = Limits(max_pixels=2**20, max_bytes=2**24)
MEMORY = 2**29
"""Bytes beyond what the process has when it starts; a million pixels of floats with alpha are 16 MB."""
SECONDS = 20
"""For one picture, on a machine that does other things, too."""


def corpus() -> dict[str, bytes]:
    """Returns small pictures of all formats and kinds, whole, by their names."""
    files: dict[str, bytes] = {}
    generator = np.random.default_rng(0)
    smooth = np.kron(generator.integers(0, 65536, (4, 6, 4)), np.ones((6, 5, 1))).astype(np.uint16)
    rgba = Image.fromarray((smooth >> 8).astype(np.uint8))
    rgb = rgba.convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    beside: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": icc}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="3"/>'

    def add(name: str, image: Image.Image, kind: str, **options: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = Image.fromarray(smooth[..., 0]) if mode == "I;16" else rgba.convert("RGB").convert(mode)
        add(f"{mode}.png", image, "PNG", **beside)
    for mode in ("L", "RGB", "CMYK"):
        add(f"{mode}.jpg", rgb.convert(mode), "JPEG", xmp=xmp, **beside)
    add("progressive.jpg", rgb, "JPEG", progressive=True)
    add("pictures.mpo", rgb, "MPO", save_all=True, append_images=[rgb])
    add("lossy.webp", rgba, "WEBP", xmp=xmp, **beside)
    add("lossless.webp", rgba, "WEBP", lossless=True)
    frames = [rgb.rotate(90 * turn) for turn in range(1, 4)]
    for kind in ("WEBP", "GIF", "PNG", "AVIF", "TIFF"):
        add(f"frames.{kind.lower()}", rgb, kind, save_all=True, append_images=frames)
    add("8.avif", rgba, "AVIF", **beside)
    for mode, compression in (("1", "group4"), ("L", None), ("RGB", "tiff_lzw"), ("CMYK", None), ("RGB", "jpeg")):
        add(f"{mode}-{compression}.tif", rgb.convert(mode), "TIFF", compression=compression, icc_profile=icc)
    for name, kind in (("a.bmp", "BMP"), ("a.gif", "GIF"), ("a.ppm", "PPM"), ("a.tga", "TGA"), ("a.jp2", "JPEG2000")):
        add(name, rgb, kind)
    files |= _deep(smooth)
    return files


def _deep(values: np.ndarray[Any, Any]) -> dict[str, bytes]:
    """Pictures of more than 8 bits, and JPEG XL."""
    import cv2
    import OpenImageIO as oiio

    files: dict[str, bytes] = {}
    floats = (values / 65535).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for name, numbers, told in (
            ("rgb16.png", values[..., :3], {}),
            ("rgba16.png", values, {"oiio:UnassociatedAlpha": 1}),
            ("rgb16.tif", values[..., :3], {"compression": "none"}),
            ("rgba16.tif", values, {"compression": "zip"}),
            ("planar.tif", values[..., :3], {"planarconfig": "separate", "compression": "lzw"}),
            ("tiles.tif", values[..., :3], {"compression": "zip"}),
            ("12.tif", values[..., :1], {"oiio:BitsPerSample": 12}),
            ("float.tif", floats[..., :3], {}),
            ("8.jxl", (values[..., :3] >> 8).astype(np.uint8), {}),
            ("16.jxl", values, {}),
            ("float.jxl", floats[..., :1], {}),
        ):
            height, width, channels = numbers.shape
            spec = oiio.ImageSpec(width, height, channels, numbers.dtype.name.replace("float32", "float"))
            for attribute, value in told.items():
                spec[attribute] = value
            if name == "tiles.tif":
                spec.tile_width = spec.tile_height = 16
            path = str(Path(folder, name))
            out = oiio.ImageOutput.create(path)
            assert (
                out is not None
                and out.open(path, spec)
                and out.write_image(np.ascontiguousarray(numbers))
                and out.close()
            )
            files[name] = Path(path).read_bytes()
    for bits in (10, 12):
        done, content = cv2.imencode(".avif", values[..., :3] >> (16 - bits), [cv2.IMWRITE_AVIF_DEPTH, bits])
        assert done
        files[f"{bits}.avif"] = content.tobytes()
    try:
        import pillow_heif
    except ImportError:
        return files
    for mode, size in (("RGB", 1), ("RGBA;16", 2)):
        channels = len(mode.split(";")[0])
        data = np.kron(values[..., :channels] >> (16 - 8 * size), np.ones((3, 3, 1), int)).astype(f"u{size}")
        image = pillow_heif.from_bytes(mode=mode, size=data.shape[1::-1], data=data.tobytes())
        buffer = io.BytesIO()
        image.save(buffer, quality=90)
        files[f"{8 * size}.heic"] = buffer.getvalue()
    return files


def damaged(files: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Returns the name and bytes of the damaged picture of a number."""
    chance = random.Random(seed * 2**32 + number)
    names = sorted(files)
    name = chance.choice(names)
    content = bytearray(files[name])
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        place, length = _place(chance, len(content)), min(len(content), chance.choice((1, 2, 4, 4, 8, 64)))
        way = chance.randrange(8)
        if way == 0 and content:
            content[place] ^= 1 << chance.randrange(8)
        elif way == 1 and content:
            content[place] = chance.choice((0, 1, 127, 128, 254, 255, chance.randrange(256)))
        elif way == 2:
            number_ = chance.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, chance.randrange(2**32)))
            size = chance.choice((2, 4))
            written = (number_ % 2 ** (8 * size)).to_bytes(size)
            content[place : place + size] = written if chance.random() < 0.5 else written[::-1]
        elif way == 3:
            del content[place : place + length]
        elif way == 4:
            content[place:place] = content[place : place + length] * chance.choice((1, 2, 50))
        elif way == 5:
            other = files[chance.choice(names)]
            start = _place(chance, len(other))
            content[place : place + length] = other[start : start + length]
        elif way == 6:
            content[place : place + length] = chance.randbytes(length)
        elif chance.random() < 0.3:
            del content[place:]
    return name, bytes(content)


def _place(chance: random.Random, size: int) -> int:
    """A place in a file, every other time among the headers."""
    return chance.randrange(max(1, min(size, 300) if chance.random() < 0.5 else size))


def read(files: dict[str, bytes], seed: int, number: int) -> str:
    """Reads the damaged picture of a number; returns "read", "refused", "memory", or what went wrong."""
    name, content = damaged(files, seed, number)
    try:
        picture = decode_image(content, name, limits=LIMITS, accept_truncated=number % 2 == 1)
    except InputError as error:
        said = str(error)
        if "\n" in said or not said.startswith(f"{name}: "):
            return f"said {said!r}"
        return "memory" if "does not fit in memory" in said else "refused"
    except Exception as error:
        if "allocate memory" in str(error):
            return "memory"
        return f"raised {type(error).__name__} at {traceback.extract_tb(error.__traceback__)[-1]}: {error}"
    pixels = picture.pixels
    is_right = pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1
    return "read" if is_right and pixels[0].numel() <= LIMITS.max_pixels else "gave values outside [0, 1]"


def work(seed: int, numbers: range) -> None:
    """Reads pictures one by one and tells about each, on standard output, before it and after it."""
    files = corpus()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    for number in (1, 0):  # decoders are loaded
        decode_image(files["16.jxl" if number else "10.avif"], "a")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("ready", file=out)
    for number in numbers:
        print(number, file=out)
        outcome = read(files, seed, number)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"{used} {outcome}".replace("\n", " "), file=out)


def run(seed: int, count: int, seconds: float, keep: Path | None) -> tuple[Counter[str], float, int]:
    """Returns how many pictures came to what, seconds, and the most bytes that one process took beyond its start."""
    counts: Counter[str] = Counter()
    started, most, number = time.monotonic(), 0, 0
    files = corpus()
    while number < count and time.monotonic() - started < seconds:
        worker = subprocess.Popen(
            [sys.executable, __file__, "--seed", str(seed), "--work", str(number), str(count)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where decoders speak of damage
        )
        with worker:
            assert worker.stdout is not None
            lines = _Lines(worker.stdout.fileno())
            if lines.next(120) != "ready":
                raise RuntimeError("the process does not start")
            while number < count and time.monotonic() - started < seconds:
                told = lines.next(SECONDS)
                outcome = lines.next(SECONDS) if told == str(number) else told
                if outcome is None:
                    counts[finding := "crashed" if worker.poll() is not None or lines.is_at_end else "hung"] += 1
                else:
                    used, finding = outcome.split(" ", 1)
                    most = max(most, int(used) * 1024)
                    counts[finding if finding in ("read", "refused", "memory") else "wrong"] += 1
                if finding not in ("read", "refused"):
                    name, content = damaged(files, seed, number)
                    print(f"{number} ({name}, odd numbers accept truncation): {finding}", flush=True)
                    if keep is not None:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{seed}-{number}-{name}").write_bytes(content)
                number += 1
                if outcome is None:
                    break
            worker.kill()
    return counts, time.monotonic() - started, most


class _Lines:
    """Lines of a pipe, with a time to wait for each."""

    def __init__(self, number: int):
        self._number, self._held, self.is_at_end = number, b"", False

    def next(self, seconds: float) -> str | None:
        """Returns the next line; None: none came in time, or none comes any more."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._held:
            wait = deadline - time.monotonic()
            if wait <= 0 or not select.select([self._number], [], [], wait)[0]:
                return None
            more = os.read(self._number, 65536)
            if not more:
                self.is_at_end = True
                return None
            self._held += more
        line, self._held = self._held.split(b"\n", 1)
        return line.decode()


def main() -> int:
    """Runs, prints what came of it, and returns 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="of pictures (default: 100000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="to stop after")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--keep", type=Path, help="a folder for what is found")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.seed, range(*args.work))
        return 0
    counts, seconds, most = run(args.seed, args.count, args.seconds, args.keep)
    told = ", ".join(f"{name} {counts[name]}" for name in ("read", "refused", "memory", "wrong", "crashed", "hung"))
    print(f"{counts.total()} pictures in {seconds:.0f} s: {told}; most memory {most / 2**20:.0f} MB")
    return 1 if counts["wrong"] or counts["crashed"] or counts["hung"] else 0


if __name__ == "__main__":
    sys.exit(main())
