"""A model's networks written as ONNX, in a complete model folder."""

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xpsr import __version__
from xpsr.engines.manifest import FOLDER, LIMITS, Graph, Manifest, error_of, require, tile_name
from xpsr.engines.networks import INPUTS, example_inputs, networks_of
from xpsr.engines.opening import open_onnx
from xpsr.errors import InputError, XPSRError, brief
from xpsr.files import refuse_used, sha256, whole_folder
from xpsr.model_files import checksums, fetch_model
from xpsr.pipeline import XPSRPipeline

__all__ = ["export_engine_model"]

logger = logging.getLogger(__name__)

_OPSET = 18
_MOST_TOKENS = 2**16
_MOST_LATENTS = 2**18  # of a side that is decoded; no result has sides as long


def export_engine_model(
    model: str | os.PathLike[str], out: Path, *, tiles: Sequence[tuple[int, int]] | None = None
) -> Manifest:
    """Writes a copy of a model's folder that holds its networks as ONNX, too, whole or not at all.

    `out/engines/onnx` gets an image encoder and a denoiser for each size, a decoder for all where the autoencoder is a
    `DeepHaarAutoencoder`, and `manifest.json`. Everything is float32.

    Args:
        model: "mini", a model's folder, or its name on the hub.
        out: the new folder; it must not exist, or be empty.
        tiles: (height, width) of the latents that denoisers are made for; None: the model's own `tile_size`, squared.

    Raises:
        InputError: there is no such model, `out` is in use, or a tile does not fit the model.
        MissingDependencyError: what exports is not installed.
        ModelError: the model cannot be loaded.
        XPSRError: the networks cannot be exported, or what was exported gives other numbers.
    """
    require("export")
    refuse_used(out)
    source = fetch_model(model)
    pipe = XPSRPipeline.from_pretrained(source)
    sizes = [(pipe.settings().tile_size,) * 2] if tiles is None else list(dict.fromkeys(tiles))
    multiple = 2 ** (len(pipe.unet.config.block_out_channels) - 1)  # each level of the UNet halves them
    for size in sizes:
        if any(side < multiple or side % multiple for side in size):
            message = f"does not fit the model, whose tiles have sides of a multiple of {multiple} latent pixels"
            nearest = tuple(max(round(side / multiple), 1) * multiple for side in size)
            remedy = f"use {tile_name(nearest)}"
            raise InputError(message, code="out_of_range", field="tile", value=tile_name(size), remedy=remedy)
    with whole_folder(out) as part:
        shutil.copytree(source, part, ignore=shutil.ignore_patterns("engines"), dirs_exist_ok=True)
        folder = part / FOLDER
        folder.mkdir(parents=True)
        graphs: dict[str, Graph] = {}
        for name, network in networks_of(pipe).items():
            for tile in [None] if name == "decoder" else sizes:
                file = f"{name}.onnx" if tile is None else f"{name}_{tile_name(tile)}.onnx"
                logger.info("Exporting %s; this takes minutes.", file)
                graphs[file] = _write(network, name, tile, example_inputs(pipe, name, tile), folder / file)
        versions = {package: version(package) for package in ("torch", "diffusers", "onnx", "onnxscript")}
        manifest = Manifest(
            graphs=graphs, weights=checksums(part), opset=_OPSET, versions={"xpsr": __version__, **versions}
        )
        manifest.write(folder)
    return manifest


def _write(
    network: nn.Module, part: str, tile: tuple[int, int] | None, inputs: dict[str, torch.Tensor], path: Path
) -> Graph:
    """Writes one graph and compares what it gives with what the network does."""
    dim = torch.export.Dim
    shapes: dict[str, Any] = dict.fromkeys(INPUTS[part])
    for name in {"content", "quality"} & shapes.keys():
        shapes[name] = {1: dim(f"{name}_tokens", min=2, max=_MOST_TOKENS)}
    if tile is None:
        shapes["latents"] = {2: dim("height", min=2, max=_MOST_LATENTS), 3: dim("width", min=2, max=_MOST_LATENTS)}
    with torch.no_grad(), _quiet():
        try:
            program = torch.export.export(network, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
            exported = torch.onnx.export(
                program,
                (),
                input_names=list(inputs),
                output_names=["output"],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # whatever the exporter meets in a network that it does not know
            message = f"the {part} cannot be exported: {brief(error)}"
            raise XPSRError(message, code="not_exported", remedy="use it with engine torch") from error
        assert exported is not None
        exported.save(path)
        expected = network(**inputs)
    difference = error_of(open_onnx(path)(inputs), expected)
    if not difference <= LIMITS["fp32"]:
        message = f"the exported {part} differs from torch by {difference:.2g}, more than {LIMITS['fp32']:g}"
        raise XPSRError(message, code="not_exported", remedy="use the model with engine torch")
    return Graph(part=part, tile=tile, sha256=sha256(path), error=difference)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which warns of its own parts."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
