"""Who works for a server: looks at pictures that strangers sent, and restores them, one at a time."""

import dataclasses
import gc
import logging
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from xpsr.batch.restoring import (
    model_name,
    open_picture,
    open_restorer,
    plan_of,
    restore_opened,
    write_restored,
)
from xpsr.config import ServeConfig, Size, UpscaleConfig, as_dict
from xpsr.config.checks import said
from xpsr.devices import resolve_device
from xpsr.errors import Cancelled, InputError, XPSRError
from xpsr.image import Picture, decode_in_process, to_pil
from xpsr.model_files import fetch_model
from xpsr.planning import in_words
from xpsr.prior import QUESTIONS, Describer, FileDescriber, Prior, completed, open_describer
from xpsr.prior.describers import is_asked
from xpsr.prior.mllm import MLLMDescriber
from xpsr.prior.server import ServerDescriber
from xpsr.records import Recipe
from xpsr.restore import Restorer
from xpsr.sources import Job as RestoringJob
from xpsr.sources import Source
from xpsr.web.decoding import decode
from xpsr.web.jobs import SHOWN_FORMATS, UPLOAD, Preview, Request

__all__ = ["Told", "Worker"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MAX_SHOWN = 2**24
"""Pixels of such a PNG; more are reduced."""

_DOUBT = 2
"""How many times too long a picture has to take to be refused beforehand: what is known of it is an estimate."""

_PAUSE = 1 / 3
"""Seconds between two previews, at least."""

_QUALITY = 80
"""Of a preview's WebP."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What whoever works tells on the way: passes done, of how many; what is said of the picture; a preview."""

    progress: tuple[int, int] | None = None
    prior: Prior | None = None
    preview: Preview | None = None


class Worker:
    """Models and describers that are loaded, under the names that clients know.

    Args:
        config: of the server.
        device: as `xpsr.devices.resolve_device` takes it.

    Attributes:
        hidden: where models and describers are, which is nobody's business, and what clients call each.

    Raises:
        InputError: an option that this machine or a model cannot follow, a describer that is none, or too little memory
            for any picture.
        ModelError: a model cannot be loaded.
        MissingDependencyError: an engine is not installed.
        XPSRError: this system has no processes in which pictures of strangers can be decoded.
    """

    def __init__(self, config: ServeConfig, *, device: str = "auto"):
        if not (hasattr(os, "fork") and hasattr(socket, "send_fds")):
            message = "pictures of strangers are decoded in processes of their own, which only Linux and macOS have"
            raise XPSRError(message, code="unsupported", remedy="serve from one of them, a container for example")
        self._config, self._device = config, resolve_device(device)
        self._restorers: dict[str, Restorer] = {}
        self._recipes: dict[tuple[str, str], Recipe] = {}
        self._describers: dict[str, Describer] = {"none": open_describer("none")}
        self.hidden: dict[str, str] = {}
        with ThreadPoolExecutor(1) as meanwhile:
            first = meanwhile.submit(decode_in_process, _pixel())  # of which the first takes seconds
            for name, where in config.named("describers").items():
                self._describers[name] = _opened(name, where, config, device)
                self._hide(where, name)
            for name, where in config.named("models").items():
                asked = dataclasses.replace(config.upscale, model=where, device=device, memory=config.memory)
                self._restorers[name], folder = open_restorer(asked, device=device), fetch_model(where)
                _refuse_memory(name, self._restorers[name], asked)
                for describer in self._describers:
                    recipe = Recipe(config=asked, describer=describer, folder=folder)
                    self._recipes[name, describer] = recipe.with_config(asked)
                self._hide(where, name)
                self._hide(str(folder), name)
            first.result()

    def _hide(self, where: str, name: str) -> None:
        if len(where) > 3 and ("/" in where or "\\" in where):  # a word is no secret, and stands in other texts
            self.hidden[where] = name

    @property
    def facts(self) -> dict[str, Any]:
        """What clients may know of what is loaded, ready for JSON."""
        return {
            "models": [self._facts_of(name, restorer) for name, restorer in self._restorers.items()],
            "describers": list(dict.fromkeys([*self._config.named("describers"), "none"])),
        }

    def _facts_of(self, name: str, restorer: Restorer) -> dict[str, Any]:
        pipe, config = restorer.pipe, self._config.upscale
        facts, settings = pipe.facts, pipe.settings(config.preset, config.overrides)
        painted = pipe.settings(config.preset, {**config.overrides, "fidelity": 0.0})
        return {
            "name": name,
            "scale": facts.scale,
            "has_one_step": facts.has_one_step,
            "has_several_steps": facts.has_several_steps,
            "has_fidelity": facts.has_fidelity,
            "draws_noise": settings.draws_noise,
            "grain": painted.grain,
            "settings": as_dict(settings),
        }

    def work(
        self,
        request: Request,
        folder: Path,
        tell: Callable[[Told], None],
        is_cancelled: Callable[[], bool],
    ) -> dict[str, Any]:
        """Does what is asked for, of the picture in a job's folder, and returns the record.

        The result lies in `folder` then, as `Job.result` says, and what browsers show of pictures that they cannot: of
        the upload in input.png, of the result in view.png; the map in map.png. The record of "describe" is the prior.

        Raises:
            InputError: the picture or an option cannot be used.
            Cancelled: `is_cancelled` said so.
            XPSRError: what else can go wrong.
        """
        config = request.config
        if config.protect not in (None, "auto"):  # any other one is a file of the server
            raise InputError("is not auto", code="unknown_value", field="protect", remedy="use auto, or leave it out")
        content = (folder / UPLOAD).read_bytes()
        picture = decode(content, self._config, accept_truncated=config.accept_truncated)
        _stop_if(is_cancelled)
        if request.kind == "upscale":  # known before anybody looks
            restorer = _known(self._restorers, "model", config.model)
            size = config.target(picture.width, picture.height)
            size.refuse_above(self._config.max_output_pixels, picture.width, picture.height)
            self._refuse_endless(restorer, picture, config)
        if request.format not in SHOWN_FORMATS:
            _show(picture, folder / "input.png")
        prior = self._look(picture, config)
        tell(Told(prior=prior))
        if request.kind == "describe":
            return {"prior": prior.as_dict()}
        has_texts = config.content is not None and config.quality is not None
        kept = self._recipes[config.model, "none" if has_texts else config.describer]
        recipe = kept.with_config(
            dataclasses.replace(config, **{f: getattr(kept.config, f) for f in ("model", "device", "memory")})
        )
        target = folder / request.result_file
        place = folder / "map.png" if request.wants_map else None
        job = RestoringJob(source=Source(path=Path("picture"), content=content), target=target, map=place)
        opened = open_picture(job, picture, recipe, named="picture")
        restored = restore_opened(
            restorer,
            opened,
            prior,
            recipe,
            progress=lambda done, total: tell(Told(progress=(done, total))),
            preview=_Shower(tell) if request.wants_previews else None,
            is_cancelled=is_cancelled,
        )
        facts = restored.record | {"model": {**restored.record["model"], "name": config.model}}  # not where it lies
        own = model_name(recipe.config.model)  # the name that `xpsr upscale` writes, where clients know it
        called = own if own.rpartition("/")[2] == config.model else config.model
        restored = write_restored(opened, dataclasses.replace(restored, record=facts), recipe, model=called)
        if request.result_format not in SHOWN_FORMATS:
            _show(restored.picture, folder / "view.png")
        return restored.record | {"bytes": target.stat().st_size}

    def _refuse_endless(self, restorer: Restorer, picture: Picture, config: UpscaleConfig) -> None:
        """Refuses what would not be done in time, as far as it is known how long pictures take."""
        kept = dataclasses.replace(config, memory=self._config.memory)
        seconds, most = plan_of(restorer, picture.width, picture.height, kept).seconds, self._config.max_seconds
        if seconds is not None and seconds > _DOUBT * most:
            message = f"it would take about {seconds:.0f} seconds, and the limit is {most:g}"
            raise InputError(message, code="too_large", remedy="use a smaller scale or picture", limit=most)

    def is_well(self) -> bool:
        """Returns whether its device still computes, after an error that nobody has foreseen; lets go what that held.

        A graphics card that has failed once computes nothing more for the same process.
        """
        gc.collect()
        try:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            return torch.ones(2, device=self._device).sum().item() == 2
        except RuntimeError:
            logger.exception("%s does not compute any more.", self._device)
            return False

    def _look(self, picture: Picture, config: UpscaleConfig) -> Prior:
        if config.content is not None and config.quality is not None:
            return Prior(config.content, config.quality)
        describer = _known(self._describers, "describer", config.describer)
        if isinstance(describer, ServerDescriber | MLLMDescriber):  # as `xpsr upscale` asks
            describer.questions = QUESTIONS[config.preset or "default"]
        try:
            (found,) = describer.describe([picture])
        except XPSRError as error:  # which tells where it is
            logger.error("The describer %s: %s", config.describer, error)
            if isinstance(error, InputError):
                message, remedy = f"the describer {config.describer} does not take this picture", "use another one"
                raise InputError(message, code="not_described", remedy=remedy) from error
            message, remedy = f"the describer {config.describer} does not answer", "use another one, or try again later"
            raise XPSRError(message, code="no_describer", remedy=remedy) from error
        return completed(found, config.content, config.quality)


def _opened(name: str, where: str, config: ServeConfig, device: str) -> Describer:
    """Opens a describer; a model on this machine is loaded."""
    questions = QUESTIONS[config.upscale.preset or "default"] if is_asked(where) else None
    opened = open_describer(where, questions=questions, device=device)
    if isinstance(opened, FileDescriber):
        message, remedy = "is a file of priors, which tells of certain pictures alone", "use a model, or none"
        raise InputError(message, code="conflict", field="describers", value=name, remedy=remedy)
    if isinstance(opened, MLLMDescriber):
        opened.describe([torch.full((3, 256, 256), 0.5)])
    return opened


def _refuse_memory(name: str, restorer: Restorer, config: UpscaleConfig) -> None:
    """Refuses a limit of memory in which a model restores no picture at all."""
    least: dict[str, Any] = {f.name: None for f in dataclasses.fields(Size)} | {"scale": 1.0}
    smallest = dataclasses.replace(config, **least)
    try:
        plan_of(restorer, 1, 1, smallest)
    except InputError as error:
        if error.field != "memory":
            raise
        needed = in_words(plan_of(restorer, 1, 1, dataclasses.replace(smallest, memory=None)).peak_bytes)
        message, remedy = f"is too little for the model {name}, whatever the picture", f"use {needed} or more"
        raise InputError(message, code=error.code, field="memory", value=config.memory, remedy=remedy) from error


def _known(there: dict[str, T], option: str, name: str) -> T:
    if name not in there:
        message, remedy = "is none of this server's", f"use one of {', '.join(there)}"
        raise InputError(message, code="unknown_value", field=option, value=said(name), remedy=remedy)
    return there[name]


def _stop_if(is_cancelled: Callable[[], bool]) -> None:
    if is_cancelled():
        raise Cancelled("the job was cancelled")


def _pixel() -> bytes:
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()


class _Shower:
    """Tells what a picture looks like so far, as `preview` of `Restorer.restore`, and not too often."""

    def __init__(self, tell: Callable[[Told], None]):
        self._tell, self._next = tell, 0.0

    def __call__(self, image: torch.Tensor, step: int, steps: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next, content = now + _PAUSE, BytesIO()
        to_pil(image).save(content, "WEBP", quality=_QUALITY)
        self._tell(Told(preview=Preview(image=content.getvalue(), step=step, steps=steps)))


def _show(picture: Picture, place: Path) -> None:
    """Writes a picture as a browser shows it: sRGB of 8 bits, without metadata."""
    image = to_pil(picture.pixels, picture.alpha)
    if image.width * image.height > _MAX_SHOWN:
        factor = (_MAX_SHOWN / (image.width * image.height)) ** 0.5
        image.thumbnail((int(image.width * factor), int(image.height * factor)))
    image.save(place, compress_level=1)
