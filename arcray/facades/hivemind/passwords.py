"""Passwords: hashed by argon2id, and checked in the same time whether there is something to check against or not.

Pure but slow: a hash takes 40 ms of processor and 19 MiB on purpose, so callers go through a thread, and bound how many
are under way. The parameters are the least that OWASP asks for; a gateway also does other things.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

__all__ = ["SALT_BYTES", "Passwords"]

SALT_BYTES: Final = 16


class Passwords:
    """Hashes and checks.

    Args:
        time_cost, memory_kib: rounds and memory of one hash; tests take the least. Hashes of other costs stay valid.
    """

    def __init__(self, *, time_cost: int = 2, memory_kib: int = 19 * 1024) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)

    def hash(self, password: str, salt: bytes) -> str:
        """Returns what is stored of a password.

        Args:
            salt: ``SALT_BYTES`` random bytes, of this password alone.
        """
        return self._hasher.hash(password, salt=salt)

    def matches(self, stored: str | None, password: str) -> bool:
        """Returns whether it is that password.

        Args:
            stored: what ``hash`` returned; None where there is no such user, which takes as long to find out.
        """
        try:
            return self._hasher.verify(stored or self._nobody, password) and stored is not None
        except VerifyMismatchError:
            return False

    @cached_property
    def _nobody(self) -> str:
        return self.hash("", bytes(SALT_BYTES))
