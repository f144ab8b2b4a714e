"""What a folder's exported networks are: `engines/onnx/manifest.json`, written at export and checked before use."""

import dataclasses
import importlib.util
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpsr.caches import digest
from xpsr.engines.networks import INPUTS
from xpsr.errors import InputError, MissingDependencyError, ModelError
from xpsr.files import write_text
from xpsr.model_files import check_file, checksums, damaged, read_json

__all__ = ["FOLDER", "LIMITS", "Graph", "Manifest", "error_of", "read_manifest", "require", "tile_name"]

FOLDER = Path("engines", "onnx")
LIMITS = {"fp32": 1e-3, "bf16": 5e-2}
"""Largest difference from torch in float32 that a graph may show, as a share of torch's largest number."""

_FORMAT = 1
_PACKAGES = {"onnx": ("onnxruntime",), "openvino": ("openvino",), "export": ("onnx", "onnxruntime", "onnxscript")}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An ONNX file.

    Attributes:
        part: "image_encoder", "denoiser" or "decoder".
        tile: (height, width) of its latents; None: any.
        sha256: of the file.
        error: of its output in onnxruntime at export, as `error_of` tells it.
    """

    part: str
    tile: tuple[int, int] | None
    sha256: str
    error: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was exported, of what, by what.

    Attributes:
        graphs: by the names of their files.
        weights: SHA-256 of the model's weights, by file.
        opset: ONNX's, of all graphs.
        versions: of the packages that took part.
    """

    graphs: dict[str, Graph]
    weights: dict[str, str]
    opset: int
    versions: dict[str, str]

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """The sizes, height and width in latent pixels, that there is a denoiser for."""
        return [graph.tile for graph in self.graphs.values() if graph.part == "denoiser" and graph.tile is not None]

    def write(self, folder: Path) -> None:
        """Writes it into a folder of graphs."""
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        write_text(folder / "manifest.json", json.dumps(content, indent=2) + "\n")


def read_manifest(model: Path) -> Manifest:
    """Returns what a model's folder says of its exported networks, whose files are there and whole.

    Raises:
        InputError: nothing was exported.
        ModelError: a file is missing or damaged, or the model's weights are others than those exported.
    """
    folder = model / FOLDER
    path = folder / "manifest.json"
    if not path.exists():
        message, remedy = f"{model}: holds no exported networks", "make a folder that does: xpsr export MODEL -o DIR"
        raise InputError(message, code="not_found", remedy=f"{remedy}, and name it with --model DIR")
    content = read_json(path)
    if content.pop("format", None) != _FORMAT:
        raise _again(path, "is of another version of xpsr", code="unknown_format")
    try:
        graphs = {name: _graph(name, **facts) for name, facts in content.pop("graphs").items()}
        manifest = Manifest(graphs=graphs, **content)
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise damaged(path, "does not say what was exported") from error
    encoders = {graph.tile for graph in graphs.values() if graph.part == "image_encoder"}
    if not manifest.tiles or not encoders.issuperset(manifest.tiles):
        raise damaged(path, "names no denoiser, or one without its image encoder")
    if manifest.weights != checksums(model):
        raise _again(path, "is of other weights than the model's", code="mismatch")
    for name, graph in manifest.graphs.items():
        check_file(folder / name)
        if digest(folder / name) != graph.sha256:
            raise _again(folder / name, "is not what manifest.json says: damaged, or changed", code="damaged")
    return manifest


def _graph(name: str, *, part: str, tile: list[int] | None, sha256: str, error: float) -> Graph:
    if not re.fullmatch(r"[\w-]+\.onnx", name) or part not in INPUTS or (tile is None) != (part == "decoder"):
        raise ValueError(name)
    return Graph(
        part=part, tile=None if tile is None else (int(tile[0]), int(tile[1])), sha256=sha256, error=float(error)
    )


def require(what: str) -> None:
    """Raises `MissingDependencyError` where a package of an engine, or of the export, is not installed."""
    missing = [package for package in _PACKAGES[what] if importlib.util.find_spec(package) is None]
    if missing:
        subject = "the export" if what == "export" else f"engine {what}"
        message = f"{subject} needs {' and '.join(missing)}"
        raise MissingDependencyError(message, remedy=f"run `pip install {' '.join(missing)}`")


def error_of(found: Any, expected: Any) -> float:
    """Returns the largest difference between two tensors as a share of the largest number that was expected.

    It is infinite where they are of different shapes.
    """
    if found.shape != expected.shape:
        return math.inf
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))


def tile_name(tile: tuple[int, int]) -> str:
    """Returns how a size in latent pixels, (height, width), is written: WIDTHxHEIGHT."""
    return f"{tile[1]}x{tile[0]}"


def _again(path: Path, problem: str, *, code: str) -> ModelError:
    return ModelError(f"{path}: {problem}", code=code, remedy="export the model again: xpsr export MODEL -o DIR")
