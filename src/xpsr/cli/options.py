"""Options that several commands share: how a picture is restored, by what, and how results are written."""

import argparse
from pathlib import Path
from typing import get_args

from xpsr.cli.terminal import DESCRIBERS, Parser
from xpsr.config import PRESETS, UpscaleConfig
from xpsr.sources import ResultFormat

__all__ = ["add_computing", "add_machine", "add_reading", "add_restoration", "add_signing", "add_writing"]


def add_writing(group: "argparse._ArgumentGroup") -> None:
    """Adds how results are written, and how large they become."""
    add = group.add_argument
    add(
        "--format",
        choices=get_args(ResultFormat),
        help="of results (default: the picture's own, or png where that cannot be written)",
    )
    add("--file-quality", type=int, metavar="N", help="1 to 100, of lossy formats (default: 95 for jpg, webp lossless)")
    add(
        "--keep-cmyk",
        action="store_true",
        help="CMYK pictures with a profile stay CMYK in jpg and tiff (default: sRGB)",
    )
    add("--strip-gps", action="store_true", help="leave out where a picture was taken")
    add("--strip-metadata", action="store_true", help="leave out EXIF, XMP and IPTC; the colour profile stays")
    add(
        "--no-provenance",
        dest="provenance",
        action="store_false",
        help="do not write into results that xpsr made them, with which model and seed",
    )
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--scale",
        type=float,
        metavar="X",
        help="how much larger; 2.5 is fine too (default: 4, or 2 or 1 where a result would have above 67 megapixels)",
    )
    add("--size", metavar="WxH", help="or so many pixels, as 3000x2000")
    add("--longest", type=int, metavar="N", help="or so many on the longer side")
    add("--shortest", type=int, metavar="N", help="or on the shorter one")
    add("--megapixels", type=float, metavar="M", help="or so many millions of them")


def add_signing(group: "argparse._ArgumentGroup") -> None:
    """Adds by whom results are signed."""
    group.add_argument(
        "--c2pa",
        nargs=2,
        type=Path,
        metavar=("CERTIFICATES", "KEY"),
        help="sign what results tell, as Content Credentials: PEM files of the signer's certificates and private key",
    )


def add_reading(parser: Parser) -> None:
    """Adds what is refused, or read all the same."""
    add = parser.add_argument_group("what is read").add_argument
    add("--max-pixels", type=int, metavar="N", help="of a picture; more are refused (default: 67108864, 8192 x 8192)")
    add("--max-bytes", type=int, metavar="N", help="of a file; more are refused (default: 536870912)")
    add("--accept-truncated", action="store_true", help="read a file that ends too early as far as it goes")


def add_restoration(
    parser: Parser,
    *,
    seed: str = "the same for every picture (default: a random one for each)",
    protect: str = "auto|MASK",
    of_pictures: bool = True,
) -> "argparse._ArgumentGroup":
    """Adds how pictures are restored, and returns the group of options on fidelity.

    `seed` is what help says of seeds, `protect` what may be protected: "auto", or a mask, too. Without `of_pictures`,
    what is of certain pictures is left out: seed, protection and texts.
    """
    fidelity = parser.add_argument_group("fidelity")
    add = fidelity.add_argument
    add(
        "--fidelity",
        type=float,
        metavar="F",
        help="0 paints what looks best, 1 what is nearest to the picture (default: the model's)",
    )
    add(
        "--grain",
        type=float,
        metavar="G",
        help="noise in fine detail, as a share of it, 0 to 1 (default: the model's)",
    )
    if of_pictures:
        add(
            "--protect",
            metavar=protect,
            help="take the plain enlargement where a result contradicts its picture (auto)"
            + (", or where a mask is white" if "MASK" in protect else ""),
        )
    add(
        "--lr-consistency",
        action="store_true",
        help="correct results until, reduced, they are their pictures again; for clean ones, as noise comes back, too",
    )
    add = parser.add_argument_group("restoration").add_argument
    if of_pictures:
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
        "--scheduler",
        choices=("model", "ddpm", "ddim", "unipc", "dpm"),
        help="of several steps; unipc and dpm (DPM-Solver++) need fewest (default: the model's)",
    )
    add(
        "--guidance-scale",
        type=float,
        metavar="G",
        help="weight of the texts; above 1 is slower (default: the model's)",
    )
    add(
        "--guidance-interval",
        nargs=2,
        type=float,
        metavar=("FROM", "TO"),
        help="fractions of the steps between which texts are so followed; others take half the time (default: 0 1)",
    )
    add(
        "--cache-interval",
        type=int,
        metavar="N",
        help="compute the deep levels of the networks in every Nth step alone; faster, and less exact (default: 1)",
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
    if of_pictures:
        add("--seed", type=int, metavar="S", help=seed)
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
    add("--reserve-suffix", action="store_true", help=argparse.SUPPRESS)  # of commands that `xpsr.web.commands` writes
    return fidelity


def add_machine(parser: Parser) -> None:
    """Adds which model restores, where and in what numbers."""
    default = UpscaleConfig()
    group = parser.add_argument_group("model and machine")
    group.add_argument("--model", help=f"bundled name, folder, or owner/name on the hub (default: {default.model})")
    group.add_argument("--device", help=f"auto, cuda, cuda:1, mps or cpu (default: {default.device})")
    add_computing(group)


def add_computing(group: "argparse._ArgumentGroup") -> None:
    """Adds in what numbers a model computes, and in how much memory."""
    default, add = UpscaleConfig(), group.add_argument
    add("--dtype", choices=("auto", "fp32", "bf16", "fp16"), help=f"number type (default: {default.dtype})")
    add(
        "--engine",
        choices=("torch", "openvino", "onnx"),
        help=f"what computes; all but torch: on the CPU, a --model that xpsr export wrote (default: {default.engine})",
    )
    add(
        "--weights-dtype",
        choices=("auto", "fp32", "bf16", "fp16", "fp8"),
        help="in which weights lie in memory; bf16 and fp16 halve it and fp8 quarters it, a little slower (default: as"
        " --dtype)",
    )
    add("--offload", choices=("none", "model", "group"), help="of a graphics card: keep networks, or layers, in RAM")
    add("--compile", action="store_true", help="compile the networks first; for many pictures, or a large one")
    add(
        "--memory",
        metavar="4GB",
        help="that it may take; smaller parts of a picture are made at once, or it is refused (default: what is free)",
    )
    add("--tile-size", type=int, metavar="N", help="in latent pixels; less takes less memory (default: the model's)")
    add("--tile-overlap", type=int, metavar="N", help="in latent pixels (default: the model's)")
