"""The nodes that are connected to this process: attaching, signs of life, operators' wishes, half-open connections.

A node that comes back is asked first for what the cluster has placed on it, wherever it was connected before, and then
attached with what it has: that goes on, what it does not know goes elsewhere, and what the cluster does not want any
more is ended. Its newest connection is its own: an older one is closed, here at once, elsewhere as soon as the event is
heard. A connection that ends says nothing of the node, whose lease runs on, unless it was told to leave.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from arcray.claw_proto.frames import Dialect
from arcray.claw_settings import ClawSettings
from arcray.core import events as ev
from arcray.core.commands import Attached, AttachNode, DetachNode, ReportTelemetry, Running
from arcray.core.errors import ArcrayError, Code, NotFoundError, UnavailableError
from arcray.core.events import Event, Topic
from arcray.core.ids import NodeId
from arcray.core.node import DriverCapabilities, LeaseTerms, NodeRegistration, NodeView, Telemetry
from arcray.core.ports import Clock, ControlPlane
from arcray.core.queries import GetNode
from arcray.core.queues import QueueReading
from arcray.core.workload import WorkloadView
from arcray.facades.claw.link import REPLACED_CLOSE, Limits, Link
from arcray.facades.claw.nodes import FACADE, check_is_claw
from arcray.facades.claw.queues import Queue
from arcray.facades.claw.session import AGAIN_LATER, POLICY, ClawSession, Close, Terms
from arcray.facades.claw.wishes import Wishes, wishes_of
from arcray.wire.address_limit import AddressLimit
from arcray.wire.asking import ask
from arcray.wire.attachments import Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.identity import Identity, check_node
from arcray.wire.keyed_turns import KeyedTurns
from arcray.wire.listing import every_node, every_placed

__all__ = ["NodeLinks"]

_log = logging.getLogger(__name__)

_FLUSH_S: Final = 0.25
_DRAIN_S: Final = 30.0
_REOPEN_S: Final = 1.0
_REFUSALS_S: Final = 60.0  # between two lines about registrations that are too many
_TOPICS: Final = frozenset({Topic.NODES})
_PASSING: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})
_LEFT: Final = "an operator had it leave"


class NodeLinks:
    """Connections by node."""

    def __init__(
        self, plane: ControlPlane, attachments: Attachments, events: EventHub, clock: Clock, settings: ClawSettings
    ) -> None:
        self._plane = plane
        self._attachments = attachments
        self._events = events
        self._clock = clock
        self._settings = settings
        self._lease = LeaseTerms(unhealthy_after_s=settings.unhealthy_after_s, lost_after_s=settings.lost_after_s)
        self._links: dict[NodeId, Link] = {}
        self._leaving: set[NodeId] = set()
        self._turns = KeyedTurns()
        self._beats: dict[NodeId, Telemetry | None] = {}
        self._heard = asyncio.Event()
        self._registrations = AddressLimit(settings.registrations_per_minute)
        self._refused_s = -_REFUSALS_S

    def __len__(self) -> int:
        return len(self._links)

    def queues(self) -> tuple[QueueReading, ...]:
        """Reads the queues of the connections that have the longest."""
        links = self._links.values()
        frames = max((link.frames for link in links), default=0)
        words = max((link.words for link in links), default=0)
        return (
            QueueReading(queue=Queue.FRAMES, length=frames, limit=self._settings.socket_queue),
            QueueReading(queue=Queue.WORDS, length=words, limit=Link.words_allowed()),
        )

    def open(self, identity: Identity, address: str) -> Link:
        """Returns the link of a new connection.

        Args:
            identity: who opened it.
            address: where from; its registrations are counted.
        """

        async def join(link: Link) -> None:
            await self._join(link, identity)

        settings = self._settings
        return Link(
            ClawSession(
                Terms(heartbeat_s=settings.heartbeat_s, metrics_s=settings.metrics_s),
                address=self._attachments.address,
            ),
            self._plane,
            self._clock,
            limits=Limits(frames=settings.socket_queue, log_bytes=settings.log_bytes),
            admits=lambda: self._admits(address),
            join=join,
            heard=self._hear,
        )

    def _admits(self, address: str) -> bool:
        now_s = self._clock.monotonic()
        admitted = self._registrations.take(address, now_s)
        if not admitted and now_s - self._refused_s >= _REFUSALS_S:
            self._refused_s = now_s
            _log.warning("too many registrations", extra={"address": address, "setting": "registrations_per_minute"})
        return admitted

    async def leave(self, link: Link) -> None:
        """Takes that a connection has ended."""
        if link.session.registration is None:
            return
        node_id = link.node_id
        if self._links.get(node_id) is not link:
            return
        del self._links[node_id]
        self._attachments.remove(node_id, link)
        _log.info("node disconnected", extra={"node_id": node_id, "epoch": link.epoch})
        if node_id in self._leaving:
            self._leaving.discard(node_id)
            await link.drained(_DRAIN_S)  # what it said before is of work that it had
            if len(link.session) and link.session.dialect is Dialect.DOCUMENT:
                return  # it ends that first, and says so: it was cut off, and its lease tells whether it is gone
            try:
                await ask(self._plane, DetachNode(node_id=node_id, epoch=link.epoch, reason=_LEFT))
            except ArcrayError as error:  # then its lease ends it
                _log.info("node not detached", extra={"node_id": node_id, "reason": str(error)})

    async def run(self) -> None:
        """Serves until it is cancelled. Nodes go on with what they do, and connect to another process."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_forever())
            group.create_task(self._sweep_forever())
            group.create_task(self._ping_forever())
            await self._beat_forever()

    # -- attaching ----------------------------------------------------------------------------------------------------

    async def _join(self, link: Link, identity: Identity) -> None:
        async with self._turns.turn(link.node_id):
            try:
                check_node(identity, link.node_id)
                await self._attach(link)
            except ArcrayError as error:
                link.act(link.session.turn_away(error, AGAIN_LATER if error.code in _PASSING else POLICY))

    async def _attach(self, link: Link) -> None:
        session, node_id = link.session, link.node_id
        assert session.registration is not None, "it has registered"
        known = await self._known(node_id)
        check_is_claw(known)
        wishes = self._wishes(known.labels) if known is not None else Wishes()
        link.act(session.configure(wishes.config))
        registration = self._with_terms(session.registration, wishes)
        if wishes.leaves or session.leaves:
            registration = replace(registration, capabilities=DriverCapabilities())  # it takes nothing new
        inventory, placed = await self._inventory(link, known)
        attached: Attached = await ask(self._plane, AttachNode(registration=registration, inventory=tuple(inventory)))
        if link.closed is not None:
            return
        self._links[node_id] = link
        self._attachments.add(node_id, link)
        link.attached(attached.epoch)
        link.act(session.welcome())
        link.act([session.fence(work) for work in attached.stop])
        _log.info(
            "node attached",
            extra={"node_id": node_id, "epoch": attached.epoch, "placed": placed, "has": len(inventory)},
        )
        if wishes.leaves:
            self._have_leave(link, wishes)

    async def _inventory(self, link: Link, known: NodeView | None) -> tuple[Sequence[Running], int]:
        """Returns the work that a node has, as far as the cluster wants it, and how much it has placed there."""
        session = link.session
        if link.epoch:
            link.hold()
            there = (*link.untold(), *session.inventory())
            return there, len(there)
        older = self._links.get(link.node_id)
        if older is not None and older is not link:
            older.close(REPLACED_CLOSE)
            await older.drained(self._settings.recall_s)  # what it said is told under the epoch that it said it in
        placed = [] if known is None else await every_placed(self._plane, link.node_id)
        if not placed:
            return (), 0
        link.act(session.welcome())  # before it is asked for anything
        link.act(session.recall([(_running(view), view.phase) for view in placed]))
        await link.answered(self._settings.recall_s)
        inventory, fences = session.recalled()
        link.act(fences)
        return inventory, len(placed)

    def _with_terms(self, registration: NodeRegistration, wishes: Wishes) -> NodeRegistration:
        config = wishes.config
        if config is not None and config.max_concurrent_workloads is not None:
            registration = replace(registration, max_workloads=config.max_concurrent_workloads)
        return replace(registration, lease=self._lease)

    async def _known(self, node_id: NodeId) -> NodeView | None:
        try:
            view: NodeView = await self._plane.query(GetNode(node_id=node_id))
        except NotFoundError:
            return None
        return view

    # -- signs of life ------------------------------------------------------------------------------------------------

    def _hear(self, link: Link, telemetry: Telemetry | None) -> None:
        node_id = link.node_id
        if self._links.get(node_id) is link and (telemetry is not None or node_id not in self._beats):
            self._beats[node_id] = telemetry
            self._heard.set()

    async def _beat_forever(self) -> None:
        while True:
            await self._heard.wait()
            self._heard.clear()
            beats, self._beats = self._beats, {}
            reports = [
                ReportTelemetry(node_id=node_id, epoch=link.epoch, telemetry=telemetry)
                for node_id, telemetry in beats.items()
                if (link := self._links.get(node_id)) is not None
            ]
            try:
                heard = await self._plane.submit(reports)
            except UnavailableError as error:
                _log.warning("heartbeats lost", extra={"nodes": len(reports), "reason": str(error)})
            else:
                for report, reply in zip(reports, heard, strict=True):
                    self._answered(report, reply)
            await self._clock.sleep(_FLUSH_S)

    def _answered(self, report: ReportTelemetry, reply: Any) -> None:
        link = self._links.get(report.node_id)
        if not isinstance(reply, ArcrayError) or link is None or link.epoch != report.epoch or link.held:
            return
        _log.info("heartbeat refused", extra={"node_id": report.node_id, "reason": str(reply)})
        if reply.code in (Code.STALE_REPORT, Code.NOT_FOUND):
            link.close(REPLACED_CLOSE)  # it connects again, and is attached again

    async def _sweep_forever(self) -> None:
        """Closes connections whose node is silent for as long as its lease lasts: nobody is at their other end."""
        while True:
            await self._clock.sleep(self._settings.lost_after_s / 4)
            since_s = self._clock.monotonic() - self._settings.lost_after_s
            for link in [link for link in self._links.values() if link.heard_s < since_s]:
                _log.info("node is silent", extra={"node_id": link.node_id})
                link.close(Close(POLICY, f"silent for {self._settings.lost_after_s:g} s"))

    async def _ping_forever(self) -> None:
        if not self._settings.ping_s:
            return
        while True:
            await self._clock.sleep(self._settings.ping_s)
            for link in self._links.values():
                link.act(link.session.ping(self._clock.now()))

    # -- operators' wishes --------------------------------------------------------------------------------------------

    async def _follow_forever(self) -> None:
        while True:
            try:
                async with self._events.subscribe(_TOPICS) as events:
                    while True:
                        batch = await events.next()
                        if batch.gap:
                            await self._read_all_wishes()
                        for event in batch.events:
                            self._take(event)
            except ArcrayError as error:
                _log.warning("operators' wishes are not heard", extra={"code": error.code})
            await self._clock.sleep(_REOPEN_S)

    def _take(self, event: Event) -> None:
        match event:
            case ev.NodeRelabelled():
                self._wish(event.node_id, self._wishes(event.labels))
            case ev.NodeAttached():
                link = self._links.get(event.registration.id)
                elsewhere = event.registration.address != self._attachments.address
                if link is not None and elsewhere and event.epoch > link.epoch:
                    link.close(REPLACED_CLOSE)
            case _:
                pass

    async def _read_all_wishes(self) -> None:
        for view in await every_node(self._plane):
            if view.registration.facade == FACADE:
                self._wish(view.registration.id, self._wishes(view.labels))

    def _wishes(self, labels: Mapping[str, str | None]) -> Wishes:
        return wishes_of(labels, silence_s=self._settings.unhealthy_after_s)

    def _wish(self, node_id: NodeId, wishes: Wishes) -> None:
        link = self._links.get(node_id)
        if link is None:
            return
        told = link.session.configure(wishes.config)
        link.act(told)
        if not wishes.leaves:
            self._leaving.discard(node_id)
        if told or (wishes.leaves and node_id not in self._leaving):
            link.rejoin()  # how much work it takes may be another; it is told to leave once it is given no more

    def _have_leave(self, link: Link, wishes: Wishes) -> None:
        if link.node_id not in self._leaving:
            self._leaving.add(link.node_id)
            link.act(link.session.shut_down(_LEFT, graceful=wishes.graceful))


def _running(view: WorkloadView) -> Running:
    return Running(workload_id=view.spec.id, attempt=view.attempt)
