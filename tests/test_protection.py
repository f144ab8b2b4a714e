"""What was invented is shown, what contradicts the picture goes back, and what is asked to agree agrees."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from xpsr import Prior, Restorer
from xpsr.cli import main
from xpsr.errors import InputError
from xpsr.image import resize, to_picture
from xpsr.protection import agree, blend_back, contradictions, invented, lr_psnr

SIDES = st.integers(1, 40)


def smooth(width: int, height: int, seed: int = 0) -> torch.Tensor:
    """A picture (3, H, W) in [.1, .9] without detail that a reduction would lose."""
    coarse = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.1
    return resize(coarse, (height, width))


def letters() -> torch.Tensor:
    image = Image.new("RGB", (48, 48), "white")
    draw = ImageDraw.Draw(image)
    for top in range(4, 44, 8):
        draw.text((2, top), "XPSR 0123", fill="black")
    return to_picture(image).pixels


@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_any_sizes_go_together(width: int, height: int, wide: int, high: int) -> None:
    source, pixels = smooth(width, height), smooth(wide, high, 1)
    weights = contradictions(pixels, source)
    assert weights.shape == (1, min(height, high), min(width, wide))
    shown, share = invented(pixels, source)
    assert shown.shape == (1, high, wide) and 0 <= share <= 1
    for planes in (weights, shown, agree(pixels, source), blend_back(pixels, source, weights)):
        assert torch.isfinite(planes).all() and planes.min() >= 0 and planes.max() <= 1
    assert agree(pixels, source).shape == blend_back(pixels, source, weights).shape == pixels.shape


def test_a_result_is_corrected_until_it_agrees_and_keeps_its_detail() -> None:
    source = smooth(24, 20)
    detail = (torch.rand(3, 80, 96, generator=torch.Generator().manual_seed(1)) - 0.5) * 0.2
    made = (resize(source, (80, 96)) + 0.05 + detail).clamp(0, 1)
    corrected = agree(made.clone(), source)
    assert lr_psnr(made, source) < 27 and lr_psnr(corrected, source) > 50
    assert (corrected - made + 0.05).abs().mean() < 0.03 and lr_psnr(source, source) == pytest.approx(100)


def test_what_says_the_same_is_left_as_it_is() -> None:
    for source in (smooth(32, 32), letters()):
        plain = resize(source, (128, 128))
        noisy = (source + 0.08 * torch.randn(source.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
        assert contradictions(plain, source).max() == 0
        assert contradictions(plain, noisy).mean() < 0.01  # that noise goes is no contradiction
        assert invented(plain, source)[1] == 0


def test_another_brightness_or_colour_goes_back_where_it_is_and_nowhere_else() -> None:
    source = smooth(40, 40)
    for offset in ([0.15, 0.15, 0.15], [0.25, -0.1, 0.0]):
        made = resize(source, (160, 160))
        made[:, 40:100, 40:100] += torch.tensor(offset)[:, None, None]
        weights = contradictions(made, source)
        assert weights[0, 17, 17] > 0.95 and weights[0, :3].max() == 0 == weights[0, :, 34:].max()
        steps = torch.cat([weights[0].diff(dim=0).flatten(), weights[0].diff(dim=1).flatten()])
        assert steps.abs().max() < 0.5  # soft
        back = blend_back(made, source, weights)
        assert (back - resize(source, (160, 160)))[:, 60:80, 60:80].abs().max() < 0.02


def test_letters_of_another_form_go_back() -> None:
    source = letters()
    other = source.clone()
    other[:, 19:29] = source[:, 19:29].flip(-1)  # a line of other letters, as dark
    made = resize(other, (192, 192))
    weights = contradictions(made, source)
    assert weights[0, 22:26, 8:40].mean() > 0.8 and weights[0, 38:].max() < 0.1


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


def test_a_mask_is_the_plain_enlargement_where_it_is_white(restorer: Restorer) -> None:
    picture, mask = smooth(12, 10), np.zeros((5, 6), dtype=np.uint8)
    mask[:, :3] = 255
    free = restorer.restore(picture, Prior(), seed=0)
    made = restorer.restore(picture, Prior(), seed=0, protect=mask)
    plain = resize(picture, (40, 48))
    assert (made.picture.pixels - plain)[..., :20].abs().max() < 1e-6
    assert torch.equal(made.picture.pixels[..., 29:], free.picture.pixels[..., 29:])
    assert made.record["fidelity"]["protected"] == 0.5
    assert made.map.shape == (1, 40, 48) and made.map[..., :12].max() < 1e-4 < free.map[..., :12].max()
    assert made.record["fidelity"]["invented"] < free.record["fidelity"]["invented"]
    painted = np.full((5, 6, 4), 255, np.uint8)
    painted[..., 3] = mask  # on a layer of its own, over white that is not seen
    assert torch.equal(restorer.restore(picture, Prior(), seed=0, protect=painted).picture.pixels, made.picture.pixels)
    with pytest.raises(InputError, match=r"^protect is a mask of 5 x 6, and the picture is 12 x 10; use one whose"):
        restorer.restore(picture, Prior(), protect=mask.T)


def test_a_picture_without_colour_is_no_coarser_where_the_machine_computes_in_bfloat16(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpsr.devices._bf16_fault", lambda _: None)  # it is right everywhere, but fast on few
    ramp = np.linspace(0, 255, 300).astype(np.uint8)[None].repeat(4, 0)
    free = Restorer(tiny_model, device="cpu", dtype="bf16").restore(ramp, Prior(), seed=0).picture.pixels
    assert free.dtype == torch.float32 and not torch.equal(free, free.bfloat16().float())


def test_the_record_tells_how_far_a_result_goes(restorer: Restorer) -> None:
    picture = smooth(12, 10)
    free = restorer.restore(picture, Prior(), seed=0).record["fidelity"]
    assert set(free) == {"contradicted", "lr_psnr", "invented"}
    made = restorer.restore(picture, Prior(), seed=0, protect="auto", lr_consistency=True).record["fidelity"]
    assert made["lr_psnr_before"] == free["lr_psnr"] < made["lr_psnr"]
    assert made["protected"] == made["contradicted"] == free["contradicted"]


def upscale(*arguments: object) -> int:
    return main([str(argument) for argument in ("upscale", *arguments)])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, loaded_once: None) -> Any:
    monkeypatch.chdir(tmp_path)
    for name, shade in (("a.png", 90), ("b.png", 200)):
        Image.fromarray(np.full((9, 7, 3), shade, dtype=np.uint8)).save(name)
    return lambda *arguments: upscale("--model", tiny_model, "--describer", "none", "--quiet", *arguments)


def test_maps_are_written_and_the_same_command_again_makes_what_is_missing(here: Any) -> None:
    assert here("a.png", "b.png", "--map", "maps", "--seed", 1) == 0
    maps = sorted(Path("maps").iterdir())
    assert [path.name for path in maps] == ["a_x4.png", "b_x4.png"]
    with Image.open(maps[0]) as image:
        assert (image.mode, image.size) == ("L", (28, 36))
    before = Path("outputs/a_x4.png").stat().st_mtime_ns, Path("outputs/b_x4.png").stat().st_mtime_ns
    maps[1].unlink()
    assert here("a.png", "b.png", "--map", "maps", "--seed", 1) == 0
    after = Path("outputs/a_x4.png").stat().st_mtime_ns, Path("outputs/b_x4.png").stat().st_mtime_ns
    assert maps[1].exists() and before[0] == after[0] and before[1] < after[1]


def test_a_map_replaces_no_picture(here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.png").write_bytes(b"mine")
    assert here("a.png", "--map", "mine.png") == 1 and Path("mine.png").read_bytes() == b"mine"
    assert "mine.png: is there already, and is not the map of the result; move it, choose" in capsys.readouterr().err
    assert here("a.png", "--map", "a.png") == 1 and here("a.png", "--map", "outputs") == 1
    assert "a.png: its map would replace outputs/a_x4.png; choose another place with --map" in capsys.readouterr().err
    assert here("a.png", "--map", "mine.png", "--on-existing", "overwrite") == 0
    assert here("a.png", "b.png", "--map", "mine.png") == 2


def test_another_mask_makes_results_again(here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def made() -> tuple[int, float]:
        return Path("outputs/a_x4.png").stat().st_mtime_ns, json.loads(Path("outputs/a_x4.json").read_text())[
            "fidelity"
        ]

    Image.new("L", (7, 9), 255).save("mask.png")
    assert here("a.png", "--protect", "mask.png") == 0
    first = made()
    assert first[1]["protected"] == 1 and first[1]["invented"] == 0
    assert here("a.png", "--protect", "mask.png") == 0 and made() == first
    assert here("a.png", "--protect", "auto") == 0
    second = made()
    assert second[0] > first[0] and here("a.png", "--lr-consistency") == 0 and made()[0] > second[0]
    assert here("a.png", "--protect", "gone.png") == 2
    assert "gone.png: cannot be read" in capsys.readouterr().err
