"""Pictures of any size in bounded memory: by bands of rows, the same as the whole."""

import copy
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import room_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr import Prior, Restorer, XPSRPipeline
from xpsr.errors import Cancelled, InputError
from xpsr.evaluation.detail import seam_energy
from xpsr.image import Resized, drop_from_memory, new_planes, planes, resize, to_picture
from xpsr.models import Rows, streamed
from xpsr.pipeline import bands, denoising
from xpsr.planning import TilePlan
from xpsr.protection import agree, blend_back, contradictions, invented, lr_psnr

LUMA = np.array([0.299, 0.587, 0.114])

BOUND = 3e-5
"""Of what float32 rounds differently in strips: a position in a resize is off by a few millionths of a pixel."""


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> XPSRPipeline:
    pipe = XPSRPipeline.from_pretrained(tiny_model, one_step_residual=True)
    with torch.no_grad():  # what the untrained decoder adds would be too little to see
        pipe.vae.decoder.conv_out.weight.mul_(10)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def plan(band_rows: int | None = None, **given: Any) -> TilePlan:
    return TilePlan(**{"tile_size": 16, "tile_overlap": 4, "band_rows": band_rows, **given})


def restore(pipe: XPSRPipeline, image: Any, **options: Any) -> np.ndarray:
    return np.asarray(pipe(image, output_type="np", describer="none", **options).images[0])


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos"])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 400), st.integers(1, 50))
def test_rows_of_a_resize_are_those_of_the_whole(method: Any, source: int, height: int, rows: int) -> None:
    pixels = torch.rand(2, source, 7, generator=torch.Generator().manual_seed(source)) * 2 - 0.5
    resized = Resized(pixels, (height, 9), method=method)
    strips = [resized.rows(top, min(top + rows, height)) for top in range(0, height, rows)]
    torch.testing.assert_close(
        torch.cat(strips, -2), resize(pixels, (height, 9), method=method), rtol=0, atol=2 * BOUND
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 5))
def test_layers_see_each_row_once_and_what_lies_beyond_it(heights: list[int], halo: int) -> None:
    whole, made = torch.rand(1, 1, sum(heights), 3), []

    def blur(rows: torch.Tensor) -> torch.Tensor:
        average = torch.nn.functional.avg_pool2d(rows, (2 * halo + 1, 1), 1, (halo, 0), count_include_pad=False)
        return average.repeat_interleave(2, -2)

    for strip in streamed(whole.split(heights, -2), blur, halo=halo, height=sum(heights)):
        made.append(strip)
    torch.testing.assert_close(torch.cat(made, -2), blur(whole))


def test_rows_are_forgotten() -> None:
    rows = Rows()
    rows.append(torch.arange(6.0).view(1, 6, 1))
    assert rows.take(2).flatten().tolist() == [0, 1] and (rows.top, rows.bottom) == (2, 6)
    rows.drop_above(6)
    rows.append(torch.full((1, 1, 1), 6.0))
    assert rows.between(6, 7).item() == 6


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 9),
    height=st.integers(1, 24),
    scale=st.sampled_from([1, 2, 2.5, 4, 8]),
    mode=st.sampled_from(["RGB", "L", "RGBA"]),
    shifts=st.sampled_from([1, 2]),
    color_match=st.sampled_from(["none", "adain", "wavelet"]),
    band_rows=st.sampled_from([1, 4, 20, 36]),
)
def test_bands_give_what_the_whole_gives(
    pipe: XPSRPipeline,
    width: int,
    height: int,
    scale: float,
    mode: str,
    shifts: int,
    color_match: str,
    band_rows: int,
) -> None:
    image, given = noise(width, height, mode), {"num_shifts": shifts, "color_match": color_match}
    whole, banded = (restore(pipe, image, scale=scale, settings=given, plan=plan(rows)) for rows in (10**6, band_rows))
    assert np.abs(whole - banded).max() < BOUND


def test_what_is_resized_again_goes_by_bands_too(pipe: XPSRPipeline) -> None:
    for fit, bound in (("stretch", 1.01 / 255), ("pad", BOUND)):  # a value of 8 bits may fall to the other side
        options = {"settings": {"fit": fit, "min_working_size": 64}}
        whole, banded = (restore(pipe, noise(11, 20), plan=plan(rows), **options) for rows in (10**6, 8))
        assert np.abs(whole - banded).max() < bound


def test_whole_verbs_give_what_a_call_gives(pipe: XPSRPipeline) -> None:
    image, resolved = noise(30, 34), pipe.settings(None, {"color_match": "adain"})
    conditions = pipe.encode(to_picture(image), Prior(), resolved, size=(136, 120))
    with torch.no_grad():
        pixels = pipe.decode(pipe.denoise(conditions, resolved), conditions, resolved)
    called = restore(pipe, image, settings={"color_match": "adain"}, plan=plan(8))
    assert np.abs(pixels.permute(1, 2, 0).numpy() - called).max() < BOUND


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 2])
def test_tiles_that_go_together_give_what_they_give_alone(
    pipe: XPSRPipeline, steps: int, guidance_scale: float
) -> None:
    told: list[tuple[int, int]] = []
    results = []
    for batch_size in (1, 3):
        options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
        given = torch.Generator().manual_seed(0)
        told.clear()
        results.append(
            restore(
                pipe,
                noise(40, 24),
                prior=Prior("a cat", "noisy"),
                generator=given,
                plan=plan(batch_size=batch_size),
                callback_on_pass_end=lambda *now: told.append(now),
                **options,
            )
        )
        assert told[-1] == (steps * 6, steps * 6) or told[-1][0] == told[-1][1]
    assert np.abs(results[0] - results[1]).max() < 1e-4 and len(told) < told[-1][1]


def test_each_tile_is_denoised_once_and_no_more_rows_than_a_band_are_decoded(pipe: XPSRPipeline) -> None:
    tiles, rows = [], []
    handles = [
        pipe.unet.register_forward_hook(lambda *_: tiles.append(1)),
        pipe.vae.decoder.conv_out.register_forward_hook(lambda _, __, output: rows.append(output.shape[-2])),
    ]
    told: list[tuple[int, int]] = []
    restore(pipe, noise(30, 90), plan=plan(8), callback_on_pass_end=lambda *now: told.append(now))
    for handle in handles:
        handle.remove()
    assert len(tiles) == len(told) == told[-1][1]
    assert max(rows) <= 8 + 2 * 3 * 4 + 4 * 8  # a strip that comes, and what the layer looks at beyond it


def test_a_call_ends_between_tiles_and_the_next_is_whole(tiny_model: Path) -> None:
    restorer, told = Restorer(tiny_model, device="cpu", dtype="fp32"), []
    options: dict[str, Any] = {"settings": {"num_inference_steps": 1, "strength": 0}, "plan": plan(8), "seed": 1}
    picture = to_picture(noise(30, 40))
    whole = restorer.restore(picture, Prior(), **options).picture.pixels
    with pytest.raises(Cancelled):
        restorer.restore(
            picture, Prior(), progress=lambda *now: told.append(now), is_cancelled=lambda: len(told) == 3, **options
        )
    assert len(told) == 3 and torch.equal(whole, restorer.restore(picture, Prior(), **options).picture.pixels)


def seam_energy_of(pipe: XPSRPipeline, *, overlap: int) -> float:
    """Of what tiles change, beside the picture in one piece: the norms of each see its own statistics."""
    whole, tiled = (restore(pipe, noise(40, 24), plan=plan(tile_size=size, tile_overlap=overlap)) for size in (64, 16))
    return seam_energy((tiled - whole) @ LUMA * 25500, tile_size=64, overlap=4 * overlap)


def test_tiles_leave_no_seam(pipe: XPSRPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seam_energy_of(pipe, overlap=8) < 1.15
    monkeypatch.setattr(denoising, "gaussian_weights", lambda height, width, **_: torch.ones(height, width))
    assert seam_energy_of(pipe, overlap=0) > 1.3  # a mutant with hard edges


def test_colours_are_matched_once_for_the_whole(pipe: XPSRPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGB", (20, 40), (200, 60, 30))
    image.paste((10, 60, 200), (0, 0, 20, 20))
    options: dict[str, Any] = {"settings": {"color_match": "adain"}, "plan": plan(8)}
    whole = restore(pipe, image, **{**options, "plan": plan(10**6)})
    assert np.abs(whole - restore(pipe, image, **options)).max() < BOUND

    class OfTheLast(bands.ColorStatistics):  # a mutant that knows the last band alone
        def add(self, pixels: torch.Tensor) -> None:
            self.__init__()  # type: ignore[misc]
            super().add(pixels)

    monkeypatch.setattr(bands, "ColorStatistics", OfTheLast)
    assert np.abs(whole - restore(pipe, image, **options)).max() > 0.01


# Large planes


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(planes, "IN_MEMORY", 100)
    yield
    gc.collect()


@pytest.mark.usefixtures("small_memory")
def test_large_planes_lie_in_a_file_without_a_name_that_goes_with_them(tmp_path: Path) -> None:
    found = new_planes((3, 700, 50), tmp_path)
    assert found.shape == (3, 700, 50) and not found.any() and list(tmp_path.iterdir()) == []
    values = torch.rand(3, 700, 50)
    for top in range(0, 700, 64):
        found[:, top : top + 64] = values[:, top : top + 64]
        drop_from_memory(found[:, top : top + 64])
    assert torch.equal(found, values)
    strip = found[1:2, 600:]
    del found
    drop_from_memory(strip)
    assert torch.equal(strip, values[1:2, 600:])
    kept = len(planes._MAPS)
    del strip
    gc.collect()
    assert len(planes._MAPS) == kept - 1


@pytest.mark.usefixtures("small_memory")
def test_a_disk_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        room_for(2**20),
        pytest.raises(InputError, match=r"has no room for 0\.0 GB of a picture .*; free space") as full,
    ):
        new_planes((3, 1000, 1000), tmp_path)
    assert full.value.code == "disk_full" and list(tmp_path.iterdir()) == []
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    assert not new_planes((3, 1000, 1000), tmp_path).any()
    with room_for(2**20), pytest.raises(InputError, match="has no room"):
        new_planes((3, 500, 300), tmp_path)
    with pytest.raises(InputError, match="nowhere: has no room"):
        new_planes((3, 1000, 1000), tmp_path / "nowhere")


@pytest.mark.usefixtures("small_memory")
def test_a_result_in_a_workspace_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    restorer = Restorer(tiny_model, device="cpu", dtype="fp32")
    options: dict[str, Any] = {
        "seed": 1,
        "protect": "auto",
        "lr_consistency": True,
        "settings": {"color_match": "adain"},
    }
    image = to_picture(noise(20, 30, "RGBA"))
    usual, mapped = (restorer.restore(image, Prior(), workspace=place, **options) for place in (None, tmp_path))
    for name in ("pixels", "alpha"):
        assert torch.equal(getattr(usual.picture, name), getattr(mapped.picture, name))
    assert torch.equal(usual.map, mapped.map) and list(tmp_path.iterdir()) == []
    assert mapped.picture.pixels.untyped_storage().data_ptr() in planes._MAPS


@pytest.mark.parametrize("size", [(60, 44), (150, 110), (37, 21)])
def test_what_was_invented_is_the_same_by_strips(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    source = to_picture(noise(44, 60)).pixels
    pixels = (resize(source, size) * 0.8 + 0.1).flip(-1)
    given = contradictions(pixels, source)

    def run() -> tuple[Any, ...]:
        return (
            contradictions(pixels, source),
            *invented(pixels, source),
            lr_psnr(pixels, source),
            agree(pixels.clone(), source),
            blend_back(pixels.clone(), source, given),
        )

    whole = run()
    monkeypatch.setattr("xpsr.protection._STRIP", 7 * size[1])
    for a, b in zip(whole, run(), strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=1e-3)
    assert copy.deepcopy(whole[1]).shape == (1, *size)
