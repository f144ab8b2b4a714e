"""Who gets in, how much is read of what they send, and what every answer says: by ASGI alone, and over sockets."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, UploadFile
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xpsr.config import ServeConfig
from xpsr.errors import InputError
from xpsr.web import guards
from xpsr.web.door import Door, Hosts, Tokens, address_of, is_loopback
from xpsr.web.guards import Answer, Guards
from xpsr.web.problems import add_handlers

TOKEN = "a-token-of-many-letters"


@dataclass
class Heard:
    """An answer."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["content-length"] == str(len(self.body))
        told = json.loads(self.body)
        assert told["status"] == self.status and told["type"] == f"urn:xpsr:error:{told['code']}"
        return told


async def asked(
    app: ASGIApp,
    path: str = "/v1/models",
    *,
    method: str = "GET",
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    body: list[bytes] | None = None,
    client: str = "192.0.2.1",
    is_slow: bool = False,
) -> Heard:
    """Asks an app by ASGI. `is_slow`: after `body` nothing more comes, and it was not all."""
    pairs = headers if isinstance(headers, list) else [*({"host": "localhost"} | (headers or {})).items()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"secret=1",
        "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in pairs],
        "client": (client, 1234),
    }
    chunks, heard, over = list(body or [b""]), Heard(), asyncio.Event()

    async def receive() -> Message:
        if chunks:
            chunk = chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(chunks) or is_slow}
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert heard.status is None
            heard.status = message["status"]
            for name, value in message["headers"]:
                assert name == name.lower()
                assert name.decode() not in heard.headers, name
                heard.headers[name.decode()] = value.decode("latin-1")
        else:
            heard.body += message["body"]
            heard.is_whole = not message.get("more_body", False)

    await app(scope, receive, send)
    over.set()
    return heard


def ask(app: ASGIApp, path: str = "/v1/models", **parts: Any) -> Heard:
    return asyncio.run(asked(app, path, **parts))


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what was sent, and with what the guards say of who sent it."""
    request = Request(scope, receive)
    body = await request.body()
    told = {"bytes": len(body), "client": request.state.client, "owner": request.state.owner}
    await Response(json.dumps(told), headers={"server": "me"})(scope, receive, send)


def guarded(app: ASGIApp = echo, *, heard: Callable[[Answer], None] = lambda answer: None, **options: Any) -> Guards:
    config = ServeConfig(**options)
    return Guards(app, config=config, door=Door(config), on_answer=heard)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.txt"
    path.write_text(f"# of the photo club\n\n{TOKEN}\n  another-token-of-letters  \n")
    return path


@pytest.fixture(autouse=True, scope="module")
def _impatience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "_LINGER", 0.05)
        yield


# Names of the server


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "[0:0::1]"])
def test_this_machine_answers_to_its_own_names(host: str) -> None:
    assert ask(guarded(), headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8000",
        "[::2]",
        "",
        "a b",
        "ö",
        "[::1",
        "x@localhost",
    ],
)
def test_a_name_that_others_chose_is_refused_on_this_machine(host: str) -> None:
    heard = ask(guarded(), headers={"host": host})
    assert heard.status == 403
    assert heard.problem["code"] == "forbidden" and heard.problem["field"] == "Host" and heard.problem["remedy"]


def test_no_name_or_two_names_are_refused_on_this_machine() -> None:
    assert ask(guarded(), headers=[("accept", "*/*")]).status == 403
    assert ask(guarded(), headers=[("host", "localhost"), ("host", "localhost")]).status == 403


def test_elsewhere_every_name_is_answered_unless_some_are_given() -> None:
    assert ask(guarded(host="0.0.0.0"), headers={"host": "photos.example"}).status == 200
    assert ask(guarded(host="0.0.0.0"), headers=[("accept", "*/*")]).status == 200
    named = guarded(host="0.0.0.0", allowed_hosts=["photos.example", "10.0.0.1:8000"])
    assert ask(named, headers={"host": "10.0.0.1"}).status == 200
    assert ask(named, headers={"host": "Photos.Example.:443"}).status == 200
    assert ask(named, headers={"host": "localhost:8000"}).status == 200
    assert ask(named, headers={"host": "other.example"}).status == 403
    assert ask(named, "/healthz", headers={"host": "10.1.2.3"}).status == 200  # as orchestrators ask
    assert ask(named, "/readyz", headers={"host": "10.1.2.3"}).status == 200
    assert ask(named, "/metrics", headers={"host": "10.1.2.3"}).status == 403


def test_the_address_that_a_server_listens_at_is_a_name_of_it() -> None:
    assert ask(guarded(host="127.0.0.2"), headers={"host": "127.0.0.2:8000"}).status == 200
    assert ask(guarded(allowed_hosts=["nas.home"]), headers={"host": "nas.home"}).status == 200


def test_a_name_that_none_could_have_is_told_at_the_start() -> None:
    with pytest.raises(InputError, match=r"allowed_hosts has '\[:::\]', which is none; use names such as"):
        Door(ServeConfig(allowed_hosts=["[:::]"]))


@given(st.text(max_size=40))
def test_whatever_a_host_or_origin_is_it_is_answered_or_forbidden(text: str) -> None:
    hosts = Hosts("127.0.0.1")
    for host, origin in ((text, None), ("localhost", text), (text, text)):
        is_mine = host.lower().split(":")[0].rstrip(".") in ("localhost", "127.0.0.1")
        if is_mine and origin is None:
            continue
        with pytest.raises(InputError) as told:
            hosts.check(host, origin)
        assert told.value.code == "forbidden" and len(told.value.sentence().splitlines()) == 1


HOST = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True)


@given(HOST, HOST, st.integers(1, 65535), st.sampled_from(["http", "https"]))
def test_a_page_reaches_the_host_it_came_from_and_no_other(host: str, other: str, port: int, scheme: str) -> None:
    hosts = Hosts("0.0.0.0")
    usual = {"http": 80, "https": 443}[scheme]
    hosts.check(host, f"{scheme}://{host}")
    hosts.check(f"{host}:{usual}", f"{scheme}://{host}")
    hosts.check(f"{host.upper()}:{port}", f"{scheme}://{host}:{port}")
    refused = [f"{scheme}://{host}:{port % 65535 + 1}", f"{scheme}://{host}.{other}:{port}", "null", f"file://{host}"]
    refused += [f"{scheme}://{other}:{port}"] * (other != host) + [f"{scheme}://{host}:{port}/", f"{scheme}://"]
    for origin in refused:
        with pytest.raises(InputError, match="is not the host that was asked"):
            hosts.check(f"{host}:{port}", origin)


def test_a_page_of_another_host_is_refused_and_told_why() -> None:
    app = guarded()
    assert ask(app, headers={"host": "localhost:8000", "origin": "http://localhost:8000"}).status == 200
    heard = ask(app, method="OPTIONS", headers={"host": "localhost:8000", "origin": "http://localhost:3000"})
    assert heard.status == 403 and heard.problem["field"] == "Origin" and "localhost:8000" in heard.problem["detail"]
    twice = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")]
    assert ask(app, headers=twice).status == 403
    assert not any(name.startswith("access-control") for name in heard.headers)


# Tokens


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/jobs/x", "/nothing", "/pages", "//", "/Page/a.js"])
def test_everything_of_worth_needs_a_token(path: str, token_file: Path) -> None:
    app = guarded(token_file=token_file)
    for headers in (
        {},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer ü"},
        {"authorization": f"Bearer {TOKEN} {TOKEN}"},
    ):
        heard = ask(app, path, headers=headers)
        assert heard.status == 401 and heard.problem["code"] == "unauthorized"
        assert heard.headers["www-authenticate"] == "Bearer" and TOKEN.encode() not in heard.body
    two = [("host", "localhost"), *[("authorization", f"Bearer {TOKEN}")] * 2]
    assert ask(app, path, headers=two).status == 401
    assert ask(app, path, headers={"authorization": f"bearer  {TOKEN}"}).status == 200


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/healthz", "/readyz", "/openapi.json"])
def test_the_page_and_probes_need_no_token(path: str, token_file: Path) -> None:
    assert ask(guarded(token_file=token_file), path).status == 200


def test_a_client_is_its_address_or_whoever_holds_the_token(token_file: Path) -> None:
    app = guarded()
    for address, name in (
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::5", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("strange\n" * 20, ("strange\\n" * 20)[: 8 * 9]),
    ):
        assert json.loads(ask(app, client=address).body) == {"bytes": 0, "client": name, "owner": ""}
    assert address_of(None) == "unknown"
    tokened = guarded(token_file=token_file)
    said = [
        json.loads(ask(tokened, headers={"authorization": f"Bearer {token}"}, client=client).body)
        for token, client in ((TOKEN, "192.0.2.1"), (TOKEN, "192.0.2.2"), ("another-token-of-letters", "192.0.2.2"))
    ]
    assert said[0] == said[1] and said[0]["client"] == said[0]["owner"] != said[2]["owner"]
    assert TOKEN not in json.dumps(said) and len(said[0]["owner"]) == 12


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "# one\n\nshort-token\n",
            "line 3 has 11 characters, and a token needs 16; make one with: openssl rand -hex 24.",
        ),
        (
            f"{TOKEN}\nsecret token of somebody\n",
            "line 2 holds what no token has; use letters, digits and -._~+/ alone.",
        ),
        ("geheimwörter-von-jemand", "line 1 holds what no token has; use letters"),
        ("# nothing\n", "holds no token; write one a line."),
        (None, "cannot be read (No such file or directory); check the path."),
    ],
)
def test_a_file_of_tokens_that_is_none_is_told_by_line_and_never_by_token(
    tmp_path: Path, text: str | None, line: str
) -> None:
    path = tmp_path / "tokens.txt"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as told:
        Tokens(path)
    assert str(told.value).startswith(f"{path}: {line}")
    assert not any(word in str(told.value) for word in (TOKEN, "short-token", "secret", "geheim"))


def test_a_file_of_tokens_that_changes_is_read_again_and_a_broken_one_is_not(
    token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = Tokens(token_file)
    holder = tokens.holder(TOKEN.encode())
    assert holder is not None and tokens.holder(b"third-token-of-letters") is None
    token_file.write_text(f"third-token-of-letters\n{TOKEN}\n")
    assert tokens.holder(TOKEN.encode()) == holder != tokens.holder(b"third-token-of-letters") is not None
    assert tokens.holder(b"another-token-of-letters") is None
    token_file.write_text("short\n")
    assert tokens.holder(TOKEN.encode()) == holder
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "The tokens that were read before stay." in caplog.text and TOKEN not in caplog.text


@pytest.mark.parametrize("text", [None, "", "# nobody\n"])
def test_a_file_of_tokens_that_goes_or_is_emptied_lets_nobody_in(
    token_file: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    tokens = Tokens(token_file)
    if text is None:
        token_file.unlink()
    else:
        token_file.write_text(text)
    assert tokens.holder(TOKEN.encode()) is None and tokens.holder(TOKEN.encode()) is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.text.count("Nobody is let in until it holds tokens.") == 1
    token_file.write_text(f"{TOKEN}\n")
    assert tokens.holder(TOKEN.encode()) is not None


def test_addresses_that_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "photos.example", "")))


# Bodies


def test_a_body_that_says_it_is_too_long_is_refused_and_not_read() -> None:
    read = []

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        read.append(await receive())

    app = guarded(reading, max_bytes=1000)
    for length in ("66537", "9" * 30):
        heard = ask(app, "/v1/upscale", method="POST", headers={"content-length": length}, body=[b"x"] * 3)
        assert heard.status == 413 and not read and heard.headers["connection"] == "close" and heard.is_whole
        assert heard.problem["code"] == "too_large" and heard.problem["limit"] == 1000
        assert heard.problem["remedy"] == "send a picture's file of at most 1000 bytes"
    heard = ask(app, "/v1/models", method="POST", headers={"content-length": "65537"}, body=[b""])
    assert heard.status == 413 and heard.problem["limit"] == 65536
    heard = ask(app, "/v1/upscale", method="PUT", headers={"content-length": "66000"}, body=[b""])
    assert heard.status == 413


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=8), st.one_of(st.none(), st.integers(0, 140_000)))
def test_what_comes_is_counted_whatever_length_was_said(sizes: list[int], said: int | None) -> None:
    answers: list[Answer] = []
    app = guarded(max_bytes=10_000, heard=answers.append)
    headers = {"transfer-encoding": "chunked"} if said is None else {"content-length": str(said)}
    body = [b"x" * size for size in sizes] if said != 0 else [b""]
    heard = ask(app, "/v1/describe", method="POST", headers=headers, body=body)
    limit = 10_000 + 65_536
    is_too_much = (said or 0) > limit or (sum(sizes) > limit and said != 0)
    assert heard.status == (413 if is_too_much else 200) and heard.is_whole
    if is_too_much:
        assert heard.problem["code"] == "too_large"
    else:
        assert json.loads(heard.body)["bytes"] == answers[0].received == sum(map(len, body))


def form() -> FastAPI:
    """An app as FastAPI makes them, whose parser catches whatever happens while it reads."""
    app = FastAPI()

    @app.post("/v1/upscale")
    async def upscale(image: UploadFile) -> int:
        return image.size or 0

    @app.post("/v1/describe")
    async def describe(request: Request) -> int:
        try:
            return len(await request.body())
        except ClientDisconnect:
            return -1

    return app


def multipart(size: int) -> tuple[dict[str, str], list[bytes]]:
    head = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    content = [b"x" * min(10_000, size - start) for start in range(0, size, 10_000)]
    return {"content-type": "multipart/form-data; boundary=cut"}, [head, *content, b"\r\n--cut--\r\n"]


@pytest.mark.parametrize("path", ["/v1/upscale", "/v1/describe"])
def test_a_breach_is_told_as_what_it_is_whatever_the_parser_makes_of_it(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = guarded(form(), max_bytes=1000, upload_seconds=0.1)
    headers, body = multipart(50_000)
    headers |= {"transfer-encoding": "chunked"}
    assert ask(app, path, method="POST", headers=headers, body=body).status == 200
    heard = ask(app, path, method="POST", headers=headers, body=multipart(70_000)[1])
    assert heard.status == 413 and heard.problem["limit"] == 1000
    heard = ask(app, path, method="POST", headers=headers, body=body[:3], is_slow=True)
    assert heard.status == 408 and heard.problem["code"] == "too_slow_upload" and heard.problem["limit"] == 0.1
    assert "unexpected" not in caplog.text


def test_a_drip_that_never_pauses_is_too_slow_all_the_same() -> None:
    async def dripping() -> Heard:
        chunks = 0

        async def receive() -> Message:
            nonlocal chunks
            chunks += 1
            if heard.status is not None:
                return {"type": "http.disconnect"}
            time.sleep(0.01)  # the loop has no moment to cancel anything
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Message) -> None:
            heard.status = heard.status or message["status"]

        heard = Heard()
        headers = [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": "/v1/describe", "headers": headers}
        await guarded(upload_seconds=0.1)(scope, receive, send)
        assert chunks < 20
        return heard

    assert asyncio.run(dripping()).status == 408


def test_a_client_that_goes_away_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Answer] = []

    async def leaving() -> list[Message]:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        sent: list[Message] = []
        headers = [(b"host", b"localhost"), (b"content-length", b"10")]
        scope = {"type": "http", "method": "POST", "path": "/v1/describe", "headers": headers}
        await guarded(heard=answers.append)(scope, receive, send)
        return sent

    with caplog.at_level(logging.INFO):
        assert asyncio.run(leaving()) == []
    assert answers[0].status is None and [record.levelname for record in caplog.records] == ["INFO"]


def test_an_early_answer_closes_the_connection_and_lets_the_sender_hear_it() -> None:
    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("later", 429)(scope, receive, send)

    heard = ask(guarded(busy), "/v1/upscale", method="POST", headers={"content-length": "9"}, body=[b"abc"] * 3)
    assert (heard.status, heard.body, heard.headers["connection"], heard.is_whole) == (429, b"later", "close", True)
    heard = ask(guarded(), "/v1/upscale", method="POST", headers={"content-length": "9"}, body=[b"abc"] * 3)
    assert "connection" not in heard.headers


def linger(pause: float, *, pieces: int = 20, **options: Any) -> int:
    """Returns how many bytes are taken of those that come, with pauses, after an early refusal."""
    answers: list[Answer] = []

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no", 415)(scope, receive, send)

    async def sending() -> None:
        left = pieces

        async def receive() -> Message:
            nonlocal left
            await asyncio.sleep(pause)
            left -= 1
            return {"type": "http.request", "body": bytes(100), "more_body": left > 0}

        async def send(message: Message) -> None:
            pass

        headers = [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": "/v1/upscale", "headers": headers}
        await guarded(refusing, heard=answers.append, **options)(scope, receive, send)

    asyncio.run(sending())
    return answers[0].received


def test_a_slow_sender_hears_an_early_refusal_as_long_as_it_sends() -> None:
    assert linger(0.01) == 1900  # in four times what it may pause for; the last piece is the end
    assert linger(0.2) == 0
    assert 0 < linger(0.01, pieces=100, upload_seconds=0.2) < 3000
    assert 500 < linger(0.01, pieces=100, max_bytes=500) < 1000


# Answers


PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.mark.parametrize(
    ("path", "host"), [("/", "localhost"), ("/v1/jobs/x", "localhost"), ("/v1/jobs/x", "evil.example")]
)
def test_every_answer_says_what_browsers_must_not_do(path: str, host: str) -> None:
    headers = ask(guarded(), path, headers={"host": host}).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer" and headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path == "/" else "no-store")
    policy = headers["content-security-policy"]
    assert policy == PAGE_POLICY if path == "/" else policy.startswith("default-src 'none'; ")


def test_a_mistake_is_told_as_unexpected_and_logged_whole(caplog: pytest.LogCaptureFixture) -> None:
    async def wrong(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a secret path")

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        raise InputError("is wrong", code="too_large", field="x")

    heard = ask(guarded(wrong))
    assert heard.status == 500 and heard.problem["code"] == "unexpected" and b"secret" not in heard.body
    assert "a secret path" in caplog.text
    assert ask(guarded(refusing)).status == 413


def test_an_answer_that_breaks_off_is_not_told_as_whole(caplog: pytest.LogCaptureFixture) -> None:
    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        def parts() -> Iterator[bytes]:
            yield b"a"
            raise RuntimeError("no more")

        await StreamingResponse(parts())(scope, receive, send)

    answers: list[Answer] = []
    with caplog.at_level(logging.INFO, logger="xpsr.web.access"):
        heard = ask(guarded(breaking, heard=answers.append))
    assert (heard.status, heard.body, heard.is_whole) == (200, b"a", False) and "no more" in caplog.text
    assert answers[0].is_cut and "GET /v1/models 200 cut 1 bytes" in caplog.text


def test_a_file_that_goes_while_it_is_sent_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app, config = FastAPI(), ServeConfig()
    app.add_middleware(Guards, config=config, door=Door(config))
    add_handlers(app)
    (tmp_path / "a.png").write_bytes(b"x")

    @app.get("/v1/models")
    async def models() -> FileResponse:
        response = FileResponse(tmp_path / "a.png", stat_result=(tmp_path / "a.png").stat())
        (tmp_path / "a.png").unlink()
        return response

    heard = ask(app)
    assert (heard.status, heard.is_whole) == (200, False)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.exc_info is None and "A file has gone" in record.message


def test_a_proxy_that_is_not_believed_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    forwarded = {"x-forwarded-for": "203.0.113.9, 192.0.2.7"}
    app = guarded(forwarded_allow_ips=["10.0.0.0/8"])
    ask(app), ask(app, headers=forwarded, client="10.0.0.1"), ask(app, headers=forwarded, client="192.0.2.7")
    assert not caplog.records
    for _ in range(2):
        ask(app, headers=forwarded, client="198.51.100.1")
    (record,) = caplog.records
    assert "came from 198.51.100.1" in record.message and "--forwarded-allow-ips" in record.message


def test_a_request_that_is_cut_off_by_the_end_is_told_to_come_again() -> None:
    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    async def cutting() -> Heard:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError

        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [(b"host", b"localhost")]}
        task = asyncio.create_task(guarded(waiting)(scope, receive, send))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return Heard(sent[0]["status"], {n.decode(): v.decode() for n, v in sent[0]["headers"]}, sent[1]["body"])

    heard = asyncio.run(cutting())
    assert heard.status == 503 and heard.problem["code"] == "draining" and heard.headers["retry-after"] == "10"


def test_one_client_does_not_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_MOST_AT_ONCE", 3)

    async def many() -> tuple[list[int | None], int | None, int | None, int | None]:
        go_on = asyncio.Event()

        async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/v1/models":
                await go_on.wait()
            await PlainTextResponse("done")(scope, receive, send)

        app = guarded(waiting, max_per_client=1)
        tasks = [asyncio.create_task(asked(app)) for _ in range(3)]
        await asyncio.sleep(0.01)
        refused, other = await asked(app), await asked(app, "/v1/jobs/x", client="192.0.2.2")
        probe = await asked(app, "/healthz")
        assert refused.problem["code"] == "too_many" and refused.headers["retry-after"] == "1"
        go_on.set()
        done = [heard.status for heard in await asyncio.gather(*tasks)]
        again = await asked(app)
        assert not app._at_once
        return done, other.status, probe.status, again.status

    assert asyncio.run(many()) == ([200] * 3, 200, 200, 200)


def test_the_log_has_a_line_a_request_without_secrets(caplog: pytest.LogCaptureFixture, token_file: Path) -> None:
    app = guarded(token_file=token_file)
    with caplog.at_level(logging.INFO, logger="xpsr.web.access"):
        ask(app, "/v1/jobs/0123456789abcdef/result", headers={"authorization": f"Bearer {TOKEN}"})
        ask(app, "/v1/\n\x1b[31m" + "x" * 1000)
        ask(app, "/healthz"), ask(app, "/metrics")
    first, second = (record.message for record in caplog.records)
    method, path, status, size, unit, seconds, s, client = first.split(" ")
    assert (method, path, status, unit, s) == ("GET", "/v1/jobs/012345.../result", "200", "bytes", "s")
    assert int(size) > 10 and float(seconds) < 10 and len(client) == 12
    assert second.isprintable() and " 401 " in second and second.endswith(" s 192.0.2.1") and len(second) < 300
    assert "secret" not in caplog.text and TOKEN not in caplog.text
