"""Commands about accounts: their credits, and the keys of those who work for them. ``commands`` has all commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from arcray.core.ids import AccountId, EntryId, KeyId
from arcray.core.keys import ApiKey
from arcray.core.ledger import Entry, SpendingLimit

__all__ = [
    "IssueCredits",
    "IssueKey",
    "OpenAccount",
    "OpenLogin",
    "Posted",
    "ReportKeyUse",
    "RevokeKey",
    "SetSpendingLimit",
    "TransferCredits",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAccount:
    """Make an account known. Replies ``AccountView``. The same again changes nothing; on other terms it is refused."""

    account_id: AccountId
    limit: SpendingLimit | None = None
    overdraft: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLogin:
    """Make an account known whose owner logs in, with what it begins with. Replies ``AccountView``.

    The same again changes nothing. An account that is there already is refused, login or not: else whoever asks first
    would take it over.

    Args:
        secret: what a password is checked against by whoever lets its owner in; opaque, never a password.
        credits: issued to it, as the entry ``entry_id``; 0 issues none.
    """

    account_id: AccountId
    secret: str = field(repr=False)
    entry_id: EntryId
    credits: int = 0
    memo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSpendingLimit:
    """Set or, with None, lift what an account's work may cost in a period. Replies ``AccountView``."""

    account_id: AccountId
    limit: SpendingLimit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueCredits:
    """Put credits into an account, from nowhere: the operator was paid for them. Replies ``Posted``.

    Args:
        asked_by, request_id: idempotency key and whose it is; "" is none, and ``id`` takes its place.
    """

    id: EntryId
    account_id: AccountId
    credits: int
    asked_by: AccountId = AccountId("")
    request_id: str = ""
    memo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferCredits:
    """Give credits of one account to another. Replies ``Posted``.

    Args:
        asked_by, request_id: idempotency key and whose it is; "" is none, and ``id`` takes its place.
    """

    id: EntryId
    source: AccountId
    target: AccountId
    credits: int
    asked_by: AccountId = AccountId("")
    request_id: str = ""
    memo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueKey:
    """Make a key valid; its sender has made the secret. Replies ``KeyView``. The same again changes nothing."""

    key: ApiKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeKey:
    """Make a key worthless at once and for ever.

    Args:
        account: who asks; None for the operator, who may revoke any.
    """

    key_id: KeyId
    account: AccountId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportKeyUse:
    """Gateways saw these keys, about then; keys that are unknown by now are passed over."""

    used: tuple[tuple[KeyId, datetime], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """The credits have moved, and that is on disk.

    Args:
        created: False when the request id was known and this is the entry of the first request.
    """

    entry: Entry
    created: bool = True
