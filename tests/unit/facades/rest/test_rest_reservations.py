"""What bodies of reservations mean in core's words, and how a reservation is shown."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from arcray.core.commands import Reservable, Reserve
from arcray.core.errors import ConflictError, InvalidArgumentError, NoCandidatesError, NotFoundError
from arcray.core.gang import Layout
from arcray.core.ids import AccountId, ReservationId
from arcray.core.quantity import MIB
from arcray.core.reservation import Reservation, Slice
from arcray.core.resources import Allocation, Demand, GpuShare
from arcray.facades.rest import codec
from arcray.facades.rest import translate_reservations as translate
from arcray.testing.builders import T0, node_id

ID = ReservationId("r")


def reserve(**members: Any) -> Reserve:
    body = codec.decode_reservation(json.dumps(members).encode())
    return translate.reserve_of(body, ID, AccountId("ana"), "d")


def test_one_demand_is_one_slice_on_one_node() -> None:
    command = reserve(demand={"cpu": 2, "memoryMb": 3}, selector={"b": "2", "a": "1"}, kind="container", ttlS=9)
    wanted = Reservable(
        demand=Demand(cpu_milli=2000, memory_bytes=3 * MIB),
        wants=frozenset({"container"}),
        selector=(("a", "1"), ("b", "2")),
    )
    assert command.slices == (wanted,)
    assert (command.ttl_s, command.account, command.request_digest) == (9.0, "ana", "d")


def test_an_even_demand_is_divided_over_nodes_of_their_own() -> None:
    command = reserve(demand={"cpu": 1, "memoryMb": 4096, "gpus": 1}, strategy="even", parts=2)
    assert command.layout is Layout.SPREAD
    assert [part.demand for part in command.slices] == [
        Demand(cpu_milli=500, memory_bytes=2048 * MIB, gpus=1),
        Demand(cpu_milli=500, memory_bytes=2048 * MIB),
    ]


def test_parts_that_get_nothing_are_left_out() -> None:
    assert len(reserve(demand={"gpus": 1}, strategy="even", parts=3).slices) == 1


def test_slices_are_carried_over_with_their_layout() -> None:
    command = reserve(slices=[{"demand": {"cpu": 1}}, {"demand": {"gpus": 1}, "nodeId": node_id(1)}], layout="pack")
    assert command.layout is Layout.PACK
    assert [part.node_id for part in command.slices] == [None, node_id(1)]
    assert reserve(slices=[{"demand": {"cpu": 1}, "kind": "program"}]).slices[0].wants


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({}, "demand"),
        ({"demand": {"cpu": 1}, "slices": [{"demand": {"cpu": 1}}]}, "demand"),
        ({"demand": {}}, "demand"),
        ({"demand": {"gpuMemoryMb": 1}}, "demand.gpuMemoryMb"),
        ({"demand": {"cpu": 1}, "parts": 2}, "parts"),
        ({"demand": {"cpu": 1}, "parts": 0}, "parts"),
        ({"demand": {"cpu": 1}, "strategy": "fair"}, "strategy"),
        ({"demand": {"cpu": 2}, "strategy": "even", "parts": 2, "nodeId": node_id(1)}, "nodeId"),
        ({"demand": {"cpu": 1}, "nodeId": "x"}, "nodeId"),
        ({"demand": {"cpu": 1}, "ttlS": 0}, "ttlS"),
        ({"slices": [{"demand": {"cpu": 1}}, {"demand": {"gpuMemoryMb": 1}}]}, "slices.1.demand.gpuMemoryMb"),
        ({"slices": [{"demand": {"cpu": 1}, "nodeId": "x"}]}, "slices.0.nodeId"),
    ],
)
def test_a_wrong_member_is_named(members: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        reserve(**members)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (NotFoundError("no node", field="slices.0.nodeId"), "nodeId"),
        (NoCandidatesError("full", field="slices.1"), "demand"),
        (ConflictError("other", field="ttlS"), "ttlS"),
        (ConflictError("other"), None),
    ],
)
def test_a_refusal_names_the_member_as_the_body_has_it(error: Any, field: str | None) -> None:
    body = codec.decode_reservation(b'{"demand":{"cpu":1}}')
    blamed = translate.blamed(body, error)
    assert (type(blamed), blamed.message, blamed.field) == (type(error), error.message, field)
    several = codec.decode_reservation(b'{"slices":[{"demand":{"cpu":1}}]}')
    assert translate.blamed(several, error) is error


def test_the_same_key_of_an_account_is_the_same_reservation() -> None:
    first = translate.reservation_id_of(AccountId("ana"), "k", "fresh")
    assert first == translate.reservation_id_of(AccountId("ana"), "k", "another")
    assert first != translate.reservation_id_of(AccountId("bob"), "k", "fresh")
    assert translate.reservation_id_of(AccountId("ana"), "", "fresh") == "fresh"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b:c"), ("a:b", "c")),
        (("a:b", "c:d"), ("a:b:c", "d")),
        (("uuid", "550e8400e29b41d4a716446655440000"), ("urn", "uuid:550e8400e29b41d4a716446655440000")),
        (("1", "x"), ("1:", "x")),
    ],
)
def test_no_two_accounts_have_a_reservation_by_their_keys(one: tuple[str, str], other: tuple[str, str]) -> None:
    ids = {translate.reservation_id_of(AccountId(account), key, "fresh") for account, key in (one, other)}
    assert len(ids) == 2
    assert "550e8400-e29b-41d4-a716-446655440000" not in ids  # nor is it the sender who chooses


def test_a_key_means_the_reservation_that_it_always_meant() -> None:
    assert translate.reservation_id_of(AccountId("ana"), "k", "fresh") == "ec567086-b1fd-5709-a7bf-6bb920ad1526"


def test_a_reservation_shows_what_was_granted_and_what_is_left() -> None:
    whole = Allocation(cpu_milli=1000, gpus=(GpuShare(index=1, memory_bytes=80 * MIB, whole=True),))
    left = Allocation(gpus=(GpuShare(index=1, memory_bytes=50 * MIB, whole=False),))
    shown = translate.reservation_view(
        Reservation(
            id=ID,
            account=AccountId("ana"),
            granted=(Slice(node_id=node_id(1), allocation=whole),),
            slices=(Slice(node_id=node_id(1), allocation=left),),
            created_at=T0,
            expires_at=T0 + timedelta(seconds=5),
        )
    )
    assert json.loads(codec.encode(shown)) == {
        "id": "r",
        "state": "active",
        "slices": [
            {
                "nodeId": node_id(1),
                "demand": {"cpu": 1.0, "memoryMb": 0, "gpus": 1, "gpuMemoryMb": None},
                "gpus": [1],
                "left": {"cpu": 0.0, "memoryMb": 0, "gpus": 1, "gpuMemoryMb": 50},
                "gpusLeft": [1],
            }
        ],
        "createdAt": "2026-01-01T00:00:00Z",
        "expiresAt": "2026-01-01T00:00:05Z",
        "endedAt": None,
        "message": "",
    }
