"""What an evaluation found, as files and tables: JSON for programs, CSV for spreadsheets, Markdown and text to read."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xpsr.config import as_dict
from xpsr.errors import InputError, printable
from xpsr.evaluation.metrics import Metric
from xpsr.evaluation.results import Evaluation, Interval
from xpsr.evaluation.statistics import MIN_PICTURES, Comparison, best_methods, compare_all, summaries
from xpsr.evaluation.tables import cell_of, decimals_of, mean_with_interval, p_value, row_of
from xpsr.files import read_bytes, refusal, write_text

__all__ = ["PAGE", "as_csv", "as_json", "as_markdown", "as_text", "check_place", "write_report"]

PAGE = "index.html"
"""The page of a report, in its folder."""

_SCORES, _TABLE, _TEXT = "scores.json", "scores.csv", "report.md"
_MOST_LINES = 20  # of differences on a terminal


def write_report(evaluation: Evaluation, folder: Path, *, page: bool = True) -> None:
    """Writes `scores.json`, `scores.csv`, `report.md` and `index.html`, the page, unless it is not wanted.

    Those of a former report are replaced.

    Raises:
        InputError: as `check_place`, or the folder or a file cannot be written.
    """
    check_place(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(folder, "cannot be made", error) from error
    write_text(folder / _SCORES, json.dumps(as_json(evaluation), indent=1) + "\n")
    write_text(folder / _TABLE, as_csv(evaluation))
    write_text(folder / _TEXT, as_markdown(evaluation))
    if page:
        from xpsr.evaluation.page import write_page

        write_page(evaluation, folder / PAGE)


def check_place(folder: Path) -> None:
    """Refuses a folder for a report that holds a file of one of its names, and no `scores.json` of a report.

    Raises:
        InputError: it is such a folder, or cannot be looked at.
    """
    try:
        there = [path for name in (PAGE, _SCORES, _TABLE, _TEXT) if (path := folder / name).exists()]
    except OSError as error:
        raise refusal(folder, "cannot be used", error) from error
    if there and not _is_of_report(folder / _SCORES):
        message = f"{there[0]}: is there already, and belongs to no report"
        raise InputError(message, code="exists", remedy="choose a new folder")


def _is_of_report(scores: Path) -> bool:
    try:
        return {"protocol", "methods"} <= json.loads(read_bytes(scores)).keys()
    except (InputError, ValueError, RecursionError, AttributeError):  # it is not there, or something else
        return False


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns all of an evaluation as JSON values; docs/evaluation.md says what they mean."""
    found = summaries(evaluation)
    return {
        "protocol": as_dict(evaluation.protocol),
        "metrics": {
            metric.name: {
                "title": metric.title,
                "version": metric.version,
                "lower_is_better": metric.lower_is_better,
            }
            for metric in evaluation.metrics
        },
        "not_measured": dict(evaluation.not_measured),
        "methods": {
            method.name: {
                "means": {
                    name: {
                        "mean": summary.interval.mean,
                        "low": summary.interval.low,
                        "high": summary.interval.high,
                        "median": summary.median,
                        "count": summary.interval.count,
                    }
                    for name, summary in found[method.name].items()
                },
                "pictures": {case.name: dict(scores) for case, scores in zip(method.cases, method.scores, strict=True)},
            }
            for method in evaluation.methods
        },
        "comparisons": [asdict(comparison) for comparison in compare_all(evaluation)],
        "facts": dict(evaluation.facts),
    }


def as_csv(evaluation: Evaluation) -> str:
    """Returns a line for each picture of each method, with a column a metric, empty where there is no score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [metric.name for metric in evaluation.metrics]
    writer.writerow(["method", "picture", *names])
    for method in evaluation.methods:
        for case, scores in zip(method.cases, method.scores, strict=True):
            row = [repr(scores[name]) if name in scores else "" for name in names]
            writer.writerow([printable(method.name), printable(case.name), *row])
    return text.getvalue()


def as_markdown(evaluation: Evaluation) -> str:
    """Returns a report: the table of means, differences with their tests, and how all of it was measured."""
    return "\n".join(
        [
            *_head(evaluation),
            *_means_table(evaluation),
            *_not_measured(evaluation),
            *_differences_table(evaluation),
            *_provenance(evaluation),
        ]
    )


def as_text(evaluation: Evaluation) -> str:
    """Returns the tables for a terminal, in columns of letters of one width."""
    decimals = decimals_of(evaluation)
    found, best = summaries(evaluation), best_methods(evaluation)
    rows = [["", *(printable(metric.title) for metric in evaluation.metrics)]]
    for method in evaluation.methods:
        cells = [printable(method.name)]
        for metric in evaluation.metrics:
            summary = found[method.name].get(metric.name)
            mark = "*" if method.name in best[metric.name] else ""
            if summary is None:
                cells.append("-")
                continue
            text = mean_with_interval(summary.interval, decimals[metric.name])
            cells.append(text + mark + _over(summary.interval, evaluation))
        rows.append(cells)
    lines = _aligned(_upright(rows))
    marked = "; *: the best mean" if any(best.values()) else ""
    interval = "mean [95 % interval]" if len(evaluation.names) > 1 else "one picture"
    lines += ["", f"{interval}{marked}; {_pictures(evaluation)}, protocol {printable(evaluation.protocol.name)}"]
    lines += [printable(f"not measured: {name} ({reason})") for name, reason in evaluation.not_measured.items()]
    comparisons = compare_all(evaluation)
    if len(comparisons) > _MOST_LINES:
        lines += ["", f"{len(comparisons)} differences between methods and their tests are in report.md (-o REPORT)"]
    elif comparisons:
        table = [["", "difference", "p (Holm)"]]
        for comparison in comparisons:
            what = printable(f"{comparison.method} - {comparison.baseline}, {comparison.metric}")
            difference = mean_with_interval(comparison.difference, decimals[comparison.metric] + 1, sign="+")
            difference += _over(comparison.difference, evaluation)
            table.append([what, difference, p_value(comparison.p_holm)])
        lines += ["", *_aligned(table)]
    return "\n".join(lines)


def _upright(rows: list[list[str]]) -> list[list[str]]:
    """A table of methods by metrics, or of metrics by methods where that is the less wide one."""
    return [list(column) for column in zip(*rows, strict=True)] if len(rows[0]) > len(rows) else rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _pictures(evaluation: Evaluation) -> str:
    count = len(evaluation.names)
    return f"{count} picture{'s' * (count > 1)}"


def _over(interval: Interval, evaluation: Evaluation) -> str:
    """Over how many pictures a mean is, where it is not over all of them."""
    return "" if interval.count == len(evaluation.names) else f" over {interval.count}"


def _head(evaluation: Evaluation) -> list[str]:
    names = ", ".join(cell_of(method.name) for method in evaluation.methods)
    about = evaluation.protocol.about and f" ({cell_of(evaluation.protocol.about)})"
    return [
        f"# {names}",
        "",
        f"{_pictures(evaluation)}, protocol {cell_of(evaluation.protocol.name)}{about}.",
        "",
    ]


def _direction(metric: Metric) -> str:
    return {True: "lower is better", False: "higher is better", None: "no better or worse"}[metric.lower_is_better]


def _means_table(evaluation: Evaluation) -> list[str]:
    decimals, found, best = decimals_of(evaluation), summaries(evaluation), best_methods(evaluation)
    metrics = evaluation.metrics
    rows = [["", *(f"{cell_of(metric.title)} ({_direction(metric)})" for metric in metrics)]]
    for method in evaluation.methods:
        rows.append([cell_of(method.name)])
        for metric in metrics:
            summary = found[method.name].get(metric.name)
            if summary is None:
                rows[-1].append("")
                continue
            text = mean_with_interval(summary.interval, decimals[metric.name])
            text = f"**{text}**" if method.name in best[metric.name] else text
            rows[-1].append(text + _over(summary.interval, evaluation))
    head, *others = _upright(rows)
    told = "Means with their 95 % bootstrap intervals over pictures (percentiles of 10,000 resamples)."
    told += " The best means are bold." if any(best.values()) else ""
    return [row_of(head), row_of(["---"] * len(head)), *map(row_of, others), "", told, ""]


def _not_measured(evaluation: Evaluation) -> list[str]:
    if not evaluation.not_measured:
        return []
    lines = [f"- {cell_of(name)}: {cell_of(reason)}" for name, reason in evaluation.not_measured.items()]
    return ["Not measured:", "", *lines, ""]


def _differences_table(evaluation: Evaluation) -> list[str]:
    comparisons = compare_all(evaluation)
    if not comparisons:
        return []
    decimals = decimals_of(evaluation)
    titles = {metric.name: metric for metric in evaluation.metrics}
    lines = [
        row_of(["", "metric", "mean difference", "better", "pictures", "p", "p (Holm)"]),
        row_of(["---"] * 7),
    ]
    for comparison in comparisons:
        metric = titles[comparison.metric]
        lines.append(
            row_of(
                [
                    f"{cell_of(comparison.method)} − {cell_of(comparison.baseline)}",
                    cell_of(metric.title),
                    mean_with_interval(comparison.difference, decimals[metric.name] + 1, sign="+"),
                    cell_of(_better(comparison, metric)),
                    str(comparison.difference.count),
                    p_value(comparison.p),
                    p_value(comparison.p_holm),
                ]
            )
        )
    tests = sum(comparison.p is not None for comparison in comparisons)
    told = (
        f"p is that of Wilcoxon's signed-rank test over pictures, two-sided; with fewer than {MIN_PICTURES} pictures"
        f" there is none. Holm's correction is over the {tests} tests of this table, all pairs in all metrics."
    )
    return ["## Differences", "", *lines, "", told, ""]


def _better(comparison: Comparison, metric: Metric) -> str:
    """Which of both has the better mean; whether that is more than chance, p says."""
    mean = comparison.difference.mean
    if metric.lower_is_better is None or mean == 0:
        return ""
    return comparison.method if (mean < 0) == metric.lower_is_better else comparison.baseline


def _provenance(evaluation: Evaluation) -> list[str]:
    protocol = as_dict(evaluation.protocol)
    lines = ["## How it was measured", ""]
    lines += [
        f"- protocol {cell_of(name)}: {cell_of(_value(value))}" for name, value in protocol.items() if value != ""
    ]
    lines += [f"- metric {cell_of(metric.name)}: version {cell_of(metric.version)}" for metric in evaluation.metrics]
    for name, value in evaluation.facts.items():
        lines += _facts(name, value)
    return [*lines, ""]


def _facts(name: str, value: Any) -> list[str]:
    """Lines of the innermost mappings, which belong on one."""
    if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
        return [line for inner, part in value.items() if part is not None for line in _facts(f"{name} {inner}", part)]
    return [f"- {cell_of(name)}: {cell_of(_value(value))}"]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
