"""What `/openapi.json` says beyond what the framework sees: forms, files, problems."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from xpsr.config.checks import MAX_CHARACTERS
from xpsr.web.jobs import media_type
from xpsr.web.options import Option
from xpsr.web.problems import PROBLEM_JSON
from xpsr.web.uploads import IMAGE

__all__ = ["ACCEPTED", "EVENTS", "PARTS", "RESULTS", "form_of", "problems", "sent"]

_JOB_HEADERS = {
    "X-XPSR-Job": {"description": "The job's id.", "schema": {"type": "string"}},
    "Location": {"description": "The path of the job's document.", "schema": {"type": "string"}},
}
_RETRY = {"Retry-After": {"description": "Seconds after which to come again.", "schema": {"type": "integer"}}}

_OF_GUARDS = (401, 403, 429, 503)
"""Any request may be told."""

Responses = dict[int | str, dict[str, Any]]


def sent(*media_types: str, status: int = 200, headers: Mapping[str, Any] | None = None) -> Responses:
    """Returns what is said of an answer that is a file of one of these types."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    told = {"description": "The file." if status == 200 else "A part of the file.", "content": content}
    return {status: told | ({"headers": dict(headers)} if headers else {})}


_RESULT_TYPES = [media_type(kind) for kind in ("AVIF", "JPEG", "JXL", "PNG", "TIFF", "WEBP")]

RESULTS = sent(*_RESULT_TYPES, headers=_JOB_HEADERS)
PARTS = sent(*_RESULT_TYPES, status=206)

ACCEPTED: Responses = {
    202: {
        "description": "The job, which is done as soon as it is its turn.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobDocument"}}},
        "headers": _JOB_HEADERS
        | {"Preference-Applied": {"description": "respond-async", "schema": {"type": "string"}}},
    }
}

EVENTS: Responses = {
    200: {
        "description": "Events `job`, each with a job's document, and `preview`.",
        "content": {"text/event-stream": {}},  # a stream has no end, and no schema
    }
}


def problems(*statuses: int) -> Responses:
    """Returns what is said of errors of these statuses, and of those that any request may have."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
        for status in sorted({*statuses, *_OF_GUARDS})
    }


def form_of(options: Mapping[str, Option]) -> dict[str, Any]:
    """Returns what is said of a request with a picture and these options."""
    image = {"type": "string", "format": "binary", "description": "The picture's file."}
    schema = {
        "type": "object",
        "required": [IMAGE],
        "properties": {IMAGE: image} | {name: _schema_of(option) for name, option in options.items()},
        "additionalProperties": False,
    }
    prefer = {
        "name": "Prefer",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "respond-async: answer at once, with a job.",
    }
    return {
        "parameters": [prefer],
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}},
    }


def _schema_of(option: Option) -> dict[str, Any]:
    kinds = {"choice": "string", "text": "string"}
    told: dict[str, Any] = {"type": kinds.get(option.kind, option.kind), "description": option.help}
    if option.kind == "choice":
        told["enum"] = list(option.choices or ())
    elif option.kind == "text":
        told["maxLength"] = MAX_CHARACTERS
        if option.pattern is not None:
            told["pattern"] = f"^({option.pattern})$"
    elif option.kind != "boolean":
        limits = {"minimum": option.minimum, "maximum": option.maximum}
        told |= {name: limit for name, limit in limits.items() if limit is not None}
    default = option.as_dict().get("default")
    return told if default is None or option.kind == "text" else told | {"default": default}
