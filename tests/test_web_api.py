"""The HTTP API as its clients see it: one server with a tiny model, a real queue and a real process that restores."""

import asyncio
import dataclasses
import hashlib
import io
import json
import struct
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import picture_files as files
import pytest
from fastapi import FastAPI
from full_disk import room_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xpsr.cli import main
from xpsr.config import ServeConfig
from xpsr.errors import InputError, XPSRError
from xpsr.image import decode_image
from xpsr.prior import Prior
from xpsr.web.api import build_api
from xpsr.web.hands import Hand
from xpsr.web.jobs import UPLOAD, Job, Preview
from xpsr.web.problems import add_handlers
from xpsr.web.scheduler import Scheduler
from xpsr.web.sending import numbered, zip_parts
from xpsr.web.spool import Spool
from xpsr.web.uploads import Form, named, receive_form

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process that decodes takes")

TEXTS = {"content": "a wall", "quality": "sharp"}
SEED = {"seed": "7"}
PLAIN = st.characters(exclude_categories=["Cs"])


class Known:
    """Stands for the guards: who asks is said by a header."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            scope.setdefault("state", {})["client"] = headers.get(b"x-client", b"somebody").decode()
            scope["state"]["owner"] = headers.get(b"x-owner", b"").decode()
        await self._app(scope, receive, send)


@dataclasses.dataclass
class Served:
    """A server without its socket."""

    config: ServeConfig
    spool: Spool
    scheduler: Scheduler
    app: ASGIApp
    http: TestClient

    def post(self, content: bytes = b"", path: str = "/v1/upscale", /, **fields: str) -> httpx.Response:
        name = fields.pop("name", "photo.png")
        headers = {"Prefer": "respond-async"} if fields.pop("is_async", "") else {}
        return self.http.post(path, files={"image": (name, content)}, data=fields, headers=headers)  # type: ignore[return-value]

    def over(self, answer: httpx.Response) -> dict[str, Any]:
        """The document of a job that was taken on, once it is over."""
        assert answer.status_code == 202, answer.text
        *_, last = self.events(answer.json()["links"]["events"])
        assert last[0] == "job"
        return last[1]

    def events(self, path: str) -> list[tuple[str, dict[str, Any]]]:
        answer = self.http.get(path)
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = []
        for block in answer.text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                found.append((lines["event"], json.loads(lines["data"])))
        return found


class NoHand:
    """Who never works."""

    facts: ClassVar[dict[str, Any]] = {}
    is_ready = False


def served(config: ServeConfig, folder: Path, hands: "list[Any] | None" = None, **limits: Any) -> Served:
    spool = Spool(folder)
    usual = {"max_queue": 64, "max_per_client": 200, "max_seconds": 120.0, "keep_seconds": 600.0}
    scheduler = Scheduler(spool, **(usual | limits))
    app = FastAPI(docs_url=None, redoc_url=None)
    add_handlers(app)
    app.include_router(build_api(config, scheduler, [NoHand()] if hands is None else hands, spool))
    within = Known(app)
    return Served(config, spool, scheduler, within, TestClient(within, raise_server_exceptions=False))


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, forked_workers: None) -> Iterator[Served]:
    config = ServeConfig(
        models=(f"tiny={tiny_model}",),
        describers=("mini",),
        devices=("cpu",),
        max_pixels=10_000,
        max_output_pixels=100_000,
        max_bytes=2**20,
    )
    hands: list[Hand] = []
    made = served(config, tmp_path_factory.mktemp("spool"), hands, max_queue=300)
    hands.append(Hand(config, "cpu", made.scheduler))
    hands[0].start()
    with made.http:
        yield made
    hands[0].close()
    made.spool.close()


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Served]:
    """A server in which nobody works."""
    made = served(ServeConfig(max_bytes=10_000, max_pixels=1000), tmp_path, max_per_client=2, max_queue=3)
    with made.http:
        yield made
    made.spool.close()


def picture(number: int = 0, kind: str = "PNG", size: tuple[int, int] = (24, 20), **options: Any) -> bytes:
    generator = np.random.default_rng(number)
    values = generator.integers(0, 256, (size[1], size[0], 3), dtype="uint8")
    return files.pillow_bytes(Image.fromarray(values), kind, **options)


def restored(content: bytes, name: str, folder: Path, model: Path, *options: str) -> bytes:
    """What `xpsr upscale` makes of a picture."""
    place, out = folder / name, folder / "out"
    place.write_bytes(content)
    assert (
        main(["upscale", str(place), "--model", str(model), "-o", str(out), "--quiet", "--device", "cpu", *options])
        == 0
    )
    (result,) = (path for path in out.iterdir() if path.suffix not in (".json", ".jsonl"))
    return result.read_bytes()


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == answer.status_code and told["type"] == f"urn:xpsr:error:{told['code']}"
    assert {"title", "detail", "field", "value", "remedy"} <= told.keys()
    return told


def test_a_picture_is_restored_as_by_the_command_line(server: Served, tiny_model: Path, tmp_path: Path) -> None:
    content = picture(1, "JPEG", quality=90)
    answer = server.post(content, name="Straße 1.jpg", **SEED)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"Stra_e 1_x4.jpg\"; filename*=UTF-8''Stra%C3%9Fe%201_x4.jpg"
    )
    assert answer.content == restored(content, "Straße 1.jpg", tmp_path, tiny_model, "--seed", "7")
    job = server.http.get(answer.headers["location"]).json()
    assert job["id"] == answer.headers["x-xpsr-job"] and job["state"] == "done" and job["error"] is None
    assert job["input"] == {"name": "Straße 1.jpg", "width": 24, "height": 20, "format": "JPEG", "bytes": len(content)}
    output = job["output"]
    assert (output["name"], output["format"], output["width"], output["height"]) == ("Straße 1_x4.jpg", "JPEG", 96, 80)
    assert output["sha256"] == hashlib.sha256(answer.content).hexdigest() and output["bytes"] == len(answer.content)
    assert 0 <= output["invented"] <= 1 and output["lr_psnr"] > 0 and output["seconds"] > 0
    assert job["prior"]["quality"] and job["prior"]["levels"].keys() == {"blur", "noise", "compression"}
    assert job["created"] <= job["started"] <= job["finished"] < job["expires"] and job["created"].endswith("Z")
    assert job["command"] is None  # nobody else knows the model
    assert job["links"]["map"] is None


@pytest.mark.parametrize(
    ("name", "kind", "called", "media_type"),
    [
        ("Photo.JPEG", "JPEG", "Photo_x4.JPEG", "image/jpeg"),
        ("scan.tiff", "TIFF", "scan_x4.tiff", "image/tiff"),
        ("photo.jfif", "JPEG", "photo_x4.jpg", "image/jpeg"),
        ("lie.png", "JPEG", "lie_x4.jpg", "image/jpeg"),
        ("photo", "TIFF", "photo_x4.tif", "image/tiff"),
        ("moving.jpg", "GIF", "moving_x4.png", "image/png"),
    ],
)
def test_a_result_is_called_as_the_command_line_calls_it(
    server: Served, name: str, kind: str, called: str, media_type: str
) -> None:
    job = server.over(server.post(picture(1, kind), name=name, is_async="1", **TEXTS))
    result = server.http.get(job["links"]["result"])
    assert job["output"]["name"] == called and called in result.headers["content-disposition"]
    assert result.headers["content-type"] == media_type == f"image/{job['output']['format'].lower()}"
    assert server.http.get(job["links"]["record"]).json()["output"] == called
    assert "Photo" not in str([*server.scheduler.find(job["id"]).folder.iterdir()])


def test_options_count_as_on_the_command_line(server: Served, tiny_model: Path, tmp_path: Path) -> None:
    content = picture(2)
    fields = {
        "scale": "1.5",
        "format": "webp",
        "file_quality": "80",
        "num_inference_steps": "2",
        "lr_consistency": "true",
    }
    job = server.over(server.post(content, name="a.png", is_async="1", **TEXTS, **fields))
    record = server.http.get(job["links"]["record"]).json()
    options = f"--steps 2 --scale 1.5 --lr-consistency --seed {record['seed']} --quality sharp --format webp".split()
    options += ["--file-quality", "80", "--content", "a wall"]
    result = server.http.get(job["links"]["result"])
    assert result.headers["content-type"] == "image/webp" and job["output"]["name"] == "a_x1.5.webp"
    assert result.content == restored(content, "a.png", tmp_path, tiny_model, *options)
    assert (record["input"], record["output"], record["output_sha256"]) == (
        "a.png",
        "a_x1.5.webp",
        job["output"]["sha256"],
    )
    assert record["model"]["name"] == "tiny" and str(tiny_model) not in json.dumps(record)
    assert str(server.spool.folder) not in json.dumps([record, job])


def test_a_job_is_taken_on_at_once_and_told_of_as_it_goes_on(server: Served) -> None:
    answer = server.post(picture(3), is_async="1", map="true", **TEXTS)
    assert answer.headers["preference-applied"] == "respond-async"
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert job["state"] in ("waiting", "running") and job["output"] is None and job["links"]["result"] is None
    events = server.events(job["links"]["events"])
    assert {name for name, _ in events} <= {"job", "preview"}
    last = events[-1][1]
    assert last["state"] == "done" and last == server.http.get(job["links"]["self"]).json()
    assert server.events(job["links"]["events"]) == [("job", last)]
    shown = server.http.get(last["links"]["map"])
    assert shown.headers["content-type"] == "image/png" and Image.open(io.BytesIO(shown.content)).mode == "L"
    assert shown.headers["content-disposition"] == (
        "inline; filename=\"photo_x4_map.png\"; filename*=UTF-8''photo_x4_map.png"
    )


def wait_over(jobs: "list[Job]") -> None:
    deadline = time.monotonic() + 60
    while not all(job.is_over for job in jobs):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_texts_alone_are_told(server: Served) -> None:
    answer = server.post(picture(4, "JPEG", quality=20), "/v1/describe", name="a.jpg")
    told = answer.json()
    assert answer.status_code == 200 and told.keys() == {
        *("content", "quality", "levels", "width", "height", "format", "job")
    }
    assert (told["width"], told["height"], told["format"]) == (24, 20, "JPEG") and "photograph" in told["quality"]
    job = server.http.get(answer.headers["location"]).json()
    assert (job["kind"], job["state"], job["output"], job["command"]) == ("describe", "done", None, None)
    assert job["prior"] == {name: told[name] for name in ("content", "quality", "levels")}
    for link in ("result", "record", "view", "map"):
        told = problem(server.http.get(f"{job['links']['self']}/{link}"))
        assert job["links"][link] is None and (told["status"], told["code"]) == (404, "not_made")
    assert server.http.get(job["links"]["input"]).status_code == 200
    unfetched = server.scheduler.unfetched
    waiting = [server.post(picture(4), "/v1/describe", is_async="1", describer="none") for _ in range(2)]
    kept = [server.scheduler.find(answer.json()["id"]) for answer in waiting]
    wait_over(kept)
    assert server.scheduler.unfetched == unfetched + 2
    assert server.http.head(f"/v1/jobs/{kept[1].id}").status_code == 200 and not kept[1].is_fetched
    server.http.get(f"/v1/jobs/{kept[1].id}")
    nothing = server.over(waiting[0])
    assert server.scheduler.unfetched == unfetched
    assert nothing["prior"] == {"content": "", "quality": "", "levels": None}
    assert problem(server.post(picture(4), "/v1/describe", scale="2"))["code"] == "unknown_key"


def test_what_browsers_cannot_show_is_shown_as_png(server: Served) -> None:
    content = files.tiff(files.noise(20, 24, 3))
    job = server.over(server.post(content, name="scan.tif", is_async="1", **TEXTS))
    assert job["input"]["format"] == "TIFF" and job["output"]["format"] == "TIFF"
    assert server.http.get(job["links"]["result"]).headers["content-type"] == "image/tiff"
    for link, name, size in (("input", "scan.png", (24, 20)), ("view", "scan_x4.png", (96, 80))):
        shown = server.http.get(job["links"][link])
        assert shown.headers["content-type"] == "image/png" and name in shown.headers["content-disposition"]
        assert Image.open(io.BytesIO(shown.content)).size == size
    plain = server.over(server.post(picture(5), is_async="1", **TEXTS))
    assert server.http.get(plain["links"]["input"]).content == picture(5)
    assert server.http.get(plain["links"]["view"]).content == server.http.get(plain["links"]["result"]).content


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 9),
        ("bytes=10-", 206, 10, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=5-99999999", 206, 5, None),
        ("bytes=9-3", 200, 0, None),
        ("bytes=0-1,4-5", 200, 0, None),
        ("lines=1-2", 200, 0, None),
        ("bytes=99999999-", 416, 0, None),
        ("bytes=-0", 416, 0, None),
    ],
)
def test_a_part_of_a_result_is_sent(
    server: Served, asked: str, status: int, first: int, last: int | None, request: pytest.FixtureRequest
) -> None:
    job = request.getfixturevalue("done")
    whole = server.http.get(job["links"]["result"])
    part = server.http.get(job["links"]["result"], headers={"Range": asked})
    assert part.status_code == status and whole.headers["accept-ranges"] == "bytes"
    if status == 416:
        assert problem(part)["field"] == "Range" and part.headers["content-range"] == f"bytes */{len(whole.content)}"
        return
    end = None if last is None else last + 1
    assert part.content == whole.content[first:end] and len(part.content) == int(part.headers["content-length"])
    if status == 206:
        place, size = part.headers["content-range"].removeprefix("bytes ").split("/")
        start, stop = map(int, place.split("-"))
        assert whole.content[start : stop + 1] == part.content and int(size) == len(whole.content)
        other = server.http.get(job["links"]["result"], headers={"Range": asked, "If-Range": '"another"'})
        assert other.status_code == 200
        same = server.http.get(job["links"]["result"], headers={"Range": asked, "If-Range": whole.headers["etag"]})
        assert same.status_code == 206


@pytest.fixture(scope="module")
def done(server: Served) -> dict[str, Any]:
    """A job that is done."""
    return server.over(server.post(picture(6), is_async="1", **TEXTS, **SEED))


def test_several_results_come_in_an_archive(server: Served, done: dict[str, Any]) -> None:
    others = [server.post(picture(n), name="Photo.png", is_async="1", **TEXTS) for n in (7, 8)]
    jobs = [done, *(server.over(other) for other in others)]
    ids = [job["id"] for job in jobs]
    answer = server.http.get("/v1/archive", params={"job": [*ids, ids[0]]})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = ["photo_x4.png", "Photo_x4_2.png", "Photo_x4_3.png"]
        assert archive.namelist() == [other for name in names for other in (name, f"{name[:-4]}.json")]
        for name, job in zip(names, jobs, strict=True):
            assert hashlib.sha256(archive.read(name)).hexdigest() == job["output"]["sha256"]
            assert json.loads(archive.read(f"{name[:-4]}.json"))["output"] == name
            assert archive.getinfo(name).compress_type == zipfile.ZIP_STORED
    told = problem(server.http.get("/v1/archive", params={"job": [ids[0], "gone"]}))
    assert told["code"] == "no_such_job" and told["remedy"].endswith("; restore the picture again")
    assert problem(server.http.get("/v1/archive"))["code"] == "missing"
    assert problem(server.http.get("/v1/archive", params={"job": ["x"] * 501}))["code"] == "out_of_range"
    assert problem(server.http.get("/v1/archive", params={"job": [ids[0], "x"]}))["code"] == "no_such_job"


def test_what_the_server_offers_is_told(server: Served, idle: Served) -> None:
    told = server.http.get("/v1/models").json()
    (model,) = told["models"]
    assert model["name"] == "tiny" == told["default_model"] and not model["draws_noise"] and model["scale"] == 4
    assert told["describers"] == ["mini", "none"] and told["default_describer"] == "mini"
    assert told["limits"]["max_pixels"] == 10_000 and told["needs_token"] is False
    assert told["options"]["model"]["choices"] == ["tiny"] and told["options"]["seed"]["maximum"] == 2**63 - 1
    assert told["options"]["provenance"]["default"] is True and "default" not in told["options"]["scale"]
    assert server.http.get("/healthz").json() == {"status": "ok"}
    assert server.http.get("/readyz").json() == {"status": "ready"}
    assert idle.http.get("/v1/models").json()["models"] == []
    answer = idle.http.get("/readyz")
    assert problem(answer)["code"] == "starting" and answer.status_code == 503 and answer.headers["retry-after"]
    idle.scheduler.drain()
    assert problem(idle.http.get("/readyz"))["code"] == "draining" and idle.http.get("/healthz").status_code == 200
    answer = idle.post(picture())
    assert problem(answer)["code"] == "draining" and answer.status_code == 503 and answer.headers["retry-after"]


# what is refused


@pytest.mark.parametrize(
    ("fields", "status", "code", "field"),
    [
        ({"steps": "4"}, 422, "unknown_key", "steps"),
        ({"num_inference_steps": "0"}, 422, "out_of_range", "num_inference_steps"),
        ({"model": "other"}, 422, "unknown_value", "model"),
        ({"scale": "2", "longest": "9"}, 422, "conflict", "scale"),
        ({"scale": "16"}, 413, "too_large", "scale"),
        ({"size": "1000x10"}, 413, "too_large", "size"),
        ({"num_shifts": "3"}, 422, "conflict", "num_shifts"),  # the model says so
        ({"strength": "0.5", "start": "noise"}, 422, "conflict", "start"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    server: Served, fields: dict[str, str], status: int, code: str, field: str
) -> None:
    told = problem(server.post(picture(), **TEXTS, **fields))
    assert (told["status"], told["code"], told["field"]) == (status, code, field) and told["remedy"]
    assert told["field"] in told["detail"]


def hostile(tmp_path: Path) -> list[tuple[str, bytes, int, str]]:
    """Files that are no good, each with what is told of it."""
    good = picture()
    header = files.chunk(b"IHDR", (60_000).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0]))
    bomb = good[:8] + header + good[33:]
    return [
        ("empty.png", b"", 422, "damaged"),
        ("text.png", b"<svg/onload=alert(1)>", 422, "unknown_format"),
        ("page.html", b"<html><script>alert(1)</script></html>", 422, "unknown_format"),
        ("cut.png", good[: len(good) // 2], 422, "damaged"),
        ("bomb.png", bomb, 413, "too_large"),
        ("wide.png", picture(size=(200, 60)), 413, "too_large"),
        ("long.bmp", picture(kind="BMP", size=(1000, 350)), 413, "too_large"),
        ("zip.png", b"PK\3\4" + bytes(500), 422, "unknown_format"),
        ("heavy.png", good + bytes(2**20), 413, "too_large"),
    ]


def test_pictures_that_are_no_good_are_refused_and_leave_nothing(server: Served, tmp_path: Path) -> None:
    before = set(server.spool.folder.iterdir())
    for name, content, status, code in hostile(tmp_path):
        told = problem(server.post(content, name=name, **TEXTS))
        assert (told["status"], told["code"]) == (status, code), name
        limit = {"bomb.png": 10_000, "wide.png": 10_000, "long.bmp": 2**20, "heavy.png": 2**20}.get(name)
        assert told.get("limit") == limit, name
        assert str(tmp_path) not in told["detail"] and str(server.spool.folder) not in told["detail"]
    assert set(server.spool.folder.iterdir()) == before
    cut = picture()
    answer = server.post(cut[: len(cut) - 200], name="cut.png", accept_truncated="true", **TEXTS)
    assert answer.status_code == 200
    assert server.http.get(answer.headers["location"]).json()["output"]["notices"]
    told = problem(server.post(files.pillow_bytes(Image.new("RGBA", (9, 9)), "PNG"), format="jpg", **TEXTS))
    assert (told["status"], told["code"], told["field"], told["remedy"]) == (422, "conflict", "format", "use png")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd.png", "passwd.png"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\photos\\a.png", "a.png"),
        ("/", "picture"),
        ("..", "picture"),
        ("", "picture"),
        ("a\x00b\r\nX: y.png", "a_x00b_r_nX: y.png"),
        ("..\x1b.png", ".._x1b.png"),
        ("a\u202egnp.exe", "a_u202egnp.exe"),
        ("𝓟hoto 😀.png", "𝓟hoto 😀.png"),
        ("x" * 300 + ".jpeg", "x" * 195 + ".jpeg"),
        (" .png ", ".png"),
    ],
)
def test_a_name_holds_no_folders_and_nothing_unprintable(name: str, kept: str) -> None:
    assert named(name) == kept


def test_a_pictures_name_is_on_no_disk(server: Served) -> None:
    for name in ("../../../../tmp/evil.png", "..\\..\\evil.png", "evil\u202e.png"):
        job = server.over(server.post(picture(9), name=name, is_async="1", **TEXTS))
        assert job["input"]["name"] == named(name) and "/" not in job["output"]["name"]
        disposition = server.http.get(job["links"]["result"]).headers["content-disposition"]
        assert disposition.isascii() and "/" not in disposition and "\\" not in disposition
        assert server.http.get(job["links"]["record"]).json()["input"] == named(name)
    assert not [path for path in server.spool.folder.rglob("*") if "evil" in path.name]


def form(*parts: tuple[str, bytes], boundary: str = "b", end: str = "--b--\r\n") -> bytes:
    head = 'Content-Disposition: form-data; name="{}"\r\n\r\n'
    return (
        b"".join(
            f"--{boundary}\r\n".encode() + (line if "\r\n" in line else head.format(line)).encode() + value + b"\r\n"
            for line, value in parts
        )
        + end.encode()
    )


IMAGE = 'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
UNNAMED = 'Content-Disposition: form-data; name="image"\r\nContent-Type: image/png\r\n\r\n'
OTHER = 'Content-Disposition: form-data; name="{}"; filename="a.png"\r\n\r\n'
MULTIPART = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("kind", "body", "status", "code", "field"),
    [
        ("application/json", b"{}", 415, "unsupported_media_type", "Content-Type"),
        ("application/x-www-form-urlencoded", b"a=b", 415, "unsupported_media_type", "Content-Type"),
        (None, b"", 415, "unsupported_media_type", "Content-Type"),
        ("multipart/form-data", form((IMAGE, b"x")), 400, "malformed", None),
        (f"multipart/form-data; boundary={'b' * 999}", form((IMAGE, b"x")), 400, "malformed", None),
        (MULTIPART, b"", 400, "malformed", None),
        (MULTIPART, b"nonsense", 400, "malformed", None),
        (MULTIPART, form((IMAGE, b"x"), end=""), 400, "malformed", None),
        (MULTIPART, form(("X: y\r\n\r\n", b"x")), 400, "malformed", None),
        (MULTIPART, form(("\r\n", b"x")), 400, "malformed", None),
        (MULTIPART, form(("X-Long: " + "y" * 9999 + "\r\n\r\n", b"x")), 400, "malformed", None),
        (MULTIPART, form(*((f"f{n}", b"x") for n in range(90))), 400, "malformed", None),
        (MULTIPART, form(("scale", b"2")), 422, "missing", "image"),
        (MULTIPART, form((OTHER.format("image").replace("a.png", ""), b"")), 422, "missing", "image"),
        (MULTIPART, form(("image", b"x")), 422, "wrong_type", "image"),
        (MULTIPART, form((IMAGE, b"x"), (IMAGE, b"y")), 422, "duplicate", "image"),
        (MULTIPART, form((OTHER.format("mask"), b"x")), 422, "unknown_key", "mask"),
        (MULTIPART, form((OTHER.format("content"), b"x")), 422, "wrong_type", "content"),
        (MULTIPART, form(("scale", b"2"), ("scale", b"3")), 422, "duplicate", "scale"),
        (MULTIPART, form(("content", b"\xff")), 422, "wrong_type", "content"),
        (MULTIPART, form(("content", b"x" * 70_000)), 422, "out_of_range", "content"),
        (MULTIPART, form((IMAGE, b"x" * 10_001)), 413, "too_large", "image"),
        (MULTIPART, form((UNNAMED, b"x")), 422, "unknown_format", None),
    ],
)
def test_a_body_that_is_no_form_with_a_picture_is_refused(
    idle: Served, kind: str | None, body: bytes, status: int, code: str, field: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    for path in ("/v1/upscale", "/v1/describe"):
        told = problem(idle.http.post(path, content=body, headers=headers))
        assert (told["status"], told["code"], told["field"]) == (status, code, field), told
        assert told["remedy"] or code == "unknown_format"
    assert idle.scheduler.is_idle and not [path for path in idle.spool.folder.iterdir() if path.is_dir()]
    if code == "too_large":
        assert told["limit"] == 10_000


def received(spool: Spool, pieces: Sequence[bytes]) -> tuple[Form, bytes]:
    """What comes of a body whose pieces come one by one, and the file."""
    incoming = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    incoming.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return incoming.pop(0)

    scope = {"type": "http", "headers": [(b"content-type", MULTIPART.encode())]}
    found = asyncio.run(receive_form(Request(scope, receive), spool.folder, max_bytes=1000, spool=spool))
    return found, (spool.folder / UPLOAD).read_bytes()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), text=st.text(PLAIN, max_size=50), size=st.integers(1, 400))
def test_a_form_is_read_the_same_however_it_comes(
    idle: Served, monkeypatch: pytest.MonkeyPatch, content: bytes, text: str, size: int
) -> None:
    monkeypatch.setattr("xpsr.web.uploads._AT_ONCE", 1)
    whole = form(("content", text.encode()), (IMAGE, content), ("scale", b"2"))
    found, file = received(idle.spool, [whole[start : start + size] for start in range(0, len(whole), size)])
    if b"\r\n--b" not in content:
        assert found == Form(fields={"content": text, "scale": "2"}, name="a.png", bytes=len(content))
        assert file == content


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.binary(max_size=30)
        | st.sampled_from([b"--b", b"--b--", b"--b\r\n", b"\r\n", b"\r\n--b\r\n", b"\r\n--b--\r\n", b'name="'])
        | st.sampled_from([IMAGE, UNNAMED, OTHER, "Content-Disposition: form-data; ", "Content-Type: "]).map(
            str.encode
        ),
        max_size=15,
    )
)
def test_any_body_is_a_form_or_an_input_error(idle: Served, pieces: list[bytes]) -> None:
    with suppress(InputError):
        received(idle.spool, pieces)


def test_unknown_paths_methods_and_jobs_are_problems(idle: Served) -> None:
    for method, path, status, code in (
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/upscale", 405, "method_not_allowed"),
        ("PUT", "/v1/jobs/x", 405, "method_not_allowed"),
        ("GET", "/v1/jobs/x", 404, "no_such_job"),
        ("GET", "/v1/jobs/x/events", 404, "no_such_job"),
        ("GET", "/v1/jobs/x/result", 404, "no_such_job"),
        ("DELETE", "/v1/jobs/x", 404, "no_such_job"),
        ("GET", "/v1/jobs/%00%0a%ff/input", 404, "no_such_job"),
    ):
        answer = idle.http.request(method, path)
        assert (problem(answer)["code"], answer.status_code) == (code, status)  # type: ignore[arg-type]
    assert idle.http.get("/v1/upscale").headers["allow"] == "POST"
    assert idle.http.put("/v1/jobs/x").headers["allow"] == "DELETE, GET, HEAD"


def test_head_is_answered_as_get_and_fetches_nothing(server: Served) -> None:
    job = server.over(server.post(picture(13), is_async="1", map="true", **TEXTS))
    paths = [link for link in job["links"].values() if link]
    for path in ("/v1/models", "/healthz", "/readyz", f"/v1/archive?job={job['id']}", *paths):
        head = server.http.head(path)
        is_fetched = server.scheduler.find(job["id"]).is_fetched
        assert not is_fetched or path not in (job["links"]["result"], f"/v1/archive?job={job['id']}")
        if path == job["links"]["result"]:
            continue
        whole = server.http.get(path) if "archive" not in path else head
        assert (head.status_code, head.headers) == (whole.status_code, whole.headers), path
    head, whole = (server.http.request(method, job["links"]["result"]) for method in ("HEAD", "GET"))
    assert head.headers == whole.headers and not head.content and whole.content
    assert server.scheduler.find(job["id"]).is_fetched
    assert not server.http.head(job["links"]["events"]).content
    assert server.http.head("/v1/jobs/x").status_code == 404


def read_as_it_comes(content: bytes) -> dict[str, bytes]:
    """The files of an archive, by what stands before each alone."""
    found, place = {}, 0
    while content[place : place + 4] == b"PK\3\4":
        flags, method, *_, crc, size, _, length, more = struct.unpack("<4x5H3I2H", content[place : place + 30])[1:]
        assert not flags & 8 and method == 0
        start = place + 30 + length + more
        if size == 2**32 - 1 or more:
            size = struct.unpack("<Q", content[start - 8 : start])[0]
        held = content[start : start + size]
        assert zlib.crc32(held) == crc
        found[content[place + 30 : place + 30 + length].decode()] = held
        place = start + size
    assert content[place : place + 4] == b"PK\1\2"
    return found


@pytest.mark.parametrize("full", [2**32 - 1, 20])
def test_an_archive_is_read_from_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int) -> None:
    if full < 2**32 - 1:  # what is larger stands in 64 bits
        monkeypatch.setattr("xpsr.web.sending._is_large", lambda number: number >= full)
    (tmp_path / "a").write_bytes(bytes(range(256)) * 3000)
    whole = b"".join(zip_parts([("ä.png", tmp_path / "a"), ("b.json", b"{}"), ("c.json", b"")]))
    wanted = {"ä.png": (tmp_path / "a").read_bytes(), "b.json": b"{}", "c.json": b""}
    assert read_as_it_comes(whole) == wanted
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None and {name: archive.read(name) for name in archive.namelist()} == wanted
        assert archive.getinfo("b.json").date_time[0] >= 2020
    with zipfile.ZipFile(io.BytesIO(b"".join(zip_parts([])))) as empty:
        assert empty.namelist() == []


def test_an_archive_ends_early_where_a_file_has_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = b"".join(zip_parts([("a.json", b"{}"), ("b.png", tmp_path / "gone")]))
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(whole))
    assert "ends early" in caplog.text and "Traceback" not in caplog.text


def test_names_in_an_archive_are_names_on_every_system() -> None:
    names = ['a<>:"|?*\n.png', "x" * 300 + ".png", "é" * 100 + ".jpg", "....png", "A_.png", "a_.png"]
    found = numbered(names)
    assert found == ["a________.png", "x" * 150 + ".png", "é" * 75 + ".jpg", "picture.png", "A_.png", "a__2.png"]


def test_a_server_that_begins_or_ends_is_no_error_in_its_log(idle: Served, caplog: pytest.LogCaptureFixture) -> None:
    assert idle.http.get("/readyz").status_code == 503
    idle.scheduler.drain()
    assert idle.http.get("/readyz").status_code == 503
    assert not [line for line in caplog.records if line.levelname == "ERROR"]


def test_a_job_that_is_not_done_yet_has_no_result(idle: Served) -> None:
    job = idle.post(picture(), is_async="1", **TEXTS).json()
    assert (job["state"], job["place"], job["progress"], job["prior"]) == ("waiting", 0, None, None)
    assert job["command"] == "xpsr upscale photo.png --content 'a wall' --quality sharp"
    for link in ("result", "record", "view", "map"):
        told = problem(idle.http.get(f"/v1/jobs/{job['id']}/{link}"))
        assert (told["status"], told["code"]) == (409, "not_ready")
    assert idle.http.get(job["links"]["input"]).content == picture()
    assert problem(idle.http.get("/v1/archive", params={"job": job["id"]}))["code"] == "not_ready"
    scan = idle.post(files.tiff(files.noise(9, 9, 3)), is_async="1", **TEXTS).json()
    assert scan["place"] == 1
    assert problem(idle.http.get(scan["links"]["input"]))["code"] == "not_ready"


def test_a_client_has_a_fair_share_of_the_queue(idle: Served) -> None:
    for _ in range(2):
        assert idle.post(picture(), is_async="1", **TEXTS).status_code == 202
    answer = idle.post(picture(), is_async="1", **TEXTS)
    assert (problem(answer)["code"], answer.status_code) == ("too_many", 429) and int(answer.headers["retry-after"]) > 0
    file = {"image": ("a.png", picture())}
    other = {"X-Client": "another", "Prefer": "foo, Respond-Async; wait=9"}
    assert idle.http.post("/v1/upscale", files=file, headers=other).status_code == 202
    answer = idle.http.post("/v1/upscale", files=file, headers=other | {"X-Client": "third"})  # type: ignore[assignment]
    assert (problem(answer)["code"], answer.status_code) == ("busy", 429) and int(answer.headers["retry-after"]) > 0


def test_only_its_owner_finds_a_job(idle: Served) -> None:
    headers = {"X-Owner": "anna", "Prefer": "respond-async"}
    job = idle.http.post("/v1/upscale", files={"image": ("a.png", picture())}, headers=headers).json()
    for path in (job["links"]["self"], job["links"]["input"], job["links"]["events"], f"/v1/archive?job={job['id']}"):
        for owner in ({}, {"X-Owner": "bert"}):
            assert problem(idle.http.get(path, headers=owner))["code"] == "no_such_job"
    assert problem(idle.http.delete(job["links"]["self"]))["code"] == "no_such_job"
    assert idle.http.get(job["links"]["self"], headers=headers).status_code == 200


def test_a_job_is_cancelled_and_its_files_go(idle: Served) -> None:
    job = idle.post(picture(), is_async="1", **TEXTS).json()
    kept = idle.scheduler.find(job["id"])
    assert (kept.folder / "upload").exists()
    assert idle.http.delete(job["links"]["self"]).status_code == 204
    assert not kept.folder.exists() and idle.scheduler.is_idle
    assert problem(idle.http.get(job["links"]["self"]))["code"] == "no_such_job"
    other = idle.post(picture(), is_async="1", **TEXTS).json()
    idle.scheduler.cancel(idle.scheduler.find(other["id"]))
    told = idle.http.get(other["links"]["self"]).json()
    assert told["state"] == "cancelled" and told["error"]["code"] == "cancelled" and told["error"]["instance"]
    for link in ("result", "record", "view", "map", "input"):
        answer = idle.http.get(f"{other['links']['self']}/{link}")
        assert (problem(answer)["code"], answer.status_code) == ("cancelled", 410)


def test_a_job_that_failed_tells_why(idle: Served) -> None:
    job = idle.post(picture(), is_async="1", **TEXTS).json()
    idle.scheduler.take(timeout=0)
    idle.scheduler.fail(idle.scheduler.find(job["id"]), XPSRError("it is late", code="too_late", remedy="wait"))
    told = idle.http.get(job["links"]["self"]).json()
    assert told["state"] == "failed" and told["error"] == {
        "type": "urn:xpsr:error:too_late",
        "title": "Too late",
        "status": 504,
        "detail": "it is late; wait.",
        "code": "too_late",
        "field": None,
        "value": None,
        "remedy": "wait",
        "instance": job["links"]["self"],
    }
    answer = idle.http.get(f"{job['links']['self']}/result")
    assert (problem(answer)["code"], answer.status_code) == ("too_late", 504)
    assert [event["state"] for _, event in idle.events(job["links"]["events"])] == ["failed"]


def test_files_that_have_gone_are_a_job_that_has_gone(server: Served) -> None:
    job = server.over(server.post(picture(10), is_async="1", **TEXTS))
    kept = server.scheduler.find(job["id"])
    server.spool.remove(kept.folder)
    for link in ("result", "view", "input"):
        answer = server.http.get(job["links"][link])
        assert (problem(answer)["code"], answer.status_code) == ("no_such_job", 404)
    assert problem(server.http.get("/v1/archive", params={"job": job["id"]}))["code"] == "no_such_job"


def test_a_full_disk_is_told_and_takes_nothing_with_it(idle: Served) -> None:
    with room_for(100):
        answer = idle.post(picture(), **TEXTS)
    assert (problem(answer)["code"], answer.status_code) == ("disk_full", 507)
    assert str(idle.spool.folder) not in answer.text and idle.scheduler.is_idle
    assert idle.post(picture(), is_async="1", **TEXTS).status_code == 202


def test_what_nobody_has_foreseen_is_told_without_where(
    idle: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr(idle.scheduler, "submit", fail)
    answer = idle.post(picture(), **TEXTS)
    assert (problem(answer)["code"], answer.status_code) == ("unexpected", 500) and "secret" not in answer.text
    assert "secret of the house" in caplog.text
    monkeypatch.setattr(idle.scheduler, "submit", lambda *_: (_ for _ in ()).throw(OSError(28, "full", "/srv/x")))
    answer = idle.post(picture(), **TEXTS)
    assert (problem(answer)["code"], answer.status_code) == ("disk_full", 507) and "/srv" not in answer.text
    assert idle.scheduler.is_idle and not [path for path in idle.spool.folder.iterdir() if path.is_dir()]


# clients that go away, or are many


class Line:
    """A connection by hand: what is sent comes when the test says so."""

    def __init__(self, app: ASGIApp, path: str, body: bytes = b"", *, method: str = "POST"):
        self._app, self._incoming = app, asyncio.Queue[Message]()
        self.sent: list[Message] = []
        headers = [(b"content-type", MULTIPART.encode())] if method == "POST" else []
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "client": ("1.2.3.4", 5),
            "server": ("localhost", 80),
        }
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": not body and method == "POST"})

    def start(self) -> "asyncio.Task[None]":
        async def send(message: Message) -> None:
            self.sent.append(message)

        return asyncio.create_task(self._app(self._scope, self._incoming.get, send))  # type: ignore[arg-type]

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_client_that_goes_away_wants_nothing_any_more(idle: Served) -> None:
    async def go() -> None:
        line = Line(idle.app, "/v1/upscale", form((IMAGE, picture())))
        task = line.start()
        await until(lambda: idle.scheduler.counts["waiting"] == 1)
        line.leave()
        await asyncio.wait_for(task, 5)
        assert idle.scheduler.is_idle and not line.sent
        assert not [path for path in idle.spool.folder.iterdir() if path.is_dir()]

    asyncio.run(go())


def test_a_client_that_goes_away_in_its_upload_frees_its_place(idle: Served) -> None:
    async def go() -> None:
        line = Line(idle.app, "/v1/upscale")
        task = line.start()
        await until(lambda: idle.scheduler.counts["coming"] == 1)
        line.leave()
        await asyncio.wait_for(task, 5)
        assert idle.scheduler.is_idle and not line.sent
        assert not [path for path in idle.spool.folder.iterdir() if path.is_dir()]

    asyncio.run(go())


def test_a_request_that_the_server_ends_frees_its_place(idle: Served) -> None:
    async def go() -> None:
        task = Line(idle.app, "/v1/upscale", form((IMAGE, picture()))).start()
        await until(lambda: idle.scheduler.counts["waiting"] == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert idle.scheduler.is_idle

    asyncio.run(go())


def test_who_waits_for_a_job_that_somebody_cancels_is_told(idle: Served) -> None:
    async def go() -> None:
        line = Line(idle.app, "/v1/upscale", form((IMAGE, picture())))
        task = line.start()
        await until(lambda: idle.scheduler.counts["waiting"] == 1)
        (job,) = idle.scheduler._jobs.values()
        threading.Thread(target=idle.scheduler.cancel, args=[job]).start()
        await asyncio.wait_for(task, 5)
        assert line.sent[0]["status"] == 410

    asyncio.run(go())


def test_events_come_with_previews_and_not_too_often_and_end_with_the_client(idle: Served) -> None:
    async def go() -> None:
        job = idle.scheduler.find(idle.post(picture(), is_async="1", **TEXTS).json()["id"])
        line = Line(idle.app, f"/v1/jobs/{job.id}/events", method="GET")
        task = line.start()
        await until(lambda: len(line.sent) > 1)
        idle.scheduler.take(timeout=0)
        started = time.monotonic()
        for step in range(1, 61):
            preview = Preview(image=b"RIFF", step=step, steps=60)
            idle.scheduler.report(job, progress=(step, 60), preview=preview, prior=Prior("a", "b"))
            await asyncio.sleep(0.01)
        await until(lambda: b'"done":60' in body(line))
        assert line.sent[0]["status"] == 200 and not task.done()
        told = body(line).decode()
        assert told.count("event: job") <= 2 + (time.monotonic() - started) / 0.1
        last = [block for block in told.split("\n\n") if block.startswith("event: preview")][-1]
        assert json.loads(last.partition("data: ")[2]) == {
            "image": "data:image/webp;base64,UklGRg==",
            "step": 60,
            "steps": 60,
        }
        line.leave()
        await asyncio.wait_for(task, 5)
        await until(lambda: not job._watchers)

    asyncio.run(go())


def body(line: Line) -> bytes:
    return b"".join(message.get("body", b"") for message in line.sent)


def test_a_quiet_stream_says_that_it_is_there(idle: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.web.watching._QUIET", 0.05)

    async def go() -> None:
        job = idle.scheduler.find(idle.post(picture(), is_async="1", **TEXTS).json()["id"])
        line = Line(idle.app, f"/v1/jobs/{job.id}/events", method="GET")
        task = line.start()
        await until(lambda: body(line).count(b": still here\n\n") >= 2)
        assert body(line).count(b"event: job") == 1
        line.leave()
        await asyncio.wait_for(task, 5)

    asyncio.run(go())


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_everybody_gets_the_result_of_their_own_picture(
    server: Served, tiny_model: Path, tmp_path: Path, count: int
) -> None:
    pictures = [picture(1000 + number, size=(10 + number % 5, 9)) for number in range(count)]
    folder = tmp_path / "in"
    folder.mkdir()
    for number, content in enumerate(pictures):
        (folder / f"{number:03}.png").write_bytes(content)
    options = ["--model", str(tiny_model), "-o", str(tmp_path / "out"), "--quiet", "--device", "cpu", "--seed", "7"]
    assert main(["upscale", str(folder), *options, "--content", "a wall", "--quality", "sharp"]) == 0
    wanted = [hashlib.sha256((tmp_path / "out" / f"{n:03}_x4.png").read_bytes()).hexdigest() for n in range(count)]
    assert len(set(wanted)) == count

    async def go() -> list[httpx.Response]:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=300) as client:

            async def ask(number: int) -> httpx.Response:
                return await client.post(
                    "/v1/upscale",
                    files={"image": (f"{number % 7}.png", pictures[number])},
                    data=TEXTS | SEED,
                    headers={"X-Client": f"client {number % 5}"},
                )

            return await asyncio.gather(*map(ask, range(count)))

    answers = asyncio.run(go())
    assert [answer.status_code for answer in answers] == [200] * count
    assert [hashlib.sha256(answer.content).hexdigest() for answer in answers] == wanted
    assert len({answer.headers["x-xpsr-job"] for answer in answers}) == count


# what is said of it


def test_openapi_says_what_there_is(server: Served, done: dict[str, Any]) -> None:
    told = server.http.get("/openapi.json").json()
    assert told["paths"].keys() == {
        *("/v1/upscale", "/v1/describe", "/v1/archive", "/v1/models", "/healthz", "/readyz", "/v1/jobs/{id}"),
        *(f"/v1/jobs/{{id}}/{part}" for part in ("events", "result", "record", "input", "view", "map")),
    }
    fields = told["paths"]["/v1/upscale"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert fields["required"] == ["image"] and fields["properties"]["model"]["enum"] == ["tiny"]
    assert fields["properties"]["scale"] == {
        "type": "number",
        "description": "How much larger, along a side; may be fractional.",
        "minimum": 0.0625,
        "maximum": 16.0,
    }
    assert told["paths"]["/v1/jobs/{id}/events"]["get"]["responses"]["200"]["content"] == {"text/event-stream": {}}
    assert not [path for path, methods in told["paths"].items() if "head" in methods]
    small = told["paths"]["/v1/describe"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert small["properties"].keys() == {"image", "describer", "accept_truncated"}
    names = told["components"]["schemas"]
    assert names["JobDocument"]["required"] == list(done) and names["LinksDocument"]["required"][0] == "self"
    assert "limit" not in names["Problem"]["required"] and "HTTPValidationError" not in names
    for path, methods in told["paths"].items():
        for method in methods.values():
            for status, answer in method["responses"].items():
                kinds = answer.get("content", {}).keys()
                assert (kinds == {"application/problem+json"}) == (int(status) >= 400), path
            assert method["description"] if method["operationId"] == "upscale" else method["summary"]


def test_openapi_says_where_a_token_is_needed(server: Served, tmp_path: Path) -> None:
    assert "securitySchemes" not in server.http.get("/openapi.json").json()["components"]
    (tmp_path / "tokens").write_text("0123456789abcdef\n")
    made = served(ServeConfig(token_file=tmp_path / "tokens"), tmp_path)
    told = made.http.get("/openapi.json").json()
    ((name, scheme),) = told["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, methods in told["paths"].items():
        for method in methods.values():
            assert method.get("security", []) == ([{name: []}] if path.startswith("/v1/") else []), path
    made.spool.close()


def test_pixels_are_the_same_in_every_lossless_format(server: Served) -> None:
    answers = [server.post(picture(11), format=kind, **TEXTS, **SEED) for kind in ("png", "tiff", "webp")]
    pixels = [decode_image(answer.content, "a").pixels for answer in answers]
    assert all((pixels[0] == other).all() for other in pixels[1:])


def test_nothing_stays_when_all_jobs_are_forgotten(server: Served) -> None:
    job = server.over(server.post(picture(12), is_async="1", **TEXTS))
    folder = server.scheduler.find(job["id"]).folder
    assert (folder / "upload").exists()
    assert server.http.delete(job["links"]["self"]).status_code == 204 and not folder.exists()
