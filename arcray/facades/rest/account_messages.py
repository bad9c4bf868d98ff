"""Bodies of accounts and keys, both ways: names, types and limits of every member. No meaning."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

from pydantic import Field

from arcray.core.keys import Scope
from arcray.core.ledger import EntryKind
from arcray.core.quantity import MAX_QUANTITY
from arcray.facades.rest.messages import Message
from arcray.facades.rest.strict import StrictMessage

__all__ = [
    "AccountBody",
    "AccountMessage",
    "AccountsMessage",
    "BalanceMessage",
    "DepositBody",
    "EntryMessage",
    "IssuedKeyMessage",
    "KeyBody",
    "KeyMessage",
    "KeysMessage",
    "LimitBody",
    "LimitMessage",
    "LineMessage",
    "StatementMessage",
    "TransferBody",
]

_Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]
_Credits: TypeAlias = Annotated[int, Field(ge=1, le=MAX_QUANTITY)]
_Memo: TypeAlias = Annotated[str, Field(max_length=256, description="a word for people")]


class LimitMessage(StrictMessage):
    """The most that an account's work may cost within one period; periods follow each other, counted from 1970."""

    credits: Annotated[int, Field(ge=0, le=MAX_QUANTITY)]
    period_s: Annotated[int, Field(ge=1, le=316_224_000, description="86400 is a day in UTC")]


class AccountBody(StrictMessage):
    """Open an account."""

    id: Annotated[_Name, Field(description="printable, no slashes, not beginning with @")]
    limit: LimitMessage | None = None
    overdraft: Annotated[int, Field(ge=0, le=MAX_QUANTITY, description="how far below zero it may go")] = 0


class LimitBody(StrictMessage):
    """Set a spending limit; null lifts it."""

    limit: LimitMessage | None


class DepositBody(StrictMessage):
    """Put credits into circulation: into an account, from the issuer."""

    credits: _Credits
    memo: _Memo = ""


class TransferBody(StrictMessage):
    """Give credits to another account."""

    to: _Name
    credits: _Credits
    memo: _Memo = ""


class KeyBody(StrictMessage):
    """Issue a key."""

    account: _Name
    scope: Scope
    name: Annotated[str, Field(max_length=128, description="a word for people")] = ""
    expires_in_s: Annotated[int | None, Field(ge=1, le=10 * 366 * 86_400, description="null is never")] = None
    node_id: Annotated[str | None, Field(max_length=64, description="of scope node: the one machine")] = None


class AccountMessage(Message):
    """An account. ``held`` is set aside for live work; ``spent`` counts in the present period of the limit."""

    id: str
    opened_at: datetime
    available: int
    held: int
    overdraft: int
    limit: LimitMessage | None
    spent: int


class AccountsMessage(Message):
    """One page of accounts."""

    accounts: list[AccountMessage]
    total: int
    limit: int
    offset: int


class BalanceMessage(Message):
    """What an account has."""

    available: int
    held: int


class EntryMessage(Message):
    """Credits that moved; ``balance`` is what the account in the path has after it."""

    id: str
    kind: EntryKind
    credits: int
    balance: int
    memo: str
    at: datetime


class LineMessage(Message):
    """A posting: ``credits`` went to a book (below 0: left it), which then stood at ``balance``."""

    entry: str
    kind: EntryKind
    book: str
    credits: int
    balance: int
    workload_id: str | None
    memo: str
    at: datetime


class StatementMessage(Message):
    """One page of postings, newest first; ``next`` is the ``cursor`` of the next page, null on the last."""

    lines: list[LineMessage]
    next: str | None


class KeyMessage(Message):
    """A key without its secret, recognised by its ``prefix``; ``lastUsed`` to about a minute."""

    id: str
    account: str
    scope: Scope
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    node_id: str | None
    last_used: datetime | None


class IssuedKeyMessage(KeyMessage):
    """A key that was just issued, with its secret: shown now and never again."""

    key: str


class KeysMessage(Message):
    """One page of keys."""

    keys: list[KeyMessage]
    total: int
    limit: int
    offset: int
