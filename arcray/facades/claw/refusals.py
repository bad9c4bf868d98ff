"""Errors as nodes of the first implementation are told them. The document has no message for one: the log says it.

What is refused is told by what it is about, because core's NOT_FOUND is several of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from arcray.claw_proto.original import Error, ErrorCode
from arcray.core.errors import ArcrayError, Code

__all__ = ["CODES", "error_of"]

CODES: Final[Mapping[Code, ErrorCode]] = {
    Code.INVALID_ARGUMENT: ErrorCode.INVALID_REQUEST,
    Code.UNAUTHENTICATED: ErrorCode.PERMISSION_DENIED,
    Code.PERMISSION_DENIED: ErrorCode.PERMISSION_DENIED,
    Code.NOT_FOUND: ErrorCode.WORKLOAD_NOT_FOUND,
    Code.ALREADY_EXISTS: ErrorCode.INVALID_REQUEST,
    Code.CONFLICT: ErrorCode.INVALID_REQUEST,
    Code.IDEMPOTENCY_MISMATCH: ErrorCode.INVALID_REQUEST,
    Code.STALE_REPORT: ErrorCode.INVALID_REQUEST,
    Code.INSUFFICIENT_CREDITS: ErrorCode.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED: ErrorCode.NO_CAPACITY,
    Code.NO_CANDIDATES: ErrorCode.NO_CAPACITY,
    Code.DEADLINE_EXCEEDED: ErrorCode.INTERNAL,
    Code.UNAVAILABLE: ErrorCode.INTERNAL,
    Code.UNSUPPORTED: ErrorCode.INVALID_REQUEST,
    Code.INTERNAL: ErrorCode.INTERNAL,
}
"""Their code of every one of core's; total, and tested to be."""

_OF_FIELDS: Final[Mapping[tuple[Code, str], ErrorCode]] = {
    (Code.NOT_FOUND, "node_id"): ErrorCode.NODE_NOT_FOUND,
    (Code.NOT_FOUND, "nodeId"): ErrorCode.NODE_NOT_FOUND,
    (Code.INVALID_ARGUMENT, "protocol_version"): ErrorCode.PROTOCOL_MISMATCH,
}


def error_of(error: ArcrayError) -> Error:
    """Returns the message that tells of a refusal."""
    code = _OF_FIELDS.get((error.code, error.field or ""), CODES[error.code])
    return Error(code=code.value, message=str(error).encode("utf-8", "replace").decode())
