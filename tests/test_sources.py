"""Which pictures are meant by what is named, and what their results are called."""

import io
import json
import os
import tempfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from xpsr import sources
from xpsr.errors import InputError
from xpsr.image import picture_size
from xpsr.sources import Source, find_sources, name_jobs, read_sidecar, result_suffix


def times_4(_: Source) -> str:
    return "_x4"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def touch_result(name: str) -> None:
    touch(name)
    texts = {"input": "x.png", "input_sha256": "0", "output": Path(name).name, "output_sha256": "0"}
    Path(name).with_suffix(".json").write_text(json.dumps(texts))


def found(*inputs: str, recursive: bool = False, outside: str | None = None) -> tuple[list[str], list[str]]:
    """Paths of what is found, and all that is told."""
    told: list[str] = []
    place = None if outside is None else Path(outside)
    images = find_sources(
        inputs,
        recursive=recursive,
        outside=place,
        on_error=lambda path, error: told.append(str(error)),
        on_note=told.append,
    )
    return [image.path.as_posix() for image in images], told


def named(*paths: str, out: str = "out") -> tuple[list[str], list[str]]:
    """Names of results, and all that is told."""
    told: list[str] = []
    images = [Source(path=Path(path)) for path in paths]
    jobs = name_jobs(images, Path(out), suffix=times_4, on_error=lambda path, error: told.append(str(error)))
    return [job.target.name for job in jobs if job.target], told


def test_a_folder_gives_its_pictures_and_tells_the_rest() -> None:
    touch("f/a.png", "f/b.JFIF", "f/c.apng", "f/d.nef", "f/e.ico", "f/g.psd", "f/.h.png", "f/note.txt", "f/deep/i.png")
    touch("f/out/j.png", "f/.hidden/k.png")
    touch_result("f/a_x4.png")
    rest = (
        "4 files (c.apng, d.nef, e.ico, ...; convert to PNG or TIFF to have them), 1 result of xpsr (a_x4.png; name"
        " them"
    )
    assert found("f", outside="f/out") == (
        ["f/a.png", "f/b.JFIF"],
        [f"f: passed over: {rest} to restore them again), 1 folder (deep; add --recursive to search them)."],
    )
    assert found("f", outside="f", recursive=True)[0] == ["f/a.png", "f/b.JFIF", "f/deep/i.png", "f/out/j.png"]
    assert found("f/a_x4.png", "f/a.png", "./f", "f/../f/a.png")[0] == ["f/a_x4.png", "f/a.png", "f/b.JFIF"]
    assert found("f/deep", "f/out") == (["f/deep/i.png", "f/out/j.png"], [])


def test_pipes_and_devices_in_a_folder_are_told_and_not_opened() -> None:
    touch("f/a.png")
    os.mkfifo("f/b.png")
    Path("f/c.png").symlink_to(Path("f/b.png").absolute())
    Path("f/d.png").symlink_to("/dev/zero")
    Path("f/e.png").symlink_to("nowhere.png")
    Path("f/g.png").symlink_to("a.png")
    special = "3 special files (b.png, c.png, d.png; name them to read them)"
    assert found("f") == (["f/a.png", "f/e.png", "f/g.png"], [f"f: passed over: {special}."])


def test_links_that_lead_out_of_a_folder_are_told_and_not_followed() -> None:
    touch("f/a.png", "f/deep/b.png", "private.png")
    Path("f/c.png").symlink_to("../private.png")
    Path("f/d.png").symlink_to(Path("private.png").absolute())
    Path("f/e.png").symlink_to("deep/b.png")
    Path("f/g.png").symlink_to("e.png")
    Path("f/deep/h.png").symlink_to("../../f/a.png")
    told = "f: passed over: 2 links out of it (c.png, d.png; name them to follow them)."
    assert found("f", recursive=True) == (["f/a.png", "f/deep/b.png", "f/deep/h.png", "f/e.png", "f/g.png"], [told])
    assert found("f/c.png") == (["f/c.png"], [])
    Path("link").symlink_to("f")
    assert found("link", recursive=True)[0][0] == "link/a.png"


def test_a_link_that_leads_to_itself_is_one_picture_that_cannot_be_read() -> None:
    touch("f/b.jpg")
    Path("f/a.jpg").symlink_to("a.jpg")
    Path("f/c").symlink_to("c")
    assert found("f", outside="f/out") == (["f/a.jpg", "f/b.jpg"], [])
    assert found("f", recursive=True, outside="f/out")[0] == ["f/a.jpg", "f/b.jpg"]
    assert found("f", outside="f/c")[0] == ["f/a.jpg", "f/b.jpg"]
    assert named("f/a.jpg", "f/b.jpg", out="f/c") == (["a_x4.jpg", "b_x4.jpg"], [])


def test_results_keep_the_folders_below_those_that_were_named() -> None:
    touch("f/a.png", "f/deep/er/i.png", "g/b.png")
    images = find_sources(["f", "g/b.png"], recursive=True, on_error=print, on_note=print)
    jobs = name_jobs(images, Path("out"), suffix=lambda _: "_x2", on_error=print)
    assert [str(job.target) for job in jobs] == ["out/a_x2.png", "out/deep/er/i_x2.png", "out/b_x2.png"]


def test_a_folder_without_pictures_says_what_it_has() -> None:
    touch("empty/note.txt", "deep/er/a.png"), touch_result("done/a_x4.png")
    assert found("empty", "deep", "done", "gone")[1] == [
        "empty: holds no pictures; name a folder with .jpg, .png or other pictures.",
        "deep: holds no pictures; passed over: 1 folder (er; add --recursive to search them).",
        "done: holds no pictures; passed over: 1 result of xpsr (a_x4.png; name them to restore them again).",
        "gone: cannot be read (No such file or directory); check the path.",
    ]
    with pytest.raises(InputError, match="an empty name is no picture"):
        found("empty", "")


def test_a_name_is_that_of_the_picture_and_has_its_suffix_where_another_has_it_too() -> None:
    touch("x/a.jpg", "x/b.tar.png", "y/a.jpg", "y/A.PNG", "y/b.jpg", "y/b.txt", "y/c.png", "y/c.nef")
    touch("y/" + unicodedata.normalize("NFD", "é.jpg"), "y/" + unicodedata.normalize("NFC", "É.png"))
    touch_result("y/b.png")
    assert named("x/a.jpg", "x/b.tar.png") == (["a_x4.jpg", "b.tar_x4.png"], [])
    assert named("y/a.jpg", "y/A.PNG", "y/b.jpg", "y/c.png") == (
        ["a.jpg_x4.jpg", "A.PNG_x4.PNG", "b_x4.jpg", "c_x4.png"],
        [],
    )
    assert named("y/" + unicodedata.normalize("NFC", "É.png"))[0] == [unicodedata.normalize("NFC", "É.png_x4.png")]
    assert named("nowhere/a.jpg") == (["a_x4.jpg"], [])


@pytest.mark.parametrize(
    ("names", "suffixes"),
    [
        ("a.jpg b.JPEG c.tif d.TIFF e.webp f.avif g.jxl k.png", ".jpg .JPEG .tif .TIFF .webp .avif .jxl .png"),
        ("h.jpe i.JFIF j.mpo", ".jpg .jpg .jpg"),
        ("l.gif m.bmp n.heic o p.ppm", ".png .png .png .png .png"),
    ],
)
def test_a_result_is_what_its_picture_is_where_that_can_be_written(names: str, suffixes: str) -> None:
    found = [result_suffix(Source(path=Path(name)), "same") for name in names.split()]
    assert found == suffixes.split()
    assert result_suffix(Source(path=Path("a.bmp")), "jpg") == ".jpg"
    assert result_suffix(Source(path=Path("a.bmp")), "tiff") == ".tif"


def test_a_result_is_what_its_picture_is_whatever_that_is_called(tmp_path: Path) -> None:
    for kind, name, suffix in (
        ("PNG", "a.jpg", ".png"),  # which may be transparent, or have 16 bits
        ("JPEG", "b.png", ".jpg"),
        ("TIFF", "c.heic", ".tif"),
        ("TIFF", "d.TIFF", ".TIFF"),
        ("JPEG", "e.JPEG", ".JPEG"),
        ("BMP", "f.png", ".png"),
        ("GIF", "g.bmp", ".png"),
    ):
        Image.new("RGB", (2, 2)).save(tmp_path / name, kind)
        assert result_suffix(Source(path=tmp_path / name), "same") == suffix, name


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"MM\0*", ".tif"),
        (b"RIFF\0\n\0\0WEBP", ".webp"),
        (b"\0\0\0 ftypavif", ".avif"),
        (b"\xff\x0a", ".jxl"),
        (b"x", ".png"),
    ],
)
def test_what_comes_through_a_pipe_is_known_by_its_beginning(content: bytes, suffix: str) -> None:
    assert result_suffix(Source(path=Path("-"), content=content), "same") == suffix


def test_no_two_results_have_one_name_and_none_has_that_of_an_input() -> None:
    touch("x/a.jpg", "y/A.png", "y/c.png", "out/c_x4.png", "s/q.JPG", "s/q.jpg")
    assert named("x/a.jpg", "y/A.png") == (
        ["a_x4.jpg"],
        [
            "y/A.png: its result would replace out/A_x4.json, that of x/a.jpg; choose another folder with -o, or name"
            " the folder that holds both with --recursive."
        ],
    )
    assert named("x/a.jpg", "y/a.jpg")[1][0].startswith("y/a.jpg: its result would replace out/a_x4.jpg, that of x/a")
    assert named("out/c_x4.png", "y/c.png") == (
        ["c_x4_x4.png"],
        ["y/c.png: its result would replace the input out/c_x4.png; choose another place with -o."],
    )
    Path("s/link.png").symlink_to(Path("out/c_x4.png").absolute())
    assert named("s/link.png", "y/c.png")[0] == ["link_x4.png"]
    names, told = named("s/q.JPG", "s/q.jpg")
    assert names == ["q.JPG_x4.JPG"] and told[0].endswith("that of s/q.JPG; rename one of them.")
    errors: list[Path] = []
    one = [Source(path=Path("x/a.jpg"))]
    assert (
        name_jobs(
            one,
            Path("x/../x/a.jpg"),
            suffix=times_4,
            is_file=True,
            on_error=lambda path, _: errors.append(path),
        )
        == []
    )
    assert errors == [Path("x/a.jpg")]


def test_what_can_be_read_but_once_is_read_whole_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(content: bytes, **options: bool) -> tuple[list[Source], list[str]]:
        reading, writing = os.pipe()
        os.write(writing, content)
        os.close(writing)
        told: list[str] = []
        try:
            names = [f"/dev/fd/{reading}"] * 2
            images = find_sources(names, on_error=lambda _, error: told.append(str(error)), on_note=print, **options)
        finally:
            os.close(reading)
        return images, told

    (image,), told = read(b"12345678")
    assert (image.content, told) == (b"12345678", []) and len(image.sha256()) == 64
    (job,) = name_jobs([image, Source(path=Path("-"), content=b"")], Path("out"), suffix=times_4, on_error=print)[1:]
    assert job.target == Path("out", "stdin_x4.png")
    Path("file.png").write_bytes(b"file")
    for place in (Path("/dev/shm"), Path("/tmp")):  # only what a process has open is like a pipe
        if place.is_dir() and os.access(place, os.W_OK):
            with tempfile.NamedTemporaryFile(dir=place, suffix=".png") as file:
                assert [source.content for source in find_sources([file.name], on_error=print, on_note=print)] == [None]
    with Path("file.png").open("rb") as file:
        for place in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            (image,) = find_sources([f"{place}/{file.fileno()}"], on_error=print, on_note=print)
            assert image.content == b"file" and not file.seek(0)
    images, told = read(b"1", piped=False)
    assert images == [] and told[0].endswith(": can be read but once; save it in a file and name that.")
    monkeypatch.setattr(sources, "_MAX_PIPED", 7)
    images, told = read(b"12345678")
    assert images == [] and "has more than the limit of 7 bytes; send one picture." in told[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_size_is_that_of_the_upright_picture(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save("a", kind, exif=exif)
    size = (40, 20) if orientation < 5 else (20, 40)
    assert Source(path=Path("a")).size == picture_size(Path("a")) == size
    assert Source(path=Path("-"), content=Path("a").read_bytes()).size == size


def test_size_of_a_png_is_told_without_its_pixels() -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 20), 50).save(file, "PNG")
    Path("a.png").write_bytes(file.getvalue()[:200])  # cut off among them
    assert Source(path=Path("a.png")).size == (40, 20)


def test_a_sidecar_is_one_only_of_the_picture_that_it_names() -> None:
    touch_result("a_x4.png")
    assert read_sidecar(Path("a_x4.png")) is not None and read_sidecar(Path("a_x4.jpg")) is None
    assert read_sidecar(Path("b.png")) is None and read_sidecar(Path("no/b.png")) is None
    Path("a_x4.json").write_text('{"output": "a_x4.png"}')
    assert read_sidecar(Path("a_x4.png")) is None
