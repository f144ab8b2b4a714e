"""From a picture file to a picture file with its record, and what is there already."""

import errno
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import chunk
from PIL import Image

from xpsr import Prior, Restorer
from xpsr.batch.measuring import refuse_too_large
from xpsr.batch.restoring import restore_file
from xpsr.config import UpscaleConfig
from xpsr.errors import InputError
from xpsr.files import sha256, write_text
from xpsr.records import Recipe, look, what_to_do
from xpsr.sources import Job, Source


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


def save_noise(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return job_of(save_noise(tmp_path / "a.png"), tmp_path / "out" / "b.png")


def job_of(source: Path, target: Path) -> Job:
    return Job(source=Source(path=source), target=target)


def recipe_of(model: Path, describer: str = "none", **options: Any) -> Recipe:
    return Recipe(config=UpscaleConfig(**options), describer=describer, folder=model)


def written(job: Job) -> dict[str, Any]:
    assert job.target is not None
    return json.loads(job.target.with_suffix(".json").read_text(encoding="utf-8"))


def test_the_record_tells_of_the_pictures_that_are_there(restorer: Restorer, tiny_model: Path, job: Job) -> None:
    target, recipe = job.target, recipe_of(tiny_model, seed=1)
    assert target is not None
    first = restore_file(restorer, job, lambda *_: Prior("a cat"), recipe).record
    assert first["output_sha256"] == sha256(target) and first["input_sha256"] == sha256(job.source.path)
    second = restore_file(restorer, job, lambda *_: Prior("a dog"), recipe).record
    assert first["output_sha256"] != second["output_sha256"] == sha256(target)
    assert written(job) == second and second["input"] == "../a.png"


@pytest.mark.parametrize("is_first", [True, False])
def test_wherever_a_run_is_killed_the_next_one_goes_on(
    restorer: Restorer, tiny_model: Path, job: Job, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    target, recipe, states = job.target, recipe_of(tiny_model, content="a dog"), []
    assert target is not None
    if not is_first:
        restore_file(restorer, job, lambda *_: Prior("a cat"), recipe_of(tiny_model))
    link, replace = os.link, Path.replace

    def state() -> str:
        return what_to_do(job, recipe, lambda *_: None)

    def observed(move: Any) -> Any:
        def observe(part: Path, path: Path) -> None:
            states.append(state())
            move(part, path)
            states.append(state())

        return observe

    monkeypatch.setattr(os, "link", observed(link))
    monkeypatch.setattr(Path, "replace", observed(replace))
    restore_file(restorer, job, lambda *_: Prior("a dog"), recipe, seen=look(target))
    monkeypatch.undo()
    restored, done = ["restore"] * 3, ["is_done"]
    assert states == restored + (done if is_first else done * 3) and state() == "is_done"
    assert "replaces" not in written(job)
    if not is_first:  # what was replaced long ago is not ours to replace once more
        save_noise(target, 5)
        with pytest.raises(InputError, match="has been changed since xpsr made it"):
            state()


def test_what_came_while_a_picture_was_restored_is_not_replaced(
    restorer: Restorer, tiny_model: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, recipe = job.target, recipe_of(tiny_model)
    assert target is not None
    sidecar, seen = target.with_suffix(".json"), look(target)

    def restore() -> None:
        restore_file(restorer, job, lambda *_: Prior(), recipe, seen=seen)

    for path in (target, sidecar):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        with pytest.raises(InputError, match=r"b\.png: came there, or was changed, while the picture was") as caught:
            restore()
        assert caught.value.code == "exists" and path.read_text() == "mine" and len(list(target.parent.iterdir())) == 1
        path.unlink()

    # in the last moment
    def come(path: Path, text: str, **options: Any) -> None:
        write_text(path, text, **options)
        target.write_text("mine")

    with monkeypatch.context() as patch:
        patch.setattr("xpsr.batch.restoring.write_text", come)
        with pytest.raises(InputError, match=r"b\.png: is there already") as caught:
            restore()
    assert caught.value.code == "exists" and target.read_text() == "mine" and not sidecar.exists()
    target.unlink()

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)  # as on FAT
    restore()
    assert written(job)["output_sha256"] == sha256(target) and len(list(target.parent.iterdir())) == 2
    seen = look(target)
    save_noise(target, 7)
    with pytest.raises(InputError, match="came there, or was changed"):
        restore()
    seen = None
    restore()
    assert what_to_do(job, recipe, lambda *_: None) == "is_done"


def test_a_record_that_cannot_be_written_leaves_what_was_there(
    restorer: Restorer, tiny_model: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("b.json: cannot be written", code="disk_full")

    recipe = recipe_of(tiny_model, seed=1)
    restore_file(restorer, job, lambda *_: Prior("a cat"), recipe)
    before = written(job)
    monkeypatch.setattr("xpsr.batch.restoring.write_text", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        restore_file(restorer, job, lambda *_: Prior("a dog"), recipe)
    assert job.target and sha256(job.target) == before["output_sha256"] and written(job) == before
    assert len(list(job.target.parent.iterdir())) == 2


def test_the_record_tells_of_the_picture_that_was_read(restorer: Restorer, tiny_model: Path, job: Job) -> None:
    before = sha256(job.source.path)

    def replace(*_: object) -> None:
        job.source.path.write_bytes(b"another one")

    handle = restorer.pipe.unet.register_forward_pre_hook(replace)
    record = restore_file(restorer, job, lambda *_: Prior(), recipe_of(tiny_model)).record
    handle.remove()
    assert sha256(job.source.path) != record["input_sha256"] == before


@pytest.mark.parametrize("blocked", ["b.png", "b.json"])
def test_what_cannot_be_written_leaves_what_was_there(
    restorer: Restorer, tiny_model: Path, job: Job, blocked: str
) -> None:
    assert job.target is not None
    folder, record = job.target.parent, job.target.with_suffix(".json")
    (folder / blocked).mkdir(parents=True)
    if blocked == "b.png":
        record.write_text("former")
    before = {path.name: path.is_file() and path.read_text() for path in folder.iterdir()}
    with pytest.raises(InputError, match=f"{blocked}: is a folder; move it"):
        restore_file(restorer, job, lambda *_: Prior(), recipe_of(tiny_model))
    assert {path.name: path.is_file() and path.read_text() for path in folder.iterdir()} == before


def test_only_what_would_come_out_again_is_done(restorer: Restorer, tiny_model: Path, job: Job, tmp_path: Path) -> None:
    def state(model: Path = tiny_model, describer: str = "none", prior: Prior | None = None, **options: Any) -> str:
        return what_to_do(job, recipe_of(model, describer, **options), lambda *_: prior)

    restore_file(restorer, job, lambda *_: Prior("a cat", "dark"), recipe_of(tiny_model, seed=1, content="a cat"))
    asked = {"content": "a cat"}
    assert job.target is not None
    record, whole = job.target.with_suffix(".json"), written(job)
    for size in (None, 7, [7], [7, 0], ["7", "9"]):  # a person's hand, or half of another program's
        record.write_text(json.dumps({**whole, "input_size": size}))
        assert state(**asked) == "restore"
    record.write_text(json.dumps(whole))
    assert state(**asked) == state(seed=1, **asked) == state(dtype="fp32", **asked) == "is_done"
    assert state(weights_dtype="fp32", **asked) == "is_done"
    assert state(prior=Prior("a cat", "dark")) == state(describer="who?", prior=Prior("a cat", "dark")) == "is_done"
    others: list[dict[str, Any]] = [
        {},
        {"content": "a dog"},
        {**asked, "quality": "dark"},  # the describer may have said so, but who knows
        {**asked, "describer": "mini"},
        {**asked, "prior": Prior("a cat", "bright")},
        {**asked, "seed": 2},
        {**asked, "scale": 2},
        {**asked, "dtype": "bf16"},
        {**asked, "weights_dtype": "bf16"},
        {**asked, "guidance_interval": (0.0, 0.5)},
        {**asked, "preset": "paper"},
        {**asked, "tile_overlap": 2},
    ]
    for other in others:
        assert state(**other) == "restore", other
    for file in ("model_index.json", "unet/diffusion_pytorch_model.safetensors"):
        model = shutil.copytree(tiny_model, tmp_path / file.partition("/")[0])
        with (model / file).open("ab") as changed:
            changed.write(b" ")
        assert state(model, **asked) == "restore"


def test_a_result_is_made_again_only_for_the_same_picture(
    restorer: Restorer, tiny_model: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, target, source = recipe_of(tiny_model), job.target, job.source.path
    assert target is not None

    def state(path: Path, content: bytes | None = None, **options: Any) -> str:
        one = Job(source=Source(path=path, content=content), target=target)
        return what_to_do(one, recipe_of(tiny_model, **options), lambda *_: Prior())

    restore_file(restorer, job, lambda *_: Prior(), recipe)
    moved = Path(shutil.copy(source, tmp_path / "moved.png"))
    other = save_noise(tmp_path / "deep" / "a.png", 1)
    assert state(moved) == state(Path("-"), source.read_bytes()) == "is_done" and state(moved, scale=2) == "restore"
    for path, content in ((other, None), (source, other.read_bytes())):  # whoever sends another picture, has another
        with pytest.raises(InputError, match=r"b\.png: is the result of another picture, \.\./a\.png; move it, choose"):
            state(path, content)
    for folder in (tmp_path, tmp_path / "deep"):  # both are called a.png there
        monkeypatch.chdir(folder)
        if folder == tmp_path:
            assert state(Path("a.png")) == "is_done"
        else:
            with pytest.raises(InputError, match="of another picture"):
                state(Path("a.png"))
    save_noise(source, 2)
    assert state(source) == "restore"  # it was changed

    save_noise(target, 3)
    with pytest.raises(InputError, match=r"b\.png: has been changed since xpsr made it; move it"):
        state(source)
    assert state(source, on_existing="overwrite") == "restore" and state(source, on_existing="skip") == "is_there"


def test_what_is_no_result_is_refused_whatever_it_is(tiny_model: Path, job: Job) -> None:
    target = job.target
    assert target is not None
    target.parent.mkdir()
    record = target.with_suffix(".json")
    texts = {"input": "../a.png", "input_sha256": "0", "output": "c.png", "output_sha256": "0"}
    for text in ("[1]", "{", "[" * 100_000, '{"output": "b.png"}'):
        record.write_text(text)
        with pytest.raises(InputError, match=r"b\.json: is there already, and nothing beside it says"):
            what_to_do(job, recipe_of(tiny_model), lambda *_: None)
        with pytest.raises(InputError, match=r"b\.json: is there already"):  # none to skip
            what_to_do(job, recipe_of(tiny_model, on_existing="skip"), lambda *_: None)
    record.write_text(json.dumps(texts))
    assert what_to_do(job, recipe_of(tiny_model, on_existing="error"), lambda *_: None) == "restore"
    whole = target.with_name("b.png.json")
    whole.write_text(json.dumps(texts))
    with pytest.raises(InputError, match=r"b\.png\.json: is the record of c\.png; move it"):
        what_to_do(job, recipe_of(tiny_model), lambda *_: None)
    record.unlink(), whole.unlink()
    target.symlink_to("nowhere.png")  # of which the target may come
    with pytest.raises(InputError, match=r"b\.png: is there already"):
        what_to_do(job, recipe_of(tiny_model), lambda *_: None)
    target.unlink()
    assert what_to_do(job, recipe_of(tiny_model, on_existing="error"), lambda *_: None) == "restore"
    assert list(target.parent.iterdir()) == []


def test_a_limit_that_is_raised_is_raised_for_the_header_too(tmp_path: Path) -> None:
    source = Source(path=tmp_path / "large.png")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 8000, 8, 0, 0, 0, 0))
    source.path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"9000 x 8000 pixels exceed the limit of 67108864"):
        refuse_too_large(source, UpscaleConfig(scale=1))
    refuse_too_large(source, UpscaleConfig(scale=1, max_pixels=2**27))
    with pytest.raises(InputError, match=r"makes 1152 megapixels of 9000 x 8000"):
        refuse_too_large(source, UpscaleConfig(scale=4, max_pixels=2**27))
