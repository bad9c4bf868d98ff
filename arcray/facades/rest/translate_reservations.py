"""Bodies of reservations to core's words and back: two ways to ask for slices, and one to show them."""

from __future__ import annotations

from typing import Final

from arcray.core.commands import Reservable, Reserve
from arcray.core.errors import ArcrayError, InvalidArgumentError
from arcray.core.gang import Layout
from arcray.core.ids import AccountId, NodeId, ReservationId, canonical_uuid, keyed_id
from arcray.core.lowering import wanted
from arcray.core.quantity import CPU_MILLI, MIB
from arcray.core.reservation import Reservation, parts_of
from arcray.core.resources import NO_DEMAND, Allocation
from arcray.core.workload import Container, Program
from arcray.facades.rest import messages as m
from arcray.facades.rest.translate import demand_of, selector_of

__all__ = ["blamed", "reservation_id_of", "reservation_view", "reserve_of"]

_KINDS: Final = {
    "container": wanted(Container(image="")),
    "program": wanted(Program(blob="")),
    None: frozenset[str](),
}


def reservation_id_of(account: AccountId, key: str, fresh: str) -> ReservationId:
    """Returns the id of a new reservation: the same for the same key of an account, so that it is made once."""
    return ReservationId(keyed_id("reservation", account, key) if key else fresh)


def reserve_of(body: m.ReservationBody, reservation_id: ReservationId, account: AccountId, digest: str) -> Reserve:
    """Returns the command that a body asks for.

    Raises:
        InvalidArgumentError: names the field.
    """
    if bool(body.slices) == (body.demand is not None):
        raise InvalidArgumentError("exactly one of slices and demand must be given", field="demand")
    if body.demand is not None:
        slices, layout = _divided(body, body.demand), Layout.SPREAD if body.strategy == "even" else Layout.PACK
    else:
        slices, layout = tuple(_slice(part, f"slices.{index}.") for index, part in enumerate(body.slices)), body.layout
    return Reserve(
        reservation_id=reservation_id,
        account=account,
        slices=slices,
        ttl_s=body.ttl_s,
        layout=layout,
        request_digest=digest,
    )


def blamed(body: m.ReservationBody, error: ArcrayError) -> ArcrayError:
    """Returns a refusal that names the field as this body has it: one demand is not a list of slices."""
    if body.demand is None or error.field is None or not error.field.startswith("slices."):
        return error
    field = error.field.split(".", 2)[2] if error.field.count(".") > 1 else "demand"
    return type(error)(error.message, field=field, details=error.details)


def reservation_view(reservation: Reservation) -> m.ReservationView:
    """Returns a reservation as REST shows it."""
    return m.ReservationView(
        id=reservation.id,
        state=reservation.state,
        slices=[
            m.SliceView(
                node_id=granted.node_id,
                demand=_held(granted.allocation),
                gpus=[share.index for share in granted.allocation.gpus],
                left=_held(left.allocation),
                gpus_left=[share.index for share in left.allocation.gpus],
            )
            for granted, left in zip(reservation.granted, reservation.slices, strict=True)
        ],
        created_at=reservation.created_at,
        expires_at=reservation.expires_at,
        ended_at=reservation.ended_at,
        message=reservation.message,
    )


def _divided(body: m.ReservationBody, demand: m.DemandBody) -> tuple[Reservable, ...]:
    if body.strategy == "greedy" and body.parts != 1:
        raise InvalidArgumentError("greedy takes one node; even takes several", field="parts")
    if body.strategy == "even" and body.node_id is not None and body.parts > 1:
        raise InvalidArgumentError("even takes several nodes, and this is one", field="nodeId")
    whole = demand_of(demand)
    if whole == NO_DEMAND:
        raise InvalidArgumentError("asks for nothing", field="demand")
    one = m.SliceBody(demand=demand, kind=body.kind, selector=body.selector, node_id=body.node_id)
    first = _slice(one, "")
    return tuple(
        Reservable(demand=part, wants=first.wants, selector=first.selector, node_id=first.node_id)
        for part in parts_of(whole, body.parts)
        if part != NO_DEMAND
    )


def _slice(body: m.SliceBody, prefix: str) -> Reservable:
    try:
        demand = demand_of(body.demand)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message, field=f"{prefix}{error.field}") from error
    pairs, terms = selector_of(body.selector, f"{prefix}selector")
    return Reservable(
        demand=demand,
        wants=_KINDS[body.kind],
        selector=(*pairs, *terms),
        node_id=None if body.node_id is None else NodeId(canonical_uuid(body.node_id, f"{prefix}nodeId")),
    )


def _held(allocation: Allocation) -> m.DemandBody:
    """Returns a slice in the words of a demand; of a GPU that is held in part, the memory."""
    shared = [share.memory_bytes // MIB for share in allocation.gpus if not share.whole]
    return m.DemandBody(
        cpu=allocation.cpu_milli / CPU_MILLI,
        memory_mb=allocation.memory_bytes // MIB,
        gpus=len(allocation.gpus),
        gpu_memory_mb=min(shared) or None if shared else None,
    )
