"""Transparent pictures: what lies under alpha leaves no fringe, and alpha no ring."""

import numpy as np
import pytest
import torch
from color_helpers import lab_of, visible_difference
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr import Prior, Restorer
from xpsr.image import Picture, resize
from xpsr.image.alpha import bleed
from xpsr.pipeline.arguments import as_output

quick = settings(deadline=None, max_examples=60, derandomize=True)

SIDE = 40
BACKGROUNDS = {"black": 0.0, "gray": 0.5, "white": 1.0}


def disc(scale: int = 1) -> torch.Tensor:
    """Alpha (1, SIDE * scale, SIDE * scale) of a disc with a soft edge."""
    y, x = (np.mgrid[: SIDE * scale, : SIDE * scale] + 0.5) / scale - SIDE / 2
    return torch.from_numpy((SIDE * 0.3 - np.hypot(x, y) + 0.5).clip(0, 1)).float()[None]


def leaf() -> torch.Tensor:
    """Colours (3, SIDE, SIDE) that change slowly."""
    ramp = torch.linspace(0, 1, SIDE)
    return torch.stack(
        [
            0.7 + 0.2 * ramp.expand(SIDE, -1),
            0.5 + 0.2 * ramp[:, None].expand(-1, SIDE),
            ramp.new_full((SIDE, SIDE), 0.2),
        ]
    )


def cut_out(hidden: float | torch.Tensor) -> Picture:
    """A disc of a leaf, with `hidden` where alpha is 0."""
    alpha = disc()
    return Picture(pixels=torch.where(alpha > 0, leaf(), torch.as_tensor(hidden)), alpha=alpha)


def over(pixels: torch.Tensor, alpha: torch.Tensor, background: float) -> np.ndarray:
    """CIE Lab of a picture that lies on something."""
    shown = pixels * alpha + background * (1 - alpha)
    return lab_of(shown.flatten(1).double().numpy().T)


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_hidden_pixels_have_the_color_of_a_nearest_seen_one(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(3, height, width, generator=generator)
    alpha = torch.tensor([0, 0.04, 0.06, 1])[torch.randint(4, (1, height, width), generator=generator)]
    before, bled = pixels.clone(), bleed(pixels, alpha)
    seen = (alpha[0] > 0.05).nonzero()
    assert torch.equal(pixels, before)
    for y in range(height):
        for x in range(width):
            if len(seen) == 0 or alpha[0, y, x] > 0.05:
                assert torch.equal(bled[:, y, x], pixels[:, y, x])
                continue
            distances = (seen - torch.tensor([y, x])).pow(2).sum(1).sqrt()
            near = seen[distances <= distances.min() + 0.5]  # the transform counts in steps of a knight
            assert any(torch.equal(bled[:, y, x], pixels[:, v, u]) for v, u in near)


def test_opaque_pictures_pass():
    pixels = torch.rand(3, 5, 4)
    assert bleed(pixels, None) is pixels
    assert bleed(pixels, torch.ones(1, 5, 4)) is pixels


@pytest.mark.parametrize("background", BACKGROUNDS.values(), ids=BACKGROUNDS)
@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_what_is_hidden_leaves_no_fringe(hidden, background):
    picture, size = cut_out(hidden), (SIDE * 4, SIDE * 4)
    alpha = resize(picture.alpha, size)
    made = over(resize(bleed(picture.pixels, picture.alpha), size), alpha, background)
    expected = over(resize(leaf(), size), alpha, background)
    assert visible_difference(made, expected).max() < 1
    fringed = over(resize(picture.pixels, size), alpha, background)
    assert visible_difference(fringed, expected).max() > 2  # which is what it is about


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    """The mini, because an untrained model leaves fringes of its own."""
    return Restorer(device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def whole(restorer: Restorer) -> Picture:
    """A leaf restored with all its colours, of which the disc is cut out afterwards."""
    return restorer.restore(Picture(pixels=leaf(), alpha=None), Prior(), seed=0).picture


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_what_is_restored_has_no_fringe(restorer, whole, hidden):
    made = restorer.restore(cut_out(hidden), Prior(), seed=0).picture
    assert made.alpha is not None and torch.equal(made.alpha, resize(disc(), (SIDE * 4, SIDE * 4)))
    for background in BACKGROUNDS.values():
        shown, expected = over(made.pixels, made.alpha, background), over(whole.pixels, made.alpha, background)
        assert visible_difference(shown, expected).max() < 1


def test_a_cut_out_has_no_ring():
    alpha = torch.zeros(1, 1, SIDE)  # with an edge between two pixels, at which a filter rings the most
    alpha[..., SIDE // 2 :] = 1
    picture = Picture(pixels=torch.rand(3, 1, SIDE), alpha=alpha)
    enlarged = as_output(torch.rand(3, 4, SIDE * 4), picture, "pt")[3, 0]
    assert (enlarged[: SIDE * 2 - 6] == 0).all() and (enlarged[SIDE * 2 + 6 :] == 1).all()
