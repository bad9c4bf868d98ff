"""Who calls: the metadata of a call, the token in its message, and what follows where there is neither.

The document asks for metadata with every request, and its own examples send none. So a token is checked wherever one is
shown, and asked for only in strict mode; a call that shows two must show the same user twice. Nobody in particular, in
lenient mode, sees everything, as everybody does where arcray itself is open.

Source: HiveMind API Documentation, "Authentication Mechanism" and "Usage Examples".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from arcray.core.errors import UnauthenticatedError
from arcray.core.ids import AccountId
from arcray.facades.hivemind.fields import token_text
from arcray.facades.hivemind.tokens import Tokens

__all__ = ["ANYBODY", "OPEN_METHODS", "Caller", "Callers"]

OPEN_METHODS: Final = frozenset({"Register", "Login"})
"""Methods that need no token in strict mode either."""

_SCHEME: Final = "bearer"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Args:
        user: None is nobody in particular.
    """

    user: AccountId | None

    @property
    def sees(self) -> AccountId | None:
        """The account whose work may be seen and stopped; None sees all."""
        return self.user


ANYBODY: Final = Caller(None)


class Callers:
    """Knows who calls.

    Args:
        strict: every method but ``OPEN_METHODS`` wants a token in the metadata.
    """

    def __init__(self, tokens: Tokens, *, strict: bool) -> None:
        self._tokens = tokens
        self._strict = strict

    def of_call(self, method: str, authorization: Sequence[str], now: datetime) -> Caller:
        """Returns who calls by the metadata alone; asked before a request is read.

        Args:
            method: its name, without its service.
            authorization: every value of that key.

        Raises:
            UnauthenticatedError: what is shown is wrong or expired, or nothing is and strict mode asks for it. It is
                told by a status, whatever the method's answer has.
        """
        if not authorization:
            if self._strict and method not in OPEN_METHODS:
                raise UnauthenticatedError("is required: Bearer and the token of a login", field="authorization")
            return ANYBODY
        scheme, _, token = authorization[0].partition(" ")
        if len(authorization) > 1 or scheme.lower() != _SCHEME or not token.strip():
            raise UnauthenticatedError("must be Bearer and a token, once", field="authorization")
        try:
            return Caller(self._tokens.read(token.strip(), now))
        except UnauthenticatedError as error:
            raise UnauthenticatedError(error.message, field="authorization") from error

    def of_message(self, caller: Caller, token: str, now: datetime) -> Caller:
        """Returns who calls by the metadata and the token in the message, which is "" where there is none.

        Raises:
            InvalidArgumentError: the token cannot be one.
            UnauthenticatedError: it is wrong or expired, or another user's than the metadata's.
        """
        if not token_text(token, "token"):
            return caller
        user = self._tokens.read(token, now)
        if caller.user not in (None, user):
            raise UnauthenticatedError("is another user's than the one of the metadata", field="token")
        return Caller(user)

    def user_of_message(self, caller: Caller, token: str, now: datetime) -> AccountId:
        """Returns the user who calls, where it has to be one.

        Raises:
            InvalidArgumentError, UnauthenticatedError: as ``of_message``, and where nobody in particular calls.
        """
        user = self.of_message(caller, token, now).user
        if user is None:
            raise UnauthenticatedError("is required; log in", field="token")
        return user
