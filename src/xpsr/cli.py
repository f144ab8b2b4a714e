"""The command line: `xpsr upscale`, `xpsr describe`, `xpsr train`, `xpsr convert` and `xpsr doctor`.

Results go to stdout, progress and complaints to stderr. torch is imported only when a command runs, so help is instant.
Exit codes: 0 all is well, 1 something failed, 2 a wrong option, 3 training stopped before its end, 130 Ctrl-C.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xpsr import __version__
from xpsr.config import PRESETS, ModelConfig, Settings, TrainRunConfig, UpscaleConfig, load_config, suggest
from xpsr.errors import InputError, XPSRError

if TYPE_CHECKING:
    from xpsr.training import Components

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, by default that of `sys.argv`, and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--debug" not in arguments:
        # diffusers imports torchao where it is installed, and both complain of devices that are not there
        for name in ("torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        _complain("interrupted.")
        return 130
    except BrokenPipeError:  # whoever read the results has gone, as in `xpsr upscale ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 1
    except Exception as error:
        if "--debug" in arguments:
            _print_traceback()
        _complain(_explain(error))
        return 2 if isinstance(error, InputError) else 1


def _run(arguments: list[str]) -> int:
    commands = {"upscale": _upscale, "describe": _describe, "train": _train, "convert": _convert, "doctor": _doctor}
    parser = _Parser(
        prog="xpsr",
        usage="xpsr [-h] [--version] COMMAND ...",
        description="Restores and enlarges photographs by diffusion that reads what is in them and what is wrong.",
        epilog="commands:\n"
        "  upscale     restore and enlarge photographs\n"
        "  describe    write what is in pictures and what is wrong with them\n"
        "  train       train a model, or go on with one\n"
        "  convert     make a model of a checkpoint of the authors' code, or the reverse\n"
        "  doctor      say what is installed, which devices are there and whether the models are whole\n\n"
        "first steps:\n"
        "  xpsr upscale photo.jpg\n"
        "  xpsr upscale --help\n",
    )
    parser.add_argument("--version", action="version", version=f"xpsr {__version__}")
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    name, *rest = arguments
    if name in commands:
        return commands[name](rest)
    if not name.startswith("-"):
        nearest = suggest(name, list(commands)).replace("'", "") or f"; there are: {', '.join(commands)}."
        raise InputError(f"unknown command {name}{nearest}")
    _parse(parser, arguments[:1])  # help and version end here
    raise InputError(f"a command comes first, one of: {', '.join(commands)}.")


class _Parser(argparse.ArgumentParser):
    """Leaves options that are not given out of the result, takes no abbreviations and raises `InputError`."""

    def __init__(self, *, prog: str, usage: str, description: str, epilog: str | None = None):
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Replaces upstream's usage text and exit."""
        raise InputError(f"{message}; see {self.prog} --help.")


def _parse(parser: _Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Options and positionals in any order; an unknown option is refused with the nearest known one."""
    args, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        option = unknown[0].partition("=")[0]
        nearest = suggest(option, re.findall(r"--[\w-]+", parser.format_help())).replace("'", "")
        raise InputError(f"unknown option {option}{nearest or f'; see {parser.prog} --help.'}")
    return args


_DESCRIBERS = "mini, none, http://HOST/v1#MODEL, a model's folder or owner/name (default: mini)"


def _upscale_parser() -> _Parser:
    default = UpscaleConfig()
    parser = _Parser(
        prog="xpsr upscale",
        usage="xpsr upscale INPUT [INPUT ...] [-o OUT] [options]",
        description="Restores and enlarges photographs. Each becomes OUT/NAME_x4.png, with all settings beside it in\n"
        "OUT/NAME_x4.json. Results of earlier runs are replaced, inputs never. What is not given is the\n"
        "model's own default.",
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="*", type=Path, help="pictures, or folders of pictures")
    add = parser.add_argument_group("result").add_argument
    add("-o", "--output", metavar="OUT", type=Path, help="folder, made if missing (default: outputs)")
    add("--scale", type=float, metavar="X", help=f"how much larger; 2.5 is fine too (default: {default.scale:g})")
    add = parser.add_argument_group("restoration").add_argument
    add("--content", metavar="TEXT", help="what is in the pictures (default: what the describer says)")
    add("--quality", metavar="TEXT", help="what is wrong with them (default: what the describer says)")
    add("--priors", type=Path, metavar="PATH", help="texts written before: a JSONL, a sidecar or a folder of sidecars")
    add("--describer", metavar="NAME", help=_DESCRIBERS)
    add("--preset", choices=tuple(PRESETS), help="settings that go before the model's own")
    add("--steps", dest="num_inference_steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    add(
        "--guidance-scale",
        type=float,
        metavar="G",
        help="weight of the texts; above 1 is slower (default: the model's)",
    )
    add("--strength", type=float, metavar="S", help="where to start, 1 is pure noise (default: the model's)")
    add(
        "--shifts",
        dest="num_shifts",
        type=int,
        metavar="N",
        help="grids to average the one step over; 1 is fastest, more hide the grid (default: the model's)",
    )
    add("--seed", type=int, metavar="S", help="the same for every picture (default: a random one for each)")
    add("--color-match", choices=("none", "adain", "wavelet"), help="to the input (default: the model's)")
    add("--min-size", type=int, metavar="N", help="pixels that the smaller side has while the model works; 0: any")
    add("--content-suffix", metavar="TEXT", help="said after every content text")
    add("--negative-content", metavar="TEXT", help="what guidance leads away from, in content")
    add("--negative-quality", metavar="TEXT", help="and in quality")
    add("--conditioning-scale", dest="controlnet_conditioning_scale", type=float, metavar="X", help="of the ControlNet")
    add("--start", choices=("lr", "noise"), help="from the noised input, or (strength 1) from noise alone")
    add = parser.add_argument_group("the authors' ways, all of them in --preset reference").add_argument
    add("--fit", choices=("pad", "stretch"), help="to the model's multiple of pixels (default: pad)")
    add("--added-noise-level", type=int, metavar="T", help="noise the input once more, at this timestep (default: not)")
    add("--offset-noise-scale", type=float, metavar="X", help="noise that a channel shares, with --start noise")
    add("--tile-weights", choices=("symmetric", "reference"), help="how tiles are laid and blended")
    add("--long-texts", choices=("chunk", "cut"), help="what the text encoder has no places for (default: chunk)")
    add("--no-reserve-suffix", dest="reserve_suffix", action="store_false", help="let long texts push the suffix out")
    add = parser.add_argument_group("model and machine").add_argument
    add("--model", help=f"bundled name, folder, or owner/name on the hub (default: {default.model})")
    add("--device", help=f"auto, cuda, cuda:1, mps or cpu (default: {default.device})")
    add("--dtype", choices=("auto", "fp32", "bf16", "fp16"), help=f"number type (default: {default.dtype})")
    add("--tile-size", type=int, metavar="N", help="in latent pixels; less takes less memory (default: the model's)")
    add("--tile-overlap", type=int, metavar="N", help="in latent pixels (default: the model's)")
    add = parser.add_argument_group("running").add_argument
    add("--config", type=Path, metavar="FILE", help="YAML of settings; options given here go before it")
    add("--json", action="store_true", default=False, help="one JSON object a picture on stdout")
    add("--quiet", action="store_true", default=False, help="neither progress nor result lines")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    return parser


def _upscale(arguments: Sequence[str]) -> int:
    args = _parse(_upscale_parser(), arguments)
    if not vars(args).get("inputs"):
        raise InputError("no INPUT; name pictures or folders, as in: xpsr upscale photo.jpg.")
    base = load_config(UpscaleConfig, args.config) if "config" in args else UpscaleConfig()
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(base) if f.name in args}
    config = dataclasses.replace(base, **given)
    out = args.output if "output" in args else Path("outputs")

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from xpsr.batch import Restorer, name_targets, open_eyes, real_path, resolve_device, resolve_dtype
    from xpsr.image import list_images

    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    failures = 0

    def fail(source: Path, error: Exception) -> None:
        nonlocal failures
        failures += 1
        message = _explain(error)
        message = message if message.startswith(str(source)) else f"{source}: {message}"
        if args.debug:
            _print_traceback()
        _complain(message)
        if args.json:
            print(json.dumps({"input": str(source), "error": message}), flush=True)

    sources: dict[Path, Path] = {}  # by where they really are: what is named twice is restored once
    for path in args.inputs:
        try:
            for source in list_images(path):
                sources.setdefault(real_path(source), source)
        except InputError as error:
            fail(path, error)
    if not sources:
        return 1

    if not args.debug:
        _hush()
    prior_of = open_eyes(config, list(sources.values()), out / "priors.jsonl", device=device)
    restore = Restorer(config, device=device, dtype=dtype)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder ({error.strerror}); choose another with -o.") from error

    hidden = args.quiet or not sys.stderr.isatty()
    alone = len(sources) == 1  # then the pipeline's bar over tiles and steps tells more than one over pictures
    restore.pipe.set_progress_bar_config(disable=hidden or not alone, leave=False)
    columns = (TextColumn("restoring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        disable=hidden or alone,
        redirect_stdout=sys.stdout.isatty(),  # or rich would move results from a file or a pipe to stderr
    ) as progress:
        targets = name_targets(list(sources.values()), out, scale=config.scale)
        for source, target in progress.track(list(zip(sources.values(), targets, strict=True))):
            try:
                sidecar = restore(source, target, prior_of(source))
            except Exception as error:  # every picture is tried; the exit code tells
                fail(source, error)
                continue
            if args.json:
                print(json.dumps({**sidecar, "output": str(target)}), flush=True)
            elif not args.quiet:
                width, height = sidecar["output_size"]
                print(f"{target}  {width} x {height}  {sidecar['seconds']:.1f} s", flush=True)
                if any(sidecar["prior"].values()):
                    print(*_sayings(sidecar["prior"]), sep="\n", end="", file=sys.stderr, flush=True)
    return 1 if failures else 0


def _sayings(prior: dict[str, Any]) -> Iterator[str]:
    """Lines of both texts."""
    for name in ("content", "quality"):
        yield f"    {name + ':':9}{prior[name] or '(nothing)'}"
    yield ""


def _describe(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="xpsr describe",
        usage="xpsr describe INPUT [INPUT ...] [-o priors.jsonl] [options]",
        description="Looks at pictures and writes what is in them and what is wrong with them, a JSON object a line.\n"
        "What the file holds already is not asked again. Edit it and give it to xpsr upscale --priors.",
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="*", type=Path, help="pictures, or folders of pictures")
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", type=Path, default=Path("priors.jsonl"), help="default: priors.jsonl")
    add("--pairs", metavar="DIR", type=Path, help="training pairs instead: content of DIR/hr, quality of DIR/lr")
    add("--refresh", action="store_true", default=False, help="ask again about every picture")
    add("--describer", metavar="NAME", default="mini", help=_DESCRIBERS.replace("none, ", ""))
    add("--quality-model", metavar="NAME", help="another model for the second question")
    add("--preset", choices=tuple(PRESETS), default="default", help="whose questions: paper is the default's")
    add("--content-question", metavar="TEXT", help="instead of the preset's")
    add("--quality-question", metavar="TEXT", help="instead of the preset's")
    add("--content-view", choices=("whole", "crops"), help="what a model is shown: the picture, or parts unscaled")
    add("--quality-view", choices=("whole", "crops"), help="(default: crops, because shrinking hides what is wrong)")
    add("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu (default: auto)")
    add("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="number type of a model")
    add("--quantization", choices=("none", "int8", "int4"), default="none", help="of a model, to save memory")
    add("--revision", help="of a model on the hub")
    add("--quiet", action="store_true", default=False, help="only the file's name at the end")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    args = _parse(parser, arguments)
    given = vars(args)
    if ("pairs" in given) == bool(given.get("inputs")):
        raise InputError("name pictures or folders, or else --pairs DIR; as in: xpsr describe photos/.")

    from xpsr.image import list_images
    from xpsr.prior import QUESTIONS, PriorFile, describe_files, open_describer
    from xpsr.prior.mini import MiniDescriber

    if not args.debug:
        _hush()
    changes = {name: given[key] for name in ("content", "quality") if (key := f"{name}_question") in given}
    changes |= {name: given[name] for name in ("content_view", "quality_view") if name in given}
    questions = dataclasses.replace(QUESTIONS[args.preset], **changes)
    failures = 0

    def fail(path: Path, error: Exception) -> None:
        nonlocal failures
        failures += 1
        message = _explain(error)
        _complain(message if message.startswith(str(path)) else f"{path}: {message}")

    images: list[Path] = []
    for path in [args.pairs / "lr"] if "pairs" in given else args.inputs:
        try:
            images += [image for image in list_images(path) if image not in images]
        except InputError as error:
            fail(path, error)
    if not images:
        return 1
    of_models = {"quality_model", "quantization", "revision", "dtype", "device"}
    if args.describer == "mini":
        describer: Any = MiniDescriber.bundled()
    else:
        is_server = args.describer.lower().startswith(("http://", "https://"))
        options = {} if is_server else {name: given[name] for name in of_models if name in given}
        describer = open_describer(args.describer, questions=questions, **options)

    def clean(image: Path) -> Path | None:
        candidate = args.pairs / "hr" / image.name
        return candidate if candidate.is_file() else None

    seen = describe_files(
        describer,
        images,
        PriorFile(args.output),
        content_from=clean if "pairs" in given else None,
        refresh=args.refresh,
        on_error=fail,
    )
    for image, prior in seen:
        if not args.quiet:
            print(image, *_sayings(prior.as_dict()), sep="\n", end="", file=sys.stderr, flush=True)
    print(args.output)
    return 1 if failures else 0


def _train(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="xpsr train",
        usage="xpsr train CONFIG.yaml [--SECTION.KEY=VALUE ...]",
        description="Trains a model as CONFIG.yaml says and writes it to train.output_dir/model. The same command\n"
        "goes on after an interruption. Exit code 3: stopped early, with a checkpoint to go on from.",
        epilog="\n".join(_train_options()),
    )
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, help="configs/ holds some to start from")
    parser.add_argument("--debug", action="store_true", default=False, help="show where errors come from")
    args, overrides = parser.parse_known_args(arguments)
    config = load_config(TrainRunConfig, args.config, overrides)

    import torch

    from xpsr.batch import resolve_device
    from xpsr.data import CropDataset
    from xpsr.pipeline import XPSRPipeline
    from xpsr.training import Components, build_components, train

    if not args.debug:
        _hush()
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
        crops = CropDataset(config.data, seed=config.train.seed)
        pixels = torch.stack([crops[index].hr for index in range(64)]).float() / 255
        components = build_components(config.model, pixels)
    for part in (components.vae, components.text_encoder, components.unet, components.controlnet):
        part.to(device)
    complete = train(
        config, components, export=lambda parts, folder: _export(parts, folder, config.model), device=device
    )
    if not complete:
        _complain(f"stopped early; the same command goes on from {config.train.output_dir / 'checkpoint.pt'}.")
        return 3
    print(config.train.output_dir / "model")
    return 0


def _train_options() -> Iterator[str]:
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


def _convert(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="xpsr convert",
        usage="xpsr convert REFERENCE --base BASE -o OUT [options]\n"
        "       xpsr convert MODEL --reverse -o OUT [options]",
        description="Makes a model of a checkpoint of the authors' code and the Stable Diffusion that it was trained\n"
        "on, or writes a model's networks as the authors' code reads them. Tensors are not changed.",
    )
    parser.add_argument(
        "source",
        metavar="REFERENCE",
        nargs="?",
        help="folder with unet/ and controlnet/; with --reverse a model: bundled name, folder, or owner/name",
    )
    add = parser.add_argument
    add("-o", "--output", metavar="OUT", type=Path, help="new folder")
    add("--base", metavar="BASE", help="Stable Diffusion: folder, .safetensors or .ckpt file, or owner/name on the hub")
    add("--tokenizer", metavar="DIR", type=Path, help="CLIP's tokenizer, for a base in one file, which has none")
    add("--config", metavar="DIR", type=Path, help="vae/config.json, ..., for a base in one file of unusual sizes")
    add("--dtype", choices=("fp32", "fp16", "bf16"), help="of the weights (default: as they are stored)")
    add("--max-shard-size", metavar="SIZE", help="of a file of weights (default: 2GB)")
    add("--reverse", action="store_true", default=False, help="from a model to the authors' layout")
    add("--quiet", action="store_true", default=False, help="no progress lines")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    args = _parse(parser, arguments)
    given = vars(args)
    if given.get("source") is None:
        raise InputError("nothing to convert; name a folder, as in: xpsr convert REFERENCE --base BASE -o OUT.")
    if "output" not in given:
        raise InputError("no OUT; name a new folder with -o OUT.")
    options = [name for name in ("base", "tokenizer", "config", "max_shard_size") if name in given]
    if args.reverse and options:
        raise InputError(f"--{options[0].replace('_', '-')} means nothing with --reverse; leave it out.")
    if not args.reverse and "base" not in given:
        raise InputError("no --base; name the Stable Diffusion that the checkpoint was trained on, usually 1.5.")

    import torch

    from xpsr.convert import convert_reference, convert_to_reference

    if not args.debug:
        _hush()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("xpsr").setLevel(logging.WARNING if args.quiet else logging.INFO)
    names = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = names[args.dtype] if "dtype" in given else None
    if args.reverse:
        convert_to_reference(args.source, args.output, dtype=dtype)
    else:
        convert_reference(Path(args.source), args.output, dtype=dtype, **{name: given[name] for name in options})
    print(args.output)
    return 0


def _doctor(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="xpsr doctor",
        usage="xpsr doctor [--json]",
        description="Says what is installed, which number types are fast on which device, and whether the bundled\n"
        "models are whole. Exit code 1: something is broken.",
    )
    parser.add_argument("--json", action="store_true", default=False, help="as JSON")
    parser.add_argument("--debug", action="store_true", default=False, help="show where errors come from")
    args = _parse(parser, arguments)
    facts = _examine()
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        rows = {
            "versions": {name: version or "missing" for name, version in facts["versions"].items()},
            f"devices ({facts['threads']} threads)": {
                name: f"fast: {', '.join(device['fast_dtypes'])}; auto: {device['auto_dtype']}"
                for name, device in facts["devices"].items()
            },
            "models": {
                name: "\n    ".join(
                    [model["state"], *(f"{sha256}  {file}" for file, sha256 in model["sha256"].items())]
                )
                for name, model in facts["models"].items()
            },
            "extras": {
                name: f"missing {', '.join(extra['missing'])}: {extra['install']}" if extra["missing"] else "installed"
                for name, extra in facts["extras"].items()
            },
        }
        for title, entries in rows.items():
            print(title, *(f"  {name:24} {entry}" for name, entry in entries.items()), sep="\n")
        for problem in facts["problems"]:
            _complain(problem)
    return 1 if facts["problems"] else 0


def _examine() -> dict[str, Any]:
    """Everything that `doctor` says. Nothing found broken may stop it."""
    import importlib.metadata

    core: list[str] = []
    extras: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("xpsr") or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", requirement)
        (extras.setdefault(extra[1], []) if extra else core).append(name)
    versions = _versions("xpsr", *core)
    problems = [f"{name} is missing; run: pip install {name}" for name in core if versions[name] is None]
    facts: dict[str, Any] = {
        "versions": {"python": platform.python_version(), "platform": platform.platform(), **versions},
        "threads": 0,
        "devices": {},
        "models": {},
        "extras": {
            name: {
                "missing": [package for package, version in _versions(*packages).items() if version is None],
                "install": f"pip install 'xpsr[{name}]'",
            }
            for name, packages in extras.items()
            if name != "dev"
        },
        "problems": problems,
    }
    try:
        import torch

        _hush()
        from xpsr.batch import devices, fast_dtypes, resolve_dtype
        from xpsr.checkpoint import bundled_models, checksums
    except Exception as error:  # whatever a library that does not fit raises
        # Beside a CPU-only torch the usual torchvision breaks transformers
        remedy = "pip uninstall torchvision" if _versions("torchvision")["torchvision"] else "pip install xpsr"
        problems.append(f"the libraries cannot be imported ({type(error).__name__}: {_one_line(error)}); run: {remedy}")
        return facts
    facts["threads"] = torch.get_num_threads()
    for name in devices():
        device = torch.device(name)
        facts["devices"][name] = {"fast_dtypes": fast_dtypes(device), "auto_dtype": resolve_dtype("auto", device)}
    for name, folder in bundled_models().items():
        found, expected = checksums(folder), folder / "checksums.json"
        same = expected.is_file() and json.loads(expected.read_text(encoding="utf-8")) == found
        state = "ok" if same else "differs" if expected.is_file() else "no checksums.json"
        facts["models"][name] = {"state": state, "sha256": found}
        if state == "differs":
            problems.append(f"{folder}: the weights are not those of checksums.json; install xpsr again.")
    if "mini" not in facts["models"]:
        problems.append("the bundled model mini is missing; install xpsr again, or give upscale another --model.")
    return facts


def _versions(*packages: str) -> dict[str, str | None]:
    import importlib.metadata

    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _hush() -> None:
    """Silences what diffusers and transformers say of their own accord; what matters is raised."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _explain(error: Exception) -> str:
    """One line: what is wrong and what to do."""
    text = _one_line(error)
    if isinstance(error, XPSRError):
        return text
    # torch raises RuntimeError on most devices, of a subclass only on some
    if isinstance(error, MemoryError) or re.search("out of memory|not enough memory|can't allocate memory", text):
        return "the memory does not suffice; use a smaller --tile-size, --scale or picture."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions."
    return f"unexpected {type(error).__name__}: {text}; run again with --debug to see where."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _complain(message: str) -> None:
    print(f"xpsr: {message}", file=sys.stderr, flush=True)
