"""Where uploads and results lie while they are kept: a folder of this server alone, under names that it chose."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from xpsr.errors import InputError
from xpsr.files import refusal

__all__ = ["Spool"]

_PREFIX = "xpsr-serve-"


class Spool:
    """A folder for files that nobody else may read, which goes at the end; what killed servers left is removed first.

    Args:
        parent: where it is made; None: among the system's temporary files.

    Raises:
        InputError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None):
        parent = parent or Path(tempfile.gettempdir())
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._sweep(parent)
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # for the user alone
            self._lock = FileLock(self.folder / "lock")
            self._lock.acquire()
        except OSError as error:
            raise refusal(parent, "cannot be used for uploads", error) from error

    def new_folder(self) -> Path:
        """Makes a folder for a job.

        Raises:
            InputError: the disk is full, for example.
        """
        try:
            return Path(tempfile.mkdtemp(dir=self.folder))
        except OSError as error:
            raise self.refusal(error) from error

    def refusal(self, error: OSError) -> InputError:
        """Returns what a client is told where a file cannot be written; its name is nobody's business."""
        told = refusal(Path("upload"), "cannot be kept", error)
        return told if told.code == "disk_full" else InputError(told.message, code="refused", remedy="try again later")

    def remove(self, folder: Path) -> None:
        """Removes the folder of a job, as far as it is there; no other folder."""
        if folder.parent == self.folder:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Removes all of it."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _sweep(parent: Path) -> None:
        """Removes what servers left that were killed: folders of this user whose lock nobody holds."""
        for folder in parent.glob(f"{_PREFIX}*"):
            with suppress(OSError, Timeout):
                place = folder.lstat()
                if folder.is_symlink() or (hasattr(os, "getuid") and place.st_uid != os.getuid()):
                    continue
                if not (folder / "lock").exists():  # one that is being made just now
                    continue
                with FileLock(folder / "lock", timeout=0):
                    pass
                shutil.rmtree(folder, ignore_errors=True)
