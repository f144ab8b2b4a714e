"""What the public calls take, and what they say of anything else."""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import xpsr
from xpsr import InputError, Prior, Restorer, Settings, XPSRError, XPSRPipeline, describe, open_describer
from xpsr.config import as_dict
from xpsr.image import read_image, to_picture, write_image
from xpsr.prior import QUESTIONS, Describer, Levels, Questions
from xpsr.prior.mini import MiniDescriber


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def pipe(restorer: Restorer) -> XPSRPipeline:
    return restorer.pipe


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
    return path


PIXELS = np.random.default_rng(1).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)


# What is there to be given, by the names of the calls
def calls(restorer: Restorer, photo: Path) -> dict[str, Callable[..., Any]]:
    return {
        "pipe": lambda **given: restorer.pipe(**{"image": photo, "prior": Prior(), **given}),
        "restore": lambda **given: restorer.restore(**{"image": photo, "prior": Prior(), **given}),
        "Restorer": Restorer,
        "describe": lambda **given: describe(**{"images": photo, **given}),
        "open_describer": lambda **given: open_describer(**{"name": "mini", **given}),
        "read_image": lambda **given: read_image(**{"path": photo, **given}),
        "write_image": lambda **given: write_image(**{"path": photo.with_name("b.png"), "image": PIXELS[0], **given}),
        "Prior": Prior,
        "Settings": Settings,
        "settings": restorer.pipe.settings,
    }


SHARED = [
    *({"image": image} for image in (None, 5, [["a.png"]], {"a": 1}, "", "no\0name", b"", b"no picture", object())),
    *({"image": image} for image in (io.StringIO("text"), io.BytesIO(b""), np.zeros((2, 3)) * np.nan, np.array("a"))),
    *({"prior": prior} for prior in (5, {"content": "a"}, b"bytes", "\ud800", "a" * 10_001, True, Prior)),
    *({"describer": describer} for describer in (5, None, True, [], MiniDescriber)),
    *({"prior": None, "describer": name} for name in ("", "http://localhost:1/v1", "nowhere.jsonl", "\ud800")),
    *({"scale": scale} for scale in ("4", True, float("nan"), float("inf"), -4, 0, 1e-9, 17, 1j, [4])),
    *({"size": size} for size in ("4", True, "0x5", 5, "5x", (5, 5))),
    *({"preset": preset} for preset in ("papre", 5, [], True)),
    *({"settings": given} for given in ("steps", 5, [("num_shifts", 1)], {"steps": 3}, {5: 5}, {"tile_size": 16.5})),
    {"settings": Settings(), "preset": "paper"},
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    *((call, given) for call in ("pipe", "restore") for given in SHARED),
    *(("pipe", {"generator": generator}) for generator in (5, "a", [5], True)),
    *(("pipe", {"num_inference_steps": steps}) for steps in (2.5, True, "2", 0, float("nan"), 10**20)),
    *(("pipe", {"guidance_scale": guidance}) for guidance in (True, "2", float("inf"), 10**400, 1e9)),
    *(("pipe", {"strength": strength}) for strength in (True, "1", float("nan"), -0.1, 1.1)),
    *(("pipe", {"latents": latents}) for latents in (5, "a", [1.0], np.zeros((1, 48, 8, 8)))),
    *(("pipe", {"output_type": kind}) for kind in ("jpeg", None, 5, ["pil"])),
    *(("pipe", {"return_dict": flag}) for flag in (1, None, "no")),
    *(("pipe", {"callback_on_step_end": callback}) for callback in (5, "print")),
    *(("pipe", {"callback_on_step_end_tensor_inputs": names}) for names in (5, "latents", ["noise"], [5])),
    *(
        ("pipe", {name: callback})
        for name in ("callback_on_pass_end", "callback_on_preview")
        for callback in (5, "print")
    ),
    *(("restore", {"seed": seed}) for seed in (-1, 2**63, 1.5, True, "1", float("nan"))),
    *(("restore", {name: 5}) for name in ("progress", "preview", "is_cancelled")),
    *(("Restorer", {"model": model}) for model in ("mimi", "", 5, None, True)),
    *(("Restorer", {"device": device}) for device in ("abacus", 5, None, [])),
    *(("Restorer", {"dtype": dtype}) for dtype in ("fp8", 5, None, [])),
    *(("Restorer", {"weights_dtype": dtype}) for dtype in ("fp4", 5, None, [])),
    *(("Restorer", {"offload": offload}) for offload in ("model", "group", "some", 5, None, [])),
    *(("Restorer", {"compile": compiler}) for compiler in (5, None, [], "no-such-compiler")),
    *(("describe", {"images": images}) for images in (5, None, [5], "nowhere.png", b"none")),
    *(("describe", {"describer": describer}) for describer in (5, None, MiniDescriber, "")),
    ("describe", {"progress": 5}),
    *(("open_describer", {"name": name}) for name in (5, None, "", b"mini", ["mini"])),
    *(("open_describer", {"name": "owner/model", "questions": questions}) for questions in (5, "what?")),
    *(("open_describer", {name: 5}) for name in ("quality_model", "revision", "dtype", "device", "quantization")),
    *(("open_describer", {name: 1}) for name in ("trust_remote_code", "local_files_only")),
    *(("read_image", {"path": path}) for path in (5, None, "", "no\0name", "nowhere.png", ".", [], "\ud800.png")),
    *(("write_image", {"path": path}) for path in (5, None, "", "no\0name.png", "a.xyz", ".", "nowhere/a.png")),
    *(("write_image", {"image": image}) for image in (5, None, "nowhere.png", np.zeros(3))),
    *(("Prior", {"content": text}) for text in (5, None, b"a", "\ud800", "a" * 10_001, ["a"])),
    *(("Prior", {"quality": text}) for text in (5, None, b"a")),
    *(("Prior", {"levels": levels}) for levels in (5, "clean", {"blur": "clean"})),
    *(("Settings", {"content_suffix": text}) for text in (5, None, "\ud800", "a" * 10_001)),
    ("settings", {"overrides": 5}),
]


@pytest.mark.parametrize(
    ("call", "given"), REFUSED, ids=lambda value: str(value)[:40] if isinstance(value, str) else ""
)
def test_what_cannot_be_used_is_named_with_what_it_was_and_what_to_do(
    restorer: Restorer, photo: Path, call: str, given: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as caught:
        calls(restorer, photo)[call](**given)
    error = caught.value
    assert error.remedy and "\n" not in str(error) and str(error).isprintable() and len(str(error)) < 400
    file = {"image", "images", "path"} & given.keys()
    assert error.field or file or "describer" in given, str(error)  # a file's error begins with its name


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.integers(), max_size=2),
    st.sampled_from([object(), object, print, np.zeros(3), np.float64("nan"), torch.zeros(2), Prior(), Settings()]),
    st.sampled_from([Path("a"), io.BytesIO(b"a"), io.StringIO("a"), ..., NotImplemented, range(3), {1}, Ellipsis]),
)
ARGUMENTS = {
    "pipe": (
        *(
            "image",
            "scale",
            "size",
            "prior",
            "describer",
            "preset",
            "settings",
            "num_inference_steps",
            "guidance_scale",
        ),
        *("strength", "generator", "latents", "output_type", "return_dict", "callback_on_step_end_tensor_inputs"),
    ),
    "restore": ("image", "prior", "describer", "scale", "size", "preset", "settings", "seed"),
    "Restorer": ("model", "device", "dtype", "weights_dtype", "offload"),
    "describe": ("images", "describer"),
    "open_describer": ("name", "questions", "quality_model", "revision", "dtype", "device", "quantization"),
    "read_image": ("path",),
    "write_image": ("path", "image"),
    "Prior": ("content", "quality", "levels"),
    "Settings": tuple(f.name for f in dataclasses.fields(Settings)),
}


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_junk_gives_a_result_or_an_error_of_xpsr(
    restorer: Restorer, photo: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.chdir(photo.parent)
    call = data.draw(st.sampled_from(sorted(ARGUMENTS)))
    names = data.draw(st.lists(st.sampled_from(ARGUMENTS[call]), min_size=1, max_size=2, unique=True))
    # what is named may be on the hub, which no test asks
    named = {name: JUNK.filter(lambda value: not isinstance(value, str | Path)) for name in ("describer", "model")}
    given = {name: data.draw(named.get(name, JUNK), label=name) for name in names}
    with contextlib.suppress(XPSRError):
        calls(restorer, photo)[call](**given)


def test_numbers_of_numpy_are_numbers_and_their_record_is_json(restorer: Restorer, photo: Path) -> None:
    import json

    made = restorer.restore(photo, Prior(), scale=np.float32(2), seed=np.int64(3), settings={"num_shifts": np.int8(1)})
    assert json.loads(json.dumps(made.record))["scale"] == 2 and made.record["seed"] == 3


class Telling:
    """Says the same of every picture and keeps what it was shown."""

    name, revision, questions = "telling", None, None

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def describe(self, images: Sequence[Any], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        self.shown += images
        return [Prior("a cat", "noisy") for _ in images]


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (None, Prior("a cat", "noisy")),
        ("a red panda", Prior("a red panda", "noisy")),
        ("", Prior("", "noisy")),
        (Prior("a dog"), Prior("a dog", "")),
        (Prior(), Prior()),
    ],
)
def test_a_text_is_what_is_in_the_picture_and_the_describer_says_what_is_wrong(
    restorer: Restorer, photo: Path, prior: Any, expected: Prior
) -> None:
    describer: Describer = Telling()
    assert restorer.restore(photo, prior, describer=describer).record["prior"] == expected.as_dict()
    assert restorer.pipe(photo, prior=prior, describer=describer).priors == [expected]
    assert describer.shown == ([] if isinstance(prior, Prior) else [photo] * 2)  # type: ignore[attr-defined]


def test_each_picture_has_its_own_prior_or_who_looks(pipe: XPSRPipeline, photo: Path) -> None:
    given = [None, "a dog", Prior("a fox", "dark")]
    found = pipe([photo] * 3, prior=given, describer=Telling()).priors
    assert found == [Prior("a cat", "noisy"), Prior("a dog", "noisy"), Prior("a fox", "dark")]


def test_pipeline_restorer_and_describe_look_alike_unless_nobody_is_to(restorer: Restorer, photo: Path) -> None:
    (said,) = describe(photo)
    assert said.quality
    assert restorer.pipe(photo).priors == [said]
    assert restorer.restore(photo).record["prior"] == said.as_dict()
    assert restorer.pipe(photo, describer="none").priors == describe(photo, "none") == [Prior()]
    assert restorer.restore(photo, "a cat", describer="none").record["prior"] == Prior("a cat").as_dict()


def test_a_describer_that_is_named_is_opened_where_it_is_needed_once_a_call_and_closed(
    pipe: XPSRPipeline, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Held(Telling):
        def __enter__(self) -> "Held":
            return self

        def __exit__(self, *_: object) -> None:
            events.append("closed")

    def opened(name: str, *, questions: Questions, device: str) -> Held:
        assert (questions, device) == (QUESTIONS["reference"], "cpu")  # as of the command line
        events.append(name)
        return Held()

    monkeypatch.setattr("xpsr.prior.lookup.open_describer", opened)
    options: dict[str, Any] = {"preset": "reference", "num_inference_steps": 1, "settings": {"min_working_size": 0}}
    pipe([photo, photo], prior=[None, "a dog"], describer="somebody", **options)
    assert events == ["somebody", "closed"]
    pipe(photo, prior=Prior(), describer="somebody", **options)
    assert events == ["somebody", "closed"]


def test_a_describer_of_the_caller_stays_open(pipe: XPSRPipeline, photo: Path) -> None:
    class Held(Telling):
        def __enter__(self) -> "Held":
            return self

        def __exit__(self, *_: object) -> None:
            pytest.fail("closed")

    pipe(photo, describer=Held())


def test_whole_settings_are_taken_as_they_are_and_a_mapping_over_the_models(pipe: XPSRPipeline, photo: Path) -> None:
    whole = dataclasses.replace(pipe.settings(), color_match="adain", num_shifts=1, strength=0.0)
    assert pipe.settings(None, whole) == pipe.settings(None, dataclasses.asdict(whole)) == whole
    assert pipe.settings(None, whole, guidance_scale=2.0) == dataclasses.replace(whole, guidance_scale=2.0)
    assert pipe.settings(None, {"color_match": "adain"}).tile_size == pipe.settings().tile_size
    a = pipe(photo, prior=Prior(), settings=whole, output_type="np").images[0]
    b = pipe(photo, prior=Prior(), settings={"color_match": "adain"}, output_type="np").images[0]
    assert np.array_equal(a, b)
    with pytest.raises(InputError, match=r"^num_shifts=2 is for fit=pad, not stretch; use 1\."):
        pipe.settings(None, dataclasses.replace(whole, num_shifts=2, fit="stretch"))
    made = XPSRPipeline(**pipe.components, one_step_timestep=250, settings=whole)  # type: ignore[arg-type]
    assert made.settings() == whole


def test_a_restorer_takes_whole_settings_too(restorer: Restorer, photo: Path) -> None:
    whole = dataclasses.replace(restorer.pipe.settings(), color_match="adain")
    assert restorer.restore(photo, Prior(), settings=whole).record["settings"] == as_dict(whole)


def test_a_picture_may_be_a_path_bytes_or_an_open_file(pipe: XPSRPipeline, photo: Path) -> None:
    content = photo.read_bytes()
    expected = read_image(photo).pixels
    with photo.open("rb") as file:
        for given in (content, bytearray(content), io.BytesIO(content), file):
            assert torch.equal(to_picture(given).pixels, expected)
        assert not file.closed
    assert torch.equal(read_image(content).pixels, expected)
    assert pipe(content, prior=Prior()).images[0].tobytes() == pipe(photo, prior=Prior()).images[0].tobytes()
    assert describe(content) == describe(photo) == describe(io.BytesIO(content))
    with photo.open(encoding="latin-1") as text, pytest.raises(InputError, match=r"it gives text\); use open\(path, "):
        read_image(text)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="read of closed file"):
        read_image(file)
    damaged = io.BytesIO(content[:-30])
    damaged.name = "a.png"
    with pytest.raises(InputError, match=r"a\.png: is truncated or damaged"):
        read_image(damaged)


def run_both_texts(pipe: XPSRPipeline, images: Any) -> Any:
    given: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt"}
    return pipe(images, generator=torch.Generator().manual_seed(1), **given)


@pytest.fixture(scope="module")
def alone(pipe: XPSRPipeline) -> list[Any]:
    return [run_both_texts(pipe, Image.fromarray(one)) for one in PIXELS]


@pytest.mark.parametrize(
    "several",
    [
        PIXELS,
        PIXELS.astype(np.float32) / 255,
        torch.from_numpy(PIXELS.copy()).permute(0, 3, 1, 2),
        [*PIXELS],
        tuple(Image.fromarray(one) for one in PIXELS),
        [PIXELS[:1], torch.from_numpy(PIXELS[1:].copy()).permute(0, 3, 1, 2)],
    ],
    ids=["array", "floats", "tensor", "list", "tuple", "batches of one"],
)
def test_a_batch_gives_to_the_bit_what_its_pictures_give_alone(
    pipe: XPSRPipeline, alone: list[Any], several: Any
) -> None:
    together = run_both_texts(pipe, several)
    assert together.priors == [one.priors[0] for one in alone] and together.priors[0].quality
    assert all(torch.equal(a, b.images[0]) for a, b in zip(together.images, alone, strict=True))
    assert describe(several) == together.priors


def test_without_return_dict_there_is_a_tuple(pipe: XPSRPipeline, photo: Path) -> None:
    images, priors = pipe(photo, prior="a cat", describer="none", return_dict=False)
    output = pipe(photo, prior="a cat", describer="none")
    assert (images[0].tobytes(), priors) == (output.images[0].tobytes(), [Prior("a cat")])
    assert output.to_tuple()[1] == priors


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_every_kind_of_result_can_be_written(pipe: XPSRPipeline, photo: Path, tmp_path: Path, kind: Any) -> None:
    write_image(tmp_path / "a.png", pipe(photo, prior=Prior(), output_type=kind).images[0])
    written = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(written, np.asarray(pipe(photo, prior=Prior()).images[0]))


def test_threads_that_share_a_pipeline_and_the_minis_describer_get_what_they_get_alone(
    pipe: XPSRPipeline, photo: Path
) -> None:
    def run(steps: int) -> Any:
        return pipe(
            photo, num_inference_steps=steps, generator=torch.Generator().manual_seed(steps), output_type="pt"
        ).images[0]

    alone = [run(steps) for steps in (1, 2, 3, 4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(run, (1, 2, 3, 4)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_errors_are_public() -> None:
    for name in ("Cancelled", "InputError", "MissingDependencyError", "ModelError", "TrainingError"):
        assert issubclass(getattr(xpsr, name), xpsr.XPSRError) and name in xpsr.__all__


def test_questions_and_levels_are_checked() -> None:
    for make in (
        lambda: Questions(content_view="half"),
        lambda: Levels(blur="none", noise="clean", compression="clean"),
    ):  # type: ignore[arg-type]
        with pytest.raises(InputError, match="is not one of "):
            make()


def test_diffusers_own_loader_names_what_to_call(tiny_model: Path) -> None:
    with pytest.raises(AttributeError, match="XPSRPipeline"):
        DiffusionPipeline.from_pretrained(tiny_model)
