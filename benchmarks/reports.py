"""What was measured as tables for a person."""

from collections.abc import Mapping
from typing import Any

from benchmarks.operators import KINDS
from benchmarks.rows import Rows
from benchmarks.tables import table

Row = Mapping[str, Any]


def show_parts(rows: Rows, *, markdown: bool) -> str:
    """A line a part, or a combination that failed; nothing where there is none."""
    return table([_settings(row) | _measured(row) for row in rows.of("part")], markdown=markdown)


def show_operators(rows: Rows, *, markdown: bool) -> str:
    """A line a part: what share of its time each kind of operator takes; nothing where nobody asked."""
    lines = [
        _settings(row) | {"part": row["part"]} | {kind: f"{row['operators'].get(kind, 0):.0%}" for kind in KINDS}
        for row in rows.of("part")
        if "operators" in row
    ]
    return table(lines, markdown=markdown)


def show_peers(rows: Rows, *, markdown: bool) -> str:
    """A line for a peer beside each of our wholes of the same input and threads; nothing where there is no peer."""
    lines = []
    for peer in rows.of("peer"):
        beside = [
            row
            for row in rows.of("part")
            if row.get("part") == "whole" and all(row[name] == peer[name] for name in ("input", "asked_threads"))
        ]
        cells = {"peer": peer["command"], "input": peer["input"], "threads": _given(peer["asked_threads"])}
        if "error" in peer:
            lines.append(cells | {"failed": peer["error"]})
            continue
        cells |= _costs(peer) | {"process s": f"{peer['process_seconds']:.2f}"}
        lines += [cells | {"beside": _name(row)} | _ratios(peer, row) for row in beside] or [cells]
    return table(lines, markdown=markdown)


def show_reference(rows: Rows, *, markdown: bool) -> str:
    """Ours and the reference, a line each with the ratio to ours; nothing where there is neither."""
    lines, ours = [], {}
    for row in rows.of("reference"):
        cells = {name: str(row[name]) for name in ("latents", "device", "dtype", "threads")}
        if "error" in row:
            lines.append(cells | {"failed": row["error"]})
            continue
        if row["side"] == "ours":
            ours = row
        counts = {f"{name} parameters": f"{count:,}" for name, count in row["parameters"].items()}
        lines.append(cells | {"a step of": row["side"]} | counts | _costs(row) | _ratios(row, ours))
    return table(lines, markdown=markdown)


def _settings(row: Row) -> dict[str, str]:
    width, height = (round(int(side) * row["scale"]) for side in row["input"].split("x"))
    cells = {name: _given(row[name]) for name in ("model", "device", "dtype", "threads", "engine", "steps")}
    cells |= {"compiled": "yes" if row["compiled"] else "", "input": row["input"], "output": f"{width}x{height}"}
    if "peak_gflops" in row:
        # which every process measures anew, so that it is no setting that rows share
        cells["peak GFLOP/s"] = f"{row['peak_gflops']:.0f}"
    return cells


def _measured(row: Row) -> dict[str, str]:
    if "error" in row:
        return {"failed": row["error"]}
    return {
        "part": row["part"],
        **_costs(row),
        "GFLOP": f"{row['gflop']:.4g}",
        "GFLOP/s": f"{row['gflops']:.4g}",
        "of peak": f"{row['peak_share']:.0%}",
    }


def _costs(row: Row) -> dict[str, str]:
    cells = {"seconds": f"{row['seconds']:.3f}"}
    if "seconds_min" in row:
        cells["min to max"] = f"{row['seconds_min']:.3f} to {row['seconds_max']:.3f}"
    cells |= {"CPU s": f"{row['cpu_seconds']:.3f}", "peak MB": f"{row['peak_mb']}"}
    if row.get("device_peak_mb") is not None:
        cells["device MB"] = f"{row['device_peak_mb']}"
    return cells


def _ratios(row: Row, base: Row) -> dict[str, str]:
    """How many times as much `row` takes as `base`."""
    names = {"wall": "seconds", "CPU": "cpu_seconds", "memory": "peak_mb"}
    return {f"{name}, x ours": f"{row[key] / base[key]:.2f}" for name, key in names.items() if base[key]}


def _name(row: Row) -> str:
    words = [row["model"], row["dtype"], row["engine"], "compiled" if row["compiled"] else None]
    return " ".join(word for word in words if word)


def _given(value: object) -> str:
    return "" if value is None else str(value)
