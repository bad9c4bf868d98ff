"""Users: registration, login, balance and transfer, to core's accounts and back.

A user is an account of the same name. What nobody may register under: what no account can be called, and the names that
the gateway gives a meaning of its own.

Source: HiveMind API Documentation, "User Management API".
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from arcray.core.commands import OpenLogin, TransferCredits
from arcray.core.errors import AlreadyExistsError, InvalidArgumentError, PermissionDeniedError, UnauthenticatedError
from arcray.core.ids import AccountId, EntryId
from arcray.core.ledger import AccountView, check_account_id, credits_of
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.fields import name, text

__all__ = [
    "Credentials",
    "balance_answer",
    "check_balance_of",
    "credentials_of",
    "opening_of",
    "transfer_of",
    "user_id",
    "wrong_login",
]

_PASSWORD_LIMIT: Final = 1024
_MEMO: Final = "registered"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a user shows."""

    username: AccountId
    password: str = field(repr=False)


def user_id(value: str, of: str) -> AccountId:
    """Returns the account of a username.

    Raises:
        InvalidArgumentError: nobody can be called that; names the field ``of``.
    """
    account = AccountId(name(value, of))
    check_account_id(account, of)
    return account


def credentials_of(request: pool.RegisterRequest | pool.LoginRequest) -> Credentials:
    """Reads a username and a password.

    Raises:
        InvalidArgumentError: names the field.
    """
    username = user_id(request.username, "username")
    return Credentials(username, text(request.password, "password", shortest=1, longest=_PASSWORD_LIMIT))


def wrong_login() -> UnauthenticatedError:
    """Returns the one refusal of a login, which does not tell who is a user; the document's INVALID_PASSWORD."""
    return UnauthenticatedError("unknown username or wrong password")


def opening_of(
    shown: Credentials, *, secret: str, entry_id: str, initial_balance: int, reserved: Container[str] = ()
) -> OpenLogin:
    """Returns the command that registers a user.

    Args:
        secret: hash of the password.
        reserved: names that mean something else here.

    Raises:
        AlreadyExistsError: the name is reserved.
    """
    if shown.username in reserved:
        raise AlreadyExistsError("is taken", field="username")
    return OpenLogin(
        account_id=shown.username, secret=secret, entry_id=EntryId(entry_id), credits=initial_balance, memo=_MEMO
    )


def check_balance_of(request: pool.GetBalanceRequest, caller: AccountId) -> None:
    """Refuses to tell a user what another has. A request that names nobody asks for the caller's own.

    Raises:
        PermissionDeniedError: it names another.
    """
    if request.username not in ("", caller):
        raise PermissionDeniedError("is another user's than the token", field="username")


def balance_answer(view: AccountView) -> pool.GetBalanceResponse:
    """Returns what a user may spend; what is set aside for running tasks is not among it."""
    return pool.GetBalanceResponse(success=True, message="", balance=view.available)


def transfer_of(request: pool.TransferRequest, sender: AccountId, entry_id: str) -> TransferCredits:
    """Returns the command that moves credits.

    Raises:
        InvalidArgumentError: names the field.
    """
    receiver = user_id(request.receiver_username, "receiver_username")
    if receiver == sender:
        raise InvalidArgumentError("must be another user", field="receiver_username")
    return TransferCredits(
        id=EntryId(entry_id),
        source=sender,
        target=receiver,
        credits=credits_of(request.amount, "amount"),
        asked_by=sender,
    )
