"""What a server's clients may ask for, the command lines that ask for the same, and errors as they are told."""

import dataclasses
import json
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr.cli.terminal import parse
from xpsr.cli.upscale_parser import upscale_parser
from xpsr.config import ServeConfig, Settings, Size, UpscaleConfig
from xpsr.errors import Cancelled, InputError, MissingDependencyError, ModelError, XPSRError
from xpsr.prior import Prior
from xpsr.web.commands import command_line
from xpsr.web.jobs import Request
from xpsr.web.options import DESCRIBE, OPTIONS, options_of, parse_options, refuse_target
from xpsr.web.problems import headers_of, problem_of
from xpsr.web.scheduler import Busy

CONFIG = ServeConfig(models=("mini", "large=/models/large"), describers=("mini", "server=http://127.0.0.1:1/v1#m"))


def parsed(config: ServeConfig = CONFIG, **fields: str) -> UpscaleConfig:
    return parse_options(fields, config)[0]


def refused(config: ServeConfig = CONFIG, **fields: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_options(fields, config)
    return caught.value


def test_every_option_has_a_kind_a_help_and_what_goes_with_the_kind() -> None:
    for name, option in options_of(CONFIG).items():
        told = option.as_dict()
        assert told["kind"] in ("number", "integer", "boolean", "text", "choice") and told["help"].endswith("."), name
        assert ("choices" in told) == (told["kind"] == "choice"), name
        if told["kind"] in ("number", "integer"):
            assert told["minimum"] < told["maximum"], name
        json.dumps(told)
    assert OPTIONS["scale"].as_dict()["maximum"] == 16 and OPTIONS["seed"].as_dict()["maximum"] == 2**63 - 1


def test_what_decides_about_memory_and_what_lies_on_the_disk_is_no_clients() -> None:
    fields = {f.name for f in dataclasses.fields(UpscaleConfig)}
    kept = {f.name for f in dataclasses.fields(Settings)} | {f.name for f in dataclasses.fields(Size)}
    assert fields - OPTIONS.keys() == {
        *("tile_size", "tile_overlap", "min_working_size", "priors", "device", "dtype", "engine", "weights_dtype"),
        *("memory", "compile", "offload", "max_pixels", "max_bytes", "on_existing", "c2pa"),
    }
    assert kept - OPTIONS.keys() == {"tile_size", "tile_overlap", "min_working_size"}
    for name in (fields - OPTIONS.keys()) | {"min_size", "image"}:
        assert refused(**{name: "1"}).code == "unknown_key"
    assert refused(protect="/etc/passwd").code == "unknown_value"
    assert refused(model="/models/large").code == "unknown_value"
    assert refused(describer="http://169.254.169.254/v1#m").code == "unknown_value"


def test_texts_become_values() -> None:
    config = parsed(
        num_inference_steps=" 4 ",
        guidance_scale="-1.5e0",
        guidance_interval="[0, 0.5]",
        scheduler="unipc",
        reserve_suffix="false",
        lr_consistency="true",
        size="30x20",
        seed="9223372036854775807",
        content="",
        negative_content="",
        model="large",
        describer="none",
    )
    assert (config.num_inference_steps, config.guidance_scale, config.guidance_interval) == (4, -1.5, (0.0, 0.5))
    assert (config.scheduler, config.reserve_suffix, config.lr_consistency) == ("unipc", False, True)
    assert (config.size, config.seed, config.content, config.negative_content) == ("30x20", 2**63 - 1, "", None)
    assert (config.model, config.describer, config.quality) == ("large", "none", None)
    assert parse_options({"map": "true"}, CONFIG) == (parsed(), True)
    assert parse_options({"map": ""}, CONFIG) == (parsed(), False)


def test_what_is_not_given_is_what_the_server_is_told() -> None:
    usual = UpscaleConfig(num_inference_steps=3, longest=100, strip_gps=True, dtype="fp32", tile_size=64)
    config = dataclasses.replace(CONFIG, upscale=usual, memory="4GB")
    assert parsed(config) == dataclasses.replace(usual, model="mini", describer="mini", memory="4GB")
    assert parsed(config, strip_gps="false", scale="2") == dataclasses.replace(
        usual, scale=2.0, longest=None, strip_gps=False, model="mini", describer="mini", memory="4GB"
    )
    told = options_of(config)
    assert (told["longest"].default, told["strip_gps"].default, told["scale"].default) == (100, True, None)
    assert told["model"].choices == ("mini", "large") and told["describer"].choices == ("mini", "server", "none")


@pytest.mark.parametrize(
    ("fields", "code", "field", "remedy"),
    [
        ({"steps": "4"}, "unknown_key", "steps", "did you mean 'num_inference_steps'?"),
        ({"qqqqq": "4"}, "unknown_key", "qqqqq", "leave it out"),
        ({"num_inference_steps": "four"}, "wrong_type", "num_inference_steps", "use 1 to 50"),
        ({"num_inference_steps": "4.0"}, "wrong_type", "num_inference_steps", "use 1 to 50"),
        ({"num_inference_steps": "0"}, "out_of_range", "num_inference_steps", "use 1 to 50"),
        ({"num_inference_steps": "9" * 5000}, "wrong_type", "num_inference_steps", "use 1 to 50"),
        ({"seed": "null"}, "wrong_type", "seed", "use 0, for example"),
        ({"guidance_scale": "1e999"}, "out_of_range", "guidance_scale", "use 4.5"),
        ({"guidance_interval": "0"}, "wrong_type", "guidance_interval", "use [0, 1]"),
        ({"guidance_interval": "1,0"}, "out_of_range", "guidance_interval", "use [0, 1]"),
        ({"scale": "NaN"}, "wrong_type", "scale", "use 4, for example"),
        ({"scale": "17"}, "out_of_range", "scale", "use 4, for example"),
        ({"scale": "2", "size": "3x3"}, "conflict", "scale", "leave one of them out"),
        ({"keep_cmyk": "True"}, "wrong_type", "keep_cmyk", "use true"),
        ({"map": "on"}, "wrong_type", "map", "use true"),
        ({"format": "gif"}, "wrong_type", "format", "use tiff"),
        ({"model": "minni"}, "unknown_value", "model", "did you mean 'mini'?"),
        ({"model": "qqqqq"}, "unknown_value", "model", "use one of mini, large"),
        ({"content": "x" * 10001}, "out_of_range", "content", "shorten it"),
    ],
)
def test_what_cannot_be_used_is_refused_with_field_and_remedy(
    fields: dict[str, str], code: str, field: str, remedy: str
) -> None:
    error = refused(**fields)
    assert (error.code, error.field, error.remedy) == (code, field, remedy)
    status, document = problem_of(error)
    assert status == 422 and document["field"] == field and document["remedy"] == remedy


NAMES = st.sampled_from([*OPTIONS, "min_size", "tile_size"]) | st.text(max_size=100)
TEXTS = st.one_of(
    st.text(max_size=200),
    st.from_regex(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?", fullmatch=True),
    st.sampled_from(
        ["true", "false", "null", "NaN", "-Infinity", "[]", "[0,1]", "0,1,2", "{}", "auto", "3x3", "\ud800"]
    ),
    st.sampled_from([choice for option in options_of(CONFIG).values() for choice in option.choices or ()]),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, TEXTS, max_size=5))
def test_any_text_gives_a_config_or_an_input_error_that_can_be_told(fields: dict[str, str]) -> None:
    for known in (OPTIONS.keys(), DESCRIBE):
        try:
            config, wants_map = parse_options(fields, CONFIG, known=known)
        except InputError as error:
            status, document = problem_of(error)
            assert status in (413, 422)
            json.dumps(document, ensure_ascii=False).encode()
            assert len(json.dumps(document)) < 20_000
        else:
            assert isinstance(wants_map, bool)
            assert config.model in ("mini", "large") and config.describer in ("mini", "server", "none")
            assert config.protect in (None, "auto") and config.priors is None and config.tile_size is None


def test_a_result_above_the_servers_limit_is_refused() -> None:
    config = dataclasses.replace(CONFIG, max_output_pixels=10_000)
    refuse_target(parsed(config, scale="4"), config, 25, 25)
    with pytest.raises(InputError) as caught:
        refuse_target(parsed(config, scale="5"), config, 25, 25)
    status, document = problem_of(caught.value)
    assert (status, document["limit"], document["field"], document["value"]) == (413, 10_000, "scale", "5")
    assert document["remedy"] == "use 4 or less"
    with pytest.raises(InputError, match="more than 16 times as long"):
        refuse_target(parsed(config, size="100x1"), config, 5, 5)


# command lines

PARSER = upscale_parser()


def commanded(line: str) -> tuple[list[str], UpscaleConfig]:
    """The inputs and the config that `xpsr upscale` makes of a command line."""
    program, command, *arguments = shlex.split(line)
    assert (program, command) == ("xpsr", "upscale")
    args = parse(PARSER, arguments)
    known = {f.name: getattr(args, f.name) for f in dataclasses.fields(UpscaleConfig) if f.name in args}
    return args.inputs, UpscaleConfig(**known)


def request(config: UpscaleConfig, name: str = "photo.jpg", *, wants_map: bool = False) -> Request:
    return Request(
        kind="upscale",
        name=name,
        width=8,
        height=6,
        format="JPEG",
        bytes=99,
        suffix=".jpg",
        config=config,
        wants_map=wants_map,
    )


def numbers(low: float, high: float) -> "st.SearchStrategy[str]":
    return st.floats(low, high).map(repr)


def texts_of(name: str) -> "st.SearchStrategy[str]":
    option = options_of(CONFIG)[name]
    if option.kind == "choice":
        return st.sampled_from(option.choices or ())
    if option.kind == "boolean":
        return st.sampled_from(["true", "false"])
    if option.kind == "integer":
        return st.integers(int(option.minimum or 0), int(option.maximum or 0)).map(str)
    if option.kind == "number":
        return numbers(option.minimum or 0, option.maximum or 0)
    if name == "guidance_interval":
        return st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: f"{min(pair)!r},{max(pair)!r}")
    if name == "size":
        return st.just("300x200")
    return st.one_of(
        # Python 3.11's argparse drops a text that is -- alone
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40).filter("--".__ne__),
        st.sampled_from(["-", "--seed", "-1", "-1e-5", "it's", '$(x) `y` "z"', "a\nb", "*", ""]),
    )


SINGLE = [name for name in OPTIONS if name not in {f.name for f in dataclasses.fields(Size)} | {"map"}]
FIELDS = st.builds(
    lambda settings, size: settings | size,
    st.fixed_dictionaries({}, optional={name: texts_of(name) for name in SINGLE}),
    st.sampled_from(["scale", "size", "longest", "shortest", "megapixels"]).flatmap(
        lambda name: st.dictionaries(st.just(name), texts_of(name), max_size=1)
    ),
)
PRIORS = st.none() | st.builds(Prior, *[texts_of("content")] * 2)
PLAIN = st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp"], exclude_characters="/\\")


@settings(max_examples=100, deadline=None)
@given(FIELDS, PRIORS, st.none() | st.integers(0, 2**63 - 1), st.text(PLAIN, min_size=1, max_size=30))
def test_a_command_line_asks_for_the_same(
    fields: dict[str, str], prior: Prior | None, seed: int | None, name: str
) -> None:
    config = parsed(
        dataclasses.replace(CONFIG, memory="4GB", upscale=UpscaleConfig(dtype="fp32", tile_size=64)), **fields
    )
    line = command_line(request(config, name), CONFIG, prior=prior, seed=seed)
    if config.model == "large" or (prior is None and config.describer == "server"):  # which nobody else knows
        assert line is None
        return
    assert line is not None
    inputs, again = commanded(line)
    wanted = dataclasses.replace(config, memory=None)  # of the server's machine
    wanted = wanted if seed is None else dataclasses.replace(wanted, seed=seed)
    if prior is not None:
        wanted = dataclasses.replace(wanted, content=prior.content, quality=prior.quality, describer="mini")
    assert again == wanted and inputs == [f"./{name}" if name in ("-", "--") else name]


def test_a_command_line_is_as_short_as_it_can_be() -> None:
    usual = parsed()
    assert command_line(request(usual), CONFIG, prior=None, seed=None) == "xpsr upscale photo.jpg"
    assert (
        command_line(request(usual, "a b.jpg", wants_map=True), CONFIG, prior=Prior("a cat", ""), seed=7)
        == "xpsr upscale 'a b.jpg' --seed 7 --content 'a cat' --quality '' --map maps"
    )
    assert command_line(request(parsed(scale="2"), "-x.jpg"), CONFIG, prior=None, seed=None) == (
        "xpsr upscale --scale 2 -- -x.jpg"
    )
    assert command_line(request(parsed(model="large")), CONFIG, prior=None, seed=None) is None


# problems


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InputError("is not in [0, 1]", code="out_of_range", field="fidelity", value="2", remedy="use 0"), 422, None),
        (InputError("a.png: is truncated", code="damaged"), 422, None),
        (InputError("has too many bytes", code="too_large"), 413, None),
        (Busy("too many", code="busy", remedy="wait", retry_after=7), 429, None),
        (Busy("too many", code="too_many", remedy="wait", retry_after=7), 429, None),
        (Busy("it ends", code="draining", remedy="wait", retry_after=7), 503, None),
        (Cancelled("the job was cancelled"), 410, None),
        (XPSRError("it is late", code="too_late"), 504, None),
        (XPSRError("it died", code="worker_died"), 500, None),
        (XPSRError("memory ran out", code="out_of_memory"), 503, None),
        (XPSRError("no token", code="unauthorized"), 401, None),
        (InputError("/srv/spool/x.png: cannot be written", code="disk_full"), 507, None),
        (InputError("/srv/spool/x.png: cannot be read", code="not_found"), 500, "refused"),
        (InputError("a.heic: HEIC needs a plugin", code="missing_dependency", remedy="pip"), 422, "unknown_format"),
        (MissingDependencyError("a library of the server is not there"), 500, "unexpected"),
        (ModelError("/srv/spool: holds no model"), 500, "unexpected"),
        (InputError("XPSR_API_KEY holds /srv", code="bad_key"), 500, "unexpected"),
        (XPSRError("something with /srv in it"), 500, "unexpected"),
        (InputError("is too little: it takes 9 GB; /srv", code="too_small", field="memory"), 413, "too_large"),
    ],
)
def test_every_error_is_a_problem_document_without_what_is_of_the_server(
    error: XPSRError, status: int, code: str | None
) -> None:
    found, document = problem_of(error, "/v1/jobs/x")
    assert (found, document["status"], document["code"]) == (status, status, code or error.code)
    assert document["type"] == f"urn:xpsr:error:{document['code']}" and document["instance"] == "/v1/jobs/x"
    assert {"type", "title", "status", "detail", "code", "field", "value", "remedy"} <= document.keys()
    assert "/srv" not in json.dumps(document) and "pip" not in json.dumps(document)
    headers = headers_of(error)
    assert ("Retry-After" in headers) == (status in (429, 503)) and ("WWW-Authenticate" in headers) == (status == 401)


def test_a_problem_is_no_longer_than_a_page_and_printable() -> None:
    error = InputError("x" * 10**6, field="\x1b[31m\ud800" * 1000, source="/srv")
    told: dict[str, Any] = problem_of(error)[1]
    text = json.dumps(told, ensure_ascii=False)
    assert len(text.encode()) < 10_000 and "\x1b" not in text and "/srv" not in text
