"""Suites as they stand in their files: what is read, what is refused, and the ones that ship."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from suite_helpers import write_pictures, write_suite

from xpsr.benchmark import find_sets, load_suite
from xpsr.config import BenchmarkConfig, MatrixConfig, MethodConfig, as_dict, load_config, override
from xpsr.errors import InputError
from xpsr.evaluation import load_protocol

SUITES = sorted((Path(__file__).parents[1] / "suites").glob("*.yaml"))
SETS = [{"name": "few"}]
BICUBIC = {"name": "bicubic", "resize": "bicubic"}
KEYS = st.sampled_from(["name", "resize", "settings", "texts", "x"])
VALUES = st.sampled_from([None, True, "bicubic", "", "a/b", {}, {"fidelity": 1}, {"x": None}, []])


def read(tmp_path: Path, **suite: Any) -> BenchmarkConfig:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"sets": SETS, **suite}))
    return load_config(BenchmarkConfig, path)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_shipped_suites_are_read_and_say_how_to_come_by_their_sets(path: Path) -> None:
    suite = load_suite(path)
    load_protocol(suite.config.protocol)
    assert suite.config.about and suite.config.baseline is not None
    for one in suite.config.sets:
        assert one.pictures is not None
        assert one.how or (one.folder / one.lr).exists()
        assert one.priors is None or one.priors.is_file()


def test_the_shipped_set_is_there() -> None:
    (found,), missing = find_sets(load_suite(next(path for path in SUITES if path.stem == "example")))
    assert missing == {}
    (pair,) = found.pairs
    assert pair.name == "moose" and pair.hr is not None and pair.hr.name == "moose_original.jpg"


@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        ([BICUBIC, {"name": "m", "modle": "mini"}], ["methods[1].modle is not an option", "methods.model"]),
        ([{"name": "m", "model": "mini", "settings": {"steps": 4}}], ["settings.steps", "'num_inference_steps'"]),
        ([{"name": "m", "model": "mini", "settings": {"fidelity": 2}}], ["settings.fidelity=2 is not in [0, 1]"]),
        ([{"name": "m", "model": "mini", "texts": {"content": "right"}}], ["texts.content=right is not one of none"]),
        ([{"name": "m"}], ["methods[0].name=m is none of resize, model, command"]),
        ([{**BICUBIC, "model": "mini"}], ["is resize and model"]),
        ([{**BICUBIC, "settings": {"fidelity": 1}}], ["settings=", "does nothing beside resize"]),
        ([{"name": "m", "command": "prog {input}"}], ["has neither {input} and {output}"]),
        ([{"name": "m", "command": "prog {input} {outputs}"}], ["has neither {input} and {output}"]),
        ([{"name": "../m", "resize": "bicubic"}], ["methods[0].name=../m is not a name"]),
        ([{"resize": "bicubic"}], ["methods[0].name= is not a name"]),
        ([BICUBIC, {"name": "Bicubic", "resize": "lanczos"}], ["methods.name=Bicubic is the name of two"]),
        ([5], ["methods=[5] is not a list, each a section"]),
        ("bicubic", ["methods=bicubic is not a list, each a section"]),
    ],
)
def test_what_is_no_method_is_refused_in_a_line_that_names_it(tmp_path: Path, methods: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, methods=methods)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 's.yaml'}: ") and all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("suite", "parts"),
    [
        ({"baseline": "bicubc"}, ["baseline=bicubc is none of the methods"]),
        ({"sats": []}, ["sats is not an option", "'sets'"]),
        ({"sets": [{"name": "results"}]}, ["sets.name=results is what xpsr writes"]),
        ({"sets": [{"name": "Summary.md"}]}, ["sets.name=Summary.md is what xpsr writes"]),
        ({"sets": [{"name": "inputs"}]}, ["sets.name=inputs is what xpsr writes"]),
        ({"sets": [{"name": "a", "ending": 3}]}, ["sets[0].ending is not an option", "sets.endings"]),
        ({"matrix": [{"content": []}]}, ["matrix[0].content=[] is empty"]),
        ({"matrix": [{"settings": {"fidelity": []}}]}, ["matrix[0].settings.fidelity=[] is empty"]),
        ({"matrix": [{"settings": {"fidelity": [0, 3]}}]}, ["matrix[0].settings.fidelity=3 is not in [0, 1]"]),
    ],
)
def test_what_is_no_suite_is_refused(tmp_path: Path, suite: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, **({"methods": [BICUBIC]} | suite))
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_suite_without_sets_or_methods_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for suite, part in (({"methods": [BICUBIC]}, "sets is empty"), ({"sets": SETS}, "methods is empty")):
        path.write_text(yaml.safe_dump(suite))
        with pytest.raises(InputError, match=part):
            load_suite(path)


def test_a_suite_that_is_not_there_is_told_where_some_are(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"s\.yaml: no such suite; a clone of xpsr has some to start from in suites/\.$"
    ):
        load_suite(tmp_path / "s.yaml")


def test_true_is_a_word_here(tmp_path: Path) -> None:
    texts = {"content": True, "quality": "none"}
    config = read(tmp_path, methods=[{"name": "m", "model": "mini", "texts": texts}], matrix=[{"content": [True]}])
    assert config.methods[0].texts.content == "true" and config.methods[1].texts.content == "true"


def test_a_matrix_names_its_methods_by_what_differs() -> None:
    matrix = MatrixConfig(
        model="folder/of/big",
        content=("none", "true"),
        settings={"num_inference_steps": [1, 4], "guidance_scale": 1.0, "fidelity": [0.5]},
    )
    methods = tuple(matrix.methods())
    names = [f"big content={content} steps={steps}" for content in ("none", "true") for steps in (1, 4)]
    assert [method.name for method in methods] == names
    assert methods[1].settings == {"num_inference_steps": 4, "guidance_scale": 1.0, "fidelity": 0.5}
    assert {method.texts.quality for method in methods} == {"described"}


def test_a_method_is_the_same_after_json() -> None:
    method = MethodConfig(name="m", model="mini", settings={"fidelity": 1})
    assert override(method, as_dict(method)) == method
    assert method.settings == {"fidelity": 1.0}


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(KEYS, VALUES) | st.sampled_from([None, 1, "bicubic"]), max_size=2))
def test_any_methods_are_read_or_refused(methods: Any) -> None:
    try:
        config = override(BenchmarkConfig(), {"methods": methods})
    except InputError as error:
        field = error.field
    else:
        field = "methods"
        assert all(method.resize is not None for method in config.methods)
    assert field is not None and field.startswith("methods")


# Folders


def test_paths_start_from_the_suite_and_folders_can_be_replaced(tmp_path: Path) -> None:
    write_pictures(tmp_path / "here" / "pictures")
    path = write_suite(tmp_path / "here" / "s.yaml", [BICUBIC])
    suite = load_suite(path)
    assert suite.config.protocol == str(tmp_path / "here" / "psnr.yaml")
    assert [len(one.pairs) for one in find_sets(suite)[0]] == [2]
    other = write_pictures(tmp_path / "there", ("a", "b", "c"))
    for pattern in ("few", "f*", "*"):
        assert [len(one.pairs) for one in find_sets(load_suite(path, folders=[(pattern, other)]))[0]] == [3]
    with pytest.raises(InputError, match=r"fewer is no set of .*; did you mean 'few'"):
        load_suite(path, folders=[("fewer", other)])


def test_endings_are_taken_off_before_pictures_are_paired(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", ("a", "b"))
    for name in ("a", "b"):
        (folder / "lr" / f"{name}.png").rename(folder / "lr" / f"{name}_LR4.png")
        (folder / "hr" / f"{name}.png").rename(folder / "hr" / f"{name}_HR.png")
    sets = [{"name": "few", "folder": "pictures", "endings": ["_HR", "_LR4"]}]
    suite = load_suite(write_suite(tmp_path / "s.yaml", [BICUBIC], sets=sets))
    ((found,), _) = find_sets(suite)
    assert [(pair.name, pair.lr.name, pair.hr and pair.hr.name) for pair in found.pairs] == [
        ("a", "a_LR4.png", "a_HR.png"),
        ("b", "b_LR4.png", "b_HR.png"),
    ]


@pytest.mark.parametrize("gone", ["lr/a.png", "hr/a.png"])
def test_pictures_without_partners_are_named(tmp_path: Path, gone: str) -> None:
    (write_pictures(tmp_path / "pictures") / gone).unlink()
    with pytest.raises(InputError, match=r"a\.png: has no partner in"):
        find_sets(load_suite(write_suite(tmp_path / "s.yaml", [BICUBIC])))


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    shutil.copyfile(folder / "lr" / "a.png", folder / "lr" / "a.bmp")
    with pytest.raises(InputError, match="may belong to"):
        find_sets(load_suite(write_suite(tmp_path / "s.yaml", [BICUBIC])))
