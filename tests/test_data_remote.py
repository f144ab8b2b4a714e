"""Shards at an address: fetched once, whole and as their index says, whatever the server does."""

import functools
import http.server
import json
import multiprocessing
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xpsr.config import DataConfig, PairsConfig
from xpsr.data import build_dataset, make_pairs
from xpsr.data.shards import Shard, fetch_shard, list_shards
from xpsr.errors import InputError, TrainingError
from xpsr.files import sha256


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    for seed in range(6):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{seed}.png")
    return folder


@pytest.fixture
def shards(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "sharded"
    make_pairs(clean, folder, PairsConfig(num_per_image=2, seed=1, shard_size=4))
    return folder


def config(**changes: Any) -> DataConfig:
    return DataConfig(**({"crop_size": 32} | changes))


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder. `answers` come first, one to each request for a tar: a status, or how it is cut off.

    `/redirect/NAME` leads to NAME, `/padded.json` is an index after a thousand spaces, and `/drip` never ends.
    """

    asked: list[str] = []  # noqa: RUF012  # one server at a time
    answers: list[int | str] = []  # noqa: RUF012
    pause = threading.Event()  # there is no time.sleep

    def do_GET(self) -> None:
        Server.asked.append(self.path)
        if self.path.endswith(".tar") and Server.answers:
            answer = Server.answers.pop(0)
            if isinstance(answer, int):
                self.send_error(answer)
            elif answer == "short":
                self.begin(200, ("Content-Length", "1000"))
                self.wfile.write(b"too little")
            else:
                self.close_connection = True
            return
        if self.path.startswith("/redirect/"):
            self.begin(302, ("Location", self.path.removeprefix("/redirect")))
        elif self.path == "/padded.json":
            self.begin(200)
            self.wfile.write(b" " * 1000 + Path(self.directory, "index.json").read_bytes())
        elif self.path == "/drip":
            self.begin(200)
            with suppress(OSError):  # until the other side has enough of it
                while True:
                    self.wfile.write(b"x")
                    self.pause.wait(0.02)
        else:
            super().do_GET()

    def begin(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("xpsr.data.shards.time.sleep", lambda seconds: None)
    Server.asked, Server.answers = [], []
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Server, directory=str(shards / "shards"))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_remote_shards_give_the_same_samples_and_are_fetched_once(address: str, shards: Path, tmp_path: Path) -> None:
    here = build_dataset(config(shards=(str(shards),)), seed=4)
    there = build_dataset(config(shards=(f"{address}/index.json",), shard_cache=tmp_path), seed=4)
    assert Server.asked == ["/index.json"], "nothing is downloaded before it is wanted"
    for index in range(24):
        assert torch.equal(here[index].hr, there[index].hr) and here[index].prior == there[index].prior
    assert sorted(Server.asked) == ["/000000.tar", "/000001.tar", "/000002.tar", "/index.json"]
    assert not list(tmp_path.glob("*.part"))
    (tmp_path / "priors.jsonl").touch()
    with pytest.raises(TrainingError, match=r"data\.require_priors=true cannot be checked"):
        build_dataset(
            config(shards=(f"{address}/index.json",), priors=tmp_path / "priors.jsonl", require_priors=True), seed=4
        )


def test_a_download_that_fails_is_tried_again_and_never_half_kept(address: str, tmp_path: Path) -> None:
    (shard, *_) = list_shards([f"{address}/index.json"])
    Server.answers = [503, "short", "nothing"]
    assert sha256(fetch_shard(shard, tmp_path / "a")) == shard.sha256
    Server.answers = [408, 429, 500, "short"]
    with pytest.raises(TrainingError, match=r"cannot be downloaded: .*, 4 times; try again later"):
        fetch_shard(shard, tmp_path / "b")
    assert not [path for path in (tmp_path / "b").iterdir() if not path.name.startswith(".")]
    with pytest.raises(TrainingError, match="the server says 404"):
        list_shards([f"{address}/nowhere.json"])
    with pytest.raises(TrainingError, match="need an index"):
        list_shards([f"{address}/000000.tar"])
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"data\.shard_cache=.*file cannot be written .*; name a folder that can"):
        fetch_shard(shard, tmp_path / "file")
    locked = fetch_shard(shard, tmp_path / "c")
    locked.unlink()
    lock = locked.with_name(f".{locked.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # root may write to any folder; to this file it cannot
    with pytest.raises(TrainingError, match=r"data\.shard_cache=.*c cannot be written \(.*directory\); name a folder"):
        fetch_shard(shard, tmp_path / "c")


def test_shards_made_again_at_the_same_address_are_fetched_again(
    address: str, clean: Path, shards: Path, tmp_path: Path
) -> None:
    elsewhere = config(shards=(f"{address}/index.json",), shard_cache=tmp_path)
    first = build_dataset(elsewhere, seed=4)[0]
    shutil.rmtree(shards)
    make_pairs(clean, shards, PairsConfig(num_per_image=2, seed=2, shard_size=4))
    here, there = build_dataset(config(shards=(str(shards),)), seed=4)[0], build_dataset(elsewhere, seed=4)[0]
    assert torch.equal(there.lr, here.lr) and not torch.equal(there.lr, first.lr)
    shard = Shard(f"{address}/000000.tar", 4, size=10)
    with pytest.raises(TrainingError, match="has more than 10 bytes"):  # not what is there under that address
        fetch_shard(shard, tmp_path)


def test_without_a_sum_a_shard_with_another_number_of_pairs_is_fetched_again(address: str, tmp_path: Path) -> None:
    shard = Shard(f"{address}/000000.tar", 4)  # nor a size
    first = fetch_shard(shard, tmp_path)
    assert fetch_shard(replace(shard, num_pairs=3), tmp_path) != first
    assert Server.asked == ["/000000.tar"] * 2


def test_an_index_without_end_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list_shards([f"{address}/padded.json"])) == 3
    monkeypatch.setattr("xpsr.data.shards._MAX_INDEX", 1000)
    with pytest.raises(TrainingError, match=r"padded\.json: has more than 1000 bytes; check the address"):
        list_shards([f"{address}/padded.json"])


def test_a_server_that_hardly_sends_anything_is_given_up(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpsr.data.shards._TIMEOUT", 0.1)
    begun = time.monotonic()
    with pytest.raises(TrainingError, match="cannot be downloaded: fewer than 1024 bytes a second, 4 times"):
        fetch_shard(Shard(f"{address}/drip", 1), tmp_path)
    assert time.monotonic() - begun < 30


def test_addresses_are_followed_and_those_that_are_none_are_refused(address: str, tmp_path: Path) -> None:
    assert len(list_shards([f"{address}/redirect/index.json?x=1"])) == 3
    Server.asked = []
    with pytest.raises(TrainingError, match="cannot be downloaded: the server says 404"):
        fetch_shard(Shard(f"{address}/nowhere.tar", 1), tmp_path)
    assert Server.asked == ["/nowhere.tar"], "that does not pass by itself"
    for url in ("http:///index.json", "http://[::1/index.json", f"{address}/redirect/ftp://x/index.json"):
        with pytest.raises(TrainingError, match=r"cannot be downloaded: .*; check the address"):
            list_shards([url])


@pytest.mark.parametrize(
    "entry",
    [
        {"url": "file:///etc/passwd", "nsamples": 1},
        {"url": "a.tar", "nsamples": -5},
        {"url": "a.tar", "nsamples": 10**12},
        {"url": "a.tar", "nsamples": "many"},
        {"url": "http://[::1/a.tar", "nsamples": 1},
        {"url": "a.tar", "nsamples": 1, "sha256": 5},
        {"nsamples": 1},
        5,
    ],
)
def test_an_index_that_lies_is_refused(address: str, shards: Path, entry: object) -> None:
    (shards / "shards" / "index.json").write_text(json.dumps({"shardlist": [entry]}))
    with pytest.raises(InputError, match=r"index\.json: not an index of shards"):
        list_shards([f"{address}/index.json"])


def test_a_shard_that_is_not_what_was_promised_is_refused(address: str, tmp_path: Path) -> None:
    (shard, *_) = list_shards([f"{address}/index.json"])
    with pytest.raises(TrainingError, match="are not what its index promised"):
        fetch_shard(replace(shard, sha256="0" * 64), tmp_path)
    assert not list(tmp_path.glob("*.tar"))


def test_several_processes_fetch_a_shard_once(address: str, tmp_path: Path) -> None:
    (shard, *_) = list_shards([f"{address}/index.json"])
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch_shard, args=(shard, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert Server.asked == ["/index.json", "/000000.tar"]
