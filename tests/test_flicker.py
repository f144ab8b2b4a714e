"""Flicker of restored frames against clean originals."""

import pytest
import torch

from xpsr.errors import InputError
from xpsr.evaluation import flicker

LEVEL = 219 / 255
"""What one level of 255 of gray is in luma, which goes from 16 to 235."""


def gray(*levels: float) -> torch.Tensor:
    """A gray frame (3, 32, 48), the first level everywhere and the others in the rows after row 20."""
    frame = torch.full((3, 32, 48), levels[0] / 255)
    for level in levels[1:]:
        frame[:, 20:] = level / 255
    return frame


def test_originals_do_not_flicker() -> None:
    frames = [gray(100, 50), gray(100, 90), gray(100, 130)]
    found = flicker(frames, frames)
    assert (found.still, found.change) == (0, 0)


def test_flicker_is_the_mean_change_where_the_original_stands_still() -> None:
    found = flicker([gray(100), gray(104), gray(98)], [gray(100)] * 3)
    assert found.still == pytest.approx(5 * LEVEL)
    assert found.change == pytest.approx(5 * LEVEL)
    assert found.still_share == 1


def test_what_moves_with_the_original_does_not_flicker() -> None:
    originals = [gray(100, 50), gray(100, 90)]
    found = flicker([gray(100, 60), gray(102, 100)], originals)
    assert found.still == pytest.approx(2 * LEVEL)
    assert found.still_share == pytest.approx((20 - 4) / 32)  # and some rows beside what moves
    assert found.change == pytest.approx(2 * LEVEL * 20 / 32)


def test_what_lags_behind_the_original_changes_otherwise() -> None:
    found = flicker([gray(100), gray(100)], [gray(100), gray(120)])
    assert found.still is None
    assert found.still_share == 0
    assert found.change == pytest.approx(20 * LEVEL)


def test_faint_change_of_the_original_is_no_flicker() -> None:
    frames = [gray(100), gray(101), gray(100)]
    assert flicker(frames, frames).still == 0
    assert flicker(frames, frames).still_share == 1


def test_one_frame_has_no_flicker() -> None:
    with pytest.raises(InputError, match="two frames or more"):
        flicker([gray(1)], [gray(1)])


def test_frames_of_several_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="another size"):
        flicker([gray(1), gray(1)[:, :16]], [gray(1), gray(1)[:, :16]])
    with pytest.raises(InputError, match="another size"):
        flicker([gray(1)], [gray(1)[:, :16]])
