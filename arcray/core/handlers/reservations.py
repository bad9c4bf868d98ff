"""Rules about reservations: granting, taking, giving back.

A reservation is granted as a whole or refused with the reason; it does not wait. A workload that names one is placed in
the same turn or refused, and what it took is its own: when it ends, or starts again somewhere else, that does not come
back to the reservation. A reservation loses everything when a node of it is lost or leaves, or when its time is over.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

from arcray.core import events as ev
from arcray.core.asked import placement_request
from arcray.core.commands import ReleaseReservation, Reservable, Reserve
from arcray.core.errors import (
    AlreadyExistsError,
    ConflictError,
    IdempotencyMismatchError,
    InvalidArgumentError,
    NoCandidatesError,
    NotFoundError,
    ResourceExhaustedError,
)
from arcray.core.handlers.admission import check_reservable
from arcray.core.handlers.quotas import check_one_more, check_slices
from arcray.core.handlers.starting import begin
from arcray.core.ids import NodeId, ReservationId
from arcray.core.labels import check_selector
from arcray.core.node import Node
from arcray.core.placement.request import Placement, PlacementRequest
from arcray.core.placement.together import Shortfall, place_together
from arcray.core.reservation import Reservation, ReservationState, Slice, carve, is_empty
from arcray.core.resources import NO_DEMAND, Allocation
from arcray.core.state import ClusterState
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Workload, WorkloadSpec

__all__ = [
    "check_taking",
    "expire_reservations",
    "lose_missing",
    "lose_reservations",
    "on_release_reservation",
    "on_reserve",
    "take_place",
]


def on_reserve(turn: Turn, command: Reserve) -> Reservation:
    """Holds slices of nodes, all of them or none."""
    state = turn.state
    known = state.reservations.get(command.reservation_id)
    if known is not None:
        if known.account != command.account:
            raise AlreadyExistsError(f"reservation {command.reservation_id} exists", field="id")
        if known.request_digest != command.request_digest:
            raise IdempotencyMismatchError(f"reservation {known.id} was asked for otherwise", field="Idempotency-Key")
        return known
    _check(turn, command)
    requests = [_request(wanted) for wanted in command.slices]
    placements = place_together(state.placement, requests, command.layout)
    held = state.gangs.held
    if not isinstance(placements, Shortfall) and any(placement.node_id in held for placement in placements):
        avoiding = [replace(request, avoid=held) for request in requests]
        placements = place_together(state.placement, avoiding, command.layout)
    if isinstance(placements, Shortfall):
        raise _no_room(placements, len(requests))
    granted = tuple(Slice(node_id=place.node_id, allocation=place.allocation) for place in placements)
    reservation = Reservation(
        id=command.reservation_id,
        account=command.account,
        granted=granted,
        slices=granted,
        created_at=turn.now,
        expires_at=turn.now + timedelta(seconds=command.ttl_s),
        request_digest=command.request_digest,
    )
    turn.emit(ev.ReservationGranted(reservation=reservation, at=turn.now))
    return reservation


def _check(turn: Turn, command: Reserve) -> None:
    policy, state = turn.policy, turn.state
    if not 1 <= len(command.slices) <= policy.max_slices:
        raise InvalidArgumentError(f"a reservation has 1 to {policy.max_slices} slices", field="slices")
    for index, wanted in enumerate(command.slices):
        if wanted.demand == NO_DEMAND:
            raise InvalidArgumentError("asks for nothing", field=f"slices.{index}.demand")
        if wanted.node_id is not None and wanted.node_id not in state.nodes:
            raise NotFoundError(f"no node {wanted.node_id}", field=f"slices.{index}.nodeId")
        check_selector(wanted.selector, f"slices.{index}.selector")
    longest_s = policy.max_reservation.total_seconds()
    if not 0 < command.ttl_s <= longest_s:
        raise InvalidArgumentError(f"must be above 0 and at most {longest_s:g}", field="ttlS")
    if state.reservations.active >= policy.max_reservations:
        raise ResourceExhaustedError(f"{policy.max_reservations} reservations are active already")
    demands = [wanted.demand for wanted in command.slices]
    check_slices(state, command.account, demands)
    check_reservable(turn, command.account, demands)


def _request(wanted: Reservable) -> PlacementRequest:
    return PlacementRequest(demand=wanted.demand, wants=wanted.wants, selector=wanted.selector, node_id=wanted.node_id)


def _no_room(shortfall: Shortfall, slices: int) -> NoCandidatesError:
    why = shortfall.explanation.sentence()
    if slices == 1:
        return NoCandidatesError(why, field="slices.0")
    return NoCandidatesError(
        f"{shortfall.placed} of {slices} slices have a place, and beside them {why}", field=f"slices.{shortfall.index}"
    )


def on_release_reservation(turn: Turn, command: ReleaseReservation) -> Reservation:
    """Gives back what is left of a reservation."""
    known = turn.state.reservations.get(command.reservation_id)
    if known is None or command.account not in (None, known.account):
        raise NotFoundError(f"no reservation {command.reservation_id}", field="id")
    if known.state is ReservationState.ACTIVE:
        _end(turn, known, ReservationState.RELEASED, "released on request")
    return _current(turn.state, known)


def check_taking(state: ClusterState, spec: WorkloadSpec) -> None:
    """Refuses a submission that cannot take its place out of the reservation it names.

    Raises:
        InvalidArgumentError, NotFoundError, ConflictError: names the field.
    """
    if isinstance(spec.payload, Inference):
        raise InvalidArgumentError("an inference request takes no place", field="reservationId")
    assert spec.reservation_id is not None
    reservation = state.reservations.get(spec.reservation_id)
    if reservation is None or reservation.account != spec.origin.account:
        raise NotFoundError(f"no reservation {spec.reservation_id}", field="reservationId")
    if reservation.state is not ReservationState.ACTIVE:
        raise ConflictError(f"reservation {reservation.id} is {reservation.state}", field="reservationId")
    request = placement_request(spec)
    if not any(state.placement.admits(part.node_id, request) for part in reservation.slices):
        raise ConflictError(
            f"no node of reservation {reservation.id} can take it now: what it runs, its selector and its node do not "
            "fit them, or they take no new work",
            field="reservationId",
        )
    check_one_more(state, reservation.account)
    if _cut(state, reservation, spec) is None:
        raise ConflictError(f"reservation {reservation.id} has no slice left with room for it", field="demand")


def take_place(turn: Turn, workload: Workload) -> None:
    """Begins an attempt in the reservation that the workload names; ``check_taking`` has seen that it can."""
    spec = workload.spec
    assert spec.reservation_id is not None
    reservation = turn.state.reservations.get(spec.reservation_id)
    assert reservation is not None
    cut = _cut(turn.state, reservation, spec)
    assert cut is not None
    index, taken, left = cut
    turn.emit(
        ev.ReservationTaken(reservation_id=reservation.id, workload_id=spec.id, index=index, left=left, at=turn.now)
    )
    begin(turn, workload, Placement(node_id=reservation.slices[index].node_id, allocation=taken))
    rest = _current(turn.state, reservation)
    if all(is_empty(part.allocation) for part in rest.slices):
        _end(turn, rest, ReservationState.CONSUMED, "all of it was taken")


def _cut(
    state: ClusterState, reservation: Reservation, spec: WorkloadSpec
) -> tuple[int, Allocation, Allocation] | None:
    """Returns which slice a workload takes, what of it, and what is left: the first that it uses up, else the first."""
    request = placement_request(spec)
    found = None
    for index, part in enumerate(reservation.slices):
        if is_empty(part.allocation) or not state.placement.admits(part.node_id, request):
            continue
        cordoned = state.nodes[part.node_id].cordoned_gpus
        closed = tuple(share for share in part.allocation.gpus if share.index in cordoned)
        usable = replace(part.allocation, gpus=tuple(share for share in part.allocation.gpus if share not in closed))
        cut = carve(usable, spec.demand)
        if cut is None:
            continue
        taken, rest = cut
        left = replace(rest, gpus=tuple(sorted((*rest.gpus, *closed), key=lambda share: share.index)))
        if is_empty(left):
            return index, taken, left
        if found is None:
            found = (index, taken, left)
    return found


def expire_reservations(turn: Turn) -> None:
    """Ends the reservations whose time is over."""
    for reservation_id in turn.state.reservations.expired(turn.now):
        reservation = turn.state.reservations.get(reservation_id)
        assert reservation is not None
        _end(turn, reservation, ReservationState.EXPIRED, "its time is over")


def lose_reservations(turn: Turn, node_id: NodeId, reason: str) -> None:
    """Ends the reservations that hold something of a node that was lost or left."""
    for reservation in turn.state.reservations.on_node(node_id):
        _end(turn, reservation, ReservationState.RELEASED, f"{reason}: {node_id}")


def lose_missing(turn: Turn, node: Node) -> None:
    """Ends the reservations that a node has come back with too little for, beside what runs there.

    First those that it could not hold even alone, then the newest that hold what is short, until the rest fits.
    """
    on_node = turn.state.reservations.on_node(node.id)
    newest = sorted(on_node, key=lambda reservation: (reservation.created_at, reservation.id), reverse=True)
    ended: set[ReservationId] = set()
    for short in (_short_alone, _short_together):
        for reservation in newest:
            held = [part.allocation for part in reservation.slices if part.node_id == node.id]
            missing = short(turn.state, node, held) if reservation.id not in ended else ""
            if missing:
                ended.add(reservation.id)
                _end(turn, reservation, ReservationState.RELEASED, f"node {node.id} came back without {missing}")


def _short_alone(_: ClusterState, node: Node, held: list[Allocation]) -> str:
    """Returns what a node has too little of for a reservation alone; "" when it has all."""
    capacity = node.registration.capacity
    memory = {gpu.index: gpu.memory_bytes for gpu in capacity.gpus}
    return _named(
        gpus={share.index for each in held for share in each.gpus if share.memory_bytes > memory.get(share.index, -1)},
        cores=sum(each.cpu_milli for each in held) > capacity.cpu_milli,
        memory=sum(each.memory_bytes for each in held) > capacity.memory_bytes,
        disk=sum(each.disk_bytes for each in held) > capacity.disk_bytes,
    )


def _short_together(state: ClusterState, node: Node, held: list[Allocation]) -> str:
    """Returns of what that a reservation holds a node has too little for all that it holds; "" when of none."""
    free = state.placement.free(node.id)
    return _named(
        gpus={share.index for each in held for share in each.gpus} & free.overcommitted_gpus,
        cores=free.cpu_milli < 0 and any(each.cpu_milli for each in held),
        memory=free.memory_bytes < 0 and any(each.memory_bytes for each in held),
        disk=free.disk_bytes < 0 and any(each.disk_bytes for each in held),
    )


def _named(*, gpus: Collection[int], cores: bool, memory: bool, disk: bool) -> str:
    if gpus:
        return f"GPU {', '.join(map(str, sorted(gpus)))}"
    some = [name for name, short in (("cores", cores), ("memory", memory), ("disk", disk)) if short]
    return f"some of its {some[0]}" if some else ""


def _end(turn: Turn, reservation: Reservation, state: ReservationState, message: str) -> None:
    turn.emit(ev.ReservationEnded(reservation_id=reservation.id, state=state, message=message, at=turn.now))


def _current(state: ClusterState, reservation: Reservation) -> Reservation:
    known = state.reservations.get(reservation.id)
    assert known is not None
    return known
