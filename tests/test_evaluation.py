"""Folders of pictures, and what validation looks at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_helpers import photo
from PIL import Image

from xpsr.errors import InputError
from xpsr.evaluation import MIN_SIDE, evaluate_folders, mean_scores, score
from xpsr.image import read_image


def test_what_has_too_little_to_see_for_niqe_is_scored_without_it() -> None:
    flat = torch.full((3, 192, 192), 0.5)
    assert score(flat, flat) == {"psnr_y": 99.0, "ssim_y": 1.0}
    assert score(photo(), photo()).keys() == {"psnr_y", "ssim_y", "niqe"}


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="not as large as the original, 64 x 48"):
        score(photo((48, 64)), photo((64, 48)))
    assert score(torch.zeros(3, MIN_SIDE, 30), torch.zeros(3, MIN_SIDE, 30))
    with pytest.raises(InputError, match="too few for SSIM; use at least 11 x 11"):
        score(torch.zeros(3, MIN_SIDE - 1, 30), torch.zeros(3, MIN_SIDE - 1, 30))


def test_folders_are_scored_by_name(tmp_path: Path) -> None:
    for name, noise in (("hr/a.png", 0.0), ("hr/b.png", 0.0), ("sr/a_x4.png", 0.1), ("sr/b.png", 0.0)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = (photo(noise=noise).permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(path)
    results = evaluate_folders(tmp_path / "hr", tmp_path / "sr")
    assert results["b.png"]["psnr_y"] == 99.0 > results["a.png"]["psnr_y"]
    assert results["a.png"] == score(read_image(tmp_path / "sr" / "a_x4.png").pixels, photo())
    means = mean_scores([*results.values(), {"psnr_y": 0.0}])
    assert means["psnr_y"] == pytest.approx((99 + results["a.png"]["psnr_y"]) / 3)
    assert means["niqe"] == pytest.approx(np.mean([row["niqe"] for row in results.values()]))
    json.dumps(results)
    (tmp_path / "sr" / "b.png").unlink()
    with pytest.raises(InputError, match=r"hr/b\.png: has no partner in .*sr"):
        evaluate_folders(tmp_path / "hr", tmp_path / "sr")


def save_gray(folder: Path, *names: str) -> Path:
    """Pictures of a gray of their own, so that it shows which was scored against which."""
    folder.mkdir(exist_ok=True)
    for place, name in enumerate(names):
        Image.new("RGB", (32, 32), (100 + 10 * place,) * 3).save(folder / name)
    return folder


def test_a_picture_is_not_scored_against_one_whose_name_only_begins_like_its_own(tmp_path: Path) -> None:
    hr = save_gray(tmp_path / "hr", "1.png", "10.png", "a.png", "a_x2.png", "c.png")
    sr = save_gray(tmp_path / "sr", "1_x4.png", "10_x4.png", "a.png", "a_x2.png", "c_x2.5.png", "other.png")
    assert {row["psnr_y"] for row in evaluate_folders(hr, sr).values()} == {99.0}
    (sr / "1_x4.png").unlink()
    with pytest.raises(InputError, match=r"hr/1\.png: has no partner in .*sr"):
        evaluate_folders(hr, sr)


@pytest.mark.parametrize(
    ("originals", "restored", "message"),
    [
        (["a.png"], ["a.png", "a.jpg"], r"hr/a\.png: may belong to .*sr/a\.jpg and .*sr/a\.png"),
        (["a.png"], ["a_x2.png", "a_x4.png"], r"hr/a\.png: may belong to .*sr/a_x2\.png and .*sr/a_x4\.png"),
        (["a.png", "a.jpg"], ["a.png"], r"sr/a\.png: may belong to .*hr/a\.jpg and .*hr/a\.png"),
        (["a.png", "a_x4.png"], ["a_x4.png"], r"sr/a_x4\.png: may belong to .*hr/a\.png and .*hr/a_x4\.png"),
        (["a.png"], ["a_xx.png", "a_x.png", "ab.png", "a_x4_x.png"], r"hr/a\.png: has no partner in .*sr"),
    ],
)
def test_an_ambiguous_or_missing_partner_is_refused_by_name(
    tmp_path: Path, originals: list[str], restored: list[str], message: str
) -> None:
    hr, sr = save_gray(tmp_path / "hr", *originals), save_gray(tmp_path / "sr", *restored)
    with pytest.raises(InputError, match=message):
        evaluate_folders(hr, sr)
