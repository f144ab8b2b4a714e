"""A training run from a config to a model folder: what binds data, training, pipeline and evaluation."""

import copy
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.utils.data import Dataset

from xpsr import __version__
from xpsr.config import Settings, TrainRunConfig, as_dict
from xpsr.config.checks import fault
from xpsr.data import Sample, build_dataset
from xpsr.devices import resolve_device
from xpsr.errors import InputError, TrainingError, one_line
from xpsr.evaluation import MIN_SIDE, mean_scores, score
from xpsr.files import by_stem, list_images, partner
from xpsr.image import read_image, resize, to_pil, write_image
from xpsr.pipeline import XPSRPipeline
from xpsr.prior import FileDescriber, Prior
from xpsr.training import (
    Components,
    OnMetrics,
    build_components,
    build_from_base,
    is_finished,
    train,
    with_schedule,
    without_fusion,
)

__all__ = [
    "Validation",
    "build_pipeline",
    "check_model",
    "export_model",
    "is_main_process",
    "prepare_components",
    "train_model",
]

logger = logging.getLogger(__name__)

_NUM_MEASURED = 64  # samples that the scale of a new model's latents is measured on


def train_model(config: TrainRunConfig, *, on_metrics: OnMetrics | None = None) -> Path | None:
    """Trains a model as `config` says, or goes on with that, and returns its folder; None if the run stopped early.

    A run that came to its end before is left as it is. What was written is loaded again and restores a picture before
    a run counts as finished. Under torchrun every process calls this.

    Args:
        config: the run.
        on_metrics: see `xpsr.training.train`.

    Raises:
        InputError: settings that do not go together, or not with this machine, model or pictures.
        ModelError: the model to start from cannot be loaded, or not with these settings.
        MissingDependencyError: a package that the config asks for is not installed.
        TrainingError: no pictures, a checkpoint of another run, a loss that is not finite, a full disk, another run at
            work in the same folder, or a model that does not restore.
    """
    model = config.train.output_dir / "model"
    if is_finished(config):
        return model
    try:
        device = resolve_device(config.train.device)
    except InputError as error:
        raise error.within("train") from error
    dataset = build_dataset(config.data, seed=config.train.seed)
    components, config = prepare_components(config, dataset)
    build_pipeline(components, config).settings()  # what it refuses is better known now than at the end
    complete = train(
        config,
        components,
        export=lambda parts, folder: export_model(parts, folder, config),
        validate=Validation(config) if config.validation.every else None,
        device=device,
        dataset=dataset,
        on_metrics=on_metrics,
    )
    if not complete:
        return None
    if is_main_process():
        check_model(model, config, dataset)
    return model


def is_main_process() -> bool:
    """Returns whether this is the process that writes: the first of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def prepare_components(config: TrainRunConfig, dataset: Dataset[Sample]) -> tuple[Components, TrainRunConfig]:
    """Loads or builds what is trained; returns it and the config with what a model folder says of itself.

    Raises:
        ModelError: the model to start from cannot be loaded.
        InputError: the config does not go with it, or a vocabulary that cannot be read.
    """
    model, fusion = config.model, not config.ablate.semantic_fusion
    if model.path is not None:
        pipe = XPSRPipeline.from_pretrained(model.path)
        # a folder that has not learned the one step takes what the config says of it, where this run teaches it
        if pipe.config.one_step_timestep is not None or not config.loss.one_step_fraction:
            model = dataclasses.replace(
                model,
                one_step_timestep=pipe.config.one_step_timestep,
                one_step_residual=(
                    pipe.config.one_step_residual if model.one_step_residual is None else model.one_step_residual
                ),
                settings=Settings(**pipe.config.settings),
            )
            config = dataclasses.replace(config, model=model)
        components = Components(**{f.name: getattr(pipe, f.name) for f in dataclasses.fields(Components)})
        components = with_schedule(components, model)
        return (components if fusion else without_fusion(components)), config
    if not config.loss.one_step_fraction:
        config = dataclasses.replace(config, model=dataclasses.replace(model, one_step_timestep=None))
    torch.manual_seed(config.train.seed)
    if model.base is not None:
        return build_from_base(model, semantic_fusion=fusion), config
    pixels = torch.stack([dataset[index].hr for index in range(_NUM_MEASURED)]).float() / 255
    return build_components(model, pixels, semantic_fusion=fusion), config


def build_pipeline(components: Components, config: TrainRunConfig) -> XPSRPipeline:
    """Returns a pipeline of the components that by default does what the run teaches them.

    Raises:
        ModelError: settings that no pipeline can have.
    """
    model, loss = config.model, config.loss
    if loss.one_step_fraction and loss.one_step_start == "noised":
        # to a pipeline this is the last of several steps, not its one step, which starts from the picture as it is
        assert model.one_step_timestep is not None
        strength = model.one_step_timestep / components.scheduler.config.num_train_timesteps
        settings = dataclasses.replace(model.settings, num_inference_steps=1, strength=strength, num_shifts=1)
        model = dataclasses.replace(model, one_step_timestep=None, settings=settings)
    return XPSRPipeline(
        **{f.name: getattr(components, f.name) for f in dataclasses.fields(components)},
        one_step_timestep=model.one_step_timestep,
        one_step_residual=model.is_residual,
        one_step_only=model.one_step_timestep is not None and loss.one_step_fraction == 1,
        scale=float(config.data.scale),
        settings=dataclasses.asdict(model.settings),
    )


def export_model(components: Components, folder: Path, config: TrainRunConfig) -> None:
    """Writes a model folder of float16 weights and a card, whole or not at all; a former one is replaced.

    Raises:
        TrainingError: it cannot be written, as on a full disk; what was there is as it was.
    """
    components = _halved(components)
    new, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        build_pipeline(components, config).save_pretrained(new)
        (new / "README.md").write_text(_card(config), encoding="utf-8")
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise TrainingError(
            f"{folder}: cannot be written: {one_line(error)[:200]}; what was there is as it was",
            code="not_written",
            remedy="check its disk and permissions",
        ) from error
    if folder.exists():
        folder.replace(old)  # a folder that is not empty cannot be replaced in one go
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _halved(components: Components) -> Components:
    """Returns a copy in float16 and on the CPU, since the training device may have no room for one."""

    def halved(weight: torch.Tensor) -> torch.Tensor:
        half = weight.detach().to("cpu", torch.float16 if weight.is_floating_point() else weight.dtype, copy=True)
        return torch.nn.Parameter(half) if isinstance(weight, torch.nn.Parameter) else half

    parts = (components.vae, components.text_encoder, components.unet, components.controlnet)
    # deepcopy takes what the memo holds for a copy
    memo = {id(weight): halved(weight) for part in parts for weight in (*part.parameters(), *part.buffers())}
    return copy.deepcopy(components, memo)


def _card(config: TrainRunConfig) -> str:
    """Returns a model card with what the run knows of itself."""
    loss = config.effective_loss
    judge = (
        f"The loss looked at features of {' and '.join(loss.feature_weights)}; distances in them flatter this model, so"
        " never judge it by them alone."
        if loss.feature_weights
        else "No metric was trained on."
    )
    judge += " Pictures of a teacher took part." if loss.teacher_weight else ""
    adversary = " An adversary took part." if loss.adversarial_weight else ""
    taken = [name for name, value in dataclasses.asdict(config.ablate).items() if value]
    ablated = f"An ablation without: {', '.join(taken)}.\n\n" if taken else ""
    content = json.dumps(as_dict(config), indent=2)
    return (
        "---\nlibrary_name: diffusers\npipeline_tag: image-to-image\n---\n\n# A model of xpsr\n\n"
        f"Written by `xpsr train`, xpsr {__version__}. {judge}{adversary}\n\n{ablated}"
        f"Load it with `XPSRPipeline.from_pretrained`. The run:\n\n```json\n{content}\n```\n"
    )


def check_model(folder: Path, config: TrainRunConfig, dataset: Dataset[Sample]) -> None:
    """Loads what was written and restores one training crop; a model that cannot is moved to `FOLDER.failed`.

    Raises:
        TrainingError: it does not restore. Without its folder the run is not finished.
    """
    try:
        pipe = XPSRPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        lr = dataset[0].lr.float() / 255
        steps = min(pipe.settings().num_inference_steps, 2)  # enough to see that it runs
        generator = torch.Generator().manual_seed(0)
        restored = pipe(
            lr, prior=Prior(), scale=config.data.scale, num_inference_steps=steps, generator=generator
        ).images[0]
    except Exception as error:
        failed = folder.with_name(f"{folder.name}.failed")
        shutil.rmtree(failed, ignore_errors=True)
        folder.rename(failed)
        raise TrainingError(
            f"the model that was written does not restore: {one_line(error)}; the checkpoint is as it was",
            code="model_failed",
            remedy=f"look at {failed}, or start the run again to write another",
        ) from error
    logger.info("checked: %s loads and restores a crop of %d x %d", folder, *restored.size)


class Validation:
    """Restores the pictures of `config.validation.hr_dir` with a model in training, writes and scores them.

    Raises:
        InputError: a picture, or a prior, that would end the run at its first validation.
    """

    def __init__(self, config: TrainRunConfig):
        validation = config.validation
        assert validation.hr_dir is not None
        self.config, self.pictures = config, list_images(validation.hr_dir)[: validation.max_pictures]
        for alike in by_stem(self.pictures).values():
            if alike[1:]:
                message = f"holds {alike[0].name} and {alike[1].name}, whose results would have one name"
                raise fault(config, "validation.hr_dir", message, "rename one of them")
        self.degraded: dict[str, Path] = {}
        if validation.lr_dir is not None:
            degraded = by_stem(list_images(validation.lr_dir))
            missing = [path.name for path in self.pictures if path.stem not in degraded]
            if missing:
                more = f" and {len(missing) - 1} more" if missing[1:] else ""
                remedy = "add it under the same name, or use null to reduce the clean pictures"
                raise fault(config, "validation.lr_dir", f"has no picture for {missing[0]}{more}", remedy)
            self.degraded = {p.stem: partner(p, degraded[p.stem], validation.lr_dir) for p in self.pictures}
        self.priors = [Prior() for _ in self.pictures]
        if validation.priors is not None:
            sources = [self.degraded.get(path.stem, path) for path in self.pictures]
            self.priors = FileDescriber(validation.priors).describe(sources)
        self._check_pictures()

    def _check_pictures(self) -> None:
        validation, scale, scored = self.config.validation, self.config.data.scale, set[str]()
        for path in self.pictures:
            hr, lr = self._pair(path)
            height, width = (side // scale for side in hr.shape[-2:])
            if lr.shape[-2:] != (height, width):
                raise InputError(
                    f"{self.degraded[path.stem]}: {lr.shape[-1]} x {lr.shape[-2]}; for {path.name} it should be"
                    f" {width} x {height}",
                    code="wrong_size",
                    remedy=f"reduce {path.name} {scale} times",
                )
            if min(height, width) * scale < MIN_SIDE:
                raise InputError(
                    f"{path}: {hr.shape[-1]} x {hr.shape[-2]}; validation needs at least {MIN_SIDE} x {MIN_SIDE}"
                    " pixels",
                    code="too_small",
                    remedy="use a larger picture",
                )
            if validation.best_by not in scored:
                scored |= score(hr, hr).keys()
        if validation.best_by not in scored:
            message = f"cannot be: no picture of {validation.hr_dir} has enough for it"
            raise fault(self.config, "validation.best_by", message, "use larger pictures, or psnr_y")

    def _pair(self, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads a clean picture, its sides cut to multiples of the scale, and the degraded one: (3, H, W) in [0, 1]."""
        hr, scale = read_image(path).pixels, self.config.data.scale
        height, width = (side // scale for side in hr.shape[-2:])
        hr = hr[..., : height * scale, : width * scale]
        degraded = self.degraded.get(path.stem)
        lr = resize(hr[None], (height, width))[0] if degraded is None else read_image(degraded).pixels
        return hr, lr

    def __call__(self, components: Components, folder: Path) -> Mapping[str, float]:
        """Restores every picture to `folder` and returns the means of their scores."""
        pipe = build_pipeline(components, self.config)
        pipe.set_progress_bar_config(disable=True)
        folder.mkdir(parents=True, exist_ok=True)
        ablate, rows = self.config.ablate, []
        for path, prior in zip(self.pictures, self.priors, strict=True):
            hr, lr = self._pair(path)
            prior = dataclasses.replace(
                prior,
                content="" if ablate.content else prior.content,
                quality="" if ablate.quality else prior.quality,
            )
            generator = torch.Generator().manual_seed(0)
            images = pipe(lr, scale=self.config.data.scale, prior=prior, generator=generator, output_type="pt").images
            restored = images[0].float().cpu()
            write_image(folder / f"{path.stem}.png", to_pil(restored))
            rows.append(score(restored, hr))
        return mean_scores(rows)
