"""Times the parts of a restoration on this machine.

    python -m benchmarks [--model mini full FOLDER] [--size 128 256x192] [--threads 1 2] [--dtype fp32 bf16] ...
    python -m benchmarks --sizes 256 512 1024 2048
    python -m benchmarks steps --help

Every combination of what is given several times runs in a process of its own, one after the other. What cannot be
measured is a row that says why, and the exit code is 1. docs/speed.md tells what the columns mean.
"""

import argparse
import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.combinations import PARTS, PICTURE, Combination, positive
from benchmarks.peer import check_checkout, measure_peer, split_command
from benchmarks.processes import BenchmarkError, ask_worker
from benchmarks.reports import show_operators, show_parts, show_peers, show_reference
from benchmarks.rows import Rows
from xpsr.errors import XPSRError


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0; 1: something could not be measured; 2: the arguments cannot be used."""
    try:
        if arguments[:1] == ["steps"]:
            from benchmarks import steps  # loads diffusers

            return steps.main(arguments[1:])
        return _run(parser().parse_args(arguments))
    except XPSRError as error:
        print(f"benchmarks: {error.sentence(_as_option)}", file=sys.stderr)
        return 2


def _as_option(field: str, value: str | None) -> str:
    return f"--{field.replace('_', '-')}" + ("" if value is None else f" {value}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = parser.add_argument_group("what is timed; each takes several")
    several.add_argument("--model", nargs="+", default=["mini"], help="mini, full (random weights) or a folder")
    sizes = several.add_mutually_exclusive_group()
    sizes.add_argument("--size", nargs="+", type=_size, default=[(128, 128)], help="of the input: SIDE or WIDTHxHEIGHT")
    sizes.add_argument("--sizes", nargs="+", type=_size, help="of the output instead; --parts is whole by default")
    several.add_argument("--dtype", nargs="+", default=["auto"], help="auto, fp32, bf16, fp16")
    several.add_argument("--threads", nargs="+", type=positive, default=[None], help="default: torch's own choice")
    several.add_argument("--engine", nargs="+", default=[None], help="as Restorer takes it; default: its own")
    several.add_argument("--parts", nargs="+", choices=PARTS, help="default: all")
    one = parser.add_argument_group("how")
    one.add_argument("--device", default="auto")
    one.add_argument("--compile", action="store_true", help="ControlNet and UNet by torch.compile")
    one.add_argument("--steps", type=positive, help="of denoising, in whole (default: the model's own)")
    one.add_argument("--scale", type=float, default=4.0, help="how much larger the output is (default: 4)")
    one.add_argument("--picture", type=Path, default=PICTURE, help="resized to the size (default: examples/moose.png)")
    one.add_argument("--runs", type=positive, default=5, help="that count (default: 5)")
    one.add_argument("--warm-up", type=int, default=1, help="that do not, after one that counts FLOPs (default: 1)")
    one.add_argument("--profile", action="store_true", help="tell the operators' shares, too")
    others = parser.add_argument_group("others beside it")
    others.add_argument("--reference", type=Path, metavar="FOLDER", help="a checkout of the authors' code")
    others.add_argument("--reference-python", metavar="PYTHON", default=sys.executable, help="that has what it needs")
    others.add_argument(
        "--peer", action="append", default=[], metavar="COMMAND", help='"upscaler {input} {output} -j {threads}"'
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a .jsonl, to which rows are added")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return positive(width), positive(height or width)


_size.__name__ = "size"


def combinations(args: argparse.Namespace) -> Iterator[Combination]:
    """All that is asked for."""
    sizes = (
        args.size if args.sizes is None else [tuple(round(side / args.scale) for side in size) for size in args.sizes]
    )
    parts = args.parts or (PARTS if args.sizes is None else ("whole",))
    for model, dtype, engine, threads, (width, height) in itertools.product(
        args.model, args.dtype, args.engine, args.threads, sizes
    ):
        yield Combination(
            model=model,
            width=max(1, width),
            height=max(1, height),
            scale=args.scale,
            device=args.device,
            dtype=dtype,
            threads=threads,
            engine=engine,
            compiled=args.compile,
            steps=args.steps,
            parts=tuple(part for part in PARTS if part in parts),
            picture=str(args.picture.resolve()),
            runs=args.runs,
            warm_up=args.warm_up,
            profile=args.profile,
        )


def _run(args: argparse.Namespace) -> int:
    for command in args.peer:
        split_command(command)  # before hours have gone by
    if args.reference is not None:
        check_checkout(args.reference)
    rows = Rows(args.output)
    for combination in combinations(args):
        _tell(f"{combination.model}, {combination.width} x {combination.height}, {combination.dtype}")
        _add_parts(rows, combination)
    for command, threads, (width, height) in itertools.product(args.peer, args.threads, _input_sizes(rows)):
        _tell(f"{command}, {width} x {height}")
        row = {"kind": "peer", "command": command, "input": f"{width}x{height}", "asked_threads": threads}
        try:
            options = {"threads": threads, "runs": args.runs, "warm_up": args.warm_up}
            row |= measure_peer(command, args.picture, width, height, **options)
        except BenchmarkError as error:
            row["error"] = str(error)
        rows.add(row)
    if args.reference is not None:
        _add_reference(rows, args)
    reports = [show_parts, show_operators, show_peers, show_reference]
    print("\n\n".join(text for report in reports if (text := report(rows, markdown=args.markdown))))
    return 1 if rows.failed else 0


def _add_parts(rows: Rows, combination: Combination) -> None:
    asked = dataclasses.asdict(combination)
    row = {name: asked[name] for name in ("model", "device", "dtype", "threads", "engine", "compiled", "steps")}
    row |= {"kind": "part", "input": f"{combination.width}x{combination.height}", "scale": combination.scale}
    row["asked_threads"] = combination.threads
    try:
        answer = ask_worker("benchmarks.parts", asked, threads=combination.threads)
    except BenchmarkError as error:
        rows.add({**row, "error": str(error)})
        return
    parts = answer.pop("parts")
    for name, measured in parts.items():
        rows.add({**row, **answer, "part": name, **measured})


def _input_sizes(rows: Rows) -> list[tuple[int, int]]:
    return list(dict.fromkeys(_size(row["input"]) for row in rows.of("part")))


def _add_reference(rows: Rows, args: argparse.Namespace) -> None:
    from benchmarks.reference import LATENT_SIDE, measure_reference  # loads diffusers

    for threads in args.threads:
        _tell(f"the reference and ours, a step of {LATENT_SIDE} x {LATENT_SIDE} latents")
        row = {"kind": "reference", "latents": f"{LATENT_SIDE}x{LATENT_SIDE}", "dtype": "fp32"}
        row["device"] = "cpu" if args.device == "auto" else args.device
        try:
            sides = measure_reference(
                args.reference,
                python=args.reference_python,
                device=row["device"],
                threads=threads,
                runs=args.runs,
                warm_up=args.warm_up,
            )
        except BenchmarkError as error:
            rows.add({**row, "threads": threads or os.cpu_count(), "error": str(error)})
            continue
        for side, measured in sides.items():
            rows.add({**row, "side": side, **measured})


def _tell(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
