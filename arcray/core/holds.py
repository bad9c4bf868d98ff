"""What is booked on nodes for nobody's running work: claims of preemptors, and reservations.

What lives here: the books of both, kept in the placement engine like allocations, so that nothing else is given what is
promised. What does not: when a claim is made or a reservation ends (handlers).

Invariant: the engine holds, for each node, the allocations of its live work, what ``Claims`` keeps there and what is
left of reservations, and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from arcray.core.claim import Claim, kept_free
from arcray.core.deadlines import Deadlines
from arcray.core.ids import NodeId, ReservationId, WorkloadId
from arcray.core.placement.engine import Engine
from arcray.core.reservation import Reservation, ReservationState, Slice, is_empty
from arcray.core.resources import Allocation

__all__ = ["Claims", "Reservations"]


class Claims:
    """The places that are kept for preemptors.

    Attributes:
        settled: preemptors none of whose victims holds anything any more, to be placed in the same turn.
    """

    def __init__(self, engine: Engine) -> None:
        self.settled: dict[WorkloadId, None] = {}
        self._engine = engine
        self._claims: dict[WorkloadId, Claim] = {}
        self._held: dict[WorkloadId, dict[WorkloadId, Allocation]] = {}  # by preemptor: what its victims hold
        self._kept: dict[WorkloadId, Allocation] = {}
        self._preemptor: dict[WorkloadId, WorkloadId] = {}  # by victim
        self._ends = Deadlines[WorkloadId](self._keeps)

    def __len__(self) -> int:
        return len(self._claims)

    def __contains__(self, workload_id: object) -> bool:
        return workload_id in self._claims

    def add(self, workload_id: WorkloadId, claim: Claim, held: Mapping[WorkloadId, Allocation]) -> None:
        """Keeps a place.

        Args:
            held: what the victims that are still there hold.
        """
        self._claims[workload_id] = claim
        self._held[workload_id] = dict(held)
        for victim in held:
            self._preemptor[victim] = workload_id
        if claim.until is not None:
            self._ends.add(claim.until, workload_id)
        self._book(workload_id)

    def next_due(self) -> datetime | None:
        """Returns when the next place has been kept for long enough."""
        return self._ends.next_due()

    def overdue(self, now: datetime) -> Iterator[WorkloadId]:
        """Yields the preemptors whose places were kept for long enough; the reader gives those up."""
        return self._ends.over(now)

    def drop(self, workload_id: WorkloadId) -> None:
        """Keeps a place no longer."""
        claim = self._claims.pop(workload_id)
        self._engine.release(claim.node_id, self._kept.pop(workload_id))
        for victim in self._held.pop(workload_id):
            del self._preemptor[victim]
        self.settled.pop(workload_id, None)

    def given_back(self, victim: WorkloadId) -> None:
        """Keeps what a victim has just given back; any other workload changes nothing."""
        workload_id = self._preemptor.pop(victim, None)
        if workload_id is None:
            return
        del self._held[workload_id][victim]
        self._engine.release(self._claims[workload_id].node_id, self._kept.pop(workload_id))
        self._book(workload_id)

    def waits_for(self, workload_id: WorkloadId) -> tuple[WorkloadId, ...]:
        """Returns the victims of a preemptor that have not ended yet."""
        return tuple(self._held[workload_id])

    def kept_on(self, node_id: NodeId) -> list[Allocation]:
        """Returns what is kept on a node. Visits all claims."""
        return [self._kept[key] for key, claim in self._claims.items() if claim.node_id == node_id]

    def _keeps(self, until: datetime, workload_id: WorkloadId) -> bool:
        claim = self._claims.get(workload_id)
        return claim is not None and claim.until == until

    def _book(self, workload_id: WorkloadId) -> None:
        claim, held = self._claims[workload_id], self._held[workload_id]
        kept = self._kept[workload_id] = kept_free(claim.allocation, held.values())
        self._engine.allocate(claim.node_id, kept)
        if not held:
            self.settled[workload_id] = None


class Reservations:
    """Active reservations, and the newest of those that ended.

    Attributes:
        active: how many there are.
        forgetful: whether earlier ones that ended may be in the rows alone.
    """

    def __init__(self, engine: Engine) -> None:
        self.active = 0
        self.forgetful = False
        self._engine = engine
        self._known: dict[ReservationId, Reservation] = {}
        self._on_node: dict[NodeId, dict[ReservationId, None]] = {}
        self._expiries = Deadlines[ReservationId](self._expires)
        self._ended: deque[ReservationId] = deque()

    def get(self, reservation_id: ReservationId) -> Reservation | None:
        """Returns a reservation; None when there is none, or it ended long ago."""
        return self._known.get(reservation_id)

    def known(self, reservation_id: ReservationId) -> Reservation:
        """Returns a reservation that is known for certain."""
        return self._known[reservation_id]

    def all(self) -> list[Reservation]:
        """Returns those that are known, oldest first."""
        return list(self._known.values())

    def on_node(self, node_id: NodeId) -> list[Reservation]:
        """Returns the active reservations that hold something of a node."""
        return [self._known[key] for key in self._on_node.get(node_id, ())]

    def grant(self, reservation: Reservation) -> None:
        """Takes up a reservation; one that has ended holds nothing."""
        self._known[reservation.id] = reservation
        if reservation.state is not ReservationState.ACTIVE:
            self._ended.append(reservation.id)
            return
        self.active += 1
        for part in reservation.slices:
            self._engine.allocate(part.node_id, part.allocation)
            self._on_node.setdefault(part.node_id, {})[reservation.id] = None
        self._expiries.add(reservation.expires_at, reservation.id)

    def recall(self, reservation: Reservation) -> None:
        """Takes one that has ended back into memory from its row, so that the rules see what repeats it."""
        if reservation.id not in self._known and reservation.state is not ReservationState.ACTIVE:
            self.grant(reservation)

    def take(self, reservation_id: ReservationId, index: int, left: Allocation) -> None:
        """Leaves a slice what a workload did not take of it."""
        reservation = self._known[reservation_id]
        part = reservation.slices[index]
        self._engine.release(part.node_id, part.allocation)
        self._engine.allocate(part.node_id, left)
        slices = list(reservation.slices)
        slices[index] = Slice(node_id=part.node_id, allocation=left)
        self._known[reservation_id] = replace(reservation, slices=tuple(slices))

    def end(self, reservation_id: ReservationId, state: ReservationState, message: str, at: datetime) -> None:
        """Gives back what is left of a reservation."""
        reservation = self._known[reservation_id]
        self.active -= 1
        for part in reservation.slices:
            self._engine.release(part.node_id, part.allocation)
            self._on_node[part.node_id].pop(reservation_id, None)
        empty = tuple(Slice(node_id=part.node_id, allocation=Allocation()) for part in reservation.slices)
        self._known[reservation_id] = replace(reservation, slices=empty, state=state, ended_at=at, message=message)

    def retire(self, reservation_ids: Iterable[ReservationId], limit: int) -> None:
        """Takes reservations that ended and are in the rows now for old; beyond the limit the earliest are let go."""
        self._ended.extend(reservation_ids)
        while len(self._ended) > limit:
            self._known.pop(self._ended.popleft(), None)
            self.forgetful = True

    def discard(self, reservation_ids: Iterable[ReservationId]) -> None:
        """Lets go of these reservations, of those that have ended, old or not."""
        gone = {key for key in reservation_ids if key in self._known and not self._is_active(key)}
        for key in gone:
            del self._known[key]
        if gone:
            self._ended = deque(key for key in self._ended if key not in gone)

    def forget_node(self, node_id: NodeId) -> None:
        """Forgets a node on which nothing is reserved."""
        assert not self._on_node.get(node_id)
        self._on_node.pop(node_id, None)

    def next_due(self) -> datetime | None:
        """Returns when the next reservation expires."""
        return self._expiries.next_due()

    def expired(self, now: datetime) -> Iterator[ReservationId]:
        """Yields the active reservations whose time is over; the reader ends them."""
        return self._expiries.over(now)

    def held_on(self, node_id: NodeId) -> list[Allocation]:
        """Returns what is left of reservations on a node."""
        return [
            part.allocation
            for reservation in self.on_node(node_id)
            for part in reservation.slices
            if part.node_id == node_id and not is_empty(part.allocation)
        ]

    def _expires(self, expires_at: datetime, reservation_id: ReservationId) -> bool:
        return self._is_active(reservation_id) and self._known[reservation_id].expires_at == expires_at

    def _is_active(self, reservation_id: ReservationId) -> bool:
        known = self._known.get(reservation_id)
        return known is not None and known.state is ReservationState.ACTIVE
