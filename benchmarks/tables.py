"""Rows as tables: Markdown, or columns that a terminal shows one under the other."""

from collections.abc import Mapping, Sequence


def markdown_table(rows: Mapping[str, Mapping[str, str]], corner: str = "") -> str:
    """Returns a table with a line a row; what a row lacks of the columns of all is left empty."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[corner, *columns], *([name, *(row.get(column, "") for column in columns)] for name, row in rows.items())]
    return _markdown(lines)


def table(rows: Sequence[Mapping[str, str]], *, markdown: bool = False) -> str:
    """Returns a line for what all rows share, such as `model: mini`, and a table of the rest, a line a row.

    A single row shares nothing. Columns that are empty in all rows are left out.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    values = {column: {row.get(column, "") for row in rows} for column in columns}
    columns = [column for column in columns if values[column] != {""}]
    shared = [column for column in columns if len(rows) > 1 and len(values[column]) == 1]
    kept = [column for column in columns if column not in shared]
    heading = ", ".join(f"{column}: {rows[0][column]}" for column in shared)
    lines = [kept, *([row.get(column, "") for column in kept] for row in rows)] if kept else []
    body = _markdown(lines) if markdown else _aligned(lines)
    return "\n\n".join(part for part in (heading, body) if part)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rest])


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of numbers stand right, of words left."""
    columns = []
    for cells in zip(*lines, strict=True):
        width, is_number = max(map(len, cells)), all(cell[:1].isdigit() for cell in cells[1:] if cell)
        columns.append([cell.rjust(width) if is_number else cell.ljust(width) for cell in cells])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
