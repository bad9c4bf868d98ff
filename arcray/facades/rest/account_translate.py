"""Accounts and keys: bodies to core's words and back. What an issued key looks like is decided here."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId, KeyId, NodeId, canonical_uuid
from arcray.core.keys import ApiKey, KeyView
from arcray.core.ledger import AccountView, Book, Entry, SpendingLimit
from arcray.core.queries import Statement
from arcray.facades.rest import account_messages as m

__all__ = [
    "SECRET_BYTES",
    "account_message",
    "cursor_of",
    "entry_message",
    "issued_message",
    "key_message",
    "key_of",
    "limit_of",
    "statement_message",
]

SECRET_BYTES: Final = 32
_SIGN: Final = "arc_"  # by which secret scanners, and people, know a key when they see one
_PREFIX: Final = len(_SIGN) + 8
_CURSOR_DIGITS: Final = 18  # fits a SQL BIGINT


def limit_of(body: m.LimitMessage | None) -> SpendingLimit | None:
    """Returns a spending limit."""
    return None if body is None else SpendingLimit(credits=body.credits, period_s=body.period_s)


def account_message(view: AccountView) -> m.AccountMessage:
    """Returns an account as REST shows it."""
    limit = view.limit
    return m.AccountMessage(
        id=view.id,
        opened_at=view.opened_at,
        available=view.available,
        held=view.held,
        overdraft=view.overdraft,
        limit=None if limit is None else m.LimitMessage(credits=limit.credits, period_s=limit.period_s),
        spent=view.spent,
    )


def entry_message(entry: Entry, account_id: AccountId) -> m.EntryMessage:
    """Returns an entry as the account that it was asked for sees it."""
    mine = next(p for p in entry.postings if p.account == account_id and p.book is Book.AVAILABLE)
    return m.EntryMessage(
        id=entry.id, kind=entry.kind, credits=mine.credits, balance=mine.balance, memo=entry.memo, at=entry.at
    )


def statement_message(found: Statement) -> m.StatementMessage:
    """Returns a page of a statement."""
    return m.StatementMessage(
        lines=[
            m.LineMessage(
                entry=line.entry.id,
                kind=line.entry.kind,
                book=line.posting.book.value,
                credits=line.posting.credits,
                balance=line.posting.balance,
                workload_id=line.entry.workload_id,
                memo=line.entry.memo,
                at=line.entry.at,
            )
            for line in found.lines
        ],
        next=None if found.next is None else str(found.next),
    )


def cursor_of(text: str | None) -> int | None:
    """Returns where a page begins.

    Raises:
        InvalidArgumentError: the text is no ``next`` of an earlier page.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _CURSOR_DIGITS):
        raise InvalidArgumentError("is not the next of an earlier page", field="cursor")
    return int(text)


def key_of(body: m.KeyBody, key_id: str, random: bytes, now: datetime) -> tuple[ApiKey, str]:
    """Returns a new key, and its secret, which nothing keeps.

    Args:
        random: ``SECRET_BYTES`` bytes that nobody can guess.
    """
    secret = _SIGN + urlsafe_b64encode(random).decode().rstrip("=")
    lifetime = body.expires_in_s
    key = ApiKey(
        id=KeyId(key_id),
        account=AccountId(body.account),
        scope=body.scope,
        name=body.name,
        prefix=secret[:_PREFIX],
        digest=sha256(secret.encode()).hexdigest(),
        created_at=now,
        expires_at=None if lifetime is None else now + timedelta(seconds=lifetime),
        node_id=None if body.node_id is None else NodeId(canonical_uuid(body.node_id, "nodeId")),
    )
    return key, secret


def key_message(view: KeyView) -> m.KeyMessage:
    """Returns a key as REST shows it."""
    return m.KeyMessage.model_validate(_members(view), by_name=True)


def issued_message(view: KeyView, secret: str) -> m.IssuedKeyMessage:
    """Returns a key that was just issued, with its secret."""
    return m.IssuedKeyMessage.model_validate({**_members(view), "key": secret}, by_name=True)


def _members(view: KeyView) -> Mapping[str, object]:
    key = view.key
    return {
        "id": key.id,
        "account": key.account,
        "scope": key.scope,
        "name": key.name,
        "prefix": key.prefix,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "node_id": key.node_id,
        "last_used": view.last_used,
    }
