"""The readers of scripts/fetch_photos.py, on tiny files made here, and the manifest that the script follows."""

import io
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import fetch_photos
import imagecodecs
import pytest
from PIL import Image

# Validation pictures, as the package names them.
HELD_OUT = {
    "explore_monuments_wonders_colosseum",
    "explore_monuments_india_charminar",
    "explore_monuments_france_chateaudeChenonceau",
    "explore_world_music_music_america",
    "explore_world_music_music_mexico",
    "explore_world_animals_animals_chameleon",
    "explore_world_animals_animals_hedgehog",
    "explore_world_animals_animals_scarlet_macaw",
    "erase_kitten",
    "erase_red_panda",
    "explore_world_animals_animals_moose",
    "explore_farm_animals_animals_dog",
}


def rcc(files: dict[str, bytes], *, version: int, flags: int = 0) -> bytes:
    """A resource collection with one folder, `pictures`, that holds the files."""
    names, offsets = b"", []
    for name in ("pictures", *files):
        offsets.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    modified = b"" if version == 1 else bytes(8)
    tree = struct.pack(">IHII", 0, 2, 1, 1) + modified  # the root: one child, at index 1
    tree += struct.pack(">IHII", offsets[0], 2, len(files), 2) + modified
    data = b""
    for offset, body in zip(offsets[1:], files.values(), strict=True):
        tree += struct.pack(">IHHHI", offset, flags, 0, 0, len(data)) + modified
        stored = struct.pack(">I", len(body)) + zlib.compress(body) if flags & 1 else body
        data += struct.pack(">I", len(stored)) + stored
    start = 20 if version < 3 else 24
    header = struct.pack(">4s4I", b"qres", version, start, start + len(tree), start + len(tree) + len(data))
    return header.ljust(start, b"\0") + tree + data + names


def eet(entries: dict[str, bytes]) -> bytes:
    start = 12 + 24 * len(entries)
    directory, body = b"", b""
    for name, data in entries.items():
        stored = name.encode() + b"\0"
        at = start + len(body)
        directory += struct.pack(">6I", at + len(stored), len(data), len(data), at, len(stored), 0)
        body += stored + data
    return struct.pack(">3I", 0x1EE70F42, len(entries), 0) + directory + body


def deb(files: dict[str, bytes], *, compression: str = "xz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:" if compression == "zst" else f"w:{compression}") as archive:
        for name, body in files.items():
            entry = tarfile.TarInfo("./" + name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    content = b"!<arch>\n"
    suffix = f".{compression}" if compression else ""
    data = imagecodecs.zstd_encode(packed.getvalue()) if compression == "zst" else packed.getvalue()
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar{suffix}": data}
    for name, body in members.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    return content


def jpeg(width: int, height: int) -> bytes:
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG")
    return encoded.getvalue()


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("flags", [0, 1], ids=["plain", "zlib"])
def test_rcc_gives_back_what_was_put_in(version, flags):
    files = {"a.webp": b"first", "ä.webp": bytes(1000), "empty": b""}
    content = rcc(files, version=version, flags=flags)
    assert dict(fetch_photos.read_rcc(content)) == {f"pictures/{name}": body for name, body in files.items()}


def test_rcc_with_zstd_is_refused_by_name():
    with pytest.raises(fetch_photos.FetchError, match=r"pictures/a\.webp .*zstd"):
        list(fetch_photos.read_rcc(rcc({"a.webp": b"first"}, version=3, flags=4)))


def test_eet_gives_back_what_was_put_in():
    entries = {"edje/images/0": b"\xff\xd8picture", "edje/file": b""}
    assert dict(fetch_photos.read_eet(eet(entries))) == entries


@pytest.mark.parametrize("compression", ["", "gz", "xz", "zst"])
def test_deb_gives_back_the_wanted_files(tmp_path, compression):
    path = tmp_path / "pictures_1_all.deb"
    path.write_bytes(deb({"usr/a.jpg": b"a", "usr/b.jpg": b"b", "usr/c.jpg": b"c"}, compression=compression))
    assert dict(fetch_photos.read_deb(path, {"usr/a.jpg", "usr/c.jpg"})) == {"usr/a.jpg": b"a", "usr/c.jpg": b"c"}


def test_deb_with_damaged_zstd_is_refused(tmp_path):
    path = tmp_path / "pictures_1_all.deb"
    content = deb({"usr/a.jpg": b"a"}, compression="zst")
    path.write_bytes(content[:-20] + bytes(20))
    with pytest.raises(fetch_photos.FetchError, match=r"pictures_1_all\.deb is damaged .*download it again"):
        list(fetch_photos.read_deb(path, {"usr/a.jpg"}))


def test_deb_with_another_compression_is_refused_by_name(tmp_path):
    path = tmp_path / "pictures_1_all.deb"
    path.write_bytes(deb({"usr/a.jpg": b"a"}).replace(b"data.tar.xz ", b"data.tar.lz4"))
    with pytest.raises(fetch_photos.FetchError, match=r"data\.tar\.lz4 cannot be unpacked"):
        list(fetch_photos.read_deb(path, {"usr/a.jpg"}))


def test_a_package_is_downloaded_and_compared(tmp_path):
    (tmp_path / "pictures_1_all.deb").write_bytes(content := deb({"usr/a.jpg": b"a"}))
    (downloads := tmp_path / "downloads").mkdir()
    url = (tmp_path / "pictures_1_all.deb").as_uri()
    good = fetch_photos.Package(url=url, sha256=fetch_photos.fingerprint(content))
    assert fetch_photos.get_deb("pictures", None, downloads, {"pictures": good}).read_bytes() == content
    other = fetch_photos.Package(url=url, sha256="0" * 64)
    with pytest.raises(fetch_photos.FetchError, match=r"is another file .*pictures_1_all\.deb elsewhere .*--debs"):
        fetch_photos.download_deb(other, downloads)
    gone = fetch_photos.Package(url=url.replace("_1_", "_2_"), sha256="0" * 64)
    with pytest.raises(fetch_photos.FetchError, match=r"was not downloaded .*pictures_2_all\.deb elsewhere .*--debs"):
        fetch_photos.download_deb(gone, downloads)


def test_a_package_of_the_folder_is_not_downloaded(tmp_path):
    (tmp_path / "pictures_1_all.deb").write_bytes(b"")
    assert fetch_photos.get_deb("pictures", tmp_path, tmp_path, {}) == tmp_path / "pictures_1_all.deb"


def test_of_two_versions_in_the_folder_the_named_one_is_taken(tmp_path):
    for version in (1, 2):
        (tmp_path / f"pictures_{version}_all.deb").write_bytes(b"")
    packages = {"pictures-old": fetch_photos.Package(url="http://nowhere/pictures_1_all.deb", sha256="0" * 64)}
    assert fetch_photos.get_deb("pictures-old", tmp_path, tmp_path, packages) == tmp_path / "pictures_1_all.deb"


def run_script(out_dir: Path, debs: Path, rows: list[str]) -> subprocess.CompletedProcess[str]:
    manifest = debs / "photos.tsv"
    manifest.write_text("\n".join(["package\tfile\tsource\tmember\ttile\tsha256", *rows, ""]), encoding="utf-8")
    command = [sys.executable, fetch_photos.__file__, out_dir, "--debs", debs, "--manifest", manifest]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_script_makes_files_as_they_are_and_tiles(tmp_path):
    photo = jpeg(1100, 1050)
    files = {"usr/plain.jpg": photo, "usr/e.edj": eet({"edje/images/0": photo})}
    (tmp_path / "pictures_1_all.deb").write_bytes(deb(files))
    rows = [
        f"pictures\tplain.jpg\tusr/plain.jpg\t\t\t{fetch_photos.fingerprint(photo)}",
        "pictures\te_s2.webp\tusr/e.edj\tedje/images/0\t2 38 13\tunknown",
    ]
    done = run_script(tmp_path / "out", tmp_path, rows)
    assert done.returncode == 0, done.stderr
    assert "pictures: 2 of 2 files" in done.stdout
    assert (tmp_path / "out" / "pictures" / "plain.jpg").read_bytes() == photo
    with Image.open(tmp_path / "out" / "pictures" / "e_s2.webp") as tile:
        assert (tile.format, tile.size) == ("WEBP", (512, 512))


def test_script_names_what_cannot_be_made(tmp_path):
    (tmp_path / "pictures_1_all.deb").write_bytes(deb({"usr/changed.jpg": b"another picture"}))
    (tmp_path / "damaged_1_all.deb").write_bytes(deb({"usr/a.jpg": b"a"})[:220])
    rows = [
        "pictures\tchanged.jpg\tusr/changed.jpg\t\t\t00",
        "pictures\tgone.jpg\tusr/gone.jpg\t\t\t00",
        "absent\ta.jpg\tusr/a.jpg\t\t\t00",
        "damaged\ta.jpg\tusr/a.jpg\t\t\t00",
    ]
    done = run_script(tmp_path / "out", tmp_path, rows)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert "absent_*.deb" in lines[0]
    assert "damaged (" in lines[1]
    assert "pictures/changed.jpg" in lines[2]
    assert "pictures/gone.jpg" in lines[3]
    assert not list((tmp_path / "out").rglob("*.*"))


def test_manifest_lists_each_photograph_once_and_none_held_out():
    photos = fetch_photos.read_manifest(fetch_photos.MANIFEST)
    names = [photo.path_in(Path()).as_posix() for photo in photos]
    assert len(names) == len(set(names)) == 2124
    assert HELD_OUT.isdisjoint(Path(photo.file).stem for photo in photos)
    assert all(len(photo.sha256) == 64 and photo.source for photo in photos)


def test_every_package_has_an_address():
    packages = fetch_photos.read_packages(fetch_photos.PACKAGES)
    assert len(packages) == len(fetch_photos.PACKAGES.read_text().splitlines()) - 1  # no name stands twice
    assert packages.keys() == {photo.package for photo in fetch_photos.read_manifest(fetch_photos.MANIFEST)}
    assert all(len(package.sha256) == 64 and package.url.endswith(".deb") for package in packages.values())
