"""Tasks that sockets of this process wait for: a place is taken at once or refused, then the end is waited for.

A task whose socket has ended is stopped: nobody can be told of its result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from arcray.core import events as ev
from arcray.core.blobkeys import log_key
from arcray.core.commands import ReleaseReservation, Reservable, Reserve, StopWorkload
from arcray.core.errors import ArcrayError, Code, InvalidArgumentError, NotFoundError
from arcray.core.events import Topic
from arcray.core.ids import AccountId, ReservationId, WorkloadId
from arcray.core.lowering import wanted
from arcray.core.ports import Clock, ControlPlane, Ids
from arcray.core.queries import GetWorkload
from arcray.core.queues import QueueReading
from arcray.core.workload import Phase, WorkloadView
from arcray.facades.pool.codec import result_frame
from arcray.facades.pool.link import Link
from arcray.facades.pool.messages import Task
from arcray.facades.pool.programs import Programs, Ready
from arcray.facades.pool.queues import Queue
from arcray.facades.pool.tasks import NO_PLACE, demand_of, keeps_off, outcome_of, spec_of
from arcray.wire.asking import ask
from arcray.wire.event_hub import EventHub
from arcray.wire.submitting import submit_work

__all__ = ["TaskDesk", "Terms"]

_log = logging.getLogger(__name__)

_TOPICS: Final = frozenset({Topic.WORKLOADS})
_HELD_S: Final = 30.0  # a place, between taking it and the workload that it is for
_REOPEN_S: Final = 1.0
_GRACE_S: Final = 5.0  # a task that is stopped
_NO_PLACE: Final = frozenset({Code.NO_CANDIDATES, Code.CONFLICT, Code.RESOURCE_EXHAUSTED, Code.UNSUPPORTED})


class Terms:
    """What bounds tasks.

    Args:
        most: of one socket at a time.
        longest_s: from a task's submission to its end.
        result_bytes: of an output that are given out.
    """

    def __init__(self, *, most: int, longest_s: float, result_bytes: int) -> None:
        self.most: Final = most
        self.longest_s: Final = longest_s
        self.result_bytes: Final = result_bytes


class TaskDesk:
    """The tasks of this process's sockets."""

    def __init__(
        self,
        plane: ControlPlane,
        *,
        events: EventHub,
        clock: Clock,
        ids: Ids,
        programs: Programs,
        terms: Terms,
    ) -> None:
        self._plane = plane
        self._events = events
        self._clock = clock
        self._ids = ids
        self._programs = programs
        self._terms = terms
        self._running: dict[Link, set[asyncio.Task[None]]] = {}
        self._ends: dict[WorkloadId, asyncio.Future[WorkloadView]] = {}
        self._wanted = asyncio.Event()

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many tasks the socket waits for that waits for the most."""
        most = max(map(len, self._running.values()), default=0)
        return (QueueReading(queue=Queue.TASKS, length=most, limit=self._terms.most),)

    def submit(self, task: Task, link: Link, submitter: str) -> None:
        """Takes a task; its result is sent to the socket.

        Args:
            submitter: device that it is kept off; "" where there is none.
        """
        running = self._running.setdefault(link, set())
        if len(running) >= self._terms.most:
            link.send(result_frame(task.id, error=f"more than {self._terms.most} tasks of one socket"))
            return
        doing = asyncio.create_task(self._serve(task, link, submitter))
        running.add(doing)
        doing.add_done_callback(running.discard)

    async def leave(self, link: Link) -> None:
        """Ends what a socket waits for that has ended."""
        running = tuple(self._running.pop(link, ()))
        for doing in running:
            doing.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def run(self) -> None:
        """Listens for ends, until it is cancelled."""
        while True:
            await self._wanted.wait()
            try:
                async with self._events.subscribe(_TOPICS) as events:
                    await self._look(tuple(self._ends))
                    while self._ends:
                        batch = await events.next()
                        ended = {event.workload_id for event in batch.events if isinstance(event, ev.WorkloadFinished)}
                        await self._look(tuple(self._ends) if batch.gap else ended & self._ends.keys())
                    self._wanted.clear()
            except ArcrayError as error:
                _log.warning("ends of tasks are not heard", extra={"code": error.code})
                await self._clock.sleep(_REOPEN_S)

    # -- one task -----------------------------------------------------------------------------------------------------

    async def _serve(self, task: Task, link: Link, submitter: str) -> None:
        workload_id = WorkloadId(self._ids.new())
        frame = result_frame(task.id, error="Internal error")
        try:
            frame = await self._result(task, workload_id, link.identity.account, submitter)
        except asyncio.CancelledError:
            await self._stop(workload_id)
            raise
        except ArcrayError as error:
            no_place = error.code in _NO_PLACE
            if not isinstance(error, (NotFoundError, InvalidArgumentError)) and not no_place:
                _log.warning("task not done", extra={"workload_id": workload_id, "reason": str(error)})
            named = error.message if isinstance(error, NotFoundError) else str(error)
            frame = result_frame(task.id, error=NO_PLACE if no_place else named)
        finally:
            link.send(frame)

    async def _result(self, task: Task, workload_id: WorkloadId, account: AccountId, submitter: str) -> str:
        ready = self._programs.ready(task.command, task.input, workload_id)
        due_s = self._clock.monotonic() + self._terms.longest_s
        place = await self._place(task, ready, account, submitter)
        spec = spec_of(
            task,
            ready.payload,
            workload_id=workload_id,
            account=account,
            submitter=submitter,
            reservation_id=place,
            now=self._clock.now(),
            longest_s=self._terms.longest_s,
        )
        try:
            await submit_work(self._plane, spec, ready.blobs)
        except ArcrayError:
            await self._free(place, account)
            raise
        view = await self._end(workload_id, due_s)
        if view is None:
            await self._stop(workload_id)
            return result_frame(task.id, error=f"Timed out after {self._terms.longest_s:g} s")
        return outcome_of(task.id, view, await self._output(view))

    async def _place(self, task: Task, ready: Ready, account: AccountId, submitter: str) -> ReservationId:
        """Takes a place for a task, which it has whatever else is submitted meanwhile."""
        reservation_id = ReservationId(self._ids.new())
        piece = Reservable(
            demand=demand_of(task.requirements), wants=wanted(ready.payload), selector=keeps_off(submitter)
        )
        command = Reserve(reservation_id=reservation_id, account=account, slices=(piece,), ttl_s=_HELD_S)
        await ask(self._plane, command)
        return reservation_id

    async def _free(self, place: ReservationId, account: AccountId) -> None:
        """Gives a place back that no workload has taken."""
        try:
            await ask(self._plane, ReleaseReservation(reservation_id=place, account=account))
        except ArcrayError as error:  # then it expires
            _log.info("place not given back", extra={"reservation": place, "reason": str(error)})

    async def _end(self, workload_id: WorkloadId, due_s: float) -> WorkloadView | None:
        """Returns a workload that has ended; None where it has not in time."""
        ended = self._ends[workload_id] = asyncio.get_running_loop().create_future()
        self._wanted.set()
        too_late = asyncio.ensure_future(self._clock.sleep(max(0.0, due_s - self._clock.monotonic())))
        try:
            with suppress(ArcrayError):  # it is looked at again with the next events
                await self._look((workload_id,))
            await asyncio.wait({ended, too_late}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else None
        finally:
            too_late.cancel()
            self._ends.pop(workload_id, None)

    async def _look(self, workload_ids: Collection[WorkloadId]) -> None:
        for workload_id in workload_ids:
            view: WorkloadView = await self._plane.query(GetWorkload(workload_id=workload_id))
            ended = self._ends.get(workload_id)
            if view.phase.terminal and ended is not None and not ended.done():
                ended.set_result(view)

    async def _output(self, view: WorkloadView) -> bytes:
        """Returns what a task wrote: of a success the beginning, of a failure the end."""
        key, most = log_key(view.spec.id), self._terms.result_bytes
        size = await self._plane.blobs.size(key) or 0
        start = 0 if view.phase is Phase.SUCCEEDED else max(0, size - most)
        return await self._plane.blobs.get(key, start, start + most) if size else b""

    async def _stop(self, workload_id: WorkloadId) -> None:
        try:
            await ask(self._plane, StopWorkload(workload_id=workload_id, grace_s=_GRACE_S))
        except ArcrayError as error:  # it was not accepted, or its longest time ends it
            _log.debug("task not stopped", extra={"workload_id": workload_id, "reason": str(error)})
