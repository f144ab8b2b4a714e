"""`xpsr serve`."""

import dataclasses
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xpsr.cli.options import add_computing, add_restoration, add_writing
from xpsr.cli.terminal import DESCRIBERS, Parser, answer, complain, parse
from xpsr.config import ServeConfig, Size, UpscaleConfig, load_config
from xpsr.errors import MissingDependencyError

__all__ = ["run"]

_LIBRARIES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""How the server's libraries are imported, and installed."""


def run(arguments: Sequence[str]) -> int:
    """Serves until a signal ends it, and returns the exit code."""
    args = parse(_parser(), arguments)
    config = _config(vars(args))
    missing = [name for module, name in _LIBRARIES.items() if find_spec(module) is None]
    if missing:
        message = f"the server needs {' and '.join(missing)}"
        raise MissingDependencyError(message, remedy=f"run `pip install {' '.join(missing)}`")
    from xpsr.web.app import serve
    from xpsr.web.door import is_loopback

    def announce(line: str) -> None:
        answer(line)
        if config.token_file is None and not is_loopback(config.host):
            complain(f"whoever reaches {config.host} may use the server; --token-file asks them for a token.")

    requests = logging.getLogger("xpsr.web.access")
    level = requests.level
    requests.setLevel(logging.WARNING if args.quiet else logging.INFO)
    try:
        serve(config, announce=announce)
    finally:
        requests.setLevel(level)
    return 0


def _parser() -> Parser:
    default = ServeConfig()
    parser = Parser(
        prog="xpsr serve",
        usage="xpsr serve [options]",
        description="Restores photographs that others send by HTTP, from a page in their browsers or by programs.\n"
        "/openapi.json says what programs can ask for; /metrics is for Prometheus.\n"
        "Ctrl-C or SIGTERM: what is in hand is finished and can be fetched; once more ends it at once.\n"
        "Exit code 130: Ctrl-C.",
    )
    add = parser.add_argument_group("where").add_argument
    add(
        "--host",
        metavar="ADDRESS",
        help=f"to listen at; 0.0.0.0 is all of this machine's, for whoever reaches them (default: {default.host})",
    )
    add("--port", type=int, metavar="N", help=f"0: any that is free (default: {default.port})")
    add(
        "--allowed-host",
        dest="allowed_hosts",
        metavar="NAME",
        action="append",
        help="name under which the server is reached, such as photos.example.com; several are fine (default: those of"
        " this machine for 127.0.0.1, any for others)",
    )
    add(
        "--forwarded-allow-ips",
        metavar="ADDRESS",
        action="append",
        help="of a proxy, or its network, whose X-Forwarded-For says who a client is; several are fine",
    )
    add("--no-page", dest="page", action="store_false", help="for programs alone, without a page for people")
    add = parser.add_argument_group("whom").add_argument
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="of tokens of 16 letters or more, one a line, of which a request needs one; read again when it changes",
    )
    add(
        "--max-per-client",
        type=int,
        metavar="N",
        help="requests of a client, or holder of a token, that wait or are worked on"
        f" (default: {default.max_per_client})",
    )
    add(
        "--max-queue",
        type=int,
        metavar="N",
        help=f"of all clients; more are told when to come again (default: {default.max_queue})",
    )
    add = parser.add_argument_group("how much").add_argument
    add("--max-bytes", type=int, metavar="N", help=f"of a picture's file (default: {default.max_bytes})")
    add("--max-pixels", type=int, metavar="N", help=f"of a picture (default: {default.max_pixels}, 4096 x 4096)")
    add("--max-output-pixels", type=int, metavar="N", help=f"of a result (default: {default.max_output_pixels})")
    add(
        "--max-seconds",
        type=float,
        metavar="S",
        help=f"of work on a picture (default: {default.max_seconds:g})",
    )
    add(
        "--wait-seconds",
        type=float,
        metavar="S",
        help=f"from an upload's beginning to when its work begins (default: {default.wait_seconds:g})",
    )
    add("--upload-seconds", type=float, metavar="S", help=f"for an upload (default: {default.upload_seconds:g})")
    add("--keep-seconds", type=float, metavar="S", help=f"that results are kept (default: {default.keep_seconds:g})")
    add(
        "--drain-seconds",
        type=float,
        metavar="S",
        help="for what is in hand when the server is to end, and for its results to be fetched"
        f" (default: {default.drain_seconds:g})",
    )
    add("--spool", type=Path, metavar="FOLDER", help="of uploads and results while they are kept (default: temporary)")
    group = parser.add_argument_group("models and machine")
    add = group.add_argument
    add(
        "--model",
        dest="models",
        metavar="[NAME=]MODEL",
        action="append",
        help="bundled name, folder, or owner/name on the hub, and what clients call it; several are fine, the first is"
        f" the default (default: {default.models[0]})",
    )
    add(
        "--describer",
        dest="describers",
        metavar="[NAME=]DESCRIBER",
        action="append",
        help=f"likewise; {DESCRIBERS}",
    )
    add(
        "--device",
        dest="devices",
        metavar="DEVICE",
        action="append",
        help="auto, cuda, cuda:1, mps or cpu; several are fine, each works on a picture of its own (default: auto)",
    )
    add_computing(group)
    add_restoration(parser, of_pictures=False)
    add_writing(parser.add_argument_group("results"))
    add = parser.add_argument_group("running").add_argument
    add("--config", type=Path, metavar="FILE", help="YAML; options given here go before it")
    add("--quiet", action="store_true", default=False, help="no line for each request on stderr")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    return parser


def _config(given: dict[str, Any]) -> ServeConfig:
    """What a file says, and what is given on the command line."""
    base = load_config(ServeConfig, given["config"]) if "config" in given else ServeConfig()
    names = {f.name for f in dataclasses.fields(ServeConfig)}
    own: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in names
    }
    restoration = {f.name: given[f.name] for f in dataclasses.fields(UpscaleConfig) if f.name in given.keys() - names}
    sizes = {f.name for f in dataclasses.fields(Size)}
    if sizes & restoration.keys():  # instead of whichever the file names
        restoration = dict.fromkeys(sizes) | restoration
    return dataclasses.replace(base, **own, upscale=dataclasses.replace(base.upscale, **restoration))
