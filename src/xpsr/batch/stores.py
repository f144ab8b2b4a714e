"""Where pictures come from and results go: folders of this machine, members of tar files, and what fsspec reaches."""

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from xpsr.batch.items import Item
from xpsr.errors import InputError, MissingDependencyError, XPSRError, brief
from xpsr.files import is_remote, refusal, sha256
from xpsr.records import is_own
from xpsr.sources import Source, read_sidecar, record_place

__all__ = [
    "Member",
    "Results",
    "entry_of",
    "fetch",
    "file_system",
    "is_address",
    "listing",
    "name_of",
    "open_address",
    "plain",
    "shown",
    "stamp_of",
    "stamp_of_entry",
    "telling",
]

T = TypeVar("T")

_TRIES = 4
_PAUSE = 0.1  # seconds after the first try, then twice as long each time

_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    "smb": "smbprotocol",
    "oss": "ossfs",
    "oci": "ocifs",
    "tos": "tosfs",
    "webdav": "webdav4",
}
"""What to install for an address, by its scheme."""

_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "hf"}
"""Stores that show a file only when all of it is there, and that have no folders to be made."""

_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modify", "modificationTime", "created")
_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "sha", *_TIMES)
"""What stores call that by which a file tells that it is another one; what comes first tells most."""

_PROBE = ".xpsr-probe"
"""The file that is written, and removed, to see whether a store can be written."""

_FORMER = "former"
"""The file beside a result on its way to a store that has the SHA-256 of the one that it replaces there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A picture in a tar file of this machine, as the source of an `Item` tells of it: TAR::OFFSET:SIZE:NAME.

    With where it begins and how many bytes it has, nobody need search the tar file for it.
    """

    tar: str
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.tar}::{self.offset}:{self.size}:{self.name}"

    @property
    def address(self) -> str:
        """What people and records call it, wherever in the tar file it is: TAR::NAME."""
        return f"{self.tar}::{self.name}"

    @classmethod
    def parse(cls, source: str) -> Self | None:
        """Returns the member that a source tells of; None: it is something else."""
        if "::" not in source or (found := _MEMBER.fullmatch(source)) is None:
            return None
        tar, offset, size, name = found.groups()
        return cls(tar=tar, offset=int(offset), size=int(size), name=name)


_MEMBER = re.compile(r"(.+\.tar)::(\d+):(\d+):(.+)", re.IGNORECASE | re.DOTALL)


def is_address(name: str) -> bool:
    """Returns whether fsspec is to be asked, as of s3://bucket/photos."""
    return "://" in name


def plain(name: str) -> str:
    """Returns the path of what is on this machine, however it is addressed: that of file:///photos is /photos."""
    return re.sub("^(file|local)://", "", name)


def shown(source: str) -> str:
    """Returns the source of an `Item` as people and records have it: of a member of a tar file, TAR::NAME."""
    member = Member.parse(source)
    return member.address if member else source


def file_system(address: str) -> tuple[Any, str]:
    """Returns fsspec's file system of an address, and the address as that takes it.

    Raises:
        InputError: there is none of that kind, or it cannot be reached.
        MissingDependencyError: the package that it needs is not installed.
    """
    import fsspec

    scheme = address.partition("://")[0].rpartition("::")[2]
    try:
        system, place = fsspec.core.url_to_fs(address)
        return system, place
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        message = f"{address}: fsspec needs another package for {scheme}:// ({brief(error)})"
        remedy = f"run `pip install {package}`" if package else "install it with pip"
        raise MissingDependencyError(message, remedy=remedy) from error
    except Exception as error:  # whatever its many packages raise
        if isinstance(error, ValueError) and "Protocol not known" in str(error):
            message = f"{address}: is no address that fsspec knows"
            raise InputError(message, code="bad_address", remedy="use s3://BUCKET/FOLDER, for example") from error
        raise _refusal(address, "cannot be reached", error) from error


@contextmanager
def telling(address: str, what: str) -> Iterator[None]:
    """Turns whatever a store raises into an error of one line: ADDRESS: `what` (reason)."""
    try:
        yield
    except XPSRError:
        raise
    except Exception as error:  # whatever its package raises
        raise _refusal(address, what, error) from error


def _refusal(address: str, what: str, error: Exception) -> XPSRError:
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return InputError(f"{address}: {what} (it is not there)", code="not_found", remedy="check the address")
    if isinstance(error, PermissionError) or _DENIED.search(f"{kind}: {error}"):
        remedy = "sign in as the store's own tools do, in files or variables of the environment, and check your rights"
        return InputError(f"{address}: {what} ({brief(error)})", code="no_credentials", remedy=remedy)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # of its copy here, most likely
        remedy = "free space or choose another disk"
        return InputError(f"{address}: {what} ({brief(error)})", code="disk_full", remedy=remedy)
    return XPSRError(f"{address}: {what} ({kind}: {brief(error)})", code="store", remedy="is the store reachable?")


_DENIED = re.compile(
    "credential|forbidden|access ?denied|unauthori[sz]ed|authentication|anonymous caller", re.IGNORECASE
)
"""What the packages of stores say, in as many kinds of errors, where somebody may not do something."""


def _again(work: Callable[[], T], address: str, what: str) -> T:
    """Returns what `work` gives; a store that fails is asked again, a few times, after a pause."""
    for number in range(_TRIES):
        try:
            with telling(address, what):
                return work()
        except XPSRError as error:
            if error.code != "store" or number == _TRIES - 1:
                raise
            time.sleep(_PAUSE * 2**number)
    raise AssertionError


def stamp_of(address: str) -> str:
    """Returns what tells whether a file is still what it was: size and time, or size and what its store calls it by.

    Raises:
        InputError: there is no such file.
        XPSRError: its store cannot be reached.
    """
    if not is_address(address):
        member = Member.parse(address)
        path = Path(member.tar if member else address)
        try:
            status = path.stat()
        except OSError as error:
            raise refusal(path, "cannot be read", error) from error
        return f"{status.st_size} {status.st_mtime_ns}"
    return stamp_of_entry(entry_of(address))


def entry_of(address: str) -> dict[str, Any]:
    """Returns what fsspec tells of a file or folder: its size, its type and more, by name.

    Raises:
        InputError: it is not there.
        XPSRError: its store cannot be reached.
    """
    system, place = file_system(address)

    def ask() -> dict[str, Any]:
        system.invalidate_cache()  # of listings, which may be older than the file
        entry: dict[str, Any] = system.info(place)
        return entry

    return _again(ask, address, "cannot be read")


def stamp_of_entry(entry: dict[str, Any]) -> str:
    """Returns the stamp of a file that fsspec tells of; "" where it tells nothing by which to know the file again.

    It is the same whether a listing told of the file or it was asked for.
    """
    mark = next((entry[name] for name in _MARKS if entry.get(name)), "")
    mark = mark.timestamp() if isinstance(mark, datetime) else mark  # of some stores one way has a number
    size = entry.get("size")
    return "" if size is None or mark == "" else f"{size} {str(mark).strip(chr(34))}"  # Azure quotes it one way alone


def listing(address: str) -> Iterator[tuple[str, str]]:
    """Yields all files behind an address, sorted: their names below it, with /, and their stamps.

    Raises:
        InputError: it is not there.
        XPSRError: its store cannot be reached.
    """
    system, place = file_system(address)

    def find() -> dict[str, dict[str, Any]]:
        system.invalidate_cache()
        found: dict[str, dict[str, Any]] = system.find(place, detail=True)
        system.invalidate_cache()  # it keeps what it has listed, which may be millions of files
        return found

    found, root = _again(find, address, "cannot be read"), f"{place.rstrip('/')}/"
    for name in sorted(found):
        yield name.removeprefix(root), stamp_of_entry(found.pop(name))


def open_address(address: str) -> Any:
    """Opens a file behind an address, for reading bytes.

    Raises:
        InputError: it is not there.
        XPSRError: its store cannot be reached.
    """
    system, place = file_system(address)
    return _again(lambda: system.open(place, "rb"), address, "cannot be read")


def name_of(source: str) -> str:
    """Returns what a picture's file is called, without its folders, whatever source it has."""
    member = Member.parse(source)
    source = member.name if member else source
    if is_address(source):
        source = source.partition("?")[0].partition("#")[0] if is_remote(source) else source
        return source.rstrip("/").rpartition("/")[2]
    return source.rpartition("/")[2] if member else os.path.basename(source)  # noqa: PTH119 - of millions


def fetch(item: Item, folder: Path) -> Source:
    """Returns the file of a picture, in `folder` where it has none on this machine.

    Raises:
        InputError: it has gone, or is another one than when the plan was made.
        XPSRError: its store cannot be reached.
    """
    source = item.source
    if item.stamp and stamp_of(source) != item.stamp:
        message = f"{shown(source)}: has been changed since the plan was made"
        raise InputError(message, code="changed", remedy="run the same command again")
    if is_address(source):
        system, place = file_system(source)
        copy = folder / (name_of(source) or "picture")
        _again(lambda: system.get_file(place, str(copy)), source, "cannot be read")
        return Source(path=copy, address=source)
    if (member := Member.parse(source)) is not None:
        return _extracted(member, folder)
    return Source(path=Path(source))


def _extracted(member: Member, folder: Path) -> Source:
    copy = folder / name_of(member.name)
    try:
        with Path(member.tar).open("rb") as tar, copy.open("wb") as file:
            tar.seek(member.offset)
            left = member.size
            while left and (chunk := tar.read(min(left, 2**20))):
                left -= len(chunk)
                file.write(chunk)
    except OSError as error:
        raise refusal(Path(member.tar), "cannot be read", error) from error
    if left:
        message = f"{member.address}: is cut off, as its tar file is"
        raise InputError(message, code="damaged", remedy="mend the tar file and run the same command again")
    return Source(path=copy, address=member.address)


class Results:
    """The folder of all results: of this machine, or behind an address.

    Args:
        out: the folder or its address.
    """

    def __init__(self, out: str):
        self.out = plain(out)
        self._system: Any = None
        if is_address(self.out):
            self._system, self._root = file_system(self.out)

    def place(self, target: str, folder: Path) -> Path:
        """Returns where on this machine a result is written, with what is there so far.

        Args:
            target: of an `Item`.
            folder: an empty one, for what goes to a store.

        Raises:
            XPSRError: the store cannot be reached.
        """
        if self._system is None:
            return Path(self.out) / target
        place = folder / target.rpartition("/")[2]
        short, whole = place.with_suffix(".json"), place.with_name(f"{place.name}.json")
        for path in (place, short, whole):
            if path != whole or (read_sidecar(place) is None and (place.is_file() or short.is_file())):
                self._get(_beside(target, path), path)
        record = read_sidecar(place)
        if record is not None and place.is_file() and is_own(digest := sha256(place), record):
            (folder / _FORMER).write_text(digest)
        return place

    def send(self, place: Path, target: str) -> None:
        """Brings what was written at `place` where it belongs, so that a run that is killed meanwhile can go on.

        The record comes first, as on this machine. Until the picture is there, it names the one that it replaces, too.

        Raises:
            XPSRError: the store cannot be reached or written.
        """
        if self._system is None:
            return
        record, former = record_place(place), place.with_name(_FORMER)
        there = _beside(target, record)
        if former.is_file():
            told = {**json.loads(record.read_bytes()), "replaces": former.read_text()}
            former.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            self._put(former, there)
            self._put(place, target)
            self._put(record, there)
        else:
            self._put(record, there)
            self._put(place, target)

    def is_reachable(self) -> bool:
        """Returns whether anything can be written there at all."""
        try:
            if self._system is None:
                with tempfile.TemporaryFile(dir=self._nearest(), prefix=".xpsr-"):
                    return True
            with tempfile.TemporaryDirectory(prefix="xpsr-") as here:
                probe = Path(here, "probe")
                probe.touch()
                self._put(probe, _PROBE)
            self._system.rm_file(f"{self._root.rstrip('/')}/{_PROBE}")
        except Exception:  # whatever its package raises
            return False
        return True

    def free_bytes(self) -> int | None:
        """Returns how much room for results there is; None: nobody knows."""
        return None if self._system is not None else shutil.disk_usage(self._nearest()).free

    def _nearest(self) -> Path:
        """The folder, or, as it is made with the first result, the nearest one above it that is there."""
        folder = Path(self.out).absolute()
        while not folder.exists():
            folder = folder.parent
        return folder

    def stamp(self, target: str) -> str:
        """Returns the stamp of a result.

        Raises:
            InputError: it is not there.
            XPSRError: the store cannot be reached.
        """
        return stamp_of(self._address(target))

    def sweep(self, targets: Iterable[str]) -> None:
        """Removes what was written halfway beside these targets when a run was killed; on this machine alone."""
        if self._system is None:
            for folder in {Path(self.out, target).parent for target in targets}:
                for part in folder.glob(".xpsr-*.part"):
                    with suppress(OSError):
                        part.unlink()

    def changed(self, kept: Iterable[tuple[int, str, str]]) -> Iterator[int]:
        """Yields the number of each result that is not there any more, or was changed.

        Args:
            kept: number, target and stamp of results.

        Raises:
            XPSRError: the store cannot be reached.
        """
        there = None
        for number, target, stamp in kept:
            if self._system is None:
                try:
                    found = self.stamp(target)
                except InputError:
                    found = ""
            else:
                if there is None:  # one listing instead of a question for each
                    there = dict(listing(self.out))
                found = there.get(target, "")
            if found != stamp:
                yield number

    def _address(self, target: str) -> str:
        return f"{self.out.rstrip('/')}/{target}"

    def _get(self, target: str, path: Path) -> None:
        """Copies a file to `path`, where there is one."""
        system, there = self._system, f"{self._root.rstrip('/')}/{target}"
        try:
            _again(lambda: system.get_file(there, str(path)), self._address(target), "cannot be read")
        except InputError as error:
            if error.code != "not_found":  # whoever may not look must not replace
                raise
            path.unlink(missing_ok=True)  # some stores begin to write before they know

    def _put(self, path: Path, target: str) -> None:
        system, there = self._system, f"{self._root.rstrip('/')}/{target}"
        put = _put_whole if _is_whole(system) else _put_by_part
        _again(lambda: put(system, path, there), self._address(target), "cannot be written")


def _is_whole(system: Any) -> bool:
    names = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    return bool(names & _WHOLE)


def _put_whole(system: Any, path: Path, there: str) -> None:
    system.put_file(str(path), there)


def _put_by_part(system: Any, path: Path, there: str) -> None:
    """Brings a file under another name and then gives it its own, so that nobody finds half of it."""
    folder = there.rpartition("/")[0]
    system.makedirs(folder, exist_ok=True)
    part = f"{folder}/.xpsr-{secrets.token_hex(4)}.part"
    try:
        system.put_file(str(path), part)
        _move(system, part, there)
    except BaseException:
        with suppress(Exception):  # of what is told, this is not the cause
            system.rm_file(part)
        raise


def _move(system: Any, part: str, there: str) -> None:
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.spec import AbstractFileSystem

    if type(system).mv in (AbstractFileSystem.mv, MemoryFileSystem.mv):  # which take a [ in a name for a pattern
        system.cp_file(part, there)
        system.rm_file(part)
        return
    try:
        system.mv(part, there)
    except Exception:  # some move nothing to where something is
        if not system.exists(there):
            raise
        system.rm_file(there)
        system.mv(part, there)


def _beside(target: str, path: Path) -> str:
    return str(Path(target).with_name(path.name).as_posix())
