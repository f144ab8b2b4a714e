"""Scores of pictures against their originals, and of pictures alone.

Knows nothing of models, so any method can be scored. `metrics` says what can be measured, `protocols` what is,
`scoring` measures it and `results` is what was found; `statistics` and `report` say what that means. Luma is that of
BT.601 in [16, 235].
"""

from xpsr.evaluation.fidelity import BORDER, MIN_SIDE, mean_scores, psnr_y, score, ssim_y
from xpsr.evaluation.luma import luma
from xpsr.evaluation.metrics import METRICS, Metric, Subject, open_metrics
from xpsr.evaluation.niqe import niqe
from xpsr.evaluation.protocols import PROTOCOLS, Protocol, load_protocol
from xpsr.evaluation.report import write_report
from xpsr.evaluation.results import Case, Evaluation, Interval, Method
from xpsr.evaluation.scoring import evaluate
from xpsr.evaluation.statistics import Comparison, compare, compare_all, mean_interval

__all__ = [
    "BORDER",
    "Case",
    "Comparison",
    "Evaluation",
    "Interval",
    "METRICS",
    "MIN_SIDE",
    "Method",
    "Metric",
    "PROTOCOLS",
    "Protocol",
    "Subject",
    "compare",
    "compare_all",
    "evaluate",
    "load_protocol",
    "luma",
    "mean_interval",
    "mean_scores",
    "niqe",
    "open_metrics",
    "psnr_y",
    "score",
    "ssim_y",
    "write_report",
]
