"""`xpsr convert`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from xpsr.cli.terminal import Parser, answer, parse, quiet_libraries
from xpsr.errors import InputError

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Converts a checkpoint and returns the exit code."""
    parser = Parser(
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
    args = parse(parser, arguments)
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

    from xpsr.convert import convert_reference, convert_to_reference
    from xpsr.devices import torch_dtype

    if not args.debug:
        quiet_libraries()
    logging.getLogger("xpsr").setLevel(logging.WARNING if args.quiet else logging.INFO)
    dtype = torch_dtype(args.dtype) if "dtype" in given else None
    if args.reverse:
        convert_to_reference(args.source, args.output, dtype=dtype)
    else:
        convert_reference(Path(args.source), args.output, dtype=dtype, **{name: given[name] for name in options})
    answer(args.output)
    return 0
