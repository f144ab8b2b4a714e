"""The describer that comes with the mini: two small convolutional networks, offline, a fraction of a second a picture.

What is wrong is told by `LevelsNetwork`, which looks at the pixels as they are; it learned on synthetic degradations,
where the truth is known (`scripts/train_describer.py`). What is in the picture is told by EfficientNet-Lite0, trained
on ImageNet by Google; where it is not sure, it names the kind of thing, or nothing.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file
from torch import nn

from xpsr.features import EfficientNetLite0
from xpsr.image import ImageLike, Picture, resize, to_picture, to_uint8
from xpsr.model_files import check_file, damaged, read_json, resolve_model, verify_checksums
from xpsr.model_folder import loading
from xpsr.prior.texts import Level, Levels, Prior, Questions, quality_text

__all__ = ["LevelsNetwork", "MiniDescriber"]

FAULTS = ("blur", "noise", "compression")
_CROP = 128  # pixels, a multiple of JPEG's blocks of 8
_MOST_CROPS = 9
_CONTENT_SIDE = 224  # pixels: a picture is brought to about so many squared


class LevelsNetwork(nn.Module):
    """How blurred, noisy and compressed a picture is.

    Averages and deviations of features over the whole crop, so any size will do. For each fault two logits: worse than
    clean, worse than slight.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out, stride in (
            (3, 24, 1),
            (24, 32, 2),
            (32, 48, 1),
            (48, 64, 2),
            (64, 64, 1),
            (64, 96, 2),
        ):
            layers += [nn.Conv2d(width_in, width_out, 3, stride, 1), nn.BatchNorm2d(width_out), nn.ReLU()]
            width_in = width_out
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(2 * 96, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 2 * len(FAULTS)))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, H, W) in [0, 1], at least 16 x 16, to (B, 192)."""
        hidden = self.body(pixels - 0.5).float()
        return torch.cat([hidden.mean((-2, -1)), hidden.flatten(2).std(-1)], 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Maps (B, 3, H, W) in [0, 1] to logits (B, 3, 2)."""
        return self.head(self.features(pixels)).unflatten(1, (len(FAULTS), 2))


class MiniDescriber:
    """Describes pictures with the two networks of a folder: `config.json`, `levels.safetensors`, `content.safetensors`.

    Raises:
        ModelError: a file is missing or does not fit.
    """

    name = "mini"
    questions: Questions | None = None  # it is asked nothing

    def __init__(self, folder: Path):
        self.config = _read_config(folder / "config.json")
        self.revision: str | None = self.config["revision"]
        if folder.name == "describer":  # of a model, which may have checksums
            verify_checksums(folder.parent, folder.glob("*.safetensors"))
        self.levels, self.content = LevelsNetwork().eval(), EfficientNetLite0(len(self.config["classes"])).eval()
        for network, file in ((self.levels, "levels"), (self.content, "content")):
            path = folder / f"{file}.safetensors"
            check_file(path)
            with loading(path):
                network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
                if not all(value.isfinite().all() for value in network.state_dict().values()):
                    raise ValueError("its weights are not finite")

    @classmethod
    @functools.cache
    def bundled(cls) -> "MiniDescriber":
        """Returns the one that comes with xpsr, which is opened once; any number of threads may call it."""
        return cls(Path(resolve_model("mini")) / "describer")

    @torch.no_grad()
    def describe(self, images: Sequence[ImageLike], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """Returns one prior for each picture, its `levels` with it; pictures are looked at one by one."""
        priors = []
        for image in images:
            picture = to_picture(image)
            picture = Picture(pixels=picture.pixels.cpu())  # where the networks are
            levels = self.see_levels(picture)
            priors.append(Prior(self.see_content(picture), quality_text(levels), levels))
            if progress is not None:
                progress(1)
        return priors

    def see_levels(self, picture: Picture) -> Levels:
        """Returns what is wrong, by the mean of the logits over crops at the picture's own resolution."""
        logits = torch.stack([self.levels(crop[None])[0] for crop in native_crops(picture.pixels)]).mean(0)
        worse = (logits > 0).long().cumprod(1).sum(1).tolist()
        names: tuple[Level, ...] = get_args(Level)
        return Levels(**{fault: names[index] for fault, index in zip(FAULTS, worse, strict=True)})

    def see_content(self, picture: Picture) -> str:
        """Returns a name where the network is sure of one, a kind where several of a kind add up, else nothing."""
        height, width = picture.height, picture.width
        factor = _CONTENT_SIDE / (height * width) ** 0.5
        sides = [min(max(round(side * factor / 32), 2), 21) * 32 for side in (height, width)]
        probabilities = self.content(resize(picture.pixels, (sides[0], sides[1]), method="bilinear")[None])[0].softmax(
            0
        )
        best = int(probabilities.argmax())
        if probabilities[best] >= self.config["sure"]:
            return f"a photograph of {self.config['classes'][best]}"
        kinds = dict.fromkeys(self.config["kinds"], 0.0)
        for kind, probability in zip(self.config["kind_of"], probabilities.tolist(), strict=True):
            if kind is not None:
                kinds[self.config["kinds"][kind]] += probability
        kind = max(kinds, key=lambda name: kinds[name])
        return f"a photograph of {kind}" if kinds[kind] >= self.config["kind_sure"] else ""


def _read_config(path: Path) -> dict[str, Any]:
    """What the content network's classes are called, and from where on it is sure."""
    config = read_json(path)
    names, kinds, kind_of, *sure = (config.get(key) for key in ("classes", "kinds", "kind_of", "sure", "kind_sure"))
    if not (
        isinstance(names, list)
        and isinstance(kinds, list)
        and kinds
        and all(type(word) is str for word in (*names, *kinds))
        and isinstance(kind_of, list)
        and len(kind_of) == len(names)
        and all(kind is None or (type(kind) is int and 0 <= kind < len(kinds)) for kind in kind_of)
        and all(isinstance(value, float) and 0 <= value <= 1 for value in sure)
        and isinstance(config.get("revision"), str)
    ):
        raise damaged(path, "is not the config of a describer")
    return config


def native_crops(pixels: torch.Tensor) -> list[torch.Tensor]:
    """Returns up to nine crops of at most 128 x 128 pixels, unscaled, on the grid of JPEG's blocks: the most detailed.

    `pixels` (3, H, W) in [0, 1]; each crop is (3, h, w) of whole 255ths, its sides at least 16, mirrored if need be.
    """
    height, width = pixels.shape[-2:]
    if min(height, width) < 16:
        rows = _mirrored(height, max(height, 16))
        pixels = pixels[:, rows][:, :, _mirrored(width, max(width, 16))]
        height, width = pixels.shape[-2:]
    tops, lefts = _starts(height), _starts(width)
    windows = (pixels[:, top : top + _CROP, left : left + _CROP] for top in tops for left in lefts)
    crops = [to_uint8(window).float() / 255 for window in windows]
    if len(crops) > _MOST_CROPS:
        detail = [float(crop.std((-2, -1)).mean()) for crop in crops]
        best = sorted(range(len(crops)), key=lambda index: -detail[index])[:_MOST_CROPS]
        crops = [crops[index] for index in sorted(best)]
    return crops


def _starts(length: int) -> list[int]:
    last = max(length - _CROP, 0)
    count = min(-(-length // _CROP), 6)
    return sorted({round(last * index / max(count - 1, 1)) // 8 * 8 for index in range(count)})


def _mirrored(length: int, target: int) -> torch.Tensor:
    indices = torch.arange(target) % max(2 * length - 2, 1)
    return torch.minimum(indices, (2 * length - 2 - indices).abs())
