"""`xpsr evaluate`: tables, a report's files, and what it refuses."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xpsr.cli import main
from xpsr.errors import InputError
from xpsr.evaluation import load_protocol, luma
from xpsr.evaluation.detail import seam_energy
from xpsr.evaluation.report import check_place
from xpsr.image import read_image


def save(path: Path, seed: int, noise: float = 0.0) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    small = np.random.default_rng(seed).integers(0, 256, (13, 25, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((100, 52), Image.Resampling.BICUBIC), float)
    pixels = pixels + noise * np.random.default_rng(seed).standard_normal(pixels.shape)
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with seven originals and the results of two methods, of which the first is better."""
    monkeypatch.chdir(tmp_path)
    for seed in range(7):
        save(tmp_path / "hr" / f"p{seed}.png", seed)
        save(tmp_path / "fine" / f"p{seed}_x4.png", seed, noise=5)
        save(tmp_path / "rough" / f"p{seed}.png", seed, noise=20)
    return tmp_path


def run(*arguments: str) -> int:
    return main(["evaluate", "--metrics", "psnr_y,ssim_y", *arguments])


BOTH = ("--pred", "fine", "rough", "--ref", "hr")


def without_date(report: dict[str, Any]) -> dict[str, Any]:
    report["facts"].pop("date")
    return report


def test_the_table_goes_to_stdout_and_the_report_to_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*BOTH, "-o", "report", "--no-page") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert re.fullmatch(r" +PSNR.* +SSIM.*", lines[0])
    assert re.fullmatch(r"fine +\d\d\.\d\d \[\d\d\.\d\d, \d\d\.\d\d\]\* +0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]\*", lines[1])
    assert re.fullmatch(r"rough +\d\d\.\d\d \[[^*]*", lines[2])
    assert lines[4] == "mean [95 % interval]; *: the best mean; 7 pictures, protocol xpsr"
    assert any(re.fullmatch(r"rough - fine, psnr_y +-\d+\.\d{3} \[-.*, -.*\] +0\.031", line) for line in lines)
    assert lines[-1] == "report/report.md"
    files = {path.name for path in (folder / "report").iterdir()}
    assert files == {"cache.jsonl", "report.md", "scores.csv", "scores.json"}


def test_json_csv_and_markdown_say_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*BOTH, "-o", "report", "--no-page", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    report = json.loads((folder / "report" / "scores.json").read_text())
    assert printed == report
    assert list(report) == ["protocol", "metrics", "not_measured", "methods", "comparisons", "facts"]
    assert report["protocol"]["name"] == "xpsr" and report["not_measured"] == {}
    fine = report["methods"]["fine"]
    values = [fine["pictures"][f"p{number}"]["psnr_y"] for number in range(7)]
    mean = fine["means"]["psnr_y"]
    assert mean["mean"] == pytest.approx(np.mean(values)) and mean["median"] == pytest.approx(np.median(values))
    assert mean["low"] < mean["mean"] < mean["high"] and mean["count"] == 7
    first = report["comparisons"][0]
    assert (first["metric"], first["method"], first["baseline"]) == ("psnr_y", "rough", "fine")
    assert first["difference"]["high"] < 0 and first["p"] == pytest.approx(2 / 2**7)
    assert first["p_holm"] == pytest.approx(4 / 2**7)
    rows = list(csv.DictReader((folder / "report" / "scores.csv").read_text().splitlines()))
    assert [(row["method"], row["picture"]) for row in rows[:2]] == [("fine", "p0"), ("fine", "p1")]
    assert [float(row["psnr_y"]) for row in rows[:7]] == values
    text = (folder / "report" / "report.md").read_text()
    assert f"| fine | **{mean['mean']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]** |" in text
    assert "Holm's correction is over the 2 tests of this table" in text
    assert report["facts"]["folders"]["hr"]["sha256"] in text and "cpu" in text


def test_the_same_pictures_give_the_same_files_but_for_the_date(folder: Path) -> None:
    assert run(*BOTH, "-o", "one", "--no-page", "--quiet") == 0
    assert run(*BOTH, "-o", "one", "--no-page") == run(*BOTH, "-o", "two", "--no-page") == 0
    reports = [without_date(json.loads((folder / name / "scores.json").read_text())) for name in ("one", "two")]
    assert json.dumps(reports[0]) == json.dumps(reports[1])
    for name in ("scores.csv", "cache.jsonl"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()


@pytest.mark.parametrize("name", ["index.html", "scores.json", "scores.csv", "report.md"])
def test_a_file_that_is_of_no_report_is_not_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folder / "site").mkdir()
    (folder / "site" / name).write_text("[]")
    assert run(*BOTH, "-o", "site", "--no-page") == 2
    captured = capsys.readouterr()
    assert captured.err == f"xpsr: site/{name}: is there already, and belongs to no report; choose a new folder.\n"
    assert [path.name for path in (folder / "site").iterdir()] == [name]
    assert (folder / "site" / name).read_text() == "[]"


def test_a_place_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a: cannot be used \(File name too long\); choose a shorter name\.$"):
        check_place(tmp_path / ("a" * 300))


def test_without_a_place_for_a_report_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--pred", "fine", "--ref", "hr") == 0
    out = capsys.readouterr().out
    assert "fine" in out and "*" not in out and "difference" not in out
    assert {path.name for path in folder.iterdir()} == {"hr", "fine", "rough"}


def test_few_pictures_have_no_p_and_one_has_no_interval(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("hr", "fine", "rough"):
        for number in range(1, 7):
            next((folder / name).glob(f"p{number}*")).unlink()
    assert run(*BOTH, "-o", "report", "--no-page") == 0
    out = capsys.readouterr().out
    assert "one picture; *: the best mean; 1 picture," in out and "too few" in out and "[" not in out
    assert "with fewer than 6 pictures there is none" in (folder / "report" / "report.md").read_text()


def test_a_mean_over_fewer_pictures_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("fine", "rough"):
        for number in range(3):
            path = next((folder / method).glob(f"p{number}*"))
            Image.open(path).resize((200, 104)).save(path)
    assert main(["evaluate", "--pred", "fine", "rough", "--metrics", "niqe,sharpness"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"fine +\S+ \[\S+, \S+\]\*? over 3 +\S+ \[\S+, \S+\]", lines[1])
    assert any(re.fullmatch(r"rough - fine, niqe +\S+ \[\S+, \S+\] over 3 +too few", line) for line in lines)


def test_methods_are_called_as_asked_or_as_their_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for parent in ("first", "second"):
        (folder / parent).mkdir()
        (folder / parent / "out").symlink_to(folder / "fine")
    assert run("--pred", "first/out", "second/out", "--pred", "My best=rough", "--ref", "hr", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["methods"]) == ["first/out", "second/out", "My best"]
    (folder / "a=b").symlink_to(folder / "fine")
    assert run("--pred", "a=b", "--ref", "hr", "--json") == 0  # a folder that is there is no NAME=
    assert list(json.loads(capsys.readouterr().out)["methods"]) == ["a=b"]


def test_names_are_letters_in_tables_whatever_they_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a|b *<i>\x1b[31m"
    assert run("--pred", f"{name}=fine", "--ref", "hr", "-o", "report", "--no-page") == 0
    assert "\x1b" not in capsys.readouterr().out
    text = (folder / "report" / "report.md").read_text()
    assert "\x1b" not in text and r"| a\|b \*\<i\>" in text
    assert list(json.loads((folder / "report" / "scores.json").read_text())["methods"]) == [name]


REFUSED: list[tuple[list[str], str]] = [
    ([], "xpsr: nothing to evaluate; name a folder, as in: xpsr evaluate --pred A --ref HR."),
    (
        ["--pred", "nowhere", "--ref", "hr"],
        "xpsr: nowhere: cannot be read (No such file or directory); check the path.",
    ),
    (["--pred", "fine", "--ref", "empty"], "xpsr: empty: holds no pictures; name a folder with"),
    (["--pred", "fine", "fine"], "xpsr: fine and fine are both called"),
    (["--pred", "a=fine", "a=rough"], "xpsr: fine and rough are both called a; write --pred NAME=rough."),
    (["--pred", "=fine"], "xpsr: --pred '=fine' names no folder; write --pred DIR or --pred NAME=DIR."),
    (["--pred", ""], "xpsr: --pred '' names no folder; write"),
    (["--pred", "fine", "--workers", "-1"], "xpsr: --workers -1 is not in [0, 256]; use 0 or more."),
    (["--pred", "fine", "-o", "fine"], "xpsr: -o fine holds pictures that are scored; name another folder for the"),
    (["--pred", "fine", "-o", "hr/p0.png"], "xpsr: -o hr/p0.png is a file; name a folder for the report."),
    (["--pred", "fine", "--no-page"], "xpsr: --no-page means nothing without -o; leave it out."),
    (["--pred", "fine", "--metrics", ","], "xpsr: --metrics names none; write them as in: --metrics psnr_y,niqe."),
    (["--votes", "v.json", "--pred", "fine"], "xpsr: --pred means nothing with --votes; leave it out."),
    (["--votes", "v.json", "--ref", "hr"], "xpsr: --ref means nothing with --votes; leave it out."),
    (["--votes", "v.json", "--json"], "xpsr: --json means nothing with --votes; leave it out."),
    (["--pred", "fine", "--key", "key.json"], "xpsr: --key means nothing without --votes; leave it out."),
    (["--pred", "fine", "--rf", "hr"], "xpsr: unknown option --rf; did you mean --ref?"),
    (["--pred", "fine", "-o", ""], "xpsr: argument -o/--output: names no folder; see"),
    (["--pred", "fine", "--ref", ""], "xpsr: argument --ref: names no folder; see"),
    (
        ["--pred", "fine", "--weights", "nowhere"],
        "xpsr: nowhere: no such folder; name the folder that holds the weights.",
    ),
    (["--pred", "fine"], "xpsr: nothing can be measured ("),
]


@pytest.mark.parametrize(("arguments", "line"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_what_cannot_be_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    (folder / "empty").mkdir()
    metrics = [] if {"--metrics", "--votes"} & {*arguments} else ["--metrics", "psnr_y"]
    assert main(["evaluate", *arguments, *metrics]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(line)
    assert {path.name for path in folder.iterdir()} == {"hr", "fine", "rough", "empty"}


def test_a_protocol_of_ones_own_is_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.yaml").write_text("name: mine\nmetrics: [ssim_y]\ncrop: 8\n")
    assert main(["evaluate", "--pred", "fine", "--ref", "hr", "--protocol", "mine.yaml", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["protocol"]["name"] == "mine" and list(report["metrics"]) == ["ssim_y"]
    assert report["protocol"]["crop"] != load_protocol("xpsr").crop


def test_seams_are_looked_for_where_the_command_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("evaluate", "--pred", "fine", "--metrics", "seam_energy")
    assert main([*arguments, "--tile-size", "32", "--tile-overlap", "8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["protocol"]["tile_size"], report["protocol"]["tile_overlap"]) == (32, 8)
    pixels = read_image(folder / "fine" / "p0_x4.png").pixels
    expected = seam_energy(luma(pixels).numpy(), tile_size=32, overlap=8)
    assert report["methods"]["fine"]["pictures"]["p0"]["seam_energy"] == expected
    refused = {
        (): "seam_energy needs the size of tiles; name tile_size and tile_overlap, in pixels of the result",
        ("--tile-size", "32", "--tile-overlap", "32"): "--tile-overlap 32 is not below tile_size=32; use 4",
        ("--tile-overlap", "8"): "--tile-overlap 8 is not below tile_size=0; set tile_size, too",
        ("--tile-size", "-1"): "--tile-size -1 is not in",
        ("--tile-size", "32", "--metrics", "sharpness"): "--tile-size means nothing without --metrics seam_energy.",
    }
    for options, said in refused.items():
        assert main([*arguments, *options]) == 2
        captured = capsys.readouterr()
        assert said in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_an_unknown_protocol_is_refused_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--pred", "fine", "--ref", "hr", "--protocol", "basicsrr"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "basicsrr" in captured.err


def test_many_metrics_are_rows_and_what_is_not_measured_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = ("--metrics", "ssim_y,niqe,psnr_y")
    assert main(["evaluate", "--pred", "fine", "--ref", "hr", *metrics, "-o", "report", "--no-page"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +fine", lines[0])
    assert re.fullmatch(r"SSIM.* 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", lines[1]) and lines[2].startswith("PSNR")
    assert "not measured: niqe (every picture is too small)" in lines
    text = (folder / "report" / "report.md").read_text()
    assert (
        "|  | fine |\n| --- | --- |\n| SSIM" in text and "Not measured:\n\n- niqe: every picture is too small\n" in text
    )


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom xpsr.cli import main\ntry: main(['evaluate', '--help'])\n"
    code += "except SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: xpsr evaluate --pred [NAME=]DIR ... [--ref HR]")
    assert {"torch", "numpy", "scipy"}.isdisjoint(done.stdout.splitlines()[-1].split())
