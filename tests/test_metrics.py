"""Metrics: known values, those of the libraries and tables that define them, and which way they go."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_helpers import photo
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve
from scipy.special import gamma
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image.ssim import _ssim_update

from xpsr.errors import InputError
from xpsr.evaluation import METRICS, PROTOCOLS, Metric, Protocol, Subject, digest, luma, niqe, open_metrics
from xpsr.evaluation.detail import seam_energy
from xpsr.evaluation.fidelity import MAX_PSNR, MIN_SIDE_MS_SSIM, ms_ssim, ssim
from xpsr.evaluation.learned import FILES
from xpsr.image import resize
from xpsr.tiling import tile_grid

PLAIN = Protocol(tile_size=96, tile_overlap=0)
OFFLINE = [name for name in METRICS if name not in FILES]


def measured(name: str, restored: torch.Tensor, hr: torch.Tensor, protocol: Protocol = PLAIN) -> float:
    lr = resize(hr, (hr.shape[-2] // 2, hr.shape[-1] // 2))
    return METRICS[name].compute(Subject(restored=restored, hr=hr, lr=lr), protocol)


def score_or_code(name: str, subject: Subject, protocol: Protocol) -> float | str:
    """What a metric gives, or the code of the error that it raises."""
    try:
        return METRICS[name].compute(subject, protocol)
    except InputError as error:
        return error.code


def eight_bit(pixels: torch.Tensor) -> np.ndarray:
    return (pixels * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("color", "expected"),
    [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)],
)
def test_luma_of_known_colors(color: tuple[int, ...], expected: float) -> None:
    y = luma(torch.tensor(color, dtype=torch.float32).view(3, 1, 1).expand(3, 4, 5))
    assert y.shape == (4, 5) and y.dtype == torch.float64
    assert y.numpy() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("crop", [0, 4])
def test_psnr_and_ssim_are_those_of_scikit_image(crop: int) -> None:
    hr, restored = photo((96, 80)), photo((96, 80), noise=0.08)
    inner = slice(crop, -crop or None)
    a, b = (luma(pixels).numpy()[inner, inner] for pixels in (restored, hr))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    colors = [eight_bit(pixels)[inner, inner].astype(float) for pixels in (restored, hr)]
    expected = {
        "psnr_y": peak_signal_noise_ratio(b, a, data_range=255),
        "ssim_y": structural_similarity(b, a, **options),
        "psnr_rgb": peak_signal_noise_ratio(*colors, data_range=255),
        "ssim_rgb": structural_similarity(*colors, channel_axis=2, **options),
    }
    for name, value in expected.items():
        assert measured(name, restored, hr, Protocol(crop=crop)) == pytest.approx(value, abs=1e-6)


def test_ms_ssim_is_of_torchmetrics_terms_and_of_scikit_image_on_the_coarsest_scale() -> None:
    hr, restored = photo((222, 197)), photo((222, 197), noise=0.1)
    a, b = (luma(pixels)[None, None] for pixels in (restored, hr))
    expected = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        _, contrast = _ssim_update(a, b, data_range=255.0, return_contrast_sensitivity=True)
        expected *= contrast.item() ** weight
        a, b = (torch.nn.functional.avg_pool2d(y, 2) for y in (a, b))
    expected *= ssim(a[0, 0].numpy(), b[0, 0].numpy()) ** 0.1333
    assert measured("ms_ssim_y", restored, hr) == pytest.approx(expected, abs=1e-6)


def test_rounding_luma_is_the_protocols_and_each_metrics_own() -> None:
    hr, restored = photo((64, 48)), photo((64, 48), noise=0.05)
    a, b = (np.round(luma(pixels).numpy()) for pixels in (restored, hr))
    rounded = peak_signal_noise_ratio(b, a, data_range=255)
    assert measured("psnr_y", restored, hr, Protocol(rounded_luma=True)) == pytest.approx(rounded, abs=1e-9)
    assert measured("psnr_y", restored, hr, Protocol(rounded_luma_ssim=True)) != pytest.approx(rounded, abs=1e-9)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    similar = structural_similarity(b, a, **options)
    assert measured("ssim_y", restored, hr, Protocol(rounded_luma_ssim=True)) == pytest.approx(similar, abs=1e-9)


def test_a_border_that_is_left_out_does_not_count() -> None:
    gray = torch.full((3, 32, 32), 100 / 255)
    bordered = gray.clone()
    bordered[:, :4] = bordered[:, :, -4:] = 0
    for name in ("psnr_y", "psnr_rgb"):
        assert measured(name, bordered, gray, Protocol(crop=4)) == MAX_PSNR > measured(name, bordered, gray)
    assert measured("color_shift", bordered, gray, Protocol(crop=4)) == 0


def test_nothing_is_given_more_than_equal_pictures() -> None:
    hr = torch.full((3, 512, 512), 0.5)
    nearly = hr.clone()
    nearly[2, 0, 0] += 1 / 255  # 117 dB in the blue of one pixel
    assert measured("psnr_y", nearly, hr) == measured("psnr_y", hr, hr) == MAX_PSNR


def test_color_shift_is_ciede2000() -> None:
    hr, restored = photo((40, 30)), (photo((40, 30)) * 0.9 + 0.02).clamp(0, 1)
    labs = [rgb2lab(eight_bit(pixels) / 255) for pixels in (restored, hr)]
    assert measured("color_shift", restored, hr) == pytest.approx(deltaE_ciede2000(*labs).mean(), abs=1e-4)


def reference_niqe(pixels: torch.Tensor) -> float:
    """NIQE block by block, with SciPy's convolution and gamma function."""
    file = Path(__file__).parents[1] / "src" / "xpsr" / "weights" / "niqe" / "pris_params.npz"
    prior = np.load(file)
    shapes = np.arange(0.2, 10.001, 0.001)
    table = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))

    def fit(block: np.ndarray) -> tuple[float, float, float]:
        left, right = np.sqrt((block[block < 0] ** 2).mean()), np.sqrt((block[block > 0] ** 2).mean())
        g = left / right
        r = np.abs(block).mean() ** 2 / (block**2).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        shape = shapes[np.argmin((table - r) ** 2)]
        width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        return shape, left * width, right * width

    def halve(y: np.ndarray) -> np.ndarray:
        x = np.abs(np.arange(8) - 3.5) / 2
        weights = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
        weights /= weights.sum()
        for axis in (0, 1):
            y = np.moveaxis(y, axis, 0)
            padded = np.pad(y, [(3, 3), (0, 0)], mode="symmetric")
            y = np.moveaxis(sum(weights[k] * padded[k : k + len(y) : 2] for k in range(8)), 0, axis)
        return y

    y = np.round(luma(pixels).numpy())
    rows, columns = y.shape[0] // 96, y.shape[1] // 96
    y, scales = y[: rows * 96, : columns * 96], []
    for side in (96, 48):
        mean = convolve(y, prior["gaussian_window"], mode="nearest")
        spread = np.sqrt(np.abs(convolve(y * y, prior["gaussian_window"], mode="nearest") - mean * mean))
        normal, features = (y - mean) / (spread + 1), []
        for row in range(rows):
            for column in range(columns):
                block = normal[row * side : (row + 1) * side, column * side : (column + 1) * side]
                shape, left, right = fit(block)
                found = [shape, (left + right) / 2]
                for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    shape, left, right = fit(block * np.roll(block, shift, axis=(0, 1)))
                    found += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
                features.append(found)
        scales.append(features)
        y = halve(y)
    all_features = np.concatenate(scales, 1)
    d = prior["mu_pris_param"].ravel() - all_features.mean(0)
    covariance = (prior["cov_pris_param"] + np.cov(all_features, rowvar=False)) / 2
    return float(np.sqrt(d @ np.linalg.pinv(covariance) @ d))


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_niqe_is_that_of_the_block_by_block_procedure(noise: float) -> None:
    pixels = photo(noise=noise)
    assert niqe(pixels) == pytest.approx(reference_niqe(pixels), abs=1e-6)


def test_niqe_needs_something_to_see() -> None:
    for size in ((100, 100), (191, 95)):
        with pytest.raises(InputError, match="too few for NIQE; use at least 192 x 96") as caught:
            niqe(photo(size))
        assert caught.value.code == "too_small"
    with pytest.raises(InputError, match="not flat") as caught:
        niqe(torch.full((3, 192, 192), 0.5))
    assert caught.value.code == "flat"


# Of examples/moose.png, enlarged to 288 x 200, with noise of .05; NIQE also by another implementation, with SciPy
STORED = {
    "psnr_y": 30.9626566,
    "psnr_rgb": 26.1337855,
    "ssim_y": 0.8105700,
    "ssim_rgb": 0.6558645,
    "ms_ssim_y": 0.9801300,
    "enet_dist": 0.2454878,
    "color_shift": 8.4645425,
    "lr_psnr": 33.8716938,
    "niqe": 9.0491039,
    "sharpness": 17.6287191,
    "seam_energy": 0.8761993,
}


@pytest.mark.parametrize("name", STORED)
def test_values_are_those_that_were_stored(name: str) -> None:
    tolerance = 1e-3 if name in ("niqe", "color_shift", "enet_dist") else 1e-6
    assert measured(name, photo(noise=0.05), photo()) == pytest.approx(STORED[name], abs=tolerance)


@pytest.mark.parametrize("name", [name for name in OFFLINE if METRICS[name].needs != "nothing"])
def test_equal_pictures_are_best_and_more_noise_is_worse(name: str) -> None:
    hr = photo()
    best, slight, strong = (measured(name, photo(noise=noise), hr) for noise in (0.0, 0.03, 0.15))
    if METRICS[name].lower_is_better:
        assert 0 <= best < slight < strong
    else:
        assert best > slight > strong


def blurred(pixels: torch.Tensor) -> torch.Tensor:
    small = resize(pixels, (pixels.shape[-2] // 4, pixels.shape[-1] // 4))
    return resize(small, (pixels.shape[-2], pixels.shape[-1]))


def test_metrics_without_a_reference_tell_blur() -> None:
    sharp, soft = photo((576, 400)), blurred(photo((576, 400)))
    assert measured("sharpness", soft, sharp) < measured("sharpness", sharp, sharp)
    flat = torch.full((3, 40, 40), 0.3)
    assert measured("sharpness", flat, flat) == pytest.approx(0, abs=1e-9)
    assert niqe(blurred(soft)) > niqe(sharp)


def test_sharpness_of_a_known_ramp() -> None:
    ramp = torch.arange(50.0).mul(2 / 255).expand(3, 40, 50)
    # its gradient lies along one of the two axes, whose squares scikit-image averages; the edges have half
    step = 2 * 2 * 219 / 255 / math.sqrt(2)
    inner = METRICS["sharpness"].compute(Subject(restored=ramp), PLAIN)
    assert 0.9 * step < inner < step


@pytest.mark.parametrize("overlap", [0, 16])
def test_seams_are_seen_where_tiles_meet_and_nowhere_else(overlap: int) -> None:
    hr = photo((512, 512))
    tiles = tile_grid(512, 512, tile_size=96, overlap=overlap)
    tiled, shifted = hr.clone(), hr.clone()
    for number, tile in enumerate(tiles):
        tile.crop(tiled).add_(0.1 * (number % 2))
    shifted[:, :, 40:] += 0.1
    protocol = Protocol(tile_size=96, tile_overlap=overlap)
    plain, seams, elsewhere = (
        METRICS["seam_energy"].compute(Subject(restored=pixels.clamp(0, 1)), protocol)
        for pixels in (hr, tiled, shifted)
    )
    assert plain == pytest.approx(1, abs=0.1)
    assert seams > 1.5 * plain
    assert elsewhere == pytest.approx(plain, abs=0.1)


def test_the_pattern_of_an_enlargement_is_no_seam() -> None:
    scores = []
    for seed in range(8):
        small = torch.rand(3, 72, 72, generator=torch.Generator().manual_seed(seed))
        enlarged = resize(small, (288, 288))  # steps differ within each 4 pixels, and tiles begin at multiples of 4
        scores.append(METRICS["seam_energy"].compute(Subject(restored=enlarged), Protocol(tile_size=96)))
    assert np.mean(scores) == pytest.approx(1, abs=0.05)


def test_what_has_no_seams_is_told() -> None:
    with pytest.raises(InputError, match="a single tile of 512, which has no seams") as caught:
        METRICS["seam_energy"].compute(Subject(restored=photo()), Protocol(tile_size=512))
    assert caught.value.code == "too_small"
    assert seam_energy(np.full((64, 64), 50.0), tile_size=32, overlap=0) == 1
    with pytest.raises(InputError, match="leave nothing between"):
        seam_energy(np.zeros((8, 8)), tile_size=1, overlap=0)


def test_lr_consistency_is_of_the_reduced_picture() -> None:
    hr = photo((96, 80))
    lr = resize(hr, (20, 24))
    metric = METRICS["lr_psnr"]
    assert metric.compute(Subject(restored=hr, lr=lr), PLAIN) > 55  # lr is rounded to 8 bits
    darker = metric.compute(Subject(restored=hr * 0.9, lr=lr), PLAIN)
    assert darker < 35
    for wrong, said in (((100, 90), "is larger"), ((20, 20), "other proportions")):
        with pytest.raises(InputError, match=said) as caught:
            metric.compute(Subject(restored=hr, lr=resize(hr, wrong)), PLAIN)
        assert caught.value.code == "wrong_size"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(OFFLINE), st.integers(0, 12), st.integers(0, 2**16))
@example(MIN_SIDE_MS_SSIM, MIN_SIDE_MS_SSIM, "ms_ssim_y", 0, 0)
@example(1, 1, "sharpness", 0, 0)
@example(1, 200, "seam_energy", 0, 0)
def test_any_picture_has_a_finite_score_or_is_told_to_be_too_small(
    height: int, width: int, name: str, crop: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    restored, hr = (torch.rand(3, height, width, generator=generator) for _ in range(2))
    lr = resize(hr, (-(-height // 2), -(-width // 2)))
    subject = Subject(restored=restored, hr=hr, lr=lr)
    found = score_or_code(name, subject, Protocol(crop=crop, tile_size=32, tile_overlap=8))
    assert found in ("too_small", "flat") or (type(found) is float and math.isfinite(found))


@pytest.mark.parametrize("name", OFFLINE)
def test_flat_pictures_are_no_trouble(name: str) -> None:
    for hr, restored in ((0.0, 0.0), (0.5, 0.5), (1.0, 0.0)):
        one, other, lr = (torch.full((3, side, side), value) for side, value in ((192, restored), (192, hr), (96, hr)))
        found = score_or_code(name, Subject(restored=one, hr=other, lr=lr), PLAIN)
        assert found == "flat" if name == "niqe" else math.isfinite(found)  # type: ignore[arg-type]


def test_what_is_no_number_is_refused_and_named() -> None:
    hr = photo((32, 32))
    for value in (math.nan, math.inf, -math.inf):
        broken = hr.clone()
        broken[1, 2, 3] = value
        for place, what in (("restored", "the restored picture"), ("hr", "the original"), ("lr", "the input")):
            with pytest.raises(InputError, match=f"{what} holds pixels that are NaN or infinite") as caught:
                Subject(**({"restored": hr} | {place: broken}))  # type: ignore[arg-type]
            assert caught.value.code == "not_finite"
    odd = dataclasses.replace(METRICS["psnr_y"], name="odd", compute=lambda subject, protocol: math.nan)
    with pytest.raises(InputError, match="its odd is nan, which is no score"):
        odd.compute(Subject(restored=hr), PLAIN)
    with pytest.raises(InputError, match=r"is of \(1, 8, 8\), not \(3, height, width\)"):
        Subject(restored=torch.zeros(1, 8, 8))


def test_what_cannot_be_measured_is_told_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.evaluation.metrics.pyiqa_is_there", lambda: False)
    protocol = Protocol(metrics=("psnr_y", "niqe", "lr_psnr", "seam_energy", "lpips_alex", "dists", "pyiqa:musiq"))
    opened, missing = open_metrics(protocol, available={"hr"})
    assert [metric.name for metric in opened] == ["psnr_y", "niqe"]
    assert missing == {
        "lr_psnr": "needs the pictures that were restored",
        "seam_energy": "needs the size of tiles; name tile_size and tile_overlap, in pixels of the result",
        "lpips_alex": "needs alexnet-owt-7be5be79.pth and alex.pth; name the folder that holds them",
        "dists": "needs vgg16-397923af.pth and weights.pt; name the folder that holds them",
        "pyiqa:musiq": "needs pyiqa; install pyiqa (PolyForm Noncommercial since 2026)",
    }
    opened, missing = open_metrics(protocol, available=set())
    assert [metric.name for metric in opened] == ["niqe"] and missing["psnr_y"] == "needs the originals"
    with pytest.raises(InputError, match=r"metrics=ssim is no metric; did you mean 'ssim_y'\?"):
        open_metrics(Protocol(metrics=("ssim",)), available={"hr"})


def test_a_digest_is_of_all_that_changes_numbers_and_of_nothing_else() -> None:
    metrics = (METRICS["psnr_y"], METRICS["niqe"])
    plain = digest(Protocol(), metrics)
    assert re.fullmatch("[0-9a-f]{64}", plain)
    assert digest(Protocol(name="mine", about="it"), metrics[::-1]) == plain
    changes = {"crop": 4, "rounded_luma": True, "rounded_luma_ssim": True, "resize": "bicubic", "tile_size": 64}
    others = [digest(dataclasses.replace(Protocol(), **{name: value}), metrics) for name, value in changes.items()]
    others += [digest(Protocol(), metrics[:1]), digest(Protocol(), (dataclasses.replace(metrics[0], version="2"),))]
    assert len({plain, *others}) == len(others) + 1


def test_the_documentation_names_every_metric_and_protocol_and_no_other() -> None:
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    tables = [re.findall(r"^\| `([\w:]+)`", part, re.MULTILINE) for part in text.split("## Protocols")]
    assert sorted(tables[0]) == sorted([*METRICS, "pyiqa:NAME"])
    assert sorted(tables[1]) == sorted(PROTOCOLS)


def test_metrics_are_values() -> None:
    assert all(name == metric.name and metric.title and metric.version for name, metric in METRICS.items())
    assert METRICS["psnr_y"].needs_reference and not METRICS["niqe"].needs_reference
    assert isinstance(dataclasses.replace(METRICS["psnr_y"], version="2"), Metric)
    assert ms_ssim(np.full((176, 176), 7.0), np.full((176, 176), 7.0)) == 1
