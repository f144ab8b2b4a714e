"""What has no colour comes back without one, whoever restores it; what sRGB cannot hold goes with the picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from color_helpers import DISPLAY_P3
from PIL import Image

from xpsr import Prior, Restorer, XPSRPipeline
from xpsr.cli import main
from xpsr.image import Origin, Picture, read_image, resize, to_gray
from xpsr.image.alpha import bleed
from xpsr.image.profiles import from_srgb, to_srgb


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> XPSRPipeline:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


def photo(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (10, 12, 2), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 256 + values[..., 1])
    image = Image.fromarray(values, "LA") if mode == "LA" else Image.fromarray(values[..., 0])
    return image.convert(mode)


def is_gray(values: np.ndarray) -> bool:
    return bool((values[..., :1] == values[..., :3]).all())


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "RGB"])
def test_gray_stays_gray(pipe, restorer, tiny_model, tmp_path, mode):
    photo(mode).save(tmp_path / "in.png")
    assert read_image(tmp_path / "in.png").is_gray
    of_pipe = pipe(tmp_path / "in.png", prior=Prior(), generator=torch.Generator().manual_seed(0)).images[0]
    restored = restorer.restore(tmp_path / "in.png", Prior(), seed=0).picture
    command = ["upscale", "--model", str(tiny_model), "--describer", "none", "--seed", "0", "--dtype", "fp32"]
    assert (
        main(
            [
                *command,
                "--device",
                "cpu",
                "--dtype",
                "fp32",
                "--output",
                str(tmp_path / "out"),
                str(tmp_path / "in.png"),
            ]
        )
        == 0
    )
    (written,) = (tmp_path / "out").glob("*.png")
    of_command = (read_image(written).pixels * 255).permute(1, 2, 0).numpy()
    assert is_gray(np.asarray(of_pipe)) and is_gray(restored.pixels.permute(1, 2, 0).numpy()) and restored.is_gray
    step = 0.51 if mode == "I;16" else 1e-3  # of 16 bits the pipeline's image has 8
    assert np.abs(np.asarray(of_pipe.convert("RGB")) - of_command).max() <= step
    assert np.abs(restored.pixels.permute(1, 2, 0).numpy() * 255 - of_command).max() <= 0.51


def test_a_tint_is_a_color(pipe):
    sepia = np.asarray(photo("RGB")) * np.array([1, 0.99, 0.97])
    result = pipe(sepia / 255, prior=Prior(), output_type="np").images[0]
    assert not is_gray(result)


def test_what_the_file_says_is_gray_is_gray(pipe):
    picture = Picture(pixels=torch.rand(3, 8, 8), origin=Origin(format="TIFF", model="gray", bits=16))
    colored = pipe(Picture(pixels=picture.pixels), prior=Prior(), output_type="pt").images[0]
    result = pipe(picture, prior=Prior(), output_type="pt").images[0]
    assert torch.equal(result, to_gray(colored).expand(3, -1, -1))


# What sRGB cannot hold


def test_colors_beyond_srgb_are_enlarged_beside_the_picture(restorer):
    shades = torch.rand(3, 9, 8, generator=torch.Generator().manual_seed(0))
    planes = shades * 0.2 + torch.tensor([0.8, 0, 0])[:, None, None]
    pixels, excess, _ = to_srgb(planes, DISPLAY_P3, model="rgb")
    assert excess is not None and excess.min() < -0.1 and excess.max() > 0.05
    origin = Origin(format="PNG", icc=DISPLAY_P3)
    made = restorer.restore(Picture(pixels=pixels, excess=excess, origin=origin), Prior(), seed=0, scale=2).picture
    assert made.origin is origin and torch.equal(made.excess, resize(excess, (18, 16)))
    assert made.excess.min() < -0.1
    back = from_srgb(made.pixels, made.excess, DISPLAY_P3, model="rgb")
    flattened = from_srgb(made.pixels, None, DISPLAY_P3, model="rgb")
    assert back[0].mean() > flattened[0].mean() + 0.01  # redder than sRGB can be


def test_colors_that_are_not_seen_leave_no_excess(restorer):
    excess = torch.zeros(3, 8, 8)
    excess[:, :, :4] = 0.5
    alpha = (excess[:1] == 0).float()
    made = restorer.restore(Picture(pixels=torch.rand(3, 8, 8), alpha=alpha, excess=excess), Prior(), seed=0).picture
    assert made.excess.shape == (3, 32, 32) and (made.excess == 0).all() and (bleed(excess, alpha) == 0).all()
