"""Results of a method on a set: made where they are not there, each with a record beside it of how it came about."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xpsr.batch.restoring import restore_file
from xpsr.benchmark.commands import Command, find_outputs
from xpsr.benchmark.suite import Pair, link_all
from xpsr.config import MethodConfig, Size, UpscaleConfig
from xpsr.errors import InputError, XPSRError
from xpsr.files import atomic_write, refusal, sha256, write_text
from xpsr.image import Picture, image_bytes, picture_size, read_image, resize
from xpsr.model_files import fetch_model
from xpsr.prior import Prior
from xpsr.records import Recipe, what_to_do
from xpsr.restore import Restorer
from xpsr.sources import Job, Source, read_sidecar

__all__ = ["Made", "Models", "restore_all"]

_AT_WORK = ".xpsr-work-"
"""How folders are called that are there only while a picture is made."""

_ELSEWHERE = "move it, or choose another folder with -o"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A result that has been made.

    Attributes:
        name: the picture's.
        seconds: what restoring it took, without reading and writing its files; of a command, all that it took.
        is_first: whether it was the first of a model since it was loaded, which takes longer.
    """

    name: str
    seconds: float
    is_first: bool = False


@dataclass(kw_only=True)
class Models:
    """The model that was used last, so that methods which share one load it once."""

    device: str
    _name: str | None = None
    _restorer: Restorer | None = None
    is_fresh: bool = False

    def get(self, name: str) -> Restorer:
        """Returns a model, loaded.

        Raises:
            InputError: there is no such model or device.
            ModelError: it cannot be loaded.
        """
        if self._restorer is None or self._name != name:
            self._restorer = None  # its memory is needed
            self._restorer = Restorer(name, device=self.device)
            self._name, self.is_fresh = name, True
        return self._restorer


def restore_all(
    method: MethodConfig,
    pairs: Sequence[Pair],
    folder: Path,
    *,
    size: Size,
    seed: int,
    models: Models,
    priors: Callable[[], Sequence[Prior]],
    base: Path,
) -> Iterator[Made | None]:
    """Makes what is missing of the results of a method in a folder; yields for each picture what was made, if anything.

    Args:
        method: the way.
        pairs: the pictures.
        folder: where results and records go: NAME.png and NAME.json.
        size: how large results are.
        seed: of noise.
        models: holds the model.
        priors: tells what is known of each picture; called only for a model.
        base: where commands run.

    Raises:
        InputError: a picture, or what is in the folder, cannot be used.
        ModelError: the model cannot be loaded.
        XPSRError: a command failed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(folder, "cannot be made a folder", error) from error
    _drop_others(folder, {pair.name for pair in pairs})
    if method.model is not None:
        yield from _by_model(method, pairs, folder, size=size, seed=seed, models=models, priors=priors())
    elif method.command is not None:
        yield from _by_command(method, pairs, folder, size=size, base=base)
    else:
        yield from _by_resizing(method, pairs, folder, size=size)


def _drop_others(folder: Path, names: set[str]) -> None:
    """Removes results of pictures that the set has no longer, which have records, and what a killed run left."""
    for left in folder.glob(f"{_AT_WORK}*"):
        shutil.rmtree(left, ignore_errors=True)
    for record in folder.glob("*.json"):
        picture = record.with_suffix(".png")
        if record.stem not in names and read_sidecar(picture) is not None:
            picture.unlink(missing_ok=True)
            record.unlink()


def _by_model(
    method: MethodConfig,
    pairs: Sequence[Pair],
    folder: Path,
    *,
    size: Size,
    seed: int,
    models: Models,
    priors: Sequence[Prior],
) -> Iterator[Made | None]:
    assert method.model is not None
    config = UpscaleConfig(
        **method.settings,
        **size.asked,
        preset=method.preset,
        protect=method.protect,
        lr_consistency=method.lr_consistency,
        seed=seed,
        model=method.model,
        device=models.device,
        format="png",
        provenance=False,
    )
    recipe = Recipe(config=config, describer="suite", folder=fetch_model(method.model))
    is_checked = False
    for pair, prior in zip(pairs, priors, strict=True):
        job = Job(source=Source(path=pair.lr), target=folder / f"{pair.name}.png")
        try:
            state = what_to_do(job, recipe, lambda image, digest, prior=prior: prior)  # type: ignore[misc]
        except InputError as error:
            if error.code != "exists":
                raise
            raise InputError(error.message, code="exists", remedy=_ELSEWHERE) from error
        if state != "restore":
            yield None
            continue
        restorer = models.get(method.model)
        if not is_checked:  # what this model cannot do is known before any picture
            restorer.pipe.settings(config.preset, config.overrides)
            is_checked = True
        is_first, models.is_fresh = models.is_fresh, False
        restored = restore_file(restorer, job, lambda image, picture, prior=prior: prior, recipe)  # type: ignore[misc]
        yield Made(name=pair.name, seconds=restored.record["seconds"], is_first=is_first)


def _by_resizing(method: MethodConfig, pairs: Sequence[Pair], folder: Path, *, size: Size) -> Iterator[Made | None]:
    way = {"resize": method.resize, **size.asked}
    for pair in pairs:
        digest = sha256(pair.lr)
        if _is_done(folder / f"{pair.name}.png", digest, way):
            yield None
            continue
        pixels = read_image(pair.lr).pixels
        start = time.perf_counter()
        width, height = size.of(pixels.shape[-1], pixels.shape[-2])
        if method.resize == "nearest":
            enlarged = torch.nn.functional.interpolate(pixels[None], (height, width), mode="nearest-exact")[0]
        else:
            assert method.resize is not None
            enlarged = resize(pixels, (height, width), method=method.resize)
        seconds = time.perf_counter() - start
        with _places(folder) as (_, outputs):
            place = outputs / f"{pair.name}.png"
            place.write_bytes(image_bytes(place, Picture(pixels=enlarged)))
            _put(place, folder, pair, digest, way, seconds)
        yield Made(name=pair.name, seconds=seconds)


def _by_command(
    method: MethodConfig, pairs: Sequence[Pair], folder: Path, *, size: Size, base: Path
) -> Iterator[Made | None]:
    assert method.command is not None
    command = Command(template=method.command, folder=base, timeout=method.timeout)
    way = {"command": method.command, "files": command.digests(), **size.asked}
    digests = {pair.name: sha256(pair.lr) for pair in pairs}
    waiting = [pair for pair in pairs if not _is_done(folder / f"{pair.name}.png", digests[pair.name], way)]
    for _ in range(len(pairs) - len(waiting)):
        yield None
    if not command.takes_folder:
        for pair in waiting:
            with _places(folder) as (_, outputs):
                target = outputs / f"{pair.name}.png"
                start = time.perf_counter()
                command.run(pair.lr, target, what=str(pair.lr))
                seconds = time.perf_counter() - start
                _take(target if target.is_file() else None, folder, pair, digests[pair.name], way, seconds, size)
            yield Made(name=pair.name, seconds=seconds)
        return
    if not waiting:
        return
    with _places(folder) as (inputs, outputs):
        link_all({pair.name: pair.lr for pair in waiting}, inputs)
        start = time.perf_counter()
        command.run(inputs, outputs, what=f"{len(waiting)} pictures of {waiting[0].lr.parent}")
        seconds = (time.perf_counter() - start) / len(waiting)
        found = find_outputs(outputs, {pair.name for pair in waiting})
        for pair in waiting:
            _take(found.get(pair.name), folder, pair, digests[pair.name], way, seconds, size)
            yield Made(name=pair.name, seconds=seconds)


@contextmanager
def _places(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yields two folders, for inputs and outputs, that go at the end; on the disk of the results."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=_AT_WORK) as name:
        places = Path(name) / "inputs", Path(name) / "outputs"
        for place in places:
            place.mkdir()
        yield places


def _take(
    found: Path | None, folder: Path, pair: Pair, digest: str, way: dict[str, Any], seconds: float, size: Size
) -> None:
    """Takes what a command has written for a picture.

    Raises:
        XPSRError: it has written nothing, no picture, or one of another size.
    """
    shown = way["command"]
    if found is None:
        remedy = "it has to write NAME.png, or NAME_... where it is given a folder"
        raise XPSRError(
            f"{pair.lr}: the command has written no picture of it: {shown}", code="no_output", remedy=remedy
        )
    width, height = size.of(*picture_size(pair.lr))
    wide, high = picture_size(found)
    if (wide, high) != (width, height):
        message = f"{pair.lr}: the command has made {wide} x {high} of it, not {width} x {height}: {shown}"
        raise XPSRError(message, code="wrong_size", remedy="let it enlarge as the suite's scale says")
    if found.suffix.lower() != ".png":
        place = found.with_suffix(".png")
        place.write_bytes(image_bytes(place, read_image(found)))
        found = place
    _put(found, folder, pair, digest, way, seconds)


def _is_done(target: Path, digest: str, way: dict[str, Any]) -> bool:
    """Returns whether a result is there that is of the same picture and was made in the same way, and unchanged.

    Raises:
        InputError: something else is there, which is not ours to replace.
    """
    record = read_sidecar(target)
    if record is None:
        for path in (target, target.with_suffix(".json")):
            if path.exists():
                message = f"{path}: is there already, and nothing beside it says that xpsr made it"
                raise InputError(message, code="exists", remedy=_ELSEWHERE)
        return False
    same = record["input_sha256"] == digest and record.get("way") == way
    return same and target.is_file() and sha256(target) == record["output_sha256"]


def _put(found: Path, folder: Path, pair: Pair, digest: str, way: dict[str, Any], seconds: float) -> None:
    """Puts a result and its record in their places; the record first, as one without its picture is of no use."""
    target = folder / f"{pair.name}.png"
    record = {
        "input": pair.lr.name,
        "input_sha256": digest,
        "output": target.name,
        "output_sha256": sha256(found),
        "way": way,
        "seconds": round(seconds, 4),
    }
    write_text(target.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    with atomic_write(target) as part:
        shutil.copyfile(found, part)
