"""`xpsr train`."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from xpsr.cli.terminal import Parser, complain, hush
from xpsr.config import Settings, TrainRunConfig, as_dict, load_config
from xpsr.errors import InputError, one_line

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

    from xpsr.data import Sample
    from xpsr.pipeline import XPSRPipeline
    from xpsr.training import Components

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Trains a model and returns the exit code."""
    parser = Parser(
        prog="xpsr train",
        usage="xpsr train CONFIG.yaml [--SECTION.KEY=VALUE ...] [--dry-run]\n       xpsr train --plot RUN_DIR",
        description="Trains a model as CONFIG.yaml says and writes it to train.output_dir/model. The same command\n"
        "goes on after an interruption. Exit code 3: stopped early, with a checkpoint to go on from.\n"
        "Several processes: torchrun --nproc-per-node N -m xpsr train CONFIG.yaml ...",
        epilog="\n".join(_options()),
    )
    parser.add_argument(
        "config", metavar="CONFIG.yaml", type=Path, nargs="?", default=None, help="configs/ holds some to start from"
    )
    parser.add_argument(
        "--dry-run", action="store_true", default=False, help="train nothing; say what it would take, without weights"
    )
    parser.add_argument("--plot", metavar="RUN_DIR", type=Path, help="draw a run's metrics as RUN_DIR/curves.svg")
    parser.add_argument("--debug", action="store_true", default=False, help="show where errors come from")
    args, overrides = parser.parse_known_args(arguments)
    if "plot" in args:
        if args.config is not None or overrides:
            raise InputError("--plot RUN_DIR stands alone; leave the config out.")
        from xpsr.training import plot_metrics

        print(plot_metrics(args.plot))
        return 0
    if args.config is None:
        raise InputError("the following arguments are required: CONFIG.yaml; see xpsr train --help.")
    config = load_config(TrainRunConfig, args.config, overrides)
    main_process = os.environ.get("RANK", "0") == "0"  # as torchrun sets it

    from xpsr.data import build_dataset
    from xpsr.devices import resolve_device
    from xpsr.training import is_finished, train

    if not args.debug:
        hush()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("xpsr").setLevel(logging.INFO if main_process else logging.ERROR)
    if args.dry_run:
        from xpsr.training import plan_run

        print(plan_run(config), end="")
        return 0
    model = config.train.output_dir / "model"
    if is_finished(config):
        if main_process:
            complain(
                f"{config.train.output_dir}: this run was finished before; train.resume=never or another"
                " train.output_dir starts a new one."
            )
    else:
        device = resolve_device(config.train.device)
        dataset = build_dataset(config.data, seed=config.train.seed)
        components, config = _components(config, dataset)
        _pipeline(components, config).settings()  # what it refuses is better known now than at the end
        with contextlib.redirect_stdout(sys.stderr):  # some trackers print
            complete = train(
                config,
                components,
                export=lambda parts, folder: _export(parts, folder, config),
                validate=_Validation(config) if config.validation.every else None,
                device=device,
                dataset=dataset,
            )
        if not complete:
            if main_process:
                complain(f"stopped early; the same command goes on from {config.train.output_dir / 'checkpoint.pt'}.")
            return 3
        if main_process:
            _check(model, config, dataset)
    if main_process:
        print(model)
    return 0


def _options() -> Iterator[str]:
    yield "options, with their defaults; null is none, and a list is written [a, b]:"
    for section in dataclasses.fields(TrainRunConfig):
        kind: Any = section.type
        yield f"\n  {section.name}: {(kind.__doc__ or '').splitlines()[0]}"
        yield from _explained(kind(), f"{section.name}.")


def _explained(config: Any, prefix: str) -> Iterator[str]:
    """The options of a section with defaults and explanations, and those of the sections in it."""
    nested = []
    for f in dataclasses.fields(config):
        value, explanation = getattr(config, f.name), f.metadata["help"]
        if dataclasses.is_dataclass(value):
            nested.append((f"{prefix}{f.name}.", value, explanation))
            continue
        shown = json.dumps(value, default=str, ensure_ascii=False).replace('"', "")
        yield f"    --{prefix}{f.name}={shown}"
        choices = list(_choices(f.type))
        text = f"{explanation} One of: {', '.join(choices)}." if choices else explanation
        yield textwrap.fill(text, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    for name, value, explanation in nested:
        yield f"\n    {name.rstrip('.')}: {explanation}"
        yield from _explained(value, name)


def _choices(kind: Any) -> Iterator[str]:
    for arg in get_args(kind):
        yield from (arg,) if isinstance(arg, str) else _choices(arg)


def _components(config: TrainRunConfig, dataset: "Dataset[Sample]") -> tuple["Components", TrainRunConfig]:
    """What is trained, and the config with what a model folder says of itself."""
    import torch

    from xpsr.pipeline import XPSRPipeline
    from xpsr.training import Components, build_components, build_from_base, with_schedule, without_fusion

    model, fusion = config.model, not config.ablate.semantic_fusion
    if model.path is not None:
        pipe = XPSRPipeline.from_pretrained(model.path)
        # a folder that has not learned the one step takes what the config says of it, where this run teaches it
        if pipe.config.one_step_timestep is not None or not config.loss.one_step_fraction:
            learned = {"one_step_timestep": pipe.config.one_step_timestep, "settings": Settings(**pipe.config.settings)}
            config = dataclasses.replace(config, model=dataclasses.replace(model, **learned))
        components = Components(**{f.name: getattr(pipe, f.name) for f in dataclasses.fields(Components)})
        components = with_schedule(components, model)
        return (components if fusion else without_fusion(components)), config
    if not config.loss.one_step_fraction:
        config = dataclasses.replace(config, model=dataclasses.replace(model, one_step_timestep=None))
    torch.manual_seed(config.train.seed)
    if model.base is not None:
        return build_from_base(model, semantic_fusion=fusion), config
    pixels = torch.stack([dataset[index].hr for index in range(64)]).float() / 255
    return build_components(model, pixels, semantic_fusion=fusion), config


def _pipeline(components: "Components", config: TrainRunConfig) -> "XPSRPipeline":
    from xpsr.pipeline import XPSRPipeline

    model = config.model
    if config.loss.one_step_fraction and config.loss.one_step_start == "noised":
        # to a pipeline this is the last of several steps, not its one step, which starts from the picture as it is
        assert model.one_step_timestep is not None
        strength = model.one_step_timestep / components.scheduler.config.num_train_timesteps
        settings = dataclasses.replace(model.settings, num_inference_steps=1, strength=strength, num_shifts=1)
        model = dataclasses.replace(model, one_step_timestep=None, settings=settings)
    return XPSRPipeline(
        **{f.name: getattr(components, f.name) for f in dataclasses.fields(components)},
        one_step_timestep=model.one_step_timestep,
        settings=dataclasses.asdict(model.settings),
    )


def _export(components: "Components", folder: Path, config: TrainRunConfig) -> None:
    """Writes a model folder of float16 weights, whole or not at all; a former one is replaced."""
    from safetensors import SafetensorError

    from xpsr.errors import TrainingError

    components = _halved(components)
    new, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _pipeline(components, config).save_pretrained(new)
        (new / "README.md").write_text(_card(config), encoding="utf-8")
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        reason = one_line(error)[:200]
        raise TrainingError(f"{folder}: cannot be written: {reason}; what was there is as it was.") from error
    if folder.exists():
        folder.replace(old)  # a folder that is not empty cannot be replaced in one go
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _halved(components: "Components") -> "Components":
    """A copy in float16 and on the CPU, since the training device may have no room for one."""
    import copy

    import torch

    def halved(weight: torch.Tensor) -> torch.Tensor:
        half = weight.detach().to("cpu", torch.float16 if weight.is_floating_point() else weight.dtype, copy=True)
        return torch.nn.Parameter(half) if isinstance(weight, torch.nn.Parameter) else half

    parts = (components.vae, components.text_encoder, components.unet, components.controlnet)
    # deepcopy takes what the memo holds for a copy
    memo = {id(weight): halved(weight) for part in parts for weight in (*part.parameters(), *part.buffers())}
    return copy.deepcopy(components, memo)


def _card(config: TrainRunConfig) -> str:
    """A model card with what the run knows of itself."""
    from xpsr import __version__

    loss = config.effective_loss
    judge = (
        f"The feature loss looked through the network `{loss.feature_network}`; distances in its features flatter this"
        " model, so never judge it by them alone."
        if loss.feature_weight
        else "No metric was trained on."
    )
    adversary = " An adversary (PatchGAN) took part." if loss.adversarial_weight else ""
    taken = [name for name, value in dataclasses.asdict(config.ablate).items() if value]
    ablated = f"An ablation without: {', '.join(taken)}.\n\n" if taken else ""
    content = json.dumps(as_dict(config), indent=2)
    return (
        "---\nlibrary_name: diffusers\npipeline_tag: image-to-image\n---\n\n# A model of xpsr\n\n"
        f"Written by `xpsr train`, xpsr {__version__}. {judge}{adversary}\n\n{ablated}"
        f"Load it with `XPSRPipeline.from_pretrained`. The run:\n\n```json\n{content}\n```\n"
    )


def _check(model: Path, config: TrainRunConfig, dataset: "Dataset[Sample]") -> None:
    """Loads what was written and restores one training crop; with a model that cannot, the run is not finished."""
    import torch

    from xpsr.pipeline import XPSRPipeline

    try:
        pipe = XPSRPipeline.from_pretrained(model)
        pipe.set_progress_bar_config(disable=True)
        lr = dataset[0].lr.float() / 255
        steps = min(pipe.settings().num_inference_steps, 2)  # enough to see that it runs
        generator = torch.Generator().manual_seed(0)
        restored = pipe(lr, scale=config.data.scale, num_inference_steps=steps, generator=generator).images[0]
    except Exception:
        failed = model.with_name("model.failed")
        shutil.rmtree(failed, ignore_errors=True)
        complain(f"the model does not restore; it lies in {model.rename(failed)}, and the checkpoint is as it was.")
        raise
    logging.getLogger("xpsr").info("checked: %s loads and restores a crop of %d x %d", model, *restored.size)


class _Validation:
    """Restores pictures with a model in training, writes them to a folder and scores them."""

    def __init__(self, config: TrainRunConfig):
        from xpsr.files import list_images
        from xpsr.prior import FileDescriber, Prior

        validation = config.validation
        assert validation.hr_dir is not None
        self.config, self.pictures = config, list_images(validation.hr_dir)[: validation.max_pictures]
        self.degraded: dict[str, Path] = {}
        if validation.lr_dir is not None:
            self.degraded = {path.stem: path for path in list_images(validation.lr_dir)}
            missing = [path.name for path in self.pictures if path.stem not in self.degraded]
            if missing:
                raise InputError(f"{validation.lr_dir}: no picture for {missing[0]} and {len(missing) - 1} more.")
        self.priors = [Prior() for _ in self.pictures]
        if validation.priors is not None:
            sources = [self.degraded.get(path.stem, path) for path in self.pictures]
            self.priors = FileDescriber(validation.priors).describe(sources)
        self._check_pictures()

    def _check_pictures(self) -> None:
        """Refuses now what would end the run at its first validation."""
        from xpsr.evaluation import MIN_SIDE, score

        validation, scored = self.config.validation, set[str]()
        for path in self.pictures:
            hr, lr = self._pair(path)
            height, width = (side // self.config.data.scale for side in hr.shape[-2:])
            if lr.shape[-2:] != (height, width):
                raise InputError(
                    f"{self.degraded[path.stem]}: {lr.shape[-1]} x {lr.shape[-2]}; for {path.name} it should be"
                    f" {width} x {height}."
                )
            if min(height, width) * self.config.data.scale < MIN_SIDE:
                raise InputError(f"{path}: validation needs at least {MIN_SIDE} x {MIN_SIDE} pixels.")
            if validation.best_by not in scored:
                scored |= score(hr, hr).keys()
        if validation.best_by not in scored:
            raise InputError(
                f"validation.best_by={validation.best_by}: no picture of {validation.hr_dir} has enough for it."
            )

    def _pair(self, path: Path) -> tuple["torch.Tensor", "torch.Tensor"]:
        """A clean picture, its sides cut to multiples of the scale, and the degraded one, both (3, H, W) in [0, 1]."""
        from xpsr.image import read_image, resize

        hr, scale = read_image(path).pixels, self.config.data.scale
        height, width = (side // scale for side in hr.shape[-2:])
        hr = hr[..., : height * scale, : width * scale]
        degraded = self.degraded.get(path.stem)
        lr = resize(hr[None], (height, width))[0] if degraded is None else read_image(degraded).pixels
        return hr, lr

    def __call__(self, components: "Components", folder: Path) -> Mapping[str, float]:
        """Means of the scores over the pictures."""
        import torch

        from xpsr.evaluation import mean_scores, score
        from xpsr.image import to_pil, write_image

        pipe = _pipeline(components, self.config)
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
