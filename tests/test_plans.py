"""Plans of real models: what is said before a restoration, kept to, and made smaller where memory runs out."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from fork_server import run_python
from PIL import Image

from xpsr import Prior, Restorer
from xpsr.cli import main
from xpsr.errors import InputError, XPSRError
from xpsr.pipeline.costs import resident_memory
from xpsr.planning import TilePlan, keep_rate, known_rate, time_in_words


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "xpsr"


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture
def soon_told(monkeypatch: pytest.MonkeyPatch, loaded_once: None) -> None:
    """Small pictures tell how long others take."""
    monkeypatch.setattr("xpsr.restore._TELLING", 2**14)


def test_a_plan_takes_more_memory_for_a_larger_picture_and_none_that_is_not_there(restorer: Restorer) -> None:
    small, large = (restorer.plan(side, side, scale=4) for side in (200, 2200))
    assert resident_memory(restorer.pipe) < small.peak_bytes < large.peak_bytes
    assert large.dtype == "fp32" and small.seconds is None
    planes = 16 * 8800 * 8800
    assert large.peak_bytes > restorer.plan(2200, 2200, scale=4, has_workspace=True).peak_bytes
    assert large.peak_bytes > planes
    in_tiles = {"scale": 4, "settings": {"tile_size": 256}}
    tight = restorer.plan(2200, 2200, memory=restorer.plan(2200, 2200, **in_tiles).peak_bytes - 1, **in_tiles)
    assert tight.tile_size == 128


def test_tiles_that_are_smaller_for_want_of_memory_are_told(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpsr.restore.free_memory", lambda _: 0)  # the smallest parts but tiles, on every machine
    picture, tiles = torch.rand(3, 40, 40), {"tile_size": 64}
    enough = restorer.plan(40, 40, scale=4, settings=tiles).peak_bytes
    made = restorer.restore(picture, Prior(), settings=tiles, memory=enough - 1)
    assert made.record["settings"]["tile_size"] == 32
    assert made.record["notices"] == ["it was made in tiles of 32 instead of 64, for want of memory"]
    assert "notices" not in restorer.restore(picture, Prior(), settings=tiles, memory=enough).record
    with pytest.raises(InputError, match=r"^memory=5 does nothing beside a plan; leave one of them out\.$"):
        restorer.restore(picture, Prior(), memory=5, plan=TilePlan(tile_size=16, tile_overlap=4))


def test_what_is_free_decides_nothing_of_the_result(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.restore.free_memory", lambda _: 0)
    plan = restorer.plan(200, 200, settings={"tile_size": 128})
    assert (plan.tile_size, plan.band_rows) == (128, 96)


def test_a_memory_that_is_too_small_is_refused(restorer: Restorer) -> None:
    with pytest.raises(
        InputError, match=r"^memory=10 MB is too little: .* use \d+(\.\d)?GB or more, or a smaller scale"
    ):
        restorer.plan(2000, 2000, memory=10**7)


def test_a_plan_is_what_is_done(restorer: Restorer) -> None:
    picture, settings = torch.rand(3, 40, 40), {"tile_size": 32, "tile_overlap": 8}
    plan = TilePlan(tile_size=16, tile_overlap=4, band_rows=96)
    planned = restorer.restore(picture, Prior(), seed=0, settings=settings, plan=plan)
    assert planned.record["settings"]["tile_size"] == 16
    same = restorer.restore(picture, Prior(), seed=0, settings={"tile_size": 16, "tile_overlap": 4})
    assert torch.equal(planned.picture.pixels, same.picture.pixels)


@pytest.mark.usefixtures("soon_told")
def test_how_long_it_takes_is_known_after_one_picture(restorer: Restorer, cache: Path) -> None:
    assert restorer.plan(600, 400).seconds is None
    assert restorer.measure()
    once, twice = (restorer.plan(600, height).seconds for height in (400, 800))
    assert once and twice and 1.8 < twice / once < 2.2
    assert restorer.plan(600, 400, settings={"strength": 0.5, "num_inference_steps": 4}).seconds is None
    assert not restorer.measure(settings={"strength": 0.5, "num_inference_steps": 4})
    (cache / "rates.json").write_text('{"a": "x", "b": -1.0, "c": NaN, "d": 2.0}')
    assert [known_rate(name) for name in "abcde"] == [None, None, None, 2.0, None]
    keep_rate("d", 4.0)
    keep_rate("e", 0.0)
    assert (known_rate("d"), known_rate("e")) == (3.0, None)
    assert [time_in_words(seconds) for seconds in (0.2, 89, 91, 3600, 9000)] == [
        "1 s",
        "89 s",
        "2 min",
        "60 min",
        "2.5 h",
    ]


@pytest.mark.usefixtures("soon_told")
def test_a_dry_run_says_what_would_be_made_and_makes_nothing(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 20), "green").save("a.png")
    Path("b.png").write_bytes(b"no picture")
    command = ["upscale", "a.png", "b.png", "--model", str(tiny_model), "--dtype", "fp32", "--dry-run"]
    assert main(command) == 1
    told = capsys.readouterr()
    (line,) = told.out.splitlines()
    assert re.fullmatch(
        r"outputs/a_x4\.png  120 x 80  tiles of 16, bands of \d+ rows, fp32, [\d.]+ [MG]B, about \d+ s", line
    )
    assert "b.png: is not an image" in told.err
    assert not Path("outputs").exists()
    assert main([*command[:2], *command[3:], "--json", "--scale", "2"]) == 0
    told_json = json.loads(capsys.readouterr().out)
    assert told_json["status"] == "planned" and told_json["output_size"] == [60, 40]
    assert told_json["plan"]["peak_bytes"] > 10**8 and told_json["plan"]["seconds"] > 0
    assert main([*command[:2], *command[3:], "--memory", "10MB"]) == 1
    assert re.search(r"a\.png: --memory 10 MB is too little: .*; use .*GB or more", capsys.readouterr().err)
    for memory in ("plenty", "0", "-4GB"):
        assert main([*command[:2], *command[3:], f"--memory={memory}"]) == 2
        assert "is not an amount of memory; use 4GB, for example." in capsys.readouterr().err
    assert main([*command[:2], "-o", "-", "--dry-run"]) == 2
    assert "--dry-run writes no picture to standard output" in capsys.readouterr().err


@pytest.mark.usefixtures("soon_told")
def test_a_turned_photograph_is_planned_upright(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, exif = Image.new("RGB", (30, 20), "green"), Image.Exif()
    exif[0x0112] = 6
    image.save("a.jpg", exif=exif)
    assert main(["upscale", "a.jpg", "--model", str(tiny_model), "--dry-run", "--scale", "2"]) == 0
    assert "outputs/a_x2.jpg  40 x 60  " in capsys.readouterr().out


CODE = """
import ctypes, resource, sys
from pathlib import Path
import torch
from xpsr import Prior, Restorer
from xpsr.errors import XPSRError
from xpsr.planning import TilePlan
torch.set_num_threads(1)
ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: what is freed is the system's again
restorer = Restorer(sys.argv[1], device="cpu", dtype="fp32")
picture, plan = torch.rand(3, 384, 384, generator=torch.Generator().manual_seed(0)), TilePlan(
    tile_size=384, tile_overlap=16, band_rows=96
)
restorer.restore(torch.rand(3, 8, 8), Prior())
taken = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
limit = taken + int(sys.argv[2]) * 10**6
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    made = restorer.restore(picture, Prior(), seed=0, plan=plan)
except XPSRError as error:
    print(error.code, error)
else:
    print(*made.record["notices"], tuple(made.picture.pixels.shape), sep=chr(10))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_where_memory_runs_out_smaller_parts_are_made(tiny_model: Path) -> None:
    done = run_python("-c", CODE, tiny_model, "300")
    assert done.returncode == 0, done.stderr
    ran_out, tiles, shape = done.stdout.splitlines()
    assert ran_out == "memory ran out, so that smaller parts of it were made at once"
    assert re.fullmatch(r"it was made in tiles of (192|96|48) instead of 384, for want of memory", tiles)
    assert shape == "(3, 1536, 1536)"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_where_there_is_no_memory_at_all_that_is_said(tiny_model: Path) -> None:
    done = run_python("-c", CODE, tiny_model, "4")
    assert done.returncode == 0, done.stderr
    remedy = "use a smaller scale, or free some"
    assert done.stdout == f"out_of_memory memory ran out with the smallest parts, too; {remedy}.\n"


def test_tiles_that_have_to_stay_do_where_memory_runs_out(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[TilePlan] = []

    def full(*_: object, plan: TilePlan, **__: object) -> None:
        tried.append(plan)
        raise MemoryError

    monkeypatch.setattr(type(restorer.pipe), "__call__", full)
    for keeps, least in ((False, 32), (True, 256)):
        tried.clear()
        with pytest.raises(XPSRError, match="memory ran out with the smallest parts, too"):
            restorer.restore(torch.rand(3, 300, 300), Prior(), settings={"tile_size": 256}, keeps_tiles=keeps)
        assert min(plan.tile_size for plan in tried) == least


def test_other_errors_are_not_taken_for_it(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(restorer.pipe.vae, "decode_strips", broken)
    with pytest.raises(RuntimeError, match="the device is gone"):
        restorer.restore(torch.rand(3, 8, 8), Prior())
