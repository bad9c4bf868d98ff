"""Keys: issued to accounts, also twice, and revoked; what is revoked is worth nothing at any later time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from arcray.core import events as ev
from arcray.core.commands import Command, IssueKey, RevokeKey
from arcray.core.ids import KeyId
from arcray.core.keys import ApiKey
from arcray.testing.builders import a_key
from arcray.testing.simulation.nouns.accounts import BookFacts
from arcray.testing.simulation.nouns.cast import ACCOUNTS, Cast
from arcray.testing.simulation.promise import must

__all__ = ["KeyFacts", "draw_key"]


def draw_key(dice: Random, cast: Cast) -> Command:
    """Returns a key that is issued, again or in another form, or that is revoked by whoever may and whoever may not."""
    if cast.keys and dice.random() < 0.4:
        key = dice.choice(cast.keys)
        return RevokeKey(key_id=key.id, account=dice.choice((None, *ACCOUNTS)))
    if cast.keys and dice.random() < 0.3:
        key = dice.choice(cast.keys)
        return IssueKey(key=dice.choice((key, replace(key, name="another"))))
    key = a_key(len(cast.keys) + 1, account=dice.choice(ACCOUNTS), created_at=cast.client_time(dice))
    cast.keys.append(key)
    return IssueKey(key=key)


class KeyFacts:
    """What is on disk of keys.

    Attributes:
        known: those that are valid.
        ever: ids of all that were.
    """

    def __init__(self, books: BookFacts) -> None:
        self.known: dict[KeyId, ApiKey] = {}
        self.ever: set[KeyId] = set()
        self._books = books

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {ev.KeyIssued: self._issued, ev.KeyRevoked: self._revoked}

    def compare(self, keys: Iterable[ApiKey], where: str) -> None:
        """Checks that the valid keys are those that the facts leave."""
        must({key.id: key for key in keys} == self.known, f"other keys are in {where} than were issued")

    def _issued(self, event: ev.KeyIssued) -> None:
        key = event.key
        must(key.id not in self.known, f"key {key.id} is issued twice")
        must(key.account in self._books.known, f"key {key.id} is for {key.account}, who has no account")
        self.known[key.id] = key
        self.ever.add(key.id)

    def _revoked(self, event: ev.KeyRevoked) -> None:
        must(event.key_id in self.known, f"key {event.key_id} is revoked, and not there")
        del self.known[event.key_id]
