"""Which describer a name stands for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xpsr.errors import InputError
from xpsr.prior import QUESTIONS, Describer, FileDescriber, Questions, is_asked, open_describer
from xpsr.prior.mini import MiniDescriber
from xpsr.prior.mllm import MLLMDescriber
from xpsr.prior.server import ServerDescriber


def test_names_stand_for_describers(tmp_path: Path) -> None:
    lines, model = tmp_path / "priors.jsonl", tmp_path / "model"
    lines.write_text('{"image": "a.png", "content": "x", "quality": ""}\n')
    model.mkdir()
    (model / "config.json").write_text("{}")
    questions = QUESTIONS["reference"]
    found: list[Describer] = [
        open_describer("http://localhost:11434/v1#qwen2.5vl:7b", questions=questions),
        open_describer("owner/name", questions=questions, revision="abc", quality_model="owner/other"),
        open_describer(model, questions=questions),
        open_describer(lines),
        open_describer(str(tmp_path)),
    ]
    kinds = [ServerDescriber, MLLMDescriber, MLLMDescriber, FileDescriber, FileDescriber]
    assert [type(describer) for describer in found] == kinds
    assert [describer.questions for describer in found] == [questions] * 3 + [None] * 2
    assert [describer.name for describer in found[:2]] == [
        "http://localhost:11434/v1#qwen2.5vl:7b",
        "owner/name + owner/other",
    ]
    assert not any(describer.revision for describer in found if not isinstance(describer, MLLMDescriber))


@pytest.mark.parametrize("name", ["mini", "http://localhost/v1#m", "priors.jsonl"])
@pytest.mark.parametrize(
    "options", [{"quality_model": "x"}, {"revision": "x"}, {"quantization": "int8"}, {"dtype": "bf16"}]
)
def test_options_for_models_go_with_nothing_else(name: str, options: Any) -> None:
    ((option, value),) = options.items()
    with pytest.raises(InputError, match=f"{option}={value} is for models on this machine, and .* is none; leave it"):
        open_describer(name, **options)


@pytest.mark.parametrize("name", ["mini", "priors.jsonl"])
def test_questions_do_not_go_with_who_asks_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("priors.jsonl").write_text('{"image": "a.png", "content": "x", "quality": ""}\n')
    assert not is_asked(name)
    for questions in (QUESTIONS["default"], Questions(quality="Blurry?")):
        with pytest.raises(
            InputError, match=rf"questions are for models that are asked, and {name} is not; leave them"
        ):
            open_describer(name, questions=questions)
    assert open_describer(name).questions is None


def test_mini_is_the_one_that_comes_with_xpsr() -> None:
    assert isinstance(open_describer("mini"), MiniDescriber)


def test_a_server_needs_the_name_of_a_model() -> None:
    with pytest.raises(InputError, match="lacks the model; name it behind #"):
        open_describer("http://localhost:11434/v1")


def test_describers_are_imported_without_heavy_libraries() -> None:
    names = ", ".join(f"xpsr.prior.{name}" for name in ("asking", "lookup", "mllm", "server", "views"))
    code = f"import sys, {names}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "transformers", "diffusers", "numpy", "PIL"}.isdisjoint(loaded)
