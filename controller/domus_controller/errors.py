"""The errors of the API, and the one place where an error becomes an HTTP answer (RFC 9457).

    DomusError
      ApiError             what only a web server can refuse: it has the HTTP status, and headers that go with the answer
        Malformed          400  the request is not what the route reads
        MediaTypeRefused   415  the body is neither JSON nor YAML
        Throttled          429  too many wrong passwords for one name
        Overloaded         503  all streams are taken

The status of every other DomusError follows from its code.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from domus_core.errors import DomusError
from werkzeug.exceptions import HTTPException

PROBLEM_TYPE = "application/problem+json"
BAD_GATEWAY = 502
CHALLENGE = 'Basic realm="Domus", charset="UTF-8", Bearer realm="Domus"'
STATUS_BY_CODE = {
    "invalid_spec": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "owned_by_manager": 409,
    "busy": 409,
    "cancelled": 409,
    "moved": 409,
    "precondition_failed": 412,
    "too_large": 413,
    "unsupported": 422,
    "driver_error": 500,
    "unreachable": 503,
    "no_capacity": 507,
}
TITLES = {
    "invalid_spec": "What was asked is wrong in itself",
    "unauthorized": "Say who you are",
    "forbidden": "This is not allowed",
    "not_found": "What was asked for is not there",
    "conflict": "What was asked contradicts what is there",
    "owned_by_manager": "The server belongs to another manager",
    "busy": "Somebody else is changing the same object",
    "cancelled": "Somebody asked to leave off",
    "moved": "It is on another server",
    "precondition_failed": "It has changed since",
    "too_large": "This is more than is taken at once",
    "unsupported": "This can not be done here",
    "driver_error": "libvirt, a tool or the database refused",
    "unreachable": "A server does not answer",
    "no_capacity": "There is no room",
}


class ApiError(DomusError):
    """What only the API can refuse; `status` is its HTTP status, `headers` go with the answer."""

    status = 400
    title = "The request can not be answered"

    def __init__(self, message: str, *, headers: dict[str, str] | None = None, **rest: Any) -> None:
        super().__init__(message, **rest)
        self.headers = headers or {}


class Malformed(ApiError):
    """The request is not what the route reads."""

    code, status, title = "bad_request", 400, "The request can not be read"


class MediaTypeRefused(ApiError):
    """The body is neither JSON nor YAML."""

    code, status, title = "unsupported_media_type", 415, "The body is of a type that is not read here"


class Throttled(ApiError):
    """Too many wrong passwords for one name."""

    code, status, title = "throttled", 429, "Too many wrong passwords"


class Overloaded(ApiError):
    """All streams are taken."""

    code, status, title = "busy", 503, "Too many at once"


@contextlib.contextmanager
def answered_by_agent() -> Iterator[None]:
    """What goes wrong inside went wrong on a server: a driver_error from there is a 502, not our own 500."""
    try:
        yield
    except DomusError as error:
        if error.code == "driver_error":
            error.status = BAD_GATEWAY  # type: ignore[attr-defined]
        raise


def status_of(error: DomusError) -> int:
    """The HTTP status of an error."""
    return int(getattr(error, "status", None) or STATUS_BY_CODE.get(error.code, 500))


def headers_of(error: DomusError) -> dict[str, str]:
    """The headers that go with the answer to an error."""
    return {"WWW-Authenticate": CHALLENGE} if status_of(error) == 401 else dict(getattr(error, "headers", {}))


def problem_of(error: DomusError) -> dict[str, Any]:
    """The problem document of an error (RFC 9457), with our `code`, `object`, `field`, `value`, `remedy` and `errors`."""
    told = error.as_dict()
    detail = told.pop("message")
    code = told.pop("code")
    title = getattr(error, "title", None) or TITLES.get(code, "An error")
    return {"type": f"urn:domus:error:{code}", "title": title, "status": status_of(error), "detail": detail, "code": code, **told}


def from_http(error: HTTPException, asked: str) -> ApiError:
    """What Flask itself refuses of `METHOD /path`, as one of our errors: code and title follow from the standard name of the status."""
    headers = _kept_headers(error)
    if error.code == 404:
        made = ApiError("there is no such address", object=asked, remedy="GET /api/v1/openapi.json lists them")
    elif error.code == 405:
        made = ApiError("this address does not take this method", object=asked, remedy=f"It takes {headers.get('Allow', 'others')}", headers=headers)
    else:
        made = ApiError(str(error.description or error.name), headers=headers)
    made.status = error.code or 500
    made.title = error.name
    made.code = {404: "not_found", 413: "too_large"}.get(made.status) or re.sub(r"[^a-z]+", "_", error.name.lower())
    return made


def _kept_headers(error: HTTPException) -> dict[str, str]:
    return {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}


def unexpected(request_id: str) -> ApiError:
    """What a person sees of a fault of our own: where to look, and nothing of the inside."""
    made = ApiError("an unexpected error; the manager's log tells more", value=request_id, remedy=f"Look for request {request_id} in the log of the manager")
    made.code, made.status, made.title = "unexpected", 500, "An error of the manager itself"
    return made
