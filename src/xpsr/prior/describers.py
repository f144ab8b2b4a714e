"""Describers by name, and the short way from pictures to what is said of them."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xpsr.errors import InputError
from xpsr.files import is_remote
from xpsr.prior.files import FileDescriber
from xpsr.prior.protocol import Describer
from xpsr.prior.texts import QUESTIONS, Prior, Questions

if TYPE_CHECKING:  # it loads torch
    from xpsr.image import ImageLike

__all__ = ["describe", "is_asked", "open_describer", "released"]


def describe(
    images: "ImageLike | Sequence[ImageLike]",
    describer: str | os.PathLike[str] | Describer = "mini",
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Prior]:
    """Returns what is in pictures and what is wrong with them, one prior for each, in their order.

        prior, = describe("photo.jpg")

    Args:
        images: one picture or a sequence of them, whatever `to_picture` takes.
        describer: what `open_describer` takes as a name, or a describer. One that is named is opened for this call, so
            open one yourself for questions and options, and for many calls.
        progress: is told how many pictures were finished since it was last called.

    Raises:
        InputError: a picture or the name of the describer cannot be used.
        ModelError: the describer cannot be loaded or reached, or fails.
    """
    pictures = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    if not isinstance(describer, str | os.PathLike):
        return describer.describe(pictures, progress=progress)
    opened = open_describer(describer)
    with released(opened):
        return opened.describe(pictures, progress=progress)


def released(describer: Describer) -> AbstractContextManager[object]:
    """Returns what frees a describer's memory at the end of a `with`, if it is one that holds much."""
    return describer if isinstance(describer, AbstractContextManager) else nullcontext()


def is_asked(name: str | os.PathLike[str]) -> bool:
    """Tells whether the describer that `name` stands for asks questions: the mini and what was written ask none."""
    text = os.fspath(name)
    return text != "mini" and not _holds_priors(text)


def open_describer(
    name: str | os.PathLike[str],
    *,
    questions: Questions | None = None,
    quality_model: str | None = None,
    revision: str | None = None,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    device: str = "auto",
    quantization: Literal["none", "int8", "int4"] = "none",
    trust_remote_code: bool = False,
    local_files_only: bool = False,
) -> Describer:
    """Opens the describer that `name` stands for; models are loaded when they are first needed.

    Args:
        name: "mini", which comes with xpsr; a server's address with the model behind "#", as in
            http://localhost:11434/v1#qwen2.5vl; a .jsonl of priors, a sidecar, a folder of these or of .txt prompts; or
            else a model's folder or its id on the hub.
        questions: what a model is asked, and what it is shown; None: those of the preset "default".
        quality_model: and what follows are for models on this machine: see `MLLMDescriber`.

    Raises:
        InputError: an option that does not go with `name`, an address without a model, or priors that cannot be read.
    """
    text = os.fspath(name)
    for_models = {
        "quality_model": quality_model,
        "revision": revision,
        "quantization": None if quantization == "none" else quantization,
        "trust_remote_code": trust_remote_code or None,
    }

    def refuse_options(kind: str) -> None:
        for option, value in for_models.items():
            if value is not None:
                said = f"is for models on this machine, and {kind} is none"
                raise InputError(said, code="conflict", field=option, value=str(value), remedy="leave it out")

    if questions is not None and not is_asked(text):
        said = f"are for models that are asked, and {text} is not"
        raise InputError(said, code="conflict", field="questions", remedy="leave them out")
    questions = questions or QUESTIONS["default"]

    if text == "mini":
        from xpsr.prior.mini import MiniDescriber

        refuse_options("mini")
        return MiniDescriber.bundled()

    if is_remote(text):
        from xpsr.prior.server import ServerDescriber

        refuse_options("a server")
        url, _, model = text.partition("#")
        return ServerDescriber(url, model, questions=questions)

    if _holds_priors(text):
        refuse_options(text)
        return FileDescriber(text)

    from xpsr.prior.mllm import MLLMDescriber

    return MLLMDescriber(
        text,
        quality_model=quality_model,
        questions=questions,
        revision=revision,
        dtype=dtype,
        device=device,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        local_files_only=local_files_only,
    )


def _holds_priors(text: str) -> bool:
    if is_remote(text):
        return False
    path = Path(text)
    return path.suffix.lower() in (".json", ".jsonl") or (path.is_dir() and not (path / "config.json").is_file())
