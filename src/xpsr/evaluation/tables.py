"""Numbers and cells as tables show them: in Markdown, and on terminals."""

from collections.abc import Sequence

from xpsr.errors import printable
from xpsr.evaluation.results import Evaluation, Interval
from xpsr.evaluation.statistics import summaries

__all__ = ["cell_of", "decimals_of", "mean_with_interval", "p_value", "row_of"]


def decimals_of(evaluation: Evaluation) -> dict[str, int]:
    """Returns with how many decimals the means of each metric are told: four digits or so of the largest."""
    found = summaries(evaluation)
    largest = {
        metric.name: max(abs(row[metric.name].interval.mean) for row in found.values() if metric.name in row)
        for metric in evaluation.metrics
    }
    return {name: 2 if value >= 10 else 3 if value >= 1 else 4 for name, value in largest.items()}


def mean_with_interval(interval: Interval, decimals: int, sign: str = "") -> str:
    """Returns a mean with its interval; one picture has none. `sign` is "+" for a difference."""
    mean = f"{interval.mean:{sign}.{decimals}f}"
    if interval.count == 1:
        return mean
    return f"{mean} [{interval.low:{sign}.{decimals}f}, {interval.high:{sign}.{decimals}f}]"


def p_value(p: float | None) -> str:
    """Returns p as tables say it; None: there were too few pictures for a test."""
    return "too few" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def cell_of(text: str) -> str:
    """Returns a text as a cell of a table in Markdown holds it, whatever a file is called."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>|#~$" else letter for letter in printable(text))


def row_of(cells: Sequence[str]) -> str:
    """Returns a line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"
