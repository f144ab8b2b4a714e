"""`xpsr export`."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from xpsr.cli.terminal import Parser, answer, parse, quiet_libraries
from xpsr.errors import InputError

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Exports a model and returns the exit code."""
    parser = Parser(
        prog="xpsr export",
        usage="xpsr export MODEL -o DIR [options]",
        description="Writes a copy of a model that holds its networks as ONNX, too, for onnxruntime and OpenVINO on\n"
        "the CPU, and compares them with torch; it takes minutes. DIR is then what they run:\n\n"
        "  xpsr upscale photo.jpg --model DIR --engine openvino",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="bundled name, folder, or owner/name on the hub")
    add("-o", "--output", metavar="DIR", type=Path, help="new folder")
    add(
        "--tile",
        metavar="WxH",
        action="append",
        help="size of latents that is exported, in latent pixels; may be given again (default: the model's tile size)",
    )
    add("--quiet", action="store_true", default=False, help="no progress lines")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    args = parse(parser, arguments)
    given = vars(args)
    if given.get("model") is None:
        raise InputError("nothing to export; name a model, as in: xpsr export mini -o DIR.")
    if "output" not in given:
        raise InputError("no DIR; name a new folder with -o DIR.")
    tiles = [_tile(text) for text in args.tile] if "tile" in given else None

    from xpsr.engines import export_engine_model

    if not args.debug:
        quiet_libraries()
    logging.getLogger("xpsr").setLevel(logging.WARNING if args.quiet else logging.INFO)
    export_engine_model(args.model, args.output, tiles=tiles)
    answer(args.output)
    return 0


def _tile(text: str) -> tuple[int, int]:
    """Height and width of a text like 128x96, which is WIDTHxHEIGHT."""
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if found is None:
        message, remedy = "is not WIDTHxHEIGHT in latent pixels", "use 128x128, for example"
        raise InputError(message, code="wrong_type", field="tile", value=text, remedy=remedy)
    return int(found[2]), int(found[1])
