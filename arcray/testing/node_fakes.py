"""Fakes at the ports of ``node``: a control plane that records, blobs in memory, an engine and GPUs on paper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcray.control.blobs import Entry
from arcray.core.commands import Attached, AttachNode, Command
from arcray.core.errors import ArcrayError, NotFoundError, UnavailableError
from arcray.core.events import Topic
from arcray.core.ids import WorkloadId
from arcray.core.model import Model
from arcray.core.node import GpuTelemetry
from arcray.core.orders import StartWorkload
from arcray.core.ports import EventBatch
from arcray.core.queries import Query
from arcray.core.resources import Allocation, Demand, Gpu
from arcray.core.workload import Container, ModelServer, Phase, PortMapping, Program
from arcray.node.engine import ContainerSpec, ContainerState, FoundContainer, ImageAbsentError
from arcray.node.gpu import GpuHolding
from arcray.node.work import Attempt
from arcray.testing.builders import T0
from arcray.wire.system import SystemClock

__all__ = ["Attempts", "FakeEngine", "FakeGpus", "FakePlane", "MemoryBlobs", "Phases"]


class MemoryBlobs:
    """Blobs in a dictionary; ``append_errors`` makes the next appends fail, ``lost_answers`` only their answers."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.appends: list[int] = []
        self.append_errors: list[ArcrayError] = []
        self.lost_answers = 0
        self._grew = asyncio.Condition()

    async def put(self, key: str, data: bytes) -> None:
        self.data[key] = data

    async def append(self, key: str, data: bytes) -> int:
        if self.append_errors:
            raise self.append_errors.pop(0)
        self.appends.append(len(data))
        async with self._grew:
            self.data[key] = self.data.get(key, b"") + data
            self._grew.notify_all()
        if self.lost_answers:
            self.lost_answers -= 1
            raise UnavailableError
        return len(self.data[key])

    async def holds(self, key: str, text: bytes, timeout_s: float = 20.0) -> None:
        """Waits until the blob has the text."""
        async with asyncio.timeout(timeout_s), self._grew:
            await self._grew.wait_for(lambda: text in self.data.get(key, b""))

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if key not in self.data:
            raise NotFoundError(field="key")
        return self.data[key][start:end]

    async def size(self, key: str) -> int | None:
        return len(self.data[key]) if key in self.data else None

    async def delete(self, key: str) -> None:
        self.data.pop(key, None)

    async def delete_below(self, prefix: str) -> None:
        for key in [key for key in self.data if key.startswith(f"{prefix.rstrip('/')}/")]:
            del self.data[key]

    async def entries(self, directory: str, count: int) -> AsyncIterator[list[Entry]]:
        below = f"{directory.rstrip('/')}/"
        names = sorted({key[len(below) :].partition("/")[0] for key in self.data if key.startswith(below)})
        for start in range(0, len(names), count):
            yield [Entry(name=name, modified_at=None) for name in names[start : start + count]]


class FakePlane:
    """Records commands. ``answer`` may replace the reply of any command, or raise instead of a whole call."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        self.calls: list[tuple[Command, ...]] = []
        self.epoch = 0
        self.answer: Callable[[Command], Any] = lambda _: None
        self.gate: asyncio.Event | None = None
        self._changed = asyncio.Condition()

    @property
    def commands(self) -> list[Command]:
        return [command for call in self.calls for command in call]

    async def submit(self, commands: Sequence[Command]) -> list[Any | ArcrayError]:
        if self.gate is not None:
            await self.gate.wait()
        replies = [self._reply(command) for command in commands]
        async with self._changed:
            self.calls.append(tuple(commands))
            self._changed.notify_all()
        return replies

    def _reply(self, command: Command) -> Any:
        reply = self.answer(command)
        if reply is None and isinstance(command, AttachNode):
            self.epoch += 1
            return Attached(node_id=command.registration.id, epoch=self.epoch)
        return reply

    async def query(self, query: Query) -> Any:  # noqa: ARG002 - the port
        raise NotFoundError

    async def _no_events(self) -> AsyncIterator[EventBatch]:
        return
        yield

    def events(self, topics: frozenset[Topic]) -> AsyncIterator[EventBatch]:  # noqa: ARG002 - the port
        return self._no_events()

    async def until(self, predicate: Callable[[list[Command]], bool], timeout_s: float = 20.0) -> None:
        """Waits until the recorded commands satisfy the predicate."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: predicate(self.commands))


@dataclass
class Phases:
    """What an attempt told."""

    told: list[Phase] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    ports: tuple[PortMapping, ...] = ()
    seen: dict[Phase, asyncio.Event] = field(default_factory=lambda: {phase: asyncio.Event() for phase in Phase})

    def sink(self, phase: Phase, message: str, ports: tuple[PortMapping, ...]) -> None:
        self.told.append(phase)
        self.messages.append(message)
        self.ports = ports or self.ports
        self.seen[phase].set()


class Attempts:
    """Makes attempts and remembers what they told."""

    def __init__(self) -> None:
        self.phases = Phases()

    def of(
        self,
        payload: Container | Program | Model,
        *,
        demand: Demand | None = None,
        allocation: Allocation | None = None,
        max_duration_s: float | None = None,
        workload_id: str = "0b000000-0000-4000-8000-000000000001",
        attempt: int = 1,
        owner: str = "local",
    ) -> Attempt:
        order = StartWorkload(
            workload_id=WorkloadId(workload_id),
            attempt=attempt,
            payload=ModelServer(model=payload) if isinstance(payload, Model) else payload,
            demand=demand or Demand(cpu_milli=1000, memory_bytes=512 * 2**20),
            allocation=allocation or Allocation(),
            owner=owner,
            max_duration_s=max_duration_s,
        )
        return Attempt(order, clock=SystemClock(), sink=self.phases.sink)


class FakeGpus:
    """Two devices, half busy; ``held`` is what processes hold of their memory."""

    def __init__(self) -> None:
        self.held: tuple[GpuHolding, ...] = ()

    def devices(self) -> tuple[Gpu, ...]:
        return tuple(Gpu(index=index, memory_bytes=80 * 2**30, uuid=f"GPU-{index}") for index in range(2))

    def minors(self) -> dict[int, int]:
        return {0: 900, 1: 901}  # whose files no machine has

    def libraries(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> tuple[GpuTelemetry, ...]:
        return tuple(GpuTelemetry(index=index, utilization=0.5, memory_used_bytes=2**30) for index in range(2))

    def holdings(self) -> tuple[GpuHolding, ...]:
        return self.held


class FakeEngine:
    """Containers that end when told; ``away`` makes every call fail.

    A stop waits for ``slow_stop`` and a pull for ``slow_pull``, where they are set. That one has run
    ``out_of_memory`` is known at the second look.
    """

    def __init__(self) -> None:
        self.answers = True
        self.away = False
        self.slow_stop: asyncio.Event | None = None
        self.slow_pull: asyncio.Event | None = None
        self.images = {"busybox:1"}
        self.created: list[ContainerSpec] = []
        self.stopped: list[tuple[str, float]] = []
        self.removed: list[str] = []
        self.running: set[str] = set()
        self.out_of_memory: set[str] = set()
        self._looked: set[str] = set()
        self._codes: dict[str, int] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._broken: dict[str, asyncio.Event] = {}

    async def available(self) -> bool:
        return self.answers

    async def present(self, image: str) -> bool:
        return image in self.images

    async def create(self, spec: ContainerSpec) -> str:
        if spec.image not in self.images:
            raise ImageAbsentError(field="payload.image")
        self.created.append(spec)
        container_id = f"c{len(self.created)}"
        self._add(container_id, spec.labels)
        return container_id

    async def pull(self, image: str) -> None:
        if self.slow_pull is not None:
            await self.slow_pull.wait()
        self.images.add(image)

    async def start(self, container_id: str) -> None:
        self.running.add(container_id)

    async def inspect(self, container_id: str) -> ContainerState:
        if self.away:
            raise UnavailableError
        if container_id in self.removed:
            raise NotFoundError
        known = container_id in self._looked
        if container_id not in self.running:
            self._looked.add(container_id)
        return ContainerState(
            running=container_id in self.running,
            exit_code=self._codes.get(container_id, 0),
            out_of_memory=known and container_id in self.out_of_memory,
            error="",
            ports=(),
            started_at=T0,
        )

    async def stop(self, container_id: str, grace_s: float) -> None:
        self.stopped.append((container_id, grace_s))
        if self.slow_stop is not None:
            await self.slow_stop.wait()
        self.finish(container_id, exit_code=137)

    async def remove(self, container_id: str) -> None:
        self.running.discard(container_id)
        self.removed.append(container_id)

    async def find(self, label: str, value: str) -> tuple[FoundContainer, ...]:
        return tuple(
            FoundContainer(id=key, labels=labels)
            for key, labels in self._labels.items()
            if labels.get(label) == value and key not in self.removed
        )

    async def logs(self, container_id: str, since: str) -> AsyncIterator[tuple[str, bytes]]:
        if self.away:
            raise UnavailableError
        if not since:
            yield "2026-01-01T00:00:00Z", b"hello\n"
        ended = asyncio.ensure_future(self._ended[container_id].wait())
        broken = asyncio.ensure_future(self._broken[container_id].wait())
        try:
            await asyncio.wait({ended, broken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            broken.cancel()
        if broken.done() and not ended.done():
            self._broken[container_id].clear()
            raise UnavailableError

    async def close(self) -> None:
        return

    def _add(self, container_id: str, labels: dict[str, str]) -> None:
        self._labels[container_id] = labels
        self._ended[container_id] = asyncio.Event()
        self._broken[container_id] = asyncio.Event()

    def leave(
        self, container_id: str, *, node_id: str, workload_id: str, attempt: int, created_s: float | None = None
    ) -> None:
        """An earlier agent's container; of an earlier version's, nobody knows when its work was made."""
        labels = {"arcray.node_id": node_id, "arcray.workload_id": workload_id, "arcray.attempt": str(attempt)}
        if created_s is not None:
            labels["arcray.created_s"] = repr(created_s)
        self._add(container_id, labels)
        self.running.add(container_id)

    def finish(self, container_id: str, *, exit_code: int) -> None:
        self._codes[container_id] = exit_code
        self.running.discard(container_id)
        self._ended[container_id].set()

    def break_logs(self, container_id: str) -> None:
        self._broken[container_id].set()

    def release(self) -> None:
        self.away = False
