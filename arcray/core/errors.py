"""The one error tree. Every error that crosses a layer is an ArcrayError with a stable code.

What lives here: the codes and what each asks of the caller. What does not: the wire form of an error, which each
facade keeps in its own total ``Code -> wire`` table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

__all__ = [
    "AlreadyExistsError",
    "ArcrayError",
    "BusyError",
    "Code",
    "ConflictError",
    "DeadlineExceededError",
    "IdempotencyMismatchError",
    "IllegalTransitionError",
    "InsufficientCreditsError",
    "InternalError",
    "InvalidArgumentError",
    "NoCandidatesError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "StaleReportError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
]


class Code(StrEnum):
    """Stable name of an error class; part of every protocol's error table."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"  # the request is wrong in itself; repeating it will not help
    UNAUTHENTICATED = "UNAUTHENTICATED"  # no valid identity was presented
    PERMISSION_DENIED = "PERMISSION_DENIED"  # the identity is valid but may not do this
    NOT_FOUND = "NOT_FOUND"  # the named thing does not exist, or not for this account
    ALREADY_EXISTS = "ALREADY_EXISTS"  # the name is taken
    CONFLICT = "CONFLICT"  # the thing is in a state that does not allow this
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"  # the same key came with another body
    STALE_REPORT = "STALE_REPORT"  # a report of an older attempt or epoch; fenced off
    INSUFFICIENT_CREDITS = "INSUFFICIENT_CREDITS"  # the account cannot pay for it, or may not spend that much now
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"  # a configured limit was reached; try later
    NO_CANDIDATES = "NO_CANDIDATES"  # no node of the pool can take this now
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"  # the answer did not come in time; the outcome is unknown
    UNAVAILABLE = "UNAVAILABLE"  # a part of the system is away; try again
    UNSUPPORTED = "UNSUPPORTED"  # no node or protocol here can express this
    INTERNAL = "INTERNAL"  # our own fault; the log has the traceback


class ArcrayError(Exception):
    """Something went wrong in arcray; see the code.

    Args:
        message: what happened and what to do; the class docstring when omitted.
        field: dotted path of the offending input field, if one is to blame.
        details: JSON-able facts for the caller, for example an explanation of a refused placement.
    """

    code: ClassVar[Code] = Code.INTERNAL

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").partition("\n")[0]
        self.field = field
        self.details: Mapping[str, Any] = details or {}
        super().__init__(f"{field}: {self.message}" if field else self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by positional arguments; ours cross process borders with their keywords.
        return _rebuild, (type(self), self.message, self.field, dict(self.details))


def _rebuild(cls: type[ArcrayError], message: str, field: str | None, details: Mapping[str, Any]) -> ArcrayError:
    return cls(message, field=field, details=details)


class InvalidArgumentError(ArcrayError):
    """The request is malformed; correct the named field and send it again."""

    code = Code.INVALID_ARGUMENT


class UnauthenticatedError(ArcrayError):
    """Credentials are missing, wrong or expired; present a valid key or token."""

    code = Code.UNAUTHENTICATED


class PermissionDeniedError(ArcrayError):
    """This identity may not do that; ask the operator for a key with the needed scope."""

    code = Code.PERMISSION_DENIED


class NotFoundError(ArcrayError):
    """No such thing; check the id."""

    code = Code.NOT_FOUND


class AlreadyExistsError(ArcrayError):
    """That name is taken; choose another or use the existing one."""

    code = Code.ALREADY_EXISTS


class ConflictError(ArcrayError):
    """The thing is not in a state that allows this; read it again."""

    code = Code.CONFLICT


class IllegalTransitionError(ConflictError):
    """The lifecycle does not allow that transition."""


class IdempotencyMismatchError(ArcrayError):
    """This idempotency key was used with another request; use a new key."""

    code = Code.IDEMPOTENCY_MISMATCH


class StaleReportError(ArcrayError):
    """The report belongs to an older attempt or attachment and was refused."""

    code = Code.STALE_REPORT


class InsufficientCreditsError(ArcrayError):
    """The account has too few credits, or would pass its spending limit; the field says which."""

    code = Code.INSUFFICIENT_CREDITS


class ResourceExhaustedError(ArcrayError):
    """A limit was reached; slow down or raise it in the configuration."""

    code = Code.RESOURCE_EXHAUSTED


class BusyError(ResourceExhaustedError):
    """Too much is under way to look at this; the same may be taken in a moment."""


class NoCandidatesError(ArcrayError):
    """No node can take this now; the explanation says which filter refused how many."""

    code = Code.NO_CANDIDATES


class DeadlineExceededError(ArcrayError):
    """No answer in time; the outcome is unknown, so ask for the state before you repeat it."""

    code = Code.DEADLINE_EXCEEDED


class UnavailableError(ArcrayError):
    """Part of the system is away; try again shortly."""

    code = Code.UNAVAILABLE


class UnsupportedError(ArcrayError):
    """Nothing in this pool can express that."""

    code = Code.UNSUPPORTED


class InternalError(ArcrayError):
    """arcray failed; the server's log has the details."""

    code = Code.INTERNAL
