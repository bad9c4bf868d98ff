"""API keys: what an identity may do, and for how long.

A key is 256 random bits. What is stored is its SHA-256 and nothing slower: a slow, salted hash protects passwords,
which can be guessed; nobody guesses 256 random bits, and a hash that takes 50 ms would be paid by every request.
The secret is made by whoever answers the person who asked; core and the rows never see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from arcray.core.ids import AccountId, KeyId, NodeId

__all__ = ["ApiKey", "KeyView", "Scope"]


class Scope(StrEnum):
    """What an identity may do. Each of the first four includes those below it."""

    ADMIN = "admin"  # everything: accounts, credits and keys too
    OPERATOR = "operator"  # nodes, and the work of every account
    SUBMIT = "submit"  # its own account's work, and giving its credits away
    READ = "read"  # looks at what its own account has
    NODE = "node"  # one machine: joins, takes orders, reports

    def allows(self, needed: Scope) -> bool:
        """Whether it includes another scope."""
        return self is needed or (self in _RANK and _RANK[self] >= _RANK.get(needed, _RANK[Scope.OPERATOR]))


_RANK: Final[dict[Scope, int]] = {Scope.READ: 0, Scope.SUBMIT: 1, Scope.OPERATOR: 2, Scope.ADMIN: 3}
# A node's scope is beside them: a machine submits nothing, and who may submit is no machine. Operators may stand in.


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key, without its secret.

    Args:
        account: whose work it sees and submits.
        name: a word for people.
        prefix: the first characters of the secret, by which people recognise it.
        digest: SHA-256 of the secret, in hexadecimal.
        expires_at: it is worth nothing from then on; None is never.
        node_id: the one machine that a node's key is for; None for all other scopes.
    """

    id: KeyId
    account: AccountId
    scope: Scope
    prefix: str
    digest: str
    created_at: datetime
    name: str = ""
    expires_at: datetime | None = None
    node_id: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """What a query answers about a key.

    Args:
        last_used: to about a minute; None when it was not since the scheduler started.
    """

    key: ApiKey
    last_used: datetime | None
