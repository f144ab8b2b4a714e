"""Digests of large files are kept between processes, and only of files that are as they were."""

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest

from xpsr import caches
from xpsr.errors import InputError

LOGGER = "xpsr.caches"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(caches, "_LARGE", 1000)
    return tmp_path / "cache" / "xpsr" / "digests.json"


def anew(path: Path) -> str:
    """The digest as another process would find it."""
    caches._digest.cache_clear()
    return caches.digest(path)


def test_large_files_are_read_once(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"s" * 999), large.write_bytes(b"l" * 1000)
    for _ in range(3):
        assert anew(small) == hashlib.sha256(small.read_bytes()).hexdigest()
        assert anew(large) == hashlib.sha256(large.read_bytes()).hexdigest()
    assert [record.getMessage() for record in caplog.records] == [f"Checking {large} (0.0 GB)."]
    assert list(json.loads(place.read_text())) == [str(large)]


def test_changed_files_are_read_again(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"a" * 1000)
    state, before = path.stat(), anew(path)
    path.write_bytes(b"b" * 1000)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a copy that keeps times would
    assert anew(path) == hashlib.sha256(b"b" * 1000).hexdigest() != before


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: cannot be read"):
        caches.digest(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b"[" * 100_000, b'{"x": 5, "y": [], "z": ["a", 1]}'])
def test_a_damaged_cache_is_made_anew(content: bytes, place: Path, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"a" * 1000)
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    assert anew(path) == hashlib.sha256(b"a" * 1000).hexdigest()
    assert list(json.loads(place.read_text())) == [str(path)]


def test_the_cache_is_bounded_and_needs_no_place(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_MOST_KEPT", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 1000)
        anew(tmp_path / name)
    assert list(json.loads(place.read_text())) == [str(tmp_path / name) for name in "bc"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))  # a file
    assert anew(tmp_path / "b") == hashlib.sha256(b"x" * 1000).hexdigest()
