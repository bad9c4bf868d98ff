"""The ledger's nouns: accounts, their books, and entries that move credits between them by double entry.

What lives here: what an account is, what may be spent, what an entry says. What does not: which entries come about
(``handlers/accounts``, ``handlers/charging``) and the books of all accounts (``books``).

Credits are integers. An *entry* is a set of postings that sums to zero, so credits are neither made nor lost: they come
from one issuing account, whose book is the negative of all that was ever issued. Each account has two books: what it
may spend, and what is set aside for work that was admitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId, EntryId, WorkloadId
from arcray.core.quantity import MAX_QUANTITY, bounded

__all__ = [
    "ISSUER",
    "Account",
    "AccountView",
    "Book",
    "Entry",
    "EntryKind",
    "Login",
    "Posting",
    "SpendingLimit",
    "check_account_id",
    "credits_of",
    "durable_account",
]

ISSUER: Final = AccountId("@issuer")
"""Where credits come from. Its available book alone may go below zero without a bound."""

_ID_LIMIT: Final = 128
_SLASHES: Final = frozenset("/\\")


class Book(StrEnum):
    """The books of an account."""

    AVAILABLE = "available"  # may be spent
    HELD = "held"  # set aside for live work


class EntryKind(StrEnum):
    """Why credits moved."""

    ISSUE = "issue"  # an operator put credits into circulation
    TRANSFER = "transfer"  # an account gave to another
    HOLD = "hold"  # set aside for work
    SETTLE = "settle"  # paid for what work used
    REFUND = "refund"  # set aside, and not used


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One book's part of an entry.

    Args:
        credits: what was added; negative where it was taken away.
        balance: of the book, after it.
    """

    account: AccountId
    book: Book
    credits: int
    balance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Credits that moved, all at once.

    Args:
        postings: at most one for each book; their credits sum to zero.
        workload_id: what they were held, settled or refunded for.
        asked_by, request_id: idempotency key of the request, else ``id``, unique per account that asks; "" and ""
            where none asked.
        memo: a word for people.
    """

    id: EntryId
    kind: EntryKind
    postings: tuple[Posting, ...]
    at: datetime
    workload_id: WorkloadId | None = None
    asked_by: AccountId = AccountId("")
    request_id: str = ""
    memo: str = ""

    @property
    def moves(self) -> frozenset[tuple[AccountId, Book, int]]:
        """What moved, without what the books stood at: the same request again asks for the same."""
        return frozenset((posting.account, posting.book, posting.credits) for posting in self.postings)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingLimit:
    """The most that an account's work may cost within one period.

    Periods follow each other without a gap, counted from 1970, so 86,400 s is a day in UTC.

    Raises:
        InvalidArgumentError: a number is out of its range; names it.
    """

    credits: int
    period_s: int

    def __post_init__(self) -> None:
        bounded(self.credits, "limit.credits")
        bounded(self.period_s, "limit.periodS", low=1, high=10 * 366 * 86_400)


@dataclass(slots=True, kw_only=True)
class Account:
    """An account's state. Only ``Books.apply`` changes it.

    Args:
        limit: of what its work may cost; None is no limit.
        overdraft: how far below zero its available book may go; 0 for all but a house's own accounts.
        secret: what its owner's password is checked against, opaque here; "" where nobody logs in.
        reserved: spoken for by requests whose senders wait; volatile, because so are they.
        spent: what its work cost in the period number ``window`` of its limit.
    """

    id: AccountId
    opened_at: datetime
    limit: SpendingLimit | None = None
    overdraft: int = 0
    secret: str = field(default="", repr=False)
    available: int = 0
    held: int = 0
    reserved: int = 0
    spent: int = 0
    window: int = 0

    @property
    def spendable(self) -> int:
        """What it can still give away."""
        return self.available + self.overdraft - self.reserved

    def window_at(self, now: datetime) -> int:
        """Returns the number of the limit's period; 0 without a limit."""
        return 0 if self.limit is None else int(now.timestamp()) // self.limit.period_s

    def left(self, now: datetime) -> int | None:
        """Returns what its work may still cost in this period, what is set aside counted as spent; None: no limit."""
        if self.limit is None:
            return None
        spent = self.spent if self.window == self.window_at(now) else 0
        return self.limit.credits - spent - self.held - self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """What a query answers about an account; a snapshot.

    Args:
        held: set aside for work, requests whose senders wait included.
        spent: what its work cost in the present period of its limit; 0 without one.
    """

    id: AccountId
    opened_at: datetime
    limit: SpendingLimit | None
    overdraft: int
    available: int
    held: int
    spent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How an account's owner is let in; never shown to anybody.

    Args:
        secret: what a password is checked against.
    """

    account: AccountId
    secret: str = field(repr=False)


def durable_account(account: Account) -> Account:
    """Returns the account as it is stored."""
    return replace(account, reserved=0)


def check_account_id(account_id: AccountId, field: str = "id") -> None:
    """Refuses what no account can be called: paths, terminals and people must be able to carry the name.

    Raises:
        InvalidArgumentError: names ``field``.
    """
    if not 1 <= len(account_id) <= _ID_LIMIT:
        raise InvalidArgumentError(f"must have 1 to {_ID_LIMIT} characters", field=field)
    if not account_id.isprintable() or _SLASHES.intersection(account_id) or account_id != account_id.strip():
        raise InvalidArgumentError("must be printable, without slashes and without spaces at its ends", field=field)
    if not account_id.strip("."):
        raise InvalidArgumentError("must not be all dots: no path could name it", field=field)
    if account_id.startswith("@"):
        raise InvalidArgumentError("names that begin with @ are reserved", field=field)


def credits_of(amount: int, field: str = "credits") -> int:
    """Returns an amount that can be moved.

    Raises:
        InvalidArgumentError: it is below 1, or too large to stay exact everywhere; names ``field``.
    """
    return bounded(amount, field, low=1, high=MAX_QUANTITY)
