"""Those who look at pictures and say what they see, and how one is called by name."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from xpsr.errors import InputError
from xpsr.prior.texts import QUESTIONS, Prior, Questions

if TYPE_CHECKING:  # it loads torch
    from xpsr.image import ImageLike

__all__ = ["Describer", "is_asked", "open_describer"]


class Describer(Protocol):
    """Looks at pictures and says what is in them and what is wrong with them."""

    @property
    def name(self) -> str:
        """Which one it is: a model's id or folder, the address of a server, a file."""
        ...

    @property
    def revision(self) -> str | None:
        """Which state of it, where there are several."""
        ...

    @property
    def questions(self) -> Questions | None:
        """What it asks of a picture; None where it asks nothing."""
        ...

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """One prior for each of `images`, in their order; a text of which nothing can be said is empty.

        Args:
            images: whatever `to_picture` takes; some describers take paths only.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: a picture cannot be used.
            ModelError: the describer cannot be loaded or reached, or fails.
        """
        ...


def is_asked(name: str | os.PathLike[str]) -> bool:
    """Whether the describer that `name` stands for asks questions: the mini and what was written before ask none."""
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
    """The describer that `name` stands for; models are loaded when they are first needed.

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
    given = {
        "quality_model": quality_model is not None,
        "revision": revision is not None,
        "quantization": quantization != "none",
        "trust_remote_code": trust_remote_code,
    }
    unused = [option for option, is_given in given.items() if is_given]
    if questions is not None and not is_asked(text):
        raise InputError(f"questions are for models that are asked, and {text} is not; leave them out.")
    questions = questions or QUESTIONS["default"]

    if text == "mini":
        from xpsr.prior.mini import MiniDescriber

        if unused:
            raise InputError(f"{unused[0]} is for models that are loaded by name, and mini is none; leave it out.")
        return MiniDescriber.bundled()

    if text.lower().startswith(("http://", "https://")):
        from xpsr.prior.server import ServerDescriber

        if unused:
            raise InputError(f"{unused[0]} is for models on this machine; leave it out, or describe without a server.")
        url, _, model = text.partition("#")
        return ServerDescriber(url, model, questions=questions)

    if _holds_priors(text):
        from xpsr.prior.files import FileDescriber

        if unused:
            raise InputError(f"{unused[0]} is for models, and {text} holds priors; leave it out.")
        return FileDescriber(Path(text))

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
    if text.lower().startswith(("http://", "https://")):
        return False
    path = Path(text)
    return path.suffix.lower() in (".json", ".jsonl") or (path.is_dir() and not (path / "config.json").is_file())
