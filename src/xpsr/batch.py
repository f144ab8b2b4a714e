"""Pictures on disk to pictures on disk, each with a record beside it of how it came about."""

import json
from pathlib import Path
from typing import Any

from xpsr.config import UpscaleConfig
from xpsr.errors import InputError
from xpsr.files import sha256, write_text
from xpsr.image import read_image, write_image
from xpsr.prior import Prior
from xpsr.restore import Restorer

__all__ = ["restore_file"]


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
    picture, digest = read_image(source), sha256(source)  # of what was read, whatever comes while it is restored
    restored = restorer.restore(
        picture,
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
            "input_sha256": digest,
            "output": target.name,
            "output_sha256": sha256(target),
            **restored.record,
        }
        write_text(target.with_suffix(".json"), json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    except BaseException:  # Ctrl-C, too
        target.unlink(missing_ok=True)  # no picture without its record
        raise
    return record
