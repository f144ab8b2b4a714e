"""Makes pairs of clean pictures and stores them, as PNGs or in shards; what a killed run has done, the next one keeps.

The work falls into jobs: a picture with all its pairs, or, for shards, the pictures of one tar. A job writes whole
files or none; then its lines go into a journal, from which the next run knows what is done. What a pair is depends on
the seed, the picture's path and content and the pair's number alone, so an interrupted run ends with the same bytes.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import torch
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader, Dataset

from xpsr import __version__
from xpsr.config import PairsConfig, as_dict
from xpsr.data.crops import FLAT_ATTEMPTS, flat, levels
from xpsr.data.manifest import INDEX, JOURNAL, MANIFEST, SETTINGS, SKIPPED
from xpsr.data.pictures import Pixels, check_size, detail, draw_crop
from xpsr.data.seeding import generator_for
from xpsr.data.shards import Shard, read_index, shard_index
from xpsr.data.workers import Reporting, iterate, start_worker
from xpsr.degradation import degrade, sharpen
from xpsr.errors import InputError
from xpsr.files import atomic_write, list_images, read_bytes, refusal, sha256, write_text
from xpsr.image import decode_rgb
from xpsr.jsonl import read_lines, to_line, write_lines

__all__ = ["Made", "list_sources", "make_pairs", "name_pairs"]

Line = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """What is in the folder in the end: how many pairs and shards, and which pictures were skipped and why."""

    num_pairs: int
    num_shards: int
    skipped: dict[str, str]


@dataclass(frozen=True)
class _Picture:
    """A source, the name of its pairs, and the SHA-256 that it had when a former run was done with it."""

    source: str
    name: str
    digest: str | None
    was_skipped: bool


@dataclass(frozen=True)
class _Job:
    pictures: tuple[_Picture, ...]
    shard: str | None
    size: int | None  # of the shard, when a former run was done with it


@dataclass
class _Known:
    """What former runs wrote down: lines of pairs by source and number, skipped pictures, shards by name.

    `homes` are what the pairs of a picture are called, and the shard that they are in, None for files.
    """

    pairs: dict[str, dict[int, str]] = field(default_factory=dict)
    homes: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    digests: dict[str, str | None] = field(default_factory=dict)
    skipped: dict[str, Line] = field(default_factory=dict)
    shards: dict[str, Line] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Takes in a line; a later one about the same picture goes before."""
        match line:
            case {"num_pairs": _, "shard": shard}:
                self.shards[shard] = line
            case {"problem": _, "source": source, "source_sha256": digest}:
                self.pairs.pop(source, None)
                self.skipped[source], self.digests[source] = line, digest
            case {"name": name, "number": number, "source": source, "source_sha256": digest}:
                self.skipped.pop(source, None)
                if self.digests.get(source) != digest:  # the picture was another one then
                    self.pairs.pop(source, None)
                self.digests[source] = digest
                self.homes[source] = name.rpartition("_")[0], line.get("shard")
                self.pairs.setdefault(source, {})[number] = to_line(line)  # as text, which takes less memory

    def lines(self, job: _Job) -> list[Line]:
        """Returns all that is known of a job that is done."""
        found: list[Line] = []
        for picture in job.pictures:
            if picture.source in self.skipped:
                found.append(self.skipped[picture.source])
            found += [json.loads(line) for _, line in sorted(self.pairs.get(picture.source, {}).items())]
        return found + ([self.shards[job.shard]] if job.shard in self.shards else [])


def make_pairs(
    source: Path,
    target: Path,
    config: PairsConfig,
    *,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    on_skip: Callable[[str, str], None] | None = None,
) -> Made:
    """Degrades the pictures below `source` into pairs below `target`; see `manifest` for the files there.

    Args:
        source: a folder; what is hidden, does not end like a picture, or lies in `target` is passed over.
        target: a new folder, or one that the same call has begun.
        config: what to make.
        num_workers: processes that do the work; 0: this one.
        progress: is told how many pictures of how many are done.
        on_skip: is told the path below `source` of a picture that cannot be used, and why.

    Raises:
        InputError: no picture can be used, `target` was made with other settings or of other pictures, another process
            is at work there, or something cannot be written. What is done by then stays, and the same call goes on.
    """
    sources = list_sources(source, outside=target)
    with _claim(target, config):
        known = _read_known(target)
        gone = sorted(known.digests.keys() - set(sources))
        if gone:
            raise InputError(
                f"{target}: holds pairs of {len(gone)} pictures that are not in {source}, first {gone[0]}",
                code="other_pictures",
                remedy="name another folder",
            )
        jobs = _plan(sources, config, known)
        num_pairs, done = 0, 0
        skipped: list[Line] = []
        shards: list[Line] = []
        with (
            atomic_write(target / MANIFEST) as part,
            part.open("w", encoding="ascii", newline="\n") as manifest,
            _open_journal(target / JOURNAL) as journal,
        ):
            for job, lines in zip(jobs, _run(jobs, source, target, config, num_workers), strict=True):
                if lines is None:
                    lines = known.lines(job)
                else:
                    journal.write("".join(map(to_line, lines)))
                    journal.flush()
                for line in lines:
                    if "problem" in line:
                        skipped.append(line)
                        if on_skip is not None:
                            on_skip(line["source"], line["problem"])
                    elif "num_pairs" in line:
                        shards.append(line)
                    else:
                        manifest.write(to_line(line))
                        num_pairs += 1
                done += len(job.pictures)
                if progress is not None:
                    progress(done, len(sources))
            # before the manifest takes its name: where there is one, all is there
            if skipped:
                write_lines(target / SKIPPED, skipped)
            if not num_pairs:
                (target / JOURNAL).unlink()
                raise InputError(
                    f"{source}: none of {len(sources)} pictures can be used: {skipped[0]['problem']}",
                    code="none_usable",
                )
            if not skipped:
                (target / SKIPPED).unlink(missing_ok=True)
            if shards:
                listed = [Shard(s["shard"], s["num_pairs"], s["size"], s["sha256"]) for s in shards]
                write_text(target / "shards" / INDEX, shard_index(listed))
        (target / JOURNAL).unlink()
    return Made(num_pairs, len(shards), {line["source"]: line["problem"] for line in skipped})


def list_sources(folder: Path, *, outside: Path) -> list[str]:
    """Returns the pictures below a folder, but not below `outside`, as sorted paths relative to it with "/".

    Raises:
        InputError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", code="not_found", remedy="name one with clean pictures")
    found = list_images(folder, recursive=True, outside=outside)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def name_pairs(sources: Sequence[str]) -> list[str]:
    """Returns how the pairs of each picture are called: by its name, without suffix and without dots, which tars need.

    Of several pictures of one name, upper case or not, the later ones get their folder's in front, then a number
    behind.
    """
    taken: set[str] = set()
    names = []
    for source in sources:
        path = PurePosixPath(source)
        # with a number and a suffix behind it, a name of 200 bytes fits any file system
        stem, folder = (
            part.replace(".", "_").encode(errors="surrogateescape")[:limit].decode(errors="ignore")
            for part, limit in ((path.stem, 130), (path.parent.name, 60))
        )
        stem = stem or "picture"
        with_folder = f"{folder}_{stem}" if folder else stem
        numbered = (f"{with_folder}_{number}" for number in count(2))
        name = next(n for n in chain((stem, with_folder), numbered) if n.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _plan(sources: Sequence[str], config: PairsConfig, known: _Known) -> list[_Job]:
    per_job = 1 if config.shard_size is None else config.shard_size // config.num_per_image
    named = list(zip(sources, name_pairs(sources), strict=True))
    jobs: list[_Job] = []
    for start in range(0, len(named), per_job):
        shard = None if config.shard_size is None else f"shards/{len(jobs):06d}.tar"
        pictures = []
        for source, name in named[start : start + per_job]:
            was_skipped, num_known = source in known.skipped, len(known.pairs.get(source, {}))
            # where pictures were added, others may get other names and move into other shards
            is_here = num_known == config.num_per_image and known.homes[source] == (name, shard)
            complete = was_skipped or is_here
            pictures.append(_Picture(source, name, known.digests[source] if complete else None, was_skipped))
        line = known.shards.get(shard or "", {})
        is_whole = line.get("num_pairs") == config.num_per_image * sum(not p.was_skipped for p in pictures)
        jobs.append(_Job(tuple(pictures), shard, line.get("size") if is_whole else None))
    return jobs


def _run(
    jobs: Sequence[_Job], source: Path, target: Path, config: PairsConfig, num_workers: int
) -> Iterator[list[Line] | None]:
    """Yields the lines of every job in order, None for one whose files are there already."""
    loader = DataLoader(
        Reporting(_Work(jobs, source, target, config)),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        multiprocessing_context="spawn" if num_workers else None,  # this process may have threads
        generator=torch.Generator(),
    )
    return iterate(loader)


class _Work(Dataset["list[Line] | None"]):
    """Doing a job is reading its item; in this way the workers of a `DataLoader` do it, in order."""

    def __init__(self, jobs: Sequence[_Job], source: Path, target: Path, config: PairsConfig):
        self.jobs, self.source, self.target, self.config = jobs, source, target, config

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, number: int) -> list[Line] | None:
        job = self.jobs[number]
        if self._is_done(job):
            return None
        return self._write_files(job) if job.shard is None else self._write_shard(job, self.target / job.shard)

    def _is_done(self, job: _Job) -> bool:
        if any(picture.digest is None for picture in job.pictures):
            return False
        made = [picture for picture in job.pictures if not picture.was_skipped]
        if job.shard is not None:
            shard = self.target / job.shard
            there = not made or (job.size is not None and shard.is_file() and shard.stat().st_size == job.size)
        else:
            files = (f"{p.name}_{k}.png" for p in made for k in range(self.config.num_per_image))
            there = all((self.target / part / name).is_file() for name in files for part in ("hr", "lr"))
        try:
            return there and all(sha256(self.source / p.source) == p.digest for p in job.pictures)
        except InputError:  # it is skipped, as a picture that cannot be read
            return False

    def _write_files(self, job: _Job) -> list[Line]:
        lines = []
        for line, hr, lr in self._pairs(job):
            if hr:
                for part, content in (("hr", hr), ("lr", lr)):
                    with atomic_write(self.target / line[part]) as temporary:
                        temporary.write_bytes(content)
            lines.append(line)
        return lines

    def _write_shard(self, job: _Job, path: Path) -> list[Line]:
        pairs, lines = self._pairs(job), []
        for first in pairs:
            if first[1]:
                break
            lines.append(first[0])
        else:
            return lines  # an empty tar would help nobody
        with atomic_write(path) as temporary:
            with tarfile.open(temporary, "w") as tar:
                for line, hr, lr in chain([first], pairs):
                    if hr:
                        line["shard"] = job.shard
                        for end, content in (("hr.png", hr), ("lr.png", lr), ("json", json.dumps(line).encode())):
                            member = tarfile.TarInfo(f"{line['name']}.{end}")
                            member.size = len(content)
                            tar.addfile(member, BytesIO(content))
                    lines.append(line)
            size, digest = temporary.stat().st_size, sha256(temporary)
        num_pairs = sum("number" in line for line in lines)
        return [*lines, {"shard": job.shard, "num_pairs": num_pairs, "size": size, "sha256": digest}]

    def _pairs(self, job: _Job) -> Iterator[tuple[Line, bytes, bytes]]:
        """Yields lines and the PNGs of HR and LR; empty ones where a picture is skipped."""
        for picture in job.pictures:
            digest = None
            try:
                content = read_bytes(self.source / picture.source)
                digest = hashlib.sha256(content).hexdigest()
                crops = self._crops(picture, decode_rgb(content, picture.source))
            except InputError as error:
                yield {"source": picture.source, "source_sha256": digest, "problem": str(error)}, b"", b""
                continue
            for number, (hr, place, scale, generator) in enumerate(crops):
                if self.config.sharpen:
                    hr = sharpen(hr)
                degraded = degrade(hr, self.config.degradation, generator, scale=self.config.scale)
                pngs = _png(hr), _png(degraded.image)
                height, width = hr.shape[:2]
                name = f"{picture.name}_{number}"
                line = {
                    "name": name,
                    "hr": f"hr/{name}.png",
                    "lr": f"lr/{name}.png",
                    "source": picture.source,
                    "source_sha256": digest,
                    "number": number,
                    "seed": self.config.seed,
                    "place": list(place),
                    "crop_scale": scale,
                    "sharpened": self.config.sharpen,
                    "hr_size": [width, height],
                    "lr_size": [degraded.image.shape[1], degraded.image.shape[0]],
                    "hr_sha256": hashlib.sha256(pngs[0]).hexdigest(),
                    "lr_sha256": hashlib.sha256(pngs[1]).hexdigest(),
                    "levels": vars(levels(degraded)),
                    "blur": degraded.blur,
                    "noise": degraded.noise,
                    "jpeg_quality": degraded.jpeg_quality,
                    "parameters": degraded.parameters,
                }
                yield line, *pngs

    def _crops(self, picture: _Picture, pixels: Pixels) -> list[tuple[Pixels, tuple[int, int], float, torch.Generator]]:
        """Cuts for each pair the clean picture; also where and at what scale, and the generator of what is to come."""
        config, (height, width) = self.config, pixels.shape[:2]
        check_size(pixels, config.min_size, picture.source)
        generators = [generator_for(config.seed, picture.source, k) for k in range(config.num_per_image)]
        if config.crop_size is None:
            whole = pixels[: height - height % config.scale, : width - width % config.scale]
            return [(whole, (0, 0), 1.0, generator) for generator in generators]
        crops = []
        for generator in generators:
            for _ in range(FLAT_ATTEMPTS):
                crop, place, scale = draw_crop(pixels, config.crop_size, config.crop_scales, generator)
                if detail(crop) >= config.min_detail:
                    crops.append((crop, place, scale, generator))
                    break
            else:
                raise flat(picture.source, config)
        return crops


@contextmanager
def _claim(target: Path, config: PairsConfig) -> Iterator[None]:
    """Makes the folders, keeps other processes out of them and clears what killed ones left there."""
    folders = [target, *(target / part for part in (["shards"] if config.shard_size else ["hr", "lr"]))]
    lock = FileLock(target / ".xpsr.lock")
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{target}: another process is at work there", code="in_use", remedy="wait for it, or name another folder"
        ) from error
    except OSError as error:
        raise refusal(target, "cannot be written", error) from error
    try:
        _check_settings(target / SETTINGS, config)
        for folder in folders:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise refusal(folder, "cannot be written", error) from error
        _remove_temporaries(folders)
        yield
    finally:
        _remove_temporaries(folders)
        with suppress(OSError):
            (target / ".xpsr.lock").unlink()
        lock.release()


def _remove_temporaries(folders: Iterable[Path]) -> None:
    for folder in folders:
        for temporary in folder.glob(".xpsr-*.part"):
            temporary.unlink(missing_ok=True)


def _check_settings(path: Path, config: PairsConfig) -> None:
    wanted = as_dict(config)
    if not path.exists():
        write_text(path, json.dumps({"xpsr": __version__, "config": wanted}, indent=1) + "\n")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read ({error!r})", code="damaged", remedy="name another folder, or delete this one"
        ) from error
    found = as_dict(PairsConfig()) | found  # what there was no choice of yet was as it is by default
    other = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
    if other:
        values = f"{found.get(other[0])}, not {wanted.get(other[0])}" if other[0] != "degradation" else "another one"
        raise InputError(
            f"{path.parent}: was made with {other[0]}: {values}",
            code="other_settings",
            remedy="use the same, or name another folder",
        )


def _read_known(target: Path) -> _Known:
    known = _Known()
    for name in (MANIFEST, SKIPPED, JOURNAL):
        for _, line in read_lines(target / name):
            known.add(line)
    index = target / "shards" / INDEX
    if index.is_file():
        for shard in read_index(index):
            name = f"shards/{Path(shard.url).name}"
            line = {"shard": name, "num_pairs": shard.num_pairs, "size": shard.size, "sha256": shard.sha256}
            known.shards.setdefault(name, line)
    return known


@contextmanager
def _open_journal(path: Path) -> Iterator[Any]:
    """Opens the journal, to add to; a last line that was cut off is taken away first."""
    try:
        with path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        with path.open("a", encoding="ascii", newline="\n") as file:
            yield file
    except OSError as error:
        raise refusal(path, "cannot be written", error) from error


def _png(pixels: Pixels) -> bytes:
    whole, content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert whole
    return content.tobytes()


def _as_it_is(lines: list[Line] | None) -> list[Line] | None:
    return lines
