"""Files and folders: which pictures are found, and which of two folders belong together."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from xpsr.errors import InputError
from xpsr.files import find_hidden, find_images, pair_images, refuse_used
from xpsr.jsonl import read_lines


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_pictures_are_found_but_not_hidden_ones_nor_those_outside(tmp_path: Path) -> None:
    names = ("b.png", "a/c.JPG", "a/.f.png", "._b.png", ".git/d.png", "out/hr/e.png", "a.png/x.txt", "g.txt", "a-b.png")
    touch(tmp_path, *names)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "sub.png").symlink_to(tmp_path / "out")
    os.mkfifo(tmp_path / "pipe.png")

    def found(**options: object) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path, **options)]  # type: ignore[arg-type]

    # a link that leads nowhere is a picture that cannot be read: whoever opens it says so
    assert found() == ["a-b.png", "b.png", "gone.png"]
    assert found(recursive=True) == ["a/c.JPG", "a-b.png", "b.png", "gone.png", "out/hr/e.png"]
    assert found(recursive=True, outside=tmp_path / "out" / "." / "hr") == ["a/c.JPG", "a-b.png", "b.png", "gone.png"]
    assert found(suffixes=frozenset({".txt"})) == ["g.txt"]
    hidden = [path.relative_to(tmp_path).as_posix() for path in find_hidden(tmp_path)]
    assert hidden == ["._b.png", ".git/d.png", "a/.f.png"]
    assert found(outside=tmp_path) == []


def test_a_folder_below_a_hidden_one_is_not_hidden(tmp_path: Path) -> None:
    folder = touch(tmp_path / ".cache" / "photos", "a.png", "sub/b.png")
    assert len(find_images(folder, recursive=True)) == 2 and find_hidden(folder) == []


def test_a_folder_that_is_none_cannot_be_searched(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    for name in ("nowhere", "a.png"):
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            find_images(tmp_path / name, recursive=True)


def test_a_folder_that_may_not_be_looked_into_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "lost+found/b.png")
    look = os.scandir

    def refuse(folder: str) -> Any:  # as the system does, which lets root look into every folder
        if str(folder).endswith("lost+found"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return look(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [path.name for path in find_images(tmp_path, recursive=True)] == ["a.png"]
    (record,) = caplog.records
    assert record.message.startswith(f"{tmp_path / 'lost+found'}: cannot be read (Permission denied); ")
    assert record.message.endswith(" It is passed over.")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    for use in (refuse_used, read_lines):
        with pytest.raises(InputError, match=r"File name too long.; choose a shorter name"):
            use(tmp_path / ("a" * 300))


def test_pairs_are_told_by_their_stems(tmp_path: Path) -> None:
    touch(tmp_path, "hr/m.jpg", "lr/m.png", "hr/a.v2.png", "lr/a.v2.png", "hr/._m.png", "lr/n.txt")
    names = [(hr.name, lr.name) for hr, lr in pair_images(tmp_path / "hr", tmp_path / "lr")]
    assert names == [("a.v2.png", "a.v2.png"), ("m.jpg", "m.png")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["hr/a.png", "hr/b.png", "lr/a.png"], r"hr/b\.png: has no partner in .*lr"),
        (["hr/a.png", "lr/b.png", "lr/a.png"], r"lr/b\.png: has no partner in .*hr"),
        (["hr/a.png", "lr/a.png", "lr/a.jpg"], r"hr/a\.png: .*lr/a\.jpg and .*lr/a\.png"),
        (["hr/a.png", "hr/a.jpg", "lr/a.png"], r"lr/a\.png: .*hr/a\.jpg and .*hr/a\.png"),
        (["hr/a.png", "lr/a.txt"], "lr: holds no pictures"),
    ],
)
def test_pictures_without_exactly_one_partner_are_refused_by_name(
    tmp_path: Path, names: list[str], message: str
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        pair_images(tmp_path / "hr", tmp_path / "lr")
