"""A node without a machine: it attaches through the port, keeps the rules of nodes, and works as its script says.

What it keeps as a real agent does: epochs and attempts, at most one execution per attempt, reports until they are
acknowledged, heartbeats within its lease, and attaching again when the lease was lost. What it does not do: run
anything.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from arcray.core.blobkeys import log_key
from arcray.core.commands import (
    Attached,
    AttachNode,
    DetachNode,
    Heard,
    ReportEnd,
    ReportModels,
    ReportPhase,
    ReportTelemetry,
    Running,
)
from arcray.core.errors import ArcrayError, Code, StaleReportError, UnavailableError
from arcray.core.ids import ModelId, NodeId, WorkloadId, foreign_id
from arcray.core.model import ModelSlots
from arcray.core.node import NodeRegistration
from arcray.core.orders import Order, RunInference, StartWorkload, StopAttempt
from arcray.core.ports import Clock, ControlPlane
from arcray.core.workload import Phase, Result
from arcray.testing.builders import a_node
from arcray.wire.asking import ask

__all__ = ["Script", "SimulatedNode"]

_log = logging.getLogger(__name__)

_RETRIED: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})
_RETRY_S: Final = 0.05
_PID: Final = 4242  # of every process that is not there

Model: TypeAlias = Callable[[Any], Any]
Report: TypeAlias = ReportPhase | ReportEnd | ReportModels


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens to a workload.

    Args:
        phases: live phases it reports, in order.
        end: how it ends; None keeps it running until it is stopped or ``SimulatedNode.finish``.
        takes_s: time between the last phase and the end, on the plane's clock.
        log: what it writes, before it ends.
        refused: the node never starts it.
    """

    phases: tuple[Phase, ...] = (Phase.PULLING, Phase.RUNNING)
    end: Phase | None = Phase.SUCCEEDED
    message: str = ""
    result: Result = Result(exit_code=0)
    takes_s: float = 0.0
    log: bytes = b""
    refused: bool = False

    @classmethod
    def refusal(cls, message: str) -> Script:
        """Returns a script by which the node sends the workload away."""
        return cls(phases=(), end=Phase.FAILED, message=message, refused=True)


class SimulatedNode:
    """One node.

    Args:
        models: functions of the decoded JSON input, plain or async, by model id; the value is the output. What one
            raises fails the request.
        slots: requests in flight per model.
        script: what happens to each workload.
        registration: any field of ``NodeRegistration``.

    Attributes:
        orders: everything delivered, repetitions included.
        executed: workload and attempt of everything that it began to work on, in order.
        silent: while set, it sends no heartbeats and cannot be reached.
        deaf: while set, it takes orders and does nothing about them.
    """

    def __init__(
        self,
        name: str = "sim-1",
        *,
        models: Mapping[str, Model] | None = None,
        slots: int = 64,
        script: Callable[[StartWorkload], Script] = lambda _: Script(),
        **registration: Any,
    ) -> None:
        identity = {"id": NodeId(foreign_id("simulated", name)), "name": name, "external_id": name}
        self.registration: NodeRegistration = a_node(**(identity | registration))
        self.epoch = 0
        self.orders: list[Order] = []
        self.executed: list[tuple[WorkloadId, int]] = []
        self.silent = False
        self.deaf = False
        self._arrived = asyncio.Event()
        self._models = dict(models or {})
        self._slots = slots
        self._script = script
        self._seen: set[tuple[WorkloadId, float, int]] = set()
        self._running: dict[WorkloadId, tuple[int, asyncio.Task[None] | None]] = {}
        self._outbox: list[Report] = []
        self._sending = False
        self._plane: ControlPlane | None = None
        self._clock: Clock | None = None
        self._group: asyncio.TaskGroup | None = None

    @property
    def id(self) -> NodeId:
        """Its core id."""
        return self.registration.id

    async def join(self, plane: ControlPlane, clock: Clock, group: asyncio.TaskGroup) -> None:
        """Attaches to a plane; what it does from then on belongs to ``group``. See ``InProcessPlane.attach``."""
        first = self._plane is None
        self._plane, self._clock, self._group = plane, clock, group
        inventory = tuple(Running(workload_id=key, attempt=attempt) for key, (attempt, _) in self._running.items())
        attached: Attached = await ask(plane, AttachNode(registration=self.registration, inventory=inventory))
        self.epoch = attached.epoch
        self._outbox = [replace(report, epoch=self.epoch) for report in self._outbox]
        for work in attached.stop:
            self._drop(work.workload_id)
        await plane.submit([self._model_list()])  # so that it answers for them once this has returned
        if first:
            group.create_task(self._beat())

    def greet(self) -> None:
        """Tells a scheduler that may be a new one which models it answers for; called when a line to it stands."""
        if self.epoch:
            self._report(self._model_list())

    async def detach(self, reason: str = "") -> None:
        """Leaves on purpose."""
        assert self._plane is not None
        await self._plane.submit([DetachNode(node_id=self.id, epoch=self.epoch, reason=reason)])
        self._give_up_everything()

    async def crash(self) -> None:
        """Loses all its work and attaches anew, as a machine does that was switched off and on.

        When the cluster cannot be reached it goes on trying with every heartbeat.
        """
        self._give_up_everything()
        self.epoch = 0
        await self._join_again()

    def load(self, model_id: str, function: Model) -> None:
        """Answers for one more model, or for it in another way."""
        self._models[model_id] = function
        self._report(self._model_list())

    def unload(self, model_id: str) -> None:
        """Answers for a model no more."""
        del self._models[model_id]
        self._report(self._model_list())

    def finish(
        self,
        workload_id: WorkloadId,
        phase: Phase = Phase.SUCCEEDED,
        *,
        message: str = "",
        result: Result | None = None,
    ) -> None:
        """Ends what is running here; without a result its exit code is 0."""
        attempt = self._drop(workload_id)
        if attempt is not None:
            self._end(workload_id, attempt, phase, message, result or Result(exit_code=0))

    async def delivered(self, count: int, timeout_s: float = 5.0) -> None:
        """Waits until this many orders have been delivered in all.

        Raises:
            TimeoutError: they were not in time.
        """
        async with asyncio.timeout(timeout_s):
            while len(self.orders) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders; called by the driver."""
        if self.silent or epoch > self.epoch:
            raise UnavailableError(f"node {self.registration.name} cannot be reached")
        if epoch < self.epoch:
            raise StaleReportError(f"node {self.registration.name} is at epoch {self.epoch}, not {epoch}")
        self.orders += orders
        self._arrived.set()
        for order in () if self.deaf else orders:
            key = (order.workload_id, order.created_s, order.attempt)
            if isinstance(order, StopAttempt):
                self._stop(order, new=key not in self._seen)
            elif key not in self._seen:
                self._begin(order)
            self._seen.add(key)

    # -- work ----------------------------------------------------------------------------------------------------

    def _begin(self, order: StartWorkload | RunInference) -> None:
        assert self._group is not None
        self.executed.append((order.workload_id, order.attempt))
        self._drop(order.workload_id)  # an older attempt, which the cluster gave up without this node hearing of it
        if isinstance(order, RunInference):
            function = self._models.get(order.model_id)
            if function is not None and not inspect.iscoroutinefunction(function):
                self._answer(order, function)
                return
            work = self._answer_later(order, function)
        else:
            work = self._perform(order)
        try:
            task = self._group.create_task(work)
        except RuntimeError:  # this node is ending
            work.close()
            return
        self._running[order.workload_id] = (order.attempt, task)

    def _answer(self, order: RunInference, function: Model) -> None:
        try:
            output = json.dumps(function(_decoded(order))).encode()
        except Exception as error:  # noqa: BLE001 - a model is foreign code, and its failure is an answer
            self._end(order.workload_id, order.attempt, Phase.FAILED, str(error), Result(pid=_PID))
        else:
            result = Result(output=output, duration_ms=0.0, pid=_PID)
            self._end(order.workload_id, order.attempt, Phase.SUCCEEDED, "", result)

    async def _answer_later(self, order: RunInference, function: Model | None) -> None:
        if function is None:
            self._answer(order, _missing)
        else:
            try:
                value = await function(_decoded(order))
            except Exception as error:  # noqa: BLE001 - as above
                self._end(order.workload_id, order.attempt, Phase.FAILED, str(error), Result(pid=_PID))
            else:
                self._answer(order, lambda _: value)
        self._running.pop(order.workload_id, None)

    async def _perform(self, order: StartWorkload) -> None:
        assert self._clock is not None
        assert self._plane is not None
        script = self._script(order)
        for phase in script.phases:
            self._report(
                ReportPhase(
                    node_id=self.id,
                    epoch=self.epoch,
                    workload_id=order.workload_id,
                    attempt=order.attempt,
                    phase=phase,
                )
            )
        if script.log:
            await self._plane.blobs.append(log_key(order.workload_id), script.log)
        if script.takes_s:
            await self._clock.sleep(script.takes_s)
        if script.end is None:
            self._running[order.workload_id] = (order.attempt, None)
            return
        self._running.pop(order.workload_id, None)
        self._end(order.workload_id, order.attempt, script.end, script.message, script.result, refused=script.refused)

    def _stop(self, order: StopAttempt, *, new: bool) -> None:
        attempt, _ = self._running.get(order.workload_id, (None, None))
        if attempt == order.attempt:
            self._drop(order.workload_id)
        elif not new:
            return
        self._end(order.workload_id, order.attempt, Phase.STOPPED, "stopped", Result())

    def _drop(self, workload_id: WorkloadId) -> int | None:
        attempt, task = self._running.pop(workload_id, (None, None))
        if task is not None:
            task.cancel()
        return attempt

    def _give_up_everything(self) -> None:
        for workload_id in list(self._running):
            self._drop(workload_id)
        self._outbox.clear()

    # -- reports -------------------------------------------------------------------------------------------------

    def _model_list(self) -> ReportModels:
        slots = tuple(ModelSlots(model_id=ModelId(name), slots=self._slots, pid=_PID) for name in sorted(self._models))
        return ReportModels(node_id=self.id, epoch=self.epoch, models=slots)

    def _end(
        self,
        workload_id: WorkloadId,
        attempt: int,
        phase: Phase,
        message: str,
        result: Result,
        *,
        refused: bool = False,
    ) -> None:
        self._report(
            ReportEnd(
                node_id=self.id,
                epoch=self.epoch,
                workload_id=workload_id,
                attempt=attempt,
                phase=phase,
                message=message,
                result=result,
                refused=refused,
            )
        )

    def _report(self, report: Report) -> None:
        self._outbox.append(report)
        if not self._sending:
            assert self._group is not None
            self._sending = True
            self._group.create_task(self._send())

    async def _send(self) -> None:
        """Sends what waits, in order, until it is acknowledged or refused for good."""
        assert self._plane is not None
        assert self._clock is not None
        try:
            while self._outbox:
                batch, self._outbox = self._outbox, []
                try:
                    replies = await self._plane.submit(batch)
                except UnavailableError as error:
                    replies = [error] * len(batch)
                # What was on its way while the node attached anew is told again, under the epoch that it has now.
                again = [
                    replace(report, epoch=self.epoch)
                    for report, reply in zip(batch, replies, strict=True)
                    if isinstance(reply, ArcrayError) and (reply.code in _RETRIED or _of_older_epoch(reply))
                ]
                if again:
                    self._outbox[:0] = again
                    await self._clock.sleep(_RETRY_S)
        finally:
            self._sending = False

    async def _beat(self) -> None:
        assert self._plane is not None
        assert self._clock is not None
        while True:
            await self._clock.sleep(self.registration.lease.unhealthy_after_s / 3)
            if self.silent:
                continue
            (reply,) = await self._plane.submit([ReportTelemetry(node_id=self.id, epoch=self.epoch)])
            if isinstance(reply, Heard) and reply.report_models:
                self._report(self._model_list())
            elif isinstance(reply, StaleReportError):
                await self._join_again()

    async def _join_again(self) -> None:
        """Attaches with what runs here, after the lease was lost; what is refused is tried at the next heartbeat."""
        assert self._plane is not None
        assert self._clock is not None
        assert self._group is not None
        try:
            await self.join(self._plane, self._clock, self._group)
        except ArcrayError as error:
            _log.info("cannot attach yet", extra={"node_id": self.id, "reason": error.message})


def _of_older_epoch(refusal: ArcrayError) -> bool:
    return isinstance(refusal, StaleReportError) and refusal.field == "epoch"


def _decoded(order: RunInference) -> Any:
    return None if order.input is None else json.loads(order.input)


def _missing(_: object) -> None:
    raise LookupError("the model is not loaded here")
