"""Exported networks in torch's place in a pipeline: `use_engine`."""

import copy
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from xpsr.caches import keep, kept
from xpsr.config.checks import check_argument
from xpsr.devices import Dtype, processor_name, resolve_device, resolve_dtype
from xpsr.engines.manifest import FOLDER, LIMITS, Graph, error_of, read_manifest, require, tile_name
from xpsr.engines.networks import example_inputs, networks_of
from xpsr.engines.opening import Engine, Run, open_onnx, open_openvino
from xpsr.errors import InputError, ModelError, XPSRError, brief
from xpsr.model_files import damaged
from xpsr.models import DeepHaarAutoencoder, Denoiser, DenoiserCache, XPSRControlNet, XPSRUNet, joined, streamed
from xpsr.pipeline import XPSRPipeline

__all__ = ["ExportedAutoencoder", "ExportedDenoiser", "check_engine", "resolve_place", "use_engine"]

_STRIP_LATENTS = 2**17
"""Latent pixels that a decoder is given at once, beside those of its halo: it takes about 3 kB for each."""

Tile = tuple[int, int]


class ExportedDenoiser(Denoiser):
    """A `Denoiser` whose networks an engine computes, for latents of the sizes that were exported.

    Under guidance the graph is called once for each row of texts.

    Args:
        controlnet, unet: the networks that were exported.
        image_encoders, denoisers: the graphs by the size (height, width) of their latents.
    """

    def __init__(
        self,
        controlnet: XPSRControlNet,
        unet: XPSRUNet,
        *,
        image_encoders: Mapping[Tile, Run],
        denoisers: Mapping[Tile, Run],
    ):
        super().__init__(controlnet, unet)
        self._image_encoders, self._denoisers = dict(image_encoders), dict(denoisers)

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        pixels: torch.Tensor,
        content: torch.Tensor,
        quality: torch.Tensor,
        image_features: torch.Tensor | None,
        conditioning_scale: float,
        cache: DenoiserCache | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Denoiser`'s, of float32 tensors on the CPU.

        Raises:
            InputError: there is no graph for latents of this size, or there is a cache, which no graph fills.
        """
        if cache is not None:
            message = "is above 1, and exported networks keep nothing from step to step"
            raise InputError(message, code="conflict", field="cache_interval", remedy="use 1 or engine torch")
        size = (latents.shape[-2], latents.shape[-1])
        if size not in self._denoisers:
            message = f"latents of {tile_name(size)} have no exported network, but {_listed(self._denoisers)}"
            remedy = f"restore a picture of another size, use engine torch, or export it: --tile {tile_name(size)}"
            raise InputError(message, code="wrong_size", remedy=remedy)
        if image_features is None:
            image_features = torch.cat([self._image_encoders[size]({"pixels": row[None]}) for row in pixels])
        shared = {"timestep": timestep.float(), "conditioning_scale": torch.tensor(float(conditioning_scale))}
        rows = {"latents": latents, "image_features": image_features, "content": content, "quality": quality}
        outputs = []
        for row in range(len(latents)):
            picked = {name: values[row % len(values)][None] for name, values in rows.items()}
            outputs.append(self._denoisers[size]({**picked, **shared}))
        return torch.cat(outputs), image_features


class ExportedAutoencoder(DeepHaarAutoencoder):
    """A `DeepHaarAutoencoder` whose decoder an engine computes; at a fidelity above 0, which has other weights, torch.

    Make one with `of`.
    """

    _decoder_graph: Run

    @classmethod
    def of(cls, vae: DeepHaarAutoencoder, graph: Run) -> "ExportedAutoencoder":
        """Returns the same autoencoder, with its weights and not a copy of them, that decodes with `graph`."""
        made = copy.copy(vae)
        made.__class__ = cls
        made.__dict__["_decoder_graph"] = graph
        assert isinstance(made, ExportedAutoencoder)
        return made

    def residual(self, z: torch.Tensor, pixels: torch.Tensor, *, fidelity: float = 0.0) -> torch.Tensor:
        """Returns (B, 3, 4h, 4w), of the latents alone."""
        return joined(self.residual_strips([(z, pixels)], z.shape[-2], fidelity=fidelity))

    def residual_strips(
        self, strips: Iterable[tuple[torch.Tensor, torch.Tensor]], height: int, *, fidelity: float = 0.0
    ) -> Iterator[torch.Tensor]:
        """Yields strips (B, 3, rows, 4w) likewise."""
        if fidelity:
            return super().residual_strips(strips, height, fidelity=fidelity)
        # a block looks two latents far; those around the blocks and the grid's windows no more than 16 together
        halo = 2 * self.config.decoder_layers + 16
        return streamed(_higher((z for z, _ in strips), halo), self._decode, halo=halo, height=height)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._decoder_graph({"latents": row[None]}) for row in z])


def _higher(strips: Iterable[torch.Tensor], halo: int) -> Iterator[torch.Tensor]:
    """Joins strips of latents until they are worth the rows around them that are computed twice."""
    waiting: list[torch.Tensor] = []
    for strip in strips:
        waiting.append(strip)
        if sum(one.shape[-2] for one in waiting) >= max(2 * halo, _STRIP_LATENTS // strip.shape[-1]):
            yield joined(waiting)
            waiting = []
    if waiting:
        yield joined(waiting)


def resolve_place(engine: Engine, device: str, dtype: Dtype | Literal["auto"]) -> tuple[torch.device, Dtype]:
    """Returns the device and the number type that a model is used with; engines but torch are for the CPU, in "fp32".

    Args:
        engine: "torch", "openvino" or "onnx", which is onnxruntime.
        device: as `xpsr.devices.resolve_device` takes it.
        dtype: as `xpsr.devices.resolve_dtype` takes it; OpenVINO knows "bf16", too, where the processor does.

    Raises:
        InputError: there is no such engine, or it is not for the device or the number type.
    """
    check_argument("engine", engine, Engine)
    if engine != "torch" and device == "auto":
        device = "cpu"
    place = resolve_device(device)
    if engine == "torch":
        return place, resolve_dtype(dtype, place)
    if place.type != "cpu":
        message, remedy = f"is not for {place}, but for the CPU", "use device cpu or engine torch"
        raise InputError(message, code="conflict", field="engine", value=engine, remedy=remedy)
    if dtype == "bf16" and engine == "onnx":
        message, remedy = "is not for engine onnx", "use fp32, or engine openvino"
        raise InputError(message, code="conflict", field="dtype", value=dtype, remedy=remedy)
    return place, "fp32" if dtype == "auto" else resolve_dtype(dtype, place)


def check_engine(folder: Path, engine: Engine) -> None:
    """Raises where an engine but torch is not installed, or a model's folder has nothing for it.

    Raises:
        InputError: the folder holds no exported networks.
        MissingDependencyError: the engine is not installed.
        ModelError: a file is missing or damaged, or the model's weights are others than those exported.
    """
    if engine != "torch":
        require(engine)
        read_manifest(folder)


def use_engine(pipe: XPSRPipeline, folder: Path, engine: Engine, *, dtype: Dtype = "fp32") -> None:
    """Puts the exported networks of a model's folder into the place of a pipeline's, on the CPU.

    What each graph gives is compared with torch in float32 when it is opened first with this engine, number type and
    processor; the user's cache remembers that it was right.

    Args:
        pipe: of that folder, in float32.
        folder: of a model, as `export_engine_model` writes it.
        engine: "openvino" or "onnx".
        dtype: what it computes with, as `resolve_place` gives it.

    Raises:
        InputError: the folder holds no exported networks.
        MissingDependencyError: the engine is not installed.
        ModelError: a file is missing or damaged, the engine cannot compute it, or the model's weights are others than
            those exported.
        XPSRError: a graph gives other numbers than torch.
    """
    require(engine)
    manifest, networks = read_manifest(folder), networks_of(pipe)
    runs = {}
    for name, graph in manifest.graphs.items():
        if graph.part not in networks:
            raise damaged(folder / FOLDER / name, "is of a part that the model has not")
        runs[name] = _opened(folder / FOLDER / name, graph, pipe, networks[graph.part], engine, dtype)
    of_tile: dict[str, dict[Tile, Run]] = {"image_encoder": {}, "denoiser": {}}
    for name, graph in manifest.graphs.items():
        if graph.tile is not None:
            of_tile[graph.part][graph.tile] = runs[name]
        elif isinstance(pipe.vae, DeepHaarAutoencoder):
            pipe.vae = ExportedAutoencoder.of(pipe.vae, runs[name])
    pipe.denoiser = ExportedDenoiser(
        pipe.controlnet, pipe.unet, image_encoders=of_tile["image_encoder"], denoisers=of_tile["denoiser"]
    )


@torch.no_grad()
def _opened(path: Path, graph: Graph, pipe: XPSRPipeline, network: nn.Module, engine: Engine, dtype: Dtype) -> Run:
    """Opens a graph and compares it with torch, unless the user's cache knows that it was right."""
    package = {"onnx": "onnxruntime"}.get(engine, engine)
    version = importlib.metadata.version(package)
    facts = [graph.part, graph.tile, graph.sha256, package, version, dtype, processor_name()]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    is_known = key in kept("engine_checks.json", _is_error)
    inputs = {} if is_known else example_inputs(pipe, graph.part, graph.tile)
    try:
        run = open_onnx(path) if engine == "onnx" else open_openvino(path, dtype=dtype)
        found = None if is_known else run(inputs)
    except Exception as error:  # whatever an engine meets in a graph that it does not know
        message, remedy = f"{path}: engine {engine} cannot compute it ({brief(error)})", "export the model again"
        raise ModelError(message, code="damaged", remedy=f"{remedy}, or use engine torch") from error
    if found is None:
        return run
    difference = error_of(found, network(**inputs))
    if not difference <= LIMITS[dtype]:
        more = f"by {difference:.2g} in {engine}'s {dtype}, more than {LIMITS[dtype]:g}"
        message = f"{path.name} differs from torch {more}"
        remedy = "use fp32" if dtype == "bf16" else "use engine torch"
        raise XPSRError(message, code="wrong_numbers", remedy=f"{remedy}; this engine computes wrongly here")
    keep("engine_checks.json", key, difference, _is_error)
    return run


def _is_error(entry: object) -> bool:
    return isinstance(entry, float) and 0 <= entry <= max(LIMITS.values())


def _listed(tiles: Mapping[Tile, Run]) -> str:
    return ", ".join(tile_name(tile) for tile in sorted(tiles))
