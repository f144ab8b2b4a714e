"""Metrics of the package `pyiqa`, which xpsr does not depend on: since 2026 its licence allows no commercial use."""

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from xpsr.errors import InputError, brief
from xpsr.image import to_uint8

__all__ = ["PREFIX", "Foreign", "open_foreign", "pyiqa_is_there"]

logger = logging.getLogger(__name__)

PREFIX = "pyiqa:"


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A metric of pyiqa.

    Attributes:
        measure: of the restored picture (3, H, W) in [0, 1] and, where it needs one, its original.
        needs: what it compares with.
        lower_is_better: as pyiqa says.
        version: of pyiqa.
    """

    measure: Callable[[torch.Tensor, torch.Tensor | None], float]
    needs: Literal["nothing", "hr"]
    lower_is_better: bool
    version: str


def pyiqa_is_there() -> bool:
    """Returns whether the package is installed; does not import it."""
    return importlib.util.find_spec("pyiqa") is not None


def open_foreign(name: str) -> Foreign | str:
    """Returns the metric that pyiqa calls `name`, or why pyiqa cannot open it; pyiqa may fetch its weights.

    Raises:
        InputError: pyiqa knows no such metric.
    """
    pyiqa = importlib.import_module("pyiqa")
    _tell_licence()
    if name not in pyiqa.list_models():
        field = f"{PREFIX}{name}"
        raise InputError("is no metric of pyiqa", code="not_found", field=field, remedy="see pyiqa.list_models()")
    try:
        metric = pyiqa.create_metric(name, device="cpu")
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        return f"pyiqa cannot open {name} ({brief(error)}); does it find its weights?"
    needs: Literal["nothing", "hr"] = "hr" if metric.metric_mode == "FR" else "nothing"
    return Foreign(
        measure=functools.partial(_measure, metric),
        needs=needs,
        lower_is_better=bool(metric.lower_better),
        version=importlib.metadata.version("pyiqa"),
    )


def _measure(metric: Any, restored: torch.Tensor, hr: torch.Tensor | None) -> float:
    pictures = [to_uint8(pixels)[None].cpu().float() / 255 for pixels in (restored, hr) if pixels is not None]
    with torch.inference_mode(), _same_draws():
        return float(metric(*pictures).item())


@contextmanager
def _same_draws() -> Iterator[None]:
    """Some metrics look at crops that they draw at random: always the same ones, whichever process does."""
    others, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        try:
            yield
        finally:
            random.setstate(others)
            np.random.set_state(numbers)


@functools.cache
def _tell_licence() -> None:
    """Once in a process."""
    logger.warning("pyiqa is under the PolyForm Noncommercial License since 2026; check that your use is allowed.")
