"""Logins: an account of one's own, opened once, with what it begins with, and closed to whoever asks for it again."""

from __future__ import annotations

from typing import Any

import pytest

from arcray.core import commands as cmd
from arcray.core import events as ev
from arcray.core.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from arcray.core.ids import AccountId, EntryId
from arcray.core.ledger import ISSUER, Login
from arcray.core.quantity import MAX_QUANTITY
from arcray.core.queries import FindLogin
from arcray.testing.world import World

ANA = AccountId("ana")


def a_login(**fields: Any) -> cmd.OpenLogin:
    defaults: dict[str, Any] = {
        "account_id": ANA,
        "secret": "hash of ana's",
        "entry_id": EntryId("welcome"),
        "credits": 100,
    }
    return cmd.OpenLogin(**(defaults | fields))


def found(world: World, account: AccountId = ANA) -> Login:
    answer = world.cluster.answer(FindLogin(account_id=account), world.now)
    assert isinstance(answer, Login)
    return answer


def test_a_login_has_an_account_with_what_it_begins_with(world: World) -> None:
    outcome = world.handle(a_login())
    assert [type(event) for event in outcome.events] == [
        ev.AccountOpened, ev.LoginSet, ev.AccountOpened, ev.CreditsMoved,
    ]  # fmt: skip
    account = world.cluster.state.books.accounts[ANA]
    assert (account.available, world.cluster.state.books.accounts[ISSUER].available) == (100, -100)
    assert found(world) == Login(account=ANA, secret="hash of ana's")


def test_a_login_may_begin_with_nothing(world: World) -> None:
    outcome = world.handle(a_login(credits=0))
    assert [type(event) for event in outcome.events] == [ev.AccountOpened, ev.LoginSet]


def test_the_same_login_again_changes_nothing(world: World) -> None:
    first = world.handle(a_login())
    again = world.handle(a_login())
    assert (again.events, again.reply) == ((), first.reply)


def test_nobody_takes_over_an_account(world: World) -> None:
    world.handle(cmd.OpenAccount(account_id=AccountId("bo")))
    world.handle(a_login())
    for taken in (a_login(secret="another's"), a_login(account_id=AccountId("bo")), a_login(account_id=ISSUER)):
        with pytest.raises((AlreadyExistsError, InvalidArgumentError)) as caught:
            world.handle(taken)
        assert caught.value.field == "id"
    with pytest.raises(NotFoundError):
        found(world, AccountId("bo"))


def test_the_operators_account_is_not_for_the_taking_before_it_is_open(world: World) -> None:
    with pytest.raises(AlreadyExistsError):
        world.handle(a_login(account_id=world.cluster.policy.operator_account))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"account_id": AccountId("")}, "id"),
        ({"account_id": AccountId("a/b")}, "id"),
        ({"secret": ""}, "secret"),
        ({"credits": -1}, "credits"),
        ({"credits": MAX_QUANTITY + 1}, "credits"),
    ],
)
def test_a_login_that_cannot_be_is_refused(world: World, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        world.handle(a_login(**fields))
    assert caught.value.field == field
    assert not world.cluster.state.books.accounts


def test_an_entry_is_not_posted_twice(world: World) -> None:
    world.handle(a_login())
    with pytest.raises(AlreadyExistsError):
        world.handle(a_login(account_id=AccountId("bo")))
    assert AccountId("bo") not in world.cluster.state.books.accounts


def test_what_can_be_issued_is_bounded(world: World) -> None:
    world.handle(a_login(credits=MAX_QUANTITY))
    with pytest.raises(InvalidArgumentError, match="no more than 0 can be issued"):
        world.handle(a_login(account_id=AccountId("bo"), entry_id=EntryId("other"), credits=1))


def test_secrets_are_not_printed(world: World) -> None:
    outcome = world.handle(a_login())
    printed = repr((outcome, a_login(), found(world), world.cluster.state.books.accounts))
    assert "hash of" not in printed
