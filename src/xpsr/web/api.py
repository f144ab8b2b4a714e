"""The API's routes: pictures taken on, jobs looked after, results sent. What stands around them is in `guards`."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response, StreamingResponse

from xpsr import __version__
from xpsr.config import ServeConfig
from xpsr.errors import InputError, XPSRError
from xpsr.sources import ResultFormat
from xpsr.web.jobs import SHOWN_FORMATS, UPLOAD, Job, Kind, Request, media_type
from xpsr.web.openapi import ACCEPTED, EVENTS, PARTS, RESULTS, form_of, problems, sent
from xpsr.web.options import DESCRIBE, OPTIONS, options_of, parse_options
from xpsr.web.problems import PROBLEM_JSON, headers_of, problem_of
from xpsr.web.scheduler import Scheduler, no_such_job
from xpsr.web.schemas import (
    Description,
    JobDocument,
    Models,
    RecordDocument,
    Status,
    as_json,
    job_document,
    job_path,
    prior_document,
)
from xpsr.web.sending import numbered, send_file, zip_parts
from xpsr.web.spool import Spool
from xpsr.web.uploads import Inspector, receive_form
from xpsr.web.watching import events_of, until_over

__all__ = ["HandLike", "build_api"]

_OF_UPLOADS = (400, 408, 410, 413, 415, 422, 429, 500, 503, 504, 507)
_OF_FILES = (404, 409, 410, 413, 416, 422, 500, 503, 504, 507)
"""Statuses of errors that a request, or the job that it asks for, may have."""

_MOST_JOBS = 500
"""In an archive."""


class HandLike(Protocol):
    """Who works, as far as the API wants to know."""

    @property
    def facts(self) -> dict[str, Any]:
        """What is loaded."""

    @property
    def is_ready(self) -> bool:
        """Whether a job would be done."""


def build_api(config: ServeConfig, scheduler: Scheduler, hands: Sequence[HandLike], spool: Spool) -> APIRouter:
    """Returns the routes below /v1, /healthz and /readyz.

    Who asks is `request.state.client`, among whom the queue is fair, and `request.state.owner`, who alone sees the
    jobs; where nobody has set them, the address that a request comes from, and nobody. Errors are raised as
    `XPSRError`, of which `add_handlers` makes answers.

    Args:
        config: of the server.
        scheduler: which takes jobs.
        hands: who work.
        spool: where uploads and results lie.
    """
    routes = _Routes(config, scheduler, hands, spool)
    router = APIRouter()
    # for /openapi.json: `guards` have asked for the token by then
    token = HTTPBearer(scheme_name="token", description="One of the operator's tokens.", auto_error=False)
    needed = [Security(token)] if config.token_file is not None else []

    def add(path: str, route: Callable[..., Any], **told: Any) -> None:
        router.add_api_route(path, route, dependencies=needed if path.startswith("/v1/") else [], **told)

    def get(path: str, route: Callable[..., Any], **told: Any) -> None:
        add(path, route, **told)
        add(path, route, methods=["HEAD"], include_in_schema=False, **told)

    options = options_of(config)
    add(
        "/v1/upscale",
        routes.upscale,
        methods=["POST"],
        operation_id="upscale",
        response_class=Response,
        responses=RESULTS | ACCEPTED | problems(*_OF_UPLOADS),
        openapi_extra=form_of(options),
    )
    add(
        "/v1/describe",
        routes.describe,
        methods=["POST"],
        operation_id="describe",
        response_model=Description,
        responses=ACCEPTED | problems(*_OF_UPLOADS),
        openapi_extra=form_of({name: option for name, option in options.items() if name in DESCRIBE}),
    )
    get(
        "/v1/jobs/{id}",
        routes.job,
        operation_id="get_job",
        response_model=JobDocument,
        response_model_exclude_unset=True,
        responses=problems(404, 422, 500),
    )
    add(
        "/v1/jobs/{id}",
        routes.forget,
        methods=["DELETE"],
        status_code=204,
        operation_id="delete_job",
        response_class=Response,
        responses=problems(404, 422, 500),
    )
    get(
        "/v1/jobs/{id}/events",
        routes.events,
        operation_id="watch_job",
        response_class=Response,
        responses=EVENTS | problems(404, 422, 500),
    )
    get(
        "/v1/jobs/{id}/result",
        routes.result,
        operation_id="get_result",
        response_class=Response,
        responses=RESULTS | PARTS | problems(*_OF_FILES),
    )
    get(
        "/v1/jobs/{id}/record",
        routes.record,
        operation_id="get_record",
        response_model=RecordDocument,
        responses=problems(*_OF_FILES),
    )
    for name, route in (("input", routes.input), ("view", routes.view), ("map", routes.map)):
        shown = [media_type(kind) for kind in (["PNG"] if name == "map" else sorted(SHOWN_FORMATS))]
        get(
            f"/v1/jobs/{{id}}/{name}",
            route,
            operation_id=f"get_{name}",
            response_class=Response,
            responses=sent(*shown) | sent(*shown, status=206) | problems(*_OF_FILES),
        )
    get(
        "/v1/archive",
        routes.archive,
        operation_id="get_archive",
        response_class=Response,
        responses=sent("application/zip") | problems(*_OF_FILES),
    )
    get(
        "/v1/models",
        routes.models,
        operation_id="get_models",
        response_model=Models,
        response_model_exclude_unset=True,
        responses=problems(500),
    )
    get("/healthz", routes.healthz, operation_id="healthz", response_model=Status)
    get("/readyz", routes.readyz, operation_id="readyz", response_model=Status, responses=problems(503))
    return router


class _Routes:
    """What is done for each; the docstrings are the API's documentation."""

    def __init__(self, config: ServeConfig, scheduler: Scheduler, hands: Sequence[HandLike], spool: Spool):
        self._config, self._scheduler, self._hands, self._spool = config, scheduler, hands, spool
        self._inspector = Inspector(config)

    async def upscale(self, request: HTTPRequest) -> Response:
        """Restores a picture, and answers with the result's file.

        With `Prefer: respond-async` it answers at once, with a job. A client that goes away before the result is there
        wants it no more.
        """
        job = await self._take(request, "upscale")
        if _prefers_async(request):
            return _accepted(job, self._config)
        await self._over(job, request)
        if job.error is not None:
            return _failed(job, job.error)
        return await self._send_result(job, request, headers=_headers(job))

    async def describe(self, request: HTTPRequest) -> Response:
        """Says what is in a picture and what is wrong with it.

        With `Prefer: respond-async` it answers at once, with a job.
        """
        job = await self._take(request, "describe")
        if _prefers_async(request):
            return _accepted(job, self._config)
        await self._over(job, request)
        if job.error is not None:
            return _failed(job, job.error)
        assert job.prior is not None
        job.is_fetched = True
        facts = {name: getattr(job.request, name) for name in ("width", "height", "format")}
        told = Description(**prior_document(job.prior), **facts, job=job.id)
        return Response(told.model_dump_json(), headers=_headers(job), media_type="application/json")

    async def job(self, id: str, request: HTTPRequest) -> JobDocument:  # noqa: A002 - what it is
        """Tells what became of a request."""
        job = self._find(id, request)
        told = job_document(job, self._config)
        if request.method == "GET" and told.kind == "describe" and told.state == "done":
            job.is_fetched = True
        return told

    async def forget(self, id: str, request: HTTPRequest) -> Response:  # noqa: A002
        """Cancels a job, and removes the picture and its result."""
        await anyio.to_thread.run_sync(self._scheduler.forget, self._find(id, request))
        return Response(status_code=204)

    async def events(self, id: str, request: HTTPRequest) -> Response:  # noqa: A002
        """Tells of a job as it goes on: `job` events hold its document, `preview` events what it looks like so far.

        The stream ends after the document of a job that is over.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nobody between keeps or gathers them
        job = self._find(id, request)
        stream = iter(()) if request.method == "HEAD" else events_of(job, self._config)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def result(self, id: str, request: HTTPRequest) -> Response:  # noqa: A002
        """Sends a result."""
        return await self._send_result(self._made(id, request), request)

    async def record(self, id: str, request: HTTPRequest) -> Response:  # noqa: A002
        """Tells how a result came about."""
        return JSONResponse(_record(self._made(id, request)))

    async def input(self, id: str, request: HTTPRequest) -> Response:  # noqa: A002
        """Shows the picture that was sent."""
        job = self._find(id, request)
        if job.state == "cancelled":
            raise job.cancelled_error()
        name, kind = job.request.name, job.request.format
        if kind in SHOWN_FORMATS:
            return await self._show(job, request, UPLOAD, media_type(kind), name)
        if job.prior is None and not job.is_over:  # it may be half written
            raise _not_ready(job)
        if not await anyio.to_thread.run_sync((job.folder / "input.png").exists):
            raise _not_made("what browsers can show of it was not made", "use the file that was sent")
        return await self._show(job, request, "input.png", "image/png", f"{Path(name).stem}.png")

    async def view(self, id: str, request: HTTPRequest) -> Response:  # noqa: A002
        """Shows a result."""
        job = self._made(id, request)
        kind = job.request.result_format
        if kind in SHOWN_FORMATS:
            return await self._show(job, request, job.result.name, media_type(kind), job.result_name)
        return await self._show(job, request, "view.png", "image/png", f"{Path(job.result_name).stem}.png")

    async def map(self, id: str, request: HTTPRequest) -> Response:  # noqa: A002
        """Shows where a result was invented: the brighter, the less a plain enlargement shows the same."""
        job = self._made(id, request)
        if not job.request.wants_map:
            raise _not_made("no map of it was asked for", "ask with map=true")
        return await self._show(job, request, "map.png", "image/png", f"{Path(job.result_name).stem}_map.png")

    async def archive(
        self,
        request: HTTPRequest,
        job: Annotated[list[str], Query(min_length=1, max_length=_MOST_JOBS, description="Ids of jobs that are done.")],
    ) -> Response:
        """Sends several results and their records in an archive."""
        jobs = [self._made(one, request) for one in dict.fromkeys(job)]
        for one in jobs:
            if not await anyio.to_thread.run_sync(one.result.exists):
                raise no_such_job(one.id)
        headers = {"Content-Disposition": 'attachment; filename="xpsr.zip"'}
        parts = iter(()) if request.method == "HEAD" else zip_parts(_entries(jobs))
        return StreamingResponse(parts, media_type="application/zip", headers=headers)

    async def models(self) -> Models:
        """Tells what the server offers: models, describers, options and limits."""
        config = self._config
        facts: dict[str, Any] = next((hand.facts for hand in self._hands if hand.facts), {})
        return Models.model_validate(
            {
                "models": facts.get("models", []),
                "describers": facts.get("describers", []),
                "default_model": next(iter(config.named("models"))),
                "default_describer": next(iter(config.named("describers"))),
                "limits": {
                    name: getattr(config, name)
                    for name in (
                        *("max_bytes", "max_pixels", "max_output_pixels", "max_seconds", "wait_seconds"),
                        *("max_queue", "max_per_client", "keep_seconds"),
                    )
                },
                "formats": list(get_args(ResultFormat)),
                "options": {name: option.as_dict() for name, option in options_of(config).items()},
                "version": __version__,
                "needs_token": config.token_file is not None,
            }
        )

    async def healthz(self) -> Status:
        """Says that the server is there."""
        return Status(status="ok")

    async def readyz(self) -> Status:
        """Says whether it takes on pictures."""
        if self._scheduler.is_draining:
            raise XPSRError("the server is to end", code="draining", remedy="try again soon")
        if not all(hand.is_ready for hand in self._hands):
            raise XPSRError("models are being loaded", code="starting", remedy="try again soon")
        return Status(status="ready")

    # what they share

    async def _take(self, request: HTTPRequest, kind: Kind) -> Job:
        """Takes a picture on, from its first byte until it waits in the queue."""
        client, owner = _who(request)
        with self._scheduler.place(client, owner=owner) as place:
            form = await receive_form(request, place.folder, max_bytes=self._config.max_bytes, spool=self._spool)
            known = OPTIONS.keys() if kind == "upscale" else DESCRIBE
            asked, wants_map = parse_options(form.fields, self._config, known=known)
            facts, suffix = await self._inspector.inspect(
                place.folder, form, asked, client=client, makes=kind == "upscale"
            )
            told = Request(
                kind=kind,
                name=form.name,
                width=facts.width,
                height=facts.height,
                format=facts.format,
                bytes=form.bytes,
                suffix=suffix,
                config=asked,
                wants_map=wants_map,
                wants_previews=_prefers_async(request),
            )
            return self._scheduler.submit(place, told)

    async def _over(self, job: Job, request: HTTPRequest) -> None:
        """Waits until a job is over; if its client goes, or the server ends, nobody wants it any more.

        Raises:
            ClientDisconnect: the client has gone.
        """
        try:
            await until_over(job, request)
        finally:
            if not job.is_over:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._scheduler.forget, job)

    def _find(self, id: str, request: HTTPRequest) -> Job:  # noqa: A002
        return self._scheduler.find(id, owner=_who(request)[1])

    def _made(self, id: str, request: HTTPRequest) -> Job:  # noqa: A002
        """Returns a job that has a result.

        Raises:
            XPSRError: there is no such job, or no result, and why.
        """
        job = self._find(id, request)
        if job.request.kind != "upscale":
            raise _not_made("no result of it was asked for", "its texts are in the job's document")
        if not job.is_over:
            raise _not_ready(job)
        if job.error is not None:
            raise job.error
        return job

    async def _send_result(self, job: Job, request: HTTPRequest, headers: dict[str, str] | None = None) -> Response:
        answer = await send_file(
            request,
            job.result,
            job=job.id,
            media_type=media_type(job.request.result_format),
            name=job.result_name,
            headers=headers,
        )
        if request.method != "HEAD":
            job.is_fetched = True
        return answer

    async def _show(self, job: Job, request: HTTPRequest, file: str, media_type: str, name: str) -> Response:
        return await send_file(request, job.folder / file, job=job.id, media_type=media_type, name=name, kind="inline")


def _who(request: HTTPRequest) -> tuple[str, str]:
    """Among whom the queue is fair, and who alone may see the job."""
    address = "" if request.client is None else request.client.host
    return getattr(request.state, "client", address), getattr(request.state, "owner", "")


def _prefers_async(request: HTTPRequest) -> bool:
    """Whether the client asks for an answer before there is a result, as RFC 7240 has it."""
    asked = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(one.partition(";")[0].strip() == "respond-async" for one in asked)


def _headers(job: Job) -> dict[str, str]:
    return {"X-XPSR-Job": job.id, "Location": job_path(job.id)}


def _accepted(job: Job, config: ServeConfig) -> Response:
    content = as_json(job_document(job, config))
    headers = _headers(job) | {"Preference-Applied": "respond-async"}
    return Response(content, 202, headers, media_type="application/json")


def _failed(job: Job, error: XPSRError) -> Response:
    status, document = problem_of(error, job_path(job.id))
    return JSONResponse(document, status, {**_headers(job), **headers_of(error)}, media_type=PROBLEM_JSON)


def _record(job: Job) -> dict[str, Any]:
    """How a result came about, under the client's own names."""
    assert job.record is not None
    told = {name: value for name, value in job.record.items() if name != "bytes"}
    return told | {"input": job.request.name, "output": job.result_name}


def _entries(jobs: Sequence[Job]) -> Iterator[tuple[str, Path | bytes]]:
    """What an archive holds."""
    for job, name in zip(jobs, numbered(job.result_name for job in jobs), strict=True):
        yield name, job.result
        record = json.dumps(_record(job) | {"output": name}, indent=2, ensure_ascii=False)
        yield f"{Path(name).stem}.json", f"{record}\n".encode()
        job.is_fetched = True


def _not_ready(job: Job) -> XPSRError:
    return XPSRError(f"the job is {job.state}", code="not_ready", remedy=f"watch {job_path(job.id)}/events")


def _not_made(message: str, remedy: str) -> InputError:
    return InputError(message, code="not_made", remedy=remedy)
