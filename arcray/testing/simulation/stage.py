"""The stage: a plan is acted on it, in virtual time, and watched.

When the plan is through, bad luck ends and the cluster must come to rest by itself: every workload that some machine
can take is placed and ends, every other one is explained, and then everything can be stopped.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from arcray.config import SchedulerSettings
from arcray.core.commands import Command, LabelNode, SetNodeScheduling, SetQuota, StopWorkload, SubmitWorkload
from arcray.core.errors import Code
from arcray.core.gang import Layout
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import NodeRegistration
from arcray.core.queries import ExplainWorkload
from arcray.core.workload import ModelServer, WorkloadSpec
from arcray.testing.simulation.build import Build
from arcray.testing.simulation.central import Central
from arcray.testing.simulation.clock import UnsteadyClock
from arcray.testing.simulation.disk import Disk
from arcray.testing.simulation.happenings import Ask
from arcray.testing.simulation.loop import VirtualLoop
from arcray.testing.simulation.luck import Luck
from arcray.testing.simulation.machines import Door, Machines
from arcray.testing.simulation.network import Network
from arcray.testing.simulation.plan import Plan
from arcray.testing.simulation.rows import RowReader
from arcray.testing.simulation.trace import Trace
from arcray.testing.simulation.watch import Watch
from arcray.testing.simulation.workshop import Book, script_of

__all__ = ["Verdict", "simulate"]

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - commits cost nothing there; the folder is our own
_REST_S: Final = 150.0
_RETRY_S: Final = 0.5
_OFTEN: Final = 1_000
_AGAIN: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a simulation.

    Args:
        failure: the promise that was broken; "" when all were kept.
        digest: of everything that happened.
        facts, runs: durable facts, and executions on machines: how much was going on.
        took_s: virtual seconds.
    """

    failure: str
    digest: str
    facts: int
    runs: int
    took_s: float
    lines: tuple[str, ...] = ()


def simulate(plan: Plan, build: Build | None = None, *, trace: bool = False) -> Verdict:
    """Runs a plan to its end, or to the first promise that is broken.

    Args:
        trace: keeps a line for everything that happens.
    """
    folder = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    loop = VirtualLoop()
    with tempfile.TemporaryDirectory(prefix="arcray-simulation-", dir=folder) as directory:
        try:
            return loop.run_until_complete(_simulate(loop, plan, build or Build(), Path(directory), trace=trace))
        finally:
            loop.close()


async def _simulate(loop: VirtualLoop, plan: Plan, build: Build, directory: Path, *, trace: bool) -> Verdict:
    told = Trace(loop.time, keep=trace)
    rows = RowReader(directory / "arcray.db")
    specs = [
        step.what.command.spec
        for step in plan.steps
        if isinstance(step.what, Ask) and isinstance(step.what.command, SubmitWorkload)
    ]
    awaited = frozenset(spec.id for spec in specs if spec.waiting)
    watch = Watch(rows, told, awaited=awaited, policy=plan.policy)
    stage = _Stage(plan, build, directory / "arcray.db", watch, told)
    loop.pace = stage.disk.pace
    try:
        with watch.listening():
            await stage.act()
        await stage.close()
    finally:
        rows.close()
    return Verdict(
        failure=watch.failure,
        digest=told.digest,
        facts=watch.facts,
        runs=len(stage.book.runs),
        took_s=loop.time(),
        lines=tuple(told.lines),
    )


class _Stage:
    """Everything that plays."""

    def __init__(self, plan: Plan, build: Build, path: Path, watch: Watch, trace: Trace) -> None:
        dice = Random(f"luck {plan.seed}")  # noqa: S311 - a simulation
        self.book = Book(trace, broken=watch.broken, is_over=watch.model.workloads.is_over)
        self.disk = Disk(path, kind=build.journal, dice=dice, trace=trace, committed=watch.committed)
        self._plan = plan
        self._watch = watch
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        self._clock = UnsteadyClock()
        self._network = Network(dice, trace)
        self._machines = Machines(self._network, dice)
        self._central = Central(
            build=build,
            policy=plan.policy,
            settings=SchedulerSettings(event_buffer=1024, max_queued_orders=plan.max_queued_orders),
            driver=self._machines,
            disk=self.disk,
            clock=self._clock,
            watch=watch,
            trace=trace,
        )
        self._machines.add(
            plan.nodes,
            central=self._central,
            watch=watch,
            build=build,
            clock=self._clock,
            trace=trace,
            book=self.book,
            seed=plan.seed,
        )
        watch.runs_on = self._runs_on
        door = Door("a client", central=self._central, network=self._network, watch=watch)
        self._luck = Luck(
            central=self._central,
            machines=self._machines,
            network=self._network,
            disk=self.disk,
            clock=self._clock,
            door=door,
            book=self.book,
            trace=trace,
        )

    async def act(self) -> None:
        """Acts the whole plan and then comes to rest."""
        await self._central.start()
        for machine in self._machines.all.values():
            machine.start()
        for step in self._plan.steps:
            await asyncio.sleep(max(0.0, step.at_s - self._loop.time()))
            self._trace.say("plan", str(step)[12:])
            self._luck.spawn(self._luck.happen(step.what))
            await asyncio.sleep(0)
            if self._look_in():
                return
        await self._come_to_rest()

    async def close(self) -> None:
        """Ends everything."""
        for task in self._luck.acts:
            task.cancel()
        await asyncio.gather(*self._luck.acts, return_exceptions=True)
        for machine in self._machines.all.values():
            await machine.kill(power=True)
        await self._central.close()
        while left := asyncio.all_tasks() - {asyncio.current_task()}:  # by a killed agent or process
            for task in left:
                task.cancel()
            await asyncio.wait(left)

    # -- rest --------------------------------------------------------------------------------------------------------

    async def _come_to_rest(self) -> None:
        """Lets all bad luck end, and checks that everything ends."""
        self._trace.say("plan", "all bad luck ends")
        self._luck.end()
        ends_at = self._loop.time() + _REST_S
        stopped: set[WorkloadId] = set()
        while self._loop.time() < ends_at:
            await asyncio.sleep(1.0)
            self.disk.heal()
            if self._look_in():
                return
            for undo in self._undone():
                self._luck.spawn(self._luck.ask(undo, 1))
            waiting = set(self._watch.model.workloads.live())
            active = self._watch.model.reservations.active()
            for workload_id in sorted(waiting - stopped):
                if self._is_endless(workload_id) or self._is_impossible(workload_id):
                    stopped.add(workload_id)
                    self._luck.spawn(self._explain_and_stop(workload_id))
            if not waiting and not active and not any(self._luck.down.values()) and not self._luck.acts:
                break
        else:
            self._say_what_does_not_end()
            return
        await self._network.quiet()
        self._look_in()
        self._watch.settled()

    def _undone(self) -> Iterator[Command]:
        """Yields what takes back what operators did, some of whom were heard only now."""
        for node_id, node in self._watch.model.nodes.known.items():
            if node["cordoned"]:
                yield SetNodeScheduling(node_id=node_id, cordoned=False)
            if node["cordoned_gpus"]:
                yield SetNodeScheduling(node_id=node_id, cordoned=False, gpus=node["cordoned_gpus"])
            if node["relabelled"]:
                own = node["registration"].labels
                yield LabelNode(node_id=node_id, labels={name: own.get(name) for name in node["relabelled"]})
        for account in self._watch.model.quotas.known:
            yield SetQuota(account=account, quota=None)

    def _runs_on(self, workload_id: WorkloadId, attempt: int) -> tuple[NodeId, int] | None:
        run = self.book.runs.get((workload_id, attempt))
        if run is None or run.ended:
            return None
        agent = self._machines.all[run.node_id].agent
        return None if agent is None else (run.node_id, agent.epoch)

    def _is_endless(self, workload_id: WorkloadId) -> bool:
        spec = self._watch.model.workloads.known[workload_id]["spec"]
        return isinstance(spec.payload, ModelServer) or script_of(self._plan.seed, workload_id, 1).takes_s is None

    def _is_impossible(self, workload_id: WorkloadId) -> bool:
        """Returns whether no machine could take it even if it were empty."""
        spec = self._watch.model.workloads.known[workload_id]["spec"]
        return not self._fits_when_empty(spec) if spec.gang is None else not self._gang_fits_when_empty(spec)

    def _fits_when_empty(self, spec: WorkloadSpec) -> bool:
        return any(_times(spec, node) for node in self._plan.nodes)

    def _gang_fits_when_empty(self, spec: WorkloadSpec) -> bool:
        """Returns whether a gang certainly fits: of members that differ, a fit may be missed."""
        model, gang = self._watch.model, spec.gang
        assert gang is not None
        members = [model.workloads.known[each]["spec"] for each in model.gangs.members[spec.origin.account, gang.id]]
        if any(each.demand != spec.demand for each in members):
            return False
        times = [_times(spec, node) for node in self._plan.nodes]
        match gang.layout:
            case Layout.PACK:
                return max(times) >= gang.size
            case Layout.SPREAD:
                return sum(each > 0 for each in times) >= gang.size
            case Layout.ANY:
                return sum(times) >= gang.size

    async def _explain_and_stop(self, workload_id: WorkloadId) -> None:
        await self._central.look(ExplainWorkload(workload_id=workload_id))
        await self._luck.ask(StopWorkload(workload_id=workload_id), 1000)

    def _say_what_does_not_end(self) -> None:
        for workload_id in self._watch.model.workloads.live():
            work = self._watch.model.workloads.known[workload_id]
            self._watch.broken(f"{workload_id} does not end: it is {work['phase']} at attempt {work['attempt']}")
        for facts in self._watch.model.reservations.active():
            self._watch.broken(f"reservation {facts['id']} does not end")
        self._watch.broken(f"{len(self._luck.acts)} acts do not end; kept down are {self._luck.down}")

    def _look_in(self) -> bool:
        """Compares memory with the facts; returns whether a promise was broken."""
        if self._central.plane is not None:
            self._watch.compare_memory(self._central.plane)
        return bool(self._watch.failure)


def _times(spec: WorkloadSpec, node: NodeRegistration) -> int:
    """Returns how often a demand fits on a node that is empty."""
    if spec.node_id not in (None, node.id) or not set(spec.selector) <= set(node.labels.items()):
        return 0
    wanted, has = spec.demand, node.capacity
    times = [has.cpu_milli // wanted.cpu_milli] if wanted.cpu_milli else []
    times += [has.memory_bytes // wanted.memory_bytes] if wanted.memory_bytes else []
    if wanted.gpus > len(has.gpus):
        return 0
    if wanted.gpus:
        share = wanted.gpu_memory_bytes
        slots = sum(1 if share is None else gpu.memory_bytes // share for gpu in has.gpus)
        times.append(slots // wanted.gpus)
    return min(times, default=_OFTEN)
