"""Trains a config as it is and with each part taken away, and prints a table of what each run reached.

    python benchmarks/ablations.py configs/mini/2_join.yaml OUTPUT --hr HR_DIR --lr LR_DIR --steps 400 [--priors FILE]

Every run is the command `xpsr train CONFIG --ablate.PART=true ...` with the same seed and number of steps. A run that
was finished before is not repeated; an unfinished one goes on. A run that fails, or stops early, ends the script with
its exit code. What follows `--` is given to every run.
"""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from reporting import markdown_table

STOPPED_EARLY = 3  # as xpsr train says it

VARIANTS = {
    "all of it": [],
    "no content": ["--ablate.content=true"],
    "no quality": ["--ablate.quality=true"],
    "no SFA": ["--ablate.semantic_fusion=true"],
    "no DFC": ["--ablate.degradation_free=true"],
}


def summary(folder: Path) -> dict[str, float]:
    """Losses, meaned over the last quarter of the logged steps, and the last validation's scores."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    training = [row for row in rows if "loss" in row]
    last = training[-max(len(training) // 4, 1) :]
    found = {name: float(np.mean([row[name] for row in last])) for name in ("diffusion", "pixel") if name in last[0]}
    scores = [row for row in rows if any(name.startswith("validation_") for name in row)]
    found |= {name.removeprefix("validation_"): value for name, value in scores[-1].items() if "validation_" in name}
    seconds = training[-1]["time"] - training[0]["time"]
    return found | {"minutes": seconds / 60}


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than one; use 400, for example")
    return number


def complaint(name: str, code: int) -> str:
    """What to say of a run that ended with another exit code than 0."""
    if code == STOPPED_EARLY:
        return f"the run '{name}' stopped early (exit code 3); the same command goes on from its checkpoint."
    if code < 0:
        return f"the run '{name}' was killed by {signal.Signals(-code).name}; the same command goes on."
    return f"the run '{name}' ended with exit code {code}; see what it said above."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--hr", type=Path, required=True, help="validation pictures")
    parser.add_argument("--lr", type=Path, required=True, help="the same, degraded")
    parser.add_argument("--priors", type=Path, help="what is said of them, as `xpsr describe` writes it")
    parser.add_argument("--steps", type=positive, default=400)
    parser.add_argument("rest", nargs="*", help="options for every run, after --")
    args = parser.parse_args()
    results = {}
    for name, options in VARIANTS.items():
        folder = args.output / name.replace(" ", "-")
        command = [sys.executable, "-m", "xpsr", "train", str(args.config), *options, *args.rest]
        command += [f"--train.output_dir={folder}", f"--train.max_steps={args.steps}"]
        command += [
            f"--validation.every={args.steps}",
            f"--validation.hr_dir={args.hr}",
            f"--validation.lr_dir={args.lr}",
        ]
        command += [f"--validation.priors={args.priors}"] if args.priors else []
        print("$", *command, flush=True)
        code = subprocess.run(command, check=False).returncode
        if code:
            print(f"ablations: {complaint(name, code)}", file=sys.stderr)
            return code if code > 0 else 128 - code  # as a shell says it
        results[name] = summary(folder)
    rows = {name: {column: f"{value:.4f}" for column, value in row.items()} for name, row in results.items()}
    table = markdown_table(rows, f"{args.steps} steps")
    (args.output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
