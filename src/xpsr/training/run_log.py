"""What a run leaves to be looked at: its folder's records, `metrics.jsonl`, trackers, curves."""

import importlib.util
import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xpsr import __version__
from xpsr.config import TrainRunConfig, as_dict
from xpsr.errors import InputError, MissingDependencyError
from xpsr.files import write_text

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["OnMetrics", "RunLog", "environment", "plot_metrics", "tracker_names"]

logger = logging.getLogger(__name__)

_TRACKER_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def tracker_names(config: TrainRunConfig) -> list[str]:
    """The trackers that a run reports to.

    Raises:
        MissingDependencyError: one that is asked for is not installed.
    """
    installed = {name: importlib.util.find_spec(module) is not None for name, module in _TRACKER_MODULES.items()}
    if config.train.trackers is None:
        return ["tensorboard"] if installed["tensorboard"] else []
    for name in config.train.trackers:
        if not installed[name]:
            raise MissingDependencyError(f"train.trackers names {name}, which is not installed: pip install {name}")
    return list(config.train.trackers)


OnMetrics = Callable[[int, Mapping[str, float]], None]


class RunLog:
    """Writes `metrics.jsonl`, a line at a time, and tells trackers and `on_metrics`; all in the main process alone."""

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
        rows = [row for row in _read_metrics(path) if row["step"] <= step] if path.is_file() else []
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = path.open("a", encoding="utf-8")
        accelerator.init_trackers("xpsr", config=dict(_flat(as_dict(config))))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._main:
            self._file.close()

    def write(self, step: int, metrics: Mapping[str, float], *, batch_size: int) -> None:
        """The terms of an update's loss; `batch_size` is that of a whole update."""
        last_step, last_time = self._last
        now = time.monotonic()
        self._last = (step, now)
        speed = (step - last_step) * batch_size / max(now - last_time, 1e-9)
        values = {**metrics, "samples_per_second": speed, "memory_gb": _memory(self._accelerator.device)}
        if self._main:
            self._write(step, values)

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """What validation found."""
        if self._main:
            self._write(step, {f"validation_{name}": value for name, value in scores.items()})
            logger.info("validation at step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in scores.items()))

    def pause(self) -> None:
        """Forgets the time since the last line: it went into checkpoints or validation."""
        self._last = (self._last[0], time.monotonic())

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "time": time.time(), **rounded}) + "\n")
        self._file.flush()
        self._accelerator.log(dict(values), step=step)
        if self._on_metrics is not None:
            self._on_metrics(step, rounded)


def _read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`, without lines that a crash cut off or spoiled: they are told in one warning."""
    rows, spoiled = [], 0
    *lines, _ = path.read_bytes().split(b"\n")
    for line in lines:
        try:
            row = {name: float(value) for name, value in json.loads(line).items()}
            rows.append({**row, "step": int(row["step"])})
        except (ValueError, KeyError, TypeError, AttributeError):
            spoiled += 1
    if spoiled:
        logger.warning("%s: %d of %d lines cannot be read and are left out.", path, spoiled, len(lines))
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and plain values, as trackers want them."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, int | float | str) else json.dumps(value)


def _memory(device: torch.device) -> float:
    """Peak memory so far in GB: of the GPU, or what this process holds now of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import psutil  # comes with accelerate

    return psutil.Process().memory_info().rss / 1e9


def environment(device: torch.device, *, num_processes: int = 1) -> dict[str, Any]:
    """Versions, machine and the commit of this package's sources, if they lie in a git repository."""
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


# Curves

_WIDTH, _HEIGHT, _LEFT, _TOP = 420, 220, 56, 30
_COLUMNS = 2


def plot_metrics(folder: Path) -> Path:
    """Draws every metric of a run's `metrics.jsonl` over the steps, as `folder/curves.svg`; returns its path.

    Raises:
        InputError: the folder holds no metrics.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a run's output_dir.")
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in _read_metrics(path):
        for name in row.keys() - {"step", "time"}:
            curves.setdefault(name, []).append((row["step"], row[name]))
    if not curves:
        raise InputError(f"{path}: holds no metrics.")
    first = ["loss", *sorted(name for name in curves if name.startswith("validation_"))]
    names = [name for name in first if name in curves] + sorted(curves.keys() - set(first))
    rows = -(-len(names) // _COLUMNS)
    parts = [_panel(name, curves[name], i % _COLUMNS, i // _COLUMNS) for i, name in enumerate(names)]
    size = f'width="{_COLUMNS * _WIDTH}" height="{rows * _HEIGHT}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    target = folder / "curves.svg"
    write_text(target, "\n".join([svg, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""]))
    return target


def _panel(name: str, points: Sequence[tuple[float, float]], column: int, row: int) -> str:
    """A titled box with the points, faint, and their running mean."""
    finite = [(x, y) for x, y in points if abs(y) < float("inf")]
    steps, values = [x for x, _ in finite] or [0.0], [y for _, y in finite] or [0.0]
    low, high, last = min(values), max(values), max(steps)
    span = high - low or abs(high) or 1.0
    width, height = _WIDTH - _LEFT - 16, _HEIGHT - _TOP - 30

    def place(x: float, y: float) -> str:
        return f"{_LEFT + x / (last or 1) * width:.1f},{_TOP + (high - y) / span * height:.1f}"

    smooth: list[tuple[float, float]] = []
    mean = values[0]
    for x, y in finite:
        mean += (y - mean) * max(0.1, 1 / (len(smooth) + 1))
        smooth.append((x, mean))
    ticks = "".join(
        f'<text x="{_LEFT - 6}" y="{_TOP + share * height + 4:.1f}" text-anchor="end">{high - share * span:.3g}</text>'
        f'<path d="M{_LEFT} {_TOP + share * height:.1f}h{width}" stroke="#ddd"/>'
        for share in (0, 0.5, 1)
    )
    lines = "".join(
        f'<polyline fill="none" stroke="{color}" points="{" ".join(place(x, y) for x, y in curve)}"/>'
        for color, curve in (("#9bbfe0", finite), ("#1f4e79", smooth))
    )
    dots = "".join(f'<circle cx="{c[0]}" cy="{c[1]}" r="1.5"/>' for c in (place(*p).split(",") for p in finite[-1:]))
    return (
        f'<g transform="translate({column * _WIDTH},{row * _HEIGHT})"><text x="{_LEFT}" y="18" font-weight="bold">'
        f"{escape(name)}</text>{ticks}{lines}{dots}"
        f'<text x="{_LEFT + width}" y="{_HEIGHT - 10}" text-anchor="end">step {last:.0f}</text></g>'
    )
