"""What validation looks at."""

import pytest
import torch
from evaluation_helpers import photo

from xpsr.errors import InputError
from xpsr.evaluation import MIN_SIDE, mean_scores, score


def test_what_has_too_little_to_see_for_niqe_is_scored_without_it() -> None:
    flat = torch.full((3, 192, 192), 0.5)
    assert score(flat, flat) == {"psnr_y": 99.0, "ssim_y": 1.0}
    assert score(photo(), photo()).keys() == {"psnr_y", "ssim_y", "niqe"}


def test_means_are_over_the_pictures_that_have_a_score() -> None:
    assert mean_scores([{"psnr_y": 30.0, "niqe": 4.0}, {"psnr_y": 20.0}]) == {"psnr_y": 25.0, "niqe": 4.0}


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="not as large as the original, 64 x 48"):
        score(photo((48, 64)), photo((64, 48)))
    assert score(torch.zeros(3, MIN_SIDE, 30), torch.zeros(3, MIN_SIDE, 30))
    with pytest.raises(InputError, match="too few for SSIM; use at least 11 x 11"):
        score(torch.zeros(3, MIN_SIDE - 1, 30), torch.zeros(3, MIN_SIDE - 1, 30))
