"""Tokens: who calls, said by us, for a day.

JSON Web Tokens by HS256 under one key. Only what this module wrote is read: the algorithm is ours to choose and not the
token's, and a claim that is missing or of another form is refused like a wrong signature. Time comes from the caller.

Source: HiveMind API Documentation, "Authentication Mechanism".
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import jwt

from arcray.core.errors import InvalidArgumentError, UnauthenticatedError
from arcray.core.ids import AccountId

__all__ = ["KEY_BYTES", "LIFETIME_S", "Tokens"]

KEY_BYTES: Final = 32  # what HS256 asks for at the least
LIFETIME_S: Final = 24 * 3600
_ALGORITHM: Final = "HS256"
_CLAIMS: Final = ("user_id", "iat", "exp")
# The times are compared here, with the caller's clock.
_OPTIONS: Final[Any] = {"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False}
_WRONG: Final = "is not one of ours; log in again"


class Tokens:
    """Writes and reads tokens.

    Args:
        key: secret, of ``KEY_BYTES`` bytes or more; every process that serves has the same.
        lifetime_s: how long a token is worth something.

    Raises:
        InvalidArgumentError: the key is too short.
    """

    def __init__(self, key: bytes, lifetime_s: int = LIFETIME_S) -> None:
        if len(key) < KEY_BYTES:
            raise InvalidArgumentError(f"must have {KEY_BYTES} bytes or more", field="hivemind.token_key")
        self._key = key
        self._lifetime_s = lifetime_s

    def issue(self, user: AccountId, now: datetime) -> str:
        """Returns a token of a user who has just shown their password."""
        begins = int(now.timestamp())
        return jwt.encode(
            {"user_id": user, "iat": begins, "exp": begins + self._lifetime_s}, self._key, algorithm=_ALGORITHM
        )

    def read(self, token: str, now: datetime) -> AccountId:
        """Returns whose token it is.

        Raises:
            UnauthenticatedError: it is expired, or none that was written with this key.
        """
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM], options=_OPTIONS)
        except (jwt.PyJWTError, ValueError) as error:
            raise UnauthenticatedError(_WRONG, field="token") from error
        user, _, expires = (claims[name] for name in _CLAIMS)
        if not isinstance(user, str) or not user or type(expires) is not int:
            raise UnauthenticatedError(_WRONG, field="token")
        if now.timestamp() >= expires:
            raise UnauthenticatedError("has expired; log in again", field="token")
        return AccountId(user)
