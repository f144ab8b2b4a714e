"""What benchmarks tell beside what they measured: the machine, the versions, when, and of which commit."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xpsr.devices import processor_name

ROOT = Path(__file__).resolve().parents[1]


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """Returns processor, cores, kind of machine and the versions of Python and of the packages, JSON-ready."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()} {platform.system()}",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def occasion() -> dict[str, str | None]:
    """Returns the time (UTC) and the commit, with a "+" where files differ from it; None outside of a checkout."""
    command, commit = ["git", "describe", "--always", "--exclude=*", "--dirty=+"], None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit}
