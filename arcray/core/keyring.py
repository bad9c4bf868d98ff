"""The keys that are valid, by id and by digest.

A revoked key is gone from here; the events tell that it was. The ids of the newest are remembered, after a restart too,
for longer than a command that issues one could be on its way: one that comes late does not make it valid again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Final, assert_never

from arcray.core import events as ev
from arcray.core.ids import AccountId, KeyId
from arcray.core.keys import ApiKey, KeyView

__all__ = ["REVOKED_KEPT", "KeyRing"]

REVOKED_KEPT: Final = 10_000
"""Of how many revoked keys the ids are remembered."""


class KeyRing:
    """All keys that were issued and not revoked; expired ones too, until someone revokes them.

    Attributes:
        keys: in order of issue.
    """

    def __init__(self) -> None:
        self.keys: dict[KeyId, ApiKey] = {}
        self._by_digest: dict[str, KeyId] = {}
        self._of_account: Counter[AccountId] = Counter()
        self._used: dict[KeyId, datetime] = {}
        self._revoked: OrderedDict[KeyId, None] = OrderedDict()  # the newest

    def apply(self, event: ev.KeyIssued | ev.KeyRevoked | ev.KeysUsed) -> None:
        """Changes the keys as the fact says."""
        match event:
            case ev.KeyIssued():
                self._add(event.key)
            case ev.KeyRevoked():
                key = self.keys.pop(event.key_id)
                del self._by_digest[key.digest]
                self._of_account[key.account] -= 1
                self._used.pop(event.key_id, None)
                self._forget(event.key_id)
            case ev.KeysUsed():
                self._used.update((key_id, at) for key_id, at in event.used if key_id in self.keys)
            case _:
                assert_never(event)

    def restore(self, keys: Iterable[ApiKey], revoked: Iterable[KeyId] = ()) -> None:
        """Fills an empty ring from rows.

        Args:
            revoked: the newest that were revoked, earliest first.
        """
        for key in keys:
            self._add(key)
        for key_id in revoked:
            self._forget(key_id)

    def find(self, digest: str) -> KeyView | None:
        """Returns the key of a secret's digest."""
        key_id = self._by_digest.get(digest)
        return None if key_id is None else self.view(key_id)

    def was_revoked(self, key_id: KeyId) -> bool:
        """Returns whether a key was revoked a short while ago."""
        return key_id in self._revoked

    def view(self, key_id: KeyId) -> KeyView:
        """Returns a snapshot of a key."""
        return KeyView(key=self.keys[key_id], last_used=self._used.get(key_id))

    def count(self, account: AccountId) -> int:
        """Returns how many keys an account has."""
        return self._of_account[account]

    def check_invariants(self) -> None:
        """Asserts that the indexes agree with the keys. For tests."""
        assert {key.digest: key.id for key in self.keys.values()} == self._by_digest
        assert Counter(key.account for key in self.keys.values()) == +self._of_account
        assert self._used.keys() <= self.keys.keys()

    def _forget(self, key_id: KeyId) -> None:
        """Takes note that a key is never to be valid again."""
        self._revoked[key_id] = None
        if len(self._revoked) > REVOKED_KEPT:
            self._revoked.popitem(last=False)

    def _add(self, key: ApiKey) -> None:
        self.keys[key.id] = key
        self._by_digest[key.digest] = key.id
        self._of_account[key.account] += 1
