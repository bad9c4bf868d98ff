"""The sockets of this process: does what the roster says, and has the parts told that a thing concerns.

A device is in the list as soon as it registers, and a node of the cluster as soon as the scheduler answers: while that
is away devices come and go among themselves, and are attached when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, assert_never
from uuid import UUID

from arcray.core.errors import ArcrayError
from arcray.core.keys import Scope
from arcray.core.queues import QueueReading
from arcray.facades.pool import codec
from arcray.facades.pool.attaching import Attaching
from arcray.facades.pool.desk import TaskDesk, Terms
from arcray.facades.pool.lending import Lending
from arcray.facades.pool.link import Link
from arcray.facades.pool.messages import Allocation, Device, ResourceRequest, Task
from arcray.facades.pool.nodes import lease_of, node_id_of
from arcray.facades.pool.others import Others
from arcray.facades.pool.programs import Programs
from arcray.facades.pool.queues import Queue
from arcray.facades.pool.session import (
    POLICY,
    Action,
    Beat,
    Broadcast,
    Close,
    Done,
    Ignored,
    Join,
    Left,
    Limits,
    Member,
    Moment,
    Refuse,
    Release,
    Request,
    Roster,
    SocketId,
    Submit,
)
from arcray.wire.facade import FacadeContext
from arcray.wire.identity import Identity

__all__ = ["PoolLinks"]

_log = logging.getLogger(__name__)

_LOG_BYTES: Final = 16 << 20  # kept of what one piece of work writes on a device


class PoolLinks:
    """Connections by number, and their devices.

    Raises:
        InvalidArgumentError: a program of the settings cannot be had; names it.
    """

    def __init__(self, context: FacadeContext) -> None:
        settings = context.settings.pool
        self._clock = context.clock
        self._settings = settings
        self._links: dict[SocketId, Link] = {}
        self._numbers = count(1)
        self._roster = Roster(
            Limits(
                devices=settings.max_devices,
                silent_s=settings.heartbeat_s,
                strict=settings.strict,
                close_silent=settings.close_silent,
            ),
            lambda: str(UUID(context.ids.new(), version=4)),
        )
        self._attaching = Attaching(
            context.plane,
            context.attachments,
            context.clock,
            self._roster,
            lease=lease_of(settings.heartbeat_s),
            link_of=self._link_of,
            log_bytes=_LOG_BYTES,
        )
        self._others = Others(
            context.plane,
            context.events,
            context.clock,
            self._roster,
            address=context.attachments.address,
            cluster=settings.show_cluster_nodes,
            broadcast=self._broadcast,
            displaced=self._displaced,
        )
        self._lending = Lending(
            context.plane,
            clock=context.clock,
            ids=context.ids,
            roster=self._roster,
            others=self._others,
            settings=settings,
        )
        longest_s = min(settings.task_timeout_s, context.settings.scheduler.max_duration_s or settings.task_timeout_s)
        self._desk = TaskDesk(
            context.plane,
            events=context.events,
            clock=context.clock,
            ids=context.ids,
            programs=Programs(settings.programs),
            terms=Terms(most=settings.max_tasks, longest_s=longest_s, result_bytes=settings.max_result_bytes),
        )

    def queues(self) -> tuple[QueueReading, ...]:
        """Reads the queue of the connection that has the longest, and the tasks."""
        frames = max(map(len, self._links.values()), default=0)
        reading = QueueReading(queue=Queue.FRAMES, length=frames, limit=self._settings.socket_queue)
        return (reading, *self._desk.queues())

    async def listing(self) -> Sequence[Device]:
        """Returns all devices.

        Raises:
            UnavailableError: the scheduler cannot be reached.
        """
        return await self._others.listing()

    def open(self, identity: Identity, address: str, write_now: Callable[[str], bool]) -> Link:
        """Returns the link of a new connection.

        Args:
            identity: who opened it.
            address: where from.
            write_now: as for ``Link``.
        """
        most, most_characters = self._settings.socket_queue, self._settings.socket_queue_characters
        link = Link(next(self._numbers), identity, write_now, most=most, most_characters=most_characters)
        self._links[link.id] = link
        self._others.listen(wanted=True)
        self._roster.open(link.id, address=address, account=identity.account, trusted=identity.scope.allows(Scope.NODE))
        return link

    async def take(self, link: Link, frame: str | bytes) -> None:
        """Acts on a frame of a client."""
        for action in self._roster.receive(link.id, frame, self._now()):
            match action:  # most are of these, which wait for nothing
                case Broadcast():
                    self._broadcast(action.frame, but=action.but)
                case Beat():
                    self._attaching.beat(action.member)
                case _:
                    await self._act(action, link)

    async def leave(self, link: Link) -> None:
        """Takes that a connection has ended."""
        del self._links[link.id]
        for action in self._roster.close(link.id):
            await self._act(action, link)
        await self._desk.leave(link)
        await self._lending.leave(link.id)
        if not self._links:
            self._others.listen(wanted=False)

    async def run(self) -> None:
        """Serves until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._attaching.run())
            group.create_task(self._others.run())
            group.create_task(self._desk.run())
            await self._sweep_forever()

    # -- what the roster says -----------------------------------------------------------------------------------------

    async def _act(self, action: Action, link: Link | None) -> None:  # noqa: C901, PLR0912  one arm per action
        match action:
            case Broadcast():
                self._broadcast(action.frame, but=action.but)
            case Close():
                found = self._links.get(action.socket)
                if found is not None:
                    found.close(action.code, action.reason)
            case Join():
                await self._join(action)
            case Beat():
                self._attaching.beat(action.member)
            case Left():
                await self._attaching.leave(action.member, action.reason)
            case Done():
                self._attaching.done(action.member, action.result)
            case Request():
                await self._lend(action.request, link)
            case Release():
                if link is not None and _submits(link):
                    await self._lending.release(action.allocation_id, link.identity.account)
            case Submit():
                self._submit(action.task, link)
            case Refuse():
                if link is not None:
                    link.send(codec.result_frame(action.task_id, error=action.reason))
            case Ignored():
                _log.debug("frame ignored", extra={"code": action.error.code, "reason": str(action.error)})
            case _:
                assert_never(action)

    async def _join(self, join: Join) -> None:
        member, link = join.member, self._link_of(join.member)
        if link is None:
            return
        device_id = member.device.id
        try:
            await self._attaching.join(member, fresh=join.fresh)
        except ArcrayError as error:
            _log.info("device refused", extra={"device": device_id, "reason": str(error)})
            if self._roster.refuse(join):
                self._attaching.drop(device_id)
            link.close(POLICY, str(error))
            return
        self._lending.moved(device_id, link.id, member.account)
        if join.listed:
            link.send(codec.devices_frame(await self._listing_or_own()))
        if join.new:
            self._broadcast(codec.joined_frame(member.device), but=link.id)

    async def _listing_or_own(self) -> Sequence[Device]:
        try:
            return await self._others.listing()
        except ArcrayError as error:
            _log.warning("list without other nodes", extra={"code": error.code})
            return self._others.local()

    async def _lend(self, request: ResourceRequest, link: Link | None) -> None:
        if link is None:
            return
        if _submits(link):
            allocation = await self._lending.lend(request, link.id, link.identity.account)
        else:
            allocation = Allocation(
                id="",
                requesting_device=request.device_id,
                timestamp=self._clock.now(),
                requirements=request.asked,
                fulfilled=False,
                allocated=(),
            )
        link.send(codec.allocation_frame(allocation))

    def _submit(self, task: Task, link: Link | None) -> None:
        if link is None:
            return
        if not _submits(link):
            link.send(codec.result_frame(task.id, error=f"this needs scope {Scope.SUBMIT}"))
            return
        self._desk.submit(task, link, task.submitter_id or self._roster.device_of(link.id))

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _broadcast(self, frame: str, *, but: SocketId | None = None) -> None:
        for link in self._links.values():
            if link.id != but:
                link.tell(frame)

    def _link_of(self, member: Member) -> Link | None:
        return self._links.get(member.socket)

    def _displaced(self, device_id: str, epoch: int) -> None:
        if epoch > self._attaching.epoch_of(node_id_of(device_id)):
            self._roster.forget(device_id)
            self._attaching.drop(device_id)

    async def _sweep_forever(self) -> None:
        while True:
            await self._clock.sleep(self._settings.sweep_s)
            for action in self._roster.sweep(self._now()):
                await self._act(action, None)

    def _now(self) -> Moment:
        return Moment(self._clock.now(), self._clock.monotonic())


def _submits(link: Link) -> bool:
    return link.identity.scope.allows(Scope.SUBMIT)
