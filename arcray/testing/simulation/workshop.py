"""What runs on simulated machines: attempts that take time and end as dice decide, and a book of all of them.

These are fakes at the ports of ``node``: runners and links to models. The agent above them is the real one. The book is
kept outside every machine and survives all crashes, so it is what really happened: nothing may run twice under one
attempt, on whatever machine, and no machine may run more at a time than it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.orders import StartWorkload
from arcray.core.ports import ControlPlane
from arcray.core.workload import Container, ModelServer, Phase, Program, Result
from arcray.node.container import Adopted
from arcray.node.machine import Machine, Runners
from arcray.node.models.registry import Copy, ModelRegistry
from arcray.node.work import Attempt, End, Ending, Runner
from arcray.testing.simulation.clock import UnsteadyClock
from arcray.testing.simulation.nouns.nodes import check_capacity
from arcray.testing.simulation.nouns.workloads import result_mark
from arcray.testing.simulation.promise import PromiseBrokenError, must
from arcray.testing.simulation.trace import Trace

__all__ = ["Book", "Script", "Workshop", "script_of"]

_CLINGS_S: Final = 20.0  # less than after which the scheduler gives up what ran too long and does not end
_LIVE: Final = (Phase.PULLING, Phase.STARTING, Phase.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one attempt does.

    Args:
        refused: the machine does not start it at all.
        phases: live phases it tells, with the seconds before each.
        takes_s: from the last phase to its end; None runs until it is stopped.
        dies_s: from a polite stop to its end, at the most its grace.
        clings_s: how much longer its machine takes to end it after that, as one does whose engine hangs.
    """

    refused: bool
    phases: tuple[tuple[Phase, float], ...]
    takes_s: float | None
    dies_s: float
    clings_s: float
    end: Phase


def script_of(seed: int, workload_id: WorkloadId, attempt: int) -> Script:
    """Returns what an attempt does: the same whenever and wherever it is asked."""
    endless = Random(f"{seed} {workload_id}").random() < 0.12  # noqa: S311 - a simulation
    dice = Random(f"{seed} {workload_id} {attempt}")  # noqa: S311 - a simulation
    clings = Random(f"{seed} {workload_id} {attempt} clings").random() < 0.1  # noqa: S311 - a simulation
    return Script(
        refused=dice.random() < 0.07,
        phases=tuple((phase, dice.random() * 0.5) for phase in _LIVE if dice.random() < 0.8),
        takes_s=None if endless else dice.choice((0.0, 0.5, 2.0, 8.0)) * dice.random(),
        dies_s=dice.choice((0.0, 0.5, 4.0)),
        clings_s=_CLINGS_S if clings else 0.0,
        end=dice.choice((Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.FAILED)),
    )


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """One execution."""

    node_id: NodeId
    order: StartWorkload
    began_s: float
    ends_s: float | None = None
    ended: bool = False


class Book:
    """Every execution on every machine.

    Args:
        broken: told of a promise that is broken.
        is_over: whether an attempt has ended or was given up, by what is on disk.
    """

    def __init__(
        self, trace: Trace, *, broken: Callable[[str], None], is_over: Callable[[WorkloadId, int], bool]
    ) -> None:
        self.runs: dict[tuple[WorkloadId, int], Run] = {}
        self._trace = trace
        self._broken = broken
        self._is_over = is_over

    def begin(self, registration: NodeRegistration, order: StartWorkload) -> Run:
        """Notes that an attempt begins."""
        node_id, key = registration.id, (order.workload_id, order.attempt)
        run = Run(node_id=node_id, order=order, began_s=asyncio.get_running_loop().time())
        try:
            must(key not in self.runs, f"attempt {order.attempt} of {order.workload_id} runs twice")
            self.runs[key] = run
            here = [each for each in self.runs.values() if each.node_id == node_id and not each.ended]
            # Orders that were on their way when the lease was lost begin what is over already, all of it alike.
            over = [] if self._is_over(*key) else [run for run in here if self._is_over(*_attempt(run))]
            must(not over, f"{order.workload_id} begins beside {[_attempt(run) for run in over]}, which was given up")
            held = [each.order.allocation for each in here]
            check_capacity(f"on the machine {node_id}", registration.capacity, held)
        except PromiseBrokenError as error:
            self._broken(str(error))
        self._trace.say(registration.name, f"begins {order.workload_id[-4:]} #{order.attempt}")
        return run

    def end(self, run: Run, how: str) -> None:
        """Notes that it has ended."""
        if not run.ended:
            run.ended = True
            self._trace.say("machines", f"{run.order.workload_id[-4:]} #{run.order.attempt} {how}")


class _Link:
    """A loaded model that answers with what it was asked, after a moment."""

    def __init__(self, dice: Random) -> None:
        self.pid = 4242
        self.on_answers: Callable[[list[tuple[int, bool, bytes | str, float]]], None] = lambda _: None
        self.closed = False
        self._dice = dice
        self._loop = asyncio.get_running_loop()

    def send_request(self, seq: int, data: bytes | None, context_tokens: int) -> None:
        _ = context_tokens
        takes_s = self._dice.choice((0.0, 0.02, 0.3, 7.0)) * self._dice.random()
        ok = self._dice.random() < 0.9
        self._loop.call_later(takes_s, self._answer, (seq, ok, (data or b"") if ok else "it failed", takes_s * 1000))

    def send_cancel(self, seq: int) -> None:
        self._loop.call_soon(self._answer, (seq, False, "given up", 0.0))

    def _answer(self, answer: tuple[int, bool, bytes | str, float]) -> None:
        if not self.closed:
            self.on_answers([answer])


class Workshop(Machine):
    """What one machine has and runs, through all lives of its agent."""

    def __init__(
        self, registration: NodeRegistration, *, seed: int, book: Book, clock: UnsteadyClock, dice: Random
    ) -> None:
        # None of the real machine is looked at, so nothing of it is made.
        self.registered = registration
        self.seed = seed
        self.book = book
        self.clock = clock
        self.dice = dice
        self.containers: dict[WorkloadId, Run] = {}

    async def runners(self, *, plane: ControlPlane, registry: ModelRegistry) -> Runners:
        _ = plane
        return _Runners(self, registry)

    async def look_again(self) -> bool:
        return False

    def read(self) -> Telemetry:
        return Telemetry(at=self.clock.now(), cpu_utilization=0.5)

    async def close(self) -> None:
        return

    def lose_everything(self) -> None:
        """The power fails."""
        for run in self.containers.values():
            self.book.end(run, "is lost with its machine")
        self.containers.clear()


class _Runners(Runners):
    """Who runs what on a simulated machine."""

    def __init__(self, shop: Workshop, registry: ModelRegistry) -> None:
        self._shop = shop
        self._works = _Works(shop)
        self._serves = _Serves(shop, registry)

    def of(self, payload: Container | Program | ModelServer) -> Runner:
        return self._serves if isinstance(payload, ModelServer) else self._works

    async def adopt(self) -> tuple[Adopted, ...]:
        now = asyncio.get_running_loop().time()
        return tuple(Adopted(order=run.order, ran_s=now - run.began_s) for run in self._shop.containers.values())


class _Works:
    """Runs containers, which outlive the agent, and programs, which do not."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def run(self, attempt: Attempt) -> End:  # noqa: C901  one life from its beginning to its end
        shop, order = self._shop, attempt.order
        script = script_of(shop.seed, order.workload_id, order.attempt)
        loop = asyncio.get_running_loop()
        run = shop.containers.get(order.workload_id)
        if run is None or run.order.attempt != order.attempt:
            if script.refused:
                return End(phase=Phase.FAILED, message="no room", refused=True)
            run = shop.book.begin(shop.registered, order)
            if isinstance(order.payload, Container):
                shop.containers[order.workload_id] = run
        try:
            for phase, after_s in script.phases:
                await asyncio.sleep(after_s)
                attempt.phase(phase)
            if run.ends_s is None and script.takes_s is not None:
                run.ends_s = loop.time() + script.takes_s
            work: asyncio.Future[Any] = loop.create_future()
            if run.ends_s is not None:
                loop.call_at(max(run.ends_s, loop.time()), _finish, work)
            ending = await attempt.until(work)
            if ending is not Ending.DONE:
                await asyncio.sleep(min(attempt.grace_s, script.dies_s) + script.clings_s)
        except asyncio.CancelledError:
            if order.workload_id not in shop.containers:
                shop.book.end(run, "ends with its agent")
            raise
        shop.book.end(run, "ends")
        if shop.containers.get(order.workload_id) is run:
            del shop.containers[order.workload_id]
        mark = result_mark(order.workload_id, order.attempt, shop.registered.id)
        return attempt.stopped_or(ending, End(phase=script.end, result=Result(exit_code=0, blobs=(mark,))))


class _Serves:
    """Runs models."""

    def __init__(self, shop: Workshop, registry: ModelRegistry) -> None:
        self._shop = shop
        self._registry = registry

    async def run(self, attempt: Attempt) -> End:
        shop, order = self._shop, attempt.order
        assert isinstance(order.payload, ModelServer)
        script = script_of(shop.seed, order.workload_id, order.attempt)
        if script.refused:
            return End(phase=Phase.FAILED, message="no room", refused=True)
        run = shop.book.begin(shop.registered, order)
        link = _Link(shop.dice)
        copy = Copy(
            model_id=order.payload.model.id,
            workload_id=order.workload_id,
            slots=1 + shop.dice.randrange(3),
            link=link,  # type: ignore[arg-type]  # what a registry uses of it
            hung=lambda: None,
        )
        try:
            for phase, after_s in script.phases:
                await asyncio.sleep(after_s)
                attempt.phase(phase)
            self._registry.add(copy)
            died: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            if script.end is Phase.FAILED and script.takes_s is not None:
                asyncio.get_running_loop().call_later(script.takes_s * 5, _finish, died)
            ending = await attempt.until(died)
        finally:
            link.closed = True
            self._registry.remove(copy, "its process ended")
            shop.book.end(run, "serves no more")
        return attempt.stopped_or(ending, End(phase=Phase.FAILED, message="its process ended"))


def _attempt(run: Run) -> tuple[WorkloadId, int]:
    return run.order.workload_id, run.order.attempt


def _finish(work: asyncio.Future[Any]) -> None:
    if not work.done():
        work.set_result(None)
