"""Other programs that restore a picture, run as a user runs them; whether a folder holds the authors' code."""

import functools
import json
import shlex
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.combinations import picture_of
from benchmarks.processes import BenchmarkError, Run, run_command
from xpsr.errors import InputError
from xpsr.image import write_image

_REFERENCE = Path("models", "xpsr", "controlnet.py")


def check_checkout(checkout: Path) -> None:
    """Looks whether a folder holds the authors' networks, which `reference` imports.

    Raises:
        InputError: it has not.
    """
    if not (checkout / _REFERENCE).is_file():
        message, remedy = f"holds no {_REFERENCE}", "clone https://github.com/qyp2000/XPSR and name that folder"
        raise InputError(message, code="not_found", field="reference", value=str(checkout), remedy=remedy)


def split_command(template: str) -> list[str]:
    """Returns the words of a command as a shell has them.

    Raises:
        InputError: it does not say where the names of input and output go, or has a quote without an end.
    """
    remedy = 'write, for example, "upscaler {input} -o {output}"'
    try:
        words = shlex.split(template)
    except ValueError as error:
        message = f"cannot be split into words ({error})"
        raise InputError(message, code="invalid", field="peer", value=template, remedy=remedy) from error
    for name in ("{input}", "{output}"):
        if not any(name in word for word in words):
            raise InputError(f"names no {name}", code="invalid", field="peer", value=template, remedy=remedy)
    return words


def measure_peer(
    template: str, picture: Path, width: int, height: int, *, threads: int | None, runs: int, warm_up: int
) -> dict[str, Any]:
    """Returns wall and CPU seconds and MiB of a command on a picture of that size.

    `{input}`, `{output}` and `{threads}` in it are filled in. Its seconds are those of the whole process, start and
    loading included, the median of `runs` after `warm_up`; but where the last line that it prints is a JSON object with
    "seconds" and "cpu_seconds", these are taken as it measured them, of one run. `process_seconds` are always the
    former.

    Raises:
        InputError: see `split_command`.
        BenchmarkError: the command failed, or wrote nothing.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "input.png", Path(temporary) / "output.png"
        write_image(source, picture_of(picture, width, height))
        places = {"{input}": str(source), "{output}": str(target), "{threads}": str(threads or torch.get_num_threads())}
        command = [functools.reduce(_fill, places.items(), word) for word in split_command(template)]
        taken: list[Run] = []
        while len(taken) < warm_up + runs:
            taken.append(run_command(command, threads=threads))
            if not target.exists():
                message = f"{command[0]} ended well, but wrote no {target.name}"
                raise BenchmarkError(message, remedy="let it write to {output}")
            if own := _own_seconds(taken[0].output):
                break
        counted = taken if own else taken[warm_up:]
        process = {
            "seconds": statistics.median(run.seconds for run in counted),
            "cpu_seconds": statistics.median(run.cpu_seconds for run in counted),
        }
    return {
        **process,
        "process_seconds": process["seconds"],
        "peak_mb": max(run.peak_mb for run in counted),
        "runs": len(counted),
        **own,
    }


def _fill(word: str, place: tuple[str, str]) -> str:
    return word.replace(*place)


def _own_seconds(output: str) -> dict[str, Any]:
    """What a command says of itself; nothing where its last line is another."""
    try:
        said = json.loads(output.strip().rpartition("\n")[2])
    except ValueError:
        return {}
    return said if isinstance(said, dict) and {"seconds", "cpu_seconds"} <= said.keys() else {}
