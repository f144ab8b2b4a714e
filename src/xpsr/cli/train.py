"""`xpsr train`."""

import dataclasses
import json
import logging
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpsr.cli.terminal import Parser, complain, hush
from xpsr.config import ModelConfig, Settings, TrainRunConfig, load_config

if TYPE_CHECKING:
    from xpsr.training import Components

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Trains a model and returns the exit code."""
    parser = Parser(
        prog="xpsr train",
        usage="xpsr train CONFIG.yaml [--SECTION.KEY=VALUE ...]",
        description="Trains a model as CONFIG.yaml says and writes it to train.output_dir/model. The same command\n"
        "goes on after an interruption. Exit code 3: stopped early, with a checkpoint to go on from.",
        epilog="\n".join(_options()),
    )
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, help="configs/ holds some to start from")
    parser.add_argument("--debug", action="store_true", default=False, help="show where errors come from")
    args, overrides = parser.parse_known_args(arguments)
    config = load_config(TrainRunConfig, args.config, overrides)

    import torch

    from xpsr.batch import resolve_device
    from xpsr.data import build_dataset
    from xpsr.pipeline import XPSRPipeline
    from xpsr.training import Components, build_components, train

    if not args.debug:
        hush()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("xpsr").setLevel(logging.INFO)
    device = resolve_device(config.train.device)
    if config.model.path is not None:
        pipe = XPSRPipeline.from_pretrained(config.model.path)
        learned = {"one_step_timestep": pipe.config.one_step_timestep, "settings": Settings(**pipe.config.settings)}
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **learned))
        components = Components(**{f.name: getattr(pipe, f.name) for f in dataclasses.fields(Components)})
    else:
        torch.manual_seed(config.train.seed)
        crops = build_dataset(config.data, seed=config.train.seed)
        pixels = torch.stack([crops[index].hr for index in range(64)]).float() / 255
        components = build_components(config.model, pixels)
    for part in (components.vae, components.text_encoder, components.unet, components.controlnet):
        part.to(device)
    complete = train(
        config, components, export=lambda parts, folder: _export(parts, folder, config.model), device=device
    )
    if not complete:
        complain(f"stopped early; the same command goes on from {config.train.output_dir / 'checkpoint.pt'}.")
        return 3
    print(config.train.output_dir / "model")
    return 0


def _options() -> Iterator[str]:
    yield "options, with their defaults (python -m pydoc xpsr.config says more):"
    for section in dataclasses.fields(TrainRunConfig):
        kind: Any = section.type
        yield f"\n  {section.name}: {(kind.__doc__ or '').splitlines()[0]}"
        for f in dataclasses.fields(kind):
            nested = dataclasses.is_dataclass(f.default)
            value = (
                "..., keys of DegradationConfig"
                if nested
                else f"={json.dumps(f.default, default=str)}".replace('"', "")
            )
            yield textwrap.indent(f"--{section.name}.{f.name}{value}", "    ")


def _export(components: "Components", folder: Path, config: ModelConfig) -> None:
    """Writes a model folder of float16 weights, whole or not at all; a former one is replaced."""
    import copy

    from xpsr.pipeline import XPSRPipeline

    components = copy.deepcopy(components)
    for part in (components.vae, components.text_encoder, components.unet, components.controlnet):
        part.half()
    pipe = XPSRPipeline(
        **{f.name: getattr(components, f.name) for f in dataclasses.fields(components)},
        one_step_timestep=config.one_step_timestep,
        settings=dataclasses.asdict(config.settings),
    )
    new, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    pipe.save_pretrained(new)
    if folder.exists():
        folder.replace(old)  # a folder that is not empty cannot be replaced in one go
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
