"""What a describer is shown of a picture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr.image import Picture, to_picture, to_pil
from xpsr.prior.views import crops_view, whole_view


def noise(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def numbered(width: int, height: int) -> Picture:
    """Every pixel has a colour of its own: its number."""
    number = np.arange(width * height, dtype=np.uint32).reshape(height, width)
    return to_picture(np.stack([number >> 16 & 255, number >> 8 & 255, number & 255], -1).astype(np.uint8))


def numbers(view: Image.Image) -> np.ndarray:
    red, green, blue = (np.asarray(plane).astype(int) for plane in view.split())
    return red << 16 | green << 8 | blue


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 150), height=st.integers(1, 150), size=st.sampled_from([16, 48, 64]))
def test_crops_are_windows_of_the_pictures_own_pixels(width: int, height: int, size: int) -> None:
    view = numbers(crops_view(numbered(width, height), size=size))
    columns = [view.shape[1]] if width <= size else [size // 2] * 2
    rows = [view.shape[0]] if height <= size else [size // 2] * 2
    assert view.shape == (sum(rows), sum(columns)) == (min(height, size), min(width, size))
    for i, tall in enumerate(rows):
        for j, wide in enumerate(columns):
            window = view[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
            top, left = divmod(window[0, 0], width)
            assert top % 8 == left % 8 == 0  # the grid of a JPEG goes on from window to window
            assert top + tall <= height and left + wide <= width
            whole = np.arange(width * height).reshape(height, width)
            assert (window == whole[top : top + tall, left : left + wide]).all()


def test_crops_of_a_small_picture_are_the_picture() -> None:
    picture = to_picture(noise(0, 448, 40))
    assert crops_view(picture).tobytes() == to_pil(picture.pixels).tobytes()


def test_crops_show_the_most_detailed_window_of_each_quarter() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    patches = [np.asarray(noise(seed, 32, 32)) for seed in range(2)]
    patches += [np.stack([lines] * 3, -1) for lines in (stripes, stripes.T)]
    pixels = np.full((640, 640, 3), 128, np.uint8)
    for patch, (top, left) in zip(patches, [(64, 128), (0, 512), (512, 0), (480, 352)], strict=True):
        pixels[top : top + 32, left : left + 32] = patch
    view = np.asarray(crops_view(to_picture(pixels), size=64))
    windows = [view[top : top + 32, left : left + 32] for top in (0, 32) for left in (0, 32)]
    assert all((window == patch).all() for window, patch in zip(windows, patches, strict=True))


def test_a_flat_picture_shows_the_first_window_of_each_quarter() -> None:
    view = numbers(crops_view(to_picture(np.full((1000, 1000), 7, np.uint8))))
    assert view.shape == (448, 448) and (view == 0x070707).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((60, 40), (60, 40)), ((4000, 1000), (1536, 384)), ((5000, 1), (1536, 1))]
)
def test_whole_view_is_shrunk_only_where_it_is_long(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert whole_view(Picture(pixels=torch.zeros(3, size[1], size[0]))).size == expected
