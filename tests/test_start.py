"""What a command imports before it can begin: a structure, not seconds, so that a busy machine does not matter."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from test_imports import run_python

from xpsr import cli

HEAVY = {"torch", "diffusers", "transformers", "numpy", "cv2", "scipy", "huggingface_hub", "httpx"}
"""Libraries that take tenths of seconds and more; a picture that is done needs none of them.
Pillow alone tells how large it is, and so how much larger its result is to be."""


@pytest.fixture
def upscale(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs `xpsr upscale ARGUMENTS` in a fresh interpreter, and returns the libraries that it has imported."""

    def run(*arguments: str, code: int = 0) -> list[str]:
        command = f"""
import sys
from xpsr.cli import main
assert main(["upscale", *{arguments!r}]) == {code}
print("LOADED", *sys.modules)
"""
        *_, loaded = run_python(command, tmp_path).splitlines()
        return loaded.split()[1:]

    return run


@pytest.fixture
def done(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, loaded_once: None) -> tuple[str, ...]:
    """The arguments of a command that has been run, once for good and now for what it imports."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 6), "green").save("photo.png")
    arguments = ("photo.png", "--model", str(tiny_model))
    assert cli.main(["upscale", *arguments]) == 0
    assert "torch" in sys.modules
    return arguments


@pytest.mark.parametrize("more", [(), ("--on-existing", "skip"), ("--json",)], ids=["update", "skip", "json"])
def test_a_picture_that_is_done_needs_no_heavy_library(upscale, done, more):
    assert HEAVY.isdisjoint(upscale(*done, *more))


def test_what_cannot_be_replaced_is_refused_without_a_heavy_library(upscale, done, tmp_path):
    (tmp_path / "outputs" / "photo_x4.png").write_bytes(b"of somebody else")
    assert HEAVY.isdisjoint(upscale(*done, code=1))


def test_no_picture_is_told_without_a_heavy_library(upscale, tmp_path):
    (tmp_path / "empty").mkdir()
    assert HEAVY.isdisjoint(upscale("empty", "missing.png", code=1))


@pytest.mark.parametrize("module", ["records", "model_files", "prior", "sources", "config"])
def test_what_decides_is_light(module, tmp_path):
    loaded = run_python(f"import sys, xpsr.{module}; print(*sys.modules)", tmp_path).split()
    assert HEAVY.isdisjoint(loaded)


def test_a_model_on_disk_is_found_and_its_weights_digested_without_a_heavy_library(tmp_path):
    code = """
import sys
from xpsr.model_files import checksums, fetch_model, read_json
assert checksums(fetch_model("mini")) and read_json(fetch_model("mini") / "model_index.json")
print(*sys.modules)
"""
    assert HEAVY.isdisjoint(run_python(code, tmp_path).split())


@pytest.mark.slow
def test_restoring_imports_neither_metrics_nor_training_nor_optional_readers(tmp_path):
    unused = ("h5py", "matplotlib", "pandas", "pillow_heif", "pyiqa", "skimage", "tensorboard", "torchvision")
    rooms = ("xpsr.training", "xpsr.evaluation", "xpsr.data", "xpsr.degradation", "xpsr.convert", "xpsr.prior.mllm")
    code = "import sys, xpsr.batch.restoring; print(*sys.modules)"
    assert {*unused, *rooms, "xpsr.prior.server"}.isdisjoint(run_python(code, tmp_path).split())


@pytest.mark.parametrize("is_on", [True, False])
def test_the_garbage_collector_is_as_it_was_when_a_name_has_loaded(is_on, tmp_path):
    command = f"""
import gc
if not {is_on}:
    gc.disable()
import xpsr
xpsr.Prior
print(gc.isenabled())
"""
    assert run_python(command, tmp_path).split()[-1] == str(is_on)
