"""The server on sockets, without models: connections that misbehave, an end that loses nothing, page and numbers."""

import asyncio
import errno
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from xpsr.config import ServeConfig, UpscaleConfig
from xpsr.errors import InputError, XPSRError
from xpsr.web import app as app_module
from xpsr.web import guards, server
from xpsr.web.app import build_app
from xpsr.web.hands import Hand
from xpsr.web.jobs import Job, Request
from xpsr.web.metrics import Metrics
from xpsr.web.scheduler import Scheduler
from xpsr.web.server import Server, listen, url_of
from xpsr.web.spool import Spool


@dataclass
class Running:
    """A server in a thread."""

    url: str
    scheduler: Scheduler
    metrics: Metrics
    server: Server
    thread: threading.Thread

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=20) as client:
            return client.get(self.url + path, **options)

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def ends_within(self, seconds: float) -> bool:
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def numbers(self, *counted: tuple[str, ...]) -> dict[tuple[str, ...], float]:
        """What /metrics says: values by name and labels, once some are there, as an answer is sent before it counts."""
        end = time.monotonic() + 20
        while True:
            families = text_string_to_metric_families(self.metrics.text().decode())
            samples = [sample for family in families for sample in family.samples]
            found = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
            if found.keys() >= {*counted}:
                return found
            assert time.monotonic() < end, found
            time.sleep(0.01)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers without models; whoever tests takes jobs and finishes them."""
    running: list[Running] = []
    spools: list[Spool] = []

    def start(**options: Any) -> Running:
        config = ServeConfig(port=0, devices=["cpu"], **options)
        spool, metrics = Spool(tmp_path / "spool"), Metrics()
        spools.append(spool)
        limits = {
            name: getattr(config, name) for name in ("max_queue", "max_per_client", "max_seconds", "keep_seconds")
        }
        scheduler = Scheduler(spool, **limits, on_over=metrics.over)
        app = build_app(config, scheduler, [Hand(config, "cpu", scheduler)], spool, metrics=metrics)
        app.router.routes.append(Route("/big", big))
        app.router.routes.append(Route("/who", who))
        app.router.routes.append(Route("/wait", wait))
        sockets, listens = listen(config.host, config.port), threading.Event()
        serving = Server(app, config, scheduler, on_start=listens.set, on_end=scheduler.close)
        thread = threading.Thread(target=serving.run, args=(sockets,))
        running.append(Running(url_of(config.host, sockets), scheduler, metrics, serving, thread))
        thread.start()
        assert listens.wait(20)
        return running[-1]

    yield start
    for one in running:
        one.signal(), one.signal()
        assert one.ends_within(20)
    for spool in spools:
        spool.close()


def big(request: HTTPRequest) -> Response:
    return Response(bytes(2**24))


def who(request: HTTPRequest) -> Response:
    return JSONResponse([request.state.client, request.url.scheme])


async def wait(request: HTTPRequest) -> Response:
    await asyncio.sleep(60)
    return Response()


def submit(scheduler: Scheduler, client: str = "192.0.2.1") -> Job:
    request = Request(
        kind="upscale", name="a.png", width=2, height=2, format="PNG", bytes=9, suffix=".png", config=UpscaleConfig()
    )
    with scheduler.place(client) as place:
        return scheduler.submit(place, request)


def finish(scheduler: Scheduler) -> None:
    job = scheduler.take(timeout=0)
    assert job is not None
    facts = {"seed": 0, "output_size": [1000, 500], "output_sha256": "", "seconds": 0.1, "bytes": 9}
    scheduler.finish(job, facts | {"fidelity": {"invented": 0.1, "lr_psnr": 30.0}})


def heard(connection: socket.socket) -> bytes:
    """All that comes until the other end closes; fails if it does not."""
    connection.settimeout(20)
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


# Answers


def test_every_route_answers_with_its_guards(start: Start) -> None:
    running = start(page=False)
    for path, status in (("/healthz", 200), ("/readyz", 503), ("/metrics", 200), ("/openapi.json", 200), ("/docs", 404),
                         ("/", 404), ("/v1/models/", 404), ("/v1/upscale", 405)):  # fmt: skip
        answer = running.get(path)
        assert answer.status_code == status, path
        assert "server" not in answer.headers and answer.headers["x-content-type-options"] == "nosniff"
        if status in (404, 405):
            assert answer.headers["content-type"] == "application/problem+json"
    assert running.get("/healthz", headers={"Host": "evil.example"}).status_code == 200
    assert running.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page instead of the package's."""
    folder = tmp_path / "xpsr" / "web" / "page"
    (folder / "examples").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>")
    (folder / "main.js").write_text("export {}")
    (folder / "examples" / "a.png").write_bytes(b"png")
    (folder / "secret.py").write_text("")
    (tmp_path / "xpsr" / "web" / "app.py").write_text("secret")
    shared = tmp_path / "xpsr" / "evaluation" / "pages"
    shared.mkdir(parents=True)
    for name in ("base.css", "base.js"):
        (shared / name).write_text("")
    monkeypatch.setattr(app_module.importlib.resources, "files", lambda name: tmp_path / name)
    return folder


def test_the_page_is_served_and_nothing_else(start: Start, page: Path) -> None:
    running = start()
    answer = running.get("/")
    assert (answer.text, answer.headers["content-type"]) == ("<!doctype html>", "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src")
    assert answer.headers["cache-control"] == "no-cache"
    again = running.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    for path, kind in (("main.js", "text/javascript; charset=utf-8"), ("examples/a.png", "image/png")):
        assert running.get(f"/page/{path}").headers["content-type"] == kind
    for path in (
        "/page/",
        "/page/secret.py",
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page//etc/passwd",
        "/main.js",
    ):
        with socket.create_connection(running.address) as connection:  # httpx would mend the path
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert heard(connection).startswith(b"HTTP/1.1 404 "), path
    with httpx.Client(trust_env=False) as client:
        assert client.head(running.url).headers["content-length"] == "15"


def test_a_proxy_is_believed_if_it_is_named_and_nobody_else(start: Start) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9, 192.0.2.7", "X-Forwarded-Proto": "https"}
    assert start().get("/who", headers=headers).json() == ["127.0.0.1", "http"]
    for proxy in ("127.0.0.1", "127.0.0.1/8"):
        running = start(forwarded_allow_ips=[proxy])
        assert running.get("/who", headers=headers).json() == ["192.0.2.7", "https"]
    assert start(forwarded_allow_ips=["192.0.2.0/24"]).get("/who", headers=headers).json() == ["127.0.0.1", "http"]


# Connections that do not behave


@pytest.mark.parametrize("is_chunked", [False, True])
def test_whoever_sends_too_much_hears_why(start: Start, is_chunked: bool) -> None:
    running = start(max_bytes=10**6)
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    parts = [head, *[bytes(2**16)] * 60]
    with httpx.Client(trust_env=False, timeout=20) as client:
        answer = client.post(
            f"{running.url}/v1/upscale",
            content=iter(parts) if is_chunked else b"".join(parts),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
    assert answer.status_code == 413 and answer.json()["limit"] == 10**6
    assert answer.headers["connection"] == "close"


def test_whoever_asks_before_sending_is_refused_without_a_byte(start: Start) -> None:
    running = start(max_bytes=1000)
    with socket.create_connection(running.address) as connection:
        head = "POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        start_time = time.monotonic()
        assert connection.recv(2**16).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - start_time < 10


def test_a_slow_upload_is_told_so(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_LINGER", 0.1)
    running = start(upload_seconds=0.3)
    with socket.create_connection(running.address) as connection:
        head = "POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
        form = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n{form}".encode())
        answer = heard(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") and json.loads(answer.partition(b"\r\n\r\n")[2])["limit"] == 0.3
    deadline = time.monotonic() + 10
    while not running.scheduler.is_idle and time.monotonic() < deadline:
        time.sleep(0.01)
    (folder,) = (tmp_path / "spool").iterdir()
    assert running.scheduler.is_idle and len(list(folder.iterdir())) == 1  # its lock


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /", b"\x16\x03\x01"]
)
def test_a_request_that_does_not_come_closes_its_connection(
    start: Start, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.2)
    monkeypatch.setattr(server, "_IDLE_SECONDS", 1)
    running = start()
    with socket.create_connection(running.address) as connection:
        connection.sendall(sent)
        assert heard(connection).startswith(b"HTTP/1.1 200 " if b"healthz" in sent else b"")
    assert running.get("/healthz").status_code == 200


def test_an_answer_that_nobody_takes_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_STUCK_SECONDS", 0.2)
    running = start()
    with socket.create_connection(running.address) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        connection.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(100)
        deadline = time.monotonic() + 20
        while running.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not running.server.server_state.connections


def test_a_head_that_is_too_long_is_refused(start: Start) -> None:
    running = start()
    for size, end, status in ((20_000, "\r\n\r\n", b"200"), (40_000, "", b"400")):
        with socket.create_connection(running.address) as connection:
            cookie = "x" * size
            head = f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: {cookie}{end}"
            connection.sendall(head.encode())
            assert heard(connection).startswith(b"HTTP/1.1 " + status)


def silent(running: Running, count: int) -> list[socket.socket]:
    """Connections that say nothing."""
    return [socket.create_connection(running.address) for _ in range(count)]


def is_cut(connection: socket.socket) -> bool:
    """Whether the other end has let go of a connection, or does so within a moment."""
    connection.settimeout(0.5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_an_address_has_its_share_of_connections_and_a_proxy_as_many_as_there_are(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_MOST_OF_ONE", 3)
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 5)
    for proxies, most, whose in (([], 3, " of 127.0.0.1"), (["127.0.0.0/8"], 5, "")):
        caplog.clear()
        running = start(forwarded_allow_ips=proxies)
        held = silent(running, most)
        more = silent(running, 2)
        try:
            assert all(map(is_cut, more)) and not is_cut(held[-1])
            assert [record.message for record in caplog.records if record.name == "xpsr.web.server"] == [
                f"There are {most} connections{whose}; more are cut off."
            ]
            if not proxies:
                with socket.create_connection(running.address, source_address=("127.0.0.2", 0)) as other:
                    other.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    assert heard(other).startswith(b"HTTP/1.1 200 ")
        finally:
            for connection in (*held, *more):
                connection.close()
        deadline = time.monotonic() + 10
        while running.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert running.get("/healthz").status_code == 200  # those that are over count no more


@pytest.mark.parametrize("sent", [b"\x00\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"])
def test_what_is_no_http_is_told_as_a_problem(start: Start, sent: bytes) -> None:
    with socket.create_connection(start().address) as connection:
        connection.sendall(sent)
        head, _, body = heard(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and json.loads(body)["code"] == "malformed"
    for line in (b"content-type: application/problem+json", b"x-content-type-options: nosniff", b"connection: close"):
        assert line in head.lower()


def test_a_body_in_tiny_chunks_is_refused_and_others_do_not_wait(start: Start) -> None:
    running = start()
    head = b"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    with socket.create_connection(running.address) as connection:
        connection.sendall(head + b"1\r\nx\r\n" * 1000)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(b"1\r\nx\r\n" * 1001)
        answer = heard(connection)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"too many tiny pieces" in answer
    assert running.get("/healthz").status_code == 200


# The end


def test_a_server_without_work_ends_at_once(start: Start) -> None:
    running = start()
    running.signal()
    assert running.ends_within(10) and not running.server.was_interrupted


def test_what_is_in_hand_is_finished_and_can_be_fetched(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    running = start()
    job = submit(running.scheduler)
    running.signal()
    assert not running.ends_within(0.5) and running.scheduler.is_draining
    assert running.get("/readyz").status_code == 503
    answer = httpx.post(f"{running.url}/v1/upscale", files={"image": b"x"}, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (503, "draining") and answer.headers["retry-after"]
    finish(running.scheduler)
    assert not running.ends_within(0.5)
    assert running.get(f"/v1/jobs/{job.id}").json()["state"] == "done"
    job.result.write_bytes(b"picture")
    assert running.get(f"/v1/jobs/{job.id}/result").content == b"picture"
    assert running.ends_within(10)
    assert "It ends when all is done and fetched, in 60 seconds at the latest; once more: at once." in caplog.text


@pytest.mark.parametrize("signals", [1, 2])
def test_at_the_end_of_patience_all_are_told_to_come_again(start: Start, signals: int) -> None:
    running = start(drain_seconds=0.3 if signals == 1 else 60)
    job = submit(running.scheduler)
    with (
        httpx.stream("GET", f"{running.url}/v1/jobs/{job.id}/events", trust_env=False) as events,
        socket.create_connection(running.address) as waiting,
    ):
        parts = events.iter_text()
        assert next(parts).startswith("event: job")
        waiting.sendall(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        running.signal()
        assert not running.ends_within(0.2)
        for _ in range(signals - 1):
            running.signal()
        assert running.ends_within(10) and running.server.was_interrupted == (signals == 2)
        assert '"state":"failed"' in "".join(parts)
        head, _, body = heard(waiting).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: 10" in head and json.loads(body)["code"] == "draining"


def test_an_answer_on_its_way_is_waited_for_unless_somebody_insists(start: Start) -> None:
    running = start()
    with socket.create_connection(running.address) as connection:
        connection.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        running.signal()
        assert not running.ends_within(1)
        assert len(heard(connection)) > 2**24
    assert running.ends_within(5)
    running = start()
    with socket.create_connection(running.address) as connection:
        connection.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        running.signal()
        assert not running.ends_within(1)
        running.signal()
        assert running.ends_within(5)


# Addresses


def test_an_address_that_cannot_be_used_is_told_before_anything_is_loaded() -> None:
    (taken,) = listen("127.0.0.1", 0)
    with taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"^port={port} is in use; choose another, or 0 for any that is free.$"):
            listen("127.0.0.1", port)
    for host in ("192.0.2.1", "no.such.host.invalid", "x" * 300, "a..b"):
        with pytest.raises(InputError, match="is no address of this machine") as told:
            listen(host, 0)
        assert told.value.field == "host" and told.value.remedy.startswith("use 127.0.0.1 for this machine alone")
    refused = server._refusal("127.0.0.1", 80, PermissionError(errno.EACCES, "Permission denied"))
    assert str(refused) == "port=80 is for the system's own programs, as all below 1024 are; use 8000, behind a proxy."


def test_a_name_with_several_addresses_is_listened_at_by_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(host: str, port: int, **_: Any) -> list[Any]:
        named = [(socket.AF_INET, (address, port)) for address in ("127.0.0.1", "127.0.0.2", "192.0.2.1")]
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in named]

    monkeypatch.setattr(server.socket, "getaddrinfo", found)
    sockets = listen("localhost", 0)
    assert [place.getsockname()[0] for place in sockets] == ["127.0.0.1", "127.0.0.2"]
    assert len({place.getsockname()[1] for place in sockets}) == 1
    assert url_of("localhost", sockets) == f"http://localhost:{sockets[0].getsockname()[1]}"
    assert url_of("::1", sockets).startswith("http://[::1]:") and url_of("[::1]", sockets).startswith("http://[::1]:")
    for place in sockets:
        place.close()


# Numbers and memory


def test_numbers_tell_of_requests_jobs_and_workers(start: Start) -> None:
    running = start()
    scheduler = running.scheduler
    finished, refused, cancelled, _ = (submit(scheduler) for _ in range(4))
    finish(scheduler)
    assert scheduler.take(timeout=0) is refused
    scheduler.fail(refused, XPSRError("it died", code="worker_died"))
    scheduler.cancel(cancelled)
    running.metrics.died("cpu")
    assert running.get(f"/v1/jobs/{finished.id}").status_code == 200
    assert running.get("/v1/nothing").status_code == 404
    answer = running.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = running.numbers(("xpsr_http_request_duration_seconds_count", "/metrics"))
    assert found["xpsr_http_requests_total", "GET", "/v1/jobs/{id}", "200"] == 1
    assert found["xpsr_http_requests_total", "GET", "none", "404"] == 1
    assert found["xpsr_http_request_duration_seconds_count", "/metrics"] == 1
    assert found["xpsr_http_sent_bytes_total",] > len(answer.content)
    outcomes = {labels[2]: value for labels, value in found.items() if labels[0] == "xpsr_jobs_total"}
    assert outcomes == {"done": 1, "worker_died": 1, "cancelled": 1}
    assert found["xpsr_job_run_seconds_count", "upscale"] == 2 == found["xpsr_job_wait_seconds_count", "upscale"]
    assert found["xpsr_result_megapixels_total",] == 0.5
    states = {labels[1]: value for labels, value in found.items() if labels[0] == "xpsr_queue_jobs"}
    assert states == {"coming": 0, "waiting": 1, "running": 0, "kept": 3}
    assert found["xpsr_unfetched_results",] == 1 and found["xpsr_draining",] == 0
    assert found["xpsr_workers_up", "cpu"] == 0 and found["xpsr_worker_deaths_total", "cpu"] == 1
    assert all(name[0].startswith("xpsr_") for name in found)
    assert any(name[0] == "xpsr_build_info" for name in found)


def test_strange_methods_and_paths_make_no_new_series(start: Start, page: Path) -> None:
    running = start()
    with httpx.Client(trust_env=False) as client:
        for number in range(3):
            client.request(f"M{number}", f"{running.url}/v1/nothing{number}")
            client.get(f"{running.url}/page/{number}.js")
            client.get(f"{running.url}/v1/jobs/{number}")
    routes = {("other", "none", "404"), ("GET", "/page/{name:path}", "404"), ("GET", "/v1/jobs/{id}", "404")}
    found = running.numbers(*(("xpsr_http_requests_total", *route) for route in routes))
    assert {name[1:] for name in found if name[0] == "xpsr_http_requests_total"} == routes


def test_two_apps_in_a_process_count_for_themselves(start: Start) -> None:
    first, second = start(), start()
    first.get("/healthz")
    counted = ("xpsr_http_requests_total", "GET", "/healthz", "200")
    assert first.numbers(counted)[counted] == 1 and counted not in second.numbers()


def test_what_is_over_is_forgotten_while_the_server_runs(start: Start) -> None:
    running = start(keep_seconds=1)
    job = submit(running.scheduler)
    finish(running.scheduler)
    deadline = time.monotonic() + 20
    while job.folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not job.folder.exists() and running.get(f"/v1/jobs/{job.id}").status_code == 404
