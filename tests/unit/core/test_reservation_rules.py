"""What a reservation holds, who may take it, and how it ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.commands import (
    Command,
    DetachNode,
    IssueCredits,
    OpenAccount,
    ReleaseReservation,
    Reservable,
    Reserve,
    Running,
    SetNodeScheduling,
    Submitted,
)
from arcray.core.errors import (
    AlreadyExistsError,
    ArcrayError,
    ConflictError,
    IdempotencyMismatchError,
    InsufficientCreditsError,
    InvalidArgumentError,
    NoCandidatesError,
    NotFoundError,
    ResourceExhaustedError,
)
from arcray.core.gang import Gang, Layout
from arcray.core.ids import AccountId, EntryId, ReservationId
from arcray.core.orders import StartWorkload
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB
from arcray.core.queries import GetReservation, ListReservations, ReservationPage
from arcray.core.reservation import Reservation, ReservationState, carve, parts_of
from arcray.core.resources import NO_DEMAND, Allocation, Capacity, Demand, GpuShare
from arcray.core.tariff import Prices
from arcray.core.workload import Phase
from arcray.testing.builders import a_capacity, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

WHOLE_NODE = Demand(cpu_milli=8000)
HALF_NODE = Demand(cpu_milli=4000)
OTHER = AccountId("other")


def a_reservation(number: int = 1, *demands: Demand, **fields: Any) -> Reserve:
    wanted = tuple(Reservable(demand=demand) for demand in demands or (WHOLE_NODE,))
    defaults: dict[str, Any] = {
        "reservation_id": ReservationId(f"r{number}"),
        "account": AccountId("local"),
        "slices": wanted,
        "ttl_s": 300.0,
    }
    return Reserve(**(defaults | fields))


def reserve(world: World, command: Command | None = None) -> Reservation:
    reply = world.handle(command or a_reservation()).reply
    assert isinstance(reply, Reservation)
    return reply


def known(world: World, number: int = 1) -> Reservation:
    answer = world.cluster.answer(GetReservation(reservation_id=ReservationId(f"r{number}")), world.now)
    assert isinstance(answer, Reservation)
    return answer


def taking(number: int, demand: Demand, reservation: int = 1, **fields: Any) -> Any:
    return a_workload(number, demand=demand, reservation_id=ReservationId(f"r{reservation}"), **fields)


def test_what_is_reserved_is_given_to_nobody_else(world: World) -> None:
    world.attach()
    reserve(world)
    world.submit(a_workload(1))
    world.run_round()
    assert world.workload(a_workload(1).id).phase is Phase.PENDING


def test_a_reservation_that_does_not_fit_is_refused_with_the_reason_and_holds_nothing(world: World) -> None:
    world.attach()
    with pytest.raises(NoCandidatesError, match="1 of 2 slices have a place") as refused:
        reserve(world, a_reservation(1, WHOLE_NODE, HALF_NODE))
    assert refused.value.field == "slices.1"
    assert world.cluster.state.placement.free(node_id(1)).cpu_milli == 8000


@pytest.mark.parametrize("policy", [ClusterPolicy(prices=Prices(cpu_core_minute=6, workload=1))])
def test_a_place_is_held_only_for_an_account_that_could_pay_for_work_there(world: World) -> None:
    world.attach()
    world.handle(OpenAccount(account_id=OTHER))
    needed = 2 * (1 + 6 * 4)
    for number, (credits, refused) in enumerate(((needed - 1, True), (1, False)), 1):
        world.handle(IssueCredits(id=EntryId(f"e{number}"), account_id=OTHER, credits=credits))
        if refused:
            with pytest.raises(InsufficientCreditsError, match=f"this costs {needed}"):
                reserve(world, a_reservation(number, HALF_NODE, HALF_NODE, account=OTHER))
        else:
            reserve(world, a_reservation(number, HALF_NODE, HALF_NODE, account=OTHER))
    assert world.cluster.state.books.accounts[OTHER].held == 0


def test_slices_of_disks_alone_are_given_back(world: World) -> None:
    """No quota counts disks, so such slices are nothing of what an account uses."""
    world.attach()
    reserve(world, a_reservation(1, Demand(disk_bytes=1), Demand(disk_bytes=1)))
    assert world.cluster.state.usage == {}
    world.handle(ReleaseReservation(reservation_id=ReservationId("r1"), account=AccountId("local")))
    assert known(world).state is ReservationState.RELEASED


def test_slices_lie_on_the_nodes_as_the_layout_says(world: World) -> None:
    for number in (1, 2, 3):
        world.attach(a_node(number))
    spread = reserve(world, a_reservation(1, HALF_NODE, HALF_NODE, HALF_NODE, layout=Layout.SPREAD))
    assert {part.node_id for part in spread.slices} == {node_id(1), node_id(2), node_id(3)}
    with pytest.raises(NoCandidatesError):
        reserve(world, a_reservation(2, HALF_NODE, HALF_NODE, layout=Layout.PACK))
    pair = reserve(world, a_reservation(3, *[Demand(cpu_milli=2000)] * 2, layout=Layout.PACK))
    assert len({part.node_id for part in pair.slices}) == 1


def test_an_even_split_leaves_what_does_not_divide_to_the_first() -> None:
    parts = parts_of(Demand(cpu_milli=100, memory_bytes=7, disk_bytes=1, gpus=1), 2)
    assert parts == (
        Demand(cpu_milli=50, memory_bytes=4, disk_bytes=1, gpus=1),
        Demand(cpu_milli=50, memory_bytes=3),
    )
    shared = parts_of(Demand(gpus=1, gpu_memory_bytes=5), 2)
    assert shared == (Demand(gpus=1, gpu_memory_bytes=5), NO_DEMAND)


def test_a_workload_takes_the_whole_of_a_slice_and_the_reservation_is_consumed(world: World) -> None:
    world.attach()
    reserve(world)
    outcome = world.submit(taking(1, WHOLE_NODE))
    assert isinstance(outcome.reply, Submitted)
    assert outcome.reply.phase is Phase.PLACED
    assert isinstance(outcome.orders[0].order, StartWorkload)
    reservation = known(world)
    assert (reservation.state, reservation.ended_at) == (ReservationState.CONSUMED, world.now)
    assert reservation.granted[0].allocation.cpu_milli == 8000
    assert reservation.slices[0].allocation == Allocation()


def test_a_workload_takes_a_part_and_the_rest_stays_reserved_until_expiry(world: World) -> None:
    world.attach()
    reserve(world, a_reservation(ttl_s=10.0))
    world.submit(taking(1, HALF_NODE))
    world.submit(a_workload(2))
    world.run_round()
    assert world.workload(a_workload(2).id).phase is Phase.PENDING
    assert known(world).slices[0].allocation.cpu_milli == 4000
    world.later(10)
    assert known(world).state is ReservationState.EXPIRED
    world.run_round()
    assert world.workload(a_workload(2).id).phase is Phase.PLACED


@pytest.mark.parametrize("policy", [ClusterPolicy(max_pending=1)])
def test_a_reserved_place_is_taken_however_much_waits(world: World) -> None:
    world.attach()
    reserve(world)
    world.submit(a_workload(1))
    world.submit(taking(2, HALF_NODE))
    assert world.workload(a_workload(2).id).phase is Phase.PLACED


def test_the_slice_that_a_workload_uses_up_is_taken_before_a_larger_one(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    reserve(world, a_reservation(1, WHOLE_NODE, HALF_NODE))
    world.submit(taking(1, HALF_NODE))
    assert [part.allocation.cpu_milli for part in known(world).slices] == [8000, 0]


def test_what_was_taken_does_not_come_back_to_the_reservation(world: World) -> None:
    world.attach()
    reserve(world)
    world.submit(taking(1, HALF_NODE))
    world.succeed(world.workload(a_workload(1).id))
    assert known(world).slices[0].allocation.cpu_milli == 4000
    assert world.cluster.state.placement.free(node_id(1)).cpu_milli == 4000


def test_a_gpu_of_a_slice_may_be_taken_whole_or_shared() -> None:
    held = Allocation(
        gpus=(GpuShare(index=0, memory_bytes=80, whole=True), GpuShare(index=1, memory_bytes=80, whole=True))
    )
    shared = carve(held, Demand(gpus=1, gpu_memory_bytes=30))
    assert shared is not None
    assert shared[0].gpus == (GpuShare(index=0, memory_bytes=30, whole=False),)
    assert shared[1].gpus == (
        GpuShare(index=0, memory_bytes=50, whole=False),
        GpuShare(index=1, memory_bytes=80, whole=True),
    )
    again = carve(shared[1], Demand(gpus=1, gpu_memory_bytes=50))
    assert again is not None
    assert again[1].gpus == (GpuShare(index=1, memory_bytes=80, whole=True),)
    whole = carve(shared[1], Demand(gpus=1))
    assert whole is not None
    assert whole[0].gpus == (GpuShare(index=1, memory_bytes=80, whole=True),)
    assert carve(shared[1], Demand(gpus=2)) is None


def test_two_workloads_share_a_gpu_that_was_reserved_whole(world: World) -> None:
    world.attach(a_node(1, capacity=a_capacity(gpus=1)))
    reserve(world, a_reservation(1, Demand(cpu_milli=2000, gpus=1)))
    share = Demand(cpu_milli=1000, gpus=1, gpu_memory_bytes=40 * GIB)
    for number in (1, 2):
        world.submit(taking(number, share))
    assert known(world).state is ReservationState.CONSUMED


@pytest.mark.parametrize(
    ("spec", "error", "field"),
    [
        (taking(1, Demand(cpu_milli=9000)), ConflictError, "demand"),
        (taking(1, HALF_NODE, reservation=2), NotFoundError, "reservationId"),
        (taking(1, HALF_NODE, node_id=node_id(2)), ConflictError, "reservationId"),
        (taking(1, HALF_NODE, selector=(("a", "b"),)), ConflictError, "reservationId"),
        (taking(1, NO_DEMAND, payload=an_inference()), InvalidArgumentError, "reservationId"),
    ],
)
def test_a_workload_that_cannot_take_its_place_is_refused_by_field(
    world: World, spec: Any, error: type[ArcrayError], field: str
) -> None:
    world.attach()
    reserve(world)
    world.attach(a_node(2))
    with pytest.raises(error) as refused:
        world.submit(spec)
    assert refused.value.field == field
    assert not world.cluster.state.workloads


def test_the_reservation_of_another_account_is_not_there(world: World) -> None:
    world.attach()
    reserve(world, a_reservation(account=OTHER))
    with pytest.raises(NotFoundError):
        world.submit(taking(1, HALF_NODE))
    with pytest.raises(NotFoundError):
        world.handle(ReleaseReservation(reservation_id=ReservationId("r1"), account=AccountId("local")))
    query = GetReservation(reservation_id=ReservationId("r1"), account=AccountId("local"))
    with pytest.raises(NotFoundError):
        world.cluster.answer(query, world.now)


def test_a_place_on_a_node_that_takes_no_work_is_not_taken(world: World) -> None:
    world.attach()
    reserve(world)
    world.handle(SetNodeScheduling(node_id=node_id(1), cordoned=True))
    with pytest.raises(ConflictError) as refused:
        world.submit(taking(1, HALF_NODE))
    assert refused.value.field == "reservationId"


def test_of_a_slice_with_a_cordoned_gpu_the_others_can_be_taken(world: World) -> None:
    world.attach(a_node(1, capacity=a_capacity(gpus=2)))
    world.handle(a_reservation(1, Demand(gpus=2)))
    world.handle(SetNodeScheduling(node_id=node_id(1), cordoned=True, gpus=frozenset({0})))
    taker = a_workload(1, demand=Demand(gpus=1), reservation_id=ReservationId("r1"))
    world.submit(taker)
    allocation = world.workload(taker.id).allocation
    assert allocation is not None
    assert [share.index for share in allocation.gpus] == [1]
    (left,) = world.cluster.state.reservations.known(ReservationId("r1")).slices
    assert [share.index for share in left.allocation.gpus] == [0]


def test_a_released_reservation_makes_room_and_releasing_twice_is_once(world: World) -> None:
    world.attach()
    reserve(world)
    world.submit(a_workload(1))
    release = ReleaseReservation(reservation_id=ReservationId("r1"))
    assert isinstance(world.handle(release).events[0], ev.ReservationEnded)
    assert world.handle(release).events == ()
    assert known(world).state is ReservationState.RELEASED
    world.run_round()
    assert world.workload(a_workload(1).id).phase is Phase.PLACED
    with pytest.raises(ConflictError):
        world.submit(taking(2, HALF_NODE))


@pytest.mark.parametrize("how", ["lost", "left"])
def test_a_reservation_ends_as_a_whole_with_a_node_of_it(world: World, how: str) -> None:
    world.attach()
    world.attach(a_node(2))
    reserve(world, a_reservation(1, WHOLE_NODE, WHOLE_NODE))
    if how == "left":
        world.handle(DetachNode(node_id=node_id(2), epoch=1))
    else:
        world.later(150)
    reservation = known(world)
    assert reservation.state is ReservationState.RELEASED
    assert how in reservation.message


def test_a_node_that_only_attaches_again_keeps_what_is_reserved_on_it(world: World) -> None:
    world.attach()
    reserve(world)
    world.attach()
    assert known(world).state is ReservationState.ACTIVE


@pytest.mark.parametrize(
    ("left", "missing"),
    [
        ({"gpus": 1}, "GPU 1"),
        ({"gpus": 2, "gpu_memory_gib": 40}, "GPU 0, 1"),
        ({"gpus": 2, "cores": 1}, "of its cores"),
    ],
)
def test_a_reservation_ends_when_its_node_comes_back_without_what_it_holds(
    world: World, left: dict[str, int], missing: str
) -> None:
    world.attach(a_node(capacity=a_capacity(gpus=2)))
    reserve(world, a_reservation(1, Demand(gpus=2, cpu_milli=2000)))
    world.attach(a_node(capacity=a_capacity(**left)))
    assert known(world).state is ReservationState.RELEASED
    assert missing in known(world).message
    world.attach(a_node(capacity=a_capacity(gpus=2)))
    assert reserve(world, a_reservation(2, Demand(gpus=2, cpu_milli=8000))).state is ReservationState.ACTIVE


def test_the_same_reservation_again_is_the_same_and_another_one_is_refused(world: World) -> None:
    world.attach()
    first = reserve(world, a_reservation(request_digest="d"))
    assert world.handle(a_reservation(request_digest="d")).events == ()
    assert reserve(world, a_reservation(request_digest="d")) == first
    with pytest.raises(IdempotencyMismatchError):
        reserve(world, a_reservation(request_digest="e"))
    with pytest.raises(AlreadyExistsError):
        reserve(world, a_reservation(account=OTHER, request_digest="d"))


@pytest.mark.parametrize("policy", [ClusterPolicy(max_reservations=1, max_slices=2)])
@pytest.mark.parametrize(
    ("command", "error", "field"),
    [
        (a_reservation(2, slices=()), InvalidArgumentError, "slices"),
        (a_reservation(2, *[HALF_NODE] * 3), InvalidArgumentError, "slices"),
        (a_reservation(2, HALF_NODE, NO_DEMAND), InvalidArgumentError, "slices.1.demand"),
        (
            a_reservation(2, slices=(Reservable(demand=HALF_NODE, node_id=node_id(9)),)),
            NotFoundError,
            "slices.0.nodeId",
        ),
        (a_reservation(2, ttl_s=0.0), InvalidArgumentError, "ttlS"),
        (a_reservation(2, ttl_s=86_401.0), InvalidArgumentError, "ttlS"),
        (a_reservation(2), ResourceExhaustedError, None),
    ],
)
def test_a_reservation_that_cannot_be_is_refused_by_field(
    world: World, command: Reserve, error: type[ArcrayError], field: str | None
) -> None:
    world.attach()
    reserve(world, a_reservation(1, HALF_NODE))
    with pytest.raises(error) as refused:
        reserve(world, command)
    assert refused.value.field == field


def test_lists_show_an_account_its_own_newest_first(world: World) -> None:
    world.attach()
    reserve(world, a_reservation(1, Demand(cpu_milli=1000)))
    world.later(1)
    reserve(world, a_reservation(2, Demand(cpu_milli=1000)))
    reserve(world, a_reservation(3, Demand(cpu_milli=1000), account=OTHER))
    page = world.cluster.answer(ListReservations(account=AccountId("local")), world.now)
    assert isinstance(page, ReservationPage)
    assert [held.id for held in page.reservations] == ["r2", "r1"]


@pytest.mark.parametrize("policy", [ClusterPolicy(keep_reservations=1)])
def test_memory_keeps_the_newest_of_those_that_ended(world: World) -> None:
    world.attach()
    for number in (1, 2):
        reserve(world, a_reservation(number))
        world.handle(ReleaseReservation(reservation_id=ReservationId(f"r{number}")))
    page = world.cluster.answer(ListReservations(), world.now)
    assert isinstance(page, ReservationPage)
    assert [held.id for held in page.reservations] == ["r2"]


def test_what_was_released_is_not_kept_until_it_would_have_expired(world: World) -> None:
    world.attach()
    for number in range(500):
        reserve(world, a_reservation(number))
        world.handle(ReleaseReservation(reservation_id=ReservationId(f"r{number}")))
    assert len(world.cluster.state.reservations._expiries) < 100


def test_a_reservation_expires_in_time_however_many_were_released_before(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    lasting = reserve(world, a_reservation(1_000))
    for number in range(200):
        reserve(world, a_reservation(number))
        world.handle(ReleaseReservation(reservation_id=ReservationId(f"r{number}")))
    assert world.cluster.state.reservations.next_due() == lasting.expires_at


def test_a_reservation_takes_nothing_that_is_held_back_for_a_gang(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, demand=HALF_NODE))
    world.submit(a_workload(2, demand=WHOLE_NODE, gang=Gang(id="g", size=1)))
    world.now += timedelta(seconds=61)
    world.run_round()
    with pytest.raises(NoCandidatesError):
        reserve(world, a_reservation(1, HALF_NODE))


def test_the_last_slice_that_is_given_back_may_be_one_of_which_nothing_is_left(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    reserve(world, a_reservation(1, HALF_NODE, WHOLE_NODE))
    world.submit(taking(1, WHOLE_NODE))
    world.succeed(world.workload(a_workload(1).id))
    world.handle(ReleaseReservation(reservation_id=ReservationId("r1")))
    assert known(world).state is ReservationState.RELEASED
    assert not world.cluster.state.usage


SHARE = Demand(gpus=1, gpu_memory_bytes=40 * GIB)


@pytest.mark.parametrize(
    ("demand", "smaller", "missing"),
    [
        (SHARE, a_capacity(gpus=1, gpu_memory_gib=40), "GPU 0"),
        (HALF_NODE, a_capacity(gpus=1, cores=6), "some of its cores"),
        (Demand(memory_bytes=16 * GIB), a_capacity(gpus=1, memory_gib=24), "some of its memory"),
    ],
)
def test_of_reservations_that_a_smaller_node_cannot_hold_together_the_newest_end(
    world: World, demand: Demand, smaller: Capacity, missing: str
) -> None:
    world.attach(a_node(1, capacity=a_capacity(gpus=1, cores=8, memory_gib=32)))
    for number in (1, 2):
        world.handle(a_reservation(number, demand))
        world.later(1)
    world.attach(a_node(1, capacity=smaller))
    first, second = world.cluster.state.reservations.all()
    assert (first.state, second.state) == (ReservationState.ACTIVE, ReservationState.RELEASED)
    assert second.message == f"node {node_id(1)} came back without {missing}"
    assert world.submit(a_workload(1, demand=demand, reservation_id=first.id)).orders


def test_one_that_a_smaller_node_could_not_hold_even_alone_ends_before_a_newer_one(world: World) -> None:
    world.attach(a_node(1, capacity=a_capacity(gpus=1)))
    world.handle(a_reservation(1, Demand(gpus=1, gpu_memory_bytes=50 * GIB)))
    world.later(1)
    world.handle(a_reservation(2, Demand(gpus=1, gpu_memory_bytes=20 * GIB)))
    world.attach(a_node(1, capacity=a_capacity(gpus=1, gpu_memory_gib=40)))
    first, second = world.cluster.state.reservations.all()
    assert (first.state, second.state) == (ReservationState.RELEASED, ReservationState.ACTIVE)


def test_what_runs_on_a_smaller_node_goes_before_what_is_reserved_there(world: World) -> None:
    world.attach(a_node(1, capacity=a_capacity(gpus=1)))
    world.handle(a_reservation(1, SHARE))
    world.handle(a_reservation(2, Demand(cpu_milli=1000)))
    world.submit(a_workload(1, demand=SHARE))
    world.run_round()
    world.attach_with(
        (Running(workload_id=a_workload(1).id, attempt=1),), a_node(1, capacity=a_capacity(gpus=1, gpu_memory_gib=40))
    )
    states = [reservation.state for reservation in world.cluster.state.reservations.all()]
    assert states == [ReservationState.RELEASED, ReservationState.ACTIVE], "the other one takes nothing that is short"
    assert world.workload(a_workload(1).id).phase is Phase.PLACED
