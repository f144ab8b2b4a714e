"""Pictures of strangers in a process of their own: what goes wrong there is one line here."""

import json
import os
import signal
import socket
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import picture_files as files
import pytest
import torch
from fork_server import run_python
from picture_files import noise
from PIL import Image

from xpsr.errors import InputError
from xpsr.image import Facts, Limits, decode_image, decode_in_process, inspect_in_process
from xpsr.image.isolation import _SERVER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process that decodes takes")


def test_a_picture_comes_back_whole(tmp_path: Path) -> None:
    image = Image.fromarray(noise(40, 30, 4, "uint8"))
    for content in (
        files.png(noise(9, 13, 4), before=files.chunk(b"eXIf", files.exif(6)[6:])),
        files.pillow_bytes(image, "WEBP", exif=files.exif(3), xmp=b"<x/>", icc_profile=b"no profile"),
        files.pillow_bytes(image.convert("RGB"), "JPEG", dpi=(300, 200)),
        files.tiff(noise(9, 13, 3, "float32"), pages=3),
        files.by_oiio(tmp_path / "a.jxl", noise(9, 13, 3)),
    ):
        here, there = decode_image(content, "picture"), decode_in_process(content)
        assert torch.equal(here.pixels, there.pixels) and here.origin == there.origin
        assert (here.alpha is None) == (there.alpha is None)
        assert here.alpha is None or torch.equal(here.alpha, there.alpha)  # type: ignore[arg-type]


def test_what_a_picture_is_comes_without_its_pixels() -> None:
    turned = files.png(noise(9, 13, 4), before=files.chunk(b"eXIf", files.exif(6)[6:]))
    assert inspect_in_process(turned) == Facts(width=9, height=13, format="PNG", has_alpha=True)
    plain = files.pillow_bytes(Image.fromarray(noise(40, 30, 3, "uint8")), "JPEG")
    assert inspect_in_process(plain, name="a.jpg") == Facts(width=30, height=40, format="JPEG", has_alpha=False)


def test_what_is_refused_is_refused_alike() -> None:
    cut = files.pillow_bytes(Image.fromarray(noise(40, 30, 3, "uint8")), "PNG")[:2000]
    for content, limits in (
        (b"", None),
        (b"text", None),
        (cut, None),
        (files.png(noise(9, 13, 3)), Limits(max_side=9)),
    ):
        errors = []
        for decode in (
            decode_image,
            lambda content, name, limits: decode_in_process(content, name=name, limits=limits),
            lambda content, name, limits: inspect_in_process(content, name=name, limits=limits),
        ):
            with pytest.raises(InputError) as caught:
                decode(content, "a.png", limits=limits or Limits())  # type: ignore[operator]
            errors.append((str(caught.value), caught.value.code))
        assert errors[0] == errors[1] == errors[2]
    assert decode_in_process(cut, accept_truncated=True).origin.notices  # type: ignore[union-attr]
    assert inspect_in_process(cut, accept_truncated=True).width == 30


def large() -> bytes:
    """A PNG of 36 million pixels that takes a second to decode, and 500 MB."""
    content = files.png(noise(1, 1, 3, "uint8"))
    start = content.index(b"IDAT") - 4
    header = files.chunk(b"IHDR", (6000).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0]))
    pixels = zlib.compress(bytes(6000 * 18001), 1)
    return content[:8] + header + files.chunk(b"IDAT", pixels) + content[start:][-12:]


def test_memory_and_time_are_limited() -> None:
    content = large()
    with pytest.raises(
        InputError, match=r"^big: (does not fit in memory|its decoder crashed or took more than 67108864)"
    ):
        decode_in_process(content, name="big", memory=2**26)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"^big: took more than 0\.05 seconds to decode; shrink it") as caught:
        decode_in_process(content, name="big", seconds=0.05)
    assert caught.value.code == "too_slow" and time.monotonic() - started < 5
    with pytest.raises(InputError, match=r"^memory=0 is not in"):
        decode_in_process(content, memory=0)


def test_a_killed_decoder_is_one_line() -> None:
    decode_in_process(files.png(noise(1, 1, 3)))
    server = _SERVER._process
    assert server is not None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(decode_in_process, large(), name="big")
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.001)
        os.kill(int(found[0]), signal.SIGSEGV)
        with pytest.raises(InputError, match=r"^big: its decoder crashed or took more than 4294967296 bytes;"):
            waiting.result()
    server.kill()  # by whoever looks after memory
    server.wait()
    assert decode_in_process(files.png(noise(4, 5, 3))).width == 5


SAID = {"height": 1, "width": 1, "tensors": ["pixels"], "bytes": {}}
ORIGIN = {"format": "PNG", "model": "rgb", "bits": 8, "dpi": None, "notices": []}


@pytest.mark.parametrize(
    "told",
    [
        b"[" * 100_000,
        *(
            json.dumps(words).encode()
            for words in (
                [],
                {"error": "no"},
                {**SAID, "height": -1, "width": -1, "origin": ORIGIN},
                {**SAID, "height": float("inf"), "origin": ORIGIN},
                {**SAID, "bytes": [1], "origin": ORIGIN},
                {**SAID, "origin": {**ORIGIN, "model": "pink"}},
                {**SAID, "origin": {**ORIGIN, "bits": 7}},
                {**SAID, "origin": {**ORIGIN, "dpi": [float("nan"), 1]}},
            )
        ),
    ],
)
def test_a_decoder_that_says_nonsense_is_one_line(told: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []

    def hand(connection: socket.socket) -> None:
        ends.append(connection.dup())
        ends[0].sendall(len(told).to_bytes(4) + told + bytes(12))

    monkeypatch.setattr(_SERVER, "hand", hand)
    with pytest.raises(InputError, match=r"^picture: its decoder crashed or "):
        decode_in_process(b"")
    ends[0].close()


def test_metadata_may_unpack_to_more_than_the_file() -> None:
    packed = zlib.compress(files.xmp(1).ljust(100_000))
    content = files.png(noise(4, 4, 3), before=files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed))
    limits = Limits(max_bytes=len(content))
    assert decode_in_process(content, limits=limits).origin == decode_image(content, "picture", limits=limits).origin


def test_threads_may_decode_at_once() -> None:
    contents = [files.png(noise(height, 7, 3)) for height in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(decode_in_process, contents))
    assert [picture.height for picture in pictures] == list(range(1, 9))


def test_the_server_ends_with_its_parent() -> None:
    code = (
        "from xpsr.image import decode_in_process; from xpsr.image.isolation import _SERVER; import sys, os\n"
        "try: decode_in_process(b'text')\n"
        "except ValueError: pass\n"
        "print(_SERVER._process.pid)"
    )
    done = run_python("-c", code)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{done.stdout.strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{done.stdout.strip()}").exists() and (done.returncode, done.stderr) == (0, "")
