"""What a suite found, as tables in Markdown: means, differences to the baseline, seconds, and what was not run."""

from collections.abc import Iterator, Sequence

from xpsr.benchmark.running import Outcome, SetOutcome
from xpsr.errors import printable
from xpsr.evaluation import Evaluation, Interval
from xpsr.evaluation.statistics import compare, summaries

__all__ = ["as_markdown"]


def as_markdown(outcome: Outcome) -> str:
    """Returns one document with a section for each set."""
    suite, lines = outcome.suite, []
    lines += [f"# {_cell(suite.name)}", ""]
    if suite.config.about:
        lines += [" ".join(printable(suite.config.about).split()), ""]
    for one in outcome.sets:
        lines += _section(one, suite.baseline)
    if outcome.skipped:
        lines += ["## Sets that are not there", ""]
        lines += [f"- {_cell(reason)}" for reason in outcome.skipped.values()] + [""]
    lines += _notes(outcome)
    return "\n".join(lines) + "\n"


def _section(one: SetOutcome, baseline: str) -> Iterator[str]:
    count, expected = len(one.pictures.pairs), one.pictures.config.pictures
    yield f"## {_cell(one.pictures.name)}"
    yield ""
    yield f"{count} picture{'s' * (count > 1)}" + (
        f" of the {expected} of the set." if expected not in (None, count) else "."
    )
    yield ""
    if one.evaluation is not None:
        yield from _means(one.evaluation, one)
        yield from _differences(one.evaluation, baseline)
        for name, reason in one.evaluation.not_measured.items():
            yield f"- {_cell(name)} is not measured: {_cell(reason)}"
    for name, reason in one.failed.items():
        yield f"- {_cell(name)}: {_cell(reason)}"
    for reason in dict.fromkeys(one.left_out.values()):
        names = [name for name, why in one.left_out.items() if why == reason]
        yield f"- not run, as {_cell(reason)}: {', '.join(map(_cell, names))}"
    yield ""


def _means(evaluation: Evaluation, one: SetOutcome) -> Iterator[str]:
    found, decimals = summaries(evaluation), _decimals(evaluation)
    arrows = {True: " ↓", False: " ↑", None: ""}
    titles = [f"{_cell(metric.title)}{arrows[metric.lower_is_better]}" for metric in evaluation.metrics]
    yield from _head(["method", *titles, "s a picture"])
    for method in evaluation.methods:
        cells = [_cell(method.name)]
        for metric in evaluation.metrics:
            summary = found[method.name].get(metric.name)
            cells.append("" if summary is None else _shown(summary.interval, decimals[metric.name]))
        seconds = one.seconds.get(method.name)
        yield _row([*cells, "" if seconds is None else f"{seconds:.3g}"])
    yield ""


def _differences(evaluation: Evaluation, baseline: str) -> Iterator[str]:
    names = [method.name for method in evaluation.methods]
    if baseline not in names:
        yield f"{_cell(baseline)}, which the others are compared with, has no results here."
        yield ""
        return
    if len(names) < 2:
        return
    decimals = _decimals(evaluation)
    cells: dict[str, dict[str, str]] = {name: {} for name in names if name != baseline}
    for found in compare(evaluation, baseline=baseline):
        p = "" if found.p_holm is None else " p<0.001" if found.p_holm < 0.001 else f" p={found.p_holm:.3f}"
        mark = "**" if found.p_holm is not None and found.p_holm < 0.05 else ""
        shown = _shown(found.difference, decimals[found.metric], sign="+")
        cells[found.method][found.metric] = f"{mark}{shown}{mark}{p}"
    yield from _head([f"minus {_cell(baseline)}", *(_cell(metric.title) for metric in evaluation.metrics)])
    for name, row in cells.items():
        yield _row([_cell(name), *(row.get(metric.name, "") for metric in evaluation.metrics)])
    yield ""


def _notes(outcome: Outcome) -> list[str]:
    protocol = outcome.suite.config.protocol
    lines = [
        f"Protocol {_cell(protocol)}. Means with their 95 % bootstrap intervals over pictures; differences are of"
        " the same pictures, with p of Wilcoxon's signed-rank test after Holm's correction for all of a table (none"
        " below six pictures); bold where p < 0.05.",
        "",
        "Seconds are medians. Of models and resizing they are without reading and writing files, and the first picture"
        " after a model was loaded does not count; of commands they hold all, the program's start too, shared among"
        " the pictures where it restores a folder at once.",
        "",
    ]
    return lines + [f"Measured on: {_cell(machine)}." for machine in outcome.machines]


def _decimals(evaluation: Evaluation) -> dict[str, int]:
    """Four digits or so of the largest mean."""
    found = summaries(evaluation)
    decimals = {}
    for metric in evaluation.metrics:
        largest = max(abs(row[metric.name].interval.mean) for row in found.values() if metric.name in row)
        decimals[metric.name] = 2 if largest >= 10 else 3 if largest >= 1 else 4
    return decimals


def _shown(interval: Interval, decimals: int, sign: str = "") -> str:
    mean = f"{interval.mean:{sign}.{decimals}f}"
    if interval.count == 1:
        return mean
    return f"{mean} [{interval.low:{sign}.{decimals}f}, {interval.high:{sign}.{decimals}f}]"


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """A text as Markdown shows it, whatever it is."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#" else letter for letter in printable(text))
