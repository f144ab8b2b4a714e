"""The bundled model: whole, small, found without a network, and better than what anybody has already."""

import json
from pathlib import Path
from typing import Any

import bundle_model
import numpy as np
import pytest
import torch
from fork_server import run_python
from PIL import Image

from xpsr import Prior, XPSRPipeline
from xpsr.errors import InputError
from xpsr.model_files import bundled_models, checksums

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pipe() -> XPSRPipeline:
    pipe = XPSRPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def lr() -> Image.Image:
    return Image.open(ROOT / "examples" / "moose.png").convert("RGB")


@pytest.fixture(scope="module")
def restored(pipe: XPSRPipeline, lr: Image.Image) -> Image.Image:
    return pipe(lr, generator=seeded()).images[0]  # with what its describer says, as the demo does


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)  # of the grain


def luma(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(float)


def test_folder_is_complete_and_small() -> None:
    folder = bundled_models()["mini"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= bundle_model.MAX_MEGABYTES * 2**20
    assert json.loads((folder / "checksums.json").read_text()) == checksums(folder)
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("Training", "Numbers", "Limits", "Licence"))


def test_it_restores_in_one_step_without_flags(pipe: XPSRPipeline, restored: Image.Image) -> None:
    settings = pipe.settings()
    assert (settings.num_inference_steps, settings.strength, settings.guidance_scale) == (1, 0.0, 1.0)
    assert settings.num_shifts == 1
    assert restored.size == (512, 512)


def test_restored_is_about_as_faithful_as_bicubic_and_sharper(
    pipe: XPSRPipeline, lr: Image.Image, restored: Image.Image
) -> None:
    hr = luma(Image.open(ROOT / "examples" / "moose_original.jpg"))
    bicubic, sr = luma(lr.resize((512, 512), Image.Resampling.BICUBIC)), luma(restored)

    def error(image: np.ndarray) -> float:
        return float(np.sqrt(np.mean((image - hr) ** 2)))

    def detail(image: np.ndarray) -> float:  # mean gradient
        return float(np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean())

    assert error(sr) < 1.1 * error(bicubic)  # what looks sharp is never exactly right
    untold = pipe(lr, prior=Prior(), generator=seeded()).images[0]
    assert error(luma(untold)) < 1.12 * error(bicubic)  # without texts it is less right
    assert 1.25 * detail(bicubic) < detail(sr) < detail(hr)


def test_colours_stay(lr: Image.Image, restored: Image.Image) -> None:
    small = np.asarray(restored.resize((16, 16), Image.Resampling.BOX)).astype(float)
    assert np.abs(small - np.asarray(lr.resize((16, 16), Image.Resampling.BOX))).mean() < 3


def test_a_text_about_quality_and_one_about_content_matter(pipe: XPSRPipeline, lr: Image.Image) -> None:
    crop = lr.crop((32, 32, 64, 64))
    plain = luma(pipe(crop, prior=Prior(), generator=seeded()).images[0])
    for prior in (Prior(content="a forest"), Prior(quality="a very blurry photograph with strong noise")):
        assert not np.array_equal(plain, luma(pipe(crop, prior=prior, generator=seeded()).images[0]))


@pytest.mark.slow
def test_tiles_do_not_show(pipe: XPSRPipeline, lr: Image.Image, restored: Image.Image) -> None:
    tiled = luma(pipe(lr, prior=Prior(), settings={"tile_size": 64}, generator=seeded()).images[0])
    assert np.abs(tiled - luma(restored)).mean() < 3


@pytest.mark.parametrize("options", [{"num_inference_steps": 8}, {"preset": "paper"}, {"preset": "reference"}])
def test_several_steps_and_presets_of_larger_models_are_refused(
    pipe: XPSRPipeline, lr: Image.Image, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="is more than the one step that this model has learned; use 1"):
        pipe(lr, **options)


def test_the_demo_prints_where_its_picture_is(tmp_path: Path) -> None:
    target = tmp_path / "demo.png"
    done = run_python(ROOT / "examples" / "demo.py", target, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == "" and len(lines := done.stdout.splitlines()) == 5
    assert lines[-1] == str(target)
    with Image.open(target) as picture:
        assert picture.size == (3 * 512 + 2 * 8, 512)
