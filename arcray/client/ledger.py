"""Accounts and keys, as the client offers them: ``client.accounts`` and ``client.keys``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import quote

from arcray.client.transport import Transport, new_key

__all__ = ["AccountInfo", "Accounts", "IssuedKey", "KeyInfo", "Keys", "StatementLine"]

_View = TypeVar("_View")
_PAGE = 100
_ACCOUNTS = "/api/v1/accounts"
_KEYS = "/api/v1/keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountInfo:
    """An account.

    Args:
        available: credits that it may spend.
        held: credits set aside for its live work.
        limit: what its work may cost: credits, and the period in seconds; None is no limit.
        spent: what its work cost in the present period of the limit.
    """

    id: str
    available: int
    held: int
    limit: tuple[int, int] | None
    spent: int
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a body of ``/api/v1/accounts``."""
        limit = body.get("limit")
        return cls(
            id=body["id"],
            available=body.get("available", 0),
            held=body.get("held", 0),
            limit=(limit["credits"], limit["periodS"]) if limit else None,
            spent=body.get("spent", 0),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """A posting to a book of an account: ``available``, or ``held`` for its work."""

    entry: str
    kind: str
    book: str
    credits: int
    balance: int
    workload_id: str | None
    memo: str
    at: str
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a line of a statement."""
        return cls(
            entry=body["entry"],
            kind=body["kind"],
            book=body["book"],
            credits=body["credits"],
            balance=body["balance"],
            workload_id=body.get("workloadId"),
            memo=body.get("memo", ""),
            at=body["at"],
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """An API key without its secret.

    Args:
        prefix: the first characters of the secret, by which it is recognised.
        last_used: to about a minute; None when it was not since the scheduler started.
    """

    id: str
    account: str
    scope: str
    name: str
    prefix: str
    expires_at: str | None
    last_used: str | None
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a body of ``/api/v1/keys``."""
        return cls(
            id=body["id"],
            account=body["account"],
            scope=body["scope"],
            name=body.get("name", ""),
            prefix=body.get("prefix", ""),
            expires_at=body.get("expiresAt"),
            last_used=body.get("lastUsed"),
            raw={name: value for name, value in body.items() if name != "key"},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A key that was just issued; ``secret`` is shown this once."""

    info: KeyInfo
    secret: str = field(repr=False)


class Accounts:
    """``client.accounts``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def open(self, account: str, *, limit: tuple[int, int] | None = None, overdraft: int = 0) -> AccountInfo:
        """Opens an account; the same again changes nothing.

        Args:
            limit: what its work may cost: credits, and the period in seconds.
        """
        body: dict[str, Any] = {"id": account, "limit": _limit(limit), "overdraft": overdraft}
        response = self._transport.call("POST", _ACCOUNTS, json=body, repeatable=True)
        return AccountInfo.from_body(response.json())

    def list(self) -> list[AccountInfo]:
        """Returns the accounts that you may see."""
        return list(_pages(self._transport, _ACCOUNTS, "accounts", AccountInfo.from_body))

    def get(self, account: str) -> AccountInfo:
        """Returns an account."""
        return AccountInfo.from_body(self._transport.call("GET", _account(account)).json())

    def set_limit(self, account: str, limit: tuple[int, int] | None) -> AccountInfo:
        """Sets, or with None lifts, what an account's work may cost."""
        response = self._transport.call("PUT", f"{_account(account)}/limit", json={"limit": _limit(limit)})
        return AccountInfo.from_body(response.json())

    def credit(self, account: str, credits: int, *, memo: str = "") -> Mapping[str, Any]:
        """Issues credits to an account; returns the entry."""
        return self._post(f"{_account(account)}/deposit", {"credits": credits, "memo": memo})

    def transfer(self, source: str, target: str, credits: int, *, memo: str = "") -> Mapping[str, Any]:
        """Gives credits of one account to another; returns the entry."""
        return self._post(f"{_account(source)}/transfer", {"to": target, "credits": credits, "memo": memo})

    def statement(self, account: str) -> Iterator[StatementLine]:
        """Yields what was posted to an account, newest first, reading on as it is read."""
        params: dict[str, str | int | float] = {"limit": _PAGE}
        while True:
            page = self._transport.call("GET", f"{_account(account)}/statement", params=params).json()
            yield from map(StatementLine.from_body, page["lines"])
            if page["next"] is None:
                return
            params["cursor"] = page["next"]

    def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        # The key makes a second arrival of the same request move nothing a second time.
        headers = {"Idempotency-Key": new_key()}
        entry: Mapping[str, Any] = self._transport.call(
            "POST", path, json=body, headers=headers, repeatable=True
        ).json()
        return entry


class Keys:
    """``client.keys``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def issue(
        self, account: str, scope: str, *, name: str = "", expires_in_s: int | None = None, node_id: str | None = None
    ) -> IssuedKey:
        """Issues a key. Keep its secret: nobody can show it again.

        Args:
            scope: admin, operator, submit, read or node.
            node_id: of scope node: the one machine that it is for.
        """
        body = {"account": account, "scope": scope, "name": name, "expiresInS": expires_in_s, "nodeId": node_id}
        issued = self._transport.call("POST", _KEYS, json=body).json()
        return IssuedKey(info=KeyInfo.from_body(issued), secret=issued["key"])

    def list(self) -> list[KeyInfo]:
        """Returns the keys that you may see."""
        return list(_pages(self._transport, _KEYS, "keys", KeyInfo.from_body))

    def revoke(self, key_id: str) -> None:
        """Makes a key worthless, at once and for ever."""
        self._transport.call("DELETE", f"{_KEYS}/{quote(key_id, safe='')}")


def _limit(limit: tuple[int, int] | None) -> dict[str, int] | None:
    return None if limit is None else {"credits": limit[0], "periodS": limit[1]}


def _account(account: str) -> str:
    return f"{_ACCOUNTS}/{quote(account, safe='')}"


def _pages(transport: Transport, path: str, member: str, view: Callable[[Mapping[str, Any]], _View]) -> Iterator[_View]:
    seen = 0
    while True:
        page = transport.call("GET", path, params={"limit": _PAGE, "offset": seen}).json()
        yield from map(view, page[member])
        seen += len(page[member])
        if not page[member] or seen >= page["total"]:
            return
