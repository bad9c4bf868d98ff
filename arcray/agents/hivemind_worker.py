"""What a HiveMind pool asks of this machine: the document's WorkerNodeService, and how its orders become a node's.

The message says which task and nothing about its size. A pool of arcray's says beside it which slice of this machine
the task may use; where a pool does not, a task may use all that was offered, and one GPU: the one that fewest have.
The pool shows no credentials: who may ask is told by address, before a message of 100 MiB is read. For that calls are
served as if they sent a stream of messages, of which one is read here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from arcray.agents.hivemind_tasks import LiveTask, LiveTasks
from arcray.core.blobkeys import program_key
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.node import NodeRegistration
from arcray.core.orders import Order, StartWorkload, StopAttempt
from arcray.core.ports import BlobStore
from arcray.core.resources import Allocation, Capacity, Demand, GpuShare
from arcray.core.workload import Program
from arcray.facades.hivemind.containers import Asked, asked_of
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.orders import attempt_of
from arcray.facades.hivemind.own_words import PREFIX, Words, allocation_of, echoed
from arcray.facades.hivemind.tasks import FOREIGN_WORK
from arcray.facades.hivemind.uploads import TASK_BYTES, is_archive

__all__ = ["HivemindWorker", "Network", "order_of"]

_log = logging.getLogger(__name__)

Network: TypeAlias = IPv4Network | IPv6Network
Take: TypeAlias = Callable[[Sequence[Order]], Awaitable[None]]

_STOP_GRACE_S: Final = 5.0
_STOP_WAIT_S: Final = 9.0  # the pool waits for ten
_ENVELOPE_BYTES: Final = 1 << 20
_CALLS: Final = 64  # at a time; a pool makes four


class HivemindWorker:
    """Serves the pool.

    Args:
        take: hands orders to the node.
        registration: what this machine has offered.
        allow_from: networks that may ask.
    """

    def __init__(
        self,
        tasks: LiveTasks,
        blobs: BlobStore,
        *,
        take: Take,
        registration: Callable[[], NodeRegistration],
        unpacked_bytes: int,
        allow_from: Sequence[Network],
    ) -> None:
        self._tasks = tasks
        self._blobs = blobs
        self._take = take
        self._registration = registration
        self._unpacked_bytes = unpacked_bytes
        self._allow_from = allow_from
        self._server: Any = None
        self._ending: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> int:
        """Serves at an address; returns the port, which the system chooses where it is 0.

        Raises:
            UnavailableError: the address cannot be bound.
        """
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=_CALLS,
            options=(
                ("grpc.max_receive_message_length", TASK_BYTES + _ENVELOPE_BYTES),
                ("grpc.so_reuseport", 0),  # another agent at the same port would get half of the tasks
            ),
        )
        handlers = {
            "ExecuteTask": self._handler(self._execute, pool.ExecuteTaskRequest, pool.ExecuteTaskResponse),
            "StopTaskExecution": self._handler(
                self._stop, pool.StopTaskExecutionRequest, pool.StopTaskExecutionResponse
            ),
        }
        self._server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler("nodepool.WorkerNodeService", handlers),
        ))  # fmt: skip
        name = f"[{host}]" if ":" in host else host
        try:
            bound: int = self._server.add_insecure_port(f"{name}:{port}")
        except RuntimeError as error:
            raise UnavailableError(f"cannot listen at {name}:{port}", field="listen") from error
        await self._server.start()
        return bound

    async def close(self) -> None:
        """Takes no more tasks."""
        for ending in self._ending:
            ending.cancel()
        if self._server is not None:
            await self._server.stop(0.0)

    async def end_all(self) -> None:
        """Ends what runs, containers too: it goes elsewhere. Waits for it a little."""
        for task in self._tasks:
            task.silent = True
            self.end(task)
        waiting = [asyncio.create_task(task.ended.wait()) for task in self._tasks]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=_STOP_WAIT_S)
            for each in late:
                each.cancel()

    def end(self, task: LiveTask) -> None:
        """Has a task end that the pool has given up."""
        ending = asyncio.create_task(self._given_up(task), name=f"end {task.task_id}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _handler(self, answer: Callable[[Any, Any], Awaitable[Any]], request_of: Any, response_of: Any) -> Any:
        """Returns what gRPC calls: it knows who asks before it reads what."""

        async def call(_: object, context: Any) -> Any:
            await self._check(context)
            body = await context.read()
            try:
                request = request_of.FromString(body)
            except (DecodeError, TypeError):  # a call may also end without a message
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"is no {request_of.DESCRIPTOR.name}")
            return await answer(request, context)

        return grpc.stream_unary_rpc_method_handler(call, None, response_of.SerializeToString)

    async def _execute(self, request: pool.ExecuteTaskRequest, context: Any) -> pool.ExecuteTaskResponse:
        try:
            await self._begin(request, _words(context))
        except ArcrayError as error:
            _log.info("task refused", extra={"task_id": request.task_id, "reason": str(error)})
            return pool.ExecuteTaskResponse(success=False, message=str(error))
        return pool.ExecuteTaskResponse(success=True, message=f"took {request.task_id}")

    async def _begin(self, request: pool.ExecuteTaskRequest, words: Words) -> None:
        offered = self._registration().capacity
        allowed = allocation_of(words, offered.gpus)
        data = request.task_data
        archive = await asyncio.to_thread(is_archive, data, unpacked_bytes=self._unpacked_bytes)
        # No task of a user has such an id, so only the pool itself asks for containers.
        own_id, _ = attempt_of(request.task_id)
        asked = asked_of(data) if archive and FOREIGN_WORK.fullmatch(own_id) else None
        earlier = self._tasks.earlier_than(request.task_id)
        if earlier is not None and not earlier.silent:  # the pool has given it up, and makes another attempt
            earlier.silent = True
            self.end(earlier)
        allocation = self._anything(offered) if allowed is None else allowed
        task = self._tasks.add(request.task_id)
        task.words = echoed(words)
        task.gpus = frozenset(share.index for share in allocation.gpus)
        try:
            if asked is None:
                await self._blobs.put(program_key(task.workload_id, archive=archive), data)
                order = order_of(task, archive=archive, allowed=allocation)
            else:
                order = container_order_of(task, asked, allowed=allocation)
            await self._take([order])
        except BaseException:
            self._tasks.remove(task)
            await self._blobs.delete(program_key(task.workload_id, archive=archive))
            raise

    def _anything(self, offered: Capacity) -> Allocation:
        """Returns what a task may use where nobody says: everything, and one GPU."""
        held = Counter(index for task in self._tasks for index in task.gpus)
        gpu = min(offered.gpus, key=lambda gpu: held[gpu.index], default=None)
        shares = () if gpu is None else (GpuShare(index=gpu.index, memory_bytes=gpu.memory_bytes, whole=True),)
        return Allocation(cpu_milli=offered.cpu_milli, memory_bytes=offered.memory_bytes, gpus=shares)

    async def _stop(self, request: pool.StopTaskExecutionRequest, context: Any) -> pool.StopTaskExecutionResponse:
        """Answers once the task has ended, and what it wrote was sent."""
        task = self._tasks.named(request.task_id)
        if task is None:
            return pool.StopTaskExecutionResponse(success=False, message="no such task here")
        task.silent = True
        try:
            async with asyncio.timeout(_STOP_WAIT_S):
                await self._end(task)
                await task.ended.wait()
        except (TimeoutError, ArcrayError):
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "it has not ended yet")
        return pool.StopTaskExecutionResponse(success=True, message=f"stopped {request.task_id}")

    async def _end(self, task: LiveTask) -> None:
        await self._take([StopAttempt(workload_id=task.workload_id, attempt=task.attempt, grace_s=_STOP_GRACE_S)])

    async def _given_up(self, task: LiveTask) -> None:
        try:
            await self._end(task)
        except ArcrayError as error:  # the pool disowns it again at the next heartbeat
            task.silent = False
            _log.warning("task not ended", extra={"task_id": task.task_id, "reason": str(error)})

    async def _check(self, context: Any) -> None:
        if not is_among(context.peer(), self._allow_from):
            _log.warning("a stranger asked", extra={"peer": context.peer()})
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this worker takes tasks from its pool alone")


def order_of(task: LiveTask, *, archive: bool, allowed: Allocation) -> StartWorkload:
    """Returns the order to start a task, within what it may use."""
    demand = Demand(cpu_milli=allowed.cpu_milli, memory_bytes=allowed.memory_bytes, gpus=len(allowed.gpus))
    return StartWorkload(
        workload_id=task.workload_id,
        attempt=task.attempt,
        payload=Program(
            blob=program_key(task.workload_id, archive=archive), archive=archive, env=(("TASK_ID", task.own_id),)
        ),
        demand=demand,
        allocation=allowed,
        owner=task.workload_id,  # nobody says whose a task is, so none sees another's
        name=task.own_id,
    )


def container_order_of(task: LiveTask, asked: Asked, *, allowed: Allocation) -> StartWorkload:
    """Returns the order to start a container, which says what it wants."""
    gpus = allowed.gpus if asked.demand.gpus else ()
    return StartWorkload(
        workload_id=task.workload_id,
        attempt=task.attempt,
        payload=asked.container,
        demand=asked.demand,
        allocation=Allocation(cpu_milli=asked.demand.cpu_milli, memory_bytes=asked.demand.memory_bytes, gpus=gpus),
        owner=task.workload_id,
        name=task.own_id,
    )


def _words(context: Any) -> Words:
    found = context.invocation_metadata() or ()
    return {key: value for key, value in found if key.startswith(PREFIX) and isinstance(value, str)}


def is_among(peer: str, networks: Sequence[Network]) -> bool:
    """Returns whether a caller, as gRPC names it, is in one of the networks."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return False
    host = rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
    address = ip_address(host.partition("%")[0])
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
