"""One machine's end of its attachment: takes orders, keeps attempts, tells what happens.

Fencing: orders of another epoch are refused; an attempt is executed at most once, whatever comes twice; reports carry
the epoch of the attachment that they are sent under. A refused epoch means that the lease was lost: the agent attaches
again with all that it still runs, and stops what the cluster does not want any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, assert_never

from arcray.config import Settings
from arcray.core.commands import (
    Attached,
    AttachNode,
    Heard,
    ReportEnd,
    ReportModels,
    ReportPhase,
    ReportTelemetry,
    Running,
)
from arcray.core.errors import (
    ArcrayError,
    Code,
    StaleReportError,
    UnavailableError,
)
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import LeaseTerms, NodeRegistration
from arcray.core.orders import Order, RunInference, StartWorkload, StopAttempt
from arcray.core.ports import Clock, ControlPlane, Ids
from arcray.core.queues import Queue, QueueReading
from arcray.core.workload import Phase, PortMapping
from arcray.node.engine import Engine
from arcray.node.gpu import GpuProbe
from arcray.node.machine import Machine, Runners
from arcray.node.models.registry import ModelRegistry
from arcray.node.reporter import Report, Reporter, is_unwanted, lease_is_lost
from arcray.node.seen import SeenAttempts, of_one_work
from arcray.node.work import STOPPED_EARLY, Attempt, End, Runner

__all__ = ["NodeAgent"]

_log = logging.getLogger(__name__)

_ATTACH_WAIT_S: Final = 10.0  # an order may come before the answer that names its epoch
_ATTACH_RETRY_S: Final = 1.0
_STOP_GRACE_S: Final = 5.0
_FLUSH_S: Final = 5.0
_LOST_BEATS: Final = 10  # a node is lost after ten times the silence that makes it unhealthy


class NodeAgent:
    """Runs what the cluster orders on this machine. The same in a Ray actor, in a driver's process, and alone.

    Args:
        probe: tells about GPUs; None asks NVML.
        engine: runs containers; None looks for Docker, if the settings want containers.
        machine: what runs here; None finds out, by probe and engine.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        plane: ControlPlane,
        settings: Settings,
        clock: Clock,
        ids: Ids,
        probe: GpuProbe | None = None,
        engine: Engine | None = None,
        machine: Machine | None = None,
    ) -> None:
        self._node_id = node_id
        self._plane = plane
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._machine = machine or Machine(node_id=node_id, settings=settings, clock=clock, probe=probe, engine=engine)
        self._reporter = Reporter(plane=plane, clock=clock, refused=self._on_refused, replied=self._on_heard)
        self._registry = ModelRegistry(
            clock=clock, changed=self._report_models, began=self._report_running, ended=self._report_end
        )
        self._runners: Runners | None = None
        self._registration: NodeRegistration | None = None
        self._epoch = 0
        self._attached = asyncio.Event()
        self._due = asyncio.Event()  # attaching again: the lease was lost, or the machine can do other things
        self._attempts: dict[WorkloadId, Attempt] = {}
        self._seen = SeenAttempts()
        self._work: dict[asyncio.Task[None], Attempt] = {}
        self._main: asyncio.Task[None] | None = None

    @property
    def node_id(self) -> NodeId:
        """This machine's core id."""
        return self._node_id

    @property
    def epoch(self) -> int:
        """The present attachment; 0 before the first."""
        return self._epoch

    async def registration(
        self,
        *,
        driver: str,
        facade: str,
        address: str,
        name: str = "",
        external_id: str = "",
        lease: LeaseTerms | None = None,
    ) -> NodeRegistration:
        """Returns what this machine says of itself, from probes.

        Args:
            lease: how long it may be silent; None is the settings' missed beats.

        Raises:
            UnavailableError: the settings demand a container engine and none answers.
        """
        beats_s = self._settings.node.heartbeat_s * self._settings.scheduler.missed_beats
        return await self._machine.registration(
            driver=driver,
            facade=facade,
            address=address,
            name=name,
            external_id=external_id,
            lease=lease or LeaseTerms(unhealthy_after_s=beats_s, lost_after_s=beats_s * _LOST_BEATS),
        )

    async def start(self, registration: NodeRegistration) -> None:
        """Attaches this machine and begins to work; returns once it is attached.

        Args:
            registration: from ``registration``.

        Raises:
            ArcrayError: the cluster refused it.
        """
        assert self._main is None, "an agent starts once"
        self._registration = registration
        self._runners = await self._machine.runners(plane=self._plane, registry=self._registry)
        attached = asyncio.ensure_future(self._attached.wait())
        self._main = asyncio.create_task(self._run(), name=f"node agent {self._node_id}")
        try:
            await asyncio.wait({attached, self._main}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            attached.cancel()
        if not self._attached.is_set():
            await self._main

    async def ended(self) -> None:
        """Returns once the agent was stopped; raises what ended its loops if that was a fault."""
        assert self._main is not None, "started"
        await asyncio.wait({self._main})
        if not self._main.cancelled():
            self._main.result()

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how much this machine has to work off, and how much it takes."""
        return (QueueReading(queue=Queue.WORK, length=self._busy, limit=self._settings.node.max_orders),)

    @property
    def _busy(self) -> int:
        return len(self._attempts) + len(self._registry) + len(self._reporter)

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders; returns as soon as they are taken. An attempt that was seen before is not executed again.

        Raises:
            StaleReportError: the orders are for an earlier attachment.
            UnavailableError: the machine is not attached under this epoch yet, or has too much to do; try again.
        """
        await self._until_attached()
        if epoch > self._epoch:
            raise UnavailableError(f"node {self._node_id} has not heard of epoch {epoch} yet")
        if epoch < self._epoch:
            raise StaleReportError(f"node {self._node_id} is at epoch {self._epoch}, not {epoch}", field="epoch")
        if self._busy >= self._settings.node.max_orders:
            raise UnavailableError(f"node {self._node_id} has {self._settings.node.max_orders} orders to work off")
        for order in orders:
            match order:
                case RunInference():
                    if self._seen.note(order):
                        self._registry.run(order)
                case StartWorkload():
                    if self._seen.note(order):
                        self._begin(order)
                case StopAttempt():
                    self._stop_attempt(order)
                case _:
                    assert_never(order)

    def greet(self) -> None:
        """Tells a scheduler that may be a new one what it cannot know: which models are answered for here.

        It would ask for it at the next heartbeat (``Heard.report_models``); requests that come before would wait.
        """
        if self._attached.is_set():
            self._report_models()

    async def stop(self) -> int:
        """Goes away: ends programs and models, leaves containers to the next agent, sends the last reports.

        Containers that were asked to end are waited for a little; the engine ends the rest of them without us.

        Returns:
            How many containers run on.
        """
        for attempt in tuple(self._attempts.values()):
            if self._ends_with_agent(attempt):
                attempt.abandoned = True
                attempt.stop(_STOP_GRACE_S)
        if ending := {task for task, attempt in self._work.items() if attempt.stopping}:
            await asyncio.wait(ending, timeout=_STOP_GRACE_S * 2)
        running = sum(not attempt.stopping for attempt in self._work.values())
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        if self._attached.is_set():
            try:
                async with asyncio.timeout(_FLUSH_S):
                    await self._reporter.drained()
            except TimeoutError:
                _log.warning("reports left unsent", extra={"node_id": self._node_id, "reports": len(self._reporter)})
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        await self._machine.close()
        return running

    async def _run(self) -> None:
        """Owns the agent's loops; ends when one of them does."""
        assert self._runners is not None
        await self._adopt(self._runners)
        await self._attach()
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._reporter.run_forever(), name="reports")
            loops.create_task(self._registry.sweep_forever(), name="sweep")
            loops.create_task(self._beat_forever(), name="heartbeat")
            loops.create_task(self._keep_attached(), name="lease")
            loops.create_task(self._watch_engine(), name="engine")

    async def _adopt(self, runners: Runners) -> None:
        """Goes on with containers that nobody here waits for. The cluster hears of them when the machine attaches."""
        for found in await runners.adopt():
            self._seen.note(found.order)
            attempt = self._attempt(found.order, ran_s=found.ran_s)
            if found.order.workload_id in self._attempts:  # a later attempt, so the cluster has given this one up
                attempt.abandoned = True
                attempt.stop(_STOP_GRACE_S)
            self._launch(attempt, runners.of(found.order.payload))

    async def _watch_engine(self) -> None:
        """Attaches again as what the machine has become, when its container engine has come or gone."""
        while True:
            await self._clock.sleep(self._settings.node.containers.look_s)
            if not await self._machine.look_again():
                continue
            assert self._registration is not None
            runners = await self._machine.runners(plane=self._plane, registry=self._registry)
            try:
                await self._adopt(runners)
            except UnavailableError as error:
                _log.warning("container engine away again", extra={"node_id": self._node_id, "reason": error.message})
                self._machine.doubt_engine()
                continue
            self._runners = runners
            self._registration = replace(self._registration, capabilities=self._machine.capabilities)
            self._due.set()

    async def _attach(self) -> None:
        assert self._registration is not None
        self._attached.clear()
        self._reporter.pause()
        while True:
            registration = self._registration
            command = AttachNode(registration=registration, inventory=self._inventory())
            try:
                (reply,) = await self._plane.submit([command])
            except UnavailableError as error:
                reply = error
            match reply:
                case Attached():
                    break
                case ArcrayError(code=Code.UNAVAILABLE | Code.RESOURCE_EXHAUSTED | Code.DEADLINE_EXCEEDED):
                    _log.warning("cannot attach yet", extra={"node_id": self._node_id, "reason": reply.message})
                    await self._clock.sleep(_ATTACH_RETRY_S)
                case ArcrayError():
                    raise reply
                case _:
                    raise AssertionError(f"AttachNode was answered with {reply!r}")
        self._epoch = reply.epoch
        for work in reply.stop:
            self._abandon(work)
        if self._registration is registration:
            self._due.clear()
        self._reporter.resume(reply.epoch)
        self._report_models()
        self._attached.set()
        _log.info("attached", extra={"node_id": self._node_id, "epoch": self._epoch})

    def _inventory(self) -> tuple[Running, ...]:
        """Returns all that runs here, and what has ended without the cluster knowing it."""
        active = (Running(workload_id=key, attempt=each.order.attempt) for key, each in self._attempts.items())
        found = {(work.workload_id, work.attempt): work for work in (*active, *self._registry.requests)}
        found.update({(work.workload_id, work.attempt): work for work in self._reporter.waiting_ends()})
        return tuple(found.values())

    async def _keep_attached(self) -> None:
        while True:
            await self._due.wait()
            _log.warning("attaching again", extra={"node_id": self._node_id, "epoch": self._epoch})
            await self._attach()

    async def _beat_forever(self) -> None:
        while True:
            reading = await asyncio.to_thread(self._machine.read)
            self._reporter.telemetry(ReportTelemetry(node_id=self._node_id, epoch=self._epoch, telemetry=reading))
            await self._clock.sleep(self._settings.node.heartbeat_s)

    async def _until_attached(self) -> None:
        if self._attached.is_set():
            return
        try:
            async with asyncio.timeout(_ATTACH_WAIT_S):
                await self._attached.wait()
        except TimeoutError as error:
            raise UnavailableError(f"node {self._node_id} is not attached") from error

    def _begin(self, order: StartWorkload) -> None:
        assert self._runners is not None
        try:
            runner = self._runners.of(order.payload)
        except ArcrayError as error:
            self._report_end(
                order.workload_id, order.attempt, End(phase=Phase.FAILED, message=str(error), refused=True)
            )
            return
        previous = self._attempts.get(order.workload_id)
        if previous is not None:  # an older attempt that the cluster has given up without our hearing of it
            previous.abandoned = True
            previous.stop(0.0)
        self._launch(self._attempt(order), runner)

    def _launch(self, attempt: Attempt, runner: Runner) -> None:
        if not attempt.abandoned:
            self._attempts[attempt.workload_id] = attempt
        leaving = [task for task, each in self._work.items() if each.abandoned or each.killed]
        task = asyncio.create_task(self._execute(attempt, runner, leaving), name=f"attempt {attempt.workload_id}")
        self._work[task] = attempt
        task.add_done_callback(self._work.pop)

    async def _execute(self, attempt: Attempt, runner: Runner, leaving: Sequence[asyncio.Task[None]]) -> None:
        """Runs an attempt to its reported end, whatever goes wrong on the way.

        Args:
            leaving: attempts that the cluster gave up and that have not let go of the machine yet. What they held may
                be what this one was given, so it begins after them. So may be what is stopped without any grace.
        """
        try:
            if leaving:
                await asyncio.wait(leaving)
            end = STOPPED_EARLY if attempt.stopping and not attempt.adopted else await runner.run(attempt)
        except ArcrayError as error:
            end = End(phase=Phase.FAILED, message=str(error))
        except OSError as error:
            end = End(phase=Phase.FAILED, message=f"the node failed: {error}")
        except Exception:  # noqa: BLE001 - a loop boundary: one attempt's bug must not take the machine with it
            _log.exception("attempt failed by our fault", extra={"workload_id": attempt.workload_id})
            end = End(phase=Phase.FAILED, message="the node failed; its log has the details")
        finally:
            if self._attempts.get(attempt.workload_id) is attempt:
                del self._attempts[attempt.workload_id]
        if not attempt.abandoned:
            self._report_end(attempt.workload_id, attempt.order.attempt, end)

    def _stop_attempt(self, order: StopAttempt) -> None:
        attempt = self._attempts.get(order.workload_id)
        if attempt is not None and attempt.order.attempt == order.attempt and of_one_work(attempt.order, order):
            attempt.stop(order.grace_s)
        elif not self._registry.stop(order.workload_id, order.attempt) and self._seen.note(order):
            # Never started here: the cluster waits for an end all the same.
            self._report_end(order.workload_id, order.attempt, STOPPED_EARLY)

    def _abandon(self, work: Running) -> None:
        """Ends work that the cluster does not want any more, and tells nothing about it."""
        self._reporter.drop(work)
        attempt = self._attempts.get(work.workload_id)
        if attempt is not None and attempt.order.attempt == work.attempt:
            _log.warning(
                "attempt ended: the cluster gave it up",
                extra={"workload_id": work.workload_id, "attempt": work.attempt},
            )
            attempt.abandoned = True
            attempt.stop(_STOP_GRACE_S)
        elif self._registry.stop(work.workload_id, work.attempt):
            self._reporter.drop(work)

    def _ends_with_agent(self, attempt: Attempt) -> bool:
        assert self._runners is not None
        return not self._runners.survives(attempt.order.payload)

    def _attempt(self, order: StartWorkload, *, ran_s: float | None = None) -> Attempt:
        def sink(phase: Phase, message: str, ports: tuple[PortMapping, ...]) -> None:
            self._report_phase(order.workload_id, order.attempt, phase, message, ports)

        return Attempt(order, clock=self._clock, sink=sink, ran_s=ran_s)

    def _report_phase(
        self,
        workload_id: WorkloadId,
        attempt: int,
        phase: Phase,
        message: str = "",
        ports: tuple[PortMapping, ...] = (),
    ) -> None:
        self._reporter.report(
            ReportPhase(
                node_id=self._node_id,
                epoch=self._epoch,
                workload_id=workload_id,
                attempt=attempt,
                phase=phase,
                message=message,
                ports=ports,
            )
        )

    def _report_running(self, workload_id: WorkloadId, attempt: int) -> None:
        self._report_phase(workload_id, attempt, Phase.RUNNING)

    def _report_end(self, workload_id: WorkloadId, attempt: int, end: End) -> None:
        self._reporter.report(
            ReportEnd(
                node_id=self._node_id,
                epoch=self._epoch,
                workload_id=workload_id,
                attempt=attempt,
                phase=end.phase,
                message=end.message,
                result=end.result,
                refused=end.refused,
            )
        )

    def _report_models(self) -> None:
        self._reporter.models(ReportModels(node_id=self._node_id, epoch=self._epoch, models=self._registry.slots))

    def _on_heard(self, reply: Any) -> None:
        if isinstance(reply, Heard) and reply.report_models:
            self._report_models()

    def _on_refused(self, report: Report, error: ArcrayError) -> None:
        """Acts on a report that the cluster did not take."""
        if lease_is_lost(error):
            if isinstance(report, ReportPhase | ReportEnd):
                self._reporter.report(replace(report, epoch=self._epoch))  # told again, under the next epoch
            if report.epoch == self._epoch:
                self._reporter.pause()
                self._due.set()
            return
        _log.info(
            "report refused", extra={"node_id": self._node_id, "report": type(report).__name__, "reason": str(error)}
        )
        if isinstance(report, ReportPhase | ReportEnd) and is_unwanted(error):
            self._abandon(Running(workload_id=report.workload_id, attempt=report.attempt))
