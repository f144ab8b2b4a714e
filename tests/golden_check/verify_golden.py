"""Runs a folder of the reference's numbers through xpsr and compares every one.

    python tests/golden_check/verify_golden.py tests/golden/A
    python tests/golden_check/verify_golden.py tests/golden/degradation/A

The folder holds a whole small system of the reference with its inputs and outputs (tests/golden/README.md describes the
format). It is converted as a user would (`xpsr convert`) and then only the public path is used. Or it holds the numbers
of the degradation, with degradation.json. One row a tensor: name, largest error relative to the largest golden value
(absolute for the degradation), tolerance, ok. Exit code 1: something is off, missing or not known.
"""

import argparse
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import diffusers.utils.logging
import transformers.utils.logging
from golden_degradation import Numbers, degradation_sections
from golden_rows import EXACT, Row, compare
from golden_system import System, colorfix, debug, forward, loop, prepare_latents, preprocess, scheduler, texts
from golden_training import from_unet, loss

from xpsr.convert import convert_reference
from xpsr.pipeline import XPSRPipeline

T = TypeVar("T")

Section = Callable[[System], Iterator[Row]]


def sections(folder: Path) -> dict[str, Section]:
    """Every comparison that the folder asks for, by the file it is about."""
    found: dict[str, Section] = {
        "run": texts,
        "forward": forward,
        "debug": debug,
        "scheduler": scheduler,
        "prepare_latents": prepare_latents,
        "colorfix": colorfix,
    }
    runs = {path.stem for pattern in ("loop*", "tiled*") for path in folder.glob(f"{pattern}.safetensors")}
    announced = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    runs |= {name for name in announced if re.fullmatch(r"tiled\d*", name)}
    found |= {name: partial(loop, name=name) for name in sorted({"loop", "loop_nocfg", "loop_noise", "tiled", *runs})}
    found |= {"preprocess": preprocess, "loss": loss, "from_unet": from_unet}
    strangers = {path.stem for path in folder.glob("*.safetensors")} - set(found)
    return found | {name: partial(unknown, name=name) for name in sorted(strangers)}


def unknown(system: System, name: str) -> Iterator[Row]:
    """A file that the format does not know."""
    yield from compare(name, {}, system.load(name), EXACT)


def load(folder: Path) -> System:
    """The folder's system, converted as a user would."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, "model")
        convert_reference(folder, base=folder, out=model)
        return System(folder, XPSRPipeline.from_pretrained(model))


def verify(folder: Path) -> Iterator[Row]:
    """One row for everything in the folder."""
    is_degradation = any((folder / f"degradation.{suffix}").is_file() for suffix in ("json", "safetensors"))
    yield from verify_degradation(folder) if is_degradation else verify_system(folder)


def verify_degradation(folder: Path) -> Iterator[Row]:
    try:
        numbers = Numbers(folder)
    except Exception as error:  # as below
        yield failure("degradation", error)
        return
    for name, section in degradation_sections(numbers).items():
        yield from guarded(f"degradation:{name}", section, numbers)


def verify_system(folder: Path) -> Iterator[Row]:
    """Converts the folder's system first."""
    try:
        system, asked = load(folder), sections(folder)
    except Exception as error:  # whatever a damaged folder causes; the row says so and the exit code tells
        yield failure("system", error)
        return
    for name, section in asked.items():
        yield from guarded(name, section, system)


def guarded(name: str, section: Callable[[T], Iterator[Row]], system: T) -> Iterator[Row]:
    """The section's rows, the last of them its error if a damaged file causes one: the others can still be compared."""
    try:
        yield from section(system)
    except Exception as error:
        yield failure(name, error)


def failure(name: str, error: Exception) -> Row:
    return Row(name, math.inf, EXACT, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def report(folder: Path) -> int:
    """Prints what `verify` says; returns 1 if something is off."""
    rows = []
    for row in verify(folder):
        rows.append(row)
        state = "ok" if row.ok else "OFF"
        print(f"{row.name:110} {row.error:9.1e} {row.tolerance:8.0e}  {state}  {row.note}".rstrip())
    wrong = [row for row in rows if not row.ok]
    print(f"{len(rows) - len(wrong)} of {len(rows)} ok")
    for row in wrong:
        print(f"OFF: {row.name}: {row.error:.1e} > {row.tolerance:.0e} {row.note}".rstrip(), file=sys.stderr)
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, help="such as tests/golden/A or tests/golden/degradation/A")
    folder = parser.parse_args().folder
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    return report(folder)


if __name__ == "__main__":
    sys.exit(main())
