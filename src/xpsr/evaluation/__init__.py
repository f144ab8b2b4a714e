"""Scores of pictures against their originals, and of pictures alone.

Knows nothing of models, so any method can be scored. Luma is that of BT.601 in [16, 235]. SSIM's window is a Gaussian
of 11 x 11 with a deviation of 1.5, whole windows only.
"""

from xpsr.evaluation.folders import evaluate_folders
from xpsr.evaluation.luma import luma
from xpsr.evaluation.metrics import BORDER, MIN_SIDE, mean_scores, psnr_y, score, ssim_y
from xpsr.evaluation.niqe import niqe

__all__ = ["BORDER", "MIN_SIDE", "evaluate_folders", "luma", "mean_scores", "niqe", "psnr_y", "score", "ssim_y"]
