"""Who is calling: turns the credentials of a request into an ``Identity``, or refuses.

Open mode takes everyone as the account ``local``. Keys mode wants ``Authorization: Bearer <key>`` or ``?apiKey=<key>``
(one protocol has no other place for it; ``arcray.logs`` keeps it out of the logs).
Open mode takes no changes that a web page of another site asks for: every page that a person visits can post to their
loopback address, and a post can be a program. Reading needs no such rule, since browsers keep the answer from the page.
Keys are compared by digest, all of them every time, so that neither a matching prefix nor the position shows in time.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from arcray.config import AuthSettings
from arcray.core.errors import PermissionDeniedError, UnauthenticatedError
from arcray.core.ids import AccountId
from arcray.wire.headers import header

__all__ = ["LOCAL", "Authenticator", "Identity", "Scope"]


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


_READING: Final = frozenset({"GET", "HEAD", "OPTIONS", None})  # None is a WebSocket, and ours only tell

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
            PermissionDeniedError: in open mode, a web page of another site wants to change something.
        """
        if self._open:
            _refuse_other_sites(connection)
            return LOCAL
        scheme, _, presented = header(connection, b"authorization").partition(" ")
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


def _refuse_other_sites(connection: HTTPConnection) -> None:
    if connection.scope.get("method") in _READING:
        return
    origin = header(connection, b"origin")  # browsers send it with every post, other clients do not
    if origin and urlsplit(origin).netloc != header(connection, b"host"):
        raise PermissionDeniedError("open mode takes no changes from web pages of other sites", field="Origin")
