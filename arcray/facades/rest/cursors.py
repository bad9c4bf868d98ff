"""Cursors on our wire: where a list goes on, as text that its reader need not understand."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from datetime import UTC, datetime, timedelta
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import WorkloadId, canonical_uuid
from arcray.core.queries import WorkloadCursor

__all__ = ["cursor_of", "cursor_text"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def cursor_text(cursor: WorkloadCursor) -> str:
    """Returns a cursor as text for a query parameter."""
    text = f"{(cursor.created_at - _EPOCH) // _MICROSECOND} {cursor.id}"
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def cursor_of(text: str) -> WorkloadCursor:
    """Returns what ``cursor_text`` was given.

    Raises:
        InvalidArgumentError: it is none of ours.
    """
    try:
        time, identity = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().split(" ")
        return WorkloadCursor(
            created_at=_EPOCH + timedelta(microseconds=int(time)), id=WorkloadId(canonical_uuid(identity, "cursor"))
        )
    except (Error, ValueError, OverflowError, InvalidArgumentError) as error:
        raise InvalidArgumentError("is not the nextCursor of a page", field="cursor") from error
