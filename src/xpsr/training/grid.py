"""The grid of latents, which the one step may paint: how far it stands out."""

import torch
import torch.nn.functional as F

from xpsr.config.training import GRID_PERIODS

__all__ = ["grid_distance"]


def grid_distance(restored: torch.Tensor, hr: torch.Tensor, *, period: int) -> torch.Tensor:
    """Returns how much more or less the frequencies of a grid of `period` pixels stand out in `restored` than in `hr`.

    Both are (B, 3, H, W); a scalar. How a frequency stands out is the logarithm of its energy over that of those beside
    it; what is returned is the mean absolute difference, over the grid's frequencies and the pictures.
    """
    with torch.no_grad():
        usual = _standing_out(hr, period)
    return F.l1_loss(_standing_out(restored, period), usual)


def _standing_out(pixels: torch.Tensor, period: int) -> torch.Tensor:
    side = GRID_PERIODS * period
    luma = pixels.float().mean(1)
    windows = luma.unfold(1, side, side // 2).unfold(2, side, side // 2)  # (B, rows, columns, side, side)
    windows = windows - windows.mean((-2, -1), keepdim=True)
    taper = torch.hann_window(side, device=pixels.device)
    energy = torch.fft.fft2(windows * taper[:, None] * taper).abs().square().mean((1, 2))
    # the taper spreads a frequency over two places to each side
    beside = [energy.roll((y, x), (-2, -1)) for y in (-3, 0, 3) for x in (-3, 0, 3) if y or x]
    ratio = (energy + 1e-6) / (torch.stack(beside).mean(0) + 1e-6)
    return ratio[:, ::GRID_PERIODS, ::GRID_PERIODS].flatten(1)[:, 1:].log()  # the first is the mean
