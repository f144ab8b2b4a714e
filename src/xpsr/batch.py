"""Pictures on disk to pictures on disk, each with a record beside it of how it came about."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from xpsr.config import UpscaleConfig
from xpsr.errors import InputError
from xpsr.files import sha256, write_text
from xpsr.image import read_image, write_image
from xpsr.prior import QUESTIONS, Describer, FileDescriber, Prior, PriorFile, describe_files, open_describer
from xpsr.prior.describers import is_asked
from xpsr.prior.mllm import MLLMDescriber
from xpsr.restore import Restorer

__all__ = ["open_eyes", "restore_file"]


def restore_file(restorer: Restorer, source: Path, target: Path, prior: Prior, config: UpscaleConfig) -> dict[str, Any]:
    """Restores `source` into `target`, and writes beside it, as JSON, the record that is returned.

    The record comes last and holds the SHA-256 of both pictures, so that it never tells of another than is there.

    Raises:
        InputError: `source` cannot be read, the result would be too large, or `target` cannot be written.
    """
    try:
        str(source).encode()  # the record names it
    except UnicodeEncodeError as error:
        raise InputError(f"{source}: the name is not UTF-8; rename it.") from error
    restored = restorer.restore(
        read_image(source),
        prior,
        scale=config.scale,
        preset=config.preset,
        settings=config.overrides,
        seed=config.seed,
    )
    write_image(target, restored.picture)
    try:
        record = {
            "input": str(source),
            "input_sha256": sha256(source),
            "output": target.name,
            "output_sha256": sha256(target),
            **restored.record,
        }
        write_text(target.with_suffix(".json"), json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    except BaseException:  # Ctrl-C, too
        target.unlink()  # no picture without its record
        raise
    return record


def open_eyes(
    config: UpscaleConfig, sources: Sequence[Path], cache: Path, *, device: torch.device
) -> Callable[[Path], Prior]:
    """How the prior of a picture is found: a text of the config, else the file of priors, else the describer.

    The mini's describer looks when it is asked. A larger one looks at all of `sources` now, keeps what it says in
    `cache` and is gone before a model for restoration needs the memory.

    Raises:
        InputError: priors that cannot be read; from the result, a picture without a prior or one that cannot be read.
        ModelError: a describer that cannot be loaded.
    """
    content, quality = config.content, config.quality
    if config.priors is not None:
        found = open_describer(config.priors)
        if not isinstance(found, FileDescriber):
            raise InputError(f"{config.priors}: no priors there; name a JSONL, a sidecar or a folder of sidecars.")
        look: Callable[[Path], Prior] = lambda source: found.describe([source])[0]  # noqa: E731
    elif (content is not None and quality is not None) or config.describer == "none":
        look = lambda source: Prior()  # noqa: E731
    elif config.describer == "mini":
        mini = open_describer("mini")
        look = lambda source: mini.describe([source])[0]  # noqa: E731
    else:
        questions = QUESTIONS[config.preset or "default"] if is_asked(config.describer) else None
        describer = open_describer(config.describer, questions=questions, device=str(device))
        if isinstance(describer, FileDescriber):  # what is on disk already needs no copy
            look = lambda source: describer.describe([source])[0]  # noqa: E731
        else:
            look = _look_at_all(describer, sources, cache)

    def prior(source: Path) -> Prior:
        seen = look(source)
        given = {"content": content, "quality": quality}
        changed = {name: text for name, text in given.items() if text is not None}
        return dataclasses.replace(seen, **changed, **({"levels": None} if quality is not None else {}))  # type: ignore[arg-type]

    return prior


def _look_at_all(describer: Describer, sources: Sequence[Path], cache: Path) -> Callable[[Path], Prior]:
    failed: dict[Path, Exception] = {}
    seen = dict(describe_files(describer, sources, PriorFile(cache), on_error=failed.__setitem__))
    if isinstance(describer, MLLMDescriber):
        describer.release()

    def look(source: Path) -> Prior:
        if source in failed:
            raise failed[source]
        return seen[source]

    return look
