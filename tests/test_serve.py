"""`xpsr serve` from the outside, with a tiny model: what it prints, how it ends, and what a kill leaves."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fork_server import STAND_IN, start_python
from PIL import Image

import xpsr
from xpsr.cli import main, serve
from xpsr.cli.terminal import parse
from xpsr.config import ServeConfig, UpscaleConfig
from xpsr.files import sha256

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

SECONDS = 120
"""After which nothing more is waited for, on however busy a machine."""


class Serving:
    """`xpsr serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str | Path, program: Sequence[str] = ("-m", "xpsr")):
        self.spool = folder / "spool"
        command = [*program, "serve", "--port", "0", "--spool", self.spool, *options]
        self.process = start_python(*map(str, command), cwd=folder)
        assert wait_for(lambda: self.out or self.process.poll() is not None) and self.out, self.process.communicate()
        (self.url,) = re.findall(r"http://[\d.]+:\d+", self.out)
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=SECONDS)

    @property
    def out(self) -> str:
        return Path(f"/proc/{self.process.pid}/fd/1").read_text() if self.process.poll() is None else ""

    @property
    def worker(self) -> int:
        """The process that restores."""
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in children.read_text().split():
                if b"xpsr.web.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
        raise AssertionError

    @property
    def spooled(self) -> list[str]:
        """What lies in the spool, of all servers."""
        return sorted(path.relative_to(self.spool).as_posix() for path in self.spool.rglob("*"))

    def post(self, picture: bytes, **fields: str) -> str:
        """Sends a picture and returns the job's id."""
        headers = {"Prefer": "respond-async"}
        answer = self.client.post("/v1/upscale", files={"image": ("a.png", picture)}, data=fields, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, id: str) -> dict[str, Any]:  # noqa: A002
        told: dict[str, Any] = self.client.get(f"/v1/jobs/{id}").json()
        return told

    def becomes(self, id: str, state: str) -> dict[str, Any]:  # noqa: A002
        """Waits until a job is in a state, and returns its document."""
        assert wait_for(lambda: self.job(id)["state"] == state), self.job(id)
        return self.job(id)

    def end(self) -> tuple[int | None, str, str]:
        """Waits for the end; returns exit code, stdout and stderr."""
        self.client.close()
        with self.process:
            out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err


def stopped_at_work(serving: Serving, picture: bytes) -> str:
    """Sends a picture, stops the process that restores when it is at it, and returns the job's id."""
    job = serving.post(picture, num_inference_steps="100")
    assert wait_for(lambda: serving.job(job)["progress"])
    os.kill(serving.worker, signal.SIGSTOP)
    return job


def wait_for(holds: Callable[[], Any]) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def options(tiny_model: Path) -> list[str]:
    return ["--model", f"tiny={tiny_model}", "--describer", "none", "--device", "cpu"]


FORKING = f"""
import sys
from xpsr.batch import processes
from xpsr.cli import main
processes._PYTHON = {STAND_IN}
sys.exit(main())
"""
"""`xpsr`, but that the process that restores is forked, too."""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, options: list[str]) -> Iterator[Serving]:
    """A server that tests leave as they found it, in a folder where another one was killed before."""
    folder = tmp_path_factory.mktemp("serving")
    code = (
        "import os, pathlib, signal, sys; from xpsr.web.spool import Spool\n"
        "(Spool(pathlib.Path('spool')).new_folder() / 'upload').write_bytes(b'picture')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with start_python("-c", code, cwd=folder) as killed:
        killed.communicate(timeout=SECONDS)
    assert list((folder / "spool").glob("*/*/upload"))
    serving = Serving(folder, *options, program=("-c", FORKING))
    yield serving
    serving.process.send_signal(signal.SIGTERM)
    serving.process.send_signal(signal.SIGTERM)
    serving.end()


def test_it_says_in_a_line_where_it_is_and_answers_there(serving: Serving) -> None:
    assert serving.out == f"xpsr serves tiny on {serving.url} (Ctrl-C ends it)\n"
    assert serving.client.get("/healthz").status_code == serving.client.get("/readyz").status_code == 200
    told = serving.client.get("/v1/models").json()
    assert [model["name"] for model in told["models"]] == ["tiny"] and told["version"] == xpsr.__version__
    assert 'xpsr_workers_up{device="cpu"} 1.0' in serving.client.get("/metrics").text


def test_what_a_killed_server_left_is_removed_at_the_next_start(serving: Serving) -> None:
    assert len(list(serving.spool.iterdir())) == 1 and not list(serving.spool.glob("*/*/upload"))


@pytest.mark.usefixtures("loaded_once")
def test_a_result_is_that_of_the_command_line(
    serving: Serving, picture: bytes, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"seed": "5", "scale": "3"}
    answer = serving.client.post("/v1/upscale", files={"image": ("a.png", picture)}, data=fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(picture)
    machine = ["--model", str(tiny_model), "--describer", "none", "--device", "cpu", "--quiet"]
    assert main(["upscale", "a.png", "-o", "b.png", "--seed", "5", "--scale", "3", *machine]) == 0
    Path("c.png").write_bytes(answer.content)
    assert sha256(Path("b.png")) == sha256(Path("c.png"))
    assert serving.client.delete(answer.headers["location"]).status_code == 204


@pytest.mark.slow
def test_a_process_that_is_killed_fails_its_job_alone(tmp_path: Path, options: list[str], picture: bytes) -> None:
    serving = Serving(tmp_path, *options)
    killed, first, second = serving.worker, stopped_at_work(serving, picture), serving.post(picture)
    os.kill(killed, signal.SIGKILL)
    error = serving.becomes(first, "failed")["error"]
    assert (error["code"], error["status"]) == ("worker_died", 500) and error["remedy"]
    assert serving.client.get(f"/v1/jobs/{first}/result").status_code == 500
    serving.becomes(second, "done")
    assert serving.worker != killed and serving.client.get("/readyz").status_code == 200
    numbers = serving.client.get("/metrics").text
    assert 'xpsr_worker_deaths_total{device="cpu"} 1.0' in numbers
    assert 'xpsr_jobs_total{kind="upscale",outcome="worker_died"} 1.0' in numbers
    for job in (first, second):
        assert serving.client.delete(f"/v1/jobs/{job}").status_code == 204
    assert wait_for(lambda: len(serving.spooled) == 2), serving.spooled
    serving.process.send_signal(signal.SIGTERM)
    assert serving.end()[0] == 0


@pytest.mark.slow
def test_sigterm_lets_what_is_in_hand_be_finished_and_fetched(
    tmp_path: Path, options: list[str], picture: bytes
) -> None:
    serving = Serving(tmp_path, *options, "--keep-seconds", "600")
    worker, first, second = serving.worker, stopped_at_work(serving, picture), serving.post(picture)
    serving.process.send_signal(signal.SIGTERM)
    assert wait_for(lambda: serving.client.get("/readyz").status_code == 503)
    answer = serving.client.post("/v1/upscale", files={"image": ("a.png", picture)})
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    os.kill(worker, signal.SIGCONT)
    for job in (first, second):
        serving.becomes(job, "done")
        assert serving.client.get(f"/v1/jobs/{job}/result").status_code == 200
    code, out, err = serving.end()
    assert code == 0 and out.count("\n") == 1
    assert "POST /v1/upscale 202" in err and f"GET /v1/jobs/{first[:6]}.../result 200" in err
    assert first not in err and "a.png" not in err and "Traceback" not in err
    assert "It ends when all is done and fetched, in 60 seconds at the latest" in err
    assert serving.spooled == [] and not Path(f"/proc/{worker}").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "code"), [(["SIGINT"], 130), (["SIGTERM", "SIGTERM"], 130), (["SIGKILL"], -9)])
def test_however_it_ends_nothing_goes_on_working(
    tmp_path: Path, options: list[str], picture: bytes, signals: list[str], code: int
) -> None:
    serving = Serving(tmp_path, *options, "--quiet")
    worker = serving.worker
    if len(signals) > 1:
        stopped_at_work(serving, picture)
    for name in signals:
        serving.process.send_signal(getattr(signal, name))
        time.sleep(0.5)
    found, _, err = serving.end()
    assert found == code and "Traceback" not in err and "GET" not in err
    assert wait_for(lambda: not Path(f"/proc/{worker}").exists())
    assert (serving.spooled == []) == (signals != ["SIGKILL"])


# What it is told


def test_every_option_has_a_flag_which_goes_before_a_file(tmp_path: Path) -> None:
    parser = serve._parser()
    flags = {action.dest for action in parser._actions}
    assert {f.name for f in dataclasses.fields(ServeConfig)} - {"upscale"} <= flags
    assert not flags & {"seed", "protect", "content", "quality", "priors", "on_existing"}
    path = tmp_path / "serve.yaml"
    path.write_text("port: 1\nmodels: [a=x, b=y]\npage: true\nupscale: {fidelity: 0.5, scale: 2, strip_gps: true}\n")
    flags_given = ["--config", str(path), "--port", "2", "--no-page", "--device", "cpu", "--device", "cuda"]
    flags_given += ["--longest", "3000", "--memory", "2GB", "--dtype", "fp32", "--max-pixels", "9", "--token-file", "t"]
    config = serve._config(vars(parse(parser, flags_given)))
    assert (config.port, config.models, config.page, config.devices) == (2, ("a=x", "b=y"), False, ("cpu", "cuda"))
    assert (config.memory, config.max_pixels, config.token_file) == ("2GB", 9, Path("t"))
    usual = UpscaleConfig(fidelity=0.5, longest=3000, strip_gps=True, dtype="fp32")
    assert config.upscale == usual


# What is refused before anything is loaded


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The line that `xpsr serve` ends with."""
    assert main(["serve", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_what_cannot_be_is_one_line(serving: Serving, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("short\n")
    port = serving.url.rpartition(":")[2]
    for arguments, line in (
        (["--port", port], f"xpsr: --port {port} is in use; choose another, or 0 for any that is free.\n"),
        (["--port", "0", "--host", "192.0.2.1"], "xpsr: --host 192.0.2.1 is no address of this machine"),
        (["--port", "0", "--token-file", tokens], f"xpsr: {tokens}: line 1 has 5 characters, and a token needs 16;"),
        (["--port", "0", "--token-file", tmp_path / "no"], f"xpsr: {tmp_path}/no: cannot be read"),
        (
            ["--port", "0", "--allowed-host", "http://a"],
            "xpsr: --allowed-host has 'http://a', which is none; use names such as",
        ),
        (
            ["--port", "0", "--forwarded-allow-ips", "*"],
            "xpsr: --forwarded-allow-ips has '*', which is none; use addresses such as",
        ),
        (["--port", "0", "--spool", tokens], f"xpsr: {tokens}: cannot be used for uploads"),
        (["--port", "99999"], "xpsr: --port 99999 is not in [0, 65535]; use 8000."),
        (["--max-queue", "0"], "xpsr: --max-queue 0 is not in [1, 1000000]; use 64."),
        (["--model", "a=x", "--model", "a=y"], "xpsr: --model has two that are called a; call one of them otherwise"),
        (["--memory", "much"], "xpsr: --memory much is not an amount of memory"),
        (["--seed", "1"], "xpsr: unknown option --seed"),
        (["--steps", "0"], "xpsr: --steps 0 is not in [1, 10000]; use 1 to 50."),
    ):
        err = refused(capsys, *arguments)
        assert err.startswith(line) and err.count("\n") == 1, err


@pytest.mark.slow
def test_a_model_that_is_none_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main(["serve", "--port", "0", "--model", str(tmp_path / "none"), "--spool", str(tmp_path / "spool")])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("xpsr: ") and err.count("\n") == 1
    assert list((tmp_path / "spool").iterdir()) == []


def test_libraries_that_are_missing_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["serve"]) == 1
    line = "xpsr: the server needs uvicorn and prometheus-client; run `pip install uvicorn prometheus-client`.\n"
    assert capsys.readouterr().err == line


@pytest.mark.slow
def test_what_openapi_says_is_true_and_no_request_is_an_error_of_the_server(tmp_path: Path, options: list[str]) -> None:
    pytest.importorskip("schemathesis", reason="makes requests of the OpenAPI document")
    serving = Serving(tmp_path, *options, "--max-per-client", "1000", "--max-queue", "1000")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{serving.url}/openapi.json", "--max-examples", "10"]
    command += ["--generation-deterministic", "--request-timeout", "60"]
    command += ["--exclude-checks", "positive_data_acceptance"]  # bytes that it makes up are no pictures
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    serving.process.send_signal(signal.SIGTERM)
    serving.process.send_signal(signal.SIGTERM)
    _, _, err = serving.end()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    strange = [line for line in err.splitlines() if not re.match(r"[A-Z]+ /|It ends when|xpsr: ", line)]
    assert not strange, strange[:10]
    assert err.count("POST /v1/upscale 200 ") > 2 and err.count("POST /v1/upscale 422 ") > 20
