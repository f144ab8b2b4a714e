"""From a picture file to a picture file with its record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xpsr import Prior, Restorer
from xpsr.batch import restore_file
from xpsr.config import UpscaleConfig
from xpsr.errors import InputError
from xpsr.files import sha256, write_text


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> Restorer:
    return Restorer(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    return path


def test_the_record_comes_last_and_tells_of_the_pictures_that_are_there(
    restorer: Restorer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, written = source.with_name("b.png"), []

    def look(path: Path, text: str) -> None:
        record: dict[str, Any] = json.loads(text)
        assert record["output_sha256"] == sha256(target) and record["input_sha256"] == sha256(source)
        written.append(path)
        write_text(path, text)

    monkeypatch.setattr("xpsr.batch.write_text", look)
    first = restore_file(restorer, source, target, Prior("a cat"), UpscaleConfig(seed=1))
    second = restore_file(restorer, source, target, Prior("a dog"), UpscaleConfig(seed=1))
    assert written == [target.with_suffix(".json")] * 2
    assert first["output_sha256"] != second["output_sha256"]
    assert json.loads(target.with_suffix(".json").read_text(encoding="utf-8")) == second


def test_a_picture_whose_record_cannot_be_written_does_not_stay(
    restorer: Restorer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("b.json: cannot be written", code="disk_full")

    target = source.with_name("b.png")
    restore_file(restorer, source, target, Prior("a cat"), UpscaleConfig(seed=1))
    before = target.with_suffix(".json").read_bytes()
    monkeypatch.setattr("xpsr.batch.write_text", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        restore_file(restorer, source, target, Prior("a dog"), UpscaleConfig(seed=1))
    # the record of before is there still; it tells the hash of a picture that is not
    assert not target.exists() and target.with_suffix(".json").read_bytes() == before
