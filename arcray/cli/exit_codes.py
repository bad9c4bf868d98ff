"""What a command exits with, by what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from arcray.core.errors import Code

__all__ = ["EXIT_CODES"]

EXIT_CODES: Final[Mapping[Code, int]] = {
    Code.INTERNAL: 1,
    Code.STALE_REPORT: 1,
    Code.UNSUPPORTED: 1,
    Code.INVALID_ARGUMENT: 2,  # as click's own for wrong use
    Code.UNAVAILABLE: 3,
    Code.DEADLINE_EXCEEDED: 3,
    Code.NOT_FOUND: 4,
    Code.UNAUTHENTICATED: 5,
    Code.PERMISSION_DENIED: 5,
    Code.ALREADY_EXISTS: 6,
    Code.CONFLICT: 6,
    Code.IDEMPOTENCY_MISMATCH: 6,
    Code.RESOURCE_EXHAUSTED: 7,
    Code.NO_CANDIDATES: 7,
    Code.INSUFFICIENT_CREDITS: 8,
}
