"""Where training's pictures come from, and how pairs are stored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xpsr.config.checks import PROBABILITY, SEED, Checked, check_multiple, fault, option, within
from xpsr.config.degradation import DegradationConfig
from xpsr.config.sizes import MAX_SCALE

__all__ = ["DataConfig", "PairsConfig"]

_SCALE = within(1, MAX_SCALE)
_MIN_DETAIL = within(0, 4 * 255, "0 for any crop")
_PER_SHARD = within(1, 10**6, "1000, for example")
_SIDE = within(1, 8192, "128, for example")


def _crop_scales(default: tuple[float, ...]) -> tuple[float, ...]:
    return option(
        default,
        "A crop is cut from the picture reduced by one of these, of which it is large enough.",
        within(0, 1, "[1.0] for the picture as it is", open_at="low"),
    )


def _check_crop_scales(config: "DataConfig | PairsConfig") -> None:
    if not config.crop_scales:
        raise fault(config, "crop_scales", "is no scale", "use [1.0] for the picture as it is")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Where the pictures are and how a training crop is cut from them.

    Pictures of `hr_dir` are degraded anew in every sample, unless `pairs` or `shards` names pairs that were stored.
    """

    hr_dir: Path = option(Path("photos"), "Clean pictures, searched with the folders in it.")
    manifest: Path | None = option(
        None,
        "Tab-separated columns package, file, label, or a .jsonl of image and content; null: all pictures in hr_dir.",
    )
    pairs: Path | None = option(None, "A folder with hr/, lr/ and maybe manifest.jsonl, as xpsr degrade makes it.")
    shards: tuple[str, ...] = option((), "Stored pairs in folders, tars, or behind addresses of an index.json.")
    shard_cache: Path | None = option(None, "Where shards from elsewhere are kept; null: below the user's cache.")
    priors: Path | None = option(
        None,
        'Texts, as xpsr describe writes them: a JSONL of {"image", "content", "quality"}, images relative to its'
        ' folder or to hr_dir, or known by "sha256"; goes before labels.',
    )
    require_priors: bool = option(False, "A picture without one is an error, not a warning.")
    quality_from: Literal["auto", "degradation", "prior"] = option(
        "auto",
        "Where the quality text comes from; auto: a stored pair's prior, or else the parameters that were drawn.",
    )
    exclude: tuple[str, ...] = option((), "File names or patterns (White-*) that are kept out of training.")
    crop_size: int = option(128, "Side of a training crop of HR in pixels, a multiple of scale.", _SIDE)
    scale: int = option(4, "How many times smaller LR is, along a side.", _SCALE)
    min_size: int = option(16, "Pictures with a shorter side are passed over.", within(0, 2**16))
    crop_scales: tuple[float, ...] = _crop_scales((1.0, 0.75, 0.5))
    min_detail: float = option(0.0, "Crops whose mean absolute Laplacian (of 0..255) is lower are flat.", _MIN_DETAIL)
    flat_crop_probability: float = option(0.25, "That a flat crop is taken all the same.", PROBABILITY)
    clean_condition_probability: float = option(
        0.0, "That the condition is the clean picture, with its own quality text.", PROBABILITY
    )
    kept_fault_probability: float = option(
        0.0,
        "That a crop is made blurry or grainy *before* it is degraded, where the degradation adds no such fault"
        " itself: the quality text does not name it and the target keeps it, so that the text decides what is a"
        " fault.",
        PROBABILITY,
    )
    wrong_level_probability: float = option(
        0.0, "That a level in the quality text is one off, as a describer may be.", PROBABILITY
    )
    degradation: DegradationConfig = option(DegradationConfig(), "What pictures of hr_dir are degraded by.")

    def __post_init__(self) -> None:
        """Refuses what cannot be cut or read, whatever the pictures."""
        super().__post_init__()
        _check_crop_scales(self)
        check_multiple(self, "crop_size", self.scale)
        if self.pairs is not None and self.shards:
            raise fault(self, "pairs", "is set and so is shards", "leave one of them out")
        if self.quality_from == "prior" and self.pairs is None and not self.shards:
            raise fault(
                self, "quality_from", "needs stored pairs: no prior knows a degradation drawn later", "use auto"
            )
        if self.require_priors and self.priors is None:
            raise fault(self, "require_priors", "is set and priors is not", "use a JSONL from xpsr describe")


@dataclass(frozen=True, kw_only=True)
class PairsConfig(Checked):
    """How `xpsr degrade` makes pairs of pictures."""

    seed: int = option(0, "All randomness follows from it.", SEED)
    num_per_image: int = option(1, "Pairs of each picture.", within(1, 100_000, "1 or more"))
    crop_size: int | None = option(
        None, "Side of random square crops; null: whole pictures, their sides cut to a multiple of the scale.", _SIDE
    )
    crop_scales: tuple[float, ...] = _crop_scales((1.0,))
    scale: int = option(4, "How many times smaller LR is, along a side.", _SCALE)
    min_size: int = option(16, "Pictures with a shorter side are passed over.", within(1, 2**16))
    min_detail: float = option(
        0.0, "Crops whose mean absolute Laplacian (of 0..255) is lower are drawn again.", _MIN_DETAIL
    )
    sharpen: bool = option(False, "Sharpen the clean picture first, as XPSR's authors do.")
    shard_size: int | None = option(
        None, "Pairs in a tar; null: PNGs in folders.", within(1, 10**6, "1000, for example")
    )
    degradation: DegradationConfig = option(DegradationConfig(), "What pictures are degraded by.")

    def __post_init__(self) -> None:
        """Refuses what cannot be made."""
        super().__post_init__()
        _check_crop_scales(self)
        if self.crop_size is None and self.crop_scales != (1.0,):
            raise fault(self, "crop_scales", "are of crops, but whole pictures are made", "set crop_size")
        if self.crop_size is not None:
            check_multiple(self, "crop_size", self.scale)
        if self.min_size < self.scale:
            raise fault(self, "min_size", "leaves no LR pixel", f"use {self.scale} or more")
        if self.shard_size is not None and self.shard_size < self.num_per_image:
            raise fault(self, "shard_size", "is less than num_per_image", f"use {self.num_per_image} or more")
