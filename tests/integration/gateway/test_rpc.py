from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from arcray.config import GatewaySettings
from arcray.core.errors import Code, NoCandidatesError
from arcray.gateway.rpc import STATUS, RpcListener

SERVICE = "arcray.test.Probe"


async def _unary(request: bytes, context: Any) -> bytes:
    match request:
        case b"refuse":
            raise NoCandidatesError("no node can take it")
        case b"break":
            raise ZeroDivisionError("secret")
        case b"abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "its own")
    return request


async def _stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    yield await _unary(request, context)


def _register(server: grpc.aio.Server) -> Sequence[str]:
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Stream": grpc.unary_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    return [SERVICE]


@asynccontextmanager
async def listening(**settings: Any) -> AsyncIterator[tuple[RpcListener, Any]]:
    listener = RpcListener([_register], GatewaySettings(drain_s=1.0, **settings), 0)
    await listener.start()
    try:
        async with asyncio.timeout(10), grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
            yield listener, channel
    finally:
        await listener.drain()


async def unary(channel: Any, request: bytes) -> bytes:
    answer: bytes = await channel.unary_unary(f"/{SERVICE}/Unary")(request)
    return answer


async def test_a_service_of_a_facade_is_served() -> None:
    async with listening() as (listener, channel):
        listener.check()
        assert await unary(channel, b"hello") == b"hello"
        assert [each async for each in channel.unary_stream(f"/{SERVICE}/Stream")(b"x")] == [b"first", b"x"]


class Sending:
    """A call whose message does not come until it is sent."""

    def __init__(self, channel: Any, method: str) -> None:
        self.message: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.call = channel.stream_unary(f"/{SERVICE}/{method}")(self._messages())

    async def _messages(self) -> AsyncIterator[bytes]:
        yield await self.message


async def until_waiting(listener: RpcListener, calls: int) -> None:
    """Returns once so many calls have come that one more would not fit."""
    while listener.has_room or listener.waiting < calls:  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0.001)


LARGEST = 1 << 20


async def test_messages_that_come_at_once_are_bounded_and_others_wait_unread() -> None:
    async with listening(max_body_bytes=LARGEST, grpc_bodies_bytes=2 * LARGEST) as (listener, channel):
        held = [Sending(channel, "Unary"), Sending(channel, "Unary")]
        await until_waiting(listener, 0)
        late = [asyncio.ensure_future(unary(channel, b"x" * LARGEST)), asyncio.ensure_future(unary(channel, b"y"))]
        streamed = channel.unary_stream(f"/{SERVICE}/Stream")(b"z")
        await until_waiting(listener, 3)
        assert not any(each.done() for each in late)
        held[0].message.set_result(b"first")
        assert await held[0].call == b"first"
        assert [await each for each in late] == [b"x" * LARGEST, b"y"]
        assert [each async for each in streamed] == [b"first", b"z"]
        held[1].call.cancel()
        assert await unary(channel, b"again") == b"again"
        assert listener.has_room


async def test_a_message_that_does_not_come_gives_up_its_place() -> None:
    """Waits for two seconds, of which the sweep needs one."""
    async with listening(max_body_bytes=LARGEST, grpc_bodies_bytes=LARGEST, grpc_body_timeout_s=0.01) as (_, channel):
        stuck = Sending(channel, "Unary")
        with pytest.raises(grpc.aio.AioRpcError):
            await stuck.call
        assert await unary(channel, b"x") == b"x"


async def test_an_error_leaves_with_its_status_its_message_and_our_code() -> None:
    async with listening() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(channel, b"refuse")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert refused.value.details() == "no node can take it"
        metadata: Any = refused.value.trailing_metadata()
        assert dict(metadata)["arcray-code"] == "NO_CANDIDATES"


async def test_an_unexpected_exception_shows_nothing_of_itself() -> None:
    async with listening() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await unary(channel, b"break")
        assert broken.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(broken.value)


async def test_an_error_in_the_middle_of_a_stream_ends_it_with_its_status() -> None:
    async with listening() as (_, channel):
        call = channel.unary_stream(f"/{SERVICE}/Stream")(b"refuse")
        assert await call.read() == b"first"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_status_that_a_handler_sets_itself_stays() -> None:
    async with listening() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as aborted:
            await unary(channel, b"abort")
        assert (aborted.value.code(), aborted.value.details()) == (grpc.StatusCode.DATA_LOSS, "its own")


async def test_health_is_told_of_the_whole_and_of_each_service() -> None:
    async with listening() as (_, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_watcher_of_health_hears_that_it_drains() -> None:
    """Waits the drain time of one second, because its own watch is a call that does not end."""
    async with listening() as (listener, channel):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        draining = asyncio.create_task(listener.drain())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await draining
        with pytest.raises(Exception, match="ended"):
            listener.check()


async def test_a_watcher_keeps_no_message_in_memory_and_no_place_of_others() -> None:
    async with listening(max_body_bytes=LARGEST, grpc_bodies_bytes=LARGEST, max_connections=8) as (listener, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        large = stub.Watch(health_pb2.HealthCheckRequest(service="s" * (LARGEST - 100)))
        with pytest.raises(grpc.aio.AioRpcError, match=r"message: has \d+ bytes, at most 65536"):
            [each async for each in large]
        watching = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for each in watching:
            await each.read()
        assert listener.has_room
        assert await unary(channel, b"x" * LARGEST) == b"x" * LARGEST
        with pytest.raises(grpc.aio.AioRpcError, match="2 such streams are open already"):
            [each async for each in stub.Watch(health_pb2.HealthCheckRequest())]
        for each in watching:
            each.cancel()


async def test_a_client_that_says_nothing_is_left() -> None:
    async with listening(header_timeout_s=0.5) as (listener, _), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        await reader.read()  # the server's own introduction, then the end
        writer.close()


async def test_a_client_that_calls_nothing_is_sent_away() -> None:
    """Waits until gRPC's timer of a second finds it."""
    async with listening(idle_timeout_s=1) as (_, channel), asyncio.timeout(10):
        assert await unary(channel, b"hello") == b"hello"
        while channel.get_state() is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


async def test_reflection_lists_the_services() -> None:
    async with listening() as (_, channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
        listed = {service.name for service in answer.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= listed


def test_every_code_has_a_status() -> None:
    assert STATUS.keys() == set(Code)
