"""What passes between API, scheduler and those who work: requests, and what became of them."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from xpsr.config import UpscaleConfig
from xpsr.errors import Cancelled, XPSRError
from xpsr.image.writing import format_of
from xpsr.prior import Prior

__all__ = ["OVER", "SHOWN_FORMATS", "UPLOAD", "Job", "JobState", "Kind", "Preview", "Request", "media_type"]

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["upscale", "describe"]
JobState: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]

OVER: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})
"""States that nothing follows."""

UPLOAD = "upload"
"""The file of a job's folder that holds what was sent."""

SHOWN_FORMATS = frozenset({"JPEG", "PNG", "WEBP", "GIF", "BMP"})
"""Of files that every browser shows; beside one of another format lies a PNG that it can show."""


def media_type(format: str) -> str:  # noqa: A002 - what it is
    """Returns what HTTP calls a format of pictures that Pillow calls so."""
    return f"image/{format.lower()}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for, of a picture that has been looked through and lies in a job's folder.

    Attributes:
        kind: "upscale", or "describe": texts alone.
        name: what the client calls the picture, in printable characters and without folders; on no disk.
        width, height: of the picture, upright.
        format: Pillow's name of its file's format.
        bytes: of its file.
        suffix: what the result's name ends with.
        config: how it is restored; its model and describer are names that the operator gave.
        wants_map: whether a picture of what was invented is made, too.
        wants_previews: whether somebody looks on, and is shown what the picture looks like between the steps.
    """

    kind: Kind
    name: str
    width: int
    height: int
    format: str
    bytes: int
    suffix: str
    config: UpscaleConfig
    wants_map: bool = False
    wants_previews: bool = False

    @property
    def result_format(self) -> str:
        """Pillow's name of the format of the result's file."""
        return format_of(Path(f"result{self.suffix}"))

    @property
    def result_file(self) -> str:
        """The name of the result's file in the job's folder."""
        return f"result.{self.result_format.lower()}"


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a picture looks like after a step: a small WebP, after `step` of `steps`."""

    image: bytes
    step: int
    steps: int


@dataclass(kw_only=True, eq=False)
class Job:
    """A request from when it is taken on until it is forgotten.

    Fields are changed by the scheduler alone; whoever reads them sees each as it was last. `state` is changed after the
    others: of a job that is done there is a record. Times are in seconds: `created`, `started`, `finished` and
    `expires` of the epoch, `deadline` and `until` of `time.monotonic`, which nobody sets.

    Attributes:
        id: 128 random bits; who knows it may have the result, where nobody needs a token.
        owner: the token's holder, or ""; nobody else finds the job.
        client: among whom the queue is fair.
        folder: of what was uploaded and of the result, under names that the server chose; of a job that somebody
            cancelled it is gone as soon as nobody works on it, of others with the job.
        expires: when the job is forgotten, or sooner where there is no room.
        place: how many are before it while it waits, from 0.
        progress: passes done, of how many.
        prior: what is said of the picture, from when somebody has looked.
        preview: the last one.
        record: of a result that is made.
        error: why there is none.
        is_wanted: False from when somebody cancelled it.
        is_fetched: whether somebody has had the result.
        kept: bytes of its files.
        until: when it is forgotten, as `expires`; None: it is not over.
    """

    request: Request
    owner: str
    client: str
    folder: Path
    deadline: float
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: JobState = "waiting"
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    expires: float | None = None
    place: int = 0
    progress: tuple[int, int] | None = None
    prior: Prior | None = None
    preview: Preview | None = None
    record: dict[str, Any] | None = None
    error: XPSRError | None = None
    is_wanted: bool = True
    is_fetched: bool = False
    kept: int = 0
    until: float | None = None
    _watchers: dict[object, Callable[[], None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in OVER

    @property
    def result(self) -> Path:
        """The file of the result."""
        return self.folder / self.request.result_file

    @property
    def result_name(self) -> str:
        """What the result is called when it is saved, as `xpsr upscale` calls it."""
        config, stem = self.request.config, Path(self.request.name).stem
        return f"{stem}{config.target(self.request.width, self.request.height).suffix}{self.request.suffix}"

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Calls `watcher` after every change, from any thread; returns what ends that."""
        key = object()
        with self._lock:
            self._watchers[key] = watcher

        def unwatch() -> None:
            with self._lock:
                self._watchers.pop(key, None)

        return unwatch

    def changed(self) -> None:
        """Tells those who watch; one who fails, as his loop is closed for example, is told no more."""
        with self._lock:
            watchers = list(self._watchers.items())
        for key, watcher in watchers:
            try:
                watcher()
            except Exception:  # of a stranger's connection; those who work go on
                logger.warning("Somebody who watched job %s fails.", self.id[:4], exc_info=True)
                with self._lock:
                    self._watchers.pop(key, None)

    def cancelled_error(self) -> Cancelled:
        """Returns the error of a job that somebody wants no more."""
        return Cancelled("the job was cancelled")
