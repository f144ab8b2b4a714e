from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from xpsr.errors import InputError
from xpsr.tiling import Tile, blend_rows, gaussian_weights, reflection, row_by_row, tile_grid

GOLDEN = Path(__file__).parent / "golden/A"
quick = settings(deadline=None, max_examples=40, derandomize=True)
sizes = st.integers(1, 40)


@st.composite
def grids(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Height, width, tile_size, overlap."""
    tile_size = draw(st.integers(1, 24))
    return draw(sizes), draw(sizes), tile_size, draw(st.integers(0, tile_size - 1))


def blended(pixels: torch.Tensor, tiles: list[Tile], weights: torch.Tensor) -> torch.Tensor:
    outputs = ((tile, tile.crop(pixels)) for row in row_by_row(tiles) for tile in row)
    return torch.cat(list(blend_rows(outputs, pixels.shape, weights=weights)), -2)


def pad_to_multiple(pixels: torch.Tensor, multiple: int, *, offset: int = 0) -> tuple[torch.Tensor, Tile]:
    height, width = pixels.shape[-2:]
    lines, columns = reflection(height, multiple, offset=offset), reflection(width, multiple, offset=offset)
    return pixels[..., lines, :][..., columns], Tile(top=offset, left=offset, height=height, width=width)


@pytest.mark.parametrize(("name", "size"), [("tiled", 8), ("tiled2", 10)])
def test_grid_and_legacy_weights_match_the_reference(name: str, size: int) -> None:
    golden = load_file(GOLDEN / f"{name}.safetensors")
    height, width = golden["init_latents"].shape[-2:]
    # The reference's tiles are square: as small on both axes as the smaller one needs
    tiles = tile_grid(height, width, tile_size=min(size, height, width), overlap=2)
    boxes = [[tile.left, tile.top, tile.left + tile.width, tile.top + tile.height] for tile in tiles]
    assert boxes == golden["tile_boxes_xyxy"].tolist()
    weights = gaussian_weights(tiles[0].height, tiles[0].width, symmetric=False, dtype=torch.float64)
    torch.testing.assert_close(weights.expand(1, 4, -1, -1), golden["tile_weights_f64"], rtol=1e-12, atol=0)


def test_legacy_weights_of_an_oblong_tile_match_the_reference() -> None:
    expected = load_file(GOLDEN / "tiled.safetensors")["gaussian_weights_5x8_f64"]
    weights = gaussian_weights(8, 5, symmetric=False, dtype=torch.float64)
    torch.testing.assert_close(weights.expand(1, 4, -1, -1), expected, rtol=1e-12, atol=0)


@quick
@given(grid=grids())
def test_grid_covers_every_pixel_with_distinct_tiles_of_one_size(grid: tuple[int, int, int, int]) -> None:
    height, width, tile_size, overlap = grid
    tiles = tile_grid(height, width, tile_size=tile_size, overlap=overlap)
    count = torch.zeros(height, width, dtype=torch.int64)
    for tile in tiles:
        assert (tile.height, tile.width) == (min(tile_size, height), min(tile_size, width))
        assert tile.crop(count).shape == (tile.height, tile.width)  # inside the picture
        tile.crop(count).add_(1)
    assert count.min() >= 1
    assert len(set(tiles)) == len(tiles)
    assert tiles == sorted(tiles, key=lambda tile: (tile.left, tile.top))


@quick
@given(grid=grids())
def test_neighbours_overlap_by_at_least_the_overlap(grid: tuple[int, int, int, int]) -> None:
    height, width, tile_size, overlap = grid
    tops = sorted({tile.top for tile in tile_grid(height, width, tile_size=tile_size, overlap=overlap)})
    assert all(upper + tile_size - lower >= overlap for upper, lower in pairwise(tops))


@quick
@given(grid=grids(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_blending_the_tiles_of_a_picture_gives_the_picture(grid: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    height, width, tile_size, overlap = grid
    pixels = torch.rand(2, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(height))
    tiles = tile_grid(height, width, tile_size=tile_size, overlap=overlap)
    for symmetric in (True, False):
        weights = gaussian_weights(tiles[0].height, tiles[0].width, symmetric=symmetric, dtype=dtype)
        found = blended(pixels, tiles, weights)
        assert found.dtype == dtype
        torch.testing.assert_close(found, pixels, rtol=0, atol=1e-6)


def test_blending_low_precision_tiles_works_in_float32() -> None:
    pixels = torch.ones(1, 4, 20, 20, dtype=torch.bfloat16)
    tiles = tile_grid(20, 20, tile_size=8, overlap=2)
    torch.testing.assert_close(blended(pixels, tiles, gaussian_weights(8, 8)), torch.ones(1, 4, 20, 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_never_vanish(dtype: torch.dtype, symmetric: bool) -> None:
    for height, width in ((1, 1), (1, 512), (2, 3), (64, 64), (513, 320)):
        weights = gaussian_weights(height, width, symmetric=symmetric, dtype=dtype)
        assert weights.shape == (height, width)
        assert weights.dtype == dtype
        assert weights.min() > 0
        assert weights.isfinite().all()
        assert (weights / weights).isfinite().all()


def test_weights_are_symmetric_and_peak_in_the_middle() -> None:
    weights = gaussian_weights(7, 10)
    assert torch.equal(weights, weights.flip(0))
    assert torch.equal(weights, weights.flip(1))
    assert weights.argmax() in (3 * 10 + 4, 3 * 10 + 5)


def test_scaled_tile_lies_over_the_same_part_of_a_larger_picture() -> None:
    tile = Tile(top=1, left=2, height=3, width=4)
    pixels = torch.rand(1, 3, 6, 7)
    enlarged = pixels.repeat_interleave(8, -1).repeat_interleave(8, -2)
    assert torch.equal(tile.scaled(8).crop(enlarged)[..., ::8, ::8], tile.crop(pixels))


@pytest.mark.parametrize(("tile_size", "overlap"), [(8, 8), (8, 9), (8, -1)])
def test_overlap_as_large_as_a_tile_is_refused(tile_size: int, overlap: int) -> None:
    message = rf"^overlap={overlap} is not in \[0, tile_size={tile_size}\); use overlap=1\.$"
    with pytest.raises(InputError, match=message):
        tile_grid(32, 32, tile_size=tile_size, overlap=overlap)


def test_empty_tiles_and_pictures_are_refused() -> None:
    with pytest.raises(InputError, match=r"^tile_size=0 is not positive; use 1 or more\.$"):
        tile_grid(32, 32, tile_size=0, overlap=0)
    with pytest.raises(InputError, match=r"^5 x 0 has no pixels; use at least 1 x 1\.$"):
        tile_grid(0, 5, tile_size=8, overlap=0)


def test_rows_are_blended_as_soon_as_no_other_tile_touches_them() -> None:
    pixels, given = torch.rand(2, 20, 30), []
    tiles = [tile for row in row_by_row(tile_grid(20, 30, tile_size=8, overlap=3)) for tile in row]

    def outputs() -> Iterator[tuple[Tile, torch.Tensor]]:
        for tile in tiles:
            given.append(tile.top)
            yield tile, tile.crop(pixels)

    strips = blend_rows(outputs(), pixels.shape, weights=gaussian_weights(8, 8))
    assert [(strip.shape[-2], given[-1]) for strip in strips] == [(5, 5), (5, 10), (2, 12), (8, 12)]


@quick
@given(height=sizes, width=sizes, multiple=st.integers(1, 64))
def test_padding_then_cropping_changes_nothing(height: int, width: int, multiple: int) -> None:
    pixels = torch.rand(3, height, width, generator=torch.Generator().manual_seed(width))
    padded, crop = pad_to_multiple(pixels, multiple)
    assert padded.shape[-2] % multiple == 0
    assert padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple
    assert padded.shape[-1] - width < multiple
    assert torch.equal(crop.crop(padded), pixels)


def test_padding_reflects_and_repeats_where_the_picture_is_too_small() -> None:
    row = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]])
    padded, _ = pad_to_multiple(row, 8)
    assert padded[0, 0].tolist() == [1, 2, 3, 4, 5, 4, 3, 2]
    assert torch.equal(padded, padded[:, :1].expand(1, 8, 8))
    assert pad_to_multiple(row[..., :3], 8)[0][0, 0].tolist() == [1, 2, 3, 2, 1, 1, 1, 1]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(0, 7))
def test_padding_with_an_offset_mirrors_at_every_side_and_crops_back(
    height: int, width: int, multiple: int, offset: int
) -> None:
    pixels = torch.rand(3, height, width)
    padded, crop = pad_to_multiple(pixels, multiple, offset=offset)
    assert padded.shape[-2] % multiple == 0 and padded.shape[-1] % multiple == 0
    assert torch.equal(crop.crop(padded), pixels)
    for line in range(1, min(offset, height - 1) + 1):
        assert torch.equal(padded[:, offset - line, offset : offset + width], pixels[:, line])
