"""Colours where nothing is seen of them, which a model would draw into those beside them."""

import numpy as np
import torch

__all__ = ["bleed"]

_FAINT = 0.05
"""Alpha below which a colour is not to be trusted: one of 8 bits that was once multiplied by it has 12 steps left."""


def bleed(pixels: torch.Tensor, alpha: torch.Tensor | None) -> torch.Tensor:
    """Gives transparent pixels the colour of the nearest ones that are not, so that no edge takes on what lies behind.

    Editors leave black, white or remains of a background there, which would be a fringe around what is cut out.

    Args:
        pixels: (C, H, W) floats.
        alpha: (1, H, W) in [0, 1], 0 is transparent; None: every pixel is opaque.

    Returns:
        (C, H, W), the same where `alpha` is 0.05 and more; `pixels` themselves where all is so, or nothing.
    """
    if alpha is None:
        return pixels
    faint = alpha[0].cpu().numpy() < _FAINT
    if faint.all() or not faint.any():
        return pixels
    import cv2  # a tenth of a second, which a picture without alpha does not wait for

    # each pixel that is seen is numbered, and each faint one has the number of the nearest
    _, numbers = cv2.distanceTransformWithLabels(
        faint.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    seen, hidden = np.flatnonzero(~faint), np.flatnonzero(faint)
    places = np.empty(len(seen) + 1, np.int64)
    places[numbers.ravel()[seen]] = seen
    bled = pixels.flatten(1).clone()
    bled[:, torch.from_numpy(hidden)] = bled[:, torch.from_numpy(places[numbers.ravel()[hidden]])]
    return bled.unflatten(1, pixels.shape[1:])
