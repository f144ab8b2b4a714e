"""What passes between planner, ledger, runner and those who work: pictures of a plan, and what became of them."""

from dataclasses import dataclass
from pathlib import Path

from xpsr.config import UpscaleConfig
from xpsr.errors import InputError, XPSRError, unexpected
from xpsr.files import refusal
from xpsr.prior import Prior

__all__ = ["Failure", "Item", "Made", "Order", "Outcome", "Ticket", "as_error", "failure_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A picture of a plan, with all that its result depends on but for settings and model, which are the plan's.

    Attributes:
        id: what it is called, once in a plan: its path below the folder that was named, with / on every system.
        source: where it is: a path, an address as fsspec takes it, or a member of a tar file, TAR::NAME.
        target: where its result goes, below the folder of all results, with /.
        seed: of noise.
        content: what is in it; None: somebody has to look.
        quality: what is wrong with it; None: somebody has to look.
        stamp: what tells whether the source is still what it was, such as "4711 1764460800123456789"; "": nothing does.
    """

    id: str
    source: str
    target: str
    seed: int
    content: str | None = None
    quality: str | None = None
    stamp: str = ""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What everybody who works on a plan is told once; JSON can hold it.

    Attributes:
        config: how pictures are restored; seed and texts are those of each picture.
        describer: who looks at pictures for which nobody has said anything: "mini", or "none".
        describer_name: what records call whoever looks, or has looked ahead.
        out: the folder of all results, or its address.
        device: as `xpsr.devices.resolve_device` takes it.
        threads: of torch on a CPU; results of other numbers of threads may differ in their last bits.
        weights: `Recipe.weights_key` of the model that the plan is for; "": of any.
        scratch: folder for copies on the way, which somebody else empties; None: the system's own.
    """

    config: UpscaleConfig
    describer: str
    describer_name: str
    out: str
    device: str
    threads: int = 1
    weights: str = ""
    scratch: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """A picture that is handed to somebody, under its number in the ledger.

    `prior` is what a describer said ahead; None: the item's own texts stand, or who works looks himself. One that
    `is_suspect` was at work when a run ended without a word, and may have been the reason.
    """

    number: int
    item: Item
    prior: Prior | None = None
    is_suspect: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A result that is in its place.

    Attributes:
        status: "made"; "adopted" where an earlier run had made it and could not tell; "skipped" where another file was
            there, which `on_existing="skip"` leaves.
        key: SHA-256 of the source's bytes, the settings and the model's weights: what the result is a function of.
        output_sha256: of the result's file.
        output_stamp: as `Item.stamp`, of the result's file.
        pixels: of the result.
        bytes: of its file.
        seconds: of reading, restoring and writing it.
    """

    status: str
    key: str = ""
    output_sha256: str = ""
    output_stamp: str = ""
    pixels: int = 0
    bytes: int = 0
    seconds: float = 0.0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why there is no result.

    Attributes:
        code: which kind of error, for programs.
        line: what is wrong and what to do, for people.
        remedy: the second half of that; "" where nobody knows.
        may_pass: whether to try again may help: a disk or a network that failed, memory that ran out, a process that
            died; not a picture that cannot be read.
    """

    code: str
    line: str
    remedy: str = ""
    may_pass: bool = False


Outcome = Made | Failure


def failure_of(error: Exception) -> Failure:
    """Returns what an error says of the picture that it came from."""
    told = as_error(error)
    # what is wrong with a picture, an option or a model stays so; what a system refuses may pass
    may_pass = told.code in _PASSING or (not isinstance(told, InputError) and told.code != "invalid_model")
    return Failure(code=told.code, line=str(told), remedy=told.remedy or "", may_pass=may_pass)


def as_error(error: Exception) -> XPSRError:
    """Returns any error as one of xpsr's."""
    if isinstance(error, XPSRError):
        return error
    if isinstance(error, OSError):
        return refusal(Path(error.filename or "."), "cannot be used", error)
    return unexpected(error)


_PASSING = ("refused", "store", "out_of_memory", "disk_full")
"""Codes of what another try may not meet with again."""
