import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.color import ColorMatch, match_adain, match_color, match_wavelet
from xpsr.errors import InputError

quick = settings(deadline=None, max_examples=25, derandomize=True)


def test_match_color_is_the_named_match_within_the_range() -> None:
    target, source = torch.rand(2, 1, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    source = source.pow(8)  # dark: what is matched to it falls below 0
    assert match_color(target, source, "none") is target
    for method, match in (("adain", match_adain), ("wavelet", match_wavelet)):
        matched = match(target, source)
        assert matched.min() < 0
        assert torch.equal(match_color(target, source, method), matched.clamp(0, 1))


def test_adain_gives_the_mean_and_deviation_of_the_source() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 40, 40, generator=generator)
    source = 0.4 + 0.2 * torch.rand(2, 3, 16, 24, generator=generator)
    matched = match_adain(target, source)
    torch.testing.assert_close(matched.mean((-2, -1)), source.mean((-2, -1)))
    torch.testing.assert_close(matched.std((-2, -1)), source.std((-2, -1)), rtol=1e-2, atol=0)


def test_wavelet_keeps_detail_and_takes_tone() -> None:
    detail = 0.1 * (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    matched = match_wavelet(0.2 + detail, torch.full((1, 3, 64, 64), 0.7))
    torch.testing.assert_close(matched.mean(), torch.tensor(0.7), rtol=0, atol=2e-3)
    torch.testing.assert_close(matched.std(), detail.std(), rtol=2e-2, atol=0)


@quick
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    method=st.sampled_from(["none", "adain", "wavelet"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    flat=st.booleans(),
    seed=st.integers(0, 99),
)
def test_match_stays_finite_and_in_range(
    height: int, width: int, method: ColorMatch, dtype: torch.dtype, flat: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    source = torch.rand(1, 3, height, width, generator=generator).to(dtype)
    target = torch.full_like(source, 0.5) if flat else torch.rand(source.shape, generator=generator).to(dtype)
    matched = match_color(target, source, method)
    assert matched.shape == target.shape
    assert matched.dtype == dtype
    assert ((matched >= 0) & (matched <= 1)).all()


@quick
@given(height=st.integers(1, 40), width=st.integers(1, 40), method=st.sampled_from(["adain", "wavelet"]))
def test_matching_a_picture_to_itself_changes_nothing(height: int, width: int, method: ColorMatch) -> None:
    pixels = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * 41 + width))
    torch.testing.assert_close(match_color(pixels, pixels, method), pixels, rtol=0, atol=1e-6)


def test_each_picture_of_a_batch_is_matched_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    targets, sources = torch.rand(2, 3, 3, 20, 20, generator=generator)
    for method in ("adain", "wavelet"):
        alone = torch.cat([match_color(t[None], s[None], method) for t, s in zip(targets, sources, strict=True)])
        torch.testing.assert_close(match_color(targets, sources, method), alone)


def test_unknown_method_and_unequal_sizes_are_refused() -> None:
    pixels = torch.zeros(1, 3, 8, 8)
    with pytest.raises(InputError, match=r"^color match 'hsv' is unknown; use one of none, adain, wavelet\.$"):
        match_color(pixels, pixels, "hsv")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^source of 4 x 8 pixels .* target of 8 x 8; resize the source first\.$"):
        match_wavelet(pixels, pixels[..., :4])
