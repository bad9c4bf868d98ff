"""What a pool asks of the HiveMind agent, over loopback; what it orders of its node is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from arcray.agents.hivemind_tasks import LiveTasks
from arcray.agents.hivemind_worker import HivemindWorker
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import program_key
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.orders import Order, StartWorkload, StopAttempt
from arcray.core.quantity import GIB
from arcray.core.resources import Allocation, Demand, GpuShare
from arcray.core.workload import Container, Program
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.orders import execution_of, workload_of
from arcray.facades.hivemind.own_words import Words, saying_allocation
from arcray.facades.hivemind.worker_channel import Certainty, GrpcChannel
from arcray.testing.builders import a_capacity, a_container, a_node, a_workload
from arcray.testing.clock import FakeClock

EXECUTE: Final = "/nodepool.WorkerNodeService/ExecuteTask"
CONTAINER = execution_of(
    StartWorkload(
        workload_id=a_workload(1).id, attempt=1, payload=a_container(args=("hi",)), demand=Demand(cpu_milli=500),
        allocation=Allocation(), owner="ana",
    ),
    b"",
)  # fmt: skip


@dataclass
class Rig:
    """The agent's end, and the pool's way to it."""

    address: str
    channel: GrpcChannel
    tasks: LiveTasks
    blobs: FsspecBlobs
    orders: list[Order] = field(default_factory=list)
    error: ArcrayError | None = None

    async def execute(self, task_id: str, data: bytes, words: Words | None = None) -> tuple[Certainty, str]:
        request = pool.ExecuteTaskRequest(task_id=task_id, task_data=data)
        answer = await self.channel.execute(request, 5.0, words or {})
        return answer.certainty, answer.message


@asynccontextmanager
async def listening(directory: Path, allow_from: str = "127.0.0.0/8") -> AsyncIterator[Rig]:
    tasks, blobs = LiveTasks(FakeClock()), FsspecBlobs(directory, max_blob_bytes=1 << 20)

    async def take(orders: Sequence[Order]) -> None:
        if rig.error is not None:
            raise rig.error
        rig.orders += orders

    worker = HivemindWorker(
        tasks,
        blobs,
        take=take,
        registration=lambda: a_node(capacity=a_capacity(gpus=2)),
        unpacked_bytes=GIB,
        allow_from=[ip_network(allow_from)],
    )
    address = f"127.0.0.1:{await worker.listen('127.0.0.1', 0)}"
    channel = GrpcChannel(address)
    rig = Rig(address, channel, tasks, blobs)
    yield rig
    await channel.close()
    await worker.close()


async def test_a_task_becomes_an_order_and_its_code_a_blob(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        assert await rig.execute("t", b"print(1)") == (Certainty.ACCEPTED, "took t")
        (order,) = rig.orders
        assert isinstance(order, StartWorkload)
        assert isinstance(order.payload, Program)
        assert await rig.blobs.get(order.payload.blob) == b"print(1)"
        again, message = await rig.execute("t", b"print(1)")
        assert (again, "runs here already" in message) == (Certainty.REFUSED, True)
        assert len(rig.orders) == 1


@pytest.mark.parametrize(("task_id", "data"), [("", b"1"), ("t", b""), ("t", b"\xff"), ("t", b"PK\3\4")])
async def test_what_is_no_task_is_refused(tmp_path: Path, task_id: str, data: bytes) -> None:
    async with listening(tmp_path) as rig:
        certainty, _ = await rig.execute(task_id, data)
        assert certainty is Certainty.REFUSED
        assert rig.orders == []
        assert len(rig.tasks) == 0


async def test_a_machine_that_takes_nothing_now_refuses_and_forgets(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        rig.error = UnavailableError("busy")
        assert (await rig.execute("t", b"1"))[0] is Certainty.REFUSED
        rig.error = None
        assert (await rig.execute("t", b"1"))[0] is Certainty.ACCEPTED


async def test_a_container_is_run_as_one_where_the_pool_itself_asks_for_it(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        await rig.execute(CONTAINER.task_id, CONTAINER.task_data)
        await rig.execute("a-task-of-a-user", CONTAINER.task_data)
        asked, uploaded = rig.orders
        assert isinstance(asked, StartWorkload)
        assert isinstance(uploaded, StartWorkload)
        assert asked.payload == Container(image="busybox", args=("hi",))
        assert asked.demand.cpu_milli == 500
        assert isinstance(uploaded.payload, Program)
        assert uploaded.payload.archive


async def test_a_program_finds_the_id_of_its_task_whichever_attempt_it_is(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        assert await rig.execute("t.arcray-2", b"1") == (Certainty.ACCEPTED, "took t.arcray-2")
        (order,) = rig.orders
        assert isinstance(order, StartWorkload)
        assert isinstance(order.payload, Program)
        assert (order.payload.env, order.workload_id) == ((("TASK_ID", "t"),), workload_of("t"))


async def test_a_later_container_is_run_as_one_too(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        await rig.execute(f"{CONTAINER.task_id}.arcray-2", CONTAINER.task_data)
        (order,) = rig.orders
        assert isinstance(order, StartWorkload)
        assert isinstance(order.payload, Container)


async def test_a_later_attempt_waits_for_the_end_of_the_earlier_one(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        await rig.execute("t", b"1")
        for _ in range(2):
            certainty, message = await rig.execute("t.arcray-2", b"1")
            assert (certainty, message) == (Certainty.REFUSED, "its worker refuses: task_id: runs here already, as t")
        _, stop = rig.orders
        assert isinstance(stop, StopAttempt)
        earlier = rig.tasks.named("t")
        assert earlier is not None
        assert earlier.silent
        rig.tasks.remove(earlier)
        assert (await rig.execute("t.arcray-2", b"1"))[0] is Certainty.ACCEPTED
        assert (await rig.execute("t", b"1"))[0] is Certainty.REFUSED
        later = rig.tasks.named("t.arcray-2")
        assert later is not None
        assert not later.silent
        assert (await rig.channel.stop("t", 5.0)).certainty is Certainty.REFUSED


async def test_a_task_may_use_what_the_pool_says(tmp_path: Path) -> None:
    allowed = Allocation(cpu_milli=500, memory_bytes=GIB, gpus=(GpuShare(index=1, memory_bytes=GIB, whole=False),))
    async with listening(tmp_path) as rig:
        await rig.execute("t", b"1", saying_allocation(allowed))
        await rig.execute("none", b"1", saying_allocation(Allocation()))
        first, second = rig.orders
        assert isinstance(first, StartWorkload)
        assert isinstance(second, StartWorkload)
        assert (first.allocation, second.allocation) == (allowed, Allocation())
        assert (first.demand.cpu_milli, first.demand.memory_bytes, first.demand.gpus) == (500, GIB, 1)
        beyond = Allocation(gpus=(GpuShare(index=2, memory_bytes=1, whole=True),))
        for index, words in enumerate((saying_allocation(beyond), {"arcray-allocation": "[" * 4000})):
            certainty, message = await rig.execute(f"t{index}", b"1", words)
            assert (certainty, "arcray-allocation: is no slice of 2 GPUs" in message) == (Certainty.REFUSED, True)


async def test_what_a_pool_says_of_an_attempt_is_kept_to_be_said_again(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        said = {"arcray-attempt": "1 of 5.0"}
        await rig.execute("t", b"1", {**said, **saying_allocation(Allocation()), "arcray-other": "x"})
        task = rig.tasks.named("t")
        assert task is not None
        assert task.words == said


async def test_where_a_pool_says_nothing_tasks_share_the_gpus_out(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        for task_id in ("a", "b", "c"):
            await rig.execute(task_id, b"1")
        given = [[share.index for share in order.allocation.gpus] for order in rig.orders]  # type: ignore[union-attr]  # starts
        assert given == [[0], [1], [0]]


async def test_strangers_are_refused_before_anything_of_theirs_is_read(tmp_path: Path) -> None:
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def unsent() -> AsyncIterator[bytes]:
        yield await never

    async with (
        listening(tmp_path, allow_from="10.0.0.0/8") as rig,
        grpc.aio.insecure_channel(rig.address) as channel,
        asyncio.timeout(5),
    ):
        method: Any = channel.stream_unary(EXECUTE, None, None)
        with pytest.raises(grpc.aio.AioRpcError, match="takes tasks from its pool alone"):
            await method(unsent())


async def test_what_is_no_message_is_called_so(tmp_path: Path) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for each in list[bytes]():
            yield each

    async with listening(tmp_path) as rig, grpc.aio.insecure_channel(rig.address) as channel:
        unary: Any = channel.unary_unary(EXECUTE, None, None)
        stream: Any = channel.stream_unary(EXECUTE, None, None)
        for call in (unary(b"\xff\xff"), stream(nothing())):
            with pytest.raises(grpc.aio.AioRpcError, match="is no ExecuteTaskRequest"):
                await call


async def test_strangers_are_refused(tmp_path: Path) -> None:
    async with listening(tmp_path, allow_from="10.0.0.0/8") as rig:
        certainty, message = await rig.execute("t", b"1")
        assert (certainty, "PERMISSION_DENIED" in message) == (Certainty.REFUSED, True)
        assert rig.orders == []


async def test_a_stop_is_answered_once_the_task_has_ended(tmp_path: Path) -> None:
    async with listening(tmp_path) as rig:
        assert (await rig.channel.stop("t", 5.0)).certainty is Certainty.REFUSED
        await rig.execute("t", b"1")
        task = rig.tasks.named("t")
        assert task is not None
        stopping = asyncio.create_task(rig.channel.stop("t", 5.0))
        async with asyncio.timeout(5.0):
            while len(rig.orders) < 2:  # noqa: ASYNC110 - nothing tells of a call's arrival
                await asyncio.sleep(0)
        assert isinstance(rig.orders[1], StopAttempt)
        assert not stopping.done()
        assert task.silent
        rig.tasks.remove(task)
        assert (await stopping).certainty is Certainty.ACCEPTED
        assert await rig.blobs.size(program_key(task.workload_id, archive=False)) == 1
