"""`benchmarks/ablations.py` when a run does not end well."""

import subprocess
from pathlib import Path

import ablations
import pytest


def run_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, *more: str) -> int:
    """The script with a training that ends at once with that code."""
    done: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], code)
    monkeypatch.setattr(ablations.subprocess, "run", lambda *_, **__: done)
    arguments = ["c.yaml", str(tmp_path), "--hr", "hr", "--lr", "lr", *more]
    monkeypatch.setattr(ablations.sys, "argv", ["ablations.py", *arguments])
    return ablations.main()


@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [
        (1, 1, "ended with exit code 1"),
        (2, 2, "ended with exit code 2"),
        (3, 3, "stopped early (exit code 3); the same command goes on"),
        (-9, 137, "was killed by SIGKILL"),
    ],
)
def test_a_run_that_fails_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: int,
    exit_code: int,
    message: str,
) -> None:
    assert run_with(monkeypatch, tmp_path, code) == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ablations: the run 'all of it' ") and message in line


@pytest.mark.parametrize("steps", ["0", "-1", "x"])
def test_steps_are_counted_from_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_with(monkeypatch, tmp_path, 0, "--steps", steps)
    assert caught.value.code == 2
    assert "--steps" in capsys.readouterr().err
