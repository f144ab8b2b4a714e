"""Makes the training photographs again from packages of Debian and Ubuntu: the files that data/photos.tsv lists.

    python scripts/fetch_photos.py photos/              # downloads the packages that data/packages.tsv names, 2.8 GB
    python scripts/fetch_photos.py photos/ --debs debs/ # takes downloaded .deb files, and downloads what is not there

A listed file is either a package's file as it is, or a tile of one: reduced, cut out and stored as WebP. Packages are
unpacked here, without dpkg; Ubuntu's are compressed by zstd and need `pip install imagecodecs`. Files that are there
already are kept, so a second run makes what is missing.
The exit code is 1 if any listed file could not be made as it was; each is named on stderr.
"""

import argparse
import csv
import hashlib
import http.client
import io
import lzma
import struct
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

DATA = Path(__file__).parent.parent / "data"
MANIFEST = DATA / "photos.tsv"
PACKAGES = DATA / "packages.tsv"
TILE_SIZE = 512


class FetchError(Exception):
    """Something that keeps a file or a package from being made; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A square of a picture that was divided by `divisor` first; `left` and `top` are pixels after that."""

    divisor: int
    left: int
    top: int


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A row of the manifest: the file to make and where it comes from."""

    package: str
    file: str
    source: str  # path inside the package
    member: str  # name inside the source, if that is a container; else empty
    tile: Tile | None  # None: the bytes as they are
    sha256: str

    def path_in(self, folder: Path) -> Path:
        return folder / self.package / self.file


def read_manifest(path: Path) -> list[Photo]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Photo(
                package=row["package"],
                file=row["file"],
                source=row["source"],
                member=row["member"],
                tile=_tile(row["tile"]),
                sha256=row["sha256"],
            )
            for row in csv.DictReader(file, delimiter="\t")
        ]


@dataclass(frozen=True, kw_only=True)
class Package:
    """Where a package is downloaded from, and the SHA-256 of its .deb file."""

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def read_packages(path: Path) -> dict[str, Package]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["package"]: Package(url=row["url"], sha256=row["sha256"]) for row in rows}


def _tile(text: str) -> Tile | None:
    if not text:
        return None
    divisor, left, top = map(int, text.split())
    return Tile(divisor=divisor, left=left, top=top)


# Containers


def read_deb(deb: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of the wanted files of a Debian package, an ar archive with a tar archive of the files."""
    with deb.open("rb") as file, tarfile.open(fileobj=_open_data_archive(file, deb), mode="r|*") as archive:
        for entry in archive:
            path = entry.name.removeprefix("./")
            content = archive.extractfile(entry) if entry.isfile() and path in wanted else None
            if content is not None:
                yield path, content.read()


def _open_data_archive(file: BinaryIO, deb: Path) -> BinaryIO:
    """The tar archive with the package's files, plain or by a compression that tarfile knows."""
    if file.read(8) != b"!<arch>\n":
        raise FetchError(f"{deb}: not a Debian package; download it again")
    while len(header := file.read(60)) == 60:
        name, size = header[:16].decode("ascii").rstrip(" /"), int(header[48:58])
        if name == "data.tar.zst":
            return io.BytesIO(_unpack_zstd(file.read(size), deb))
        if name in ("data.tar", "data.tar.gz", "data.tar.xz"):
            return file
        if name.startswith("data.tar"):
            raise FetchError(f"{deb}: {name} cannot be unpacked here; take the package that {PACKAGES.name} names")
        file.seek(size + size % 2, io.SEEK_CUR)
    raise FetchError(f"{deb}: truncated; download it again")


def _unpack_zstd(content: bytes, deb: Path) -> bytes:
    try:
        import imagecodecs
    except ModuleNotFoundError:
        raise FetchError(f"{deb.name} is compressed by zstd; `pip install imagecodecs` to unpack it") from None
    try:
        return bytes(imagecodecs.zstd_decode(content))
    except (imagecodecs.ZstdError, ValueError) as error:
        raise FetchError(f"{deb.name} is damaged ({error}); download it again") from error


def read_rcc(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of every file of a Qt resource collection (versions 1 to 3, entries plain or zlib).

    Header: "qres", version, offsets of tree, data and names. A node of the tree is a folder (number of children, index
    of the first) or a file (offset of its length and bytes); everything is big-endian.
    """
    if content[:4] != b"qres":
        raise FetchError("not a Qt resource collection")
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    node_size = 14 if version == 1 else 22  # from version 2 on with a modification time
    compressed, folder, zstd = 1, 2, 4

    def name_at(offset: int) -> str:
        (length,) = struct.unpack_from(">H", content, names + offset)
        start = names + offset + 6  # behind length and hash
        return content[start : start + 2 * length].decode("utf-16-be")

    def walk(index: int, parents: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
        start = tree + index * node_size
        name, flags = struct.unpack_from(">IH", content, start)
        path = parents if index == 0 else (*parents, name_at(name))  # the root has no name
        if flags & folder:
            count, first = struct.unpack_from(">II", content, start + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        (offset,) = struct.unpack_from(">I", content, start + 10)  # behind country and language
        (length,) = struct.unpack_from(">I", content, data + offset)
        body = content[data + offset + 4 : data + offset + 4 + length]
        if flags & zstd:
            raise FetchError(f"{'/'.join(path)} is compressed by zstd; take the package of Debian 12, which uses zlib")
        yield "/".join(path), zlib.decompress(body[4:]) if flags & compressed else body  # 4: the size when unpacked

    yield from walk(0, ())


def read_eet(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of every entry of an Eet file (.edj) as it is stored; photographs are plain JPEG there.

    Header: magic, number of entries, number of strings; per entry the offset and stored size of its data, its unpacked
    size, the offset and size of its name, flags; everything is big-endian.
    """
    magic, count, _ = struct.unpack_from(">3I", content)
    if magic != 0x1EE70F42:
        raise FetchError("not an Eet file")
    for index in range(count):
        data, size, _, name, name_size, _ = struct.unpack_from(">6I", content, 12 + 24 * index)
        yield content[name : name + name_size].rstrip(b"\0").decode("utf-8"), content[data : data + size]


READERS = {".rcc": read_rcc, ".edj": read_eet}


# Making the files


def make_photos(photos: list[Photo], source: str, content: bytes) -> Iterator[tuple[Photo, bytes]]:
    """Yields the bytes of all photographs that come from one source file and are in it."""
    is_container = any(photo.member for photo in photos)
    members = dict(READERS[Path(source).suffix](content)) if is_container else {"": content}

    def picture_of(photo: Photo) -> tuple[str, int]:
        return photo.member, photo.tile.divisor if photo.tile else 0

    for (member, divisor), group in groupby(sorted(photos, key=picture_of), key=picture_of):
        if member in members:
            picture = reduce(members[member], divisor) if divisor else None
            for photo in group:
                yield photo, cut(picture, photo.tile) if picture and photo.tile else members[member]


def reduce(content: bytes, divisor: int) -> Image.Image:
    """The picture in RGB, its sides divided."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    if divisor == 1:
        return picture
    return picture.resize((picture.width // divisor, picture.height // divisor), Image.Resampling.LANCZOS)


def cut(picture: Image.Image, tile: Tile) -> bytes:
    """A 512x512 tile as WebP."""
    box = (tile.left, tile.top, tile.left + TILE_SIZE, tile.top + TILE_SIZE)
    encoded = io.BytesIO()
    picture.crop(box).save(encoded, "WEBP", quality=92, method=6)
    return encoded.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def get_deb(package: str, debs: Path | None, downloads: Path, packages: dict[str, Package]) -> Path:
    """The .deb file of a package: from the folder `debs` if it is there, else downloaded to the folder `downloads`."""
    if debs:
        named = [debs / packages[package].file_name] if package in packages else []
        if found := [deb for deb in named if deb.is_file()] or sorted(debs.glob(f"{package}_*.deb")):
            return found[-1]
    if package not in packages:
        where = f"{debs} holds no {package}_*.deb and " if debs else ""
        raise FetchError(f"{where}{PACKAGES.name} does not say where the package is; pass a folder that has it: --debs")
    return download_deb(packages[package], downloads)


def download_deb(package: Package, folder: Path) -> Path:
    deb = folder / package.file_name
    remedy = f"get {deb.name} elsewhere and pass its folder: --debs"
    try:
        with urllib.request.urlopen(package.url, timeout=60) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise FetchError(f"{package.url} was not downloaded ({error}); {remedy}") from error
    if fingerprint(content) != package.sha256:
        raise FetchError(f"{package.url} is another file than {PACKAGES.name} names; {remedy}")
    deb.write_bytes(content)
    return deb


def fetch_package(photos: list[Photo], deb: Path, out_dir: Path) -> tuple[list[Photo], list[Photo]]:
    """Writes the photographs of one package; returns those whose bytes are the manifest's, and those that differ."""
    same: list[Photo] = []
    other: list[Photo] = []
    try:
        for source, content in read_deb(deb, {photo.source for photo in photos}):
            for photo, made in make_photos([p for p in photos if p.source == source], source, content):
                is_same = fingerprint(made) == photo.sha256
                if is_same or photo.tile:  # another version of the package's own file is not the listed photograph
                    write(photo.path_in(out_dir), made)
                (same if is_same else other).append(photo)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, struct.error, EOFError, UnidentifiedImageError) as error:
        raise FetchError(f"{deb.name} is damaged ({error}); download it again") from error
    return same, other


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="where to write PACKAGE/FILE")
    parser.add_argument("--debs", type=Path, metavar="DIR", help="folder of .deb files that need no download")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="default: data/photos.tsv")
    args = parser.parse_args()

    photos, packages = read_manifest(args.manifest), read_packages(PACKAGES)
    failures: list[str] = []
    recoded = 0
    for package in sorted({photo.package for photo in photos}):
        wanted = [photo for photo in photos if photo.package == package]
        missing = [photo for photo in wanted if not is_there(photo, args.out_dir)]
        if missing:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    deb = get_deb(package, args.debs, Path(folder), packages)
                    same, other = fetch_package(missing, deb, args.out_dir)
            except FetchError as error:
                failures.append(f"{package}: {error}")
                continue
            for photo in missing:
                if photo not in same and photo not in other:
                    failures.append(f"{package}/{photo.file}: {deb.name} has no {photo.source} {photo.member}".rstrip())
                elif photo in other and photo.tile is None:
                    failures.append(f"{package}/{photo.file}: {deb.name} holds another picture under this name")
            recoded += sum(photo.tile is not None for photo in other)
        print(f"{package}: {sum(photo.path_in(args.out_dir).exists() for photo in wanted)} of {len(wanted)} files")
    if recoded:
        print(f"{recoded} tiles have other bytes than when they were first made (another libwebp or JPEG decoder).")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def is_there(photo: Photo, out_dir: Path) -> bool:
    path = photo.path_in(out_dir)
    return path.is_file() and fingerprint(path.read_bytes()) == photo.sha256


if __name__ == "__main__":
    sys.exit(main())
