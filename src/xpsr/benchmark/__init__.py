"""Suites: methods x sets, restored as far as that is not done, scored and summed up.

Each module imports only those named before it. `suite` reads what is to be run, `texts` says what models are told,
`commands` runs programs of others, `restoring` makes the results of a method, `running` those of a suite, `summary`
writes tables.
"""

from xpsr.benchmark.running import Outcome, SetOutcome, find_sets, run_suite, why_not
from xpsr.benchmark.suite import Pair, PictureSet, Suite, load_suite, open_set
from xpsr.benchmark.summary import as_markdown
from xpsr.benchmark.texts import SetTexts, swap

__all__ = [
    "Outcome",
    "Pair",
    "PictureSet",
    "SetOutcome",
    "SetTexts",
    "Suite",
    "as_markdown",
    "find_sets",
    "load_suite",
    "open_set",
    "run_suite",
    "swap",
    "why_not",
]
