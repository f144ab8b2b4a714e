"""`scripts/teach.py`: another method's pictures beside stored pairs."""

from pathlib import Path

import pytest
import teach
from PIL import Image


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for part, size in (("hr", 32), ("lr", 8)):
        (tmp_path / "pairs" / part).mkdir(parents=True)
        for name in ("a", "b", "c"):
            Image.new("RGB", (size, size), (size, 9, 9)).save(tmp_path / "pairs" / part / f"{name}.png")
    return tmp_path / "pairs"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["teach.py", *map(str, arguments)])
    return teach.main()


def test_a_command_makes_what_is_missing_and_the_same_call_goes_on(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = pairs.parent / "answer.webp"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(answer)
    (pairs / "teacher").mkdir()
    Image.new("RGB", (32, 32)).save(pairs / "teacher" / "b.png")
    before = (pairs / "teacher" / "b.png").read_bytes()
    asked = pairs.parent / "asked"
    call = (
        pairs,
        "--at-once=2",
        "--suffix=.webp",
        "--",
        "sh",
        "-c",
        f"echo {{input}} >> {asked}; cp {answer} {{output}}",
    )
    assert run(monkeypatch, *call) == 0
    assert capsys.readouterr().out == "1 of 3 are there\n3 of 3 are there\n"
    assert sorted(path.name for path in (pairs / "teacher").iterdir()) == ["a.webp", "b.png", "c.webp"]
    assert (pairs / "teacher" / "b.png").read_bytes() == before
    assert sorted(asked.read_text().split()) == [str(pairs / "lr" / f"{name}.png") for name in "ac"]
    assert run(monkeypatch, *call) == 0
    assert len(asked.read_text().split()) == 2


def test_what_fails_or_has_another_size_is_told_and_not_kept(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "case {input} in */a.png) echo no memory >&2; exit 3;; *) cp {input} {output};; esac"
    assert run(monkeypatch, pairs, "--", "sh", "-c", script) == 1
    assert capsys.readouterr().out.splitlines()[1:3] == [
        f"{pairs}/lr/a.png: exit code 3: no memory",
        f"{pairs}/lr/b.png: 8 x 8 pixels came back, not HR's size",
    ]
    assert list((pairs / "teacher").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["pairs", "--", "cp", "{input}", "out.png"], "names no {input} or no {output}"),
        (["pairs", "--", "no-such-upscaler", "{input}", "{output}"], "no-such-upscaler: no such command"),
        (["nowhere", "--", "cp", "{input}", "{output}"], "nowhere"),
        (["pairs"], "required: command"),
    ],
)
def test_what_cannot_work_is_refused(
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(pairs.parent)
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, *arguments)
    assert reason in capsys.readouterr().err
