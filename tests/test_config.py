"""Configs: defaults, then YAML, then dotted flags; what is unknown is refused."""

from pathlib import Path

import pytest

from xpsr.config import DegradationConfig, TrainRunConfig, UpscaleConfig, as_dict, load_config, suggest
from xpsr.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    config = load_config(TrainRunConfig, path)
    assert config.train.max_steps > 0
    assert {"canyon5.jpg", "forest3.jpg", "city4.jpg", "beach1.jpg"} <= set(config.data.exclude)


def test_flags_go_before_yaml_and_yaml_before_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {max_steps: 7, seed: 3}\ndata: {degradation: {first: {blur_sigma: [0.5, 1]}}}\n")
    config = load_config(TrainRunConfig, path, ["--train.max_steps=9", "--data.degradation.sinc_probability", "0.3"])
    assert (config.train.max_steps, config.train.seed, config.train.batch_size) == (9, 3, 16)
    assert config.data.degradation.first.blur_sigma == (0.5, 1.0)
    assert config.data.degradation.sinc_probability == 0.3
    assert config.data.degradation.second == DegradationConfig().second


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("train: {max_stes: 7}", [], "'train.max_stes' is not an option; did you mean 'train.max_steps'?"),
        ("trian: {}", [], "'trian' is not an option; did you mean 'train'?"),
        ("", ["--train.max_step=7"], "did you mean 'train.max_steps'?"),
        ("train: {max_steps: many}", [], "many"),
        ("", ["--train.batch_size=x"], "x"),
        ("[1, 2]", [], "expected a mapping of sections, got list"),
        ("train: {", [], "not YAML"),
        ("train: {precision: fp8}", [], "fp8"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, text: str, flags: list[str], message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, path, flags)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such config file"):
        load_config(TrainRunConfig, tmp_path / "nowhere.yaml")


def test_a_config_survives_its_own_json(tmp_path: Path) -> None:
    import json

    config = load_config(TrainRunConfig, CONFIGS[0])
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(as_dict(config)))  # JSON is YAML
    assert load_config(TrainRunConfig, path) == config
    assert load_config(UpscaleConfig) == UpscaleConfig()


def test_nothing_near_is_not_suggested() -> None:
    assert suggest("zebra", ["steps", "scale"]) == ""
