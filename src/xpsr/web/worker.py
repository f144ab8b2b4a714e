"""Who works for a server: looks at pictures that strangers sent, and restores them, one at a time."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from xpsr.batch.restoring import open_picture, open_restorer, restore_opened, write_restored
from xpsr.config import ServeConfig, UpscaleConfig, as_dict
from xpsr.image import Limits, Picture, decode_in_process, to_pil
from xpsr.model_files import fetch_model
from xpsr.prior import QUESTIONS, Describer, Prior, completed, open_describer
from xpsr.prior.describers import is_asked
from xpsr.records import Recipe
from xpsr.restore import Restorer
from xpsr.sources import Job as RestoringJob
from xpsr.sources import Source
from xpsr.web.jobs import Preview, Request

__all__ = ["SHOWN_FORMATS", "UPLOAD", "Told", "Worker", "limits_of"]

UPLOAD = "upload"
"""The file of a job's folder that holds what was sent."""

SHOWN_FORMATS = frozenset({"JPEG", "PNG", "WEBP", "GIF", "BMP"})
"""Of files that every browser shows; beside one of another format lies a PNG that it can show."""

_MAX_SHOWN = 2**24
"""Pixels of such a PNG; more are reduced."""

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


def limits_of(config: ServeConfig) -> Limits:
    """Returns what is refused before it is decoded."""
    return Limits(max_pixels=config.max_pixels, max_bytes=config.max_bytes)


class Worker:
    """Models and describers that are loaded, under the names that clients know.

    Args:
        config: of the server.
        device: as `xpsr.devices.resolve_device` takes it.

    Raises:
        InputError: an option that this machine or a model cannot follow, or a describer that is none.
        ModelError: a model cannot be loaded.
        MissingDependencyError: an engine is not installed.
    """

    def __init__(self, config: ServeConfig, *, device: str = "auto"):
        self._config = config
        self._recipes: dict[str, Recipe] = {}
        self._restorers: dict[str, Restorer] = {}
        for name, where in config.named("models").items():
            asked = dataclasses.replace(config.upscale, model=where, device=device, memory=config.memory)
            self._restorers[name] = open_restorer(asked, device=device)
            self._recipes[name] = Recipe(config=asked, describer="none", folder=fetch_model(where))
        self._describers: dict[str, Describer] = {"none": open_describer("none")}
        for name, where in config.named("describers").items():
            questions = QUESTIONS[config.upscale.preset or "default"] if is_asked(where) else None
            self._describers[name] = open_describer(where, questions=questions, device=device)

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
        return {
            "name": name,
            "scale": facts.scale,
            "has_one_step": facts.has_one_step,
            "has_several_steps": facts.has_several_steps,
            "has_fidelity": facts.has_fidelity,
            "draws_noise": settings.strength > 0,
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
        content = (folder / UPLOAD).read_bytes()
        picture = decode_in_process(
            content,
            limits=limits_of(self._config),
            accept_truncated=request.config.accept_truncated,
        )
        if request.format not in SHOWN_FORMATS:
            _show(picture, folder / "input.png")
        prior = self._look(picture, request.config)
        tell(Told(prior=prior))
        if request.kind == "describe":
            return {"prior": prior.as_dict()}
        name = request.config.model
        kept = self._recipes[name].config
        config = dataclasses.replace(request.config, **{f: getattr(kept, f) for f in ("model", "device", "memory")})
        recipe = dataclasses.replace(self._recipes[name].with_config(config), describer=config.describer)
        target = folder / f"result{request.suffix}"
        place = folder / "map.png" if request.wants_map else None
        job = RestoringJob(source=Source(path=Path("picture"), content=content), target=target, map=place)
        opened = open_picture(job, picture, recipe, named="picture")
        restored = write_restored(
            opened,
            restore_opened(
                self._restorers[name],
                opened,
                prior,
                recipe,
                progress=lambda done, total: tell(Told(progress=(done, total))),
                preview=_Shower(tell) if request.wants_previews else None,
                is_cancelled=is_cancelled,
            ),
            recipe,
        )
        written = "JPEG" if target.suffix in (".jpg", ".jpeg") else target.suffix[1:].upper()
        if written not in SHOWN_FORMATS:
            _show(restored.picture, folder / "view.png")
        facts: Mapping[str, Any] = restored.record["model"]
        return restored.record | {"model": {**facts, "name": name}, "bytes": target.stat().st_size}

    def _look(self, picture: Picture, config: UpscaleConfig) -> Prior:
        if config.content is not None and config.quality is not None:
            return Prior(config.content, config.quality)
        (found,) = self._describers[config.describer].describe([picture])
        return completed(found, config.content, config.quality)


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
