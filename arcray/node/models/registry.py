"""The models that this machine answers for now, and the requests in flight at them. The hot path of inference.

A request is a row in two dictionaries and a tuple in the next frame: no task, no timer, no future. One sweep looks for
requests whose time is up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from arcray.core.commands import Running
from arcray.core.ids import ModelId, WorkloadId
from arcray.core.model import ModelSlots
from arcray.core.orders import RunInference
from arcray.core.ports import Clock
from arcray.core.workload import Phase, Result
from arcray.node.models.link import Answer, ModelLink
from arcray.node.work import End

__all__ = ["BeginSink", "Copy", "EndSink", "ModelRegistry"]

SWEEP_S: Final = 0.05
SLOW_S: Final = 0.05  # a request that takes longer is said to be in progress; the end of a quicker one says it
HUNG_S: Final = 1.0  # that a process gets to let go of a request that was given up
_QUEUE_FACTOR: Final = 2  # requests beyond the slots that a copy takes, for the moment between an end and its report
_QUEUE_MIN: Final = 64

EndSink = Callable[[WorkloadId, int, End], None]
"""Where ends of inference requests go: workload, attempt, end."""

BeginSink = Callable[[WorkloadId, int], None]
"""Where it is told that a request is in progress: workload, attempt."""


class Copy:
    """One ready copy of a model: its link, and what is in flight at it.

    Args:
        hung: called when every slot is taken by requests that were given up and do not end.
    """

    def __init__(
        self, *, model_id: ModelId, workload_id: WorkloadId, slots: int, link: ModelLink, hung: Callable[[], None]
    ) -> None:
        self.slots = ModelSlots(model_id=model_id, slots=slots, workload_id=workload_id, pid=link.pid)
        self.link = link
        # By sequence number, so in order of arrival: workload, attempt, when it came, when its time is up.
        self.in_flight: dict[int, tuple[WorkloadId, int, float, float]] = {}
        self.told = 0  # the last sequence number that was said to be in progress
        self.given_up: dict[int, float] = {}
        self.hung = hung
        self.limit = max(slots * _QUEUE_FACTOR, _QUEUE_MIN)


class ModelRegistry:
    """Finds a copy for a request, and its caller for an answer.

    Args:
        changed: called whenever the models answered for have changed.
        began: told of every request that takes longer than a moment.
        ended: told the end of every request.
    """

    def __init__(self, *, clock: Clock, changed: Callable[[], None], began: BeginSink, ended: EndSink) -> None:
        self._clock = clock
        self._changed = changed
        self._began = began
        self._ended = ended
        self._copies: dict[ModelId, list[Copy]] = {}  # that are offered
        self._kept: dict[Copy, None] = {}  # also those that cannot answer for now
        self._where: dict[tuple[WorkloadId, int], tuple[Copy, int]] = {}  # by workload and attempt
        self._seq = 0
        self._busy = asyncio.Event()

    @property
    def slots(self) -> tuple[ModelSlots, ...]:
        """Returns what this machine answers for now, sorted by model id."""
        models = sorted(self._copies.items())
        return tuple(copy.slots for _, copies in models for copy in copies)

    @property
    def requests(self) -> tuple[Running, ...]:
        """Returns the requests in flight."""
        return tuple(Running(workload_id=workload_id, attempt=attempt) for workload_id, attempt in self._where)

    def __len__(self) -> int:
        return len(self._where)

    def add(self, copy: Copy) -> None:
        """Takes a copy that is ready."""
        copy.link.on_answers = lambda answers: self._on_answers(copy, answers)
        self._kept[copy] = None
        self.offer(copy)

    def offer(self, copy: Copy) -> None:
        """Answers for a copy, one that was withdrawn or is new."""
        if copy in self._kept and copy not in self._copies.get(copy.slots.model_id, ()):
            self._copies.setdefault(copy.slots.model_id, []).append(copy)
            self._changed()

    def withdraw(self, copy: Copy) -> None:
        """Answers for a copy no more, until it is offered again. What is in flight at it goes on."""
        copies = self._copies.get(copy.slots.model_id, [])
        if copy not in copies:
            return
        copies.remove(copy)
        if not copies:
            del self._copies[copy.slots.model_id]
        self._changed()

    def remove(self, copy: Copy, reason: str) -> None:
        """Forgets a copy; what is in flight at it fails."""
        if copy not in self._kept:
            return
        del self._kept[copy]
        self.withdraw(copy)  # first, so that the cluster does not send the retries of what fails now to the same place
        for workload_id, attempt, _, _ in copy.in_flight.values():
            del self._where[workload_id, attempt]
            self._ended(workload_id, attempt, End(phase=Phase.FAILED, message=reason))
        copy.in_flight.clear()

    def run(self, order: RunInference) -> None:
        """Hands a request to the copy with the least in flight; without one it is refused."""
        copies = self._copies.get(order.model_id)
        if not copies:
            message = f"model {order.model_id} is not loaded here"
            self._ended(order.workload_id, order.attempt, End(phase=Phase.FAILED, message=message, refused=True))
            return
        copy = copies[0] if len(copies) == 1 else min(copies, key=lambda each: len(each.in_flight))
        if len(copy.in_flight) >= copy.limit:
            message = f"model {order.model_id} has {len(copy.in_flight)} requests in flight"
            self._ended(order.workload_id, order.attempt, End(phase=Phase.FAILED, message=message, refused=True))
            return
        self._seq = seq = self._seq + 1
        now = self._clock.monotonic()
        copy.in_flight[seq] = (order.workload_id, order.attempt, now, now + order.timeout_s)
        self._where[order.workload_id, order.attempt] = (copy, seq)
        copy.link.send_request(seq, order.input, order.context_window_tokens)
        if not self._busy.is_set():
            self._busy.set()

    def stop(self, workload_id: WorkloadId, attempt: int) -> bool:
        """Gives a request up on demand; returns whether it was in flight."""
        found = self._where.get((workload_id, attempt))
        if found is None:
            return False
        self._give_up(found[0], found[1], End(phase=Phase.STOPPED, message="stopped on request"))
        return True

    async def sweep_forever(self) -> None:
        """Tells of slow requests, gives up those whose time is up, and processes that hang. Sleeps when idle."""
        while True:
            await self._busy.wait()
            await self._clock.sleep(SWEEP_S)
            now = self._clock.monotonic()
            for copy in tuple(self._kept):
                self._sweep(copy, now)
            if not self._where and not any(copy.given_up for copy in self._kept):
                self._busy.clear()

    def _sweep(self, copy: Copy, now: float) -> None:
        self._tell(copy, now)
        due = [seq for seq, (_, _, _, deadline) in copy.in_flight.items() if deadline <= now]
        for seq in due:
            self._give_up(copy, seq, End(phase=Phase.FAILED, message="no answer of the model in time"))
        stuck = sum(since <= now - HUNG_S for since in copy.given_up.values())
        if stuck >= copy.slots.slots:
            copy.given_up.clear()
            copy.hung()

    def _tell(self, copy: Copy, now: float) -> None:
        for seq, (workload_id, attempt, since, _) in copy.in_flight.items():
            if since > now - SLOW_S:
                return
            if seq > copy.told:
                copy.told = seq
                self._began(workload_id, attempt)

    def _give_up(self, copy: Copy, seq: int, end: End) -> None:
        workload_id, attempt, _, _ = copy.in_flight.pop(seq)
        del self._where[workload_id, attempt]
        copy.given_up[seq] = self._clock.monotonic()
        copy.link.send_cancel(seq)
        self._ended(workload_id, attempt, end)

    def _on_answers(self, copy: Copy, answers: list[Answer]) -> None:
        pid = copy.link.pid
        for seq, ok, body, duration_ms in answers:
            row = copy.in_flight.pop(seq, None)
            if row is None:
                copy.given_up.pop(seq, None)
                continue
            workload_id, attempt, _, _ = row
            del self._where[workload_id, attempt]
            if ok:
                assert isinstance(body, bytes)
                result = Result(output=body, duration_ms=duration_ms, pid=pid)
                end = End(phase=Phase.SUCCEEDED, result=result)
            else:
                end = End(phase=Phase.FAILED, message=str(body), result=Result(duration_ms=duration_ms, pid=pid))
            self._ended(workload_id, attempt, end)
