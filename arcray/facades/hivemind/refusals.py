"""Errors as HiveMind tells them: success=false with a message, and a code of the document in the trailing metadata.

The document has twelve codes and no field for them. What is refused is told by what it is about, because core's
NOT_FOUND is three of them; what none of them says is 9999. Core's own code travels beside it, under the name that the
gateway gives it for every protocol, so that a client can tell apart what the document does not.

Source: HiveMind API Documentation, "Error Codes".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Final, TypeVar

from google.protobuf.message import Message

from arcray.core.errors import ArcrayError, BusyError, Code
from arcray.facades.hivemind.fields import sendable

__all__ = [
    "CODES",
    "CODE_KEY",
    "CORE_CODE_KEY",
    "UNKNOWN_STATUS",
    "ErrorCode",
    "Subject",
    "answer",
    "as_told",
    "code_of",
    "metadata",
    "words",
]

_M = TypeVar("_M", bound=Message)

CODE_KEY: Final = "hivemind-error-code"
CORE_CODE_KEY: Final = "arcray-code"
UNKNOWN_STATUS: Final = "NOT_FOUND"  # of a task that is none


class ErrorCode(IntEnum):
    """The document's codes."""

    SUCCESS = 0
    USER_NOT_FOUND = 1001
    INVALID_PASSWORD = 1002
    USER_EXISTS = 1003
    INVALID_SESSION = 1004
    NODE_NOT_FOUND = 2001
    NODE_OFFLINE = 2002
    INSUFFICIENT_RESOURCES = 2003
    TASK_NOT_FOUND = 3001
    TASK_FAILED = 3002
    TASK_CANCELLED = 3003
    INTERNAL_ERROR = 9999


class Subject(Enum):
    """What a request is about."""

    USER = "username"
    NODE = "node_id"
    TASK = "task_id"


_ANY: Final[Mapping[Code, ErrorCode]] = {
    Code.INVALID_ARGUMENT: ErrorCode.INTERNAL_ERROR,  # the document has no code for a request that is wrong in itself
    Code.UNAUTHENTICATED: ErrorCode.INVALID_SESSION,
    Code.PERMISSION_DENIED: ErrorCode.INVALID_SESSION,
    Code.NOT_FOUND: ErrorCode.INTERNAL_ERROR,
    Code.ALREADY_EXISTS: ErrorCode.INTERNAL_ERROR,
    Code.CONFLICT: ErrorCode.INTERNAL_ERROR,
    Code.IDEMPOTENCY_MISMATCH: ErrorCode.INTERNAL_ERROR,
    Code.STALE_REPORT: ErrorCode.INTERNAL_ERROR,
    Code.INSUFFICIENT_CREDITS: ErrorCode.INSUFFICIENT_RESOURCES,
    Code.RESOURCE_EXHAUSTED: ErrorCode.INSUFFICIENT_RESOURCES,
    Code.NO_CANDIDATES: ErrorCode.INSUFFICIENT_RESOURCES,
    Code.DEADLINE_EXCEEDED: ErrorCode.INTERNAL_ERROR,
    Code.UNAVAILABLE: ErrorCode.INTERNAL_ERROR,
    Code.UNSUPPORTED: ErrorCode.INSUFFICIENT_RESOURCES,
    Code.INTERNAL: ErrorCode.INTERNAL_ERROR,
}

CODES: Final[Mapping[Subject, Mapping[Code, ErrorCode]]] = {
    Subject.USER: {
        **_ANY,
        Code.NOT_FOUND: ErrorCode.USER_NOT_FOUND,
        Code.ALREADY_EXISTS: ErrorCode.USER_EXISTS,
    },
    Subject.NODE: {
        **_ANY,
        Code.NOT_FOUND: ErrorCode.NODE_NOT_FOUND,
        Code.CONFLICT: ErrorCode.NODE_OFFLINE,
        Code.STALE_REPORT: ErrorCode.NODE_OFFLINE,
    },
    Subject.TASK: {
        **_ANY,
        Code.NOT_FOUND: ErrorCode.TASK_NOT_FOUND,
        Code.STALE_REPORT: ErrorCode.TASK_CANCELLED,
    },
}
"""The document's code of every one of core's, by what the request is about; total, and tested to be."""

# What core calls fields, where the contract calls them otherwise. Others are the same, or are of no field.
_FIELDS: Final[Mapping[str, str]] = {
    "to": "receiver_username",
    "credits": "amount",
    "archive": "task_data",
    "nodeId": "node_id",
    "demand.cpu": "cpu_score",
    "demand.memory": "memory_gb",
    "demand.gpus": "gpu_score",
    "demand.gpuMemory": "gpu_memory_gb",
}

_PURSE: Final = frozenset({"credits", "spendingLimit"})  # of a task: whoever pays has too few


def code_of(error: ArcrayError, subject: Subject) -> ErrorCode:
    """Returns the document's code of an error."""
    return CODES[subject][error.code]


def words(error: ArcrayError, subject: Subject) -> str:
    """Returns what an error says, with its field as the contract names it."""
    return sendable(str(as_told(error, subject)))


def _field(error: ArcrayError, subject: Subject) -> str | None:
    if error.field is None:
        return None
    if subject is Subject.TASK and error.field in _PURSE:
        return "user_id"
    return subject.value if error.field == "id" else _FIELDS.get(error.field, error.field)


def as_told(error: ArcrayError, subject: Subject) -> ArcrayError:
    """Returns the same error with its field as the contract names it."""
    return type(error)(error.message, field=_field(error, subject), details=error.details)


def metadata(error: ArcrayError, subject: Subject, code: ErrorCode | None = None) -> tuple[tuple[str, str], ...]:
    """Returns the trailing metadata of an error.

    Args:
        code: what the method says of it where that is more than the table knows.
    """
    told = code_of(error, subject) if code is None else code
    return (CODE_KEY, str(told.value)), (CORE_CODE_KEY, error.code.value)


def answer(response: type[_M], error: ArcrayError, subject: Subject) -> _M | None:
    """Returns the answer that refuses; None where it has to be a gRPC status.

    That is so where an answer cannot say it, and where the request may well succeed when it is sent again: there gRPC's
    own status is what clients retry by.
    """
    if error.code in _STATUSES or isinstance(error, BusyError) or "success" not in response.DESCRIPTOR.fields_by_name:
        return None
    refusal = response(success=False, message=words(error, subject))
    if error.code is Code.NOT_FOUND and "status" in response.DESCRIPTOR.fields_by_name:
        refusal.status = UNKNOWN_STATUS  # type: ignore[attr-defined]  # there where the descriptor has it
    return refusal


_STATUSES: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL})
