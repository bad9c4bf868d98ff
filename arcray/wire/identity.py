"""Who is calling: turns the credentials of a request into an ``Identity``, or refuses.

Open mode takes everyone as the account ``local``. Keys mode wants ``Authorization: Bearer <key>`` or ``?apiKey=<key>``
(one protocol has no other place for it; see ``RedactApiKeys`` for what that means to logs).
Keys are compared by digest, all of them every time, so that neither a matching prefix nor the position shows in time.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from starlette.requests import HTTPConnection

from arcray.config import AuthSettings
from arcray.core.errors import UnauthenticatedError
from arcray.core.ids import AccountId

__all__ = ["LOCAL", "Authenticator", "Identity", "RedactApiKeys", "Scope", "redact"]


class Scope(StrEnum):
    """What an identity may do."""

    ADMIN = "admin"  # everything, of every account
    SUBMIT = "submit"  # its own work


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller.

    Args:
        name: shown to people and in logs.
    """

    account: AccountId
    name: str
    scope: Scope

    @property
    def sees(self) -> AccountId | None:
        """The account whose work it may see and stop; None sees all."""
        return None if self.scope is Scope.ADMIN else self.account


LOCAL: Final = Identity(account=AccountId("local"), name="local", scope=Scope.ADMIN)
"""Everyone, in open mode."""


class Authenticator:
    """Knows the keys.

    Args:
        settings: mode and keys; only digests of the keys are kept.
    """

    def __init__(self, settings: AuthSettings) -> None:
        self._open = settings.mode == "open"
        self._digests = tuple((_digest(key), name) for name, key in settings.keys.items() if key)

    def identify(self, connection: HTTPConnection) -> Identity:
        """Returns who opened an HTTP request or a WebSocket.

        Raises:
            UnauthenticatedError: the key is missing or wrong.
        """
        if self._open:
            return LOCAL
        scheme, _, presented = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            presented = connection.query_params.get("apiKey", "")
        return self.check(presented.strip())

    def check(self, key: str) -> Identity:
        """Returns whose key this is; for wires that carry it elsewhere than HTTP does.

        Raises:
            UnauthenticatedError: nobody's.
        """
        if self._open:
            return LOCAL
        presented = _digest(key)
        owner = ""
        for digest, name in self._digests:
            if hmac.compare_digest(digest, presented):
                owner = name
        if not owner:
            raise UnauthenticatedError
        return Identity(account=AccountId(owner), name=owner, scope=Scope.SUBMIT)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


_API_KEY: Final = re.compile(r"(?i)(\bapiKey=)[^&\s\"']*")


def redact(text: str) -> str:
    """Returns text with the value of every ``apiKey`` query parameter replaced by ``***``."""
    return _API_KEY.sub(r"\1***", text)


class RedactApiKeys(logging.Filter):
    """Takes API keys out of access logs: add it to every handler that prints request targets."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record in place; always lets it pass."""
        if "apikey" in record.getMessage().lower():
            record.msg = redact(record.getMessage())
            record.args = None
        return True
