"""Facts about accounts: their credits, and the keys of those who work for them. ``events`` has all facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from arcray.core.ids import AccountId, KeyId, WorkloadId
from arcray.core.keys import ApiKey
from arcray.core.ledger import Entry, SpendingLimit
from arcray.core.tariff import Meter

__all__ = [
    "AccountOpened",
    "CreditsMoved",
    "KeyIssued",
    "KeyRevoked",
    "KeysUsed",
    "LoginSet",
    "SpendingLimitSet",
    "WorkloadCharged",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadCharged:
    """What a workload has paid, or what is set aside for it, is another amount now.

    Args:
        entry: the credits that moved for it; None where none did.
        durable: not while its sender waits; then only what it paid at its end is.
    """

    workload_id: WorkloadId
    meter: Meter
    entry: Entry | None
    durable: bool
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOpened:
    """An account became known."""

    durable: ClassVar[bool] = True
    account_id: AccountId
    at: datetime
    limit: SpendingLimit | None = None
    overdraft: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSet:
    """An account's owner logs in from now on, by this secret and no earlier one."""

    durable: ClassVar[bool] = True
    account_id: AccountId
    secret: str = field(repr=False)
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingLimitSet:
    """An operator set, changed or lifted what an account's work may cost."""

    durable: ClassVar[bool] = True
    account_id: AccountId
    limit: SpendingLimit | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsMoved:
    """Credits were issued or transferred, because someone asked for it."""

    durable: ClassVar[bool] = True
    entry: Entry
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyIssued:
    """A key became valid."""

    durable: ClassVar[bool] = True
    key: ApiKey
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRevoked:
    """A key is worth nothing any more."""

    durable: ClassVar[bool] = True
    key_id: KeyId
    digest: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysUsed:
    """Gateways saw these keys, about then."""

    durable: ClassVar[bool] = False
    used: tuple[tuple[KeyId, datetime], ...]
    at: datetime
