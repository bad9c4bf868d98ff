"""Commands about accounts and keys."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from arcray.cli.context import Context, options, pass_context
from arcray.cli.kinds import COUNT, POSITIVE
from arcray.cli.output import emit, emit_one

if TYPE_CHECKING:
    from arcray.client import AccountInfo

__all__ = ["accounts", "keys"]

_SCOPES = ("admin", "operator", "submit", "read", "node")  # spelled out: help loads nothing
_DAY_S = 86_400


@click.group()
def accounts() -> None:
    """Accounts, their credits and their limits."""


@accounts.command("list")
@options
@pass_context
def list_accounts(context: Context, /) -> None:
    """List the accounts that you may see."""
    with context.client() as client:
        found = client.accounts.list()
    emit(
        [_account(account) for account in found],
        ["account", "available", "held", "limit", "period_s", "spent"],
        output=context.output,
        bodies=[account.raw for account in found],
    )


@accounts.command()
@click.argument("account")
@click.option("--limit", type=COUNT, help="Credits that its work may cost in a period.")
@click.option("--period-s", type=POSITIVE, default=_DAY_S, show_default=True, help="The period.")
@click.option("--overdraft", type=COUNT, default=0, help="Credits that it may go below zero.")
@options
@pass_context
def create(context: Context, /, account: str, limit: int | None, period_s: int, overdraft: int) -> None:
    """Open an account."""
    with context.client() as client:
        found = client.accounts.open(account, limit=None if limit is None else (limit, period_s), overdraft=overdraft)
    emit_one(_account(found), output=context.output, body=found.raw)


@accounts.command()
@click.argument("account")
@options
@pass_context
def show(context: Context, /, account: str) -> None:
    """Show an account."""
    with context.client() as client:
        found = client.accounts.get(account)
    emit_one(_account(found), output=context.output, body=found.raw)


@accounts.command()
@click.argument("account")
@click.argument("credits", type=POSITIVE)
@click.option("--memo", default="", help="A word for people.")
@options
@pass_context
def credit(context: Context, /, account: str, credits: int, memo: str) -> None:
    """Issue CREDITS to an account."""
    with context.client() as client:
        entry = client.accounts.credit(account, credits, memo=memo)
    emit_one(_entry(account, entry), output=context.output, body=entry)


@accounts.command()
@click.argument("source")
@click.argument("target")
@click.argument("credits", type=POSITIVE)
@click.option("--memo", default="", help="A word for people.")
@options
@pass_context
def transfer(context: Context, /, source: str, target: str, credits: int, memo: str) -> None:
    """Give CREDITS of SOURCE to TARGET."""
    with context.client() as client:
        entry = client.accounts.transfer(source, target, credits, memo=memo)
    emit_one(_entry(source, entry), output=context.output, body=entry)


@accounts.command("limit")
@click.argument("account")
@click.argument("credits", type=COUNT, required=False)
@click.option("--period-s", type=POSITIVE, default=_DAY_S, show_default=True, help="The period.")
@options
@pass_context
def set_limit(context: Context, /, account: str, credits: int | None, period_s: int) -> None:
    """Set what an account's work may cost; without CREDITS, lift it."""
    with context.client() as client:
        found = client.accounts.set_limit(account, None if credits is None else (credits, period_s))
    emit_one(_account(found), output=context.output, body=found.raw)


@accounts.command()
@click.argument("account")
@click.option("--limit", "lines", type=POSITIVE, default=20, show_default=True, help="Postings to show.")
@options
@pass_context
def statement(context: Context, /, account: str, lines: int) -> None:
    """Show what was posted to an account, newest first."""
    with context.client() as client:
        found = list(islice(client.accounts.statement(account), lines))
    emit(
        [
            {
                "at": line.at,
                "kind": line.kind,
                "book": line.book,
                "credits": line.credits,
                "balance": line.balance,
                "for": line.workload_id or line.memo,
            }
            for line in found
        ],
        ["at", "kind", "book", "credits", "balance", "for"],
        output=context.output,
        bodies=[line.raw for line in found],
    )


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("list")
@options
@pass_context
def list_keys(context: Context, /) -> None:
    """List the keys that you may see."""
    with context.client() as client:
        found = client.keys.list()
    emit(
        [
            {
                "id": key.id,
                "account": key.account,
                "scope": key.scope,
                "name": key.name,
                "key": f"{key.prefix}…",
                "expires": key.expires_at,
                "last_used": key.last_used,
            }
            for key in found
        ],
        ["id", "account", "scope", "name", "key", "expires", "last_used"],
        output=context.output,
        bodies=[key.raw for key in found],
    )


@keys.command("create")
@click.argument("account")
@click.option("--scope", type=click.Choice(_SCOPES), required=True, help="What it may do.")
@click.option("--name", default="", help="A word for people.")
@click.option("--expires-in-days", type=POSITIVE, help="It is worth nothing from then on.")
@click.option("--node-id", help="Of scope node: the one machine that it is for.")
@options
@pass_context
def create_key(
    context: Context, /, account: str, scope: str, *, name: str, expires_in_days: int | None, node_id: str | None
) -> None:
    """Issue a key for an account. It is printed this once."""
    with context.client() as client:
        issued = client.keys.issue(
            account,
            scope,
            name=name,
            expires_in_s=None if expires_in_days is None else expires_in_days * _DAY_S,
            node_id=node_id,
        )
    row = {"id": issued.info.id, "account": account, "scope": scope, "key": issued.secret}
    emit_one(row, output=context.output, body={**issued.info.raw, "key": issued.secret})


@keys.command()
@click.argument("key_id")
@options
@pass_context
def revoke(context: Context, /, key_id: str) -> None:
    """Make a key worthless, at once and for ever. KEY_ID is its id, not the key."""
    with context.client() as client:
        client.keys.revoke(key_id)
    emit_one({"id": key_id, "revoked": True}, output=context.output)


def _account(account: AccountInfo) -> dict[str, Any]:
    limit, period_s = account.limit or (None, None)
    return {
        "account": account.id,
        "available": account.available,
        "held": account.held,
        "limit": limit,
        "period_s": period_s,
        "spent": account.spent,
    }


def _entry(account: str, entry: Any) -> dict[str, Any]:
    return {"account": account, "credits": entry["credits"], "balance": entry["balance"], "entry": entry["id"]}
