"""Fixtures of all tests."""

import contextlib
import dataclasses
import functools
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

gc.disable()  # until everything is imported, which makes a million objects and no garbage

import fork_server  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # the tests' tensors are too small for more to pay


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers share the server of the process that starts them
        stack = contextlib.ExitStack()
        stack.enter_context(fork_server.running())
        config.add_cleanup(stack.close)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # imported modules live to the end: no collection need go through them again
    gc.set_threshold(100_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A playwright Browser; without one the test is skipped."""
    from browser import running

    with running() as browser:
        yield browser


@pytest.fixture(scope="session")
def golden() -> Path:
    """Set A of the golden numbers; see `golden/README.md`."""
    return Path(__file__).parent / "golden" / "A"


@pytest.fixture(scope="module")
def _opened() -> Callable[..., Any]:
    from xpsr.pipeline.placing import open_pipeline

    opened = functools.lru_cache(maxsize=4)(open_pipeline)
    return lambda folder, *place, **options: opened(folder.resolve(), *place, **options)


@pytest.fixture
def loaded_once(_opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `Restorer` of a module's tests has its model from the first one that loaded it.

    Loading takes three quarters of the time that a tiny picture takes; test_model_folder.py sees what it does.
    """
    monkeypatch.setattr("xpsr.restore.open_pipeline", _opened)


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """Processes that restore for a server are forked, where it does not matter how they start and end."""
    with pytest.MonkeyPatch.context() as patch:
        if fork_server.ADDRESS in os.environ:
            patch.setattr("xpsr.batch.processes._PYTHON", fork_server.STAND_IN)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of the mini's kind, tiny and untrained; one step by default."""
    from xpsr.config import ModelConfig
    from xpsr.pipeline import XPSRPipeline
    from xpsr.training import build_components

    config = ModelConfig(
        block_out_channels=(16, 32),
        num_attention_heads=(1, 2),
        norm_num_groups=8,
        conditioning_channels=(4, 8, 16),
        text_width=32,
        decoder_channels=8,
        decoder_layers=1,
    )
    torch.manual_seed(0)
    components = build_components(config, torch.rand(4, 3, 64, 64))
    with torch.no_grad():  # zero layers would hide the ControlNet and the conditional attentions
        for part in (components.controlnet, components.unet):
            for parameter in part.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.02)
    pipeline = XPSRPipeline(
        **vars(components),
        one_step_timestep=250,
        settings={
            **dataclasses.asdict(config.settings),
            "strength": 0.4,
            "tile_size": 16,
            "tile_overlap": 4,
            "num_shifts": 1,
        },
    )
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    pipeline.save_pretrained(folder)
    return folder
