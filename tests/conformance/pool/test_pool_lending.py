"""Allocations over a real listener, against real reservations. The numbers are the protocol notes' cases."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arcray.core.commands import Reservable, Reserve
from arcray.core.ids import AccountId, ReservationId
from arcray.core.queries import ListReservations, ReservationPage
from arcray.core.reservation import Reservation, ReservationState
from arcray.core.resources import Demand
from arcray.facades.pool.nodes import node_id_of
from arcray.pool_settings import PoolSettings
from tests.conformance.conftest import Serve
from tests.conformance.pool.pool_rig import ALONE, Client, a_client, has, registered, until


@asynccontextmanager
async def two_devices(serve: Serve, settings: PoolSettings = ALONE, **more: Any) -> AsyncIterator[tuple[Any, Client]]:
    """Serves cases 7 to 12: A has 90 percent, B 60 and a GPU; yields who asks, too."""
    given = {"facades": ("pool",), "nodes": [], "listen": True} | more
    async with (
        serve(**given, pool=settings) as served,
        registered(served, "A", **has(90)),
        registered(served, "B", **has(60, gpu=True)),
        a_client(served) as client,
    ):
        yield served, client


def given(allocation: Any) -> list[tuple[Any, ...]]:
    return [
        (
            each["deviceId"],
            each["allocatedCpu"],
            each["allocatedMemory"],
            each["allocatedStorage"],
            each["allocatedGpu"],
        )
        for each in allocation["allocatedDevices"]
    ]


async def reservations(served: Any) -> tuple[Reservation, ...]:
    page: ReservationPage = await served.cluster.plane.query(ListReservations())
    return page.reservations


async def active(served: Any) -> int:
    return sum(each.state is ReservationState.ACTIVE for each in await reservations(served))


async def test_devices_are_filled_in_their_order_within_the_caps(serve: Serve) -> None:
    """Case 8: 80 of A's 90 percent, and the rest of B."""
    async with two_devices(serve) as (served, client):
        allocation = await client.request("R", cpu=100, memory=4096, storage=10000, gpu=True)
        (reservation,) = await reservations(served)
    assert given(allocation) == [("A", 80, 4096, 10000, False), ("B", 20, 0, 0, True)]
    assert allocation["fulfilled"] is True
    assert list(allocation) == [
        "id",
        "requestingDevice",
        "timestamp",
        "requirements",
        "fulfilled",
        "allocatedDevices",
    ]
    assert allocation["requestingDevice"] == "R"
    assert allocation["requirements"] == {"cpu": 100, "memory": 4096, "storage": 10000, "gpu": True}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", allocation["timestamp"])
    assert allocation["allocatedDevices"][0]["deviceName"] == "Aname"
    held = {part.node_id: part.allocation for part in reservation.slices}
    assert reservation.id == allocation["id"]
    assert held[node_id_of("A")].cpu_milli == 6_400  # 80 percent of eight cores
    assert held[node_id_of("A")].memory_bytes == 4096 * 2**20
    assert held[node_id_of("A")].disk_bytes == 10**10
    assert [share.whole for share in held[node_id_of("B")].gpus] == [True]


async def test_an_even_allocation_is_divided(serve: Serve) -> None:
    """The document's example: each of two devices gives half."""
    even = PoolSettings(show_cluster_nodes=False, strategy="even")
    async with two_devices(serve, even) as (_, client):
        allocation = await client.request("R", cpu=100, memory=4096, storage=10000, gpu=True)
        rest = await client.request("R", cpu=40)
    assert given(allocation) == [("A", 50, 2048, 5000, False), ("B", 50, 2048, 5000, True)]
    assert given(rest) == [("A", 30, 0, 0, False), ("B", 10, 0, 0, False)]  # who has little left gives that


async def test_what_is_not_fulfilled_is_told_and_holds_nothing(serve: Serve) -> None:
    """Cases 9 and 10."""
    async with two_devices(serve) as (served, client):
        memory = await client.request("R", memory=100_000)
        storage = await client.request("R", storage=2_000_000)
        assert await active(served) == 0
    assert given(memory) == [("A", 0, 12800, 0, False), ("B", 0, 12800, 0, False)]
    assert given(storage) == [("A", 0, 0, 500000, False), ("B", 0, 0, 500000, False)]
    assert (memory["fulfilled"], storage["fulfilled"]) == (False, False)
    assert type(given(memory)[0][2]) is int


async def test_a_device_lends_nothing_to_itself(serve: Serve) -> None:
    """Case 11."""
    async with two_devices(serve) as (_, client):
        allocation = await client.request("A", cpu=70)
    assert given(allocation) == [("B", 60, 0, 0, False)]
    assert allocation["fulfilled"] is False


async def test_who_asks_for_nothing_gets_it(serve: Serve) -> None:
    """Case 12."""
    async with two_devices(serve) as (served, client):
        allocation = await client.request("R")
        assert await reservations(served) == ()
    assert (allocation["fulfilled"], allocation["allocatedDevices"]) == (True, [])


async def test_a_gpu_that_nobody_has_is_not_given(serve: Serve) -> None:
    async with two_devices(serve) as (_, client):
        allocation = await client.request("B", gpu=True)
    assert (allocation["fulfilled"], allocation["allocatedDevices"]) == (False, [])


async def test_gpus_are_not_given_where_they_are_not_shared(serve: Serve) -> None:
    async with two_devices(serve, PoolSettings(show_cluster_nodes=False, gpu_sharing=False)) as (_, client):
        assert (await client.request("R", gpu=True))["fulfilled"] is False


async def test_what_is_held_is_not_given_again_until_it_is_released(serve: Serve) -> None:
    """Case 13, by the message."""
    async with two_devices(serve) as (_, client):
        whole = {"cpu": 140, "memory": 25_600, "storage": 1_000_000, "gpu": True}
        first = await client.request("R", **whole)
        second = await client.request("S", **whole)
        await client.say("resource_release", allocationId=first["id"])
        third = await client.request("R", **whole)
    assert (first["fulfilled"], second["fulfilled"], third["fulfilled"]) == (True, False, True)
    assert second["allocatedDevices"] == []


async def test_storage_alone_is_held_and_given_back(serve: Serve) -> None:
    even = PoolSettings(show_cluster_nodes=False, strategy="even")
    async with two_devices(serve, even) as (served, client):
        for _ in range(2):
            allocation = await client.request("R", storage=600_001)
            assert given(allocation) == [("A", 0, 0, 300_001, False), ("B", 0, 0, 300_000, False)]
            assert (allocation["fulfilled"], await active(served)) == (True, 1)
            await client.say("resource_release", allocationId=allocation["id"])
        assert await client.request("S")
        assert await active(served) == 0


async def test_the_caps_bound_the_sum_of_what_is_held(serve: Serve) -> None:
    async with two_devices(serve) as (_, client):
        first = await client.request("R", cpu=50)
        second = await client.request("R", cpu=50)
    assert given(first) == [("A", 50, 0, 0, False)]
    assert given(second) == [("A", 30, 0, 0, False), ("B", 20, 0, 0, False)]


async def test_what_a_device_holds_is_given_back_when_it_leaves(serve: Serve) -> None:
    """Case 13, by leaving."""
    async with two_devices(serve) as (served, client):
        async with registered(served, "R") as requester:
            assert (await requester.request("R", cpu=140))["fulfilled"] is True
            assert (await client.request("S", cpu=140))["fulfilled"] is False

        async def released() -> bool:
            return await active(served) == 0

        await until(served, released)
        assert (await client.request("S", cpu=140))["fulfilled"] is True


async def test_what_a_device_holds_goes_with_it_to_another_socket(serve: Serve) -> None:
    async with two_devices(serve) as (served, client):
        async with a_client(served) as newer:
            async with registered(served, "R") as older:
                await older.request("R", cpu=10)
                await newer.register("R")
            await client.request("nobody")  # an answer later than the end of the older one
            assert await active(served) == 1

            async def released() -> bool:
                return await active(served) == 0

        await until(served, released)


async def test_what_is_held_expires(serve: Serve) -> None:
    """Case 13, by time. Takes a second."""
    short = PoolSettings(show_cluster_nodes=False, allocation_ttl_s=0.3)
    async with two_devices(serve, short) as (served, client):
        assert (await client.request("R", cpu=140))["fulfilled"] is True

        async def expired() -> bool:
            return await active(served) == 0

        await until(served, expired)
        assert (await client.request("R", cpu=140))["fulfilled"] is True
        states = {each.state for each in await reservations(served)}
    assert states == {ReservationState.EXPIRED, ReservationState.ACTIVE}


async def test_what_others_reserve_counts_too(serve: Serve) -> None:
    async with two_devices(serve) as (served, client):
        piece = Reservable(demand=Demand(cpu_milli=6_400), node_id=node_id_of("A"))
        await served.cluster.ask(
            Reserve(
                reservation_id=ReservationId("00000000-0000-4000-8000-000000000001"),
                account=AccountId("else"),
                slices=(piece,),
                ttl_s=60,
            )
        )
        allocation = await client.request("R", cpu=60)
    assert given(allocation) == [("B", 60, 0, 0, False)]


async def test_a_socket_holds_as_much_as_it_may(serve: Serve) -> None:
    few = PoolSettings(show_cluster_nodes=False, max_allocations=1)
    async with two_devices(serve, few) as (_, client):
        first = await client.request("R", cpu=1)
        assert (await client.request("R", cpu=1))["fulfilled"] is False
        assert (await client.request("another", cpu=1))["fulfilled"] is False
        await client.say("resource_release", allocationId=first["id"])
        assert (await client.request("R", cpu=1))["fulfilled"] is True


async def test_the_clusters_nodes_lend_behind_the_devices(serve: Serve) -> None:
    """Of them 100 is one core."""
    async with two_devices(serve, PoolSettings(), nodes=None) as (served, client):
        allocation = await client.request("R", cpu=150)
        (held,) = await reservations(served)
    first, second, third = given(allocation)
    assert (first, second, third[1]) == (("A", 80, 0, 0, False), ("B", 60, 0, 0, False), 10)
    assert held.slices[2].allocation.cpu_milli == 100
    assert held.slices[2].node_id == third[0]


async def test_a_request_without_requirements_is_passed_over(serve: Serve) -> None:
    async with two_devices(serve) as (_, client):
        await client.say("resource_request", deviceId="R")
        assert (await client.request("R"))["fulfilled"] is True
