"""What `xpsr serve` is told: the rules, the names that clients choose among, and YAML there and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.config import ServeConfig, UpscaleConfig, as_dict, load_config, override
from xpsr.errors import InputError

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("mini",), {"mini": "mini"}),
        (("mini", "large=/srv/models/v3"), {"mini": "mini", "large": "/srv/models/v3"}),
        (("/srv/models/v3/",), {"v3": "/srv/models/v3/"}),
        ((r"C:\models\v3",), {"v3": r"C:\models\v3"}),
        (("owner/name",), {"name": "owner/name"}),
        (("runs/lr=1/best",), {"best": "runs/lr=1/best"}),
        (("a=b=c",), {"a": "b=c"}),
        (("http://h:1/v1#qwen2.5vl:7b",), {"qwen2.5vl:7b": "http://h:1/v1#qwen2.5vl:7b"}),
        (("http://h/v1#org/model",), {"model": "http://h/v1#org/model"}),
        (("http://h/v1?key=SECRET#m",), {"m": "http://h/v1?key=SECRET#m"}),
        (("eye=http://h/v1?key=SECRET#m",), {"eye": "http://h/v1?key=SECRET#m"}),
        (("none", "mini"), {"none": "none", "mini": "mini"}),
    ],
)
def test_what_clients_choose_among_has_names(given: tuple[str, ...], expected: dict[str, str]) -> None:
    assert ServeConfig(describers=given).named("describers") == expected
    assert list(ServeConfig(models=given).named("models")) == list(expected)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(names.filter(lambda name: name != "none"), st.text(min_size=1), min_size=1, max_size=5))
def test_names_that_are_given_are_those_that_clients_see(places: dict[str, str]) -> None:
    given = tuple(f"{name}={where}" for name, where in places.items())
    assert ServeConfig(models=given).named("models") == places


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_no_name_holds_what_a_client_cannot_type_or_should_not_see(given: list[str]) -> None:
    try:
        found = ServeConfig(models=tuple(given)).named("models")
    except InputError:
        return
    assert len(found) == len(given)
    for name, where in found.items():
        assert name.isascii() and name.isprintable() and not set(name) & set(" /\\?#&=@") and len(name) <= 64
        assert any(text.endswith(where) for text in given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": ()}, "models=[] are none; name one."),
        ({"models": ("",)}, "models=[] has an empty one; name one."),
        ({"devices": ()}, "devices=[] are none; name one."),
        ({"devices": ("cpu", "")}, "devices=[cpu, ] has an empty one; name one."),
        ({"models": ("mini", "a/mini")}, "models has two that are called mini; call one of them otherwise, as in"),
        ({"describers": ("none=http://h/v1#m",)}, "describers has one that is called none, which is who says nothing;"),
        ({"describers": ("http://h/v1?key=a b",)}, "describers has one that letters, digits and . _ - alone cannot"),
        ({"models": ("My Models",)}, "models has one that letters, digits and . _ - alone cannot call; give it a name"),
        ({"host": ""}, "host= is not an address; use 127.0.0.1."),
        ({"host": "a b"}, "host=a b is not an address"),
        ({"port": 65536}, "port=65536 is not in [0, 65535]; use 8000."),
        ({"port": True}, "port=true is not a whole number"),
        ({"allowed_hosts": ("http://a.org",)}, "allowed_hosts has 'http://a.org', which is none; use names such as"),
        ({"allowed_hosts": ("",)}, "allowed_hosts has '', which is none"),
        ({"forwarded_allow_ips": ("*",)}, "forwarded_allow_ips has '*', which is none; use addresses such as 10.0.0.1"),
        ({"max_bytes": 0}, "max_bytes=0 is not in [1, 1099511627776]; use 67108864."),
        ({"max_seconds": float("nan")}, "max_seconds=nan is not in"),
        ({"max_seconds": float("inf")}, "max_seconds=inf is not in"),
        ({"max_queue": 0}, "max_queue=0 is not in [1, 1000000]; use 64."),
        ({"keep_seconds": 0}, "keep_seconds=0 is not in"),
        ({"memory": "much"}, "memory=much is not an amount of memory; use 4GB, for example."),
        ({"upscale": UpscaleConfig(seed=3)}, "upscale.seed=3 is of the server, or of each request; leave it out."),
        ({"upscale": UpscaleConfig(model="a/b")}, "upscale.model=a/b is of the server"),
        ({"upscale": UpscaleConfig(priors=Path("p.jsonl"))}, "upscale.priors=p.jsonl is of the server"),
        ({"upscale": UpscaleConfig(protect="mask.png")}, "upscale.protect=mask.png is of the server"),
        ({"upscale": UpscaleConfig(c2pa=(Path("a"), Path("b")))}, "upscale.c2pa=[a, b] is not for strangers' pictures"),
        ({"upscale": UpscaleConfig(content="a cat")}, "upscale.content=a cat is of the server"),
    ],
)
def test_what_does_not_go_is_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ServeConfig(**values)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["http://h/v1?key=SECRET with a space", "x=a", "models?key=SE CRET"])
def test_errors_of_names_show_no_key(text: str) -> None:
    with pytest.raises(InputError) as caught:
        ServeConfig(models=(text, text))
    assert "SECRET" not in str(caught.value) and "CRET" not in str(caught.value)


def configs() -> st.SearchStrategy[ServeConfig]:
    """Configs of servers of many kinds."""
    seconds = st.floats(1, 1000)
    return st.builds(
        ServeConfig,
        host=st.sampled_from(["127.0.0.1", "0.0.0.0", "::1", "photos.example.org"]),
        port=st.integers(0, 65535),
        models=st.lists(names, min_size=1, max_size=3, unique=True).map(tuple),
        describers=st.sampled_from([("none",), ("mini", "eye=http://h/v1?k=1#m")]),
        devices=st.sampled_from([("auto",), ("cuda:0", "cuda:1"), ("cpu", "cpu")]),
        token_file=st.none() | st.just(Path("/etc/xpsr/tokens")),
        allowed_hosts=st.sampled_from([(), ("a.example.org", "[::1]:8000", "localhost")]),
        forwarded_allow_ips=st.sampled_from([(), ("10.0.0.1", "::1", "10.0.0.0/8")]),
        page=st.booleans(),
        max_bytes=st.integers(1, 2**40),
        max_output_pixels=st.integers(1, 2**40),
        max_seconds=seconds,
        keep_seconds=seconds,
        drain_seconds=seconds,
        max_queue=st.integers(1, 10**6),
        memory=st.none() | st.just("4GB"),
        spool=st.none() | st.just(Path("/var/spool/xpsr é")),
        upscale=st.builds(
            UpscaleConfig,
            scale=st.none() | st.floats(1, 8),
            guidance_interval=st.none() | st.just((0.1, 0.5)),
            negative_content=st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
            preset=st.sampled_from([None, "paper", "reference"]),
            strip_gps=st.booleans(),
        ),
    )


@settings(max_examples=40, deadline=None)
@given(configs())
def test_a_config_comes_back_from_json(config: ServeConfig) -> None:
    assert override(ServeConfig(), json.loads(json.dumps(as_dict(config)))) == config


@settings(max_examples=25, deadline=None)
@given(configs())
def test_a_config_comes_back_from_yaml(tmp_path_factory: pytest.TempPathFactory, config: ServeConfig) -> None:
    path = tmp_path_factory.getbasetemp() / "serve.yaml"
    path.write_text(yaml.safe_dump(as_dict(config)), encoding="utf-8")
    assert load_config(ServeConfig, path) == config


def test_a_yaml_and_flags_make_a_config(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("models: [mini, large=/srv/v3]\nmax_seconds: 30\nupscale: {scale: 2}\n")
    config = load_config(ServeConfig, path, ["--max_seconds=60", "--upscale.strip_gps=true", "--spool=/x"])
    assert config.named("models") == {"mini": "mini", "large": "/srv/v3"}
    assert (config.max_seconds, config.upscale.scale, config.upscale.strip_gps, config.spool) == (
        60,
        2,
        True,
        Path("/x"),
    )
    path.write_text("max_second: 30\n")
    with pytest.raises(InputError, match=r"max_second is not an option; did you mean 'max_seconds'\?"):
        load_config(ServeConfig, path)


def test_every_option_says_what_it_is() -> None:
    told = {name: field.metadata.get("help") for name, field in ServeConfig.__dataclass_fields__.items()}
    assert [name for name, text in told.items() if not text] == ["memory"]  # which `UpscaleConfig` explains
