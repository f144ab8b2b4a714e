"""Pictures on disk to pictures on disk, each with a record beside it of how it came about."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xpsr import __version__
from xpsr.batch.measuring import limits_of
from xpsr.config import UpscaleConfig
from xpsr.errors import InputError
from xpsr.files import atomic_write, real_path, refusal, sha256, write_text
from xpsr.image import (
    IN_MEMORY,
    Credentials,
    ImageLike,
    Picture,
    Provenance,
    WriteOptions,
    check_signing,
    decode_image,
    drop_from_memory,
    image_bytes,
    read_image,
    refuse_unwritable,
    to_uint8,
    write_into,
)
from xpsr.pipeline import MAX_OUTPUT_PIXELS
from xpsr.pipeline.previews import PreviewCallback
from xpsr.planning import TilePlan, parse_memory
from xpsr.prior import Prior
from xpsr.records import Recipe, Seen, is_own, look, occupied, refuse_folders
from xpsr.restore import Restored, Restorer
from xpsr.sources import Job, Source, read_sidecar, record_place, result_suffix

__all__ = [
    "Opened",
    "make_folder",
    "model_name",
    "open_job",
    "open_picture",
    "open_restorer",
    "plan_of",
    "restore_file",
    "restore_opened",
    "write_options",
    "write_restored",
]

_ROWS = 64
"""Of a map that is drawn at once."""


def open_restorer(config: UpscaleConfig, *, device: str) -> Restorer:
    """Loads the model of a config on a device.

    Raises:
        InputError: what this machine, or this model, cannot do, which is known before any picture.
        MissingDependencyError: results are to be signed, and c2pa-python is not installed.
        ModelError: the model cannot be loaded.
    """
    if config.c2pa is not None:
        check_signing(*config.c2pa)
    restorer = Restorer(
        config.model,
        device=device,
        dtype=config.dtype,
        engine=config.engine,
        weights_dtype=config.weights_dtype,
        compile=config.compile,
        offload=config.offload,
    )
    restorer.pipe.settings(config.preset, config.overrides)
    return restorer


def plan_of(
    restorer: Restorer, width: int, height: int, config: UpscaleConfig, *, has_workspace: bool = True
) -> TilePlan:
    """Returns how a picture of that size would be restored.

    Raises:
        InputError: the result would be too large, or takes more memory than `config.memory`.
    """
    return restorer.plan(
        width,
        height,
        size=config.target(width, height),
        preset=config.preset,
        settings=config.overrides,
        memory=_memory_of(config),
        has_workspace=has_workspace,
    )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A picture that has been read, and is known to have a result that can be written.

    Attributes:
        job: what it was read for.
        named: how the record beside the result calls it.
        picture: what was read.
        sha256: of its file, in hexadecimal.
        size: width and height of the result.
    """

    job: Job
    named: str
    picture: Picture
    sha256: str
    size: tuple[int, int]


def open_job(job: Job, recipe: Recipe) -> Opened:
    """Reads a picture, and refuses it where its result could not be made or written.

    Args:
        job: the picture.
        recipe: how it is restored.

    Raises:
        InputError: the picture cannot be read, or its result would be too large or cannot be written.
    """
    source, config = job.source, recipe.config
    named = source.address or str(source.path)
    if job.target is not None and source.content is None and source.address is None:
        named = _path_from(job.target, source.path)
    try:
        named.encode()  # the record has it
    except UnicodeEncodeError as error:
        message = f"{source.path}: the name is not UTF-8"
        raise InputError(message, code="bad_name", remedy="rename it") from error
    # the digest is of what was read, whatever comes while it is restored
    limits, accepts = limits_of(config), config.accept_truncated
    if source.content is None:
        picture = read_image(source.path, limits=limits, accept_truncated=accepts, named=source.address)
    else:
        picture = decode_image(source.content, named, limits=limits, accept_truncated=accepts)
    return open_picture(job, picture, recipe, named=named)


def open_picture(job: Job, picture: Picture, recipe: Recipe, *, named: str) -> Opened:
    """Returns a job whose picture has been read, and refuses it where its result could not be made or written.

    Args:
        job: what it was read for.
        picture: what was read.
        recipe: how it is restored.
        named: how the record calls it.

    Raises:
        InputError: its result would be too large or cannot be written.
    """
    target = recipe.config.target(picture.width, picture.height)
    target.refuse_above(MAX_OUTPUT_PIXELS, picture.width, picture.height)  # before anybody looks at it
    digest = job.source.sha256()
    place = job.target or Path(f"result{result_suffix(job.source, recipe.config.format)}")
    size = target.of(picture.width, picture.height)
    is_signed = recipe.config.c2pa is not None
    refuse_unwritable(place, size, has_alpha=picture.alpha is not None, is_signed=is_signed)
    return Opened(job=job, named=named, picture=picture, sha256=digest, size=size)


def restore_opened(
    restorer: Restorer,
    opened: Opened,
    prior: Prior,
    recipe: Recipe,
    *,
    progress: Callable[[int, int], None] | None = None,
    preview: PreviewCallback | None = None,
    is_cancelled: Callable[[], bool] | None = None,
    keeps_tiles: bool = False,
) -> Restored:
    """Restores a picture that has been read, as the recipe says; the options are those of `Restorer.restore`.

    Raises:
        Cancelled: `is_cancelled` said so.
        InputError: a setting that this model cannot follow, or too little memory.
        XPSRError: the result is not finite, or memory ran out.
    """
    config, picture = recipe.config, opened.picture
    return restorer.restore(
        picture,
        prior,
        size=config.target(picture.width, picture.height),
        preset=config.preset,
        settings=config.overrides,
        seed=config.seed,
        protect=config.protect,
        lr_consistency=config.lr_consistency,
        progress=progress,
        preview=preview,
        is_cancelled=is_cancelled,
        memory=_memory_of(config),
        workspace=_workspace(opened.job, opened.size),
        keeps_tiles=keeps_tiles,
    )


def write_restored(
    opened: Opened, restored: Restored, recipe: Recipe, *, seen: Seen | None = None, model: str | None = None
) -> Restored:
    """Writes a result, and beside it, as JSON, the record, which what is returned has.

    The record holds the SHA-256 of both pictures, so that it never passes for that of another. Without a target nothing
    but a map is written.

    Args:
        opened: what was read.
        restored: what was made of it.
        recipe: how.
        seen: what `look` saw at the target; nothing else is replaced. None: whatever is there is.
        model: what the result's file calls the model; None: as `model_name` does.

    Raises:
        InputError: the target cannot be written, or has another file than was seen.
    """
    job, config = opened.job, recipe.config
    drawn = None if job.map is None else image_bytes(job.map, _as_image(restored.map))
    if job.target is None:
        _draw(job.map, drawn)
        return restored
    make_folder(job.target.parent)
    names = {"input": opened.named, "input_sha256": opened.sha256, "output": job.target.name}
    options = write_options(config, restored.record, source=job.source, named=opened.named, model=model)
    of_map = {} if drawn is None else {"map_sha256": hashlib.sha256(drawn).hexdigest()}
    facts = {**restored.record, **of_map, "asked": recipe.asked}
    record = _write(job.target, restored.picture, options, names, facts, seen)
    _draw(job.map, drawn)
    return dataclasses.replace(restored, record=record)


def restore_file(
    restorer: Restorer,
    job: Job,
    prior_of: Callable[[ImageLike, Picture], Prior],
    recipe: Recipe,
    *,
    seen: Seen | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Restored:
    """Reads a picture, restores it and writes the result with its record: `open_job` to `write_restored`.

    Args:
        restorer: the model.
        job: the picture; what is at its target is replaced.
        prior_of: tells the prior of a picture, by its path if it has one, and by what was read.
        recipe: how it is restored.
        seen: as of `write_restored`.
        progress: is told after every tile of every step how many passes of how many are done.

    Raises:
        InputError: the picture cannot be read, the result would be too large, the target cannot be written or has
            another file than was seen.
    """
    opened, source = open_job(job, recipe), job.source
    prior = prior_of(source.path if source.content is None else opened.picture, opened.picture)
    restored = restore_opened(restorer, opened, prior, recipe, progress=progress)
    return write_restored(opened, restored, recipe, seen=seen)


def _memory_of(config: UpscaleConfig) -> int | None:
    return None if config.memory is None else parse_memory(config.memory)


def _workspace(job: Job, size: tuple[int, int]) -> Path | None:
    """Returns where a result that is too large for memory lies meanwhile: on the disk that it will be on."""
    if job.target is None or size[0] * size[1] <= IN_MEMORY:
        return None
    make_folder(job.target.parent)
    return job.target.parent


def make_folder(folder: Path) -> None:
    """Makes a folder of results, where it is missing.

    Raises:
        InputError: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(folder, "cannot be made a folder", error) from error


def _as_image(shown: torch.Tensor) -> Image.Image:
    """A map (1, H, W) in [0, 1] as an image of 8 bits, by some rows at a time."""
    rows = []
    for strip in shown.split(_ROWS, -2):
        rows.append(to_uint8(strip[0]).numpy())
        drop_from_memory(strip)
    return Image.fromarray(np.concatenate(rows))


def _draw(place: Path | None, content: bytes | None) -> None:
    """Writes a map, of which the record knows already."""
    if place is None or content is None:
        return
    make_folder(place.parent)
    with atomic_write(place) as part:
        part.write_bytes(content)


def model_name(model: str) -> str:
    """Returns what files call a model: where its folder lies is nobody's business."""
    folder = Path(model)
    return folder.resolve().name if folder.is_dir() else model


def write_options(
    config: UpscaleConfig, record: dict[str, Any], *, source: Source, named: str, model: str | None = None
) -> WriteOptions:
    """Returns how a result is written; what its file tells of it is in its record.

    Args:
        config: how it was restored.
        record: of how it came about.
        source: what it was made of.
        named: how the record calls that.
        model: how the file calls the model; None: by its own name.
    """
    credentials = None
    if config.c2pa is not None:
        certificates, key = config.c2pa
        content = source.path if source.content is None else source.content
        credentials = Credentials(certificates=certificates, key=key, source=content, name=Path(named).name)
    made = Provenance(
        software=f"xpsr {__version__}",
        model=model or model_name(config.model),
        seed=record["seed"],
    )
    return WriteOptions(
        quality=config.file_quality,
        keep_cmyk=config.keep_cmyk,
        strip_gps=config.strip_gps,
        strip_metadata=config.strip_metadata,
        provenance=made if config.provenance else None,
        credentials=credentials,
    )


def _write(
    target: Path,
    picture: Picture,
    options: WriteOptions,
    names: dict[str, Any],
    facts: dict[str, Any],
    seen: Seen | None,
) -> dict[str, Any]:
    """Puts a picture and its record in their places, so that the next run goes on from wherever this one is killed.

    Returns the record: `names`, the file's SHA-256, `facts`, and what is to be told of the picture and its file.

    The record comes first: one without its picture is of no use to anybody, but a picture without its record would
    pass for a file of the user. Until the picture is there, the record names the result that it replaces, too.
    """
    sidecar, former, replaces = record_place(target), read_sidecar(target), {}
    refuse_folders((target, sidecar))
    if former is not None and target.is_file() and is_own(digest := sha256(target), former):
        replaces = {"replaces": digest}
    picture_is_new, record_is_new = (False, False) if seen is None else (seen[0] is None, seen[1] is None)
    is_alone = False
    try:
        with atomic_write(target, is_new=picture_is_new) as part:
            told = (*(picture.origin.notices if picture.origin else ()), *write_into(part, target, picture, options))
            told += _stretched(facts["input_size"], facts["output_size"])
            notices = {"notices": list(dict.fromkeys(told))} if told else {}
            record = {**names, "output_sha256": sha256(part), **facts, **notices}
            if seen not in (None, look(target)):
                raise occupied(target, "came there, or was changed, while the picture was restored")
            write_text(sidecar, _to_json({**record, **replaces}), is_new=record_is_new)
            is_alone = record_is_new
    except InputError:
        if is_alone:  # it must not pass for that of what has come where its picture was to be
            sidecar.unlink(missing_ok=True)
        raise
    if replaces:
        with suppress(InputError):  # the record is true all the same
            write_text(sidecar, _to_json(record))
    return record


def _stretched(size: Sequence[int], made: Sequence[int]) -> tuple[str, ...]:
    """What is told of a result that has not the proportions of its picture, by more than rounding."""
    (width, height), (wide, high) = size, made
    if abs(wide * height - high * width) <= max(width, height):
        return ()
    told = f"it is stretched from {width} x {height} to {wide} x {high}; longest instead of size keeps its proportions"
    return (told,)


def _to_json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _path_from(target: Path, source: Path) -> str:
    """How the record beside `target` calls a picture: as it is found from there, whatever the current folder is."""
    source = real_path(source)
    try:
        return Path(os.path.relpath(source, target.parent.resolve())).as_posix()
    except ValueError:  # on another drive
        return source.as_posix()
