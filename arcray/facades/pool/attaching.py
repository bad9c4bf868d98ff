"""Devices of this process as nodes of the cluster: attaching, signs of life, leaving.

A device is attached whenever it registers, comes back or has another size. Where the scheduler is away that is tried
again until the device has left. A report that is refused as old means that the cluster has lost the device, which is
then attached again, or that another process has it, which then keeps it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from arcray.core.commands import Attached, AttachNode, DetachNode, ReportTelemetry
from arcray.core.errors import ArcrayError, Code, NotFoundError, UnavailableError
from arcray.core.ids import NodeId
from arcray.core.node import Health, LeaseTerms, NodeView
from arcray.core.ports import Clock, ControlPlane
from arcray.core.queries import GetNode
from arcray.facades.pool.link import Link
from arcray.facades.pool.messages import TaskComplete
from arcray.facades.pool.nodes import FACADE, check_is_device, node_id_of, reading_of, registration_of
from arcray.facades.pool.session import POLICY, Member, Roster
from arcray.facades.pool.work import DeviceWork
from arcray.wire.asking import ask
from arcray.wire.attachments import Attachments
from arcray.wire.identity import check_node
from arcray.wire.keyed_turns import KeyedTurns

__all__ = ["Attaching"]

_log = logging.getLogger(__name__)

_FLUSH_S: Final = 0.25
_RETRY_S: Final = 1.0
_PASSING: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})


class Attaching:
    """The attachments of this process's devices.

    Args:
        link_of: returns the connection of a device.
        log_bytes: kept of what one piece of work writes.
    """

    def __init__(
        self,
        plane: ControlPlane,
        attachments: Attachments,
        clock: Clock,
        roster: Roster,
        *,
        lease: LeaseTerms,
        link_of: Callable[[Member], Link | None],
        log_bytes: int,
    ) -> None:
        self._plane = plane
        self._attachments = attachments
        self._clock = clock
        self._roster = roster
        self._lease = lease
        self._link_of = link_of
        self._log_bytes = log_bytes
        self._turns = KeyedTurns()
        self._works: dict[str, DeviceWork] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._beats: set[str] = set()
        self._heard = asyncio.Event()
        self._missing: set[str] = set()
        self._missed = asyncio.Event()

    async def join(self, member: Member, *, fresh: bool = False) -> None:
        """Attaches a device as it is now.

        Args:
            fresh: it has begun anew, and has nothing of what it was given.

        Raises:
            ArcrayError: it may not join. That the scheduler is away is none: it is tried again.
        """
        device_id = member.device.id
        async with self._turns.turn(node_id_of(device_id)):
            try:
                await self._attach(device_id, fresh=fresh)
            except ArcrayError as error:
                if error.code not in _PASSING:
                    raise
                _log.warning("device not attached", extra={"device": device_id, "reason": str(error)})
                self._missing.add(device_id)
                self._missed.set()

    async def leave(self, member: Member, reason: str) -> None:
        """Detaches a device that has left, unless it is back already."""
        device_id = member.device.id
        async with self._turns.turn(node_id_of(device_id)):
            if self._roster.member(device_id) is not None:
                return
            work = self._works.get(device_id)
            self.drop(device_id)
            try:
                epoch = work.epoch if work is not None else await self._unknown_epoch(device_id)
                if epoch:
                    await ask(self._plane, DetachNode(node_id=node_id_of(device_id), epoch=epoch, reason=reason))
            except ArcrayError as error:  # then its lease ends it, or another process has it
                _log.info("device not detached", extra={"device": device_id, "reason": str(error)})

    def drop(self, device_id: str) -> None:
        """Lets go of a device without a word to the cluster."""
        self._missing.discard(device_id)
        self._beats.discard(device_id)
        work = self._works.pop(device_id, None)
        if work is not None:
            self._attachments.remove(work.node_id, work)
            self._working.pop(device_id).cancel()

    def beat(self, member: Member) -> None:
        """Takes a sign of life; what the device told last goes with it."""
        self._beats.add(member.device.id)
        self._heard.set()

    def done(self, member: Member, result: TaskComplete) -> None:
        """Takes a device's word of the end of a task."""
        work = self._works.get(member.device.id)
        if work is not None:
            work.done(result)

    def epoch_of(self, node_id: NodeId) -> int:
        """Returns under which epoch a device is attached here; 0 where it is not."""
        return next((work.epoch for work in self._works.values() if work.node_id == node_id), 0)

    async def run(self) -> None:
        """Serves until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._retry_forever())
                await self._beat_forever()
        finally:
            working = tuple(self._working.values())
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    # -- attaching ----------------------------------------------------------------------------------------------------

    async def _attach(self, device_id: str, *, fresh: bool = False) -> None:
        member = self._roster.member(device_id)
        link = None if member is None else self._link_of(member)
        if member is None or link is None:
            return  # it has left meanwhile
        node_id = node_id_of(device_id)
        check_node(link.identity, node_id)
        check_is_device(await self._known(node_id), device_id)
        work = None if fresh else self._works.get(device_id)
        if work is None:
            work = DeviceWork(self._plane, self._clock, node_id, send=link.send, log_bytes=self._log_bytes)
        registration = registration_of(member, self._lease, address=self._attachments.address)
        attached: Attached = await ask(
            self._plane, AttachNode(registration=registration, inventory=tuple(work.inventory()))
        )
        if self._works.get(device_id) is not work:
            self.drop(device_id)
            self._works[device_id] = work
            self._working[device_id] = asyncio.create_task(work.run())
        work.epoch = attached.epoch
        self._missing.discard(device_id)
        self._attachments.add(node_id, work)
        self.beat(member)
        _log.info("device attached", extra={"device": device_id, "node_id": node_id, "epoch": attached.epoch})

    async def _unknown_epoch(self, device_id: str) -> int:
        """Returns the epoch of a device that left before its attachment was heard of; 0 where it has none here."""
        known = await self._known(node_id_of(device_id))
        if known is None or known.health in (Health.LOST, Health.GONE):
            return 0
        registration = known.registration
        here = (FACADE, device_id, self._attachments.address)
        return known.epoch if (registration.facade, registration.external_id, registration.address) == here else 0

    async def _known(self, node_id: NodeId) -> NodeView | None:
        try:
            view: NodeView = await self._plane.query(GetNode(node_id=node_id))
        except NotFoundError:
            return None
        return view

    async def _retry_forever(self) -> None:
        while True:
            await self._missed.wait()
            self._missed.clear()
            await self._clock.sleep(_RETRY_S)
            for device_id in tuple(self._missing):
                await self._attach_again(device_id)

    async def _attach_again(self, device_id: str) -> None:
        member = self._roster.member(device_id)
        if member is None:
            self._missing.discard(device_id)
            return
        try:
            await self.join(member)
        except ArcrayError as error:
            _log.warning("device refused", extra={"device": device_id, "reason": str(error)})
            self._missing.discard(device_id)
            link = self._link_of(member)
            if link is not None:
                link.close(POLICY, str(error))  # by which it leaves the list

    # -- signs of life ------------------------------------------------------------------------------------------------

    async def _beat_forever(self) -> None:
        while True:
            await self._heard.wait()
            self._heard.clear()
            await self._tell_beats()
            await self._clock.sleep(_FLUSH_S)

    async def _tell_beats(self) -> None:
        beats, self._beats = self._beats, set()
        told = [
            (device_id, ReportTelemetry(node_id=work.node_id, epoch=work.epoch, telemetry=reading_of(member)))
            for device_id in beats
            if (work := self._works.get(device_id)) and (member := self._roster.member(device_id))
        ]
        if not told:
            return
        try:
            replies = await self._plane.submit([report for _, report in told])
        except UnavailableError as error:
            _log.warning("signs of life lost", extra={"nodes": len(told), "reason": str(error)})
            return
        for (device_id, report), reply in zip(told, replies, strict=True):
            await self._answered(device_id, report, reply)

    async def _answered(self, device_id: str, report: ReportTelemetry, reply: Any) -> None:
        if not isinstance(reply, ArcrayError) or reply.code not in (Code.STALE_REPORT, Code.NOT_FOUND):
            return
        work = self._works.get(device_id)
        if work is None or work.epoch != report.epoch:
            return
        try:
            known = await self._known(report.node_id)
        except ArcrayError:
            return  # the next sign of life is refused too
        elsewhere = known is not None and known.registration.address != self._attachments.address
        if elsewhere and known is not None and known.health not in (Health.LOST, Health.GONE):
            self._roster.forget(device_id)
            self.drop(device_id)
            return
        self._missing.add(device_id)
        self._missed.set()
