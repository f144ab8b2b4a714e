"""Errors are one line to read and data to use."""

import json
import pickle

import pytest

from xpsr.errors import InputError, ModelError, TrainingError, XPSRError, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (XPSRError("it is late."), "it is late."),
        (XPSRError("a.png: is empty", remedy="copy it again"), "a.png: is empty; copy it again."),
        (InputError("is odd", field="size", value="3", remedy="use 4"), "size=3 is odd; use 4."),
        (InputError("has no value", field="size"), "size has no value"),
        (InputError("is not an option", field="sise", remedy="did you mean 'size'?"), "sise is not an option; did you"),
        (InputError("is odd", field="size", value="3", source="run.yaml"), "run.yaml: size=3 is odd"),
    ],
)
def test_an_error_reads_as_one_line_of_its_parts(error: XPSRError, line: str) -> None:
    assert str(error).startswith(line)


def test_whoever_shows_an_error_says_how_a_field_is_called() -> None:
    error = InputError("is odd", field="size", value="3", remedy="use 4")
    assert error.sentence(lambda field, value: f"--{field} {value}") == "--size 3 is odd; use 4."


def test_an_error_keeps_its_parts_wherever_it_goes() -> None:
    error = InputError("is odd", code="wrong", field="size", value="3", remedy="use 4", source="run.yaml")
    copies = (pickle.loads(pickle.dumps(error)), error.recast(ModelError), error.within("model"))
    for copy, kind, field in zip(
        copies, (InputError, ModelError, InputError), ("size", "size", "model.size"), strict=True
    ):
        assert type(copy) is kind
        assert (copy.code, copy.field, copy.value, copy.remedy) == ("wrong", field, "3", "use 4")
        assert str(copy) == f"run.yaml: {field}=3 is odd; use 4."
    assert str(error.recast(TrainingError, source="other.yaml")) == "other.yaml: size=3 is odd; use 4."
    assert XPSRError("it is late").within("model").field is None


def test_each_kind_has_a_code_and_a_place_among_pythons_errors() -> None:
    assert [kind("x").code for kind in (InputError, ModelError)] == ["invalid_input", "invalid_model"]
    assert isinstance(InputError("x"), ValueError)


def test_any_error_is_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"  # type: ignore[arg-type]


def test_an_error_is_made_again_of_its_parts_which_json_holds() -> None:
    error = InputError("is too large", code="too_large", field="scale", value="9", remedy="use 8", source="a", limit=8)
    again = InputError(**json.loads(json.dumps(error.parts)))
    assert (str(again), again.parts) == (str(error), error.parts)
    recast = error.recast(ModelError, field="model.scale")
    assert recast.parts == error.parts | {"field": "model.scale"} and isinstance(recast, ModelError)
