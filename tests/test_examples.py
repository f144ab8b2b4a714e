"""The examples do what they say, in a copy of their folder."""

import ast
import json
import runpy
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = ("restore_with_texts.py", "compare_settings.py", "folder_with_progress.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded_once: None) -> Path:
    """A copy of the examples, which the test is in; its photograph is cut so that no test takes long."""
    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    with Image.open(copy / "moose.png") as moose, Image.open(copy / "moose_original.jpg") as original:
        small, large = moose.crop((32, 24, 64, 48)), original.crop((128, 96, 256, 192))
    small.save(copy / "moose.png")
    large.save(copy / "moose_original.jpg")
    monkeypatch.chdir(copy)
    return copy


def main_of(script: str) -> Callable[..., Any]:
    """What the script calls when it is run."""
    main: Callable[..., Any] = runpy.run_path(script)["main"]
    return main


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short_and_say_how_they_are_run(script: str) -> None:
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert f"\n    python {script} " in (ast.get_docstring(ast.parse(text), clean=False) or "")


def test_restoring_with_texts_keeps_them_in_the_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_of("restore_with_texts.py")(Path("moose.png"), "a moose in tall grass")
    with Image.open("moose_x4.png") as result:
        assert result.size == (128, 96)
    record = json.loads(Path("moose_x4.json").read_text(encoding="utf-8"))
    assert record["prior"]["content"] == "a moose in tall grass"
    said, named = capsys.readouterr().out.splitlines()
    assert said.endswith(f"; {record['prior']['quality']}")
    assert named == "moose_x4.png"


def test_comparing_settings_shows_more_the_less_faithful(folder: Path) -> None:
    main_of("compare_settings.py")(Path("moose.png"), Path("sheet.png"))
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (4 * 128, 96)
        columns = [sheet.crop((left, 0, left + 128, 96)) for left in range(0, 512, 128)]
    assert len({column.tobytes() for column in columns}) == 4
    assert ImageStat.Stat(columns[3].convert("L")).stddev[0] > ImageStat.Stat(columns[1].convert("L")).stddev[0]


def test_a_folder_is_restored_past_what_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "moose_original.jpg").unlink()
    assert main_of("folder_with_progress.py")(Path(), Path("out"), threading.Event()) == 1
    assert [path.name for path in Path("out").iterdir()] == ["moose_x4.png"]
    shown = capsys.readouterr()
    assert "broken.jpg" in shown.err
    assert shown.out.endswith("moose.png: 1 of 1\n")


def test_a_folder_is_left_where_somebody_cancels(folder: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert main_of("folder_with_progress.py")(Path(), Path("out"), stop) == 130
    assert not any(Path("out").iterdir())


def notebook() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    return found


def test_the_notebook_has_no_outputs_and_no_commands_of_a_shell() -> None:
    content = notebook()
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))  # neither `%` nor `!`


def test_the_notebook_runs_from_top_to_bottom(folder: Path) -> None:
    shown: list[Any] = []
    names: dict[str, Any] = {}
    for cell in notebook()["cells"]:
        if cell["cell_type"] == "code":
            *statements, last = ast.parse("".join(cell["source"])).body
            assert isinstance(last, ast.Expr)  # which a notebook shows
            exec(compile(ast.Module(statements, []), "tour.ipynb", "exec"), names)
            shown.append(eval(compile(ast.Expression(last.value), "tour.ipynb", "eval"), names))
    pictures = [one for one in shown if isinstance(one, Image.Image)]
    assert len(pictures) == 5
    assert pictures[1].size == (3 * 512, 384)
    before, after, original = (pictures[1].crop((left, 0, left + 512, 384)) for left in (0, 512, 1024))
    assert len({before.tobytes(), after.tobytes(), original.tobytes()}) == 3
    assert shown[-1]["output_size"] == [128, 96]
    for name in ("before", "original"):
        names[name].close()
