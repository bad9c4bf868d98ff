"""The issued keys that one process remembers, and those that nobody has. No I/O: times come in.

What lives here: how long and how many. What does not: asking for a key, and what a fact about keys means
(``identity``). Invariants: nothing is older than its term; no more entries than the limit, so nobody can fill memory
with keys that do not exist; what was asked for before the cache forgot anything is not put in after it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from arcray.core.ids import AccountId, KeyId, NodeId
from arcray.core.keys import ApiKey, Scope

__all__ = ["Identity", "KeyCache", "Known"]

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller.

    Args:
        name: shown to people and in logs.
        node_id: the one machine that it may be; None for all scopes but node.
        key_id: of the issued key; None for a key of the settings.
    """

    account: AccountId
    name: str
    scope: Scope
    node_id: NodeId | None = None
    key_id: KeyId | None = None

    @property
    def sees(self) -> AccountId | None:
        """The account whose work it may see and stop; None sees all."""
        return None if self.scope in (Scope.ADMIN, Scope.OPERATOR) else self.account


@dataclass(slots=True, kw_only=True)
class Known:
    """A key that is valid, until ``expires_at``.

    Args:
        digest: of its secret.
        asked_s: when the scheduler said so, on the monotonic clock.
        used_at: when it was last seen here; None when it was not.
    """

    digest: bytes
    identity: Identity
    expires_at: datetime | None
    asked_s: float
    used_at: datetime | None = None


class KeyCache:
    """Keys by the digest of their secret.

    Args:
        limit: keys, and as many wrong ones.
        term_s: longest life of an entry.
        wrong_term_s: the same for a wrong key.

    Attributes:
        generation: grows whenever something is forgotten before its time.
    """

    def __init__(self, *, limit: int, term_s: float, wrong_term_s: float) -> None:
        self.generation = 0
        self._limit = limit
        self._term_s = term_s
        self._wrong_term_s = wrong_term_s
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._wrong: OrderedDict[bytes, float] = OrderedDict()
        self._digests: dict[KeyId, bytes] = {}

    def __len__(self) -> int:
        return len(self._known) + len(self._wrong)

    def find(self, digest: bytes, now_s: float) -> Known | None:
        """Returns a key that is known here and fresh."""
        known = self._known.get(digest)
        return known if known is not None and now_s - known.asked_s < self._term_s else None

    def is_wrong(self, digest: bytes, now_s: float) -> bool:
        """Whether nobody had this key a moment ago."""
        asked_s = self._wrong.get(digest)
        return asked_s is not None and now_s - asked_s < self._wrong_term_s

    def add(self, digest: bytes, key: ApiKey, now_s: float) -> None:
        """Remembers a key."""
        identity = Identity(
            account=key.account, name=key.name or key.account, scope=key.scope, node_id=key.node_id, key_id=key.id
        )
        before = self._known.pop(digest, None)
        self._known[digest] = Known(
            digest=digest,
            identity=identity,
            expires_at=key.expires_at,
            asked_s=now_s,
            used_at=before.used_at if before else None,
        )
        self._digests[key.id] = digest
        while len(self._known) > self._limit:
            _, oldest = self._known.popitem(last=False)
            if oldest.identity.key_id is not None:
                self._digests.pop(oldest.identity.key_id, None)

    def add_wrong(self, digest: bytes, now_s: float) -> None:
        """Remembers that nobody has a key."""
        _renew(self._wrong, digest, now_s)
        while len(self._wrong) > self._limit:
            self._wrong.popitem(last=False)

    def forget(self, key_id: KeyId) -> None:
        """Forgets a key: it was revoked."""
        self.generation += 1
        digest = self._digests.pop(key_id, None)
        if digest is not None:
            self._known.pop(digest, None)

    def forget_wrong(self, digest: bytes) -> None:
        """Forgets that nobody had a key: it was issued."""
        self.generation += 1
        self._wrong.pop(digest, None)

    def clear(self) -> None:
        """Forgets everything: what happened meanwhile is not known."""
        self.generation += 1
        self._known.clear()
        self._wrong.clear()
        self._digests.clear()

    def used_since(self, then: datetime) -> tuple[tuple[KeyId, datetime], ...]:
        """Returns the keys that were seen after a time, and when last."""
        return tuple(
            (known.identity.key_id, known.used_at)
            for known in self._known.values()
            if known.used_at is not None and known.used_at > then and known.identity.key_id is not None
        )


def _renew(entries: OrderedDict[_K, Any], key: _K, value: object) -> None:
    """Puts an entry at the end, where the newest are."""
    entries.pop(key, None)
    entries[key] = value
