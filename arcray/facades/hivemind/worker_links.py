"""The workers that are attached through this process: joining, heartbeats, taking over, leaving. Owns their links.

A worker cannot say what it runs, so what the cluster has placed on it is taken for what it runs. Only what was placed
and may not have arrived is not: the cluster gives it another attempt, and the worker is told to end this one first. So
it is told, when it comes back, of what it began before it was given up (``worker_begun``), and a worker that registers
again of what it had, where it is another process, which knows of nothing. Our own workers say which they are. Others
most likely are at another address, after their connection has broken, and where this process has no link to them: it
may have been started anew, and missed that; who went on is heard of by a heartbeat. If it is the same one after all,
its work begins again.

A worker that registers offers nothing until it was reached; then it attaches again with what it can do. So an address
that is wrong, or another's, never gets anybody's code, and costs its owner the work and not the pool.

Heartbeats may come to any process. Who holds the attachment renews the lease; another one takes the worker over once
its holder was not heard for a while: the holder has died, or the worker has another connection now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from arcray.core.commands import Attached, AttachNode, DetachNode, ReportTelemetry, Running
from arcray.core.errors import ArcrayError, Code, NotFoundError, ResourceExhaustedError, UnavailableError
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import Health, NodeRegistration, NodeView, Telemetry
from arcray.core.ports import Clock, ControlPlane
from arcray.core.queries import GetNode
from arcray.core.queues import QueueReading
from arcray.core.workload import Phase, WorkloadView
from arcray.facades.hivemind.queues import Queue
from arcray.facades.hivemind.tasks import FACADE
from arcray.facades.hivemind.worker_begun import BegunWork
from arcray.facades.hivemind.worker_channel import Dial
from arcray.facades.hivemind.worker_link import Limits, WorkerLink
from arcray.facades.hivemind.workers import LEASE, dial_address_of, is_same_process, reached, was_reached
from arcray.wire.asking import ask
from arcray.wire.attachments import Attachments
from arcray.wire.keyed_turns import KeyedTurns
from arcray.wire.listing import every_placed

__all__ = ["WorkerLinks"]

_log = logging.getLogger(__name__)

_FLUSH_S: Final = 0.25
_LINKS: Final = 10_000  # of one process; each is a connection and a handful of tasks
_SWEEP_S: Final = 30.0
_SILENT_S: Final = 2 * LEASE.lost_after_s  # its lease was lost long ago, and another link is made if it comes back
_HOLDER_SILENT: Final = timedelta(seconds=7.5)  # a beat and a half


class WorkerLinks:
    """Workers by node.

    Args:
        dial: makes the way to a worker.
    """

    def __init__(
        self, plane: ControlPlane, attachments: Attachments, clock: Clock, *, limits: Limits, dial: Dial
    ) -> None:
        self._plane = plane
        self._attachments = attachments
        self._clock = clock
        self._limits = limits
        self._dial = dial
        self._links: dict[NodeId, WorkerLink] = {}
        self._addresses: dict[NodeId, str] = {}
        self._turns = KeyedTurns()
        self._begun = BegunWork()
        self._beats: dict[NodeId, Telemetry | None] = {}
        self._heard_s: dict[NodeId, float] = {}
        self._heard = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    @property
    def address(self) -> str:
        """Names this process in registrations."""
        return self._attachments.address

    def __len__(self) -> int:
        return len(self._links)

    def queues(self) -> tuple[QueueReading, ...]:
        """Reads the queue of the worker that has the longest."""
        longest = max(map(len, self._links.values()), default=0)
        return (QueueReading(queue=Queue.DIALS, length=longest, limit=self._limits.orders),)

    async def run(self) -> None:
        """Serves until it is cancelled. Workers go on with what they do, and others take them over."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._sweep_forever())
                await self._beat_forever()
        finally:
            self._group = None

    async def join(self, registration: NodeRegistration) -> None:
        """Attaches a worker that registers, or registers again.

        Raises:
            ArcrayError: the cluster does not take it, or cannot now.
        """
        async with self._turns.turn(registration.id):
            known, standing = await self._known(registration.id), self._link_to(registration)
            same = None if known is None else is_same_process(known.registration, registration)
            if standing is not None and known is not None and was_reached(known.registration):
                registration = reached(registration)
            link = self._linked(registration) if standing is None else standing

            def gone(work: WorkloadView) -> bool:
                return (standing is None or link.doubts(work)) if same is None else not same

            await self._attach(link, registration, gone=gone)

    async def hear(self, node_id: NodeId, telemetry: Telemetry | None = None) -> None:
        """Takes a sign of life of a worker. The cluster is told shortly.

        Raises:
            NotFoundError: it has to register.
            UnavailableError: the scheduler is away.
        """
        if self._link(node_id) is None and not await self._took_over(node_id):
            return
        if telemetry is not None or node_id not in self._beats:
            self._beats[node_id] = telemetry
        if node_id in self._links:
            self._heard_s[node_id] = self._clock.monotonic()
        self._heard.set()

    async def leave(self, node_id: NodeId, reason: str) -> None:
        """Lets a worker go; its work goes elsewhere at once. One that is gone already may be let go again.

        Raises:
            NotFoundError: nobody knows it.
            UnavailableError: the scheduler is away.
        """
        async with self._turns.turn(node_id):
            known = await self._known(node_id)
            if known is None:
                raise NotFoundError("no such node; it has to register", field="node_id")
            if known.health not in (Health.LOST, Health.GONE):
                await ask(self._plane, DetachNode(node_id=node_id, epoch=known.epoch, reason=reason))
            link = self._links.get(node_id)
            if link is not None:
                link.close()

    def ended(self, node_id: NodeId, workload_id: WorkloadId, attempt: int) -> None:
        """Takes a worker's word that it is not at an attempt any more."""
        self._begun.ended(node_id, workload_id, attempt)

    def _link(self, node_id: NodeId) -> WorkerLink | None:
        link = self._links.get(node_id)
        return None if link is None or link.closed else link

    def _link_to(self, registration: NodeRegistration) -> WorkerLink | None:
        there = self._addresses.get(registration.id) == dial_address_of(registration)
        return self._link(registration.id) if there else None

    # -- attaching ----------------------------------------------------------------------------------------------------

    async def _took_over(self, node_id: NodeId) -> bool:
        """Attaches a worker here that the cluster knows, unless another process holds it."""
        async with self._turns.turn(node_id):
            if self._link(node_id) is not None:
                return True
            known = await self._known(node_id)
            if known is None or known.health is Health.GONE:
                raise NotFoundError("no such node; it has to register", field="node_id")
            elsewhere = known.registration.address != self.address and known.health is Health.HEALTHY
            if elsewhere and self._clock.now() - known.last_seen < _HOLDER_SILENT:
                return False
            registration = replace(known.registration, address=self.address)
            _log.info("worker taken over", extra={"node_id": node_id, "from": known.registration.address})
            await self._attach(self._linked(registration), registration)
        return True

    def _linked(self, registration: NodeRegistration) -> WorkerLink:
        """Returns a link that runs, in place of any before it."""
        if self._group is None:
            raise UnavailableError("the gateway is starting")
        if len(self._links) >= _LINKS and registration.id not in self._links:
            raise ResourceExhaustedError(f"{_LINKS} workers are attached through this gateway already")
        node_id, address = registration.id, dial_address_of(registration)
        before = self._links.get(node_id)
        if before is not None:
            before.close()

        async def first_reached() -> None:
            await self._offer(node_id, link)

        link = WorkerLink(
            node_id,
            self._plane,
            self._clock,
            self._dial(address),
            limits=self._limits,
            begun=self._begun,
            reached=None if was_reached(registration) else first_reached,
        )
        self._links[node_id] = link
        self._addresses[node_id] = address
        self._heard_s[node_id] = self._clock.monotonic()
        self._group.create_task(self._linger(link), name=f"worker {node_id}")
        return link

    async def _linger(self, link: WorkerLink) -> None:
        try:
            await link.run()
        finally:
            self._attachments.remove(link.node_id, link)
            if self._links.get(link.node_id) is link:
                del self._links[link.node_id]
                del self._addresses[link.node_id], self._heard_s[link.node_id]

    async def _offer(self, node_id: NodeId, link: WorkerLink) -> None:
        """Attaches a worker again that was reached, as one that takes work."""
        async with self._turns.turn(node_id):
            known = await self._known(node_id)
            if link.closed or known is None or known.epoch != link.epoch or known.health is Health.GONE:
                return
            await self._attach(link, reached(known.registration))

    async def _attach(
        self,
        link: WorkerLink,
        registration: NodeRegistration,
        *,
        gone: Callable[[WorkloadView], bool] = lambda _: False,
    ) -> None:
        """Attaches a worker.

        Args:
            gone: whether some work that the cluster has placed there is taken for ended.
        """
        placed = await every_placed(self._plane, registration.id)
        certain = [view for view in placed if (view.phase is not Phase.PLACED or link.holds(view)) and not gone(view)]
        for view in placed:
            if view not in certain and (gone(view) or not link.epoch):
                link.forget(view.spec.id, view.attempt)
        inventory = tuple(Running(workload_id=view.spec.id, attempt=view.attempt) for view in certain)
        try:
            attached: Attached = await ask(self._plane, AttachNode(registration=registration, inventory=inventory))
        except ArcrayError:
            if not link.epoch:
                link.close()
            raise
        link.attached(attached.epoch)
        for work in dict.fromkeys((*attached.stop, *self._begun.besides(registration.id, inventory))):
            link.forget(work.workload_id, work.attempt)
        self._attachments.add(registration.id, link)
        _log.info(
            "worker attached",
            extra={"node_id": registration.id, "epoch": attached.epoch, "takes_work": was_reached(registration)},
        )

    async def _known(self, node_id: NodeId) -> NodeView | None:
        try:
            view: NodeView = await self._plane.query(GetNode(node_id=node_id))
        except NotFoundError:
            return None
        return view if view.registration.facade == FACADE else None

    # -- heartbeats ---------------------------------------------------------------------------------------------------

    async def _beat_forever(self) -> None:
        while True:
            await self._heard.wait()
            self._heard.clear()
            beats, self._beats = self._beats, {}
            reports = [
                ReportTelemetry(node_id=node_id, epoch=link.epoch, telemetry=telemetry)
                for node_id, telemetry in beats.items()
                if (link := self._link(node_id)) is not None
            ]
            try:
                replies = await self._plane.submit(reports)
            except UnavailableError as error:
                _log.warning("heartbeats lost", extra={"workers": len(reports), "reason": str(error)})
            else:
                for report, reply in zip(reports, replies, strict=True):
                    self._told(report, reply)
            await self._clock.sleep(_FLUSH_S)

    async def _sweep_forever(self) -> None:
        """Hangs up on workers that went without a word."""
        while True:
            await self._clock.sleep(_SWEEP_S)
            since_s = self._clock.monotonic() - _SILENT_S
            for node_id in [each for each, heard_s in self._heard_s.items() if heard_s < since_s]:
                self._links[node_id].close()

    def _told(self, report: ReportTelemetry, reply: Any) -> None:
        link = self._links.get(report.node_id)
        if not isinstance(reply, ArcrayError) or link is None or link.epoch != report.epoch:
            return
        _log.info("heartbeat refused", extra={"node_id": report.node_id, "reason": str(reply)})
        if reply.code in (Code.STALE_REPORT, Code.NOT_FOUND):
            link.close()  # its next one has it attach again, here or wherever it comes
