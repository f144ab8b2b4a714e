"""Scores of pictures against their originals, and of pictures alone.

Knows nothing of models, so any method can be scored. `metrics` says what can be measured, `protocols` what is, and
`results` what was found. Luma is that of BT.601 in [16, 235].
"""

from xpsr.evaluation.comparison import KEY_NAME, PAGE_NAME, write_comparison
from xpsr.evaluation.fidelity import BORDER, MIN_SIDE, mean_scores, psnr_y, score, ssim_y
from xpsr.evaluation.folders import evaluate_folders
from xpsr.evaluation.luma import luma
from xpsr.evaluation.metrics import METRICS, Metric, Subject, open_metrics
from xpsr.evaluation.niqe import niqe
from xpsr.evaluation.page import write_page
from xpsr.evaluation.protocols import PROTOCOLS, Protocol, load_protocol
from xpsr.evaluation.results import Case, Evaluation, Interval, Method
from xpsr.evaluation.votes import Ranking, rank_votes, ranking_table, read_votes

__all__ = [
    "BORDER",
    "Case",
    "Evaluation",
    "Interval",
    "KEY_NAME",
    "METRICS",
    "MIN_SIDE",
    "Method",
    "Metric",
    "PAGE_NAME",
    "PROTOCOLS",
    "Protocol",
    "Ranking",
    "Subject",
    "evaluate_folders",
    "load_protocol",
    "luma",
    "mean_scores",
    "niqe",
    "open_metrics",
    "psnr_y",
    "rank_votes",
    "ranking_table",
    "read_votes",
    "score",
    "ssim_y",
    "write_comparison",
    "write_page",
]
