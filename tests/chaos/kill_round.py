"""One round of kills: clients and nodes that go on whatever happens to the scheduler, and what must hold in the end.

Clients and nodes live in this process and speak over real lines; the scheduler is a process that is killed. Nodes keep
count of what they began to work on, through their own deaths too.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from arcray.core.commands import Command, StopWorkload, Submitted, SubmitWorkload
from arcray.core.errors import ConflictError, InsufficientCreditsError
from arcray.core.events import NodeAttached, Topic, WorkloadFinished, WorkloadPlaced
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.node import LeaseTerms
from arcray.core.orders import StartWorkload
from arcray.core.ports import ControlPlane
from arcray.core.queries import GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.workload import (
    Inference,
    Origin,
    PayloadKind,
    Phase,
    RestartPolicy,
    RestartRule,
    WorkloadSpec,
    WorkloadView,
)
from arcray.node.container import LABEL_ATTEMPT, LABEL_WORKLOAD
from arcray.runtime.remote_plane import Dialer, RemotePlane, TakeOrders
from arcray.testing.builders import a_capacity, a_container, a_workload, an_inference
from arcray.testing.faults import folded, journalled, stored_workloads
from arcray.testing.node_fakes import MemoryBlobs
from arcray.testing.scheduler_process import Kill, KillPoint
from arcray.testing.simulated_node import Script, SimulatedNode
from tests.chaos.kill_ledger import Purses
from tests.chaos.mortal_machine import CLOCK, AgentMachine, Machine

LEASE = LeaseTerms(unhealthy_after_s=6.0, lost_after_s=60.0)
ALL_KINDS = frozenset(PayloadKind)
LIVE = frozenset(phase for phase in Phase if not phase.terminal)
ENOUGH = 60


def drawn_kills(dice: random.Random) -> list[Kill]:
    """One to three deaths: at any time, or aimed. The first may come in a migration, later ones in recovery."""
    kills = []
    for _ in range(dice.randint(1, 3)):
        match dice.choice(list(KillPoint)):
            case KillPoint.TIME:
                kill = Kill(point=KillPoint.TIME, count=dice.randint(1, 1000))
            case KillPoint.STEP:  # a start takes 60 steps the first time and 28 later, a commit 10
                kill = Kill(point=KillPoint.STEP, count=dice.choice([dice.randint(1, 60), dice.randint(28, 400)]))
            case KillPoint.APPLIED:
                kill = Kill(point=KillPoint.APPLIED, count=dice.randint(1, 150))
            case KillPoint.COMMITTED:
                kill = Kill(point=KillPoint.COMMITTED, count=dice.randint(1, 150))
            case KillPoint.SAYING:
                kill = Kill(point=KillPoint.SAYING, count=dice.randint(1, 150))
        kills.append(kill)
    return kills


class Mortal(Protocol):
    """A scheduler that is killed and comes back."""

    @property
    def deaths(self) -> int:
        """How often it was killed."""
        ...

    def dialer(self, client: str) -> Dialer:
        """Returns how a client of this name opens its lines."""
        ...

    async def live(self, kills: Sequence[Kill]) -> None:
        """Lives until each of the kills and then on; returns once it serves for good."""
        ...


class KillRound:
    """What happens in one round, and what is known of it. Its work runs on its own nodes, told apart by a label.

    Args:
        kills: deaths of the scheduler, in order.
        directory: state of the agent.
    """

    def __init__(self, dice: random.Random, scheduler: Mortal, kills: Sequence[Kill], directory: Path) -> None:
        self.dice = dice
        self.scheduler = scheduler
        self.kills = kills
        self.directory = directory
        self.name = f"round-{dice.getrandbits(32):08x}"
        self.over = False
        self.submitted: dict[WorkloadId, WorkloadSpec] = {}
        self.acknowledged: list[WorkloadId] = []
        self.lost: list[WorkloadId] = []
        self.keys: dict[tuple[AccountId, str], set[WorkloadId]] = {}
        self.created: Counter[WorkloadId] = Counter()
        self.ended: dict[WorkloadId, WorkloadView] = {}
        self.published: Counter[WorkloadId] = Counter()
        self.purses = Purses(dice, self.name, self._gateway)
        self.gateways: list[RemotePlane] = []
        self.machines: list[Machine] = []
        self.refused: set[WorkloadId] = set()
        self.agent: AgentMachine

    @property
    def streams(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What clients do all the time. A further stream is one more entry."""
        transfer = self.purses.transfer
        return (
            *(self.submit, self.submit, self.ask_a_model, self.ask_a_model),
            *(self.stop, self.look, transfer, transfer),
        )

    @property
    def figures(self) -> dict[str, int]:
        """How much was looked at, for the summary of a run."""
        return {
            "kill_rounds": 1,
            "deaths": self.scheduler.deaths,
            "acknowledged": len(set(self.acknowledged)),
            "transfers": len(self.purses.wishes),
        }

    async def run(self) -> None:
        """Kills, and lets everything end."""
        async with asyncio.TaskGroup() as world:
            lives = [world.create_task(life) for life in self._world()]
            async with asyncio.TaskGroup() as group:
                for stream in self.streams:
                    group.create_task(self._forever(stream))
                await self.scheduler.live(self.kills)
                self.over = True
            await self._until_all_have_ended()
            await self._remember(*self.acknowledged)
            for machine in self.machines:
                await machine.node.detach()
            await self._gateway().submit([self.agent.detach()])
            await self.purses.look()
            for life in lives:
                life.cancel()

    # -- who takes part ------------------------------------------------------------------------------------------

    def _world(self) -> list[Coroutine[Any, Any, None]]:
        blobs = MemoryBlobs()

        def connect(
            name: str, orders: TakeOrders | None = None, connected: Callable[[], None] | None = None
        ) -> RemotePlane:
            return RemotePlane(
                self.scheduler.dialer(name),
                blobs,
                CLOCK,
                client=name,
                give_up_s=60.0,
                answer_s=60.0,
                orders=orders,
                connected=connected,
            )

        self.gateways = [connect(f"{self.name}-gateway-{number}") for number in (1, 2)]
        self.machines = [Machine(f"{self.name}-node-{number}", self._node, connect) for number in (1, 2)]
        self.agent = AgentMachine(f"{self.name}-node-3", self._label, self.directory, connect, self.dice)
        return [
            *(gateway.run() for gateway in self.gateways),
            self.machines[0].live(),
            self._dying_now_and_then(self.machines[1]),
            self.agent.live(),
            self._listen(),
        ]

    def _node(self, name: str) -> SimulatedNode:
        return SimulatedNode(
            name,
            models={self._model("echo"): lambda value: value, self._model("slow"): self._slowly},
            script=self._script,
            driver="ray",
            address=name,
            capacity=a_capacity(cores=64, memory_gib=512),
            lease=LEASE,
            labels=self._label,
            owner=self.purses.landlord,
        )

    def _model(self, name: str) -> str:
        return f"{self.name}-{name}"

    @property
    def _label(self) -> dict[str, str]:
        return {"round": self.name}

    def _script(self, order: StartWorkload) -> Script:
        _ = order
        if self.dice.random() < 0.05:
            return Script.refusal("no room")
        ends = [Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.FAILED] if self.over else [Phase.SUCCEEDED, Phase.FAILED, None]
        return Script(end=self.dice.choice(ends), takes_s=self.dice.random() * 0.05)

    async def _slowly(self, value: object) -> object:
        await CLOCK.sleep(self.dice.random() * 0.2)
        return value

    async def _dying_now_and_then(self, machine: Machine) -> None:
        while True:
            life = asyncio.ensure_future(machine.live())
            try:
                await CLOCK.sleep(0.2 + 2 * self.dice.random())
                while self.over:  # it lives on
                    await asyncio.wait({life}, timeout=60)
            finally:
                life.cancel()
                with suppress(asyncio.CancelledError, BaseExceptionGroup):
                    await life

    async def _listen(self) -> None:
        """Hears of ends as a facade does; with gaps, but nothing twice and nothing untrue."""
        async for batch in self.gateways[0].events(frozenset({Topic.WORKLOADS, Topic.INFERENCE})):
            self.published.update(event.workload_id for event in batch.events if isinstance(event, WorkloadFinished))

    # -- what clients do -----------------------------------------------------------------------------------------

    async def _forever(self, stream: Callable[[], Awaitable[None]]) -> None:
        while not self.over or len(self.acknowledged) < ENOUGH:
            await stream()

    async def submit(self) -> None:
        specs = [self._spec(waiting=False) for _ in range(self.dice.randint(1, 4))]
        asked = [self._submit(self._gateway(), specs)]
        if self.dice.random() < 0.3:  # a client that lost patience asks again, elsewhere
            asked.append(self._submit(self._gateway(), specs))
        await asyncio.gather(*asked)

    def _spec(self, *, waiting: bool) -> WorkloadSpec:
        number = len(self.submitted)
        payload: Any = a_container(image="busybox:1")
        if waiting or self.dice.random() < 0.2:
            model = self._model(self.dice.choice(["echo", "echo", "slow"]))
            payload = an_inference(model_id=model, input=json.dumps(number).encode())
        keyed = self.dice.random() < 0.3 and not waiting
        payer = self.purses.payer(number // 3)
        spec = a_workload(
            payload=payload,
            origin=Origin(facade="rest", account=payer or AccountId("local")),
            tariff=self.purses.price(payer, request=isinstance(payload, Inference)),
            id=WorkloadId(str(UUID(int=self.dice.getrandbits(128)))),
            created_at=CLOCK.now(),
            waiting=waiting,
            selector=tuple(self._label.items()),
            request_id=f"{self.name}-{number // 3}" if keyed else "",  # now and then the key of another
            restart=self.dice.choice([RestartPolicy(), RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=2)]),
        )
        self.submitted[spec.id] = spec
        return spec

    async def _submit(self, gateway: ControlPlane, specs: Sequence[WorkloadSpec]) -> None:
        replies = await gateway.submit([SubmitWorkload(spec=spec) for spec in specs])
        for spec, reply in zip(specs, replies, strict=True):
            if self._is_too_dear(spec, reply):
                continue
            assert isinstance(reply, Submitted), reply
            self.acknowledged.append(reply.workload_id)
            self.created[reply.workload_id] += reply.created
            if spec.request_id:
                self.keys.setdefault(_key(spec), set()).add(reply.workload_id)
            else:
                assert reply.workload_id == spec.id

    def _is_too_dear(self, spec: WorkloadSpec, reply: object) -> bool:
        """Notes that work was refused because its account cannot pay."""
        if not isinstance(reply, InsufficientCreditsError):
            return False
        assert spec.tariff is not None
        self.refused.add(spec.id)
        return True

    async def ask_a_model(self) -> None:
        """Requests whose sender waits: nothing is promised before the answer, and the answer comes.

        One machine is always there, so from when it has joined no request is turned away.
        """
        await self.machines[0].joined.wait()
        specs = [self._spec(waiting=True) for _ in range(self.dice.randint(1, 4))]
        replies = await self._gateway().submit([SubmitWorkload(spec=spec) for spec in specs])
        for spec, reply in zip(specs, replies, strict=True):
            if self._is_too_dear(spec, reply):
                continue
            self.acknowledged.append(spec.id)
            if isinstance(reply, ConflictError) and "was lost" in reply.message:
                self.lost.append(spec.id)  # the scheduler died between the commit of its end and the answer
                continue
            assert isinstance(reply, WorkloadView), reply
            if reply.phase is Phase.FAILED and "3 times" in reply.message:
                continue  # one node after the other died under it, and the rules give up
            assert reply.phase is Phase.SUCCEEDED, reply
            assert isinstance(spec.payload, Inference)
            assert reply.result is not None
            assert reply.result.output == spec.payload.input

    async def stop(self) -> None:
        await CLOCK.sleep(self.dice.random() * 0.02)
        if self.acknowledged:
            commands: list[Command] = [StopWorkload(workload_id=self.dice.choice(self.acknowledged))]
            replies = await self._gateway().submit(commands)
            assert replies == [None], (commands, replies)

    async def look(self) -> None:
        await CLOCK.sleep(self.dice.random() * 0.02)
        if self.acknowledged:
            await self._remember(self.dice.choice(self.acknowledged))

    async def _remember(self, *workload_ids: WorkloadId) -> None:
        for workload_id in workload_ids:
            view = await self._gateway().query(GetWorkload(workload_id=workload_id))
            if view.phase.terminal:
                assert _end(self.ended.setdefault(workload_id, view)) == _end(view)

    def _gateway(self) -> ControlPlane:
        return self.dice.choice(self.gateways)

    # -- the end -------------------------------------------------------------------------------------------------

    async def _until_all_have_ended(self) -> None:
        while live := await self._live():
            for machine in self.machines:
                for workload_id in live:
                    machine.node.finish(workload_id)
            await CLOCK.sleep(0.02)

    async def _live(self) -> list[WorkloadId]:
        page: WorkloadPage = await self.gateways[0].query(ListWorkloads(kinds=ALL_KINDS, phases=LIVE, limit=1000))
        return [view.spec.id for view in page.workloads if view.spec.id in self.submitted]

    def check(self, database: Path) -> None:
        """Asserts the promises on what the nodes and clients saw and what is on disk."""
        journal = journalled(database)
        stored = {key: each for key, each in stored_workloads(database).items() if key in self.submitted}
        told = {key: each for key, each in folded(journal).items() if key in self.submitted}
        events = [event for event in journal if getattr(event, "workload_id", None) in self.submitted]

        # Every acknowledged id is there, with one terminal phase, the one that was ever seen, and no refused one.
        assert set(self.acknowledged) <= set(stored)
        assert not (self.refused - set(self.acknowledged)) & set(stored)
        ends = Counter(event.workload_id for event in events if isinstance(event, WorkloadFinished))
        assert set(ends.values()) <= {1}
        assert {key for key, workload in stored.items() if workload.phase.terminal} == set(ends) == set(stored)
        assert {key: stored[key].phase for key in self.ended} == {key: view.phase for key, view in self.ended.items()}
        assert set(self.published) <= set(stored)
        assert set(self.published.values()) <= {1}
        assert told == stored

        # Nothing ran twice under one attempt, and nothing ran that was not decided.
        ran = Counter(self._ran_in_containers() + [each for machine in self.machines for each in machine.executed])
        assert {key: times for key, times in ran.items() if times > 1} == {}
        placed = Counter((event.workload_id, event.attempt) for event in events if isinstance(event, WorkloadPlaced))
        assert set(placed.values()) <= {1}
        durable = {key for key in ran if key[0] in stored and not stored[key[0]].spec.waiting}
        assert durable <= set(placed)
        epochs = [(event.registration.id, event.epoch) for event in journal if isinstance(event, NodeAttached)]
        assert len(epochs) == len(set(epochs))

        # Asking again made nothing new.
        assert max(self.created.values(), default=0) <= 1
        assert {key: ids for key, ids in self.keys.items() if len(ids) > 1} == {}
        keys = Counter(_key(workload.spec) for workload in stored.values() if workload.spec.request_id)
        assert keys == Counter(self.keys.keys())

        # An answer is lost only where the scheduler died on its way.
        assert self.scheduler.deaths or not self.lost

        self.purses.check(database, stored)

    def _ran_in_containers(self) -> list[tuple[WorkloadId, int]]:
        return [
            (WorkloadId(spec.labels[LABEL_WORKLOAD]), int(spec.labels[LABEL_ATTEMPT]))
            for spec in self.agent.engine.created
        ]


def _key(spec: WorkloadSpec) -> tuple[AccountId, str]:
    return spec.origin.account, spec.request_id


def _end(view: WorkloadView) -> tuple[object, ...]:
    """Returns what stays for ever of how a workload ended; what a sender waited for went to that sender."""
    return view.phase, view.attempt, view.node_id, view.message, view.finished_at
