"""Pairs in tar files of WebDataset's layout: `NAME.hr.png`, `NAME.lr.png`, `NAME.json`, maybe `NAME.teacher.png`.

Tars are read by random access with the standard library. Those at an http(s) address are downloaded whole when the
first sample in them is wanted, and kept; `index.json` in the format of WebDataset's `wids` says what there is.
"""

import hashlib
import json
import re
import tarfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from xpsr.caches import cache_folder
from xpsr.config import DataConfig
from xpsr.data.manifest import INDEX, TEACHER, Texts
from xpsr.data.pairs import StoredPair, priors_of
from xpsr.data.photos import PriorTable, report_missing
from xpsr.errors import InputError, TrainingError, one_line
from xpsr.files import IMAGE_SUFFIXES, atomic_write, find_images, is_remote, read_bytes, sha256

__all__ = ["Shard", "ShardStore", "TarPairs", "fetch_shard", "find_tars", "list_shards", "read_index", "shard_index"]

_KINDS = ("hr", "lr", TEACHER, "json")
_MIXED_SHARDS = 8  # whose pairs are shuffled together, so that an epoch starts without all shards at hand
_KEPT_INDEXES = 1024  # some 50 kB each
_MAX_PAIRS = 10**7  # of a shard; what an index claims is the length of a tensor
_MAX_INDEX = 2**26  # bytes: half a million shards
_RETRIES = 3
_TIMEOUT = 60  # seconds without a byte, or of less than the slowest connection that is worth waiting for
_MIN_SPEED = 1024  # bytes a second


@dataclass(frozen=True)
class Shard:
    """A tar: `url` is a path or an http(s) address; what is not known of it is None."""

    url: str
    num_pairs: int
    size: int | None = None
    sha256: str | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it has to be downloaded."""
        return is_remote(self.url)


class TarPairs:
    """The pairs in a local tar: their names, and where their bytes are.

    Raises:
        InputError: the file cannot be read, is no tar or cut off, or a pair in it is not complete.
    """

    def __init__(self, path: Path):
        self.path = path
        places: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    folder, _, base = member.name.rpartition("/")
                    stem, dot, field = base.partition(".")
                    if not member.isfile() or not dot or not stem:
                        continue
                    kind = _kind(field.lower())
                    if kind is None:
                        continue
                    found = places.setdefault(f"{folder}/{stem}", {})
                    if kind in found:
                        raise _damaged(path, f"{stem}.{kind} is in it twice")
                    found[kind] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError) as error:
            raise _damaged(path, f"not a whole tar ({error})") from error
        for name, found in places.items():
            for kind in ("hr", "lr"):
                if kind not in found:
                    raise _damaged(path, f"{name.strip('/')} has no {kind} picture (NAME.{kind}.png)")
        self.names = [name.strip("/") for name in places]
        nothing = (0, 0)
        rows = [[found.get(kind, nothing) for kind in _KINDS] for found in places.values()]
        self._places: NDArray[np.int64] = np.array(rows, np.int64).reshape(-1, len(_KINDS), 2)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> tuple[bytes, bytes, bytes, dict[str, Any]]:
        """Returns HR, LR, the teacher's picture and the JSON object of a pair; the last two are empty for none.

        Raises:
            InputError: the file cannot be read or the JSON is damaged.
        """
        hr, lr, teacher, line = self._read(number, *_KINDS)
        return hr, lr, teacher, self._parse(number, line)

    def holds(self, number: int, kind: str) -> bool:
        """Returns whether a pair has a `kind`: `hr`, `lr`, `teacher` or `json`."""
        return bool(self._places[number, _KINDS.index(kind), 1])

    def part(self, number: int, kind: str) -> bytes:
        """Returns the bytes of a pair's `kind`; none where it has none.

        Raises:
            InputError: the file cannot be read.
        """
        return self._read(number, kind)[0]

    def entry(self, number: int) -> dict[str, Any]:
        """Returns the JSON object of a pair; an empty one for none.

        Raises:
            InputError: the file cannot be read or the JSON is damaged.
        """
        return self._parse(number, self.part(number, "json"))

    def _read(self, number: int, *kinds: str) -> list[bytes]:
        found = []
        try:
            with self.path.open("rb") as file:
                for kind in kinds:
                    offset, size = self._places[number, _KINDS.index(kind)].tolist()
                    file.seek(offset)
                    found.append(file.read(size))
        except OSError as error:
            raise _damaged(self.path, f"{self.names[number]} cannot be read ({error})") from error
        return found

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line) if line else {}
        except (ValueError, RecursionError) as error:
            raise _damaged(self.path, f"{self.names[number]} cannot be read ({error})") from error
        if not isinstance(entry, dict):
            raise _damaged(self.path, f"the JSON of {self.names[number]} is no object")
        return entry


class ShardStore:
    """Pairs in shards, see `list_shards`.

    Each process reads the table of contents of a tar when it first needs it. Priors are looked up in what the tars say
    of their pairs, which for remote shards means when a pair is read.

    Raises:
        TrainingError: no pairs, `config.require_priors` where that cannot be checked or does not hold.
        InputError: a shard or an index cannot be read.
    """

    def __init__(self, config: DataConfig):
        self.shards = list_shards(config.shards)
        self.name = f"{config.shards[0]}" + (f" and {len(config.shards) - 1} more" if len(config.shards) > 1 else "")
        self._cache = (config.shard_cache or cache_folder("shards")).expanduser()
        self._starts = [0, *accumulate(shard.num_pairs for shard in self.shards)]
        if not len(self):
            raise TrainingError(
                f"{self.name}: holds no pairs", code="no_pictures", remedy="make shards of clean pictures first"
            )
        self._open: OrderedDict[int, TarPairs] = OrderedDict()
        self._priors = None if config.priors is None else PriorTable(config.priors, Path())
        remote = any(shard.is_remote for shard in self.shards)
        if config.require_priors and remote:
            raise TrainingError(
                "cannot be checked: shards elsewhere are not read at the start",
                field="data.require_priors",
                value="true",
                remedy="download them",
            )
        if config.priors is not None and not remote:
            without = []
            for number in range(len(self)):
                tar, place = self._find(number)
                if priors_of(self._priors, tar.entry(place), None) == (None, None):
                    without.append(tar.names[place])
            report_missing(config.priors, without, len(self), required=config.require_priors)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # a worker reads its own

    def read(self, number: int) -> StoredPair:
        """Returns one pair; a shard from elsewhere is downloaded first.

        Raises:
            InputError: it cannot be read.
            TrainingError: its shard cannot be downloaded, is damaged, or holds other pairs than its index says.
        """
        tar, place = self._find(number)
        hr, lr, teacher, entry = tar.read(place)
        name = f"{tar.path}: {tar.names[place]}"
        return StoredPair(name, hr, lr, teacher, Texts.of(entry, name, *priors_of(self._priors, entry, None)))

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Returns int64 (len,): shards in random order, and the pairs of every eight of them shuffled together."""
        shards = torch.randperm(len(self.shards), generator=generator).tolist()
        groups = []
        for start in range(0, len(shards), _MIXED_SHARDS):
            chosen = shards[start : start + _MIXED_SHARDS]
            numbers = torch.cat([torch.arange(self._starts[s], self._starts[s + 1]) for s in chosen])
            groups.append(numbers[torch.randperm(len(numbers), generator=generator)])
        return torch.cat(groups)

    def _find(self, number: int) -> tuple[TarPairs, int]:
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        if which not in self._open:
            shard = self.shards[which]
            with _stopping():  # a thousand pairs are not passed over one by one
                tar = TarPairs(fetch_shard(shard, self._cache) if shard.is_remote else Path(shard.url))
            if len(tar) != shard.num_pairs:
                raise _changed(shard, f"holds {len(tar)} pairs, its index says {shard.num_pairs}")
            self._open[which] = tar
            if len(self._open) > _KEPT_INDEXES:
                self._open.popitem(last=False)
        return self._open[which], number - self._starts[which]


def list_shards(sources: Sequence[str]) -> list[Shard]:
    """Returns the shards that `sources` name, in their order.

    Args:
        sources: each a tar, a folder with an `index.json` or else with tars (its own or in `shards/`), or the path or
            http(s) address of an `index.json`, whose entries are relative to it.

    Raises:
        TrainingError: an index cannot be downloaded, an address is that of none, or shards are missing or not as large
            as their index says.
        InputError: nothing is there, or an index or a tar is damaged.
    """
    shards: list[Shard] = []
    for source in sources:
        path = Path(source)
        if is_remote(source):
            if not re.split("[?#]", source)[0].endswith(".json"):
                raise TrainingError(
                    f"{source}: shards elsewhere need an index", remedy=f"name the address of an {INDEX}"
                )
            with BytesIO() as file:
                _download(source, file, limit=_MAX_INDEX)
                shards += _parse_index(file.getvalue(), source)
        elif path.is_dir():
            folder = path / "shards" if (path / "shards").is_dir() else path
            if (folder / INDEX).is_file():
                shards += _present(read_index(folder / INDEX))
            else:
                shards += [Shard(str(tar), len(TarPairs(tar))) for tar in find_tars(folder)]
        elif path.suffix == ".json" and path.is_file():
            shards += _present(read_index(path))
        elif path.is_file():
            shards.append(Shard(source, len(TarPairs(path))))
        else:
            raise InputError(
                f"{source}: no such shard or folder", code="not_found", remedy="make shards of clean pictures first"
            )
    return shards


def find_tars(folder: Path) -> list[Path]:
    """Returns the tars in a folder, sorted; hidden ones are none.

    Raises:
        InputError: the folder cannot be listed.
    """
    return find_images(folder, suffixes=frozenset({".tar"}))


def read_index(path: Path) -> list[Shard]:
    """Returns the shards that an index tells of, whose addresses are relative to it.

    Raises:
        InputError: it cannot be read or is none.
    """
    return _parse_index(read_bytes(path, limit=_MAX_INDEX), str(path))


def shard_index(shards: Sequence[Shard]) -> str:
    """Returns the index of shards that lie beside it, as JSON in the format of `wids`, with SHA-256 sums."""
    listed = [
        {"url": Path(s.url).name, "nsamples": s.num_pairs, "filesize": s.size, "sha256": s.sha256} for s in shards
    ]
    return json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed}, indent=1) + "\n"


def fetch_shard(shard: Shard, cache: Path) -> Path:
    """Returns the local copy of a shard from elsewhere, downloaded whole or not at all, once by all processes.

    What its index says of it is part of the copy's name: made again at the same address, it is another shard.

    Raises:
        TrainingError: it cannot be downloaded, is not what its index says, or `cache` cannot be written.
    """
    identity = f"{shard.url} {shard.sha256 or (shard.size, shard.num_pairs)}"
    name = re.split("[?#]", shard.url)[0].rpartition("/")[2][-64:]
    target = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}-{name}"
    if target.is_file():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        held = FileLock(target.with_name(f".{target.name}.lock")).acquire()
    except OSError as error:
        raise TrainingError(
            f"cannot be written ({error.strerror})",
            code="refused",
            field="data.shard_cache",
            value=str(cache),
            remedy="name a folder that can be",
        ) from error
    with held:
        if target.is_file():  # another process was faster
            return target
        with _stopping(), atomic_write(target) as part:  # a full disk is no reason to try the next pair
            with part.open("wb") as file:
                _download(shard.url, file, limit=shard.size)
            size = part.stat().st_size
            if shard.size not in (None, size) or shard.sha256 not in (None, sha256(part)):
                raise _changed(shard, f"{size} bytes are not what its index promised")
    return target


@contextmanager
def _stopping() -> Iterator[None]:
    """Makes an `InputError`, after which a dataset goes on with the next pair, a `TrainingError`."""
    try:
        yield
    except InputError as error:
        raise error.recast(TrainingError) from error


def _damaged(place: Path | str, problem: str) -> InputError:
    return InputError(f"{place}: {problem}", code="damaged", remedy="make or download it again")


def _changed(shard: Shard, problem: str) -> TrainingError:
    return TrainingError(f"{shard.url}: {problem}", code="changed", remedy="make the shards and their index again")


def _kind(field: str) -> str | None:
    if field == "json":
        return field
    kind, dot, suffix = field.partition(".")
    return kind if kind in _KINDS and f"{dot}{suffix}" in IMAGE_SUFFIXES else None


def _parse_index(content: bytes, place: str) -> list[Shard]:
    """Returns the shards of an index; `place` is its path or address, which theirs are relative to."""
    try:
        return [_parse_shard(entry, place) for entry in json.loads(content)["shardlist"]]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _damaged(place, f"not an index of shards ({error!r})") from error


def _parse_shard(entry: Any, place: str) -> Shard:
    url, num_pairs = str(entry["url"]), int(entry["nsamples"])
    size, digest = entry.get("filesize"), entry.get("sha256")
    if not 0 <= num_pairs <= _MAX_PAIRS:
        raise ValueError(f"nsamples={num_pairs} is not in [0, {_MAX_PAIRS}]")
    if not isinstance(size, int | None) or not isinstance(digest, str | None):
        raise TypeError(f"filesize={size!r} is no number or sha256={digest!r} is no text")
    if is_remote(place):
        url = urljoin(place, url)
        if not is_remote(url):
            raise ValueError(f"{url} is no http(s) address")
    elif not is_remote(url):
        url = str(Path(place).parent / url)
    return Shard(url, num_pairs, size, digest)


def _present(shards: list[Shard]) -> list[Shard]:
    """Returns shards that an index here tells of, if they are as large as it says."""
    for shard in shards:
        if shard.is_remote:
            continue
        size = Path(shard.url).stat().st_size if Path(shard.url).is_file() else None
        if size is None or shard.size not in (None, size):
            raise _changed(shard, "is missing" if size is None else f"has {size} bytes, not {shard.size}")
    return shards


def _download(url: str, file: IO[bytes], *, limit: int | None) -> None:
    """Writes the bytes at an address to a file; tries again where the connection or the server fails.

    Raises:
        TrainingError: that does not help, or there are more than `limit` bytes.
    """
    import httpx

    for attempt in range(_RETRIES + 1):
        file.seek(0)
        file.truncate()
        try:
            with httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as response:
                response.raise_for_status()
                start = time.monotonic()
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    if limit is not None and file.tell() > limit:
                        raise TrainingError(
                            f"{url}: has more than {limit} bytes", code="too_large", remedy="check the address"
                        )
                    if time.monotonic() - start > _TIMEOUT + file.tell() / _MIN_SPEED:
                        raise httpx.ReadTimeout(f"fewer than {_MIN_SPEED} bytes a second")
            return
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            problem = f"the server says {status} {error.response.reason_phrase}"
            may_pass = status in (408, 429) or status >= 500
        except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:  # the last two: of a proxy
            problem = one_line(error)
            may_pass = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
        if not may_pass:
            raise TrainingError(
                f"{url}: cannot be downloaded: {problem}", code="no_download", remedy="check the address"
            )
        if attempt < _RETRIES:
            time.sleep(0.5 * 2**attempt)
    raise TrainingError(
        f"{url}: cannot be downloaded: {problem}, {_RETRIES + 1} times", code="no_download", remedy="try again later"
    )
