"""What the API's JSON holds, field by field; `/openapi.json` says the same."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from xpsr.config import ServeConfig
from xpsr.prior import Prior
from xpsr.web.commands import command_line
from xpsr.web.jobs import Job, JobState, Kind
from xpsr.web.problems import problem_of

__all__ = [
    "Description",
    "JobDocument",
    "Models",
    "PreviewEvent",
    "Problem",
    "RecordDocument",
    "Status",
    "as_json",
    "job_document",
    "job_path",
    "prior_document",
]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Document):
    """What went wrong, as RFC 9457 has it."""

    type: str = Field(description="urn:xpsr:error: and the code.", examples=["urn:xpsr:error:out_of_range"])
    title: str = Field(description="The code in words.")
    status: int = Field(description="That of the answer; of a job that failed, that which its result has.")
    detail: str = Field(description="What is wrong, with value and limit, and what to do about it, on a line.")
    code: str = Field(description="Which kind of problem it is, for programs.", examples=["out_of_range"])
    field: str | None = Field(description="What is at fault: an option, or a part of the request.")
    value: str | None = Field(description="What it held.")
    remedy: str | None = Field(description="What to do.")
    limit: float | None = Field(default=None, description="How much would have been taken.")
    instance: str | None = Field(default=None, description="The path of the job that it is about.")


class LevelsDocument(_Document):
    """How much is wrong with a picture."""

    blur: Literal["clean", "slight", "strong"]
    noise: Literal["clean", "slight", "strong"]
    compression: Literal["clean", "slight", "strong"]


class PriorDocument(_Document):
    """What is said of a picture."""

    content: str = Field(description="What is in it.")
    quality: str = Field(description="What is wrong with it.")
    levels: LevelsDocument | None = Field(description="What that was written from, where it is known.")


class Description(PriorDocument):
    """What is said of a picture that was sent, and what it is."""

    width: int
    height: int
    format: str = Field(description="Pillow's name of the file's format.", examples=["JPEG"])
    job: str = Field(description="The job's id.")


class ProgressDocument(_Document):
    """How far a job is."""

    done: int = Field(description="Passes through the networks.")
    total: int = Field(description="How many there will be.")


class InputDocument(_Document):
    """The picture that was sent."""

    name: str = Field(description="What the client calls it, without folders and what cannot be printed.")
    width: int = Field(description="Pixels, upright.")
    height: int = Field(description="Pixels, upright.")
    format: str = Field(description="Pillow's name of the file's format.", examples=["JPEG"])
    bytes: int = Field(description="Of the file.")


class OutputDocument(_Document):
    """The result."""

    name: str = Field(description="What it is called when it is saved.", examples=["photo_x4.jpg"])
    format: str = Field(description="Pillow's name of the file's format.", examples=["JPEG"])
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    bytes: int = Field(description="Of the file.")
    sha256: str = Field(description="Of the file, in hexadecimal.")
    seconds: float = Field(description="That it took, once it was its turn.")
    invented: float | None = Field(description="From 0 to 1, how much of it a plain enlargement does not show.")
    lr_psnr: float | None = Field(description="dB between the picture and the result, reduced again.")
    notices: list[str] = Field(description="What is to be told of it, in sentences.")


class LinksDocument(_Document):
    """Paths; null: there is nothing, or nothing yet."""

    this: str = Field(alias="self", description="This document.")
    events: str = Field(description="Its changes, as they happen.")
    result: str | None = Field(description="The result's file.")
    record: str | None = Field(description="How the result came about.")
    view: str | None = Field(description="The result, as browsers can show it.")
    input: str = Field(description="The picture that was sent, as browsers can show it.")
    map: str | None = Field(description="Where it was invented.")


class JobDocument(_Document):
    """A request, and what became of it. Times are UTC."""

    id: str
    kind: Kind
    state: JobState
    place: int | None = Field(description="How many are before it, while it waits.")
    progress: ProgressDocument | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    expires: datetime | None = Field(description="When it is forgotten, with all its files.")
    input: InputDocument
    prior: PriorDocument | None = Field(description="What is said of the picture, from when somebody has looked.")
    output: OutputDocument | None
    command: str | None = Field(
        description="The command line that gives the same picture; null: nobody else has its model."
    )
    error: Problem | None
    links: LinksDocument


class PreviewEvent(_Document):
    """What a picture looks like after a step."""

    image: str = Field(description="A WebP, as a data: URL.")
    step: int
    steps: int


class ModelDocument(BaseModel):
    """A model that restores."""

    name: str
    scale: float = Field(description="How much it has learned to enlarge by, along a side.")
    has_one_step: bool = Field(description="Whether it knows the one step.")
    has_several_steps: bool = Field(description="Whether it knows more.")
    has_fidelity: bool = Field(description="Whether it follows `fidelity`.")
    draws_noise: bool = Field(description="Whether results depend on the seed where nothing else is said.")
    grain: float = Field(description="What `grain` is at `fidelity` 0 where nothing is said of it.")
    settings: dict[str, Any] = Field(description="What holds where nothing is said.")


class OptionDocument(_Document):
    """What a form's field of that name may hold."""

    kind: Literal["number", "integer", "boolean", "text", "choice"]
    help: str
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: list[str] | None = None
    pattern: str | None = Field(default=None, description="That a text fits as a whole.")
    default: Any = Field(default=None, description="What holds where it is not given; none: the model or preset says.")


class LimitsDocument(_Document):
    """How much the server takes on."""

    max_bytes: int = Field(description="Of a picture's file.")
    max_pixels: int = Field(description="Of a picture, width times height.")
    max_output_pixels: int = Field(description="Of a result.")
    max_seconds: float = Field(description="Of work on a picture.")
    wait_seconds: float = Field(description="From an upload's beginning to when its work begins.")
    max_queue: int = Field(description="Requests that wait or are worked on.")
    max_per_client: int = Field(description="Requests and uploads of one client.")
    keep_seconds: float = Field(description="For which results are kept.")


class Models(_Document):
    """What the server offers."""

    models: list[ModelDocument]
    describers: list[str]
    default_model: str
    default_describer: str
    limits: LimitsDocument
    formats: list[str]
    options: dict[str, OptionDocument]
    version: str
    needs_token: bool


class Status(_Document):
    """That the server is there."""

    status: Literal["ok", "ready"]


class RecordDocument(BaseModel):
    """How a result came about; the same as the JSON beside a result of `xpsr upscale`."""

    model_config = ConfigDict(extra="allow")

    input: str
    input_sha256: str
    output: str
    output_sha256: str


def as_json(document: BaseModel) -> str:
    """Returns a document as it is sent."""
    return document.model_dump_json(by_alias=True, exclude_unset=True)


def job_path(id: str) -> str:  # noqa: A002 - what it is
    """Returns the path of a job's document."""
    return f"/v1/jobs/{id}"


def prior_document(prior: Prior) -> dict[str, Any]:
    """Returns what is said of a picture, ready for JSON."""
    return {"levels": None, **prior.as_dict()}


def job_document(job: Job, config: ServeConfig) -> JobDocument:
    """Returns what a client is told of a job of a server with that config."""
    state, request, here = job.state, job.request, job_path(job.id)  # of a job that is done there is a record
    record = job.record if state == "done" and request.kind == "upscale" else None
    prior, progress, error = job.prior, job.progress, job.error
    seed = None if record is None else record["seed"]
    return JobDocument.model_validate(
        {
            "id": job.id,
            "kind": request.kind,
            "state": state,
            "place": job.place if state == "waiting" else None,
            "progress": None if progress is None else dict(zip(("done", "total"), progress, strict=True)),
            "created": _time(job.created),
            "started": _time(job.started),
            "finished": _time(job.finished),
            "expires": _time(job.expires),
            "input": {name: getattr(request, name) for name in InputDocument.model_fields},
            "prior": None if prior is None else prior_document(prior),
            "output": None if record is None else _output(job, record),
            "command": command_line(request, config, prior=prior, seed=seed) if request.kind == "upscale" else None,
            "error": None if error is None else problem_of(error, here)[1],
            "links": {
                "self": here,
                "events": f"{here}/events",
                "result": None if record is None else f"{here}/result",
                "record": None if record is None else f"{here}/record",
                "view": None if record is None else f"{here}/view",
                "input": f"{here}/input",
                "map": f"{here}/map" if record is not None and request.wants_map else None,
            },
        }
    )


def _output(job: Job, record: dict[str, Any]) -> dict[str, Any]:
    fidelity = record["fidelity"]
    width, height = record["output_size"]
    return {
        "name": job.result_name,
        "format": job.request.result_format,
        "width": width,
        "height": height,
        "bytes": record["bytes"],
        "sha256": record["output_sha256"],
        "seconds": record["seconds"],
        "invented": fidelity["invented"],
        "lr_psnr": fidelity["lr_psnr"],
        "notices": record.get("notices", []),
    }


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
