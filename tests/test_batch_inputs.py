"""From what a user names to items of a plan: which pictures, what they are called, and where their results go."""

import contextlib
import csv
import errno
import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.batch.inputs import plan_items
from xpsr.batch.items import Item
from xpsr.batch.naming import Naming, below
from xpsr.batch.stores import Member, fetch, stamp_of
from xpsr.errors import InputError, MissingDependencyError, XPSRError
from xpsr.sources import folded


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def make_tar(path: str, *names: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))


def plan(*inputs: str, out: str = "out", **options: Any) -> tuple[list[Item], list[str], list[str]]:
    """What is planned, what is told of what cannot be used, and what is told of what is passed over."""
    errors: list[str] = []
    notes: list[str] = []
    items = plan_items(
        inputs, out=out, on_error=lambda name, error: errors.append(str(error)), on_note=notes.append, **options
    )
    return list(items), errors, notes


def seed_of(called: str) -> int:
    return int(hashlib.sha256(called.encode()).hexdigest()[:8], 16)


def targets(*inputs: str, **options: Any) -> dict[str, str]:
    items, errors, _ = plan(*inputs, **options)
    assert not errors
    return {item.id: item.target for item in items}


def ids(*inputs: str, **options: Any) -> list[str]:
    return list(targets(*inputs, **options))


# Folders and files


def test_a_folder_gives_all_below_it_in_the_order_of_their_ids(here: Path) -> None:
    names = ["z.jpg", "a/b.PNG", "a.jpg", "a/a/c.heic", "a-b/d.tif", "ä/ö.webp"]
    touch(*(f"in/{name}" for name in names), "in/.hidden/a.jpg", "in/._z.jpg", "in/notes.txt", "in/a.json")
    items, errors, notes = plan("in")
    assert [item.id for item in items] == sorted(names) and not errors and not notes
    for item in items:
        assert item.source == f"in/{item.id}" and item.stamp == stamp_of(item.source)
        assert item.content is item.quality is None and item.seed == seed_of(item.id)
    assert {item.id: item.target for item in items}["a/a/c.heic"] == "a/a/c.png"
    assert plan("in/")[0] == plan("./in")[0] == plan("in", "in/")[0] == items
    assert [item.source for item in plan(f"file://{here}/in")[0]] == [f"{here}/{item.source}" for item in items]


def test_a_single_picture_is_called_by_its_name_whatever_it_is(here: Path) -> None:
    touch("in/a.jpg", "in/b.raw")
    touch("in/a.json")
    items, errors, _ = plan("in/a.jpg", "in/b.raw", "in/none.jpg", "-")
    assert [(item.id, item.target) for item in items] == [("a.jpg", "a.jpg"), ("b.raw", "b.png")]
    assert "none.jpg: cannot be read (No such file" in errors[0] and "-: can be read but once; save it" in errors[1]


def test_what_is_named_twice_is_there_once_and_keeps_its_name() -> None:
    touch("in/a.jpg", "in/b.jpg")
    assert targets("in/a.jpg", "in", "in/a.jpg") == {"a.jpg": "a.jpg", "b.jpg": "b.jpg"}


def test_a_folder_tells_what_it_passes_over(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("in/a.jpg", "in/b.png", "in/c.nef", "in/d.ico", "in/e.psd", "in/f.dng", "else/x.jpg", "in/deep/y.jpg")
    record = {"input": "../x.png", "input_sha256": "0", "output": "b.png", "output_sha256": "0"}
    Path("in/b.json").write_text(json.dumps(record), encoding="utf-8")
    Path("in/a.json").write_text(json.dumps(record), encoding="utf-8")  # of another picture
    touch("in/b.webp")
    Path("in/b.webp.json").write_text(json.dumps(record | {"output": "b.webp"}), encoding="utf-8")
    Path("in/g.jpg").symlink_to(here / "else" / "x.jpg")
    Path("in/h.jpg").symlink_to("deep/y.jpg")
    Path("in/folder.jpg").symlink_to("deep")
    Path("in/gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo("in/pipe.jpg")
    items, errors, notes = plan("in")
    assert [item.id for item in items] == ["a.jpg", "deep/y.jpg", "h.jpg"]
    assert len(errors) == 1 and "gone.jpg: cannot be read" in errors[0]
    assert notes == [
        "in: passed over: 4 files (c.nef, d.ico, e.psd, ...; convert to PNG or TIFF to have them), 1 special file"
        " (pipe.jpg; name them to read them), 1 link out of it (g.jpg; name them to follow them), 2 results of xpsr"
        " (b.png, b.webp; name them to restore them again)."
    ]
    touch("only/a.nef")
    assert plan("only")[1] == [
        "only: holds no pictures; passed over: 1 file (a.nef; convert to PNG or TIFF to have them)."
    ]


def test_the_folder_of_results_is_no_input_wherever_it_is(memory: MemoryFileSystem) -> None:
    touch("in/a.jpg", "in/out/a.jpg", "in/outside/b.jpg")
    assert ids("in", out="in/out") == ["a.jpg", "outside/b.jpg"]
    Path("link").symlink_to("in")
    assert ids("in", out="link/out") == ["a.jpg", "outside/b.jpg"]
    for name in ("a.jpg", "out/a.jpg", "outside/b.jpg"):
        memory.pipe_file(f"/in/{name}", b"")
    assert ids("memory://in", out="memory://in/out/") == ["a.jpg", "outside/b.jpg"]
    for place, out in (("in", "link"), ("memory://in", "memory://in/"), ("in/out", "in/out")):
        with pytest.raises(InputError, match=rf"{place}: results would be among the pictures .*; choose another"):
            plan(place, out=out)


def test_no_result_goes_where_an_input_is(here: Path, memory: MemoryFileSystem) -> None:
    touch("all/in/a.jpg", "all/in/b.jpg", "all/a.jpg", "all/B.JPG")
    Path("ids.jsonl").write_text('{"source": "all/B.JPG", "id": "x"}')
    items, errors, _ = plan("all/in", "ids.jsonl", out="all")
    assert [item.id for item in items] == ["a.jpg", "x"]  # all/a.jpg is no input
    assert len(errors) == 1 and "b.jpg: its result would replace the input all/b.jpg; choose another" in errors[0]
    Path("link").mkdir()
    Path("link/c.jpg").symlink_to(here / "all" / "a.jpg")
    assert "would replace the input" in plan("all/in/a.jpg", "link/c.jpg", out="all")[1][0]  # c.jpg leads there
    for name in ("in/a.jpg", "a.jpg"):
        memory.pipe_file(f"/all/{name}", b"")
    Path("list.jsonl").write_text('{"source": "memory://all/a.jpg", "id": "x"}\n{"source": "memory://all/in/a.jpg"}')
    items, errors, _ = plan("memory://all/in", "list.jsonl", out="memory:///all")
    assert [item.id for item in items] == ["x", "all/in/a.jpg"] and "memory://all/in/a.jpg: its result" in errors[0]


def test_a_name_that_no_record_can_hold_is_told_and_the_rest_is_planned() -> None:
    touch("in/a.jpg", os.fsdecode(b"in/b\xff.jpg"), "in/x.tar::5:6:c.jpg")
    items, errors, _ = plan("in")
    assert [item.id for item in items] == ["a.jpg"]
    assert "is called as members of tar files are, and is a file; rename it" in errors[1]
    assert "the name is not UTF-8; rename it" in errors[0] and "\n" not in errors[0]


def test_a_folder_that_cannot_be_listed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("in/a/x.jpg", "in/b/y.jpg")
    scandir = os.scandir

    def refuse(place: str) -> Any:
        if place.endswith("a"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr("xpsr.batch.finding.os.scandir", refuse)
    items, errors, _ = plan("in")
    assert [item.id for item in items] == ["b/y.jpg"] and "in/a: cannot be read (Permission denied)" in errors[0]


@pytest.mark.parametrize("names", [["in/a", "in/b"], ["in/a", "list.txt"]])
def test_two_pictures_of_one_id_are_refused_with_both_names(names: list[str]) -> None:
    touch("in/a/x.jpg", "in/b/x.jpg", "x.jpg")
    Path("list.txt").write_text("x.jpg")
    with pytest.raises(InputError, match=r"in/a/x\.jpg and .*x\.jpg are both called x\.jpg; give each an output") as it:
        plan(*names)
    assert it.value.code == "conflict"


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InputError, match="an empty name is no input; is a variable"):
        plan("")


# Seeds and shares


def test_a_seed_depends_on_nothing_but_the_id() -> None:
    touch("in/a.jpg", "in/b/c.jpg", "other/b/c.jpg")
    seeds = {item.id: item.seed for item in plan("in")[0]}
    assert seeds["b/c.jpg"] == seed_of("b/c.jpg") == plan("other")[0][0].seed
    assert {item.seed for item in plan("in", seed=7)[0]} == {7}


@given(st.sets(st.text("abc/é", min_size=1).filter(lambda name: below(name) == name), max_size=20), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_shares_are_apart_and_are_all(names: set[str], count: int) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(f"s3://{name}\n" for name in sorted(names)))
        file.flush()
        options: dict[str, Any] = {"out": tempfile.gettempdir() + "/none"}
        whole = plan(file.name, **options)[0]
        shares = [plan(file.name, part=(number + 1, count), **options)[0] for number in range(count)]
    assert sorted((item for share in shares for item in share), key=lambda item: item.id) == whole
    for number, share in enumerate(shares):
        assert all(int(hashlib.sha256(one.id.encode()).hexdigest(), 16) % count == number for one in share)


def test_names_are_those_of_the_whole_plan_whatever_is_left_out() -> None:
    touch("in/a.jpg", "in/a.png", "in/b.jpg", "in/c/A.tif", "in/c/b.jpg")
    whole = targets("in")
    assert whole == {
        "a.jpg": "a.jpg.jpg",
        "a.png": "a.png.png",
        "b.jpg": "b.jpg",
        "c/A.tif": "c/A.tif",
        "c/b.jpg": "c/b.jpg",
    }
    parts = targets("in", part=(1, 2)) | targets("in", part=(2, 2))
    assert parts == whole
    assert targets("in", include=["**/*.jpg"]) | targets("in", exclude=["**/*.jpg"]) == whole


# Patterns


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*.jpg", ["a.jpg", "trip/b.jpg", "trip/deep/c.jpg", "b/trip/a.jpg"]),
        ("a.jpg", ["a.jpg", "b/trip/a.jpg"]),
        ("/*.jpg", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg", "trip/b.jpg", "trip/deep/c.jpg", "b/trip/a.jpg"]),
        ("trip/**", ["trip/b.jpg", "trip/deep/c.jpg", "trip/deep/[d].png"]),
        ("trip/", ["trip/b.jpg", "trip/deep/c.jpg", "trip/deep/[d].png"]),
        ("trip/*", ["trip/b.jpg"]),
        ("trip/**/c.jpg", ["trip/deep/c.jpg"]),
        ("**/trip/*.jpg", ["trip/b.jpg", "b/trip/a.jpg"]),
        ("**", ["a.jpg", "trip/b.jpg", "trip/deep/c.jpg", "trip/deep/[d].png", "b/trip/a.jpg"]),
        ("**/[!a].jpg", ["trip/b.jpg", "trip/deep/c.jpg"]),
        ("*/[a-b].???", ["trip/b.jpg"]),
        ("**/[[]d[]].png", ["trip/deep/[d].png"]),
        ("**/[d].png", []),
        ("**/*.JPG", []),
        ("trip", []),
        ("trip?b.jpg", []),
        ("trip[!x]b.jpg", []),
        ("a.jpg|b.jpg", []),
        (".*", []),
        ("**/[^a].jpg", ["a.jpg", "b/trip/a.jpg"]),  # only ! negates
    ],
)
def test_a_pattern_fits_what_its_words_say(pattern: str, fits: list[str]) -> None:
    names = ["a.jpg", "b/trip/a.jpg", "trip/b.jpg", "trip/deep/[d].png", "trip/deep/c.jpg"]
    touch(*(f"in/{name}" for name in names))
    if fits:
        assert ids("in", include=["nothing", pattern]) == sorted(fits)
    else:
        with pytest.raises(InputError, match="no picture fits include and exclude"):
            plan("in", include=[pattern])
    if len(fits) < len(names):
        assert ids("in", exclude=[pattern]) == sorted(set(names) - set(fits))


@pytest.mark.parametrize("pattern", ["", "[z-a]"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match=rf"include={'' if not pattern else '.z-a.'} is (an empty|no) pattern"):
        plan("in", include=[pattern])


@given(st.text("ab*?[]!^-/.\\|(", max_size=12), st.text("ab/.", min_size=1, max_size=8))
@settings(deadline=None)
def test_no_pattern_is_more_than_a_refusal(pattern: str, name: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"s3://{name}\n")
        file.flush()
        with contextlib.suppress(InputError):
            plan(file.name, exclude=[pattern], out=tempfile.gettempdir() + "/none")


# Names of results


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, "trip/a.b.jpg"),
        ({"name": "{stem}_{size}", "size": "x4"}, "trip/a.b_x4.jpg"),
        ({"name": "{stem}{suffix}", "format": "png"}, "trip/a.b.JPE.png"),
        ({"name": "{size}/{stem}", "size": "x4", "format": "tiff"}, "trip/x4/a.b.tif"),
        ({"name": "{{{stem}}}"}, "trip/{a.b}.jpg"),
    ],
)
def test_a_name_is_made_as_its_template_says(options: dict[str, Any], target: str) -> None:
    touch("in/trip/a.b.JPE")
    assert targets("in", **options) == {"trip/a.b.JPE": target}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{stem}_{scale}", r"has \{scale\}, which is not known; use \{stem\}, \{suffix\}, \{size\}"),
        ("{stem}{}", r"has \{\}, which is not known"),
        ("{0}", r"has \{0\}, which is not known"),
        ("{stem.__class__}", "which is not known"),
        ("{stem!r}", "has a : or !"),
        ("{stem:>9}", "has a : or !"),
        ("{stem:{size}}", "has a : or !"),
        ("{stem", "has a brace alone"),
        ("restored", r"gives pictures of one folder the same name; use \{stem\}"),
        ("", "the same name"),
        ("{suffix}", "the same name"),
        ("{stem}_{size}", r"has \{size\}, and no size was asked for; leave \{size\} out"),
        ("../{stem}", "leads out of the folder of results, or nowhere"),
        ("a/../../{stem}", "leads out"),
        ("/{stem}", "leads out"),
        ("{stem}/", "leads out"),
        ("a//{stem}", "leads out"),
        ("{stem}\0", "leads out"),
    ],
)
def test_a_template_that_is_none_is_refused_in_a_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan("in", name=name)
    assert caught.value.field == "name" and "\n" not in str(caught.value)


def test_pictures_that_differ_in_the_suffix_alone_keep_it_in_their_results() -> None:
    touch("in/a.jpg", "in/A.png", "in/b.jpg", "in/é.jpg", "in/e\u0301.png", "else/c.jpg")
    assert targets("in", format="png") == {
        "A.png": "A.png.png",
        "a.jpg": "a.jpg.png",
        "b.jpg": "b.png",
        "e\u0301.png": "e\u0301.png.png",
        "é.jpg": "é.jpg.png",
    }
    assert targets("in", name="{stem}{suffix}", exclude=["*é*"])["a.jpg"] == "a.jpg.jpg"
    assert targets("in/a.jpg") == {"a.jpg": "a.jpg"}  # alone


def test_of_two_results_of_one_place_the_later_is_told() -> None:
    touch("in/a.jpg", "in/a.png", "in/a.jpg.webp", "in/b.jpg", "in/B.jpg")
    items, errors, _ = plan("in")
    assert [(item.id, item.target) for item in items] == [
        ("B.jpg", "B.jpg.jpg"),
        ("a.jpg", "a.jpg.jpg"),
        ("a.png", "a.png.png"),
    ]
    assert len(errors) == 2
    assert "in/a.jpg.webp: its result would replace a.jpg.jpg, or its record, that of " in errors[0]
    assert errors[0].endswith("that of in/a.jpg; rename one of them, or give it a target in a list.")
    assert "b.jpg: its result would replace B.jpg.jpg" in errors[1]


@given(
    st.sets(
        st.tuples(st.sampled_from(["", "t/", "T/"]), st.text("aAéE\u0301", min_size=1, max_size=2)).map("".join),
        max_size=5,
    ),
    st.sets(st.sampled_from([".jpg", ".JPG", ".png", ".gif", ".heic", ".jpg.png"]), max_size=3),
    st.sampled_from(["{stem}", "{stem}{suffix}", "{stem}_x"]),
    st.sampled_from(["same", "png"]),
)
@settings(deadline=None)
def test_no_two_results_are_in_one_place(stems: set[str], suffixes: set[str], name: str, format: Any) -> None:  # noqa: A002
    sources = sorted(stem + suffix for stem in stems for suffix in suffixes)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(f"s3://{source}\n" for source in sources))
        file.flush()
        items, errors, _ = plan(file.name, name=name, format=format, out=tempfile.gettempdir() + "/none")
    assert {item.id for item in items} <= set(sources)
    assert len(items) + len(errors) == max(len(sources), 1)
    records = [folded(str(Path(item.target).with_suffix(".json"))) for item in items]
    assert len(set(records)) == len(records)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a", "a"),
        ("./a//b/.", "a/b"),
        ("a/../b", None),
        ("..", None),
        ("/a", None),
        ("", None),
        (".", None),
        ("a\0", None),
    ],
)
def test_only_what_is_below_a_folder_is_below_it(name: str, path: str | None) -> None:
    assert below(name) == path


def test_an_id_without_a_suffix_is_a_stem_whole() -> None:
    naming = Naming(format="same")
    assert naming.of("v1.5", "/x/y.jpg")[0] == "v1.5.jpg" and naming.of("v1.png", "/x/y.jpg")[0] == "v1.jpg"
    assert naming.of("a/b.raw", "/x/b.raw")[0] == "a/b.png"


# Lists


ROWS: list[dict[str, Any]] = [
    {"source": "pics/a.jpg"},
    {"source": "./pics/../pics/b.jpg", "seed": 5, "content": "a cat", "note": "passed over"},
    {"source": "s3://bucket/c.jpg", "id": "c", "quality": "dark", "target": "x/./y.PNG"},
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    else:
        table = {name: [row.get(name) for row in rows] for name in columns}
        pyarrow.parquet.write_table(pyarrow.table(table), path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".CSV"])
@pytest.mark.parametrize("is_far", [False, True])
def test_a_list_says_of_each_picture_what_it_knows(
    here: Path, memory: MemoryFileSystem, suffix: str, is_far: bool
) -> None:
    touch("lists/pics/a.jpg", "lists/pics/b.jpg")
    name = f"lists/list{suffix}"
    path = Path(name.lower())
    write_rows(path, ROWS)
    path = path.rename(name)
    root = "lists"
    if is_far:
        memory.pipe_file(f"/{name}", path.read_bytes())
        name, root = f"memory://{name}", "memory://lists"
    items, errors, _ = plan(name)
    assert not errors
    first, second, third = items
    assert first == Item(
        id="pics/a.jpg",
        source=f"{root}/pics/a.jpg",
        target="pics/a.jpg",
        seed=seed_of("pics/a.jpg"),
        stamp="" if is_far else stamp_of(f"{root}/pics/a.jpg"),
    )
    assert (second.id, second.seed, second.content, second.quality) == ("pics/pics/b.jpg", 5, "a cat", None)
    assert (third.id, third.source, third.target, third.quality) == ("c", "s3://bucket/c.jpg", "x/y.PNG", "dark")
    items, _, _ = plan(name, seed=9, content="all", quality="fine")  # what is asked for goes before what rows say
    assert {(item.seed, item.content, item.quality) for item in items} == {(9, "all", "fine")}


def test_a_list_of_lines_has_names_and_remarks(here: Path) -> None:
    touch("in/a.jpg", "in/#b.jpg", "in/ c.jpg ", "in/d,e.jpg")
    Path("in/list.txt").write_bytes(
        f"\ufeffa.jpg\r\n\n# remark\n./#b.jpg\n c.jpg \n   \n{here}/in/d,e.jpg\nfile://{here}/in/a.jpg\n".encode()
    )
    items, errors, _ = plan("in/list.txt")
    assert [item.id for item in items] == ["a.jpg", "#b.jpg", " c.jpg ", f"{str(here)[1:]}/in/d,e.jpg", items[4].id]
    assert not errors and all(item.stamp for item in items)
    assert [item.source for item in items[3:]] == [f"{here}/in/d,e.jpg", f"{here}/in/a.jpg"]
    assert items[0].source == "in/a.jpg"


def test_a_line_that_is_of_no_use_is_told_by_its_number_and_the_rest_is_planned() -> None:
    touch("in/a.jpg")
    lines = {
        "{": r"is no JSON object \(.*\); mend or delete the line",
        "[1]": "is no JSON object",
        "[" * 100_000: "is no JSON object",
        "{}": "has no source",
        '{"source": ""}': "has no source",
        '{"source": 5}': "source=5 is no text",
        '{"source": "a.jpg", "content": ["x"]}': r"content=\[x\] is no text",
        '{"source": "a\\u0000.jpg"}': r"source=a\\x00.jpg has characters that no path has",
        '{"source": "a.jpg", "target": "../b.png"}': r"target=\.\./b.png leads out of the folder of results; write it",
        '{"source": "a.jpg", "target": "/b.png"}': "leads out of the folder of results",
        '{"source": "a.jpg", "target": "b.gif"}': r"ends with no format that is written \(\.gif\); use \.png",
        '{"source": "a.jpg", "target": "b"}': r"ends with no format that is written \(none\)",
        '{"source": "a.jpg", "id": "../a"}': r"id=\.\./a is no name below a folder",
        '{"source": ".."}': r"id=\.\. is no name below a folder",
        '{"source": "a.jpg", "seed": "x"}': "seed=x is not a whole number",
        '{"source": "a.jpg", "seed": 1.5}': "seed=1.5 is not a whole number",
        '{"source": "a.jpg", "seed": NaN}': "seed=nan is not a whole number",
        '{"source": "a.jpg", "seed": true}': "seed=true is not a whole number",
        '{"source": "a.jpg", "seed": -1}': "seed=-1 is not in ",
        '{"source": "a.jpg", "seed": 9223372036854775808}': "seed=9223372036854775808 is not in ",
        f'{{"source": "a.jpg", "content": "{"x" * 10_001}"}}': "has 10001 characters, more than the limit of 10000",
        '{"source": "a.jpg", "content": "\\ud800"}': "holds half a character",
    }
    Path("in/list.jsonl").write_text("\n".join([*lines, '{"source": "a.jpg", "seed": 3.0}']))
    items, errors, _ = plan("in/list.jsonl")
    assert [(item.id, item.seed) for item in items] == [("a.jpg", 3)]
    for number, (error, message) in enumerate(zip(errors, lines.values(), strict=True), 1):
        assert re.search(message, error), error
        assert error.startswith(f"in/list.jsonl, line {number}: ") and "\n" not in error and len(error) < 300


def test_sources_of_a_list_that_are_not_there_are_told() -> None:
    touch("in/a.jpg")
    Path("in/list.txt").write_bytes(b"a.jpg\nnone.jpg\n.\nb\xff.jpg\n")
    items, errors, _ = plan("in/list.txt")
    assert [item.id for item in items] == ["a.jpg"]
    assert "none.jpg: cannot be read (No such file" in errors[0] and "id=. is no name" in errors[1]
    assert "cannot be read" in errors[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,id\na,b\n", r"list\.csv: has no column source, only \[path, id\]; name its columns, of source, id"),
        (b"", r"list\.csv: names no pictures; write one a line"),
        (b"source\n", r"list\.csv: names no pictures"),
        (b"source,id\na.jpg\n", r"list\.csv, line 2: has 1 cells, and the header 2; mend"),
        (b"source\n" + b"x" * 200_000 + b"\n", r"list\.csv, line 2: is no line of a CSV \(field larger"),
        (b'source,seed\n"a\nb.jpg",x\n', r"list\.csv, line 3: seed=x is not a whole number"),
    ],
)
def test_what_is_wrong_with_a_csv_is_told(content: bytes, message: str) -> None:
    Path("list.csv").write_bytes(content)
    items, errors, _ = plan("list.csv")
    assert not items and re.match(message, errors[0]), errors


def test_a_parquet_is_read_by_batches_and_needs_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({"source": [f"s3://b/{n}.jpg" for n in range(25_000)], "seed": [None, 1.0] * 12_500})
    pyarrow.parquet.write_table(table, "list.parquet")
    items, errors, _ = plan("list.parquet")
    assert len(items) == 25_000 and not errors and items[1].seed == 1 and items[0].seed == seed_of("b/0.jpg")
    pyarrow.parquet.write_table(pyarrow.table({"source": ["a.jpg", None]}), "list.parquet")
    assert "list.parquet, row 2: has no source" in plan("list.parquet")[1][1]
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.jpg"]}), "list.parquet")
    assert "list.parquet: has no column source, only [path]" in plan("list.parquet")[1][0]
    Path("list.parquet").write_bytes(b"PAR1 and then nothing")
    assert "list.parquet: cannot be read as Parquet (" in plan("list.parquet")[1][0]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"list\.parquet: needs pyarrow; run `pip install pyarrow`"):
        plan("list.parquet")


def test_a_picture_may_be_on_a_list_under_several_ids() -> None:
    touch("a.jpg")
    rows = [{"source": "a.jpg", "id": f"a{seed}", "seed": seed} for seed in range(3)]
    write_rows(Path("list.jsonl"), rows)
    assert targets("list.jsonl") == {f"a{n}": f"a{n}.jpg" for n in range(3)}
    write_rows(Path("list.jsonl"), [{"source": "a.jpg", "seed": 1}, {"source": "a.jpg", "seed": 2}])
    with pytest.raises(InputError, match=r"a\.jpg: is named twice as a\.jpg, with other seeds, texts or targets"):
        plan("list.jsonl")
    write_rows(Path("list.jsonl"), [{"source": "a.jpg", "id": n, "target": "x.png"} for n in "ab"])
    items, errors, _ = plan("list.jsonl")
    assert [item.id for item in items] == ["a"] and "would replace x.png" in errors[0]


def test_only_what_is_not_read_to_its_end_is_called_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("in/a.jpg", "in/shut/b.jpg", "c.jpg")
    Path("empty").mkdir()
    for name, lines in (("lost.txt", ["none/a.jpg", "none/b.jpg"]), ("half.txt", ["c.jpg", "none/b.jpg"])):
        Path(name).write_text("\n".join(lines))
    make_tar("cut.tar", "x.jpg", "y.jpg")
    Path("cut.tar").write_bytes(Path("cut.tar").read_bytes()[:1024])
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path == "in/shut":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    unread: list[str] = []
    named = ("in", "empty", "nowhere", "none.jpg", "lost.txt", "half.txt", "cut.tar", "memory://none", "none.csv")
    plan(*named, on_unread=unread.append)
    assert unread == ["in/shut", "nowhere", "lost.txt", "cut.tar", "memory://none", "none.csv"]


# Tar files


def test_a_tar_file_gives_its_pictures_and_none_leaves_its_folder(here: Path) -> None:
    names = ["a.jpg", "./b/c.png", "._a.jpg", "b/.x/y.jpg", "notes.txt", "d.nef"]
    make_tar("in/train-0.tar", *names, "../evil.jpg", "/root.jpg", "a/../../b.jpg")
    with tarfile.open("in/train-0.tar", "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    items, errors, notes = plan("in/train-0.tar")
    assert [item.id for item in items] == ["train-0/a.jpg", "train-0/b/c.png"] and not errors
    assert [item.target for item in items] == ["train-0/a.jpg", "train-0/b/c.png"]
    assert notes == [
        "in/train-0.tar: passed over: 1 file (d.nef; convert to PNG or TIFF to have them), 1 link or sparse file"
        " (link.jpg; put the files themselves in), 3 paths out of it (../evil.jpg, /root.jpg, a/../../b.jpg; rename"
        " them)."
    ]
    for item, content in zip(items, (b"a.jpg", b"./b/c.png"), strict=True):
        source = fetch(item, here)
        assert source.path.read_bytes() == content and source.address == f"in/train-0.tar::{item.id[8:]}"


def test_a_tar_file_in_a_folder_is_not_looked_into() -> None:
    make_tar("in/a.tar", "x.jpg")
    touch("in/b.jpg")
    assert ids("in") == ["b.jpg"] and ids("in", "in/a.tar") == ["b.jpg", "a/x.jpg"]


def test_a_tar_file_that_cannot_be_read_is_told() -> None:
    make_tar("whole.tar", *(f"{n}.jpg" for n in range(50)))
    content = Path("whole.tar").read_bytes()
    Path("cut.tar").write_bytes(content[: 512 * 21 + 2])
    items, errors, _ = plan("cut.tar")
    assert [item.id for item in items] == [f"cut/{n}.jpg" for n in range(10)]
    assert "cut.tar: is no tar file, or a damaged one (" in errors[0] and "before the damage is taken" in errors[0]
    for name in ("a.tar.gz", "b.TGZ", "c.tar.zst"):
        Path(name).write_bytes(gzip.compress(content))
        assert f"{name}: is compressed; decompress it, with gunzip or the like, and name the .tar" in plan(name)[1][0]
    Path("lies.tar").write_bytes(gzip.compress(content))
    assert "lies.tar: is no tar file" in plan("lies.tar")[1][0] and "is it compressed?" in plan("lies.tar")[1][0]
    make_tar("empty.tar")
    assert "empty.tar: holds no pictures" in plan("empty.tar")[1][0]


def damaged_header(content: bytes) -> bytes:
    return content[:4100] + bytes([content[4100] ^ 1]) + content[4101:]


@pytest.mark.parametrize(
    "damage",
    [damaged_header, lambda content: content[:4100], lambda content: content[:4096]],
    ids=["a byte of a header", "cut in a header", "cut between members"],
)
def test_of_a_tar_file_with_a_damage_what_is_before_it_is_taken_and_the_rest_is_told(
    damage: Callable[[bytes], bytes],
) -> None:
    make_tar("a.tar", *(f"{n}.jpg" for n in range(10)))  # 1,024 bytes each
    Path("a.tar").write_bytes(damage(Path("a.tar").read_bytes()))
    items, errors, _ = plan("a.tar")
    assert [item.id for item in items] == [f"a/{n}.jpg" for n in range(4)]
    assert len(errors) == 1 and "or a damaged one (" in errors[0] and "what is before the damage is taken" in errors[0]


def test_a_tar_file_may_end_in_one_block_of_zeros_or_in_many() -> None:
    make_tar("a.tar", "x.jpg")
    content = Path("a.tar").read_bytes()
    for length in (1024 + 512, 1024 + 1024, 2**16):
        Path("a.tar").write_bytes(content[:1024].ljust(length, b"\0"))
        assert ids("a.tar") == ["a/x.jpg"]


def test_of_a_member_that_is_there_twice_the_last_counts(here: Path) -> None:
    make_tar("a.tar", "x.jpg", "y.jpg", "x.jpg")
    (first, second), _, _ = plan("a.tar")
    assert [first.id, second.id] == ["a/x.jpg", "a/y.jpg"]
    (x, y) = (Member.parse(one.source) for one in (first, second))
    assert x is not None and y is not None and x.offset > y.offset


# Addresses


def test_an_address_gives_what_is_below_it(memory: MemoryFileSystem, tmp_path: Path) -> None:
    for name in ("b.jpg", "a/c.png", ".x/y.jpg", "a/._c.png", "d.nef", "e.txt", "b.json"):
        memory.pipe_file(f"/in/{name}", name.encode())
    memory.store["/in/../evil.jpg"] = memory.store["/in/b.jpg"]  # names of objects are any texts
    items, errors, notes = plan("memory://in")
    assert [(item.id, item.target) for item in items] == [("a/c.png", "a/c.png"), ("b.jpg", "b.jpg")] and not errors
    assert notes == [
        "memory://in: passed over: 1 file (d.nef; convert to PNG or TIFF to have them), 1 path out of it (../evil.jpg;"
        " rename them)."
    ]
    for item in items:
        assert item.stamp == stamp_of(item.source) and fetch(item, tmp_path).path.read_bytes() == item.id.encode()
    assert plan("memory://in/")[0] == plan("memory://in", "memory://in/")[0] == items
    (single,) = plan("memory://in/a/c.png")[0]
    assert (single.id, single.source, single.stamp) == ("c.png", "memory://in/a/c.png", items[0].stamp)


def test_what_is_wrong_with_an_address_is_told(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/in/a.tar", b"")
    memory.pipe_file("/in/b.txt", b"")
    errors = plan("memory://in/a.tar", "memory://in/b.tar.gz", "memory://in/none", "nowhere://a", "memory://in")[1]
    assert "a.tar: is a tar file behind an address; copy it here" in errors[0]
    assert "b.tar.gz: is a tar file behind an address" in errors[1]
    assert "memory://in/none: cannot be read (it is not there); check the address" in errors[2]
    assert "nowhere://a: is no address that fsspec knows" in errors[3]
    assert "memory://in: holds no pictures" in errors[4]
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependencyError, match="pip install s3fs"):
        plan("s3://bucket/photos")

    def refuse(self: Any, path: str, **_: Any) -> Any:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "find", refuse)
    assert "memory://in: cannot be read (Access Denied); sign in" in plan("memory://in")[1][0]
    monkeypatch.setattr("xpsr.batch.stores._PAUSE", 0.0)
    monkeypatch.setattr(MemoryFileSystem, "find", lambda self, path, **_: 1 / 0)
    with pytest.raises(XPSRError, match=r"memory://in: cannot be read \(ZeroDivisionError: division by zero\)"):
        plan("memory://in")


def test_a_disk_without_room_for_the_plan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    touch("in/a.jpg")
    monkeypatch.setattr("xpsr.batch.inputs.tempfile.TemporaryFile", Full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); free space") as caught:
        plan("in")
    assert caught.value.code == "disk_full"
