"""What a release consists of: archives of exactly what git has, licences, and a wheel that works alone."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import bundle_model
import licences
import pytest
import release

import xpsr
from xpsr.model_files import bundled_models, checksums

ROOT = Path(__file__).parents[1]

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a clone knows what git has")


def sbom_of(**packages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"components": [{"name": name, "version": "1", "licenses": told} for name, told in packages.items()]}


# Licences


def test_licences_are_as_packages_say_them_and_those_of_extras_are_known() -> None:
    sbom = sbom_of(
        Beta=[{"license": {"id": "MIT"}}, {"license": {"name": "License :: OSI Approved :: MIT License"}}],
        alpha=[{"expression": "MPL-2.0 AND (MIT OR Apache-2.0 WITH LLVM-exception)"}],
        gamma=[{"license": {"name": "License :: OSI Approved :: BSD License"}}],
        transformers=[],
    )
    extras = release.project()["project"]["optional-dependencies"]
    table = licences.licence_table(sbom, extras, "1.2.3")
    lines = table.splitlines()
    assert lines[lines.index("|---|---|---|") + 1 :][:4] == [
        "| alpha | 1 | MPL-2.0 AND (MIT OR Apache-2.0 WITH LLVM-exception) |",
        "| Beta | 1 | MIT |",
        "| gamma | 1 | BSD |",
        "| transformers | 1 | Apache-2.0 |",
    ]
    assert "xpsr 1.2.3" in table and "| pillow-heif | formats | BSD-3-Clause, its wheels GPL-2.0 |" in lines


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], "one does not say its licence"),
        ([{"license": {"name": "Other/Proprietary License"}}], "one is under 'Other/Proprietary License'"),
        ([{"expression": "MIT AND AGPL-3.0-only"}], "one is under 'AGPL-3.0-only'"),
        ([{"license": {"id": "MIT"}}, {"license": {"id": "GPL-2.0-only"}}], "one is under 'GPL-2.0-only'"),
    ],
)
def test_a_licence_that_nobody_has_looked_at_is_refused(told: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(licences.UnknownLicenceError, match=message):
        licences.licence_table(sbom_of(one=told), {}, "1")


def test_an_extra_that_nobody_has_looked_at_is_refused() -> None:
    with pytest.raises(licences.UnknownLicenceError, match="unheard-of of the extra more"):
        licences.licence_table(sbom_of(), {"more": ["unheard-of>=1"], "dev": ["whatever"]}, "1")


# Archives


def test_archives_are_compared_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    expected = {"a": tmp_path / "a", "b": tmp_path / "b"}
    assert release.differences({"a": b"1", "b": b"2"}, expected) == []
    assert release.differences({"a": b"other", "c": b""}, expected) == [
        "lacks b",
        "has c, which should not be there",
        "has another a",
    ]


@needs_git
def test_a_wheel_with_caches_and_without_weights_is_refused(tmp_path: Path) -> None:
    version = xpsr.__version__
    wheel = tmp_path / f"xpsr-{version}-py3-none-any.whl"
    told = f"Metadata-Version: 2.4\nName: xpsr\nVersion: {version}\nLicense-File: NOTICE\n"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr(f"xpsr-{version}.dist-info/METADATA", told)
        opened.writestr("xpsr/__pycache__/a.pyc", b"")
        opened.write(ROOT / "configs" / "one_step.yaml", "xpsr/configs/one_step.yaml")
    with pytest.raises(SystemExit) as caught:
        release.check_wheel(wheel, ROOT)
    lines = str(caught.value).splitlines()
    assert f"release: {wheel.name} has xpsr/__pycache__/a.pyc, which should not be there" in lines
    weights = "weights/mini/unet/diffusion_pytorch_model.safetensors"
    for name in ("py.typed", weights, "web/app.py", "configs/mini/1_decoder.yaml"):
        assert f"release: {wheel.name} lacks xpsr/{name}" in lines
    assert not [line for line in lines if "one_step.yaml" in line]
    assert f"release: {wheel.name} lacks xpsr-{version}.dist-info/licenses/NOTICE" in lines


def test_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    release.write_sums(tmp_path.iterdir(), tmp_path / "SHA256SUMS")
    expected = [f"{hashlib.sha256(name.encode()).hexdigest()}  {name}" for name in "ab"]
    assert (tmp_path / "SHA256SUMS").read_text().splitlines() == expected


# The bundled model


def test_bundling_the_bundled_model_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mini = bundled_models()["mini"]
    beside = shutil.ignore_patterns("README.md", "checksums.json", "describer")
    source = shutil.copytree(mini, tmp_path / "source", ignore=beside)
    target = tmp_path / "target"
    target.mkdir()
    for name in ("README.md", "model_index.json"):
        shutil.copyfile(mini / name, target / name)
    shutil.copytree(mini / "describer", target / "describer")
    monkeypatch.setattr(sys, "argv", ["bundle_model.py", str(source), str(target)])
    bundle_model.main()
    found, expected = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (target, mini)
    )
    assert found == expected
    assert not (source / "describer").exists()  # it is only read
    monkeypatch.setattr(bundle_model, "MAX_MEGABYTES", 45)  # which the model without its describer does not exceed
    kept = sorted(path for path in target.rglob("*") if path.is_file())
    (source / "unet" / "added.bin").write_bytes(bytes(1))
    with pytest.raises(SystemExit):
        bundle_model.main()
    assert "more than the 45 MB that may be bundled" in capsys.readouterr().err
    assert sorted(path for path in target.rglob("*") if path.is_file()) == kept


def test_bundling_replaces_nothing_but_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, other = tmp_path / "all" / "source", tmp_path / "other"
    for folder in (source, other):
        folder.mkdir(parents=True)
        (folder / "mine.txt").write_text("mine")
    (source / "model_index.json").write_text("{}")
    for target, message in (
        (other, "is there and no model"),
        (source, "would go with it"),
        (source.parent, "would go with it"),
    ):
        monkeypatch.setattr(sys, "argv", ["bundle_model.py", str(source), str(target)])
        with pytest.raises(SystemExit):
            bundle_model.main()
        assert message in capsys.readouterr().err
    assert (source / "mine.txt").exists() and (other / "mine.txt").exists()


# The whole


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return release.build(ROOT, tmp_path_factory.mktemp("built"))


@needs_git
@pytest.mark.slow
def test_archives_are_what_git_has_and_twice_the_same_bytes(built: tuple[Path, Path], tmp_path: Path) -> None:
    archive, wheel = built
    release.check_source(archive, ROOT)
    release.check_wheel(wheel, ROOT)
    for one, other in zip(built, release.build(ROOT, tmp_path), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@needs_git
@pytest.mark.slow
def test_weights_of_the_wheel_are_those_of_its_checksums(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as opened:
        told = json.loads(opened.read("xpsr/weights/mini/checksums.json"))
        weights = {
            name for name in opened.namelist() if name.startswith("xpsr/weights/mini/") and "safetensors" in name
        }
        found = {
            name.removeprefix("xpsr/weights/mini/"): hashlib.sha256(opened.read(name)).hexdigest() for name in weights
        }
    assert found == told == checksums(bundled_models()["mini"])


@needs_git
@pytest.mark.slow
def test_the_wheel_restores_a_picture_without_a_network_in_an_empty_environment(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    python = release.install(built[1], tmp_path / "environment")
    (tmp_path / "home").mkdir()
    release.try_offline(python, tmp_path / "home")
    sbom = release.write_sbom(python, tmp_path / "sbom.cdx.json")
    assert sbom["metadata"]["component"]["name"] == "xpsr"
    assert sbom["metadata"]["component"]["version"] == xpsr.__version__
    names = {component["name"] for component in sbom["components"]}
    assert {"torch", "diffusers", "transformers"} <= names
    assert not {"pip", "pytest", "xpsr"} & names
    table = licences.licence_table(sbom, release.project()["project"]["optional-dependencies"], xpsr.__version__)
    assert "| diffusers |" in table


def test_what_is_tried_offline_reaches_not_even_this_machine() -> None:
    prefix, environment = release.offline()
    kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as listening:  # nobody answers: it need not
        address = f"http://127.0.0.1:{listening.server_port}/"
        code = f"import urllib.request; urllib.request.urlopen({address!r}, timeout=30)"
        command = [*prefix, sys.executable, "-c", code]
        done = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "URLError" in done.stderr
