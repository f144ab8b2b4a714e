"""Makes a release of what git has, in dist/: `make release`.

The wheel is built from the source archive, and both are compared with the files of the commit; of one commit they are
always the same bytes. The wheel is installed into an empty environment and tried there without a network. Beside them
lie SHA256SUMS, an SBOM of that environment (sbom.cdx.json) and the licences in it (licences.md). Nothing is uploaded.

    python3.13 scripts/release.py --try dist/xpsr-0.1.0-py3-none-any.whl

only tries a wheel, with the Python that runs it.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from licences import UnknownLicenceError, licence_table

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
SBOM, LICENCES, SUMS = "sbom.cdx.json", "licences.md", "SHA256SUMS"
PICTURE = ROOT / "examples" / "moose.png"

MAX_MEGABYTES = 100
"""Of a file: more is not taken by the index that people install from."""


class Refused(SystemExit):
    """Why there is no release."""

    def __init__(self, message: str):
        super().__init__(f"release: {message}")


def run(*command: object, **more: Any) -> str:
    """Runs a program and returns what it prints; it must succeed."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False, **more)
    if done.returncode:
        raise Refused(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def project(root: Path = ROOT) -> dict[str, Any]:
    """Returns what pyproject.toml says."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def version(root: Path = ROOT) -> str:
    """Returns the version, which stands in one place."""
    found = re.search(
        r'^__version__ = "(.+)"$', (root / "src/xpsr/__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found
    return found[1]


def tracked(root: Path = ROOT) -> list[str]:
    """Returns the files of the project: what git has, or would take."""
    told = run("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return sorted(name for name in told.split("\0") if name and (root / name).is_file())


def build(root: Path, out: Path) -> tuple[Path, Path]:
    """Builds the source archive and, from that, the wheel; returns both. Of the same commit they are the same bytes."""
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": run("git", "-C", root, "log", "-1", "--format=%ct").strip(),
        "PIP_CONSTRAINT": str(root / "constraints.txt"),  # which hatchling
    }
    run(sys.executable, "-m", "build", "--outdir", out, root, env=environment, stderr=subprocess.STDOUT)
    name = f"xpsr-{version(root)}"
    return out / f"{name}.tar.gz", out / f"{name}-py3-none-any.whl"


def differences(found: Mapping[str, bytes], expected: Mapping[str, Path]) -> list[str]:
    """Returns how the files of an archive differ from those that should be there, a line each."""
    missing = [f"lacks {name}" for name in sorted(expected.keys() - found.keys())]
    foreign = [f"has {name}, which should not be there" for name in sorted(found.keys() - expected.keys())]
    common = sorted(found.keys() & expected.keys())
    return missing + foreign + [f"has another {name}" for name in common if found[name] != expected[name].read_bytes()]


def check_source(archive: Path, root: Path) -> None:
    """Refuses a source archive that is not what git has: with it everything can be built and tested."""
    with tarfile.open(archive) as opened:
        members = [member for member in opened if member.isfile()]
        found = {member.name.partition("/")[2]: opened.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    check_metadata(archive, found.pop("PKG-INFO", b""))
    _refuse(archive, differences(found, {name: root / name for name in tracked(root)}))


def check_wheel(wheel: Path, root: Path) -> None:
    """Refuses a wheel that is not what git has in the folders that pyproject.toml names, with licence and notice."""
    with zipfile.ZipFile(wheel) as opened:
        found = {name: opened.read(name) for name in opened.namelist()}
    own = wheel.name.rpartition("-py3-")[0] + ".dist-info"
    check_metadata(wheel, found.get(f"{own}/METADATA", b""))
    for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt"):
        found.pop(f"{own}/{name}", None)
    placed = project(root)["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"]
    places = {**placed, **{name: f"{own}/licenses/{name}" for name in ("LICENSE", "NOTICE")}}
    expected = {}
    for name in tracked(root):
        for source, place in places.items():
            if PurePosixPath(name).is_relative_to(source):
                expected[(place / PurePosixPath(name).relative_to(source)).as_posix()] = root / name
    _refuse(wheel, differences(found, expected))


def check_metadata(archive: Path, text: bytes) -> None:
    """Refuses metadata that are not valid, or of another version."""
    from packaging.metadata import Metadata

    told = Metadata.from_email(text, validate=True)
    if str(told.version) not in archive.name or "NOTICE" not in (told.license_files or ()):
        raise Refused(f"{archive.name}: its metadata are of {told.version} and name {told.license_files}")


def _refuse(archive: Path, faults: list[str]) -> None:
    megabytes = archive.stat().st_size / 1e6
    if megabytes > MAX_MEGABYTES:
        faults = [f"has {megabytes:.1f} MB, more than {MAX_MEGABYTES} MB", *faults]
    if faults:
        raise Refused(f"{archive.name} " + f"\nrelease: {archive.name} ".join(faults))


def install(wheel: Path, folder: Path) -> Path:
    """Installs a wheel, with what it needs and nothing else, into an environment; returns that one's Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet"]
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel)
    return python


def offline() -> tuple[list[str], dict[str, str]]:
    """Returns what stands before a command that is to reach no network, and what its environment has then."""
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
        ):
            return prefix, {}
    names = ("http_proxy", "https_proxy", "all_proxy")  # where nobody listens
    return [], {name: "http://127.0.0.1:9" for lower in names for name in (lower, lower.upper())}


def try_offline(python: Path, folder: Path) -> None:
    """Restores a picture with an installed xpsr and nothing of this repository, without a network."""
    prefix, environment = offline()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XPSR", "HF_"))}
    home = {"HOME": str(folder), "USERPROFILE": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    more = {"env": {**kept, **home, **environment}, "cwd": folder}
    command = python.with_name("xpsr.exe" if os.name == "nt" else "xpsr")
    run(*prefix, python, "-W", "error", "-c", "import xpsr", **more)
    run(*prefix, command, "doctor", **more)
    run(*prefix, command, "upscale", PICTURE, "--output", folder / "restored.png", "--quiet", **more)
    sizes = [struct.unpack(">II", path.read_bytes()[16:24]) for path in (PICTURE, folder / "restored.png")]
    if sizes[1] != tuple(4 * side for side in sizes[0]):
        raise Refused(f"{command} made {sizes[1]} of {sizes[0]}")


def write_sbom(python: Path, place: Path) -> dict[str, Any]:
    """Writes the SBOM of an environment with xpsr, as CycloneDX, and returns it."""
    asked = ("environment", "--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--of", "JSON")
    sbom: dict[str, Any] = json.loads(run(sys.executable, "-m", "cyclonedx_py", *asked, python))
    sbom["metadata"]["component"]["version"] = version()  # pyproject.toml does not say it
    place.write_text(json.dumps(sbom, indent=2) + "\n", encoding="utf-8")
    return sbom


def write_sums(files: Iterable[Path], place: Path) -> None:
    """Writes the digests of files, as `sha256sum --check` reads them."""
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(files)]
    place.write_text("".join(lines), encoding="utf-8")


def refuse_unready(made: set[str]) -> None:
    """Refuses a commit that is not what would be released, and a place with something else in it."""
    if run("git", "-C", ROOT, "status", "--porcelain"):
        raise Refused("there are changes that no commit has; commit them")
    tag = f"v{version()}"
    if run("git", "-C", ROOT, "tag", "--list", tag) and tag not in run("git", "-C", ROOT, "tag", "--points-at").split():
        raise Refused(f"{tag} is another commit already; raise __version__ in src/xpsr/__init__.py")
    others = sorted({path.name for path in DIST.glob("*")} - made)
    if others:
        raise Refused(f"dist/ holds {', '.join(others)}, of which this is no release; move it away")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--try", dest="wheel", type=Path, metavar="WHEEL", help="only try a wheel")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "release")
        folder.mkdir()
        wheel = args.wheel
        if wheel is None:
            names = {f"xpsr-{version()}.tar.gz", f"xpsr-{version()}-py3-none-any.whl", SBOM, LICENCES, SUMS}
            refuse_unready(names)
            archive, wheel = build(ROOT, folder)
            check_source(archive, ROOT)
            check_wheel(wheel, ROOT)
        python = install(wheel.resolve(), Path(scratch, "environment"))
        home = Path(scratch, "home")
        home.mkdir()
        try_offline(python, home)
        print(f"{wheel.name} works without a network in an empty environment of Python {sys.version.split()[0]}")
        if args.wheel is not None:
            return
        extras = project()["project"]["optional-dependencies"]
        try:
            table = licence_table(write_sbom(python, folder / SBOM), extras, version())
        except UnknownLicenceError as error:
            raise Refused(str(error)) from error
        (folder / LICENCES).write_text(table, encoding="utf-8")
        write_sums(folder.iterdir(), folder / SUMS)
        DIST.mkdir(exist_ok=True)
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, DIST / file.name)
            print(f"dist/{file.name}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
