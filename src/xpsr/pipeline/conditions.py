"""What the networks look at: a picture enlarged and fitted to the model, and its texts."""

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property

import torch

from xpsr.config import ModelFacts, Settings
from xpsr.config.sizes import MAX_OUTPUT_PIXELS, too_many_pixels
from xpsr.errors import InputError
from xpsr.image import Picture, Resized, bleed, resize, stretched_sizes
from xpsr.tiling import Tile, reflection, tile_grid

__all__ = ["MAX_OUTPUT_PIXELS", "Conditions", "Passes", "fit_picture", "lay_tiles"]

_WORKING_PIXELS = 2**27
"""To which a picture is enlarged at most beyond its result: the model's time grows with what it works on."""

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the networks look at: a picture, enlarged and fitted to the model by bands of rows, and its texts.

    The two rows of the texts are the negative and the positive one under guidance.

    Attributes:
        enlarged: the picture (3, height, width) in [0, 1] as large as the model works on it.
        offset: pixels that are added at the top and at the left, by reflection; the rest at the bottom and the right.
        multiple: of which the sides of the padded picture are multiples.
        size: height and width of the result.
        content, quality: (1 or 2, N, D), empty before the texts are embedded.
        device: where the pixels are wanted.
        dtype: of the pixels.
    """

    enlarged: Resized
    offset: int = 0
    multiple: int
    size: tuple[int, int]
    content: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    quality: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    device: torch.device = _CPU
    dtype: torch.dtype = torch.float32

    @property
    def crop(self) -> Tile:
        """Where the picture lies in the padded one."""
        height, width = self.enlarged.size
        return Tile(top=self.offset, left=self.offset, height=height, width=width)

    @property
    def height(self) -> int:
        """Rows of the padded picture."""
        return self._padded(self.enlarged.size[0])

    @property
    def width(self) -> int:
        """Columns of the padded picture."""
        return self._padded(self.enlarged.size[1])

    @cached_property
    def pixels(self) -> torch.Tensor:
        """The whole padded picture (1, 3, H, W) in [0, 1]."""
        return self.rows(0, self.height)

    def rows(self, top: int, bottom: int) -> torch.Tensor:
        """Returns rows (1, 3, bottom - top, W) of the padded picture, in [0, 1]."""
        lines = reflection(self.enlarged.size[0], self.multiple, offset=self.offset)[top:bottom]
        columns = reflection(self.enlarged.size[1], self.multiple, offset=self.offset)
        first = int(lines.min())
        seen = self.enlarged.rows(first, int(lines.max()) + 1)
        padded = seen.index_select(-2, lines - first).index_select(-1, columns)
        return padded[None].to(self.device, self.dtype)

    def texts(self, *, is_guided: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the rows of content and quality that a step looks at: without guidance the positive ones alone."""
        return (self.content, self.quality) if is_guided else (self.content[-1:], self.quality[-1:])

    def shifted(self, offset: int) -> "Conditions":
        """Moves the picture `offset` pixels further down and to the right, on another grid of latent pixels."""
        return dataclasses.replace(self, offset=self.offset + offset)

    def _padded(self, side: int) -> int:
        return math.ceil((side + self.offset) / self.multiple) * self.multiple


def fit_picture(picture: Picture, settings: Settings, facts: ModelFacts, *, size: tuple[int, int]) -> Conditions:
    """Enlarges a picture and fits it to the model's multiple of pixels; its texts are not embedded yet.

    Args:
        picture: of any size.
        settings: its `fit` and `min_working_size`.
        facts: the model's.
        size: height and width of the result.

    Raises:
        InputError: what the model would work on is too large.
    """
    seen = bleed(picture.pixels, picture.alpha)
    working = _working_size((picture.height, picture.width), size, settings, facts)
    if settings.fit == "stretch":
        seen = _stretched(seen, size, settings.min_working_size, _multiple(settings, facts))
    else:
        reduced = _no_larger((picture.height, picture.width), size)
        seen = seen if reduced == (picture.height, picture.width) else resize(seen, reduced)
    return Conditions(enlarged=Resized(seen, working), multiple=_multiple(settings, facts), size=size)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How often a picture goes through a model, and how large.

    A model that has learned to enlarge `scale` times sees every picture so enlarged; what it makes is resampled to the
    size that is asked for. What is to be larger than that goes through again: the last pass makes the result, of what
    the one before it has made `scale` times as small. With fit="stretch", as in the reference, one pass makes any size.

    Attributes:
        sizes: height and width of what each pass makes.
        offsets: in pixels, of the grids on which each is taken.
        tiles: how many there are of each pass on each grid.
        working: height and width of what the model works on in each pass.
        factor: pixels per latent pixel, along a side.
    """

    sizes: list[tuple[int, int]]
    working: list[tuple[int, int]]
    offsets: list[int]
    tiles: list[int]
    factor: int

    @classmethod
    def plan(cls, source: tuple[int, int], size: tuple[int, int], settings: Settings, facts: ModelFacts) -> "Passes":
        """Returns the passes from a picture of `source`, height and width, to a result of `size`."""
        sizes, multiple = [size], _multiple(settings, facts)
        if settings.fit == "pad" and facts.scale > 1:
            while any(made > side * facts.scale for made, side in zip(sizes[0], source, strict=True)):
                sides = zip(sizes[0], source, strict=True)
                height, width = (max(math.ceil(made / facts.scale), min(made, side)) for made, side in sides)
                if (height, width) == sizes[0]:  # of few pixels and a small scale: rounded up, it never gets there
                    break
                sizes.insert(0, (height, width))
        offsets = [shift * facts.vae_scale_factor // settings.num_shifts for shift in range(settings.num_shifts)]
        pairs = zip([source, *sizes], sizes, strict=False)
        working = [_working_size(before, made, settings, facts) for before, made in pairs]
        tiles: list[int] = []
        for worked in working:
            for offset in offsets:
                fitted = [math.ceil((side + offset) / multiple) * multiple // facts.vae_scale_factor for side in worked]
                tiles.append(len(lay_tiles(fitted[0], fitted[1], settings)))
        factor = facts.vae_scale_factor
        return cls(sizes=sizes, working=working, offsets=offsets, tiles=tiles, factor=factor)

    def network_pixels(self, settings: Settings) -> int:
        """Returns how many pixels go through the networks, each as often as it does: in tiles that overlap, steps and
        rows of texts."""
        num_steps = settings.num_inference_steps
        guided = settings.guidance_scale > 1
        rows = sum(2 if guided and settings.is_guided(step, num_steps) else 1 for step in range(num_steps))
        areas = [math.prod(min(side, settings.tile_size * self.factor) for side in sides) for sides in self.working]
        return rows * sum(count * areas[number // len(self.offsets)] for number, count in enumerate(self.tiles))


def lay_tiles(height: int, width: int, settings: Settings) -> list[Tile]:
    """Returns the tiles, in order, in which latents of this size are denoised; one where they are small enough."""
    side = settings.tile_size
    if settings.tile_weights == "reference":  # it decides by the area, and its tiles are squares
        side = max(height, width) if height * width <= side**2 else min(side, height, width)
    return tile_grid(height, width, tile_size=side, overlap=min(settings.tile_overlap, side - 1))


def _multiple(settings: Settings, facts: ModelFacts) -> int:
    return facts.vae_scale_factor * (1 if settings.fit == "stretch" else facts.tile_multiple)


def _no_larger(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    return min(source[0], size[0]), min(source[1], size[1])


def _working_size(
    source: tuple[int, int], size: tuple[int, int], settings: Settings, facts: ModelFacts
) -> tuple[int, int]:
    """Returns height and width of what the model works on before it is padded, at least those of the result.

    They are as many times those of the source as the model has learned, or as `_WORKING_PIXELS` allow; the smaller
    one is at least `min_working_size`.
    """
    least = _at_least(size, settings.min_working_size)
    if (pixels := least[0] * least[1]) > MAX_OUTPUT_PIXELS:
        height, width = source
        most = math.floor(math.sqrt(MAX_OUTPUT_PIXELS * min(size) / max(size)))
        most -= math.prod(_at_least(size, most)) > MAX_OUTPUT_PIXELS  # where the longer side is rounded up
        raise InputError(
            too_many_pixels(pixels, MAX_OUTPUT_PIXELS, width, height),
            code="too_large",
            field="min_working_size",
            value=str(settings.min_working_size),
            remedy=f"use {most} or less",
            limit=MAX_OUTPUT_PIXELS,
        )
    if settings.fit == "stretch":
        multiple = _multiple(settings, facts)
        return stretched_sizes(size, min_size=settings.min_working_size, multiple=multiple)[-1]
    height, width = (round(side * facts.scale) for side in _no_larger(source, size))
    height, width = _at_least((max(height, size[0]), max(width, size[1])), settings.min_working_size)
    too_long = math.sqrt(height * width / _WORKING_PIXELS)
    if too_long > 1:
        height, width = max(math.floor(height / too_long), least[0]), max(math.floor(width / too_long), least[1])
    return height, width


def _at_least(size: tuple[int, int], smaller: int) -> tuple[int, int]:
    """A size enlarged until its smaller side has so many pixels."""
    larger = max(smaller / min(size), 1)
    return round(size[0] * larger), round(size[1] * larger)


def _stretched(pixels: torch.Tensor, size: tuple[int, int], min_working_size: int, multiple: int) -> torch.Tensor:
    """(3, H, W) brought to `size` and on to one that the model takes, all in 8 bits as the reference does."""
    first, *between, last = stretched_sizes(size, min_size=min_working_size, multiple=multiple)
    pixels = resize(pixels, first, eight_bit=True)
    for larger in between:
        pixels = resize(pixels, larger, method="bilinear", eight_bit=True)
    return resize(pixels, last, eight_bit=True)
