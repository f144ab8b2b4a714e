"""Pictures on disk to pictures on disk, each with a record beside it of how it came about."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from xpsr import __version__
from xpsr.config import Size, UpscaleConfig
from xpsr.errors import InputError
from xpsr.files import atomic_write, path_key, real_path, refusal, sha256, write_text
from xpsr.image import (
    IN_MEMORY,
    ImageLike,
    Limits,
    Picture,
    Provenance,
    WriteOptions,
    decode_image,
    drop_from_memory,
    image_bytes,
    picture_size,
    read_image,
    refuse_unwritable,
    to_uint8,
    write_into,
)
from xpsr.model_folder import checksums
from xpsr.pipeline import MAX_OUTPUT_PIXELS
from xpsr.prior import Prior
from xpsr.restore import Restored, Restorer
from xpsr.sources import Job, Source, read_record, read_sidecar, result_suffix

__all__ = ["Recipe", "Seen", "look", "refuse_too_large", "restore_file", "what_to_do", "write_options"]

_ROWS = 64
"""Of a map that is drawn at once."""

_OF_FILES = ("file_quality", "keep_cmyk", "strip_gps", "strip_metadata", "provenance")
"""What of a config says how files are written, but for the format, which their names tell."""

_SIZES = [f.name for f in dataclasses.fields(Size)]  # a record has one of them

Seen = tuple[tuple[int, ...] | None, tuple[int, ...] | None]
"""Which files a result and its record were when somebody looked; None: there was none."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all results of a run depend on, beside their pictures.

    Attributes:
        config: how pictures are restored.
        describer: the name of who looks at them.
        folder: the model's.
    """

    config: UpscaleConfig
    describer: str
    folder: Path

    @cached_property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the model's weights, by file; of large ones it takes seconds."""
        return checksums(self.folder)

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What was asked for and no other part of a record tells."""
        config = self.config
        return {
            "preset": config.preset,
            "settings": config.overrides,
            "content": config.content,
            "quality": config.quality,
            "describer": self.describer,
            "protect": "auto" if config.protect == "auto" else config.protect and sha256(Path(config.protect)),
            "lr_consistency": config.lr_consistency or None,  # as in records of before there was any
            **{name: getattr(config, name) for name in _OF_FILES},
            "model_index": sha256(self.folder / "model_index.json"),  # with the model's own settings
        }

    def has_made(self, record: dict[str, Any], prior: Prior | None) -> bool:
        """Returns whether a record tells of a result that this would give again, but for noise that nobody has fixed.

        Args:
            record: a sidecar's.
            prior: the picture's, where it is known without looking at the picture.
        """
        config, asked, of_prior = self.config, self.asked, ("content", "quality", "describer")
        before = record.get("asked")
        if not isinstance(before, dict):
            return False
        if prior is not None:  # whoever said it
            same_prior = record.get("prior") == prior.as_dict()
        else:
            same_prior = all(before.get(name) == asked[name] for name in of_prior)
        model = record.get("model")
        return (
            same_prior
            and all(before.get(name) == asked[name] for name in asked if name not in of_prior)
            and {name: record[name] for name in _SIZES if name in record} == config.target().asked
            and config.seed in (None, record.get("seed"))
            and config.dtype in ("auto", record.get("dtype"))
            and isinstance(model, dict)
            and model.get("sha256") == self.weights
        )


def what_to_do(
    job: Job, recipe: Recipe, known: Callable[[Path, str], Prior | None]
) -> Literal["restore", "is_done", "is_there"]:
    """Returns whether a picture is to be restored, or its result is there.

    Of `config.on_existing`, "skip" leaves whatever is there, "overwrite" replaces it and "error" refuses to. "update"
    leaves a result that its record proves to be that of the same picture, restored in the same way; one that is of the
    picture as it was, or restored in another way, is made again; and anything else is refused.

    Args:
        job: the picture.
        recipe: how it is restored.
        known: tells its prior, by path and SHA-256, where that is known without looking at the picture.

    Raises:
        InputError: what is there is not replaced, or the picture cannot be read.
    """
    target, mode = job.target, recipe.config.on_existing
    if job.map is not None and mode != "overwrite":
        _refuse_foreign(job.map, target)
    if target is None:
        return "restore"
    there = [path for path in (target, target.with_suffix(".json")) if _exists(path)]
    _refuse_folders(there)
    record = read_sidecar(target)
    if not there or (record is not None and target not in there):  # a record without its picture is of no use
        return "restore"
    if mode == "skip" and target in there:
        return "is_there"
    if mode == "overwrite":
        return "restore"
    if mode == "error":
        raise _occupied(there[0], "is there already")
    if record is None:
        of_another = read_record(target.with_suffix(".json"))
        if of_another is not None:  # in another format, for example
            raise _occupied(target.with_suffix(".json"), f"is the record of {of_another['output']}")
        raise _occupied(there[0], "is there already, and nothing beside it says that xpsr made it of this picture")
    there_sha256 = sha256(target)
    if not _is_own(there_sha256, record):
        raise _occupied(target, "has been changed since xpsr made it")
    source = job.source
    digest = source.sha256()
    same = record["input_sha256"] == digest
    is_whole = record["output_sha256"] == there_sha256 and (job.map is None or _is_map_of(job.map, record))
    if same and is_whole and recipe.has_made(record, known(source.path, digest)):
        return "is_done"
    origin = target.parent / record["input"]
    if same or (source.content is None and path_key(origin) == path_key(source.path)):
        return "restore"
    if record["input"] == "-":
        remedy = "name the result with -o FILE.png, or add --on-existing overwrite"
        message = f"{target}: is the result of another standard input"
        raise InputError(message, code="exists", remedy=remedy)
    raise _occupied(target, f"is the result of another picture, {record['input']}")


def refuse_too_large(source: Source, config: UpscaleConfig) -> None:
    """Raises `InputError` where the header of a picture's file tells that it, or its result, would be too large."""
    if source.content is None:
        config.target().refuse_above(MAX_OUTPUT_PIXELS, *picture_size(source.path, limits=_limits_of(config)))


def look(target: Path) -> Seen:
    """Returns what tells whether the files of a result are still those that they were, or absent still."""
    return _identity(target), _identity(target.with_suffix(".json"))


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_foreign(place: Path, target: Path | None) -> None:
    """Refuses to draw a map where something else is than that of the result that is at `target`."""
    record = None if target is None else read_sidecar(target)
    if _exists(place) and (record is None or not _is_map_of(place, record)):
        message = f"{place}: is there already, and is not the map of the result"
        remedy = "move it, choose another place with --map, or add --on-existing overwrite"
        raise InputError(message, code="exists", remedy=remedy)


def _is_map_of(place: Path, record: dict[str, Any]) -> bool:
    return place.is_file() and sha256(place) == record.get("map_sha256")


def _is_own(digest: str, record: dict[str, Any]) -> bool:
    """Returns whether a picture of that SHA-256 is the one of the record, or the result that it was to replace."""
    return digest in (record["output_sha256"], record.get("replaces"))


def _refuse_folders(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            message, remedy = f"{path}: is a folder", "move it, or choose another place with -o"
            raise InputError(message, code="conflict", remedy=remedy)


def _exists(path: Path) -> bool:
    """Returns whether something is there; a name that is too long is refused, in a folder still to be made, too."""
    folder = path.parent
    try:
        while not folder.exists():
            folder = folder.parent
        (folder / path.name).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise refusal(path, "cannot be written", error) from error
    return folder == path.parent


def _occupied(path: Path, what: str) -> InputError:
    remedy = "move it, choose another place with -o, or add --on-existing overwrite"
    return InputError(f"{path}: {what}", code="exists", remedy=remedy)


def restore_file(
    restorer: Restorer,
    job: Job,
    prior_of: Callable[[ImageLike, Picture], Prior],
    recipe: Recipe,
    *,
    seen: Seen | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Restored:
    """Restores a picture into its target, and writes beside that, as JSON, the record that is returned.

    The record holds the SHA-256 of both pictures, so that it never passes for that of another. It calls the input by
    its path from the record's own folder. Without a target nothing is written.

    Args:
        restorer: the model.
        job: the picture; what is at its target is replaced.
        prior_of: tells the prior of a picture, by its path if it has one, and by what was read.
        recipe: how it is restored.
        seen: what `look` saw at the target; nothing else is replaced. None: whatever is there is.
        progress: is told after every tile of every step how many passes of how many are done.

    Raises:
        InputError: the picture cannot be read, the result would be too large, the target cannot be written or has
            another file than was seen.
    """
    source, config, named = job.source, recipe.config, str(job.source.path)
    if job.target is not None and source.content is None:
        named = _path_from(job.target, source.path)
    try:
        named.encode()  # the record has it
    except UnicodeEncodeError as error:
        message = f"{source.path}: the name is not UTF-8"
        raise InputError(message, code="bad_name", remedy="rename it") from error
    # the digest is of what was read, whatever comes while it is restored
    limits, accepts = _limits_of(config), config.accept_truncated
    if source.content is None:
        picture = read_image(source.path, limits=limits, accept_truncated=accepts)
    else:
        picture = decode_image(source.content, named, limits=limits, accept_truncated=accepts)
    config.target().refuse_above(MAX_OUTPUT_PIXELS, picture.width, picture.height)  # before anybody looks at it
    digest = source.sha256()
    place = job.target or Path(f"result{result_suffix(source, config.format)}")
    size = config.target().of(picture.width, picture.height)
    refuse_unwritable(place, size, has_alpha=picture.alpha is not None)
    restored = restorer.restore(
        picture,
        prior_of(source.path if source.content is None else picture, picture),
        size=config.target(),
        preset=config.preset,
        settings=config.overrides,
        seed=config.seed,
        protect=config.protect,
        lr_consistency=config.lr_consistency,
        progress=progress,
        workspace=_workspace(job, size),
    )
    drawn = None if job.map is None else image_bytes(job.map, _as_image(restored.map))
    if job.target is None:
        _draw(job.map, drawn)
        return restored
    _make_folder(job.target.parent)
    names = {"input": named, "input_sha256": digest, "output": job.target.name}
    options = write_options(config, restored.record)
    of_map = {} if drawn is None else {"map_sha256": hashlib.sha256(drawn).hexdigest()}
    facts = {**restored.record, **of_map, "asked": recipe.asked}
    record = _write(job.target, restored.picture, options, names, facts, seen)
    _draw(job.map, drawn)
    return dataclasses.replace(restored, record=record)


def _limits_of(config: UpscaleConfig) -> Limits:
    """Returns what is refused before it is decoded."""
    given = {"max_pixels": config.max_pixels, "max_bytes": config.max_bytes}
    return Limits(**{name: value for name, value in given.items() if value is not None})


def _workspace(job: Job, size: tuple[int, int]) -> Path | None:
    """Returns where a result that is too large for memory lies meanwhile: on the disk that it will be on."""
    if job.target is None or size[0] * size[1] <= IN_MEMORY:
        return None
    _make_folder(job.target.parent)
    return job.target.parent


def _make_folder(folder: Path) -> None:
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
    _make_folder(place.parent)
    with atomic_write(place) as part:
        part.write_bytes(content)


def write_options(config: UpscaleConfig, record: dict[str, Any]) -> WriteOptions:
    """Returns how a result is written; what its file tells of it is in its record."""
    model = Path(config.model)
    made = Provenance(
        software=f"xpsr {__version__}",
        model=model.resolve().name if model.is_dir() else config.model,  # where it lies is nobody's business
        seed=record["seed"],
    )
    return WriteOptions(
        quality=config.file_quality,
        keep_cmyk=config.keep_cmyk,
        strip_gps=config.strip_gps,
        strip_metadata=config.strip_metadata,
        provenance=made if config.provenance else None,
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
    sidecar, former, replaces = target.with_suffix(".json"), read_sidecar(target), {}
    _refuse_folders((target, sidecar))
    if former is not None and target.is_file() and _is_own(digest := sha256(target), former):
        replaces = {"replaces": digest}
    picture_is_new, record_is_new = (False, False) if seen is None else (seen[0] is None, seen[1] is None)
    is_alone = False
    try:
        with atomic_write(target, is_new=picture_is_new) as part:
            told = (*(picture.origin.notices if picture.origin else ()), *write_into(part, target, picture, options))
            notices = {"notices": list(dict.fromkeys(told))} if told else {}
            record = {**names, "output_sha256": sha256(part), **facts, **notices}
            if seen not in (None, look(target)):
                raise _occupied(target, "came there, or was changed, while the picture was restored")
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


def _to_json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _path_from(target: Path, source: Path) -> str:
    """How the record beside `target` calls a picture: as it is found from there, whatever the current folder is."""
    source = real_path(source)
    try:
        return Path(os.path.relpath(source, target.parent.resolve())).as_posix()
    except ValueError:  # on another drive
        return source.as_posix()
