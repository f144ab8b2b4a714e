"""Where the pictures are that a user names: below folders and addresses, in tar files, on lists."""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, NamedTuple

from xpsr.batch.lists import LISTS, Found, read_list
from xpsr.batch.naming import below, is_hidden, suffix_of
from xpsr.batch.stores import Member, entry_of, is_address, listing, name_of, stamp_of, stamp_of_entry
from xpsr.errors import InputError
from xpsr.files import IMAGE_SUFFIXES, OTHER_SUFFIXES, refusal
from xpsr.sources import folded, read_sidecar

__all__ = ["Search"]

_PICTURES = IMAGE_SUFFIXES | OTHER_SUFFIXES
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")


@dataclass
class Search:
    """Finds the pictures in what was named.

    Args:
        out: the folder of all results, or its address; what is in it is left out.
        on_error: is told what cannot be used, by its name, and why.
        on_note: is told in a line what of an input is passed over.
        on_unread: is told the names of folders, tar files and lists that were not read to their ends.
    """

    out: str
    on_error: Callable[[str, InputError], None]
    on_note: Callable[[str], None]
    on_unread: Callable[[str], None]

    def __post_init__(self) -> None:
        self._real = lru_cache(4096)(os.path.realpath)  # folders of many pictures
        self._root = _address_key(self.out) if is_address(self.out) else str(Path(self.out).absolute())
        self._out = None if is_address(self.out) else _status(self.out)

    def is_out(self, name: str) -> bool:
        """Returns whether an input is the folder of all results."""
        if is_address(name) or is_address(self.out):
            return is_address(name) and is_address(self.out) and _address_key(name) == self._root
        status = _status(name)
        return status is not None and self._out is not None and os.path.samestat(status, self._out)

    def places(self, found: Found) -> list[str]:
        """Returns where a picture is, as `place_of` tells where results go; of a link, where it leads to, too."""
        if is_address(found.source):
            return [folded(_address_key(found.source))]
        folder, name = os.path.split(found.source)
        places = [folded(f"{self._real(folder)}/{name}")]
        return [*places, folded(found.link)] if found.link else places

    def place_of(self, target: str) -> str:
        """Returns where a result goes, as file systems compare it that know no upper case."""
        folder, slash, name = target.rpartition("/")
        place = f"{self._root}{slash}{folder}"
        return folded(f"{place if is_address(self.out) else self._real(place)}/{name}")

    def all(self, inputs: Sequence[str]) -> Iterator[Found]:
        """Yields the pictures in all inputs, in their order; what is named twice is there twice."""
        for name in inputs:
            try:
                for found in self._in_input(name):
                    try:
                        f"{found.id}{found.source}{found.target}".encode()  # ledger and record have them
                    except UnicodeEncodeError:
                        message = f"{found.source}: the name is not UTF-8"
                        self.on_error(found.source, InputError(message, code="bad_name", remedy="rename it"))
                        continue
                    yield found
            except InputError as error:
                self.on_error(name, error)
                if error.code != "no_pictures" and suffix_of(name_of(name)).lower() not in _PICTURES:
                    self.on_unread(name)

    def _in_input(self, name: str) -> Iterator[Found]:
        if is_address(name):
            return self._at_address(name)
        if name == "-":
            raise InputError("-: can be read but once", code="wrong_type", remedy="save it in a file and name that")
        try:
            mode = os.stat(name).st_mode  # noqa: PTH116 - as it was named
        except OSError as error:
            raise refusal(Path(name), "cannot be read", error) from error
        if stat.S_ISDIR(mode):
            return self._in_folder(name)
        suffix = Path(name).suffix.lower()
        if suffix in LISTS:
            return self._in_list(name)
        if suffix == ".tar" or name.lower().endswith(_COMPRESSED):
            return self._in_tar(name)
        found = self._file(Found(id=Path(name).name, source=str(Path(name))))
        return iter(() if found is None else (found,))

    def _file(self, found: Found) -> Found | None:
        """Returns a picture that was named, with its stamp; None: it cannot be used, of which it tells."""
        path, link = found.source, ""
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                link, status = os.path.realpath(path), os.stat(path)  # noqa: PTH116 - of millions
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: is no file", code="wrong_type", remedy="name a picture")
            _refuse_ambiguous(path)
        except OSError as error:
            self.on_error(path, refusal(Path(path), "cannot be read", error))
            return None
        except InputError as error:
            self.on_error(path, error)
            return None
        return found._replace(stamp=_stamp(status), link=link)

    def _in_list(self, name: str) -> Iterator[Found]:
        is_any = is_usable = False
        for found in read_list(name, on_error=self.on_error):
            is_any = True
            usable = found if is_address(found.source) else self._file(found)
            if usable is not None:
                is_usable = True
                yield usable
        if not is_any:
            raise InputError(f"{name}: names no pictures", code="no_pictures", remedy="write one a line")
        if not is_usable:  # the disk that they are on may be away
            self.on_unread(name)

    # Folders

    def _in_folder(self, name: str) -> Iterator[Found]:
        root, passed, is_any = os.path.realpath(name), _PassedOver(), False
        for listed, called in self._walk(name):
            try:
                found = _look(listed, called, root, passed)
            except InputError as error:
                self.on_error(listed.path(called), error)
                continue
            if found is not None:
                is_any = True
                yield found
        self._tell(name, passed, is_any)

    def _walk(self, name: str) -> Iterator[tuple["_Listing", str]]:
        """Yields the files below a folder that are called like pictures, in the order of their ids."""
        try:
            first = _listed(str(Path(name)), "")
        except OSError as error:
            raise refusal(Path(name), "cannot be read", error) from error
        stack = [(first, iter(first.names))]
        while stack:
            listed, names = stack[-1]
            for called in names:
                if not called.endswith("/"):
                    yield listed, called
                    continue
                path = listed.path(called[:-1])
                try:
                    if self._out is None or not os.path.samestat(os.stat(path), self._out):  # noqa: PTH116
                        inner = _listed(path, f"{listed.below}{called}")
                        stack.append((inner, iter(inner.names)))
                        break
                except OSError as error:
                    self.on_error(path, refusal(Path(path), "cannot be read", error))
                    self.on_unread(path)
            else:
                stack.pop()

    def _tell(self, name: str, passed: "_PassedOver", is_any: bool) -> None:
        """Tells what is passed over; raises where that is all there is."""
        note = passed.note()
        if not is_any:
            remedy = note or "name a place with .jpg, .png or other pictures"
            raise InputError(f"{name}: holds no pictures", code="no_pictures", remedy=remedy)
        if note:
            self.on_note(f"{name}: {note}.")

    # Tar files

    def _in_tar(self, name: str) -> Iterator[Found]:
        if name.lower().endswith(_COMPRESSED):
            message, remedy = f"{name}: is compressed", "decompress it, with gunzip or the like, and name the .tar"
            raise InputError(message, code="wrong_type", remedy=remedy)
        path = Path(name)
        stamp, size, passed, is_any = stamp_of(str(path)), path.stat().st_size, _PassedOver(), False
        fault: InputError | None = None
        found: dict[str, Found] = {}  # of a name that is there twice the last, as tar has it
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined] # or it keeps them all
                    called = below(member.name)
                    if called is not None and is_hidden(called):
                        continue
                    suffix = suffix_of(member.name).lower()
                    if member.isdir() or suffix not in _PICTURES:
                        continue
                    if called is None:
                        passed.add("member", member.name)
                    elif suffix not in IMAGE_SUFFIXES:
                        passed.add("file", called)
                    elif not member.isreg() or member.issparse():
                        passed.add("special member", called)
                    elif member.offset_data + member.size > size:
                        raise tarfile.ReadError("it is cut off")
                    else:
                        is_any = True
                        source = Member(tar=str(path), offset=member.offset_data, size=member.size, name=called)
                        found[called] = Found(id=f"{path.stem}/{called}", source=str(source), stamp=stamp)
                file.seek(tar.offset)  # a header that is damaged, or lacks, passes for the end after the first one
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"there is neither a member nor an end at byte {tar.offset}")
        except tarfile.TarError as error:
            message = f"{name}: is no tar file, or a damaged one ({error})"
            remedy = "is it compressed?" if not is_any else "make it anew; what is before the damage is taken"
            fault = InputError(message, code="damaged", remedy=remedy)
        except OSError as error:
            fault = refusal(path, "cannot be read", error)
        yield from found.values()
        if fault is not None:
            raise fault
        self._tell(name, passed, is_any)

    # Stores

    def _at_address(self, name: str) -> Iterator[Found]:
        called = name_of(name)
        suffix = suffix_of(called).lower()
        if suffix == ".tar" or called.lower().endswith(_COMPRESSED):
            message, remedy = f"{name}: is a tar file behind an address", "copy it here, or put its members there"
            raise InputError(message, code="wrong_type", remedy=remedy)
        if suffix in LISTS:
            yield from self._in_list(name)
            return
        entry = entry_of(name)
        if entry.get("type") != "directory" and not name.endswith("/"):
            yield Found(id=called, source=name, stamp=stamp_of_entry(entry))
            return
        passed, is_any, own = _PassedOver(), False, _address_key(name)
        inside = f"{self._root.removeprefix(f'{own}/')}/"  # the whole root where results are elsewhere, as no name is
        for entry_name, stamp in listing(name):
            suffix = suffix_of(entry_name).lower()
            if suffix not in _PICTURES or entry_name.startswith(inside):
                continue
            if below(entry_name) != entry_name:
                passed.add("member", entry_name)
            elif is_hidden(entry_name):
                continue
            elif suffix not in IMAGE_SUFFIXES:
                passed.add("file", entry_name)
            else:
                is_any = True
                yield Found(id=entry_name, source=f"{name.rstrip('/')}/{entry_name}", stamp=stamp)
        self._tell(name, passed, is_any)


class _Listing(NamedTuple):
    """What of a folder counts.

    Attributes:
        place: the folder.
        below: its path below the folder that was named, with / at its end; "": it is that.
        names: of files that are called like pictures, and of folders, which end with /, sorted.
        records: names, without their suffix, of files that may be records of xpsr.
        links: which of the names are links.
    """

    place: str
    below: str
    names: list[str]
    records: set[str]
    links: set[str]

    def path(self, name: str) -> str:
        return os.path.join(self.place, name)  # noqa: PTH118 - of millions


def _listed(place: str, below: str) -> _Listing:
    listed = _Listing(place, below, [], set(), set())
    with os.scandir(place) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            suffix = suffix_of(name)
            if entry.is_dir(follow_symlinks=False):
                listed.names.append(f"{name}/")  # so that ids come in their order
            elif suffix.lower() in _PICTURES:
                listed.names.append(name)
                if entry.is_symlink():
                    listed.links.add(name)
            elif suffix == ".json":
                listed.records.add(name.removesuffix(suffix))
    listed.names.sort()
    return listed


def _look(listed: _Listing, name: str, root: str, passed: "_PassedOver") -> Found | None:
    """Returns a picture of a folder that is below `root`, which is no link, or None where it is passed over.

    Raises:
        InputError: it cannot be used.
    """
    path = listed.path(name)
    suffix = suffix_of(name)
    link = os.path.realpath(path) if name in listed.links else ""
    if link and not Path(link).is_relative_to(root):
        passed.add("link", name)  # whoever made the folder chose what it leads to, perhaps not the user
        return None
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise refusal(Path(path), "cannot be read", error) from error
    if not stat.S_ISREG(status.st_mode):
        if not stat.S_ISDIR(status.st_mode):
            passed.add("special file", name)
    elif suffix.lower() not in IMAGE_SUFFIXES:
        passed.add("file", name)
    elif not listed.records.isdisjoint((name, name.removesuffix(suffix))) and read_sidecar(Path(path)) is not None:
        passed.add("result", name)
    else:
        _refuse_ambiguous(path)
        return Found(id=f"{listed.below}{name}", source=path, stamp=_stamp(status), link=link)
    return None


class _PassedOver:
    """What of an input is not taken, and why: how many of each kind, and the names of the first of them."""

    _KINDS: ClassVar = {
        "file": ("file", "files", "convert to PNG or TIFF to have them"),
        "special file": ("special file", "special files", "name them to read them"),
        "special member": ("link or sparse file", "links or sparse files", "put the files themselves in"),
        "link": ("link out of it", "links out of it", "name them to follow them"),
        "member": ("path out of it", "paths out of it", "rename them"),
        "result": ("result of xpsr", "results of xpsr", "name them to restore them again"),
    }

    def __init__(self) -> None:
        self._counts = dict.fromkeys(self._KINDS, 0)
        self._first: dict[str, list[str]] = {kind: [] for kind in self._KINDS}

    def add(self, kind: str, name: str) -> None:
        self._counts[kind] += 1
        if len(self._first[kind]) < 3:
            self._first[kind].append(name if kind == "member" else name.rpartition("/")[2])

    def note(self) -> str:
        """Returns all of it in words; "" where there is nothing."""
        told = [
            f"{count} {many if count > 1 else one} ({', '.join(self._first[kind])}{', ...' * (count > 3)}; {remedy})"
            for kind, (one, many, remedy) in self._KINDS.items()
            if (count := self._counts[kind])
        ]
        return f"passed over: {', '.join(told)}" if told else ""


def _stamp(status: os.stat_result) -> str:
    """Returns what `stamp_of` does."""
    return f"{status.st_size} {status.st_mtime_ns}"


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116
    except OSError:
        return None


def _address_key(address: str) -> str:
    scheme, _, place = address.partition("://")
    return f"{scheme}://{place.strip('/')}"


def _refuse_ambiguous(path: str) -> None:
    if Member.parse(path) is not None:
        message, remedy = f"{path}: is called as members of tar files are, and is a file", "rename it"
        raise InputError(message, code="bad_name", remedy=remedy)
