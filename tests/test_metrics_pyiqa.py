"""Metrics of pyiqa, where it is installed: a package of that name and shape stands for it here."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from evaluation_helpers import photo

from xpsr.errors import InputError
from xpsr.evaluation import Protocol, Subject, open_metrics
from xpsr.evaluation.foreign import _tell_licence

PACKAGE = """
import random
import numpy as np
import torch

class Dice:
    metric_mode, lower_better = "NR", False
    def __call__(self, target):
        return torch.rand(()) + np.random.rand() + random.random()

class Metric:
    def __init__(self, mode, lower):
        self.metric_mode, self.lower_better = mode, lower
    def __call__(self, target, *reference):
        assert target.shape[:2] == (1, 3) and 0 <= target.min() <= target.max() <= 1
        return (target - reference[0]).abs().mean() if reference else target.mean()

def list_models():
    return ["bright", "dice", "far", "heavy"]

def create_metric(name, device):
    if name == "heavy":
        raise OSError("no route to host")
    if name == "dice":
        return Dice()
    return Metric("FR", True) if name == "far" else Metric("NR", False)
"""


@pytest.fixture(autouse=True)
def pyiqa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "pyiqa").mkdir()
    (tmp_path / "pyiqa" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "pyiqa-9.1.dist-info").mkdir()
    (tmp_path / "pyiqa-9.1.dist-info" / "METADATA").write_text("Name: pyiqa\nVersion: 9.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    _tell_licence.cache_clear()
    yield
    sys.modules.pop("pyiqa", None)


def test_its_metrics_are_metrics_and_its_licence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    protocol = Protocol(metrics=("pyiqa:bright", "pyiqa:far"))
    with caplog.at_level(logging.WARNING):
        (bright, far), missing = open_metrics(protocol, available={"hr"})
        open_metrics(protocol, available={"hr"})
    assert [record.message for record in caplog.records if "PolyForm Noncommercial" in record.message] == [
        "pyiqa is under the PolyForm Noncommercial License since 2026; check that your use is allowed."
    ]
    assert not missing
    assert (bright.needs, bright.lower_is_better, bright.version) == ("nothing", False, "pyiqa 9.1")
    assert (far.needs, far.lower_is_better, far.name) == ("hr", True, "pyiqa:far")
    subject = Subject(restored=photo((40, 32), noise=0.1), hr=photo((40, 32)))
    assert bright.compute(subject, protocol) == pytest.approx(subject.restored.mean().item(), abs=1e-6)
    assert far.compute(subject, protocol) == pytest.approx(
        (subject.restored - subject.original).abs().mean().item(), abs=1e-6
    )


def test_what_draws_at_random_draws_the_same_for_every_picture_and_process() -> None:
    protocol = Protocol(metrics=("pyiqa:dice",))
    ((dice,), _), subject = open_metrics(protocol, available=set()), Subject(restored=photo((40, 32)))
    torch.manual_seed(1)
    first = dice.compute(subject, protocol)
    drawn = torch.rand(())
    assert dice.compute(subject, protocol) == first
    torch.manual_seed(1)
    assert torch.rand(()) == drawn  # and what the caller draws is as without it


def test_what_needs_an_original_is_not_measured_without_one() -> None:
    _, missing = open_metrics(Protocol(metrics=("pyiqa:far",)), available=set())
    assert missing == {"pyiqa:far": "needs the originals"}


def test_what_pyiqa_does_not_know_or_cannot_open_is_told() -> None:
    with pytest.raises(InputError, match=r"pyiqa:brigt is no metric of pyiqa"):
        open_metrics(Protocol(metrics=("pyiqa:brigt",)), available={"hr"})
    _, missing = open_metrics(Protocol(metrics=("pyiqa:heavy",)), available={"hr"})
    assert missing == {"pyiqa:heavy": "pyiqa cannot open heavy (no route to host); does it find its weights?"}
