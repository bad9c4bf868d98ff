"""HiveMind on a real listener of loopback, over a whole control plane in this process, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from arcray.config import GatewaySettings, Settings
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import Clock
from arcray.facades.hivemind.contract import nodepool_pb2, taskworker_pb2
from arcray.gateway.rpc import RpcListener
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext, load_facades
from arcray.wire.identity import Authenticator
from arcray.wire.system import RandomIds

__all__ = ["SERVICES", "Answer", "HiveMind", "hivemind"]

SERVICES: Final = {
    service.name: service
    for file in (nodepool_pb2.DESCRIPTOR, taskworker_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
}
"""Every service of the contract."""

_LONGEST: Final = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came back with.

    Args:
        message: None where it was a status.
        code: the document's, 0 where none was sent.
        core_code: our own.
    """

    message: Any
    status: grpc.StatusCode
    details: str
    code: int
    core_code: str


class HiveMind:
    """A served HiveMind, and the sentences that tests speak of it."""

    def __init__(self, cluster: InProcessPlane, channel: Any, port: int) -> None:
        self.cluster = cluster
        self.channel = channel
        self.port = port

    async def answer(self, method: str, *, token: str = "", message_token: str = "", **fields: Any) -> Answer:
        """Calls ``Service/Method`` with the fields of its request.

        Args:
            token: in the metadata; "" is none.
            message_token: in the request.
        """
        if message_token:
            fields["token"] = message_token
        service, _, name = method.partition("/")
        request = GetMessageClass(SERVICES[service].methods_by_name[name].input_type)(**fields)
        return await self.send(method, request.SerializeToString(), f"Bearer {token}" if token else "")

    async def send(self, method: str, body: bytes, authorization: str = "") -> Answer:
        """Calls a method with any bytes for a request."""
        service, _, name = method.partition("/")
        contract = SERVICES[service].methods_by_name[name]
        read: Any = GetMessageClass(contract.output_type)
        metadata = (("authorization", authorization),) if authorization else None
        stub = self.channel.unary_unary(f"/{SERVICES[service].full_name}/{name}", None, read.FromString)
        call = stub(body, metadata=metadata, timeout=60)
        try:
            message = await call
        except grpc.aio.AioRpcError as error:
            message = None
            _ = error
        trailing = dict(await call.trailing_metadata() or ())
        code, core = int(trailing.get("hivemind-error-code", "0")), str(trailing.get("arcray-code", ""))
        return Answer(message, await call.code(), await call.details(), code, core)

    async def call(self, method: str, *, token: str = "", **fields: Any) -> Any:
        """Returns the message of an answer that has one."""
        found = await self.answer(method, token=token, **fields)
        assert found.message is not None, (method, found.status, found.details)
        return found.message

    async def user(self, name: str, password: str = "correct horse") -> str:
        """Registers a user; returns the token of their login."""
        registered = await self.call("UserService/Register", username=name, password=password)
        assert registered.success, registered.message
        login = await self.call("UserService/Login", username=name, password=password)
        assert login.success, login.message
        return str(login.token)

    async def balance(self, token: str) -> int:
        """What a user may spend."""
        found = await self.call("UserService/GetBalance", token=token)
        assert found.success, found.message
        return int(found.balance)

    async def ended(self, task_id: str, *, token: str = "") -> Any:
        """Returns the answer about a task once it has ended."""
        from arcray.facades.hivemind.tasks import workload_id_of

        await self.cluster.finished(workload_id_of(task_id))
        return await self.call("MasterNodeService/PollTaskStatus", token=token, task_id=task_id)


@asynccontextmanager
async def hivemind(
    *,
    nodes: Sequence[SimulatedNode] | None = None,
    policy: ClusterPolicy | None = None,
    clock: Clock | None = None,
    state_dir: Path | None = None,
    port: int = 0,
    **settings: Any,
) -> AsyncIterator[HiveMind]:
    """Serves HiveMind for the time of the block.

    Args:
        settings: members of ``hivemind``, or ``auth``.
    """
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            in_process_plane(nodes=nodes, policy=policy, clock=clock, state_dir=state_dir)
        )
        auth = settings.pop("auth", {})
        own = {"token_key": "k" * 32, **settings}
        found = Settings.model_validate({"hivemind": own, "auth": auth})
        events = EventHub(cluster.plane, cluster.clock)
        context = FacadeContext(
            plane=cluster.plane,
            settings=found,
            clock=cluster.clock,
            ids=RandomIds(),
            authenticator=Authenticator(found.auth, cluster.plane, events, cluster.clock),
            events=events,
            attachments=cluster.driver,
        )
        (facade,) = load_facades(("hivemind",))
        endpoints = facade.open(context)
        assert endpoints.grpc is not None
        listener = RpcListener([endpoints.grpc], GatewaySettings(drain_s=0.5), port)
        await listener.start()
        stack.push_async_callback(listener.drain)
        parts = [events.run(), *([endpoints.run()] if endpoints.run is not None else [])]
        tasks = [asyncio.create_task(part) for part in parts]
        stack.push_async_callback(_cancelled, tasks)
        address = f"127.0.0.1:{listener.port}"
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_LONGEST))
        yield HiveMind(cluster, channel, listener.port)


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
