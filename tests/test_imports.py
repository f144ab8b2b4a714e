"""The order of the rooms: a module imports only those before it, and importing has no side effects."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import xpsr

PACKAGE = Path(xpsr.__file__).parent

# The most basic first; the doors `__init__` (lazy) and `__main__` belong to no floor.
ORDER = (
    "errors",
    "files",
    "caches",
    "jsonl",
    "orientation",
    "sources",
    "devices",
    "config",
    "model_files",
    "image",
    "color",
    "protection",
    "tiling",
    "planning",
    "degradation",
    "features",
    "models",
    "grain",
    "model_folder",
    "checkpoint",
    "convert",
    "prior",
    "pipeline",
    "engines",
    "restore",
    "data",
    "training",
    "evaluation",
    "recipe",
    "records",
    "batch",
    "sequence",
    "benchmark",
    "web",
    "cli",
)
DOORS = ("__init__", "__main__")

# Modules that see nothing but these, the standard library and `errors`. The ranges that degradations are drawn from are
# too many for named arguments, so `degradation` takes a dataclass of `config`.
ARRAY_CODE = {"torch", "numpy", "cv2", "PIL"}
ALLOWED_LIBRARIES = {
    "color": ARRAY_CODE,
    "tiling": ARRAY_CODE,
    "degradation": ARRAY_CODE,
    "features": {"torch", "safetensors", "h5py"},
    "models": {"torch", "diffusers"},
}
# Modules that must not be reached, not even through others.
UNREACHABLE = {
    "training": {"pipeline"},
    "evaluation": {"models", "model_files", "model_folder", "checkpoint", "pipeline"},
}
OPTIONAL_LIBRARIES = [
    *("bitsandbytes", "c2pa", "cryptography", "fastapi", "h5py", "matplotlib", "onnx", "onnxruntime"),
    *("onnxscript", "openvino", "peft", "pillow_heif", "prometheus_client", "pyarrow", "ray", "scipy"),
    *("tensorboard", "torchao", "torchvision", "uvicorn"),
]
MAX_LINES = 500

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The module of the order that a file belongs to; a package counts as one."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


ROOMS = sorted({room(path) for path in FILES} - set(DOORS))


def imported_names(source: str) -> Iterator[str]:
    """Dotted names of everything that a source imports, wherever in it; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            argument = node.args[0]
            assert isinstance(argument, ast.Constant), f"line {node.lineno}: imports a computed name"
            yield argument.value


def imports_of(name: str) -> set[str]:
    sources = [path.read_text(encoding="utf-8") for path in FILES if room(path) == name]
    return {imported for source in sources for imported in imported_names(source)}


def rooms_seen_by(name: str) -> set[str]:
    """Our own modules that a module imports; a public name counts as the module it lives in."""
    seen = set()
    for imported in imports_of(name):
        library, *parts = imported.split(".")
        if library != "xpsr" or parts == ["__version__"]:
            continue
        assert parts, f"{name}.py imports the whole package; import what it needs from the module"
        home = xpsr._MODULE_OF.get(parts[0], f"xpsr.{parts[0]}")
        seen.add(home.split(".")[1])
    return seen - {name}


def rooms_reached_by(name: str) -> set[str]:
    reached: set[str] = set()
    front = {name}
    while front:
        front = {seen for one in front for seen in rooms_seen_by(one)} - reached
        reached |= front
    return reached


def run_python(code: str, folder: Path) -> str:
    """Standard output of a fresh interpreter whose home and current folder is `folder`."""
    environment = {
        "PYTHONPATH": str(PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_has_its_place_in_the_order():
    assert set(ROOMS) <= set(ORDER)


def test_the_tour_goes_through_every_module_in_order():
    tour = (PACKAGE.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", tour, re.MULTILINE)) == ORDER


@pytest.mark.parametrize("name", ROOMS)
def test_module_imports_only_modules_before_it(name):
    before = set(ORDER[: ORDER.index(name)])
    assert rooms_seen_by(name) <= before


@pytest.mark.parametrize("name", sorted(set(ALLOWED_LIBRARIES) & set(ROOMS)))
def test_pure_module_sees_only_its_libraries(name):
    libraries = {imported.split(".")[0] for imported in imports_of(name)}
    assert libraries <= ALLOWED_LIBRARIES[name] | sys.stdlib_module_names | {"xpsr"}
    assert rooms_seen_by(name) <= ({"errors", "config"} if name == "degradation" else {"errors"})


@pytest.mark.parametrize("name", sorted(set(UNREACHABLE) & set(ROOMS)))
def test_module_does_not_reach(name):
    assert not rooms_reached_by(name) & UNREACHABLE[name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_importing_everything_needs_no_optional_library_and_leaves_no_trace(tmp_path):
    code = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL_LIBRARIES}))  # whoever imports one of them now fails
from importlib import import_module
for name in {ROOMS}:
    import_module("xpsr." + name)
"""
    run_python(code, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_imports_are_quiet_beside_a_noisy_torchao(tmp_path):
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text(
        "import logging\n"
        "logging.getLogger(__name__).warning('no such device')\n"
        "logging.getLogger('torch.utils._pytree').warning('deprecated')\n"
    )
    (tmp_path / "torchao-0.14.0.dist-info").mkdir()
    (tmp_path / "torchao-0.14.0.dist-info" / "METADATA").write_text("Name: torchao\nVersion: 0.14.0\n")
    code = "import xpsr, sys; xpsr.Restorer; import torchao; print('ready')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(PACKAGE.parent)))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ready\n", "")


def test_no_library_reports_to_its_makers(tmp_path):
    told = run_python("import os, xpsr; print(os.environ['ORT_DISABLE_TELEMETRY'])", tmp_path)
    assert told == "1\n"


@pytest.mark.parametrize("module", ["xpsr", "xpsr.cli"])
def test_import_does_not_load_torch(module, tmp_path):
    loaded = run_python(f"import sys, {module}; print(*sys.modules)", tmp_path).split()
    assert {"torch", "diffusers", "transformers", "numpy"}.isdisjoint(loaded)


def test_all_is_sorted_and_available():
    assert xpsr.__all__ == sorted(xpsr.__all__)
    assert {*xpsr._MODULE_OF, "__version__"} == set(xpsr.__all__)
    assert set(xpsr.__all__) <= set(dir(xpsr))
    for name, module in xpsr._MODULE_OF.items():
        assert getattr(xpsr, name) is getattr(import_module(module), name)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Upscaler'"):
        xpsr.Upscaler  # noqa: B018
