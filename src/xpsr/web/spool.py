"""Where uploads and results lie while they are kept: a folder of this server alone, under names that it chose."""

import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from filelock import lock_descriptor

from xpsr.errors import InputError
from xpsr.files import refusal

__all__ = ["Spool"]

_PREFIX = "xpsr-serve-"
_LOCK = "server.lock"

_RESERVE = 2**29
"""Bytes of the disk that stay free for what is being made, and for others; of a small disk a twentieth."""


class Spool:
    """A folder for files that nobody else may read, which goes at the end; what killed servers left is removed first.

    Any number of servers may share a parent.

    Args:
        parent: where it is made; None: among the system's temporary files.

    Raises:
        InputError: it cannot be made, or there is no room.
    """

    def __init__(self, parent: Path | None = None):
        self._parent = (parent or Path(tempfile.gettempdir())).absolute()
        self._making = threading.Lock()
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._make()
        except OSError as error:
            raise refusal(self._parent, "cannot be used for uploads", error) from error
        if self.missing:
            self.close()
            message, remedy = f"{self._parent}: has no room for uploads", "free space, or choose another disk"
            raise InputError(message, code="disk_full", remedy=remedy)

    @property
    def missing(self) -> int:
        """Bytes that are to become free before there is room for more; 0 where there is."""
        with suppress(OSError):
            usage = shutil.disk_usage(self._parent)
            return max(min(_RESERVE, usage.total // 20) - usage.free, 0)
        return 0  # as far as anybody knows

    def new_folder(self) -> Path:
        """Makes a folder for a job.

        Raises:
            InputError: the disk is full, for example.
        """
        try:
            with self._making:
                if not self.folder.is_dir():  # what cleans temporary files has taken that of an idle server
                    self._lock.close()
                    self._make()
                return Path(tempfile.mkdtemp(dir=self.folder))
        except OSError as error:
            raise self.refusal(error) from error

    def refusal(self, error: OSError) -> InputError:
        """Returns what a client is told where a file cannot be written; its name is nobody's business."""
        told = refusal(Path("upload"), "cannot be kept", error)
        if told.code == "disk_full":
            return self.full()
        return InputError(told.message, code="refused", remedy="try again later")

    def full(self) -> InputError:
        """Returns what a client is told where there is no room."""
        return InputError("the server has no room for more pictures", code="disk_full", remedy="try again later")

    def size(self, folder: Path) -> int:
        """Returns how many bytes the files of a job have."""
        with suppress(OSError):
            return sum(path.lstat().st_size for path in folder.iterdir())
        return 0

    def remove(self, folder: Path) -> None:
        """Removes the folder of a job, as far as it is there; no other folder."""
        if folder.parent == self.folder:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _make(self) -> None:
        """Makes the folder, and locks it as long as this server lives."""
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))  # for the user alone
            with suppress(FileNotFoundError):
                self._lock = (self.folder / _LOCK).open("xb")
                if lock_descriptor(self._lock.fileno(), blocking=False) and os.fstat(self._lock.fileno()).st_nlink:
                    return
                self._lock.close()
            # a server that began just then took it for what a killed one had left

    def _sweep(self) -> None:
        """Removes what servers left that were killed: folders of this user whose lock nobody holds."""
        for folder in self._parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                place = folder.lstat()
                if folder.is_symlink() or (hasattr(os, "getuid") and place.st_uid != os.getuid()):
                    continue
                # one without a lock is none of these, or is being made just now
                with (folder / _LOCK).open("rb+") as lock:
                    if lock_descriptor(lock.fileno(), blocking=False):
                        shutil.rmtree(folder, ignore_errors=True)
