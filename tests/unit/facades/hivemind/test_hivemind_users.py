"""Users to accounts: who may be called what, and what moves."""

from __future__ import annotations

import pytest

from arcray.core.commands import OpenLogin, TransferCredits
from arcray.core.errors import AlreadyExistsError, ArcrayError, InvalidArgumentError, PermissionDeniedError
from arcray.core.ids import AccountId, EntryId
from arcray.core.ledger import AccountView
from arcray.core.quantity import MAX_QUANTITY
from arcray.facades.hivemind import users
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.testing.builders import T0

ANA = AccountId("ana")


def test_the_documents_user_registers() -> None:
    shown = users.credentials_of(pool.RegisterRequest(username="testuser", password="password123"))
    assert "password123" not in repr(shown)
    command = users.opening_of(shown, secret="hash", entry_id="e", initial_balance=100)
    assert command == OpenLogin(
        account_id=AccountId("testuser"), secret="hash", entry_id=EntryId("e"), credits=100, memo="registered"
    )


@pytest.mark.parametrize(
    ("username", "password", "field"),
    [
        ("", "p", "username"),
        ("ana", "", "password"),
        (" ana", "p", "username"),
        ("ana\n", "p", "username"),
        ("a/b", "p", "username"),
        ("..", "p", "username"),
        ("@issuer", "p", "username"),
        ("a" * 129, "p", "username"),
        ("a\0", "p", "username"),
        ("ana", "p" * 1025, "password"),
        ("ana", "p\0", "password"),
    ],
)
def test_what_no_user_can_be_is_refused_by_field(username: str, password: str, field: str) -> None:
    for request in (pool.RegisterRequest, pool.LoginRequest):
        with pytest.raises(InvalidArgumentError) as caught:
            users.credentials_of(request(username=username, password=password))
        assert caught.value.field == field


def test_names_with_a_meaning_of_their_own_are_taken() -> None:
    shown = users.Credentials(AccountId("local"), "p")
    with pytest.raises(AlreadyExistsError):
        users.opening_of(shown, secret="hash", entry_id="e", initial_balance=0, reserved={"local"})


def test_a_transfer_names_who_gets_how_much() -> None:
    request = pool.TransferRequest(receiver_username="bo", amount=7)
    assert users.transfer_of(request, ANA, "e") == TransferCredits(
        id=EntryId("e"), source=ANA, target=AccountId("bo"), credits=7, asked_by=ANA
    )


@pytest.mark.parametrize(
    ("receiver", "amount", "field"),
    [
        ("bo", 0, "amount"),
        ("bo", -1, "amount"),
        ("bo", -(2**63), "amount"),
        ("bo", MAX_QUANTITY + 1, "amount"),
        ("bo", 2**63 - 1, "amount"),
        ("ana", 1, "receiver_username"),
        ("", 1, "receiver_username"),
        ("@issuer", 1, "receiver_username"),
    ],
)
def test_transfers_that_cannot_be_are_refused_by_field(receiver: str, amount: int, field: str) -> None:
    with pytest.raises(ArcrayError) as caught:
        users.transfer_of(pool.TransferRequest(receiver_username=receiver, amount=amount), ANA, "e")
    assert caught.value.field == field


def test_a_user_is_told_their_own_balance_alone() -> None:
    users.check_balance_of(pool.GetBalanceRequest(username="ana"), ANA)
    users.check_balance_of(pool.GetBalanceRequest(), ANA)
    with pytest.raises(PermissionDeniedError):
        users.check_balance_of(pool.GetBalanceRequest(username="bo"), ANA)
    view = AccountView(id=ANA, opened_at=T0, limit=None, overdraft=0, available=93, held=7, spent=0)
    assert users.balance_answer(view) == pool.GetBalanceResponse(success=True, balance=93)
