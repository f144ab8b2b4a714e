"""`xpsr benchmark`: suites run, go on, and say what went wrong."""

import json
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from fork_server import start_python
from PIL import Image
from suite_helpers import ENLARGE, ENLARGE_ALL, write_pictures, write_program, write_suite

from xpsr.cli import main

BICUBIC = {"name": "bicubic", "resize": "bicubic"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures in `pictures`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    return tmp_path


def run(place: Path, methods: Sequence[dict[str, Any]], *options: str, **more: Any) -> int:
    write_suite(place / "s.yaml", methods, **more)
    return main(["benchmark", "s.yaml", "-o", "out", *options])


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def records(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "summary.md" not in line]


def test_a_suite_restores_scores_and_sums_up(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_program(place / "one.py", ENLARGE)
    many = write_program(place / "many.py", ENLARGE_ALL)
    methods = [
        *({"name": way, "resize": way} for way in ("bicubic", "lanczos", "nearest")),
        {"name": "mini", "model": "mini", "texts": {"content": "none", "quality": "described"}},
        {"name": "one", "command": f"{one} {{input}} {{output}}"},
        {"name": "many", "command": f"{many} {{inputs}} {{outputs}}"},
    ]
    assert run(place, methods) == 0
    out = capsys.readouterr().out
    assert out.rstrip() == (place / "out" / "summary.md").read_text().rstrip()
    assert "minus bicubic" in out and all(f"| {method['name']} |" in out for method in methods)
    scores = json.loads((place / "out" / "few" / "scores.json").read_text())
    assert [*scores["methods"]] == [method["name"] for method in methods]
    assert scores["methods"]["one"]["pictures"] == scores["methods"]["many"]["pictures"]
    assert (place / "out" / "few" / "index.html").is_file()
    for method in methods:
        for name in ("a", "b"):
            with Image.open(place / "out" / "results" / "few" / str(method["name"]) / f"{name}.png") as image:
                assert image.size == (32, 32)
    lines = [json.loads(line) for line in (place / "out" / "times.jsonl").read_text().splitlines()]
    assert [line["first"] for line in lines if line["method"] == "mini"] == [True, False]


@pytest.mark.usefixtures("loaded_once")
def test_a_second_run_computes_nothing_and_a_changed_input_is_restored_again(place: Path, tiny_model: Path) -> None:
    program = write_program(place / "one.py", f"Path('calls').open('a').write('x')\n{ENLARGE}")
    methods = [
        BICUBIC,
        {"name": "tiny", "model": str(tiny_model), "describer": "none"},
        {"name": "one", "command": f"{program} {{input}} {{output}}"},
    ]
    assert run(place, methods) == 0
    results = place / "out" / "results"
    before, timed = times(results), (place / "out" / "times.jsonl").read_bytes()
    assert run(place, methods) == 0
    assert times(results) == before and (place / "calls").read_text() == "xx"
    assert (place / "out" / "times.jsonl").read_bytes() == timed

    write_pictures(place / "pictures", ("x", "b"))  # another b than before, and x
    (place / "pictures" / "lr" / "x.png").unlink()
    (place / "pictures" / "hr" / "x.png").unlink()
    lr = place / "pictures" / "lr" / "b.png"
    with Image.open(lr) as image:
        image.rotate(180).save(lr)
    assert run(place, methods) == 0
    changed = {name for name, when in times(results).items() if when != before[name]}
    assert changed == {f"few/{method}/b.{end}" for method in ("bicubic", "tiny", "one") for end in ("png", "json")}


@pytest.mark.usefixtures("loaded_once")
def test_other_settings_texts_or_programs_are_restored_again(place: Path, tiny_model: Path) -> None:
    results = place / "out" / "results" / "few"
    tiny = {"name": "m", "model": str(tiny_model), "texts": {"content": "none", "quality": "none"}}
    program = write_program(place / "one.py", ENLARGE)
    command = {"name": "one", "command": f"{program} {{input}} {{output}}"}
    assert run(place, [tiny, command]) == 0
    first = records(results / "m"), records(results / "one")
    write_program(place / "one.py", ENLARGE.replace("resize", "convert('L').convert('RGB').resize"))
    changed = {**tiny, "settings": {"num_inference_steps": 2, "strength": 0.5}}
    assert run(place, [changed, command]) == 0
    second = records(results / "m"), records(results / "one")
    for one, other in zip(first, second, strict=True):
        assert all(one[name]["output_sha256"] != other[name]["output_sha256"] for name in ("a", "b"))
    lines = [json.dumps({"image": f"pictures/lr/{name}.png", "content": "a moose"}) for name in ("a", "b")]
    (place / "priors.jsonl").write_text("\n".join(lines))
    sets = [{"name": "few", "folder": "pictures", "priors": "priors.jsonl"}]
    assert run(place, [{**changed, "texts": {"content": "true", "quality": "none"}}], sets=sets) == 0
    assert records(results / "m")["a"]["prior"]["content"] == "a moose"


@pytest.mark.usefixtures("loaded_once")
def test_a_preset_and_what_goes_with_settings_are_a_methods_own(place: Path, tiny_model: Path) -> None:
    model = {"model": str(tiny_model), "describer": "none"}
    small = {"num_inference_steps": 2, "min_working_size": 0, "tile_size": 16, "tile_overlap": 4}
    methods = [
        {**model, "name": "plain"},
        {**model, "name": "preset", "preset": "paper", "settings": small},
        {**model, "name": "consistent", "lr_consistency": True},
        {**model, "name": "protected", "protect": "auto"},
    ]
    assert run(place, methods) == 0
    results = place / "out" / "results" / "few"
    plain, preset, consistent, protected = (records(results / str(method["name"]))["a"] for method in methods)
    assert preset["settings"]["guidance_scale"] == 5.5 and small.items() <= preset["settings"].items()
    assert consistent["fidelity"]["lr_psnr"] > plain["fidelity"]["lr_psnr"] + 10
    assert "protected" in protected["fidelity"] and "protected" not in plain["fidelity"]


def test_a_picture_that_the_set_has_no_longer_goes(place: Path) -> None:
    assert run(place, [BICUBIC]) == 0
    (place / "out" / "results" / "few" / "bicubic" / "mine.txt").write_text("not of the suite")
    for folder in ("hr", "lr"):
        (place / "pictures" / folder / "a.png").unlink()
    assert run(place, [BICUBIC]) == 0
    names = {path.name for path in (place / "out" / "results" / "few" / "bicubic").iterdir()}
    assert names == {"b.png", "b.json", "mine.txt"}


def test_what_is_not_the_suites_is_not_replaced(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = place / "out" / "results" / "few" / "bicubic" / "a.png"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"somebody's")
    assert run(place, [BICUBIC]) == 1
    (line,) = errors(capsys)
    assert "a.png: is there already, and nothing beside it says that xpsr made it" in line
    assert foreign.read_bytes() == b"somebody's"


def test_a_page_that_is_of_no_report_is_told_before_any_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "out" / "few").mkdir(parents=True)
    (place / "out" / "few" / "index.html").write_text("somebody's")
    assert run(place, [BICUBIC]) == 2
    (line,) = errors(capsys)
    assert "few/index.html: is there already, and belongs to no report" in line
    assert not (place / "out" / "results").exists()


def test_a_run_that_was_killed_goes_on(place: Path) -> None:
    body = f"import time\nwhile 'b' in source.name and not Path('go').exists():\n    time.sleep(0.05)\n{ENLARGE}"
    slow = write_program(place / "slow.py", body)
    write_suite(place / "s.yaml", [BICUBIC, {"name": "slow", "command": f"{slow} {{input}} {{output}}"}])
    done = place / "out" / "results" / "few" / "slow" / "a.png"
    with start_python("-m", "xpsr", "benchmark", "s.yaml", "-o", "out", cwd=place) as process:
        while not (left := list(done.parent.glob(".*"))) or not done.is_file():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        (place / "go").touch()
        process.communicate()
    before = times(done.parent)
    assert main(["benchmark", "s.yaml", "-o", "out"]) == 0
    after = times(done.parent)
    assert after.keys() == {"a.png", "a.json", "b.png", "b.json"} and not any(path.exists() for path in left)
    assert after["a.png"] == before["a.png"]


def test_two_runs_do_not_share_a_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "out").mkdir()
    with FileLock(place / "out" / ".xpsr.lock"):
        assert run(place, [BICUBIC]) == 2
    assert errors(capsys) == ["xpsr: out: another run is at work there; wait for it, or choose another folder with -o."]


# Programs


def test_a_program_that_is_not_installed_is_told_and_the_rest_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, [BICUBIC, {"name": "gone", "command": "no-such-program {input} {output}"}]) == 1
    captured = capsys.readouterr()
    assert "xpsr: few, gone: not run: no-such-program was not found" in captured.err.splitlines()
    assert "- gone: not run: no-such-program was not found" in captured.out and "| bicubic |" in captured.out


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("print('a word', file=sys.stderr); sys.exit(3)", ["exit code 3", "it said: a word"]),
        ("pass", ["has written no picture of it"]),
        ("Image.new('RGB', (16, 16)).save(target)", ["has made 16 x 16 of it, not 32 x 32"]),
        ("target.write_text('no picture')", ["a.png: "]),
        ("import time; time.sleep(60)", ["took more than 1 s", "larger timeout"]),
    ],
)
def test_a_command_that_fails_is_named_with_its_picture(
    place: Path, capsys: pytest.CaptureFixture[str], body: str, parts: list[str]
) -> None:
    program = write_program(place / "bad.py", body)
    timeout = 1 if "sleep" in body else 60
    methods = [BICUBIC, {"name": "bad", "command": f"{program} {{input}} {{output}}", "timeout": timeout}]
    assert run(place, methods) == 1
    (line,) = errors(capsys)
    assert line.startswith("xpsr: few, bad: ") and "a.png" in line and all(part in line for part in parts), line
    scores = json.loads((place / "out" / "few" / "scores.json").read_text())
    assert [*scores["methods"]] == ["bicubic"]  # a mean over fewer pictures would be none
    assert [path.name for path in (place / "out" / "results" / "few" / "bad").iterdir()] == []


def test_a_folder_of_which_a_picture_is_missing_is_a_failure(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = write_program(place / "bad.py", ENLARGE_ALL.replace("source.iterdir())", "source.iterdir())[:1]"))
    assert run(place, [{"name": "bad", "command": f"{program} {{inputs}} {{outputs}}"}]) == 1
    (line,) = errors(capsys)
    assert "b.png: the command has written no picture of it" in line
    program = write_program(place / "bad.py", ENLARGE_ALL)  # the one that was made is made again, by another program
    assert run(place, [{"name": "bad", "command": f"{program} {{inputs}} {{outputs}}"}]) == 0


def test_what_is_written_for_a_longer_name_is_not_taken_for_a_shorter_one(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(place / "pictures", ("a", "b", "a_b"))
    program = write_program(place / "all.py", ENLARGE_ALL)
    assert run(place, [{"name": "all", "command": f"{program} {{inputs}} {{outputs}}"}]) == 0
    found = records(place / "out" / "results" / "few" / "all")
    assert {name: record["input"] for name, record in found.items()} == {n: f"{n}.png" for n in ("a", "b", "a_b")}
    assert len({record["output_sha256"] for record in found.values()}) == 3
    program = write_program(place / "all.py", ENLARGE_ALL.replace("source.iterdir()", "source.glob('*_b.png')"))
    assert run(place, [{"name": "all", "command": f"{program} {{inputs}} {{outputs}}"}]) == 1
    assert "a.png: the command has written no picture of it" in errors(capsys)[-1]


def test_a_picture_may_be_called_as_a_place_of_a_command(place: Path) -> None:
    for folder in ("lr", "hr"):
        (place / "pictures" / folder / "a.png").rename(place / "pictures" / folder / "{output}.png")
    program = write_program(place / "one.py", ENLARGE)
    assert run(place, [{"name": "one", "command": f"{program} {{input}} {{output}}"}]) == 0


def test_no_shell_sees_a_command(place: Path) -> None:
    odd = "$(touch hacked); touch hacked"
    for folder in ("lr", "hr"):
        (place / "pictures" / folder / "a.png").rename(place / "pictures" / folder / f"{odd}.png")
    program = write_program(place / "one.py", ENLARGE)
    assert run(place, [{"name": "one", "command": f"{program} {{input}} {{output}} {shlex.quote(odd)}"}]) == 0
    assert not (place / "hacked").exists()


def test_settings_that_a_model_cannot_follow_are_a_failure_of_the_method(
    place: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"name": "odd", "model": str(tiny_model), "describer": "none", "settings": {"fidelity": 0.5}}
    assert run(place, [BICUBIC, odd]) == 1
    (line,) = errors(capsys)
    assert "few, odd: fidelity=0.5 is of a model that knows a faithful way, too; use 0." in line


# Sets and options


def test_missing_sets_are_told_before_any_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [
        {"name": "few", "folder": "pictures"},
        {"name": "gone", "folder": "gone", "how": "take it\n  from its authors."},
    ]
    assert run(place, [BICUBIC], sets=sets) == 2
    (line,) = errors(capsys)
    assert line == (
        "xpsr: set gone: gone/lr is not there; --set gone=FOLDER says where it is. take it from its authors."
    )
    assert not (place / "out").exists()
    assert run(place, [BICUBIC], "--skip-missing", sets=sets) == 0
    assert "- set gone: gone/lr is not there" in capsys.readouterr().out
    write_pictures(place / "elsewhere")
    assert run(place, [BICUBIC], "--set", "gone=elsewhere", sets=sets) == 0


def test_true_texts_that_are_missing_are_told_before_any_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, [BICUBIC, {"name": "m", "model": "mini", "texts": {"content": True}}]) == 2
    (line,) = errors(capsys)
    assert "set few: has no true texts, which m asks for" in line
    assert not (place / "out" / "results").exists()


def test_texts_by_hand_are_left_out_where_there_are_none(
    place: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = [{"name": "m", "model": str(tiny_model), "content": ["none", "by_hand"], "quality": ["none"]}]
    assert run(place, [], matrix=matrix) == 0
    assert "- not run, as the set has no texts by hand: m content=by\\_hand" in capsys.readouterr().out


def test_list_says_what_is_there_and_runs_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [{"name": "few", "folder": "pictures"}, {"name": "gone", "folder": "gone"}]
    methods = [
        BICUBIC,
        {"name": "x", "command": "no-such-program {input} {output}"},
        {"name": "y", "model": "no/m/x"},
    ]
    assert run(place, methods, "--list", sets=sets) == 0
    assert capsys.readouterr().out.splitlines() == [
        "set few: 2 pictures",
        "set gone: missing; gone/lr is not there; --set gone=FOLDER says where it is.",
        "method bicubic: resize bicubic",
        "method x: command no-such-program {input} {output}; missing: no-such-program was not found",
        "method y: model no/m/x; missing: model=no/m/x is no model; use mini, a folder, or owner/name on the hub.",
    ]
    assert not (place / "out").exists()


def test_the_weights_of_learned_metrics_are_looked_for_where_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "weights").mkdir()
    (place / "p.yaml").write_text("{name: p, metrics: [psnr_y, lpips_alex]}", encoding="utf-8")
    assert run(place, [BICUBIC], "--weights", "weights", protocol="p.yaml") == 0
    assert "put them into weights" in capsys.readouterr().out


def test_methods_and_sets_can_be_chosen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = [BICUBIC, {"name": "nearest", "resize": "nearest"}]
    assert run(place, methods, "--methods", "nearest", "--sets", "few") == 0
    assert "| nearest |" in (out := capsys.readouterr().out) and "| bicubic |" not in out
    assert run(place, methods, "--methods", "bicubc") == 2
    assert errors(capsys) == ["xpsr: bicubc is no method of s; did you mean 'bicubic'?"]
    assert run(place, methods, "--methods", "") == 2
    assert run(place, methods, "--set", "few=") == 2


def test_a_word_that_no_file_can_be_called_is_a_word(place: Path) -> None:
    program = write_program(place / "one.py", ENLARGE)
    assert run(place, [{"name": "one", "command": f"{program} {{input}} {{output}} {'x' * 3000}"}]) == 0


@pytest.mark.parametrize("command", ["'prog {input} {output}", "{input} {output}", "  "])
def test_what_is_no_command_is_told(place: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(place, [{"name": "bad", "command": command}]) == 2
    (line,) = errors(capsys)
    assert "command" in line and "unexpected" not in line
