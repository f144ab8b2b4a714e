"""Pictures of strangers, decoded in a process of their own, which may run out of memory or time or crash.

The first picture starts a server, a process that has imported what decoders need. It forks for every picture: a process
with threads, as this one may be, cannot fork itself. What comes back is numbers and bytes, never pickles.
"""

import atexit
import gc
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from xpsr.config.checks import check_argument, within
from xpsr.errors import InputError, XPSRError
from xpsr.image.limits import Limits
from xpsr.image.origin import Origin
from xpsr.image.picture import NUM_COLORS, Picture, damaged
from xpsr.image.reading import decode_image

__all__ = ["Facts", "decode_in_process", "inspect_in_process"]

T = TypeVar("T")

_NONSENSE = (AttributeError, EOFError, LookupError, OSError, OverflowError, RecursionError, TypeError, ValueError)
"""What comes of an answer that is none, or of none."""

_START = "import sys; from xpsr.image.isolation import serve; serve(int(sys.argv[1]))"
_MOST_WORDS = 2**20
_TENSORS = ("pixels", "alpha", "excess")
_BYTES = ("icc", "exif", "xmp", "iptc")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a picture is that can be read: its sides, upright, Pillow's name of its format, whether it has alpha."""

    width: int
    height: int
    format: str
    has_alpha: bool


def decode_in_process(
    content: bytes | bytearray,
    *,
    name: str = "picture",
    limits: Limits | None = None,
    accept_truncated: bool = False,
    memory: int = 2**32,
    seconds: float = 60.0,
) -> Picture:
    """Returns the picture in the bytes of a file as `decode_image` does, from a process that may come to no good.

    It is there on Linux, and without the limit of memory on macOS. The first call takes some seconds longer than
    others. Any number of threads may call it.

    Args:
        content: a file's bytes.
        name: how errors call the picture.
        limits: what is refused before it is decoded; None: the usual ones.
        accept_truncated: whether a file that ends too early is read as far as it goes.
        memory: bytes that decoding may take.
        seconds: how long it may take.

    Raises:
        InputError: as `read_image`; or decoding took more memory or time, or crashed.
        XPSRError: this system has no processes of this kind, or they cannot be started.
    """
    limits = limits or Limits()
    request = _request(name, limits, accept_truncated, memory, seconds)
    return _asked(request, content, lambda line: _picture(line, limits))


def inspect_in_process(
    content: bytes | bytearray,
    *,
    name: str = "picture",
    limits: Limits | None = None,
    accept_truncated: bool = False,
    memory: int = 2**32,
    seconds: float = 60.0,
) -> Facts:
    """Returns what the picture in the bytes of a file is, once it has been decoded as `decode_in_process` does.

    Its pixels stay where they are, so that this process needs no memory for them. Arguments and errors are the same.
    """
    limits = limits or Limits()
    request = _request(name, limits, accept_truncated, memory, seconds) | {"facts": True}
    return _asked(request, content, lambda line: _facts(line.hear(), limits))


def _request(name: str, limits: Limits, accept_truncated: bool, memory: int, seconds: float) -> dict[str, Any]:
    """What the process is told before the bytes come.

    Raises:
        InputError: memory or seconds are out of range.
    """
    check_argument("memory", memory, int, within(1, 2**50))
    check_argument("seconds", seconds, float, within(0.001, 1e6))
    return {
        "name": name,
        "limits": asdict(limits),
        "accept_truncated": accept_truncated,
        "memory": memory,
        "seconds": seconds,
    }


def _asked(request: dict[str, Any], content: bytes | bytearray, hear: Callable[["_Line"], T]) -> T:
    """Returns what `hear` makes of the answer of a process that decodes the bytes.

    Raises:
        InputError: the picture is refused; or decoding took more memory or time, or crashed.
        XPSRError: there are no such processes here.
    """
    name, memory, seconds = request["name"], request["memory"], request["seconds"]
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            _SERVER.hand(theirs)
        started = time.monotonic()
        line = _Line(ours, until=started + seconds + 5)  # the process ends by itself in time
        try:
            line.say(request | {"size": len(content)})
            line.send(content)
            return hear(line)
        except InputError:
            raise
        except _NONSENSE as error:  # or it was killed
            if time.monotonic() - started >= seconds:
                message = f"{name}: took more than {seconds:g} seconds to decode"
                raise InputError(message, code="too_slow", remedy="shrink it or save it in another format") from error
            message = f"{name}: its decoder crashed or took more than {memory} bytes"
            raise InputError(message, code="damaged", remedy="save it again with another program") from error


class _Line:
    """A socket to a process that answers, or not, within a time."""

    def __init__(self, connection: socket.socket, until: float = math.inf):
        self._connection, self._until = connection, until

    def _wait(self) -> None:
        if self._until < math.inf:
            self._connection.settimeout(max(0.001, self._until - time.monotonic()))

    def send(self, content: bytes | bytearray | memoryview) -> None:
        self._wait()
        self._connection.sendall(content)

    def receive(self, place: memoryview) -> None:
        """Fills `place`."""
        while len(place):
            self._wait()
            count = self._connection.recv_into(place[: 2**24])
            if count == 0:
                raise EOFError
            place = place[count:]

    def say(self, words: dict[str, Any]) -> None:
        told = json.dumps(words).encode()
        self.send(len(told).to_bytes(4) + told)

    def hear(self) -> dict[str, Any]:
        length = bytearray(4)
        self.receive(memoryview(length))
        size = int.from_bytes(length)
        if size > _MOST_WORDS:
            raise EOFError
        told = bytearray(size)
        self.receive(memoryview(told))
        words: dict[str, Any] = json.loads(told)
        return words


def _facts(answer: dict[str, Any], limits: Limits) -> Facts:
    """Reads the first words of an answer, of which nothing is believed: a decoder may have been taken over.

    Raises:
        InputError: the picture is refused.
        EOFError: they make no sense.
    """
    if "error" in answer:
        parts = {part: None if told is None else str(told) for part, told in answer["error"].items()}
        limit = parts.pop("limit")
        raise InputError(parts.pop("message") or "", **parts, limit=None if limit is None else float(limit))
    height, width = int(answer["height"]), int(answer["width"])
    lengths = [int(length) for length in answer["bytes"].values()]
    is_size = min(height, width) > 0 and height * width <= limits.max_pixels
    most = limits.max_bytes + limits.max_metadata  # as in the file, or unpacked
    if not is_size or min(lengths, default=0) < 0 or sum(lengths) > most:
        raise EOFError
    return Facts(
        width=width, height=height, format=str(answer["origin"]["format"]), has_alpha="alpha" in answer["tensors"]
    )


def _picture(line: _Line, limits: Limits) -> Picture:
    """Hears a whole answer.

    Raises:
        InputError: the picture is refused.
        EOFError: there is no answer, or one that makes no sense.
    """
    answer = line.hear()
    facts = _facts(answer, limits)
    height, width = facts.height, facts.width
    tensors = {}
    for part in _TENSORS:
        if part in answer["tensors"]:
            tensors[part] = torch.empty(1 if part == "alpha" else 3, height, width)
            line.receive(tensors[part].numpy().data.cast("B"))
    held = {}
    for part in _BYTES:
        if part in answer["bytes"]:
            place = bytearray(int(answer["bytes"][part]))
            line.receive(memoryview(place))
            held[part] = bytes(place)
    said = answer["origin"]
    dpi = said["dpi"] and (float(said["dpi"][0]), float(said["dpi"][1]))
    is_sense = said["model"] in NUM_COLORS and said["bits"] in (1, 8, 10, 12, 16, 32)
    if not is_sense or (dpi and not all(1 <= value <= 1e6 for value in dpi)):
        raise EOFError
    notices = tuple(map(str, said["notices"]))
    origin = Origin(format=facts.format, model=said["model"], bits=said["bits"], dpi=dpi, notices=notices, **held)
    return Picture(**tensors, origin=origin)


class _Server:
    """The process that forks: started when it is needed, and again where it has gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def hand(self, connection: socket.socket) -> None:
        """Hands it the end of a line on which a picture comes."""
        if not (hasattr(os, "fork") and hasattr(socket, "send_fds")):
            raise XPSRError("Pictures are decoded in processes of their own on Linux and macOS alone; use read_image.")
        with self._lock:
            for _ in range(2):
                try:
                    if self._control is None or self._process is None or self._process.poll() is not None:
                        self._start()
                    assert self._control is not None
                    socket.send_fds(self._control, [b"\n"], [connection.fileno()])
                    return
                except OSError:
                    self.end()
        remedy = "end other programs and try again"
        raise XPSRError("the process that decodes pictures cannot be started", remedy=remedy)

    def _start(self) -> None:
        self.end()
        ours, theirs = socket.socketpair()
        self._control = ours
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # where decoders speak of what is damaged
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is not for it
            )
        ours.settimeout(120)
        if not ours.recv(1):
            raise OSError("it ended before it was ready")
        ours.settimeout(10)

    def end(self) -> None:
        """Lets the process go."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._control = self._process = None

    def forget(self) -> None:
        """After a fork: the process is that of the parent."""
        self._lock = threading.Lock()
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.returncode = 0  # nobody here waits for it
        self._control = self._process = None


_SERVER = _Server()
atexit.register(_SERVER.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SERVER.forget)


def serve(number: int) -> None:
    """Is the server: forks for every line that comes by the socket of this number, until the other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits
    import cv2  # noqa: F401 - here, so that not every process imports them
    import OpenImageIO  # noqa: F401

    with suppress(ImportError):
        import pillow_heif  # noqa: F401
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is not gone through, and so not copied, in the others
    with socket.socket(fileno=number) as control:
        control.sendall(b"\n")
        while True:
            told, lines, *_ = socket.recv_fds(control, 1, 1)
            if not told:
                return
            if os.fork() == 0:
                control.close()
                with suppress(BaseException):
                    _answer(lines[0])
                os._exit(0)
            os.close(lines[0])


def _answer(number: int) -> None:
    """Decodes one picture, within its limits."""
    with socket.socket(fileno=number) as connection:
        line = _Line(connection)
        request = line.hear()
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])  # the system's own, whatever a decoder does
        content = bytearray(request["size"])
        line.receive(memoryview(content))
        _limit(request["memory"], request["seconds"], len(content))
        name = request["name"]
        try:
            limits = Limits(**request["limits"])
            picture = decode_image(content, name, limits=limits, accept_truncated=request["accept_truncated"])
        except InputError as error:
            line.say({"error": error.parts})
            return
        except Exception as error:  # a mistake of ours, or torch, which has an error of its own for memory
            lacks_memory = "allocate memory" in str(error)
            line.say({"error": damaged(name, MemoryError() if lacks_memory else error).parts})
            return
        origin = picture.origin
        assert origin is not None
        held = {part: data for part in _BYTES if (data := getattr(origin, part)) is not None}
        tensors = {part: data for part in _TENSORS if (data := getattr(picture, part)) is not None}
        line.say(
            {
                "height": picture.height,
                "width": picture.width,
                "tensors": list(tensors),
                "bytes": {part: len(data) for part, data in held.items()},
                "origin": {part: getattr(origin, part) for part in ("format", "model", "bits", "dpi", "notices")},
            }
        )
        if "facts" in request:
            return
        for tensor in tensors.values():
            line.send(tensor.contiguous().numpy().data.cast("B"))
        for data in held.values():
            line.send(data)


def _limit(memory: int, seconds: float, size: int) -> None:
    import resource

    def limit(kind: int, value: int) -> None:
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))

    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, size + 2**20)  # of the file that OpenImageIO reads
    limit(resource.RLIMIT_CPU, math.ceil(seconds) + 1)
    with suppress(OSError):  # there is no such file on macOS, which does not keep this limit either
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit(resource.RLIMIT_AS, pages * resource.getpagesize() + memory)
