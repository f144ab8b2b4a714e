"""How much detail there is, and whether it breaks off where tiles meet."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from xpsr.errors import InputError
from xpsr.tiling import tile_grid

__all__ = ["seam_energy", "sharpness"]

Plane = NDArray[np.float64]

# Steps from a seam to the steps that it is compared with. Enlarged pictures and those of an autoencoder have a pattern
# of 2, 4 or 8 pixels, on which edges of tiles lie: a step is compared with those at the same place of the pattern.
_BESIDE = (-24, -16, -8, 8, 16, 24)
_UNSEEN = 0.1  # of 255, added to both, so that seams in a flat sky do not count as infinite


def sharpness(y: Plane) -> float:
    """Returns the root mean square of the Sobel gradient of luma (H, W) in [0, 255], over two pixels; 0: it is flat."""
    from skimage.filters import sobel

    return float(np.sqrt(np.square(sobel(y)).mean()))


def seam_energy(y: Plane, *, tile_size: int, overlap: int) -> float:
    """Returns the steps across the edges of tiles over those beside them; 1 where no seam shows.

    A step is the absolute difference of two neighbouring pixels of luma (H, W) in [0, 255], the mean along an edge.
    Where tiles overlap, both edges of each are looked at. Those beside are 8, 16 and 24 pixels away.

    Args:
        y: the luma.
        tile_size: of a tile, pixels of the picture.
        overlap: of neighbouring tiles, pixels of the picture.

    Raises:
        InputError: the picture is a single tile.
    """
    height, width = y.shape
    tiles = tile_grid(height, width, tile_size=tile_size, overlap=overlap)
    rows = {edge for tile in tiles for edge in (tile.top, tile.top + tile.height)} - {0, height}
    columns = {edge for tile in tiles for edge in (tile.left, tile.left + tile.width)} - {0, width}
    if not rows and not columns:
        message = f"{width} x {height} is a single tile of {tile_size}, which has no seams"
        raise InputError(message, code="too_small", remedy="use larger pictures")
    across, beside = [], []
    for plane, edges in ((y, rows), (y.T, columns)):
        steps = np.abs(np.diff(plane, axis=0)).mean(1)  # step k is between lines k and k + 1
        seams = {edge - 1 for edge in edges}
        across += [steps[k] for k in seams]
        beside += [steps[k] for k in _neighbours(seams, len(steps))]
    if not beside:
        message = f"tiles of {tile_size} that overlap by {overlap} leave nothing between their seams"
        raise InputError(message, code="too_small", remedy="use larger tiles")
    return float((np.mean(across) + _UNSEEN) / (np.mean(beside) + _UNSEEN))


def _neighbours(seams: Iterable[int], count: int) -> list[int]:
    near = {seam + offset for seam in seams for offset in _BESIDE}
    touched = {seam + offset for seam in seams for offset in (-1, 0, 1)}
    return sorted(k for k in near - touched if 0 <= k < count)
