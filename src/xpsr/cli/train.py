"""`xpsr train`."""

import contextlib
import dataclasses
import json
import logging
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from xpsr.cli.progress import counting
from xpsr.cli.terminal import Parser, answer, complain, loading, quiet_libraries
from xpsr.config import TrainRunConfig, load_config, shipped_configs
from xpsr.config.checks import Limit, Span
from xpsr.errors import InputError

if TYPE_CHECKING:
    from xpsr.training import OnMetrics

__all__ = ["explained", "run"]


def run(arguments: Sequence[str]) -> int:
    """Trains a model and returns the exit code."""
    parser = Parser(
        prog="xpsr train",
        usage="xpsr train CONFIG.yaml [--SECTION.KEY=VALUE ...] [--dry-run]\n       xpsr train --plot RUN_DIR",
        description="Trains a model as CONFIG.yaml says and writes it to train.output_dir/model. The same command\n"
        "goes on after an interruption. Exit code 3: stopped early, with a checkpoint to go on from.\n"
        "Several processes: torchrun --nproc-per-node N -m xpsr train CONFIG.yaml ...\n"
        f"Some configs to start from are in {shipped_configs()}.",
        epilog="\n".join(_options()),
    )
    parser.add_argument(
        "config", metavar="CONFIG.yaml", type=Path, nargs="?", default=None, help="what is other than the defaults"
    )
    parser.add_argument(
        "--dry-run", action="store_true", default=False, help="train nothing; say what it would take, without weights"
    )
    parser.add_argument("--plot", metavar="RUN_DIR", type=Path, help="draw a run's metrics as RUN_DIR/curves.png")
    parser.add_argument("--debug", action="store_true", default=False, help="show where errors come from")
    args, overrides = parser.parse_known_args(arguments)
    if "plot" in args:
        if args.config is not None or overrides:
            raise InputError("--plot RUN_DIR stands alone; leave the config out.")
        from xpsr.training import plot_metrics

        answer(plot_metrics(args.plot))
        return 0
    if args.config is None:
        raise InputError("the following arguments are required: CONFIG.yaml; see xpsr train --help.")
    config = load_config(TrainRunConfig, args.config, overrides)
    with loading():
        if not args.debug:
            quiet_libraries()
        from xpsr.recipe import is_main_process, train_model
        from xpsr.training import is_finished, plan_run

    if args.dry_run:
        print(plan_run(config), end="")
        return 0
    main_process, finished, folder = is_main_process(), is_finished(config), config.train.output_dir
    if main_process and finished:
        complain(
            f"{folder}: this run was finished before; train.resume=never or another train.output_dir starts a new one."
        )
    # some trackers print
    with counting("training", quiet=finished or not main_process) as bar, contextlib.redirect_stdout(sys.stderr):
        logging.getLogger("xpsr").setLevel(logging.INFO if main_process else logging.ERROR)
        model = train_model(config, on_metrics=None if bar is None else _shown_in(bar, config.train.max_steps))
    if model is None:
        if main_process:
            complain(f"stopped early; the same command goes on from {folder / 'checkpoint.pt'}.")
        return 3
    if main_process:
        answer(model)
    return 0


def _shown_in(bar: Callable[..., None], max_steps: int) -> "OnMetrics":
    """Returns what shows a run's metrics in a bar."""

    def show(step: int, metrics: Mapping[str, float]) -> None:
        if "loss" in metrics:
            speed = metrics["samples_per_second"]
            bar(step, max_steps, f"loss {metrics['loss']:.3f}, {speed:.1f} samples/s")

    return show


def _options() -> Iterator[str]:
    yield "options, with their defaults; null is none, and a list is written [a, b]:"
    for section in dataclasses.fields(TrainRunConfig):
        kind: Any = section.type
        yield f"\n  {section.name}: {(kind.__doc__ or '').splitlines()[0]}"
        yield from _explained(kind(), f"{section.name}.")


def _explained(config: Any, prefix: str) -> Iterator[str]:
    """Yields the options of a section with defaults and explanations, and those of the sections in it."""
    nested = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            nested.append((f"{prefix}{f.name}.", value, f.metadata["help"]))
            continue
        shown = json.dumps(value, default=str, ensure_ascii=False).replace('"', "")
        yield f"    --{prefix}{f.name}={shown}"
        yield textwrap.fill(explained(f), 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    for name, value, explanation in nested:
        yield f"\n    {name.rstrip('.')}: {explanation}"
        yield from _explained(value, name)


def explained(f: "dataclasses.Field[Any]") -> str:
    """Returns what an option is, and which values it takes."""
    explanation, rule = f.metadata["help"], f.metadata["rule"]
    if choices := list(_choices(f.type)):
        return f"{explanation} One of: {', '.join(choices)}."
    return f"{explanation} Range: {rule}." if isinstance(rule, Limit | Span) else str(explanation)


def _choices(kind: Any) -> Iterator[str]:
    for arg in get_args(kind):
        yield from (arg,) if isinstance(arg, str) else _choices(arg)
