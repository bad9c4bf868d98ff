"""Keys: issued once, found by digest, gone when revoked."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from arcray.core import commands as cmd
from arcray.core.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from arcray.core.ids import AccountId, KeyId
from arcray.core.keyring import REVOKED_KEPT, KeyRing
from arcray.core.keys import KeyView, Scope
from arcray.core.queries import FindKey, KeyPage, ListKeys
from arcray.testing.builders import T0, a_key, node_id
from arcray.testing.world import World

ANA = AccountId("ana")


@pytest.fixture
def world(world: World) -> World:
    world.handle(cmd.OpenAccount(account_id=ANA))
    return world


def test_an_issued_key_is_found_by_the_digest_of_its_secret(world: World) -> None:
    world.handle(cmd.IssueKey(key=a_key()))
    found = world.cluster.answer(FindKey(digest=a_key().digest), world.now)
    assert found == KeyView(key=a_key(), last_used=None)


def test_the_same_key_again_changes_nothing(world: World) -> None:
    world.handle(cmd.IssueKey(key=a_key()))
    assert world.handle(cmd.IssueKey(key=a_key())).events == ()
    with pytest.raises(AlreadyExistsError):
        world.handle(cmd.IssueKey(key=replace(a_key(), id=KeyId("other"))))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"digest": "abc"}, "digest"),
        ({"expires_at": T0}, "expiresAt"),
        ({"scope": Scope.NODE}, "nodeId"),
        ({"node_id": node_id(1)}, "nodeId"),
        ({"account": AccountId("@issuer")}, "account"),
        ({"account": AccountId("@operator")}, "account"),
        ({"account": AccountId("..")}, "account"),
    ],
)
def test_a_key_that_cannot_be_is_refused(world: World, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        world.handle(cmd.IssueKey(key=a_key(**fields)))
    assert caught.value.field == field


def test_a_key_of_an_account_that_nobody_opened_is_refused(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.handle(cmd.IssueKey(key=a_key(account=AccountId("bo"))))


def test_an_account_has_a_bounded_number_of_keys(world: World) -> None:
    world.cluster.policy = replace(world.cluster.policy, max_account_keys=2)
    for number in (1, 2):
        world.handle(cmd.IssueKey(key=a_key(number)))
    with pytest.raises(ResourceExhaustedError):
        world.handle(cmd.IssueKey(key=a_key(3)))
    world.handle(cmd.RevokeKey(key_id=a_key(1).id))
    world.handle(cmd.IssueKey(key=a_key(3)))


def test_a_revoked_key_is_gone(world: World) -> None:
    world.handle(cmd.IssueKey(key=a_key()))
    world.handle(cmd.RevokeKey(key_id=a_key().id, account=ANA))
    with pytest.raises(NotFoundError):
        world.cluster.answer(FindKey(digest=a_key().digest), world.now)
    with pytest.raises(NotFoundError):
        world.handle(cmd.RevokeKey(key_id=a_key().id))


def test_a_revoked_key_is_not_issued_again_by_a_command_that_comes_late(world: World) -> None:
    world.handle(cmd.IssueKey(key=a_key()))
    world.handle(cmd.RevokeKey(key_id=a_key().id))
    with pytest.raises(ConflictError) as refused:
        world.handle(cmd.IssueKey(key=a_key()))
    assert refused.value.field == "id"


def test_of_the_newest_keys_that_were_revoked_the_ids_are_remembered() -> None:
    ring = KeyRing()
    ring.restore([], revoked=[KeyId(f"k{number}") for number in range(REVOKED_KEPT + 1)])
    assert not ring.was_revoked(KeyId("k0"))
    assert ring.was_revoked(KeyId("k1"))
    assert ring.was_revoked(KeyId(f"k{REVOKED_KEPT}"))


def test_another_accounts_key_cannot_be_revoked_or_seen(world: World) -> None:
    world.handle(cmd.IssueKey(key=a_key()))
    with pytest.raises(NotFoundError):
        world.handle(cmd.RevokeKey(key_id=a_key().id, account=AccountId("bo")))
    page = world.cluster.answer(ListKeys(account=AccountId("bo")), world.now)
    assert page == KeyPage(keys=(), total=0)


def test_use_is_noted_and_of_unknown_keys_passed_over(world: World) -> None:
    world.handle(cmd.IssueKey(key=a_key()))
    seen = T0 + timedelta(seconds=5)
    outcome = world.handle(cmd.ReportKeyUse(used=((a_key().id, seen), (KeyId("gone"), seen))))
    assert not any(event.durable for event in outcome.events)
    page = world.cluster.answer(ListKeys(), world.now)
    assert isinstance(page, KeyPage)
    assert [view.last_used for view in page.keys] == [seen]


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.ADMIN, set(Scope)),
        (Scope.OPERATOR, {Scope.OPERATOR, Scope.SUBMIT, Scope.READ, Scope.NODE}),
        (Scope.SUBMIT, {Scope.SUBMIT, Scope.READ}),
        (Scope.READ, {Scope.READ}),
        (Scope.NODE, {Scope.NODE}),
    ],
)
def test_a_scope_allows_itself_and_those_below(scope: Scope, allowed: set[Scope]) -> None:
    assert {needed for needed in Scope if scope.allows(needed)} == allowed
