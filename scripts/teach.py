"""Shows LR pictures of stored pairs to another method and keeps what it makes of them: `teacher/NAME` beside `lr/NAME`.

    python scripts/teach.py pairs/ -- realesrgan-ncnn-vulkan -i {input} -o {output}
    python scripts/teach.py pairs/ --at-once 2 --suffix .webp -- python teacher.py {input} {output}

What is there is not made again: the same command goes on after an interruption. A picture that the command fails on, or
makes in another size than HR's, is told, and the exit code is 1.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xpsr.data.manifest import TEACHER
from xpsr.data.pairs import find_teachers
from xpsr.errors import InputError
from xpsr.files import IMAGE_SUFFIXES, pair_images
from xpsr.image import picture_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="a folder with hr/ and lr/")
    parser.add_argument("--at-once", metavar="N", type=int, default=1, help="commands that run at once (default: 1)")
    parser.add_argument("--suffix", choices=sorted(IMAGE_SUFFIXES), default=".png", help="of {output} (default: .png)")
    parser.add_argument("command", nargs="+", help="after --; {input} and {output} in it are paths")
    args = parser.parse_args()
    if not all(any(place in word for word in args.command) for place in ("{input}", "{output}")):
        parser.error("the command names no {input} or no {output}")
    if shutil.which(args.command[0]) is None:
        parser.error(f"{args.command[0]}: no such command")
    try:
        taught, pairs = find_teachers(args.pairs), pair_images(args.pairs / "hr", args.pairs / "lr")
    except InputError as error:
        parser.error(str(error))
    left = [(hr, lr) for hr, lr in pairs if hr.stem not in taught]
    (args.pairs / TEACHER).mkdir(exist_ok=True)
    print(f"{len(pairs) - len(left)} of {len(pairs)} are there", flush=True)
    failed = 0
    with ThreadPoolExecutor(args.at_once) as threads:
        asked = threads.map(lambda pair: teach(pair, args.pairs / TEACHER, args.suffix, args.command), left)
        for done, (pair, problem) in enumerate(zip(left, asked, strict=True), 1):
            if problem:
                failed += 1
                print(f"{pair[1]}: {problem}", flush=True)
            if done % 100 == 0 or done == len(left):
                print(f"{len(pairs) - len(left) + done - failed} of {len(pairs)} are there", flush=True)
    return 1 if failed else 0


def teach(pair: tuple[Path, Path], folder: Path, suffix: str, command: Sequence[str]) -> str | None:
    """Makes one picture of a pair (HR, LR), whole or not at all; returns what went wrong."""
    hr, lr = pair
    part = folder / f".{hr.stem}{suffix}"  # hidden: nobody reads it
    words = [word.replace("{input}", str(lr)).replace("{output}", str(part)) for word in command]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, errors="replace")
        width, height = picture_size(part)
        if (width, height) != picture_size(hr):
            return f"{width} x {height} pixels came back, not HR's size"
        part.rename(folder / f"{hr.stem}{suffix}")
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        return f"exit code {error.returncode}" + (f": {said[-1]}" if said else "")
    except (InputError, OSError) as error:
        return str(error)
    finally:
        part.unlink(missing_ok=True)
    return None


if __name__ == "__main__":
    sys.exit(main())
