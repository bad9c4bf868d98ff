"""Nodes that are not connected here, as devices: in lists, and in what sockets are told.

Lists are asked of the cluster. What changes comes by its events, which are read while somebody listens. Readings of
other processes' devices are passed on; those of the cluster's own nodes stand in lists alone, because there may be
thousands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from arcray.core import events as ev
from arcray.core.errors import ArcrayError
from arcray.core.events import Event, Topic
from arcray.core.ids import NodeId
from arcray.core.node import Health, NodeRegistration, NodeView
from arcray.core.ports import Clock, ControlPlane
from arcray.facades.pool import codec
from arcray.facades.pool.messages import Device
from arcray.facades.pool.nodes import FACADE, device_of, is_shown, node_id_of, resources_of
from arcray.facades.pool.session import Roster
from arcray.wire.event_hub import EventHub
from arcray.wire.listing import every_node

__all__ = ["Others"]

_log = logging.getLogger(__name__)

_TOPICS: Final = frozenset({Topic.NODES, Topic.TELEMETRY})
_REOPEN_S: Final = 1.0


class Others:
    """What is elsewhere.

    Args:
        address: of this process, in registrations.
        cluster: whether nodes of other protocols are shown.
        broadcast: sends a frame to every socket.
        displaced: is told of a device of this process that another one has attached since, and its epoch.
    """

    def __init__(
        self,
        plane: ControlPlane,
        events: EventHub,
        clock: Clock,
        roster: Roster,
        *,
        address: str,
        cluster: bool,
        broadcast: Callable[[str], None],
        displaced: Callable[[str, int], None],
    ) -> None:
        self._plane = plane
        self._events = events
        self._clock = clock
        self._roster = roster
        self._address = address
        self._cluster = cluster
        self._broadcast = broadcast
        self._displaced = displaced
        self._known: dict[NodeId, NodeRegistration] = {}
        self._listened_to = asyncio.Event()

    async def listing(self) -> Sequence[Device]:
        """Returns all devices: those that are registered here in their order, then the others.

        Raises:
            UnavailableError: the scheduler cannot be reached.
        """
        views = await every_node(self._plane)
        return self.local() + [device_of(view) for view in self.elsewhere(views)]

    def local(self) -> list[Device]:
        """Returns those that are registered here."""
        return [member.device for member in self._roster.members]

    def elsewhere(self, views: Sequence[NodeView]) -> Sequence[NodeView]:
        """Returns the nodes that are shown and not connected here: devices of other processes first."""
        here = {node_id_of(member.device.id) for member in self._roster.members}
        shown = [view for view in views if view.registration.id not in here and is_shown(view, cluster=self._cluster)]
        return sorted(shown, key=lambda view: view.registration.facade != FACADE)

    def listen(self, wanted: bool) -> None:
        """Takes whether anybody listens."""
        if wanted:
            self._listened_to.set()
        else:
            self._listened_to.clear()

    async def run(self) -> None:
        """Passes on what changes, until it is cancelled."""
        while True:
            await self._listened_to.wait()
            try:
                async with self._events.subscribe(_TOPICS) as events:
                    self._learn(await every_node(self._plane), told=bool(self._known))
                    while self._listened_to.is_set():
                        batch = await events.next()
                        if batch.gap:
                            self._learn(await every_node(self._plane), told=True)
                        for event in batch.events:
                            self._take(event)
            except ArcrayError as error:
                _log.warning("nodes elsewhere are not heard of", extra={"code": error.code})
                await self._clock.sleep(_REOPEN_S)

    def _learn(self, views: Sequence[NodeView], *, told: bool) -> None:
        now = {view.registration.id: view for view in self.elsewhere(views)}
        before, self._known = self._known, {node_id: view.registration for node_id, view in now.items()}
        if not told:
            return
        for node_id in before.keys() - now.keys():
            if not self._is_here(node_id):
                self._broadcast(codec.left_frame(_name(before[node_id])))
        for node_id in now.keys() - before.keys():
            self._broadcast(codec.joined_frame(device_of(now[node_id])))

    def _take(self, event: Event) -> None:
        match event:
            case ev.NodeAttached():
                self._attached(event)
            case ev.NodeDetached():
                self._gone(event.node_id)
            case ev.NodeHealthChanged() if event.health is Health.LOST:
                self._gone(event.node_id)
            case ev.TelemetryUpdated():
                registration = self._known.get(event.node_id)
                if registration is not None and registration.facade == FACADE and event.telemetry is not None:
                    resources = resources_of(registration, event.telemetry)
                    self._broadcast(codec.update_frame(_name(registration), resources))
            case _:
                pass

    def _attached(self, event: ev.NodeAttached) -> None:
        registration = event.registration
        if registration.address == self._address and registration.facade == FACADE:
            self._known.pop(registration.id, None)
            return
        if self._is_here(registration.id):
            self._displaced(registration.external_id, event.epoch)
        if registration.facade != FACADE and not self._cluster:
            return
        if registration.id not in self._known:
            device = Device(
                id=_name(registration),
                name=registration.name,
                platform="unknown" if registration.facade == FACADE else "linux",
                ip_address=registration.hostname,
                last_seen=event.at,
                resources=resources_of(registration, None),
            )
            self._broadcast(codec.joined_frame(device))
        self._known[registration.id] = registration

    def _gone(self, node_id: NodeId) -> None:
        registration = self._known.pop(node_id, None)
        if registration is not None:
            self._broadcast(codec.left_frame(_name(registration)))

    def _is_here(self, node_id: NodeId) -> bool:
        return any(node_id_of(member.device.id) == node_id for member in self._roster.members)


def _name(registration: NodeRegistration) -> str:
    """Returns the device id of a node."""
    return registration.external_id if registration.facade == FACADE else registration.id
