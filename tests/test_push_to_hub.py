"""What `scripts/push_to_hub.py` sends to the hub, and what it does not send; and the card that goes with the mini."""

import base64
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import push_to_hub
import pytest
from huggingface_hub import ModelCard

from xpsr.model_files import bundled_models, checksums, write_checksums

CARD = "---\nlicense: apache-2.0\nlibrary_name: diffusers\npipeline_tag: image-to-image\n---\n# A model\n"
STALE = "unet/diffusion_pytorch_model.fp16.safetensors"

Run = Callable[..., int]


class Hub(ThreadingHTTPServer):
    """As much of a hub as an upload asks for; it takes every file as it is, and has a stale one of another model."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.created: list[dict[str, Any]] = []
        self.commits: list[list[dict[str, Any]]] = []
        self.token = "right"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: Any, status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            names = [STALE, "notes.md", ".gitattributes"]
            self.answer([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names])
        else:
            self.answer({"id": "somebody/mini", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        if self.headers["Transfer-Encoding"] == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            self.answer({"files": modes})
        elif self.path.startswith("/api/repos/create"):
            self.server.created.append(json.loads(body))
            self.answer({"url": f"{self.server.url}/somebody/mini", "name": "somebody/mini"})
        elif "/commit/" in self.path:
            self.server.commits.append([json.loads(line) for line in body.splitlines()])
            url = f"{self.server.url}/somebody/mini/commit/1"
            self.answer({"commitUrl": url, "commitOid": "1", "success": True})
        else:
            self.answer({"warnings": [], "errors": []})  # what it says of a card


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "right")
        yield server
        server.shutdown()


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


@pytest.fixture
def push(model: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*options: str, repository: str = "somebody/mini") -> int:
        monkeypatch.setattr("sys.argv", ["push_to_hub.py", repository, "--model", str(model), *options])
        return push_to_hub.main()

    return run


def test_a_whole_model_is_uploaded_in_one_commit(
    push: Run, model: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push("--private") == 0
    ((header, *operations),) = hub.commits
    sent = {one["value"]["path"]: one["value"]["content"] for one in operations if one["key"] == "file"}
    files = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
    assert {name: base64.b64decode(content) for name, content in sent.items()} == {
        name: path.read_bytes() for name, path in files.items()
    }
    assert [one["value"]["path"] for one in operations if one["key"] == "deletedFile"] == [STALE]
    assert header["value"]["summary"].startswith("model, of xpsr ")
    assert [(one["name"], one["visibility"]) for one in hub.created] == [("mini", "private")]
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/somebody/mini/commit/1"


def test_a_dry_run_lists_files_with_sizes_and_asks_nobody(
    push: Run, model: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push("--dry-run") == 0
    assert (hub.created, hub.commits) == ([], [])
    *files, total = capsys.readouterr().out.splitlines()
    assert len(files) == sum(path.is_file() for path in model.rglob("*"))
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    assert f"{weights.stat().st_size / 1e6:9.3f} MB  unet/diffusion_pytorch_model.safetensors" in files
    assert total.endswith("somebody/mini")


def change_weights(model: Path) -> None:
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def add_weights(model: Path) -> None:
    shutil.copy(model / "vae" / "diffusion_pytorch_model.safetensors", model / "vae" / "more.safetensors")


def break_model(model: Path) -> None:
    (model / "unet" / "config.json").unlink()


def break_card(model: Path) -> None:
    (model / "README.md").write_text(CARD.replace("license: apache-2.0", "model-index: [1]"), encoding="utf-8")


def change_tag(model: Path) -> None:
    (model / "README.md").write_text(CARD.replace("image-to-image", "text-to-image"), encoding="utf-8")


def commit_and_change(model: Path) -> None:
    clone = model.parent  # in which the model is a folder of several
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "a model"]):
        subprocess.run(["git", "-C", clone, *command], check=True)
    with (model / "README.md").open("a", encoding="utf-8") as card:
        card.write("more\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            change_weights,
            r"unet/diffusion_pytorch_model.safetensors: is not what checksums.json says; install or export",
        ),
        (add_weights, r"vae/more.safetensors: is not what checksums.json says"),
        (lambda model: (model / "checksums.json").unlink(), r"checksums.json: is missing"),
        (lambda model: (model / "notes.txt.swp").touch(), r"notes.txt.swp: is no file of a model; move it away"),
        (lambda model: (model / "README.md").unlink(), r"README.md: is no card"),
        (break_card, r"README.md: is no card"),
        (
            change_tag,
            r"README.md: pipeline_tag is text-to-image; write pipeline_tag: image-to-image into its front matter",
        ),
        (break_model, r"unet/config.json: "),
        (commit_and_change, r"README.md: is changed since the last commit; commit or restore it"),
    ],
)
def test_what_is_not_whole_or_more_than_a_model_is_not_sent(
    push: Run,
    model: Path,
    hub: Hub,
    damage: Callable[[Path], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(model)
    assert push() == 1
    assert (hub.created, hub.commits) == ([], [])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(rf"push_to_hub: [^\n]*{message}[^\n]*\n", shown.err)


def test_a_model_that_checksums_agree_with_but_does_not_load_is_not_sent(
    push: Run, model: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(model / "vae" / "config.json", model / "unet" / "config.json")
    write_checksums(model)
    assert push() == 1
    assert hub.commits == []
    assert "unet" in capsys.readouterr().err


def test_a_wrong_token_is_one_line(push: Run, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.token = "another"
    assert push() == 1
    error = capsys.readouterr().err
    assert error.startswith("push_to_hub: ")
    assert "401" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("repository", ["mini", "a/b/c", "a b/c"])
def test_a_name_that_no_repository_has_is_refused(
    push: Run, repository: str, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        push("--dry-run", repository=repository)
    assert ended.value.code == 2
    assert "OWNER/NAME" in capsys.readouterr().err


# The mini's card


def test_the_minis_card_has_what_the_hub_asks_for() -> None:
    folder = bundled_models()["mini"]
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert {key: data.get(key) for key in push_to_hub.CARD} == push_to_hub.CARD | {"license": "apache-2.0"}
    assert "base_model" not in data  # it was trained from nothing
    assert json.loads((folder / "checksums.json").read_text(encoding="utf-8")) == checksums(folder)


def test_the_numbers_of_the_minis_card_are_those_of_its_table() -> None:
    card = ModelCard.load(bundled_models()["mini"] / "README.md")
    (kinds,) = re.findall(r"^\| PSNR-Y / SSIM-Y / NIQE / ENet-dist \| (.*) \|$", card.text, re.MULTILINE)
    (row,) = re.findall(
        r"^\| \*\*mini\*\*, with what its describer says, the default \| (.*) \|$", card.text, re.MULTILINE
    )
    table = {
        kind: [float(number) for number in cell.split(" / ")]
        for kind, cell in zip(kinds.split(" | "), row.split(" | "), strict=True)
    }
    results: dict[str, list[float]] = {}
    for result in card.data.eval_results or []:
        results.setdefault(result.dataset_name.removeprefix("12 photographs, "), []).append(result.metric_value)
    assert results == table
    (index,) = card.data.to_dict()["model-index"]
    assert len(index["results"]) == 3
