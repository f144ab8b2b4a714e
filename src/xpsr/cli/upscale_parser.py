"""The options of `xpsr upscale`."""

from pathlib import Path

from xpsr.cli.options import add_machine, add_reading, add_restoration, add_signing, add_writing
from xpsr.cli.terminal import Parser
from xpsr.config import UpscaleConfig

__all__ = ["upscale_parser"]


def upscale_parser() -> Parser:
    """Returns a parser whose names are those of `UpscaleConfig`'s fields; what is not given is not there."""
    default = UpscaleConfig()
    parser = Parser(
        prog="xpsr upscale",
        usage="xpsr upscale INPUT [INPUT ...] [-o OUT] [options]",
        description="Restores and enlarges photographs. Each becomes OUT/NAME_x4 in the format that it has, with all\n"
        "settings beside it in OUT/NAME_x4.json; NAME is that of the picture, with its suffix where another picture\n"
        "in its folder has the same without. No input is ever replaced, and nothing that xpsr has not made, unless\n"
        "you say so. The same command again restores what is new or was changed. What is not given is the model's own\n"
        "default.",
    )
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="*", help="pictures, folders of pictures, - for standard input"
    )
    parser.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        default=False,
        help="search the folders in folders, too; OUT gets the same folders",
    )
    parser.add_argument(
        "--sequence",
        action="store_true",
        default=False,
        help="INPUT is a folder of the frames of a video: a shot gets one pair of texts, all frames the same noise, and"
        " what stands still does not flicker",
    )
    group = parser.add_argument_group("result")
    add = group.add_argument
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="folder, made if missing (default: outputs), where a model's texts are kept in priors.jsonl, too; of one"
        " picture also FILE.png, or - for standard output",
    )
    add(
        "--on-existing",
        choices=("update", "skip", "overwrite", "error"),
        help="what is there already: update passes over what is done, makes again what is of a changed picture or of"
        f" other settings and refuses to replace anything else; error refuses it all (default: {default.on_existing})",
    )
    add_writing(group)
    add_signing(group)
    fidelity = add_restoration(parser)
    fidelity.add_argument(
        "--map",
        metavar="PLACE",
        help="folder of pictures of what was invented, named as the results; of one picture also FILE.png",
    )
    add_reading(parser)
    add_machine(parser)
    add = parser.add_argument_group("running").add_argument
    add(
        "--dry-run",
        action="store_true",
        default=False,
        help="say what would be made, how, in how much memory and about how long, and make nothing",
    )
    add("--config", type=Path, metavar="FILE", help="YAML of settings; options given here go before it")
    add("--json", action="store_true", default=False, help="one JSON object a picture on stdout")
    add("--quiet", action="store_true", default=False, help="neither progress nor result lines")
    add("--debug", action="store_true", default=False, help="show where errors come from")
    return parser
