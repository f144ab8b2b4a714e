"""Checkpoints of a run: written whole or not at all, the newest and the best kept."""

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from xpsr.config import TrainRunConfig
from xpsr.errors import TrainingError, one_line

__all__ = ["Checkpoints", "is_finished"]

# What entries were called by earlier versions, of whose runs some go on
_FORMER_KEYS = {"average": "ema", "identity": "fingerprint", "adversary": "discriminator_optimizer"}


class Checkpoints:
    """`checkpoint.pt` is the newest, `checkpoint-STEP.pt` the ones before it, `best.pt` the best by validation.

    A run that is killed while it writes leaves the former ones and a `checkpoint.part`, which the next save replaces.
    """

    def __init__(self, folder: Path, *, keep: int):
        self.folder, self.keep = folder, keep

    @property
    def path(self) -> Path:
        """Returns where the newest is written."""
        return self.folder / "checkpoint.pt"

    def newest(self) -> Path | None:
        """Returns the one to go on from, if there is one."""
        # killed between two renames, the newest is the last of the numbered ones
        return next((path for path in (self.path, *reversed(self._numbered())) if path.is_file()), None)

    def clear(self) -> None:
        """Removes all of them, of a run that starts afresh."""
        for path in (self.path, self.folder / "best.pt", *self._numbered()):
            path.unlink(missing_ok=True)

    def save(self, content: Mapping[str, Any], *, previous_step: int | None, best: bool = False) -> None:
        """Writes `content`; what was the newest, of `previous_step`, is kept under its number.

        Raises:
            TrainingError: it cannot be written, as on a full disk; the former ones are as they were.
        """
        part = self.path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save(dict(content), file)
                file.flush()
                os.fsync(file.fileno())
            if best:  # first, so that no checkpoint knows of a best that is not there
                copy = self.folder / "best.part"
                shutil.copyfile(part, copy)
                copy.replace(self.folder / "best.pt")
            if previous_step is not None and previous_step < content["step"] and self.path.is_file():
                self.path.replace(self.folder / f"checkpoint-{previous_step:08d}.pt")
            part.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch turns some refusals of the system into its own error
            for leftover in (part, self.folder / "best.part"):
                with suppress(OSError):
                    leftover.unlink()
            newest = self.newest()
            kept = f"{newest} is as it was" if newest else "there is none yet"
            # torch's own error hides the system's, which says more
            system = error if isinstance(error, OSError) else error.__context__
            reason = getattr(system, "strerror", None) or one_line(error)[:200]
            raise TrainingError(
                f"{self.path}: the checkpoint of step {content['step']} cannot be written: {reason}; {kept}",
                code="not_written",
                remedy="free some space and start the same run again",
            ) from error
        for path in self._numbered()[: -(self.keep - 1) or None]:
            path.unlink(missing_ok=True)

    def _numbered(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("checkpoint-*.pt") if re.fullmatch(r"checkpoint-\d+\.pt", p.name))


def is_finished(config: TrainRunConfig) -> bool:
    """Returns whether the run has come to its end before and its last model is there. Looks at files alone.

    What is wrong with a checkpoint is said where it is loaded.
    """
    run = config.train
    newest = Checkpoints(run.output_dir, keep=run.keep_checkpoints).newest()
    if run.resume == "never" or newest is None or not (run.output_dir / "model").is_dir():
        return False
    try:
        content = read(newest, mmap=True)
    except TrainingError:
        return False
    step = content.get("step")
    return isinstance(step, int) and step >= run.max_steps and content.get("exported", True)


def read(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Returns what `Checkpoints.save` wrote, on the CPU, and what an earlier version wrote under the names of today.

    Raises:
        TrainingError: a file that is damaged or something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise refusal(path, error) from error
    except Exception as error:  # whatever a pickle of anything raises; torch's words recommend to run it
        raise refusal(path, ValueError("it is damaged, or nothing that xpsr train has written")) from error
    if not isinstance(content, dict):
        raise refusal(path, ValueError(f"it holds a {type(content).__name__}"))
    return {_FORMER_KEYS.get(str(key), str(key)): value for key, value in content.items()}


def refusal(path: Path, error: Exception) -> TrainingError:
    """Returns the error to raise for a checkpoint that does not fit."""
    reason = one_line(error)[:300]
    return TrainingError(
        f"{path}: not a checkpoint of this run: {reason}", code="other_run", remedy="use another train.output_dir"
    )
