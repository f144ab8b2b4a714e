"""The describer that comes with xpsr, on the shipped photograph and on what is done to it."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from xpsr.errors import ModelError
from xpsr.image import Picture, to_picture
from xpsr.model_files import bundled_models
from xpsr.prior import quality_text
from xpsr.prior.mini import LevelsNetwork, MiniDescriber, native_crops

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def describer() -> MiniDescriber:
    return MiniDescriber.bundled()


@pytest.fixture(scope="module")
def clean() -> Image.Image:
    """The cleanest picture that the project has: the right half of the README's before and after, reduced."""
    with Image.open(ROOT / "docs" / "images" / "moose.png") as image:
        side = image.height
        return image.convert("RGB").crop((image.width - side, 0, image.width, side)).resize((128, 128), Image.LANCZOS)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def noised(image: Image.Image, sigma: float) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, sigma, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def test_each_fault_alone_is_told_and_not_taken_for_another(describer: MiniDescriber, clean: Image.Image) -> None:
    pictures = {
        "clean": clean,
        "blur": clean.filter(ImageFilter.GaussianBlur(1.0)),
        "noise": noised(clean, 12),
        "compression": compressed(clean, 20),
    }
    priors = describer.describe(list(pictures.values()))
    seen = {name: prior.levels for name, prior in zip(pictures, priors, strict=True)}
    assert seen["clean"] is not None and "strong" not in vars(seen["clean"]).values()
    for fault in ("blur", "noise", "compression"):
        levels = seen[fault]
        assert levels is not None and getattr(levels, fault) == "strong"
        assert all(getattr(levels, other) != "strong" for other in ("blur", "noise", "compression") if other != fault)


def test_texts_are_sentences_of_what_was_seen(describer: MiniDescriber) -> None:
    (prior,) = describer.describe([ROOT / "examples" / "moose.png"])
    assert prior.levels is not None and prior.quality == quality_text(prior.levels)
    assert prior.content == "" or prior.content.startswith("a photograph of ")


def test_nothing_is_said_of_what_shows_nothing(describer: MiniDescriber) -> None:
    assert describer.see_content(to_noise()) == ""


def to_noise() -> Picture:
    return to_picture(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))


def test_a_picture_takes_less_than_a_second_and_progress_is_told(describer: MiniDescriber) -> None:
    image = Image.new("RGB", (512, 512), (90, 120, 60))
    told: list[int] = []
    describer.describe([image], progress=told.append)
    start = time.process_time()
    describer.describe([image], progress=told.append)
    assert time.process_time() - start < 1
    assert told == [1, 1]


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400))
def test_crops_are_the_picture_s_own_pixels(height: int, width: int) -> None:
    ramp = torch.arange(height * width).remainder(256).reshape(1, height, width).expand(3, -1, -1) / 255
    crops = native_crops(ramp)
    assert 1 <= len(crops) <= 9
    assert all(16 <= side <= 128 for crop in crops for side in crop.shape[-2:])
    whole = set(ramp.mul(255).round().flatten().tolist())
    assert all(set(crop.mul(255).round().flatten().tolist()) <= whole for crop in crops)
    if min(height, width) >= 16 and max(height, width) <= 128:
        assert torch.allclose(crops[0], ramp)


def test_levels_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network, pixels = LevelsNetwork().eval(), torch.rand(3, 3, 40, 56)
    alone = torch.cat([network(one[None]) for one in pixels])
    assert torch.allclose(network(pixels), alone, atol=1e-5)


def test_the_describer_is_small_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = bundled_models()["mini"] / "describer"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"levels\.safetensors: is missing; copy or download it again\.$"):
        MiniDescriber(tmp_path)
