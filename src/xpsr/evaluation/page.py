"""The report as a page: one HTML file with everything in it, for whoever opens it, from a disk, without a network."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import ImageOps

from xpsr.config import as_dict
from xpsr.evaluation.metrics import Metric
from xpsr.evaluation.pages import build_page, cut, data_uri, middle
from xpsr.evaluation.results import Case, Evaluation, Method
from xpsr.evaluation.statistics import best_methods, compare_all, mean_interval
from xpsr.files import write_text
from xpsr.image import read_image, to_pil

__all__ = ["MAX_BYTES", "choose_pictures", "write_page"]

MAX_BYTES = 64 * 2**20
"""Of all pictures in a page."""

_THUMBNAIL = 152  # shown half as large


def write_page(evaluation: Evaluation, path: Path, *, max_pictures: int = 24) -> None:
    """Writes an evaluation as one HTML file that needs nothing else.

    It holds the scores of all pictures, and some of the pictures themselves: those that `choose_pictures` names, until
    `MAX_BYTES` are full; the page says what was left out.

    Args:
        evaluation: of at least one method and one picture.
        path: where to; what is there is replaced.
        max_pictures: how many pictures, of all methods each, it holds at most; 0 for none.

    Raises:
        InputError: a picture cannot be read, or `path` cannot be written.
    """
    pictures = _embedded(evaluation, max_pictures)
    names = [method.name for method in evaluation.methods]
    num_methods, num_pictures = len(names), len(evaluation.names)
    counted = f"{num_methods} method{'s' * (num_methods > 1)}, {num_pictures} picture{'s' * (num_pictures > 1)}"
    data = {
        "eyebrow": f"xpsr evaluation · protocol {evaluation.protocol.name}",
        "title": counted,
        "lead": f"{_listed(names)}, measured picture by picture"
        + (f": {evaluation.protocol.about}." if evaluation.protocol.about else "."),
        "embedded": _said(len(pictures), num_pictures),
        "metrics": [_metric(metric) for metric in evaluation.metrics],
        "notMeasured": dict(evaluation.not_measured),
        "methods": [_method(method, evaluation.metrics) for method in evaluation.methods],
        "best": _best(evaluation),
        "differences": _differences(evaluation),
        "names": list(evaluation.names),
        "pictures": pictures,
        "facts": {
            "protocol": as_dict(evaluation.protocol),
            "metrics": {
                metric.name: f"{metric.title}, version {metric.version}, needs {metric.needs}"
                for metric in evaluation.metrics
            },
            **evaluation.facts,
        },
    }
    page = build_page(
        "report.html",
        title=f"{_listed(names)}: evaluation",
        styles=("base.css", "report.css"),
        scripts=("base.js", "tables.js", "plots.js", "viewer.js", "report.js"),
        data=data,
    )
    write_text(path, page)


def choose_pictures(evaluation: Evaluation, count: int) -> list[int]:
    """Returns the indices of at most `count` pictures that are worth a look, the most telling first.

    In turn, of every metric: where the first two methods are furthest apart, either way; the worst and the best of each
    method. Then, if there is room, all others in their order.
    """
    rankings = [list(ranking) for metric in evaluation.metrics for ranking in _rankings(evaluation, metric)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*rankings))
    ordered = dict.fromkeys(index for index in turns if index is not None)
    return list(dict.fromkeys([*ordered, *range(len(evaluation.names))]))[: max(count, 0)]


def _rankings(evaluation: Evaluation, metric: Metric) -> Iterator[list[int]]:
    sign = -1 if metric.lower_is_better else 1
    columns = [
        {index: sign * value for index, value in enumerate(_column(method, metric)) if value is not None}
        for method in evaluation.methods
    ]
    if len(columns) > 1:
        first, second = columns[:2]
        gaps = {index: first[index] - second[index] for index in first if index in second}
        by_gap = sorted(gaps, key=lambda index: gaps[index])
        yield [index for index in by_gap if gaps[index] < 0]
        yield [index for index in reversed(by_gap) if gaps[index] > 0]
    for column in columns:
        by_score = sorted(column, key=lambda index: column[index])
        yield by_score
        yield by_score[::-1]


def _column(method: Method, metric: Metric) -> list[float | None]:
    """Scores of a method by one metric, in the order of pictures; None where there is none."""
    return [scores.get(metric.name) for scores in method.scores]


def _metric(metric: Metric) -> dict[str, Any]:
    return {"name": metric.name, "title": metric.title, "lower": metric.lower_is_better}


def _method(method: Method, metrics: Sequence[Metric]) -> dict[str, Any]:
    columns = [_column(method, metric) for metric in metrics]
    return {"name": method.name, "scores": columns, "intervals": [_interval(column) for column in columns]}


def _best(evaluation: Evaluation) -> list[list[int]]:
    """Places of the methods with the best mean, by metric."""
    best, names = best_methods(evaluation), [method.name for method in evaluation.methods]
    return [[names.index(name) for name in best[metric.name]] for metric in evaluation.metrics]


def _differences(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Of each two methods, by metric: how the later one differs from the earlier, and p; None: nothing is known."""
    names = [method.name for method in evaluation.methods]
    found = {(one.baseline, one.method, one.metric): one for one in compare_all(evaluation)}
    rows = []
    for first, second in itertools.combinations(range(len(names)), 2):
        cells = [found.get((names[first], names[second], metric.name)) for metric in evaluation.metrics]
        shown = [None if one is None else {**asdict(one.difference), "p": one.p_holm} for one in cells]
        rows.append({"first": first, "second": second, "cells": shown})
    return rows


def _interval(column: Sequence[float | None]) -> dict[str, Any] | None:
    values = [value for value in column if value is not None]
    return asdict(mean_interval(values)) if values else None


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _said(num_embedded: int, num_pictures: int) -> str:
    if num_embedded == num_pictures:
        return "All pictures are in this page."
    if not num_embedded:
        return "No pictures are in this page, only their scores."
    return (
        f"{num_embedded} of {num_pictures} pictures are in this page, those where methods are furthest apart and the "
        "worst and best first; the scores below are of all."
    )


def _embedded(evaluation: Evaluation, max_pictures: int) -> list[dict[str, Any]]:
    chosen = choose_pictures(evaluation, max_pictures)
    found, total = [], 0
    for index in chosen:
        cases = [method.cases[index] for method in evaluation.methods]
        picture = _picture(index, cases, budget=MAX_BYTES // len(chosen))
        total += sum(len(source) for source in picture["sources"].values())
        if total > MAX_BYTES:
            break
        found.append(picture)
    return found


def _picture(index: int, cases: Sequence[Case], *, budget: int) -> dict[str, Any]:
    """A picture of all methods with its original and input: exact if that takes no more than `budget` bytes."""
    files = {f"m{number}": case.restored for number, case in enumerate(cases)}
    files |= {side: path for side in ("hr", "lr") if (path := getattr(cases[0], side)) is not None}
    images = {side: to_pil(read_image(path).pixels) for side, path in files.items()}
    scene = images.get("hr", images["m0"]).size
    box = middle(*scene)
    notes = []
    if box is not None:
        images = {side: cut(image, box, scene) for side, image in images.items()}
        notes.append(f"The middle {box[2] - box[0]} × {box[3] - box[1]} of {scene[0]} × {scene[1]} pixels.")
        scene = (box[2] - box[0], box[3] - box[1])
    thumbnail = ImageOps.fit(images.get("hr", images["m0"]), (_THUMBNAIL, _THUMBNAIL))
    # the first tells how large all are: to make them lossless takes long
    is_exact = len(data_uri(images["m0"], is_exact=True)) * len(images) <= budget
    sources = {side: data_uri(image, is_exact=is_exact) for side, image in images.items()}
    if not is_exact:
        notes.append("Compressed here (WebP, quality 95); the scores are of the files.")
    return {
        "index": index,
        "width": scene[0],
        "height": scene[1],
        "sources": sources,
        "thumbnail": data_uri(thumbnail, is_exact=False),
        "note": " ".join(notes) or None,
    }
