"""`scripts/train_describer.py`: the network that tells what is wrong with a picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import train_describer
from PIL import Image
from safetensors.torch import load_file

from xpsr.prior.mini import LevelsNetwork


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        pixels = np.kron(draw.integers(0, 256, (50, 60, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos.tsv").write_text("package\tfile\tlicence\n\ta.png\tCC0\n\tb.png\tCC0\n")
    return tmp_path


def test_degraded_pictures_are_what_their_levels_say(photos: Path) -> None:
    draw = np.random.default_rng(1)
    pictures, truth, sizes = train_describer.make_pairs(sorted((photos / "photos").iterdir()), 60, draw)
    assert pictures.shape == (60, 96, 96, 3) and pictures.dtype == torch.uint8
    for fault in range(3):  # a worse level is a larger fault
        by_level = [sizes[truth[:, fault] == level, fault] for level in range(3)]
        assert all(len(one) for one in by_level)
        assert by_level[0].max() <= by_level[1].min() and by_level[1].max() <= by_level[2].min()


def test_it_learns_goes_on_and_sets_thresholds(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = photos / "pairs"
    pairs.mkdir()
    for number in range(3):
        Image.effect_noise((64, 64), 40).convert("RGB").save(pairs / f"{number}.png")
    levels = {"blur": "clean", "noise": "strong", "compression": "slight"}
    lines = (json.dumps({"lr": f"{number}.png", "levels": levels}) for number in range(3))
    (pairs / "manifest.jsonl").write_text("\n".join(lines))

    def run(out: str, *more: str) -> LevelsNetwork:
        given = ["photos", "photos.tsv", out, "--pictures", "40", "--minutes", "0.01", *more]
        monkeypatch.chdir(photos)
        monkeypatch.setattr("sys.argv", ["train_describer.py", *given])
        train_describer.main()
        network = LevelsNetwork().eval()
        network.load_state_dict(load_file(out))
        return network

    run("first.safetensors")
    network = run("second.safetensors", "--start", "first.safetensors", "--thresholds", "pairs")
    picture = np.array(Image.open(pairs / "0.png"))
    with torch.no_grad():
        logits = network(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)[0]
    assert (logits > 0).tolist() == [[False, False], [True, True], [True, False]]
