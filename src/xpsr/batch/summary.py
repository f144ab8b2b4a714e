"""The end of a run as a page: one HTML file with everything in it, without scripts, safe to open whatever files' names.

Its looks are those of the pages of an evaluation.
"""

import base64
import hashlib
import html
import importlib.resources
import io
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from xpsr.batch.estimates import pixels_in_words, rate_in_words
from xpsr.batch.ledger import Ledger, Row, Tally
from xpsr.batch.stores import fetch, is_address
from xpsr.errors import printable
from xpsr.files import read_bytes, write_text
from xpsr.planning import in_words, time_in_words

__all__ = ["write_summary"]

_MOST_FAILURES = 200
_MOST_SLOWEST = 20
_SIDE = 96  # pixels of a thumbnail
_SECONDS = 20.0
"""That thumbnails take together; those that remain are gray."""

_MOST = 2**25
"""Bytes and pixels of what is read again for a thumbnail."""

_DEADLY = ("worker_died", "too_slow")
"""Codes of pictures that may be what ended a process."""

_STYLE = """
thead th { padding: 0.6rem 1rem; }
td.thumb { width: 0; padding: 0.4rem 0 0.4rem 0.8rem; }
td.thumb img, td.thumb span { width: 72px; height: 72px; border-radius: 6px; background: var(--sunk); }
td.thumb img { display: block; object-fit: contain; }
td.thumb span { display: grid; place-items: center; color: var(--soft); font-size: 0.75rem; }
th, td { text-align: left; }
th.number, td.number { text-align: right; }
td.text { white-space: normal; min-width: 12rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1.2rem 2rem; margin: 0; }
.numbers div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.numbers dt { color: var(--soft); font-size: 0.875rem; }
.numbers dd { margin: 0; font-size: 1.35rem; font-weight: 620; letter-spacing: -0.015em; }
@media print { body { padding: 0; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header class="top">
<p class="small soft">xpsr batch</p>
<h1>{title}</h1>
<p class="lead soft">{lead}</p>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def write_summary(
    ledger: Ledger,
    path: Path,
    *,
    seconds: float | None = None,
    made: int = 0,
    rate: float | None = None,
    num_unplanned: int = 0,
) -> None:
    """Writes what became of a plan as one HTML file that needs nothing else.

    It holds counts, what the plan is, the slowest pictures and failures, 200 at most, with thumbnails of sources that
    can be read from this machine in a few seconds. What may have ended a process is not opened again.

    Args:
        ledger: of the plan.
        path: where to; what is there is replaced.
        seconds: that the last run took; None: nobody knows.
        made: pictures that it made.
        rate: pictures that it finished in a second; None: nobody knows.
        num_unplanned: sources of which the plan has no picture.

    Raises:
        InputError: the ledger cannot be read, or `path` not be written.
    """
    tally = ledger.tally()
    folder = importlib.resources.files("xpsr") / "evaluation" / "pages"  # without importing it: there is torch in it
    style = "".join((folder / name).read_text(encoding="utf-8") for name in ("base.css", "report.css")) + _STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    sections = (_totals(tally), _failures(ledger, tally), _slowest(ledger), _facts(ledger.facts))
    page = _PAGE.format(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        title=f"{tally.done + tally.skipped:,} of {tally.total:,} pictures are done",
        style=style,
        lead=_lead(tally, seconds, made, rate, num_unplanned),
        body="\n".join(part for parts in sections for part in parts),
    )
    write_text(path, page)


def _lead(tally: Tally, seconds: float | None, made: int, rate: float | None, num_unplanned: int) -> str:
    parts = []
    if num_unplanned:
        parts.append(f"Could not be planned: {num_unplanned:,}; failures.csv tells why.")
    if tally.failed:
        parts.append(f"Failed: {tally.failed:,}.")
    if tally.waiting + tally.running:
        parts.append(f"Still to do: {tally.waiting + tally.running:,}; the same command goes on.")
    if seconds is not None:
        speed = "" if rate is None else f", {rate_in_words(rate)}"
        parts.append(f"The last run made {made:,} in {time_in_words(seconds)}{speed}.")
    return " ".join(parts)


def _totals(tally: Tally) -> Iterator[str]:
    shown = {
        "done": f"{tally.done:,}",
        "skipped": f"{tally.skipped:,}",
        "failed": f"{tally.failed:,}",
        "waiting": f"{tally.waiting + tally.running:,}",
        "of results": pixels_in_words(tally.pixels),
        "on the disk": in_words(tally.bytes),
        "of work, by all workers together": time_in_words(tally.seconds),
        "of work for each picture": f"{tally.seconds / tally.done:.3g} s" if tally.done else "–",
    }
    yield '<section aria-labelledby="totals"><h2 id="totals">Totals</h2><dl class="numbers">'
    for name, value in shown.items():
        yield f"<div><dt>{name}</dt><dd>{value}</dd></div>"
    yield "</dl></section>"


def _failures(ledger: Ledger, tally: Tally) -> Iterator[str]:
    if not tally.failed:
        return
    shown = list(ledger.rows("failed", limit=_MOST_FAILURES))
    yield '<section aria-labelledby="failures"><h2 id="failures">Failures</h2>'
    kinds = ((_th(code), _td(f"{count:,}", "number")) for code, count, _ in ledger.failures())
    yield from _table("Failures by kind", {"Kind": "", "Pictures": "number"}, kinds)
    known = "All" if len(shown) == tally.failed else f"The first {len(shown):,} of {tally.failed:,}; all"
    yield f'<p class="small soft">{known} of them are in <a href="failures.csv">failures.csv</a>.'
    yield " To try them again, add --retry-failed to the same command.</p>"
    deadline = time.monotonic() + _SECONDS
    cells = ((_thumbnail(row, deadline), _th(row.item.id), _td(row.code), _td(row.line, "text")) for row in shown)
    yield from _table("Failures", dict.fromkeys(("Source", "Picture", "Kind", "What is wrong"), ""), cells)
    yield "</section>"


def _slowest(ledger: Ledger) -> Iterator[str]:
    rows = list(ledger.rows("done", slowest=True, limit=_MOST_SLOWEST))
    if not rows:
        return
    yield '<section aria-labelledby="slowest"><h2 id="slowest">Slowest pictures</h2>'
    cells = (
        (
            _th(row.item.id),
            _td(f"{row.seconds:.1f}", "number"),
            _td(f"{row.pixels / 10**6:.1f}", "number"),
            _td(in_words(row.bytes), "number"),
            _td(row.worker),
        )
        for row in rows
    )
    heads = {"Picture": "", "Seconds": "number", "Megapixels": "number", "File": "number", "Worker": ""}
    yield from _table("Slowest pictures", heads, cells)
    yield "</section>"


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    if not facts:
        return
    yield '<section aria-labelledby="plan"><h2 id="plan">Plan</h2>'
    yield '<p class="small soft">What all results depend on.</p>'
    cells = ((_th(name), _td(value, "text")) for name, value in _flat(facts))
    yield from _table("Plan", {"What": "", "Value": ""}, cells)
    yield "</section>"


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yields facts by dotted names."""
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{before}{name}", text


def _table(caption: str, heads: Mapping[str, str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yields a table of heads, with the classes of their columns, and cells that are HTML already."""
    yield f'<div class="scroll"><table><caption class="unseen">{caption}</caption><thead><tr>'
    for head, kind in heads.items():
        yield f'<th scope="col" class="{kind}">{head}</th>'
    yield "</tr></thead><tbody>"
    for cells in rows:
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _th(text: str) -> str:
    return f'<th scope="row">{_escaped(text)}</th>'


def _td(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{_escaped(text)}</td>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _thumbnail(row: Row, deadline: float) -> str:
    """A cell with a small picture of a source, or a gray box."""
    image = None if time.monotonic() > deadline else _read(row)
    if image is None:
        return '<td class="thumb"><span>no picture</span></td>'
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=80)
    address = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<td class="thumb"><img src="{address}" alt="{_escaped(row.item.id)}"></td>'


def _read(row: Row) -> Image.Image | None:
    """A source as it can be read from this machine; None: it cannot, or should not be tried."""
    if is_address(row.item.source) or row.code in _DEADLY:
        return None
    from xpsr.image import Limits, decode_rgb  # torch, which a run without failures need not wait for

    try:
        with tempfile.TemporaryDirectory(prefix="xpsr-") as folder:
            path = fetch(row.item, Path(folder)).path
            if not path.is_file():  # to open a pipe takes for ever
                return None
            content = read_bytes(path, limit=_MOST)
        return Image.fromarray(decode_rgb(content, "source", limits=Limits(max_bytes=_MOST, max_pixels=_MOST)))
    except Exception:  # a full disk, or whatever a stranger's file does to a decoder, of which the row tells
        return None
