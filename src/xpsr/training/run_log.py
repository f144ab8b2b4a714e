"""What a run tells of itself: `metrics.jsonl`, trackers, curves, and what it ran on."""

import importlib.util
import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xpsr import __version__
from xpsr.config import TrainRunConfig, as_dict
from xpsr.config.checks import said
from xpsr.errors import InputError, MissingDependencyError, TrainingError
from xpsr.files import atomic_write, refusal
from xpsr.jsonl import read_lines, to_line, write_lines

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["OnMetrics", "RunLog", "environment", "plot_metrics", "tracker_names"]

logger = logging.getLogger(__name__)

_TRACKER_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def tracker_names(config: TrainRunConfig) -> list[str]:
    """Returns the trackers that a run reports to.

    Raises:
        MissingDependencyError: one that is asked for is not installed.
    """
    installed = {name: importlib.util.find_spec(module) is not None for name, module in _TRACKER_MODULES.items()}
    if config.train.trackers is None:
        return ["tensorboard"] if installed["tensorboard"] else []
    for name in config.train.trackers:
        if not installed[name]:
            raise MissingDependencyError(
                f"names {name}, which is not installed",
                field="train.trackers",
                value=said(config.train.trackers),
                remedy=f"run `pip install {name}`",
            )
    return list(config.train.trackers)


OnMetrics = Callable[[int, Mapping[str, float]], None]


class RunLog:
    """Writes `metrics.jsonl`, a line at a time, and tells trackers and `on_metrics`; all in the main process alone.

    Raises:
        TrainingError: from the methods that write: a line cannot be written, as on a full disk.
    """

    def __init__(
        self, config: TrainRunConfig, accelerator: "Accelerator", *, step: int, on_metrics: OnMetrics | None = None
    ):
        self._on_metrics = on_metrics
        self._accelerator, self._main = accelerator, accelerator.is_main_process
        self._last = (step, time.monotonic())
        if not self._main:
            return
        path = config.train.output_dir / "metrics.jsonl"
        # what a killed run wrote after its last checkpoint is done, and written, again
        write_lines(path, [row for row in _read_metrics(path) if row["step"] <= step])
        accelerator.init_trackers("xpsr", config=dict(_flat(as_dict(config))))
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._main:
            with suppress(OSError):  # what could not be written was told
                self._file.close()

    def write(self, step: int, metrics: Mapping[str, float], *, batch_size: int) -> None:
        """Writes the terms of an update's loss; `batch_size` is that of a whole update."""
        last_step, last_time = self._last
        now = time.monotonic()
        self._last = (step, now)
        speed = (step - last_step) * batch_size / max(now - last_time, 1e-9)
        values = {**metrics, "samples_per_second": speed, "memory_gb": _memory(self._accelerator.device)}
        if self._main:
            self._write(step, values)

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Writes what validation found."""
        if self._main:
            self._write(step, {f"validation_{name}": value for name, value in scores.items()})
            logger.info("validation at step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in scores.items()))

    def pause(self) -> None:
        """Forgets the time since the last line: it went into checkpoints or validation."""
        self._last = (self._last[0], time.monotonic())

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        try:
            self._file.write(to_line({"step": step, "time": time.time(), **rounded}))
            self._file.flush()
        except OSError as error:
            raise refusal(Path(self._file.name), "cannot be written", error).recast(TrainingError) from error
        self._accelerator.log(dict(values), step=step)
        if self._on_metrics is not None:
            self._on_metrics(step, rounded)


def _read_metrics(path: Path) -> list[dict[str, float]]:
    """Returns the rows of a `metrics.jsonl`, if there is one; lines that a crash spoiled are counted in a warning.

    No run is kept from going on by them: they say nothing that it needs.
    """
    rows, spoiled = list[dict[str, float]](), list[object]()
    for _, row in read_lines(path, on_damage=spoiled.append):
        whole = "step" in row and all(isinstance(value, int | float) for value in row.values())
        (rows if whole else spoiled).append(row)
    if spoiled:
        total = len(rows) + len(spoiled)
        logger.warning("%s: %d of %d lines cannot be read and are left out.", path, len(spoiled), total)
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted names and plain values, as trackers want them."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, int | float | str) else json.dumps(value)


def _memory(device: torch.device) -> float:
    """Returns the peak memory so far in GB: of the GPU, or what this process holds now of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import psutil  # comes with accelerate

    return psutil.Process().memory_info().rss / 1e9


def environment(device: torch.device, *, num_processes: int = 1) -> dict[str, Any]:
    """Returns versions, machine and the commit of this package's sources, if they lie in a git repository."""
    import accelerate
    import diffusers
    import transformers

    return {
        "xpsr": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "num_processes": num_processes,
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git
        return None
    return done.stdout.strip() or None


def plot_metrics(folder: Path) -> Path:
    """Draws every metric of a run's `metrics.jsonl` over the steps, as `folder/curves.png`, and returns its path.

    Raises:
        InputError: the folder holds no metrics, or cannot be written to.
        MissingDependencyError: matplotlib is not installed.
    """
    path, target = folder / "metrics.jsonl", folder / "curves.png"
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in _read_metrics(path):
        for name in row.keys() - {"step", "time"}:
            curves.setdefault(name, []).append((row["step"], row[name]))
    if not curves:
        raise InputError(f"{path}: no metrics are there", code="no_metrics", remedy="name a run's train.output_dir")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("curves need matplotlib", remedy="run `pip install matplotlib`") from error
    names = sorted(curves, key=lambda name: (name != "loss", not name.startswith("validation_"), name))
    figure = Figure(figsize=(10, 2.2 * len(names)), layout="constrained")
    for name, axes in zip(names, figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], strict=True):
        axes.plot(*zip(*curves[name], strict=True), marker=".", markersize=3)
        axes.set_title(name, loc="left")
    axes.set_xlabel("step")
    with atomic_write(target) as part:
        figure.savefig(part, format="png")
    return target
