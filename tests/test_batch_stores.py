"""What is read from tar files and stores, and what is written to stores that fail, cache, refuse and stop halfway."""

import errno
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import Store, new_store

from xpsr.batch import stores
from xpsr.batch.items import Item, failure_of
from xpsr.batch.stores import Member, Results, entry_of, fetch, listing, name_of, stamp_of, stamp_of_entry
from xpsr.errors import InputError, MissingDependencyError, XPSRError
from xpsr.files import sha256
from xpsr.records import is_own
from xpsr.sources import read_sidecar, record_place


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Store]]:
    monkeypatch.setattr(stores, "_PAUSE", 0.0)
    new_store(Store)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield Store
    Store.fail = staticmethod(lambda what, path: None)


def failing(error: Exception, what: str = "put", every: int = 1) -> Callable[[str, str], None]:
    count = 0

    def fail(done: str, path: str) -> None:
        nonlocal count
        count += done == what
        if done == what and count % every == 0:
            raise error

    return staticmethod(fail)


def item_of(source: str, stamp: str = "") -> Item:
    return Item(id="trip/a.png", source=source, target="trip/b.png", seed=1, stamp=stamp)


def send(results: Results, folder: Path, content: bytes, target: str = "trip/b.png") -> Path:
    """Does with a store what a worker does."""
    folder.mkdir(parents=True)
    place = results.place(target, folder)
    place.write_bytes(content)
    record = {"input": "a", "input_sha256": "0", "output": place.name, "output_sha256": sha256(place)}
    record_place(place).write_text(json.dumps(record), encoding="utf-8")
    results.send(place, target)
    return place


def there(root: str = "/out/") -> dict[str, bytes]:
    return {name.removeprefix(root): file.getvalue() for name, file in Store.store.items()}


@pytest.mark.parametrize("scheme", ["memory", "try"])
@pytest.mark.parametrize("folder", ["trip/", "", "day [1] * ?/ä/"])
def test_what_is_sent_is_there_and_comes_back(tmp_path: Path, scheme: str, folder: str) -> None:
    results, target = Results(f"{scheme}://out"), f"{folder}b.png"
    send(results, tmp_path / "1", b"first", target)
    stamp = results.stamp(target)
    assert [name for name, _ in listing(f"{scheme}://out")] == [f"{folder}b.json", f"{folder}b.png"]
    (tmp_path / "2").mkdir()
    place = results.place(target, tmp_path / "2")
    assert place.read_bytes() == b"first" and place.with_suffix(".json").is_file()
    send(results, tmp_path / "3", b"second, longer", target)
    assert results.stamp(target) != stamp
    assert fetch(item_of(f"{scheme}://out/{target}"), tmp_path).path.read_bytes() == b"second, longer"


def test_a_result_in_another_format_has_a_record_of_its_own(tmp_path: Path) -> None:
    results = Results("try://out")
    for number, target in enumerate(("trip/b.png", "trip/b.webp", "trip/b.webp")):
        send(results, tmp_path / f"{number}", target.encode(), target)
    assert set(there()) == {"trip/b.png", "trip/b.json", "trip/b.webp", "trip/b.webp.json"}
    for name in ("b.png", "b.webp"):
        (tmp_path / name).mkdir()
        record = read_sidecar(results.place(f"trip/{name}", tmp_path / name))
        assert record is not None and record["output"] == name


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_of_this_machine_is_written_to_in_place(tmp_path: Path, scheme: str) -> None:
    results = Results(f"{scheme}{tmp_path / 'out'}")
    place = results.place("trip/b.png", tmp_path)
    assert place == tmp_path / "out" / "trip" / "b.png" and not place.parent.exists()
    place.parent.mkdir(parents=True)
    place.write_bytes(b"here")
    results.send(place, "trip/b.png")
    assert results.stamp("trip/b.png") == f"4 {place.stat().st_mtime_ns}" == stamp_of(str(place))


@pytest.mark.parametrize("scheme", ["", "memory://", "try://"])
def test_whether_results_can_be_written_is_found_out_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xpsr.batch.stores._PAUSE", 0.001)
    results = Results(f"{scheme}out/of/photos")
    assert results.is_reachable()
    assert not list(tmp_path.iterdir())
    if scheme:
        system = fsspec.filesystem(scheme.removesuffix("://"))
        assert not system.exists("/out") or not system.find("/out")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("access denied")

    monkeypatch.setattr("xpsr.batch.stores.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("xpsr.batch.stores._put_by_part", refuse)
    assert not results.is_reachable()


@pytest.mark.parametrize("out", ["try://out", "memory://out/", "out"])
def test_results_that_are_gone_or_changed_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    results, kept = Results(out), []
    for number, target in enumerate(("a.png", "deep/b.png", "c.png")):
        if out == "out":
            Path("out/deep").mkdir(parents=True, exist_ok=True)
            Path("out", target).write_bytes(b"first")
        else:
            send(results, tmp_path / str(number), b"first", target)
        kept.append((number, target, results.stamp(target)))
    assert list(results.changed(kept)) == []
    if out == "out":
        Path("out/a.png").unlink()
        Path("out/c.png").write_bytes(b"edited")
    else:
        system, root = fsspec.core.url_to_fs(out)
        system.rm_file(f"{root}/a.png")
        system.pipe_file(f"{root}/c.png", b"edited")
    assert list(results.changed(kept)) == [0, 2]


def test_a_store_that_fails_now_and_then_loses_nothing(tmp_path: Path, store: type[Store]) -> None:
    store.fail = failing(ConnectionError("reset by peer"), every=3)
    results = Results("try://out")
    for number in range(12):
        send(results, tmp_path / str(number), f"picture {number}".encode(), f"{number % 3}/{number}.png")
    pictures = {name: content for name, content in there().items() if name.endswith(".png")}
    assert pictures == {f"{n % 3}/{n}.png": f"picture {n}".encode() for n in range(12)}
    assert len(there()) == 24  # with the records, and nothing else


@pytest.mark.parametrize("is_first", [True, False])
def test_a_write_that_stops_halfway_leaves_what_was_there(tmp_path: Path, store: type[Store], is_first: bool) -> None:
    results = Results("try://out")
    if not is_first:
        send(results, tmp_path / "1", b"first")
    before = there()
    store.fail = failing(ConnectionError("reset\nby peer"))
    with pytest.raises(XPSRError) as caught:
        send(results, tmp_path / "2", b"second")
    line = "try://out/trip/b.json: cannot be written (ConnectionError: reset by peer); is the store reachable?"
    assert str(caught.value) == line and caught.value.code == "store"
    assert failure_of(caught.value).may_pass
    assert there() == before


def test_whenever_a_run_is_killed_its_result_is_its_own(tmp_path: Path, store: type[Store]) -> None:
    results, states = Results("try://out"), []
    send(results, tmp_path / "1", b"first")

    def look(what: str, path: str) -> None:
        files = there()
        (tmp_path / "now").write_bytes(files["trip/b.png"])
        states.append(is_own(sha256(tmp_path / "now"), json.loads(files["trip/b.json"])))

    store.fail = staticmethod(look)
    send(results, tmp_path / "2", b"second")
    assert len(states) > 3 and all(states)
    assert "replaces" not in json.loads(there()["trip/b.json"]) and there()["trip/b.png"] == b"second"

    store.fail = staticmethod(lambda *_: None)
    Store.store["/out/trip/b.png"].seek(0)
    Store.store["/out/trip/b.png"].write(b"edited")  # is no result any more, which a killed run must not hide
    store.fail = failing(OSError("gone"), what="moved")
    with pytest.raises(XPSRError):
        send(results, tmp_path / "3", b"third")
    assert "replaces" not in json.loads(there()["trip/b.json"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PermissionError("Access Denied"), "no_credentials", r"\(Access Denied\); sign in as the store's own tools do"),
        (RuntimeError("Unable to locate credentials"), "no_credentials", "sign in as"),
        (OSError("Forbidden: my/bucket"), "no_credentials", "sign in as"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full", "No space left on device.; free space"),
        (TimeoutError("waited\n30 s"), "store", r"\(TimeoutError: waited 30 s\); is the store reachable\?"),
        (KeyError("Bucket"), "store", "is the store reachable"),
    ],
)
def test_what_a_store_refuses_is_told_in_a_line(
    tmp_path: Path, store: type[Store], error: Exception, code: str, line: str
) -> None:
    for what in ("put", "get"):
        store.fail = failing(error, what)
        with pytest.raises(XPSRError, match=rf"try://out/trip/b\.(json|png): cannot be \w+ .*{line}") as caught:
            send(Results("try://out"), tmp_path / what, b"a")
        assert caught.value.code == code and "\n" not in str(caught.value)


def test_who_may_not_look_does_not_replace(tmp_path: Path, store: type[Store]) -> None:
    send(Results("try://out"), tmp_path / "1", b"first")
    store.fail = failing(PermissionError("no"), "get")
    with pytest.raises(InputError, match=r"b\.png: cannot be read"):
        send(Results("try://out"), tmp_path / "2", b"second")
    assert there()["trip/b.png"] == b"first"


@pytest.mark.parametrize("scheme", ["s3", "gs", "sftp", "simplecache::s3"])
def test_a_package_that_lacks_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    package = {"s3": "s3fs", "gs": "gcsfs", "sftp": "paramiko"}[scheme.rpartition("::")[2]]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"bucket/a: fsspec needs another .*run `pip install {package}`"):
        stamp_of(f"{scheme}://bucket/a")


def test_an_address_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match=r"nowhere://a: is no address that fsspec knows; use s3://") as caught:
        Results("nowhere://a")
    assert caught.value.code == "bad_address"


@pytest.mark.parametrize("scheme", ["memory", "here"])
def test_a_source_that_has_gone_or_changed_is_refused(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "a.png"
    source = "memory://in/a.png" if scheme == "memory" else str(path)

    def write(content: bytes, time: int) -> None:
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        fsspec.filesystem("memory").pipe_file("/in/a.png", content)

    write(b"one", 10**9)
    stamp = stamp_of(source)
    found = fetch(item_of(source, stamp), tmp_path)
    assert found.path.name == "a.png" and found.path.read_bytes() == b"one"
    assert found.address == (source if scheme == "memory" else None)
    write(b"two", 2 * 10**9)
    with pytest.raises(InputError, match=r"a\.png: has been changed since the plan was made; run") as caught:
        fetch(item_of(source, stamp), tmp_path)
    assert caught.value.code == "changed" and not failure_of(caught.value).may_pass
    assert fetch(item_of(source), tmp_path).path.read_bytes() == b"two"  # of a list, whose pictures have no stamps
    path.unlink()
    fsspec.filesystem("memory").rm_file("/in/a.png")
    with pytest.raises(InputError, match=r"a\.png: cannot be read") as caught:
        fetch(item_of(source, stamp), tmp_path)
    assert caught.value.code == "not_found"


def test_a_stamp_is_the_same_however_one_learns_it() -> None:
    fsspec.filesystem("memory").pipe_file("/in/a.png", b"one")
    ((name, listed),) = listing("memory://in")
    assert name == "a.png" and listed == stamp_of("memory://in/a.png") == stamp_of_entry(entry_of("memory://in/a.png"))
    assert stamp_of_entry({"size": 3, "etag": '"0x8D"'}) == stamp_of_entry({"size": 3, "etag": "0x8D"}) == "3 0x8D"
    assert stamp_of_entry({"size": 3}) == stamp_of_entry({"size": None, "ETag": "a"}) == ""


def test_a_stamp_is_that_of_now_whatever_a_store_remembers(store: type[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Any] = {}
    info = MemoryFileSystem.info
    monkeypatch.setattr(store, "info", lambda self, path, **_: known.setdefault(path, info(self, path)), raising=False)
    monkeypatch.setattr(store, "invalidate_cache", lambda self, path=None: known.clear(), raising=False)
    fsspec.filesystem("try").pipe_file("/in/a.png", b"one")
    before = stamp_of("try://in/a.png")
    fsspec.filesystem("try").pipe_file("/in/a.png", b"three")
    assert stamp_of("try://in/a.png") != before


def test_a_store_that_moves_nothing_to_where_something_is_is_written_all_the_same(
    tmp_path: Path, store: type[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mv(self: Store, old: str, new: str, **_: Any) -> None:
        if new in self.store:
            raise FileExistsError(new)
        self.store[new] = self.store.pop(old)

    monkeypatch.setattr(store, "mv", mv, raising=False)
    for number, content in enumerate((b"first", b"second")):
        send(Results("try://out"), tmp_path / str(number), content)
        assert there()["trip/b.png"] == content and len(there()) == 2


def test_a_store_that_shows_whole_files_alone_needs_no_parts_and_no_folders(
    tmp_path: Path, store: type[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "protocol", ("try", "s3"))
    monkeypatch.setattr(store, "makedirs", None, raising=False)  # would make buckets
    monkeypatch.setattr(store, "cp_file", None)
    send(Results("try://out"), tmp_path / "1", b"first")
    assert sorted(there()) == ["trip/b.json", "trip/b.png"]


# Members of tar files


def test_a_member_comes_out_whole_and_records_call_it_by_its_name(tmp_path: Path) -> None:
    tar, contents = tmp_path / "a.tar", {"a/b.png": b"one" * 999, "c.png": b"", "d": b"two"}
    with tarfile.open(tar, "w") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with tarfile.open(tar) as archive:
        members = [Member(tar=str(tar), offset=m.offset_data, size=m.size, name=m.name) for m in archive]
    stamp = stamp_of(str(tar))
    for member in members:
        (folder := tmp_path / member.name.replace("/", "-")).mkdir()
        found = fetch(item_of(str(member), stamp), folder)
        assert found.path.read_bytes() == contents[member.name] and found.path.parent == folder
        assert found.address == f"{tar}::{member.name}"
    tar.write_bytes(tar.read_bytes()[: members[-1].offset])
    with pytest.raises(InputError, match=r"a\.tar::a/b\.png: has been changed since"):
        fetch(item_of(str(members[0]), stamp), tmp_path)
    with pytest.raises(InputError, match=r"a\.tar::d: is cut off, as its tar file is; mend") as caught:
        fetch(item_of(str(members[2])), tmp_path / "c.png")
    assert caught.value.code == "damaged"
    tar.unlink()
    for known in (stamp, ""):
        with pytest.raises(InputError, match=r"a\.tar: cannot be read"):
            fetch(item_of(str(members[0]), known), tmp_path)


@given(
    st.text(min_size=1),
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.text(min_size=1).filter(lambda name: not name.endswith("/")),
)
def test_a_member_is_read_from_what_it_is_written_as(folder: str, offset: int, size: int, name: str) -> None:
    member = Member(tar=f"{folder}.TAR", offset=offset, size=size, name=name)
    found = Member.parse(str(member))
    assert found is not None and str(found) == str(member)
    if "::" not in folder + name:
        assert found == member and name_of(str(member)) == name.rpartition("/")[2]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/photos/a.jpg", "a.jpg"),
        ("s3://bucket/photos/a?b#c.jpg", "a?b#c.jpg"),
        ("https://host/photos/a.jpg?key=1/2#top", "a.jpg"),
        ("/x.tar::5:6:a/b.jpg", "b.jpg"),
        ("/photos/x.tar::b.jpg", "x.tar::b.jpg"),
    ],
)
def test_a_name_is_that_of_the_picture(source: str, name: str) -> None:
    assert name_of(source) == name
