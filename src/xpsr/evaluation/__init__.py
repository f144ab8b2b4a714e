"""Scores of pictures against their originals, and of pictures alone.

Knows nothing of models, so any method can be scored. `metrics` says what can be measured, `protocols` what is,
`scoring` measures it and `results` is what was found; `statistics` and `report` say what that means. Luma is that of
BT.601 in [16, 235].
"""

from xpsr.evaluation.comparison import KEY_NAME, PAGE_NAME, write_comparison
from xpsr.evaluation.flicker import Flicker, flicker
from xpsr.evaluation.luma import luma
from xpsr.evaluation.metrics import METRICS, Metric, Subject, digest, open_metrics
from xpsr.evaluation.niqe import niqe
from xpsr.evaluation.page import write_page
from xpsr.evaluation.protocols import PROTOCOLS, Protocol, load_protocol
from xpsr.evaluation.report import write_report
from xpsr.evaluation.results import Case, Evaluation, Interval, Method
from xpsr.evaluation.scoring import evaluate
from xpsr.evaluation.statistics import Comparison, compare, compare_all, mean_interval
from xpsr.evaluation.validation import MIN_SIDE, mean_scores, score
from xpsr.evaluation.votes import Ranking, rank_votes, ranking_table, read_votes

__all__ = [
    "Case",
    "Comparison",
    "Evaluation",
    "Flicker",
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
    "compare",
    "compare_all",
    "digest",
    "evaluate",
    "flicker",
    "load_protocol",
    "luma",
    "mean_interval",
    "mean_scores",
    "niqe",
    "open_metrics",
    "rank_votes",
    "ranking_table",
    "read_votes",
    "score",
    "write_comparison",
    "write_page",
    "write_report",
]
