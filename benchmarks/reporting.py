"""What benchmarks tell beside seconds: this process's memory, the machine, and tables."""

import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def peak_memory() -> int:
    """Returns the most bytes that this process held so far, pages of mapped files included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """Returns cores, kind of machine and the versions of Python and of the packages, JSON-ready."""
    return {
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()} {platform.system()}",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def markdown_table(rows: Mapping[str, Mapping[str, str]], corner: str = "") -> str:
    """Returns a table with a line a row; what a row lacks of the columns of all is left empty."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[corner, *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
