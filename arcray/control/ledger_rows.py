"""Rows of the ledger and of keys, and the reading of statements.

A posting's row carries the entry that it is part of without the other postings: they are other accounts' business, and
its own are the columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import sqlalchemy as sa

from arcray.control.rows import Row, column, decode_event, decode_row, encode, microseconds
from arcray.control.schema import ACCOUNTS, ENTRIES, EVENTS, KEYS, POSTINGS
from arcray.core.cluster import Ledger
from arcray.core.events import KeyRevoked
from arcray.core.ids import AccountId, KeyId
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account, Book, Entry, Posting, durable_account
from arcray.core.queries import GetStatement, Statement, StatementLine

__all__ = [
    "account_row",
    "entry_row",
    "key_row",
    "load_keys",
    "load_ledger",
    "load_revoked",
    "posting_rows",
    "read_entry",
    "read_statement",
]


def account_row(account: Account) -> Row:
    """Returns the current row of an account with its balances."""
    return {
        "id": column(account.id),
        "available": account.available,
        "held": account.held,
        "opened_at": microseconds(account.opened_at),
        "body": encode(durable_account(account)),
    }


def posting_rows(entry: Entry) -> list[Row]:
    """Returns the rows of an entry's postings; their ``seq`` is given by the database."""
    body = encode(replace(entry, postings=(), asked_by=AccountId(""), request_id=""))
    return [
        {
            "account": column(posting.account),
            "book": posting.book.value,
            "credits": posting.credits,
            "balance": posting.balance,
            "at": microseconds(entry.at),
            "entry": column(entry.id),
            "body": body,
        }
        for posting in entry.postings
    ]


def entry_row(entry: Entry) -> Row:
    """Returns the row of an entry under its idempotency key."""
    return {
        "id": column(entry.id),
        "asked_by": column(entry.asked_by),
        "request_id": column(entry.request_id),
        "at": microseconds(entry.at),
        "body": encode(entry),
    }


def key_row(key: ApiKey) -> Row:
    """Returns the row of an API key."""
    return {
        "id": column(key.id),
        "account": column(key.account),
        "digest": key.digest,
        "created_at": microseconds(key.created_at),
        "body": encode(key),
    }


def load_ledger(connection: sa.Connection, *, requests_kept: int) -> Ledger:
    """Reads all accounts, and the newest entries with an idempotency key."""
    accounts = connection.execute(
        sa.select(ACCOUNTS.c.id, ACCOUNTS.c.body).order_by(ACCOUNTS.c.opened_at, ACCOUNTS.c.id)
    )
    newest = sa.select(ENTRIES.c.id, ENTRIES.c.body).order_by(ENTRIES.c.at.desc(), ENTRIES.c.id.desc())
    entries = _entries(connection.execute(newest.limit(requests_kept + 1)))
    return Ledger(
        accounts=[decode_row(Account, row.id, row.body) for row in accounts],
        entries=entries[:requests_kept][::-1],
        forgetful=len(entries) > requests_kept,
    )


def load_keys(connection: sa.Connection) -> list[ApiKey]:
    """Reads all keys, in order of issue."""
    rows = connection.execute(sa.select(KEYS.c.id, KEYS.c.body).order_by(KEYS.c.created_at, KEYS.c.id))
    return [decode_row(ApiKey, row.id, row.body) for row in rows]


def load_revoked(connection: sa.Connection, kept: int) -> list[KeyId]:
    """Reads which keys were revoked last, earliest first; events are what is left of them."""
    revoked = sa.select(EVENTS.c.kind, EVENTS.c.body).where(sa.text("kind = 'KeyRevoked'"))
    newest = connection.execute(revoked.order_by(EVENTS.c.seq.desc()).limit(kept))
    events = (decode_event(row.kind, row.body) for row in newest)
    return [event.key_id for event in events if isinstance(event, KeyRevoked)][::-1]


def read_entry(connection: sa.Connection, asked_by: AccountId, request_id: str) -> Entry | None:
    """Reads the entry of an idempotency key."""
    found = sa.select(ENTRIES.c.id, ENTRIES.c.body).where(
        ENTRIES.c.asked_by == column(asked_by), ENTRIES.c.request_id == column(request_id)
    )
    return next(iter(_entries(connection.execute(found))), None)


def read_statement(connection: sa.Connection, query: GetStatement) -> Statement:
    """Reads a page of an account's postings, newest first."""
    mine = sa.select(POSTINGS).where(POSTINGS.c.account == column(query.account_id))
    if query.before is not None:
        mine = mine.where(POSTINGS.c.seq < query.before)
    rows = connection.execute(mine.order_by(POSTINGS.c.seq.desc()).limit(query.limit + 1)).all()
    lines = tuple(
        StatementLine(
            seq=row.seq,
            entry=decode_row(Entry, row.entry, row.body),
            posting=Posting(account=query.account_id, book=Book(row.book), credits=row.credits, balance=row.balance),
        )
        for row in rows[: query.limit]
    )
    return Statement(lines=lines, next=lines[-1].seq if lines and len(rows) > query.limit else None)


def _entries(rows: Iterable[sa.Row[tuple[str, str]]]) -> list[Entry]:
    return [decode_row(Entry, row.id, row.body) for row in rows]
