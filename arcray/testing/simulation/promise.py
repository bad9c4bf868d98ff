"""What a broken promise is, and the sentence that finds one."""

from __future__ import annotations

__all__ = ["PromiseBrokenError", "must"]


class PromiseBrokenError(Exception):
    """Something happened that must never happen."""


def must(holds: object, promise: str) -> None:
    """Raises unless it holds.

    Raises:
        PromiseBrokenError: with the promise.
    """
    if not holds:
        raise PromiseBrokenError(promise)
