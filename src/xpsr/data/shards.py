"""Pairs in tar files of WebDataset's layout: `NAME.hr.png`, `NAME.lr.png`, `NAME.json`.

Tars are read by random access with the standard library. Those at an http(s) address are downloaded whole when the
first sample in them is wanted, and kept; `index.json` in the format of WebDataset's `wids` says what there is.
"""

import hashlib
import json
import os
import tarfile
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from xpsr.config import DataConfig
from xpsr.data.manifest import INDEX, Texts
from xpsr.data.pairs import StoredPair, priors_of
from xpsr.data.photos import PriorTable, report_missing
from xpsr.errors import InputError, TrainingError
from xpsr.files import IMAGE_SUFFIXES, atomic_write, sha256

__all__ = ["Shard", "ShardStore", "TarPairs", "fetch_shard", "list_shards", "read_index", "shard_index"]

_MIXED_SHARDS = 8  # whose pairs are shuffled together, so that an epoch starts without all shards at hand
_KEPT_INDEXES = 1024  # some 50 kB each
_RETRIES, _TIMEOUT = 3, 60


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
        return _is_remote(self.url)


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
                    if kind is not None:
                        places.setdefault(f"{folder}/{stem}", {})[kind] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{path}: not a whole tar ({error}); make or download it again.") from error
        for name, found in places.items():
            for kind in ("hr", "lr"):
                if kind not in found:
                    raise InputError(f"{path}: {name.strip('/')} has no {kind} picture; WebDataset's NAME.{kind}.png.")
        self.names = [name.strip("/") for name in places]
        nothing = (0, 0)
        rows = [[found["hr"], found["lr"], found.get("json", nothing)] for found in places.values()]
        self._places: NDArray[np.int64] = np.array(rows, np.int64).reshape(-1, 3, 2)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> tuple[bytes, bytes, dict[str, Any]]:
        """HR, LR and the JSON object (empty where there is none) of a pair.

        Raises:
            InputError: the file cannot be read or the JSON is damaged.
        """
        try:
            with self.path.open("rb") as file:
                hr, lr, line = (self._read(file, *place) for place in self._places[number].tolist())
            entry = json.loads(line) if line else {}
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: {self.names[number]} cannot be read ({error}).") from error
        if not isinstance(entry, dict):
            raise InputError(f"{self.path}: the JSON of {self.names[number]} is no object.")
        return hr, lr, entry

    @staticmethod
    def _read(file: Any, offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)


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
        self._cache = config.shard_cache or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "xpsr", "shards")
        self._cache = self._cache.expanduser()
        self._starts = [0, *accumulate(shard.num_pairs for shard in self.shards)]
        if not len(self):
            raise TrainingError(f"{self.name}: holds no pairs; make some with xpsr degrade --shards.")
        self._open: OrderedDict[int, TarPairs] = OrderedDict()
        self._priors = None if config.priors is None else PriorTable(config.priors, Path())
        remote = any(shard.is_remote for shard in self.shards)
        if config.require_priors and remote:
            raise TrainingError(
                "require_priors cannot be checked: shards elsewhere are not read at the start; download them."
            )
        if config.priors is not None and not remote:
            without = []
            for number in range(len(self)):
                name, entry = self._entry(number)
                if priors_of(self._priors, entry, None) == (None, None):
                    without.append(name)
            report_missing(config.priors, without, len(self), required=config.require_priors)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # a worker reads its own

    def read(self, number: int) -> StoredPair:
        """One pair; a shard from elsewhere is downloaded first.

        Raises:
            InputError: it cannot be read.
            TrainingError: its shard cannot be downloaded, is damaged, or holds other pairs than its index says.
        """
        tar, place = self._find(number)
        hr, lr, entry = tar.read(place)
        return StoredPair(
            f"{tar.path}: {tar.names[place]}", hr, lr, Texts.of(entry, *priors_of(self._priors, entry, None))
        )

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """int64 (len,): shards in random order, and the pairs of every eight of them shuffled together."""
        shards = torch.randperm(len(self.shards), generator=generator).tolist()
        groups = []
        for start in range(0, len(shards), _MIXED_SHARDS):
            chosen = shards[start : start + _MIXED_SHARDS]
            numbers = torch.cat([torch.arange(self._starts[s], self._starts[s + 1]) for s in chosen])
            groups.append(numbers[torch.randperm(len(numbers), generator=generator)])
        return torch.cat(groups)

    def _entry(self, number: int) -> tuple[str, dict[str, Any]]:
        tar, place = self._find(number)
        return tar.names[place], tar.read(place)[2]

    def _find(self, number: int) -> tuple[TarPairs, int]:
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        if which not in self._open:
            shard = self.shards[which]
            try:
                tar = TarPairs(fetch_shard(shard, self._cache) if shard.is_remote else Path(shard.url))
            except InputError as error:  # a thousand pairs are not passed over one by one
                raise TrainingError(str(error)) from error
            if len(tar) != shard.num_pairs:
                raise TrainingError(
                    f"{shard.url}: holds {len(tar)} pairs, its index says {shard.num_pairs}; make the index again."
                )
            self._open[which] = tar
            if len(self._open) > _KEPT_INDEXES:
                self._open.popitem(last=False)
        return self._open[which], number - self._starts[which]


def list_shards(sources: Sequence[str]) -> list[Shard]:
    """The shards that `sources` name, in their order.

    Args:
        sources: each a tar, a folder with an `index.json` or else with tars (its own or in `shards/`), or the path or
            http(s) address of an `index.json`, whose entries are relative to it.

    Raises:
        TrainingError: nothing is there, an address without an index, or shards that are missing or not as large as
            their index says.
        InputError: an index or a tar is damaged.
    """
    shards: list[Shard] = []
    for source in sources:
        path = Path(source)
        if _is_remote(source):
            if not urlsplit(source).path.endswith(".json"):
                raise TrainingError(f"{source}: shards elsewhere need an index; name the address of an {INDEX}.")
            shards += read_index(_download(source).decode(errors="replace"), source)
        elif path.is_dir():
            folder = path / "shards" if (path / "shards").is_dir() else path
            if (folder / INDEX).is_file():
                shards += _local_index(folder / INDEX)
            else:
                shards += [Shard(str(tar), len(TarPairs(tar))) for tar in sorted(folder.glob("*.tar"))]
        elif path.suffix == ".json" and path.is_file():
            shards += _local_index(path)
        elif path.is_file():
            shards.append(Shard(source, len(TarPairs(path))))
        else:
            raise InputError(f"{source}: no such shard or folder; make some with xpsr degrade --shards.")
    return shards


def read_index(text: str, place: str) -> list[Shard]:
    """The shards in the text of an index; `place` is its path or address, which theirs are relative to.

    Raises:
        InputError: it is none.
    """

    def resolve(url: str) -> str:
        if _is_remote(url) or _is_remote(place):
            return urljoin(place, url) if _is_remote(place) else url
        return str(Path(place).parent / url)

    try:
        return [
            Shard(resolve(s["url"]), int(s["nsamples"]), s.get("filesize"), s.get("sha256"))
            for s in json.loads(text)["shardlist"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place}: not an index of shards ({error!r}); make it again.") from error


def shard_index(shards: Sequence[Shard]) -> str:
    """The index of shards that lie beside it, as JSON in the format of `wids`, with SHA-256 sums."""
    listed = [
        {"url": Path(s.url).name, "nsamples": s.num_pairs, "filesize": s.size, "sha256": s.sha256} for s in shards
    ]
    return json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed}, indent=1) + "\n"


def fetch_shard(shard: Shard, cache: Path) -> Path:
    """The local copy of a shard from elsewhere, downloaded whole or not at all, once by however many processes.

    Raises:
        TrainingError: it cannot be downloaded, is not what its index says, or `cache` cannot be written.
    """
    digest = hashlib.sha256(shard.url.encode()).hexdigest()[:16]
    target = cache / f"{digest}-{Path(urlsplit(shard.url).path).name}"
    if target.is_file():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{cache}: cannot be written ({error.strerror}); set data.shard_cache.") from error
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file():  # another process was faster
            return target
        try:
            with atomic_write(target) as part:
                _download(shard.url, part)
                size, found = part.stat().st_size, shard.sha256 and sha256(part)
                if (shard.size is not None and size != shard.size) or found != shard.sha256:
                    raise TrainingError(f"{shard.url}: {size} bytes are not what its index promised; make it again.")
        except InputError as error:  # a full disk is no reason to try the next pair
            raise TrainingError(str(error)) from error
    return target


def _kind(field: str) -> str | None:
    if field == "json":
        return field
    kind, dot, suffix = field.partition(".")
    return kind if kind in ("hr", "lr") and f"{dot}{suffix}" in IMAGE_SUFFIXES else None


def _is_remote(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")


def _local_index(path: Path) -> list[Shard]:
    shards = read_index(path.read_text(encoding="utf-8", errors="replace"), str(path))
    for shard in shards:
        if shard.is_remote:
            continue
        size = Path(shard.url).stat().st_size if Path(shard.url).is_file() else None
        if size is None or shard.size not in (None, size):
            found = "is missing" if size is None else f"has {size} bytes, not {shard.size}"
            raise TrainingError(f"{shard.url}: {found}; run the same xpsr degrade again.")
    return shards


def _download(url: str, target: Path | None = None) -> bytes:
    """The bytes at an address, or nothing where they go to `target`; tried again when the connection fails."""
    for attempt in range(_RETRIES + 1):
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                if target is None:
                    return response.read()
                expected = response.headers.get("Content-Length")
                with target.open("wb") as file:
                    for chunk in _chunks(response):
                        file.write(chunk)
                if expected is None or target.stat().st_size == int(expected):
                    return b""
                problem = f"the connection ended after {target.stat().st_size} of {expected} bytes"
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429) and error.code < 500:
                raise TrainingError(
                    f"{url}: the server says {error.code} {error.reason}; check the address."
                ) from error
            problem = f"the server says {error.code} {error.reason}"
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            problem = f"{getattr(error, 'reason', error)}"
        if attempt < _RETRIES:
            time.sleep(0.5 * 2**attempt)
    raise TrainingError(f"{url}: cannot be downloaded: {problem}, {_RETRIES + 1} times; try again later.")


def _chunks(response: Any) -> Iterator[bytes]:
    while chunk := response.read(2**20):
        yield chunk
