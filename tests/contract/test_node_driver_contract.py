"""The contract of ``core.ports.NodeDriver``, run on every driver.

To add a driver, write a factory that yields a ``DriverUnderTest`` and name it in ``FACTORIES``. Nodes behind the driver
are ``RecordingNode``s, or something remote that behaves like one and can be asked what it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import pytest

from arcray.core.errors import ArcrayError, StaleReportError, UnavailableError
from arcray.core.ids import NodeId
from arcray.core.model import ModelFormat
from arcray.core.orders import Order, RunInference, StartWorkload, StopAttempt
from arcray.core.ports import BlobStore, ControlPlane, NodeDriver
from arcray.core.resources import Allocation, Demand, GpuShare
from arcray.core.workload import Container, ModelServer, Program
from arcray.drivers.frames import decode, encode
from arcray.drivers.line import LineDriver
from arcray.drivers.local import LocalDriver
from arcray.facades.hivemind.worker_begun import BegunWork
from arcray.facades.hivemind.worker_channel import Answer
from arcray.facades.hivemind.worker_link import Limits, WorkerLink
from arcray.runtime.line import Line, LineAddress, LineServer, Receiver, dial
from arcray.runtime.remote_plane import RemotePlane
from arcray.runtime.switchboard import LocalPlane, Switchboard
from arcray.testing.builders import a_container, a_model, a_workload, node_id
from arcray.wire.attachments import Attachments
from arcray.wire.system import SystemClock

N1, N2 = node_id(1), node_id(2)
PATIENCE_S = 30.0  # of tests whose node is in another process


class RecordingNode:
    """A node that is attached under one epoch and remembers what it took.

    Args:
        epoch: its present attachment.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.taken: list[Order] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders as ``drivers/README.md`` demands of every node."""
        if epoch > self.epoch:
            raise UnavailableError(f"not attached under epoch {epoch} yet")
        if epoch < self.epoch:
            raise StaleReportError(f"attached under epoch {self.epoch}")
        await self.gate.wait()
        self.taken += orders


@dataclass(frozen=True, kw_only=True)
class DriverUnderTest:
    """A driver and what a test needs of the other side.

    Args:
        add: makes a node reachable that is attached under this epoch; returns its address.
        remove: makes it unreachable, as a machine that is switched off.
        taken: what the node has taken, in order.
        hold, release: keeps the node from taking what is delivered; lets it.
    """

    driver: NodeDriver
    add: Callable[[NodeId, int], Awaitable[str]]
    remove: Callable[[NodeId], Awaitable[None]]
    taken: Callable[[NodeId], Awaitable[list[Order]]]
    hold: Callable[[NodeId], Awaitable[None]]
    release: Callable[[NodeId], Awaitable[None]]


@asynccontextmanager
async def local() -> AsyncIterator[DriverUnderTest]:
    """The local driver."""
    driver = LocalDriver()
    nodes: dict[NodeId, RecordingNode] = {}

    async def add(identity: NodeId, epoch: int) -> str:
        nodes[identity] = RecordingNode(epoch)
        driver.add(identity, nodes[identity])
        return ""

    async def remove(identity: NodeId) -> None:
        driver.remove(identity)

    async def taken(identity: NodeId) -> list[Order]:
        return nodes[identity].taken

    async def hold(identity: NodeId) -> None:
        nodes[identity].gate.clear()

    async def release(identity: NodeId) -> None:
        nodes[identity].gate.set()

    yield DriverUnderTest(driver=driver, add=add, remove=remove, taken=taken, hold=hold, release=release)


class RecordingActor:
    """A recording node in a process of its own, which answers as ``runtime.node_actor`` does."""

    def __init__(self, epoch: int) -> None:
        self._node = RecordingNode(epoch)

    async def deliver(self, epoch: int, frame: bytes) -> ArcrayError | None:
        try:
            await self._node.deliver(epoch, decode(frame))
        except ArcrayError as error:
            return error
        return None

    async def taken(self) -> bytes:
        return encode(self._node.taken)

    async def hold(self) -> None:
        self._node.gate.clear()

    async def release(self) -> None:
        self._node.gate.set()


@asynccontextmanager
async def ray_actor() -> AsyncIterator[DriverUnderTest]:
    """The Ray driver, calling actors of the shared cluster."""
    import ray

    from arcray.drivers.ray_actor import Handles, RayActorDriver

    namespace = "arcray-contract"
    handles: dict[NodeId, Any] = {}

    async def add(identity: NodeId, epoch: int) -> str:
        actor: Any = ray.remote(RecordingActor)
        options = {"name": identity, "namespace": namespace, "num_cpus": 0, "max_concurrency": 10}
        handles[identity] = actor.options(**options).remote(epoch)
        await handles[identity].taken.remote()
        return identity

    async def remove(identity: NodeId) -> None:
        killed = handles.pop(identity)
        ray.kill(killed)
        with suppress(ray.exceptions.ActorDiedError):
            while True:  # Ray kills in its own time, and frees the name with it
                await killed.taken.remote()

    async def taken(identity: NodeId) -> list[Order]:
        found: list[Order] = decode(await handles[identity].taken.remote())
        return found

    async def hold(identity: NodeId) -> None:
        await handles[identity].hold.remote()

    async def release(identity: NodeId) -> None:
        await handles[identity].release.remote()

    driver = RayActorDriver(handles=Handles(namespace))
    try:
        yield DriverUnderTest(driver=driver, add=add, remove=remove, taken=taken, hold=hold, release=release)
    finally:
        for identity in list(handles):
            await remove(identity)


@asynccontextmanager
async def line() -> AsyncIterator[DriverUnderTest]:
    """The driver of machines that are attached through other processes: two of those, with a line each."""
    switchboard = Switchboard()
    plane = cast("LocalPlane", object())  # nobody asks anything here
    nodes: dict[NodeId, RecordingNode] = {}
    processes = {name: Attachments(name) for name in ("gateway.1", "gateway.2")}
    arrived = {name: asyncio.Event() for name in processes}

    def accept(name: str, line: Line) -> Receiver:
        receiver = switchboard.accept(name, line)
        arrived[name].set()
        return receiver

    server = LineServer(accept)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(switchboard.run(plane))
        address = await server.start("127.0.0.1", "here")
        clients = [group.create_task(_client(name, attached, address).run()) for name, attached in processes.items()]
        for each in arrived.values():
            await each.wait()

        async def add(identity: NodeId, epoch: int) -> str:
            home = processes["gateway.1" if identity == N1 else "gateway.2"]
            nodes[identity] = RecordingNode(epoch)
            home.add(identity, nodes[identity])
            return home.address

        async def remove(identity: NodeId) -> None:
            for process in processes.values():
                process.remove(identity)

        async def taken(identity: NodeId) -> list[Order]:
            return nodes[identity].taken

        async def hold(identity: NodeId) -> None:
            nodes[identity].gate.clear()

        async def release(identity: NodeId) -> None:
            nodes[identity].gate.set()

        driver = LineDriver(switchboard)
        yield DriverUnderTest(driver=driver, add=add, remove=remove, taken=taken, hold=hold, release=release)
        server.close()
        for task in (serving, *clients):
            task.cancel()


def _client(name: str, attached: Attachments, address: LineAddress) -> RemotePlane:
    class Dialer:
        async def dial(self, receiver: Receiver) -> Line:
            return await dial(address, receiver, name=name, ray_node_id="here")

    no_blobs = cast("BlobStore", None)  # no bytes are moved here
    return RemotePlane(
        Dialer(), no_blobs, SystemClock(), client=name, give_up_s=5.0, answer_s=5.0, orders=attached.take
    )


class Undialled:
    """The way to a worker that nothing is sent by: what its link has taken stays there."""

    async def reach(self, timeout_s: float) -> bool:
        raise AssertionError(timeout_s)

    async def execute(self, request: object, timeout_s: float, words: object) -> Answer:
        raise AssertionError((request, timeout_s, words))

    async def stop(self, task_id: str, timeout_s: float) -> Answer:
        raise AssertionError((task_id, timeout_s))

    async def broken(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Was never opened."""


class GatedLink:
    """A gateway's link to a HiveMind worker, behind a gate."""

    def __init__(self, identity: NodeId, epoch: int) -> None:
        plane = cast("ControlPlane", object())  # nobody is told anything here
        limits = Limits(orders=64, dial_timeout_s=1.0)
        self._link = WorkerLink(identity, plane, SystemClock(), Undialled(), limits=limits, begun=BegunWork())
        self._link.attached(epoch)
        self._taken: list[Order] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        await self.gate.wait()
        await self._link.deliver(epoch, orders)

    def taken(self) -> list[Order]:
        queue = self._link._queue
        while (item := queue.take()) is not None:
            queue.done(item)
            assert isinstance(item, RunInference | StartWorkload | StopAttempt)
            self._taken.append(item)
        return self._taken


@asynccontextmanager
async def hivemind_worker() -> AsyncIterator[DriverUnderTest]:
    """Links to HiveMind workers, as the process that dials them has them attached."""
    driver = LocalDriver()
    links: dict[NodeId, GatedLink] = {}

    async def add(identity: NodeId, epoch: int) -> str:
        links[identity] = GatedLink(identity, epoch)
        driver.add(identity, links[identity])
        return ""

    async def remove(identity: NodeId) -> None:
        driver.remove(identity)

    async def taken(identity: NodeId) -> list[Order]:
        return links[identity].taken()

    async def hold(identity: NodeId) -> None:
        links[identity].gate.clear()

    async def release(identity: NodeId) -> None:
        links[identity].gate.set()

    yield DriverUnderTest(driver=driver, add=add, remove=remove, taken=taken, hold=hold, release=release)


FACTORIES: Final[dict[str, Callable[[], AbstractAsyncContextManager[DriverUnderTest]]]] = {
    "hivemind_worker": hivemind_worker,
    "line": line,
    "local": local,
    "ray_actor": ray_actor,
}
NEEDS: Final = {"ray_actor": "cluster"}  # fixtures of ours that a driver cannot do without
MARKS: Final[dict[str, Any]] = {"ray_actor": pytest.mark.cluster}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in FACTORIES])
async def under_test(request: pytest.FixtureRequest) -> AsyncIterator[DriverUnderTest]:
    if request.param in NEEDS:
        request.getfixturevalue(NEEDS[request.param])
    async with FACTORIES[request.param]() as made:
        yield made


def some_orders(first: int = 1) -> list[Order]:
    """Returns orders of every kind, with every sort of field in them."""
    request = RunInference(
        workload_id=a_workload(first).id,
        attempt=2,
        model_id=a_model().id,
        input='{"text": "ü"}'.encode(),
        context_window_tokens=5,
        timeout_s=1.5,
    )
    payloads: tuple[Container | Program | ModelServer, ...] = (
        a_container(env=(("A", "1"),), args=("x", "y")),
        Program(blob="programs/x.zip", archive=True, stdin_blob="in"),
        ModelServer(model=a_model(format=ModelFormat.ONNX)),
    )
    starts = [
        StartWorkload(
            workload_id=a_workload(first + number).id,
            attempt=1,
            payload=payload,
            demand=Demand(cpu_milli=5, gpus=1),
            allocation=Allocation(cpu_milli=5, gpus=(GpuShare(index=3, memory_bytes=9, whole=True),)),
            owner="someone",
            max_duration_s=2.0,
        )
        for number, payload in enumerate(payloads, start=1)
    ]
    return [request, *starts, StopAttempt(workload_id=a_workload(first).id, attempt=2, grace_s=0.5)]


async def test_orders_arrive_whole_and_in_order(under_test: DriverUnderTest) -> None:
    address = await under_test.add(N1, 1)
    for first in (10, 20):
        await under_test.driver.deliver(N1, address, 1, some_orders(first))
    assert await under_test.taken(N1) == some_orders(10) + some_orders(20)


async def test_orders_reach_their_own_node(under_test: DriverUnderTest) -> None:
    first, second = await under_test.add(N1, 1), await under_test.add(N2, 4)
    await under_test.driver.deliver(N1, first, 1, some_orders(10))
    await under_test.driver.deliver(N2, second, 4, some_orders(20))
    assert await under_test.taken(N1) == some_orders(10)
    assert await under_test.taken(N2) == some_orders(20)


async def test_a_delivery_returns_only_when_the_node_has_the_orders(under_test: DriverUnderTest) -> None:
    address = await under_test.add(N1, 1)
    await under_test.hold(N1)
    delivery = asyncio.create_task(_deliver(under_test, N1, address, 1))
    done, _ = await asyncio.wait([delivery], timeout=0.05)
    assert not done
    await under_test.release(N1)
    await asyncio.wait_for(delivery, PATIENCE_S)
    assert await under_test.taken(N1) == some_orders()


async def test_a_node_that_takes_its_time_delays_no_other(under_test: DriverUnderTest) -> None:
    first, second = await under_test.add(N1, 1), await under_test.add(N2, 1)
    await under_test.hold(N1)
    held = asyncio.create_task(_deliver(under_test, N1, first, 1))
    await asyncio.wait_for(_deliver(under_test, N2, second, 1), PATIENCE_S)
    await under_test.release(N1)
    await asyncio.wait_for(held, PATIENCE_S)


async def test_a_node_that_was_never_there_is_unavailable(under_test: DriverUnderTest) -> None:
    address = await under_test.add(N2, 1)
    with pytest.raises(UnavailableError):
        await _deliver(under_test, N1, address.replace(N2, N1), 1)


async def test_a_node_that_has_gone_is_unavailable(under_test: DriverUnderTest) -> None:
    address = await under_test.add(N1, 1)
    await _deliver(under_test, N1, address, 1)
    await under_test.remove(N1)
    with pytest.raises(UnavailableError):
        await _deliver(under_test, N1, address, 1)


async def test_a_node_that_comes_back_is_reached_again(under_test: DriverUnderTest) -> None:
    await under_test.add(N1, 1)
    await under_test.remove(N1)
    address = await under_test.add(N1, 2)
    await _deliver(under_test, N1, address, 2)
    assert await under_test.taken(N1) == some_orders()


async def test_orders_of_an_older_attachment_are_void(under_test: DriverUnderTest) -> None:
    address = await under_test.add(N1, 3)
    with pytest.raises(StaleReportError):
        await _deliver(under_test, N1, address, 2)
    assert await under_test.taken(N1) == []


async def test_orders_of_an_attachment_that_the_node_has_not_heard_of_are_tried_again(
    under_test: DriverUnderTest,
) -> None:
    address = await under_test.add(N1, 3)
    with pytest.raises(UnavailableError):
        await _deliver(under_test, N1, address, 4)
    assert await under_test.taken(N1) == []


async def _deliver(under_test: DriverUnderTest, node: NodeId, address: str, epoch: int) -> None:
    await under_test.driver.deliver(node, address, epoch, some_orders())
