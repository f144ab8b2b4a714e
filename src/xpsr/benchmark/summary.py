"""What a suite found, as tables in Markdown: means, differences to the baseline, seconds, and what was not run."""

from collections.abc import Iterator, Sequence

from xpsr.benchmark.running import Outcome, SetOutcome
from xpsr.errors import printable
from xpsr.evaluation import Evaluation
from xpsr.evaluation.statistics import compare, summaries
from xpsr.evaluation.tables import cell_of, decimals_of, mean_with_interval, p_value, row_of

__all__ = ["as_markdown"]


def as_markdown(outcome: Outcome) -> str:
    """Returns one document with a section for each set."""
    suite, lines = outcome.suite, []
    lines += [f"# {cell_of(suite.name)}", ""]
    if suite.config.about:
        lines += [" ".join(printable(suite.config.about).split()), ""]
    for one in outcome.sets:
        lines += _section(one, suite.baseline)
    if outcome.skipped:
        lines += ["## Sets that are not there", ""]
        lines += [f"- {cell_of(reason)}" for reason in outcome.skipped.values()] + [""]
    lines += _notes(outcome)
    return "\n".join(lines) + "\n"


def _section(one: SetOutcome, baseline: str) -> Iterator[str]:
    count, expected = len(one.pictures.pairs), one.pictures.config.pictures
    yield f"## {cell_of(one.pictures.name)}"
    yield ""
    yield f"{count} picture{'s' * (count > 1)}" + (
        f" of the {expected} of the set." if expected not in (None, count) else "."
    )
    yield ""
    if one.evaluation is not None:
        yield from _means(one.evaluation, one)
        yield from _differences(one.evaluation, baseline)
        for name, reason in one.evaluation.not_measured.items():
            yield f"- {cell_of(name)} is not measured: {cell_of(reason)}"
    for name, reason in one.failed.items():
        yield f"- {cell_of(name)}: {cell_of(reason)}"
    for reason in dict.fromkeys(one.left_out.values()):
        names = [name for name, why in one.left_out.items() if why == reason]
        yield f"- not run, as {cell_of(reason)}: {', '.join(map(cell_of, names))}"
    yield ""


def _means(evaluation: Evaluation, one: SetOutcome) -> Iterator[str]:
    found, decimals = summaries(evaluation), decimals_of(evaluation)
    arrows = {True: " ↓", False: " ↑", None: ""}
    titles = [f"{cell_of(metric.title)}{arrows[metric.lower_is_better]}" for metric in evaluation.metrics]
    yield from _head(["method", *titles, "s a picture"])
    for method in evaluation.methods:
        cells = [cell_of(method.name)]
        for metric in evaluation.metrics:
            summary = found[method.name].get(metric.name)
            cells.append("" if summary is None else mean_with_interval(summary.interval, decimals[metric.name]))
        seconds = one.seconds.get(method.name)
        yield row_of([*cells, "" if seconds is None else f"{seconds:.3g}"])
    yield ""


def _differences(evaluation: Evaluation, baseline: str) -> Iterator[str]:
    names = [method.name for method in evaluation.methods]
    if baseline not in names:
        yield f"{cell_of(baseline)}, which the others are compared with, has no results here."
        yield ""
        return
    if len(names) < 2:
        return
    decimals = decimals_of(evaluation)
    cells: dict[str, dict[str, str]] = {name: {} for name in names if name != baseline}
    for found in compare(evaluation, baseline=baseline):
        p = "" if found.p_holm is None else f", p {p_value(found.p_holm)}"
        mark = "**" if found.p_holm is not None and found.p_holm < 0.05 else ""
        shown = mean_with_interval(found.difference, decimals[found.metric], sign="+")
        cells[found.method][found.metric] = f"{mark}{shown}{mark}{p}"
    yield from _head([f"minus {cell_of(baseline)}", *(cell_of(metric.title) for metric in evaluation.metrics)])
    for name, row in cells.items():
        yield row_of([cell_of(name), *(row.get(metric.name, "") for metric in evaluation.metrics)])
    yield ""


def _notes(outcome: Outcome) -> list[str]:
    protocol = outcome.suite.config.protocol
    lines = [
        f"Protocol {cell_of(protocol)}. Means with their 95 % bootstrap intervals over pictures; differences are of"
        " the same pictures, with p of Wilcoxon's signed-rank test after Holm's correction for all of a table (none"
        " below six pictures); bold where p < 0.05.",
        "",
        "Seconds are medians. Of models and resizing they are without reading and writing files, and the first picture"
        " after a model was loaded does not count; of commands they hold all, the program's start too, shared among"
        " the pictures where it restores a folder at once.",
        "",
    ]
    return lines + [f"Measured on: {cell_of(machine)}." for machine in outcome.machines]


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield row_of(cells)
    yield row_of(["---"] * len(cells))
