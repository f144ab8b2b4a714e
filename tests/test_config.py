"""Configs: defaults, then YAML, then dotted flags; what is unknown is refused."""

import contextlib
import dataclasses
import errno
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.cli.train import explained
from xpsr.config import (
    DataConfig,
    DegradationConfig,
    ModelConfig,
    PairsConfig,
    RenamedWarning,
    TrainRunConfig,
    UpscaleConfig,
    as_dict,
    load_config,
    shipped_configs,
    suggest,
)
from xpsr.config.checks import PROBABILITY, weights, within
from xpsr.errors import InputError


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
        ("train: {max_stes: 7}", [], "{path}: train.max_stes is not an option; did you mean 'train.max_steps'?"),
        ("trian: {}", [], "{path}: trian is not an option; did you mean 'train'?"),
        ("max_steps: 7", [], "{path}: max_steps is not an option; did you mean 'train.max_steps'?"),
        ("", ["--train.max_step=7"], "--train.max_step=7 is not an option; did you mean 'train.max_steps'?"),
        ("train: {max_steps: many}", [], "{path}: train.max_steps=many is not a whole number; use 1 or more."),
        ("", ["--train.batch_size=x"], "--train.batch_size=x is not a whole number; use 1 or more."),
        (
            "train: {batch_size: 0}",
            ["--train.max_steps=1"],
            "{path}: train.batch_size=0 is not in [1, 4096]; use 1",
        ),
        ("[1, 2]", [], "{path}: expected a mapping of options, got list"),
        ("train: {", [], "{path}: not YAML"),
        ("train: {precision: fp8}", [], "{path}: train.precision=fp8 is not one of auto, fp32, bf16, fp16; use fp32."),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, text: str, flags: list[str], message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, path, flags)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such config file"):
        load_config(TrainRunConfig, tmp_path / "nowhere.yaml")


def test_a_file_that_the_system_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.yaml"
    path.touch()

    def refuse(self: Path, **_: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, path)
    said = "run.yaml: cannot be read (Permission denied); check the path and its permissions."
    assert str(caught.value) == f"{tmp_path}/{said}" and caught.value.code == "refused"


def test_a_config_survives_its_own_json(tmp_path: Path) -> None:
    import json

    config = load_config(TrainRunConfig, shipped_configs() / "finetune_lora.yaml")
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(as_dict(config)))  # JSON is YAML
    assert load_config(TrainRunConfig, path) == config
    assert load_config(UpscaleConfig) == UpscaleConfig()


def test_nothing_near_is_not_suggested() -> None:
    assert suggest("zebra", ["steps", "scale"]) == ""


# Every one of these went through, or ended in a traceback's name, before it was checked
OUT_OF_RANGE = [
    *("data.scale=0", "data.scale=17", "data.min_size=-5", "data.min_detail=-1", "data.crop_size=30"),
    *("data.crop_scales=[0]", "data.crop_scales=[-1]", "data.crop_scales=[]", "data.crop_scales=[1.5]"),
    *("data.flat_crop_probability=2", "data.kept_fault_probability=-0.1", "data.clean_condition_probability=1.1"),
    *("data.wrong_level_probability=.nan", "data.quality_from=prior", "data.require_priors=true"),
    *("data.degradation.first.blur_probability=2", "data.degradation.sinc_probability=-1"),
    *("train.max_steps=0", "train.max_steps=-3", "train.max_minutes=0", "train.max_minutes=-1", "train.num_workers=-1"),
    *("train.max_minutes=.inf", "train.batch_size=0", "train.seed=-1", "train.output_dir=", "data.hr_dir="),
    *("optimizer.learning_rate=-1", "optimizer.final_learning_rate=-1", "optimizer.warmup_steps=-5"),
    *("optimizer.weight_decay=-1", "optimizer.betas=[2, 3]", "optimizer.betas=[0.9, 1]", "optimizer.max_grad_norm=0"),
    *("optimizer.ema_decay=1", "optimizer.learning_rate=.nan", "optimizer.learning_rate=inf"),
    *("optimizer.schedule=cosin", "parts.lora_alpha=0", "parts.lora_alpha=-3"),
    *("loss.diffusion_weight=-1", "loss.pixel_weight=-1", "loss.vgg_weight=-1", "loss.adversarial_weight=-1"),
    "loss.adversary_content=-1",
    *("loss.degradation_free_weight=-1", "loss.degradation_free_image_weight=-1", "loss.feature_crop=0"),
    *("loss.degradation_free_latent_weight=-1", "loss.adversarial_ramp_steps=-5", "loss.min_snr_gamma=0"),
    *("loss.degradation_free_images=[9]", "loss.degradation_free_images=[-3]", "loss.degradation_free_latents=[-99]"),
    *("loss.degradation_free_latents=[99]", "loss.content_dropout=2"),
    *("model.one_step_timestep=1000", "model.one_step_timestep=-1", "model.vocabulary_size=3"),
    *("model.norm_num_groups=3", "model.norm_num_groups=0", "model.layers_per_block=0", "model.text_width=15"),
    *("model.text_width=0", "model.decoder_channels=0", "model.conditional_attention_window=-8"),
    *("model.conditioning_channels=[4, 4]", "model.conditioning_channels=[4, 0, 4]", "model.block_out_channels=[]"),
    *("model.num_attention_heads=[1]", "model.num_attention_heads=[1, 2, 0]", "model.num_attention_heads=[1, 2, 3]"),
    *("model.block_out_channels=[64, 0, 64]", "model.settings.num_inference_steps=0", "model.settings.strength=1.5"),
    *("model.settings.strength=0.0001", "model.settings.tile_size=0", "model.settings.tile_size=15"),
    *("model.settings.tile_overlap=-1", "model.settings.num_shifts=0", "model.settings.num_shifts=3"),
    *("model.settings.min_working_size=-1", "model.settings.added_noise_level=1000", "model.settings.start=middle"),
    *("model.settings.guidance_scale=.inf", "model.settings.num_inference_steps=1001"),
    *("validation.max_pictures=0", "validation.every=0", "parts.train=controlnet", "parts.train=[unett]"),
    *("train.trackers=[foo]", "train.precision=fp8", "train.seed=null", "data.shards=a.tar", "loss=3", "loss="),
]


@pytest.mark.parametrize("option", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_with_its_name_and_a_remedy(option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, None, [f"--{option}"])
    message = str(caught.value)
    assert message.startswith(f"--{name}="), message
    assert (caught.value.field, caught.value.source) == (f"--{name}", None)
    assert caught.value.code in ("out_of_range", "wrong_type", "conflict") and caught.value.remedy
    assert "; use " in message and message.endswith(".") and "\n" not in message
    assert len(message) < 250


COMBINATIONS = {
    "no term is left": ["--loss.diffusion_weight=0", "--loss.pixel_weight=0", "--loss.degradation_free_weight=0"],
    "and so is degradation_free_latents": ["--loss.degradation_free_images=[]", "--loss.degradation_free_latents=[]"],
    "loss.adversarial_weight=1 is of an adversary that has no features to look at": ["--loss.adversarial_weight=1"],
    "loss.adversary_content=1 is of an adversary that there is not": ["--loss.adversary_content=1"],
    "which only stored pairs have": ["--loss.teacher_weight=1"],
    "too small for loss.grid_weight; use 36": [
        *("--loss.grid_weight=1", "--loss.shift_probability=1", "--data.crop_size=32"),
    ],
    "too small for loss.shift_probability": ["--loss.shift_probability=1", "--data.crop_size=4"],
    "data.crop_size=33 is not a multiple of 4 pixels": ["--data.crop_size=33", "--data.scale=3"],
    "data.crop_size=20 is not a multiple of 8 pixels": [
        "--data.crop_size=20",
        "--model.base=x",
        "--model.conditioning_channels=[16, 32, 96, 256]",
    ],
    "model.conditioning_channels=[16, 32, 64] is not 4 widths": ["--model.base=x"],
    "no term is left to learn": [
        "--loss.one_step_fraction=1",
        "--loss.pixel_weight=0",
        "--ablate.degradation_free=true",
    ],
    "would add to noise": ["--loss.one_step_start=noised"],
    "model.decoder_channels=30 is not a multiple of 4; use 32": ["--model.decoder_channels=30"],
    "is no noise": ["--model.one_step_residual=false", "--model.one_step_timestep=0", "--loss.one_step_start=noised"],
    "data.pairs=a is set and so is shards": ["--data.pairs=a", "--data.shards=[b]"],
    "model.path=a goes on with a model, and base builds a new one": ["--model.path=a", "--model.base=b"],
    "or prediction_type=v_prediction": ["--model.prediction_type=epsilon", "--model.zero_terminal_snr=true"],
    "loss.feature_crop=256 is more than data.crop_size=128": ["--loss.vgg_weight=1", "--loss.feature_crop=256"],
    "parts.train=[everything, unet] names nothing or too much": ["--parts.train=[everything, unet]"],
    "validation.hr_dir=null holds no pictures for every=10": ["--validation.every=10"],
}


@pytest.mark.parametrize("reason", COMBINATIONS)
def test_what_does_not_go_together_is_refused(reason: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, None, COMBINATIONS[reason])
    assert reason in str(caught.value)
    assert any(word in str(caught.value) for word in ("; use ", "; leave", "; set "))


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--parts.train=controlnet"], "; use [controlnet]."),
        (["--parts.train=[contrlnet]"], "; use [controlnet]."),
        (["--train.trackers=[wand]"], "each one of tensorboard, wandb, trackio or null; use [wandb]."),
        (["--data.crop_size=30"], "; use 32."),
        (["--data.exclude=[1, a.png]"], "; use ['1']."),
        (["--train.seed"], "--train.seed has no value; use --train.seed=VALUE."),
        (["stray"], "'stray' is no option"),
        (["--model.settings={tile_sice: 16}"], "did you mean 'model.settings.tile_size'?"),
    ],
)
def test_the_remedy_fits(flags: list[str], hint: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, None, flags)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loss: {pixel_weight: 1}\ntrain:\n  seed: 1\nloss: {diffusion_weight: 2}\n",
            "loss is given twice, in lines 1 and 4",
        ),
        ("train: {seed: 1, seed: 2}", "seed is given twice, in lines 1 and 1"),
        ("data:\n  degradation:\n    first: {}\n    first: {}\n", "first is given twice, in lines 3 and 4"),
        ("loss: 3", "loss=3 is not a section; use options in it, such as one_step_fraction."),
        ("loss: [1]", "loss=[1] is not a section"),
        ("train: {output_dir: }", "train.output_dir=null is not a path"),
        ("train: {output_dir: ''}", "train.output_dir= is not a path; use a name."),
    ],
)
def test_a_file_that_says_two_things_or_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # 10 ** 9 values in 400 bytes, and 2 ** 30 by merging
        (
            "data:\n  exclude:\n  - &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
            "not a config: more than 100000 values",
        ),
        (
            "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 31)),
            "not a config: more than 100000 values",
        ),
        ("train: &a {seed: *a}", "not a config: more than 100000 values, or aliases in a circle"),
        ("data: &a {exclude: [[*a]]}", "not a config: more than 100000 values, or aliases in a circle"),
        ("train: " + "[" * 10_000, "not a config: nested more than 50 deep"),
        ("train: " + "{a: " * 10_000, "not a config: nested more than 50 deep"),
        ("train: {seed: " + "9" * 5000 + "}", "not YAML: "),
        ("train: {seed: ._}", "train.seed=._ is not a whole number"),
        ("train: {seed: !!python/object:os.system {}}", "not YAML: "),
        ("data: {exclude: [" + "1, " * 1000 + "]}", "data.exclude=[1, 1, "),
    ],
)
def test_a_file_that_is_meant_ill_is_refused_at_once(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, path)
    assert str(caught.value).startswith(f"{path}: {message}") and caught.value.remedy
    assert len(str(caught.value)) < 600


def test_aliases_merges_and_dates_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "data:\n  exclude: &names [a.png, 2024-01-01]\n  shards: *names\n"
        "  degradation:\n    first: &stage {blur_sigma: [1, 2]}\n    second: {<<: *stage, jpeg_quality: [1, 2]}\n"
    )
    data = load_config(TrainRunConfig, path).data
    assert data.exclude == data.shards == ("a.png", "2024-01-01")
    assert (data.degradation.second.blur_sigma, data.degradation.second.jpeg_quality) == ((1.0, 2.0), (1, 2))
    assert all(type(number) is float for number in data.degradation.first.blur_sigma)


@pytest.mark.parametrize("text", ["", "# nothing\n", "loss:\n", "loss: {}\nmodel:\n  settings:\n", "{}"])
def test_what_is_empty_leaves_the_defaults(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert load_config(TrainRunConfig, path) == TrainRunConfig()


def test_numbers_and_texts_are_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "train: {seed: 3}\noptimizer: {learning_rate: 1e-4, betas: [5e-1, 0.9]}\ndata: {exclude: ['1', a.png]}"
    )
    config = load_config(
        TrainRunConfig,
        path,
        ["--model.settings={tile_size: 16, content_suffix: '5'}", "--optimizer={weight_decay: 1e-3}"],
    )
    assert (config.optimizer.learning_rate, config.data.exclude, config.train.seed) == (1e-4, ("1", "a.png"), 3)
    assert (config.optimizer.weight_decay, config.optimizer.betas) == (1e-3, (0.5, 0.9))
    assert (config.model.settings.tile_size, config.model.settings.content_suffix) == (16, "5")
    assert config.model.settings.num_shifts == TrainRunConfig().model.settings.num_shifts


def test_an_error_in_a_section_given_as_a_flag_is_not_laid_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: {settings: {num_shifts: 2}}")
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, path, ["--model.settings={tile_size: 7}"])
    assert str(caught.value) == "model.settings.tile_size=7 is not a multiple of 4; use 8."
    path.write_text("model: {zero_terminal_snr: true}")
    with pytest.raises(InputError) as caught:
        load_config(TrainRunConfig, path, ["--model.prediction_type=epsilon"])
    assert str(caught.value).startswith(f"{path}: model.zero_terminal_snr=true leaves nothing to predict noise from")
    assert (caught.value.code, caught.value.field) == ("conflict", "model.zero_terminal_snr")


def test_former_names_are_understood_where_they_meant_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: {settings: {min_size: 64}}\ndata: {min_size: 32}")
    with pytest.warns(RenamedWarning, match="min_size is called min_working_size now"):
        config = load_config(TrainRunConfig, path)
    assert (config.model.settings.min_working_size, config.data.min_size) == (64, 32)
    with pytest.warns(RenamedWarning):
        assert load_config(UpscaleConfig, None, ["--min_size=8"]).min_working_size == 8
    for flag in ("min_size", "min_working_size"):  # a flag goes before a file, under whichever name
        with pytest.warns(RenamedWarning):
            config = load_config(TrainRunConfig, path, [f"--model.settings.{flag}=16"])
        assert config.model.settings.min_working_size == 16
    with (
        pytest.warns(RenamedWarning),
        pytest.raises(InputError, match=r"^--model\.settings\.min_size=-3 is not in "),
    ):
        load_config(TrainRunConfig, path, ["--model.settings.min_size=-3"])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: ModelConfig(text_width="wide"), "text_width=wide is not a whole number; use 64."),  # type: ignore[arg-type]
        (lambda: ModelConfig(path=Path("a"), base="b"), "path=a goes on with a model"),
        (lambda: UpscaleConfig(strength=2.0), r"strength=2 is not in \[0, 1\]; use 1 to start from noise."),
        (lambda: UpscaleConfig(tile_weights="both"), "tile_weights=both is not one of symmetric, reference"),  # type: ignore[arg-type]
        (lambda: TrainRunConfig(loss=None), "loss=null is not a section"),  # type: ignore[arg-type]
    ],
)
def test_what_is_made_in_python_is_checked_too(made: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        made()


def test_lists_texts_and_numbers_of_numpy_are_taken_in_python_as_they_are_from_a_file() -> None:
    config = DataConfig(hr_dir="photos", crop_scales=[1, 0.5], crop_size=np.int64(64))  # type: ignore[arg-type]
    assert config == DataConfig(hr_dir=Path("photos"), crop_scales=(1.0, 0.5), crop_size=64)
    assert as_dict(config)["crop_size"] == 64
    assert UpscaleConfig(priors="p.jsonl").priors == Path("p.jsonl")  # type: ignore[arg-type]


def test_an_option_before_the_file_needs_an_equals_sign() -> None:
    with pytest.raises(InputError, match=r"^1: no such config file; .* Write --train\.max_steps=1 in one word\.$"):
        load_config(TrainRunConfig, Path("1"), ["--train.max_steps", "tiny.yaml"])


@settings(max_examples=200, deadline=None)
@given(st.floats() | st.integers(-(10**6), 10**6), st.sampled_from(["", "low", "high"]), st.integers(-3, 3))
def test_a_limit_holds_what_is_within_its_ends(value: float, open_at: str, lowest: int) -> None:
    limit = within(lowest, lowest + 2, open_at=open_at)
    ends = [end for end, name in ((lowest, "low"), (lowest + 2, "high")) if name == open_at]
    assert limit.holds(value) == (lowest <= value <= lowest + 2 and value not in ends)
    assert PROBABILITY.holds(value) == (0 <= value <= 1)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.integers(1, 40)] * n)),
    st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
    st.integers(1, 16),
    st.integers(0, 40),
)
def test_a_model_that_is_let_through_has_sizes_that_fit(
    widths: tuple[int, ...], heads: tuple[int, ...], groups: int, text_width: int
) -> None:
    sizes = {"block_out_channels": widths, "num_attention_heads": heads, "norm_num_groups": groups}
    fits = len(widths) == len(heads) and all(h > 0 and w % h == 0 == w % groups for w, h in zip(widths, heads))  # noqa: B905
    fits = fits and text_width > 0 and text_width % 2 == 0
    with contextlib.nullcontext() if fits else pytest.raises(InputError, match=r"; use "):
        ModelConfig(**sizes, text_width=text_width)  # type: ignore[arg-type]


def test_every_option_explains_itself() -> None:
    def walk(kind: Any) -> Iterator[str]:
        for f in dataclasses.fields(kind):
            if not f.metadata.get("help", "").endswith("."):
                yield f"{kind.__name__}.{f.name}"
            if dataclasses.is_dataclass(f.type):
                yield from walk(f.type)

    assert [name for f in dataclasses.fields(TrainRunConfig) for name in walk(f.type)] == []


def options_of(kind: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every option that is no section, after the config that it belongs to."""
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(f.type):
            yield from options_of(f.type)
        else:
            yield kind, f


OPTIONS = {
    f"{kind.__name__}.{f.name}": (kind, f)
    for config in (TrainRunConfig, PairsConfig, UpscaleConfig)
    for kind, f in options_of(config)
}


def innermost(kind: Any) -> Any:
    inner = [one for one in get_args(kind) if one is not type(None) and one is not ...]
    return kind if not inner or get_origin(kind) is Literal else innermost(inner[0])


def num_values(f: dataclasses.Field[Any]) -> int:  # of a tuple
    return len(f.default) if f.default else str(f.type).count(",") + 1


NUMBERS = {name: (kind, f) for name, (kind, f) in OPTIONS.items() if innermost(f.type) in (int, float)}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_lowest_and_a_highest_value_and_its_help_says_them(name: str) -> None:
    kind, f = NUMBERS[name]
    for value in (-(10**30), 10**30):
        several = (value,) * num_values(f) if "tuple" in str(f.type) else value
        with pytest.raises(InputError) as caught:
            kind(**{f.name: several})
        assert (caught.value.field, caught.value.code) == (f.name, "out_of_range")
    if kind is not UpscaleConfig and f.metadata["rule"] is not weights:
        assert explained(f).endswith(f" Range: {f.metadata['rule']}.")


def applied(remedy: str) -> Any:
    """The value that a remedy begins with."""
    words = re.fullmatch(r"use (\[.*?\]|'[^']*'|\S+?)([ ,].*)?", remedy)
    assert words is not None, remedy
    return yaml.safe_load(re.sub(r"^(\d+)e", r"\1.0e", words[1]))


JUNK = [-(10**30), 10**30, float("nan"), float("inf"), True, "junk", "", None, (), ("junk",), (7,) * 9, 1.5, object()]


@pytest.mark.parametrize("name", OPTIONS)
def test_what_a_remedy_recommends_is_taken(name: str) -> None:
    kind, f = OPTIONS[name]
    for junk in JUNK:
        with contextlib.suppress(InputError):
            kind(**{f.name: junk})
            continue
        error = refused(partial(kind, **{f.name: junk}))
        if error.code == "conflict" or error.field != f.name:
            continue  # with other options
        with contextlib.suppress(InputError):
            kind(**{f.name: applied(error.remedy or "")})
            continue
        again = refused(partial(kind, **{f.name: applied(error.remedy or "")}))
        assert again.code == "conflict", f"{error} -> {again}"


def refused(make: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        make()
    return caught.value
