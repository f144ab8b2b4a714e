"""How large results are: asked for in five ways, exactly so many pixels, and refused before anybody looks."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr import Prior, Restorer, Settings, Size, XPSRPipeline
from xpsr.cli import main
from xpsr.config import MAX_SCALE, SIZE_SUFFIX, ModelFacts, UpscaleConfig, as_size, load_config, usual_size
from xpsr.errors import InputError
from xpsr.image import Picture, picture_size, resize
from xpsr.pipeline import MAX_OUTPUT_PIXELS
from xpsr.pipeline.conditions import Passes, fit_picture

FACTS = ModelFacts(num_train_timesteps=1000, vae_scale_factor=8, tile_multiple=2, has_one_step=True)
SIDES = st.integers(1, 9000)
SIZES = st.one_of(
    st.floats(1 / 16, 16).map(lambda scale: Size(scale=scale)),
    st.tuples(SIDES, SIDES).map(lambda sides: Size(size=f"{sides[0]}x{sides[1]}")),
    SIDES.map(lambda side: Size(longest=side)),
    SIDES.map(lambda side: Size(shortest=side)),
    st.floats(0.001, 200).map(lambda millions: Size(megapixels=millions)),
)


@pytest.mark.parametrize(
    ("asked", "source", "made", "suffix"),
    [
        ({"scale": 4}, (3, 5), (12, 20), "_x4"),
        ({"scale": 2.5}, (3, 5), (8, 12), "_x2.5"),
        ({"scale": 1}, (1, 1), (1, 1), "_x1"),
        ({"size": "3000x2000"}, (1000, 700), (3000, 2000), "_3000x2000"),
        ({"longest": 3000}, (1000, 701), (3000, 2103), "_longest3000"),
        ({"longest": 3000}, (701, 1000), (2103, 3000), "_longest3000"),
        ({"longest": 64}, (4000, 16), (64, 1), "_longest64"),
        ({"shortest": 64}, (4000, 16), (16000, 64), "_shortest64"),
        ({"megapixels": 12}, (3000, 1000), (6000, 2000), "_12mp"),
        ({"megapixels": 0.5}, (1000, 1000), (707, 707), "_0.5mp"),
    ],
)
def test_a_size_gives_pixels_and_a_name(
    asked: dict[str, Any], source: tuple[int, int], made: tuple[int, int], suffix: str
) -> None:
    size = Size(**asked)
    assert size.of(*source) == made and size.suffix == suffix and size.asked == asked
    assert SIZE_SUFFIX.search(f"photo{suffix}")
    assert UpscaleConfig(**asked).size_asked == size


def remedied(error: InputError, size: Size) -> Size:
    """The size that an error says would do."""
    field, value = str(error.field), str(error.remedy).split()[1]
    return Size(**{field: value if field == "size" else type(size.asked[field])(float(value))})


@settings(max_examples=40, deadline=None)
@given(SIZES, SIDES, SIDES)
def test_any_size_is_exact_or_refused_with_one_that_will_do(size: Size, width: int, height: int) -> None:
    try:
        wide, high = size.of(width, height)
    except InputError as error:
        size = remedied(error, size)
        wide, high = size.of(width, height)
    assert 1 <= wide <= width * MAX_SCALE and 1 <= high <= height * MAX_SCALE
    if size.size is None:  # the sides' ratio is kept, but for rounding
        assert math.isclose(wide / width, high / height, rel_tol=1.1 / min(wide, high))
    assert size.longest in (None, max(wide, high)) and size.shortest in (None, min(wide, high))
    try:
        size.refuse_above(2**22, width, height)
    except InputError as error:
        smaller = remedied(error, size).of(width, height)
        assert math.prod(smaller) <= 2**22 < wide * high
    else:
        assert wide * high <= 2**22


@settings(max_examples=40, deadline=None)
@given(SIZES, SIDES, SIDES, st.integers(1, 2**24))
def test_any_limit_is_told_truly_and_the_remedy_keeps_it(size: Size, width: int, height: int, limit: int) -> None:
    if math.prod(size._of(width, height)) <= limit:
        size.refuse_above(limit, width, height)
        return
    with pytest.raises(InputError) as caught:
        size.refuse_above(limit, width, height)
    found = re.fullmatch(r"makes (\S+) (mega)?pixels of \d+ x \d+, more than (\S+)", caught.value.message)
    assert found is not None and float(found[1]) > float(found[3]) > 0 and caught.value.limit == limit
    if caught.value.remedy != "crop the picture":
        remedied(caught.value, size).refuse_above(limit, width, height)


@pytest.mark.parametrize(
    ("size", "limit", "source", "message"),
    [
        (
            Size(scale=4),
            500_000,
            (200, 200),
            "scale=4 makes 0.64 megapixels of 200 x 200, more than 0.5; use 3.5 or less.",
        ),
        (Size(scale=2), 2**22, (1025, 1024), "makes 4.2 megapixels of 1025 x 1024, more than 4.19; use 1.9 or less."),
        (Size(scale=4), 10**4, (100, 100), "scale=4 makes 160000 pixels of 100 x 100, more than 10000; use 1 or less."),
        (
            Size(size="32769x32768"),
            2**30,
            (9000, 9000),
            "makes 1073.8 megapixels of 9000 x 9000, more than 1073.7; use",
        ),
        (Size(scale=1 / 16), 10, (5000, 1), "makes 312 pixels of 5000 x 1, more than 10; crop the picture."),
        (Size(shortest=1), 10, (5000, 1), "makes 5000 pixels of 5000 x 1, more than 10; crop the picture."),
        (Size(megapixels=1e-6), 10, (5000, 1), "makes 71 pixels of 5000 x 1, more than 10; crop the picture."),
    ],
)
def test_small_and_near_limits_are_readable(size: Size, limit: int, source: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        size.refuse_above(limit, *source)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Size(size="3000"),
            "size=3000 is not WIDTHxHEIGHT, of 1 to 999999 pixels each; use 3000x2000, for example.",
        ),
        (
            lambda: Size(size="0x5"),
            "size=0x5 is not WIDTHxHEIGHT, of 1 to 999999 pixels each; use 3000x2000, for example.",
        ),
        (lambda: Size(longest=0), "longest=0 is not in [1, 999999]; use 3000, for example."),
        (lambda: Size(megapixels=float("nan")), "megapixels=nan is not in [1e-06, 1e+06]; use 12, for example."),
        (Size, "no size is asked for, as one of scale, size, longest, shortest, megapixels; use scale=4,"),
        (lambda: Size(scale=2, longest=9), "scale=2 says the size, and longest does too; leave one of them out."),
        (lambda: UpscaleConfig(size="9x9", megapixels=9), "size=9x9 says the size, and megapixels does too; leave one"),
        (lambda: as_size(2, Size(longest=9)), "scale=2 says the size, and size does too; leave one of them out."),
        (lambda: as_size(2, "9x9"), "scale=2 says the size, and size does too; leave one of them out."),
        (lambda: as_size(None, 5), "size=5 is neither WIDTHxHEIGHT nor a Size; use '3000x2000' or Size(longest=3000)"),
        (lambda: Size(longest=17).of(1, 1), "longest=17 makes 17 x 17 of 1 x 1, more than 16 times as long; use 16 or"),
        (lambda: Size(size="9x99").of(9, 6), "size=9x99 makes 9 x 99 of 9 x 6, more than 16 times as long; use 144x96"),
    ],
)
def test_a_size_that_cannot_be_says_so(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(message)


@settings(max_examples=40, deadline=None)
@given(SIZES, SIDES, SIDES, st.sampled_from([1, 2, 3.5, 4]), st.sampled_from([0, 512]))
def test_passes_end_at_the_size_and_none_works_on_too_much(
    size: Size, width: int, height: int, scale: float, least: int
) -> None:
    facts = ModelFacts(**{**vars(FACTS), "scale": scale})
    try:
        size.refuse_above(MAX_OUTPUT_PIXELS, width, height)
        wide, high = size.of(width, height)
        passes = Passes.plan((height, width), (high, wide), Settings(min_working_size=least), facts)
    except InputError:
        return
    assert passes.sizes[-1] == (high, wide) and len(passes.tiles) == len(passes.sizes) and min(passes.tiles) >= 1
    source = height, width
    for made in passes.sizes:
        assert scale == 1 or all(a <= math.ceil(b * scale) for a, b in zip(made, source, strict=True))
        assert all(a >= min(b, c) for a, b, c in zip(made, source, passes.sizes[-1], strict=True))
        source = made


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 32768), st.integers(1, 32768), st.sampled_from(["pad", "stretch"]))
@example(21990, 15839, "pad")  # 27810 pixels of its smaller side would be too many by a few thousand
def test_what_is_worked_on_is_refused_with_what_will_do(width: int, height: int, fit: Any) -> None:
    def plan(least: int) -> Passes:
        return Passes.plan((height, width), (height, width), Settings(min_working_size=least, fit=fit), FACTS)

    with pytest.raises(InputError, match=r"makes .* megapixels of") as caught:
        plan(2**16)
    assert caught.value.limit == MAX_OUTPUT_PIXELS
    plan(int(str(caught.value.remedy).split()[1]))


def test_a_picture_is_seen_as_large_as_the_model_has_learned() -> None:
    picture = Picture(pixels=torch.rand(3, 16, 20))
    plain = Settings(min_working_size=0)
    for size in ((16, 20), (24, 30), (64, 80)):
        seen = fit_picture(picture, plain, FACTS, size=size)
        assert torch.equal(seen.crop.crop(seen.pixels)[0], resize(picture.pixels, (64, 80))) and seen.size == size
    smaller = fit_picture(picture, plain, FACTS, size=(8, 10))  # what is left out of the result is left out at once
    assert torch.equal(smaller.crop.crop(smaller.pixels)[0], resize(resize(picture.pixels, (8, 10)), (32, 40)))
    stretched = fit_picture(picture, Settings(fit="stretch", min_working_size=0), FACTS, size=(24, 32))
    assert stretched.pixels.shape[-2:] == (24, 32)  # the reference's way


def test_where_the_models_scale_would_be_too_large_it_works_on_what_it_can() -> None:
    source, size = (6000, 8000), (7000, 9333)
    passes = Passes.plan(source, size, Settings(min_working_size=0, tile_size=2**16), FACTS)
    assert passes.sizes == [size] and passes.tiles == [1]
    far = Passes.plan((1, 2000), (1, 2000), Settings(min_working_size=256), FACTS)
    assert far.sizes == [(1, 2000)]


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


def noise(width: int, height: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((1, 1), Size(scale=16)),
        ((1, 1), Size(scale=1)),
        ((16, 4), Size(longest=9)),
        ((7, 5), Size(size="40x11")),
        ((7, 5), "3x33"),
        ((7, 5), Size(megapixels=0.003)),
        ((400, 2), Size(scale=1)),
    ],
)
def test_the_result_has_the_size_that_was_asked_for(
    restorer: Restorer, source: tuple[int, int], size: Size | str
) -> None:
    asked = as_size(None, size)
    told: list[tuple[int, int]] = []
    made = restorer.restore(noise(*source), Prior(), size=size, progress=lambda *now: told.append(now))
    assert (made.picture.width, made.picture.height) == asked.of(*source) == tuple(made.record["output_size"])
    assert {name: made.record[name] for name in asked.asked} == asked.asked
    assert told == [(done, len(told)) for done in range(1, len(told) + 1)]


def test_what_is_larger_than_a_model_makes_goes_through_again(restorer: Restorer) -> None:
    image, pipe = noise(6, 6), restorer.pipe

    def once(pixels: torch.Tensor, **size: Any) -> torch.Tensor:
        return pipe(pixels, prior=Prior(), output_type="pt", generator=torch.Generator().manual_seed(0), **size).images[
            0
        ]

    half = once(image, scale=2)
    assert torch.equal(half, resize(once(image, scale=4), (12, 12)))
    assert torch.equal(once(image, scale=8), once(half, scale=4))


def test_a_model_says_how_much_it_enlarges(tiny_model: Path, tmp_path: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model, scale=2)
    pipe.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["scale"] == 2
    index = json.loads((tiny_model / "model_index.json").read_text())
    assert index["scale"] == 4


def test_too_large_a_result_is_refused_from_the_header(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = io.BytesIO()
    Image.new("L", (8192, 8192)).save(kept, "png")
    Path("a.png").write_bytes(kept.getvalue()[:64])  # no pixels: who decodes it says that it is damaged
    command = ["upscale", "a.png", "--model", str(tiny_model), "--debug"]
    for flags, message in (
        (["--scale", "5"], "--scale 5 makes 1678 megapixels of 8192 x 8192, more than 1074; use 4 or less."),
        (
            ["--size", "50000x30000"],
            "--size 50000x30000 makes 1500 megapixels of 8192 x 8192, more than 1074; use 42000x25000",
        ),
        (
            ["--longest", "40000"],
            "--longest 40000 makes 1600 megapixels of 8192 x 8192, more than 1074; use 32000 or less",
        ),
        (
            ["--megapixels", "2000"],
            "--megapixels 2000 makes 2000 megapixels of 8192 x 8192, more than 1074; use 1000 or less",
        ),
    ):
        assert main([*command, *flags]) == 1
        assert f"a.png: {message}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.usefixtures("loaded_once")
def test_one_way_is_given_and_names_the_result(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 6)).save("a.png")
    Path("c.yaml").write_text("scale: 2\n")
    command = ["upscale", "a.png", "--model", str(tiny_model), "--config", "c.yaml", "--quiet"]
    for flags, name, size in (
        ([], "a_x2", (18, 12)),
        (["--size", "20x10"], "a_20x10", (20, 10)),
        (["--longest", "27"], "a_longest27", (27, 18)),
        (["--shortest", "18"], "a_shortest18", (27, 18)),
        (["--megapixels", "0.0006"], "a_0.0006mp", (30, 20)),
    ):
        for _ in range(2):  # the second time it is done
            assert main([*command, *flags]) == 0
        with Image.open(f"outputs/{name}.png") as image:
            assert image.size == size
    assert "was done already" not in capsys.readouterr().err and len(list(Path("outputs").glob("*.png"))) == 5
    assert main([*command, "--size", "20x10", "--longest", "27"]) == 2
    assert "argument --longest: not allowed with argument --size" in capsys.readouterr().err
    assert main([*command[:4], "--size", "20"]) == 2
    assert (
        "--size 20 is not WIDTHxHEIGHT, of 1 to 999999 pixels each; use 3000x2000, for example."
        in capsys.readouterr().err
    )


def test_a_file_may_say_the_size_and_a_flag_goes_before_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("longest: 3000\n")
    assert load_config(UpscaleConfig, tmp_path / "a.yaml").size_asked == Size(longest=3000)


def test_a_large_picture_is_seen_whole(restorer: Restorer) -> None:
    made = restorer.restore(np.asarray(Image.new("RGB", (300, 4))), Prior(), scale=1)
    assert (made.picture.width, made.picture.height) == (300, 4)


@given(width=SIDES, height=SIDES)
def test_a_size_that_nobody_asks_for_makes_sense(width, height):
    scale = usual_size(width, height).scale
    assert scale in (1, 2, 4)
    assert scale == 1 or scale**2 * width * height <= 2**26
    assert scale == 4 or (2 * scale) ** 2 * width * height > 2**26


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(512, 512, 4), (2048, 2048, 4), (4000, 3000, 2), (8000, 6000, 1)]
)
def test_a_photograph_of_a_telephone_is_made_twice_as_large(width, height, scale):
    assert usual_size(width, height) == Size(scale=scale)


@pytest.mark.usefixtures("loaded_once")
def test_a_large_picture_gets_the_size_that_makes_sense_and_is_told_so(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xpsr.config.sizes.USUAL_PIXELS", 16 * 30 * 20)
    for name, size in (("small.png", (30, 20)), ("large.png", (40, 20)), ("huge.png", (90, 60))):
        Image.new("RGB", size, "green").save(name)
    command = ["upscale", "small.png", "large.png", "huge.png", "--model", str(tiny_model), "--describer", "none"]
    assert main(command) == 0
    assert "2 pictures are large already" in capsys.readouterr().err
    results = {path.name: picture_size(path) for path in Path("outputs").glob("*.png")}
    assert results == {"small_x4.png": (120, 80), "large_x2.png": (80, 40), "huge_x1.png": (90, 60)}
    assert main(command) == 0
    assert "3 of 3 pictures were done already" in capsys.readouterr().err
    assert main(["upscale", "large.png", "--model", str(tiny_model), "--describer", "none", "-o", "o"]) == 0
    message = "large.png: is large already, so its result is 2 times as large; --scale 4 makes it 4 times."
    assert message in capsys.readouterr().err
