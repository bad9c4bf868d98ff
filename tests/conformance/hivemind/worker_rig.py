"""A pool with what workers call, and a worker that does what a test says: both real gRPC servers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from arcray.config import GatewaySettings
from arcray.core.events import Topic
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.node import NodeView
from arcray.core.ports import Clock
from arcray.core.quantity import GIB
from arcray.core.queries import GetNode, GetWorkload
from arcray.core.workload import Phase, WorkloadSpec, WorkloadView
from arcray.facades.hivemind import tasks
from arcray.facades.hivemind.callers import Callers
from arcray.facades.hivemind.calls import Surface
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.own_words import Words, echoed
from arcray.facades.hivemind.refusals import Subject
from arcray.facades.hivemind.tokens import Tokens
from arcray.facades.hivemind.worker_channel import GrpcChannel
from arcray.facades.hivemind.worker_link import Limits
from arcray.facades.hivemind.worker_links import WorkerLinks
from arcray.facades.hivemind.worker_service import WorkerService
from arcray.facades.hivemind.workers import node_id_of
from arcray.gateway.rpc import RpcListener
from arcray.testing.builders import T0
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire.attachments import Attachments
from arcray.wire.submitting import submit_work
from arcray.wire.system import SystemClock

PATIENCE_S = 10.0
CODE = b"print('Hello, HiveMind!')"
SERVICES = pool.DESCRIPTOR.services_by_name
OPTIONS = (("grpc.max_receive_message_length", 110 << 20), ("grpc.max_send_message_length", 110 << 20))
OK = pool.ExecuteTaskResponse(success=True)
STOPPED = pool.StopTaskExecutionResponse(success=True)


class Stub:
    """Calls any method of the contract by its name."""

    def __init__(self, address: str, token: str = "", words: Words | None = None) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        shown = (("authorization", f"Bearer {token}"),) if token else ()
        self._metadata = (*shown, *(words or {}).items())

    async def __call__(self, method: str, **fields: Any) -> Any:
        """Calls ``Service.Method``."""
        service, name = method.split(".")
        contract = SERVICES[service].methods_by_name[name]
        call: Any = self._channel.unary_unary(
            f"/nodepool.{service}/{name}",
            request_serializer=GetMessageClass(contract.input_type).SerializeToString,
            response_deserializer=GetMessageClass(contract.output_type).FromString,
        )
        request = GetMessageClass(contract.input_type)(**fields)
        return await call(request, timeout=PATIENCE_S, metadata=self._metadata)

    async def close(self) -> None:
        """Hangs up."""
        await self._channel.close(None)


@dataclass(kw_only=True)
class FakeWorker:
    """A worker.

    Args:
        execute: what it answers to a task; may wait, or raise.
    """

    execute: Callable[[pool.ExecuteTaskRequest], Awaitable[pool.ExecuteTaskResponse]] | None = None
    taken: list[pool.ExecuteTaskRequest] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    server: Any = None
    port: int = 0

    async def start(self) -> None:
        """Listens, at the same port again if it did before."""
        self.server = grpc.aio.server(options=OPTIONS)
        handlers = {
            "ExecuteTask": grpc.unary_unary_rpc_method_handler(
                self._execute, pool.ExecuteTaskRequest.FromString, pool.ExecuteTaskResponse.SerializeToString
            ),
            "StopTaskExecution": grpc.unary_unary_rpc_method_handler(
                self._stop, pool.StopTaskExecutionRequest.FromString, pool.StopTaskExecutionResponse.SerializeToString
            ),
        }
        self.server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("nodepool.WorkerNodeService", handlers)]
        )
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def die(self) -> None:
        """Hangs up on everybody, at once."""
        await self.server.stop(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for a call after which something holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await self.called.wait()
                self.called.clear()

    async def _execute(self, request: pool.ExecuteTaskRequest, context: Any) -> pool.ExecuteTaskResponse:
        self.taken.append(request)
        self.words.append(echoed(dict(context.invocation_metadata())))
        self.called.set()
        return await self.execute(request) if self.execute is not None else OK

    async def _stop(self, request: pool.StopTaskExecutionRequest, _context: Any) -> pool.StopTaskExecutionResponse:
        self.stopped.append(request.task_id)
        self.called.set()
        return STOPPED


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pool that serves workers.

    Args:
        call: calls it as somebody who shows no token.
    """

    cluster: InProcessPlane
    links: WorkerLinks
    tokens: Tokens
    address: str
    call: Stub
    clock: Clock
    stack: AsyncExitStack

    async def worker(
        self, execute: Callable[[pool.ExecuteTaskRequest], Awaitable[pool.ExecuteTaskResponse]] | None = None
    ) -> FakeWorker:
        """Returns a worker that listens, until the pool ends."""
        worker = FakeWorker(execute=execute)
        await worker.start()
        self.stack.push_async_callback(worker.die)
        return worker

    @asynccontextmanager
    async def speaking_as(self, user: str) -> AsyncIterator[Stub]:
        """Calls it as a user who has logged in."""
        stub = Stub(self.address, self.tokens.issue(AccountId(user), self.clock.now()))
        try:
            yield stub
        finally:
            await stub.close()

    async def node(self, name: str = "worker-1") -> NodeView:
        """Returns what the cluster knows of a worker."""
        found = await self.cluster.plane.query(GetNode(node_id=node_id_of(name)))
        assert isinstance(found, NodeView)
        return found

    async def work(self, workload_id: WorkloadId) -> WorkloadView:
        """Returns a workload."""
        found = await self.cluster.plane.query(GetWorkload(workload_id=workload_id))
        assert isinstance(found, WorkloadView)
        return found

    async def until(self, ask: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S) -> None:
        """Waits until something holds that the cluster's events lead to."""
        events = self.cluster.plane.events(frozenset({Topic.WORKLOADS, Topic.NODES}))
        async with asyncio.timeout(patience_s):
            async for _ in events:
                if await ask():
                    break
        await events.aclose()

    async def register(
        self, worker: FakeWorker, name: str = "worker-1", *, stub: Stub | None = None, **fields: Any
    ) -> pool.StatusResponse:
        """Has a worker register, and waits until it was reached."""
        given = {"node_id": name, "hostname": "127.0.0.1", "cpu_cores": 8, "memory_gb": 8, "port": worker.port}
        call = stub or self.call
        answer: pool.StatusResponse = await call("NodeManagerService.RegisterWorkerNode", **(given | fields))
        if answer.success:

            async def reached() -> bool:
                return (await self.node(name)).registration.capabilities.programs

            await self.until(reached)
        return answer


@asynccontextmanager
async def a_pool(
    *, nodes: Iterable[SimulatedNode] = (), strict: bool = False, dial_timeout_s: float = 2.0
) -> AsyncIterator[Pool]:
    """Serves workers over a whole control plane, for the time of the block."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(in_process_plane(nodes=list(nodes)))
        one = await stack.enter_async_context(a_gateway(cluster, clock, strict=strict, dial_timeout_s=dial_timeout_s))
        yield one


@asynccontextmanager
async def a_gateway(
    cluster: InProcessPlane,
    clock: Clock,
    *,
    strict: bool = False,
    dial_timeout_s: float = 2.0,
    attachments: Attachments | None = None,
    port: int = 0,
) -> AsyncIterator[Pool]:
    """Serves workers by one more process of a cluster."""
    links = WorkerLinks(
        cluster.plane,
        cluster.driver if attachments is None else attachments,
        clock,
        limits=Limits(orders=64, dial_timeout_s=dial_timeout_s),
        dial=GrpcChannel,
    )
    tokens = Tokens(b"k" * 32)
    service = WorkerService(cluster.plane, links, log_bytes=1 << 20, unpacked_bytes=1 << 20)
    surface = Surface(Callers(tokens, strict=strict), clock)
    served = {
        "NodeManagerService": (service.node_methods(), Subject.NODE),
        "MasterNodeService": (service.master_methods(), Subject.TASK),
        "WorkerNodeService": (service.worker_methods(), Subject.TASK),
    }

    def register(server: Any) -> Sequence[str]:
        handlers = [surface.service(SERVICES[name], methods, subject) for name, (methods, subject) in served.items()]
        server.add_generic_rpc_handlers(handlers)
        return [SERVICES[name].full_name for name in served]

    listener = RpcListener([register], GatewaySettings(drain_s=0.0), port)
    address = f"127.0.0.1:{listener.port}"
    running = asyncio.create_task(links.run())
    await listener.start()
    call = Stub(address)
    try:
        async with AsyncExitStack() as stack:
            yield Pool(
                cluster=cluster, links=links, tokens=tokens, address=address, call=call, clock=clock, stack=stack
            )
    finally:
        await call.close()
        await listener.drain()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def upload(served: Pool, task_id: str = "task-001", code: bytes = CODE, user: str = "ana") -> WorkloadSpec:
    """Hands a task in as UploadTask does."""
    request = pool.UploadTaskRequest(task_id=task_id, task_data=code)
    made = tasks.upload_of(
        request, user=AccountId(user), registered=True, call_id=task_id, now=T0, house_rate=0, unpacked_bytes=GIB
    )
    await submit_work(served.cluster.plane, made.spec, {made.code_key: made.code})
    return made.spec


async def in_phase(served: Pool, spec: WorkloadSpec, phase: Phase, attempt: int = 1) -> None:
    async def holds() -> bool:
        view = await served.work(spec.id)
        return (view.phase, view.attempt) == (phase, attempt)

    await served.until(holds)
