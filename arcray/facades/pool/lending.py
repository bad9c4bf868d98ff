"""Allocations: real reservations of the cluster, for as long as they are held.

What is fulfilled is reserved as a whole, expires by itself, and is given back when its requester leaves or says so.
What is not is told of and holds nothing. Others reserve at the same time: where the cluster has not what was planned,
it is planned again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from arcray.core.commands import ReleaseReservation, Reservable, Reserve
from arcray.core.errors import ArcrayError, Code
from arcray.core.ids import AccountId, ReservationId
from arcray.core.ports import Clock, ControlPlane, Ids
from arcray.core.queries import PAGE_LIMIT, ListReservations, ReservationPage
from arcray.core.reservation import Reservation
from arcray.core.resources import NO_DEMAND
from arcray.facades.pool.allocation import (
    Candidate,
    Caps,
    Held,
    Plan,
    candidate_of_device,
    candidate_of_node,
    held_of,
    plan,
)
from arcray.facades.pool.messages import Allocation, ResourceRequest
from arcray.facades.pool.nodes import FACADE, device_of, node_id_of
from arcray.facades.pool.others import Others
from arcray.facades.pool.session import Roster, SocketId
from arcray.pool_settings import PoolSettings
from arcray.wire.asking import ask
from arcray.wire.listing import every_node

__all__ = ["Lending"]

_log = logging.getLogger(__name__)

_TRIES: Final = 3
_AGAIN: Final = frozenset({Code.NO_CANDIDATES, Code.NOT_FOUND, Code.CONFLICT})


class Lending:
    """The allocations that sockets of this process hold."""

    def __init__(
        self,
        plane: ControlPlane,
        *,
        clock: Clock,
        ids: Ids,
        roster: Roster,
        others: Others,
        settings: PoolSettings,
    ) -> None:
        self._plane = plane
        self._clock = clock
        self._ids = ids
        self._roster = roster
        self._others = others
        self._settings = settings
        self._caps = Caps(
            cpu=settings.max_cpu_allocation,
            memory=settings.max_memory_allocation,
            storage=settings.max_storage_allocation,
            gpu=settings.gpu_sharing,
        )
        # Who holds what: by the requesting device, whose it is, and the socket that answers for it; newest last.
        self._holders: dict[tuple[SocketId, str, AccountId], list[tuple[ReservationId, float]]] = {}

    async def lend(self, request: ResourceRequest, socket: SocketId, account: AccountId) -> Allocation:
        """Answers a request; what it fulfils is held from then on."""
        found = Plan(fulfilled=False, allocated=(), shares=())
        allocation_id = ReservationId(self._ids.new())
        try:
            found = await self._reserved(request, allocation_id, socket, account)
        except ArcrayError as error:
            _log.warning("no allocation", extra={"code": error.code, "reason": str(error)})
        return Allocation(
            id=allocation_id,
            requesting_device=request.device_id,
            timestamp=self._clock.now(),
            requirements=request.asked,
            fulfilled=found.fulfilled,
            allocated=found.allocated,
        )

    async def release(self, allocation_id: str, account: AccountId) -> None:
        """Gives an allocation back; one that the account does not have, or that has ended, does nothing."""
        if await self._release(ReservationId(allocation_id), account):
            for held in self._holders.values():
                held[:] = [each for each in held if each[0] != allocation_id]

    async def leave(self, socket: SocketId) -> None:
        """Gives back all that a socket holds that has ended."""
        for key in [key for key in self._holders if key[0] == socket]:
            for allocation_id, _ in self._holders.pop(key):
                await self._release(allocation_id, key[2])

    def moved(self, device_id: str, socket: SocketId, account: AccountId) -> None:
        """Takes that a device has another socket, which answers for what its account holds by it from then on."""
        for key in [key for key in self._holders if key[1:] == (device_id, account) and key[0] != socket]:
            self._holders.setdefault((socket, device_id, account), []).extend(self._holders.pop(key))

    # -- reserving ----------------------------------------------------------------------------------------------------

    async def _reserved(
        self, request: ResourceRequest, allocation_id: ReservationId, socket: SocketId, account: AccountId
    ) -> Plan:
        refusal: ArcrayError | None = None
        for _ in range(_TRIES):
            found = plan(
                request.requirements,
                await self._candidates(request.device_id),
                evenly=self._settings.strategy == "even",
            )
            shares = [share for share in found.shares if share.demand != NO_DEMAND]
            if not found.fulfilled or not shares:
                return found
            held = self._held_by(socket, request.device_id, account)
            if held is None:
                return Plan(fulfilled=False, allocated=found.allocated, shares=())
            command = Reserve(
                reservation_id=allocation_id,
                account=account,
                slices=tuple(Reservable(demand=share.demand, node_id=share.node_id) for share in shares),
                ttl_s=self._settings.allocation_ttl_s,
            )
            entry = (allocation_id, self._clock.monotonic() + self._settings.allocation_ttl_s)
            held.append(entry)  # before it is asked for: its requester may leave before the answer comes
            try:
                await ask(self._plane, command)
            except ArcrayError as error:
                held[:] = [each for each in held if each is not entry]
                if error.code not in _AGAIN:
                    raise
                refusal = error
            else:
                return found
        assert refusal is not None, "it was refused every time"
        _log.info("allocation refused", extra={"reason": str(refusal)})
        return Plan(fulfilled=False, allocated=found.allocated, shares=())

    def _held_by(
        self, socket: SocketId, device_id: str, account: AccountId
    ) -> list[tuple[ReservationId, float]] | None:
        """Returns what a device holds, without what has expired; None where its socket holds as much as it may.

        Its own socket answers for it, if it has one that is of the account that asks.
        """
        now_s = self._clock.monotonic()
        for key, held in list(self._holders.items()):
            held[:] = [each for each in held if each[1] > now_s]
            if not held:
                del self._holders[key]
        member = self._roster.member(device_id)
        answers = member.socket if member is not None and member.account == account else socket
        if sum(len(held) for key, held in self._holders.items() if key[0] == answers) >= self._settings.max_allocations:
            return None
        return self._holders.setdefault((answers, device_id, account), [])

    async def _candidates(self, requester: str) -> Sequence[Candidate]:
        views = await every_node(self._plane)
        held = held_of(await self._reservations())
        by_id = {view.registration.id: view for view in views}
        found: list[Candidate | None] = []
        for device in self._others.local():
            view = by_id.get(node_id_of(device.id))
            if view is not None and device.id != requester:
                found.append(candidate_of_device(device, view, held.get(view.registration.id, Held()), self._caps))
        for view in self._others.elsewhere(views):
            device = device_of(view)
            of = candidate_of_device if view.registration.facade == FACADE else candidate_of_node
            if device.id != requester:
                found.append(of(device, view, held.get(view.registration.id, Held()), self._caps))
        return [each for each in found if each is not None]

    async def _reservations(self) -> Sequence[Reservation]:
        found: list[Reservation] = []
        while True:
            page: ReservationPage = await self._plane.query(ListReservations(limit=PAGE_LIMIT, offset=len(found)))
            found += page.reservations
            if not page.reservations or len(found) >= page.total:
                return found

    async def _release(self, allocation_id: ReservationId, account: AccountId) -> bool:
        """Returns whether it is given back."""
        try:
            await ask(self._plane, ReleaseReservation(reservation_id=allocation_id, account=account))
        except ArcrayError as error:  # then it expires
            _log.info("allocation not released", extra={"allocation": allocation_id, "reason": str(error)})
            return False
        return True
