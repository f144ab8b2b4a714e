"""One way from a picture to a picture: what command line, batch, page and API call.

Touches no disk but to load, to keep in the user's cache how long pictures take, and in a folder that it is given.
"""

import dataclasses
import gc
import hashlib
import json
import logging
import math
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers

from xpsr import __version__
from xpsr.config import PresetName, Settings, Size, as_dict, as_size, usual_size
from xpsr.config.checks import SEED, check_argument, within
from xpsr.devices import (
    Dtype,
    Offload,
    WeightsDtype,
    free_memory,
    processor_name,
    ran_out_of_memory,
    resolve_offload,
    resolve_weights_dtype,
    torch_dtype,
)
from xpsr.engines import Engine, check_engine, resolve_place, use_engine
from xpsr.errors import Cancelled, InputError, XPSRError
from xpsr.image import ImageLike, Picture, Resized, bleed, drop_from_memory, new_planes, to_picture
from xpsr.model_files import checksums, fetch_model
from xpsr.pipeline import MAX_OUTPUT_PIXELS
from xpsr.pipeline.costs import costs_of, first_plan, resident_memory, work_of
from xpsr.pipeline.placing import compile_blocks, open_pipeline
from xpsr.pipeline.previews import PreviewCallback
from xpsr.planning import TilePlan, keep_rate, known_rate, plan_tiles, refuse_above, smaller_plan
from xpsr.prior import QUESTIONS, Describer, Prior, looking
from xpsr.protection import agree, blend_back, contradictions, invented, lr_psnr

__all__ = ["Restored", "Restorer"]


logger = logging.getLogger(__name__)

_ROWS = 64
"""Of what is enlarged at once."""

_SIDE = within(1, 2**31 - 1, "4000, for example")
_MEMORY = within(1, 2**63 - 1, "4000000000, for example")

_TELLING = 2**18
"""Pixels from which on the time that a picture takes tells of others: 512 x 512."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restoration gave.

    Attributes:
        picture: the restored picture; what the input carried beside its pixels goes with it.
        map: (1, H, W) float32 in [0, 1], what was invented: 0 where the result shows what a plain enlargement of the
            input does, 1 where it is quite another; see `xpsr.protection.invented`.
        record: how it came about, ready for JSON: sizes, prior, seed, settings, model, versions, seconds, and how far
            the result goes beyond its input. With the same input it is enough to have the same picture again.
    """

    picture: Picture
    map: torch.Tensor
    record: dict[str, Any]


class Restorer:
    """A loaded model on its device. Any number of threads may call it at once.

    Args:
        model: "mini", which comes with xpsr, a model's folder, or its name on the hub.
        device: "auto" (the fastest one), "cuda", "cuda:1", "mps" or "cpu".
        dtype: "auto", "fp32", "bf16" or "fp16"; see `xpsr.devices.resolve_dtype`.
        engine: what computes the networks: "torch", or "openvino" or "onnx" (onnxruntime) on the CPU, for a folder that
            `xpsr export` wrote.
        weights_dtype: in which weights lie in memory: "auto" as they are computed with, or one of fewer bits, "bf16",
            "fp16" or "fp8", which takes less memory and a little more time; see `xpsr.models.store_weights`.
        compile: whether the networks' repeated blocks are compiled, which takes minutes once for every size of tiles;
            or which of torch's compilers does it.
        offload: what waits in the computer's memory while the rest is on the graphics card: "none"; "model", networks,
            moved once a picture; or "group", layers, moved in every pass. Calls then wait for each other.

    Raises:
        InputError: there is no such model or device, the device is slow with the number type or has no memory of its
            own to offload from, the folder holds nothing for the engine, or another engine than torch is to compile,
            or to keep weights in fewer bits.
        MissingDependencyError: the engine is not installed.
        ModelError: the model cannot be loaded.
        XPSRError: the engine computes wrongly on this machine.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "mini",
        *,
        device: str = "auto",
        dtype: Dtype | Literal["auto"] = "auto",
        engine: Engine = "torch",
        weights_dtype: WeightsDtype | Literal["auto"] = "auto",
        compile: bool | str = False,  # noqa: A002  # torch's own word
        offload: Offload = "none",
    ) -> None:
        place, kind = resolve_place(engine, device, dtype)
        compiler = {True: "inductor", False: ""}.get(check_argument("compile", compile, bool | str), str(compile))
        if compiler and compiler not in torch.compiler.list_backends(()):
            message = "is no compiler of torch's"
            remedy = f"use one of {', '.join(torch.compiler.list_backends())}"
            raise InputError(message, code="unknown_value", field="compile", value=compiler, remedy=remedy)
        if engine != "torch":
            for name, value, usual in (("compile", compiler, ""), ("weights_dtype", weights_dtype, "auto")):
                if value != usual:
                    message, remedy = f"does nothing beside engine {engine}", "leave one of them out"
                    raise InputError(message, code="conflict", field=name, value=value, remedy=remedy)
        folder = fetch_model(model)
        check_engine(folder, engine)
        # bfloat16 on a CPU is for the arithmetic only: the weights stay float32
        computed: Dtype = "fp32" if place.type == "cpu" else kind
        self._autocast = engine == "torch" and place.type == "cpu" and kind == "bf16"
        stored, waiting = resolve_weights_dtype(weights_dtype, computed), resolve_offload(offload, place)
        self.pipe = open_pipeline(
            folder, place, dtype=torch_dtype(computed), weights_dtype=torch_dtype(stored), offload=waiting
        )
        self._turn = nullcontext() if waiting == "none" else threading.Lock()
        if compiler:
            compile_blocks(self.pipe, compiler)
        if engine != "torch":
            use_engine(self.pipe, folder, engine, dtype=kind)
        self.pipe.set_progress_bar_config(disable=True)
        self._offload, self._compiles = waiting, bool(compiler)
        self._resident = resident_memory(self.pipe)
        self._facts: dict[str, Any] = {
            "device": str(place),
            "dtype": kind,
            "engine": engine,
            "weights_dtype": stored,
            "model": {"name": str(model), "sha256": checksums(folder)},
            "versions": {
                "xpsr": __version__,
                "torch": str(torch.__version__),
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
        }

    def plan(
        self,
        width: int,
        height: int,
        *,
        scale: float | None = None,
        size: Size | str | None = None,
        preset: PresetName | None = None,
        settings: Settings | Mapping[str, Any] | None = None,
        memory: int | None = None,
        has_workspace: bool = False,
    ) -> TilePlan:
        """Returns how a picture would be restored: how much of it at once, in how much memory, in what time.

        Args:
            width, height: of the picture.
            scale, size, preset, settings: as of `restore`.
            memory: bytes that the process, or on a graphics card the model, may take. None: what is free, but for a
                tenth, as far as that changes nothing of the result.
            has_workspace: whether `restore` gets a folder for large results.

        Raises:
            InputError: an argument that cannot be used, or too little memory for the smallest plan.
        """
        check_argument("width", width, int, _SIDE), check_argument("height", height, int, _SIDE)
        check_argument("memory", memory, int | None, _MEMORY)
        resolved, target = self.pipe.settings(preset, settings), as_size(scale, size)
        passes = self.pipe.passes(width, height, target, resolved)
        work = work_of(passes, (height, width), self.pipe.vae_scale_factor)
        rate, free = known_rate(self._rate_key(resolved)), free_memory(self._device)
        first = dataclasses.replace(
            first_plan(self.pipe, resolved, work),
            dtype=self._facts["dtype"],
            offload=self._offload,
            seconds=None if rate is None else rate * passes.network_pixels(resolved),
        )
        costs = costs_of(self.pipe, resolved, work, fixed=self._resident, has_workspace=has_workspace)
        budget = memory
        if memory is None and free is not None:
            budget = self._resident + free * 9 // 10
        # what is free just now decides nothing of the result
        keeps_tiles = memory is None or self._has_fixed_tiles
        plan = plan_tiles(
            first, work, costs, budget=budget, multiple=self.pipe.facts.tile_multiple, keeps_tiles=keeps_tiles
        )
        if memory is not None:
            refuse_above(plan, memory)
        return plan

    def measure(self, preset: PresetName | None = None, settings: Settings | Mapping[str, Any] | None = None) -> bool:
        """Restores noise, so that plans know how long pictures take, and returns whether it did.

        In seconds that tells of the one step alone, and of networks that are not to be compiled first; how long others
        take is known after the first picture.
        """
        resolved = self.pipe.settings(preset, settings)
        if resolved.strength > 0 or self._compiles:
            return False
        # no less than a tile, and no less than tells
        side = max(resolved.tile_size * self.pipe.vae_scale_factor, math.isqrt(_TELLING)) / self.pipe.config.scale
        noise = torch.rand(3, math.ceil(side), math.ceil(side), generator=torch.Generator().manual_seed(0))
        self.restore(noise, Prior(), scale=self.pipe.config.scale, settings=resolved, seed=0)
        return True

    def restore(
        self,
        image: ImageLike,
        prior: Prior | str | None = None,
        *,
        describer: str | os.PathLike[str] | Describer = "mini",
        scale: float | None = None,
        size: Size | str | None = None,
        preset: PresetName | None = None,
        settings: Settings | Mapping[str, Any] | None = None,
        seed: int | None = None,
        protect: Literal["auto"] | ImageLike | None = None,
        lr_consistency: bool = False,
        progress: Callable[[int, int], None] | None = None,
        preview: PreviewCallback | None = None,
        is_cancelled: Callable[[], bool] | None = None,
        plan: TilePlan | None = None,
        memory: int | None = None,
        workspace: str | os.PathLike[str] | None = None,
        keeps_tiles: bool = False,
    ) -> Restored:
        """Restores one picture.

        Args:
            image: a path, the bytes of a file, an open file, a PIL image, an array (H, W, C), a tensor (C, H, W) in
                [0, 1], or a `Picture`; see `xpsr.image.to_picture`.
            prior: what is in the picture and what is wrong with it. A text is what is in it, and the describer says
                what is wrong; None: it says both; `Prior()`: nothing is said.
            describer: who looks: "mini", which comes with xpsr, "none", or what else `xpsr.open_describer` takes, which
                is opened for this call; or one that is open.
            scale: how much larger the result is, along a side, 1/16 to 16; may be fractional. None: 4, or 2 or 1 where
                the result would have more than 2**26 pixels.
            size: the size instead of a scale: "3000x2000", or a `Size`, such as `Size(longest=3000)`.
            preset: "default", "paper" or "reference" instead of the model's own settings.
            settings: a whole `xpsr.Settings`, which goes without a preset; or some of its fields, over those of the
                preset or the model.
            seed: of the noise, where any is drawn, on every device the same; None: a random one, which the record has.
            protect: where the result goes back to the plain enlargement of the picture: "auto", where it contradicts
                the picture; or a mask, a picture of any size and the same ratio of sides that is white there.
            lr_consistency: whether the result is corrected until its reduction is the picture again; for clean ones,
                as noise comes back, too.
            progress: is told after every tile of every step how many passes of how many are done.
            preview: is shown after every step but the last what the picture looks like so far, and told which step it
                is, from 1 on, of how many: `preview(image, step, steps)`. The image is (3, h, w), float32 on the CPU
                in [0, 1], of the ratio of the result, with a longer side of at most 256 pixels, before `protect` and
                `lr_consistency`. It changes nothing of the result. Never called in the one step, which has no steps
                between.
            is_cancelled: is asked as often, at the start and after the describer; where it says so, the call ends.
            plan: how much is computed at once; its tiles go before those of the settings. None: what `plan` says.
                Where memory runs out all the same, the next smaller one is tried, and the record's `notices` tell.
            memory: bytes that it may take, as of `plan`; not beside a plan.
            workspace: a folder in which the planes of results of more than 2**26 pixels lie, in files without a name
                that go with the last tensor of them; None: they are in memory.
            keeps_tiles: whether the denoiser's tiles, which are part of what the result looks like, stay as large as
                they are where memory runs out.

        Raises:
            InputError: a picture or an argument that cannot be used.
            Cancelled: `is_cancelled` said so.
            XPSRError: the result is not finite, or there is no memory for the smallest parts of it.
        """

        def stop_if_cancelled() -> None:
            if is_cancelled is not None and is_cancelled():
                raise Cancelled("the restoration was cancelled.")

        start = time.perf_counter()
        for name, value in (("progress", progress), ("preview", preview), ("is_cancelled", is_cancelled)):
            check_argument(name, value, Callable | None)
        check_argument("workspace", workspace, str | os.PathLike | None)
        check_argument("memory", memory, int | None, _MEMORY)
        check_argument("lr_consistency", lr_consistency, bool)
        check_argument("keeps_tiles", keeps_tiles, bool)
        stop_if_cancelled()
        resolved = self.pipe.settings(preset, settings, plan=plan)
        if plan is not None and memory is not None:
            message, remedy = "does nothing beside a plan", "leave one of them out"
            raise InputError(message, code="conflict", field="memory", value=str(memory), remedy=remedy)
        folder = None if workspace is None else Path(workspace)
        target = as_size(scale, size)
        seed = check_argument("seed", seed, int | None, SEED)
        questions = QUESTIONS[preset or "default"]
        with looking(describer, [prior], questions=questions, device=str(self._facts["device"])) as find_prior:
            picture = to_picture(image)
            target = target or usual_size(picture.width, picture.height)
            target.refuse_above(MAX_OUTPUT_PIXELS, picture.width, picture.height)
            mask = None if protect is None or _is_auto(protect) else _mask(protect, picture)
            prior = find_prior(image, picture, prior)
        stop_if_cancelled()
        seed = secrets.randbelow(2**32) if seed is None else seed

        def on_pass_end(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)
            stop_if_cancelled()

        source = bleed(picture.pixels, picture.alpha).cpu()
        seen, wanted = dataclasses.replace(picture, pixels=source, alpha=None), resolved.tile_size
        notices = []
        if plan is None:
            plan = self.plan(
                picture.width,
                picture.height,
                size=target,
                settings=resolved,
                memory=memory,
                has_workspace=folder is not None,
            )
        while True:
            resolved = self.pipe.settings(None, resolved, plan=plan)
            try:
                pixels, seconds = self._paint(seen, target, prior, resolved, plan, seed, on_pass_end, preview, folder)
                break
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
            # here, where what the error held of the picture is let go
            plan = self._smaller(plan, picture, target, resolved, has_workspace=folder is not None, keeps=keeps_tiles)
            notices = ["memory ran out, so that smaller parts of it were made at once"]
        if resolved.tile_size != wanted:
            notices.append(f"it was made in tiles of {resolved.tile_size} instead of {wanted}, for want of memory")
        passes = self.pipe.passes(picture.width, picture.height, target, resolved)
        if math.prod(passes.working[-1]) >= _TELLING and not self._compiles:  # which takes minutes, once
            keep_rate(self._rate_key(resolved), seconds / passes.network_pixels(resolved))
        shown, fidelity = _corrected(
            pixels, source, lr_consistency=lr_consistency, protects=protect is not None, mask=mask, folder=folder
        )
        size_made, alpha, excess = (pixels.shape[-2], pixels.shape[-1]), picture.alpha, picture.excess
        restored = dataclasses.replace(
            picture,
            pixels=pixels,
            alpha=None if alpha is None else _enlarged(alpha, size_made, folder),
            excess=None if excess is None else _enlarged(bleed(excess, alpha), size_made, folder),
        )
        record = {
            "input_size": [picture.width, picture.height],
            "output_size": [restored.width, restored.height],
            "prior": prior.as_dict(),
            "seed": seed,
            **target.asked,
            "settings": as_dict(resolved),
            "fidelity": fidelity,
            **({"notices": notices} if notices else {}),
            **self._facts,
            "seconds": round(time.perf_counter() - start, 3),
        }
        return Restored(picture=restored, map=shown, record=record)

    def _paint(
        self,
        picture: Picture,
        target: Size,
        prior: Prior,
        settings: Settings,
        plan: TilePlan,
        seed: int,
        on_pass_end: Callable[[int, int], None],
        preview: PreviewCallback | None,
        folder: Path | None,
    ) -> tuple[torch.Tensor, float]:
        """Returns pixels (3, H, W) on the CPU, and how many seconds they took."""
        # noise is drawn on the CPU, so that a seed means the same on every device
        generator = torch.Generator().manual_seed(seed)
        with self._turn, torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            start = time.perf_counter()
            pixels: torch.Tensor = self.pipe(
                picture,
                size=target,
                prior=prior,
                settings=settings,
                generator=generator,
                output_type="pt",
                callback_on_pass_end=on_pass_end,
                callback_on_preview=preview,
                plan=plan,
                workspace=folder,
            ).images[0]
            return pixels, time.perf_counter() - start

    def _smaller(
        self, plan: TilePlan, picture: Picture, target: Size, settings: Settings, *, has_workspace: bool, keeps: bool
    ) -> TilePlan:
        """Returns the plan to try after memory ran out with another.

        Raises:
            XPSRError: there is none.
        """
        passes = self.pipe.passes(picture.width, picture.height, target, settings)
        work = work_of(passes, (picture.height, picture.width), self.pipe.vae_scale_factor)
        costs = costs_of(self.pipe, settings, work, fixed=self._resident, has_workspace=has_workspace)
        keeps = keeps or self._has_fixed_tiles
        smaller = smaller_plan(plan, work, costs, multiple=self.pipe.facts.tile_multiple, keeps_tiles=keeps)
        if smaller is None:
            message, remedy = "memory ran out with the smallest parts, too", "use a smaller scale, or free some"
            raise XPSRError(message, code="out_of_memory", remedy=remedy)
        gc.collect()  # the strips of a stream that an error ended hold each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning("Memory ran out; tiles of %d, %s rows at once.", smaller.tile_size, smaller.band_rows or "all")
        return smaller

    @property
    def _device(self) -> torch.device:
        return torch.device(self._facts["device"])

    @property
    def _has_fixed_tiles(self) -> bool:
        return bool(self._facts["engine"] != "torch")  # what was exported is of one size

    def _rate_key(self, settings: Settings) -> str:
        """What the time that a pixel takes depends on."""
        weights = sorted(self._facts["model"]["sha256"].items())
        facts = [self._facts[name] for name in ("device", "dtype", "engine", "weights_dtype")]
        is_cuda = self._device.type == "cuda"
        machine = torch.cuda.get_device_name(self._device) if is_cuda else processor_name()
        kind = [machine, torch.get_num_threads(), self._offload, settings.strength == 0, settings.cache_interval]
        if settings.fidelity == 1:  # no UNet and no ControlNet
            kind.append("faithful")
        return hashlib.sha256(json.dumps([weights, facts, kind]).encode()).hexdigest()


def _corrected(
    pixels: torch.Tensor,
    source: torch.Tensor,
    *,
    lr_consistency: bool,
    protects: bool,
    mask: torch.Tensor | None,
    folder: Path | None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Changes a result as it is asked for; returns the map of what is invented in it, and how far it goes."""
    weights = contradictions(pixels, source)
    fidelity = {"contradicted": round(float(weights.mean()), 4)}
    if lr_consistency:
        fidelity["lr_psnr_before"] = round(lr_psnr(pixels, source), 2)
        agree(pixels, source)
    if protects:
        weights = weights if mask is None else mask
        fidelity["protected"] = round(float(weights.mean()), 4)
        blend_back(pixels, source, weights)
    shown, share = invented(pixels, source, folder=folder)
    return shown, fidelity | {"lr_psnr": round(lr_psnr(pixels, source), 2), "invented": round(share, 4)}


def _enlarged(planes: torch.Tensor, size: tuple[int, int], folder: Path | None) -> torch.Tensor:
    """(C, h, w) brought to the size of the result, its height and width."""
    enlarged, result = Resized(planes.cpu(), size), new_planes((len(planes), *size), folder)
    for top in range(0, size[0], _ROWS):
        strip = result[:, top : top + _ROWS]
        strip.copy_(enlarged.rows(top, top + strip.shape[-2]))
        drop_from_memory(strip)
    return result


def _is_auto(protect: object) -> bool:
    return isinstance(protect, str) and protect == "auto"


def _mask(protect: ImageLike, picture: Picture) -> torch.Tensor:
    """The mask (1, H, W) in [0, 1] of a picture; what is transparent in it is not white."""
    try:
        mask = to_picture(protect)
    except InputError as error:  # of a file it tells the name
        raise error.recast(InputError, field=error.field and "protect") from error
    if not 0.98 < mask.width * picture.height / (mask.height * picture.width) < 1.02:
        message = f"is a mask of {mask.width} x {mask.height}, and the picture is {picture.width} x {picture.height}"
        remedy = "use one whose sides have the same ratio"
        raise InputError(message, code="wrong_size", field="protect", remedy=remedy)
    white = mask.pixels.mean(0, keepdim=True)
    return (white if mask.alpha is None else white * mask.alpha).cpu()
