"""`xpsr upscale`."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from xpsr.cli.terminal import (
    DESCRIBERS,
    Parser,
    complain,
    explain,
    loading,
    parse,
    pictures_in,
    print_traceback,
    quiet_libraries,
    sayings,
)
from xpsr.config import PRESETS, UpscaleConfig, load_config
from xpsr.errors import InputError

__all__ = ["run"]


def _upscale_parser() -> Parser:
    default = UpscaleConfig()
    parser = Parser(
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
    add(
        "--priors",
        type=Path,
        metavar="PATH",
        help="texts written before: .jsonl, sidecar, folder of them or of the authors' .txt prompts",
    )
    add("--describer", metavar="NAME", help=f"none, a .jsonl, {DESCRIBERS}")
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
        help="grids to average the one step over, 1, 2 or 4 for the mini; 1 is fastest, more hide the grid (default:"
        " the model's)",
    )
    add("--seed", type=int, metavar="S", help="the same for every picture (default: a random one for each)")
    add("--color-match", choices=("none", "adain", "wavelet"), help="to the input (default: the model's)")
    add("--min-working-size", type=int, metavar="N", help="pixels of the smaller side while the model works; 0: any")
    add("--min-size", dest="min_working_size", type=int, help=argparse.SUPPRESS)  # its former name
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


def run(arguments: Sequence[str]) -> int:
    """Restores pictures and returns the exit code."""
    args = parse(_upscale_parser(), arguments)
    if not vars(args).get("inputs"):
        raise InputError("no INPUT; name pictures or folders, as in: xpsr upscale photo.jpg.")
    base = load_config(UpscaleConfig, args.config) if "config" in args else UpscaleConfig()
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(base) if f.name in args}
    config = dataclasses.replace(base, **given)
    if "describer" in args and config.priors is not None:
        raise InputError(f"--describer {config.describer} does nothing beside priors ({config.priors}); leave one out.")
    out = args.output if "output" in args else Path("outputs")
    if out.is_file():
        raise InputError(f"-o names a folder; {out} is a file.")

    with loading():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from xpsr.batch import restore_file
        from xpsr.devices import resolve_device, resolve_dtype
        from xpsr.files import name_targets
        from xpsr.prior import QUESTIONS, PriorFile, PriorLookup
        from xpsr.restore import Restorer

    device = resolve_device(config.device)
    resolve_dtype(config.dtype, device)
    failures = 0

    def fail(source: Path, error: Exception) -> None:
        nonlocal failures
        failures += 1
        message = explain(error)
        message = message if message.startswith(str(source)) else f"{source}: {message}"
        if args.debug:
            print_traceback()
        complain(message)
        if args.json:
            facts = {name: getattr(error, name, None) for name in ("code", "field", "value", "remedy")}
            told = {name: value for name, value in facts.items() if value is not None}
            print(json.dumps({"input": str(source), "error": message, **told}), flush=True)

    sources = pictures_in(args.inputs, fail)
    if not sources:
        return 1

    if not args.debug:
        quiet_libraries()
    prior_of = PriorLookup(
        config.describer,
        priors=config.priors,
        content=config.content,
        quality=config.quality,
        questions=QUESTIONS[config.preset or "default"],
        device=str(device),
    )
    prior_of.describe_ahead(sources, PriorFile(out / "priors.jsonl"))
    with loading():
        restorer = Restorer(config.model, device=str(device), dtype=config.dtype)
    restorer.pipe.settings(config.preset, config.overrides)  # what this model cannot do is known before any picture
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder ({error.strerror}); choose another with -o.") from error

    hidden = args.quiet or not sys.stderr.isatty()
    alone = len(sources) == 1  # then the pipeline's bar over tiles and steps tells more than one over pictures
    restorer.pipe.set_progress_bar_config(disable=hidden or not alone, leave=False)
    columns = (TextColumn("restoring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        disable=hidden or alone,
        redirect_stdout=sys.stdout.isatty(),  # or rich would move results from a file or a pipe to stderr
    ) as progress:
        targets = name_targets(sources, out, scale=config.scale)
        for source, target in progress.track(list(zip(sources, targets, strict=True))):
            try:
                sidecar = restore_file(restorer, source, target, prior_of(source), config)
            except Exception as error:  # every picture is tried; the exit code tells
                fail(source, error)
                continue
            if args.json:
                print(json.dumps({**sidecar, "output": str(target)}), flush=True)
            elif not args.quiet:
                width, height = sidecar["output_size"]
                print(f"{target}  {width} x {height}  {sidecar['seconds']:.1f} s", flush=True)
                if any(sidecar["prior"].values()):
                    print(*sayings(sidecar["prior"]), sep="\n", end="", file=sys.stderr, flush=True)
    return 1 if failures else 0
