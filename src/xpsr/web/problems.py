"""Errors as clients are told of them: problem documents (RFC 9457) with what `XPSRError` says."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpsr.errors import InputError, XPSRError, printable, unexpected
from xpsr.files import refusal
from xpsr.web.scheduler import Busy

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

__all__ = ["PROBLEM_JSON", "add_handlers", "headers_of", "problem", "problem_of"]

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"

_STATUS = {
    "malformed": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "no_such_job": 404,
    "not_made": 404,
    "method_not_allowed": 405,
    "too_slow_upload": 408,
    "not_ready": 409,
    "cancelled": 410,
    "too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "busy": 429,
    "too_many": 429,
    "unexpected": 500,
    "refused": 500,
    "worker_died": 500,
    "not_finite": 500,
    "out_of_memory": 503,
    "draining": 503,
    "starting": 503,
    "unreachable": 503,
    "no_describer": 503,
    "too_late": 504,
    "disk_full": 507,
}
"""By code; every other `InputError` is 422, and what else is not here is told to nobody."""

_OF_SERVER = {
    "disk_full": ("the server has no room for it", "try again later"),
    "refused": ("the server cannot read or write its files", "try again later"),
    "unreachable": ("who describes pictures for this server does not answer", "give content and quality, or wait"),
}
"""What is told instead of errors that name files and addresses of the server."""

_EXPECTED = frozenset({"draining", "starting"})
"""Of a server that begins or ends; nothing is wrong with it."""

_UNTOLD = frozenset({"bad_address", "bad_key", "missing_dependency", "no_model"})
"""Of how the server was set up, which no client can mend."""

_MAX_TEXT = 2000
"""Characters of what a client is told at most; its own values are among them."""

_WAIT = 10
"""Seconds after which whoever was told 503 may come again."""


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    field: str | None = None,
    value: str | None = None,
    remedy: str | None = None,
    limit: float | None = None,
    instance: str | None = None,
) -> dict[str, Any]:
    """Returns a problem document.

    Args:
        status: of HTTP.
        code: which kind of problem it is, for programs.
        detail: what is wrong and what to do, on a line.
        field: what is at fault: an option, or a part of the request.
        value: what it held.
        remedy: what to do.
        limit: what would have been taken.
        instance: the path that tells more.
    """
    told = {
        "type": f"urn:xpsr:error:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": _brief(detail),
        "code": code,
        "field": _brief(field),
        "value": _brief(value),
        "remedy": _brief(remedy),
    }
    return told | {name: given for name, given in (("limit", limit), ("instance", instance)) if given is not None}


def problem_of(error: XPSRError, instance: str | None = None) -> tuple[int, dict[str, Any]]:
    """Returns the status and the problem document of an error, without what is of the server alone.

    Args:
        error: what went wrong.
        instance: the path that tells more, such as that of the job.
    """
    told = _for_clients(error)
    status = _STATUS.get(told.code, 422)
    return status, problem(
        status,
        told.code,
        told.sentence(),
        field=told.field,
        value=told.value,
        remedy=told.remedy,
        limit=told.limit,
        instance=instance,
    )


def headers_of(error: XPSRError) -> Mapping[str, str]:
    """Returns what else an answer with this error tells: when to come again, and who is let in."""
    status = _STATUS.get(error.code)
    if error.code == "range_not_satisfiable":  # RFC 9110 asks for the file's length
        return {"Content-Range": f"bytes */{error.limit}"}
    if isinstance(error, Busy):
        return {"Retry-After": str(error.retry_after)}
    if status in (429, 503):
        return {"Retry-After": str(_WAIT)}
    return {"WWW-Authenticate": "Bearer"} if status == 401 else {}


def add_handlers(app: "FastAPI") -> None:
    """Makes every error that an app answers a problem document, those of its framework, too."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request

    def answer(status: int, document: dict[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse(document, status, headers, media_type=PROBLEM_JSON)

    @app.exception_handler(XPSRError)
    async def told(request: Request, error: XPSRError) -> JSONResponse:
        status, document = problem_of(error)
        if status >= 500 and error.code not in _EXPECTED and not isinstance(error, Busy):  # clients are not told all
            logger.error("%s (%s)", error, error.code)
        return answer(status, document, headers_of(error))

    @app.exception_handler(HTTPException)
    async def of_framework(request: Request, error: HTTPException) -> JSONResponse:
        status, headers = error.status_code, error.headers
        if status == 404:
            return answer(status, problem(status, "not_found", "nothing is there", remedy="see /openapi.json"), headers)
        if status == 405:
            detail, remedy = f"{request.method} is no method of this path", "see /openapi.json"
            told = problem(status, "method_not_allowed", detail, remedy=remedy)
            return answer(status, told, {**(headers or {}), "Allow": ", ".join(_methods(request))})
        name = HTTPStatus(status).phrase
        return answer(status, problem(status, name.lower().replace(" ", "_"), name), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        code = {"missing": "missing", "too_short": "missing", "too_long": "out_of_range"}.get(
            first["type"], "wrong_type"
        )
        field, message = str(first["loc"][-1]), str(first["msg"])
        return answer(422, problem(422, code, f"{field}: {message}", field=field))

    @app.exception_handler(OSError)
    async def of_system(request: Request, error: OSError) -> JSONResponse:
        logger.error("The system refuses.", exc_info=error)
        return answer(*problem_of(refusal(Path(), "cannot be used", error)))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> None:
        """Says nothing: nobody would hear it."""

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected %s", type(error).__name__, exc_info=error)
        return answer(*problem_of(unexpected()))


def _methods(request: "Request") -> list[str]:
    """The methods of a path, those of all its routes."""
    from starlette.routing import Match

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return list(filter(takes, ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")))


def _for_clients(error: XPSRError) -> XPSRError:
    """Returns an error without what is of the server alone; where nothing is left, one that tells nothing."""
    code, kind = error.code, InputError if isinstance(error, InputError) else XPSRError
    if code in _OF_SERVER or (code == "not_found" and error.field is None):
        code = "refused" if code == "not_found" else code
        message, remedy = _OF_SERVER[code]
        return kind(message, code=code, remedy=remedy)
    if code == "missing_dependency" and kind is InputError:  # of this picture alone
        return InputError("HEIC is not read by this server", code="unknown_format", remedy="convert it to JPEG")
    if error.field == "memory":  # of the server, which takes no other for this picture
        message, remedy = "it takes more memory than the server gives it", "use a smaller scale or picture"
        return InputError(message, code="too_large", remedy=remedy)
    if code in _UNTOLD or (code not in _STATUS and kind is not InputError):
        return unexpected()
    return error if error.source is None else kind(**error.parts | {"source": None})


def _brief(text: str | None) -> str | None:
    if text is None:
        return None
    text = printable(text[: _MAX_TEXT + 1])
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."
