"""How many passes a picture needs: schedulers and settings against the result with many steps.

    python -m benchmarks steps --model FOLDER --suite PICTURES [--variants ddim:20 unipc:8 ...]

A variant is SCHEDULER:STEPS, and settings after it, as in unipc:10:guidance_scale=3,tile_size=96. Every picture is
restored by all variants from the same noise and without texts; PSNR and SSIM are those of xpsr's `basicsr` protocol, to
the result of --against. That says how much a variant changes the result, not which one is better.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.combinations import positive
from benchmarks.models import Subject, open_subject
from benchmarks.rows import Rows
from benchmarks.tables import table
from xpsr.config import Settings
from xpsr.errors import InputError, XPSRError, one_line
from xpsr.evaluation import mean_scores, score
from xpsr.files import list_images
from xpsr.image import to_picture
from xpsr.models.scheduling import SCHEDULERS
from xpsr.prior import Prior

VARIANTS = ("ddim:50", "ddim:20", "unipc:8", "unipc:10", "dpm:8", "dpm:10")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Fields of `Settings`: a scheduler, how often it steps, and others beside that."""

    name: str
    settings: Mapping[str, Any]


def parse_variant(text: str) -> Variant:
    """Reads SCHEDULER:STEPS[:NAME=VALUE,...].

    Raises:
        InputError: it is none.
    """
    scheduler, _, rest = text.partition(":")
    steps, _, options = rest.partition(":")
    pairs = [option.partition("=") for option in options.split(",")] if options else []
    if scheduler not in SCHEDULERS or not steps.isdecimal() or not all(sign for _, sign, _ in pairs):
        remedy = f"write one of {', '.join(SCHEDULERS)}, and steps, such as unipc:8 or ddim:20:guidance_scale=3"
        raise InputError("is no variant", code="unknown_value", field="variants", value=text, remedy=remedy)
    settings = {name: yaml.safe_load(value) for name, _, value in pairs}
    return Variant(name=text, settings={"scheduler": scheduler, "num_inference_steps": int(steps), **settings})


def restore_all(subject: Subject, variant: Variant, pictures: Sequence[Path]) -> tuple[list[torch.Tensor], float]:
    """Returns results (3, H, W) in [0, 1], and the median of their seconds.

    Raises:
        InputError: the model cannot follow the variant.
    """
    settings: Settings = subject.pipe.settings(None, variant.settings)
    results, seconds = [], []
    for path in pictures:
        generator = torch.Generator().manual_seed(0)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=subject.autocast):
            output = subject.pipe(
                to_picture(path), prior=Prior(), settings=settings, generator=generator, output_type="pt"
            )
        results.append(output.images[0][:3].float().cpu())
        seconds.append(time.perf_counter() - start)
    return results, statistics.median(seconds)


def compare_variants(
    subject: Subject, variants: Sequence[Variant], against: Variant, pictures: Sequence[Path], rows: Rows, model: str
) -> None:
    """Adds a row for `against` and for each variant, also one that fails.

    Raises:
        InputError: the model cannot follow `against`.
    """
    truth, seconds = restore_all(subject, against, pictures)
    facts = {
        "kind": "steps",
        "model": model,
        "against": against.name,
        "pictures": len(pictures),
        "device": str(subject.device),
        "dtype": subject.dtype,
        "threads": torch.get_num_threads(),
    }
    rows.add({**facts, "variant": against.name, "seconds": round(seconds, 3)})
    for variant in variants:
        row = {**facts, "variant": variant.name}
        try:
            results, seconds = restore_all(subject, variant, pictures)
            scores = mean_scores([score(result, hr) for result, hr in zip(results, truth, strict=True)])
        except XPSRError as error:
            row["error"] = str(error)
        except Exception as error:  # of a scheduler that is given what it cannot do
            row["error"] = one_line(error)
        else:
            row |= {"seconds": round(seconds, 3)}
            row |= {name: round(scores[name], 4) for name in ("psnr_y", "ssim_y")}
        rows.add(row)


def show(rows: Sequence[Mapping[str, Any]], *, markdown: bool) -> str:
    """Returns the rows as a table; seconds also in relation to those of `against`, which comes first."""
    most = rows[0]["seconds"]
    lines = []
    for row in rows:
        cells = {name: str(row[name]) for name in ("model", "against", "pictures", "dtype", "threads", "variant")}
        if "error" in row:
            cells["failed"] = row["error"]
        else:
            cells |= {"seconds": f"{row['seconds']:.2f}", "of the time": f"{row['seconds'] / most:.0%}"}
        if "psnr_y" in row:
            cells |= {"PSNR-Y": f"{row['psnr_y']:.2f}", "SSIM-Y": f"{row['ssim_y']:.4f}"}
        lines.append(cells)
    return table(lines, markdown=markdown)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a folder of a model that takes several steps, or full")
    parser.add_argument("--suite", type=Path, required=True, help="a folder of the pictures that are restored")
    parser.add_argument("--count", type=positive, help="of its pictures, the first so many")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--against", default=VARIANTS[0], help=f"the variant to compare with (default: {VARIANTS[0]})")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=positive)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("-o", "--output", type=Path, help="a .jsonl, to which rows are added")
    args = parser.parse_args(arguments)
    against = parse_variant(args.against)
    variants = [variant for variant in map(parse_variant, args.variants) if variant.name != against.name]
    pictures = list_images(args.suite)[: args.count]
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    rows = Rows(args.output)
    subject = open_subject(args.model, device=args.device, dtype=args.dtype)
    compare_variants(subject, variants, against, pictures, rows, args.model)
    print(show(rows.all, markdown=args.markdown))
    return 1 if rows.failed else 0
