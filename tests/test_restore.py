"""One way from a picture to a picture: re-entrant, told of its progress, stopped where it is."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xpsr import Prior, Restorer, XPSRPipeline, open_describer, read_image
from xpsr.errors import Cancelled, InputError
from xpsr.image import Picture, to_pil
from xpsr.prior.mini import MiniDescriber


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 4), dtype=np.uint8)).save(path)
    return path


STEPS: dict[str, Any] = {"num_inference_steps": 3, "strength": 0.4, "tile_size": 16, "tile_overlap": 4}


def test_the_picture_is_that_of_the_pipeline_and_the_record_makes_it_again(
    restorer: Restorer, photo: Path, tiny_model: Path
) -> None:
    made = restorer.restore(photo, Prior("a cat", "noisy"), scale=2.5, settings=STEPS)
    record = made.record
    assert (record["input_size"], record["output_size"]) == ([12, 10], [30, 25])
    assert (made.picture.width, made.picture.height) == (30, 25) and made.picture.alpha is not None
    again = restorer.restore(
        photo, Prior(**record["prior"]), scale=record["scale"], settings=record["settings"], seed=record["seed"]
    )
    assert torch.equal(made.picture.pixels, again.picture.pixels)
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(record["seed"])
    expected = pipe(str(photo), prior=Prior("a cat", "noisy"), scale=2.5, settings=STEPS, generator=generator).images[0]
    assert to_pil(made.picture.pixels, made.picture.alpha).tobytes() == expected.tobytes()


def test_the_minis_describer_looks_unless_somebody_else_does(restorer: Restorer, photo: Path) -> None:
    mini = open_describer("mini")
    told = restorer.restore(photo).record["prior"]
    assert told == mini.describe([photo])[0].as_dict() and told["quality"]
    assert restorer.restore(photo, describer=mini).record["prior"] == told
    assert restorer.restore(photo, Prior()).record["prior"] == Prior().as_dict()


def test_threads_give_what_calls_alone_give(restorer: Restorer, photo: Path) -> None:
    def run(number: int) -> torch.Tensor:
        settings = {**STEPS, "num_inference_steps": 2 + number % 3}
        return restorer.restore(photo, Prior(f"{number} cats"), settings=settings, seed=number).picture.pixels

    alone = [run(number) for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(run, range(6)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_progress_is_told_for_every_tile_of_every_step(restorer: Restorer, photo: Path) -> None:
    told: list[tuple[int, int]] = []
    restorer.restore(photo, Prior(), scale=8, settings=STEPS, progress=lambda *now: told.append(now))
    assert len(told) > 3 * 2 and told == [(done, len(told)) for done in range(1, len(told) + 1)]


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_cancelled_restoration_ends_at_once_and_the_next_one_is_whole(
    restorer: Restorer, photo: Path, after: int
) -> None:
    whole = restorer.restore(photo, Prior(), settings=STEPS, scale=8, seed=1)
    told: list[int] = []
    with pytest.raises(Cancelled) as caught:
        restorer.restore(
            photo,
            Prior(),
            scale=8,
            settings=STEPS,
            progress=lambda done, total: told.append(done),
            is_cancelled=lambda: len(told) == after,
        )
    assert caught.value.code == "cancelled" and len(told) == after
    again = restorer.restore(photo, Prior(), settings=STEPS, scale=8, seed=1)
    assert torch.equal(whole.picture.pixels, again.picture.pixels)


def test_what_is_cancelled_while_the_describer_looks_goes_no_further(restorer: Restorer, photo: Path) -> None:
    looked: list[object] = []

    class Slow(MiniDescriber):
        def describe(self, images: Sequence[Any], **options: Any) -> list[Prior]:
            looked.extend(images)
            return super().describe(images, **options)

    with pytest.raises(Cancelled):
        restorer.restore(
            photo,
            describer=Slow.bundled(),
            progress=lambda *_: pytest.fail("a pass"),
            is_cancelled=lambda: bool(looked),
        )
    assert looked == [photo]


def test_a_picture_goes_in_as_itself(restorer: Restorer, photo: Path) -> None:
    picture = read_image(photo)
    assert isinstance(picture, Picture)
    made = restorer.restore(picture, Prior(), seed=0)
    assert torch.equal(made.picture.pixels, restorer.restore(photo, Prior(), seed=0).picture.pixels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"seed=-1 is not in \[0, 9223372036854775807\]; use 0, for example\."),
        ({"seed": 2**70}, "seed=1180591620717411303424 is not in "),
        ({"seed": "one"}, "seed=one is not a whole number or null; use 0, for example"),
        ({"scale": "2"}, "scale='2' is not a number; use 4, for example"),
        ({"scale": 17}, r"scale=17 is not in \[0\.0625, 16\]; use 4, for example"),
        ({"prior": 5}, r"prior=5 is neither a text nor a Prior; use Prior\(content=\.\.\., "),
        ({"memory": "4GB"}, r"memory=4GB is not a whole number or null; use 4000000000, for example"),
        ({"memory": 0}, r"memory=0 is not in \[1, "),
        ({"keeps_tiles": 5}, "keeps_tiles=5 is not true or false"),
        ({"protect": 5}, "protect=5 is no picture; use a path"),
        ({"protect": ""}, "protect= is not a path; use a name"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(
    restorer: Restorer, photo: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        restorer.restore(photo, **{"prior": Prior(), **arguments})
    assert caught.value.field == next(iter(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "abacus"}, "device=abacus is not there; this machine has: "),
        ({"dtype": "fp8"}, "dtype=fp8 is not one of auto, "),
    ],
)
def test_a_place_that_is_not_there_is_named(tiny_model: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        Restorer(tiny_model, **arguments)
    assert caught.value.field == next(iter(arguments))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"height": "9"}, {"width": 2.5}, {"memory": 4e9}])
def test_a_plan_for_what_is_no_picture_is_refused(restorer: Restorer, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        restorer.plan(**{"width": 8, "height": 8, **arguments})
    assert caught.value.field == next(iter(arguments))


def test_what_cannot_be_is_refused_before_anything_is_looked_at(restorer: Restorer) -> None:
    with pytest.raises(InputError, match="tile_size"):
        restorer.restore("no-such-picture.png", settings={"tile_size": 7})
    with pytest.raises(InputError, match=r"no-such-picture\.png: cannot be read"):
        restorer.restore("no-such-picture.png")
