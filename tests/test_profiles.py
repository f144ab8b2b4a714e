"""Colour profiles: to sRGB and back, and what broken ones do."""

import io
import struct
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pytest
import torch
from color_helpers import (
    ADOBE_RGB,
    DISPLAY_P3,
    GRAY_22,
    PROPHOTO,
    cmyk_profile,
    curve_table,
    gamma,
    gray_profile,
    icc_profile,
    lab_of,
    lab_of_xyz,
    matrix_profile,
    parametric,
    rgb_table_profile,
    visible_difference,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from xpsr.image.profiles import from_srgb, to_srgb

quick = settings(deadline=None, max_examples=150, derandomize=True)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CMYK = cmyk_profile()
TABLES = rgb_table_profile()
D65 = (0.3127, 0.3290)
REC_709 = [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)]
WIDE = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB, "ProPhoto": PROPHOTO}
LIGHT = {
    "Display P3": lambda x: np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4),
    "Adobe RGB": lambda x: x ** (563 / 256),
    "ProPhoto": lambda x: x ** (461 / 256),
}


def colors(count: int = 4096, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Any colours, the corners of the cube and the darkest among them: (channels, 64, count / 64)."""
    values = np.random.default_rng(seed).random((count, channels), dtype=np.float32)
    values[:64] **= 4
    values[64 : 64 + 2**channels] = np.array(np.meshgrid(*[[0, 1]] * channels)).reshape(channels, -1).T
    return torch.from_numpy(values.T.copy()).reshape(channels, 64, -1)


def lab_in(name: str, planes: torch.Tensor) -> np.ndarray:
    """CIE Lab of a device's values, from the numbers that stand in its profile."""
    icc, count = WIDE[name], int.from_bytes(WIDE[name][128:132])
    places = {tag: start for tag, start, _ in struct.iter_unpack(">4sII", icc[132 : 132 + 12 * count])}
    to_xyz = [np.array(struct.unpack_from(">3i", icc, places[tag] + 8)) / 65536 for tag in (b"rXYZ", b"gXYZ", b"bXYZ")]
    return lab_of_xyz(LIGHT[name](planes.flatten(1).double().numpy().T) @ np.array(to_xyz))


def flat(pixels: torch.Tensor) -> np.ndarray:
    return pixels.flatten(1).double().numpy().T


def test_the_measure_is_that_of_its_authors():
    # Sharma, Wu, Dalal: The CIEDE2000 Color-Difference Formula, table 1
    first = np.array([[50, 2.6772, -79.7751], [50, 0, 0], [50, 2.5, 0], [50, 2.49, -0.001], [2.0776, 0.0795, -1.135]])
    second = np.array([[50, 0, -82.7485], [50, -1, 2], [73, 25, -18], [50, -2.49, 0.0011], [0.9033, -0.0636, -0.5514]])
    assert visible_difference(first, second) == pytest.approx([2.0425, 2.3669, 27.1492, 7.2195, 0.9082], abs=1e-4)


# There and back


@pytest.mark.parametrize("name", WIDE)
def test_colors_come_back(name):
    planes = colors()
    pixels, excess, notice = to_srgb(planes, WIDE[name], model="rgb")
    assert notice is None
    assert pixels.dtype == torch.float32 and pixels.shape == planes.shape
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert excess is not None and ((excess == 0) | (pixels == 0) | (pixels == 1)).all()
    back = from_srgb(pixels, excess, WIDE[name], model="rgb")
    assert (back - planes).abs().mean() < 2e-6  # in gamut and out of it; most where a channel is nearly black
    assert (back - planes).abs().max() < 0.25 / 255
    assert visible_difference(lab_in(name, planes), lab_in(name, back)).max() < 0.001


@pytest.mark.parametrize("name", WIDE)
def test_sixteen_bits_of_srgb_hold_what_is_in_gamut(name):
    planes = colors() * 0.4 + 0.3
    pixels, excess, _ = to_srgb(planes, WIDE[name], model="rgb")
    inside = np.ones(4096, bool) if excess is None else (excess.flatten(1) == 0).all(0).numpy()
    assert inside.sum() > 100
    stored = (pixels * 65535).round() / 65535
    back = from_srgb(stored, None, WIDE[name], model="rgb")
    assert visible_difference(lab_in(name, planes), lab_in(name, back))[inside].max() < 0.1


@pytest.mark.parametrize("name", WIDE)
def test_colors_are_what_the_profile_says(name):
    planes = colors()
    pixels, excess, _ = to_srgb(planes, WIDE[name], model="rgb")
    assert visible_difference(lab_in(name, planes), lab_of(flat(pixels + excess))).max() < 0.05


@pytest.mark.parametrize("name", WIDE)
def test_colors_are_littlecms_s(name):
    planes = (colors() * 255).round() / 255
    pixels, _, _ = to_srgb(planes, WIDE[name], model="rgb")
    image = Image.fromarray((planes * 255).to(torch.uint8).permute(1, 2, 0).numpy())
    ends = (ImageCms.ImageCmsProfile(io.BytesIO(WIDE[name])), ImageCms.createProfile("sRGB"))
    theirs = np.asarray(ImageCms.profileToProfile(image, *ends, renderingIntent=1)).astype(int)
    steps = np.abs((pixels * 255).permute(1, 2, 0).numpy() - theirs)
    assert np.percentile(steps, 99) < 1 and steps.mean() < 0.5  # its 8 bits are coarse where it is dark


def test_gray_is_gray_in_every_profile():
    ramp = torch.linspace(0, 1, 1024).reshape(1, 1, -1).expand(3, -1, -1)
    for icc in WIDE.values():
        pixels, excess, _ = to_srgb(ramp, icc, model="rgb")
        assert excess is None  # white is white
        assert (pixels.amax(0) - pixels.amin(0)).max() < 1e-5


@pytest.mark.parametrize(
    "curve",
    [
        gamma(1.0),
        gamma(2.4),
        struct.pack(">4s4xI", b"curv", 0),
        curve_table(np.linspace(0, 1, 1024) ** 1.8),
        curve_table([0, 0, 0.1, 0.5, 1]),
        parametric(0, 2.2),
        parametric(1, 2.0, 0.9, 0.1),
        parametric(2, 2.0, 0.8, 0.1, 0.1),
        parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
        parametric(4, 2.4, 0.9, 0.05, 0.1, 0.05, 0.01, 0.0),
    ],
)
@pytest.mark.parametrize("connection", [b"XYZ ", b"Lab "])
def test_every_kind_of_curve_comes_back(curve, connection):
    ramp = torch.linspace(0.3, 0.9, 512).reshape(1, 1, -1)
    icc = gray_profile(curve, connection=connection)
    pixels, excess, notice = to_srgb(ramp, icc, model="gray")
    assert (excess, notice) == (None, None) and pixels.shape == (3, 1, 512)
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])
    assert pixels.diff().min() > 0
    back = from_srgb(pixels, None, icc, model="gray")
    assert back.shape == ramp.shape and (back - ramp).abs().max() < 1e-4


def test_a_gray_profile_means_what_it_says():
    ramp = torch.linspace(0, 1, 256).reshape(1, 1, -1)
    light = lambda pixels: LIGHT["Display P3"](pixels[0, 0].double().numpy())  # noqa: E731
    pixels, _, _ = to_srgb(ramp, GRAY_22, model="gray")
    assert light(pixels) == pytest.approx(np.linspace(0, 1, 256) ** (563 / 256), abs=1e-5)
    pixels, _, _ = to_srgb(ramp, gray_profile(gamma(1), connection=b"Lab "), model="gray")
    assert light(pixels)[128] == pytest.approx(((100 * 128 / 255 + 16) / 116) ** 3, abs=1e-5)


def test_a_picture_is_read_in_strips_as_in_one():
    planes = colors(count=64 * 5000)
    pixels, _, _ = to_srgb(planes, ADOBE_RGB, model="rgb")
    for rows in (slice(0, 1), slice(30, 64)):
        assert torch.allclose(to_srgb(planes[:, rows], ADOBE_RGB, model="rgb")[0], pixels[:, rows], atol=1e-6)


# What is sRGB stays as it is


@pytest.mark.parametrize(
    "icc",
    [
        None,
        SRGB,
        matrix_profile(REC_709, D65, parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),
        matrix_profile(REC_709, D65, curve_table(LIGHT["Display P3"](np.linspace(0, 1, 1024))), version=2),
    ],
)
def test_srgb_passes_untouched(icc):
    planes = colors()
    pixels, excess, notice = to_srgb(planes, icc, model="rgb")
    assert torch.equal(pixels, planes) and (excess, notice) == (None, None)
    assert torch.equal(from_srgb(pixels, None, icc, model="rgb"), planes)


def test_gray_without_a_profile_is_its_brightness():
    ramp = torch.linspace(0, 1, 256).reshape(1, 1, -1)
    pixels, _, notice = to_srgb(ramp, None, model="gray")
    assert torch.equal(pixels, ramp.expand(3, -1, -1)) and notice is None
    assert torch.allclose(from_srgb(pixels, None, None, model="gray"), ramp, atol=1e-6)
    red = torch.tensor([1.0, 0, 0]).reshape(3, 1, 1)
    assert from_srgb(red, None, None, model="gray").item() == pytest.approx(0.2126)


# Tables


def test_cmyk_goes_through_its_tables_and_comes_back_when_asked():
    planes = colors(channels=4)
    planes[3] = 0  # the profile leaves black to the other inks
    pixels, excess, notice = to_srgb(planes, CMYK, model="cmyk")
    assert excess is None and notice == "its colour profile is a table: colours pass it in 8 bit"
    assert ((1 - planes[:3]) - pixels).abs().mean() < 0.02
    assert from_srgb(pixels, None, CMYK, model="cmyk") is None
    back = from_srgb(pixels, None, CMYK, model="cmyk", keep_cmyk=True)
    assert back.shape == planes.shape
    again, _, _ = to_srgb(back, CMYK, model="cmyk")
    assert visible_difference(lab_of(flat(pixels)), lab_of(flat(again))).mean() < 1


def test_rgb_tables_are_gone_through_and_back():
    planes = (colors() * 255).round() / 255
    pixels, excess, notice = to_srgb(planes, TABLES, model="rgb")
    assert excess is None and notice == "its colour profile is a table: colours pass it in 8 bit"
    back = from_srgb(pixels, None, TABLES, model="rgb")
    assert visible_difference(lab_of(flat(planes)), lab_of(flat(pixels))).mean() < 1  # as coarse as its tables
    assert visible_difference(lab_of(flat(planes)), lab_of(flat(back))).mean() < 1.5


def test_cmyk_without_a_profile_is_guessed():
    planes = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]).T.reshape(4, 1, 3)
    pixels, _, notice = to_srgb(planes, None, model="cmyk")
    assert notice is None
    assert pixels[:, 0].T.tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 0]]
    assert from_srgb(pixels, None, None, model="cmyk", keep_cmyk=True) is None


def test_a_profile_that_knows_one_way_is_not_gone_back_through():
    tags = {b"A2B0": _tag(CMYK, b"A2B0")}
    icc = icc_profile(b"CMYK", b"Lab ", tags, version=2)
    pixels, _, notice = to_srgb(colors(channels=4), icc, model="cmyk")
    assert notice is not None and "table" in notice
    assert from_srgb(pixels, None, icc, model="cmyk", keep_cmyk=True) is None


def _tag(icc: bytes, wanted: bytes) -> bytes:
    entries = struct.iter_unpack(">4sII", icc[132 : 132 + 12 * int.from_bytes(icc[128:132])])
    return next(icc[start : start + size] for name, start, size in entries if name == wanted)


# Profiles in files


@pytest.mark.parametrize(("name", "suffix"), [("Adobe RGB", "tif"), ("Display P3", "png"), ("ProPhoto", "png")])
def test_a_file_s_picture_comes_back(tmp_path, name, suffix):
    array = (colors() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / f"a.{suffix}", icc_profile=WIDE[name])
    with Image.open(tmp_path / f"a.{suffix}") as image:
        planes = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pixels, excess, notice = to_srgb(planes, image.info["icc_profile"], model="rgb")
    back = from_srgb(pixels, excess, WIDE[name], model="rgb")
    assert notice is None and np.array_equal((back * 255).round().permute(1, 2, 0).numpy(), array)


def test_a_cmyk_jpeg_is_what_it_says(tmp_path):
    smooth = torch.linspace(0, 1, 64).expand(64, -1)
    inks = torch.stack([smooth, smooth.T, 1 - smooth, torch.zeros(64, 64)])
    image = Image.fromarray((inks * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), "CMYK")
    image.save(tmp_path / "a.jpg", icc_profile=CMYK, quality=100)
    with Image.open(tmp_path / "a.jpg") as opened:
        planes = torch.from_numpy(np.array(opened)).permute(2, 0, 1).float() / 255
        pixels, _, _ = to_srgb(planes, opened.info["icc_profile"], model="cmyk")
    assert (pixels - (1 - inks[:3])).abs().max() < 0.1 and (pixels - (1 - inks[:3])).abs().mean() < 0.02


# Broken profiles


def _bad(curve: bytes) -> bytes:
    return matrix_profile(REC_709, D65, curve)


@pytest.mark.parametrize(
    ("icc", "model", "reason"),
    [
        (b"x", "rgb", "is no profile"),
        (SRGB[:100], "rgb", "is no profile"),
        (SRGB[:140], "rgb", "is truncated"),
        (DISPLAY_P3[:-30], "rgb", "is truncated"),
        (GRAY_22, "rgb", "is for gray values, the picture is RGB"),
        (CMYK, "rgb", "is for CMYK values, the picture is RGB"),
        (SRGB, "gray", "is for RGB values, the picture is gray"),
        (DISPLAY_P3.replace(b"mntr", b"link"), "rgb", "describes no device"),
        (DISPLAY_P3.replace(b"rTRC", b"xTRC"), "rgb", "lacks its rTRC"),
        (SRGB[:128] + b"\xff" * 4 + SRGB[132:], "rgb", "has 4294967295 tags, more than 100"),
        (SRGB + bytes(2**25), "rgb", "has 3355"),
        (_bad(gamma(0)), "rgb", "has absurd curves"),
        (_bad(curve_table([1, 0])), "rgb", "has absurd curves"),
        (_bad(curve_table([0.5, 0.5])), "rgb", "has absurd curves"),
        (_bad(struct.pack(">4s4xI", b"curv", 2**32 - 1)), "rgb", "has curves of 4294967295 values, more than 65536"),
        (_bad(struct.pack(">4s4xI", b"curv", 4096)), "rgb", "is truncated"),
        (_bad(parametric(9, 2.2)), "rgb", "has curves of an unknown kind"),
        (_bad(parametric(1, -1, 0, 0)), "rgb", "has absurd curves"),
        (_bad(b"text\0\0\0\0no curve at all"), "rgb", "has curves of an unknown kind"),
        (
            matrix_profile([(0.3, 0.3), (0.301, 0.301), (0.3, 0.301)], (0.3003, 0.3007), gamma(2)),
            "rgb",
            "absurd primaries",
        ),
        (CMYK[:2000], "cmyk", "cannot be used"),
    ],
    ids=lambda value: "profile" if isinstance(value, bytes) else None,  # whose bytes hold the second they were made in
)
def test_a_broken_profile_is_told_and_passed_over(icc, model, reason):
    planes = colors(channels=4 if model == "cmyk" else 1 if model == "gray" else 3)
    pixels, excess, notice = to_srgb(planes, icc, model=model)
    assert notice is not None and reason in notice and "\n" not in notice
    assert torch.equal(pixels, to_srgb(planes, None, model=model)[0]) and excess is None
    assert from_srgb(pixels, None, icc, model=model, keep_cmyk=True) is None


def test_tags_that_lie_over_one_another_take_no_memory():
    size = 2**24
    entries = b"".join(struct.pack(">4sII", f"t{place:03}".encode(), 132, size - 132) for place in range(100))
    head = DISPLAY_P3[:128] + struct.pack(">I", 100) + entries
    bomb = head + bytes(size - len(head))
    tracemalloc.start()
    try:
        assert "lacks its rXYZ" in str(to_srgb(colors(), bomb, model="rgb")[2])
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def test_threads_share_a_profile():
    planes = [colors(channels=4, seed=seed) for seed in range(8)]
    alone = [to_srgb(one, CMYK, model="cmyk")[0] for one in planes]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda one: to_srgb(one, CMYK, model="cmyk")[0], planes))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


MUTABLE: list[tuple[bytes, Literal["gray", "rgb", "cmyk"]]] = [
    (SRGB, "rgb"),
    (DISPLAY_P3, "rgb"),
    (ADOBE_RGB, "rgb"),
    (GRAY_22, "gray"),
    (gray_profile(parametric(4, 2.4, 0.9, 0.05, 0.1, 0.05, 0.01, 0.0), connection=b"Lab "), "gray"),
    (cmyk_profile(points=3), "cmyk"),
    (rgb_table_profile(points=5), "rgb"),
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, Literal["gray", "rgb", "cmyk"]]:
    """A profile of which some bytes are others, or missing; mostly in its head, where the most depends on them."""
    icc, model = draw(st.sampled_from(MUTABLE))
    content = bytearray(icc)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, min(len(icc), draw(st.sampled_from([140, 400, len(icc)]))) - 1))
        content[place] = draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF, draw(st.integers(0, 255))]))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(icc))) :]
    return bytes(content), model


@quick
@given(mutated())
def test_whatever_a_profile_holds_a_picture_comes_of_it(profile):
    icc, model = profile
    planes = colors(count=512, channels={"gray": 1, "rgb": 3, "cmyk": 4}[model])
    start = time.perf_counter()
    pixels, excess, notice = to_srgb(planes, icc, model=model)
    back = from_srgb(pixels, excess, icc, model=model, keep_cmyk=True)
    assert time.perf_counter() - start < 5
    assert pixels.shape == (3, *planes.shape[1:]) and pixels.isfinite().all()
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert excess is None or excess.isfinite().all()
    assert back is None or (back.shape == planes.shape and back.min() >= 0 and back.max() <= 1)
    assert notice is None or "\n" not in notice
