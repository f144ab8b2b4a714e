"""Describers by name, and the short way from pictures to what is said of them."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xpsr.config.checks import check_argument, is_text, said
from xpsr.errors import InputError
from xpsr.files import is_remote
from xpsr.prior.files import FileDescriber
from xpsr.prior.protocol import Describer
from xpsr.prior.texts import QUESTIONS, Prior, Questions

if TYPE_CHECKING:  # they load torch
    from xpsr.image import ImageLike
    from xpsr.prior.mini import MiniDescriber

__all__ = ["MiniLater", "NoDescriber", "check_describer", "describe", "is_asked", "open_describer", "released"]


class NoDescriber:
    """Says nothing of any picture."""

    name = "none"
    revision: str | None = None
    questions: Questions | None = None

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """Returns an empty prior for each of `images`."""
        if progress is not None:
            progress(len(images))
        return [Prior() for _ in images]


class MiniLater:
    """The mini's describer, which loads torch when it is first needed: pictures that are done need nobody who looks."""

    name = "mini"
    questions: Questions | None = None

    def open(self) -> "MiniDescriber":
        """Returns it, opened.

        Raises:
            ModelError: it cannot be loaded.
        """
        from xpsr.prior.mini import MiniDescriber

        return MiniDescriber.bundled()

    @property
    def revision(self) -> str | None:
        """Which one it is."""
        return self.open().revision

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """Returns one prior for each of `images`; see `MiniDescriber.describe`."""
        return self.open().describe(images, progress=progress)


def describe(
    images: "ImageLike | Sequence[ImageLike]",
    describer: str | os.PathLike[str] | Describer = "mini",
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Prior]:
    """Returns what is in pictures and what is wrong with them, one prior for each, in their order.

        prior, = describe("photo.jpg")

    Args:
        images: one picture, whatever `to_picture` takes, or a list of them, a tensor (B, C, H, W) or an array
            (B, H, W, C).
        describer: what `open_describer` takes as a name, or a describer. One that is named is opened for this call, so
            open one yourself for questions and options, and for many calls.
        progress: is told how many pictures were finished since it was last called.

    Raises:
        InputError: a picture or the name of the describer cannot be used.
        ModelError: the describer cannot be loaded or reached, or fails.
    """
    from xpsr.image import unbatched

    check_argument("progress", progress, Callable | None)
    pictures = unbatched(images)
    check_describer(describer)
    if not isinstance(describer, str | os.PathLike):
        return describer.describe(pictures, progress=progress)
    opened = open_describer(describer)
    with released(opened):
        return opened.describe(pictures, progress=progress)


def released(describer: Describer) -> AbstractContextManager[object]:
    """Returns what frees a describer's memory at the end of a `with`, if it is one that holds much."""
    return describer if isinstance(describer, AbstractContextManager) else nullcontext()


def check_describer(describer: object) -> None:
    """Refuses what is neither a describer nor a text or path that may be the name of one.

    Raises:
        InputError: it is refused.
    """
    looks = callable(getattr(describer, "describe", None)) and not isinstance(describer, type)
    if not looks and not isinstance(describer, str | os.PathLike):
        message, remedy = "is neither a describer nor the name of one", "use mini, none or an address"
        raise InputError(message, code="wrong_type", field="describer", value=said(describer), remedy=remedy)


def is_asked(name: str | os.PathLike[str]) -> bool:
    """Tells whether the describer that `name` stands for asks questions: none, the mini and what was written do not."""
    text = os.fspath(name)
    return text not in ("mini", "none") and not _holds_priors(text)


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
        name: "mini", which comes with xpsr; "none", which says nothing; a server's address with the model behind "#",
            as in http://localhost:11434/v1#qwen2.5vl; a .jsonl of priors, a sidecar, a folder of these or of .txt
            prompts; or else a model's folder or its id on the hub.
        questions: what a model is asked, and what it is shown; None: those of the preset "default".
        quality_model: and what follows are for models on this machine: see `MLLMDescriber`.

    Raises:
        InputError: an option that does not go with `name`, an address without a model, or priors that cannot be read.
    """
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    check_argument("name", text, str, lambda text: is_text(text) if text else ("is no name", "use mini"))
    for option, value, kind in (
        ("questions", questions, Questions | None),
        ("quality_model", quality_model, str | Path | None),
        ("revision", revision, str | None),
        ("dtype", dtype, Literal["auto", "fp32", "bf16", "fp16"]),
        ("device", device, str),
        ("quantization", quantization, Literal["none", "int8", "int4"]),
        ("trust_remote_code", trust_remote_code, bool),
        ("local_files_only", local_files_only, bool),
    ):
        check_argument(option, value, kind)
    for_models = {
        "quality_model": quality_model,
        "revision": revision,
        "dtype": None if dtype == "auto" else dtype,
        "quantization": None if quantization == "none" else quantization,
        "trust_remote_code": trust_remote_code or None,
    }

    def refuse_options(kind: str) -> None:
        for option, value in for_models.items():
            if value is not None:
                message = f"is for models on this machine, and {kind} is none"
                raise InputError(message, code="conflict", field=option, value=said(value), remedy="leave it out")

    if questions is not None and not is_asked(text):
        message = f"are for models that are asked, and {text} is not"
        raise InputError(message, code="conflict", field="questions", remedy="leave them out")
    questions = questions or QUESTIONS["default"]

    if text == "none":
        refuse_options("none")
        return NoDescriber()

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
    if Path(text).suffix.lower() in (".json", ".jsonl"):
        return True
    # pathlib raises for a name that is too long
    return os.path.isdir(text) and not Path(text, "config.json").is_file()  # noqa: PTH112
