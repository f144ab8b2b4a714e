"""What of a run is done already, as the records beside its results tell. No torch, so that to look is quick."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from xpsr.config import Size, UpscaleConfig
from xpsr.errors import InputError
from xpsr.files import path_key, refusal, sha256
from xpsr.model_files import checksums
from xpsr.prior import Prior
from xpsr.sources import Job, Source, read_record, read_sidecar, record_place

__all__ = ["Recipe", "Seen", "is_own", "look", "occupied", "refuse_folders", "what_to_do"]

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
        sequence: of a frame of a sequence, on which other frames its result depends; None: on none.
    """

    config: UpscaleConfig
    describer: str
    folder: Path
    sequence: dict[str, Any] | None = None

    @cached_property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the model's weights, by file; of large ones it takes seconds."""
        return checksums(self.folder)

    @cached_property
    def _model_index(self) -> str:
        return sha256(self.folder / "model_index.json")

    @property
    def weights_key(self) -> str:
        """SHA-256 of the model's weights and its own settings."""
        facts = [self.weights, self._model_index]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def with_config(self, config: UpscaleConfig) -> Self:
        """Returns what another config gives with the same model, whose files are not read again."""
        other = dataclasses.replace(self, config=config)
        vars(other).update(weights=self.weights, _model_index=self._model_index)
        return other

    def for_frame(self, sequence: dict[str, Any]) -> Self:
        """Returns what gives a frame of a sequence, whose result depends on others as `sequence` says."""
        other = dataclasses.replace(self, sequence=sequence)
        vars(other).update(weights=self.weights, _model_index=self._model_index, asked=self.asked)
        return other

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
            "c2pa": config.c2pa and sha256(config.c2pa[0]),  # by whom results are signed
            "model_index": self._model_index,  # with the model's own settings
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
        size, model, sequence = record.get("input_size"), record.get("model"), record.get("sequence")
        if self.sequence is None or not isinstance(sequence, dict):
            same_frames = self.sequence is sequence
        else:
            same_frames = all(sequence.get(name) == fact for name, fact in self.sequence.items())
        return (
            isinstance(size, list)
            and [type(side) is int and side > 0 for side in size] == [True, True]
            and same_prior
            and same_frames
            and all(before.get(name) == asked[name] for name in asked if name not in of_prior)
            and {name: record[name] for name in _SIZES if name in record} == config.target(*size).asked
            and config.seed in (None, record.get("seed"))
            and config.dtype in ("auto", record.get("dtype"))
            and config.weights_dtype in ("auto", record.get("weights_dtype", record.get("dtype")))
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
    place = record_place(target)
    there = [path for path in (target, place) if _exists(path)]
    refuse_folders(there)
    record = read_sidecar(target)
    if not there or (record is not None and target not in there):  # a record without its picture is of no use
        return "restore"
    if mode == "skip" and target in there:
        return "is_there"
    if mode == "overwrite":
        return "restore"
    if mode == "error":
        raise occupied(there[0], "is there already")
    if record is None:
        of_another = read_record(place)
        if of_another is not None:  # called NAME.jpg.png, for example
            raise occupied(place, f"is the record of {of_another['output']}")
        raise occupied(there[0], "is there already, and nothing beside it says that xpsr made it of this picture")
    there_sha256 = sha256(target)
    if not is_own(there_sha256, record):
        raise occupied(target, "has been changed since xpsr made it")
    source = job.source
    digest = source.sha256()
    same = record["input_sha256"] == digest
    is_whole = record["output_sha256"] == there_sha256 and (job.map is None or _is_map_of(job.map, record))
    if same and is_whole and recipe.has_made(record, known(source.path, digest)):
        return "is_done"
    if same or _is_of(source, target, record):
        return "restore"
    if record["input"] == "-":
        remedy = "name the result with -o FILE.png, or add --on-existing overwrite"
        message = f"{target}: is the result of another standard input"
        raise InputError(message, code="exists", remedy=remedy)
    raise occupied(target, f"is the result of another picture, {record['input']}")


def _is_of(source: Source, target: Path, record: dict[str, Any]) -> bool:
    """Returns whether a record names a source, whatever was in it then."""
    if source.address is not None:
        return bool(record["input"] == source.address)
    return source.content is None and path_key(target.parent / record["input"]) == path_key(source.path)


def look(target: Path) -> Seen:
    """Returns what tells whether the files of a result are still those that they were, or absent still."""
    return _identity(target), _identity(record_place(target))


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


def is_own(digest: str, record: dict[str, Any]) -> bool:
    """Returns whether a picture of that SHA-256 is the one of the record, or the result that it was to replace."""
    return digest in (record["output_sha256"], record.get("replaces"))


def refuse_folders(paths: Iterable[Path]) -> None:
    """Raises `InputError` where one of the files that are to be written is a folder."""
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


def occupied(path: Path, what: str) -> InputError:
    """Returns the error to raise for a file that is not replaced."""
    remedy = "move it, choose another place with -o, or add --on-existing overwrite"
    return InputError(f"{path}: {what}", code="exists", remedy=remedy)
