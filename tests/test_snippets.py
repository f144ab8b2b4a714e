"""Every snippet of the documentation: Python runs, page by page; commands run, or at least their options are read.

What does not run here is named below, with the reason. The photographs are tiny, and models are loaded once.
"""

import ast
import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from color_helpers import DISPLAY_P3
from PIL import Image
from transformers import CLIPTokenizer

import xpsr.cli
from xpsr import XPSRPipeline
from xpsr.cli import main
from xpsr.config import DataConfig, TrainRunConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [path / "README.md" for path in (ROOT / "examples", ROOT / "data", ROOT / "integrations" / "comfyui")]
PAGES += sorted((ROOT / "src").rglob("README.md"))

# Statements that hold one of these texts are passed over
NOT_RUN = {
    'describer="http://localhost': "asks a server; test_server_describer.py has one",
    "prior_of.describe_ahead(": "asks a server",
    "prior = prior_of(": "asks a server",
    "with MLLMDescriber(": "loads a model from the hub; test_describers.py has tiny ones",
    "convert_reference(": "takes a checkpoint of the authors' code; test_convert.py makes one",
    'engine="openvino"': "exports a model; test_engines.py does it",
    "with httpx.Client(": "asks a server; test_web_api.py does it",
    "ray import serve": "wants Ray Serve, which is no extra",
    "class Server:": "wants Ray Serve, which is no extra",
    "Server.bind()": "wants Ray Serve, which is no extra",
    "network.load_lora_adapter(": "wants adapters that were trained; test_integrations.py has some",
    "for batch in loader:": "reads 16,000 samples; test_data.py reads some",
    "model = train_model(": "trains; test_training_recipe.py does it",
    "if model is not None": "wants what was trained",
    "complete = train(": "wants parts of a training run; test_training.py has them",
    'preset="': "takes 20 steps and more; test_presets.py takes fewer",
    "sidecar": "test_cli.py runs it and compares the pictures",
}

# Commands that begin with one of these are read and not run
NOT_STARTED = {
    "xpsr batch": "starts processes; test_batch_cli.py does it",
    "xpsr benchmark": "restores and scores whole sets; test_benchmark_suites.py does it",
    "xpsr convert": "takes a checkpoint of the authors' code; test_convert.py makes one",
    "xpsr degrade photos": "wants large photographs; test_cli_degrade.py makes some",
    "xpsr describe --pairs": "wants pairs; test_open_describer.py has some",
    "xpsr describe photos/ -o photos/priors.jsonl": "the same as that of README.md",
    "xpsr describe photos/ -o priors.jsonl --describer http": "asks a server",
    "xpsr data check": "wants pairs; test_cli_data.py has some",
    "xpsr evaluate --pred one": "starts processes",
    "xpsr export": "exports a model; test_engines.py does it",
    "xpsr serve": "answers until it is told to end; test_serve.py does it",
    "xpsr train": "trains; test_training_cli.py does it",
    "xpsr upscale - ": "reads standard input; test_cli.py gives some",
    "xpsr upscale photo.jpg --c2pa": "wants certificates; test_credentials.py makes some",
    "xpsr upscale photo.jpg --longest": "makes millions of pixels",
    "xpsr upscale photo.jpg --megapixels": "makes millions of pixels",
    "xpsr upscale photo.jpg --model mini-exported": "wants an exported model",
    "xpsr upscale photo.jpg --model my-model --preset reference": "takes 50 steps; test_presets.py takes fewer",
    "xpsr upscale photo.jpg --model runs": "wants a model that was trained",
    "xpsr upscale photo.jpg --model xpsr-model": "wants a model that was converted",
    "xpsr upscale photo.jpg --shortest": "makes millions of pixels",
    "xpsr upscale photo.jpg --size": "makes millions of pixels",
    "xpsr upscale scan.tif --longest 6000": "makes millions of pixels",
}
REFUSED = ("xpsr upscale phone.jpg --scale 4 --memory 1GB",)  # as the page shows


VARIABLES = {"stage": "1_decoder", "SLURM_ARRAY_TASK_ID": "1"}


class Parsed(BaseException):
    """What was to be read of a command is read."""


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """Yields fenced blocks of a page in some languages, with the number of the line before each."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if found[1] in languages:
            yield text.count("\n", 0, found.start(2)), found[2]


def commands(page: Path) -> Iterator[list[str]]:
    """Yields the words of what begins with `xpsr` of a page's lines, up to the next pipe or semicolon."""
    for _, block in blocks(page, "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(re.sub(r"(^|\s)#.*", "", line.removeprefix("$ ")), posix=True, punctuation_chars="|;&")
            lexer.commenters, lexer.whitespace_split = "", True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if not word or word[0] not in "|;&":
                    words.append(word)
                    continue
                if "xpsr" in words and words[0] not in ("pip", "git", "docker") and words[-1] != "...":
                    yield words[words.index("xpsr") :]
                words = []


def save(path: str, size: tuple[int, int], *, seed: int = 0, depth: str = "uint8") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
    if depth == "uint16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    with contextlib.chdir(folder):
        draw()
    return folder


def draw() -> None:
    """Makes the pictures that the pages name, and what is said of some."""
    for seed, name in enumerate(("photo.jpg", "other.jpg", "holiday/a.jpg", "holiday/day1/b.jpg", "photos/c.jpg")):
        save(name, (16, 12), seed=seed)
    save("folder/d.jpg", (16, 12))
    save("photo.png", (16, 12))
    for number in range(3):
        save(f"frames/{number:06}.png", (16, 12))
    save("scan.tif", (16, 12), depth="uint16")
    Image.new("RGB", (4000, 3000)).save("phone.jpg")
    priors = [
        {"image": name, "content": "a cat", "quality": "dark"} for name in ("photo.jpg", "other.jpg", "photos/c.jpg")
    ]
    Path("priors.jsonl").write_text("".join(json.dumps(prior) + "\n" for prior in priors), encoding="utf-8")
    methods = ("mine", "theirs", "other", "bicubic", "mini", "esrgan", "out", "HR")
    for seed, folder in enumerate(methods):
        for name in ("a", "b"):
            save(f"{folder}/{name}.png", (208, 112), seed=seed)  # of which NIQE says something
            save(f"lr/{name}.png", (52, 28))
    shutil.copytree("lr", "LR", dirs_exist_ok=True)


@pytest.fixture
def world(tiny_model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded_once: None) -> Path:
    """A folder with all that the pages name, which the test is in."""
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "suites", "integrations"):
        Path(name).symlink_to(ROOT / name)
    Path("my-model").symlink_to(tiny_model)
    return tmp_path


def vote() -> None:
    """Writes what three voters would send of the page that was made last; makes one where there is none."""
    if not Path("page").exists():
        assert main(["compare", "mine", "theirs", "-o", "page"]) == 0
    key = json.loads(Path("page", "key.json").read_text(encoding="utf-8"))
    left, right, *_ = key["methods"]
    votes = [{"picture": one, "left": left, "right": right, "choice": "left", "seconds": 1} for one in key["pictures"]]
    Path("votes").mkdir(exist_ok=True)
    for number, name in enumerate(("votes.json", "votes-3f9c21.json", "votes-b0417e.json", "votes/votes.json")):
        ballot = {"kind": "xpsr votes", "version": 1, "key": key["key"], "voter": f"v{number}", "pairs": 2}
        Path(name).write_text(json.dumps(ballot | {"votes": votes}), encoding="utf-8")


def given(page: str) -> dict[str, Any]:
    """What the snippets of a page take for granted."""
    planes = torch.rand(3, 112, 208, generator=torch.Generator().manual_seed(0))
    match page:
        case "color.md":
            return {"planes": planes, "icc": DISPLAY_P3}
        case "comparing.md":
            vote()
        case "data.md":
            tokenizer = CLIPTokenizer.from_pretrained("my-model", subfolder="tokenizer")
            return {"config": TrainRunConfig(data=DataConfig(hr_dir=Path("HR"), crop_size=32)), "tokenizer": tokenizer}
        case "degradation.md":
            picture = (planes * 255).byte().permute(1, 2, 0).numpy()
            return {"picture": picture, "images": planes[None].repeat(2, 1, 1, 1), "seeds": [1, 2]}
        case "describers.md":
            return {"paths": [Path("photo.jpg")]}
        case "limits.md":
            return {"content": Path("photo.jpg").read_bytes()}
        case "metrics.md":
            return {"restored": planes, "hr": planes * 0.9}
        case "presets.md":
            return {"pipe": XPSRPipeline.from_pretrained("my-model"), "Settings": xpsr.Settings}
    return {}


def pages_with(*languages: str) -> list[Any]:
    found = [page for page in PAGES if any(blocks(page, *languages))]
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in found]


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_runs(page: Path, world: Path) -> None:
    names = given(page.name)
    for line, block in blocks(page, "python"):
        tree = ast.parse("\n" * line + block)
        for statement in tree.body:
            source = ast.get_source_segment("\n" * line + block, statement) or ""
            if not any(text in source for text in NOT_RUN):
                exec(compile(ast.Module([statement], []), str(page), "exec"), names)


@pytest.mark.parametrize("page", pages_with("sh", "console"))
def test_commands_run_or_are_read(page: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in commands(page):
        arguments, text = [Template(word).safe_substitute(VARIABLES) for word in command[1:]], " ".join(command)
        if text.startswith(tuple(NOT_STARTED)):
            with monkeypatch.context() as patched:
                stop_after_reading(patched)
                with pytest.raises((Parsed, SystemExit)):
                    main(arguments)
            continue
        if "--votes" in arguments:
            vote()
        assert main(arguments) == (1 if text in REFUSED else 0), text


def stop_after_reading(patched: pytest.MonkeyPatch) -> None:
    """Ends every command once its options are read; that of a training run once its config is read, too."""

    def parse_and_stop(parser: Any, arguments: Any) -> NoReturn:
        xpsr.cli.parse(parser, arguments)
        raise Parsed

    def stop() -> NoReturn:
        raise Parsed

    for module in vars(xpsr.cli).values():
        if getattr(module, "__name__", "").startswith("xpsr.cli.") and hasattr(module, "parse"):
            patched.setattr(module, "parse", parse_and_stop)
    patched.setattr("xpsr.cli.train.loading", stop)


def test_everything_that_is_left_out_is_there() -> None:
    python = "".join(block for page in PAGES for _, block in blocks(page, "python"))
    assert [text for text in NOT_RUN if text not in python] == []
    every = [" ".join(command) for page in PAGES for command in commands(page)]
    assert [start for start in (*NOT_STARTED, *REFUSED) if not any(one.startswith(start) for one in every)] == []
    assert len(every) > 60
