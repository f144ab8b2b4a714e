"""Scores of pictures against their originals, and of pictures alone.

Knows nothing of models, so any method can be scored. `metrics` says what can be measured, `protocols` what is, and
`results` what was found. Luma is that of BT.601 in [16, 235].
"""

from xpsr.evaluation.folders import evaluate_folders
from xpsr.evaluation.luma import luma
from xpsr.evaluation.metrics import METRICS, Metric, Needs, Subject, digest, open_metrics
from xpsr.evaluation.niqe import niqe
from xpsr.evaluation.protocols import PROTOCOLS, Protocol, load_protocol
from xpsr.evaluation.results import Case, Evaluation, Interval, Method
from xpsr.evaluation.validation import MIN_SIDE, mean_scores, score

__all__ = [
    "Case",
    "Evaluation",
    "Interval",
    "METRICS",
    "MIN_SIDE",
    "Method",
    "Metric",
    "Needs",
    "PROTOCOLS",
    "Protocol",
    "Subject",
    "digest",
    "evaluate_folders",
    "load_protocol",
    "luma",
    "mean_scores",
    "niqe",
    "open_metrics",
    "score",
]
