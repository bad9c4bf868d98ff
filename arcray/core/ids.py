"""Identities. Core ids are UUIDs in canonical text form; a foreign id becomes a UUIDv5 of ``facade:id``.

Ids are plain strings: they are keys of dictionaries, SQL rows and JSON objects, and a UUID object would be converted
at each of those borders (measured: 1.5 us to build one). ``NewType`` keeps them apart for the type checker.
Core never makes a random id; commands bring theirs, made by an ``Ids`` port at the edge.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NewType
from uuid import UUID, uuid5

from arcray.core.errors import InvalidArgumentError

__all__ = [
    "AccountId",
    "EntryId",
    "KeyId",
    "ModelId",
    "NodeId",
    "ReservationId",
    "WorkloadId",
    "canonical_uuid",
    "foreign_id",
    "keyed_id",
]

NodeId = NewType("NodeId", str)
WorkloadId = NewType("WorkloadId", str)
ModelId = NewType("ModelId", str)  # the model's public name, for example "llama-3-70b": what every protocol uses
AccountId = NewType("AccountId", str)
EntryId = NewType("EntryId", str)  # a movement of credits: its sender's UUID, or "<workload>/<number>"
KeyId = NewType("KeyId", str)
ReservationId = NewType("ReservationId", str)

_NAMESPACE: Final = UUID("5f2b3c0e-6d0a-5b6e-9a51-2f6b0f1c7a11")  # of arcray's foreign ids; never changes


def canonical_uuid(text: str, field: str = "id") -> str:
    """Returns the lower-case hyphenated form of any accepted UUID spelling.

    Raises:
        InvalidArgumentError: text is no UUID; names ``field``.
    """
    try:
        return str(UUID(text))
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidArgumentError("is not a UUID", field=field) from error


@lru_cache(maxsize=4_096)  # a kilobyte each at the most; whoever names a thing names it again and again
def foreign_id(facade: str, external_id: str) -> str:
    """Returns the core id of a thing that another protocol named: its own UUID, or the UUIDv5 of ``facade:id``."""
    try:
        return str(UUID(external_id))
    except ValueError:
        return str(uuid5(_NAMESPACE, f"{facade}:{external_id}"))


def keyed_id(kind: str, account: AccountId, key: str) -> str:
    """Returns the core id of what an account asked for by a key of its own: the same every time, and nobody else's.

    Args:
        kind: what was asked for; lower-case letters.
    """
    # Accounts may hold the colon that parts them from their keys; only those say how long they are. The others have the
    # ids that they always had.
    owner = f"{kind}:{account}" if ":" not in account else f"{kind}-of-{len(account)}:{account}"
    return str(uuid5(_NAMESPACE, f"{owner}:{key}"))
