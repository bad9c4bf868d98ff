"""Errors over HTTP: ``application/problem+json`` (RFC 9457) that also carries ``error`` and ``code``.

What lives here: the one table of statuses and the shape. Every error leaves by it: ours, the framework's (unknown
path, wrong method, unreadable request) and the unexpected, which becomes an INTERNAL without a traceback.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.errors import ArcrayError, Code, InternalError, InvalidArgumentError
from arcray.core.placement.explain import Explanation

__all__ = [
    "MEDIA_TYPE",
    "RETRY_AFTER_S",
    "STATUS",
    "BodyTooLargeError",
    "explanation_members",
    "install",
    "problem",
    "problem_response",
]

_log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[Code, int]] = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.INSUFFICIENT_CREDITS: 402,  # no other key would help, credits would
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.CONFLICT: 409,
    Code.STALE_REPORT: 409,
    Code.IDEMPOTENCY_MISMATCH: 422,
    Code.UNSUPPORTED: 422,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.NO_CANDIDATES: 503,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""The HTTP status of every code; total, and tested to be."""

RETRY_AFTER_S: Final[Mapping[Code, int]] = {
    Code.RESOURCE_EXHAUSTED: 1,
    Code.NO_CANDIDATES: 1,
    Code.UNAVAILABLE: 2,
}
"""Codes that pass by waiting, and for how long to wait before the next attempt."""

_TITLES: Final[Mapping[Code, str]] = {code: code.value.replace("_", " ").capitalize() for code in Code}

# What a status of the framework means in our codes; other 4xx are the caller's fault, 5xx are ours.
_CODES: Final[Mapping[int, Code]] = {
    401: Code.UNAUTHENTICATED,
    402: Code.INSUFFICIENT_CREDITS,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.CONFLICT,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class BodyTooLargeError(InvalidArgumentError):
    """The body is larger than this server accepts; send less, or in parts."""


def problem(error: ArcrayError, *, instance: str = "", status: int | None = None) -> dict[str, Any]:
    """Returns the members of an error's problem document.

    Args:
        instance: path of the request.
        status: where HTTP has a more exact status than the code's, such as 405.
    """
    if status is None:
        status = 413 if isinstance(error, BodyTooLargeError) else STATUS[error.code]
    members: dict[str, Any] = {
        "type": f"urn:arcray:problem:{error.code.value.lower().replace('_', '-')}",
        "title": _TITLES[error.code],
        "status": status,
        "detail": str(error),
    }
    if instance:
        members["instance"] = instance
    members["error"] = error.message
    members["code"] = error.code.value
    if error.field:
        members["field"] = error.field
    if "explanation" in error.details:
        members["explanation"] = error.details["explanation"]
    return members


def problem_response(
    error: ArcrayError,
    *,
    instance: str = "",
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    code: str = "",
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """Returns an error as an HTTP response.

    Args:
        headers: besides Retry-After and WWW-Authenticate, which follow from the code.
        code: the protocol's own word, where it has a more exact one than ours.
        extra: members of the protocol's own; they replace none of the problem's.
    """
    members = {**(extra or {}), **problem(error, instance=instance, status=status)}
    if code:
        members["code"] = code
    sent = dict(headers or {})
    if error.code in RETRY_AFTER_S:
        sent.setdefault("Retry-After", str(RETRY_AFTER_S[error.code]))
    if error.code is Code.UNAUTHENTICATED:
        sent.setdefault("WWW-Authenticate", "Bearer")
    body = json.dumps(members, separators=(",", ":"), default=str).encode()
    return Response(body, members["status"], headers=sent, media_type=MEDIA_TYPE)


def explanation_members(found: Explanation) -> dict[str, Any]:
    """Returns an explanation as JSON shows it, in problems and elsewhere."""
    return {
        "nodes": found.nodes,
        "refusals": [{"filter": r.filter, "nodes": r.nodes, "reason": r.reason} for r in found.refusals],
        "suggestion": found.suggestion,
        "sentence": found.sentence(),
    }


def install(app: FastAPI) -> None:
    """Makes every error of the application leave as a problem document."""
    app.add_exception_handler(ArcrayError, _on_arcray_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_arcray_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ArcrayError)
    if error.code is Code.INTERNAL:
        _log.error("request failed", exc_info=error, extra={"path": request.url.path})
    return problem_response(error, instance=request.url.path)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # loc begins with where the value was: "query", "path", "body".
    where = [str(part) for part in first["loc"]]
    field = ".".join(where[1:] or where)
    return problem_response(InvalidArgumentError(str(first["msg"]), field=field), instance=request.url.path)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    fallback = Code.INTERNAL if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR else Code.INVALID_ARGUMENT
    found = _coded(_CODES.get(error.status_code, fallback), str(error.detail))
    return problem_response(found, instance=request.url.path, status=error.status_code, headers=error.headers)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    _ = error  # Starlette raises it again after this response, and the server logs its traceback
    return problem_response(InternalError(), instance=request.url.path)


def _coded(code: Code, message: str) -> ArcrayError:
    """Returns an error of a code that is only known at run time."""
    return next(cls for cls in ArcrayError.__subclasses__() if cls.code is code)(message)
