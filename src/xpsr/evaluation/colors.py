"""How far colours are from those of another picture."""

import numpy as np
from numpy.typing import NDArray

from xpsr.evaluation.fidelity import check_size

__all__ = ["color_shift"]


def color_shift(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Returns the mean colour difference CIEDE2000 of two pictures (H, W, 3), sRGB; 1 is about what an eye can tell.

    Raises:
        InputError: they are empty.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    check_size(a, 1, "the colour shift")
    one, other = (rgb2lab(pixels.astype(np.float32) / 255) for pixels in (a, b))
    return float(deltaE_ciede2000(one, other).mean(dtype=np.float64))
